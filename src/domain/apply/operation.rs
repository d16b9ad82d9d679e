//! Operations: how they begin, what they step through, and how they end.

use super::super::command::{Change, Rejection, Reply};
use super::super::event::EventKind;
use super::super::operation::{AHEAD_MS_MAX, DEADLINE_MS_MAX, Later, Restart, SCHEDULED_MAX, Step};
use super::super::state::{
    CloseReason, ClusterState, FinishedOperation, OPERATIONS_MAX, Operation, OperationKind,
    Outcome, Paused, Stage,
};
use super::super::types::{Epoch, MemberName, WallMillis};
use super::{
    APPLIED, bounded, close, expect_epoch, expect_member, expect_no_operation, expect_not_paused,
    expect_open, expect_promotable, phase_name, record, record_within, stage_name,
};

/// Who asks for what, and how long it may take.
struct Asked<'a> {
    by: &'a str,
    deadline_ms: u64,
    /// The number under which it was scheduled.
    scheduled: Option<u64>,
}

impl<'a> Asked<'a> {
    fn now(by: &'a str) -> Self {
        Self { by, deadline_ms: 0, scheduled: None }
    }
}

pub(super) fn change(
    state: &mut ClusterState,
    at: WallMillis,
    change: &Change,
) -> Result<Reply, Rejection> {
    match change {
        Change::StartScheduled { operation, change } => {
            if !state.scheduled.contains_key(operation) {
                return Err(Rejection::NoSuchOperation { id: *operation });
            }
            start(state, at, change, Some(*operation))
        }
        Change::StepOperation { operation, step } => next_step(state, at, *operation, step),
        Change::Schedule { at: when, what, by } => schedule(state, at, *when, what, by),
        Change::CancelOperation { operation, by } => cancel(state, at, *operation, by),
        Change::Pause { until, by } => pause(state, at, *until, by),
        Change::Resume { over, by } => {
            let Some(paused) = &state.paused else { return Err(Rejection::NotPaused) };
            if over.is_some() && *over != paused.until {
                // Another pause by now.
                return Ok(Reply::Nothing);
            }
            state.paused = None;
            record(state, at, EventKind::Resumed { by: bounded(by) });
            Ok(APPLIED)
        }
        Change::FinishOperation { operation, outcome } => {
            let Some(ended) = take(state, *operation) else {
                return Err(Rejection::NoSuchOperation { id: *operation });
            };
            note_end(state, at, ended, outcome.clone());
            Ok(APPLIED)
        }
        starting => start(state, at, starting, None),
    }
}

fn start(
    state: &mut ClusterState,
    at: WallMillis,
    change: &Change,
    scheduled: Option<u64>,
) -> Result<Reply, Rejection> {
    match change {
        Change::StartSwitchover { expect_epoch, target, by } => {
            let asked = Asked { scheduled, ..Asked::now(by) };
            start_switchover(state, at, *expect_epoch, target, &asked)
        }
        Change::StartRestart { expect_epoch, restart, deadline_ms, by } => {
            let asked = Asked { by, deadline_ms: *deadline_ms, scheduled };
            start_restart(state, at, *expect_epoch, restart, &asked)
        }
        _ if scheduled.is_some() => {
            Err(Rejection::BadSchedule { why: "it is no switchover and no restart".to_owned() })
        }
        Change::StartFailover { expect_epoch, target, accept_data_loss, by } => {
            start_failover(state, at, *expect_epoch, target.as_ref(), *accept_data_loss, by)
        }
        Change::StartReload { member, by } => {
            expect_free(state, member)?;
            let kind = OperationKind::Reload { member: member.clone() };
            Ok(begin(state, at, kind, &Asked::now(by)))
        }
        Change::StartReinitialise { expect_epoch, member, deadline_ms, by } => {
            expect_no_operation(state)?;
            expect_standby(state, *expect_epoch, member)?;
            expect_deadline(*deadline_ms)?;
            let asked = Asked { by, deadline_ms: *deadline_ms, scheduled };
            let kind = OperationKind::Reinitialise { member: member.clone(), begun: false };
            Ok(begin(state, at, kind, &asked))
        }
        _ => Ok(Reply::Nothing),
    }
}

// ---- guards ----

/// The member has no job.
fn expect_free(state: &ClusterState, member: &MemberName) -> Result<(), Rejection> {
    expect_member(state, member)?;
    match state.jobs.get(member) {
        Some(job) => Err(Rejection::MemberBusy { member: member.clone(), id: job.id }),
        None => Ok(()),
    }
}

fn expect_active(state: &ClusterState, epoch: Epoch) -> Result<&MemberName, Rejection> {
    let tenure = expect_open(state, epoch)?;
    match tenure.stage {
        Stage::Active { .. } => Ok(&tenure.member),
        stage => Err(Rejection::WrongStage { epoch, stage: stage_name(&stage) }),
    }
}

/// A free standby of the active epoch.
fn expect_standby(
    state: &ClusterState,
    epoch: Epoch,
    member: &MemberName,
) -> Result<(), Rejection> {
    expect_free(state, member)?;
    match expect_active(state, epoch)? {
        primary if primary == member => Err(Rejection::IsPrimary { member: member.clone() }),
        _ => Ok(()),
    }
}

fn expect_deadline(ms: u64) -> Result<(), Rejection> {
    match ms {
        ms if ms > DEADLINE_MS_MAX => Err(Rejection::BadSchedule {
            why: format!("a deadline is at most {DEADLINE_MS_MAX} ms, not {ms}"),
        }),
        _ => Ok(()),
    }
}

// ---- beginnings and ends ----

fn begin(
    state: &mut ClusterState,
    at: WallMillis,
    kind: OperationKind,
    asked: &Asked<'_>,
) -> Reply {
    let id = match asked.scheduled {
        Some(id) => id,
        None => {
            let id = state.next_operation;
            state.next_operation += 1;
            id
        }
    };
    state.scheduled.remove(&id);
    let by = bounded(asked.by);
    let operation = Operation {
        id,
        kind: kind.clone(),
        epoch: state.epoch,
        by: by.clone(),
        at,
        deadline_ms: asked.deadline_ms,
    };
    match kind.job_of() {
        _ if matches!(kind, OperationKind::Later { .. }) => {
            _ = state.scheduled.insert(id, operation);
        }
        Some(member) => _ = state.jobs.insert(member.clone(), operation),
        None => state.operation = Some(operation),
    }
    record(state, at, EventKind::OperationStarted { operation: id, kind, by });
    Reply::Applied { operation: Some(id) }
}

/// Ends the leading operation under way.
pub(super) fn finish(state: &mut ClusterState, at: WallMillis, outcome: Outcome) {
    if let Some(operation) = state.operation.take() {
        note_end(state, at, operation, outcome);
    }
}

/// Takes the operation of that number out of what is under way or scheduled.
fn take(state: &mut ClusterState, id: u64) -> Option<Operation> {
    if state.operation.as_ref().is_some_and(|op| op.id == id) {
        return state.operation.take();
    }
    if let Some(scheduled) = state.scheduled.remove(&id) {
        return Some(scheduled);
    }
    let member = state.jobs.iter().find(|(_, job)| job.id == id)?.0.clone();
    state.jobs.remove(&member)
}

fn note_end(state: &mut ClusterState, at: WallMillis, operation: Operation, outcome: Outcome) {
    let outcome = match outcome {
        Outcome::Failed { why } => Outcome::Failed { why: bounded(&why) },
        Outcome::Cancelled { by } => Outcome::Cancelled { by: bounded(&by) },
        done => done,
    };
    let event = EventKind::OperationFinished { operation: operation.id, outcome: outcome.clone() };
    record_within(state, at, event, Some(&operation));
    state.finished.push_back(FinishedOperation { operation, outcome, at });
    while state.finished.len() > OPERATIONS_MAX {
        state.finished.pop_front();
    }
}

// ---- changes of the primary ----

fn start_switchover(
    state: &mut ClusterState,
    at: WallMillis,
    epoch: Epoch,
    target: &MemberName,
    asked: &Asked<'_>,
) -> Result<Reply, Rejection> {
    expect_no_operation(state)?;
    expect_not_paused(state)?;
    expect_promotable(state, target)?;
    expect_free(state, target)?;
    let tenure = expect_open(state, epoch)?;
    if tenure.member == *target {
        return Err(Rejection::AlreadyPrimary { member: target.clone() });
    }
    expect_active(state, epoch)?;
    Ok(begin(state, at, OperationKind::Switchover { target: target.clone() }, asked))
}

fn start_failover(
    state: &mut ClusterState,
    at: WallMillis,
    epoch: Epoch,
    target: Option<&MemberName>,
    accept_data_loss: bool,
    by: &str,
) -> Result<Reply, Rejection> {
    expect_no_operation(state)?;
    expect_not_paused(state)?;
    if let Some(target) = target {
        expect_promotable(state, target)?;
    }
    expect_epoch(state, epoch)?;
    let Some(tenure) = &state.tenure else {
        return Err(Rejection::WrongPhase { phase: phase_name(&state.phase) });
    };
    if tenure.closed.is_none() && target == Some(&tenure.member) {
        return Err(Rejection::AlreadyPrimary { member: tenure.member.clone() });
    }
    let open = tenure.closed.is_none();
    let kind = OperationKind::Failover { target: target.cloned(), accept_data_loss };
    let reply = begin(state, at, kind, &Asked::now(by));
    if open {
        close(state, at, CloseReason::Failover, false);
    }
    Ok(reply)
}

// ---- restarts ----

fn start_restart(
    state: &mut ClusterState,
    at: WallMillis,
    epoch: Epoch,
    restart: &Restart,
    asked: &Asked<'_>,
) -> Result<Reply, Rejection> {
    expect_no_operation(state)?;
    expect_deadline(asked.deadline_ms)?;
    let kind = match restart {
        Restart::Member { member, guard } => {
            expect_standby(state, epoch, member)?;
            OperationKind::Restart { member: member.clone(), guard: guard.clone() }
        }
        Restart::Primary { member } => {
            expect_not_paused(state)?;
            expect_promotable(state, member)?;
            let primary = expect_active(state, epoch)?;
            if primary != member {
                return Err(Rejection::StaleEpoch { expected: epoch, actual: state.epoch });
            }
            OperationKind::RestartPrimary { member: member.clone() }
        }
        Restart::Rolling { guards } => {
            expect_not_paused(state)?;
            expect_active(state, epoch)?;
            for member in guards.keys() {
                expect_free(state, member)?;
            }
            if guards.is_empty() {
                return Err(Rejection::BadSchedule { why: "it names no member".to_owned() });
            }
            OperationKind::RollingRestart { guards: guards.clone(), at: None, target: None }
        }
    };
    Ok(begin(state, at, kind, asked))
}

fn next_step(
    state: &mut ClusterState,
    at: WallMillis,
    id: u64,
    step: &Step,
) -> Result<Reply, Rejection> {
    if *step == Step::Copy {
        return give_up_for_copy(state, id);
    }
    let (guards, turn) = match &state.operation {
        Some(op) if op.id == id => match &op.kind {
            OperationKind::RollingRestart { guards, at: turn, target: None } => (guards, turn),
            _ => return Err(Rejection::NoSuchOperation { id }),
        },
        _ => return Err(Rejection::NoSuchOperation { id }),
    };
    let epoch = state.operation.as_ref().map_or(state.epoch, |op| op.epoch);
    let primary = expect_active(state, epoch)?.clone();
    let (member, target) = match step {
        Step::Restart(member) => {
            expect_free(state, member)?;
            if *member == primary {
                return Err(Rejection::IsPrimary { member: member.clone() });
            }
            if !guards.contains_key(member) || turn.as_ref() == Some(member) {
                return Err(Rejection::NoSuchOperation { id });
            }
            (member.clone(), None)
        }
        Step::HandOver(target) => {
            expect_not_paused(state)?;
            expect_promotable(state, target)?;
            expect_free(state, target)?;
            (primary, Some(target.clone()))
        }
        Step::Copy => return Ok(Reply::Nothing),
    };
    if let Some(Operation {
        kind: OperationKind::RollingRestart { at: turn, target: to, .. },
        ..
    }) = &mut state.operation
    {
        (*turn, *to) = (Some(member.clone()), target.clone());
    }
    record(state, at, EventKind::OperationStep { operation: id, member, target });
    Ok(APPLIED)
}

/// From here on the member confirms nothing, and may not be called off: it may be replacing its data
/// at any moment.
fn give_up_for_copy(state: &mut ClusterState, id: u64) -> Result<Reply, Rejection> {
    expect_active(state, state.epoch)?;
    let named = |m: &MemberName| state.syncs.iter().find(|c| c.members.contains(m)).cloned();
    let job = state.jobs.values().find(|job| job.id == id);
    let Some(member) = job.and_then(|job| job.kind.job_of()).cloned() else {
        return Err(Rejection::NoSuchOperation { id });
    };
    if let Some(config) = named(&member) {
        let why = format!("{member} is to be copied anew, and commits wait for it");
        return Err(Rejection::BadSync { config: config.to_string(), why });
    }
    match state.jobs.get_mut(&member).map(|job| &mut job.kind) {
        Some(OperationKind::Reinitialise { begun, .. }) if !*begun => *begun = true,
        _ => return Ok(Reply::Nothing),
    }
    Ok(APPLIED)
}

// ---- what begins later, and what is called off ----

fn schedule(
    state: &mut ClusterState,
    at: WallMillis,
    when: WallMillis,
    what: &Later,
    by: &str,
) -> Result<Reply, Rejection> {
    let bad = |why: String| Err(Rejection::BadSchedule { why });
    if state.scheduled.len() >= SCHEDULED_MAX {
        return bad(format!("{SCHEDULED_MAX} operations are scheduled already"));
    }
    match when.0.checked_sub(at.0) {
        None | Some(0) => return bad("its time is in the past".to_owned()),
        Some(ahead) if ahead > AHEAD_MS_MAX => {
            return bad("its time is more than a year ahead".to_owned());
        }
        Some(_) => {}
    }
    match what {
        Later::Switchover { target: Some(target) } => expect_promotable(state, target)?,
        Later::Restart { member: Some(member), .. } => expect_member(state, member)?,
        Later::Switchover { target: None } | Later::Restart { member: None, .. } => {}
    }
    let kind = OperationKind::Later { at: when, what: what.clone() };
    Ok(begin(state, at, kind, &Asked::now(by)))
}

fn cancel(state: &mut ClusterState, at: WallMillis, id: u64, by: &str) -> Result<Reply, Rejection> {
    if let Some(op) = state.operation.as_ref().filter(|op| op.id == id) {
        // A primary that is stopping cannot be told to stay.
        let waits = matches!(op.kind, OperationKind::RollingRestart { target: None, .. });
        if !waits {
            return Err(Rejection::Irrevocable { id });
        }
    }
    if state.jobs.iter().any(|(member, job)| job.id == id && state.is_given_up(member)) {
        return Err(Rejection::Irrevocable { id });
    }
    let Some(ended) = take(state, id) else {
        return Err(Rejection::NoSuchOperation { id });
    };
    note_end(state, at, ended, Outcome::Cancelled { by: by.to_owned() });
    Ok(APPLIED)
}

fn pause(
    state: &mut ClusterState,
    at: WallMillis,
    until: Option<WallMillis>,
    by: &str,
) -> Result<Reply, Rejection> {
    // It would be left half-way.
    expect_no_operation(state)?;
    if let Some(tenure) = state.open_tenure()
        && !matches!(tenure.stage, Stage::Active { .. })
    {
        let stage = stage_name(&tenure.stage);
        return Err(Rejection::WrongStage { epoch: tenure.epoch, stage });
    }
    if until.is_some_and(|until| until <= at) {
        return Err(Rejection::BadSchedule {
            why: "the end of the pause is in the past".to_owned(),
        });
    }
    let by = bounded(by);
    if state.paused.as_ref().is_some_and(|p| p.until == until) {
        return Ok(Reply::Nothing);
    }
    state.paused = Some(Paused { by: by.clone(), at, until });
    record(state, at, EventKind::Paused { by, until });
    Ok(APPLIED)
}
