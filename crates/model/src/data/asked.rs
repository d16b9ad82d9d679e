//! What a member does next: production's `reconcile`, asked with what production's types say of the
//! member.

use super::log::Log;
use super::state::{Id, Mark, Member, Run};
use super::tables::{SYSTEM, Tables, cluster_name, epoch, guard_id, small};
use crate::domain::desired::{Desired, FollowDuty};
use crate::domain::lease::HolderLease;
use crate::domain::observation::{Confirmed, Data};
use crate::domain::reconcile::{Action, Local, Process, reconcile};
use crate::domain::record::{DataMark, MemberRecord};
use crate::domain::types::BootTime;

/// What a member does next, by the production's word.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// End the epoch.
    End,
    /// Record that an epoch is never run.
    Disown(u8),
    /// Start sealed.
    StartSealed(u8),
    /// Seal.
    Seal(u8),
    /// Accept the grant.
    Accept(u8),
    /// Promote with this configuration.
    Promote(u8, Id),
    /// Run with the last of the list, and confirm it.
    Confirm(Id, Id),
    /// Open for writes, with this configuration.
    Open(Id),
    /// Stop in order, for that member.
    HandOver(u8),
    /// Follow that member in that epoch.
    Follow(u8, u8),
    /// Start as a follower.
    StartFollowing(u8, u8),
    /// Rewind.
    Rewind(u8, u8),
    /// Copy.
    Clone(u8, u8),
    /// Nothing, but a copy may be proven.
    Care,
}

impl Tables {
    /// What a member does next.
    pub fn step(&mut self, i: usize, member: &Member) -> Step {
        let mut key = *member;
        (key.evidence, key.config, key.senders, key.followed) = (0, 0, Default::default(), 0);
        if !matches!(key.run, Run::Sealed { .. }) {
            key.log = Log::default();
        }
        if let Some(known) = self.steps.get(&(i, key)) {
            return known.clone();
        }
        let local = self.local(i, &key);
        let view = self.views[usize::from(member.view)].clone();
        let action = reconcile(&self.names[i], &view, &local, BootTime::from_nanos(0));
        let step = self.as_step(action, &view, &key);
        self.steps.insert((i, key), step.clone());
        step
    }

    fn local(&self, i: usize, member: &Member) -> Local {
        let mut record = MemberRecord::new(cluster_name(), self.names[i].clone());
        record.promised = epoch(member.promised);
        record.held = epoch(member.held);
        record.ended = epoch(member.ended);
        record.data = match member.mark {
            Mark::Intact => DataMark::Intact,
            Mark::Replacing => DataMark::Replacing,
            Mark::Copied(source) => DataMark::Copied { source: epoch(source), until: None },
        };
        let (mut lease, mut process) = (None, Process::Down);
        match member.run {
            Run::Down => {}
            Run::Sealed { promise } => {
                let (log, guard) = (member.log, member.guard);
                let at = self.sealed(i, guard, member.promised, member.held, log.epoch(), log);
                process = Process::Sealed { promise: epoch(promise), position: Some(at) };
            }
            Run::Following { epoch: e, source } => {
                let address = self.names[usize::from(source)].to_string();
                process = Process::Following { epoch: epoch(e), address };
            }
            Run::Primary { epoch: e, leased, promoted, open, confirmed } => {
                let far = BootTime::from_nanos(u64::MAX);
                lease =
                    leased.then_some(HolderLease { epoch: epoch(e), stop_at: far, kill_at: far });
                let list = &self.lists[usize::from(confirmed)];
                let confirmed = (confirmed != 0)
                    .then(|| Confirmed { syncs: list.clone(), postmaster_start_us: 0 });
                process =
                    Process::Primary { epoch: epoch(e), promoted, confirmed, writes_open: open };
            }
        }
        Local {
            record,
            data: if member.present { Data::Present { system_id: SYSTEM } } else { Data::Empty },
            guard: (member.guard != 0).then(|| guard_id(i, member.guard)),
            process,
            lease,
            hung: false,
            rewind_failed: false,
            source_lacks_wal: false,
            unstartable: false,
            consistent: true,
            upstream_lost: false,
            no_part_until: Default::default(),
        }
    }

    fn as_step(&mut self, action: Action, view: &Desired, member: &Member) -> Step {
        let duty =
            |d: &FollowDuty, tables: &Self| (small(d.epoch), tables.member(&d.primary) as u8);
        match action {
            Action::Nothing { .. } => match (view, member.run, member.mark) {
                (Desired::Follow(_), Run::Following { .. }, Mark::Copied(_)) => Step::Care,
                _ => Step::Nothing,
            },
            // No operator of the model restarts, removes or adopts anybody.
            Action::Initialise
            | Action::ProveEnd
            | Action::Restart
            | Action::Retire
            | Action::Adopt { .. } => Step::Nothing,
            Action::EndEpoch { .. } => Step::End,
            Action::Disown { epoch } => Step::Disown(small(epoch)),
            Action::StartSealed { promise } => Step::StartSealed(small(promise)),
            Action::Seal { promise } => Step::Seal(small(promise)),
            Action::Accept { epoch } => Step::Accept(small(epoch)),
            Action::Promote { epoch, sync } => Step::Promote(small(epoch), self.config_id(&sync)),
            Action::ConfirmSync { syncs } => match syncs.last() {
                Some(newest) => Step::Confirm(self.config_id(newest), self.list_id(&syncs)),
                None => Step::Nothing,
            },
            Action::OpenWrites { .. } => match view {
                Desired::Primary(duty) => match duty.syncs.last() {
                    Some(newest) => Step::Open(self.config_id(newest)),
                    None => Step::Nothing,
                },
                _ => Step::Nothing,
            },
            Action::HandOver { target, .. } => Step::HandOver(self.member(&target) as u8),
            Action::Follow(d) => {
                let (epoch, source) = duty(&d, self);
                Step::Follow(epoch, source)
            }
            Action::StartFollowing(d) => {
                let (epoch, source) = duty(&d, self);
                Step::StartFollowing(epoch, source)
            }
            Action::Rewind(d) => {
                let (epoch, source) = duty(&d, self);
                Step::Rewind(epoch, source)
            }
            Action::Clone(d) => {
                let (epoch, source) = duty(&d, self);
                Step::Clone(epoch, source)
            }
        }
    }
}
