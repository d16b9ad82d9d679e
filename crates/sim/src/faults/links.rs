//! Faults of the network: what all that go on now make of each link.
//!
//! Owns the sum. Faults come and go in any order and overlap; with each change every link is worked
//! out anew from those that go on, so that none can leave anything behind.

use std::collections::BTreeMap;

use quorate_world::exec::MachineId;
use quorate_world::net::{self, Lane, Quality};
use quorate_world::schedule::Traffic;

use crate::transport::{RAFT, SESSION};

/// Everything that is neither between controllers nor between agents and controllers.
const OTHER: Lane = 0;
const RAFT_LANE: Lane = 1;
const SESSION_LANE: Lane = 2;

/// What a fault does to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// So many of a thousand are lost.
    Loss(u32),
    /// They are late: by how much at least and at most, in milliseconds.
    Delay(u64, u64),
    /// So many of a thousand arrive twice.
    Duplicate(u32),
    /// So many of a thousand are held back, by so many milliseconds at most.
    Reorder(u32, u64),
    /// None arrives.
    Cut,
}

/// One fault that goes on: what it does, and to which directions.
#[derive(Debug, Clone)]
pub struct Rule {
    /// From where to where.
    pub ways: Vec<(MachineId, MachineId)>,
    /// What kind of messages.
    pub traffic: Traffic,
    /// What happens to them.
    pub effect: Effect,
}

fn lanes(traffic: Traffic) -> &'static [Lane] {
    match traffic {
        Traffic::All => &[OTHER, RAFT_LANE, SESSION_LANE],
        Traffic::Raft => &[RAFT_LANE],
        Traffic::Session => &[SESSION_LANE],
        Traffic::Replication => &[OTHER],
    }
}

type Key = (MachineId, MachineId, Lane);

/// All faults of the network that go on.
pub struct Links {
    usual: Quality,
    rules: BTreeMap<usize, Rule>,
    /// Links that are not as usual now, and whether they are cut.
    touched: BTreeMap<Key, bool>,
}

impl Links {
    /// None, on a network of this quality.
    pub fn new(usual: Quality) -> Self {
        net::set_usual(usual);
        net::set_lane(RAFT, RAFT_LANE);
        net::set_lane(SESSION, SESSION_LANE);
        Self { usual, rules: BTreeMap::new(), touched: BTreeMap::new() }
    }

    /// A fault begins, under this number.
    pub fn begin(&mut self, number: usize, rule: Rule) {
        self.rules.insert(number, rule);
        self.work_out();
    }

    /// The fault of this number ends, where it goes on.
    pub fn end(&mut self, number: usize) {
        if self.rules.remove(&number).is_some() {
            self.work_out();
        }
    }

    fn work_out(&mut self) {
        let mut wanted: BTreeMap<Key, (Quality, bool)> = BTreeMap::new();
        for rule in self.rules.values() {
            for (from, to) in &rule.ways {
                for lane in lanes(rule.traffic) {
                    let link = wanted.entry((*from, *to, *lane)).or_insert((self.usual, false));
                    add(&mut link.0, &mut link.1, rule.effect);
                }
            }
        }
        let before = std::mem::take(&mut self.touched);
        for ((from, to, lane), was_cut) in before {
            if !wanted.contains_key(&(from, to, lane)) {
                net::set_lane_quality(from, to, lane, None);
                if was_cut {
                    net::cut_lane(from, to, lane, false);
                }
            } else {
                self.touched.insert((from, to, lane), was_cut);
            }
        }
        for ((from, to, lane), (quality, cut)) in wanted {
            net::set_lane_quality(from, to, lane, Some(quality));
            let was_cut = self.touched.insert((from, to, lane), cut).unwrap_or(false);
            if was_cut != cut {
                net::cut_lane(from, to, lane, cut);
            }
        }
    }
}

/// Of two independent chances, in parts per million, that of either.
fn either(a_ppm: u32, permille: u32) -> u32 {
    let (a, b) = (u64::from(a_ppm.min(1_000_000)), u64::from(permille.min(1000)) * 1000);
    u32::try_from(a + b - a * b / 1_000_000).unwrap_or(u32::MAX)
}

fn add(quality: &mut Quality, cut: &mut bool, effect: Effect) {
    match effect {
        Effect::Loss(permille) => quality.loss_ppm = either(quality.loss_ppm, permille),
        Effect::Duplicate(permille) => {
            quality.duplicate_ppm = either(quality.duplicate_ppm, permille);
        }
        Effect::Delay(least_ms, most_ms) => {
            quality.delay_us += least_ms * 1000;
            quality.jitter_us += most_ms.saturating_sub(least_ms) * 1000;
        }
        Effect::Reorder(permille, by_ms) => {
            quality.late_ppm = either(quality.late_ppm, permille);
            quality.late_us = quality.late_us.max(by_ms * 1000);
        }
        Effect::Cut => *cut = true,
    }
}
