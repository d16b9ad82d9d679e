//! The state may not be the newest: what members know is asked first.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::super::command::Change;
use super::super::observation::Report;
use super::super::rescue::Verify;
use super::super::state::{CloseReason, OperationKind, Phase, Tenure};
use super::super::types::{Epoch, MemberName};
use super::{Finding, LOSS_SETTLE, Pass};

impl Pass<'_> {
    /// While the state is in doubt: asks members which epochs they know, and raises the epoch above
    /// them. Nothing else is done meanwhile.
    pub(super) fn doubt(&self, findings: &mut Vec<Finding>) -> ControlFlow<Option<Change>> {
        let Some(verify) = &self.state.verify else { return ControlFlow::Continue(()) };
        let known: BTreeMap<MemberName, Epoch> = self
            .state
            .members
            .keys()
            .filter_map(|m| Some((m.clone(), self.fresh(m)?.report.knows())))
            .collect();
        let highest = known.values().copied().max().unwrap_or_default();
        if self.state.outlived(highest) {
            findings.push(Finding::Outlived { known: highest });
            return ControlFlow::Break(None);
        }
        if verify.raised && self.state.phase == Phase::Running {
            // Sealing promises the next epoch. Whoever knows more has come back meanwhile.
            if highest <= self.state.epoch.next() {
                return match self.lost_since(&known) {
                    Some(change) => {
                        findings.push(Finding::RaisingEpoch { known: highest });
                        ControlFlow::Break(Some(change))
                    }
                    None => ControlFlow::Continue(()),
                };
            }
            // Nothing is raised over an open epoch, and its holder would lack that member for ever.
            if let Some(tenure) = self.state.open_tenure() {
                findings.push(Finding::RaisingEpoch { known: highest });
                return ControlFlow::Break(Some(Change::Close {
                    expect_epoch: tenure.epoch,
                    reason: CloseReason::Recovered,
                    stopped: false,
                }));
            }
            let accept_missing = self.accepts_missing();
            let unheard = |m: &&MemberName| !known.contains_key(*m);
            let missing: Vec<MemberName> =
                self.state.to_be_heard().filter(unheard).cloned().collect();
            if !missing.is_empty() && accept_missing.is_none() {
                findings.push(verifying(verify, missing));
                return ControlFlow::Break(self.operation_overdue(findings));
            }
            findings.push(Finding::RaisingEpoch { known: highest });
            let expect_epoch = self.state.epoch;
            return ControlFlow::Break(Some(Change::RaiseEpoch {
                expect_epoch,
                known,
                accept_missing,
            }));
        }
        // Members that this state does not know yet register meanwhile.
        let settles = self.ledger.elected().plus(self.state.spec.timing.takeover_wait());
        let missing: Vec<MemberName> =
            self.state.to_be_heard().filter(|m| !known.contains_key(*m)).cloned().collect();
        let accepted = self.accepts_missing();
        let accepts = !missing.is_empty() || !verify.complete;
        if (accepts && accepted.is_none()) || self.now < settles {
            findings.push(verifying(verify, missing));
            return ControlFlow::Break(self.operation_overdue(findings));
        }
        findings.push(Finding::RaisingEpoch { known: highest });
        let accept_missing = accepted.filter(|_| accepts);
        let expect_epoch = self.state.epoch;
        ControlFlow::Break(Some(Change::RaiseEpoch { expect_epoch, known, accept_missing }))
    }

    /// Members that were heard when the epoch was raised, and are gone since: as long as one of the
    /// holder and its peers is not stated to be lost, and none of them is sealed, nobody is granted
    /// anything where peers may have kept the holder. The operator accepts it for them, too; the
    /// epoch is raised once more by that.
    fn lost_since(&self, known: &BTreeMap<MemberName, Epoch>) -> Option<Change> {
        let accept_missing = Some(self.accepts_missing()?);
        let verify = self.state.verify.as_ref()?;
        // Of an epoch that was proven to have ended nobody has to bear witness.
        let ended = |t: &&Tenure| t.closed.is_some() && t.failsafe && !t.stopped;
        let tenure = self.state.tenure.as_ref().filter(ended)?;
        let mut waited_for = tenure.peers.iter().chain([&tenure.member]);
        // Longer than a daemon takes to be started anew, or a moment's trouble of the network lasts.
        let silent = |m: &MemberName| {
            let heard = self.observed.members.get(m).map(|o| self.now.since(o.at));
            heard.is_none_or(|ago| ago >= self.state.spec.timing.takeover_wait() + LOSS_SETTLE)
        };
        let gone = |m: &MemberName| {
            !known.contains_key(m) && self.state.members.contains_key(m) && silent(m)
        };
        let all_gone = waited_for.clone().all(|m| gone(m) || verify.lost.contains(m));
        let news = waited_for.any(|m| gone(m) && !verify.lost.contains(m));
        (all_gone && news).then(|| Change::RaiseEpoch {
            expect_epoch: self.state.epoch,
            known: known.clone(),
            accept_missing,
        })
    }

    /// The operation by which the operator accepts what missing members may have.
    fn accepts_missing(&self) -> Option<u64> {
        let op = self.state.operation.as_ref()?;
        let accepts = matches!(op.kind, OperationKind::Failover { accept_data_loss: true, .. });
        (accepts && self.since_seen(op)? >= LOSS_SETTLE).then_some(op.id)
    }
}

fn verifying(verify: &Verify, missing: Vec<MemberName>) -> Finding {
    let lost = verify.lost.iter().cloned().collect();
    Finding::Verifying { missing, lost, complete: verify.complete }
}

impl Report {
    /// The highest epoch that the member has heard of in a way that it remembers.
    pub fn knows(&self) -> Epoch {
        use super::super::observation::Condition;
        let seen = match &self.condition {
            Condition::Standby(view) => {
                let sealed = view.sealed.as_ref().map(|s| s.promised.max(s.wal_epoch));
                view.held.max(view.wal_epoch).max(sealed.unwrap_or_default())
            }
            Condition::Primary(view) => view.epoch,
            _ => Epoch(0),
        };
        self.promised.max(self.ended).max(seen)
    }
}
