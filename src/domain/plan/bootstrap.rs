//! The first data directory of a cluster.

use super::super::candidate::Refusal;
use super::super::command::Change;
use super::super::observation::{Condition, Data, Observed};
use super::super::types::{Epoch, MemberName};
use super::{Finding, Pass};

fn adoptable(report: Option<&Observed>) -> bool {
    report.is_some_and(|o| matches!(o.report.condition, Condition::Adoptable(_)))
}

impl Pass<'_> {
    pub(super) fn begin_bootstrap(&self, findings: &mut Vec<Finding>) -> Option<Change> {
        let mut ready = true;
        for member in &self.state.spec.bootstrap_members {
            let report = self.state.members.get(member).and_then(|_| self.fresh(member));
            self.adoptable_findings(member, findings);
            match report.map(|o| &o.report.data) {
                Some(Data::Empty) => {}
                Some(_) if adoptable(report) => ready = false,
                Some(Data::Present { system_id }) => {
                    let (member, system_id) = (member.clone(), *system_id);
                    findings.push(Finding::UnknownData { member, system_id });
                    ready = false;
                }
                _ => {
                    findings.push(Finding::AwaitingMember { member: member.clone() });
                    ready = false;
                }
            }
        }
        // Nobody waits for the word of other members, but data that one of them has is not passed over.
        let listed = &self.state.spec.bootstrap_members;
        for member in self.state.members.keys().filter(|m| !listed.contains(m)) {
            let latest = self.observed.members.get(member);
            self.adoptable_findings(member, findings);
            if adoptable(latest) {
                ready = false;
            } else if let Some(Data::Present { system_id }) = latest.map(|o| &o.report.data) {
                let (member, system_id) = (member.clone(), *system_id);
                findings.push(Finding::UnknownData { member, system_id });
                ready = false;
            }
        }
        let priority = |m: &&MemberName| self.state.members.get(*m).map_or(0, |x| x.priority);
        let fit = |m: &&MemberName| self.state.members.get(*m).is_some_and(|x| x.may_lead());
        let candidates = self.state.spec.bootstrap_members.iter().filter(fit);
        // The first of those with the greatest priority.
        let Some(chosen) =
            candidates.reduce(|a, b| if priority(&b) > priority(&a) { b } else { a })
        else {
            let refusal = Refusal::NoCandidate { epoch: Epoch(1) };
            findings.push(Finding::AwaitingCandidates { refusal, sealed: Vec::new() });
            return None;
        };
        ready.then(|| Change::BeginBootstrap { member: chosen.clone() })
    }

    pub(super) fn follow_bootstrap(
        &self,
        member: &MemberName,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        let mut problem = None;
        let latest = self.observed.members.get(member);
        if let Some(o) = latest {
            match (&o.report.data, &o.report.condition) {
                (Data::Present { system_id }, _) => {
                    return Some(Change::FinishBootstrap {
                        member: member.clone(),
                        system_id: *system_id,
                        epoch: Epoch(1),
                    });
                }
                (_, Condition::BootstrapFailed { why }) => problem = Some(why.clone()),
                _ => {}
            }
        }
        findings.push(Finding::Bootstrapping { member: member.clone(), problem });
        // However long it is silent: it may have made the data directory, and another one made
        // beside it could never be told from a foreign one.
        None
    }
}
