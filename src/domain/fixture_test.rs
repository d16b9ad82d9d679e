//! What the tests of the domain share: names, states in their usual shapes, and a bench that
//! checks every invariant after every command.

use std::collections::BTreeSet;
use std::time::Duration;

use super::apply::{Position, apply};
use super::command::{Basis, Change, Command, Grant, Rejection, Reply};
use super::desired::FollowDuty;
use super::invariants;
use super::lease::LeaderLedger;
use super::lineage::Lineage;
use super::observation::{
    Condition, Confirmed, Data, Fencing, Observations, PrimaryView, Progress, Report, Sealed,
    Sequence, StandbyProgress, StandbyView,
};
use super::plan::{Plan, plan};
use super::space::Disks;
use super::state::{CloseReason, ClusterSpec, ClusterState, ControlState, SynchronousMode, Tags};
use super::sync::SyncConfig;
use super::types::{
    BootTime, ClusterName, Epoch, GuardId, Lsn, MemberName, NodeName, SystemId, WallMillis,
};

/// The system identifier of every cluster here.
pub const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);
/// Wall clock of every command, unless a test says otherwise.
pub const WALL: WallMillis = WallMillis(1_700_000_000_000);
/// The Raft term of every entry and ledger, unless a test says otherwise.
pub const TERM: u64 = 4;

/// Longer than the window that a new leader waits, in milliseconds.
pub const QUIET_MS: u64 = 4_000;

pub fn cluster() -> ClusterName {
    ClusterName::new("main").unwrap()
}

pub fn m(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

pub fn guard(n: u8) -> GuardId {
    GuardId::from_bytes([n; 16])
}

pub fn at_ms(ms: u64) -> BootTime {
    BootTime::from_nanos(ms * 1_000_000)
}

pub fn names(list: &str) -> BTreeSet<MemberName> {
    list.split_whitespace().map(m).collect()
}

/// `ANY w (list)` of an epoch, without a number.
pub fn any(epoch: u64, w: u32, list: &str) -> SyncConfig {
    SyncConfig { epoch: Epoch(epoch), seq: 0, w, members: names(list), order: Vec::new() }
}

/// The same configurations without their numbers.
pub fn plain(syncs: &[SyncConfig]) -> Vec<SyncConfig> {
    syncs.iter().map(|c| SyncConfig { seq: 0, ..c.clone() }).collect()
}

pub fn spec(list: &str, synchronous: SynchronousMode, write_quorum: u32) -> ClusterSpec {
    let members = list.split_whitespace().map(m).collect();
    let write_quorum_min = write_quorum.min(1);
    ClusterSpec { synchronous, write_quorum, write_quorum_min, ..ClusterSpec::of(members) }
}

/// A sealed member's evidence: it has promised `promised`, and holds WAL up to `(wal_epoch, lsn)`.
pub fn sealed(name: &str, promised: u64, wal_epoch: u64, lsn: u64) -> Sealed {
    Sealed {
        member: m(name),
        guard: guard(name.as_bytes()[0]),
        promised: Epoch(promised),
        wal_epoch: Epoch(wal_epoch),
        lsn: Lsn(lsn),
        held: Epoch(0),
        lineage: Lineage::root(Epoch(1)),
        no_room: false,
    }
}

/// The same, of a member that held `held` as primary and is untouched since.
pub fn holder(name: &str, promised: u64, wal_epoch: u64, lsn: u64, held: u64) -> Sealed {
    Sealed { held: Epoch(held), ..sealed(name, promised, wal_epoch, lsn) }
}

pub fn report(name: &str, condition: Condition) -> Report {
    Report {
        guard: Some(guard(name.as_bytes()[0])),
        sequence: Sequence::default(),
        ended: Epoch(0),
        promised: Epoch(0),
        emptied: Vec::new(),
        crashed: false,
        data: Data::Present { system_id: SYSTEM },
        condition,
        fencing: Fencing::PidNamespace,
        problems: Vec::new(),
        alarms: Vec::new(),
        notices: Vec::new(),
        disks: Disks::default(),
        aside: Vec::new(),
        life: 0,
        copied_for: 0,
        reloaded: None,
        about: Default::default(),
        settings: Default::default(),
    }
}

/// A standby that streams from the primary of `epoch`.
pub fn standby(name: &str, epoch: u64, lsn: u64) -> Report {
    let view = StandbyView {
        streaming: Some(Epoch(epoch)),
        replay: Lsn(lsn),
        flushed: Lsn(lsn),
        wal_epoch: Epoch(epoch),
        held: Epoch(0),
        sealed: None,
        counts: true,
        primary_end: None,
        upstream: None,
    };
    report(name, Condition::Standby(view))
}

/// A sealed standby.
pub fn sealed_report(s: &Sealed) -> Report {
    let view = StandbyView {
        streaming: None,
        replay: s.lsn,
        flushed: s.lsn,
        wal_epoch: s.wal_epoch,
        held: s.held,
        sealed: Some(s.clone()),
        counts: true,
        primary_end: None,
        upstream: None,
    };
    report(s.member.as_str(), Condition::Standby(view))
}

/// A primary of `epoch` with these standbys streaming.
pub fn primary(
    name: &str,
    epoch: u64,
    streaming: &str,
    confirmed: Option<&[SyncConfig]>,
) -> Report {
    let progress = StandbyProgress { streaming: true, flushed: Lsn(500), replayed: Lsn(500) };
    let view = PrimaryView {
        epoch: Epoch(epoch),
        progress: Progress::Promoted {
            lineage: Lineage::root(Epoch(1)).with(Epoch(epoch), Lsn(epoch * 100)),
        },
        flushed: Lsn(500),
        standbys: names(streaming).into_iter().map(|s| (s, progress.clone())).collect(),
        confirmed: confirmed
            .map(|syncs| Confirmed { syncs: syncs.to_vec(), postmaster_start_us: 1 }),
        failsafe: false,
    };
    report(name, Condition::Primary(view))
}

/// One cluster named `main`. Every command is checked against every invariant, and a rejected one
/// must leave the state as it was, byte for byte.
#[derive(Debug, Clone)]
pub struct Bench {
    pub control: ControlState,
    pub at: Position,
    pub wall: WallMillis,
}

impl Bench {
    /// No cluster exists.
    pub fn empty() -> Self {
        let at = Position { term: TERM, index: 0 };
        Self { control: ControlState::default(), at, wall: WALL }
    }

    /// The cluster exists, its members are registered, and there is no data.
    pub fn registered(list: &str, mode: SynchronousMode, w: u32) -> Self {
        let mut bench = Self::empty();
        bench.ok(Change::CreateCluster { spec: spec(list, mode, w) });
        for name in list.split_whitespace() {
            bench.ok(register(name, &format!("node-{name}"), None));
        }
        bench
    }

    /// The first of `list` has made the data: epoch 1, closed.
    pub fn initial(list: &str, mode: SynchronousMode, w: u32) -> Self {
        let mut bench = Self::registered(list, mode, w);
        let first = m(list.split_whitespace().next().unwrap());
        bench.ok(Change::BeginBootstrap { member: first.clone() });
        bench.ok(Change::FinishBootstrap { member: first, system_id: SYSTEM, epoch: Epoch(1) });
        bench
    }

    /// The first of `list` is active in epoch 2 with `ANY w` of the others.
    pub fn active(list: &str, w: u32) -> Self {
        let mut bench = Self::initial(list, SynchronousMode::Quorum, w);
        let mut members = list.split_whitespace();
        let first = members.next().unwrap();
        let others: Vec<&str> = members.collect();
        let sync = if others.is_empty() { any(2, 0, "") } else { any(2, w, &others.join(" ")) };
        bench.ok(grant(&bench, first, vec![holder(first, 2, 1, 100, 1)], sync));
        bench.ok(promotion(&bench, 200));
        bench.ok(activation(&bench));
        bench
    }

    pub fn state(&self) -> &ClusterState {
        self.control.cluster(&cluster()).unwrap()
    }

    pub fn run(&mut self, change: Change) -> Reply {
        let before = self.control.clone();
        self.at.index += 1;
        let command = Command { cluster: cluster(), at: self.wall, change };
        let reply = apply(&mut self.control, self.at, &command);
        if !matches!(reply, Reply::Applied { .. }) {
            let bytes = |s: &ControlState| serde_json::to_string(s).unwrap();
            assert_eq!(bytes(&before), bytes(&self.control), "{reply:?} changed the state");
        }
        assert_eq!(invariants::check(&self.control), vec![], "after {command:?}");
        assert_eq!(invariants::check_step(&before, &self.control), vec![], "after {command:?}");
        reply
    }

    #[track_caller]
    pub fn ok(&mut self, change: Change) {
        let text = format!("{change:?}");
        let reply = self.run(change);
        assert!(matches!(reply, Reply::Applied { .. }), "{text}: {reply:?}");
    }

    #[track_caller]
    pub fn refused(&mut self, change: Change) -> Rejection {
        let text = format!("{change:?}");
        match self.run(change) {
            Reply::Rejected(rejection) => rejection,
            reply => panic!("{text}: {reply:?}"),
        }
    }

    pub fn close(&mut self, reason: CloseReason, stopped: bool) {
        let expect_epoch = self.state().epoch;
        self.ok(Change::Close { expect_epoch, reason, stopped });
    }
}

pub fn register(name: &str, node: &str, system_id: Option<SystemId>) -> Change {
    Change::RegisterMember {
        member: m(name),
        node: NodeName::new(node).unwrap(),
        address: format!("{name}.example:5432"),
        agent_address: None,
        priority: 0,
        tags: Tags::default(),
        system_id,
    }
}

/// A registration with the tag that keeps a member from every quorum.
pub fn tagged(name: &str) -> Change {
    let mut change = register(name, &format!("node-{name}"), None);
    if let Change::RegisterMember { tags, .. } = &mut change {
        tags.nofailover = true;
    }
    change
}

/// To follow `b`, which is active in this epoch.
pub fn follow_duty(epoch: u64) -> FollowDuty {
    FollowDuty {
        epoch: Epoch(epoch),
        primary: m("b"),
        address: "b.example:5432".to_owned(),
        lineage: Lineage::root(Epoch(1)),
        active: true,
        counted: true,
        others: Vec::new(),
        upstream: None,
        sources: Vec::new(),
        delay_ms: 0,
        restart: None,
        copy_anew: None,
        expendable: false,
    }
}

/// The configuration with the number that is due.
pub fn numbered(bench: &Bench, config: SyncConfig) -> SyncConfig {
    SyncConfig { seq: bench.state().next_sync, ..config }
}

/// A grant on what the state says now.
pub fn grant(bench: &Bench, to: &str, evidence: Vec<Sealed>, sync: SyncConfig) -> Change {
    let state = bench.state();
    let stopped = state.tenure.as_ref().is_some_and(|t| t.stopped);
    Change::Grant(Grant {
        expect_epoch: state.epoch,
        expect_syncs: state.syncs.clone(),
        member: m(to),
        guard: guard(to.as_bytes()[0]),
        basis: if stopped { Basis::Stopped } else { Basis::Expired { term: TERM } },
        evidence,
        sync: numbered(bench, sync),
        accept_data_loss: None,
        witnesses: Default::default(),
        within_lag_of: None,
    })
}

/// The holder's promotion at `start`.
pub fn promotion(bench: &Bench, start: u64) -> Change {
    let state = bench.state();
    Change::RecordPromotion {
        expect_epoch: state.epoch,
        guard: state.tenure.as_ref().unwrap().guard.clone(),
        lineage: state.lineage.with(state.epoch, Lsn(start)),
    }
}

/// The holder's activation with all that is in force.
pub fn activation(bench: &Bench) -> Change {
    let state = bench.state();
    Change::Activate {
        expect_epoch: state.epoch,
        guard: state.tenure.as_ref().unwrap().guard.clone(),
        expect_syncs: state.syncs.clone(),
        postmaster_start_us: 1,
    }
}

/// A leader's view of the bench: what it has observed, its ledger, and its clock.
#[derive(Debug, Clone)]
pub struct Leader {
    pub observed: Observations,
    pub ledger: LeaderLedger,
    pub now: BootTime,
    reports: u64,
}

impl Leader {
    /// Elected an hour after boot, with nothing observed.
    pub fn new() -> Self {
        let now = at_ms(3_600_000);
        Self {
            observed: Observations::default(),
            ledger: LeaderLedger::new(TERM, now),
            now,
            reports: 0,
        }
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus(Duration::from_millis(ms));
    }

    pub fn hears(&mut self, name: &str, mut report: Report) -> &mut Self {
        self.reports += 1;
        report.sequence = Sequence { run: 1, number: self.reports };
        self.observed.record(m(name), report, self.now);
        self
    }

    pub fn renewed(&mut self, epoch: u64) {
        let ticket = self.ledger.arrive(cluster(), Epoch(epoch), self.now);
        assert!(self.ledger.acknowledge(ticket));
    }

    pub fn plan(&mut self, bench: &Bench) -> Plan {
        self.observed.note_state(bench.state(), self.now);
        plan(&cluster(), bench.state(), &self.observed, &self.ledger, self.now, bench.wall)
    }
}

/// The rules of a plan's findings, in order.
pub fn rules(plan: &Plan) -> Vec<&'static str> {
    plan.findings.iter().map(|f| f.rule()).collect()
}
