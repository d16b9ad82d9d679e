//! The Raft log and vote on a key-value engine.
//!
//! Owns the keys of the log and the order of its writes. The rules, each of which a crash test
//! holds:
//! - writes reach the engine in the order in which openraft asks for them, and the engine keeps
//!   that order, so a crash leaves a prefix;
//! - a vote is on disk before `save_vote` returns, entries are before their callback is called;
//! - truncation, purge and the committed position ride unsynced before the next synced write:
//!   losing them repeats work, and never shows an entry that a later synced write replaced;
//! - nothing here waits for a disk on the task of the Raft core: only the engine's writer does.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, Range, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::async_runtime::{Oneshot, OneshotSender};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{AsyncRuntime, LogState, OptionalSend, RaftLogReader};

use super::append_monitor::AppendMonitor;
use super::kv::{Batch, Error, KvEngine, Space};
use super::log_tail::{LogTail, next};
use super::record;
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::domain::mutant::{Mutant, without};

pub(super) const VOTE: &[u8] = b"vote";
pub(super) const COMMITTED: &[u8] = b"committed";
pub(super) const PURGED: &[u8] = b"purged";

/// Bound of one read for replication, so that a message stays small: it ends after the entry that
/// passes it.
const READ_BYTES_MAX: usize = 1 << 20;

struct Shared<RT: AsyncRuntime> {
    engine: Arc<dyn KvEngine>,
    tail: Mutex<LogTail>,
    writes: AtomicU64,
    monitor: Arc<AppendMonitor<RT>>,
}

/// The log. Clones are handles of one log.
pub struct LogStore<RT: AsyncRuntime>(Arc<Shared<RT>>);

impl<RT: AsyncRuntime> Clone for LogStore<RT> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// Writes `batch` with a sync and waits for it.
pub(super) async fn write_synced<RT: AsyncRuntime>(
    engine: &dyn KvEngine,
    batch: Batch,
) -> Result<(), Error> {
    submit_synced::<RT>(engine, batch).await.unwrap_or(Err(Error::Closed))
}

/// Queues `batch` with a sync at once; the future tells when it is done.
pub(super) fn submit_synced<RT: AsyncRuntime>(
    engine: &dyn KvEngine,
    batch: Batch,
) -> <RT::Oneshot as Oneshot>::Receiver<Result<(), Error>> {
    let (tx, rx) = <RT::Oneshot as Oneshot>::channel();
    engine.submit(
        batch,
        true,
        Box::new(move |result| {
            // Nobody waits any more where the core has stopped.
            let _ = tx.send(result);
        }),
    );
    rx
}

impl<RT: AsyncRuntime> LogStore<RT> {
    /// Opens the log on `engine`. It reads and checks every entry, so that damage stops the node
    /// at its start and not in the middle of an election.
    pub fn open(engine: Arc<dyn KvEngine>) -> Result<Self, Error> {
        Self::load(engine, false)
    }

    /// The same for openraft's test suite, whose logs begin with any index. A real one begins with
    /// the first membership, index 0: where that is missing and was not purged, the store is
    /// damaged.
    pub fn open_for_suite(engine: Arc<dyn KvEngine>) -> Result<Self, Error> {
        Self::load(engine, true)
    }

    fn load(engine: Arc<dyn KvEngine>, anywhere: bool) -> Result<Self, Error> {
        let purged: Option<LogId> = record::get(&*engine, Space::Meta, PURGED)?;
        let mut held: Option<(LogId, LogId)> = None;
        let mut problem = None;
        engine.range(Space::Log, &[], None, &mut |raw_key, raw| match record::decode::<Entry>(
            Space::Log,
            raw_key,
            raw,
        ) {
            Ok(Entry { log_id, .. }) => {
                let follows = held.map_or_else(
                    || log_id.index == next(purged) || (anywhere && purged.is_none()),
                    |(_, last)| log_id.index == last.index + 1,
                );
                if !follows || raw_key != key(log_id.index) {
                    problem = Some(hole(held.map_or(next(purged), |(_, last)| last.index)));
                    return ControlFlow::Break(());
                }
                held = Some((held.map_or(log_id, |(first, _)| first), log_id));
                ControlFlow::Continue(())
            }
            Err(e) => {
                problem = Some(e);
                ControlFlow::Break(())
            }
        })?;
        if let Some(e) = problem {
            return Err(e);
        }
        let mut tail = LogTail::new(purged, held);
        if anywhere {
            tail = tail.begin_anywhere();
        }
        tail.vote = record::get(&*engine, Space::Meta, VOTE)?;
        tail.committed = record::get(&*engine, Space::Meta, COMMITTED)?;
        Ok(Self(Arc::new(Shared {
            engine,
            tail: Mutex::new(tail),
            writes: AtomicU64::new(0),
            monitor: Arc::default(),
        })))
    }

    /// `true` where neither a vote nor an entry was ever stored.
    pub fn is_empty(&self) -> bool {
        let tail = self.tail();
        tail.vote.is_none() && tail.last().is_none()
    }

    /// `true` where an entry of an elected leader was stored: more than the first membership, which
    /// a founder writes for itself with index 0.
    pub fn is_established(&self) -> bool {
        self.tail().last().is_some_and(|last| last.index > 0)
    }

    /// Checks that the vote is there: an entry of a term is taken only after that term's vote is on
    /// disk. A store that has lost its vote would vote a second time.
    pub fn check_vote(&self) -> Result<(), Error> {
        let tail = self.tail();
        let voted = tail.vote.map_or(0, |vote| vote.leader_id.term);
        match tail.last().filter(|last| last.leader_id.term > voted) {
            None => Ok(()),
            Some(last) => Err(Error::Corrupt {
                what: "vote".to_owned(),
                reason: format!("it is older than entry {}", last.index),
            }),
        }
    }

    /// The last entry that is gone from the log because a snapshot covers it.
    pub fn purged(&self) -> Option<LogId> {
        self.tail().purged()
    }

    /// The measure of appends.
    pub fn monitor(&self) -> Arc<AppendMonitor<RT>> {
        self.0.monitor.clone()
    }

    fn tail(&self) -> MutexGuard<'_, LogTail> {
        self.0.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a batch that no one waits for. A failure shows at the next write that someone does.
    fn submit_unsynced(&self, batch: Batch) {
        self.0.engine.submit(batch, false, Box::new(|_| {}));
    }

    /// The held entries of `range`, in order and without a hole: all of them, or where they exceed
    /// `bytes_max` as many as reach it.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, Error> {
        let (wanted, on_disk, from_memory) = {
            let tail = self.tail();
            let held = tail.held();
            let wanted = range.start.max(held.start)..range.end.min(held.end);
            let (on_disk, from_memory) = tail.read(wanted.clone());
            (wanted, on_disk, from_memory)
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut problem = None;
        if !on_disk.is_empty() {
            let (from, to) = (key(on_disk.start), key(on_disk.end));
            self.0.engine.range(Space::Log, &from, Some(&to), &mut |raw_key, raw| {
                match record::decode::<Entry>(Space::Log, raw_key, raw) {
                    Ok(entry) => entries.push(entry),
                    Err(e) => problem = Some(e),
                }
                bytes += raw.len();
                if problem.is_some() || bytes >= bytes_max {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
        }
        if let Some(e) = problem {
            return Err(e);
        }
        for (entry, size) in from_memory {
            if bytes >= bytes_max {
                break;
            }
            bytes += size;
            entries.push(entry);
        }
        // A purge or a truncation may have run since the bounds were taken: entries that are gone
        // by now may be missing at either end, all others must be here.
        let held = self.tail().held();
        let start = wanted.start.max(held.start);
        let end = if bytes < bytes_max { wanted.end.min(held.end) } else { start };
        entries.retain(|e| e.log_id.index >= start);
        let whole = (start..).zip(&entries).all(|(index, e)| e.log_id.index == index);
        if !whole || start + (entries.len() as u64) < end {
            return Err(hole(start));
        }
        Ok(entries)
    }
}

fn hole(near: u64) -> Error {
    Error::Corrupt {
        what: "log".to_owned(),
        reason: format!("there is a hole at or after entry {near}"),
    }
}

/// `range` as a half-open one.
fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(i) => i.saturating_add(1),
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl<RT: AsyncRuntime> RaftLogReader<TypeConfig<RT>> for LogStore<RT> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(half_open(&range), usize::MAX)?)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(start..end, READ_BYTES_MAX)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.tail().vote)
    }
}

impl<RT: AsyncRuntime> RaftLogStorage<TypeConfig<RT>> for LogStore<RT> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig<RT>>, io::Error> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.purged(), last_log_id: tail.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut batch = Batch::new();
        record::put(&mut batch, Space::Meta, VOTE, vote)?;
        if without(Mutant::VoteNotSynced) {
            self.submit_unsynced(batch);
        } else {
            write_synced::<RT>(&*self.0.engine, batch).await?;
        }
        self.tail().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut batch = Batch::new();
        match &committed {
            Some(id) => record::put(&mut batch, Space::Meta, COMMITTED, id)?,
            None => batch.delete(Space::Meta, COMMITTED),
        }
        self.tail().committed = committed;
        self.submit_unsynced(batch);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.tail().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig<RT>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let number = self.0.writes.fetch_add(1, Ordering::Relaxed) + 1;
        let mut batch = Batch::new();
        for entry in entries {
            let index = key(entry.log_id.index);
            let value = record::seal(Space::Log, &index, &record::encode(&entry)?);
            self.tail().append(entry, value.len(), number).map_err(io::Error::other)?;
            batch.put(Space::Log, index, value);
        }
        self.0.monitor.begin(number);
        let shared = self.0.clone();
        // The tail is not locked here: the engine may call back at once.
        self.0.engine.submit(
            batch,
            !without(Mutant::AppendNotSynced),
            Box::new(move |result| {
                // An append that failed stays in flight: the watchdog may see it as stuck.
                if result.is_ok() {
                    shared.tail.lock().unwrap_or_else(PoisonError::into_inner).done(number);
                    shared.monitor.end(number);
                }
                callback.io_completed(result.map_err(io::Error::from));
            }),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let gone = self.tail().truncate_after(last_log_id);
        let mut batch = Batch::new();
        for index in gone {
            batch.delete(Space::Log, key(index));
        }
        self.submit_unsynced(batch);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let (gone, purged) = {
            let mut tail = self.tail();
            (tail.purge(log_id), tail.purged())
        };
        let mut batch = Batch::new();
        if let Some(purged) = purged {
            record::put(&mut batch, Space::Meta, PURGED, &purged)?;
        }
        for index in gone {
            batch.delete(Space::Log, key(index));
        }
        self.submit_unsynced(batch);
        Ok(())
    }
}
