//! The key-value engine in memory: for the simulator and for tests.
//!
//! Owns [`KvMem`]: a durable image, what is readable, and the ordered list of writes that no sync
//! has covered, so that a crash can lose any suffix of them. It reads no clock: whoever made it
//! with [`KvMem::queued`] decides when each write happens.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kv::{Batch, Done, Error, KvEngine, Pair, Space, Visit, Write};

type Image = BTreeMap<(Space, Vec<u8>), Vec<u8>>;

struct Queued {
    batch: Batch,
    sync: bool,
    done: Done,
}

#[derive(Default)]
struct Inner {
    durable: Image,
    readable: Image,
    unsynced: Vec<Batch>,
    queue: VecDeque<Queued>,
    failed: Option<Error>,
}

/// The engine in memory. Clones are handles of one database.
#[derive(Clone)]
pub struct KvMem {
    inner: Arc<Mutex<Inner>>,
    on_submit: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Default for KvMem {
    fn default() -> Self {
        Self::new()
    }
}

impl KvMem {
    /// An empty database that does every write at once, inside `submit`.
    pub fn new() -> Self {
        Self { inner: Arc::default(), on_submit: None }
    }

    /// An empty database that does nothing until [`step`](Self::step) is called. `on_submit` is
    /// called after each submission, so that the simulator can schedule a step.
    pub fn queued(on_submit: impl Fn() + Send + Sync + 'static) -> Self {
        Self { inner: Arc::default(), on_submit: Some(Arc::new(on_submit)) }
    }

    /// The same data behind another hook; see [`queued`](Self::queued).
    pub fn with_hook(self, on_submit: impl Fn() + Send + Sync + 'static) -> Self {
        Self { on_submit: Some(Arc::new(on_submit)), ..self }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the oldest write that waits, and reports it. `false` where none waits.
    pub fn step(&self) -> bool {
        let (done, result) = {
            let mut inner = self.lock();
            let Some(Queued { batch, sync, done }) = inner.queue.pop_front() else {
                return false;
            };
            let result = match inner.failed.clone() {
                Some(e) => Err(e),
                None => {
                    apply(&mut inner.readable, &batch);
                    inner.unsynced.push(batch);
                    if sync {
                        inner.durable = inner.readable.clone();
                        inner.unsynced.clear();
                    }
                    Ok(())
                }
            };
            (done, result)
        };
        // Outside the lock: the receiver may read, or write again.
        done(result);
        true
    }

    /// How many writes wait for a step.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// How many writes a crash can lose: done without a sync after them, or waiting.
    pub fn losable(&self) -> usize {
        let inner = self.lock();
        inner.unsynced.len() + inner.queue.len()
    }

    /// Makes every write from now on fail with `error`.
    pub fn fail(&self, error: Error) {
        self.lock().failed = Some(error);
    }

    /// What a crash leaves: the durable image and the first `keep` of the writes that no sync has
    /// covered. The reports of the rest are dropped, and this handle is not to be used any more.
    pub fn crash(&self, keep: usize) -> KvMem {
        let mut inner = self.lock();
        let mut image = std::mem::take(&mut inner.durable);
        let unsynced = std::mem::take(&mut inner.unsynced);
        let queue = std::mem::take(&mut inner.queue);
        inner.failed = Some(Error::Closed);
        inner.readable.clear();
        for batch in unsynced.iter().chain(queue.iter().map(|q| &q.batch)).take(keep) {
            apply(&mut image, batch);
        }
        let inner = Inner { readable: image.clone(), durable: image, ..Inner::default() };
        KvMem { inner: Arc::new(Mutex::new(inner)), on_submit: None }
    }

    /// Flips one bit of a value, as a bad disk would. `false` where the key does not exist.
    pub fn flip_bit(&self, space: Space, key: &[u8], bit: usize) -> bool {
        let mut inner = self.lock();
        let Inner { durable, readable, .. } = &mut *inner;
        let mut flipped = false;
        for image in [durable, readable] {
            if let Some(byte) =
                image.get_mut(&(space, key.to_vec())).and_then(|value| value.get_mut(bit / 8))
            {
                *byte ^= 1 << (bit % 8);
                flipped = true;
            }
        }
        flipped
    }
}

fn apply(image: &mut Image, batch: &Batch) {
    for write in batch.writes() {
        match write {
            Write::Put(space, key, value) => {
                image.insert((*space, key.clone()), value.clone());
            }
            Write::Delete(space, key) => {
                image.remove(&(*space, key.clone()));
            }
        }
    }
}

/// The keys of `space` in `from..to`, with their values, in order.
pub fn pairs<V: Clone>(
    image: &BTreeMap<(Space, Vec<u8>), V>,
    space: Space,
    from: &[u8],
    to: Option<&[u8]>,
) -> Vec<(Vec<u8>, V)> {
    if to.is_some_and(|to| to <= from) {
        return Vec::new();
    }
    let start = Bound::Included((space, from.to_vec()));
    image
        .range((start, Bound::Unbounded))
        .take_while(|((s, key), _)| *s == space && to.is_none_or(|to| key.as_slice() < to))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect()
}

/// The greatest key of `space`, with its value.
pub fn last_pair<V>(image: &BTreeMap<(Space, Vec<u8>), V>, space: Space) -> Option<(&Vec<u8>, &V)> {
    // Spaces are in the order of their keys: the end of this one is before the next.
    let end = match space {
        Space::Meta => Bound::Excluded((Space::Log, Vec::new())),
        Space::Log => Bound::Excluded((Space::State, Vec::new())),
        Space::State => Bound::Unbounded,
    };
    let mut found = image.range((Bound::Included((space, Vec::new())), end));
    found.next_back().map(|((_, key), value)| (key, value))
}

impl KvEngine for KvMem {
    fn submit(&self, batch: Batch, sync: bool, done: Done) {
        self.lock().queue.push_back(Queued { batch, sync, done });
        match &self.on_submit {
            Some(hook) => hook(),
            None => while self.step() {},
        }
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.lock().readable.get(&(space, key.to_vec())).cloned())
    }

    fn range(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let found = pairs(&self.lock().readable, space, from, to);
        for (key, value) in &found {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, space: Space) -> Result<Option<Pair>, Error> {
        let inner = self.lock();
        Ok(last_pair(&inner.readable, space).map(|(key, value)| (key.clone(), value.clone())))
    }
}
