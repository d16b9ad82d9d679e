//! Who releases a commit that waits for standbys, and what a waiting commit is.

use crate::servers::{Commit, Outcome, Play, Process};

/// `ANY k`: the k-th newest flush position among the listed standbys releases; which of them it
/// is does not matter (`syncrep.c`, `SyncRepGetNthLatestSyncRecPtr`; manual, section 27.2.8.2).
pub fn any_k_releases_at_the_kth_newest_flush(s: &mut impl Play) {
    s.cluster(&["b", "c", "d"]);
    s.names("a", "ANY 2 (b, c, d)", &["b", "c", "d"]);
    s.freeze("b", Process::Receiver);
    s.freeze("c", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.caught_up("a", "d");
    s.stays("one of two flushes releases nobody", |s| s.waits(write));

    s.thaw("c", Process::Receiver);
    assert_eq!(s.answer(write), Outcome::Acknowledged);
    let frozen = s.sender("a", "b").flushed;
    assert!(frozen < s.sender("a", "c").flushed, "b has not flushed it");
}

/// `FIRST k`: the first k of the list that are connected have to flush; that a later one has
/// flushed does not help (`syncrep.c`, `SyncRepGetOldestSyncRecPtr`).
pub fn first_k_waits_for_the_first_of_the_list(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.names("a", "FIRST 1 (b, c)", &["b", "c"]);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.caught_up("a", "c");
    s.waits_on("a", write);
    s.thaw("b", Process::Receiver);
    assert_eq!(s.answer(write), Outcome::Acknowledged);
    // Nor does it hurt that a later one has not.
    s.freeze("c", Process::Receiver);
    s.put("a", 2);
    s.thaw("c", Process::Receiver);
}

/// `FIRST k`: when one of the first k is gone, the next of the list counts in its place (manual,
/// section 27.2.8.2).
pub fn first_k_takes_the_next_for_one_that_is_gone(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.names("a", "FIRST 1 (b, c)", &["b", "c"]);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.caught_up("a", "c");
    s.kill("b");
    assert_eq!(s.answer_with_traffic("a", write), Outcome::Acknowledged);
}

/// A walsender takes the number of standbys from its own configuration, and the members of the
/// list from what each walsender has put into shared memory. While one of them still has the old
/// list, neither the old nor the new list decides, but a mixture (`syncrep.c`,
/// `SyncRepGetCandidateStandbys`, `SyncRepInitConfig`).
pub fn a_walsender_with_the_old_list_counts_under_the_new_number(s: &mut impl Play) {
    s.cluster(&["b", "c", "d"]);
    s.names("a", "ANY 3 (b, c, d)", &["b", "c", "d"]);
    s.freeze("c", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.caught_up("a", "b");
    s.caught_up("a", "d");
    let old = s.sender("a", "b").id;
    s.freeze("a", Process::Sender(old));
    s.waits_on("a", write);

    // By the old list b, c, d would be needed; by the new one c and d. Only b and d have it.
    s.set_names("a", "ANY 2 (c, d)");
    assert_eq!(s.answer_with_traffic("a", write), Outcome::Acknowledged);
    assert!(s.sender("a", "b").listed, "b's walsender still has the old list");

    // Once all walsenders have the new list, it decides.
    s.thaw("a", Process::Sender(old));
    s.await_that("b is listed no more", |s| !s.sender("a", "b").listed);
    let write = s.put_waiting("a", 2);
    s.caught_up("a", "b");
    s.caught_up("a", "d");
    s.waits_on("a", write);
    s.thaw("c", Process::Receiver);
    assert_eq!(s.answer(write), Outcome::Acknowledged);
}

/// A new list by itself wakes nobody: waiters are looked at when a listed standby replies
/// (`syncrep.c`, `SyncRepReleaseWaiters`; `walsender.c`, `ProcessStandbyReplyMessage`).
pub fn a_new_list_takes_effect_with_the_next_reply(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.names("a", "FIRST 1 (b, c)", &["b", "c"]);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.caught_up("a", "c");
    // c's walsender is listed by the old list and by the new one. It hears nothing from c.
    s.freeze("c", Process::Receiver);
    s.names("a", "FIRST 1 (c)", &["c"]);
    s.waits_on("a", write);
    s.thaw("c", Process::Receiver);
    assert_eq!(s.answer_with_traffic("a", write), Outcome::Acknowledged);
}

/// An empty list releases all waiters at once (`syncrep.c`, `SyncRepUpdateSyncStandbysDefined`).
pub fn an_empty_list_releases_all(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.freeze("b", Process::Receiver);
    let one = s.put_waiting("a", 1);
    let two = s.put_waiting("a", 2);
    s.set_names("a", "");
    assert_eq!(s.answer(one), Outcome::Acknowledged);
    assert_eq!(s.answer(two), Outcome::Acknowledged);
    s.thaw("b", Process::Receiver);
}

/// Whether the list is empty is what the checkpointer last said: while it has not read the new
/// settings, commits do not wait for a list that is not empty any more, and clearing one releases
/// nobody (`syncrep.c`, `SyncRepWaitForLSN`, `SyncRepUpdateSyncStandbysDefined`;
/// `checkpointer.c`, `UpdateSharedMemoryConfig`).
pub fn the_checkpointer_says_whether_the_list_is_empty(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.freeze("a", Process::Checkpointer);
    s.freeze("b", Process::Receiver);
    s.set_names("a", "ANY 1 (b)");
    s.put("a", 1);
    s.thaw("a", Process::Checkpointer);
    let write = s.until("a commit waits", |s| {
        let write = s.insert("a", 2, Commit::On);
        s.until("it waits or ends", |s| match s.outcome(write) {
            Some(outcome) => {
                assert_eq!(outcome, Outcome::Acknowledged);
                Some(None)
            }
            None => s.waits(write).then_some(Some(write)),
        })
    });

    s.freeze("a", Process::Checkpointer);
    s.set_names("a", "");
    s.waits_on("a", write);
    s.thaw("a", Process::Checkpointer);
    assert_eq!(s.answer(write), Outcome::Acknowledged);
}

/// A wait that is cancelled ends with success and a warning: the commit stays, is visible, and may
/// be on no standby (`syncrep.c`, `SyncRepWaitForLSN`).
pub fn a_cancelled_wait_is_a_commit_with_a_warning(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    assert!(s.rows("a").is_empty());
    s.cancel(write);
    assert_eq!(s.answer(write), Outcome::Warned);
    s.shows("a", &[1]);

    // The standby's process never flushed it, and the primary is lost.
    s.kill("a");
    s.kill("b");
    s.follow("b", None);
    s.start("b").unwrap();
    s.promote("b");
    assert!(s.rows("b").is_empty(), "the standby never had it");
}

/// A wait that was released before its backend saw the cancellation is a success without a
/// warning (`syncrep.c`, `SyncRepWaitForLSN`: the state in shared memory is looked at first).
pub fn a_release_wins_over_a_cancellation(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.freeze("a", Process::Backend(write));
    s.cancel(write);
    s.thaw("b", Process::Receiver);
    s.shows("b", &[1]);
    s.caught_up("a", "b");
    assert!(s.rows("a").is_empty());
    s.thaw("a", Process::Backend(write));
    assert_eq!(s.answer(write), Outcome::Acknowledged);

    // And the other way round, where nobody releases it.
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 2);
    s.freeze("a", Process::Backend(write));
    s.cancel(write);
    s.stays("there is no answer yet", |s| s.outcome(write).is_none());
    s.thaw("a", Process::Backend(write));
    assert_eq!(s.answer(write), Outcome::Warned);
    s.thaw("b", Process::Receiver);
}

/// A backend that is terminated while it waits ends without an answer; its commit stays
/// (`syncrep.c`, `SyncRepWaitForLSN`: `ProcDiePending`).
pub fn a_terminated_wait_is_a_commit_without_an_answer(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.freeze("b", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.end("a", Process::Backend(write));
    assert_eq!(s.answer(write), Outcome::Lost);
    s.shows("a", &[1]);
    s.thaw("b", Process::Receiver);
    s.shows("b", &[1]);
}

/// A commit that waits is not visible on the primary, and is on a standby that has replayed it
/// (`xact.c`, `RecordTransactionCommit` waits before `ProcArrayEndTransaction`).
pub fn a_waiting_commit_shows_on_standbys_only(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.names("a", "ANY 2 (b, c)", &["b", "c"]);
    s.freeze("c", Process::Receiver);
    let write = s.put_waiting("a", 1);
    s.shows("b", &[1]);
    assert!(s.rows("a").is_empty());
    assert!(s.waits(write));
    s.thaw("c", Process::Receiver);
    assert_eq!(s.answer(write), Outcome::Acknowledged);
    s.shows("a", &[1]);
}

/// `synchronous_commit = local` waits for no standby (manual, section 20.5.1).
pub fn a_local_commit_waits_for_nobody(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.names("a", "ANY 1 (b)", &["b"]);
    s.freeze("b", Process::Receiver);
    s.put_local("a", 1);
    s.shows("a", &[1]);
    let write = s.put_waiting("a", 2);
    s.thaw("b", Process::Receiver);
    assert_eq!(s.answer(write), Outcome::Acknowledged);
}
