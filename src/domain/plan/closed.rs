//! A closed epoch: choosing who is granted the next.

use super::super::candidate::{self, Proof, Refusal};
use super::super::command::{Basis, Change, Grant};
use super::super::failsafe::{self, Witnesses};
use super::super::observation::{Condition, Sealed};
use super::super::operation::wished;
use super::super::state::{
    CloseReason, Operation, OperationKind, Outcome, SynchronousMode, Tenure,
};
use super::super::types::{Lsn, MemberName};
use super::operation::takeover_deadline;
use super::{
    FAILOVER_TARGET_WAIT, Finding, GAVE_UP_FOR, LOSS_SETTLE, Pass, RESTART_WAIT, TARGET_WAIT,
};

/// Whom to grant the next epoch, and on what.
struct Choice {
    evidence: Vec<Sealed>,
    chosen: Sealed,
    /// The operation that overrides the read quorum.
    accepted: Option<u64>,
    /// The position that `max_lag_bytes` is measured from.
    within_lag_of: Option<Lsn>,
}

impl Pass<'_> {
    pub(super) fn take_over(&self, tenure: &Tenure, findings: &mut Vec<Finding>) -> Option<Change> {
        if !tenure.stopped && self.proven_stop(tenure) {
            let (member, epoch) = (tenure.member.clone(), tenure.epoch);
            findings.push(Finding::HolderStopped { member, epoch });
            return Some(Change::RecordStop { expect_epoch: tenure.epoch });
        }
        let Choice { evidence, chosen, accepted, within_lag_of } = match self.choose(tenure) {
            Ok(choice) => choice,
            Err(finding) => {
                findings.push(*finding);
                return self.operation_overdue(findings);
            }
        };
        let witnesses = self.witnesses(tenure, &evidence);
        let heard = failsafe::heard(&evidence, &witnesses);
        if !tenure.stopped && !failsafe::is_lapsed(self.state, tenure, &heard) {
            findings.push(super::awaiting_peers(tenure));
            return self.operation_overdue(findings);
        }
        let timing = &self.state.spec.timing;
        let expires = self.ledger.expires(self.cluster, tenure.epoch, timing);
        if !tenure.stopped && self.now < expires {
            let remaining = expires.since(self.now);
            findings.push(Finding::AwaitingExpiry { member: tenure.member.clone(), remaining });
            return None;
        }
        let sync = self.first_sync(&chosen.member, &evidence);
        let floor = self.state.spec.write_quorum_min;
        let waits = self.state.spec.synchronous != SynchronousMode::Async;
        if waits && sync.w < floor && self.state.members.len() > 1 && accepted.is_none() {
            findings.push(Finding::BelowFloor { config: sync, floor });
            return self.operation_overdue(findings);
        }
        let epoch = self.state.epoch.next();
        findings.push(Finding::Granting { member: chosen.member.clone(), epoch });
        Some(Change::Grant(Grant {
            expect_epoch: self.state.epoch,
            expect_syncs: self.state.syncs.clone(),
            member: chosen.member.clone(),
            guard: chosen.guard.clone(),
            basis: match tenure.stopped {
                true => Basis::Stopped,
                false => Basis::Expired { term: self.ledger.term() },
            },
            sync,
            evidence,
            witnesses,
            accept_data_loss: accepted,
            within_lag_of,
        }))
    }

    /// An operation that finds nobody, or whose new primary does not become active, is given up as
    /// an operation, so that another can be asked for. The takeover itself goes on.
    pub(super) fn operation_overdue(&self, findings: &mut Vec<Finding>) -> Option<Change> {
        let op = self.state.operation.as_ref()?;
        if self.since_handover(op)? < takeover_deadline(op) {
            return None;
        }
        let why = findings.last().map_or_else(String::new, Finding::to_string);
        findings.push(Finding::OperationFailed { why: why.clone() });
        Some(Change::FinishOperation { operation: op.id, outcome: Outcome::Failed { why } })
    }

    /// Whom to grant the next epoch, and on what.
    fn choose(&self, tenure: &Tenure) -> Result<Choice, Box<Finding>> {
        let everybody = self.evidence();
        let roomy = everybody.iter().filter(|s| self.has_room(&s.member));
        let all: Vec<Sealed> = roomy.cloned().collect();
        let op = self.state.operation.as_ref();
        let wish = candidate::wish(self.state, self.wall);
        // Also those without room: nobody is waited for that is there and cannot be promoted.
        if let Some(finding) = self.hold_back(tenure, op, op.and_then(wished).as_ref(), &everybody)
        {
            return Err(Box::new(finding));
        }
        let recent = |s: &&Sealed| {
            let at = self.observed.gave_up.get(&s.member);
            at.is_none_or(|at| self.now.since(*at) >= GAVE_UP_FOR)
        };
        let untried: Vec<Sealed> = all.iter().filter(recent).cloned().collect();
        let pick = |evidence: &[Sealed], proof: Proof| {
            let chosen = candidate::choose(self.state, evidence, wish.as_ref(), proof)?.clone();
            let evidence = evidence.to_vec();
            Ok::<_, Refusal>(Choice { evidence, chosen, accepted: None, within_lag_of: None })
        };
        // Whoever has no room is no candidate, and still a witness of what it holds.
        let first: Vec<Sealed> = everybody.iter().filter(recent).cloned().collect();
        if let Ok(choice) = pick(&first, Proof::Quorum)
            && !choice.chosen.no_room
        {
            return Ok(choice);
        }
        let mut refusal = match pick(&untried, Proof::Quorum) {
            Ok(choice) => return Ok(choice),
            Err(refusal) => refusal,
        };
        // Whoever could not be promoted a moment ago is asked again only where nobody else will do.
        if let Ok(choice) = pick(&all, Proof::Quorum) {
            return Ok(choice);
        }
        if let Ok(choice) = pick(&everybody, Proof::Quorum)
            && !choice.chosen.no_room
        {
            return Ok(choice);
        }
        let closed = self.observed.closed_seen.map_or(self.now, |(_, at)| at);
        let waited = self.now.since(closed);
        if let Some(end) = self.primary_end()
            && (waited >= LOSS_SETTLE || self.all_sealed(&everybody))
        {
            match pick(&all, Proof::WithinLagOf(end)) {
                Ok(choice) => return Ok(Choice { within_lag_of: Some(end), ..choice }),
                Err(why) => refusal = why,
            }
        }
        if let Some(op) = op
            && matches!(op.kind, OperationKind::Failover { accept_data_loss: true, .. })
            && waited >= LOSS_SETTLE
            && let Ok(choice) = pick(&everybody, Proof::Waived)
        {
            return Ok(Choice { accepted: Some(op.id), ..choice });
        }
        let with_room = self.with_those_without_room(&everybody);
        if with_room.len() > all.len() && pick(&with_room, Proof::Quorum).is_ok() {
            return Err(Box::new(self.awaiting_room()));
        }
        let sealed = all.iter().map(|s| s.member.clone()).collect();
        Err(Box::new(Finding::AwaitingCandidates { refusal, sealed }))
    }

    /// Whether every member that answers and may lead is sealed: no better one is to be expected.
    fn all_sealed(&self, evidence: &[Sealed]) -> bool {
        self.state.members.iter().filter(|(_, m)| m.may_lead()).all(|(name, _)| {
            self.fresh(name).is_none() || evidence.iter().any(|s| s.member == *name)
        })
    }

    /// Sealed members that count.
    fn evidence(&self) -> Vec<Sealed> {
        self.state
            .members
            .iter()
            .filter(|(_, m)| m.may_lead())
            .filter_map(|(name, _)| {
                let report = &self.fresh(name)?.report;
                let Condition::Standby(view) = &report.condition else { return None };
                let sealed = view.sealed.as_ref()?;
                let same_life = report.guard.as_ref() == Some(&sealed.guard);
                let known = candidate::evidence_problem(self.state, sealed).is_none();
                let fit = view.counts && same_life && known;
                (fit && sealed.member == *name)
                    .then(|| Sealed { no_room: !self.has_room(name), ..sealed.clone() })
            })
            .collect()
    }

    /// Sealed members beside the evidence, where their word may be needed that they stand by the
    /// holder no more.
    fn witnesses(&self, tenure: &Tenure, evidence: &[Sealed]) -> Witnesses {
        if tenure.stopped || !tenure.failsafe {
            return Witnesses::new();
        }
        let beside = |m: &&MemberName| !evidence.iter().any(|s| s.member == **m);
        let asked = tenure.peers.iter().chain([&tenure.member]);
        asked
            .filter(|m| self.state.members.contains_key(*m))
            .filter(beside)
            .filter_map(|m| Some((m.clone(), self.sealed(m)?.promised)))
            .collect()
    }

    /// What a sealed member says of itself now, whether its data counts or not.
    fn sealed(&self, name: &MemberName) -> Option<&Sealed> {
        let report = &self.fresh(name)?.report;
        let Condition::Standby(view) = &report.condition else { return None };
        let sealed = view.sealed.as_ref()?;
        let same_life = report.guard.as_ref() == Some(&sealed.guard);
        (same_life && sealed.member == *name).then_some(sealed)
    }

    /// Reasons to wait although a candidate may be there.
    fn hold_back(
        &self,
        tenure: &Tenure,
        op: Option<&Operation>,
        wish: Option<&MemberName>,
        evidence: &[Sealed],
    ) -> Option<Finding> {
        let is_sealed = |m: &MemberName| evidence.iter().any(|s| s.member == *m);
        if let (Some(op), Some(target)) = (op, wish)
            && !is_sealed(target)
        {
            let closed = self.observed.closed_seen.map_or(self.now, |(_, at)| at);
            let patience = match op.kind {
                OperationKind::Failover { .. } => FAILOVER_TARGET_WAIT,
                // It has to start first.
                _ if *target == tenure.member => RESTART_WAIT,
                _ => TARGET_WAIT,
            };
            if self.now.since(closed) < patience {
                return Some(Finding::AwaitingTarget { member: target.clone() });
            }
        }
        let reason = tenure.closed.as_ref().map(|c| c.reason);
        if reason == Some(CloseReason::Crashed)
            && op.is_none_or(|op| !candidate::decides(op))
            && candidate::crash_bound_exceeded(self.state, self.wall)
            && !is_sealed(&tenure.member)
        {
            let crashes = self.state.crashes.len();
            return Some(Finding::CrashBound { member: tenure.member.clone(), crashes });
        }
        None
    }
}
