//! Walsenders that are stuck, or half open, and their successors; slots.

use crate::servers::{Outcome, Play, Process};

/// A walsender that is stopped keeps its place in the list with its old positions, even when its
/// standby is gone (`syncrep.c`, `SyncRepGetCandidateStandbys`: shared memory decides).
pub fn a_stuck_walsender_keeps_its_place(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.names("a", "FIRST 1 (b, c)", &["b", "c"]);
    let stuck = s.sender("a", "b");
    s.freeze("a", Process::Sender(stuck.id));
    s.kill("b");
    let write = s.put_waiting("a", 1);
    s.caught_up("a", "c");
    s.waits_on("a", write);
    let still = s.sender("a", "b");
    assert_eq!((still.id, still.listed, still.streaming), (stuck.id, true, true));
    assert!(still.flushed < s.sender("a", "c").flushed);

    // It notices that its standby is gone; c takes the place.
    s.thaw("a", Process::Sender(stuck.id));
    assert_eq!(s.answer_with_traffic("a", write), Outcome::Acknowledged);
    assert!(s.senders("a").iter().all(|w| w.id != stuck.id));
}

/// A half-open walsender beside its successor: both have the standby's name, and `ANY 2` counts
/// both, so that one standby is taken for two (`syncrep.c`, `SyncRepGetCandidateStandbys`).
pub fn two_walsenders_of_one_standby_count_twice(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.names("a", "ANY 2 (b, c)", &["b", "c"]);
    s.freeze("c", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.caught_up("a", "b");
    let stuck = s.sender("a", "b");
    s.freeze("a", Process::Sender(stuck.id));
    s.waits_on("a", write);

    s.kill("b");
    s.start("b").unwrap();
    assert_eq!(s.answer_with_traffic("a", write), Outcome::Acknowledged);
    let of_b = s.senders("a").iter().filter(|w| w.standby == "b").count();
    assert_eq!(of_b, 2, "the half-open one and its successor");
    assert!(s.sender("a", "c").flushed < stuck.flushed, "c never had it");
}

/// The half-open walsender counts with what it heard last: for a later commit its successor alone
/// does not make two.
pub fn a_half_open_walsender_counts_with_its_old_position(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.names("a", "ANY 2 (b, c)", &["b", "c"]);
    s.freeze("c", Process::Receiver);
    let stuck = s.sender("a", "b").id;
    s.freeze("a", Process::Sender(stuck));
    s.kill("b");
    s.start("b").unwrap();
    let write = s.put_waiting("a", 1);
    s.shows("b", &[1]);
    s.waits_on("a", write);
    s.thaw("c", Process::Receiver);
    assert_eq!(s.answer(write), Outcome::Acknowledged);
}

/// A slot serves one walsender: while a half-open one holds it, the successor is refused
/// (`slot.c`, `ReplicationSlotAcquire`).
pub fn a_slot_refuses_the_successor_of_a_half_open_walsender(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.use_slot("b", "a");
    s.await_that("the slot is used", |s| s.slot("a", "b").user.is_some());
    s.caught_up("a", "b");
    let stuck = s.sender("a", "b").id;
    assert_eq!(s.slot("a", "b").user, Some(stuck));
    s.freeze("a", Process::Sender(stuck));
    s.kill("b");
    s.start("b").unwrap();
    s.put_local("a", 1);
    s.stays("the standby gets nothing", |s| s.rows("b").is_empty());
    assert_eq!(s.slot("a", "b").user, Some(stuck));

    s.thaw("a", Process::Sender(stuck));
    s.shows("b", &[1]);
    assert_ne!(s.slot("a", "b").user, Some(stuck));
}

/// A slot keeps the WAL from what its standby flushed last, as long as the standby is away
/// (`walsender.c`, `PhysicalConfirmReceivedLocation`; manual, section 27.2.6).
pub fn a_slot_stays_where_its_standby_left(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.use_slot("b", "a");
    s.put_local("a", 1);
    s.await_that("the slot is used", |s| s.slot("a", "b").user.is_some());
    s.caught_up("a", "b");
    let left = s.flushed("a");
    s.await_that("the slot follows", |s| s.slot("a", "b").restart == left);
    s.kill("b");
    s.await_that("the slot is free", |s| s.slot("a", "b").user.is_none());
    s.put_local("a", 2);
    s.checkpoint("a");
    assert_eq!(s.slot("a", "b").restart, left);

    s.start("b").unwrap();
    s.shows("b", &[1, 2]);
    s.await_that("the slot moves on", |s| s.slot("a", "b").restart > left);
}

/// WAL that a standby still needs is kept by its slot; without one it is removed, and the standby
/// can not go on (`xlog.c`, `KeepLogSeg`; `walsender.c`: "requested WAL segment has already been
/// removed").
pub fn a_slot_keeps_wal_for_a_standby_that_is_away(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.use_slot("b", "a");
    s.await_that("the slot is used", |s| s.slot("a", "b").user.is_some());
    s.keep_no_wal("a");
    s.kill("b");
    s.kill("c");
    s.fill("a", 1000..4000);
    s.checkpoint("a");
    s.checkpoint("a");
    s.put("a", 1);
    s.start("b").unwrap();
    s.await_that("b has all", |s| s.rows("b").contains(&1));
    s.caught_up("a", "b");
    s.checkpoint("a");
    s.start("c").unwrap();
    s.stays("c gets nothing", |s| s.rows("c").is_empty());
}
