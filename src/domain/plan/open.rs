//! An open epoch: watching over its holder, and closing it.

use super::super::candidate::{self, Proof, Refusal};
use super::super::command::Change;
use super::super::failsafe::{self, Witnesses};
use super::super::mutant::{self, Mutant};
use super::super::observation::{Condition, PrimaryView, Progress, Sealed};
use super::super::state::{CloseReason, Stage, Tenure};
use super::super::types::{Epoch, Lsn};
use super::{Finding, PROMOTION_DEADLINE, Pass, awaiting_peers, promoting, tenure_guard};

impl Pass<'_> {
    pub(super) fn watch_over(
        &self,
        tenure: &Tenure,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        if let Some(change) = self.holder_stopped(tenure, findings) {
            return Some(change);
        }
        if let Some(change) = self.holder_silent(tenure, findings) {
            // It may be gone for good: then only another operation helps.
            return change.or_else(|| self.operation_overdue(findings));
        }
        if let Some(change) = self.promotion_overdue(tenure, findings) {
            return Some(change);
        }
        let view = self.primary_view(tenure);
        let sync_change = self.sync_change(tenure, view, findings);
        match tenure.stage {
            Stage::Granted => {
                let step = if view.is_some() { "promoting" } else { "accepting the grant" };
                findings.push(promoting(tenure, step));
                match view.map(|v| &v.progress) {
                    Some(Progress::Promoted { lineage }) => Some(Change::RecordPromotion {
                        expect_epoch: tenure.epoch,
                        guard: tenure.guard.clone(),
                        lineage: lineage.clone(),
                    }),
                    _ => self.operation_overdue(findings),
                }
            }
            Stage::Promoted => {
                findings.push(promoting(tenure, "waiting for the barrier"));
                let confirmed = view.and_then(|v| v.confirmed.as_ref());
                let all = confirmed.filter(|c| c.syncs == self.state.syncs);
                let skipped = mutant::without(Mutant::NoBarrier).then_some(0);
                match all.map(|c| c.postmaster_start_us).or(skipped) {
                    Some(postmaster_start_us) => Some(Change::Activate {
                        expect_epoch: tenure.epoch,
                        guard: tenure.guard.clone(),
                        expect_syncs: self.state.syncs.clone(),
                        postmaster_start_us,
                    }),
                    None => sync_change.or_else(|| self.operation_overdue(findings)),
                }
            }
            Stage::Active { .. } => self
                .finish_sync_change(tenure, view, findings)
                .or_else(|| self.attend_operation(tenure, findings))
                .or(sync_change)
                .or_else(|| self.attend_removals(tenure, findings)),
        }
    }

    /// A member that renews its lease and is never promoted must not hold the cluster for ever.
    fn promotion_overdue(&self, tenure: &Tenure, findings: &mut Vec<Finding>) -> Option<Change> {
        let (_, seen) = self.observed.epoch_seen.filter(|(e, _)| *e == tenure.epoch)?;
        let late = self.now.since(seen) >= PROMOTION_DEADLINE;
        if tenure.stage != Stage::Granted || !late || self.likely_refusal().is_some() {
            return None;
        }
        findings.push(promoting(tenure, "it took too long, and the epoch is closed"));
        let reason = CloseReason::GivenUp;
        Some(Change::Close { expect_epoch: tenure.epoch, reason, stopped: false })
    }

    /// Whether the holder's process tree is proven empty: by the record of the very guard that was
    /// granted the epoch, and of nobody else.
    pub(super) fn proven_stop(&self, tenure: &Tenure) -> bool {
        let report = self.observed.members.get(&tenure.member).map(|o| &o.report);
        let any_guard = mutant::without(Mutant::ProofOfAnyGuard);
        report.is_some_and(|r| {
            r.ended >= tenure.epoch && (any_guard || r.emptied.contains(&tenure.guard))
        })
    }

    /// A proven stop ends the epoch at once.
    fn holder_stopped(&self, tenure: &Tenure, findings: &mut Vec<Finding>) -> Option<Change> {
        // A proof is durable on the member: it does not grow old.
        let report = &self.observed.members.get(&tenure.member)?.report;
        if !self.proven_stop(tenure) {
            return None;
        }
        let (member, epoch) = (tenure.member.clone(), tenure.epoch);
        findings.push(Finding::HolderStopped { member, epoch });
        let asked = self
            .state
            .operation
            .as_ref()
            .is_some_and(|op| op.epoch == tenure.epoch && op.kind.handover().is_some());
        let reason = match (report.crashed, asked) {
            (true, _) => CloseReason::Crashed,
            (false, true) => CloseReason::Switchover,
            (false, false) => CloseReason::GivenUp,
        };
        Some(Change::Close { expect_epoch: tenure.epoch, reason, stopped: true })
    }

    /// A silent holder is closed where a takeover is likely to succeed. `Some(None)`: it is silent,
    /// and nothing can be done.
    fn holder_silent(
        &self,
        tenure: &Tenure,
        findings: &mut Vec<Finding>,
    ) -> Option<Option<Change>> {
        let seen = self.observed.epoch_seen.filter(|(e, _)| *e == tenure.epoch).map(|(_, at)| at);
        let base = self.ledger.base(self.cluster, tenure.epoch).max(seen.unwrap_or(self.now));
        let silence = self.now.since(base);
        if silence < self.state.spec.timing.suspect() {
            return None;
        }
        findings.push(Finding::HolderSilent { member: tenure.member.clone(), silence });
        // A holder that has recorded the end of the epoch never renews it again, also where it
        // cannot prove that its process tree is gone: only once the epoch is closed can it be sealed,
        // and count. A record does not grow old.
        let report = self.observed.members.get(&tenure.member).map(|o| &o.report);
        let given_up = report.is_some_and(|r| r.ended >= tenure.epoch);
        if !given_up && !failsafe::is_lapsed(self.state, tenure, &self.likely_witnesses()) {
            // It may be healthy by its peers' promises, and nobody could follow it.
            findings.push(awaiting_peers(tenure));
            return Some(None);
        }
        match self.likely_refusal().filter(|_| !given_up) {
            Some(refusal) => {
                findings.push(match self.likely_refusal_of(&self.likely(false)) {
                    Some(_) => Finding::TakeoverWouldFail { refusal },
                    // Only room is missing.
                    None => self.awaiting_room(),
                });
                Some(None)
            }
            None => Some(Some(Change::Close {
                expect_epoch: tenure.epoch,
                reason: CloseReason::LeaseLost,
                stopped: false,
            })),
        }
    }

    /// Why a takeover would be refused if every standby that answers now were sealed now.
    fn likely_refusal(&self) -> Option<Refusal> {
        let everybody = self.likely(false);
        let best = candidate::choose(self.state, &everybody, None, Proof::Quorum);
        if best.is_ok_and(|best| !best.no_room) {
            return None;
        }
        self.likely_refusal_of(&self.likely(true))
    }

    /// What the standbys that answer now would be, sealed; with `room`, only those that have some.
    fn likely(&self, room: bool) -> Vec<Sealed> {
        self.state
            .members
            .iter()
            .filter(|(_, m)| m.may_lead())
            .filter_map(|(name, _)| {
                let report = &self.fresh(name)?.report;
                let Condition::Standby(view) = &report.condition else { return None };
                let fit = view.counts && (!room || self.has_room(name));
                fit.then(|| Sealed {
                    member: name.clone(),
                    guard: report.guard.clone().unwrap_or_else(|| tenure_guard(self.state)),
                    promised: self.state.epoch.next(),
                    // Not known while it does not stream; it may well be that of the primary.
                    wal_epoch: match view.wal_epoch {
                        Epoch(0) => self.state.lineage.last().map_or(Epoch(0), |e| e.epoch),
                        known => known.min(self.state.epoch),
                    },
                    lsn: view.flushed,
                    // The member of the epoch counts as its holder once that is closed.
                    held: match &self.state.tenure {
                        Some(t) if t.member == *name => t.epoch,
                        _ => view.held.min(self.state.epoch),
                    },
                    lineage: self.state.lineage.clone(),
                    no_room: !self.has_room(name),
                })
            })
            .collect()
    }

    /// Who would be sealed soon, whether it may lead or not. A standby that replays late is sealed
    /// once it has replayed all that it held back: a primary that its peers keep is not ended for
    /// that. Where such a standby is the last peer, the operator takes its delay away.
    fn likely_witnesses(&self) -> Witnesses {
        let next = self.state.epoch.next();
        let soon = self.state.members.iter().filter(|(name, member)| {
            let observed = self.fresh(name);
            let condition = observed.map(|o| &o.report.condition);
            let counts = matches!(condition, Some(Condition::Standby(view)) if view.counts);
            counts && member.tags.delay_ms == 0
        });
        soon.map(|(name, _)| (name.clone(), next)).collect()
    }

    fn likely_refusal_of(&self, likely: &[Sealed]) -> Option<Refusal> {
        let refusal = candidate::choose(self.state, likely, None, Proof::Quorum).err()?;
        match self.primary_end() {
            Some(end) => candidate::choose(self.state, likely, None, Proof::WithinLagOf(end)).err(),
            None => Some(refusal),
        }
    }

    /// How far the last primary that wrote is known to have been, where the operator allows a
    /// member to be short of that.
    pub(super) fn primary_end(&self) -> Option<Lsn> {
        self.state.spec.max_lag_bytes?;
        let wrote = self.state.lineage.last()?.epoch;
        let of = |end: Option<(Epoch, Lsn)>| end.filter(|(e, _)| *e == wrote).map(|(_, lsn)| lsn);
        // What a standby heard may be long ago: it only adds to what the primary itself has said.
        let told = of(self.observed.primary_told).max(of(self.state.primary_end))?;
        Some(told.max(of(self.observed.primary_end).unwrap_or_default()))
    }

    pub(super) fn primary_view(&self, tenure: &Tenure) -> Option<&PrimaryView> {
        let report = &self.fresh(&tenure.member)?.report;
        match &report.condition {
            Condition::Primary(view)
                if view.epoch == tenure.epoch && report.guard.as_ref() == Some(&tenure.guard) =>
            {
                Some(view)
            }
            _ => None,
        }
    }
}
