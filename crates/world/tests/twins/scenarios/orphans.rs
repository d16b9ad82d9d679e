//! What is left when processes die alone, and how servers stop.

use crate::servers::{Commit, Name, Outcome, Play, Process, Write};

/// A stopped backend that was sent an insertion before its postmaster died.
fn sent_to_an_orphan(s: &mut impl Play, name: Name) -> Write {
    let write = s.prepare(name, 1, Commit::On);
    s.freeze(name, Process::Backend(write));
    s.send(write);
    s.stays("there is no answer yet", |s| s.outcome(write).is_none());
    s.behead(name);
    write
}

/// A commit that waits for standbys when the postmaster dies is never answered; it is there after
/// recovery (`syncrep.c`, `SyncRepWaitForLSN`: `WL_POSTMASTER_DEATH`).
pub fn a_waiting_commit_is_lost_with_the_postmaster(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.behead("a");
    assert_eq!(s.answer(write), Outcome::Lost);
    s.ends("a");
    s.kill("b");
    s.start("a").unwrap();
    s.shows("a", &[1]);
}

/// A commit that was released before the postmaster died is acknowledged whenever its backend
/// comes to it (`syncrep.c`: the state in shared memory is looked at before all else).
pub fn a_released_commit_is_acknowledged_by_an_orphan(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.freeze("a", Process::Backend(write));
    s.thaw("b", Process::Receiver);
    s.shows("b", &[1]);
    s.caught_up("a", "b");
    s.behead("a");
    s.kill("b");
    s.stays("there is no answer yet", |s| s.outcome(write).is_none());
    s.thaw("a", Process::Backend(write));
    assert_eq!(s.answer(write), Outcome::Acknowledged);
    s.ends("a");
}

/// An orphaned backend executes what it was sent before the postmaster died, and acknowledges it
/// (`pqcomm.c`, `be-secure.c`: the postmaster's death is seen where a backend waits).
pub fn an_orphan_executes_what_it_was_sent(s: &mut impl Play) {
    s.primary("a");
    let write = sent_to_an_orphan(s, "a");
    s.thaw("a", Process::Backend(write));
    assert_eq!(s.answer(write), Outcome::Acknowledged);
    s.ends("a");
    s.start("a").unwrap();
    s.shows("a", &[1]);
}

/// What an orphaned backend is sent after the postmaster's death it does not execute, for it sees
/// that death first (`latch.c`, `WaitEventSetWait`: one event at a time, in their order).
pub fn an_orphan_does_not_execute_what_it_is_sent_later(s: &mut impl Play) {
    s.primary("a");
    let write = s.prepare("a", 1, Commit::On);
    s.freeze("a", Process::Backend(write));
    s.behead("a");
    s.send(write);
    s.stays("there is no answer yet", |s| s.outcome(write).is_none());
    s.thaw("a", Process::Backend(write));
    assert_eq!(s.answer(write), Outcome::Lost);
    s.ends("a");
    s.start("a").unwrap();
    assert!(s.rows("a").is_empty());
}

/// An orphan that has to wait for standbys is not answered: the walsenders end with the
/// postmaster (`walsender.c`, `WalSndWait`: exits on the postmaster's death).
pub fn an_orphan_is_not_released(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    let write = sent_to_an_orphan(s, "a");
    s.await_that("the receiver is gone", |s| !s.receives("b"));
    s.thaw("a", Process::Backend(write));
    assert_eq!(s.answer(write), Outcome::Lost);
    s.ends("a");
    assert!(s.rows("b").is_empty());
    s.start("a").unwrap();
    // It was flushed before it waited.
    s.shows("a", &[1]);
}

/// An orphaned backend of a standby writes nothing either: that the server recovers is in shared
/// memory, and outlives the startup process (`xlog.c`, `RecoveryInProgress`).
pub fn an_orphan_of_a_standby_writes_nothing(s: &mut impl Play) {
    s.cluster(&["b"]);
    let write = sent_to_an_orphan(s, "b");
    s.thaw("b", Process::Backend(write));
    // It may see the postmaster's death first.
    assert!(matches!(s.answer(write), Outcome::Refused | Outcome::Lost));
    s.ends("b");
    assert!(s.rows("a").is_empty());
    s.start("b").unwrap();
    assert!(s.rows("b").is_empty());
}

/// A new postmaster does not start while a process of the old one holds its shared memory
/// (`sysv_shmem.c`, `PGSharedMemoryCreate`: "pre-existing shared memory block is still in use").
pub fn an_orphan_keeps_a_new_postmaster_away(s: &mut impl Play) {
    s.primary("a");
    let write = s.prepare("a", 1, Commit::On);
    s.freeze("a", Process::Backend(write));
    s.behead("a");
    let refused = s.start("a").unwrap_err();
    assert!(refused.contains("shared memory"), "{refused}");
    s.thaw("a", Process::Backend(write));
    s.ends("a");
    s.start("a").unwrap();
}

/// The same for a process that serves no client.
pub fn a_stopped_checkpointer_keeps_a_new_postmaster_away(s: &mut impl Play) {
    s.primary("a");
    s.freeze("a", Process::Checkpointer);
    s.behead("a");
    let refused = s.start("a").unwrap_err();
    assert!(refused.contains("shared memory"), "{refused}");
    s.thaw("a", Process::Checkpointer);
    s.ends("a");
    s.start("a").unwrap();
}

/// A fast shutdown ends sessions, writes its checkpoint, and ends when the standbys have it
/// (`walsender.c`, `WalSndDone`; manual, section 19.5). The standby of such a primary has all.
pub fn a_fast_shutdown_waits_for_the_standbys(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.freeze("b", Process::Receiver);
    s.put("a", 1);
    s.stop("a");
    s.await_that("sessions are refused", |s| !s.accepts("a"));
    s.stays("the primary waits for its standby", |s| s.runs("a"));
    s.thaw("b", Process::Receiver);
    s.ends("a");
    let control = s.control("a");
    assert!(control.shut_down);
    s.await_that("the standby has the checkpoint", |s| s.replayed("b") > control.checkpoint);
    s.shows("b", &[1]);
}

/// A walsender that is told to end does so also during a shutdown; its standby then lacks what
/// it was not sent.
pub fn a_shutdown_goes_on_without_a_walsender_that_ends(s: &mut impl Play) {
    s.cluster(&["b"]);
    let sender = s.sender("a", "b").id;
    s.freeze("b", Process::Receiver);
    s.put("a", 1);
    s.stop("a");
    s.await_that("sessions are refused", |s| !s.accepts("a"));
    s.stays("the primary waits for its standby", |s| s.runs("a"));
    s.end("a", Process::Sender(sender));
    s.ends("a");
    assert!(s.control("a").shut_down);
}

/// A commit that waits for standbys is ended by a fast shutdown without an answer, and stays.
pub fn a_fast_shutdown_ends_waits(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.stop("a");
    assert_eq!(s.answer(write), Outcome::Lost);
    s.thaw("b", Process::Receiver);
    s.ends("a");
    s.start("a").unwrap();
    s.shows("a", &[1]);
}

/// When a backend is killed all end, for shared memory may be broken; waiting commits are not
/// answered (`postmaster.c`, `HandleChildCrash`; manual, section 20.13).
pub fn a_killed_backend_ends_the_server(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    let victim = s.prepare("a", 2, Commit::On);
    s.murder("a", Process::Backend(victim));
    assert_eq!(s.answer(write), Outcome::Lost);
    s.ends("a");
}

/// With `restart_after_crash` it opens again by itself, and shows commits that no standby has
/// (`postmaster.c`, `PostmasterStateMachine`; manual, section 20.13).
pub fn restart_after_crash_shows_what_no_standby_has(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.set_restart_after_crash("a", true);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    let victim = s.prepare("a", 2, Commit::On);
    s.murder("a", Process::Backend(victim));
    assert_eq!(s.answer(write), Outcome::Lost);
    s.await_that("it accepts sessions", |s| s.accepts("a"));
    s.shows("a", &[1]);
    assert!(s.rows("b").is_empty());
}

/// A postmaster that is stopped opens no session; sessions that are open go on, and so do
/// walsenders (`postmaster.c`, `ServerLoop`).
pub fn a_stopped_postmaster_leaves_open_sessions_alone(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    let open = s.prepare("a", 1, Commit::On);
    s.freeze("a", Process::Postmaster);
    s.send(open);
    assert_eq!(s.answer(open), Outcome::Acknowledged);
    assert!(!s.connects("a"));
    s.thaw("a", Process::Postmaster);
    s.await_that("sessions are opened again", |s| s.connects("a"));
    s.shows("a", &[1]);
}

/// Settings that were written while the postmaster was stopped are read when it goes on.
pub fn a_stopped_postmaster_reads_settings_later(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.freeze("a", Process::Postmaster);
    s.set_names_later("a", "ANY 1 (b)");
    s.stays("the list is not read", |s| !s.sender("a", "b").listed);
    s.thaw("a", Process::Postmaster);
    s.await_that("the list is read", |s| s.sender("a", "b").listed);
}

/// A checkpointer that is stopped holds a fast shutdown up, and no commit (`postmaster.c`,
/// `PM_WAIT_BACKENDS` and `PM_SHUTDOWN`).
pub fn a_stopped_checkpointer_holds_a_shutdown_up(s: &mut impl Play) {
    s.primary("a");
    s.freeze("a", Process::Checkpointer);
    s.put("a", 1);
    s.stop("a");
    s.await_that("sessions are refused", |s| !s.accepts("a"));
    s.stays("the server waits for its checkpointer", |s| s.runs("a"));
    s.thaw("a", Process::Checkpointer);
    s.ends("a");
    assert!(s.control("a").shut_down);
}
