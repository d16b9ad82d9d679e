//! A value that changes, and those who follow it: on any runtime, and in a fixed order.
//!
//! Owns a watch channel with the interface of tokio's. tokio's wakes its receivers in a random
//! order, which a simulation could not repeat; this one wakes them in the order in which they began
//! to wait. Imports nothing of this crate.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// The side that publishes is gone: no further value will come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the publisher is gone")]
pub struct Closed;

#[derive(Debug)]
struct Inner<T> {
    value: T,
    /// Grows with every change.
    version: u64,
    senders: usize,
    next_waiter: u64,
    /// Who waits, oldest first.
    waiting: BTreeMap<u64, Waker>,
}

type Shared<T> = Arc<Mutex<Inner<T>>>;

fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, Inner<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The value, as long as this is held; nobody can change it meanwhile. Not to be held across an
/// await, nor while another of the same channel is asked for.
pub struct Ref<'a, T>(MutexGuard<'a, Inner<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

/// Publishes a value.
#[derive(Debug)]
pub struct Sender<T>(Shared<T>);

/// Follows a value. A clone has seen what the original has seen.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Shared<T>,
    seen: u64,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        lock(&self.0).senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut inner = lock(&self.0);
        inner.senders -= 1;
        if inner.senders == 0 {
            let waiting = std::mem::take(&mut inner.waiting);
            drop(inner);
            waiting.into_values().for_each(Waker::wake);
        }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A channel that holds `value` first.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A channel that holds `value` first, and that nobody follows yet.
    pub fn new(value: T) -> Self {
        let waiting = BTreeMap::new();
        let inner = Inner { value, version: 0, senders: 1, next_waiter: 0, waiting };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Follows the value; that of now is taken for seen.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = lock(&self.0).version;
        Receiver { shared: self.0.clone(), seen }
    }

    /// The value of now.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(lock(&self.0))
    }

    /// A copy of the value of now.
    pub fn get(&self) -> T
    where
        T: Clone,
    {
        self.borrow().clone()
    }

    /// Publishes `value`, whether or not anybody follows, and returns the one before.
    pub fn send_replace(&self, value: T) -> T {
        let mut before = None;
        self.send_if_modified(|current| {
            before = Some(std::mem::replace(current, value));
            true
        });
        // The closure runs exactly once.
        before.unwrap_or_else(|| unreachable!("the value was replaced"))
    }

    /// Changes the value in place. Those who follow hear of it where `change` says that it did.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut inner = lock(&self.0);
        if !change(&mut inner.value) {
            return false;
        }
        inner.version += 1;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_values().for_each(Waker::wake);
        true
    }
}

impl<T> Receiver<T> {
    /// The newest value, seen or not.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(lock(&self.shared))
    }

    /// A copy of the newest value, seen or not.
    pub fn get(&self) -> T
    where
        T: Clone,
    {
        self.borrow().clone()
    }

    /// The newest value, which is taken for seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let inner = lock(&self.shared);
        self.seen = inner.version;
        Ref(inner)
    }

    /// Whether there is a value that was not seen yet.
    pub fn has_changed(&self) -> bool {
        lock(&self.shared).version != self.seen
    }

    /// Waits for a value that was not seen yet. Safe to cancel.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        // The place in the queue is kept over several polls, and left when the future is dropped.
        let mut place = Place { shared: &self.shared, key: None };
        let seen = &mut self.seen;
        poll_fn(|cx| {
            let mut inner = lock(place.shared);
            if inner.version != *seen {
                *seen = inner.version;
                return Poll::Ready(Ok(()));
            }
            if inner.senders == 0 {
                return Poll::Ready(Err(Closed));
            }
            let key = *place.key.get_or_insert_with(|| {
                inner.next_waiter += 1;
                inner.next_waiter
            });
            inner.waiting.insert(key, cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits for another value; for ever once the publisher is gone. For who has other things to
    /// wait for, and would be woken without end.
    /// Safe to cancel.
    pub async fn another(&mut self) {
        if self.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until `wanted` holds of the value. Safe to cancel. It has no deadline of its own.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<T, Closed>
    where
        T: Clone,
    {
        loop {
            {
                let now = self.borrow_and_update();
                if wanted(&now) {
                    return Ok(now.clone());
                }
            }
            self.changed().await?;
        }
    }
}

struct Place<'a, T> {
    shared: &'a Shared<T>,
    key: Option<u64>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            lock(self.shared).waiting.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::{Context, Wake};

    use super::*;

    struct Named(u32, Arc<Mutex<Vec<u32>>>);

    impl Wake for Named {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[test]
    fn receivers_are_woken_in_the_order_of_their_waiting() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut receivers: Vec<_> = (0..5).map(|_| receiver.clone()).collect();
        let mut waits: Vec<_> = receivers.iter_mut().map(|r| Box::pin(r.changed())).collect();
        for i in [3, 0, 4, 2, 1, 3] {
            let waker = Arc::new(Named(i, woken.clone())).into();
            assert!(waits[i as usize].as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        // One that gives up is not woken.
        drop(waits.remove(4));
        sender.send_replace(1);
        assert_eq!(*woken.lock().unwrap(), [3, 0, 2, 1]);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(waits[0].as_mut().poll(&mut cx), Poll::Ready(Ok(())));
    }

    #[test]
    fn what_was_seen_is_no_news() {
        let (sender, mut receiver) = channel("a");
        let mut cx = Context::from_waker(Waker::noop());
        assert!(!receiver.has_changed());
        assert!(!sender.send_if_modified(|_| false));
        assert!(!receiver.has_changed());
        assert_eq!(sender.send_replace("b"), "a");
        assert!(receiver.has_changed());
        assert_eq!(*receiver.borrow_and_update(), "b");
        assert!(pin!(receiver.changed()).poll(&mut cx).is_pending());
        let other = sender.clone();
        drop(sender);
        assert!(pin!(receiver.changed()).poll(&mut cx).is_pending());
        drop(other);
        assert_eq!(pin!(receiver.changed()).poll(&mut cx), Poll::Ready(Err(Closed)));
        assert!(pin!(receiver.another()).poll(&mut cx).is_pending());
        let seen = pin!(receiver.wait_for(|v| *v == "b")).poll(&mut cx);
        assert_eq!(seen, Poll::Ready(Ok("b")));
    }
}
