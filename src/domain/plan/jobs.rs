//! Jobs of single members, what begins later, and the pause.

use super::super::command::Change;
use super::super::observation::{Condition, Data, Observations};
use super::super::operation::{GRACE_MS, Later, Step};
use super::super::state::{ClusterState, Operation, OperationKind, Outcome};
use super::super::types::{BootTime, GuardId, MemberName};
use super::operation::switchover_check;
use super::restart::restart_check;
use super::{Finding, OperationProblem, Pass, fresh};

impl Pass<'_> {
    /// Under a pause no epoch is closed and none is granted: whatever ends stays as it is.
    pub(super) fn unless_paused(
        &self,
        proposal: Option<Change>,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        let Some(paused) = &self.state.paused else { return proposal };
        if paused.until.is_some_and(|until| self.wall >= until) {
            let by = "the end of its time".to_owned();
            return Some(Change::Resume { over: paused.until, by });
        }
        findings.push(Finding::Paused { by: paused.by.clone() });
        proposal.filter(|change| !matches!(change, Change::Close { .. } | Change::Grant(_)))
    }

    /// Ends the jobs that are done, and those that cannot be.
    pub(super) fn attend_jobs(&self, findings: &mut Vec<Finding>) -> Option<Change> {
        let mut ended = None;
        for (member, job) in &self.state.jobs {
            if let Some(step) = self.job_step(member, job) {
                ended = ended.or(Some(step));
                continue;
            }
            let outcome = self.job_outcome(member, job).or_else(|| {
                if !self.may_be_given_up(member, job) {
                    return None;
                }
                let late = self.since_seen(job)?.as_millis() >= u128::from(job.deadline_ms());
                let why = format!("not done in time: {}", progress(self.state, self.observed, job));
                late.then_some(Outcome::Failed { why })
            });
            match outcome {
                Some(outcome) => {
                    ended = ended.or(Some(Change::FinishOperation { operation: job.id, outcome }));
                }
                None => findings.push(Finding::Working {
                    member: member.clone(),
                    operation: job.id,
                    text: progress(self.state, self.observed, job),
                }),
            }
        }
        ended
    }

    /// A standby whose data nothing rests on any more may begin to replace it.
    fn job_step(&self, member: &MemberName, job: &Operation) -> Option<Change> {
        let OperationKind::Reinitialise { begun: false, .. } = job.kind else { return None };
        let primary = self.state.active_primary()?;
        let named = self.state.syncs.iter().any(|c| c.members.contains(member));
        let ready = primary != member && !named && self.fresh(member).is_some();
        let step = Step::Copy;
        ready.then_some(Change::StepOperation { operation: job.id, step })
    }

    /// Whether the operation may end though it is not done. A member that may be about to replace
    /// its data is waited for until it says that it counts on its own for nothing.
    fn may_be_given_up(&self, member: &MemberName, job: &Operation) -> bool {
        !self.state.is_given_up(member)
            || self
                .fresh(member)
                .is_some_and(|o| o.report.data == Data::Incomplete || o.report.copied_for >= job.id)
    }

    fn job_outcome(&self, member: &MemberName, job: &Operation) -> Option<Outcome> {
        let failed = |why: String| Some(Outcome::Failed { why });
        if !self.state.members.contains_key(member) {
            return failed(format!("{member} is not a member any more"));
        }
        let report = &self.fresh(member)?.report;
        let leads = self.state.open_tenure().is_some_and(|t| t.member == *member);
        match &job.kind {
            OperationKind::Reload { .. } => {
                let reloaded = report.reloaded.as_ref().filter(|r| r.operation >= job.id)?;
                match reloaded.problem.is_empty() {
                    true => Some(Outcome::Completed),
                    false => failed(reloaded.problem.clone()),
                }
            }
            OperationKind::Restart { guard, .. } => match self.is_back(member, guard) {
                true => Some(Outcome::Completed),
                false if leads => failed(format!("{member} became primary meanwhile")),
                false => None,
            },
            OperationKind::Reinitialise { .. } if leads => {
                failed(format!("{member} became primary meanwhile"))
            }
            OperationKind::Reinitialise { .. } => match &report.condition {
                Condition::Standby(view)
                    if report.copied_for >= job.id && view.counts && view.streaming.is_some() =>
                {
                    Some(Outcome::Completed)
                }
                _ => None,
            },
            _ => failed("it is no operation of a member".to_owned()),
        }
    }

    /// Whether the member runs in another life of its guard than this, and serves: it streams, or
    /// leads.
    pub(super) fn is_back(&self, member: &MemberName, guard: &GuardId) -> bool {
        let report = self.fresh(member).map(|o| &o.report);
        report.is_some_and(|r| {
            let another = r.guard.as_ref().is_some_and(|g| g != guard);
            let serves = match &r.condition {
                Condition::Standby(view) => view.streaming.is_some(),
                Condition::Primary(_) => true,
                _ => false,
            };
            another && serves
        })
    }

    /// Begins what is due, and gives up what could not begin within its time.
    pub(super) fn begin_scheduled(&self, findings: &mut Vec<Finding>) -> Option<Change> {
        let due = self.state.scheduled.values().filter_map(|op| match &op.kind {
            OperationKind::Later { at, what } if *at <= self.wall => Some((op, *at, what)),
            _ => None,
        });
        for (op, at, what) in due {
            let late = self.wall.0.saturating_sub(at.0) > GRACE_MS;
            let why = match (late, self.beginning(op, what)) {
                (false, Ok(change)) => {
                    let change = Box::new(change);
                    return Some(Change::StartScheduled { operation: op.id, change });
                }
                (true, Ok(_)) => "the control plane was not there to begin it in time".to_owned(),
                (_, Err(problems)) => {
                    let each: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    each.join("; ")
                }
            };
            if late {
                let outcome = Outcome::Failed { why: format!("its time is over: {why}") };
                return Some(Change::FinishOperation { operation: op.id, outcome });
            }
            findings.push(Finding::ScheduledWaits { operation: op.id, why });
        }
        None
    }

    fn beginning(&self, op: &Operation, what: &Later) -> Result<Change, Vec<OperationProblem>> {
        let (state, seen, now) = (self.state, self.observed, self.now);
        let (expect_epoch, by) = (state.epoch, op.by.clone());
        match what {
            Later::Switchover { target } => {
                let target = switchover_check(state, seen, target.as_ref(), now)?;
                Ok(Change::StartSwitchover { expect_epoch, target, by })
            }
            Later::Restart { member, pending_only, in_place } => {
                let restart =
                    restart_check(state, seen, member.as_ref(), *pending_only, *in_place, now)?;
                Ok(Change::StartRestart { expect_epoch, restart, deadline_ms: 0, by })
            }
        }
    }
}

/// How far an operation is, in one clause; empty where nothing is known of it.
pub fn progress(state: &ClusterState, observed: &Observations, op: &Operation) -> String {
    let condition = |m: &MemberName| observed.members.get(m).map(|o| &o.report.condition);
    match &op.kind {
        OperationKind::Later { .. } => String::new(),
        OperationKind::Switchover { target } => match state.open_tenure() {
            Some(t) if t.epoch == op.epoch => format!("waiting for {} to stop", t.member),
            Some(t) => format!("{} is on its way to be primary", t.member),
            None => format!("waiting until {target} may be promoted"),
        },
        OperationKind::RestartPrimary { member } => match state.open_tenure() {
            Some(t) if t.epoch == op.epoch => format!("waiting for {member} to stop"),
            Some(t) => format!("{} is on its way to be primary again", t.member),
            None => format!("waiting for {member} to start"),
        },
        OperationKind::Failover { .. } => match state.open_tenure() {
            Some(t) => format!("{} is on its way to be primary", t.member),
            None => "waiting for a member that may be promoted".to_owned(),
        },
        OperationKind::RollingRestart { guards, at, target } => {
            let another = |(m, old): &(&MemberName, &GuardId)| {
                let guard = observed.members.get(*m).and_then(|o| o.report.guard.as_ref());
                guard.is_some_and(|g| g != *old)
            };
            let done = guards.iter().filter(another).count();
            let turn = match (at, target) {
                (Some(m), Some(to)) if m == to => format!("; {m} restarts as primary"),
                (Some(m), Some(to)) => format!("; {m} hands the primary's role to {to}"),
                (Some(m), None) => format!("; it is the turn of {m}, which {}", of(condition(m))),
                (None, _) => String::new(),
            };
            format!("{done} of {} members restarted{turn}", guards.len())
        }
        OperationKind::Restart { member, .. } | OperationKind::Reload { member } => {
            format!("{member} {}", of(condition(member)))
        }
        OperationKind::Reinitialise { member, .. }
            if state.syncs.iter().any(|c| c.members.contains(member)) =>
        {
            format!("waiting until no commit needs {member} to confirm it")
        }
        OperationKind::Reinitialise { member, .. } => format!("{member} {}", of(condition(member))),
    }
}

/// What a member does, as a clause after its name.
fn of(condition: Option<&Condition>) -> String {
    match condition {
        None => "has not reported".to_owned(),
        Some(Condition::Unknown) => "cannot be looked at".to_owned(),
        Some(Condition::Down) => "is down".to_owned(),
        Some(Condition::Starting) => "starts".to_owned(),
        Some(Condition::Initialising) => "makes its data directory".to_owned(),
        Some(Condition::BootstrapFailed { why }) => format!("could not make its data: {why}"),
        Some(Condition::Rewinding) => "is being rewound".to_owned(),
        Some(Condition::Cloning { source, done_bytes, total_bytes: 0 }) => {
            format!("is copied from {source}, {done_bytes} bytes so far")
        }
        Some(Condition::Cloning { source, done_bytes, total_bytes }) => {
            let percent = done_bytes.saturating_mul(100) / total_bytes;
            format!("is copied from {source}, {} %", percent.min(100))
        }
        Some(Condition::Standby(view)) if view.streaming.is_none() => {
            "runs, and does not stream yet".to_owned()
        }
        Some(Condition::Standby(view)) if !view.counts => {
            "streams, and its copy is not proven yet".to_owned()
        }
        Some(Condition::Standby(_)) => "streams".to_owned(),
        Some(Condition::Primary(_)) => "is primary".to_owned(),
    }
}

/// Whether the newest report of a member names a running guard, and which.
pub(super) fn running_guard(
    observed: &Observations,
    member: &MemberName,
    now: BootTime,
) -> Result<GuardId, OperationProblem> {
    let silent = || OperationProblem::Silent(member.clone());
    let report = &fresh(observed, member, now).ok_or_else(silent)?.report;
    report.guard.clone().ok_or_else(|| OperationProblem::NotRunning(member.clone()))
}
