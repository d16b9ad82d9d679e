//! The faults of a run, derived from its seed before it begins: an explicit list, which can be
//! shortened and run again.

use std::fmt;

use super::clock::{MS, Micros, SECOND};
use super::rng::Rng;
use super::setup::{Class, Setup, machine_name};
use crate::domain::state::SynchronousMode;

/// Whom a fault meets. Some are found out when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// This machine.
    Machine(u8),
    /// The machine of the member that the newest epoch was granted to.
    Primary,
    /// Of the others, this one.
    Other(u8),
    /// The machine of the Raft leader.
    Leader,
}

/// How a spec is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecChange {
    /// To this mode.
    Mode(SynchronousMode),
    /// To this W.
    WriteQuorum(u32),
    /// To this floor.
    Floor(u32),
}

/// Which tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagChange {
    /// Never made primary.
    NoFailover(bool),
    /// Commits never wait for it.
    NoSync(bool),
    /// It applies WAL late.
    Delay(bool),
    /// Others are copied from it.
    CloneFrom(bool),
    /// It streams from another member.
    ReplicateFrom(Option<u8>),
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One direction between two machines is cut, or both.
    Cut { from: Who, to: Who, both: bool },
    /// A machine is cut off: from what it sends, from what it hears.
    Isolate { who: Who, sends: bool, hears: bool },
    /// The daemon of a member is cut off from all others; its PostgreSQL is not.
    Deaf { who: Who },
    /// The machines of the mask are cut off from all others.
    Split { mask: u8 },
    /// Every machine reaches only its neighbours.
    Ring,
    /// Two halves, and one machine that reaches both.
    Bridge { over: u8 },
    /// So many messages of a thousand are lost, of one machine or of all.
    Loss { who: Option<Who>, permille: u16 },
    /// Messages are up to this late, of one machine or of all: they overtake each other.
    Late { who: Option<Who>, by: Micros },
    /// So many messages of a thousand arrive twice.
    Double { permille: u16 },
    /// The daemon dies, and is started again.
    Daemon { who: Who },
    /// The daemon stands still.
    Pause { who: Who },
    /// The machine loses its power, and what was not synced.
    Power { who: Who },
    /// The machine stands still, its CLOCK_BOOTTIME does not.
    Suspend { who: Who },
    /// The postmaster is killed.
    Postmaster { who: Who },
    /// PostgreSQL does nothing.
    Hang { who: Who },
    /// The disk is slow.
    Slow { who: Who, by: Micros },
    /// The disk does nothing.
    Frozen { who: Who },
    /// The clock runs at another rate from here on.
    Rate { who: Who, ppm: i64 },
    /// The clock jumps forward.
    Jump { who: Who, by: Micros },
    /// Tasks of the controller are late to go on: all but the planner.
    Tasks { who: Who, by: Micros },
    /// A controller takes it into its head to be elected.
    Election { who: Who },
    /// The data directory is lost, the record beside it too.
    Wipe { who: Who, record: bool },
    /// The operator asks for a switchover; `checked`: as the API does.
    Switchover { to: Who, checked: bool },
    /// The operator asks for a failover.
    Failover { to: Option<Who>, accept: bool, checked: bool },
    /// The specification is changed.
    Spec(SpecChange),
    /// Tags are changed.
    Tags { who: Who, to: TagChange },
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When it begins.
    pub at: Micros,
    /// How long it lasts; nothing for what happens once.
    pub lasts: Micros,
    /// What.
    pub kind: Kind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.at as f64 / 1e6)?;
        if self.lasts > 0 {
            write!(f, " for {:.3} s", self.lasts as f64 / 1e6)?;
        }
        write!(f, ": {:?}", self.kind)
    }
}

/// For how long something lasts: often short, seldom for long.
fn span(rng: &mut Rng) -> Micros {
    match rng.below(20) {
        0..=7 => rng.within(50, 1000) * MS,
        8..=14 => rng.within(1000, 4000) * MS,
        15..=18 => rng.within(4, 12) * SECOND,
        _ => rng.within(12, 40) * SECOND,
    }
}

struct Maker<'a> {
    setup: &'a Setup,
    rng: Rng,
    list: Vec<Fault>,
}

/// The faults of a seed, in the order in which they begin.
pub fn derive(setup: &Setup) -> Vec<Fault> {
    let mut maker = Maker { setup, rng: Rng::stream(setup.seed, 2), list: Vec::new() };
    let mut at = setup.calm;
    while at < setup.end {
        maker.combination(at);
        at += maker.rng.within(setup.gap / 5, setup.gap * 9 / 5);
    }
    let mut list = maker.list;
    list.retain(|f| f.at < setup.end);
    for fault in &mut list {
        fault.lasts = fault.lasts.min(setup.end - fault.at);
    }
    list.sort_by_key(|f| f.at);
    list
}

impl Maker<'_> {
    fn put(&mut self, at: Micros, lasts: Micros, kind: Kind) {
        self.list.push(Fault { at, lasts, kind });
    }

    fn machine(&mut self) -> Who {
        Who::Machine(self.rng.below(self.setup.machines as u64) as u8)
    }

    fn other(&mut self) -> Who {
        Who::Other(self.rng.below(self.setup.members as u64 - 1) as u8)
    }

    fn somebody(&mut self) -> Who {
        match self.rng.below(10) {
            0..=3 => Who::Primary,
            4..=5 => self.other(),
            6..=7 => Who::Leader,
            _ => self.machine(),
        }
    }

    fn member(&mut self) -> Who {
        if self.rng.one_in(2) { Who::Primary } else { self.other() }
    }

    fn combination(&mut self, at: Micros) {
        match self.rng.below(20) {
            0..=9 => self.single(at),
            10..=12 => self.takeover_in_trouble(at),
            13 => self.late_tasks(at),
            14 => self.operators(at),
            15 => self.restarts(at),
            16 => self.flapping(at),
            17 => self.away(at),
            18 => self.first_renewals(at),
            _ => self.bad_news(at),
        }
    }

    fn single(&mut self, at: Micros) {
        let lasts = span(&mut self.rng);
        match self.rng.below(24) {
            0..=8 => self.network(at, lasts),
            9..=15 => self.process(at, lasts),
            16..=18 => self.disk(at, lasts),
            19..=20 => self.operator(at),
            21 => self.settings(at),
            22 => self.clock(at),
            _ => {
                let who = self.other();
                let record = self.rng.one_in(3);
                self.put(at, 0, Kind::Wipe { who, record });
            }
        }
    }

    fn network(&mut self, at: Micros, lasts: Micros) {
        let who = self.somebody();
        let some = if self.rng.one_in(3) { None } else { Some(who) };
        let kind = match self.rng.below(12) {
            0 | 1 => Kind::Cut { from: who, to: self.machine(), both: self.rng.one_in(2) },
            2 | 3 => Kind::Isolate { who, sends: true, hears: true },
            4 => Kind::Isolate { who, sends: true, hears: false },
            5 => Kind::Isolate { who, sends: false, hears: true },
            6 => Kind::Deaf { who: self.member() },
            7 => Kind::Split { mask: self.rng.within(1, (1 << self.setup.machines) - 1) as u8 },
            8 if self.rng.one_in(2) => Kind::Ring,
            8 => Kind::Bridge { over: self.rng.below(self.setup.machines as u64) as u8 },
            9 => Kind::Loss { who: some, permille: self.rng.pick(&[20, 100, 300, 800]) },
            10 => Kind::Late { who: some, by: self.rng.pick(&[50, 400, 1500, 4000]) * MS },
            _ => Kind::Double { permille: self.rng.pick(&[50, 300]) },
        };
        self.put(at, lasts, kind);
    }

    fn process(&mut self, at: Micros, lasts: Micros) {
        let who = self.somebody();
        let kind = match self.rng.below(12) {
            0..=2 => Kind::Postmaster { who: self.member() },
            3 | 4 => Kind::Daemon { who },
            5 | 6 => Kind::Pause { who },
            7..=9 => Kind::Power { who },
            10 => Kind::Suspend { who },
            _ => Kind::Hang { who: self.member() },
        };
        let lasts = if matches!(kind, Kind::Postmaster { .. }) { 0 } else { lasts };
        self.put(at, lasts, kind);
    }

    fn disk(&mut self, at: Micros, lasts: Micros) {
        let who = self.somebody();
        let kind = match self.rng.below(3) {
            0 => Kind::Frozen { who },
            _ => Kind::Slow { who, by: self.rng.pick(&[20, 100, 500, 2000]) * MS },
        };
        self.put(at, lasts, kind);
    }

    fn operator(&mut self, at: Micros) {
        let checked = self.rng.below(4) > 0;
        let to = self.other();
        let kind = match self.rng.below(6) {
            0..=3 => Kind::Switchover { to, checked },
            4 => {
                let to = self.rng.one_in(2).then_some(to);
                Kind::Failover { to, accept: false, checked }
            }
            _ => {
                let to = self.rng.one_in(2).then_some(to);
                let usual = self.setup.spec.synchronous == SynchronousMode::Async;
                let accept = usual || self.rng.one_in(4);
                Kind::Failover { to, accept, checked: true }
            }
        };
        self.put(at, 0, kind);
    }

    fn settings(&mut self, at: Micros) {
        let others = self.setup.members as u64 - 1;
        if self.rng.one_in(2) {
            let change = match self.rng.below(3) {
                0 if self.setup.spec.synchronous != SynchronousMode::Async => {
                    SpecChange::Mode(self.rng.pick(&[
                        SynchronousMode::Quorum,
                        SynchronousMode::Priority,
                        SynchronousMode::Async,
                    ]))
                }
                0 | 1 => SpecChange::WriteQuorum(1 + self.rng.below(others) as u32),
                _ => SpecChange::Floor(self.rng.below(others + 1) as u32),
            };
            return self.put(at, 0, Kind::Spec(change));
        }
        let who = self.other();
        let on = self.rng.one_in(2);
        let to = match self.rng.below(5) {
            0 => TagChange::NoFailover(on),
            1 => TagChange::NoSync(on),
            2 => TagChange::Delay(on),
            3 => TagChange::CloneFrom(true),
            _ => {
                let from = self.rng.below(self.setup.members as u64) as u8;
                TagChange::ReplicateFrom(on.then_some(from))
            }
        };
        self.put(at, 0, Kind::Tags { who, to });
    }

    fn clock(&mut self, at: Micros) {
        let who = self.somebody();
        let bound = self.setup.spec.timing.clock_error_ppm as i64;
        let ppm = super::setup::skew(&mut self.rng, self.setup.class, bound);
        if self.setup.class == Class::Clocks && self.rng.one_in(2) {
            let by = self.rng.within(100, 20_000) * MS;
            return self.put(at, 0, Kind::Jump { who, by });
        }
        self.put(at, 0, Kind::Rate { who, ppm });
    }

    /// The primary is lost, one way or another.
    fn loss_of_primary(&mut self, at: Micros) {
        let who = Who::Primary;
        let lasts = span(&mut self.rng);
        let (lasts, kind) = match self.rng.below(8) {
            0 | 1 => (lasts, Kind::Power { who }),
            2 => (lasts + 3 * SECOND, Kind::Isolate { who, sends: true, hears: true }),
            3 => (lasts + 2 * SECOND, Kind::Pause { who }),
            4 => (lasts + 2 * SECOND, Kind::Suspend { who }),
            5 => (lasts + 3 * SECOND, Kind::Deaf { who }),
            _ => (0, Kind::Postmaster { who }),
        };
        self.put(at, lasts, kind);
    }

    /// And while another takes over, more goes wrong.
    fn takeover_in_trouble(&mut self, at: Micros) {
        self.loss_of_primary(at);
        for _ in 0..1 + self.rng.below(3) {
            let then = at + self.rng.below(5000) * MS;
            let lasts = span(&mut self.rng);
            match self.rng.below(6) {
                0 => self.network(then, lasts),
                1 | 2 => self.process(then, lasts),
                3 => self.disk(then, lasts),
                4 => {
                    let who = Who::Leader;
                    self.put(then, lasts, Kind::Power { who });
                }
                // Whoever was granted the epoch by then.
                _ => self.loss_of_primary(then),
            }
        }
    }

    /// A leader whose tasks stand still for seconds, each by itself.
    fn late_tasks(&mut self, at: Micros) {
        let by = self.rng.within(500, 6000) * MS;
        self.put(at, by + 4 * SECOND, Kind::Tasks { who: Who::Leader, by });
        let then = at + self.rng.below(2000) * MS;
        self.loss_of_primary(then);
    }

    /// A switchover while the answers of the leader are late: the first renewals of the new epoch
    /// are under way for long.
    fn first_renewals(&mut self, at: Micros) {
        let to = self.other();
        self.put(at, 0, Kind::Switchover { to, checked: true });
        let then = at + self.rng.below(900) * MS;
        let lasts = self.rng.within(2000, 8000) * MS;
        let by = self.rng.within(1000, 5000) * MS;
        let kind = match self.rng.below(3) {
            0 => Kind::Tasks { who: Who::Leader, by },
            1 => Kind::Late { who: Some(Who::Leader), by },
            _ => Kind::Late { who: Some(Who::Primary), by },
        };
        self.put(then, lasts, kind);
    }

    fn operators(&mut self, at: Micros) {
        for _ in 0..2 + self.rng.below(3) {
            let then = at + self.rng.below(3000) * MS;
            self.operator(then);
        }
        if self.rng.one_in(2) {
            let then = at + self.rng.below(2500) * MS;
            self.single(then);
        }
    }

    fn restarts(&mut self, at: Micros) {
        let pause = self.rng.below(1500) * MS;
        for machine in 0..self.setup.machines {
            let who = Who::Machine(machine as u8);
            let lasts = self.rng.within(100, 1500) * MS;
            self.put(at + pause * machine as u64, lasts, Kind::Daemon { who });
        }
    }

    fn flapping(&mut self, at: Micros) {
        let (from, to) = (self.somebody(), self.machine());
        let both = self.rng.one_in(2);
        let mut then = at;
        for _ in 0..4 + self.rng.below(6) {
            let lasts = self.rng.within(50, 1500) * MS;
            self.put(then, lasts, Kind::Cut { from, to, both });
            then += lasts + self.rng.within(50, 1500) * MS;
        }
    }

    /// A standby is away for long; when it is back, the primary is lost.
    fn away(&mut self, at: Micros) {
        let who = self.other();
        let lasts = self.rng.within(15, 90) * SECOND;
        self.put(at, lasts, Kind::Power { who });
        let then = at + lasts + self.rng.below(6000) * MS;
        self.loss_of_primary(then);
    }

    /// A primary that is only cut off from the controllers, with standbys that follow it, and a
    /// standby that hears late of what is agreed.
    fn bad_news(&mut self, at: Micros) {
        let lasts = self.rng.within(3, 10) * SECOND;
        self.put(at, lasts, Kind::Deaf { who: Who::Primary });
        let who = self.other();
        let then = at + self.rng.below(3000) * MS;
        self.put(then, lasts, Kind::Deaf { who });
        if self.rng.one_in(2) {
            let then = at + self.rng.below(6000) * MS;
            self.loss_of_primary(then);
        }
    }
}

/// The list, for a person.
pub fn describe(setup: &Setup, faults: &[Fault], kept: &[u32]) -> String {
    let machines: Vec<String> =
        (0..setup.machines).map(|m| machine_name(setup.members, m)).collect();
    let mut text = format!("machines: {}\n", machines.join(" "));
    for number in kept {
        if let Some(fault) = faults.get(*number as usize) {
            text.push_str(&format!("fault {number:>3} at {fault}\n"));
        }
    }
    text
}
