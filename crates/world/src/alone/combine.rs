//! Faults that belong together: a second one while the first is being overcome, or a situation that
//! no single one makes.

use super::clock::{MS, Micros, SECOND};
use super::derive::{Maker, span};
use super::schedule::{Kind, SpecChange, TagChange, Who};

impl Maker<'_> {
    /// Something goes wrong, alone or with more.
    pub(super) fn combination(&mut self, at: Micros) {
        match self.rng.below(24) {
            0..=9 => self.single(at),
            10..=12 => self.takeover_in_trouble(at),
            13 => self.late_tasks(at),
            14 => self.operators(at),
            15 => self.restarts(at),
            16 => self.flapping(at),
            17 => self.away(at),
            18 => self.first_renewals(at),
            19 => self.deaf_grantee(at),
            20 => self.reconfigured(at),
            21 => self.late_changes(at),
            22 => self.stale_copy(at),
            _ => self.bad_news(at),
        }
    }

    /// Two of the others, not the same.
    fn two_others(&mut self) -> (Who, Who) {
        let others = self.setup.members as u64 - 1;
        let first = self.rng.below(others);
        let second = (first + 1 + self.rng.below((others - 1).max(1))) % others;
        (Who::Other(first as u8), Who::Other(second as u8))
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

    /// A member is granted an epoch while the leader's tasks are late and messages to and from it
    /// are lost: its first renewal is under way for long. Meanwhile the operator, or the leader,
    /// wants another one.
    fn deaf_grantee(&mut self, at: Micros) {
        let by = self.rng.pick(&[400, 600, 800, 1500]) * MS;
        let asked = self.rng.below(4) > 0;
        if asked {
            self.put(at, 0, Kind::Postmaster { who: Who::Primary });
            let then = at + self.rng.within(300, 1500) * MS;
            self.put(then, 0, Kind::Failover { to: None, accept: false, checked: false });
        } else {
            let to = self.other();
            self.put(at, 0, Kind::Switchover { to, checked: true });
        }
        let late = at + self.rng.within(150, 500) * MS;
        self.put(late, 6 * SECOND, Kind::Tasks { who: Who::Leader, by });
        let then = at + self.rng.within(250, 1000) * MS;
        let who = Who::Primary;
        if !asked && self.rng.one_in(2) {
            let suspect = self.setup.spec.timing.suspect_ms;
            let lasts = self.rng.within(suspect / 2, suspect * 5 / 4) * MS;
            self.put(then, lasts, Kind::Deaf { who });
        } else {
            let permille = self.rng.pick(&[300, 400, 500, 600]);
            self.put(then, 4 * SECOND, Kind::Loss { who: Some(who), permille });
        }
    }

    /// The operator takes a standby out of those that confirm while another lags, and both the
    /// primary and the one that was taken out are lost.
    fn reconfigured(&mut self, at: Micros) {
        let (out, lags) = self.two_others();
        let by = self.rng.within(500, 4000) * MS;
        let lasts = self.rng.within(3, 8) * SECOND;
        self.put(at, lasts, Kind::Late { who: Some(lags), by });
        let then = at + self.rng.within(100, 1500) * MS;
        self.put(then, 0, Kind::Tags { who: out, to: TagChange::NoSync(true) });
        if self.rng.one_in(3) {
            let w = 1 + self.rng.below(self.setup.members as u64 - 1) as u32;
            self.put(then, 0, Kind::Spec(SpecChange::WriteQuorum(w)));
        }
        let lost = then + self.rng.within(5, 250) * MS;
        let back = self.rng.within(6, 14) * SECOND;
        self.put(lost, back, Kind::Power { who: out });
        self.put(lost, back, Kind::Power { who: Who::Primary });
        let later = lost + back + SECOND;
        for who in 0..self.setup.members {
            let who = Who::Machine(who as u8);
            self.put(later, 0, Kind::Tags { who, to: TagChange::NoSync(false) });
        }
    }

    /// Who confirms is changed again and again while what the leader has decided is appended late,
    /// and then the primary is lost with one that confirmed.
    fn late_changes(&mut self, at: Micros) {
        let (one, other) = self.two_others();
        let by = self.rng.within(500, 2500) * MS;
        self.put(at, 14 * SECOND, Kind::Late { who: Some(other), by });
        let out = |on| TagChange::NoSync(on);
        let first = at + self.rng.within(50, 500) * MS;
        self.put(first, 0, Kind::Tags { who: other, to: out(true) });
        // What ends the first change is decided in this time, given up by who waits for it after two
        // seconds, and decided again; and then it comes.
        let who = Who::Leader;
        let late = first + self.rng.within(4, 20) * MS;
        let lasts = if self.rng.below(3) > 0 { 250 * MS } else { 10 * SECOND };
        self.put(late, lasts, Kind::Tasks { who, by: 6 * SECOND });
        let mut then = first + self.rng.within(2050, 2600) * MS;
        let (mut in_, mut out_) = (other, one);
        for _ in 0..3 {
            self.put(then, 0, Kind::Tags { who: in_, to: out(false) });
            let next = then + self.rng.within(10, 60) * MS;
            self.put(next, 0, Kind::Tags { who: out_, to: out(true) });
            std::mem::swap(&mut in_, &mut out_);
            then += self.rng.within(1000, 2500) * MS;
        }
        let lost = first + self.rng.within(2200, 6500) * MS;
        let away = self.rng.within(6, 14) * SECOND;
        self.put(lost, away, Kind::Power { who: one });
        self.put(lost, away, Kind::Power { who: Who::Primary });
        for m in 0..self.setup.members {
            let who = Who::Machine(m as u8);
            self.put(lost + away, 0, Kind::Tags { who, to: out(false) });
        }
    }

    /// A standby that confirmed loses its disk and is copied from another one, which gets nothing;
    /// and the primary is lost.
    fn stale_copy(&mut self, at: Micros) {
        let (copied, source) = self.two_others();
        self.put(at, 0, Kind::Tags { who: source, to: TagChange::CloneFrom(true) });
        let cut = at + self.rng.within(50, 500) * MS;
        let both = self.rng.one_in(2);
        self.put(cut, 30 * SECOND, Kind::Cut { from: Who::Primary, to: source, both });
        let wiped = cut + self.rng.within(300, 2000) * MS;
        let record = self.rng.one_in(2);
        self.put(wiped, 0, Kind::Wipe { who: copied, record });
        let cut = wiped + self.rng.within(2500, 9000) * MS;
        self.put(cut, 20 * SECOND, Kind::Cut { from: Who::Primary, to: copied, both: true });
        let lost = cut + self.rng.below(6000) * MS;
        let away = self.rng.within(5, 12) * SECOND;
        self.put(lost, away, Kind::Power { who: Who::Primary });
    }
}
