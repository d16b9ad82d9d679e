//! A whole simulated world: built from a plan, and run.
//!
//! Owns [`Sim`] and the [`Observer`], who sees all controllers and tells the judge.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_world::check::Judge;
use quorate_world::exec::{self, World};
use quorate_world::net::{self, Network, Quality};
use quorate_world::schedule::{self, Controller, Plan, Topology};

use crate::agent::Member;
use crate::disk::{Disk, Speed};
use crate::domain::types::ClusterName;
use crate::node::{self, MakeDatabase, Node, Place, Setup};
use crate::raft::{self, Applied, Role};
use crate::transport::{Book, Wire};
use crate::{Rt, log};

/// Name of the control plane.
const CONTROL_PLANE: &str = "sim";
/// Name of the cluster.
const CLUSTER: &str = "main";
/// Time between two reports of a member, as the default configuration has it.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// The cluster of the run.
pub fn cluster_name() -> ClusterName {
    ClusterName::new(CLUSTER).unwrap_or_else(|_| unreachable!("it is a name"))
}

/// What is known of all controllers, by somebody who sees everything.
pub struct Seen {
    /// Judges what is seen.
    pub judge: Judge,
    /// What each controller said last of its role.
    pub roles: BTreeMap<schedule::Node, Role>,
    /// What each has applied.
    pub applied: BTreeMap<schedule::Node, Arc<Applied>>,
}

/// Sees all controllers. Clones share what was seen.
#[derive(Clone)]
pub struct Observer {
    node: schedule::Node,
    seen: Arc<Mutex<Seen>>,
}

fn micros() -> u64 {
    exec::now() / 1_000
}

impl Observer {
    /// One who tells this judge.
    pub fn new(judge: Judge) -> Self {
        let seen = Seen { judge, roles: BTreeMap::new(), applied: BTreeMap::new() };
        Self { node: 0, seen: Arc::new(Mutex::new(seen)) }
    }

    /// The observer of one node.
    pub fn of(&self, node: schedule::Node) -> Self {
        Self { node, seen: self.seen.clone() }
    }

    /// What was seen.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process of this node's controller has ended.
    pub fn ended(&self, node: schedule::Node) {
        let mut seen = self.seen();
        seen.roles.remove(&node);
        seen.applied.remove(&node);
        seen.judge.controller_ended(node);
    }

    /// Follows the role of a controller, as a task of its process.
    pub async fn watch_role(self, mut role: raft::watch::Receiver<Rt, Role>) {
        loop {
            let now = role.get();
            crate::trace(|| {
                let leader = now.leader.as_ref().map(|l| l.id);
                let (term, leads, sure) = (now.term, now.is_leader, now.established);
                let ended = now.ended.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("role term={term} leads={leads} sure={sure} leader={leader:?} {ended}")
            });
            {
                let mut seen = self.seen();
                if now.is_leader {
                    seen.judge.leads(micros(), self.node, now.term);
                }
                seen.roles.insert(self.node, now);
            }
            if role.changed().await.is_err() {
                return;
            }
        }
    }

    /// Follows what a controller applies, as a task of its process.
    pub async fn watch_applied(self, mut applied: raft::watch::Receiver<Rt, Arc<Applied>>) {
        loop {
            let now = applied.get();
            crate::trace(|| format!("applied index={} term={}", now.index, now.term));
            {
                let mut seen = self.seen();
                seen.judge.applied(micros(), self.node, now.index, &now.state);
                seen.applied.insert(self.node, now);
            }
            if applied.changed().await.is_err() {
                return;
            }
        }
    }
}

/// A world with nodes in it. Dropping it ends everything.
pub struct Sim<M> {
    // In the order in which they have to be dropped.
    nodes: Vec<Node<M>>,
    world: World,
    _network: Network,
    observer: Observer,
    plan: Plan,
}

impl<M: MakeDatabase> Sim<M> {
    /// Builds what the plan describes, with these databases. Nothing has happened yet.
    pub fn build(plan: &Plan, databases: M) -> Self {
        log::install();
        let world = World::new(plan.seed);
        let network = Network::new();
        let settings = &plan.settings;
        let (least, most) = (settings.latency_us_min, settings.latency_us_max);
        let jitter_us = most.saturating_sub(least);
        net::set_usual(Quality { delay_us: least, jitter_us, ..Quality::default() });
        let observer = Observer::new(Judge::new(plan.guarantees()));
        let mut boots = exec::stream("boots");
        let machine = |node: schedule::Node| {
            let name = Topology::node_name(node);
            // Long up, and each for another time: who compares two machines' clocks is found out.
            let uptime_ns = boots.between(100_000_000_000, 1_000_000_000_000);
            let machine = world.machine(name.as_str(), uptime_ns);
            (name, machine)
        };
        let machines: Vec<_> = (0..plan.topology.nodes.len()).map(machine).collect();
        let wire = Wire::new(Book::new(machines.iter().map(|(n, m)| (n.to_string(), *m))));
        let voters = plan.topology.voters();
        let named = |node: schedule::Node| (node, Topology::node_name(node));
        let group = node::peers(voters.iter().map(|n| named(*n)));
        let is_controller =
            |n: &schedule::Node| plan.topology.nodes[*n].controller != Controller::No;
        let controllers: Vec<String> = (0..machines.len())
            .filter(is_controller)
            .map(|n| node::address(Topology::node_name(n).as_str()))
            .collect();
        let nodes = machines.iter().enumerate().map(|(index, (name, machine))| {
            let planned = &plan.topology.nodes[index];
            exec::set_rate(*machine, planned.clock_ppm);
            let raft = is_controller(&index).then(|| {
                let mut members = group.clone();
                members.extend(node::peers([named(index)]));
                let id = node::first_id(index);
                let mut options = raft::Options::new(id, members, CONTROL_PLANE);
                options.snapshot_entries = settings.snapshot_entries;
                options.keep_entries = settings.keep_entries;
                options
            });
            let member = planned.member.as_ref().map(|member| Member {
                cluster: cluster_name(),
                name: Topology::member_name(index),
                address: format!("{name}:5432"),
                priority: member.priority,
                tags: member.tags.clone(),
                spec: settings.spec.clone(),
            });
            let setup = Setup {
                place: Place { node: index, machine: *machine },
                name: name.clone(),
                raft,
                member,
                controllers: controllers.clone(),
                report_every: REPORT_EVERY,
                wire: wire.clone(),
            };
            let sync_us = (settings.sync_us_max / 10, settings.sync_us_max);
            let speed = Speed { sync_us, ..Speed::default() };
            let disk = Disk::new(exec::stream(&format!("disk/{name}")), speed);
            Node::new(setup, disk, databases.clone(), observer.clone())
        });
        let nodes = nodes.collect();
        Self { nodes, world, _network: network, observer, plan: plan.clone() }
    }

    /// Starts all nodes, each within a second.
    pub fn start(&self) {
        let mut delays = exec::stream("starts");
        for node in &self.nodes {
            let node = node.clone();
            exec::at(delays.below(1_000_000_000), move || node.start());
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The world that everything is in.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The nodes, by index.
    pub fn nodes(&self) -> &[Node<M>] {
        &self.nodes
    }

    /// Who sees all controllers.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Runs until this many milliseconds of true time since the beginning. `hook` is called after
    /// each step, and may end the run, saying why.
    pub fn run_until(
        &self,
        at_ms: u64,
        hook: &mut dyn FnMut(&Self) -> ControlFlow<String>,
    ) -> ControlFlow<String> {
        let mut stopped = None;
        self.world.run_until(at_ms * 1_000_000, &mut || {
            if let ControlFlow::Break(why) = hook(self) {
                stopped = Some(why);
            }
            stopped.is_none()
        });
        match stopped {
            Some(why) => ControlFlow::Break(why),
            None => ControlFlow::Continue(()),
        }
    }

    /// The established leader of the highest term, as the controllers themselves say.
    pub fn leader(&self) -> Option<schedule::Node> {
        let seen = self.observer.seen();
        let sure = seen.roles.iter().filter(|(_, role)| role.established);
        sure.max_by_key(|(_, role)| role.term).map(|(node, _)| *node)
    }
}

impl<M> Drop for Sim<M> {
    fn drop(&mut self) {
        // What the nodes hold of daemons goes while the world is there.
        self.nodes.clear();
    }
}
