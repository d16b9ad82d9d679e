//! The state of a run, and the loop that takes one event after the other.

use std::rc::Rc;

use super::agent::Agent;
use super::clock::{MS, MachineClock, Micros, SECOND};
use super::control::Controller;
use super::net::Net;
use super::oracle::Oracle;
use super::queue::{Ev, Message, Queue, Server, Timer};
use super::raft::Raft;
use super::rng::{Rng, mix};
use super::schedule::Fault;
use super::server::{Directory, Tree};
use super::setup::{Class, Setup, cluster, machine_name, name};
use super::story::Story;
use crate::domain::apply::{Position, apply};
use crate::domain::command::{Change, Command};
use crate::domain::record::MemberRecord;
use crate::domain::state::{ControlState, Tags};
use crate::domain::types::{BootTime, ClusterName, MemberName, NodeName, SystemId, WallMillis};

/// The system identifier of all data.
pub const SYSTEM: SystemId = SystemId(7);

/// Most events of one instant: beyond that somebody does the same again and again.
const AT_ONCE: u32 = 100_000;
/// How long a stretch of luck is.
const STRETCH: Micros = 2 * SECOND;

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// Whether it has power.
    pub up: bool,
    /// Faults that hold it still, with everything on it.
    pub suspended: u16,
    /// Its clock.
    pub clock: MachineClock,
    /// Whether its daemon runs.
    pub daemon: bool,
    /// Which run of the daemon that is.
    pub run: u32,
    /// Faults that hold the daemon still.
    pub paused: u16,
    /// Until when its disk does nothing.
    pub frozen_until: Micros,
    /// Since when.
    pub frozen_at: Micros,
    /// Longest extra time that a flush takes.
    pub slow_us: Micros,
    /// Longest extra time that a task of the controller takes.
    pub tasks_us: Micros,
    /// What came while it was held still.
    pub(super) deferred: Vec<Ev>,
}

impl Machine {
    /// Whether the daemon runs and is not held still.
    pub fn awake(&self) -> bool {
        self.up && self.daemon && self.paused == 0 && self.suspended == 0
    }

    /// Whether what is not the daemon's goes on.
    pub fn moves(&self) -> bool {
        self.up && self.suspended == 0
    }
}

/// A member: what is on its disk, what runs, and its agent.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: MemberName,
    /// The record on disk.
    pub record: MemberRecord,
    /// The record before that, for disks that lie.
    pub record_before: MemberRecord,
    /// The data directory.
    pub dir: Directory,
    /// The process tree.
    pub tree: Tree,
    /// Whether its data is lost for good, and it with it.
    pub lost: bool,
    /// The agent, while the daemon runs.
    pub agent: Option<Box<Agent>>,
}

/// Numbers of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events taken.
    pub events: u64,
    /// Epochs granted beyond the first that was led.
    pub failovers: u64,
    /// Switchovers that ended with the wished primary.
    pub switchovers: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Times that a primary opened for writes.
    pub openings: u64,
    /// Terms that had a leader.
    pub leaders: u64,
    /// Grants in which the operator's word stood in for a proof.
    pub losses_accepted: u64,
    /// Data directories that were rewound or copied.
    pub replaced: u64,
    /// Runs that came to rest only after the operator accepted a loss of data.
    pub helped: u64,
    /// Passes of the planner.
    pub passes: u64,
    /// Commands agreed on.
    pub commands: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        self.events += other.events;
        self.failovers += other.failovers;
        self.switchovers += other.switchovers;
        self.acknowledged += other.acknowledged;
        self.openings += other.openings;
        self.leaders += other.leaders;
        self.losses_accepted += other.losses_accepted;
        self.replaced += other.replaced;
        self.helped += other.helped;
        self.passes += other.passes;
        self.commands += other.commands;
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// When.
    pub at: Micros,
    /// Which promise.
    pub promise: &'static str,
    /// What was seen.
    pub found: String,
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    pub(super) now: Micros,
    pub(super) queue: Queue,
    pub(super) setup: Rc<Setup>,
    pub(super) faults: Rc<Vec<Fault>>,
    /// What undoes the faults that go on, by their number.
    pub(super) undo: Vec<Vec<super::inject::Undo>>,
    /// Which stretch of time the streams of random numbers belong to.
    stretch: u64,
    /// Delays and losses of messages.
    pub(super) luck: Rng,
    /// How long things take.
    pub(super) pace: Rng,
    /// When clients write.
    pub(super) clients: Rng,
    pub(super) net: Net,
    pub(super) machines: Vec<Machine>,
    pub(super) members: Vec<Member>,
    pub(super) raft: Raft,
    pub(super) controllers: Vec<Controller>,
    pub(super) control: ControlState,
    pub(super) before: ControlState,
    pub(super) cluster: ClusterName,
    pub(super) oracle: Oracle,
    pub(super) story: Story,
    pub(super) counts: Counts,
    pub(super) broken: Option<Broken>,
    /// Whether the agreed state itself is not judged.
    pub(super) black_box: bool,
    /// Whether who hears of the Raft leader may have changed.
    pub(super) review: bool,
    /// The last number of a life of a guard, of a connection.
    pub(super) lives: u32,
    pub(super) sessions: u32,
    pub(super) hash: u64,
    /// Events of this very instant.
    at_once: u32,
}

impl World {
    /// The cluster of `setup` at its beginning: its members are registered, and hold no data.
    pub fn new(setup: Setup, faults: Vec<Fault>, story: Story) -> Self {
        let seed = setup.seed;
        let mut luck = Rng::stream(seed, 3);
        let mut control = ControlState::default();
        let mut run = |change: Change| {
            let command = Command { cluster: cluster(), at: WallMillis(0), change };
            apply(&mut control, Position { term: 0, index: 0 }, &command)
        };
        run(Change::CreateCluster { spec: setup.spec.clone() });
        for i in 0..setup.members - setup.late {
            run(registration(i, setup.priorities[i], Tags::default()));
        }
        let machines = (0..setup.machines)
            .map(|i| Machine {
                up: true,
                suspended: 0,
                clock: MachineClock::new(luck.below(1 << 40), setup.ppm[i]),
                daemon: true,
                run: 1,
                paused: 0,
                frozen_until: 0,
                frozen_at: 0,
                slow_us: 0,
                tasks_us: 0,
                deferred: Vec::new(),
            })
            .collect();
        let members = (0..setup.members)
            .map(|i| {
                let record = MemberRecord::new(cluster(), name(i));
                Member {
                    name: name(i),
                    record_before: record.clone(),
                    record,
                    dir: Directory::empty(),
                    tree: Tree::none(setup.members),
                    lost: false,
                    agent: None,
                }
            })
            .collect();
        for state in control.clusters.values_mut() {
            state.history.clear();
        }
        let first = Rc::new(control.clusters[&cluster()].clone());
        let undo = vec![Vec::new(); faults.len()];
        let mut world = Self {
            now: 0,
            queue: Queue::default(),
            undo,
            stretch: 0,
            luck,
            pace: Rng::stream(seed, 4),
            clients: Rng::stream(seed, 5),
            net: Net::new(setup.machines),
            machines,
            members,
            raft: Raft::new(setup.machines, first),
            controllers: (0..setup.machines).map(|_| Controller::default()).collect(),
            before: control.clone(),
            control,
            cluster: cluster(),
            oracle: Oracle::default(),
            story,
            counts: Counts::default(),
            broken: None,
            black_box: false,
            review: true,
            lives: 0,
            sessions: 0,
            hash: mix(seed),
            at_once: 0,
            setup: Rc::new(setup),
            faults: Rc::new(faults),
        };
        for i in 0..world.members.len() {
            world.begin_agent(i);
        }
        world
    }

    /// Puts these faults of the schedule into the queue.
    pub fn plant(&mut self, kept: &[u32]) {
        for number in kept {
            if let Some(fault) = self.faults.get(*number as usize) {
                self.queue.put(fault.at, Ev::Fault(*number));
                if fault.lasts > 0 {
                    self.queue.put(fault.at + fault.lasts, Ev::Over(*number));
                }
                // Clients are at their busiest around what goes wrong.
                for _ in 0..3 {
                    let at = (fault.at + self.clients.below(60 * MS)).saturating_sub(30 * MS);
                    for m in 0..self.members.len() {
                        let what = Server::Burst;
                        self.queue.put(at, Ev::Server { member: m as u8, life: 0, what });
                    }
                }
            }
        }
    }

    /// Runs up to this time, or until a promise is broken.
    pub fn run_until(&mut self, end: Micros) {
        while self.broken.is_none() {
            match self.queue.next_at() {
                Some(at) if at <= end => self.step(),
                _ => break,
            }
            if self.review {
                self.review = false;
                self.review_raft();
            }
        }
        self.now = self.now.max(end.min(self.queue.next_at().unwrap_or(end)));
    }

    fn step(&mut self) {
        let Some((at, ev)) = self.queue.take() else { return };
        debug_assert!(at >= self.now);
        self.at_once = if at == self.now { self.at_once + 1 } else { 0 };
        if self.at_once > AT_ONCE {
            let found = self.state_of_things();
            return self.fail(super::oracle::GOES_ON, found);
        }
        self.now = at;
        self.counts.events += 1;
        if at / STRETCH != self.stretch {
            self.begin_stretch(at / STRETCH);
        }
        match ev {
            Ev::Fault(number) => self.begin_fault(number),
            Ev::Over(number) => self.end_fault(number),
            Ev::Stale { a, b } => self.give_up_connections(usize::from(a), usize::from(b)),
            Ev::Daemon { machine, run, what } => self.daemon(usize::from(machine), run, what),
            Ev::Call { to, message } => self.call(usize::from(to), message),
            Ev::Kernel { member, life, what } => self.kernel(usize::from(member), life, what),
            Ev::Server { member, life, what } => self.server(usize::from(member), life, what),
        }
    }

    /// Luck begins anew every few seconds: what is left out of the schedule changes the luck of
    /// later times no more than it has to.
    fn begin_stretch(&mut self, stretch: u64) {
        self.stretch = stretch;
        let seed = mix(self.setup.seed) ^ stretch;
        self.luck = Rng::stream(seed, 3);
        self.pace = Rng::stream(seed, 4);
        self.clients = Rng::stream(seed, 5);
    }

    /// What a machine's clock shows.
    pub(super) fn clock(&self, machine: usize) -> BootTime {
        self.machines[machine].clock.at(self.now)
    }

    /// The wall clock, good to the second, of a machine whose clock may run wrong.
    pub(super) fn wall(&self) -> WallMillis {
        WallMillis(1_700_000_000_000 + self.now / 1000)
    }

    /// Sends a message between daemons.
    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.net.double > 0 && self.luck.permille(u64::from(self.net.double)) {
            self.send_once(from, to, message.clone());
        }
        self.send_once(from, to, message);
    }

    fn send_once(&mut self, from: usize, to: usize, message: Message) {
        if let Some(hop) = self.net.hop(&mut self.luck, from, to) {
            self.queue.put(self.now + hop, Ev::Call { to: to as u8, message });
        }
    }

    /// Sets a timer of the daemon that runs now.
    pub(super) fn timer(&mut self, machine: usize, after: Micros, what: Timer) {
        let run = self.machines[machine].run;
        self.queue.put(self.now + after, Ev::Daemon { machine: machine as u8, run, what });
    }

    /// Something will happen in the server that runs now.
    pub(super) fn later(&mut self, m: usize, after: Micros, what: Server) {
        let life = self.members[m].tree.life;
        self.queue.put(self.now + after, Ev::Server { member: m as u8, life, what });
    }

    /// How long a flush takes on a machine.
    pub(super) fn flush_us(&mut self, machine: usize) -> Micros {
        let place = &self.machines[machine];
        let frozen = place.frozen_until.saturating_sub(self.now);
        let slow = place.slow_us;
        let extra = if slow > 0 { self.pace.below(slow) } else { 0 };
        frozen + extra + self.pace.within(150, 1500)
    }

    /// A part of the trace.
    pub(super) fn note(&mut self, a: u64, b: u64) {
        let value = self.now ^ (a << 56) ^ (b << 48);
        self.hash = (self.hash.rotate_left(5) ^ value).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    /// Whether the class of this run promises this.
    pub(super) fn one_writer_holds(&self) -> bool {
        self.setup.class != Class::Clocks
    }

    /// Whether acknowledged writes are kept.
    pub(super) fn writes_hold(&self) -> bool {
        self.setup.class != Class::Lying
    }

    /// Ends the run: a promise is broken.
    pub(super) fn fail(&mut self, promise: &'static str, found: String) {
        if self.broken.is_none() {
            self.story.tell(self.now, || format!("BROKEN: {promise}: {found}"));
            self.broken = Some(Broken { at: self.now, promise, found });
        }
    }

    /// What a machine is called.
    pub(super) fn called(&self, machine: usize) -> String {
        machine_name(self.setup.members, machine)
    }
}

/// The registration of a member with this priority and these tags.
pub fn registration(i: usize, priority: i32, tags: Tags) -> Change {
    Change::RegisterMember {
        member: name(i),
        node: NodeName::new(format!("n{i}")).expect("a valid name"),
        address: format!("{}:1", name(i)),
        agent_address: None,
        priority,
        tags,
        system_id: None,
    }
}
