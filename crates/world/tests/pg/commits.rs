//! Commits that wait for standbys.

use std::time::Duration;

use quorate_world::pg::{Disk, Level, Outcome, Refused, SyncNames};

use crate::{fleet, synchronous_fleet};

const ACKED: Option<Outcome> = Some(Outcome::Acknowledged);

#[test]
fn a_standby_has_what_was_written() {
    let mut lab = fleet(&["b", "c"]);
    for value in 1..=3 {
        assert_eq!(lab.put("a", value), ACKED);
    }
    for server in ["a", "b", "c"] {
        assert_eq!(lab.rows(server).unwrap(), [1, 2, 3], "{server}");
    }
    assert_eq!(lab.put("b", 9), Some(Outcome::Refused(Refused::ReadOnly)));
}

#[test]
fn a_commit_waits_for_as_many_as_the_setting_says() {
    let mut lab = synchronous_fleet(&["b", "c", "d"], 2);
    assert_eq!(lab.put("a", 1), ACKED);
    lab.cut("a", "b");
    lab.cut("a", "c");
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 2).unwrap();
    assert_eq!(lab.outcome(ticket), None);
    assert_eq!(lab.rows("a").unwrap(), [1], "nobody sees it before");
    assert_eq!(lab.rows("d").unwrap(), [1, 2], "but where it was applied");
    lab.join("a", "c");
    assert_eq!(lab.outcome(ticket), ACKED);
    assert_eq!(lab.rows("a").unwrap(), [1, 2]);
}

#[test]
fn first_waits_for_the_first_that_are_there() {
    let mut lab = fleet(&["b", "c"]);
    lab.synchronous("a", Some(SyncNames::first(1, ["b", "c"])));
    lab.cut("a", "b");
    // The confirmation of another releases nothing while the first is there.
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    assert_eq!(lab.outcome(ticket), None);
    lab.end_walsender("a", "b");
    assert_eq!(lab.outcome(ticket), None, "it is released by a confirmation only");
    lab.advance(Duration::from_secs(2));
    assert_eq!(lab.outcome(ticket), ACKED);
}

#[test]
fn a_cancelled_wait_ends_with_a_warning_and_is_visible() {
    let mut lab = synchronous_fleet(&["b"], 1);
    lab.cut("a", "b");
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    lab.cancel(&client);
    assert_eq!(lab.outcome(ticket), Some(Outcome::AckedWithWarning));
    assert_eq!(lab.rows("a").unwrap(), [1]);
    assert!(lab.rows("b").unwrap().is_empty());
}

#[test]
fn a_terminated_wait_loses_the_connection_and_is_visible() {
    let mut lab = synchronous_fleet(&["b"], 1);
    lab.cut("a", "b");
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    lab.terminate(&client);
    assert_eq!(lab.outcome(ticket), Some(Outcome::Lost));
    assert_eq!(lab.rows("a").unwrap(), [1]);
}

#[test]
fn emptied_names_release_everybody() {
    let mut lab = synchronous_fleet(&["b"], 1);
    lab.cut("a", "b");
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    lab.synchronous("a", None);
    assert_eq!(lab.outcome(ticket), ACKED);
}

#[test]
fn another_list_releases_nobody_until_a_confirmation_comes() {
    let mut lab = synchronous_fleet(&["b", "c"], 1);
    lab.cut("a", "b");
    lab.synchronous("a", Some(SyncNames::any(1, ["b"])));
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    assert_eq!(lab.outcome(ticket), None);
    lab.synchronous("a", Some(SyncNames::any(1, ["c"])));
    assert_eq!(lab.outcome(ticket), None);
    lab.emit_local("a").unwrap();
    assert_eq!(lab.outcome(ticket), ACKED);
}

#[test]
fn a_walsender_counts_by_the_settings_that_it_has_read() {
    // From ANY 1 (b, c) to ANY 2 (b, c), and the walsender of b has not read it: with the priority
    // that c has published, its own confirmation is enough for it.
    let mut lab = synchronous_fleet(&["b", "c"], 1);
    lab.stick("a", "b", true);
    lab.synchronous("a", Some(SyncNames::any(2, ["b", "c"])));
    lab.cut("a", "c");
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    assert_eq!(lab.outcome(ticket), None);
    lab.stick("a", "b", false);
    assert_eq!(lab.outcome(ticket), None, "it reads its settings first");
    lab.join("a", "c");
    assert_eq!(lab.outcome(ticket), ACKED);
}

#[test]
fn a_stuck_walsender_goes_on_counting_with_what_it_has_published() {
    let mut lab = synchronous_fleet(&["b", "c"], 2);
    assert_eq!(lab.put("a", 1), ACKED);
    lab.stick("a", "b", true);
    // Gone from the names, it is still in shared memory with a priority: c alone must confirm, and
    // what b has published is no newer than the last commit.
    lab.synchronous("a", Some(SyncNames::any(1, ["c"])));
    assert_eq!(lab.walsender("a", "b").unwrap().priority, 1);
    assert_eq!(lab.put("a", 2), ACKED);
    lab.stick("a", "b", false);
    assert_eq!(lab.walsender("a", "b").unwrap().priority, 0);
}

#[test]
fn local_commits_wait_for_no_standby() {
    let mut lab = synchronous_fleet(&["b"], 1);
    lab.cut("a", "b");
    for (level, value) in [(Level::Local, 1), (Level::Off, 2)] {
        let client = lab.connect("a").unwrap();
        lab.level(&client, level).unwrap();
        let ticket = lab.write(&client, value).unwrap();
        assert_eq!(lab.outcome(ticket), ACKED, "{level:?}");
    }
}

#[test]
fn a_commit_that_is_off_is_lost_with_the_server() {
    let mut lab = fleet(&[]);
    let client = lab.connect("a").unwrap();
    lab.level(&client, Level::Off).unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    assert_eq!(lab.outcome(ticket), ACKED);
    lab.kill_all("a");
    lab.start("a", false).unwrap();
    assert!(lab.rows("a").unwrap().is_empty());
}

#[test]
fn names_bind_only_once_the_checkpointer_has_read_them() {
    let mut lab = fleet(&["b"]);
    lab.cut("a", "b");
    lab.set_stopped("a", quorate_world::pg::Stopped { checkpointer: true, ..Default::default() });
    lab.synchronous("a", Some(SyncNames::any(1, ["b"])));
    assert_eq!(lab.put("a", 1), ACKED, "nobody waits yet");
    lab.set_stopped("a", Default::default());
    assert_eq!(lab.put("a", 2), None);
}

#[test]
fn a_hung_disk_holds_commits_and_nothing_else() {
    let mut lab = fleet(&["b"]);
    lab.set_disk("a", Disk { hung: true, ..Disk::default() });
    let client = lab.connect("a").unwrap();
    let ticket = lab.write(&client, 1).unwrap();
    lab.advance(Duration::from_secs(60));
    assert_eq!(lab.outcome(ticket), None);
    assert!(lab.rows("a").unwrap().is_empty());
    lab.set_disk("a", Disk::default());
    assert_eq!(lab.outcome(ticket), ACKED);
}

#[test]
fn the_standby_says_what_it_has_before_it_is_sent_anything() {
    // A member whose own log goes further than the primary's confirms what it was never sent: its
    // first words are how far it is, and the primary believes positions.
    let mut lab = synchronous_fleet(&["b", "c"], 1);
    assert_eq!(lab.put("a", 1), ACKED);
    lab.cut("a", "c");
    lab.unfollow("c");
    for value in 2..=9 {
        assert_eq!(lab.put("a", value), ACKED);
    }
    lab.kill_all("a");
    // c takes over with less, and a comes back as its standby with more.
    assert!(lab.promote("c"));
    lab.synchronous("c", Some(SyncNames::any(1, ["a", "b"])));
    lab.create_slot("c", "slot_a").unwrap();
    lab.join("a", "c");
    lab.configure("a", |conf| conf.synchronous = None);
    lab.follow("a", "c", Some("slot_a"));
    lab.start("a", true).unwrap();
    lab.unfollow("b");
    assert_eq!(lab.put("c", 30), ACKED, "a has confirmed it, and does not have it");
    assert_eq!(lab.rows("c").unwrap(), [1, 30]);
    for server in ["a", "b"] {
        assert_eq!(lab.rows(server).unwrap(), (1..=9).collect::<Vec<_>>(), "{server}");
    }
}
