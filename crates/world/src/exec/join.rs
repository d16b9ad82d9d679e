//! Tasks with an outcome.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::sync::oneshot;

/// Why a task has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It panicked, and its scope was killed.
    #[error("the task panicked: {0}")]
    Panicked(String),
    /// Its scope was killed.
    #[error("the task was killed")]
    Killed,
}

/// Waits for the outcome of a task. Dropping it lets the task go on.
pub struct JoinHandle<T>(oneshot::Receiver<Result<T, JoinError>>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|sent| sent.unwrap_or(Err(JoinError::Killed)))
    }
}

pin_project! {
    /// A future and whoever waits for its outcome.
    pub(super) struct Outcome<F: Future> {
        #[pin]
        future: F,
        sender: Option<oneshot::Sender<Result<F::Output, JoinError>>>,
    }
}

/// A task, and the handle that waits for it.
pub(super) fn pair<F: Future>(future: F) -> (Outcome<F>, JoinHandle<F::Output>) {
    let (sender, receiver) = oneshot::channel();
    (Outcome { future, sender: Some(sender) }, JoinHandle(receiver))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|t| (*t).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

impl<F: Future> Future for Outcome<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let polled = catch_unwind(AssertUnwindSafe(|| this.future.poll(cx)));
        let outcome = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Ok(value),
            Err(panic) => {
                let text = text_of(&*panic);
                super::core().panicked(text.clone());
                Err(JoinError::Panicked(text))
            }
        };
        if let Some(sender) = this.sender.take() {
            drop(sender.send(outcome));
        }
        Poll::Ready(())
    }
}
