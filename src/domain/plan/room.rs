//! Room on disks: who has none, and who would take over if there were some.

use super::super::observation::Sealed;
use super::super::space::Level;
use super::super::types::{Epoch, Lsn, MemberName};
use super::{Finding, Pass, tenure_guard};

impl Pass<'_> {
    /// Whether a member is not known to be out of room: where the disk is full a promotion would
    /// fail at once, and then the next one.
    pub(super) fn has_room(&self, member: &MemberName) -> bool {
        self.fresh(member).is_none_or(|o| o.report.disks.level() > Level::Critical)
    }

    /// What the evidence would be if there were room everywhere, as far as it is of use for a
    /// finding: PostgreSQL may not even start on a full disk, and then nobody knows how far it is.
    pub(super) fn with_those_without_room(&self, sealed: &[Sealed]) -> Vec<Sealed> {
        let mut all = sealed.to_vec();
        for (name, member) in &self.state.members {
            let Some(observed) = self.fresh(name).filter(|_| member.may_lead()) else { continue };
            if self.has_room(name) || all.iter().any(|s| s.member == *name) {
                continue;
            }
            all.push(Sealed {
                member: name.clone(),
                guard: observed.report.guard.clone().unwrap_or_else(|| tenure_guard(self.state)),
                promised: self.state.epoch.next(),
                wal_epoch: Epoch(0),
                lsn: Lsn(0),
                held: Epoch(0),
                lineage: self.state.lineage.clone(),
                no_room: !self.has_room(name),
            });
        }
        all
    }

    /// Everybody who might take over, and has no room.
    pub(super) fn awaiting_room(&self) -> Finding {
        let leaders = self.state.members.iter().filter(|(_, m)| m.may_lead());
        let full = leaders.filter(|(name, _)| !self.has_room(name));
        Finding::AwaitingRoom { members: full.map(|(name, _)| name.clone()).collect() }
    }
}
