//! What failsafe asks of a grant.

use std::collections::BTreeSet;

use super::super::command::{Basis, Grant, Rejection};
use super::super::failsafe::{heard, is_lapsed, leaves_no_peer};
use super::super::membership::MembershipRefusal;
use super::super::state::{ClusterState, Tenure};
use super::super::types::MemberName;

/// An expiry alone says nothing of a lease that the holder's peers may have kept.
pub(super) fn expect_lapsed(
    state: &ClusterState,
    tenure: &Tenure,
    grant: &Grant,
) -> Result<(), Rejection> {
    match grant.basis {
        Basis::Expired { .. }
            if !is_lapsed(state, tenure, &heard(&grant.evidence, &grant.witnesses)) =>
        {
            let peers = tenure.peers.iter().cloned().collect();
            Err(Rejection::FailsafePeers { epoch: tenure.epoch, peers })
        }
        Basis::Expired { .. } | Basis::Stopped => Ok(()),
    }
}

/// Somebody stays who can say that the holder's peers let it go: else nobody could follow it, were it
/// lost for good, and members that join later are no peers.
pub(super) fn expect_peer_left<'a>(
    state: &'a ClusterState,
    member: &'a MemberName,
    leaving: impl IntoIterator<Item = &'a MemberName>,
) -> Result<(), Rejection> {
    let Some(tenure) = state.open_tenure() else { return Ok(()) };
    let gone = leaving.into_iter().chain([member]).collect();
    if tenure.peers.contains(member) && leaves_no_peer(tenure, &gone) {
        let (member, holder) = (member.clone(), tenure.member.clone());
        return Err(MembershipRefusal::LastPeer { member, holder, epoch: tenure.epoch }.into());
    }
    Ok(())
}

/// Nobody who is no member any more has to promise, nor does its seal count. Fewer peers are safe:
/// who asks more of them, on an older state, has asked these as well.
pub(super) fn forget_peer(state: &mut ClusterState, member: &MemberName) {
    if let Some(tenure) = &mut state.tenure {
        tenure.peers.remove(member);
    }
}

/// Who has to promise, from a grant to `holder` on until the next.
pub(super) fn peers(state: &ClusterState, holder: &MemberName) -> BTreeSet<MemberName> {
    state.members.keys().filter(|m| *m != holder).cloned().collect()
}
