//! Operations.

use crate::domain::state::{ClusterState, FinishedOperation, Operation, OperationKind, Outcome};
use crate::domain::types::ClusterName;
use crate::pb::v1;

/// The operation of that number, under way or ended; `None` where there is none or it is forgotten.
pub fn find_operation(
    cluster: &ClusterName,
    state: &ClusterState,
    id: u64,
) -> Option<v1::Operation> {
    let running = state.operation.iter().filter(|o| o.id == id).map(|o| running(cluster, o));
    let ended = state.finished.iter().filter(|f| f.operation.id == id);
    running.chain(ended.map(|f| finished(cluster, f))).next()
}

/// The operation under way, else the one that ended last.
pub fn latest_operation(cluster: &ClusterName, state: &ClusterState) -> Option<v1::Operation> {
    let running = state.operation.as_ref().map(|o| running(cluster, o));
    running.or_else(|| state.finished.back().map(|f| finished(cluster, f)))
}

/// Kind, target and consent to a loss.
pub(super) fn kind(kind: &OperationKind) -> (v1::OperationKind, String, bool) {
    match kind {
        OperationKind::Switchover { target } => {
            (v1::OperationKind::Switchover, target.to_string(), false)
        }
        OperationKind::Failover { target, accept_data_loss } => {
            let target = target.as_ref().map(ToString::to_string).unwrap_or_default();
            (v1::OperationKind::Failover, target, *accept_data_loss)
        }
    }
}

/// State, new primary and reason of a failure.
pub(super) fn outcome(outcome: &Outcome) -> (v1::OperationState, String, String) {
    match outcome {
        Outcome::Done { primary } => (v1::OperationState::Done, primary.to_string(), String::new()),
        Outcome::Failed { why } => (v1::OperationState::Failed, String::new(), why.clone()),
    }
}

pub(super) fn running(cluster: &ClusterName, operation: &Operation) -> v1::Operation {
    let (kind, target, accept_data_loss) = kind(&operation.kind);
    v1::Operation {
        id: operation.id,
        cluster: cluster.to_string(),
        kind: kind.into(),
        target,
        accept_data_loss,
        requested_by: operation.by.clone(),
        epoch: operation.epoch.0,
        started_unix_ms: operation.at.0,
        state: v1::OperationState::Running.into(),
        primary: String::new(),
        failure: String::new(),
        ended_unix_ms: 0,
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
