//! The next step of an agent: from what is asked of its member and what it is, one action.
//!
//! Pure: the agent reads the clock and its processes, and carries the action out. Every path to
//! being primary goes through [`Action::Accept`] and [`Action::Promote`] here.

use super::desired::{Desired, FollowDuty, PrimaryDuty};
use super::lease::HolderLease;
use super::lineage::Relation;
use super::mutant::{self, Mutant};
use super::observation::{Confirmed, Data, Sealed};
use super::record::{DataMark, MemberRecord};
use super::state::Stage;
use super::sync::SyncConfig;
use super::types::{BootTime, Epoch, GuardId, MemberName, SystemId};

/// What a member is, as its agent knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    /// Its durable record.
    pub record: MemberRecord,
    /// What lies in the data directory.
    pub data: Data,
    /// The life of the guard that is running, if one is.
    pub guard: Option<GuardId>,
    /// What runs.
    pub process: Process,
    /// The lease, where one was ever acknowledged to this guard.
    pub lease: Option<HolderLease>,
    /// Whether the primary has to be given up: PostgreSQL hangs by the agent's own rules.
    pub hung: bool,
    /// Whether the last attempt to rewind failed, so that only a copy is left.
    pub rewind_failed: bool,
    /// Whether what it follows cannot serve it any more, so that only a copy is left.
    pub source_lacks_wal: bool,
    /// Whether PostgreSQL failed to start from this data again and again.
    pub unstartable: bool,
    /// Whether its data needs nothing more of the server that it was copied from: it was seen to
    /// answer, or its control file says so. `false` where that is not known.
    pub consistent: bool,
    /// Whether the member that it should stream from instead of the primary cannot serve it.
    pub upstream_lost: bool,
    /// Until when it has promised a primary to take no part in a grant.
    pub no_part_until: BootTime,
}

/// What runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Process {
    /// Nothing, proven.
    Down,
    /// PostgreSQL has ended, and whether anything of it is left is not known yet.
    Ending,
    /// A sealed standby. `position` is set once the seal is confirmed.
    Sealed {
        /// The epoch promised when it was sealed.
        promise: Epoch,
        /// Its final position.
        position: Option<Sealed>,
    },
    /// A standby that follows.
    Following {
        /// The epoch.
        epoch: Epoch,
        /// `host:port` of the primary, or of the standby that it streams from instead.
        address: String,
    },
    /// A primary, or one on its way to be.
    Primary {
        /// The epoch.
        epoch: Epoch,
        /// Whether it is promoted.
        promoted: bool,
        /// The newest synchronous configuration that a barrier confirmed.
        confirmed: Option<Confirmed>,
        /// Whether it is open for writes.
        writes_open: bool,
    },
}

/// What the agent does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing {
        /// Why.
        why: &'static str,
    },
    /// Run `initdb`.
    Initialise,
    /// Prove that nothing of an ended process tree is left, and record it.
    ProveEnd,
    /// Kill the process tree, prove that it is empty, record that the epoch has ended.
    EndEpoch {
        /// Which.
        epoch: Epoch,
        /// Why.
        why: EndReason,
    },
    /// Record that an epoch is never run, which this life of the guard cannot run.
    Disown {
        /// Which.
        epoch: Epoch,
    },
    /// Record the promise, and start as a sealed standby.
    StartSealed {
        /// What to promise.
        promise: Epoch,
    },
    /// Record the promise, and seal the running standby; confirm where it is sealed already.
    Seal {
        /// What to promise.
        promise: Epoch,
    },
    /// Record that the epoch is held, and begin to renew its lease.
    Accept {
        /// Which.
        epoch: Epoch,
    },
    /// Promote the sealed standby to the epoch's timeline.
    Promote {
        /// Which.
        epoch: Epoch,
        /// The configuration to promote with.
        sync: SyncConfig,
    },
    /// Run with the newest configuration, and confirm it by a barrier.
    ConfirmSync {
        /// All in force; the last is to be confirmed.
        syncs: Vec<SyncConfig>,
    },
    /// Open for writes.
    OpenWrites {
        /// The epoch that is active.
        epoch: Epoch,
    },
    /// Checkpoint, then stop in order, so that the target has everything.
    HandOver {
        /// Which epoch ends by it.
        epoch: Epoch,
        /// To whom.
        target: MemberName,
    },
    /// Follow with the running standby: the duty's upstream where it has one, else the primary.
    Follow(FollowDuty),
    /// Start as a standby that follows: for data that is consistent only with the primary's WAL.
    StartFollowing(FollowDuty),
    /// Make our users in the stopped data directory, and call it the cluster's.
    Adopt {
        /// The system identifier that it must have.
        system_id: SystemId,
        /// Its timeline.
        epoch: Epoch,
    },
    /// Stop in order, and keep the data.
    Retire,
    /// Stop, rewind to the primary's lineage, and follow.
    Rewind(FollowDuty),
    /// Stop in order, to start again.
    Restart,
    /// Stop, keep the old directory aside, copy the primary, and follow.
    Clone(FollowDuty),
}

/// Why an epoch ends at its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The lease runs out.
    LeaseExpired,
    /// The control plane has closed it, or granted another.
    NotOurs,
    /// PostgreSQL hangs.
    Hung,
    /// Promotion did not succeed.
    PromotionFailed,
}

/// The next action. `now` is the agent's CLOCK_BOOTTIME.
pub fn reconcile(member: &MemberName, desired: &Desired, local: &Local, now: BootTime) -> Action {
    if local.process == Process::Ending {
        return Action::ProveEnd;
    }
    if let Process::Primary { epoch, .. } = &local.process
        && let Some(why) = must_end(*epoch, desired, local, now)
    {
        return Action::EndEpoch { epoch: *epoch, why };
    }
    match desired {
        Desired::Register => Action::Nothing { why: "not registered yet" },
        Desired::Adopt { system_id, epoch } => adopt(*system_id, *epoch, local),
        Desired::Removed => retire(local),
        Desired::Wait { why } => Action::Nothing { why },
        Desired::Bootstrap => bootstrap(local),
        Desired::Sealed { promise } => sealed(*promise, local),
        Desired::Primary(duty) => primary(duty, local, now),
        Desired::Follow(duty) if duty.primary == *member => {
            Action::Nothing { why: "a primary does not follow itself" }
        }
        Desired::Follow(duty) => follow(duty, local),
    }
}

/// Why the epoch that runs here has to end.
fn must_end(epoch: Epoch, desired: &Desired, local: &Local, now: BootTime) -> Option<EndReason> {
    // Only news ends an epoch: a view of the state that is older than the grant does not know it,
    // and the lease is there for the case that no newer one comes.
    let lost = match desired {
        Desired::Primary(duty) => {
            let other_guard = Some(&duty.guard) != local.guard.as_ref()
                && !mutant::without(Mutant::GuardNotCompared);
            duty.epoch > epoch || (duty.epoch == epoch && other_guard)
        }
        Desired::Follow(duty) => duty.epoch >= epoch,
        Desired::Sealed { promise } => *promise > epoch,
        // It is stopped in order, as long as its lease allows.
        Desired::Register
        | Desired::Removed
        | Desired::Adopt { .. }
        | Desired::Wait { .. }
        | Desired::Bootstrap => false,
    };
    if lost {
        return Some(EndReason::NotOurs);
    }
    match local.lease {
        Some(lease) if lease.epoch == epoch && !lease.may_write(epoch, now) => {
            Some(EndReason::LeaseExpired)
        }
        _ if local.hung => Some(EndReason::Hung),
        _ => None,
    }
}

fn adopt(system_id: SystemId, epoch: Epoch, local: &Local) -> Action {
    match (&local.process, &local.data) {
        (Process::Down, Data::Present { system_id: found }) if *found == system_id => {
            Action::Adopt { system_id, epoch }
        }
        (Process::Down, _) => Action::Nothing { why: "the data to be taken over is not here" },
        _ => Action::Nothing { why: "it runs" },
    }
}

fn retire(local: &Local) -> Action {
    match local.process {
        Process::Down => Action::Nothing { why: "it was removed: its data is kept" },
        _ => Action::Retire,
    }
}

fn bootstrap(local: &Local) -> Action {
    match (&local.process, &local.data) {
        (_, Data::Unknown) => Action::Nothing { why: "the data directory cannot be read" },
        (Process::Down, Data::Empty) => Action::Initialise,
        // Its own attempt, interrupted: it is resumed.
        (Process::Down, _) if local.record.data == DataMark::Initialising => Action::Initialise,
        (_, Data::Present { .. }) => Action::Nothing { why: "the data directory exists" },
        _ => Action::Nothing { why: "the data directory is not empty" },
    }
}

fn sealed(promise: Epoch, local: &Local) -> Action {
    match &local.process {
        Process::Down => match (&local.data, local.record.data) {
            (Data::Present { .. }, DataMark::Intact) => Action::StartSealed { promise },
            (Data::Present { .. }, _) if mutant::without(Mutant::ReplacedCounts) => {
                Action::StartSealed { promise }
            }
            // It counts in no quorum all the same: it is there at once for the next primary.
            (Data::Present { .. }, mark) if judgeable(mark, local) => {
                Action::StartSealed { promise }
            }
            (Data::Present { .. }, DataMark::Copied { .. }) => {
                Action::Nothing { why: "its copy is not proven, and there is no primary to follow" }
            }
            (Data::Present { .. }, DataMark::Foreign) => Action::Nothing {
                why: "it was promoted by hand, and there is no primary to follow",
            },
            _ => Action::Nothing { why: "it has no data, and there is no primary to copy" },
        },
        Process::Sealed { promise: kept, position: Some(_) }
            if *kept >= promise && local.record.promised >= promise =>
        {
            Action::Nothing { why: "sealed" }
        }
        Process::Following { epoch, .. } if *epoch >= promise => {
            Action::Nothing { why: "an older view of the state" }
        }
        Process::Following { .. } if !judgeable(local.record.data, local) => {
            Action::Nothing { why: "its copy is not proven, so it counts in no quorum" }
        }
        Process::Sealed { .. } | Process::Following { .. } => Action::Seal { promise },
        Process::Primary { .. } | Process::Ending => Action::Nothing { why: "ending" },
    }
}

/// Whether it can be told by lineage what has to be done with its data: where its log ends is known
/// once it is sealed. A copy is judged like any other data where it can be started without the
/// server that it was copied from. Whatever comes of it, it stays a copy that counts nowhere until
/// it is proven anew.
fn judgeable(mark: DataMark, local: &Local) -> bool {
    match mark {
        DataMark::Intact => true,
        // Of data that came from nobody knows where no number is believed.
        // Nor can it be asked where the WAL that brings our users was not replayed.
        DataMark::Copied { source, .. } => {
            local.consistent && source != Epoch(0) && source != local.record.users_from
        }
        DataMark::Foreign | DataMark::Initialising | DataMark::Replacing => false,
    }
}

fn primary(duty: &PrimaryDuty, local: &Local, now: BootTime) -> Action {
    if local.record.ended >= duty.epoch && !mutant::without(Mutant::StopNotFinal) {
        return Action::Nothing { why: "the end of this epoch is recorded and reported" };
    }
    if local.guard.as_ref() != Some(&duty.guard) && !mutant::without(Mutant::GuardNotCompared) {
        // The life of the guard that was granted the epoch is over, and a new one is told from it
        // only after the old tree was proven empty.
        return Action::Disown { epoch: duty.epoch };
    }
    let leased = local.lease.is_some_and(|lease| lease.may_write(duty.epoch, now))
        || mutant::without(Mutant::NoLease);
    let granted = duty.stage == Stage::Granted && local.record.may_hold(duty.epoch);
    match &local.process {
        Process::Sealed { position: Some(_), .. } if granted && now < local.no_part_until => {
            Action::Nothing { why: "it has promised a primary to take no part yet" }
        }
        Process::Sealed { position: Some(_), .. } if granted => {
            Action::Accept { epoch: duty.epoch }
        }
        Process::Sealed { position: None, .. } if granted => Action::Seal { promise: duty.epoch },
        Process::Primary { promoted: false, .. } => match duty.syncs.last() {
            Some(sync) if leased => Action::Promote { epoch: duty.epoch, sync: sync.clone() },
            _ => Action::Nothing { why: "the first renewal is not acknowledged yet" },
        },
        Process::Primary { promoted: true, .. } if !leased => {
            Action::Nothing { why: "no renewal is acknowledged yet" }
        }
        Process::Primary { promoted: true, confirmed, writes_open, .. } => {
            if let Some(target) = &duty.handover {
                return Action::HandOver { epoch: duty.epoch, target: target.clone() };
            }
            let active = matches!(duty.stage, Stage::Active { .. });
            if (active || mutant::without(Mutant::OpensBeforeActive)) && !writes_open {
                return Action::OpenWrites { epoch: duty.epoch };
            }
            let newest = duty.syncs.last();
            let is_confirmed = |c: &Confirmed| {
                c.syncs == duty.syncs || (duty.syncs.len() == 1 && c.syncs.last() == newest)
            };
            // Never back to an older configuration, whatever an older view of the state says.
            let newer = |c: &Confirmed| c.syncs.last().map(|s| s.seq) > newest.map(|s| s.seq);
            if confirmed.as_ref().is_some_and(|c| is_confirmed(c) || newer(c)) || newest.is_none() {
                return Action::Nothing { why: "primary" };
            }
            Action::ConfirmSync { syncs: duty.syncs.clone() }
        }
        _ => Action::Disown { epoch: duty.epoch },
    }
}

fn follow(duty: &FollowDuty, local: &Local) -> Action {
    if local.record.promised > duty.epoch {
        return Action::Nothing { why: "it has promised a later epoch" };
    }
    // What WAL is taken from; a rewind and the judgement by lineage are the primary's matter.
    let stream = || if local.upstream_lost { duty.from_primary() } else { duty.clone() };
    let copy_anew = copy_anew(duty, local);
    match &local.process {
        Process::Down => follow_from_stopped(duty, stream, local),
        // Nothing of it is to be believed, whatever it runs as.
        Process::Sealed { .. } | Process::Following { .. }
            if local.record.data == DataMark::Foreign =>
        {
            Action::Rewind(duty.clone())
        }
        Process::Sealed { position: None, .. } => Action::Seal { promise: duty.epoch },
        // Nothing is taken from an epoch that is not promised: an older view must never win later.
        Process::Sealed { .. } if local.record.promised < duty.epoch => {
            Action::Seal { promise: duty.epoch }
        }
        Process::Sealed { position: Some(at), .. } if at.wal_epoch > duty.epoch => {
            Action::Nothing { why: "an older view of the state" }
        }
        Process::Sealed { position: Some(at), .. } => {
            match duty.lineage.relation_of(&at.lineage, at.wal_epoch, at.lsn) {
                _ if local.source_lacks_wal || copy_anew => Action::Clone(duty.clone()),
                Relation::Prefix => Action::Follow(stream()),
                _ if mutant::without(Mutant::FollowsDiverged) => Action::Follow(stream()),
                Relation::Diverged { .. } => diverged(duty, local),
            }
        }
        Process::Following { epoch, .. } if *epoch > duty.epoch => {
            Action::Nothing { why: "an older view of the state" }
        }
        Process::Following { epoch, address } if *epoch == duty.epoch => {
            let stream = stream();
            if *address != stream.streams_from().1 {
                // The same server at another address, or the other of primary and upstream. Both
                // have only WAL of this epoch and of those before it in the lineage.
                Action::Follow(stream)
            } else if local.source_lacks_wal || copy_anew {
                Action::Clone(duty.clone())
            } else if duty.restart.is_some() && duty.restart == local.guard {
                Action::Restart
            } else {
                Action::Nothing { why: "following" }
            }
        }
        // It missed a change of primary: where its log ends has to be known first. A copy that was
        // never consistent may not even get there without the primary that it was copied from.
        Process::Following { .. } if !judgeable(local.record.data, local) => {
            Action::Clone(duty.clone())
        }
        Process::Following { .. } => Action::Seal { promise: duty.epoch },
        Process::Primary { .. } | Process::Ending => Action::Nothing { why: "ending" },
    }
}

/// Whether the operator wants its data copied anew, and that was not done yet. Before the primary is
/// active it may be the last to have an epoch: then nobody's word gives it up.
fn copy_anew(duty: &FollowDuty, local: &Local) -> bool {
    duty.active && duty.expendable && duty.copy_anew.is_some_and(|id| local.record.copied_for < id)
}

fn follow_from_stopped(
    duty: &FollowDuty,
    stream: impl FnOnce() -> FollowDuty,
    local: &Local,
) -> Action {
    let lacking = local.source_lacks_wal || copy_anew(duty, local);
    let spent = local.rewind_failed || local.unstartable || lacking;
    match (&local.data, local.record.data) {
        (Data::Unknown, _) => Action::Nothing { why: "the data directory cannot be read" },
        (Data::Empty | Data::Incomplete, _) | (_, DataMark::Replacing | DataMark::Initialising) => {
            Action::Clone(duty.clone())
        }
        (Data::Present { .. }, _) if spent => Action::Clone(duty.clone()),
        // It is not even started: its timeline may have a number that a later epoch gets.
        (Data::Present { .. }, DataMark::Foreign) => diverged(duty, local),
        // It may be consistent only with WAL of the primary that it was copied from.
        (Data::Present { .. }, DataMark::Copied { source, .. }) if source == duty.epoch => {
            Action::StartFollowing(stream())
        }
        (Data::Present { .. }, mark) if judgeable(mark, local) => {
            Action::StartSealed { promise: duty.epoch }
        }
        (Data::Present { .. }, _) => Action::Clone(duty.clone()),
    }
}

fn diverged(duty: &FollowDuty, local: &Local) -> Action {
    if !duty.active && !duty.counted && !mutant::without(Mutant::RewindAtOnce) {
        // Until the primary is active this member may be the one that covers the epoch before: its
        // data is given up only where the primary waits for this very member.
        Action::Nothing { why: "diverged; the primary is not active yet" }
    } else if local.rewind_failed {
        Action::Clone(duty.clone())
    } else {
        Action::Rewind(duty.clone())
    }
}
