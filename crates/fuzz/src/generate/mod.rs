//! Values of the domain from the bytes of an input: mostly such as a running cluster has, now and
//! then one that nobody would send.

mod command;
mod local;
mod operation;
mod report;

use crate::domain::ClusterState;
use crate::domain::lineage::{Entry, Lineage};
use crate::domain::observation::Sealed;
use crate::domain::sync::SyncConfig;
use crate::domain::types::{ClusterName, Epoch, GuardId, Lsn, MemberName, NodeName, SystemId};
use crate::input::Input;

pub use command::command;
pub use local::local;
pub use report::report;

/// Members: the last two have one slot name.
pub const MEMBERS: [&str; 6] = ["a", "b", "c", "d", "e-1", "e_1"];

/// A member's name.
pub fn member(input: &mut Input<'_>) -> MemberName {
    let name = input.pick(&MEMBERS);
    MemberName::new(name).expect("a valid name")
}

/// The name of a cluster: mostly the first.
pub fn cluster(input: &mut Input<'_>) -> ClusterName {
    let name = if input.stray() { input.pick(&["second", "third"]) } else { "main" };
    ClusterName::new(name).expect("a valid name")
}

/// The node of a member: mostly the one that bears its name.
pub fn node(input: &mut Input<'_>, member: &MemberName) -> NodeName {
    let name = if input.stray() { "elsewhere" } else { member.as_str() };
    NodeName::new(format!("n-{name}")).expect("a valid name")
}

/// One of few lives of guards.
pub fn guard(input: &mut Input<'_>) -> GuardId {
    let life = input.below(4) as u8;
    GuardId::from_bytes([life; 16])
}

/// The life of the guard that `member` runs in, as most reports have it.
pub fn guard_of(input: &mut Input<'_>, member: &MemberName) -> GuardId {
    if input.stray() {
        return guard(input);
    }
    GuardId::from_bytes([member.as_str().bytes().fold(7, u8::wrapping_add); 16])
}

/// A system identifier: mostly always the same.
pub fn system_id(input: &mut Input<'_>) -> SystemId {
    SystemId(if input.stray() { input.word() } else { 7_000 })
}

/// An epoch near `near`.
pub fn epoch(input: &mut Input<'_>, near: Epoch) -> Epoch {
    Epoch(input.number(near.0))
}

/// A position in steps of 16, so that equal ones are frequent.
pub fn lsn(input: &mut Input<'_>) -> Lsn {
    let steps = input.below(16) as u64 * 16;
    Lsn(if input.stray() { input.number(steps) } else { steps })
}

/// A synchronous configuration near what the state would take next, for this primary and epoch.
pub fn sync(
    input: &mut Input<'_>,
    state: &ClusterState,
    primary: Option<&MemberName>,
    at: Epoch,
) -> SyncConfig {
    let others = input.byte();
    let members: std::collections::BTreeSet<MemberName> = MEMBERS
        .iter()
        .enumerate()
        .filter(|(i, _)| others & (1 << i) != 0)
        .filter_map(|(_, name)| MemberName::new(*name).ok())
        .filter(|m| state.members.contains_key(m) && Some(m) != primary)
        .collect();
    let mut config = SyncConfig {
        epoch: at,
        seq: state.next_sync,
        w: (members.len() as u32).min(1 + input.below(2) as u32),
        members,
        order: Vec::new(),
    };
    if input.flag() {
        config.order = config.members.iter().rev().cloned().collect();
    }
    if input.stray() {
        match input.below(5) {
            0 => config.epoch = epoch(input, at),
            1 => config.seq = input.number(state.next_sync),
            2 => config.w = input.number(1) as u32,
            3 => _ = config.members.insert(member(input)),
            _ => config.order = input.list(4, member),
        }
    }
    config
}

/// A lineage: mostly the state's, perhaps with a further epoch.
pub fn lineage(input: &mut Input<'_>, state: &ClusterState) -> Lineage {
    let mut lineage = match input.byte() {
        0..=99 => state.lineage.clone(),
        100..=219 => {
            let start = lsn(input).max(state.lineage.last().map_or(Lsn(0), |e| e.start));
            state.lineage.with(state.epoch, start)
        }
        _ => Lineage(input.list(5, |i| Entry { epoch: epoch(i, Epoch(2)), start: lsn(i) })),
    };
    if input.stray() {
        lineage.0.pop();
    }
    lineage
}

/// A sealed member, as it would be evidence for the next epoch.
pub fn sealed(input: &mut Input<'_>, state: &ClusterState, member: MemberName) -> Sealed {
    let last = state.lineage.last().map_or(Epoch(0), |e| e.epoch);
    let next = Epoch(state.epoch.0.saturating_add(1));
    let mut sealed = Sealed {
        guard: guard_of(input, &member),
        promised: next,
        wal_epoch: last,
        lsn: lsn(input),
        held: Epoch(0),
        lineage: state.lineage.clone(),
        no_room: false,
        member,
    };
    if input.below(4) == 1 {
        sealed.held = state.tenure.as_ref().map_or(Epoch(0), |t| t.epoch);
    }
    if input.stray() {
        match input.below(6) {
            0 => sealed.promised = epoch(input, next),
            1 => sealed.wal_epoch = epoch(input, last),
            2 => sealed.held = epoch(input, state.epoch),
            3 => sealed.lineage = lineage(input, state),
            4 => sealed.no_room = input.flag(),
            _ => sealed.guard = guard(input),
        }
    }
    sealed
}
