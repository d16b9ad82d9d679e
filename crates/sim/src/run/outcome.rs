//! What a run came to, as numbers and as what was found.
//!
//! Owns the line that one process hands to another. Imports the rules.

use serde::{Deserialize, Serialize};

use quorate_world::check::Rule;

/// What was found wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Name of the rule.
    pub rule: String,
    /// When, in microseconds of true time since the run began.
    pub at_us: u64,
    /// What, for a person.
    pub what: String,
}

impl Found {
    /// The rule.
    pub fn rule(&self) -> Option<Rule> {
        Rule::named(&self.rule)
    }
}

/// How a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Hash of everything that was traced.
    pub hash: u64,
    /// Simulated time.
    pub simulated_ms: u64,
    /// How often a task was polled.
    pub polls: u64,
    /// Primaries that were opened for writes, the first one not counted.
    pub takeovers: u64,
    /// Switchovers that were done as asked.
    pub switchovers: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes that were refused.
    pub refused: u64,
    /// Writes of which nothing is known.
    pub unknown: u64,
    /// How long it took to heal once faults had ended; `None` where it has not.
    pub healed_ms: Option<u64>,
    /// What was found first.
    pub found: Option<Found>,
}

/// Sums over runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Runs.
    pub runs: u64,
    /// Those in which something was found.
    pub violations: u64,
    /// Runs that had to heal, and did.
    pub healed: u64,
    /// Sum of the times that took, and the longest.
    pub healed_ms: (u64, u64),
    simulated_ms: u64,
    takeovers: u64,
    switchovers: u64,
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    polls: u64,
    hash: u64,
}

impl Figures {
    /// Adds a run. The order matters to the hash: by seed.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.violations += u64::from(outcome.found.is_some());
        self.simulated_ms += outcome.simulated_ms;
        self.takeovers += outcome.takeovers;
        self.switchovers += outcome.switchovers;
        self.acknowledged += outcome.acknowledged;
        self.refused += outcome.refused;
        self.unknown += outcome.unknown;
        self.polls += outcome.polls;
        if let Some(ms) = outcome.healed_ms {
            self.healed += 1;
            self.healed_ms = (self.healed_ms.0 + ms, self.healed_ms.1.max(ms));
        }
        self.hash = (self.hash.rotate_left(7) ^ outcome.hash).wrapping_mul(0x0100_0000_01B3);
    }

    /// All of it, for a person. `wall_s` is how long it took, in seconds.
    pub fn text(&self, wall_s: f64) -> String {
        let hours = self.simulated_ms as f64 / 3_600_000.0;
        let mean = self.healed_ms.0.checked_div(self.healed).unwrap_or(0);
        format!(
            "{} seeds, {hours:.2} simulated hours, {} failovers and {} switchovers, writes: {} \
             acknowledged, {} unknown, {} refused\nhealed in {mean} ms on average, {} ms at most; {} \
             violations\n{wall_s:.1} s of wall time, {:.1} cluster-hours a minute, {} polls, hash \
             {:016x}",
            self.runs,
            self.takeovers - self.switchovers.min(self.takeovers),
            self.switchovers,
            self.acknowledged,
            self.unknown,
            self.refused,
            self.healed_ms.1,
            self.violations,
            hours * 60.0 / wall_s.max(0.001),
            self.polls,
            self.hash
        )
    }
}
