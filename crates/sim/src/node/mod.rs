//! Simulated nodes: a machine, its disk, and one `hanode` after the other on it.
//!
//! ```text
//!   daemon      one process, as `src/node.rs` composes it
//!   controller  its controller, as `src/node/controller.rs` composes it
//!   front       what of it the outside reaches
//!   alarms      what is wrong with it
//!   nothing     the database of nodes that have none
//! ```

pub mod alarms;
pub mod controller;
pub mod daemon;
pub mod front;
pub mod nothing;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_world::exec::{self, MachineClock, MachineId, ScopeId};
use quorate_world::net;
use quorate_world::schedule;

use crate::agent::Member;
use crate::agent::driver::{self, Database};
use crate::disk::Disk;
use crate::domain::types::{NodeName, Tags};
use crate::node::alarms::NodeAlarms;
use crate::node::controller::Controller;
use crate::node::daemon::{Daemon, Failed, Signal};
use crate::node::front::{Fronts, Part};
use crate::raft::{self, AsyncRuntime as _, Peer};
use crate::transport::{self, Wire};
use crate::world::Observer;
use crate::{Rt, watch};

/// After how long the service manager starts a daemon that has ended (`RestartSec` of the unit).
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Where something runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index of the node in the topology.
    pub node: schedule::Node,
    /// Its machine.
    pub machine: MachineId,
}

/// Makes the databases of members, and is told what happens to their machines. The guard and
/// PostgreSQL outlive the daemon.
pub trait MakeDatabase: Clone + Send + Sync + 'static {
    /// What it makes.
    type Database: Database;

    /// Opens a member's database for an agent that starts, on a task of its daemon.
    fn open(
        &self,
        place: &Place,
        member: &Member,
    ) -> impl Future<Output = Result<Arc<Self::Database>, driver::Error>> + Send;

    /// The daemon of this node has died, in whatever way; all its tasks are dropped.
    fn daemon_died(&self, place: &Place) {
        let _ = place;
    }

    /// The machine has lost its power; all its tasks are dropped.
    fn machine_died(&self, place: &Place, torn: bool) {
        let _ = (place, torn);
    }

    /// The machine has been booted.
    fn machine_started(&self, place: &Place) {
        let _ = place;
    }

    /// A fault of the plan, under its number there, begins on this node: whom it hits is looked up.
    /// Those that concern neither guard nor PostgreSQL nor its disk are told all the same.
    fn begin(&self, place: &Place, number: usize, fault: &schedule::Kind) {
        let _ = (place, number, fault);
    }

    /// A fault that lasts ends.
    fn end(&self, place: &Place, number: usize, fault: &schedule::Kind) {
        let _ = (place, number, fault);
    }

    /// The world is built: this is where everything is. Told once, before anything runs.
    fn built(&self, surroundings: &Surroundings) {
        let _ = surroundings;
    }
}

/// What databases may know of the world that they are in.
#[derive(Clone)]
pub struct Surroundings {
    /// The plan of the run.
    pub plan: schedule::Plan,
    /// Where the nodes are, by index.
    pub places: Vec<Place>,
    /// The machine of clients.
    pub clients: MachineId,
    /// Who sees everything: servers tell what no controller knows.
    pub observer: Observer,
}

/// What a node is set up with.
#[derive(Clone)]
pub struct Setup {
    /// Where it is.
    pub place: Place,
    /// Its name.
    pub name: NodeName,
    /// Its Raft settings where it is a controller. The members may change with the configuration.
    pub raft: Option<raft::Options>,
    /// Its member, where it has one.
    pub member: Option<Member>,
    /// Addresses of the controllers.
    pub controllers: Vec<String>,
    /// Time between two reports.
    pub report_every: Duration,
    /// Reaches the other nodes.
    pub wire: Wire,
}

struct State {
    raft: Option<raft::Options>,
    member: Option<Member>,
    fronts: Fronts,
    daemon: Option<ScopeId>,
    signal: Option<watch::Sender<Option<Signal>>>,
    /// How many daemons there were.
    lives: u64,
    /// Whether its service manager runs, or ran when the power went.
    started: bool,
    up: bool,
}

struct Inner<M> {
    setup: Setup,
    disk: Disk,
    databases: M,
    observer: Observer,
    state: Mutex<State>,
    /// How many faults keep the daemon from being started.
    held: watch::Sender<u32>,
}

/// A node. Clones are handles of one node. Its methods belong to the world: nothing that runs on
/// the node may call them.
pub struct Node<M>(Arc<Inner<M>>);

impl<M> Clone for Node<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: MakeDatabase> Node<M> {
    /// A node whose machine is up, and whose daemon does not run yet.
    pub fn new(setup: Setup, disk: Disk, databases: M, observer: Observer) -> Self {
        let state = State {
            raft: setup.raft.clone(),
            member: setup.member.clone(),
            fronts: Fronts::default(),
            daemon: None,
            signal: None,
            lives: 0,
            started: false,
            up: true,
        };
        let (held, _) = watch::channel(0);
        let state = Mutex::new(state);
        Self(Arc::new(Inner { setup, disk, databases, observer, state, held }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.0.setup.place
    }

    /// The disk of its Raft store.
    pub fn disk(&self) -> &Disk {
        &self.0.disk
    }

    /// What makes its database.
    pub fn databases(&self) -> &M {
        &self.0.databases
    }

    /// The part that its controller takes in the group now.
    pub fn part(&self) -> Option<Part> {
        self.lock().fronts.part()
    }

    /// The process of its daemon, while one runs.
    pub fn daemon(&self) -> Option<ScopeId> {
        self.lock().daemon.filter(|scope| exec::is_alive(*scope))
    }

    /// Its Raft id of now, where it is a controller.
    pub fn raft_id(&self) -> Option<u64> {
        self.lock().raft.as_ref().map(|o| o.node_id)
    }

    /// Itself as its peers see it.
    pub fn peer(&self) -> Peer {
        let name = self.0.setup.name.to_string();
        Peer { address: address(&name), name }
    }

    /// Whether its machine has power.
    pub fn is_up(&self) -> bool {
        self.lock().up
    }

    /// Changes its configuration: the next daemon has it.
    pub fn configure(&self, change: impl FnOnce(&mut Option<raft::Options>, &mut Option<Tags>)) {
        let mut state = self.lock();
        let state = &mut *state;
        let mut tags = state.member.as_ref().map(|m| m.tags.clone());
        change(&mut state.raft, &mut tags);
        if let (Some(member), Some(tags)) = (&mut state.member, tags) {
            member.tags = tags;
        }
    }

    // ---- life ----

    /// Starts the service manager, which starts the daemon, and starts it again whenever it ends.
    pub fn start(&self) {
        let started = std::mem::replace(&mut self.lock().started, true);
        // A machine that lost power before this was started when it booted, or will be.
        if started || !self.is_up() {
            return;
        }
        let scope = exec::scope(self.place().machine, "init");
        drop(exec::spawn_on(scope, supervise(self.clone())));
    }

    /// Asks the daemon to end; it is started anew after that.
    pub fn signal(&self, signal: Signal) {
        if let Some(sender) = &self.lock().signal {
            sender.send_replace(Some(signal));
        }
    }

    /// Kills the daemon. It is started anew, unless it is held.
    pub fn kill_daemon(&self) {
        let Some(scope) = self.daemon() else { return };
        self.kill_scope(scope);
    }

    /// Keeps the daemon from being started, or no longer does. Holds are counted.
    pub fn hold(&self, is: bool) {
        self.0.held.send_if_modified(|held| {
            *held = if is { *held + 1 } else { held.saturating_sub(1) };
            true
        });
    }

    /// Cuts the power. Everything that runs on the machine dies, and unsynced writes are lost but
    /// for a part.
    pub fn power_off(&self, torn: bool) {
        if !std::mem::replace(&mut self.lock().up, false) {
            return;
        }
        let place = self.place().clone();
        net::set_off(place.machine, true);
        exec::crash(place.machine);
        self.daemon_over();
        if torn {
            self.0.disk.tear(true);
        }
        let (kept, lost) = self.0.disk.machine_died();
        if torn {
            self.0.disk.tear(false);
        }
        self.0.databases.machine_died(&place, torn);
        let name = &self.0.setup.name;
        crate::trace(|| {
            format!("{name} has no power; of unsynced batches {kept} kept, {lost} lost")
        });
    }

    /// Boots the machine, where it is off.
    pub fn power_on(&self) {
        if std::mem::replace(&mut self.lock().up, true) {
            return;
        }
        net::set_off(self.place().machine, false);
        self.lock().started = false;
        self.0.databases.machine_started(self.place());
        let name = &self.0.setup.name;
        crate::trace(|| format!("{name} boots"));
        self.start();
    }

    fn kill_scope(&self, scope: ScopeId) {
        exec::kill(scope);
        self.daemon_over();
    }

    /// The daemon's tasks are gone: so is what it held.
    fn daemon_over(&self) {
        let fronts = {
            let mut state = self.lock();
            if state.daemon.take().is_none() {
                return;
            }
            state.signal = None;
            std::mem::take(&mut state.fronts)
        };
        fronts.clear();
        self.0.disk.process_died();
        self.0.databases.daemon_died(self.place());
        self.0.observer.ended(self.place().node);
        let name = &self.0.setup.name;
        crate::trace(|| format!("{name}: hanode is gone"));
    }

    /// Starts a daemon, and returns how to wait for its end.
    fn launch(&self) -> (ScopeId, exec::JoinHandle<Result<(), Failed>>) {
        let setup = &self.0.setup;
        let machine = setup.place.machine;
        let clock = Arc::new(MachineClock(machine));
        let (signal, signalled) = watch::channel(None);
        let (shutdown, ending) = watch::channel(false);
        let (alarms, seen) = NodeAlarms::new();
        let fronts = Fronts::default();
        let (scope, raft, member) = {
            let mut state = self.lock();
            state.lives += 1;
            let scope = exec::scope(machine, &format!("hanode.{}", state.lives));
            state.daemon = Some(scope);
            state.signal = Some(signal);
            state.fronts = fronts.clone();
            (scope, state.raft.clone(), state.member.clone())
        };
        let controller = raft.map(|options| Controller {
            options,
            node: setup.name.to_string(),
            has_agent: member.is_some(),
            disk: self.0.disk.clone(),
            wire: setup.wire.clone(),
            clock: clock.clone(),
            fronts: fronts.clone(),
            alarms: alarms.clone(),
            observer: self.0.observer.of(setup.place.node),
            ending,
        });
        transport::serve(scope, &fronts);
        let own = address(setup.name.as_str());
        let mut controllers = setup.controllers.clone();
        // The own one first, where there is one: it knows the leader as soon as anybody.
        controllers.sort_by_key(|address| *address != own);
        let daemon = Daemon {
            node: setup.name.clone(),
            controller,
            members: member.into_iter().collect(),
            databases: self.0.databases.clone(),
            place: setup.place.clone(),
            wire: setup.wire.clone(),
            fronts: fronts.clone(),
            controllers,
            clock,
            report_every: setup.report_every,
            alarms: seen,
            shutdown,
            signal: signalled,
        };
        (scope, exec::spawn_on(scope, daemon.run()))
    }
}

/// The address of a node of this name.
pub fn address(name: &str) -> String {
    format!("{name}:7400")
}

/// The service manager of a node.
async fn supervise<M: MakeDatabase>(node: Node<M>) {
    let mut held = node.0.held.subscribe();
    loop {
        if held.wait_for(|held| *held == 0).await.is_err() {
            return;
        }
        let (scope, ended) = node.launch();
        let ended = ended.await;
        crate::trace(|| match &ended {
            Ok(Ok(())) => "hanode has ended in order".to_owned(),
            Ok(Err(error)) => format!("hanode has ended: {error}"),
            Err(error) => format!("hanode has ended: {error}"),
        });
        // Whatever of the process is left ends with it.
        if node.lock().daemon == Some(scope) {
            node.kill_scope(scope);
        }
        Rt::sleep(RESTART_AFTER).await;
    }
}

/// The members of a Raft group: ids from 1, in the order of the nodes.
pub fn peers(nodes: impl IntoIterator<Item = (schedule::Node, NodeName)>) -> BTreeMap<u64, Peer> {
    let peer = |name: NodeName| Peer { address: address(name.as_str()), name: name.to_string() };
    nodes.into_iter().map(|(node, name)| (first_id(node), peer(name))).collect()
}

/// The Raft id that a node has first.
pub fn first_id(node: schedule::Node) -> u64 {
    node as u64 + 1
}
