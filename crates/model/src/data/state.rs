//! One state of the model: what is agreed, what each member is, and what the oracle remembers.
//!
//! Small and flat, since millions of them are kept. Whatever is decided by production code is
//! decided on the production types that `tables` makes of it.

use std::fmt;

use super::bounds::MEMBERS_MAX;
use super::log::Log;

/// Number of an agreed state, a synchronous configuration, a list of them, or a view: see `tables`.
pub type Id = u16;

/// What is known of a data directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// Nothing unfinished.
    #[default]
    Intact,
    /// A copy or a rewind was begun.
    Replacing,
    /// It was copied from the primary of this epoch, and not proven since.
    Copied(u8),
}

/// What runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Run {
    /// Nothing.
    #[default]
    Down,
    /// A sealed standby, its position known.
    Sealed {
        /// The promise that it was sealed for.
        promise: u8,
    },
    /// A standby that follows.
    Following {
        /// The epoch.
        epoch: u8,
        /// The member at the primary's address.
        source: u8,
    },
    /// A primary, or one on its way to be.
    Primary {
        /// The epoch.
        epoch: u8,
        /// Whether a renewal was ever acknowledged: by a bad clock that lasts for ever.
        leased: bool,
        /// Whether it is promoted.
        promoted: bool,
        /// Whether it is open for writes.
        open: bool,
        /// The list of configurations that a barrier confirmed; 0 for none.
        confirmed: Id,
    },
}

/// The connection of a standby, as its primary sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sender {
    /// The configuration that the walsender runs with; 0 where there is no walsender.
    pub config: Id,
    /// The position that it has heard to be flushed; only kept where a connection may outlive its
    /// standby, else it is the standby's own.
    pub flushed: u8,
}

/// One member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its log, flushed.
    pub log: Log,
    /// The promise on its disk.
    pub promised: u8,
    /// The epoch that it held, its data untouched since.
    pub held: u8,
    /// The epoch that it has ended.
    pub ended: u8,
    /// What is known of the data directory.
    pub mark: Mark,
    /// Whether there is a data directory.
    pub present: bool,
    /// The life of the guard; 0 where none runs.
    pub guard: u8,
    /// What runs.
    pub run: Run,
    /// What it was last told to be; 0 for nothing yet.
    pub view: Id,
    /// What it last told the leader of its sealed position, as long as that can still count.
    pub evidence: Id,
    /// The configuration written for its walsenders; 0 for none.
    pub config: Id,
    /// Its walsenders.
    pub senders: [Sender; MEMBERS_MAX],
    /// The last epoch that it followed; only kept where that counts.
    pub followed: u8,
    /// Whether it is gone for good.
    pub lost: bool,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bad {
    /// Nothing.
    #[default]
    No,
    /// An acknowledged write is missing.
    AcknowledgedLost,
    /// A write that was seen is missing.
    SeenLost,
    /// An invariant of the agreed state is broken.
    Invariant,
    /// Two members wrote one timeline.
    Fork,
}

/// One state of the model.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// The agreed state.
    pub cluster: Id,
    /// The log of the open epoch's holder when it was promoted, reported; empty for none.
    pub told_promotion: Log,
    /// The list that a barrier of the open epoch's holder confirmed, reported; 0 for none.
    pub told_confirmed: Id,
    /// The members.
    pub members: [Member; MEMBERS_MAX],
    /// Writes made.
    pub writes: u8,
    /// Writes acknowledged, one bit each.
    pub acknowledged: u8,
    /// Writes that a session which was opened on an active primary can have read.
    pub seen: u8,
    /// Faults that happened.
    pub faults: u8,
    /// Changes of the synchronous configuration that were begun.
    pub changes: u8,
    /// Operations begun.
    pub operations: u8,
    /// What went wrong, in this very state.
    pub bad: Bad,
}

/// Name of member number `i`.
pub fn name(i: usize) -> char {
    char::from(b'a' + i as u8)
}

impl Member {
    /// The epoch that it runs as a promoted primary.
    pub fn primary(&self) -> Option<u8> {
        match self.run {
            Run::Primary { epoch, promoted: true, .. } => Some(epoch),
            _ => None,
        }
    }

    /// The process tree is gone, and that is recorded.
    pub fn stop(&mut self) {
        self.ended = self.ended.max(self.held);
        self.guard = 0;
        self.run = Run::Down;
        self.config = 0;
        self.senders = Default::default();
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.run {
            Run::Down => write!(f, "down")?,
            Run::Sealed { promise } => write!(f, "sealed {promise}")?,
            Run::Following { epoch, source } => {
                write!(f, "follows {} in {epoch}", name(usize::from(source)))?;
            }
            Run::Primary { epoch, promoted, open, .. } => {
                let how = match (promoted, open) {
                    (false, _) => "accepted",
                    (true, false) => "promoted",
                    (true, true) => "open",
                };
                write!(f, "primary {epoch} {how}")?;
            }
        }
        write!(f, " [{:?}]", self.log)?;
        match self.mark {
            Mark::Intact if !self.present => write!(f, " empty"),
            Mark::Intact => Ok(()),
            Mark::Replacing => write!(f, " replacing"),
            Mark::Copied(epoch) => write!(f, " copied {epoch}"),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, member) in self.members.iter().enumerate() {
            write!(f, "{} {member}; ", name(i))?;
        }
        write!(f, "acknowledged {:b}, seen {:b}", self.acknowledged, self.seen)
    }
}
