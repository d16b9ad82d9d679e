//! Ends of servers, and what is there afterwards.

use std::time::Duration;

use quorate_world::domain::types::{BootTime, GuardId, SystemId};
use quorate_world::pg::guard::{Host, Refusal};
use quorate_world::pg::{
    DataDir, Disk, Lab, Mode, Outcome, Pace, Refused, Server, Span, State, Stopped, Tail,
};

use crate::{fleet, synchronous_fleet};

const ACKED: Option<Outcome> = Some(Outcome::Acknowledged);
const SOON: Duration = Duration::from_secs(3);

#[test]
fn re_opening_after_a_crash_shows_what_no_standby_has() {
    let mut lab = synchronous_fleet(&["b"], 1);
    lab.cut("a", "b");
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    assert!(lab.rows("a").unwrap().is_empty());
    lab.kill_all("a");
    assert_eq!(lab.outcome(ticket), Some(Outcome::Lost));
    lab.start("a", false).unwrap();
    assert_eq!(lab.rows("a").unwrap(), [1], "though nobody confirmed it");
}

#[test]
fn restart_after_crash_opens_by_itself() {
    for again in [true, false] {
        let mut lab = synchronous_fleet(&["b"], 1);
        lab.configure("a", |conf| conf.restart_after_crash = again);
        lab.cut("a", "b");
        let client = lab.connect("a").unwrap();
        lab.write(&client, 1).unwrap();
        lab.crash_backend("a");
        assert_eq!(lab.is_running("a"), again);
        assert_eq!(lab.rows("a").ok(), again.then(|| vec![1]));
    }
}

#[test]
fn a_torn_tail_ends_at_the_last_whole_record() {
    // Row 1 is flushed; row 2 is written, but the disk hangs: then the machine goes.
    for (survive, rows) in [(0, vec![1]), (1, vec![1]), (2, vec![1, 2])] {
        let mut lab = fleet(&[]);
        assert_eq!(lab.put("a", 1), ACKED);
        lab.set_disk("a", Disk { hung: true, ..Disk::default() });
        assert_eq!(lab.put("a", 2), None);
        lab.crash("a", Tail { records: survive });
        lab.set_disk("a", Disk::default());
        lab.start("a", false).unwrap();
        assert_eq!(lab.rows("a").unwrap(), rows, "{survive}");
        assert_eq!(lab.put("a", 3), ACKED);
    }
}

#[test]
fn a_disk_that_lies_loses_what_it_has_confirmed() {
    let mut lab = fleet(&[]);
    assert_eq!(lab.put("a", 1), ACKED);
    lab.set_disk("a", Disk { lies: true, ..Disk::default() });
    assert_eq!(lab.put("a", 2), ACKED);
    assert!(lab.checkpoint("a"));
    lab.crash("a", Tail::NONE);
    lab.start("a", false).unwrap();
    assert_eq!(lab.rows("a").unwrap(), [1]);
}

#[test]
fn a_disk_that_fails_ends_the_server() {
    for disk in [Disk { full: true, ..Disk::default() }, Disk { fails: true, ..Disk::default() }] {
        let mut lab = fleet(&["b"]);
        lab.set_disk("a", disk);
        let client = lab.connect("a").unwrap();
        let ticket = lab.write(&client, 1).unwrap();
        assert_eq!(lab.outcome(ticket), Some(Outcome::Lost));
        assert!(!lab.is_running("a"));
        assert!(lab.start("a", false).is_err());
        lab.set_disk("a", Disk::default());
        lab.start("a", false).unwrap();
        assert_eq!(lab.rows("a").unwrap(), [1], "it was written, and may be there");
    }
}

#[test]
fn the_death_of_the_server_loses_nothing_that_was_written() {
    let mut lab = fleet(&[]);
    lab.set_disk("a", Disk { hung: true, ..Disk::default() });
    assert_eq!(lab.put("a", 1), None);
    lab.kill_all("a");
    lab.set_disk("a", Disk::default());
    lab.start("a", false).unwrap();
    assert_eq!(lab.rows("a").unwrap(), [1]);
}

#[test]
fn orphans_go_on_committing() {
    let mut lab = fleet(&["b"]);
    lab.pace("a", Pace { orphan: Span::millis(15_000, 15_000), ..Pace::default() });
    let client = lab.connect("a").unwrap();
    lab.kill_postmaster("a");
    let ticket = lab.write(&client, 1).unwrap();
    assert_eq!(lab.outcome(ticket), ACKED);
    assert!(lab.rows("b").unwrap().is_empty(), "the walsenders have ended");
    assert_eq!(lab.connect("a"), Err(Refused::NotRunning));
    assert!(lab.start("a", false).unwrap_err().contains("still in use"));
    lab.advance(Duration::from_secs(16));
    assert!(!lab.is_running("a"));
    lab.start("a", false).unwrap();
    assert_eq!(lab.rows("a").unwrap(), [1]);
}

#[test]
fn a_waiting_commit_of_an_orphan_is_not_acknowledged_once_it_notices() {
    let mut lab = synchronous_fleet(&["b"], 1);
    lab.cut("a", "b");
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    lab.kill_postmaster("a");
    assert_eq!(lab.outcome(ticket), Some(Outcome::Lost));
}

#[test]
fn a_stopped_orphan_does_what_it_was_sent_when_it_goes_on() {
    for (names, outcome) in [(0, Outcome::Acknowledged), (1, Outcome::Lost)] {
        let mut lab = if names == 0 { fleet(&["b"]) } else { synchronous_fleet(&["b"], 1) };
        let client = lab.connect("a").unwrap();
        let now = lab.now();
        lab.server_mut("a").freeze(now, client.session, true);
        lab.server_mut("a").write(now, client.session, 1, 77);
        lab.kill_postmaster("a");
        assert!(lab.is_running("a") && lab.outcome(77).is_none());
        lab.server_mut("a").freeze(now, client.session, false);
        lab.settle();
        assert_eq!(lab.outcome(77), Some(outcome));
        assert!(!lab.is_running("a"));
        lab.start("a", false).unwrap();
        assert_eq!(lab.rows("a").unwrap(), [1]);
    }
}

#[test]
fn a_released_commit_is_acknowledged_also_by_an_orphan() {
    let mut lab = synchronous_fleet(&["b"], 1);
    lab.cut("a", "b");
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    let now = lab.now();
    lab.server_mut("a").freeze(now, client.session, true);
    lab.join("a", "b");
    lab.kill_postmaster("a");
    assert_eq!(lab.outcome(ticket), None);
    lab.server_mut("a").freeze(now, client.session, false);
    lab.settle();
    assert_eq!(lab.outcome(ticket), ACKED);
}

#[test]
fn a_fast_stop_waits_until_the_standbys_have_all() {
    let mut lab = fleet(&["b"]);
    lab.put("a", 1);
    lab.stop("a", Mode::Fast);
    assert!(!lab.is_running("a"));
    assert_eq!(lab.control("a").state, State::ShutDown);
    // The standby has the shutdown checkpoint, so that the old primary can follow it.
    assert!(lab.promote("b"));
    lab.create_slot("b", "slot_a").unwrap();
    lab.follow("a", "b", Some("slot_a"));
    lab.put("b", 2);
    lab.start("a", true).unwrap();
    assert!(lab.until(SOON, |lab| lab.rows("a").ok() == Some(vec![1, 2])), "{:?}", lab.said());
}

#[test]
fn a_standby_that_does_not_answer_holds_a_fast_stop_up() {
    let mut lab = fleet(&["b"]);
    lab.set_stopped("b", Stopped { all: true, ..Stopped::default() });
    lab.stop("a", Mode::Fast);
    assert!(lab.is_running("a"));
    assert_eq!(lab.control("a").state, State::ShutDown, "its own work is done");
    assert_eq!(lab.connect("a"), Err(Refused::ShuttingDown));
    lab.advance(Duration::from_secs(11));
    assert!(!lab.is_running("a"), "wal_sender_timeout");
}

#[test]
fn a_smart_stop_waits_for_clients() {
    let mut lab = fleet(&[]);
    let client = lab.connect("a").unwrap();
    lab.stop("a", Mode::Smart);
    assert!(lab.is_running("a"));
    lab.terminate(&client);
    assert!(!lab.is_running("a"));
    assert_eq!(lab.control("a").state, State::ShutDown);
}

#[test]
fn an_immediate_stop_is_a_crash() {
    let mut lab = fleet(&[]);
    lab.put("a", 1);
    lab.stop("a", Mode::Immediate);
    assert_eq!(lab.control("a").state, State::InProduction);
    lab.start("a", false).unwrap();
    assert_eq!(lab.rows("a").unwrap(), [1]);
}

#[test]
fn a_stop_before_recovery_changes_nothing() {
    let mut lab = fleet(&[]);
    lab.put("a", 1);
    lab.kill_all("a");
    let before = lab.control("a");
    let now = lab.now();
    lab.server_mut("a").start(now, 0).unwrap();
    lab.stop("a", Mode::Fast);
    assert!(!lab.is_running("a"));
    assert_eq!(lab.control("a"), before);
    lab.start("a", false).unwrap();
    assert_eq!(lab.rows("a").unwrap(), [1]);
}

#[test]
fn a_killed_standby_starts_where_it_was() {
    let mut lab = fleet(&["b"]);
    lab.put("a", 1);
    lab.kill_all("b");
    lab.put("a", 2);
    lab.start("b", true).unwrap();
    assert!(lab.until(SOON, |lab| lab.rows("b").ok() == Some(vec![1, 2])));
    lab.stop("b", Mode::Fast);
    assert_eq!(lab.control("b").state, State::ShutDownInRecovery);
    lab.put("a", 3);
    lab.start("b", true).unwrap();
    assert!(lab.until(SOON, |lab| lab.rows("b").ok() == Some(vec![1, 2, 3])));
}

#[test]
fn a_silent_connection_is_given_up() {
    let mut lab = fleet(&["b"]);
    lab.cut("a", "b");
    lab.advance(Duration::from_secs(4));
    assert!(lab.status("b").unwrap().streaming.is_some());
    lab.advance(Duration::from_secs(2));
    assert!(lab.status("b").unwrap().streaming.is_none(), "wal_receiver_timeout");
    assert!(lab.walsender("a", "b").is_some());
    lab.advance(Duration::from_secs(5));
    assert!(lab.walsender("a", "b").is_none(), "wal_sender_timeout");
    lab.join("a", "b");
    assert!(lab.until(SOON, |lab| lab.walsender("a", "b").is_some()));
}

#[test]
fn a_half_open_walsender_keeps_its_slot() {
    let mut lab = fleet(&["b"]);
    lab.crash("b", Tail::NONE);
    lab.start("b", true).unwrap();
    lab.advance(Duration::from_secs(1));
    assert!(lab.status("b").unwrap().streaming.is_none(), "the slot is in use");
    lab.end_walsender("a", "b");
    assert!(lab.until(SOON, |lab| lab.status("b").unwrap().streaming.is_some()));
}

fn host() -> (Host, GuardId) {
    let mut server = Server::new(1, 1);
    server.set_dir(Some(DataDir::initdb(SystemId(7))));
    let mut host = Host::new(server);
    let id = GuardId::from_bytes([1; 16]);
    host.start(BootTime::default(), id.clone(), 0).unwrap();
    host.tick(BootTime::default());
    (host, id)
}

#[test]
fn the_kernel_kills_the_tree_at_its_deadline_whatever_is_stopped() {
    let (mut host, id) = host();
    let at = |s| BootTime::default().plus(Duration::from_secs(s));
    host.arm(&id, at(3)).unwrap();
    assert_eq!(host.arm(&id, at(2)), Err(Refusal::Backwards));
    host.server.set_stopped(at(0), Stopped { all: true, ..Stopped::default() });
    host.set_guard_answers(false);
    assert_eq!(host.due(), Some(at(3)));
    host.tick(at(2));
    assert!(host.server.run().is_some());
    host.tick(at(3));
    assert!(host.server.run().is_none());
    assert!(host.dismiss());
}

#[test]
fn a_deadline_is_taken_for_one_life_of_the_guard() {
    let (mut host, _) = host();
    let other = GuardId::from_bytes([2; 16]);
    assert_eq!(host.arm(&other, BootTime::default()), Err(Refusal::NoTree));
    host.kill_guard();
    assert!(host.server.run().is_none());
    let boot = host.boot();
    host.crash(Tail::NONE);
    assert_ne!(host.boot(), boot);
}

#[test]
fn a_stopped_postmaster_answers_no_new_connection() {
    let mut lab: Lab = fleet(&[]);
    let client = lab.connect("a").unwrap();
    lab.set_stopped("a", Stopped { postmaster: true, ..Stopped::default() });
    assert_eq!(lab.connect("a"), Err(Refused::Silent));
    let ticket = lab.write(&client, 1).unwrap();
    assert_eq!(lab.outcome(ticket), ACKED, "an old one goes on");
}

#[test]
fn nothing_is_due_of_who_is_held_up() {
    // A standby that stops, and has one of its own that does not answer.
    let mut lab = fleet(&["b"]);
    lab.unfollow("b");
    lab.advance(Duration::from_millis(150));
    lab.pause_replay("b", true);
    lab.advance(Duration::from_millis(150));
    let due = |lab: &Lab| lab.server("b").due().is_none_or(|at| at > lab.now());
    assert!(due(&lab), "paused");
    lab.pause_replay("b", false);
    lab.pace("b", Pace { stop: Span::millis(500, 500), ..Pace::default() });
    lab.stop("b", Mode::Fast);
    lab.advance(Duration::from_millis(200));
    assert!(lab.is_running("b") && due(&lab), "stopping");
}
