//! Whether this node could do what a leader has to.
//!
//! Owns [`Fitness`], which the watchdog and the watch over heartbeats write. A leader that is cut
//! off, or whose disk stands still, is not told that another leads: so it has to see by itself that
//! what it is asked would lead nowhere, and whoever asks it has to turn to another.

use crate::watch;

/// What keeps a node from leading, whatever its role.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fitness {
    /// An append has been waiting for the disk for longer than an election timeout.
    pub disk_stalled: bool,
    /// No majority has answered for long: nothing is sent that a follower could take for a
    /// heartbeat, so that another can be elected.
    pub quiet: bool,
}

impl Fitness {
    /// Whether nothing is known that keeps it from leading.
    pub fn is_fit(self) -> bool {
        !self.disk_stalled && !self.quiet
    }
}

/// The fitness of one node; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(watch::Sender<Fitness>);

impl Shared {
    pub(super) fn get(&self) -> Fitness {
        self.0.get()
    }

    pub(super) fn follow(&self) -> watch::Receiver<Fitness> {
        self.0.subscribe()
    }

    /// Changes it; returns what it was before.
    pub(super) fn change(&self, change: impl FnOnce(&mut Fitness)) -> Fitness {
        let mut before = Fitness::default();
        self.0.send_if_modified(|now| {
            before = *now;
            change(now);
            before != *now
        });
        before
    }
}
