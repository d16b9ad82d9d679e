//! The hook that a promotion waits for, and the record of the one after a bootstrap.

use tracing::warn;

use super::{DECLINED_MAX, DECLINED_MIN, Worker, tenure_of};
use crate::agent::driver::{Database, Error};
use crate::agent::hooks::{BEFORE_PROMOTION_MAX, Call, Hook};
use crate::clock::Clock;
use crate::domain::alarm::NoticeCode;
use crate::domain::reconcile::Process;
use crate::domain::types::Epoch;
use crate::runtime::{self, Boxed, Runtime};
use crate::session::Transport;

/// What becomes of a promotion after its hook.
pub(super) enum Verdict {
    /// It goes on.
    GoOn,
    /// Something has changed meanwhile: look again.
    LookAgain,
    /// It is given up.
    GiveUp(String),
}

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    /// Runs the hook before a promotion, once in an epoch. It is left, and killed, as soon as the
    /// epoch is closed, the process tree ends, the lease runs out, or the member is to stop.
    pub(super) async fn before_promotion(&mut self, epoch: Epoch) -> Verdict {
        let hooks = self.shared.database.hooks();
        if self.hooked == Some(epoch) || !hooks.has(Hook::BeforePromotion) {
            return Verdict::GoOn;
        }
        let call = Call::BeforePromotion(epoch);
        let run = RT::timeout(BEFORE_PROMOTION_MAX, hooks.run(call));
        let outcome = runtime::first_of(vec![
            Box::pin(async { Some(run.await) }) as Boxed<'_, _>,
            Box::pin(async {
                self.promotion_is_moot(epoch).await;
                None
            }),
        ]);
        let outcome = match outcome.await {
            None => {
                warn!(member = %self.shared.member.name, %epoch, "{call} is left: it is too late");
                return Verdict::LookAgain;
            }
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => {
                let seconds = BEFORE_PROMOTION_MAX.as_secs();
                Err(format!("it did not end within {seconds} s, and was killed"))
            }
        };
        self.hooked = Some(epoch);
        self.shared.tell_of_hook(call, &outcome);
        match outcome {
            Err(why) if hooks.is_required() => {
                Verdict::GiveUp(format!("{call}, which is required, failed: {why}"))
            }
            _ => Verdict::GoOn,
        }
    }

    /// Accepts no epoch for a while: one that declines each at once would use them up without a pause.
    pub(super) fn hold_back(&mut self) {
        let wait = DECLINED_MIN.saturating_mul(1 << self.declined.min(8)).min(DECLINED_MAX);
        self.declined = self.declined.saturating_add(1);
        self.accept_at = self.shared.clock.now().plus(wait);
    }

    /// Returns once the epoch cannot be promoted any more, or the member is to stop.
    async fn promotion_is_moot(&mut self, epoch: Epoch) {
        let (cluster, before) = (self.shared.member.cluster.clone(), self.tenure);
        let Self { tree, news, stop, shared, .. } = self;
        runtime::first_of(vec![
            Box::pin(stop.another()) as Boxed<'_, ()>,
            Box::pin(tree.another()),
            Box::pin(async {
                loop {
                    news.another().await;
                    let snapshot = news.borrow_and_update().clone();
                    if tenure_of(snapshot.clusters.get(&cluster)) != before {
                        return;
                    }
                }
            }),
            Box::pin(async {
                // It is moved by every renewal.
                loop {
                    let now = shared.clock.now();
                    let lease = shared.lock().lease.filter(|l| l.may_write(epoch, now));
                    let Some(lease) = lease else { return };
                    RT::sleep(lease.stop_at.since(now)).await;
                }
            }),
        ])
        .await;
    }

    /// Remembers that the hook after the bootstrap has run, or that it never will.
    pub(super) async fn record_bootstrap_hook(&self) -> Result<(), Error> {
        let (due, done, follows) = {
            let inner = self.shared.lock();
            let follows = matches!(inner.process, Process::Following { .. });
            (inner.record.bootstrap_hook, inner.bootstrap_hook_done, follows)
        };
        if !due || !(done || follows) {
            return Ok(());
        }
        self.record(|r| r.bootstrap_hook = false).await?;
        if !done {
            // Years later it would be a surprise.
            let text = "hook after_bootstrap does not run: another member is the first primary";
            self.shared.notice(NoticeCode::HookFailed, text);
        }
        Ok(())
    }
}
