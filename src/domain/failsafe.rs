//! Failsafe: how a primary goes on while no controller answers.
//!
//! A primary whose renewals nobody acknowledges asks *every* peer of its epoch to take no part in a
//! grant for the length of a lease. Only where all of them promise, the lease runs on; and an epoch
//! that may have run on like this is followed by another, without a proven stop, only on the word of
//! a sealed peer whose promise has lapsed. `docs/leases.md` has the proof.
//!
//! It is for silence only: a controller that refuses ends it, and it never begins an epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lease::{HolderLease, Timing};
use super::mutant::{self, Mutant};
use super::observation::Sealed;
use super::state::{ClusterState, Stage, Tenure};
use super::types::{BootTime, ClusterName, Epoch, GuardId, Lsn, MemberName};

/// Pause after a round of questions that had no success.
pub const RETRY: Duration = Duration::from_millis(200);
/// Longest lease that a peer promises to stand back for, in milliseconds: one day.
pub const TTL_MS_MAX: u64 = 86_400_000;
/// Greatest bound on the error of a clock that a peer believes, in parts per million.
const CLOCK_ERROR_PPM_MAX: u64 = 500_000;

/// What a primary asks each of its peers: to take no part in a grant for `ttl_ms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Which cluster.
    pub cluster: ClusterName,
    /// Who is asked.
    pub peer: MemberName,
    /// Who asks.
    pub holder: MemberName,
    /// In which epoch it is primary.
    pub epoch: Epoch,
    /// In which life of its guard.
    pub guard: GuardId,
    /// How long its lease is to run from before it asked, in milliseconds of its own clock.
    pub ttl_ms: u64,
    /// The agreed bound on the error of a clock's rate, in parts per million.
    pub clock_error_ppm: u64,
    /// How far the holder has come, as far as it knows. No controller hears that meanwhile, and
    /// `max_lag_bytes` is measured from it.
    #[serde(default)]
    pub end: Option<Lsn>,
}

impl Question {
    /// How long the peer stands back by its own clock: longer than the lease by any other.
    pub fn window(&self) -> Duration {
        let (ttl_ms, clock_error_ppm) = (self.ttl_ms, self.clock_error_ppm);
        Timing { ttl_ms, clock_error_ppm, ..Timing::default() }.takeover_wait()
    }
}

/// Why a peer does not promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Denial {
    /// Nobody of that name is here, or it does not know itself yet.
    #[error("{peer} is not here, or is only starting")]
    NotHere {
        /// Who was asked.
        peer: MemberName,
    },
    /// It has promised a later epoch to the control plane.
    #[error("it has promised epoch {promised}")]
    Promised {
        /// Which.
        promised: Epoch,
    },
    /// It is a primary, or on its way to be.
    #[error("it is primary itself")]
    Leads,
    /// The epoch is over, as far as it knows.
    #[error("epoch {epoch} is closed")]
    Closed {
        /// Which.
        epoch: Epoch,
    },
    /// The epoch is not the one that it knows of, or not the asker's.
    #[error("it knows of epoch {known}, and not of this holder's")]
    Another {
        /// The highest that it knows of.
        known: Epoch,
    },
    /// It was started anew, knows of no agreed state yet, and has not followed this epoch.
    #[error("it knows nothing of epoch {epoch}")]
    Unknown {
        /// Which.
        epoch: Epoch,
    },
    /// The times make no sense.
    #[error("a lease of {ttl_ms} ms by clocks of {clock_error_ppm} ppm is not promised")]
    BadTimes {
        /// The length of the lease.
        ttl_ms: u64,
        /// The bound on the error of clocks.
        clock_error_ppm: u64,
    },
}

/// Whether a peer promises. `promised` is the epoch that it has durably promised, `leads` whether
/// it is primary of anything of the cluster, `state` the newest that it knows; `None` after a start.
///
/// Only the first is what safety rests on, with [`Abstention`]: the rest keeps a peer from helping
/// one that is known to be over.
///
/// # Errors
/// Why not.
pub fn judge(
    question: &Question,
    promised: Epoch,
    leads: bool,
    state: Option<&ClusterState>,
) -> Result<(), Denial> {
    let Question { epoch, ttl_ms, clock_error_ppm, .. } = question;
    let (epoch, ttl_ms, clock_error_ppm) = (*epoch, *ttl_ms, *clock_error_ppm);
    if promised > epoch {
        return Err(Denial::Promised { promised });
    }
    if leads {
        return Err(Denial::Leads);
    }
    if ttl_ms == 0 || ttl_ms > TTL_MS_MAX || clock_error_ppm >= CLOCK_ERROR_PPM_MAX {
        return Err(Denial::BadTimes { ttl_ms, clock_error_ppm });
    }
    let Some(state) = state else {
        // Whoever follows an epoch has promised it: a record that was lost has not.
        return if promised == epoch { Ok(()) } else { Err(Denial::Unknown { epoch }) };
    };
    let tenure = state
        .tenure
        .as_ref()
        .filter(|t| t.epoch == epoch && t.member == question.holder && t.guard == question.guard);
    match tenure {
        None => Err(Denial::Another { known: state.epoch }),
        Some(t) if t.closed.is_some() => Err(Denial::Closed { epoch }),
        Some(_) => Ok(()),
    }
}

/// For how long a member takes no part in a grant: it neither says where its log ends nor accepts
/// an epoch. Kept in memory only; who starts anew stands back as if it had just promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abstention {
    started: BootTime,
    until: BootTime,
}

impl Abstention {
    /// Of an agent that started at `started`, and has promised nothing since.
    pub fn new(started: BootTime) -> Self {
        Self { started, until: BootTime::default() }
    }

    /// Promises. `now` is read after the question arrived.
    pub fn promise(&mut self, question: &Question, now: BootTime) {
        self.until = self.until.max(now.plus(question.window()));
    }

    /// Until when it takes no part, by the newest agreed state that it knows. Where it knows none,
    /// it cannot know that nothing was promised before it was started.
    pub fn until(&self, state: Option<&ClusterState>) -> BootTime {
        let failsafe = |state: &ClusterState| state.tenure.as_ref().is_some_and(|t| t.failsafe);
        match state {
            None => BootTime::from_nanos(u64::MAX),
            Some(_) if mutant::without(Mutant::PromiseNotKept) => BootTime::default(),
            Some(state) if failsafe(state) && !mutant::without(Mutant::PromiseForgotten) => {
                self.until.max(self.started.plus(state.spec.timing.takeover_wait()))
            }
            Some(_) => self.until,
        }
    }
}

/// The leadership that `member` may keep by its peers' promises, by the newest agreed state that it
/// knows: its own, open, active, and granted with failsafe.
pub fn keepable<'a>(
    state: &'a ClusterState,
    member: &MemberName,
    epoch: Epoch,
    guard: &GuardId,
) -> Option<&'a Tenure> {
    state.open_tenure().filter(|t| {
        t.failsafe
            && !t.peers.is_empty()
            && t.epoch == epoch
            && t.member == *member
            && t.guard == *guard
            && matches!(t.stage, Stage::Active { .. })
    })
}

/// When a holder asks its peers for the first time, or again: once half of a lease has passed
/// without an acknowledgement, which an election of the control plane does not take; and as often
/// as leases are renewed while the peers keep it.
pub fn due(lease: &HolderLease, kept: bool, timing: &Timing) -> BootTime {
    let after = match kept {
        true => timing.renew(),
        false => Duration::from_millis(timing.ttl_ms / 2),
    };
    lease.sent(timing).plus(after)
}

/// Members that are sealed, with the epoch that each has promised.
pub type Witnesses = BTreeMap<MemberName, Epoch>;

/// What sealed members say, all of them: those whose data counts in a takeover, and those whose does
/// not, since they may not lead or are a copy that is not proven.
pub fn heard(evidence: &[Sealed], witnesses: &Witnesses) -> Witnesses {
    let mut all = witnesses.clone();
    all.extend(evidence.iter().map(|s| (s.member.clone(), s.promised)));
    all
}

/// Whether these members show that no promise of a peer can keep the holder of a closed epoch: a
/// promise binds every peer, so one whose promise has lapsed, and which will not promise again, is
/// enough. The holder itself knows best that it has ended.
pub fn is_lapsed(state: &ClusterState, tenure: &Tenure, heard: &Witnesses) -> bool {
    if !tenure.failsafe {
        return true;
    }
    // After a recovery by hand the operator's word that they are gone for ever is all there may be.
    let lost = |m: &MemberName| state.verify.as_ref().is_some_and(|v| v.lost.contains(m));
    let asked = |m: &MemberName| {
        tenure.peers.contains(m) || *m == tenure.member || mutant::without(Mutant::AnyMemberIsPeer)
    };
    heard.iter().any(|(member, promised)| *promised > tenure.epoch && asked(member))
        || tenure.peers.iter().chain([&tenure.member]).all(lost)
}

/// Whether nobody but the holder of this epoch could say any more that its peers let it go, once
/// these members are gone: if it were then lost for good, nobody could ever follow it.
pub fn leaves_no_peer(tenure: &Tenure, gone: &BTreeSet<&MemberName>) -> bool {
    tenure.failsafe && tenure.peers.iter().all(|peer| gone.contains(peer))
}

/// The state may be old: a later epoch than its own may have been granted, with failsafe, and run on
/// by its peers. Whoever was a peer of this one is a peer of that one too, or its holder.
pub fn doubt(state: &mut ClusterState) {
    let Some(tenure) = &mut state.tenure else { return };
    if tenure.peers.is_empty() {
        // Nobody knew of peers then.
        tenure.peers = state.members.keys().filter(|m| **m != tenure.member).cloned().collect();
    }
    tenure.failsafe = true;
}
