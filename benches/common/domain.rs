//! The domain by itself: no clock, no disk, no network.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use quorate::domain::command::{Basis, Change, Grant};
use quorate::domain::desired::desired;
use quorate::domain::invariants;
use quorate::domain::lease::LeaderLedger;
use quorate::domain::lineage::Lineage;
use quorate::domain::observation::{
    Condition, Confirmed, Data, Fencing, Observations, PrimaryView, Progress, Report, Sealed,
    Sequence, StandbyProgress, StandbyView,
};
use quorate::domain::plan::plan;
use quorate::domain::state::ClusterSpec;
use quorate::domain::sync::SyncConfig;
use quorate::domain::types::{
    BootTime, ClusterName, Epoch, GuardId, Lsn, MemberName, NodeName, SystemId, WallMillis,
};
use quorate::domain::{Command, ControlState, Position, Reply, apply};
use serde_json::{Value, json};

use crate::common::figures::Table;

const TERM: u64 = 1;
const WALL: WallMillis = WallMillis(1_700_000_000_000);
const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);
const MEMBERS: [&str; 3] = ["a", "b", "c"];
/// A measurement is repeated for about so long.
const BUDGET: Duration = Duration::from_millis(800);

fn member(name: &str) -> MemberName {
    MemberName::new(name).expect("a name")
}

fn cluster_name(i: usize) -> ClusterName {
    ClusterName::new(format!("cluster-{i}")).expect("a name")
}

fn guard(name: &str) -> GuardId {
    GuardId::from_bytes([name.as_bytes()[0]; 16])
}

fn sync(epoch: u64, seq: u64) -> SyncConfig {
    SyncConfig {
        epoch: Epoch(epoch),
        seq,
        w: 1,
        members: MEMBERS[1..].iter().map(|m| member(m)).collect::<BTreeSet<_>>(),
        order: Vec::new(),
    }
}

fn spec() -> ClusterSpec {
    ClusterSpec::of(MEMBERS.map(member).to_vec())
}

fn register(name: &str, priority: i32) -> Change {
    Change::RegisterMember {
        member: member(name),
        node: NodeName::new(format!("node-{name}")).expect("a name"),
        address: format!("{name}.example:5432"),
        agent_address: None,
        priority,
        tags: Default::default(),
        system_id: None,
    }
}

/// A state with commands applied to it in order.
struct World {
    state: ControlState,
    index: u64,
}

impl World {
    /// `count` clusters, each with an active primary and two standbys that have to confirm.
    fn of(count: usize) -> World {
        let mut world = World { state: ControlState::default(), index: 0 };
        for i in 0..count {
            world.make(&cluster_name(i));
        }
        world
    }

    fn apply(&mut self, cluster: &ClusterName, change: Change) -> Reply {
        self.index += 1;
        let command = Command { cluster: cluster.clone(), at: WALL, change };
        apply(&mut self.state, Position { term: TERM, index: self.index }, &command)
    }

    fn must(&mut self, cluster: &ClusterName, change: Change) {
        let reply = self.apply(cluster, change);
        assert!(matches!(reply, Reply::Applied { .. }), "{reply:?}");
    }

    fn make(&mut self, cluster: &ClusterName) {
        self.must(cluster, Change::CreateCluster { spec: spec() });
        for name in MEMBERS {
            self.must(cluster, register(name, 0));
        }
        self.must(cluster, Change::BeginBootstrap { member: member("a") });
        let made =
            Change::FinishBootstrap { member: member("a"), system_id: SYSTEM, epoch: Epoch(1) };
        self.must(cluster, made);
        let state = self.state.cluster(cluster).expect("it was made");
        let seq = state.next_sync;
        let evidence = Sealed {
            no_room: false,
            member: member("a"),
            guard: guard("a"),
            promised: Epoch(2),
            wal_epoch: Epoch(1),
            lsn: Lsn(100),
            held: Epoch(1),
            lineage: Lineage::root(Epoch(1)),
        };
        let stopped = state.tenure.as_ref().is_some_and(|t| t.stopped);
        let grant = Grant {
            expect_epoch: state.epoch,
            expect_syncs: state.syncs.clone(),
            member: member("a"),
            guard: guard("a"),
            basis: if stopped { Basis::Stopped } else { Basis::Expired { term: TERM } },
            evidence: vec![evidence],
            sync: sync(2, seq),
            accept_data_loss: None,
            witnesses: Default::default(),
            within_lag_of: None,
        };
        self.must(cluster, Change::Grant(grant));
        let lineage = self.state.cluster(cluster).expect("it was made").lineage.clone();
        let promotion = Change::RecordPromotion {
            expect_epoch: Epoch(2),
            guard: guard("a"),
            lineage: lineage.with(Epoch(2), Lsn(200)),
        };
        self.must(cluster, promotion);
        let expect_syncs = self.state.cluster(cluster).expect("it was made").syncs.clone();
        let activation = Change::Activate {
            expect_epoch: Epoch(2),
            guard: guard("a"),
            expect_syncs,
            postmaster_start_us: 1,
        };
        self.must(cluster, activation);
    }
}

fn report(name: &str, condition: Condition) -> Report {
    Report {
        guard: Some(guard(name)),
        sequence: Sequence { run: 1, number: 1 },
        ended: Epoch(0),
        promised: Epoch(0),
        about: Default::default(),
        emptied: Vec::new(),
        crashed: false,
        data: Data::Present { system_id: SYSTEM },
        condition,
        fencing: Fencing::PidNamespace,
        problems: Vec::new(),
        alarms: Vec::new(),
        notices: Vec::new(),
        disks: Default::default(),
        aside: Vec::new(),
        life: 0,
        copied_for: 0,
        reloaded: None,
        settings: Default::default(),
    }
}

/// What a leader has heard of a healthy cluster.
fn observations(syncs: &[SyncConfig], now: BootTime) -> Observations {
    let progress = StandbyProgress { streaming: true, flushed: Lsn(500), replayed: Lsn(500) };
    let primary = PrimaryView {
        epoch: Epoch(2),
        progress: Progress::Promoted { lineage: Lineage::root(Epoch(1)).with(Epoch(2), Lsn(200)) },
        flushed: Lsn(500),
        standbys: MEMBERS[1..].iter().map(|s| (member(s), progress.clone())).collect(),
        confirmed: Some(Confirmed { syncs: syncs.to_vec(), postmaster_start_us: 1 }),
        failsafe: false,
    };
    let standby = StandbyView {
        streaming: Some(Epoch(2)),
        replay: Lsn(500),
        flushed: Lsn(500),
        wal_epoch: Epoch(2),
        held: Epoch(0),
        sealed: None,
        counts: true,

        primary_end: None,
        upstream: None,
    };
    let mut observed = Observations::default();
    observed.record(member("a"), report("a", Condition::Primary(primary)), now);
    for name in &MEMBERS[1..] {
        observed.record(member(name), report(name, Condition::Standby(standby.clone())), now);
    }
    observed
}

/// Time of one round in microseconds: the median of many, each timed by itself.
fn time_us(mut round: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut rounds = crate::common::figures::Series::default();
    while begun.elapsed() < BUDGET || rounds.count() < 10 {
        let start = Instant::now();
        round();
        rounds.0.push(start.elapsed().as_secs_f64() * 1e6);
    }
    rounds.median()
}

/// Measures, prints a table, and returns the figures in microseconds.
pub fn measure() -> Value {
    let columns = ["", "1 cluster", "1000 clusters", "per cluster of 1000"];
    let mut table = Table::new("Domain, median time", &columns);
    let us = |t: f64| match t {
        t if t >= 1000.0 => format!("{:.2} ms", t / 1000.0),
        t => format!("{t:.2} us"),
    };
    let mut values = serde_json::Map::new();
    let mut row = |name: &str, f: &dyn Fn(usize) -> f64, whole: bool| {
        let (one, many) = (f(1), f(1000));
        let each = if whole { us(many / 1000.0) } else { "-".to_owned() };
        table.row(vec![name.to_owned(), us(one), us(many), each]);
        values.insert(name.to_owned(), json!({ "us_1": one, "us_1000": many }));
    };
    row("apply: register a member again", &apply_us, false);
    row("planner pass, all healthy", &|n| plan_us(n, true), true);
    row("planner pass, primary silent", &|n| plan_us(n, false), true);
    row("what three members have to do", &desired_us, true);
    row("all invariants", &invariants_us, true);
    row("copy of the state", &copy_us, true);
    table.print();
    Value::Object(values)
}

/// A command that changes something each time.
fn apply_us(count: usize) -> f64 {
    let mut world = World::of(count);
    let names: Vec<ClusterName> = (0..count).map(cluster_name).collect();
    let mut n = 0;
    // Many in a round: one is too short for the clock.
    let rounds = 100;
    let us = time_us(|| {
        for _ in 0..rounds {
            n += 1;
            let reply = world.apply(&names[n % count], register("b", n as i32));
            assert!(matches!(reply, Reply::Applied { .. }), "{reply:?}");
        }
    });
    us / f64::from(rounds)
}

/// One pass over all clusters. Where the primary is silent, every pass has something to decide.
fn plan_us(count: usize, healthy: bool) -> f64 {
    let world = World::of(count);
    let begun = BootTime::from_nanos(3_600_000_000_000);
    let mut ledger = LeaderLedger::new(TERM, begun);
    let mut observed = BTreeMap::new();
    let now = begun.plus(Duration::from_secs(10));
    for (name, state) in &world.state.clusters {
        let mut seen = observations(&state.syncs, now);
        seen.note_state(state, begun);
        if healthy {
            let ticket = ledger.arrive(name.clone(), Epoch(2), now);
            assert!(ledger.acknowledge(ticket));
        } else {
            seen.members.remove(&member("a"));
        }
        observed.insert(name.clone(), seen);
    }
    time_us(|| {
        for (name, state) in &world.state.clusters {
            let made = plan(name, state, &observed[name], &ledger, now, WALL);
            assert_eq!(made.proposal.is_none(), healthy, "{:?}", made.findings);
            black_box(made);
        }
    })
}

fn desired_us(count: usize) -> f64 {
    let world = World::of(count);
    let members = MEMBERS.map(member);
    time_us(|| {
        for state in world.state.clusters.values() {
            for m in &members {
                black_box(desired(state, m));
            }
        }
    })
}

fn invariants_us(count: usize) -> f64 {
    let world = World::of(count);
    time_us(|| assert_eq!(invariants::check(black_box(&world.state)), []))
}

fn copy_us(count: usize) -> f64 {
    let world = World::of(count);
    time_us(|| drop(black_box(world.state.clone())))
}
