//! The machine of a member: guard, PostgreSQL, and the files beside the data directory.
//!
//! Owns [`Machine`], which outlives daemons, and the order of things on it: every change goes
//! through [`Machine::with`], which lets PostgreSQL do what follows and carries its messages away.
//! What is due later is done by a task in a scope of its own, which lives as long as the machine
//! has power.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_world::exec::{self, MachineId, ScopeId};
use quorate_world::net;
use quorate_world::pg::guard::Host;
use quorate_world::pg::server::Phase;
use quorate_world::pg::{
    Disk, Event, Outcome, Pace, Pid, Refused, Server, Span, Status, Tail, Ticket,
};
use quorate_world::schedule::{self, Node, Topology};
use quorate_world::timeline::Class;
use tokio::sync::{Notify, oneshot};

use super::faults::Active;
use super::files::Files;
use super::links::Links;
use super::registry::Registry;
use super::remote;
use crate::agent::driver::Error;
use crate::domain::types::{BootTime, MemberName};
use crate::node::Place;
use crate::raft::AsyncRuntime as _;
use crate::world::Observer;
use crate::{Rt, runtime, watch};

/// How long PostgreSQL's work takes on a simulated machine: what was measured on a real one.
pub const PACE: Pace = Pace {
    start: Span::millis(20, 120),
    recover: Span::millis(20, 350),
    reload: Span::micros(500, 6_000),
    fsync: Span::micros(150, 1_500),
    apply: Span::micros(100, 1_500),
    checkpoint: Span::millis(10, 250),
    spread: Span::millis(500, 25_000),
    promote: Span::millis(8, 50),
    stop: Span::millis(30, 250),
    orphan: Span::millis(100, 15_000),
};

/// How long a statement may take where nothing else is said, as in production.
pub const STATEMENT: Duration = Duration::from_secs(2);
/// How long a statement takes where nothing is wrong, in microseconds.
const STATEMENT_US: (u64, u64) = (80, 700);
/// How soon is looked again at what is due and does not happen.
const HELD_UP: Duration = Duration::from_millis(1);
/// How often a disk that hangs is looked at.
const HUNG: Duration = Duration::from_millis(20);

/// What is known of the process tree under the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TreeNews {
    /// There is none.
    Empty,
    /// The postmaster runs.
    Running,
    /// The postmaster has ended.
    Ended {
        /// How.
        how: String,
    },
}

pub(super) struct Inner {
    pub host: Host,
    pub files: Files,
    pub links: Links,
    /// Where everything of PostgreSQL runs.
    pub scope: ScopeId,
    tickets: Ticket,
    waiting: BTreeMap<Ticket, oneshot::Sender<Outcome>>,
    /// Who has to hear of a session's end.
    pub sessions: BTreeMap<Pid, Arc<Notify>>,
    /// When the machine's task wakes next.
    armed: Option<BootTime>,
    on: bool,
    /// Work that PostgreSQL has done, for whoever looks at its processes.
    pub work: u64,
    /// Whether it ended for want of room since it was started last.
    pub said_no_room: bool,
    pub tree: watch::Sender<TreeNews>,
    /// The timeline on which it takes writes, where it does.
    writes: Option<u64>,
    /// Faults that go on.
    pub active: Active,
}

struct Shared {
    node: Node,
    observer: Observer,
    name: MemberName,
    id: MachineId,
    registry: Registry,
    inner: Mutex<Inner>,
    wake: Notify,
    /// Grows with everything that happens.
    changes: watch::Sender<u64>,
}

/// The machine of a member. Clones are handles of one machine.
#[derive(Clone)]
pub struct Machine(Arc<Shared>);

impl Machine {
    /// A machine with power, on which nothing has run yet.
    pub(super) fn new(place: &Place, observer: Observer, registry: Registry) -> Self {
        let (name, id) = (Topology::member_name(place.node), place.machine);
        let seed = exec::stream(&format!("postgres/{name}")).draw();
        let mut server = Server::new(place.node as u32 + 1, seed);
        server.env_mut().pace = PACE;
        let inner = Inner {
            host: Host::new(server),
            files: Files::default(),
            links: Links::default(),
            scope: exec::scope(id, "postgres"),
            tickets: 0,
            waiting: BTreeMap::new(),
            sessions: BTreeMap::new(),
            armed: None,
            on: true,
            work: 0,
            said_no_room: false,
            tree: watch::Sender::new(TreeNews::Empty),
            writes: None,
            active: Active::default(),
        };
        let machine = Self(Arc::new(Shared {
            node: place.node,
            observer,
            name,
            id,
            registry,
            inner: Mutex::new(inner),
            wake: Notify::new(),
            changes: watch::Sender::new(0),
        }));
        machine.begin();
        machine
    }

    /// Its member.
    pub fn name(&self) -> &MemberName {
        &self.0.name
    }

    /// The simulated machine.
    pub fn id(&self) -> MachineId {
        self.0.id
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// CLOCK_BOOTTIME here.
    pub fn now(&self) -> BootTime {
        BootTime::from_nanos(exec::boot_time(self.0.id))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half-changed by what runs under it.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The timeline on which it takes writes now, where it does: it runs as a primary, neither it
    /// nor its machine is stopped, the kernel's timer has not expired, and it holds no writes back.
    pub fn writes(&self) -> Option<u64> {
        let inner = self.lock();
        let runs = || exec::is_running(inner.scope) && !inner.host.is_over(self.now());
        inner.writes.filter(|_| runs())
    }

    /// Something has happened that faults may wait for, and that a person wants to read.
    pub(super) fn note(&self, event: Option<schedule::Event>, class: Class, text: String) {
        self.trace(|| text.clone());
        self.0.observer.note(Some(self.0.node), class, format!("{}: {text}", self.0.name));
        if let Some(event) = event {
            self.0.observer.event(event);
        }
    }

    /// A line of the trace.
    pub(super) fn trace(&self, text: impl FnOnce() -> String) {
        crate::trace(|| format!("{}: {}", self.0.name, text()));
    }

    // ---- power ----

    /// Starts what serves this machine, in a scope of its own.
    fn begin(&self) {
        let scope = self.lock().scope;
        drop(exec::spawn_on(scope, pump(self.clone())));
        super::links::serve(self, scope);
        remote::serve(self, scope);
    }

    /// The power is gone, and all tasks of the machine with it. `tail` is how many records that
    /// were not surely on disk survive.
    pub(super) fn power_lost(&self, tail: Tail) {
        let mut inner = self.lock();
        inner.on = false;
        inner.host.crash(tail);
        inner.files.crash();
        inner.links = Links::default();
        // Nobody is left who could hear of it.
        drop(inner.host.server.take_events());
        let waiting = std::mem::take(&mut inner.waiting);
        inner.sessions.clear();
        inner.tree.send_replace(TreeNews::Empty);
        inner.writes = None;
        drop(inner);
        drop(waiting);
    }

    /// The machine was booted.
    pub(super) fn power_back(&self) {
        {
            let mut inner = self.lock();
            inner.on = true;
            inner.armed = None;
            inner.scope = exec::scope(self.0.id, "postgres");
        }
        self.begin();
    }

    // ---- changes ----

    /// Changes something, and lets everything happen that follows from it now.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Inner, BootTime) -> T) -> T {
        let now = self.now();
        let mut inner = self.lock();
        // What the kernel does by the clock comes before whatever woke late.
        if inner.on && exec::is_running(inner.scope) && inner.host.is_over(now) {
            inner.host.tick(now);
        }
        let done = act(&mut inner, now);
        self.settle(&mut inner, now);
        drop(inner);
        self.0.changes.send_if_modified(|version| {
            *version += 1;
            true
        });
        done
    }

    /// Carries away what PostgreSQL has to tell, and has its task wake for what is due.
    fn settle(&self, inner: &mut Inner, now: BootTime) {
        loop {
            if inner.on && exec::is_running(inner.scope) {
                inner.host.tick(now);
            }
            let events = inner.host.server.take_events();
            if events.is_empty() {
                break;
            }
            inner.work += events.len() as u64;
            for event in events {
                self.happened(inner, event);
            }
        }
        inner.writes = writes(&inner.host.server);
        let due = inner.host.due();
        if due.is_some_and(|due| inner.armed.is_none_or(|armed| due < armed)) {
            inner.armed = due;
            self.0.wake.notify_one();
        }
    }

    fn happened(&self, inner: &mut Inner, event: Event) {
        match event {
            Event::Dial { conn, address, hello } => {
                super::links::dial(self, inner, conn, address, hello);
            }
            Event::Send { conn, wire } => inner.links.send(&self.0.registry, conn, wire),
            Event::Close { conn } => inner.links.close(conn),
            Event::Answered { ticket, outcome } => {
                if let Some(waiting) = inner.waiting.remove(&ticket) {
                    // Nobody waits any more where the request was given up.
                    let _ = waiting.send(outcome);
                }
            }
            Event::SessionEnded { session } => {
                if let Some(ended) = inner.sessions.remove(&session) {
                    ended.notify_one();
                }
            }
            Event::Ended { how } => {
                inner.said_no_room |= how.contains("No space left");
                self.note(None, Class::Member, format!("PostgreSQL ends: {how}"));
                inner.tree.send_replace(TreeNews::Ended { how });
            }
            Event::Empty => {
                self.trace(|| "no process of PostgreSQL is left".to_owned());
                inner.active.tree_ended();
                inner.tree.send_if_modified(|tree| {
                    let unheard = *tree == TreeNews::Running;
                    if unheard {
                        *tree = TreeNews::Ended { how: "the process tree was killed".to_owned() };
                    }
                    true
                });
            }
            Event::GivenUp { rows } => self.0.registry.cancelled(rows),
            Event::Streams { timeline } => {
                let text = format!("it streams timeline {timeline}");
                self.note(Some(schedule::Event::Streams), Class::Member, text);
            }
            Event::Said { text } => self.trace(|| format!("PostgreSQL: {text}")),
        }
    }

    /// A number for a request, and how to wait for its answer.
    pub(super) fn ticket(inner: &mut Inner) -> (Ticket, oneshot::Receiver<Outcome>) {
        inner.tickets += 1;
        let (sender, receiver) = oneshot::channel();
        inner.waiting.insert(inner.tickets, sender);
        (inner.tickets, receiver)
    }

    // ---- statements ----

    /// Waits for a time drawn from this machine's stream.
    pub(super) async fn lag(&self, micros: (u64, u64)) {
        let micros = exec::with_rng(self.0.id, |rng| rng.between(micros.0, micros.1));
        Rt::sleep(Duration::from_micros(micros)).await;
    }

    /// Runs a statement on an open session with the server here.
    pub(super) async fn sql<T>(
        &self,
        act: impl FnOnce(&mut Server, BootTime) -> Result<T, Refused>,
    ) -> Result<T, Error> {
        self.lag(STATEMENT_US).await;
        let done = self.with(|inner, now| {
            if inner.host.server.stopped().all {
                return Err(Refused::Silent);
            }
            act(&mut inner.host.server, now)
        });
        match done {
            Err(Refused::Silent) => {
                Rt::sleep(STATEMENT).await;
                Err(timed_out("a statement", STATEMENT))
            }
            other => other.map_err(refused),
        }
    }

    /// What the server here shows.
    pub(super) async fn status(&self) -> Result<Status, Error> {
        self.sql(|server, _| server.status()).await
    }

    /// Waits until `seen` gives a value, looking whenever anything happens here. `None` where it
    /// does not within `limit`.
    pub(super) async fn until<T>(
        &self,
        limit: Duration,
        mut seen: impl FnMut(&Server, BootTime) -> Option<T>,
    ) -> Option<T> {
        let end = self.now().plus(limit);
        let mut changes = self.0.changes.subscribe();
        loop {
            let now = self.now();
            if let Some(value) = seen(&self.lock().host.server, now) {
                return Some(value);
            }
            if now >= end {
                return None;
            }
            let wait = end.since(now);
            runtime::first_of(vec![
                Box::pin(async { drop(changes.changed().await) }),
                Box::pin(Rt::sleep(wait)),
            ])
            .await;
            // Whoever looks needs a moment.
            self.lag(STATEMENT_US).await;
        }
    }

    /// Waits while all processes of PostgreSQL are stopped.
    pub(super) async fn awake(&self) {
        let mut changes = self.0.changes.subscribe();
        while self.lock().host.server.stopped().all {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits for the disk to take a small write, synced or not.
    pub(super) async fn write_disk(&self, sync: bool) -> Result<(), Error> {
        self.lag((20, 200)).await;
        let disk = || -> Disk { self.lock().host.server.env().disk };
        if sync {
            let slower = disk().slower;
            Rt::sleep(slower).await;
            self.lag((150, 1_500)).await;
        }
        while disk().hung {
            Rt::sleep(HUNG).await;
        }
        match disk() {
            Disk { fails: true, .. } => Err(Error::Machine("Input/output error".to_owned())),
            _ => Ok(()),
        }
    }
}

/// A step that did not end: whether it was done is not known.
pub(super) fn timed_out(what: impl Into<String>, after: Duration) -> Error {
    Error::TimedOut { what: what.into(), seconds: after.as_secs_f64().ceil() as u64 }
}

/// What a refused statement means for a step that can simply be taken again.
pub(super) fn refused(why: Refused) -> Error {
    match why {
        Refused::NotRunning | Refused::Starting | Refused::ShuttingDown => {
            Error::NotReady(why.to_string())
        }
        Refused::Silent => timed_out("a statement", STATEMENT),
        other => Error::Failed(other.to_string()),
    }
}

fn writes(server: &Server) -> Option<u64> {
    let run = server.run().filter(|_| !server.stopped().all)?;
    let open = matches!(run.phase, Phase::Primary) && !run.postmaster.conf.read_only;
    open.then_some(u64::from(run.log.timeline.0))
}

/// Does what is due on a machine.
async fn pump(machine: Machine) {
    loop {
        // Its own look wakes nobody: the permit would wake itself, for ever.
        machine.with(|inner, _| inner.armed = Some(BootTime::default()));
        let soonest = machine.now().plus(HELD_UP);
        let due = {
            let mut inner = machine.lock();
            // What is still due is held up by something: it is looked at again a little later.
            inner.armed = inner.host.due().map(|at| if at <= machine.now() { soonest } else { at });
            inner.armed
        };
        let mut waits: Vec<runtime::Boxed<'_, ()>> = vec![Box::pin(machine.0.wake.notified())];
        if let Some(due) = due {
            let wait = due.since(machine.now());
            waits.push(Box::pin(Rt::sleep(wait)));
        }
        runtime::first_of(waits).await;
    }
}

/// Where replication connections arrive. Applications have PostgreSQL's own port.
pub(super) const REPLICATION: net::Port = 5433;
/// Where other members ask.
pub(super) const QUESTIONS: net::Port = 5434;
