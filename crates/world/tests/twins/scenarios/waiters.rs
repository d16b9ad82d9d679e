//! Who releases a commit that waits for standbys.

use crate::servers::{Outcome, Play, Process};

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
