//! A seed's faults, derived before it begins: one at a time, and the combinations of `combine`.

use super::clock::{MS, Micros, SECOND};
use super::rng::Rng;
use super::schedule::{Fault, Kind, SpecChange, TagChange, Who};
use super::setup::{Class, Setup};
use crate::domain::state::SynchronousMode;

/// For how long something lasts: often short, seldom for long.
pub(super) fn span(rng: &mut Rng) -> Micros {
    match rng.below(20) {
        0..=7 => rng.within(50, 1000) * MS,
        8..=14 => rng.within(1000, 4000) * MS,
        15..=18 => rng.within(4, 12) * SECOND,
        _ => rng.within(12, 40) * SECOND,
    }
}

pub(super) struct Maker<'a> {
    pub(super) setup: &'a Setup,
    pub(super) rng: Rng,
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
    for member in setup.members - setup.late..setup.members {
        let at = maker.rng.within(setup.calm, (setup.calm + setup.end) / 2);
        maker.put(at, 0, Kind::Join { member: member as u8 });
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
    pub(super) fn put(&mut self, at: Micros, lasts: Micros, kind: Kind) {
        self.list.push(Fault { at, lasts, kind });
    }

    pub(super) fn machine(&mut self) -> Who {
        Who::Machine(self.rng.below(self.setup.machines as u64) as u8)
    }

    pub(super) fn other(&mut self) -> Who {
        Who::Other(self.rng.below(self.setup.members as u64 - 1) as u8)
    }

    pub(super) fn somebody(&mut self) -> Who {
        match self.rng.below(10) {
            0..=3 => Who::Primary,
            4..=5 => self.other(),
            6..=7 => Who::Leader,
            _ => self.machine(),
        }
    }

    pub(super) fn member(&mut self) -> Who {
        if self.rng.one_in(2) { Who::Primary } else { self.other() }
    }

    pub(super) fn single(&mut self, at: Micros) {
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

    pub(super) fn network(&mut self, at: Micros, lasts: Micros) {
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

    pub(super) fn process(&mut self, at: Micros, lasts: Micros) {
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

    pub(super) fn disk(&mut self, at: Micros, lasts: Micros) {
        let who = self.somebody();
        let kind = match self.rng.below(3) {
            0 => Kind::Frozen { who },
            _ => Kind::Slow { who, by: self.rng.pick(&[20, 100, 500, 2000]) * MS },
        };
        self.put(at, lasts, kind);
    }

    pub(super) fn operator(&mut self, at: Micros) {
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

    pub(super) fn settings(&mut self, at: Micros) {
        let others = self.setup.members as u64 - 1;
        if self.rng.one_in(2) {
            let change = match self.rng.below(10) {
                0 | 1 => SpecChange::Mode(self.rng.pick(&[
                    SynchronousMode::Quorum,
                    SynchronousMode::Quorum,
                    SynchronousMode::Priority,
                    SynchronousMode::Async,
                ])),
                2..=4 => SpecChange::WriteQuorum(1 + self.rng.below(others) as u32),
                5 => SpecChange::Floor(self.rng.below(others + 1) as u32),
                6 => SpecChange::Strict,
                7 => SpecChange::ShrinkAfter(self.rng.pick(&[2_000, 4_000, 10_000])),
                8 => SpecChange::LagMax(self.rng.pick(&[40, 400, 100_000])),
                _ if self.rng.one_in(2) => SpecChange::Crashes(self.rng.pick(&[0, 3, 1000])),
                _ => SpecChange::MaxLag(self.rng.pick(&[None, Some(0), Some(5), Some(50)])),
            };
            return self.put(at, 0, Kind::Spec(change));
        }
        let who = self.other();
        let on = self.rng.one_in(2);
        if self.rng.one_in(6) {
            let to = self.rng.below(3) as i32;
            return self.put(at, 0, Kind::Priority { who, to });
        }
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
}
