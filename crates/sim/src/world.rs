//! A whole simulated world: built from a plan, and run.
//!
//! Owns [`Sim`] and the [`Observer`], who sees all controllers and tells the judge.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_world::check::Judge;
use quorate_world::exec::{self, MachineId, World};
use quorate_world::net::{Network, Quality};
use quorate_world::schedule::{self, Controller, Event, Plan, Topology};
use quorate_world::timeline::{Class, Timeline};

use crate::agent::Member;
use crate::disk::{Disk, Speed};
use crate::domain::types::{BootTime, ClusterName};
use crate::faults::{self, Faults};
use crate::node::{self, MakeDatabase, Node, Place, Setup, Surroundings};
use crate::raft::{self, Applied, Role};
use crate::transport::{Book, Wire};
use crate::{log, watch};

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
    /// The newest state that any has applied, whether or not it is still there.
    pub newest: Arc<Applied>,
    /// What happened, for a person.
    pub timeline: Timeline,
}

type Listener = Arc<dyn Fn(Event) + Send + Sync>;

/// Sees all controllers. Clones share what was seen.
#[derive(Clone)]
pub struct Observer {
    node: schedule::Node,
    seen: Arc<Mutex<Seen>>,
    /// Who waits for events.
    listener: Arc<Mutex<Option<Listener>>>,
}

fn micros() -> u64 {
    exec::now() / 1_000
}

impl Observer {
    /// One who tells this judge.
    pub fn new(judge: Judge) -> Self {
        let seen = Seen {
            judge,
            roles: BTreeMap::new(),
            applied: BTreeMap::new(),
            newest: Arc::default(),
            timeline: Timeline::default(),
        };
        Self { node: 0, seen: Arc::new(Mutex::new(seen)), listener: Arc::default() }
    }

    /// The observer of one node.
    pub fn of(&self, node: schedule::Node) -> Self {
        Self { node, ..self.clone() }
    }

    /// Has events told to `listener`, which may not look at what was seen.
    pub fn listen(&self, listener: impl Fn(Event) + Send + Sync + 'static) {
        let mut place = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(Arc::new(listener));
    }

    /// Something has happened that faults may wait for.
    pub fn event(&self, event: Event) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone();
        crate::trace(|| format!("event: {event}"));
        if let Some(listener) = listener {
            listener(event);
        }
    }

    /// Notes something on the timeline.
    pub fn note(&self, node: Option<schedule::Node>, class: Class, text: impl Into<String>) {
        self.seen().timeline.note(micros(), node, class, text);
    }

    /// A fault of the plan begins or ends.
    pub fn fault(&self, number: usize, node: Option<schedule::Node>, text: impl Fn() -> String) {
        self.note(node, Class::Fault, format!("{number} {}", text()));
    }

    /// An operator says something about an act of the plan.
    pub fn operator(&self, number: usize, text: impl Fn() -> String) {
        self.note(None, Class::Operator, format!("{number} {}", text()));
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
    pub async fn watch_role(self, mut role: watch::Receiver<Role>) {
        loop {
            let now = role.get();
            crate::trace(|| {
                let leader = now.leader.as_ref().map(|l| l.id);
                let (term, leads, sure) = (now.term, now.is_leader, now.established);
                let ended = now.ended.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("role term={term} leads={leads} sure={sure} leader={leader:?} {ended}")
            });
            let (elected, term) = {
                let mut seen = self.seen();
                if now.is_leader {
                    seen.judge.leads(micros(), self.node, now.term);
                }
                let (leads, term) = (now.is_leader, now.term);
                let before = seen.roles.insert(self.node, now);
                let led = before.is_some_and(|before| before.is_leader && before.term == term);
                (leads && !led, term)
            };
            if elected {
                self.note(Some(self.node), Class::Leader, format!("leads term {term}"));
                self.event(Event::Elected);
            }
            if role.changed().await.is_err() {
                return;
            }
        }
    }

    /// Follows what a controller applies, as a task of its process. One that was opened anew after
    /// its disk had failed begins with what is on disk, as after a start.
    pub async fn watch_applied(self, mut applied: watch::Receiver<Arc<Applied>>) {
        self.seen().judge.controller_ended(self.node);
        loop {
            let now = applied.get();
            crate::trace(|| format!("applied index={} term={}", now.index, now.term));
            let before = {
                let mut seen = self.seen();
                seen.judge.applied(micros(), self.node, now.index, &now.state);
                seen.applied.insert(self.node, now.clone());
                let newer = now.index > seen.newest.index;
                newer.then(|| std::mem::replace(&mut seen.newest, now.clone()))
            };
            let name = cluster_name();
            if let Some((before, after)) = before.zip(now.state.cluster(&name)) {
                for event in faults::events(before.state.cluster(&name), after) {
                    self.note(None, Class::Control, format!("epoch {}: {event}", after.epoch));
                    self.event(event);
                }
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
    faults: Faults<M>,
    world: World,
    _network: Network,
    observer: Observer,
    clients: MachineId,
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
        let usual = Quality { delay_us: least, jitter_us, ..Quality::default() };
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
                agent_address: Some(node::address(name.as_str())),
                priority: member.priority,
                tags: member.tags.clone(),
                adopt: false,
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
        let nodes: Vec<Node<M>> = nodes.collect();
        let clients = world.machine("clients", 1_000_000_000);
        let faults = Faults::new(plan, &nodes, vec![clients], observer.clone(), usual);
        let listener = faults.clone();
        observer.listen(move |event| listener.note(event));
        databases.built(&Surroundings {
            plan: plan.clone(),
            places: nodes.iter().map(|node| node.place().clone()).collect(),
            clients,
            observer: observer.clone(),
        });
        let plan = plan.clone();
        Self { nodes, faults, world, _network: network, observer, clients, plan }
    }

    /// Starts all nodes, each within a second, and sets the faults of the plan on their way.
    pub fn start(&self) {
        self.faults.start();
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

    /// The machine of clients.
    pub fn clients(&self) -> MachineId {
        self.clients
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

    /// What that leader waits for, as it would explain it to an operator.
    pub fn findings(&self) -> Vec<String>
    where
        M: MakeDatabase,
    {
        let part = self.leader().and_then(|node| self.nodes.get(node)?.part());
        let Some(part) = part else { return vec!["no controller leads".to_owned()] };
        let view = part.memory.view(BootTime::default());
        let cluster = view.clusters.get(&cluster_name());
        cluster.iter().flat_map(|c| c.findings.iter().map(ToString::to_string)).collect()
    }
}

impl<M> Drop for Sim<M> {
    fn drop(&mut self) {
        // What the nodes hold of daemons goes while the world is there.
        self.nodes.clear();
    }
}
