//! Standbys that follow nobody, and sessions that may not write.

use crate::servers::{Commit, Outcome, Play};

/// A standby whose `primary_conninfo` is taken away ends its receiver and takes no WAL any more;
/// replay of what it has flushed goes on (`xlogrecovery.c`, `StartupRequestWalReceiverRestart`).
pub fn a_standby_that_follows_nobody_takes_no_wal(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.pause_replay("b");
    s.put("a", 1);
    let flushed = s.flushed("b");
    assert!(Some(s.replayed("b")) < flushed);
    s.follow("b", None);
    s.resume_replay("b");
    s.await_that("the receiver is gone", |s| !s.receives("b"));
    s.shows("b", &[1]);
    s.put_local("a", 2);
    s.stays("the position is final", |s| s.flushed("b") == flushed && s.rows("b") == [1].into());
    assert!(s.senders("a").is_empty());

    s.follow("b", Some("a"));
    s.shows("b", &[1, 2]);
}

/// After a restart a standby that follows nobody has what it flushed, and knows of no received
/// position (`walreceiverfuncs.c`, `GetWalRcvFlushRecPtr` is shared memory).
pub fn a_restarted_standby_has_what_it_flushed(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.pause_replay("b");
    s.put("a", 1);
    s.kill("b");
    s.follow("b", None);
    s.start("b").unwrap();
    s.shows("b", &[1]);
    assert_eq!(s.flushed("b"), None);
    s.stays("nothing is received", |s| s.flushed("b").is_none() && !s.receives("b"));
}

/// `default_transaction_read_only` holds sessions back, those that are open too; but a session may
/// change it for itself (manual, section 20.11.1).
pub fn read_only_by_default_is_no_fence(s: &mut impl Play) {
    s.primary("a");
    let open = s.prepare("a", 1, Commit::On);
    s.set_read_only("a", true);
    s.send(open);
    assert_eq!(s.answer(open), Outcome::Refused);
    let new = s.insert("a", 2, Commit::On);
    assert_eq!(s.answer(new), Outcome::Refused);
    let forced = s.prepare("a", 3, Commit::On);
    s.override_read_only(forced);
    s.send(forced);
    assert_eq!(s.answer(forced), Outcome::Acknowledged);
    s.set_read_only("a", false);
    s.put("a", 4);
    s.shows("a", &[3, 4]);
}

/// A standby refuses writes (manual, section 27.4.1).
pub fn a_standby_refuses_writes(s: &mut impl Play) {
    s.cluster(&["b"]);
    let write = s.insert("b", 1, Commit::On);
    assert_eq!(s.answer(write), Outcome::Refused);
    assert!(s.in_recovery("b"));
}
