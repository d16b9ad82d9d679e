//! The runtime that all waiting code is generic over.
//!
//! Owns its name for the rest of the crate, and the selection of the first of several futures in a
//! fixed order: `tokio::select!` draws a random one, which a simulation could not repeat.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

pub use crate::raft::AsyncRuntime as Runtime;
#[cfg(not(quorate_sim))]
pub use crate::raft::runtime::BootRuntime;

/// A future on the heap.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Waits for the first of `futures`, asked in their order, and drops the others.
pub async fn first_of<T>(mut futures: Vec<Boxed<'_, T>>) -> T {
    poll_fn(move |cx| {
        for future in &mut futures {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(value);
            }
        }
        Poll::Pending
    })
    .await
}
