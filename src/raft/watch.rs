//! A value that changes, and those who follow it.
//!
//! Owns a thin wrapper of the runtime's watch channel, so that the simulator's own is used there
//! (tokio's wakes receivers in random order), and so that nobody outside names openraft.

use std::sync::{Mutex, MutexGuard, PoisonError};

use openraft::AsyncRuntime;
use openraft::async_runtime::{Watch, WatchReceiver, WatchSender};

/// The side that publishes is gone: no further value will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the publisher is gone")]
pub struct Closed;

/// Publishes a value. The locks here are never contended: a runtime's channel need not be `Sync`,
/// and what holds one has to be.
pub struct Sender<RT: AsyncRuntime, T: Send + Sync>(Mutex<<RT::Watch as Watch>::Sender<T>>);

/// Follows a value. Cheap to clone; a clone has seen what the original has seen.
pub struct Receiver<RT: AsyncRuntime, T: Send + Sync>(Mutex<<RT::Watch as Watch>::Receiver<T>>);

fn lock<T>(channel: &Mutex<T>) -> MutexGuard<'_, T> {
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<RT: AsyncRuntime, T: Send + Sync> Clone for Receiver<RT, T> {
    fn clone(&self) -> Self {
        Self(Mutex::new(lock(&self.0).clone()))
    }
}

/// A channel that holds `init` first.
pub fn channel<RT: AsyncRuntime, T: Send + Sync>(init: T) -> (Sender<RT, T>, Receiver<RT, T>) {
    let (tx, rx) = <RT::Watch as Watch>::channel(init);
    (Sender(Mutex::new(tx)), Receiver(Mutex::new(rx)))
}

impl<RT: AsyncRuntime, T: Clone + Send + Sync> Sender<RT, T> {
    /// Publishes `value`, whether or not anybody follows.
    pub fn publish(&self, value: T) {
        lock(&self.0).send_if_modified(|current| {
            *current = value;
            true
        });
    }

    /// The last value that was published.
    pub fn get(&self) -> T {
        lock(&self.0).borrow_watched().clone()
    }
}

impl<RT: AsyncRuntime, T: Clone + Send + Sync> Receiver<RT, T> {
    fn own(&mut self) -> &mut <RT::Watch as Watch>::Receiver<T> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest value.
    pub fn get(&self) -> T {
        lock(&self.0).borrow_watched().clone()
    }

    /// Waits for a value that this receiver has not seen. Safe to cancel.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        self.own().changed().await.map_err(|_| Closed)
    }

    /// Waits until `wanted` holds of the value, and returns that value. Safe to cancel. It has no
    /// deadline of its own.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&T) -> bool + Send,
    ) -> Result<T, Closed> {
        loop {
            let value = self.own().borrow_and_update().clone();
            if wanted(&value) {
                return Ok(value);
            }
            self.changed().await?;
        }
    }
}
