//! Rules while the state of a cluster is not proven to be the newest: see `domain::rescue`.

use std::collections::{BTreeMap, BTreeSet};

use super::super::command::{Rejection, Reply};
use super::super::event::EventKind;
use super::super::rescue::UNSEEN_EPOCHS;
use super::super::state::{CloseReason, Closed, ClusterState, Outcome, Phase, Stage, Tenure};
use super::super::types::{Epoch, GuardId, MemberName, WallMillis};
use super::{APPLIED, accepts_loss, expect_closed, expect_epoch, expect_member, operation};
use super::{phase_name, record};

/// Nothing that needs the newest state is done before it is proven to be that.
pub(super) fn expect_verified(state: &ClusterState) -> Result<(), Rejection> {
    match &state.verify {
        Some(_) => Err(Rejection::Unverified { missing: state.to_be_heard().cloned().collect() }),
        None => Ok(()),
    }
}

/// Nothing is granted before the epoch is above all that members know.
pub(super) fn expect_raised(state: &ClusterState) -> Result<(), Rejection> {
    match &state.verify {
        Some(verify) if !verify.raised => expect_verified(state),
        _ => Ok(()),
    }
}

/// Raises the epoch above all that members know, or, where there is no data yet, ends the doubt.
pub(super) fn raise_epoch(
    state: &mut ClusterState,
    at: WallMillis,
    epoch: Epoch,
    known: &BTreeMap<MemberName, Epoch>,
    accept_missing: Option<u64>,
) -> Result<Reply, Rejection> {
    let Some(verify) = &state.verify else {
        return Err(Rejection::WrongPhase { phase: phase_name(&state.phase) });
    };
    for member in known.keys() {
        expect_member(state, member)?;
    }
    let missing: Vec<MemberName> =
        state.to_be_heard().filter(|m| !known.contains_key(*m)).cloned().collect();
    let accepted = match (&state.operation, accept_missing) {
        (_, None) => false,
        (Some(op), Some(id)) if op.id == id && accepts_loss(op) => true,
        (_, Some(id)) => return Err(Rejection::NoSuchOperation { id }),
    };
    if !missing.is_empty() && !accepted {
        return Err(Rejection::Unverified { missing });
    }
    if !verify.complete && !accepted {
        return Err(Rejection::MembersUnconfirmed);
    }
    let highest = known.values().copied().max().unwrap_or_default();
    if state.phase != Phase::Running {
        expect_epoch(state, epoch)?;
        if highest > Epoch(1) {
            return Err(Rejection::Outlived { known: highest });
        }
        state.verify = None;
        return Ok(APPLIED);
    }
    let old = expect_closed(state, epoch)?.clone();
    // Whoever is not heard of may have been granted epochs that nobody else knows, and so may one
    // whose own record is gone: it answers, and does not know it.
    let to = Epoch(epoch.max(highest).0.saturating_add(1).saturating_add(UNSEEN_EPOCHS));
    if to.0 >= u64::from(u32::MAX) {
        return Err(Rejection::BadSpec { why: "timelines are exhausted".to_owned() });
    }
    if let Some(verify) = &mut state.verify {
        verify.raised = true;
        verify.complete = true;
        verify.lost.extend(missing.iter().cloned());
    }
    state.epoch = to;
    // Nobody was granted it: no life of a guard has this number.
    state.tenure = Some(Tenure {
        epoch: to,
        member: old.member,
        guard: GuardId::from_bytes([0; 16]),
        stage: Stage::Promoted,
        closed: Some(Closed { reason: CloseReason::Recovered, at }),
        stopped: false,
        failsafe: old.failsafe,
        peers: old.peers,
    });
    let unheard = state.members.keys().filter(|m| !known.contains_key(*m)).cloned().collect();
    record(state, at, EventKind::EpochRaised { from: epoch, known: highest, unheard });
    Ok(APPLIED)
}

/// Members that may lead and are not in the evidence, while all are needed.
pub(in crate::domain) fn unproven(
    state: &ClusterState,
    evidence: &BTreeSet<&MemberName>,
) -> Vec<MemberName> {
    if state.verify.is_none() {
        return Vec::new();
    }
    let may_lead = state.members.iter().filter(|(_, m)| m.may_lead());
    may_lead.map(|(name, _)| name).filter(|m| !evidence.contains(*m)).cloned().collect()
}

/// Ends the operation under way without success.
pub(in crate::domain) fn abandon_operation(state: &mut ClusterState, at: WallMillis, why: &str) {
    operation::finish(state, at, Outcome::Failed { why: why.to_owned() });
}
