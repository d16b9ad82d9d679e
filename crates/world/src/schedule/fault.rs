//! What can go wrong, and what an operator does, as data.
//!
//! Owns the vocabulary of faults and operations, and whom they hit. How each is done is the world's
//! affair. Imports the domain's tags.

use serde::{Deserialize, Serialize};

use crate::domain::types::Tags;

/// Index of a node in the topology.
pub type Node = usize;

/// Whom a fault hits. A role is looked up when the fault begins, so that a plan can follow a
/// cluster whose roles move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// This node.
    Node(Node),
    /// The holder of the highest granted epoch, open or closed.
    Holder,
    /// The leader of the control plane.
    Leader,
    /// The standby of this number, counted from 0 over the nodes with members other than the
    /// holder's, modulo their count.
    Standby(usize),
    /// The controller of this number, counted the same way over those that do not lead.
    Follower(usize),
}

/// Who has which role at an instant, as an observer who sees everything would say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// Nodes with a member.
    pub members: Vec<Node>,
    /// Nodes whose controller votes.
    pub controllers: Vec<Node>,
    /// Where the holder of the highest granted epoch is.
    pub holder: Option<Node>,
    /// Where the leader of the highest Raft term is.
    pub leader: Option<Node>,
}

impl Who {
    /// The node that is meant now. Where nobody has the role it is the first node that could.
    pub fn resolve(self, roles: &Roles) -> Node {
        let nth = |all: &[Node], but: Node, n: usize| {
            let others: Vec<Node> = all.iter().copied().filter(|x| *x != but).collect();
            if others.is_empty() { but } else { others[n % others.len()] }
        };
        let holder = roles.holder.or(roles.members.first().copied()).unwrap_or(0);
        let leader = roles.leader.or(roles.controllers.first().copied()).unwrap_or(0);
        match self {
            Who::Node(node) => node,
            Who::Holder => holder,
            Who::Leader => leader,
            Who::Standby(n) => nth(&roles.members, holder, n),
            Who::Follower(n) => nth(&roles.controllers, leader, n),
        }
    }
}

/// What travels over a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// Everything.
    #[default]
    All,
    /// Between controllers.
    Raft,
    /// Between agents and the leader.
    Session,
    /// Replication and all other connections between PostgreSQL servers, rewinds and copies too.
    Replication,
}

/// Links between nodes, in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Who sends; empty for everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Who>,
    /// Who receives; empty for everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Who>,
    /// What of their messages.
    #[serde(default)]
    pub traffic: Traffic,
}

/// Which disk of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disk {
    /// That of the Raft store.
    Raft,
    /// That of PostgreSQL's data and of the member's record.
    Data,
    /// Both, being one.
    Both,
}

/// What of a machine's disks is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wipe {
    /// PostgreSQL's data directory; the member's record beside it stays.
    Data,
    /// The data directory and the member's record.
    Member,
    /// The Raft store.
    Raft,
    /// All of it: the machine comes back with new disks.
    Machine,
}

/// Which processes of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Processes {
    /// `hanode`.
    Daemon,
    /// The guard: the kernel's timer on it goes on.
    Guard,
    /// The postmaster alone: sessions that are open go on.
    Postmaster,
    /// Every process of PostgreSQL.
    Postgres,
    /// All of these.
    All,
}

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
                | Kind::WallStep { .. }
                | Kind::BootJump { .. }
        )
    }
}

/// Something that happens in a run, and that a fault can wait for. Faults between two steps of the
/// protocol that are milliseconds apart would not be hit by the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A controller begins to lead.
    Elected,
    /// An epoch is closed.
    Closed,
    /// A standby is sealed, by its PostgreSQL.
    Sealed,
    /// An epoch is granted.
    Granted,
    /// PostgreSQL has left recovery.
    Promoted,
    /// The promotion is recorded in the agreed state.
    Recorded,
    /// An epoch is open for writes.
    Active,
    /// A synchronous configuration is put beside another.
    SyncChangeBegun,
    /// The older one ends.
    SyncChangeEnded,
    /// A standby begins to stream from a primary.
    Streams,
    /// A rewind begins to change files.
    RewindBegun,
    /// A rewind is done.
    RewindDone,
    /// A copy begins.
    CopyBegun,
    /// A copy is done.
    CopyDone,
    /// The primary begins its orderly stop for a switchover.
    HandOver,
}

/// What a fault waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// The first of these at or after the fault's `at_ms`.
    pub event: Event,
    /// How long after it the fault begins.
    pub after_ms: u64,
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

/// What an operator does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// Asks for a switchover.
    Switchover {
        /// To whom.
        target: Who,
    },
    /// Asks for a failover.
    Failover {
        /// To whom; to the best where it is not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<Who>,
        /// Whether acknowledged commits may be lost.
        accept_data_loss: bool,
    },
    /// Changes the tags in a member's configuration, and starts its `hanode` anew.
    Retag {
        /// Whose.
        node: Who,
        /// To what.
        tags: Tags,
    },
    /// Starts a `hanode` anew, in order.
    RestartDaemon {
        /// Where.
        node: Who,
    },
    /// Moves the leadership of the control plane.
    TransferLeadership {
        /// To whom.
        to: Who,
    },
    /// Makes a node's controller a voter, under an identity that was never used.
    AddController {
        /// Which.
        node: Node,
    },
    /// Removes a node's controller.
    RemoveController {
        /// Which.
        node: Who,
    },
    /// Replaces a controller whose store was wiped: removes its old identity, adds a new one.
    ReplaceController {
        /// Where.
        node: Who,
    },
}

/// One act of the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// When, in milliseconds of true time since the run began; with `on`, when it begins to wait.
    pub at_ms: u64,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Trigger>,
    /// What.
    pub what: Act,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_looked_up() {
        let roles = Roles {
            members: vec![0, 1, 2],
            controllers: vec![0, 1, 2, 3],
            holder: Some(1),
            leader: Some(3),
        };
        assert_eq!(Who::Node(7).resolve(&roles), 7);
        assert_eq!(Who::Holder.resolve(&roles), 1);
        assert_eq!(Who::Leader.resolve(&roles), 3);
        assert_eq!([0, 1, 2].map(|n| Who::Standby(n).resolve(&roles)), [0, 2, 0]);
        assert_eq!([0, 1, 2].map(|n| Who::Follower(n).resolve(&roles)), [0, 1, 2]);
        let nobody = Roles { holder: None, leader: None, ..roles };
        assert_eq!(Who::Holder.resolve(&nobody), 0);
        assert_eq!(Who::Standby(0).resolve(&nobody), 1);
    }

    #[test]
    fn kinds_have_the_names_that_plans_have() {
        assert_eq!(Kind::Ring.name(), "ring");
        assert_eq!(Kind::CrashMachine { node: Who::Holder, torn: true }.name(), "crash_machine");
    }
}
