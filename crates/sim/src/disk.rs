//! The disk under a Raft store.
//!
//! Owns [`Disk`], which outlives processes and machines, and [`Engine`], the key-value engine that
//! one process has open on it. What RocksDB promises holds here too, and nothing more:
//! - one writer takes everything that waits, writes it, syncs once where anybody asked for that,
//!   and reports; nothing is readable before;
//! - a process that dies loses what was not written; what was written lies in the system's cache,
//!   and the next process finds it, and syncs it before it answers (recovery writes tables out);
//! - a machine that dies keeps a prefix of what no sync has covered;
//! - after an error every later write fails, and nobody knows how much of the last one is there.
//!
//! Beyond the promise, for experiments that must be told apart: a disk that reports a sync which it
//! did not do ([`Disk::lie`]), and one that keeps a part of a batch ([`Disk::tear`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_world::exec::Stream;
use tokio::sync::Notify;

use crate::Rt;
use crate::raft::AsyncRuntime as _;
use crate::raft::kv::{Batch, Done, Error, KvEngine, Pair, Space, Visit, Write};
use crate::raft::kv_mem::{last_pair, pairs};

/// Bound of one group of writes, as in production.
const GROUP_JOBS_MAX: usize = 256;

type Value = Arc<Vec<u8>>;
type Image = BTreeMap<(Space, Vec<u8>), Value>;

/// One change, with a value that images share.
type Put = ((Space, Vec<u8>), Option<Value>);

/// How fast a disk is, in microseconds: each duration is drawn between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    /// To write a group.
    pub write_us: (u64, u64),
    /// To sync it.
    pub sync_us: (u64, u64),
    /// To open the store.
    pub open_us: (u64, u64),
}

impl Default for Speed {
    /// A solid-state disk.
    fn default() -> Self {
        Self { write_us: (10, 60), sync_us: (200, 2_500), open_us: (5_000, 40_000) }
    }
}

struct Inner {
    rng: Stream,
    speed: Speed,
    durable: Image,
    /// Written, and not synced: in the system's cache.
    dirty: Vec<Vec<Put>>,
    /// A sync takes this long at least.
    slowness: Duration,
    stuck: bool,
    failing: bool,
    lying: bool,
    tearing: bool,
    /// Which process has it open.
    holder: Option<u64>,
    opened: u64,
}

/// A disk. Clones are handles of one disk.
#[derive(Clone)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
    released: Arc<Notify>,
}

fn apply(image: &mut Image, puts: &[Put]) {
    for (key, value) in puts {
        match value {
            Some(value) => _ = image.insert(key.clone(), value.clone()),
            None => _ = image.remove(key),
        }
    }
}

/// What a disk is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Write,
    Sync,
    Open,
}

fn io(text: &str) -> Error {
    Error::Io(text.to_owned())
}

impl Disk {
    /// An empty disk, whose durations and losses are drawn from `rng`.
    pub fn new(rng: Stream, speed: Speed) -> Self {
        let inner = Inner {
            rng,
            speed,
            durable: Image::new(),
            dirty: Vec::new(),
            slowness: Duration::ZERO,
            stuck: false,
            failing: false,
            lying: false,
            tearing: false,
            holder: None,
            opened: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)), released: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- faults ----

    /// Makes each sync take so long at least; zero ends it.
    pub fn slow(&self, sync: Duration) {
        self.lock().slowness = sync;
    }

    /// While this is so, nothing ends: neither a write nor a sync nor an opening.
    pub fn stick(&self, stuck: bool) {
        self.lock().stuck = stuck;
        if !stuck {
            self.released.notify_waiters();
        }
    }

    /// While this is so, every write, sync and opening fails.
    pub fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// While this is so, syncs are reported and not done. Beyond what the product promises to
    /// bear.
    pub fn lie(&self, lying: bool) {
        self.lock().lying = lying;
    }

    /// While this is so, a crash of the machine may keep a part of a batch. Beyond what the product
    /// promises to bear.
    pub fn tear(&self, tearing: bool) {
        self.lock().tearing = tearing;
    }

    /// The process that had the disk open is gone. Call it after its tasks were dropped.
    pub fn process_died(&self) {
        self.lock().holder = None;
    }

    /// The machine has lost its power: of what was not synced a prefix is left, as drawn. Call it
    /// after the tasks of the process were dropped. Returns how many batches were kept, and how
    /// many lost.
    pub fn machine_died(&self) -> (usize, usize) {
        let mut inner = self.lock();
        inner.holder = None;
        let dirty = std::mem::take(&mut inner.dirty);
        let keep = inner.rng.below(dirty.len() as u64 + 1) as usize;
        let Inner { rng, durable, tearing, .. } = &mut *inner;
        for (number, batch) in dirty.iter().enumerate() {
            if number < keep {
                apply(durable, batch);
            } else if *tearing && number == keep && !batch.is_empty() {
                let part = rng.below(batch.len() as u64) as usize;
                apply(durable, &batch[..part]);
            }
        }
        (keep, dirty.len() - keep)
    }

    /// Everything on the disk is gone, as after its replacement.
    pub fn wipe(&self) {
        let mut inner = self.lock();
        inner.durable.clear();
        inner.dirty.clear();
    }

    /// Whether nothing was ever written, or everything was wiped.
    pub fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.durable.is_empty() && inner.dirty.is_empty()
    }

    // ---- work ----

    /// Waits as long as this takes, and while the disk is stuck.
    async fn work(&self, work: Work) {
        let takes = {
            let mut inner = self.lock();
            let (least, most) = match work {
                Work::Write => inner.speed.write_us,
                Work::Sync => inner.speed.sync_us,
                Work::Open => inner.speed.open_us,
            };
            let drawn = Duration::from_micros(inner.rng.between(least, most.max(least)));
            if work == Work::Sync { drawn.max(inner.slowness) } else { drawn }
        };
        Rt::sleep(takes).await;
        loop {
            // Made before the look, so that a release in between is not missed.
            let released = self.released.notified();
            if !self.lock().stuck {
                return;
            }
            released.await;
        }
    }

    /// Opens the store for the process whose task calls this, and starts its writer.
    ///
    /// # Errors
    /// The disk fails, or another process has it open.
    pub async fn open(&self) -> Result<Arc<Engine>, Error> {
        let error =
            |reason: &str| Error::Open { path: "raft".to_owned(), reason: reason.to_owned() };
        let number = {
            let mut inner = self.lock();
            if inner.holder.is_some() {
                return Err(error("another process has it open"));
            }
            inner.opened += 1;
            inner.holder = Some(inner.opened);
            inner.opened
        };
        let held = Held { disk: self.clone(), number };
        self.work(Work::Open).await;
        self.work(Work::Sync).await;
        let readable = {
            let mut inner = self.lock();
            if inner.failing {
                return Err(error("input/output error"));
            }
            // What was found in the log is written out, and synced, before anything is answered.
            if !inner.lying {
                inner.sync();
                inner.durable.clone()
            } else {
                let mut readable = inner.durable.clone();
                inner.dirty.iter().for_each(|batch| apply(&mut readable, batch));
                readable
            }
        };
        let state = State { queue: VecDeque::new(), readable, closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), submitted: Notify::new() });
        drop(Rt::spawn(write(shared.clone(), held)));
        Ok(Arc::new(Engine(shared)))
    }

    /// Whether a process has it open.
    pub fn is_open(&self) -> bool {
        self.lock().holder.is_some()
    }
}

impl Inner {
    fn sync(&mut self) {
        for batch in std::mem::take(&mut self.dirty) {
            apply(&mut self.durable, &batch);
        }
    }
}

/// The lock on the store.
struct Held {
    disk: Disk,
    number: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inner = self.disk.lock();
        if inner.holder == Some(self.number) {
            inner.holder = None;
        }
    }
}

struct Job {
    puts: Vec<Put>,
    sync: bool,
    done: Done,
}

struct State {
    queue: VecDeque<Job>,
    readable: Image,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    submitted: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a process has open. Dropping it does what waits, and lets go of the disk.
pub struct Engine(Arc<Shared>);

impl Drop for Engine {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.submitted.notify_one();
    }
}

/// A group on its way to the disk. A process that dies in the middle of it leaves a prefix.
struct InFlight<'a> {
    disk: &'a Disk,
    batches: Vec<Vec<Put>>,
    written: bool,
}

impl InFlight<'_> {
    fn written(&mut self) {
        self.written = true;
        self.disk.lock().dirty.append(&mut self.batches);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.written {
            let mut inner = self.disk.lock();
            let keep = inner.rng.below(self.batches.len() as u64 + 1) as usize;
            inner.dirty.extend(self.batches.drain(..).take(keep));
        }
    }
}

/// The writer: it ends once the engine is closed and everything that waited is done.
async fn write(shared: Arc<Shared>, held: Held) {
    let mut failed: Option<Error> = None;
    loop {
        let (group, closed) = {
            let mut state = shared.lock();
            let count = state.queue.len().min(GROUP_JOBS_MAX);
            (state.queue.drain(..count).collect::<Vec<Job>>(), state.closed)
        };
        if group.is_empty() {
            if closed {
                return;
            }
            shared.submitted.notified().await;
            continue;
        }
        if failed.is_none() {
            let batches = group.iter().map(|job| job.puts.clone()).collect();
            let sync = group.iter().any(|job| job.sync);
            failed = carry_out(&held.disk, batches, sync).await.err();
        }
        if failed.is_none() {
            let mut state = shared.lock();
            group.iter().for_each(|job| apply(&mut state.readable, &job.puts));
        }
        // Outside the lock: the receiver may read, or write again.
        for job in group {
            (job.done)(failed.clone().map_or(Ok(()), Err));
        }
    }
}

async fn carry_out(disk: &Disk, batches: Vec<Vec<Put>>, sync: bool) -> Result<(), Error> {
    let group = batches.len();
    let mut in_flight = InFlight { disk, batches, written: false };
    disk.work(Work::Write).await;
    if disk.lock().failing {
        return Err(io("write: input/output error"));
    }
    in_flight.written();
    if !sync {
        return Ok(());
    }
    disk.work(Work::Sync).await;
    let mut inner = disk.lock();
    if inner.failing {
        // The system may have dropped any end of what it was to write.
        let whole = inner.dirty.len();
        let lost = inner.rng.below(whole.min(group) as u64 + 1) as usize;
        inner.dirty.truncate(whole - lost);
        return Err(io("sync: input/output error"));
    }
    if !inner.lying {
        inner.sync();
    }
    Ok(())
}

impl KvEngine for Engine {
    fn submit(&self, batch: Batch, sync: bool, done: Done) {
        let put = |write: &Write| match write {
            Write::Put(space, key, value) => ((*space, key.clone()), Some(Arc::new(value.clone()))),
            Write::Delete(space, key) => ((*space, key.clone()), None),
        };
        let puts = batch.writes().iter().map(put).collect();
        self.0.lock().queue.push_back(Job { puts, sync, done });
        self.0.submitted.notify_one();
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let state = self.0.lock();
        Ok(state.readable.get(&(space, key.to_vec())).map(|value| value.to_vec()))
    }

    fn range(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let found = pairs(&self.0.lock().readable, space, from, to);
        for (key, value) in &found {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, space: Space) -> Result<Option<Pair>, Error> {
        let state = self.0.lock();
        Ok(last_pair(&state.readable, space).map(|(key, value)| (key.clone(), value.to_vec())))
    }
}
