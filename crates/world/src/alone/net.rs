//! Links between machines: what is cut, lost, doubled or late now.

use super::clock::{MS, Micros};
use super::rng::Rng;

/// One direction between two machines.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    /// How many faults cut it.
    cuts: u16,
    /// Lost messages, of a thousand.
    loss: u16,
    /// Longest extra delay.
    late_us: Micros,
}

/// The network of a run.
#[derive(Debug)]
pub struct Net {
    machines: usize,
    links: Vec<Link>,
    /// How many faults keep the daemon of a machine, and nothing else, from all other daemons.
    deaf: Vec<u16>,
    /// Messages that arrive twice, of a thousand.
    pub double: u16,
}

impl Net {
    /// A network without faults.
    pub fn new(machines: usize) -> Self {
        Self {
            machines,
            links: vec![Link::default(); machines * machines],
            deaf: vec![0; machines],
            double: 0,
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.machines + to]
    }

    /// Cuts one direction, or mends one cut of it.
    pub fn cut(&mut self, from: usize, to: usize, on: bool) {
        if from == to {
            return;
        }
        let link = self.link(from, to);
        link.cuts = if on { link.cuts + 1 } else { link.cuts.saturating_sub(1) };
    }

    /// Changes how much of one direction is lost.
    pub fn lose(&mut self, from: usize, to: usize, permille: u16, on: bool) {
        if from == to {
            return;
        }
        let link = self.link(from, to);
        link.loss = if on { link.loss + permille } else { link.loss.saturating_sub(permille) };
    }

    /// Changes how late one direction may be.
    pub fn delay(&mut self, from: usize, to: usize, late_us: Micros, on: bool) {
        if from == to {
            return;
        }
        let link = self.link(from, to);
        link.late_us =
            if on { link.late_us + late_us } else { link.late_us.saturating_sub(late_us) };
    }

    /// Keeps a machine's daemon from all others, or ends one fault that does.
    pub fn deafen(&mut self, machine: usize, on: bool) {
        let deaf = &mut self.deaf[machine];
        *deaf = if on { *deaf + 1 } else { deaf.saturating_sub(1) };
    }

    /// Whether anything goes this way.
    pub fn open(&self, from: usize, to: usize) -> bool {
        self.links[from * self.machines + to].cuts == 0
    }

    /// Whether heartbeats that are sent all the time arrive often enough this way.
    pub fn lively(&self, from: usize, to: usize) -> bool {
        let link = &self.links[from * self.machines + to];
        let deaf = self.deaf[from] + self.deaf[to] > 0 && from != to;
        !deaf && link.cuts == 0 && link.loss < 700 && link.late_us < 800 * MS
    }

    /// How long a message is under way; `None` where it is lost.
    pub fn hop(&self, rng: &mut Rng, from: usize, to: usize) -> Option<Micros> {
        if from == to {
            return Some(20 + rng.below(60));
        }
        let link = self.links[from * self.machines + to];
        let deaf = self.deaf[from] + self.deaf[to] > 0;
        if deaf || link.cuts > 0 || rng.permille(u64::from(link.loss)) {
            return None;
        }
        Some(self.travel(rng, link))
    }

    /// How long data of a connection is under way: what is lost is sent again.
    pub fn stream(&self, rng: &mut Rng, from: usize, to: usize) -> Option<Micros> {
        let link = self.links[from * self.machines + to];
        if link.cuts > 0 {
            return None;
        }
        let again = if rng.permille(u64::from(link.loss)) { rng.within(200, 400) * MS } else { 0 };
        Some(self.travel(rng, link) + again)
    }

    fn travel(&self, rng: &mut Rng, link: Link) -> Micros {
        let bits = rng.bits();
        let usual = 150 + bits % 700;
        let seldom = if (bits >> 32).is_multiple_of(300) { rng.below(25 * MS) } else { 0 };
        let late = if link.late_us > 0 { rng.below(link.late_us) } else { 0 };
        usual + seldom + late
    }
}
