//! Restarts: whether one can begin, and the steps of a rolling one.

use std::collections::BTreeMap;

use super::super::alarm::AlarmCode;
use super::super::command::Change;
use super::super::observation::Observations;
use super::super::operation::{Restart, Step};
use super::super::state::{ClusterState, Operation, Outcome, Tenure};
use super::super::types::{BootTime, GuardId, MemberName};
use super::jobs::running_guard;
use super::operation::{best_target, free, standby_problems};
use super::{Finding, OperationProblem, Pass, fresh};

impl Pass<'_> {
    /// The next step of a rolling restart: one standby after the other, each only while all others
    /// stream; then the primary, by a switchover where anybody can take over.
    pub(super) fn roll(
        &self,
        op: &Operation,
        guards: &BTreeMap<MemberName, GuardId>,
        at: Option<&MemberName>,
        tenure: &Tenure,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        let finish = |outcome| Some(Change::FinishOperation { operation: op.id, outcome });
        let step = |step| Some(Change::StepOperation { operation: op.id, step });
        if self.since_seen(op)?.as_millis() >= u128::from(op.deadline_ms()) {
            let why = super::progress(self.state, self.observed, op);
            return finish(Outcome::Failed { why: format!("not done in time: {why}") });
        }
        let rolling = |text: String| Finding::Rolling { operation: op.id, text };
        let standbys = guards.iter().filter(|(m, _)| **m != tenure.member);
        let left = standbys.filter(|(m, guard)| !self.is_back(m, guard));
        // Whoever was told to restart is waited for, before the next is told.
        if let Some((member, _)) = left.clone().find(|(m, _)| Some(*m) == at) {
            findings.push(rolling(format!("waiting for {member} to be back")));
            return None;
        }
        if let Some((member, _)) = left.clone().next() {
            if !self.state.members.contains_key(member) {
                return finish(Outcome::Failed { why: format!("{member} is no member any more") });
            }
            if let Some(job) = self.state.jobs.get(member) {
                findings.push(rolling(format!("{member} is busy with operation {}", job.id)));
                return None;
            }
            return match self.spared(member, tenure) {
                Ok(()) => step(Step::Restart(member.clone())),
                Err(other) => {
                    findings.push(rolling(format!("waiting for {other} before {member}")));
                    None
                }
            };
        }
        let old = guards.get(&tenure.member).filter(|guard| **guard == tenure.guard);
        if old.is_none() {
            return finish(Outcome::Completed);
        }
        // It is one after the other: nobody else leads as long as this operation is under way.
        let others = self.state.members.iter().filter(|(m, _)| **m != tenure.member);
        let alone = !others.clone().any(|(_, m)| m.may_lead());
        match best_target(self.state, self.observed, None, self.now) {
            Ok(target) => step(Step::HandOver(target)),
            Err(_) if alone && !self.state.jobs.contains_key(&tenure.member) => {
                step(Step::HandOver(tenure.member.clone()))
            }
            Err(_) => {
                findings.push(rolling("waiting for a standby that can take over".to_owned()));
                None
            }
        }
    }

    /// Whether all other standbys that count stream, so that this one can be missed; else who does
    /// not.
    fn spared<'a>(&'a self, member: &MemberName, tenure: &Tenure) -> Result<(), &'a MemberName> {
        let view = self.primary_view(tenure);
        let streams = |m: &MemberName| {
            view.and_then(|v| v.standbys.get(m)).is_some_and(|progress| progress.streaming)
        };
        let counted = self.state.syncs.iter().flat_map(|c| c.members.iter());
        match counted.filter(|m| *m != member).find(|m| !streams(m)) {
            None if view.is_some() => Ok(()),
            None => {
                self.state.members.get_key_value(&tenure.member).map_or(Ok(()), |(m, _)| Err(m))
            }
            Some(other) => Err(other),
        }
    }
}

/// Whether a restart can begin now, and what it is. `member` is whom, or `None` for all, of which
/// `pending_only` leaves those that wait for one.
pub fn restart_check(
    state: &ClusterState,
    observed: &Observations,
    member: Option<&MemberName>,
    pending_only: bool,
    in_place: bool,
    now: BootTime,
) -> Result<Restart, Vec<OperationProblem>> {
    let Some(member) = member else {
        return rolling_check(state, observed, pending_only, now);
    };
    if !state.members.contains_key(member) {
        return Err(vec![OperationProblem::UnknownMember(member.clone())]);
    }
    if state.active_primary() == Some(member) {
        free(state)?;
        if !in_place {
            return Err(vec![OperationProblem::IsPrimary(member.clone())]);
        }
        return match state.members.get(member) {
            Some(m) if !m.may_lead() => Err(vec![OperationProblem::Tagged(member.clone())]),
            _ => Ok(Restart::Primary { member: member.clone() }),
        };
    }
    let mut problems = standby_problems(state, member);
    let guard = running_guard(observed, member, now);
    match guard {
        Ok(guard) if problems.is_empty() => Ok(Restart::Member { member: member.clone(), guard }),
        Ok(_) => Err(problems),
        Err(problem) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

fn rolling_check(
    state: &ClusterState,
    observed: &Observations,
    pending_only: bool,
    now: BootTime,
) -> Result<Restart, Vec<OperationProblem>> {
    free(state)?;
    if state.active_primary().is_none() {
        return Err(vec![OperationProblem::NoPrimary]);
    }
    let mut guards = BTreeMap::new();
    let mut problems = Vec::new();
    for member in state.members.keys() {
        let pending = fresh(observed, member, now)
            .is_some_and(|o| o.report.alarms.iter().any(|a| a.code == AlarmCode::PendingRestart));
        if pending_only && !pending {
            continue;
        }
        if let Some(job) = state.jobs.get(member) {
            problems.push(OperationProblem::Busy { member: member.clone(), id: job.id });
        }
        match running_guard(observed, member, now) {
            Ok(guard) => _ = guards.insert(member.clone(), guard),
            Err(problem) => problems.push(problem),
        }
    }
    match (problems.is_empty(), guards.is_empty()) {
        (false, _) => Err(problems),
        (true, true) => Err(vec![OperationProblem::NothingPending]),
        (true, false) => Ok(Restart::Rolling { guards }),
    }
}
