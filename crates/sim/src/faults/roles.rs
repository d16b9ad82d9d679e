//! Who has which role, and what has just happened: as an observer who sees everything would say.
//!
//! Owns the reading of agreed states for faults that hit a role, or wait for an event.

use quorate_world::schedule::{Event, Kind, Node, Roles, Topology, Who};

use crate::domain::state::{ClusterState, Stage};
use crate::world::{Seen, cluster_name};

/// Who has which role now. `members` and `controllers` are those of the plan.
pub fn roles(seen: &Seen, members: Vec<Node>, controllers: Vec<Node>) -> Roles {
    let newest = seen.applied.values().max_by_key(|applied| applied.index);
    let cluster = newest.and_then(|applied| applied.state.cluster(&cluster_name()));
    let tenure = cluster.and_then(|cluster| cluster.tenure.as_ref());
    let leading = seen.roles.iter().filter(|(_, role)| role.is_leader);
    Roles {
        members,
        controllers,
        holder: tenure.and_then(|tenure| Topology::node_of(&tenure.member)),
        leader: leading.max_by_key(|(_, role)| role.term).map(|(node, _)| *node),
    }
}

/// What has happened between two agreed states of the cluster, in the order of the protocol.
pub fn events(before: Option<&ClusterState>, after: &ClusterState) -> Vec<Event> {
    let mut found = Vec::new();
    let old = before.and_then(|cluster| cluster.tenure.as_ref());
    let Some(new) = &after.tenure else { return found };
    let old = match old {
        Some(old) if old.epoch == new.epoch => Some(old),
        _ => {
            found.push(Event::Granted);
            None
        }
    };
    let stage = |stage: &Stage| match stage {
        Stage::Granted => 0,
        Stage::Promoted => 1,
        Stage::Active { .. } => 2,
    };
    let was = old.map_or(0, |old| stage(&old.stage));
    if was < 1 && stage(&new.stage) >= 1 {
        found.push(Event::Recorded);
    }
    if was < 2 && stage(&new.stage) >= 2 {
        found.push(Event::Active);
    }
    if old.is_none_or(|old| old.closed.is_none()) && new.closed.is_some() {
        found.push(Event::Closed);
    }
    let syncs = |cluster: &ClusterState| cluster.syncs.len();
    match before.map(syncs) {
        Some(n) if n < syncs(after) => found.push(Event::SyncChangeBegun),
        Some(n) if n > syncs(after) => found.push(Event::SyncChangeEnded),
        _ => {}
    }
    found
}

/// Everybody whom a fault names.
fn named(kind: &mut Kind) -> Vec<&mut Who> {
    match kind {
        Kind::Loss { links, .. }
        | Kind::Delay { links, .. }
        | Kind::Duplicate { links, .. }
        | Kind::Reorder { links, .. }
        | Kind::Cut { links } => links.from.iter_mut().chain(&mut links.to).collect(),
        Kind::Split { left, right } => left.iter_mut().chain(right).collect(),
        Kind::Ring => Vec::new(),
        Kind::StuckWalsender { node, to } => {
            [Some(node), to.as_mut()].into_iter().flatten().collect()
        }
        Kind::Isolate { node, .. }
        | Kind::CutClients { node }
        | Kind::CrashDaemon { node }
        | Kind::CrashMachine { node, .. }
        | Kind::KillPostmaster { node, .. }
        | Kind::CrashBackend { node }
        | Kind::KillGuard { node }
        | Kind::StopByHand { node }
        | Kind::HangPostmaster { node }
        | Kind::Pause { node, .. }
        | Kind::Suspend { node }
        | Kind::ClockRate { node, .. }
        | Kind::WallStep { node, .. }
        | Kind::BootJump { node, .. }
        | Kind::Freeze { node }
        | Kind::SlowDisk { node, .. }
        | Kind::StuckDisk { node, .. }
        | Kind::FailingDisk { node, .. }
        | Kind::FullDisk { node, .. }
        | Kind::LyingDisk { node, .. }
        | Kind::WipeDisk { node, .. }
        | Kind::StuckReplay { node } => vec![node],
    }
}

/// The fault with every role looked up.
pub fn resolve(kind: &Kind, roles: &Roles) -> Kind {
    let mut kind = kind.clone();
    for who in named(&mut kind) {
        *who = Who::Node(who.resolve(roles));
    }
    kind
}

/// The node that a resolved fault of a machine hits; `None` for those of the network.
pub fn place_of(kind: &Kind) -> Option<Node> {
    let mut kind = kind.clone();
    if matches!(
        kind,
        Kind::Loss { .. }
            | Kind::Delay { .. }
            | Kind::Duplicate { .. }
            | Kind::Reorder { .. }
            | Kind::Cut { .. }
            | Kind::Split { .. }
    ) {
        return None;
    }
    match named(&mut kind).first() {
        Some(Who::Node(node)) => Some(*node),
        _ => None,
    }
}
