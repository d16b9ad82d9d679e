//! What may be agreed on next: every change that production could propose, and more, each through
//! production's `apply`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::bounds::{Choice, MEMBERS_MAX};
use super::log::Log;
use super::state::Id;
use super::tables::{SYSTEM, TERM, Tables, cluster_name, epoch, small};
use crate::domain::apply::{Position, apply};
use crate::domain::command::{Basis, Change, Command, Grant, Reply};
use crate::domain::invariants;
use crate::domain::observation::Sealed;
use crate::domain::state::{
    CloseReason, ClusterSpec, ControlState, Outcome, Stage, SynchronousMode, Tags, Tenure,
};
use crate::domain::sync::SyncConfig;
use crate::domain::types::{Epoch, MemberName, NodeName, WallMillis};

/// A proposal that was accepted.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// For a reader.
    pub text: Arc<str>,
    /// What is agreed after it.
    pub to: Id,
    /// What it counts against.
    pub kind: Kind,
}

/// What a proposal counts against in the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The end of an epoch, whoever holds it.
    Close,
    /// A step that production takes by itself.
    Step,
    /// A change of the synchronous configuration.
    Change,
    /// An operation.
    Operation,
}

/// What the leader was told of, and what the bounds still allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// The agreed state.
    pub cluster: Id,
    /// The log of the holder when it was promoted.
    pub promotion: Log,
    /// The list that its barrier confirmed.
    pub confirmed: Id,
    /// Sealed positions.
    pub evidence: [Id; MEMBERS_MAX],
    /// Who streams from the holder, and counts.
    pub streaming: [bool; MEMBERS_MAX],
    /// Whether a change of the synchronous configuration may begin.
    pub may_change: bool,
    /// Whether an operation may begin.
    pub may_operate: bool,
}

impl Tables {
    /// The cluster at its beginning: its first member has made the data, and nobody has led it.
    pub fn initial(&mut self) -> Id {
        let spec = ClusterSpec {
            synchronous: SynchronousMode::Quorum,
            write_quorum: self.bounds.write_quorum,
            ..ClusterSpec::of(self.names.clone())
        };
        let mut control = ControlState::default();
        let first = self.names[0].clone();
        let mut changes = vec![Change::CreateCluster { spec }];
        changes.extend(self.names.iter().map(|member| Change::RegisterMember {
            member: member.clone(),
            node: NodeName::new(member.as_str()).expect("a valid name"),
            address: member.to_string(),
            agent_address: None,
            priority: 0,
            tags: Tags::default(),
            system_id: None,
        }));
        changes.push(Change::BeginBootstrap { member: first.clone() });
        changes.push(Change::FinishBootstrap { member: first, system_id: SYSTEM, epoch: Epoch(1) });
        for change in changes {
            assert!(matches!(run(&mut control, change), Reply::Applied { .. }), "a good beginning");
        }
        self.cluster_id(control, false)
    }

    /// What is agreed after `change`; `None` where it is refused or changes nothing that counts.
    pub fn apply(&mut self, id: Id, change: Change) -> Option<Id> {
        let before = &self.cluster(id).control;
        let mut after = before.clone();
        if !matches!(run(&mut after, change), Reply::Applied { .. }) {
            return None;
        }
        let broken = !invariants::check(&after).is_empty()
            || !invariants::check_step(before, &after).is_empty();
        let to = self.cluster_id(after, broken);
        (to != id).then_some(to)
    }

    /// Every proposal that changes something: what production would propose, and more.
    pub fn proposals(&mut self, told: Told) -> Arc<Vec<Proposal>> {
        if let Some(known) = self.proposals.get(&told) {
            return known.clone();
        }
        let Told { cluster: id, evidence, may_operate, .. } = told;
        let mut found = Vec::new();
        if self.cluster(id).open {
            self.open_proposals(&told, &mut found);
        } else {
            self.grants(id, evidence, &mut found);
        }
        if self.bounds.operations > 0 {
            self.operations(id, may_operate, &mut found);
        }
        let found = Arc::new(found);
        self.proposals.insert(told, found.clone());
        found
    }

    fn propose(&mut self, id: Id, change: Change, kind: Kind, text: &str, out: &mut Vec<Proposal>) {
        if let Some(to) = self.apply(id, change)
            && out.iter().all(|p| p.to != to)
        {
            out.push(Proposal { text: text.into(), to, kind });
        }
    }

    fn tenure(&self, id: Id) -> (Tenure, Vec<SyncConfig>, u64) {
        let state = self.cluster(id).control.cluster(&cluster_name()).expect("one cluster");
        (state.tenure.clone().expect("there is data"), state.syncs.clone(), state.next_sync)
    }

    fn open_proposals(&mut self, told: &Told, out: &mut Vec<Proposal>) {
        let Told { cluster: id, promotion, confirmed, may_change, .. } = *told;
        let (tenure, syncs, next_sync) = self.tenure(id);
        let (expect_epoch, guard) = (tenure.epoch, tenure.guard.clone());
        if small(expect_epoch) < self.bounds.last_epoch {
            let close =
                Change::Close { expect_epoch, reason: CloseReason::LeaseLost, stopped: false };
            self.propose(id, close, Kind::Close, "agreed: the epoch is closed", out);
        }
        if promotion != Log::default() {
            let mut lineage = promotion.lineage();
            if let Some(last) = lineage.0.last_mut() {
                // The same, unless a promotion takes any number.
                last.epoch = expect_epoch;
            }
            let change = Change::RecordPromotion { expect_epoch, guard: guard.clone(), lineage };
            self.propose(id, change, Kind::Step, "agreed: it is promoted", out);
        }
        if confirmed != 0 {
            let expect_syncs = self.lists[usize::from(confirmed)].clone();
            let change = Change::Activate {
                expect_epoch,
                guard,
                expect_syncs: expect_syncs.clone(),
                postmaster_start_us: 0,
            };
            self.propose(id, change, Kind::Step, "agreed: it is active", out);
            let change = Change::FinishSyncChange { expect_epoch, expect_syncs };
            self.propose(id, change, Kind::Step, "agreed: the newest configuration alone", out);
        }
        if may_change && tenure.stage != Stage::Granted {
            let primary = self.member(&tenure.member);
            for mut to in self.choices(primary, tenure.epoch) {
                to.seq = next_sync;
                let same = |c: &SyncConfig| c.w == to.w && c.members == to.members;
                let Some(current) = syncs.last() else { continue };
                let planned = self.bounds.choice != Choice::Planned
                    || self.planned(current, &to, &told.streaming, tenure.stage);
                if same(current) || !planned {
                    continue;
                }
                let text = format!("agreed: changing to {to}");
                let expect_syncs = syncs.clone();
                let change = Change::BeginSyncChange { expect_epoch, expect_syncs, to };
                self.propose(id, change, Kind::Change, &text, out);
            }
        }
    }

    /// Whether production could ask for this change: whoever streams and counts is added, whoever
    /// is gone is taken out; and before the activation whoever answers, where too few stream.
    fn planned(
        &self,
        current: &SyncConfig,
        to: &SyncConfig,
        streaming: &[bool; MEMBERS_MAX],
        stage: Stage,
    ) -> bool {
        let streams = |m: &MemberName| streaming[self.member(m)];
        let able = current.members.iter().filter(|m| streams(m)).count();
        let named = |i: &usize| streaming[*i];
        let everybody_there =
            (0..self.names.len()).filter(named).all(|i| to.members.contains(&self.names[i]));
        let known = to.members.iter().all(|m| streams(m) || current.members.contains(m));
        match stage {
            Stage::Active { .. } => everybody_there && known,
            _ => everybody_there && able < current.w as usize,
        }
    }

    /// The configurations that may be asked for.
    fn choices(&self, primary: usize, epoch: Epoch) -> Vec<SyncConfig> {
        let others: Vec<&MemberName> =
            self.names.iter().enumerate().filter(|(i, _)| *i != primary).map(|(_, n)| n).collect();
        let all = (1u32 << others.len()) - 1;
        let sets: Vec<u32> = match self.bounds.choice {
            Choice::Others => vec![all],
            Choice::Planned | Choice::Subsets => (1..=all).rev().collect(),
            Choice::WithAsync => (0..=all).rev().collect(),
        };
        let config = |set: u32| {
            let members = others.iter().enumerate().filter(|(i, _)| set & (1 << i) != 0);
            let members: BTreeSet<MemberName> = members.map(|(_, n)| (*n).clone()).collect();
            let w = self.bounds.write_quorum.min(members.len() as u32);
            SyncConfig { epoch, seq: 0, w, members, order: Vec::new() }
        };
        sets.into_iter().map(config).collect()
    }

    /// Grants on every part of the evidence: any of it may have come too late.
    fn grants(&mut self, id: Id, told: [Id; MEMBERS_MAX], out: &mut Vec<Proposal>) {
        let (tenure, expect_syncs, next_sync) = self.tenure(id);
        let usable: Vec<usize> = (0..self.bounds.members).filter(|i| told[*i] != 0).collect();
        for part in 1..1u32 << usable.len() {
            let evidence: Vec<Sealed> = usable
                .iter()
                .enumerate()
                .filter(|(bit, _)| part & (1 << bit) != 0)
                .map(|(_, i)| self.evidence[usize::from(told[*i])].clone())
                .collect();
            // Whoever is not the best is refused, so each is tried.
            for best in evidence.clone() {
                let member = self.member(&best.member);
                let here = evidence.iter().map(|s| &s.member).filter(|m| **m != best.member);
                let here: BTreeSet<MemberName> = here.cloned().collect();
                for mut sync in self.choices(member, tenure.epoch.next()) {
                    sync.seq = next_sync;
                    // Those who are there to confirm it, else everybody.
                    let all = self.bounds.members - 1;
                    let planned =
                        sync.members == here || here.is_empty() && sync.members.len() == all;
                    if self.bounds.choice == Choice::Planned && !planned {
                        continue;
                    }
                    let text =
                        format!("agreed: {} is granted epoch {}, {sync}", best.member, sync.epoch);
                    let grant = Change::Grant(Grant {
                        expect_epoch: tenure.epoch,
                        expect_syncs: expect_syncs.clone(),
                        member: best.member.clone(),
                        guard: best.guard.clone(),
                        basis: Basis::Expired { term: TERM },
                        evidence: evidence.clone(),
                        sync,
                        accept_data_loss: None,
                        witnesses: Default::default(),
                        within_lag_of: None,
                    });
                    self.propose(id, grant, Kind::Step, &text, out);
                }
            }
        }
    }

    fn operations(&mut self, id: Id, may_operate: bool, out: &mut Vec<Proposal>) {
        let expect_epoch = epoch(self.cluster(id).epoch);
        let outcome = Outcome::Failed { why: String::new() };
        let change = Change::FinishOperation { operation: 0, outcome };
        self.propose(id, change, Kind::Step, "agreed: the operation is given up", out);
        if !may_operate {
            return;
        }
        for target in self.names.clone() {
            let by = String::new();
            let text = format!("operator: switchover to {target}");
            let change =
                Change::StartSwitchover { expect_epoch, target: target.clone(), by: by.clone() };
            self.propose(id, change, Kind::Operation, &text, out);
            if small(expect_epoch) < self.bounds.last_epoch {
                let text = format!("operator: failover to {target}");
                let (target, accept_data_loss) = (Some(target), false);
                let change = Change::StartFailover { expect_epoch, target, accept_data_loss, by };
                self.propose(id, change, Kind::Operation, &text, out);
            }
        }
    }
}

fn run(control: &mut ControlState, change: Change) -> Reply {
    let command = Command { cluster: cluster_name(), at: WallMillis(0), change };
    apply(control, Position { term: TERM, index: 0 }, &command)
}
