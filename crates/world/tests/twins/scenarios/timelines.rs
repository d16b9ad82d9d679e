//! Timelines: their numbers, who follows whom, and who is wrongly believed.

use crate::servers::{Outcome, Play, Process};

/// A standby goes along when the server that it follows is promoted (manual, section 27.2.7).
pub fn a_standby_follows_a_promotion(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.put("a", 1);
    s.standby("c", "b");
    s.shows("c", &[1]);
    s.kill("a");
    assert_eq!(s.promote("b"), 2);
    s.put("b", 2);
    s.shows("c", &[1, 2]);
    assert_eq!(s.histories("c"), [2].into());
}

/// Promotion replays all that was received first, also where replay was paused
/// (`xlogrecovery.c`, `WaitForWALToBecomeAvailable`: a trigger is looked at when data ends).
pub fn promotion_replays_all_that_was_received(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.pause_replay("b");
    s.put("a", 1);
    assert!(s.rows("b").is_empty());
    s.kill("a");
    s.promote("b");
    s.shows("b", &[1]);
}

/// Two promotions from one point take the same number, for neither sees the other's history file
/// (`timeline.c`, `findNewestTimeLine`).
pub fn two_promotions_take_one_number(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.put("a", 1);
    s.replayed_all("a", "b");
    s.replayed_all("a", "c");
    s.kill("a");
    assert_eq!(s.promote("b"), 2);
    assert_eq!(s.promote("c"), 2);
}

/// A standby follows a server with another history of the same number and says nothing. It
/// acknowledges commits and holds other rows (`walreceiver.c`, `WalReceiverMain` compares numbers;
/// `timeline.c` knows a timeline by its number).
pub fn another_history_of_the_same_number_is_accepted(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.put("a", 1);
    s.replayed_all("a", "b");
    s.replayed_all("a", "c");
    s.kill("a");
    for (name, row) in [("b", 100), ("c", 200)] {
        assert_eq!(s.promote(name), 2);
        s.await_that("its first checkpoint is done", |s| s.checkpoint_timeline(name) == 2);
        s.put(name, row);
    }
    assert_eq!(s.flushed("b"), s.flushed("c"), "the same amount of WAL");

    s.kill("c");
    s.follow("c", Some("b"));
    s.start("c").unwrap();
    s.names("b", "ANY 1 (c)", &["c"]);
    let write = s.insert("b", 3, crate::servers::Commit::On);
    assert_eq!(s.answer(write), Outcome::Acknowledged);
    s.shows("c", &[1, 200, 3]);
    s.shows("b", &[1, 100, 3]);
}

/// A standby does not go over to a timeline that began before what it has replayed
/// (`xlogrecovery.c`, `rescanLatestTimeLine`: "forked off current database system timeline").
pub fn a_timeline_that_forked_too_early_is_not_followed(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    s.shows("c", &[1]);
    s.freeze("b", Process::Receiver);
    s.put("a", 2);
    s.shows("c", &[1, 2]);
    // b's tail is lost: its receiver never flushed it.
    s.kill("a");
    s.kill("b");
    s.follow("b", None);
    s.start("b").unwrap();
    s.shows("b", &[1]);
    assert_eq!(s.promote("b"), 2);
    s.put("b", 3);
    s.follow("c", Some("b"));
    s.stays("c stays where it is", |s| s.rows("c") == [1, 2].into());
    // Nor after a restart.
    s.kill("c");
    let started = s.start("c");
    if started.is_ok() {
        s.stays("c stays where it is", |s| s.rows("c") == [1, 2].into());
    }
    assert!(started.is_ok(), "{started:?}");
}

/// A standby that has more WAL than the new timeline's fork still connects, and says that it has
/// flushed as far as it has replayed. Its word releases commits that it does not have
/// (`walreceiver.c`, `WalReceiverMain`: `LogstreamResult.Flush` begins at the replay position).
pub fn a_diverged_standby_releases_commits_that_it_does_not_have(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    s.freeze("b", Process::Receiver);
    s.fill("a", 1000..1200);
    s.put("a", 2);
    s.await_that("c has all", |s| s.rows("c").contains(&2));
    let ahead = s.replayed("c");
    s.kill("a");
    s.kill("b");
    s.follow("b", None);
    s.start("b").unwrap();
    assert_eq!(s.promote("b"), 2);
    s.set_names("b", "ANY 1 (c)");
    let write = s.put_waiting("b", 3);
    assert!(s.flushed("b") < Some(ahead), "c's old WAL is ahead of the new one");

    s.follow("c", Some("b"));
    assert_eq!(s.answer_with_traffic("b", write), Outcome::Acknowledged);
    assert!(!s.rows("c").contains(&3));
}

/// Where the standby's WAL is ahead by a segment or more, the server refuses it, and is right:
/// standbys ask for WAL from the beginning of a segment (`walreceiverfuncs.c`,
/// `RequestXLogStreaming`; `walsender.c`, `StartReplication`: "not in this server's history").
pub fn a_diverged_standby_is_refused_beyond_the_segment(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    s.freeze("b", Process::Receiver);
    s.fill("a", 1000..3000);
    s.put("a", 2);
    s.await_that("c has all", |s| s.rows("c").contains(&2));
    let ahead = s.replayed("c");
    s.kill("a");
    s.kill("b");
    s.follow("b", None);
    s.start("b").unwrap();
    assert_eq!(s.promote("b"), 2);
    s.set_names("b", "ANY 1 (c)");
    let write = s.put_waiting("b", 3);
    assert!(s.flushed("b") < Some(ahead), "c's old WAL is ahead of the new one");
    s.follow("c", Some("b"));
    s.waits_on("b", write);
    s.waits_on("b", write);
}

/// The same where the timeline is one: a primary that lost its tail is believed to have a standby
/// that holds what it writes anew (as above).
pub fn a_standby_ahead_releases_commits_that_it_does_not_have(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.put("a", 1);
    let end = s.flushed("a").unwrap();
    s.fill("a", 1000..1200);
    s.put("a", 2);
    s.await_that("b has all", |s| s.rows("b").contains(&2));
    let ahead = s.replayed("b");
    s.kill("b");
    s.kill("a");
    // A disk that lied: what was flushed is gone.
    s.tear("a", end, None);
    s.set_names("a", "ANY 1 (b)");
    s.start("a").unwrap();
    let write = s.put_waiting("a", 3);
    s.shows("a", &[1]);
    assert!(s.flushed("a") < Some(ahead));
    s.start("b").unwrap();
    assert_eq!(s.answer_with_traffic("a", write), Outcome::Acknowledged);
    assert!(!s.rows("b").contains(&3));
}

/// A promotion takes the number above the newest history file, counted up from its own timeline
/// without a gap (`timeline.c`, `findNewestTimeLine`).
pub fn history_files_raise_the_number_up_to_a_gap(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    s.shows("c", &[1]);
    s.kill("a");
    s.place_history("b", 5, 1);
    assert_eq!(s.promote("b"), 2, "a gap hides what is behind it");
    for timeline in 2..=5 {
        s.place_history("c", timeline, 1);
    }
    assert_eq!(s.promote("c"), 6);
    s.put("c", 2);
    assert_eq!(s.histories("c"), (2..=6).collect());
}

/// A standby that runs refuses a placed timeline that is no child of its own, and goes on; one
/// that starts takes the newest number and ends (`xlogrecovery.c`, `rescanLatestTimeLine`,
/// `InitWalRecovery`: "requested timeline is not a child").
pub fn a_placed_timeline_stops_a_start_only(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    s.place_history("b", 2, 1);
    // Its receiver comes anew, and with it the search for newer timelines.
    s.follow("b", None);
    s.follow("b", Some("a"));
    s.put("a", 2);
    s.shows("b", &[1, 2]);

    s.kill("b");
    assert!(s.start("b").is_err());
}
