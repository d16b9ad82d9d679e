//! Does what a plan says: faults begin and end, operators act.
//!
//! Owns [`Faults`]: when each fault begins and ends, whom it hits, and what all that go on together
//! make of a node. Faults overlap in any order, so the state of a node is always worked out anew
//! from those that go on. At the horizon every fault ends.
//!
//! ```text
//!   links      what they make of the network
//!   roles      whom they hit, and what they wait for
//!   machines   what they make of a node
//!   acts       what operators do
//! ```

mod acts;
mod links;
mod machines;
mod roles;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_world::exec::{self, MachineId, Nanos};
use quorate_world::net::Quality;
use quorate_world::schedule::{self, Event, Kind, Plan, Roles, Traffic, Trigger, Who};

use crate::node::{MakeDatabase, Node};
use crate::world::Observer;
use links::{Effect, Links, Rule};
use machines::Machines;

pub(crate) use roles::events;

const MILLI: Nanos = 1_000_000;

/// What waits for an event: since when, for what, and what it is.
#[derive(Debug, Clone, Copy)]
enum Waiting {
    Fault(usize, Trigger),
    Act(usize, Trigger),
}

struct Inner<M> {
    plan: Plan,
    nodes: Vec<Node<M>>,
    clients: Vec<MachineId>,
    observer: Observer,
    state: Mutex<State<M>>,
    waiting: Mutex<Vec<Waiting>>,
}

struct State<M> {
    links: Links,
    machines: Machines<M>,
    /// Faults that go on, by their place in the plan.
    active: BTreeMap<usize, schedule::Node>,
}

/// The faults of a run. Clones share them.
pub struct Faults<M>(Arc<Inner<M>>);

impl<M> Clone for Faults<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: MakeDatabase> Faults<M> {
    /// Those of a plan, for these nodes and machines of clients, on a network of this quality.
    pub fn new(
        plan: &Plan,
        nodes: &[Node<M>],
        clients: Vec<MachineId>,
        observer: Observer,
        usual: Quality,
    ) -> Self {
        let rates = plan.topology.nodes.iter().map(|node| node.clock_ppm).collect();
        let state = State {
            links: Links::new(usual),
            machines: Machines::new(nodes.to_vec(), rates),
            active: BTreeMap::new(),
        };
        Self(Arc::new(Inner {
            plan: plan.clone(),
            nodes: nodes.to_vec(),
            clients,
            observer,
            state: Mutex::new(state),
            waiting: Mutex::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn horizon(&self) -> Nanos {
        self.0.plan.horizon_ms * MILLI
    }

    /// Sets every fault and every act of the plan on its way.
    pub fn start(&self) {
        for (number, fault) in self.0.plan.faults.iter().enumerate() {
            let own = self.clone();
            let on = fault.on;
            exec::at(fault.at_ms * MILLI, move || match on {
                Some(trigger) => own.waiting().push(Waiting::Fault(number, trigger)),
                None => own.begin(number),
            });
        }
        for (number, operation) in self.0.plan.operations.iter().enumerate() {
            let own = self.clone();
            let on = operation.on;
            exec::at(operation.at_ms * MILLI, move || match on {
                Some(trigger) => own.waiting().push(Waiting::Act(number, trigger)),
                None => own.act(number),
            });
        }
        let own = self.clone();
        exec::at(self.horizon(), move || own.end_all());
    }

    /// Something has happened that faults and acts may wait for.
    pub fn note(&self, event: Event) {
        let due: Vec<Waiting> = {
            let mut waiting = self.waiting();
            let is_due = |w: &mut Waiting| {
                let (Waiting::Fault(_, trigger) | Waiting::Act(_, trigger)) = w;
                trigger.event == event
            };
            waiting.extract_if(.., is_due).collect()
        };
        for waited in due {
            let own = self.clone();
            let (Waiting::Fault(_, trigger) | Waiting::Act(_, trigger)) = waited;
            exec::at(exec::now() + trigger.after_ms * MILLI, move || match waited {
                Waiting::Fault(number, _) => own.begin(number),
                Waiting::Act(number, _) => own.act(number),
            });
        }
    }

    fn roles(&self) -> Roles {
        let topology = &self.0.plan.topology;
        roles::roles(&self.0.observer.seen(), topology.members(), topology.voters())
    }

    fn begin(&self, number: usize) {
        if exec::now() >= self.horizon() {
            return;
        }
        let fault = &self.0.plan.faults[number];
        let roles = self.roles();
        let kind = roles::resolve(&fault.what, &roles);
        let at = roles::place_of(&kind);
        crate::trace(|| format!("fault {number} begins: {kind}"));
        self.0.observer.fault(number, at, || format!("begins: {kind}"));
        {
            let mut state = self.state();
            let state = &mut *state;
            if let Some(rules) = self.rule(&kind) {
                state.links.begin(number, rules);
            }
            if let Some(node) = at {
                state.machines.begin(number, node, &kind);
            }
            if fault.what.lasts() {
                state.active.insert(number, at.unwrap_or_default());
            }
        }
        if let (true, Some(length)) = (fault.what.lasts(), fault.for_ms) {
            let own = self.clone();
            exec::at(exec::now() + length * MILLI, move || own.end(number));
        }
    }

    fn end(&self, number: usize) {
        let mut state = self.state();
        if state.active.remove(&number).is_none() {
            return;
        }
        crate::trace(|| format!("fault {number} ends"));
        let kind = &self.0.plan.faults[number].what;
        self.0.observer.fault(number, None, || format!("ends: {kind}"));
        state.links.end(number);
        state.machines.end(number);
    }

    fn end_all(&self) {
        crate::trace(|| "faults are over".to_owned());
        self.waiting().clear();
        let active: Vec<usize> = self.state().active.keys().copied().collect();
        for number in active {
            self.end(number);
        }
    }

    /// What a fault of the network does to which links; `None` for other faults.
    fn rule(&self, kind: &Kind) -> Option<Rule> {
        let all: Vec<schedule::Node> = (0..self.0.nodes.len()).collect();
        let machine = |n: schedule::Node| self.0.nodes[n].place().machine;
        let named = |who: &[Who]| -> Vec<schedule::Node> {
            let nodes: Vec<_> = who.iter().filter_map(|w| node(*w)).collect();
            if nodes.is_empty() { all.clone() } else { nodes }
        };
        let ways = |links: &schedule::Links| {
            let (from, to) = (named(&links.from), named(&links.to));
            let pairs = from.iter().flat_map(|f| to.iter().map(move |t| (*f, *t)));
            pairs.filter(|(f, t)| f != t).map(|(f, t)| (machine(f), machine(t))).collect()
        };
        let of = |links: &schedule::Links, effect| {
            Some(Rule { ways: ways(links), traffic: links.traffic, effect })
        };
        let both = |pairs: Vec<(MachineId, MachineId)>| {
            let ways = pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
            Some(Rule { ways, traffic: Traffic::All, effect: Effect::Cut })
        };
        let clients_of = |node: schedule::Node| {
            self.0.clients.iter().map(move |client| (*client, machine(node)))
        };
        match kind {
            Kind::Loss { links, permille } => of(links, Effect::Loss(*permille)),
            Kind::Delay { links, add_ms, jitter_ms } => {
                of(links, Effect::Delay(*add_ms, add_ms + jitter_ms))
            }
            Kind::Duplicate { links, permille } => of(links, Effect::Duplicate(*permille)),
            Kind::Reorder { links, permille, by_ms } => {
                of(links, Effect::Reorder(*permille, *by_ms))
            }
            Kind::Cut { links } => of(links, Effect::Cut),
            Kind::Isolate { node: who, clients } => {
                let own = node(*who)?;
                let others = all.iter().filter(|n| **n != own);
                let mut pairs: Vec<_> = others.map(|n| (machine(*n), machine(own))).collect();
                if *clients {
                    pairs.extend(clients_of(own));
                }
                both(pairs)
            }
            Kind::Split { left, right } => {
                let (left, right): (Vec<_>, Vec<_>) = (
                    left.iter().filter_map(|w| node(*w)).collect(),
                    right.iter().filter_map(|w| node(*w)).collect(),
                );
                let pairs = left.iter().flat_map(|l| right.iter().map(move |r| (*l, *r)));
                both(pairs.filter(|(l, r)| l != r).map(|(l, r)| (machine(l), machine(r))).collect())
            }
            Kind::Ring => {
                let count = all.len();
                let near =
                    |a: usize, b: usize| a == b || (a + 1) % count == b || (b + 1) % count == a;
                let pairs = all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b)));
                let apart = pairs.filter(|(a, b)| a < b && !near(*a, *b));
                both(apart.map(|(a, b)| (machine(a), machine(b))).collect())
            }
            Kind::CutClients { node: who } => both(clients_of(node(*who)?).collect()),
            _ => None,
        }
    }
}

/// The node of a role that was looked up.
fn node(who: Who) -> Option<schedule::Node> {
    match who {
        Who::Node(node) => Some(node),
        _ => None,
    }
}
