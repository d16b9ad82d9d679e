//! What kind of cluster a seed gives: its size, its mode, its clocks, and what may go wrong in it.

use super::clock::{Micros, SECOND};
use super::rng::Rng;
use crate::domain::lease::Timing;
use crate::domain::state::{ClusterSpec, SynchronousMode};
use crate::domain::types::{ClusterName, MemberName};

/// What a seed may do beyond what the protocol assumes. The checks follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Clocks within their bound, and disks that keep what they have synced: every promise holds.
    Bounded,
    /// Clocks beyond their bound: two may write, and no acknowledged write is lost.
    Clocks,
    /// Disks of members that lose what they have synced: writes may be lost, and one writes.
    Lying,
}

/// The cluster of a run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The seed of everything.
    pub seed: u64,
    /// What may go wrong beyond the assumptions.
    pub class: Class,
    /// How many members; each has a machine of its own with an agent.
    pub members: usize,
    /// How many machines: there are always three controllers at least.
    pub machines: usize,
    /// How many of the machines, the last ones first, are controllers.
    pub controllers: usize,
    /// What the operator asks for at the beginning.
    pub spec: ClusterSpec,
    /// How many of the members, the last ones, are registered only later.
    pub late: usize,
    /// Priority of each member at the beginning.
    pub priorities: Vec<i32>,
    /// How fast each machine's clock runs, in parts per million.
    pub ppm: Vec<i64>,
    /// Mean pause between faults.
    pub gap: Micros,
    /// When faults begin.
    pub calm: Micros,
    /// When they have ended.
    pub end: Micros,
    /// Mean pause between the writes of clients.
    pub write_gap: Micros,
}

/// The name of the only cluster.
pub fn cluster() -> ClusterName {
    ClusterName::new("main").expect("a valid name")
}

/// The name of member number `i`.
pub fn name(i: usize) -> MemberName {
    MemberName::new(char::from(b'a' + i as u8).to_string()).expect("a valid name")
}

/// What a machine is called in a timeline: that of a member by its name, others are witnesses.
pub fn machine_name(members: usize, machine: usize) -> String {
    if machine < members { name(machine).to_string() } else { format!("w{}", machine - members) }
}

impl Setup {
    /// The cluster of this seed, with faults for so many seconds.
    pub fn of(seed: u64, fault_seconds: u64) -> Self {
        let mut rng = Rng::stream(seed, 1);
        let class = match seed % 16 {
            13 | 14 => Class::Clocks,
            15 => Class::Lying,
            _ => Class::Bounded,
        };
        let members = rng.pick(&[2, 3, 3, 3, 3, 4, 5, 5]);
        let witnesses = if members == 2 { 1 } else { usize::from(rng.one_in(4)) };
        let machines = members + witnesses;
        let controllers = if machines >= 5 && rng.one_in(2) { 5 } else { 3 };
        let mode = match rng.below(10) {
            0 | 1 => SynchronousMode::Priority,
            2 => SynchronousMode::Async,
            _ => SynchronousMode::Quorum,
        };
        let others = members as u64 - 1;
        let mut spec = ClusterSpec {
            synchronous: mode,
            write_quorum: 1 + rng.below(others.min(3)) as u32,
            shrink_after_ms: rng.pick(&[2_000, 4_000, 10_000]),
            sync_lag_bytes_max: rng.pick(&[40, 400, 100_000]),
            slot_ttl_ms: rng.pick(&[30_000, 120_000, 3_600_000]),
            crash_failovers_max: rng.pick(&[3, 1000, 1000, 1000]),
            crash_window_ms: 120_000,
            ..ClusterSpec::of((0..members).map(name).collect())
        };
        spec.write_quorum_min = match rng.below(4) {
            0 => 0,
            1 => spec.write_quorum,
            _ => 1,
        };
        if mode == SynchronousMode::Async && rng.one_in(2) {
            spec.max_lag_bytes = Some(rng.pick(&[0, 5, 50]));
        }
        match rng.below(6) {
            // Clocks so wrong that only the allowance for it keeps two leases apart.
            0 => spec.timing.clock_error_ppm = 100_000,
            1 => spec.timing = SHORT,
            _ => {}
        }
        let late = usize::from(members > 2 && rng.one_in(6));
        spec.bootstrap_members.truncate(members - late);
        let bound = spec.timing.clock_error_ppm as i64;
        let ppm = (0..machines).map(|_| skew(&mut rng, class, bound)).collect();
        Self {
            seed,
            class,
            members,
            machines,
            controllers: controllers.min(machines),
            spec,
            late,
            priorities: (0..members).map(|_| rng.below(3) as i32).collect(),
            ppm,
            gap: rng.pick(&[4, 7, 7, 12, 25]) * SECOND,
            calm: 20 * SECOND,
            end: (20 + fault_seconds) * SECOND,
            write_gap: rng.pick(&[100_000, 300_000, 700_000]),
        }
    }

    /// Whether a machine is a controller. Witnesses always are.
    pub fn controls(&self, machine: usize) -> bool {
        machine >= self.machines - self.controllers
    }
}

/// Short leases.
const SHORT: Timing = Timing {
    renew_ms: 300,
    ttl_ms: 1500,
    fence_margin_ms: 250,
    kill_margin_ms: 150,
    suspect_ms: 1000,
    clock_error_ppm: 10_000,
};

/// How fast a clock runs: often at the very edge of the bound.
pub fn skew(rng: &mut Rng, class: Class, bound: i64) -> i64 {
    match (class, rng.below(4)) {
        (Class::Clocks, 0) => rng.pick(&[-600_000, -300_000, 300_000, 1_000_000]),
        (_, 0) => -bound,
        (_, 1) => bound,
        _ => rng.below(2 * bound as u64 + 1) as i64 - bound,
    }
}
