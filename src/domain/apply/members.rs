//! Members that leave, and names that may come back.

use super::super::command::{Rejection, Reply};
use super::super::event::EventKind;
use super::super::membership::{
    Leaving, MembershipChange, MembershipRefusal, REMOVED_MAX, Removed,
};
use super::super::mutant::{Mutant, without};
use super::super::state::{ClusterState, Stage, SynchronousMode, Tenure};
use super::super::types::{Epoch, MemberName, WallMillis};
use super::operation::expect_free;
use super::{APPLIED, bounded, expect_no_operation, expect_not_paused, expect_open, record};

pub(super) fn change(
    state: &mut ClusterState,
    at: WallMillis,
    change: &MembershipChange,
) -> Result<Reply, Rejection> {
    match change {
        MembershipChange::BeginRemoval { expect_epoch, member, by } => {
            begin(state, at, *expect_epoch, member, by)
        }
        MembershipChange::AbandonRemoval { member, why } => abandon(state, at, member, why),
        MembershipChange::FinishRemoval { expect_epoch, member } => {
            finish(state, at, *expect_epoch, member)
        }
        MembershipChange::Permit { member, by } => permit(state, at, member, by),
    }
}

/// Why a name may not register, if so.
pub(super) fn expect_not_removed(
    state: &ClusterState,
    member: &MemberName,
) -> Result<(), Rejection> {
    match state.removed.contains_key(member) {
        true => Err(MembershipRefusal::Removed { member: member.clone() }.into()),
        false => Ok(()),
    }
}

/// A member that was granted an epoch is needed: it does not leave.
pub(super) fn keep_granted(state: &mut ClusterState, at: WallMillis, member: &MemberName) {
    if state.leaving.remove(member).is_some() {
        let why = "it became primary".to_owned();
        record(state, at, EventKind::MemberRemovalAbandoned { member: member.clone(), why });
    }
}

fn begin(
    state: &mut ClusterState,
    at: WallMillis,
    epoch: Epoch,
    member: &MemberName,
    by: &str,
) -> Result<Reply, Rejection> {
    expect_free(state, member)?;
    expect_not_paused(state)?;
    expect_no_operation(state)?;
    // Everybody is to be heard, and what everybody has is to be compared: nobody leaves before.
    super::verify::expect_verified(state)?;
    if state.leaving.contains_key(member) {
        return Err(MembershipRefusal::LeavingAlready { member: member.clone() }.into());
    }
    expect_removable(state, epoch, member)?;
    super::failsafe::expect_peer_left(state, member, state.leaving.keys())?;
    let by = bounded(by);
    state.leaving.insert(member.clone(), Leaving { by: by.clone(), at });
    record(state, at, EventKind::MemberRemovalStarted { member: member.clone(), by });
    Ok(APPLIED)
}

fn abandon(
    state: &mut ClusterState,
    at: WallMillis,
    member: &MemberName,
    why: &str,
) -> Result<Reply, Rejection> {
    if state.leaving.remove(member).is_none() {
        return Err(MembershipRefusal::NotLeaving { member: member.clone() }.into());
    }
    let why = bounded(why);
    record(state, at, EventKind::MemberRemovalAbandoned { member: member.clone(), why });
    Ok(APPLIED)
}

fn finish(
    state: &mut ClusterState,
    at: WallMillis,
    epoch: Epoch,
    member: &MemberName,
) -> Result<Reply, Rejection> {
    expect_free(state, member)?;
    expect_no_operation(state)?;
    super::verify::expect_verified(state)?;
    let Some(leaving) = state.leaving.get(member).cloned() else {
        return Err(MembershipRefusal::NotLeaving { member: member.clone() }.into());
    };
    expect_removable(state, epoch, member)?;
    // An epoch may have begun since.
    super::failsafe::expect_peer_left(state, member, [])?;
    let counts = state.syncs.iter().any(|c| c.members.contains(member));
    if counts && !without(Mutant::CountingMemberLeaves) {
        return Err(MembershipRefusal::StillCounts { member: member.clone() }.into());
    }
    state.leaving.remove(member);
    state.alarms.remove(member);
    state.noticed.remove(member);
    let Some(old) = state.members.remove(member) else { return Ok(Reply::Nothing) };
    let by = leaving.by;
    let removed = Removed { node: old.node, address: old.address, by: by.clone(), at };
    state.removed.insert(member.clone(), removed);
    super::failsafe::forget_peer(state, member);
    while state.removed.len() > REMOVED_MAX {
        let oldest = state.removed.iter().min_by_key(|(_, r)| r.at).map(|(name, _)| name.clone());
        let Some(oldest) = oldest else { break };
        state.removed.remove(&oldest);
    }
    record(state, at, EventKind::MemberRemoved { member: member.clone(), by });
    Ok(APPLIED)
}

fn permit(
    state: &mut ClusterState,
    at: WallMillis,
    member: &MemberName,
    by: &str,
) -> Result<Reply, Rejection> {
    if state.leaving.contains_key(member) {
        return abandon(state, at, member, &format!("{by} wants it to stay"));
    }
    let refusal = |refusal: MembershipRefusal| Err(refusal.into());
    if state.members.contains_key(member) {
        return refusal(MembershipRefusal::MemberAlready { member: member.clone() });
    }
    if state.removed.remove(member).is_none() {
        return refusal(MembershipRefusal::NothingToPermit { member: member.clone() });
    }
    let by = bounded(by);
    record(state, at, EventKind::MemberPermitted { member: member.clone(), by });
    Ok(APPLIED)
}

/// An active epoch that is not the member's, others that are left, and enough of them to confirm.
fn expect_removable(
    state: &ClusterState,
    epoch: Epoch,
    member: &MemberName,
) -> Result<(), Rejection> {
    if state.members.len() < 2 {
        return Err(MembershipRefusal::Last { member: member.clone() }.into());
    }
    let active = |t: &&Tenure| matches!(t.stage, Stage::Active { .. });
    let Some(tenure) = state.open_tenure().filter(active) else {
        return Err(MembershipRefusal::NotActive.into());
    };
    expect_open(state, epoch)?;
    if tenure.member == *member {
        return Err(MembershipRefusal::Primary { member: member.clone() }.into());
    }
    let floor = match state.spec.synchronous {
        SynchronousMode::Async => 0,
        SynchronousMode::Quorum | SynchronousMode::Priority => state.spec.write_quorum_min,
    };
    let confirms = |name: &&MemberName| {
        *name != member && **name != tenure.member && state.may_confirm(name, &tenure.member)
    };
    let left = state.members.keys().filter(confirms).count();
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    // Who could not confirm takes nobody's place.
    let confirmed = state.members.get(member).is_some_and(|m| m.may_confirm(&tenure.member));
    if confirmed && left < floor {
        return Err(MembershipRefusal::WriteQuorum { member: member.clone(), left, floor }.into());
    }
    Ok(())
}
