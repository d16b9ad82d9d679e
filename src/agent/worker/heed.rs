//! Work that the worker leaves as soon as something else has to be done.
//!
//! Owns when that is: the agent stops, the process tree has ended, or what is desired, the lease or
//! PostgreSQL's health ask for another action than the one that is under way. Work that is left is
//! dropped where it waits, with the connection that it used, and asked for again by the next step
//! where it still has to be done: it must be of the kind that can be begun anew. What is written to
//! the member's record, what stops PostgreSQL and what makes it a primary is never left.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::{TICK, Worker};
use crate::agent::driver::{Database, Error, Tree};
use crate::agent::poll::Snapshot;
use crate::agent::shared::Shared;
use crate::clock::Clock;
use crate::domain::desired::{Desired, FollowDuty, desired_on};
use crate::domain::reconcile::{Action, Process, reconcile};
use crate::domain::types::BootTime;
use crate::runtime::{self, Runtime};
use crate::session::Transport;
use crate::watch;

/// Follows what can overtake the action that is under way. It has its own view of what was seen, so
/// that the worker's own is left to the worker.
struct Heed<D: Database, C: Clock> {
    shared: Arc<Shared<D, C>>,
    news: watch::Receiver<Arc<Snapshot>>,
    tree: watch::Receiver<Tree>,
    stop: watch::Receiver<bool>,
    doing: Option<Action>,
    /// Whether the worker was woken meanwhile: that is passed on to it.
    woken: bool,
}

impl<D: Database, C: Clock> Drop for Heed<D, C> {
    fn drop(&mut self) {
        if self.woken {
            self.shared.wake.notify_one();
        }
    }
}

impl<D: Database, C: Clock> Heed<D, C> {
    /// Whether the next step would do something else.
    fn is_overtaken(&mut self, now: BootTime) -> bool {
        if *self.stop.borrow_and_update() {
            return true;
        }
        let ended = matches!(*self.tree.borrow_and_update(), Tree::Ending { .. });
        let snapshot = self.news.borrow_and_update().clone();
        {
            let inner = self.shared.lock();
            if ended && !matches!(inner.process, Process::Down | Process::Ending) {
                return true;
            }
            if self.doing.is_none() {
                return false;
            }
            // What puts a drift right is not left for it.
            let rights =
                matches!(self.doing, Some(Action::ConfirmSync { .. } | Action::OpenWrites { .. }));
            let drifted = inner.drifted && inner.primary_epoch().is_some() && !rights;
            if drifted || inner.promoted_by_hand || inner.polluted.is_some() {
                return true;
            }
            if snapshot.generation != inner.record.generation {
                return true;
            }
        }
        let Some(doing) = &self.doing else { return false };
        let member = &self.shared.member;
        let Some(state) = snapshot.clusters.get(&member.cluster) else { return true };
        let wanted = desired_on(state, &member.name, &self.shared.options.node);
        if wanted == Desired::Removed {
            return true;
        }
        if let Action::Follow(duty) = doing {
            // It is called sealed until it follows, so that what would come next says nothing.
            let same = |now: &FollowDuty| now.epoch == duty.epoch && now.address == duty.address;
            return !matches!(&wanted, Desired::Follow(now) if same(now));
        }
        let next = reconcile(&member.name, &wanted, &self.shared.local(), now);
        let idle = |action: &Action| matches!(action, Action::Nothing { .. });
        !(next == *doing || idle(&next) && idle(doing))
    }

    async fn overtaken<RT: Runtime>(&mut self) {
        loop {
            let now = self.shared.clock.now();
            if self.is_overtaken(now) {
                return;
            }
            let lease_end = {
                let inner = self.shared.lock();
                inner.lease.filter(|l| inner.primary_epoch() == Some(l.epoch)).map(|l| l.stop_at)
            };
            let left = lease_end.map(|end| end.since(now).max(Duration::from_millis(1)));
            let Self { shared, news, tree, stop, woken, .. } = self;
            runtime::first_of(vec![
                Box::pin(stop.another()),
                Box::pin(tree.another()),
                Box::pin(news.another()),
                Box::pin(async {
                    shared.wake.notified().await;
                    *woken = true;
                }),
                Box::pin(RT::sleep(left.map_or(TICK, |left| left.min(TICK)))),
            ])
            .await;
        }
    }
}

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    fn heed(&self, doing: Option<Action>) -> Heed<D, C> {
        Heed {
            shared: self.shared.clone(),
            news: self.news.clone(),
            tree: self.tree.clone(),
            stop: self.stop.clone(),
            doing,
            woken: false,
        }
    }

    /// Does `work` for the action that is under way, not longer than `limit`, and leaves it where
    /// something else has to be done: [`Error::NotReady`]. It is not begun where that is so already.
    pub(super) async fn heeding<V: Send>(
        &self,
        what: &str,
        limit: Duration,
        work: impl Future<Output = Result<V, Error>> + Send,
    ) -> Result<V, Error> {
        let mut heed = self.heed(self.doing.clone());
        self.bounded(
            what,
            limit,
            runtime::first_of(vec![
                Box::pin(async {
                    heed.overtaken::<RT>().await;
                    tracing::debug!(member = %self.shared.member.name, what, "left: overtaken");
                    Err(Error::NotReady(format!("{what}: something else has to be done first")))
                }),
                Box::pin(work),
            ]),
        )
        .await
    }

    /// Does `work` that belongs to no action, and leaves it where the agent stops or the process
    /// tree has ended: `None`.
    pub(super) async fn unless_ended<V: Send>(
        &self,
        work: impl Future<Output = V> + Send,
    ) -> Option<V> {
        let mut heed = self.heed(None);
        runtime::first_of(vec![
            Box::pin(async {
                heed.overtaken::<RT>().await;
                None
            }),
            Box::pin(async { Some(work.await) }),
        ])
        .await
    }

    /// Whether the next step would do something else than what is under way.
    pub(super) fn is_overtaken(&self) -> bool {
        self.heed(self.doing.clone()).is_overtaken(self.shared.clock.now())
    }
}

#[cfg(all(test, not(quorate_mutants), not(quorate_sim)))]
#[path = "heed_test.rs"]
mod tests;
