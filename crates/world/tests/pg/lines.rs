//! Timelines: promotion, and who may follow whom.

use std::time::Duration;

use quorate_world::domain::types::{Lsn, Timeline};
use quorate_world::pg::{History, Lab, Outcome};

use crate::fleet;

const ACKED: Option<Outcome> = Some(Outcome::Acknowledged);
const SOON: Duration = Duration::from_secs(3);

fn timeline(lab: &Lab, server: &str) -> u32 {
    lab.status(server).unwrap().timeline.0
}

#[test]
fn a_promotion_takes_the_number_after_the_newest_history() {
    let mut lab = fleet(&["b"]);
    for number in 2..=6 {
        lab.write_history("b", History::placeholder(Timeline(number)));
    }
    assert!(lab.promote("b"));
    assert_eq!(timeline(&lab, "b"), 7);
    assert_eq!(lab.history("b", 7).unwrap().ancestors.len(), 1);
}

#[test]
fn a_gap_ends_the_search_for_the_number() {
    let mut lab = fleet(&["b"]);
    lab.write_history("b", History::placeholder(Timeline(5)));
    assert!(lab.promote("b"));
    assert_eq!(timeline(&lab, "b"), 2);
}

#[test]
fn two_standbys_take_the_same_number() {
    let mut lab = fleet(&["b", "c"]);
    lab.kill_all("a");
    assert!(lab.promote("b") && lab.promote("c"));
    assert_eq!((timeline(&lab, "b"), timeline(&lab, "c")), (2, 2));
}

#[test]
fn a_server_of_an_equal_number_is_followed_whoever_wrote_it() {
    // Two forks with one number: the standby's rows are nobody's, and the commit counts.
    let mut lab = fleet(&["b", "c"]);
    lab.kill_all("a");
    assert!(lab.promote("b") && lab.promote("c"));
    assert_eq!(lab.put("c", 30), ACKED);
    lab.kill_all("c");
    assert_eq!(lab.put("b", 20), ACKED);
    lab.create_slot("b", "slot_c").unwrap();
    lab.follow("c", "b", Some("slot_c"));
    lab.start("c", true).unwrap();
    assert_eq!(lab.status("c").unwrap().streaming, Some(Timeline(2)));
    lab.synchronous("b", Some(quorate_world::pg::SyncNames::any(1, ["c"])));
    assert_eq!(lab.put("b", 21), ACKED, "acknowledged by a standby");
    assert_eq!(lab.rows("c").unwrap(), [21, 30], "which holds different rows");
    assert_eq!(lab.rows("b").unwrap(), [20, 21]);
}

#[test]
fn standbys_go_over_to_the_new_timeline() {
    let mut lab = fleet(&["b", "c"]);
    assert_eq!(lab.put("a", 1), ACKED);
    lab.kill_all("a");
    assert!(lab.promote("b"));
    lab.create_slot("b", "slot_c").unwrap();
    assert_eq!(lab.put("b", 2), ACKED);
    lab.follow("c", "b", Some("slot_c"));
    assert!(lab.until(SOON, |lab| lab.rows("c").unwrap() == [1, 2]), "{:?}", lab.said());
    assert_eq!(timeline(&lab, "c"), 2);
}

#[test]
fn who_has_more_than_the_fork_stays_where_it_is() {
    let mut lab = fleet(&["b"]);
    lab.cut("a", "b");
    assert_eq!(lab.put("a", 1), ACKED);
    assert!(lab.promote("b"));
    lab.create_slot("b", "slot_a").unwrap();
    assert_eq!(lab.put("b", 2), ACKED);
    lab.kill_all("a");
    lab.join("a", "b");
    lab.follow("a", "b", Some("slot_a"));
    lab.start("a", true).unwrap();
    lab.advance(SOON);
    assert_eq!(lab.rows("a").unwrap(), [1]);
    assert_eq!(timeline(&lab, "a"), 1);
    assert!(lab.said().iter().any(|s| s.contains("forked off")), "{:?}", lab.said());
}

#[test]
fn a_primary_of_an_older_timeline_is_refused() {
    let mut lab = fleet(&["b", "c"]);
    assert!(lab.promote("b"));
    lab.create_slot("b", "slot_c").unwrap();
    lab.follow("c", "b", Some("slot_c"));
    assert!(lab.until(SOON, |lab| timeline(lab, "c") == 2));
    lab.follow("c", "a", Some("slot_c"));
    lab.advance(SOON);
    assert_eq!(lab.status("c").unwrap().streaming, None);
    assert!(lab.said().iter().any(|s| s.contains("is behind recovery timeline")));
}

#[test]
fn a_standby_needs_every_history_in_between() {
    let mut lab = fleet(&["b", "c"]);
    for number in 2..=4 {
        lab.write_history("b", History::placeholder(Timeline(number)));
    }
    assert!(lab.promote("b"));
    lab.remove_history("b", 3);
    lab.create_slot("b", "slot_c").unwrap();
    lab.follow("c", "b", Some("slot_c"));
    lab.advance(SOON);
    assert_eq!(lab.status("c").unwrap().streaming, None);
    lab.write_history("b", History::placeholder(Timeline(3)));
    assert!(lab.until(SOON, |lab| timeline(lab, "c") == 5), "{:?}", lab.said());
}

#[test]
fn a_start_with_a_history_that_was_never_written_fails() {
    let mut lab = fleet(&["b"]);
    lab.put("a", 1);
    lab.kill_all("b");
    lab.write_history("b", History::placeholder(Timeline(2)));
    let why = lab.start("b", true).unwrap_err();
    assert!(why.contains("not a child"), "{why}");
}

#[test]
fn a_standby_does_not_follow_a_promotion_that_it_was_not_told_of() {
    let mut lab = fleet(&["b"]);
    lab.unfollow("b");
    assert!(lab.promote("b"));
    let begin = lab.history("b", 2).unwrap().begin();
    assert_eq!(begin, lab.history("b", 2).unwrap().ancestors[0].end);
    assert!(begin > Lsn(0));
    assert_eq!(lab.put("a", 1), ACKED, "two primaries");
    assert_eq!(lab.put("b", 2), ACKED);
}
