//! Members that leave, and clusters that are removed: what stands against it, and the way out.

use std::time::Duration;

use super::super::command::Change;
use super::super::failsafe::leaves_no_peer;
use super::super::membership::{MembershipChange, MembershipRefusal};
use super::super::mutant::{Mutant, without};
use super::super::observation::{Condition, Observations};
use super::super::state::{ClusterState, SynchronousMode, Tenure};
use super::super::types::{BootTime, MemberName};
use super::operation::primary_of;
use super::{Finding, Pass, REMOVAL_DEADLINE, fresh};

impl Pass<'_> {
    /// Removes members that are in no configuration any more. The planner's ordinary change of the
    /// configuration leaves them out.
    pub(super) fn attend_removals(
        &self,
        tenure: &Tenure,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        let mut proposal = None;
        for member in self.state.leaving.keys() {
            findings.push(Finding::MemberLeaving { member: member.clone() });
            let seen = self.observed.leaving_seen.get(member);
            let waited = seen.map_or(Duration::ZERO, |at| self.now.since(*at));
            let counts = self.state.syncs.iter().any(|c| c.members.contains(member));
            let free = self.state.operation.is_none() && !self.state.jobs.contains_key(member);
            let may_leave = !counts || without(Mutant::CountingMemberLeaves);
            let gone = [member].into();
            let change = if tenure.peers.contains(member) && leaves_no_peer(tenure, &gone) {
                let why = format!(
                    "it is the last peer of {} in epoch {}, which has failsafe",
                    tenure.member, tenure.epoch
                );
                MembershipChange::AbandonRemoval { member: member.clone(), why }
            } else if may_leave && free {
                let (expect_epoch, member) = (tenure.epoch, member.clone());
                MembershipChange::FinishRemoval { expect_epoch, member }
            } else if waited >= REMOVAL_DEADLINE {
                let why = format!(
                    "after {} s it still counts in a synchronous configuration: the others do not \
                     confirm a new one",
                    waited.as_secs()
                );
                MembershipChange::AbandonRemoval { member: member.clone(), why }
            } else {
                continue;
            };
            proposal = proposal.or(Some(Change::Membership(change)));
        }
        proposal
    }
}

/// What the leader sees that stands against the removal of a member; what the agreed state says
/// against it, `apply` knows.
pub fn member_removal_check(
    state: &ClusterState,
    observed: &Observations,
    member: &MemberName,
    now: BootTime,
) -> Result<(), MembershipRefusal> {
    if let Some(tenure) = state.open_tenure().filter(|t| t.failsafe && t.peers.contains(member)) {
        // Peers that are gone for good bear no witness.
        let answers = |m: &&MemberName| *m != member && fresh(observed, m, now).is_some();
        if !tenure.peers.iter().any(|peer| answers(&peer)) {
            let (member, holder) = (member.clone(), tenure.member.clone());
            return Err(MembershipRefusal::LastPeer { member, holder, epoch: tenure.epoch });
        }
    }
    let counts = state.syncs.iter().any(|c| c.members.contains(member));
    let floor = match state.spec.synchronous {
        SynchronousMode::Async => 0,
        SynchronousMode::Quorum | SynchronousMode::Priority => state.spec.write_quorum_min,
    };
    let Some(primary) = state.active_primary().filter(|_| counts && floor > 0) else {
        return Ok(());
    };
    let view = primary_of(state, observed, now);
    let streams = |name: &&MemberName| {
        let seen = view.and_then(|v| v.standbys.get(*name));
        *name != member
            && state.may_confirm(name, primary)
            && seen.is_some_and(|s| s.streaming)
            && fresh(observed, name, now).is_some()
    };
    let streaming = state.members.keys().filter(streams).count();
    let streaming = u32::try_from(streaming).unwrap_or(u32::MAX);
    match streaming < floor {
        true => Err(MembershipRefusal::OthersStream { member: member.clone(), streaming, floor }),
        false => Ok(()),
    }
}

/// Members of a cluster that are not known to be down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotDown {
    /// Those that run, by their own fresh reports.
    pub running: Vec<MemberName>,
    /// Those that have not been heard of just now: they may run.
    pub silent: Vec<MemberName>,
}

impl NotDown {
    /// What that says against the removal of the cluster.
    pub fn check(self) -> Result<(), MembershipRefusal> {
        match self {
            Self { running, .. } if !running.is_empty() => {
                Err(MembershipRefusal::MembersRun { members: running })
            }
            Self { silent, .. } if !silent.is_empty() => {
                Err(MembershipRefusal::MembersSilent { members: silent })
            }
            Self { .. } => Ok(()),
        }
    }
}

/// Who of a cluster is not known to be down. Only a fresh report says so: a leader that has just
/// begun has none.
pub fn members_not_down(state: &ClusterState, observed: &Observations, now: BootTime) -> NotDown {
    let mut out = NotDown::default();
    for name in state.members.keys() {
        let down = |c: &Condition| {
            matches!(
                c,
                Condition::Down | Condition::BootstrapFailed { .. } | Condition::Adoptable(_)
            )
        };
        match fresh(observed, name, now) {
            Some(o) if down(&o.report.condition) => {}
            Some(_) => out.running.push(name.clone()),
            None => out.silent.push(name.clone()),
        }
    }
    out
}
