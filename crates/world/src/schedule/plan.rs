//! The plan of a run: everything that a run is given, as data.
//!
//! Owns topology, settings and what a plan lets one expect. Imports the domain's specification.

use serde::{Deserialize, Serialize};

use super::fault::{Fault, Kind};
use super::operation::{Act, Operation};
use super::who::{Disk, Node, Traffic, Who, Wipe};
use crate::domain::state::{ClusterSpec, SynchronousMode};
use crate::domain::types::{MemberName, NodeName, Tags};

/// Whether and how a node takes part in the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// It votes from the beginning.
    Voter,
    /// It stands by with an empty store until an operator adds it.
    Spare,
    /// It is no controller.
    No,
}

/// A member of the cluster on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberPlan {
    /// Breaks ties between candidates.
    pub priority: i32,
    /// What the operator says of it.
    pub tags: Tags,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePlan {
    /// Its part in the control plane.
    pub controller: Controller,
    /// Its member, where it has one.
    pub member: Option<MemberPlan>,
    /// How much too fast its clock runs, in parts per million; too slow where negative.
    pub clock_ppm: i64,
}

/// All machines. Clients are on machines of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// By index.
    pub nodes: Vec<NodePlan>,
}

impl Topology {
    /// So many nodes with all roles, and nothing special.
    pub fn of(nodes: usize) -> Self {
        let member = Some(MemberPlan { priority: 0, tags: Tags::default() });
        let node = NodePlan { controller: Controller::Voter, member, clock_ppm: 0 };
        Self { nodes: vec![node; nodes] }
    }

    /// The name of a node: `n0`, `n1` and so on.
    pub fn node_name(node: Node) -> NodeName {
        NodeName::new(format!("n{node}")).unwrap_or_else(|_| unreachable!("a letter and a number"))
    }

    /// The name of a node's member: `m0` on `n0`, and so on.
    pub fn member_name(node: Node) -> MemberName {
        MemberName::new(format!("m{node}"))
            .unwrap_or_else(|_| unreachable!("a letter and a number"))
    }

    /// The node of a member; the inverse of [`Topology::member_name`].
    pub fn node_of(member: &MemberName) -> Option<Node> {
        member.as_str().strip_prefix('m')?.parse().ok()
    }

    /// Nodes with a member.
    pub fn members(&self) -> Vec<Node> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].member.is_some()).collect()
    }

    /// Nodes whose controller votes from the beginning.
    pub fn voters(&self) -> Vec<Node> {
        let votes = |n: &usize| self.nodes[*n].controller == Controller::Voter;
        (0..self.nodes.len()).filter(votes).collect()
    }
}

/// How well clocks keep time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockClass {
    /// Their rates stay within the bound of the specification, and CLOCK_BOOTTIME never jumps.
    WithinBound,
    /// Anything goes: two servers may believe to be the writer, but no acknowledged write is lost.
    BeyondBound,
}

/// Whether disks keep what they say they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskClass {
    /// What was synced is there after a crash.
    Honest,
    /// It may not be. Where such a machine crashes, nothing can be promised.
    Lying,
}

/// What clients do all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Writers that open a connection for every row, to whichever server takes writes.
    pub fresh_writers: u32,
    /// Writers that keep their connection as long as it lasts.
    pub held_writers: u32,
    /// One writer a server that keeps its connection to this one, and writes whenever it may.
    pub probes: bool,
    /// Whether those set their sessions to be writable, whatever the server's default is.
    pub rude: bool,
    /// One reader a server, which looks at all rows.
    pub readers: bool,
    /// How often a writer begins a row.
    pub write_every_ms: u64,
    /// How often a reader looks.
    pub read_every_ms: u64,
    /// How long a client waits for an answer.
    pub timeout_ms: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            fresh_writers: 1,
            held_writers: 1,
            probes: true,
            rude: false,
            readers: true,
            write_every_ms: 50,
            read_every_ms: 200,
            timeout_ms: 2000,
        }
    }
}

/// What holds from the beginning to the end of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How well clocks keep time.
    pub clocks: ClockClass,
    /// Whether disks keep what they say they have.
    pub disks: DiskClass,
    /// Least time that a message takes, in microseconds.
    pub latency_us_min: u64,
    /// Most, in microseconds.
    pub latency_us_max: u64,
    /// How long a sync of an untroubled disk takes at most, in microseconds.
    pub sync_us_max: u64,
    /// A snapshot of the Raft log is made after so many entries.
    pub snapshot_entries: u64,
    /// So many entries are kept that a snapshot covers.
    pub keep_entries: u64,
    /// What clients do.
    pub workload: Workload,
    /// What the cluster is created with.
    pub spec: ClusterSpec,
}

/// What a run is given. It and the code decide everything that happens in the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What all random numbers of the run follow from.
    pub seed: u64,
    /// When all faults have ended, in milliseconds of true time since the run began.
    pub horizon_ms: u64,
    /// Within how long after that the cluster must have healed.
    pub heal_ms: u64,
    /// Machines.
    pub topology: Topology,
    /// What holds all the time.
    pub settings: Settings,
    /// What goes wrong, in the order of the times.
    pub faults: Vec<Fault>,
    /// What the operator does, in the order of the times.
    pub operations: Vec<Operation>,
}

/// What has to hold in a run of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarantees {
    /// At most one server acknowledges writes at any instant.
    pub one_writer: bool,
    /// No acknowledged write is lost, and nothing that was read on an open primary vanishes, but for
    /// what an operator, or `max_lag_bytes`, gave up.
    pub durable: bool,
    /// The cluster heals by itself once faults have ended.
    pub heals: bool,
    /// The agreed state stays agreed: what was applied at an index is the same on all nodes.
    pub agreed: bool,
    /// No epoch ends while this node's controller, which alone is ever in trouble, does not lead.
    pub calm: Option<Node>,
}

impl Plan {
    /// What has to hold in its run.
    ///
    /// - A clock beyond the bound can make two writers. Durability does not rest on clocks.
    /// - A disk that forgets what it had synced breaks every promise once its machine crashes.
    /// - Data that is gone for good may be the only copy of what was acknowledged: where commits do
    ///   not wait, or may go on without a standby, nobody but the operator can let the cluster go on.
    /// - Where tags leave fewer members that can confirm than commits have to wait for, they wait.
    pub fn guarantees(&self) -> Guarantees {
        let spec = &self.settings.spec;
        let lied = self.settings.disks == DiskClass::Lying;
        let alone = spec.synchronous == SynchronousMode::Async || spec.write_quorum_min == 0;
        let wipes = |what: &[Wipe]| {
            let hit =
                |f: &&Fault| matches!(&f.what, Kind::WipeDisk { what: w, .. } if what.contains(w));
            self.faults.iter().filter(hit).count()
        };
        let copies_gone = wipes(&[Wipe::Data, Wipe::Member, Wipe::Machine]);
        let stores_gone = wipes(&[Wipe::Raft, Wipe::Machine]);
        // Of three, another may be without data of its own at that time, while it is copied.
        let others = self.topology.members().len().saturating_sub(copies_gone);
        let data = copies_gone == 0 || (copies_gone == 1 && !alone && others > 2);
        let heals = data && stores_gone <= 1 && self.confirmers_min() >= spec.write_quorum_min;
        Guarantees {
            one_writer: self.settings.clocks == ClockClass::WithinBound && !lied,
            durable: !lied,
            heals: heals && !lied,
            agreed: !lied,
            calm: self.only_follower().filter(|_| !lied),
        }
    }

    /// The node whose part in the control plane is all that ever goes wrong, where two others are
    /// left.
    fn only_follower(&self) -> Option<Node> {
        let of = |fault: &Fault| match &fault.what {
            Kind::Loss { links, .. } | Kind::Delay { links, .. } | Kind::Cut { links }
                if links.traffic == Traffic::Raft =>
            {
                match (&links.from[..], &links.to[..]) {
                    ([Who::Node(node)], []) | ([], [Who::Node(node)]) => Some(*node),
                    _ => None,
                }
            }
            Kind::SlowDisk { node: Who::Node(node), disk: Disk::Raft, .. } => Some(*node),
            _ => None,
        };
        let node = of(self.faults.first()?)?;
        let plain = self.operations.iter().all(|o| match o.what {
            Act::TransferLeadership { to: Who::Node(to) } => to != node,
            _ => false,
        });
        let same = self.faults.iter().all(|f| of(f) == Some(node));
        (plain && same && self.topology.voters().len() >= 3).then_some(node)
    }

    /// How many members can confirm commits at least, whoever is primary: others, and none that
    /// ever has a tag, whatever the tag says.
    fn confirmers_min(&self) -> u32 {
        let retagged = |node: Node| {
            self.operations.iter().any(|o| match o.what {
                Act::Retag { node: Who::Node(n), .. } => n == node,
                Act::Retag { .. } => true,
                _ => false,
            })
        };
        let plain = self.topology.members().into_iter().filter(|n| {
            let member = self.topology.nodes[*n].member.as_ref();
            member.is_some_and(|m| m.tags == Tags::default()) && !retagged(*n)
        });
        u32::try_from(plain.count().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Why the plan makes no sense, if so: a plan can be written by hand.
    pub fn problem(&self) -> Option<String> {
        let nodes = self.topology.nodes.len();
        if self.topology.voters().is_empty() || self.topology.members().is_empty() {
            return Some("there must be a voter and a member".to_owned());
        }
        if let Some(why) = crate::domain::invariants::spec_problem(&self.settings.spec) {
            return Some(why);
        }
        for name in &self.settings.spec.bootstrap_members {
            let node = Topology::node_of(name).and_then(|n| self.topology.nodes.get(n));
            if node.is_none_or(|n| n.member.is_none()) {
                return Some(format!("the cluster is to begin with {name}, which is nowhere"));
            }
        }
        let late =
            self.faults.iter().map(|f| f.at_ms).chain(self.operations.iter().map(|o| o.at_ms));
        if late.into_iter().any(|at| at >= self.horizon_ms) {
            return Some("something begins at or after the horizon".to_owned());
        }
        if self.settings.latency_us_min > self.settings.latency_us_max {
            return Some("the least latency is above the most".to_owned());
        }
        let text = serde_json::to_value((&self.faults, &self.operations)).unwrap_or_default();
        if let Some(node) = largest_node(&text).filter(|n| *n >= nodes as u64) {
            return Some(format!("there is no node {node}"));
        }
        let within = self.settings.clocks == ClockClass::WithinBound;
        let bound = i64::try_from(self.settings.spec.timing.clock_error_ppm).unwrap_or(i64::MAX);
        let rates = self.topology.nodes.iter().map(|n| n.clock_ppm);
        let bad = self.faults.iter().any(|f| match f.what {
            Kind::ClockRate { ppm, .. } => ppm.abs() > bound,
            Kind::BootJump { .. } | Kind::Freeze { .. } => true,
            _ => false,
        });
        if within && (bad || rates.into_iter().any(|ppm| ppm.abs() > bound)) {
            return Some("a clock leaves the bound that the plan says it keeps".to_owned());
        }
        let lies = self.faults.iter().any(|f| matches!(f.what, Kind::LyingDisk { .. }));
        if lies && self.settings.disks == DiskClass::Honest {
            return Some("a disk lies, and the plan says that none does".to_owned());
        }
        None
    }
}

/// The largest index of a node that is named anywhere.
fn largest_node(value: &serde_json::Value) -> Option<u64> {
    match value {
        serde_json::Value::Array(items) => items.iter().filter_map(largest_node).max(),
        serde_json::Value::Object(map) => {
            let here = map.get("node").and_then(serde_json::Value::as_u64);
            map.values().filter_map(largest_node).chain(here).max()
        }
        _ => None,
    }
}
