//! Whole runs, with databases that keep rows and do nothing else as PostgreSQL does: the runner,
//! clients, judge and figures.

#[allow(dead_code)] // each test uses a part of them
mod toy;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_sim::agent::Member;
use quorate_sim::agent::driver::Error;
use quorate_sim::node::{MakeDatabase, Place, Surroundings};
use quorate_sim::run::play::{Databases, Played, Told, play_with};
use quorate_world::check::Value;
use quorate_world::clients::{Backend, Commit, Refused, Role, Servers};
use quorate_world::exec;
use quorate_world::schedule::{Fault, Kind, Node, Plan, Profile, Topology, Who, generate};
use toy::{Toy, Toys};

type Ranges = Vec<(Value, Value)>;

/// Toys with rows: all of them in one place, or some with each.
#[derive(Clone, Default)]
struct Rowed {
    toys: Toys,
    rows: Arc<Mutex<BTreeMap<Node, Vec<Value>>>>,
    /// Whether every server keeps what it was given for itself.
    apart: bool,
}

impl Rowed {
    fn now(&self, node: Node) -> Role {
        let name = Topology::member_name(node);
        let epoch = self.toys.primaries().into_iter().find(|(m, _)| *m == name);
        let timeline = epoch.as_ref().map_or(0, |(_, epoch)| epoch.0);
        Role { standby: epoch.is_none(), read_only: false, timeline }
    }

    fn place(&self, node: Node) -> Node {
        if self.apart { node } else { 0 }
    }
}

impl MakeDatabase for Rowed {
    type Database = Toy;

    async fn open(&self, place: &Place, member: &Member) -> Result<Arc<Toy>, Error> {
        self.toys.open(place, member).await
    }

    fn daemon_died(&self, place: &Place) {
        self.toys.daemon_died(place);
    }

    fn machine_died(&self, place: &Place, torn: bool) {
        self.toys.machine_died(place, torn);
    }

    fn machine_started(&self, place: &Place) {
        self.toys.machine_started(place);
    }

    fn built(&self, surroundings: &Surroundings) {
        self.toys.built(surroundings);
    }
}

impl Servers for Rowed {
    /// A session is the timeline that it was opened on.
    fn open(&self, node: Node, _: bool) -> Result<Backend, Refused> {
        Ok(self.now(node).timeline)
    }

    fn role(&self, node: Node, session: Backend) -> Result<Role, Refused> {
        let role = self.now(node);
        if role.timeline == session { Ok(role) } else { Err(Refused::Gone) }
    }

    fn rows(&self, node: Node, session: Backend) -> Result<(Role, Ranges), Refused> {
        let role = self.role(node, session)?;
        let rows = self.rows.lock().unwrap().get(&self.place(node)).cloned().unwrap_or_default();
        Ok((role, rows.into_iter().map(|v| (v, v)).collect()))
    }

    async fn insert(&self, node: Node, session: Backend, value: Value) -> Result<Commit, Refused> {
        exec::sleep(Duration::from_millis(2)).await;
        let role = self.role(node, session)?;
        if role.standby {
            return Ok(Commit::Refused("a read-only transaction".to_owned()));
        }
        self.rows.lock().unwrap().entry(self.place(node)).or_default().push(value);
        Ok(Commit::Acknowledged(session))
    }

    fn cancel(&self, _: Node, _: Backend) {}

    fn close(&self, _: Node, _: Backend) {}

    fn ended(&self, node: Node, session: Backend) -> impl Future<Output = ()> + Send {
        let own = self.clone();
        async move {
            while own.role(node, session).is_ok() {
                exec::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

impl Databases for Rowed {
    fn writers(&self) -> Vec<(Node, u64)> {
        let of = |(m, e): (_, quorate_sim::domain::types::Epoch)| {
            Topology::node_of(&m).map(|node| (node, e.0))
        };
        self.toys.primaries().into_iter().filter_map(of).collect()
    }

    fn take_cancelled(&self) -> Vec<Value> {
        Vec::new()
    }
}

/// Three nodes; the machine of the primary loses power once.
fn plan() -> Plan {
    let mut plan = generate(3, Profile::Calm);
    plan.topology = Topology::of(3);
    plan.settings.spec =
        quorate_sim::domain::state::ClusterSpec::of((0..3).map(Topology::member_name).collect());
    plan.operations.clear();
    plan.horizon_ms = 30_000;
    let kind = Kind::CrashMachine { node: Who::Holder, torn: false };
    plan.faults = vec![Fault::at(12_000, kind).lasting(4000)];
    plan
}

#[test]
fn a_run_is_judged_counted_and_told() {
    let Played { outcome, story, trace } = play_with(&plan(), Rowed::default(), Told::Story);
    assert_eq!(outcome.found, None, "{story}");
    assert_eq!(outcome.takeovers, 1);
    assert!(outcome.acknowledged > 50 && outcome.healed_ms.is_some(), "{outcome:?}");
    assert!(story.contains("the machine n0 loses power") || story.contains("loses power"));
    assert!(story.contains("opens for writes in epoch"), "{story}");
    assert!(story.lines().count() < 110 && trace.is_empty());
    // The same again, told or not.
    let again = play_with(&plan(), Rowed::default(), Told::Nothing).outcome;
    assert_eq!(again, outcome);
    let traced = play_with(&plan(), Rowed::default(), Told::Trace);
    assert_eq!(traced.outcome.hash, outcome.hash);
    assert!(traced.trace.len() > 100);
}

#[test]
fn servers_that_lose_rows_are_found() {
    let databases = Rowed { apart: true, ..Rowed::default() };
    let Played { outcome, story, .. } = play_with(&plan(), databases, Told::Story);
    let found = outcome.found.expect("rows are missing");
    assert_eq!(found.rule, "acknowledged-kept", "{story}");
    assert!(story.contains("Broken: ") && story.contains("VIOLATION"), "{story}");
    assert!(story.contains("  write "), "{story}");
}
