//! What the leader does next for a cluster, and why it does nothing where it does nothing.
//!
//! A pure function of agreed state, observations, ledger and time. It proposes at most one change;
//! the next pass sees its effect. Whatever it proposes, `apply` checks again.

mod adoption;
mod advice;
mod bootstrap;
mod closed;
mod finding;
mod health;
mod jobs;
mod open;
mod operation;
mod removal;
mod restart;
mod room;
mod spec;
mod sync;
mod verify;

use std::ops::ControlFlow;
use std::time::Duration;

use super::command::Change;
use super::lease::LeaderLedger;
use super::observation::{Condition, Observations, Observed};
use super::state::{ClusterState, Phase, Tenure};
use super::types::{BootTime, ClusterName, MemberName, WallMillis};
pub use adoption::adoption_check;
pub use finding::Finding;
pub use jobs::progress;
pub use operation::{OperationProblem, failover_check, reinitialise_check, switchover_check};
pub use removal::{NotDown, member_removal_check, members_not_down};
pub use restart::restart_check;

/// How old a report may be to say what a member is doing now.
pub const FRESH: Duration = Duration::from_secs(2);
/// How long the first standbys of an epoch are waited for before others are taken instead.
pub const FIRST_SYNC_WAIT: Duration = Duration::from_secs(2);
/// After how long a promoted member that is not confirmed waits for whoever else answers, also for
/// those that have to be rewound first.
pub const WIDEN_AFTER: Duration = Duration::from_secs(5);
/// How long a member that could not be promoted is passed over.
pub const GAVE_UP_FOR: Duration = Duration::from_secs(10);
/// How long a takeover waits for the target of a switchover to be sealed.
pub const TARGET_WAIT: Duration = Duration::from_secs(2);
/// How long a takeover waits for a primary that restarts where it is.
pub const RESTART_WAIT: Duration = Duration::from_secs(30);
/// How long a switchover may wait for the primary to stop.
pub const SWITCHOVER_DEADLINE: Duration = Duration::from_secs(20);
/// How long a granted member may take to be promoted, though it renews its lease.
pub const PROMOTION_DEADLINE: Duration = Duration::from_secs(60);
/// How long a takeover waits for the target of a failover by hand to be sealed.
pub const FAILOVER_TARGET_WAIT: Duration = Duration::from_secs(10);
/// How long a failover by hand waits for a candidate before it is given up as an operation.
pub const FAILOVER_DEADLINE: Duration = Duration::from_secs(60);
/// How long a takeover looks for a proof before the operator's acceptance of data loss is used.
pub const LOSS_SETTLE: Duration = Duration::from_secs(5);
/// How long a member that leaves may go on to count before its removal is given up.
pub const REMOVAL_DEADLINE: Duration = Duration::from_secs(60);
/// Most bytes that the target of a switchover may be behind.
pub const SWITCHOVER_LAG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What one pass decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What to propose.
    pub proposal: Option<Change>,
    /// Why, or why not.
    pub findings: Vec<Finding>,
}

/// One pass over one cluster. `wall` is for the bound on crashes and for histories only.
pub fn plan(
    cluster: &ClusterName,
    state: &ClusterState,
    observed: &Observations,
    ledger: &LeaderLedger,
    now: BootTime,
    wall: WallMillis,
) -> Plan {
    let pass = Pass { cluster, state, observed, ledger, now, wall };
    let mut findings = pass.member_findings();
    let doubt = pass.doubt(&mut findings);
    let proposal = match (doubt, &state.phase) {
        (ControlFlow::Break(change), _) => change,
        (_, Phase::AwaitingMembers) => pass.begin_bootstrap(&mut findings),
        (_, Phase::Bootstrapping { member }) => pass.follow_bootstrap(member, &mut findings),
        (_, Phase::Adopting { member, system_id, epoch, .. }) => {
            pass.follow_adoption(member, *system_id, *epoch, &mut findings)
        }
        (_, Phase::Running) => match &state.tenure {
            Some(t) if t.closed.is_none() => pass.watch_over(t, &mut findings),
            Some(t) => pass.take_over(t, &mut findings),
            None => None,
        },
    };
    let proposal = pass.unless_paused(proposal, &mut findings);
    let proposal = proposal
        .or_else(|| pass.attend_jobs(&mut findings))
        .or_else(|| pass.begin_scheduled(&mut findings))
        .or_else(|| pass.roll_back_spec(&mut findings))
        .or_else(|| pass.note_position())
        .or_else(|| pass.note_health());
    if findings.is_empty() {
        findings.push(Finding::Settled);
    }
    Plan { proposal, findings }
}

struct Pass<'a> {
    cluster: &'a ClusterName,
    state: &'a ClusterState,
    observed: &'a Observations,
    ledger: &'a LeaderLedger,
    now: BootTime,
    wall: WallMillis,
}

impl Pass<'_> {
    fn fresh(&self, member: &MemberName) -> Option<&Observed> {
        fresh(self.observed, member, self.now)
    }

    /// What members say that is wrong.
    fn member_findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for member in self.state.members.keys() {
            match self.fresh(member) {
                None => findings.push(Finding::MemberSilent { member: member.clone() }),
                Some(o) => {
                    let unknown = o.report.condition == Condition::Unknown;
                    let unknown = unknown.then(|| "what it is cannot be found out now".to_owned());
                    let alarms = o.report.alarms.iter().map(|a| a.text.clone());
                    let problems = o.report.problems.iter().cloned().chain(unknown).chain(alarms);
                    findings.extend(
                        problems.map(|problem| Finding::MemberProblem {
                            member: member.clone(),
                            problem,
                        }),
                    );
                }
            }
        }
        findings
    }

    /// `at`, and not before this leadership began: it has not heard of anything before.
    fn since(&self, at: Option<BootTime>) -> BootTime {
        at.unwrap_or(self.now).max(self.ledger.elected())
    }
}

fn tenure_guard(state: &ClusterState) -> super::types::GuardId {
    match &state.tenure {
        Some(t) => t.guard.clone(),
        None => super::types::GuardId::from_bytes([0; 16]),
    }
}

fn awaiting_peers(tenure: &Tenure) -> Finding {
    let peers = tenure.peers.iter().cloned().collect();
    Finding::AwaitingPeers { member: tenure.member.clone(), peers }
}

fn promoting(tenure: &Tenure, step: &'static str) -> Finding {
    Finding::Promoting { member: tenure.member.clone(), epoch: tenure.epoch, step }
}

fn fresh<'a>(
    observed: &'a Observations,
    member: &MemberName,
    now: BootTime,
) -> Option<&'a Observed> {
    observed.members.get(member).filter(|o| now.since(o.at) <= FRESH)
}
