//! Operations.

use crate::domain::observation::Observations;
use crate::domain::operation::Later;
use crate::domain::plan;
use crate::domain::state::{
    ClusterState, FinishedOperation, Operation, OperationKind, Outcome, Paused,
};
use crate::domain::types::ClusterName;
use crate::pb::v1;

/// The operation of that number, under way, scheduled or ended; `None` where there is none or it
/// is forgotten. `seen` is what its progress is told by, on the leader.
pub fn find_operation(
    cluster: &ClusterName,
    state: &ClusterState,
    seen: Option<&Observations>,
    id: u64,
) -> Option<v1::Operation> {
    operations(cluster, state, seen, true).into_iter().find(|o| o.id == id)
}

/// The operation that began last, of those under way; else the one that ended last.
pub fn latest_operation(
    cluster: &ClusterName,
    state: &ClusterState,
    seen: Option<&Observations>,
) -> Option<v1::Operation> {
    let latest = state.under_way().max_by_key(|o| o.id).map(|o| under_way(cluster, state, seen, o));
    latest.or_else(|| state.finished.back().map(|f| finished(cluster, f)))
}

/// All that are under way or scheduled, and with `ended` all that are remembered, by number.
pub fn operations(
    cluster: &ClusterName,
    state: &ClusterState,
    seen: Option<&Observations>,
    ended: bool,
) -> Vec<v1::Operation> {
    let now = state.under_way().map(|o| under_way(cluster, state, seen, o));
    let past = state.finished.iter().filter(|_| ended).map(|f| finished(cluster, f));
    let mut all: Vec<_> = now.chain(scheduled(cluster, state)).chain(past).collect();
    all.sort_by_key(|o| o.id);
    all
}

/// Those that are to begin later.
pub(super) fn scheduled<'a>(
    cluster: &'a ClusterName,
    state: &'a ClusterState,
) -> impl Iterator<Item = v1::Operation> + 'a {
    state.scheduled.values().map(|o| v1::Operation {
        state: v1::OperationState::Scheduled.into(),
        started_unix_ms: 0,
        ..running(cluster, o)
    })
}

/// One that is under way, with its progress where that is known.
pub(super) fn under_way(
    cluster: &ClusterName,
    state: &ClusterState,
    seen: Option<&Observations>,
    operation: &Operation,
) -> v1::Operation {
    let progress = seen.map(|seen| plan::progress(state, seen, operation));
    v1::Operation { progress: progress.unwrap_or_default(), ..running(cluster, operation) }
}

/// A pause.
pub(super) fn paused(paused: &Paused) -> v1::Paused {
    v1::Paused {
        by: paused.by.clone(),
        at_unix_ms: paused.at.0,
        until_unix_ms: paused.until.map_or(0, |until| until.0),
    }
}

/// What an operation does, as messages tell it.
#[derive(Debug, Default)]
pub(super) struct Kind {
    pub(super) kind: v1::OperationKind,
    pub(super) later: v1::OperationKind,
    pub(super) target: String,
    pub(super) member: String,
    pub(super) accept_data_loss: bool,
    pub(super) scheduled_unix_ms: u64,
}

pub(super) fn kind(kind: &OperationKind) -> Kind {
    use v1::OperationKind as K;
    let of = |kind| Kind { kind, ..Kind::default() };
    let about = |kind, member: &dyn ToString| Kind { member: member.to_string(), ..of(kind) };
    match kind {
        OperationKind::Switchover { target } => {
            Kind { target: target.to_string(), ..of(K::Switchover) }
        }
        OperationKind::Failover { target, accept_data_loss } => Kind {
            target: target.as_ref().map(ToString::to_string).unwrap_or_default(),
            accept_data_loss: *accept_data_loss,
            ..of(K::Failover)
        },
        OperationKind::RestartPrimary { member } => about(K::RestartPrimary, member),
        OperationKind::RollingRestart { target, .. } => Kind {
            target: target.as_ref().map(ToString::to_string).unwrap_or_default(),
            ..of(K::RollingRestart)
        },
        OperationKind::Restart { member, .. } => about(K::Restart, member),
        OperationKind::Reload { member } => about(K::Reload, member),
        OperationKind::Reinitialise { member, .. } => about(K::Reinitialise, member),
        OperationKind::Later { at, what } => {
            let scheduled = Kind { scheduled_unix_ms: at.0, ..of(K::Scheduled) };
            match what {
                Later::Switchover { target } => Kind {
                    later: K::Switchover,
                    target: target.as_ref().map(ToString::to_string).unwrap_or_default(),
                    ..scheduled
                },
                Later::Restart { member: Some(member), in_place, .. } => Kind {
                    later: if *in_place { K::RestartPrimary } else { K::Restart },
                    member: member.to_string(),
                    ..scheduled
                },
                Later::Restart { member: None, .. } => {
                    Kind { later: K::RollingRestart, ..scheduled }
                }
            }
        }
    }
}

/// State, new primary and reason of a failure.
pub(super) fn outcome(outcome: &Outcome) -> (v1::OperationState, String, String) {
    match outcome {
        Outcome::Done { primary } => (v1::OperationState::Done, primary.to_string(), String::new()),
        Outcome::Completed => (v1::OperationState::Done, String::new(), String::new()),
        Outcome::Cancelled { by } => {
            (v1::OperationState::Cancelled, String::new(), format!("called off by {by}"))
        }
        Outcome::Failed { why } => (v1::OperationState::Failed, String::new(), why.clone()),
    }
}

fn running(cluster: &ClusterName, operation: &Operation) -> v1::Operation {
    let told = kind(&operation.kind);
    v1::Operation {
        id: operation.id,
        cluster: cluster.to_string(),
        kind: told.kind.into(),
        later: told.later.into(),
        target: told.target,
        member: told.member,
        accept_data_loss: told.accept_data_loss,
        scheduled_unix_ms: told.scheduled_unix_ms,
        requested_by: operation.by.clone(),
        epoch: operation.epoch.0,
        started_unix_ms: operation.at.0,
        deadline_ms: operation.deadline_ms(),
        state: v1::OperationState::Running.into(),
        ..Default::default()
    }
}

fn finished(cluster: &ClusterName, ended: &FinishedOperation) -> v1::Operation {
    let (state, primary, failure) = outcome(&ended.outcome);
    v1::Operation {
        state: state.into(),
        primary,
        failure,
        ended_unix_ms: ended.at.0,
        ..running(cluster, &ended.operation)
    }
}
