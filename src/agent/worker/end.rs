//! Ends: of an epoch, of a process tree, of the member.

use std::sync::Arc;

use tracing::warn;

use super::{BACKOFF_MAX, BACKOFF_MIN, FAREWELL, Pause, QUICK, SLOW, Worker};
use crate::agent::driver::{Asked, Database, Emptiness, Error, Tree};
use crate::agent::hooks::end_of;
use crate::clock::Clock;
use crate::domain::desired::{Desired, desired_on};
use crate::domain::mutant::{Mutant, without};
use crate::domain::observation::Fencing;
use crate::domain::reconcile::{EndReason, Process};
use crate::domain::types::{Epoch, MemberName};
use crate::runtime::Runtime;
use crate::session::Transport;

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    pub(super) async fn prove_end(&mut self) -> Pause {
        if let Err(error) = self.bring_down().await {
            return self.after(Err(error));
        }
        match self.startup_deaths.max(self.starved) {
            0 | 1 => Pause::None,
            deaths => {
                Pause::Firmly(BACKOFF_MIN.saturating_mul(1 << deaths.min(8)).min(BACKOFF_MAX))
            }
        }
    }

    /// Kills what is left of the process tree, proves that nothing is, and records that: only then
    /// is the member down.
    async fn bring_down(&mut self) -> Result<(), Error> {
        let ending = self.ending;
        let ended = || *self.tree.borrow() != Tree::Running;
        let emptiness = match without(Mutant::DeathIsProof) && ended() {
            true => Emptiness::Proven,
            false => self.clear().await?,
        };
        self.record(|r| {
            if let Some((epoch, _)) = ending {
                r.ended = r.ended.max(epoch);
            }
            r.note_ended(emptiness == Emptiness::Proven);
        })
        .await?;
        self.ending = None;
        self.shared.update(|inner| {
            if let Some((_, crashed)) = ending {
                inner.crashed = crashed;
            }
            inner.process = Process::Down;
            inner.guard = None;
            inner.fencing = Fencing::Unknown;
            inner.claim = None;
            inner.lineage = None;
            inner.seen = None;
            // What does not run waits for no restart.
            inner.settings = Default::default();
            inner.hung = false;
            inner.promoted_by_hand = false;
            inner.polluted = None;
            inner.problems.remove("lease");
            inner.problems.remove("promotion");
        });
        // Its end is on its way to the leader: now there is time to look why.
        self.judge_end().await;
        Ok(())
    }

    /// Kills what is left of the process tree. Returns how it is known that nothing is left.
    async fn clear(&self) -> Result<Emptiness, Error> {
        let database = self.shared.database.clone();
        // Whatever is ending is to be dead: also a tree whose start was not finished.
        if let Err(error) = self.bounded("killing PostgreSQL", QUICK, database.kill()).await {
            warn!(%error, "the guard was not reached: waiting for its timer");
        }
        let work = database.prove_empty();
        self.bounded("proving that PostgreSQL has ended", SLOW, work).await
    }

    /// From here on no renewal of the epoch leaves any more, and its process tree is to end.
    pub(super) fn begin_end(&mut self, epoch: Epoch, crashed: bool) {
        self.ending = Some((epoch, crashed));
        let mut inner = self.shared.lock();
        inner.role_ended = Some(end_of(epoch, inner.lease, self.shared.clock.now()));
        inner.claim = None;
        inner.process = Process::Ending;
    }

    /// Ends an epoch: no renewal of it leaves any more, then the tree is killed, then its end is
    /// proven and recorded. Only after that is it reported.
    pub(super) async fn end_epoch(&mut self, epoch: Epoch, why: EndReason) -> Pause {
        warn!(member = %self.shared.member.name, %epoch, ?why, "ending the epoch");
        self.begin_end(epoch, why == EndReason::Hung);
        self.prove_end().await
    }

    pub(super) async fn disown(&mut self, epoch: Epoch) -> Result<(), Error> {
        self.record(|r| r.ended = r.ended.max(epoch)).await?;
        self.shared.update(|inner| {
            inner.claim = None;
            inner.crashed = false;
        });
        Ok(())
    }

    pub(super) async fn hand_over(&mut self, epoch: Epoch, target: &MemberName) -> Pause {
        let database = self.shared.database.clone();
        let (news, shared, to) = (self.news.clone(), self.shared.clone(), target.clone());
        let asked: Asked = Arc::new(move || {
            let (member, node) = (&shared.member, &shared.options.node);
            let state = news.borrow().clusters.get(&member.cluster).cloned();
            matches!(
                state.map(|s| desired_on(&s, &member.name, node)),
                Some(Desired::Primary(duty)) if duty.epoch == epoch && duty.handover.as_ref() == Some(&to)
            )
        });
        let work = self.bounded(
            "stopping PostgreSQL for the switchover",
            SLOW,
            database.hand_over(target, &asked),
        );
        if let Err(error) = work.await {
            if *self.tree.borrow() == Tree::Running {
                // Nothing was stopped: the primary goes on, and the operation ends by its deadline.
                return self.after(Err(error));
            }
            warn!(%epoch, %error, "the ordered stop failed");
        }
        self.begin_end(epoch, false);
        self.prove_end().await
    }

    /// Stops the member for good, in order, and tells the leader; `true` once that is done.
    pub(super) async fn stop(&mut self) -> bool {
        self.notice_end();
        let process = self.shared.lock().process.clone();
        match process {
            Process::Down => {
                // The reporter tells the leader, which need not wait for the lease then.
                self.shared.news.notify_one();
                RT::sleep(FAREWELL).await;
                return true;
            }
            Process::Ending => {}
            Process::Primary { epoch, .. } => {
                let work = self.shared.database.stop();
                if let Err(error) = self.bounded("stopping PostgreSQL", SLOW, work).await {
                    warn!(%error, "the ordered stop failed: PostgreSQL is killed");
                }
                self.begin_end(epoch, false);
            }
            Process::Sealed { .. } | Process::Following { .. } => {
                if let Err(error) = self.stop_standby().await {
                    warn!(%error, "the standby was not stopped in order");
                }
                return false;
            }
        }
        self.prove_end().await;
        false
    }

    /// Stops a standby, for what needs a stopped data directory.
    pub(super) async fn stop_standby(&mut self) -> Result<(), Error> {
        if self.shared.lock().process == Process::Down {
            return Ok(());
        }
        let database = self.shared.database.clone();
        self.shared.lock().process = Process::Ending;
        self.bounded("stopping the standby", SLOW, database.stop()).await?;
        self.bring_down().await
    }
}
