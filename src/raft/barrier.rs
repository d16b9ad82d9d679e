//! The read barrier.
//!
//! Owns how callers share one. A barrier proves that this node led after the barrier began: it
//! sends a heartbeat to all, and a majority answers it. Whoever asks while one is on its way must
//! not be answered by it, since it began before the question: the caller joins the next one. So at
//! any time one runs and one gathers, however many ask.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use openraft::async_runtime::{Oneshot, OneshotSender, WatchReceiver};
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{AsyncRuntime, LinearizerOption};

use super::error::{BarrierError, FatalReason, Leader};
use super::role::{fatal_reason, own_leadership};
use super::service::Core;
use super::state_machine::Applied;
use crate::domain::mutant::{Mutant, without};
use crate::watch;

type Outcome = Result<Arc<Applied>, BarrierError>;
type Waiter<RT> = <<RT as AsyncRuntime>::Oneshot as Oneshot>::Sender<Outcome>;
type Run = Box<dyn Fn() -> BoxFuture<'static, Outcome> + Send + Sync>;

struct Queue<RT: AsyncRuntime> {
    gathering: Vec<Waiter<RT>>,
    running: bool,
}

/// The barriers of one node.
pub(super) struct Barriers<RT: AsyncRuntime> {
    /// Makes one barrier.
    run: Run,
    /// Bound of one run.
    run_max: Duration,
    queue: Mutex<Queue<RT>>,
}

impl<RT: AsyncRuntime> Barriers<RT> {
    /// Barriers by `run`, each of which takes at most `run_max`.
    fn by(run: Run, run_max: Duration) -> Arc<Self> {
        let queue = Mutex::new(Queue { gathering: Vec::new(), running: false });
        Arc::new(Self { run, run_max, queue })
    }

    /// Barriers of `core`.
    pub(super) fn new(
        core: Core<RT>,
        applied: watch::Receiver<Arc<Applied>>,
        run_max: Duration,
    ) -> Arc<Self> {
        let run = move || -> BoxFuture<'static, Outcome> {
            Box::pin(read_index(core.clone(), applied.clone(), run_max))
        };
        Self::by(Box::new(run), run_max)
    }

    fn lock(&self) -> MutexGuard<'_, Queue<RT>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a barrier that begins after this call.
    pub(super) async fn pass(self: &Arc<Self>) -> Outcome {
        let (tx, rx) = <RT::Oneshot as Oneshot>::channel();
        let start = {
            let mut queue = self.lock();
            queue.gathering.push(tx);
            !std::mem::replace(&mut queue.running, true)
        };
        if start {
            // Dropping the handle detaches the task.
            drop(RT::spawn(self.clone().run_all()));
        }
        rx.await.unwrap_or(Err(BarrierError::Fatal(FatalReason::Stopped)))
    }

    async fn run_all(self: Arc<Self>) {
        loop {
            let mut waiters = {
                let mut queue = self.lock();
                if queue.gathering.is_empty() {
                    queue.running = false;
                    return;
                }
                std::mem::take(&mut queue.gathering)
            };
            let run = RT::timeout(self.run_max, (self.run)());
            let outcome = run.await.unwrap_or(Err(BarrierError::NoQuorum));
            if without(Mutant::BarrierShared) {
                waiters.append(&mut self.lock().gathering);
            }
            for waiter in waiters {
                // A caller whose deadline has passed is not there any more.
                let _ = waiter.send(outcome.clone());
            }
        }
    }
}

/// One barrier: the state at a read index that a majority confirms now.
async fn read_index<RT: AsyncRuntime>(
    core: Core<RT>,
    mut applied: watch::Receiver<Arc<Applied>>,
    wait_max: Duration,
) -> Outcome {
    // An acknowledgement must not be older than now: never a clock-based lease.
    let how = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(wait_max);
    let point = match core.get_read_log_id(how).await {
        Ok((point, _)) => point,
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
            let leader = to.leader_id.zip(to.leader_node);
            let leader = leader.map(|(id, peer)| Leader { id, peer });
            return Err(BarrierError::NotLeader { leader });
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
            return Err(BarrierError::NoQuorum);
        }
        Err(RaftError::Fatal(e)) => return Err(BarrierError::Fatal(fatal_reason(&e))),
    };
    let index = point.index();
    let applied = applied
        .wait_for(|a| a.index >= index)
        .await
        .map_err(|_| BarrierError::Fatal(FatalReason::Stopped))?;
    // The point lies at or behind the first entry of the own leadership, which is therefore
    // committed. Where the leadership ended meanwhile that entry may be another's.
    let own = own_leadership(&core.metrics().borrow_watched());
    if own != Some(point.committed_leader_id().term) {
        return Err(BarrierError::NotLeader { leader: None });
    }
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::super::runtime::BootRuntime;
    use super::*;

    /// A caller that comes while a barrier is on its way is answered by the next one, together
    /// with all others that came meanwhile.
    #[test]
    fn a_late_caller_joins_the_next_barrier() {
        BootRuntime::new(2).block_on(async {
            let started = watch::channel::<u64>(0);
            let allowed = watch::channel::<u64>(0);
            let (started_tx, mut started) = (Arc::new(started.0), started.1);
            let (allow, allowed) = allowed;
            let run = move || -> BoxFuture<'static, Outcome> {
                let number = started_tx.get() + 1;
                started_tx.send_replace(number);
                let mut allowed = allowed.clone();
                Box::pin(async move {
                    allowed.wait_for(|upto| *upto >= number).await.unwrap();
                    Ok(Arc::new(Applied { index: number, ..Applied::default() }))
                })
            };
            let barriers = Barriers::<BootRuntime>::by(Box::new(run), Duration::from_secs(60));
            let call = |n: u64| {
                let barriers = barriers.clone();
                BootRuntime::spawn(async move { (n, barriers.pass().await.unwrap().index) })
            };
            let first = call(1);
            started.wait_for(|n| *n == 1).await.unwrap();
            let late: Vec<_> = (2..=4).map(call).collect();
            // They are gathered, and no second barrier has begun.
            while barriers.lock().gathering.len() < 3 {
                BootRuntime::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(started.get(), 1);
            allow.send_replace(1);
            assert_eq!(first.await.unwrap(), (1, 1));
            started.wait_for(|n| *n == 2).await.unwrap();
            allow.send_replace(2);
            for (n, late) in (2..).zip(late) {
                assert_eq!(late.await.unwrap(), (n, 2));
            }
            assert_eq!(started.get(), 2);
        });
    }
}
