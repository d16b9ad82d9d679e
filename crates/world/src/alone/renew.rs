//! An agent's leases: renewed, extended, and the end of one.

use super::clock::{MS, Micros};
use super::queue::{Message, Timer};
use super::world::World;
use crate::domain::lease::HolderLease;
use crate::domain::reconcile::Process;
use crate::domain::types::{BootTime, Epoch, GuardId};

/// How long an attempt to renew may take before the next controller is asked.
const RENEW_ATTEMPT: Micros = 400 * MS;
/// Pause after a failed one.
pub const RENEW_PAUSE: Micros = 20 * MS;
/// How often the lease is looked at where nothing is due.
const FENCE: Micros = 500 * MS;

/// A renewal under way.
#[derive(Debug)]
pub struct Renewing {
    pub(super) number: u32,
    /// Which controller was asked.
    pub(super) target: usize,
    /// When it was sent, by the own clock, which is what counts.
    sent: BootTime,
    /// And in true time.
    sent_us: Micros,
    claim: (Epoch, GuardId),
}

impl World {
    pub(super) fn renewer(&mut self, m: usize, what: Timer) {
        let now = self.now;
        let Some(agent) = self.agent(m) else { return };
        if let Timer::RenewLate(number) = what {
            if agent.renewing.as_ref().is_none_or(|r| r.number != number) {
                return;
            }
            let Some(target) = agent.renewing.take().map(|r| r.target) else { return };
            self.turn_from(m, target, None);
            return self.timer(m, RENEW_PAUSE, Timer::Renew);
        }
        if agent.claim.is_none() || agent.view.is_none() || agent.renewing.is_some() {
            return;
        }
        if agent.renew_at > now {
            let left = agent.renew_at - now;
            return self.timer(m, left, Timer::Renew);
        }
        self.renew(m);
    }

    /// Sends a renewal. The time is read before.
    pub(super) fn renew(&mut self, m: usize) {
        let (sent, sent_us, run) = (self.clock(m), self.now, self.machines[m].run);
        let Some(agent) = self.agent(m) else { return };
        let Some(claim) = agent.claim.clone().filter(|_| agent.view.is_some()) else { return };
        agent.renewals += 1;
        let (number, target) = (agent.renewals, agent.target);
        agent.renewing = Some(Renewing { number, target, sent, sent_us, claim: claim.clone() });
        let claim = Box::new(claim);
        self.send(m, target, Message::Renew { from: m as u8, run, number, claim });
        self.timer(m, RENEW_ATTEMPT, Timer::RenewLate(number));
    }

    pub(super) fn renewed(&mut self, m: usize, number: u32, acknowledged: bool) {
        let now = self.now;
        let Some(agent) = self.agent(m) else { return };
        if agent.renewing.as_ref().is_none_or(|r| r.number != number) {
            return;
        }
        let Some(Renewing { sent, sent_us, claim, .. }) = agent.renewing.take() else { return };
        let Some((_, state)) = &agent.view else { return };
        let timing = state.spec.timing;
        agent.renew_at = now.max(sent_us + timing.renew_ms * MS);
        let left = agent.renew_at - now;
        self.timer(m, left, Timer::Renew);
        if !acknowledged {
            return self.wake(m);
        }
        let lease = HolderLease::from_renewal(claim.0, sent, &timing);
        if !self.arm(m, &claim.1, lease.kill_at) {
            return self.wake(m);
        }
        let Some(agent) = self.agent(m) else { return };
        let first = agent.local.lease.is_none_or(|l| l.epoch != claim.0);
        agent.local.lease = Some(agent.local.lease.map_or(lease, |l| l.extend(lease)));
        if first {
            self.timer(m, 0, Timer::Fence);
            self.wake(m);
        }
    }

    /// Kills the tree at the end of the lease, whatever the worker does.
    pub(super) fn fence(&mut self, m: usize) {
        let now = self.clock(m);
        let Some(agent) = self.agent(m) else { return };
        let (Some(lease), Process::Primary { epoch, .. }) =
            (agent.local.lease, &agent.local.process)
        else {
            return;
        };
        if lease.epoch != *epoch {
            return;
        }
        if lease.may_write(lease.epoch, now) {
            let due = self.machines[m].clock.when(lease.stop_at, self.now);
            let after = (due - self.now).max(1);
            let after = if lease.stop_at <= now { FENCE } else { after };
            return self.timer(m, after, Timer::Fence);
        }
        agent.claim = None;
        let called = self.called(m);
        self.story.tell(self.now, || format!("{called}: the lease has run out, its agent kills"));
        self.kill_tree(m);
        self.wake(m);
    }
}
