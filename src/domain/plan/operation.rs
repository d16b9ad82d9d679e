//! Operations of the operator: whether they can be started, and their way through an epoch.

use std::time::Duration;

use super::super::candidate::Refusal;
use super::super::command::Change;
use super::super::observation::{Condition, Observations, PrimaryView};
use super::super::operation;
use super::super::space::Level;
use super::super::state::{ClusterState, Operation, OperationKind, Outcome, Tenure};
use super::super::types::{BootTime, Lsn, MemberName};
use super::{
    FAILOVER_DEADLINE, FRESH, Finding, Pass, SWITCHOVER_DEADLINE, SWITCHOVER_LAG_BYTES_MAX, fresh,
};

impl Pass<'_> {
    pub(super) fn attend_operation(
        &self,
        tenure: &Tenure,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        let op = self.state.operation.as_ref()?;
        if op.epoch != tenure.epoch {
            // An epoch between was closed for another reason; this one is active.
            let outcome = operation::outcome(op, &tenure.member);
            return Some(Change::FinishOperation { operation: op.id, outcome });
        }
        if let OperationKind::RollingRestart { guards, at, target: None } = &op.kind {
            return self.roll(op, guards, at.as_ref(), tenure, findings);
        }
        let target = op.kind.handover()?;
        let waited = self.since_handover(op).unwrap_or_default();
        let problem = match self.fresh(target) {
            _ if waited >= stop_deadline(op) => {
                Some(format!("the primary did not stop within {} s", waited.as_secs()))
            }
            // It stops itself.
            _ if *target == tenure.member => None,
            // A leader that is new has not heard of anybody yet.
            None if self.now.since(self.ledger.elected()) <= FRESH => None,
            None => Some(format!("{target} does not report any more")),
            // Unknown is not absent: the deadline bounds it.
            Some(o) => match &o.report.condition {
                Condition::Standby(_) | Condition::Unknown | Condition::Starting => None,
                _ => Some(format!("{target} is not a running standby any more")),
            },
        };
        match problem {
            Some(why) => {
                findings.push(Finding::OperationFailed { why: why.clone() });
                let outcome = Outcome::Failed { why };
                Some(Change::FinishOperation { operation: op.id, outcome })
            }
            None => {
                findings.push(Finding::SwitchingOver { target: target.clone() });
                None
            }
        }
    }
}

impl Pass<'_> {
    /// For how long this leader has seen the operation under way.
    pub(super) fn since_seen(&self, op: &Operation) -> Option<Duration> {
        self.observed.operations_seen.get(&op.id).map(|at| self.now.since(*at))
    }

    /// For how long this leader has seen that the primary is to leave its role; for operations by
    /// which nobody does so in order, how long it has seen them.
    pub(super) fn since_handover(&self, op: &Operation) -> Option<Duration> {
        let handing = self.observed.handover_seen.filter(|(id, _)| *id == op.id);
        handing.map(|(_, at)| self.now.since(at)).or_else(|| self.since_seen(op))
    }
}

/// How long a primary that is to leave its role may go on. It is told to the operator as a failure,
/// so it must be longer than an agent tries.
fn stop_deadline(op: &Operation) -> Duration {
    match op.kind {
        OperationKind::RestartPrimary { .. } => {
            SWITCHOVER_DEADLINE.max(Duration::from_millis(op.deadline_ms()))
        }
        _ => SWITCHOVER_DEADLINE,
    }
}

/// How long nobody may be found, or be on the way, before the operation is given up as one.
pub(super) fn takeover_deadline(op: &Operation) -> Duration {
    match op.kind {
        OperationKind::RestartPrimary { .. } => {
            FAILOVER_DEADLINE.max(Duration::from_millis(op.deadline_ms()))
        }
        _ => FAILOVER_DEADLINE,
    }
}

/// A reason why an operation is not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationProblem {
    /// The cluster has no active primary.
    #[error("the cluster has no active primary to take over from in order")]
    NoPrimary,
    /// No such member.
    #[error("there is no member named {0}")]
    UnknownMember(MemberName),
    /// The target is the primary.
    #[error("{0} is the primary already")]
    AlreadyPrimary(MemberName),
    /// Another operation is under way.
    #[error("operation {0} is under way")]
    OperationUnderWay(u64),
    /// The target is tagged.
    #[error("{0} is tagged nofailover, or applies WAL late")]
    Tagged(MemberName),
    /// The target does not report.
    #[error("{0} does not report")]
    Silent(MemberName),
    /// The target does not stream.
    #[error("{0} does not stream from the primary")]
    NotStreaming(MemberName),
    /// The target's data is a copy that is not proven yet.
    #[error("{0} was copied and has not caught up since")]
    Unproven(MemberName),
    /// The target's disk is full.
    #[error("the disk of {0} is as good as full")]
    NoRoom(MemberName),
    /// The target is behind.
    #[error("{member} is {lag_bytes} bytes behind, and at most {max_bytes} are allowed")]
    Lagging {
        /// Who.
        member: MemberName,
        /// By how much.
        lag_bytes: u64,
        /// The bound.
        max_bytes: u64,
    },
    /// The read quorum would not hold after it.
    #[error("after the primary stopped no member could be promoted: {0}")]
    NoQuorum(Refusal),
    /// No member is fit.
    #[error("no standby is fit to become primary")]
    NoTarget,
    /// Nothing happens by itself now.
    #[error("the cluster is paused by {0}")]
    Paused(String),
    /// The member has a job.
    #[error("{member} is busy with operation {id}")]
    Busy {
        /// Who.
        member: MemberName,
        /// With which operation.
        id: u64,
    },
    /// It is for standbys only.
    #[error("{0} is the primary")]
    IsPrimary(MemberName),
    /// Nobody has to be restarted.
    #[error("no member waits for a restart")]
    NothingPending,
    /// Nothing of it runs.
    #[error("PostgreSQL of {0} does not run")]
    NotRunning(MemberName),
    /// Commits would wait, or could not be proven, without it.
    #[error(
        "without {member} fewer than {floor} standbys could confirm commits, and write_quorum_min \
         is {floor}"
    )]
    Needed {
        /// Who.
        member: MemberName,
        /// The least number of confirmations.
        floor: u32,
    },
    /// The primary is healthy.
    #[error("{0} is a healthy primary: use switchover, or accept data loss explicitly")]
    PrimaryHealthy(MemberName),
}

impl OperationProblem {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            OperationProblem::NoPrimary => "switchover.primary",
            OperationProblem::UnknownMember(_) => "member.exists",
            OperationProblem::AlreadyPrimary(_) => "switchover.target-is-standby",
            OperationProblem::OperationUnderWay(_) => "operation.one-at-a-time",
            OperationProblem::Tagged(_) => "switchover.target-tag",
            OperationProblem::Silent(_) => "switchover.target-reports",
            OperationProblem::NotStreaming(_) => "switchover.target-streams",
            OperationProblem::Unproven(_) => "switchover.target-proven",
            OperationProblem::NoRoom(_) => "switchover.target-room",
            OperationProblem::Lagging { .. } => "switchover.target-lag",
            OperationProblem::NoQuorum(_) => "switchover.read-quorum",
            OperationProblem::NoTarget => "switchover.target",
            OperationProblem::Paused(_) => "cluster.paused",
            OperationProblem::Busy { .. } => "operation.one-a-member",
            OperationProblem::IsPrimary(_) => "operation.standby-only",
            OperationProblem::NothingPending => "restart.pending",
            OperationProblem::NotRunning(_) => "restart.running",
            OperationProblem::Needed { .. } => "reinitialise.write-quorum",
            OperationProblem::PrimaryHealthy(_) => "failover.primary-gone",
        }
    }
}

/// Whether a switchover can be started now, and to whom.
pub fn switchover_check(
    state: &ClusterState,
    observed: &Observations,
    target: Option<&MemberName>,
    now: BootTime,
) -> Result<MemberName, Vec<OperationProblem>> {
    free(state)?;
    best_target(state, observed, target, now)
}

/// Nothing stands against any operation that changes the primary.
pub(super) fn free(state: &ClusterState) -> Result<(), Vec<OperationProblem>> {
    if let Some(op) = &state.operation {
        return Err(vec![OperationProblem::OperationUnderWay(op.id)]);
    }
    if let Some(paused) = &state.paused {
        return Err(vec![OperationProblem::Paused(paused.by.clone())]);
    }
    Ok(())
}

/// Who would be primary after this one left its role in order.
pub(super) fn best_target(
    state: &ClusterState,
    observed: &Observations,
    target: Option<&MemberName>,
    now: BootTime,
) -> Result<MemberName, Vec<OperationProblem>> {
    let Some(primary) = state.active_primary() else {
        return Err(vec![OperationProblem::NoPrimary]);
    };
    if let Some(target) = target {
        let problems = target_problems(state, observed, primary, target, now);
        return if problems.is_empty() { Ok(target.clone()) } else { Err(problems) };
    }
    let mut fit: Vec<&MemberName> = state
        .members
        .keys()
        .filter(|m| target_problems(state, observed, primary, m, now).is_empty())
        .collect();
    let flushed = |m: &MemberName| match primary_of(state, observed, now) {
        Some(view) => view.standbys.get(m).map_or(Lsn(0), |s| s.flushed),
        None => Lsn(0),
    };
    let priority = |m: &MemberName| state.members.get(m).map_or(0, |x| x.priority);
    fit.sort_by(|a, b| {
        (priority(b), flushed(b)).cmp(&(priority(a), flushed(a))).then_with(|| a.cmp(b))
    });
    match fit.first() {
        Some(best) => Ok((*best).clone()),
        None => Err(vec![OperationProblem::NoTarget]),
    }
}

fn primary_of<'a>(
    state: &ClusterState,
    observed: &'a Observations,
    now: BootTime,
) -> Option<&'a PrimaryView> {
    let tenure = state.open_tenure()?;
    match &fresh(observed, &tenure.member, now)?.report.condition {
        Condition::Primary(view) if view.epoch == tenure.epoch => Some(view),
        _ => None,
    }
}

fn target_problems(
    state: &ClusterState,
    observed: &Observations,
    primary: &MemberName,
    target: &MemberName,
    now: BootTime,
) -> Vec<OperationProblem> {
    let Some(member) = state.members.get(target) else {
        return vec![OperationProblem::UnknownMember(target.clone())];
    };
    if target == primary {
        return vec![OperationProblem::AlreadyPrimary(target.clone())];
    }
    let mut problems = Vec::new();
    if !member.may_lead() {
        problems.push(OperationProblem::Tagged(target.clone()));
    }
    if let Some(job) = state.jobs.get(target) {
        problems.push(OperationProblem::Busy { member: target.clone(), id: job.id });
    }
    let Some(own) = fresh(observed, target, now) else {
        problems.push(OperationProblem::Silent(target.clone()));
        return problems;
    };
    match &own.report.condition {
        Condition::Standby(view) if !view.counts => {
            problems.push(OperationProblem::Unproven(target.clone()));
        }
        _ => {}
    }
    if own.report.disks.level() == Level::Critical {
        problems.push(OperationProblem::NoRoom(target.clone()));
    }
    let Some(view) = primary_of(state, observed, now) else {
        problems.push(OperationProblem::Silent(primary.clone()));
        return problems;
    };
    match view.standbys.get(target) {
        Some(seen) if seen.streaming => {
            let lag_bytes = view.flushed.0.saturating_sub(seen.flushed.0);
            if lag_bytes > SWITCHOVER_LAG_BYTES_MAX {
                problems.push(OperationProblem::Lagging {
                    member: target.clone(),
                    lag_bytes,
                    max_bytes: SWITCHOVER_LAG_BYTES_MAX,
                });
            }
        }
        _ => problems.push(OperationProblem::NotStreaming(target.clone())),
    }
    problems
}

/// Whether a failover by hand can be started now.
pub fn failover_check(
    state: &ClusterState,
    observed: &Observations,
    ledger_silence: Option<Duration>,
    target: Option<&MemberName>,
    accept_data_loss: bool,
    now: BootTime,
) -> Result<(), Vec<OperationProblem>> {
    let mut problems = free(state).err().unwrap_or_default();
    if let Some(target) = target
        && !state.members.contains_key(target)
    {
        problems.push(OperationProblem::UnknownMember(target.clone()));
    }
    if let Some(target) = target
        && state.members.get(target).is_some_and(|m| !m.may_lead())
    {
        problems.push(OperationProblem::Tagged(target.clone()));
    }
    if state.tenure.is_none() {
        problems.push(OperationProblem::NoPrimary);
    }
    // Healthy: it renews, and it says so.
    let renews = ledger_silence.is_some_and(|s| s < state.spec.timing.suspect());
    if let Some(primary) = state.active_primary()
        && renews
        && primary_of(state, observed, now).is_some()
        && !accept_data_loss
    {
        problems.push(OperationProblem::PrimaryHealthy(primary.clone()));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Whether `member` can be copied anew now: what it has is given up for that.
pub fn reinitialise_check(
    state: &ClusterState,
    observed: &Observations,
    member: &MemberName,
    now: BootTime,
) -> Result<(), Vec<OperationProblem>> {
    let mut problems = standby_problems(state, member);
    if problems.is_empty() {
        if fresh(observed, member, now).is_none() {
            problems.push(OperationProblem::Silent(member.clone()));
        }
        let floor = state.spec.write_quorum_min;
        let primary = state.active_primary();
        // Those that are there to confirm instead.
        let others = state.members.iter().filter(|(name, m)| {
            let able = primary.is_some_and(|p| *name != p && m.may_confirm(p));
            let there = fresh(observed, name, now).is_some_and(|o| {
                matches!(&o.report.condition, Condition::Standby(v) if v.counts && v.streaming.is_some())
            });
            *name != member && able && there && state.reinitialisation_of(name).is_none()
        });
        let counted = state.current_sync().is_some_and(|c| c.members.contains(member));
        if counted && others.count() < floor as usize {
            problems.push(OperationProblem::Needed { member: member.clone(), floor });
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// What stands against any job of a standby.
pub(super) fn standby_problems(state: &ClusterState, member: &MemberName) -> Vec<OperationProblem> {
    if !state.members.contains_key(member) {
        return vec![OperationProblem::UnknownMember(member.clone())];
    }
    if let Some(op) = &state.operation {
        return vec![OperationProblem::OperationUnderWay(op.id)];
    }
    if let Some(job) = state.jobs.get(member) {
        return vec![OperationProblem::Busy { member: member.clone(), id: job.id }];
    }
    match state.active_primary() {
        None => vec![OperationProblem::NoPrimary],
        Some(primary) if primary == member => vec![OperationProblem::IsPrimary(member.clone())],
        Some(_) => Vec::new(),
    }
}
