//! Which events of a cluster were shown: none twice, and none left out without a word.

use std::fmt;

/// Events that are not kept any more, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    from: u64,
    to: u64,
}

impl Gap {
    /// How many.
    pub(super) fn count(self) -> u64 {
        self.to.saturating_sub(self.from).saturating_add(1)
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count() {
            1 => write!(f, "event {} is not kept any more", self.from),
            n => write!(f, "{n} events, {} to {}, are not kept any more", self.from, self.to),
        }
    }
}

/// The last event of a cluster that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Track(u64);

impl Track {
    /// Everything after that event is to be taken.
    pub(super) fn after(last: u64) -> Self {
        Self(last)
    }

    /// The last one that was taken.
    pub(super) fn last(&self) -> u64 {
        self.0
    }

    /// Takes an event: `None` where it was taken before, else those that are missing before it.
    pub(super) fn take(&mut self, id: u64) -> Option<Option<Gap>> {
        if id <= self.0 {
            return None;
        }
        let next = self.0 + 1;
        self.0 = id;
        Some((id > next).then(|| Gap { from: next, to: id - 1 }))
    }

    /// Compares with the newest event of the leader. Where that is older than what was taken, the
    /// control plane was set back, and what follows is taken from there; returns true then.
    pub(super) fn set_back(&mut self, newest: u64) -> bool {
        let back = newest < self.0;
        if back {
            self.0 = newest;
        }
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_twice_and_gaps_are_known() {
        let mut track = Track::after(4);
        assert_eq!(track.take(4), None);
        assert_eq!(track.take(5), Some(None));
        assert_eq!(track.take(5), None);
        let gap = track.take(9).unwrap().unwrap();
        assert_eq!((gap.count(), track.last()), (3, 9));
        assert_eq!(gap.to_string(), "3 events, 6 to 8, are not kept any more");
        assert_eq!(track.take(7), None);
        let one = track.take(11).unwrap().unwrap();
        assert_eq!(one.to_string(), "event 10 is not kept any more");
    }

    #[test]
    fn a_control_plane_that_was_set_back_is_noticed() {
        let mut track = Track::after(9);
        assert!(!track.set_back(9) && !track.set_back(12));
        assert!(track.set_back(3));
        assert_eq!(track.take(4), Some(None));
    }
}
