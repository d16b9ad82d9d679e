//! What clients were told about the rows that they wrote.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What became of a row, as far as its client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The commit was acknowledged, without any notice.
    Acknowledged {
        /// By which epoch: the timeline of the server that answered.
        epoch: u64,
        /// By whom: the server's `cluster_name`.
        server: String,
    },
    /// The server refused it, or it was never sent: it is not there.
    Refused(String),
    /// It was sent and no clear answer came. It may be there or not.
    Unknown(String),
}

/// One row.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its identity.
    pub id: i64,
    /// When it was begun: before it was sent.
    pub begun: Instant,
    /// When the answer was there.
    pub ended: Instant,
    /// The answer.
    pub outcome: Outcome,
}

impl Entry {
    fn epoch(&self) -> Option<u64> {
        match &self.outcome {
            Outcome::Acknowledged { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }
}

/// All rows of all writers of a cluster.
#[derive(Default)]
pub struct Journal {
    entries: Mutex<Vec<Entry>>,
    next: AtomicI64,
    /// How many writers write now.
    pub(super) writers: AtomicUsize,
}

impl Journal {
    /// A number that no row has had.
    pub fn next_id(&self) -> i64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes what became of a row.
    pub fn note(&self, entry: Entry) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// Everything so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many rows were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.entries().iter().filter(|e| e.epoch().is_some()).count()
    }

    /// Of how many rows nothing is known.
    pub fn unknown(&self) -> usize {
        self.entries().iter().filter(|e| matches!(e.outcome, Outcome::Unknown(_))).count()
    }

    /// The highest epoch that acknowledged a row.
    pub fn latest_epoch(&self) -> u64 {
        self.entries().iter().filter_map(Entry::epoch).max().unwrap_or(0)
    }

    /// When the first row of an epoch above `epoch` was acknowledged.
    pub fn first_above(&self, epoch: u64) -> Option<Instant> {
        self.entries()
            .iter()
            .filter(|e| e.epoch().is_some_and(|x| x > epoch))
            .map(|e| e.ended)
            .min()
    }

    /// The longest time since `since` in which no row was acknowledged.
    pub fn longest_outage(&self, since: Instant) -> Duration {
        let entries = self.entries();
        let mut times: Vec<Instant> =
            entries.iter().filter(|e| e.epoch().is_some()).map(|e| e.ended).collect();
        times.retain(|t| *t >= since);
        times.push(since);
        times.sort();
        times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default()
    }

    /// Whether two servers acknowledged writes at one time. Looks for a row of an epoch that was
    /// begun after a newer epoch had acknowledged one; rows that were on their way when the newer
    /// one began may end later. Also no two servers may ever acknowledge rows of one epoch.
    pub fn second_writer(&self) -> Option<String> {
        let mut entries = self.entries();
        entries.retain(|e| e.epoch().is_some());
        let mut first: BTreeMap<u64, &Entry> = BTreeMap::new();
        let mut servers: BTreeMap<u64, &str> = BTreeMap::new();
        for entry in &entries {
            let Outcome::Acknowledged { epoch, server } = &entry.outcome else { continue };
            let holder = servers.entry(*epoch).or_insert(server);
            if *holder != server {
                return Some(format!("epoch {epoch} was written by {holder} and by {server}"));
            }
            let earliest = first.entry(*epoch).or_insert(entry);
            if entry.ended < earliest.ended {
                *earliest = entry;
            }
        }
        for entry in &entries {
            let newer = first.iter().filter(|(e, _)| Some(**e) > entry.epoch());
            if let Some((_, newer)) = newer.min_by_key(|(_, f)| f.ended)
                && entry.begun > newer.ended
            {
                let late = entry.begun - newer.ended;
                return Some(format!(
                    "{entry:?} was begun {} ms after {newer:?} was acknowledged",
                    late.as_millis()
                ));
            }
        }
        None
    }
}
