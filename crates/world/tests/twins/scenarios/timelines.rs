//! Timelines: their numbers, who follows whom, and who is wrongly believed.

use crate::servers::{Commit, Outcome, Play, Process};

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

/// A promotion waits for the end of the walreceiver; one that is stopped holds it up
/// (`walreceiverfuncs.c`, `ShutdownWalRcv`).
pub fn a_stopped_receiver_holds_a_promotion_up(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    s.freeze("b", Process::Receiver);
    s.ask_promotion("b");
    s.stays("the promotion waits", |s| s.in_recovery("b"));
    s.thaw("b", Process::Receiver);
    s.await_that("the standby is a primary", |s| !s.in_recovery("b"));
    s.put("b", 2);
    s.shows("b", &[1, 2]);
}

/// A session that was opened on a standby writes once the standby is a primary
/// (`xact.c`, `StartTransaction`: read-only while in recovery).
pub fn a_session_of_a_standby_writes_after_its_promotion(s: &mut impl Play) {
    s.cluster(&["b"]);
    let early = s.prepare("b", 1, Commit::On);
    s.promote("b");
    s.send(early);
    assert_eq!(s.answer(early), Outcome::Acknowledged);
    s.shows("b", &[1]);
}

/// A list that a standby has before its promotion holds from the first commit on
/// (`checkpointer.c`: it reads the settings during recovery, too).
pub fn a_list_set_on_a_standby_holds_after_its_promotion(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.set_names("b", "ANY 1 (c)");
    s.kill("a");
    s.promote("b");
    let write = s.put_waiting("b", 1);
    assert!(s.rows("b").is_empty());
    s.follow("c", Some("b"));
    assert_eq!(s.answer(write), Outcome::Acknowledged);
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
    let write = s.insert("b", 3, Commit::On);
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

    // What was released once stays so: commits below that position wait for nobody any more
    // (`syncrep.c`, `SyncRepWaitForLSN`: `WalSndCtl->lsn`).
    s.kill("c");
    s.put("b", 4);
    assert!(s.flushed("b") < Some(ahead));
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
    s.kill("b");
    s.put("a", 4);
    assert!(s.flushed("a") < Some(ahead));
}

/// A standby that is ahead of a server by a segment or more is refused by it (`walsender.c`,
/// `StartReplication`: "ahead of the WAL flush position of this server").
pub fn a_standby_ahead_by_a_segment_is_refused(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.put("a", 1);
    let end = s.flushed("a").unwrap();
    s.fill("a", 1000..3000);
    s.put("a", 2);
    s.await_that("b has all", |s| s.rows("b").contains(&2));
    s.kill("b");
    s.kill("a");
    s.tear("a", end, None);
    s.set_names("a", "ANY 1 (b)");
    s.start("a").unwrap();
    let write = s.put_waiting("a", 3);
    s.start("b").unwrap();
    s.waits_on("a", write);
    s.waits_on("a", write);
    assert!(s.rows("b").contains(&2));
}

/// A standby does not follow a server whose timeline is older than its own (`walreceiver.c`,
/// `WalReceiverMain`: "highest timeline of the primary is behind recovery timeline").
pub fn a_server_on_an_older_timeline_is_not_followed(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    s.shows("c", &[1]);
    assert_eq!(s.promote("b"), 2);
    s.put("b", 2);
    s.follow("c", Some("b"));
    s.shows("c", &[1, 2]);
    s.put("a", 3);
    s.follow("c", Some("a"));
    s.stays("c stays where it is", |s| s.rows("c") == [1, 2].into());
    s.put("b", 4);
    s.follow("c", Some("b"));
    s.shows("c", &[1, 2, 4]);
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
