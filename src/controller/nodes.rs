//! Carries changes of the nodes on, while this node leads.
//!
//! The change is agreed on before anything is done for it, so it goes on under the next leader and
//! after a restart of all of them. Every pass looks anew at the agreed state and at the membership
//! in force; what it decides is bound to both, so a pass that is late does nothing. It runs beside
//! the loop that plans, which no change of the membership holds up.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::Clock;
use crate::domain::nodes::{
    Group, LAG_ENTRIES_MAX, NodeChange, Nodes, NodesAct, NodesCommand, Step, next_step,
};
use crate::raft::{Handle, MembershipError, Peer};
use crate::runtime::{self, Runtime};

/// How often is looked without being woken.
const TICK: Duration = Duration::from_millis(200);
/// How long one step may take. It may end later: the next pass sees what is in force then.
const STEP_DEADLINE: Duration = Duration::from_secs(5);
/// How long the proposal of a command may take.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(3);
/// Pause after a step that was not taken.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs until the future is dropped.
pub async fn run<RT: Runtime, C: Clock>(raft: Handle<RT>, clock: Arc<C>) {
    let mut role = raft.role();
    let mut applied = raft.applied();
    loop {
        if !role.get().established {
            if role.changed().await.is_err() {
                return;
            }
            continue;
        }
        if !pass(&raft, &*clock).await {
            RT::sleep(PAUSE).await;
        }
        runtime::first_of(vec![
            Box::pin(role.another()),
            Box::pin(applied.another()),
            Box::pin(RT::sleep(TICK)),
        ])
        .await;
    }
}

/// One pass; `false` where a step was not taken.
async fn pass<RT: Runtime>(raft: &Handle<RT>, clock: &impl Clock) -> bool {
    if !raft.is_fit() {
        return true;
    }
    let Some((group, anchor)) = raft.group() else { return true };
    let nodes = raft.applied().get().state.nodes.clone();
    let now = clock.wall();
    let Some(step) = next_step(&group, &nodes, now) else { return true };
    let outcome = match step {
        Step::HandOver => hand_over(raft, &group, &nodes).await,
        Step::Expire(id) => {
            let by = "the control plane".to_owned();
            let command = NodesCommand { nodes_at: now, by, act: NodesAct::Expire { id } };
            let proposed = raft.propose_nodes(command, PROPOSE_DEADLINE).await;
            proposed.map(drop).map_err(|e| e.to_string())
        }
        step => {
            let changed = raft.change_nodes(step, coming(&nodes), anchor, STEP_DEADLINE).await;
            match changed {
                // The membership moved on: the next pass looks again.
                Err(MembershipError::InProgress) => return false,
                changed => changed.map_err(|e| e.to_string()),
            }
        }
    };
    match &outcome {
        Ok(()) => info!(?step, "the nodes of the control plane are changed"),
        Err(why) => warn!(?step, why, "a change of the nodes has to wait"),
    }
    outcome.is_ok()
}

/// The node that comes in.
fn coming(nodes: &Nodes) -> Peer {
    match &nodes.change {
        Some(NodeChange::Add { name, address, .. }) => {
            Peer { name: name.to_string(), address: address.clone() }
        }
        _ => Peer::default(),
    }
}

/// Hands the leadership to the voter that lacks least, of those that stay.
async fn hand_over<RT: Runtime>(
    raft: &Handle<RT>,
    group: &Group,
    nodes: &Nodes,
) -> Result<(), String> {
    let stays = |id: &u64| {
        let staying = group.configs.iter().all(|config| config.contains(id));
        staying && *id != group.own && !nodes.is_removed(*id)
    };
    let metrics = raft.metrics();
    let lag = metrics.lag_entries.iter();
    let fit = lag.filter_map(|(id, lag)| Some((lag.filter(|n| *n <= LAG_ENTRIES_MAX)?, *id)));
    let fit = fit.filter(|(_, id)| group.caught_up.contains(id) && stays(id));
    let Some((_, to)) = fit.min() else {
        return Err("no other controller can lead now".to_owned());
    };
    raft.transfer_leadership(to, STEP_DEADLINE).await.map_err(|e| e.to_string())
}
