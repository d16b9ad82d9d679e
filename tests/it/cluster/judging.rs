//! The judges themselves: what they have to find, they find.

use std::time::{Duration, Instant};

use crate::support::{Entry, Journal, Outcome};

/// A journal of rows: when each was begun and ended, by which epoch of which server.
fn journal(rows: &[(u64, u64, u64, &str)]) -> (Journal, Instant) {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let journal = Journal::default();
    for (begun, ended, epoch, server) in rows {
        let outcome = Outcome::Acknowledged { epoch: *epoch, server: (*server).to_owned() };
        let id = journal.next_id();
        journal.note(Entry { id, begun: at(*begun), ended: at(*ended), outcome });
    }
    (journal, start)
}

#[test]
fn a_second_writer_is_found() {
    let fine = [(0, 10, 2, "a"), (10, 20, 2, "a"), (30, 40, 3, "b"), (50, 60, 4, "a")];
    assert_eq!(journal(&fine).0.second_writer(), None);
    // On its way when the next epoch began: it may have been acknowledged before that.
    let late = [(0, 10, 2, "a"), (10, 35, 2, "a"), (20, 30, 3, "b")];
    assert_eq!(journal(&late).0.second_writer(), None);
    let two = [(0, 10, 2, "a"), (20, 30, 3, "b"), (31, 40, 2, "a")];
    assert!(journal(&two).0.second_writer().is_some_and(|why| why.contains("was begun 1 ms")));
    let shared = [(0, 10, 3, "a"), (20, 30, 3, "b")];
    assert!(journal(&shared).0.second_writer().is_some_and(|why| why.contains("epoch 3")));
}

#[test]
fn outages_are_measured() {
    let (journal, start) = journal(&[(0, 10, 2, "a"), (10, 20, 2, "a"), (700, 710, 3, "b")]);
    assert_eq!(journal.longest_outage(start), Duration::from_millis(690));
    assert_eq!(journal.latest_epoch(), 3);
    assert_eq!(journal.first_above(2), Some(start + Duration::from_millis(710)));
    assert_eq!(journal.acknowledged(), 3);
}
