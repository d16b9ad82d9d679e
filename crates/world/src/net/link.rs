//! The quality of a link.

use crate::exec::{Nanos, Stream};

/// How a link treats what is sent on it. Messages overtake each other wherever their delays say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quality {
    /// Shortest delay, in microseconds.
    pub delay_us: u64,
    /// Longest usual delay above the shortest, in microseconds.
    pub jitter_us: u64,
    /// How many of a million messages are much later.
    pub late_ppm: u32,
    /// By how much at most, in microseconds.
    pub late_us: u64,
    /// How many of a million are lost.
    pub loss_ppm: u32,
    /// How many of a million arrive twice.
    pub duplicate_ppm: u32,
}

impl Default for Quality {
    /// A good local network.
    fn default() -> Self {
        Self {
            delay_us: 100,
            jitter_us: 300,
            late_ppm: 2_000,
            late_us: 5_000,
            loss_ppm: 0,
            duplicate_ppm: 0,
        }
    }
}

impl Quality {
    /// Within one machine.
    pub const LOCAL: Self = Self {
        delay_us: 10,
        jitter_us: 20,
        late_ppm: 0,
        late_us: 0,
        loss_ppm: 0,
        duplicate_ppm: 0,
    };

    pub(super) fn delay(&self, rng: &mut Stream) -> Nanos {
        let mut micros = self.delay_us + rng.below(self.jitter_us + 1);
        if rng.chance(self.late_ppm) {
            micros += rng.below(self.late_us + 1);
        }
        micros * 1_000
    }
}

/// One direction between two machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Where it is not the usual one.
    pub(super) quality: Option<Quality>,
    /// How many faults cut it.
    pub(super) cuts: u32,
}
