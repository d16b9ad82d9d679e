//! What can go wrong, as data.
//!
//! Owns the vocabulary of faults. How each is done is the world's affair. Imports whom they hit, and
//! what they can wait for.

use serde::{Deserialize, Serialize};

use super::operation::{Event, Trigger};
use super::who::{Disk, Links, Processes, Who, Wipe};

/// A kind of fault with its parameters. Those that last end after the fault's `for_ms`, and all of
/// them at the plan's horizon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// Messages are lost. Lasts.
    Loss {
        /// Where.
        links: Links,
        /// How many of a thousand.
        permille: u32,
    },
    /// Messages are late. Lasts.
    Delay {
        /// Where.
        links: Links,
        /// By how much at least.
        add_ms: u64,
        /// By how much more at most.
        jitter_ms: u64,
    },
    /// Messages of unary calls arrive twice, as from a client that tries again. Lasts.
    Duplicate {
        /// Where.
        links: Links,
        /// How many of a thousand.
        permille: u32,
    },
    /// Messages of unary calls overtake each other. Lasts.
    Reorder {
        /// Where.
        links: Links,
        /// How many of a thousand are held back.
        permille: u32,
        /// For how long at most.
        by_ms: u64,
    },
    /// Nothing arrives. Lasts.
    Cut {
        /// Where; one direction only.
        links: Links,
    },
    /// A node hears nobody and is heard by nobody. Lasts.
    Isolate {
        /// Who.
        node: Who,
        /// Whether clients are cut off from it, too.
        clients: bool,
    },
    /// Two sides that do not hear each other. Nodes that are on none hear both: one alone is a
    /// bridge. Lasts.
    Split {
        /// One side.
        left: Vec<Who>,
        /// The other.
        right: Vec<Who>,
    },
    /// Each node hears only the next and the one before, in the order of the topology. Lasts.
    Ring,
    /// Clients do not reach a node. Lasts.
    CutClients {
        /// Which.
        node: Who,
    },

    /// `hanode` is killed. Started again when the fault ends.
    CrashDaemon {
        /// Where.
        node: Who,
    },
    /// The machine loses power: what was not synced is lost but for a part. Started again when the
    /// fault ends.
    CrashMachine {
        /// Which.
        node: Who,
        /// Whether the last write that was under way is torn.
        torn: bool,
    },
    /// The postmaster is killed. Its backends go on, with the sessions that they have.
    KillPostmaster {
        /// Where.
        node: Who,
        /// How long they go on at most, where nobody kills them.
        orphans_ms: u64,
    },
    /// A backend crashes: PostgreSQL ends, and does not start by itself.
    CrashBackend {
        /// Where.
        node: Who,
    },
    /// The guard is killed, and with it all of PostgreSQL.
    KillGuard {
        /// Where.
        node: Who,
    },
    /// PostgreSQL is stopped by hand, in order.
    StopByHand {
        /// Where.
        node: Who,
    },
    /// The postmaster stands still, and nobody lets it go on: until it is killed, whatever the
    /// horizon is.
    HangPostmaster {
        /// Where.
        node: Who,
    },
    /// Processes stand still, as under SIGSTOP. Lasts.
    Pause {
        /// Where.
        node: Who,
        /// Which.
        processes: Processes,
    },
    /// The machine is suspended: all its processes stand still, and CLOCK_BOOTTIME goes on. Its
    /// timers that are due fire when it ends. Lasts.
    Suspend {
        /// Which.
        node: Who,
    },

    /// The rate of a machine's clock. Lasts.
    ClockRate {
        /// Where.
        node: Who,
        /// How much too fast, in parts per million; too slow where negative.
        ppm: i64,
    },
    /// The wall clock steps. CLOCK_BOOTTIME does not.
    WallStep {
        /// Where.
        node: Who,
        /// By how much.
        by_ms: i64,
    },
    /// CLOCK_BOOTTIME jumps ahead while processes run. No working machine does that.
    BootJump {
        /// Where.
        node: Who,
        /// By how much.
        by_ms: u64,
    },
    /// The machine stands still with all its clocks, as a virtual machine whose host stops it and
    /// hides that. Breaks the bound on clocks. Lasts.
    Freeze {
        /// Which.
        node: Who,
    },

    /// Syncs are slow. Lasts.
    SlowDisk {
        /// Where.
        node: Who,
        /// Which.
        disk: Disk,
        /// How long each takes.
        sync_ms: u64,
    },
    /// Nothing that is written or synced comes to an end. Lasts.
    StuckDisk {
        /// Where.
        node: Who,
        /// Which.
        disk: Disk,
    },
    /// Writes and syncs fail. Lasts.
    FailingDisk {
        /// Where.
        node: Who,
        /// Which.
        disk: Disk,
    },
    /// There is no room. Lasts.
    FullDisk {
        /// Where.
        node: Who,
        /// Which.
        disk: Disk,
    },
    /// Syncs return at once, and what was "synced" meanwhile is lost in a crash of the machine.
    /// Lasts.
    LyingDisk {
        /// Where.
        node: Who,
        /// Which.
        disk: Disk,
    },
    /// What is on a disk is gone: the machine is switched off, and on again when the fault ends.
    WipeDisk {
        /// Where.
        node: Who,
        /// What.
        what: Wipe,
    },

    /// Walsenders do not look at their configuration nor end, and send nothing. Lasts.
    StuckWalsender {
        /// Of whom.
        node: Who,
        /// To whom; everybody where it is not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Who>,
    },
    /// A session on a standby holds up replay. Lasts.
    StuckReplay {
        /// Where.
        node: Who,
    },
}

impl Kind {
    /// The name, as it is written in a plan.
    pub fn name(&self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            Ok(serde_json::Value::Object(map)) => map.keys().next().cloned().unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// Whether it goes on until it is ended; the others happen at one instant.
    pub fn lasts(&self) -> bool {
        !matches!(
            self,
            Kind::KillPostmaster { .. }
                | Kind::CrashBackend { .. }
                | Kind::KillGuard { .. }
                | Kind::StopByHand { .. }
                | Kind::HangPostmaster { .. }
                | Kind::WallStep { .. }
                | Kind::BootJump { .. }
        )
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it begins, in milliseconds of true time since the run began; with `on`, when it begins
    /// to wait. It never begins at or after the horizon.
    pub at_ms: u64,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Trigger>,
    /// How long it lasts; without it, and at most, until the horizon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// What.
    pub what: Kind,
}

impl Fault {
    /// A fault at an instant.
    pub fn at(at_ms: u64, what: Kind) -> Self {
        Self { at_ms, on: None, for_ms: None, what }
    }

    /// Lasting so long.
    pub fn lasting(mut self, for_ms: u64) -> Self {
        self.for_ms = Some(for_ms);
        self
    }

    /// Beginning so long after the next such event.
    pub fn on(mut self, event: Event, after_ms: u64) -> Self {
        self.on = Some(Trigger { event, after_ms });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::who::Who;
    use super::*;

    #[test]
    fn kinds_have_the_names_that_plans_have() {
        assert_eq!(Kind::Ring.name(), "ring");
        assert_eq!(Kind::CrashMachine { node: Who::Holder, torn: true }.name(), "crash_machine");
    }
}
