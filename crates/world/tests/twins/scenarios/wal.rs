//! What is on the disk, what is sent, and what is there after a crash.

use crate::servers::{Commit, Outcome, Play, Process};

/// How far into a record a tear begins: behind its header (`xlogrecord.h`: 24 bytes).
const INTO_RECORD: u64 = 30;

/// How far before its end the record of a backup's end is torn (40 bytes, 6 of them padding).
const INTO_LAST: u64 = 16;

/// Recovery ends at the first record that is not whole. What is before it stays
/// (`xlogreader.c`, `ValidXLogRecord`; manual, section 30.1).
pub fn a_torn_tail_ends_recovery(s: &mut impl Play) {
    s.primary("a");
    s.put("a", 1);
    let end = s.flushed("a").unwrap();
    s.put("a", 2);
    s.put("a", 3);
    s.kill("a");
    s.tear("a", end + INTO_RECORD, None);
    s.start("a").unwrap();
    s.shows("a", &[1]);
    s.put("a", 4);
    s.kill("a");
    s.start("a").unwrap();
    s.shows("a", &[1, 4]);
}

/// Records behind one that is not whole are lost too, although they are (as above).
pub fn a_hole_hides_what_is_behind_it(s: &mut impl Play) {
    s.primary("a");
    s.put("a", 1);
    let end = s.flushed("a").unwrap();
    s.put("a", 2);
    s.put("a", 3);
    s.kill("a");
    s.tear("a", end + INTO_RECORD, Some(end + INTO_RECORD + 4));
    s.start("a").unwrap();
    s.shows("a", &[1]);
}

/// A standby whose tail was torn gets it again from whom it follows (`xlogrecovery.c`,
/// `WaitForWALToBecomeAvailable`).
pub fn a_standby_fetches_a_torn_tail_again(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.put("a", 1);
    let end = s.flushed("a").unwrap();
    s.put("a", 2);
    s.shows("b", &[1, 2]);
    s.kill("b");
    s.tear("b", end + INTO_RECORD, None);
    s.follow("b", None);
    s.start("b").unwrap();
    s.stays("what was torn is gone", |s| s.rows("b") == [1].into());
    s.follow("b", Some("a"));
    s.shows("b", &[1, 2]);
}

/// WAL that is not flushed is not sent (`walsender.c`, `XLogSendPhysical`: `GetFlushRecPtr`).
pub fn unflushed_wal_is_not_sent(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.freeze("a", Process::Flusher);
    let write = s.insert("a", 1, Commit::Off);
    assert_eq!(s.answer(write), Outcome::Acknowledged);
    s.shows("a", &[1]);
    let flushed = s.flushed("a");
    assert!(Some(s.inserted("a")) > flushed);
    s.stays("nothing is flushed, nothing is sent", |s| {
        s.flushed("a") == flushed && s.sender("a", "b").sent == flushed && s.rows("b").is_empty()
    });
    // A commit flushes all that was written before it.
    s.put_local("a", 2);
    s.shows("b", &[1, 2]);
    s.thaw("a", Process::Flusher);
}

/// WAL that is not flushed is lost in a crash, although its commit was acknowledged: with
/// `synchronous_commit = off` (manual, section 30.4).
pub fn unflushed_wal_is_lost_in_a_crash(s: &mut impl Play) {
    s.primary("a");
    s.put("a", 1);
    s.freeze("a", Process::Flusher);
    let write = s.insert("a", 2, Commit::Off);
    assert_eq!(s.answer(write), Outcome::Acknowledged);
    s.shows("a", &[1, 2]);
    s.kill("a");
    s.start("a").unwrap();
    s.shows("a", &[1]);
}

/// A primary that crashed shows, after its recovery, commits that no standby has and that were
/// never acknowledged, without asking anybody (manual, section 27.2.8.4).
pub fn a_restarted_primary_shows_what_it_never_acknowledged(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.put("a", 1);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 2);
    s.shows("a", &[1]);
    s.kill("b");
    s.kill("a");
    assert_eq!(s.answer(write), Outcome::Lost);
    s.start("a").unwrap();
    s.shows("a", &[1, 2]);
    // New commits wait as before.
    let write = s.put_waiting("a", 3);
    s.start("b").unwrap();
    assert_eq!(s.answer(write), Outcome::Acknowledged);
    s.shows("b", &[1, 2, 3]);
}

/// A base backup can be read only once it has been recovered to the end of the backup
/// (`xlogrecovery.c`, `CheckRecoveryConsistency`: `backupEndPoint`; manual, section 26.3.3).
pub fn a_base_backup_is_consistent_after_its_end_only(s: &mut impl Play) {
    s.primary("a");
    s.put("a", 1);
    let end = s.backup("b", "a");
    s.put("a", 2);
    // The last record of the backup is cut.
    s.tear("b", end - INTO_LAST, None);
    s.launch("b");
    s.stays("the copy accepts nobody", |s| s.runs("b") && !s.accepts("b"));
    s.follow("b", Some("a"));
    s.await_that("the copy accepts sessions", |s| s.accepts("b"));
    s.shows("b", &[1, 2]);
}

/// A base backup that is not recovered to its end is not promoted: it ends (`xlogrecovery.c` and
/// `xlog.c`, `StartupXLOG`: "WAL ends before end of online backup").
pub fn an_unfinished_base_backup_is_not_promoted(s: &mut impl Play) {
    s.primary("a");
    s.put("a", 1);
    let end = s.backup("b", "a");
    s.tear("b", end - INTO_LAST, None);
    s.launch("b");
    s.stays("the copy accepts nobody", |s| s.runs("b") && !s.accepts("b"));
    s.ask_promotion("b");
    s.ends("b");
    // A whole one is.
    s.backup("c", "a");
    s.start("c").unwrap();
    assert_eq!(s.promote("c"), 2);
    s.shows("c", &[1]);
}

/// A standby may have written pages that need WAL up to its minimum recovery point. If that WAL is
/// gone, it accepts nobody until it has got it again (`xlog.c`, `UpdateMinRecoveryPoint`;
/// `xlogrecovery.c`, `CheckRecoveryConsistency`).
pub fn a_standby_torn_before_its_restartpoint_waits(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    let end = s.flushed("a").unwrap();
    s.put("a", 2);
    s.checkpoint("a");
    s.put("a", 3);
    s.shows("b", &[1, 2, 3]);
    s.checkpoint("b");
    let checkpoint = s.flushed("a").unwrap();
    s.kill("b");
    assert!(checkpoint > end);
    let torn = s.control("b").checkpoint;
    s.tear("b", torn + INTO_RECORD + 90, None);
    s.follow("b", None);
    s.launch("b");
    s.stays("the standby accepts nobody", |s| s.runs("b") && !s.accepts("b"));
    s.follow("b", Some("a"));
    s.await_that("the standby accepts sessions", |s| s.accepts("b"));
    s.shows("b", &[1, 2, 3]);
}

/// A base backup can be taken from a standby; it is consistent where that standby was
/// (`xlogbackup`, manual, section 26.3.2).
pub fn a_base_backup_of_a_standby_is_one(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.put("a", 1);
    s.checkpoint("a");
    s.put("a", 2);
    s.shows("b", &[1, 2]);
    s.backup("c", "b");
    s.start("c").unwrap();
    s.shows("c", &[1, 2]);
    s.put("a", 3);
    s.follow("c", Some("a"));
    s.shows("c", &[1, 2, 3]);
}
