//! Links: one direction between two machines each, and how it treats what is sent on it.

use std::collections::BTreeMap;

use super::{Port, Way};
use crate::exec::{self, MachineId, Nanos, Stream};

/// A kind of traffic, so that a fault can hit a part of what goes over a link. Ports are on lane 0
/// unless [`super::set_lane`] says otherwise.
pub type Lane = u8;

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

    fn delay(&self, rng: &mut Stream) -> Nanos {
        let mut micros = self.delay_us + rng.below(self.jitter_us + 1);
        if rng.chance(self.late_ppm) {
            micros += rng.below(self.late_us + 1);
        }
        micros * 1_000
    }
}

/// What faults make of one direction between two machines, or of one kind of traffic on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Where it is not the usual one.
    pub(super) quality: Option<Quality>,
    /// How many faults cut it.
    pub(super) cuts: u32,
}

impl Link {
    /// Adds a cut, or takes one away.
    pub(super) fn cut(&mut self, is: bool) {
        self.cuts = if is { self.cuts + 1 } else { self.cuts.saturating_sub(1) };
    }
}

/// All links.
#[derive(Default)]
pub(super) struct Links {
    pub(super) usual: Quality,
    /// Those with faults.
    pub(super) whole: BTreeMap<(MachineId, MachineId), Link>,
    pub(super) part: BTreeMap<(MachineId, MachineId, Lane), Link>,
    pub(super) lanes: BTreeMap<Port, Lane>,
    draws: BTreeMap<(MachineId, MachineId), Stream>,
}

impl Links {
    fn part_of(&self, way: Way) -> Option<&Link> {
        if self.part.is_empty() {
            return None;
        }
        let lane = self.lanes.get(&way.port).copied().unwrap_or_default();
        self.part.get(&(way.from, way.to, lane))
    }

    /// Whether the direction is cut for everything.
    pub(super) fn is_cut_whole(&self, from: MachineId, to: MachineId) -> bool {
        from != to && self.whole.get(&(from, to)).is_some_and(|link| link.cuts > 0)
    }

    /// Whether the direction is cut for what concerns this port.
    pub(super) fn is_cut(&self, way: Way) -> bool {
        let part = || way.from != way.to && self.part_of(way).is_some_and(|link| link.cuts > 0);
        self.is_cut_whole(way.from, way.to) || part()
    }

    fn quality(&self, way: Way) -> Quality {
        if way.from == way.to {
            return Quality::LOCAL;
        }
        let whole = || self.whole.get(&(way.from, way.to)).and_then(|link| link.quality);
        let part = self.part_of(way).and_then(|link| link.quality);
        part.or_else(whole).unwrap_or(self.usual)
    }

    /// The stream of a link, told from others by the names of its machines.
    fn draws(&mut self, way: Way) -> &mut Stream {
        self.draws.entry((way.from, way.to)).or_insert_with(|| {
            let (from, to) = (exec::name_of(way.from), exec::name_of(way.to));
            exec::stream(&format!("link/{from}>{to}"))
        })
    }

    /// After how long one packet arrives; `None` where it is lost on the way. Cuts do not count
    /// here, so that they do not shift what is drawn after them.
    pub(super) fn packet(&mut self, way: Way) -> Option<Nanos> {
        let quality = self.quality(way);
        let draws = self.draws(way);
        let lost = draws.chance(quality.loss_ppm);
        let delay = quality.delay(draws);
        (!lost).then_some(delay)
    }

    /// Whether a packet arrives twice.
    pub(super) fn is_doubled(&mut self, way: Way) -> bool {
        let ppm = self.quality(way).duplicate_ppm;
        ppm > 0 && self.draws(way).chance(ppm)
    }
}
