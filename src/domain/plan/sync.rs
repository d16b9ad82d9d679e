//! The synchronous configuration: who should count, and the joint change towards it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::command::Change;
use super::super::mutant::{self, Mutant};
use super::super::observation::{Condition, PrimaryView, Sealed, StandbyProgress};
use super::super::state::{Stage, SynchronousMode, Tenure};
use super::super::sync::SyncConfig;
use super::super::types::{Epoch, MemberName};
use super::{FIRST_SYNC_WAIT, Finding, Pass, WIDEN_AFTER};

impl Pass<'_> {
    pub(super) fn finish_sync_change(
        &self,
        tenure: &Tenure,
        view: Option<&PrimaryView>,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        let [older @ .., newest] = self.state.syncs.as_slice() else { return None };
        let from = older.last()?;
        findings.push(Finding::ChangingSync { from: from.clone(), to: newest.clone() });
        let confirmed = view?.confirmed.as_ref()?;
        let ends =
            confirmed.syncs == self.state.syncs || mutant::without(Mutant::ChangeEndsUnconfirmed);
        ends.then(|| Change::FinishSyncChange {
            expect_epoch: tenure.epoch,
            expect_syncs: self.state.syncs.clone(),
        })
    }

    /// Who should count, and the change towards it.
    pub(super) fn sync_change(
        &self,
        tenure: &Tenure,
        view: Option<&PrimaryView>,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        let current = self.state.current_sync()?;
        let view = view?;
        let lag_max = self.state.spec.sync_lag_bytes_max;
        let near = |name: &MemberName, p: &StandbyProgress| {
            // One that lagged comes back only once it has nearly caught up.
            let max = if current.members.contains(name) { lag_max } else { lag_max / 4 };
            p.streaming && view.lag_bytes(p) <= max
        };
        let streaming: BTreeSet<MemberName> = view
            .standbys
            .iter()
            .filter(|(name, p)| near(name, p) && self.may_count(&tenure.member, name))
            .map(|(name, _)| name.clone())
            .collect();
        let confirms = |name: &&MemberName| {
            let tagged =
                self.state.members.get(*name).is_some_and(|m| m.may_confirm(&tenure.member));
            tagged && view.standbys.get(*name).is_some_and(|p| near(name, p)) && self.counts(name)
        };
        let able = current.members.iter().filter(confirms).count();
        if able < current.w as usize {
            findings.push(Finding::CommitsWait { config: current.clone(), streaming: able });
        }
        let active = matches!(tenure.stage, Stage::Active { .. });
        // Before activation every change would only put it off, unless nothing else helps.
        let since = self.observed.epoch_seen.map_or(self.now, |(_, at)| at);
        let early = self.now.since(since) < FIRST_SYNC_WAIT;
        if !active && (tenure.stage == Stage::Granted || early || able >= current.w as usize) {
            return None;
        }
        let mut wanted = streaming;
        if !active && self.now.since(since) >= WIDEN_AFTER {
            let answers =
                |m: &&MemberName| self.may_confirm(&tenure.member, m) && self.fresh(m).is_some();
            wanted.extend(self.state.members.keys().filter(answers).cloned());
        }
        let mut target = self.target_sync(tenure, current, &wanted)?;
        if target.w == 0 && current.w > 0 && self.state.spec.synchronous != SynchronousMode::Async {
            // Not down to nobody while anybody streams, however far behind.
            let all = view
                .standbys
                .iter()
                .filter(|(name, p)| p.streaming && self.may_count(&tenure.member, name));
            let all: BTreeSet<MemberName> = all.map(|(name, _)| name.clone()).collect();
            if !all.is_empty() {
                target = self.sync_of(tenure.epoch, all);
            }
        }
        if target.same_as(current) {
            return None;
        }
        // A change cuts the standbys off for a moment: while enough of them confirm, newcomers wait
        // until the clients of a new primary are back.
        let only_adds = target.w == current.w && target.members.is_superset(&current.members);
        if active && only_adds && early && able >= current.w as usize {
            return None;
        }
        // One change after the other, except where the one under way cannot be confirmed.
        if self.state.syncs.len() > 1 && active && able >= current.w as usize {
            return None;
        }
        findings.push(Finding::ChangingSync { from: current.clone(), to: target.clone() });
        Some(Change::BeginSyncChange {
            expect_epoch: tenure.epoch,
            expect_syncs: self.state.syncs.clone(),
            to: target,
        })
    }

    /// Whether commits of this primary may wait for the member. What is to be copied anew has to
    /// leave first; before the primary is open nothing is given up, and all are needed.
    fn may_confirm(&self, primary: &MemberName, name: &MemberName) -> bool {
        let leaves =
            self.state.active_primary().is_some() && self.state.reinitialisation_of(name).is_some();
        self.state.members.get(name).is_some_and(|m| m.may_confirm(primary))
            && !leaves
            && !self.state.is_given_up(name)
    }

    fn may_count(&self, primary: &MemberName, name: &MemberName) -> bool {
        self.may_confirm(primary, name) && self.counts(name)
    }

    /// Whether its data is proven, by what it says now.
    fn counts(&self, name: &MemberName) -> bool {
        self.fresh(name)
            .is_some_and(|o| matches!(&o.report.condition, Condition::Standby(view) if view.counts))
    }

    fn target_sync(
        &self,
        tenure: &Tenure,
        current: &SyncConfig,
        streaming: &BTreeSet<MemberName>,
    ) -> Option<SyncConfig> {
        let spec = &self.state.spec;
        if spec.synchronous == SynchronousMode::Async {
            return Some(SyncConfig::asynchronous(tenure.epoch, self.state.next_sync));
        }
        let since = self.since(self.observed.epoch_seen.map(|(_, at)| at));
        let patience = Duration::from_millis(spec.shrink_after_ms);
        let gone = |name: &MemberName| {
            let last = self.observed.last_streaming.get(name).copied().unwrap_or(since);
            self.now.since(last.max(since)) >= patience
        };
        let allowed = |name: &MemberName| self.may_confirm(&tenure.member, name);
        let kept = current.members.iter().filter(|m| allowed(m) && !gone(m));
        let mut members: BTreeSet<MemberName> = kept.chain(streaming).cloned().collect();
        members.remove(&tenure.member);
        let floor = spec.write_quorum_min as usize;
        if members.is_empty() && floor == 0 {
            // Nobody is there, and the operator has it that the primary goes on alone.
            return Some(SyncConfig::asynchronous(tenure.epoch, self.state.next_sync));
        }
        if members.len() < floor.max(1) {
            if current.w as usize >= floor {
                // Not below what the operator wants: commits wait.
                return None;
            }
            // The floor was raised: whoever may come back is waited for.
            members = self.state.members.keys().filter(|m| allowed(m)).cloned().collect();
            members.remove(&tenure.member);
            if members.len() < floor.max(1) {
                return None;
            }
        }
        Some(self.sync_of(tenure.epoch, members))
    }

    /// The configuration of these members, by the cluster's mode and order.
    fn sync_of(&self, epoch: Epoch, members: BTreeSet<MemberName>) -> SyncConfig {
        let spec = &self.state.spec;
        let w = spec.write_quorum.max(1).min(members.len() as u32);
        let mut order = Vec::new();
        if spec.synchronous == SynchronousMode::Priority {
            order = members.iter().cloned().collect();
            let priority = |m: &MemberName| self.state.members.get(m).map_or(0, |x| x.priority);
            // Stable: the names keep their order where priorities are equal.
            order.sort_by_key(|m| std::cmp::Reverse(priority(m)));
        }
        SyncConfig { epoch, seq: self.state.next_sync, w, members, order }
    }

    /// The configuration that a new epoch begins with: those who are there to confirm it; where
    /// they are too few, everybody who may come back to; where nobody is there and the operator
    /// has it so, nobody.
    pub(super) fn first_sync(&self, primary: &MemberName, evidence: &[Sealed]) -> SyncConfig {
        let epoch = self.state.epoch.next();
        let others = |name: &&MemberName| *name != primary && self.may_confirm(primary, name);
        let here: BTreeSet<MemberName> =
            evidence.iter().map(|s| &s.member).filter(others).cloned().collect();
        let all: BTreeSet<MemberName> = self.state.members.keys().filter(others).cloned().collect();
        let spec = &self.state.spec;
        let floor = spec.write_quorum_min as usize;
        let alone = here.is_empty() && floor == 0;
        let members = if here.len() >= floor.max(1) { here } else { all };
        if spec.synchronous == SynchronousMode::Async || members.is_empty() || alone {
            return SyncConfig::asynchronous(epoch, self.state.next_sync);
        }
        self.sync_of(epoch, members)
    }
}
