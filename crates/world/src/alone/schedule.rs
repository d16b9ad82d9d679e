//! The faults of a run as an explicit list, which can be shortened and run again. What goes into it
//! is up to `derive`.

use std::fmt;

use super::clock::Micros;
use super::setup::{Setup, machine_name};
use crate::domain::state::SynchronousMode;

/// Whom a fault meets. Some are found out when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// This machine.
    Machine(u8),
    /// The machine of the member that the newest epoch was granted to.
    Primary,
    /// Of the others, this one.
    Other(u8),
    /// The machine of the Raft leader.
    Leader,
}

/// How a spec is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecChange {
    /// To this mode.
    Mode(SynchronousMode),
    /// To this W.
    WriteQuorum(u32),
    /// To this floor.
    Floor(u32),
    /// The floor is W: commits wait rather than being confirmed by fewer.
    Strict,
    /// To this patience with standbys that are gone, in milliseconds.
    ShrinkAfter(u64),
    /// To this bound for standbys that lag, in bytes.
    LagMax(u64),
    /// To this bound for what a failover may lose in asynchronous mode, in bytes.
    MaxLag(Option<u64>),
    /// To this many failovers after crashes.
    Crashes(u32),
}

/// Which tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagChange {
    /// Never made primary.
    NoFailover(bool),
    /// Commits never wait for it.
    NoSync(bool),
    /// It applies WAL late.
    Delay(bool),
    /// Others are copied from it.
    CloneFrom(bool),
    /// It streams from another member.
    ReplicateFrom(Option<u8>),
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One direction between two machines is cut, or both.
    Cut { from: Who, to: Who, both: bool },
    /// A machine is cut off: from what it sends, from what it hears.
    Isolate { who: Who, sends: bool, hears: bool },
    /// The daemon of a member is cut off from all others; its PostgreSQL is not.
    Deaf { who: Who },
    /// The machines of the mask are cut off from all others.
    Split { mask: u8 },
    /// Every machine reaches only its neighbours.
    Ring,
    /// Two halves, and one machine that reaches both.
    Bridge { over: u8 },
    /// So many messages of a thousand are lost, of one machine or of all.
    Loss { who: Option<Who>, permille: u16 },
    /// Messages are up to this late, of one machine or of all: they overtake each other.
    Late { who: Option<Who>, by: Micros },
    /// So many messages of a thousand arrive twice.
    Double { permille: u16 },
    /// The daemon dies, and is started again.
    Daemon { who: Who },
    /// The daemon stands still.
    Pause { who: Who },
    /// The machine loses its power, and what was not synced.
    Power { who: Who },
    /// The machine stands still, its CLOCK_BOOTTIME does not.
    Suspend { who: Who },
    /// The postmaster is killed.
    Postmaster { who: Who },
    /// PostgreSQL does nothing.
    Hang { who: Who },
    /// The disk is slow.
    Slow { who: Who, by: Micros },
    /// The disk does nothing.
    Frozen { who: Who },
    /// The clock runs at another rate from here on.
    Rate { who: Who, ppm: i64 },
    /// The clock jumps forward.
    Jump { who: Who, by: Micros },
    /// Tasks of the controller are late to go on: all but the planner.
    Tasks { who: Who, by: Micros },
    /// A controller takes it into its head to be elected.
    Election { who: Who },
    /// The data directory is lost, the record beside it too.
    Wipe { who: Who, record: bool },
    /// The operator asks for a switchover; `checked`: as the API does.
    Switchover { to: Who, checked: bool },
    /// The operator asks for a failover.
    Failover { to: Option<Who>, accept: bool, checked: bool },
    /// The specification is changed.
    Spec(SpecChange),
    /// Tags are changed.
    Tags { who: Who, to: TagChange },
    /// A member's priority is changed.
    Priority { who: Who, to: i32 },
    /// A member that comes later is registered.
    Join { member: u8 },
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When it begins.
    pub at: Micros,
    /// How long it lasts; nothing for what happens once.
    pub lasts: Micros,
    /// What.
    pub kind: Kind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.at as f64 / 1e6)?;
        if self.lasts > 0 {
            write!(f, " for {:.3} s", self.lasts as f64 / 1e6)?;
        }
        write!(f, ": {:?}", self.kind)
    }
}

/// The list, for a person.
pub fn describe(setup: &Setup, faults: &[Fault], kept: &[u32]) -> String {
    let machines: Vec<String> =
        (0..setup.machines).map(|m| machine_name(setup.members, m)).collect();
    let mut text = format!("machines: {}\n", machines.join(" "));
    for number in kept {
        if let Some(fault) = faults.get(*number as usize) {
            text.push_str(&format!("fault {number:>3} at {fault}\n"));
        }
    }
    text
}
