//! The outcome of a task, for those who wait for it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use super::core::Core;
use super::task::TaskId;

/// Why a task has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It panicked, and its scope was killed.
    #[error("the task panicked: {0}")]
    Panicked(String),
    /// Its scope was killed, or it was aborted.
    #[error("the task was killed")]
    Killed,
}

struct Shared<T> {
    outcome: Option<Result<T, JoinError>>,
    waker: Option<Waker>,
}

fn lock<T>(shared: &Mutex<Shared<T>>) -> MutexGuard<'_, Shared<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the outcome of a task. Dropping it lets the task go on.
///
/// Polled after it was ready it waits for ever.
pub struct JoinHandle<T> {
    shared: Arc<Mutex<Shared<T>>>,
    /// Absent where the task never began.
    task: Option<(u16, TaskId)>,
}

impl<T> JoinHandle<T> {
    pub(super) fn bind(&mut self, world: u16, task: TaskId) {
        self.task = Some((world, task));
    }

    /// Drops the task's future, unless it has ended; the outcome is then [`JoinError::Killed`]. A
    /// task that aborts itself is dropped at its next wait.
    pub fn abort(&self) {
        if let Some((world, task)) = self.task
            && let Some(core) = super::core::find(world)
        {
            core.abort(task);
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("task", &self.task).finish_non_exhaustive()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut shared = lock(&self.shared);
        if let Some(outcome) = shared.outcome.take() {
            return Poll::Ready(outcome);
        }
        shared.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Tells the outcome when it comes, or that it will not come when this is dropped before.
struct Teller<T>(Option<Arc<Mutex<Shared<T>>>>);

impl<T> Teller<T> {
    fn tell(&mut self, outcome: Result<T, JoinError>) {
        let Some(shared) = self.0.take() else { return };
        let waker = {
            let mut shared = lock(&shared);
            shared.outcome = Some(outcome);
            shared.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        if self.0.is_some() {
            let panicked = Core::try_current().and_then(|core| core.dropping_panicked());
            self.tell(Err(panicked.map_or(JoinError::Killed, JoinError::Panicked)));
        }
    }
}

pin_project! {
    /// A future whose end somebody may wait for.
    struct Joined<F: Future> {
        #[pin]
        future: F,
        // After the future: whoever waits finds what that held already dropped.
        teller: Teller<F::Output>,
    }
}

impl<F: Future> Future for Joined<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.future.poll(cx).map(|value| this.teller.tell(Ok(value)))
    }
}

/// A task, and the handle that waits for it.
pub(super) fn pair<F: Future>(future: F) -> (impl Future<Output = ()>, JoinHandle<F::Output>) {
    let shared = Arc::new(Mutex::new(Shared { outcome: None, waker: None }));
    let teller = Teller(Some(shared.clone()));
    (Joined { future, teller }, JoinHandle { shared, task: None })
}
