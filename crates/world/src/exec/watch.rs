//! The watch channel of the simulated runtime.
//!
//! Unlike `crate::watch` it counts its receivers and lets several borrow the value at once, as
//! openraft's trait demands. Those who wait are woken in the order in which they began to wait.

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

use openraft_rt::watch::{RecvError, SendError, Watch};
use openraft_rt::{OptionalSend, OptionalSync};

#[derive(Debug, Default)]
struct Ends {
    /// Grows with every change.
    version: u64,
    senders: usize,
    receivers: usize,
    last_place: u64,
    /// Who waits, oldest first.
    waiting: Vec<(u64, Waker)>,
}

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    ends: Mutex<Ends>,
}

impl<T> Shared<T> {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn borrow(&self) -> SimWatchRef<'_, T> {
        SimWatchRef(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes all who wait. None of them is polled before the caller waits.
    fn wake(&self) {
        let waiting = std::mem::take(&mut self.ends().waiting);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

/// The value, as long as this is held. To change it meanwhile would never end: it panics.
#[derive(Debug)]
pub struct SimWatchRef<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for SimWatchRef<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Watch channels.
#[derive(Debug)]
pub struct SimWatch;

/// Publishes a value.
#[derive(Debug)]
pub struct WatchSender<T>(Arc<Shared<T>>);

/// Follows a value. A clone has seen what the original has seen.
#[derive(Debug)]
pub struct WatchReceiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> Self {
        self.0.ends().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for WatchSender<T> {
    fn drop(&mut self) {
        let left = {
            let mut ends = self.0.ends();
            ends.senders -= 1;
            ends.senders
        };
        if left == 0 {
            self.0.wake();
        }
    }
}

impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> Self {
        self.shared.ends().receivers += 1;
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for WatchReceiver<T> {
    fn drop(&mut self) {
        self.shared.ends().receivers -= 1;
    }
}

impl Watch for SimWatch {
    type Sender<T: OptionalSend + OptionalSync> = WatchSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = WatchReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = SimWatchRef<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (WatchSender<T>, WatchReceiver<T>) {
        let ends = Ends { senders: 1, receivers: 1, ..Ends::default() };
        let shared = Arc::new(Shared { value: RwLock::new(init), ends: Mutex::new(ends) });
        (WatchSender(shared.clone()), WatchReceiver { shared, seen: 0 })
    }
}

impl<T: OptionalSend + OptionalSync> openraft_rt::WatchSender<SimWatch, T> for WatchSender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.ends().receivers == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = {
            // One thread: a lock that is taken is held by the caller, and would never be free.
            let mut value = match self.0.value.try_write() {
                Ok(value) => value,
                Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(std::sync::TryLockError::WouldBlock) => {
                    panic!("a watched value is changed while it is borrowed")
                }
            };
            modify(&mut value)
        };
        if modified {
            self.0.ends().version += 1;
            self.0.wake();
        }
        modified
    }

    fn borrow_watched(&self) -> SimWatchRef<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> WatchReceiver<T> {
        let seen = {
            let mut ends = self.0.ends();
            ends.receivers += 1;
            ends.version
        };
        WatchReceiver { shared: self.0.clone(), seen }
    }
}

/// A place among those who wait, left when it is dropped.
struct Place<'a, T> {
    shared: &'a Shared<T>,
    number: Option<u64>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.ends().waiting.retain(|(waiting, _)| *waiting != number);
        }
    }
}

impl<T: OptionalSend + OptionalSync> openraft_rt::WatchReceiver<SimWatch, T> for WatchReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let mut place = Place { shared: &self.shared, number: None };
        let seen = &mut self.seen;
        poll_fn(|cx| {
            let mut ends = place.shared.ends();
            if ends.version != *seen {
                *seen = ends.version;
                return Poll::Ready(Ok(()));
            }
            if ends.senders == 0 {
                return Poll::Ready(Err(RecvError(())));
            }
            let number = *place.number.get_or_insert_with(|| {
                ends.last_place += 1;
                ends.last_place
            });
            let waker = cx.waker().clone();
            match ends.waiting.iter_mut().find(|(waiting, _)| *waiting == number) {
                Some((_, waiting)) => *waiting = waker,
                None => ends.waiting.push((number, waker)),
            }
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> SimWatchRef<'_, T> {
        self.shared.borrow()
    }

    fn borrow_and_update(&mut self) -> SimWatchRef<'_, T> {
        self.seen = self.shared.ends().version;
        self.shared.borrow()
    }
}
