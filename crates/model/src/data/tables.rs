//! Everything of a state that is too large to be kept in it, once each, and what production code
//! said of it, asked once each.
//!
//! The answers are pure functions of what is asked, so remembering them changes nothing but time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::agreed::{Proposal, Told};
use super::asked::Step;
use super::bounds::{Bounds, MEMBERS_MAX};
use super::log::Log;
use super::state::{Id, Member, name};
use crate::domain::desired::{Desired, desired};
use crate::domain::observation::Sealed;
use crate::domain::state::{CloseReason, ControlState, Stage};
use crate::domain::sync::SyncConfig;
use crate::domain::types::{ClusterName, Epoch, GuardId, Lsn, MemberName, SystemId, WallMillis};

/// The Raft term of everything: leases are another model's matter.
pub(super) const TERM: u64 = 1;
pub(super) const SYSTEM: SystemId = SystemId(1);

/// An agreed state, and what the model asks of it all the time.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(super) control: ControlState,
    /// The highest granted epoch.
    pub epoch: u8,
    /// Its holder.
    pub holder: usize,
    /// The life of the guard that holds it.
    pub guard: u8,
    /// Whether it is open.
    pub open: bool,
    /// Whether it was recorded as promoted.
    pub promoted: bool,
    /// Whether it is active.
    pub active: bool,
    /// The oldest epoch of a synchronous configuration in force.
    pub oldest_sync: u8,
    /// What each member is asked to be.
    pub views: [Id; MEMBERS_MAX],
    /// Whether an invariant is broken.
    pub broken: bool,
}

/// The tables of one exploration.
#[derive(Debug)]
pub struct Tables {
    pub(super) bounds: Bounds,
    pub(super) names: Vec<MemberName>,
    /// What each member was told at the beginning of the exploration.
    pub first_views: [Id; MEMBERS_MAX],
    clusters: Vec<Cluster>,
    cluster_ids: BTreeMap<Vec<u8>, Id>,
    pub(super) views: Vec<Desired>,
    view_ids: BTreeMap<String, Id>,
    configs: Vec<SyncConfig>,
    config_ids: BTreeMap<SyncConfig, Id>,
    pub(super) lists: Vec<Vec<SyncConfig>>,
    list_ids: BTreeMap<Vec<SyncConfig>, Id>,
    pub(super) evidence: Vec<Sealed>,
    evidence_ids: BTreeMap<(usize, u8, u8, u8, u8, Log), Id>,
    pub(super) proposals: BTreeMap<Told, Arc<Vec<Proposal>>>,
    pub(super) steps: BTreeMap<(usize, Member), Step>,
}

pub(super) fn cluster_name() -> ClusterName {
    ClusterName::new("main").expect("a valid name")
}

pub(super) fn guard_id(member: usize, life: u8) -> GuardId {
    let mut bytes = [0; 16];
    (bytes[0], bytes[1]) = (member as u8 + 1, life);
    GuardId::from_bytes(bytes)
}

fn life_of(guard: &GuardId) -> u8 {
    u8::from_str_radix(&guard.as_str()[2..4], 16).unwrap_or(0)
}

pub(super) fn small(epoch: Epoch) -> u8 {
    u8::try_from(epoch.0).expect("epochs are bounded")
}

pub(super) fn epoch(small: u8) -> Epoch {
    Epoch(u64::from(small))
}

fn as_id(number: usize) -> Id {
    Id::try_from(number).expect("the bounds give more different values than a table can hold")
}

impl Tables {
    /// Tables with the values that a state can name without having met them: number 0 of each.
    pub fn new(bounds: &Bounds) -> Self {
        let names: Vec<MemberName> = (0..bounds.members)
            .map(|i| MemberName::new(name(i).to_string()).expect("a valid name"))
            .collect();
        let none = SyncConfig::asynchronous(Epoch(0), 0);
        let mut tables = Self {
            bounds: *bounds,
            names,
            first_views: [0; MEMBERS_MAX],
            clusters: Vec::new(),
            cluster_ids: BTreeMap::new(),
            views: vec![Desired::Register],
            view_ids: BTreeMap::new(),
            configs: Vec::new(),
            config_ids: BTreeMap::new(),
            lists: Vec::new(),
            list_ids: BTreeMap::new(),
            evidence: Vec::new(),
            evidence_ids: BTreeMap::new(),
            proposals: BTreeMap::new(),
            steps: BTreeMap::new(),
        };
        tables.config_id(&none);
        tables.list_id(&[]);
        tables.evidence_id(0, 0, 0, 0, 0, Log::default());
        tables
    }

    pub(super) fn config_id(&mut self, config: &SyncConfig) -> Id {
        if let Some(id) = self.config_ids.get(config) {
            return *id;
        }
        let id = as_id(self.configs.len());
        self.configs.push(config.clone());
        self.config_ids.insert(config.clone(), id);
        id
    }

    pub(super) fn list_id(&mut self, list: &[SyncConfig]) -> Id {
        if let Some(id) = self.list_ids.get(list) {
            return *id;
        }
        let id = as_id(self.lists.len());
        self.lists.push(list.to_vec());
        self.list_ids.insert(list.to_vec(), id);
        id
    }

    /// The number of a sealed position.
    pub fn evidence_id(
        &mut self,
        member: usize,
        guard: u8,
        promised: u8,
        held: u8,
        wal_epoch: u8,
        log: Log,
    ) -> Id {
        let key = (member, guard, promised, held, wal_epoch, log);
        if let Some(id) = self.evidence_ids.get(&key) {
            return *id;
        }
        let id = as_id(self.evidence.len());
        self.evidence.push(self.sealed(member, guard, promised, held, wal_epoch, log));
        self.evidence_ids.insert(key, id);
        id
    }

    pub(super) fn sealed(
        &self,
        member: usize,
        guard: u8,
        promised: u8,
        held: u8,
        wal_epoch: u8,
        log: Log,
    ) -> Sealed {
        Sealed {
            no_room: false,
            member: self.names[member].clone(),
            guard: guard_id(member, guard),
            promised: epoch(promised),
            wal_epoch: epoch(wal_epoch),
            lsn: Lsn(u64::from(log.len())),
            held: epoch(held),
            lineage: log.lineage(),
        }
    }

    /// The promise that a sealed position was reported with.
    pub fn promise_of(&self, evidence: Id) -> u8 {
        small(self.evidence[usize::from(evidence)].promised)
    }

    /// The life of the guard that a sealed position was reported of.
    pub fn guard_of(&self, evidence: Id) -> u8 {
        life_of(&self.evidence[usize::from(evidence)].guard)
    }

    /// The number of a configuration that waits for nobody.
    pub fn asynchronous(&mut self) -> Id {
        self.config_id(&SyncConfig::asynchronous(Epoch(0), u64::MAX))
    }

    /// W, and whether each member counts.
    pub fn config(&self, id: Id) -> (usize, [bool; MEMBERS_MAX]) {
        let config = &self.configs[usize::from(id)];
        let mut members = [false; MEMBERS_MAX];
        for (i, name) in self.names.iter().enumerate() {
            members[i] = config.members.contains(name);
        }
        (config.w as usize, members)
    }

    /// An agreed state.
    pub fn cluster(&self, id: Id) -> &Cluster {
        &self.clusters[usize::from(id)]
    }

    /// The life of its own guard that a view names.
    pub fn guard_in_view(&self, view: Id) -> u8 {
        match &self.views[usize::from(view)] {
            Desired::Primary(duty) => life_of(&duty.guard),
            _ => 0,
        }
    }

    /// Takes out what decides nothing here: histories, numbers of events, wall-clock times, and
    /// whether a stop is proven, since an expiry may be claimed at any time.
    pub(super) fn cluster_id(&mut self, mut control: ControlState, broken: bool) -> Id {
        for cluster in control.clusters.values_mut() {
            cluster.history.clear();
            cluster.finished.clear();
            cluster.crashes.clear();
            (cluster.next_event, cluster.next_operation) = (1, 1);
            if let Some(tenure) = &mut cluster.tenure {
                tenure.stopped = false;
                if let Stage::Active { postmaster_start_us } = &mut tenure.stage {
                    *postmaster_start_us = 0;
                }
                if let Some(closed) = &mut tenure.closed {
                    (closed.reason, closed.at) = (CloseReason::LeaseLost, WallMillis(0));
                }
            }
            if let Some(operation) = &mut cluster.operation {
                operation.id = 0;
            }
        }
        let mut key = serde_json::to_vec(&control).expect("states can be written");
        key.push(u8::from(broken));
        if let Some(id) = self.cluster_ids.get(&key) {
            return *id;
        }
        let id = as_id(self.clusters.len());
        let cluster = self.describe(control, broken);
        self.clusters.push(cluster);
        self.cluster_ids.insert(key, id);
        id
    }

    fn describe(&mut self, control: ControlState, broken: bool) -> Cluster {
        let state = control.cluster(&cluster_name()).expect("there is one cluster").clone();
        let tenure = state.tenure.clone().expect("there is data");
        let mut views = [0; MEMBERS_MAX];
        for (i, view) in views.iter_mut().enumerate().take(self.bounds.members) {
            *view = self.view_id(desired(&state, &self.names[i]));
        }
        Cluster {
            epoch: small(state.epoch),
            holder: self.member(&tenure.member),
            guard: life_of(&tenure.guard),
            open: tenure.closed.is_none(),
            promoted: tenure.stage == Stage::Promoted,
            active: matches!(tenure.stage, Stage::Active { .. }),
            oldest_sync: state.syncs.iter().map(|c| small(c.epoch)).min().unwrap_or(0),
            views,
            broken,
            control,
        }
    }

    fn view_id(&mut self, view: Desired) -> Id {
        let key = format!("{view:?}");
        if let Some(id) = self.view_ids.get(&key) {
            return *id;
        }
        let id = as_id(self.views.len());
        self.views.push(view);
        self.view_ids.insert(key, id);
        id
    }

    pub(super) fn member(&self, name: &MemberName) -> usize {
        self.names.iter().position(|n| n == name).expect("members do not change")
    }
}
