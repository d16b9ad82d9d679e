//! The replicated state of the control plane: what the Raft group agrees on.
//!
//! Owns the shapes only; `apply` changes them. Every map is ordered, so that equal states are
//! equal byte for byte on every node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::adoption::Adopted;
use super::alarm::Alarm;
use super::clusters::RemovedCluster;
use super::event::Event;
use super::lease::Timing;
use super::lineage::Lineage;
use super::membership::{Leaving, Removed};
use super::nodes::Nodes;
use super::observation::Sequence;
use super::operation::Later;
use super::rescue::Verify;
use super::specification::{DatabaseSpec, RoleSpec, SpecRevision};
use super::sync::SyncConfig;
pub use super::types::Tags;
use super::types::{ClusterName, Epoch, GuardId, Lsn, MemberName, NodeName, SystemId, WallMillis};

/// Most events that a cluster's history keeps; the oldest go first.
pub const HISTORY_MAX: usize = 400;

/// Most finished operations that a cluster remembers.
pub const OPERATIONS_MAX: usize = 50;

/// Everything that the control plane knows for certain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ControlState {
    /// Every cluster by name.
    #[serde(default)]
    pub clusters: BTreeMap<ClusterName, ClusterState>,
    /// The nodes of the control plane itself.
    #[serde(default)]
    pub nodes: Nodes,
    /// Clusters that were removed, oldest first.
    #[serde(default)]
    pub removed_clusters: VecDeque<RemovedCluster>,
}

impl ControlState {
    /// The cluster of that name.
    pub fn cluster(&self, name: &ClusterName) -> Option<&ClusterState> {
        self.clusters.get(name)
    }
}

/// One PostgreSQL cluster: a primary with its standbys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterState {
    /// What the operator asked for.
    pub spec: ClusterSpec,
    /// Number of that specification, growing by one with every change of it.
    #[serde(default = "first_revision")]
    pub spec_revision: u64,
    /// The latest revisions, oldest first, the one in force included once it was changed. Bounded by
    /// [`super::specification::REVISIONS_MAX`].
    #[serde(default)]
    pub spec_history: VecDeque<SpecRevision>,
    /// How far the cluster has come to life.
    pub phase: Phase,
    /// The data that the cluster began with, where that was adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adopted>,
    /// Set once by `initdb` (or adoption), checked at every join.
    #[serde(default)]
    pub system_id: Option<SystemId>,
    /// Registered members by name.
    #[serde(default)]
    pub members: BTreeMap<MemberName, Member>,
    /// Members that are to be removed, and count until they need not any more.
    #[serde(default)]
    pub leaving: BTreeMap<MemberName, Leaving>,
    /// Names that were removed: they do not register by themselves.
    #[serde(default)]
    pub removed: BTreeMap<MemberName, Removed>,
    /// The highest epoch that was ever granted.
    #[serde(default)]
    pub epoch: Epoch,
    /// The leadership of `epoch`; `None` until the cluster has data.
    #[serde(default)]
    pub tenure: Option<Tenure>,
    /// Synchronous configurations in force, oldest first. More than one while one is being changed
    /// for another; a takeover must cover them all.
    #[serde(default)]
    pub syncs: Vec<SyncConfig>,
    /// Which epoch begins where in the log of the last promoted member.
    #[serde(default)]
    pub lineage: Lineage,
    /// The operation under way, at most one.
    #[serde(default)]
    pub operation: Option<Operation>,
    /// Operations of single members under way, by member.
    #[serde(default)]
    pub jobs: BTreeMap<MemberName, Operation>,
    /// Operations that are to begin later, by number.
    #[serde(default)]
    pub scheduled: BTreeMap<u64, Operation>,
    /// Set while nothing is to happen by itself: no epoch is granted, and none is closed.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// Finished operations, oldest first, bounded by [`OPERATIONS_MAX`].
    #[serde(default)]
    pub finished: VecDeque<FinishedOperation>,
    /// Times of the latest epochs that ended in a crash, as the proposers read them.
    #[serde(default)]
    pub crashes: Vec<WallMillis>,
    /// What happened, oldest first, bounded by [`HISTORY_MAX`].
    #[serde(default)]
    pub history: VecDeque<Event>,
    /// Alarms that hold, by member.
    #[serde(default)]
    pub alarms: BTreeMap<MemberName, Vec<Alarm>>,
    /// The last notice of each member that was taken into the history.
    #[serde(default)]
    pub noticed: BTreeMap<MemberName, Sequence>,
    /// How far the primary of an epoch was when it was last noted, and when that was, by the
    /// proposer's wall clock. Kept where `max_lag_bytes` is measured by it.
    #[serde(default)]
    pub primary_end: Option<(Epoch, Lsn)>,
    /// When `primary_end` was noted.
    #[serde(default)]
    pub primary_end_at: WallMillis,
    /// Set while this state is not proven to be the newest: after a recovery of the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Number of the next event.
    #[serde(default)]
    pub next_event: u64,
    /// Number of the next operation.
    #[serde(default)]
    pub next_operation: u64,
    /// Number of the next synchronous configuration.
    #[serde(default)]
    pub next_sync: u64,
}

impl ClusterState {
    /// A cluster that has a name and a specification, and nothing else yet.
    pub fn new(spec: ClusterSpec) -> Self {
        Self {
            spec,
            spec_revision: first_revision(),
            spec_history: VecDeque::new(),
            phase: Phase::AwaitingMembers,
            adopted: None,
            system_id: None,
            members: BTreeMap::new(),
            leaving: BTreeMap::new(),
            removed: BTreeMap::new(),
            epoch: Epoch(0),
            tenure: None,
            syncs: Vec::new(),
            lineage: Lineage::default(),
            operation: None,
            jobs: BTreeMap::new(),
            scheduled: BTreeMap::new(),
            paused: None,
            finished: VecDeque::new(),
            crashes: Vec::new(),
            history: VecDeque::new(),
            alarms: BTreeMap::new(),
            noticed: BTreeMap::new(),
            primary_end: None,
            primary_end_at: WallMillis(0),
            verify: None,
            next_event: 1,
            next_operation: 1,
            next_sync: 1,
        }
    }

    /// The leadership that is open: granted and not closed.
    pub fn open_tenure(&self) -> Option<&Tenure> {
        self.tenure.as_ref().filter(|t| t.closed.is_none())
    }

    /// The member that is primary and open for writes, by the agreed state.
    pub fn active_primary(&self) -> Option<&MemberName> {
        self.open_tenure().filter(|t| matches!(t.stage, Stage::Active { .. })).map(|t| &t.member)
    }

    /// Whether commits of this primary may wait for that member: it may confirm, and does not leave.
    pub fn may_confirm(&self, member: &MemberName, primary: &MemberName) -> bool {
        !self.leaving.contains_key(member)
            && self.members.get(member).is_some_and(|m| m.may_confirm(primary))
    }

    /// The synchronous configuration that the primary has to run with: the newest in force.
    pub fn current_sync(&self) -> Option<&SyncConfig> {
        self.syncs.last()
    }
}

fn first_revision() -> u64 {
    1
}

/// What the operator asked for. It comes from the first configuration that names the cluster, and
/// is the same for every node from then on: leases rest on one set of times, not on many files. The
/// operator changes it by `Change::UpdateSpec`, but for `timing` and `bootstrap_members`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Times of the lease protocol.
    pub timing: Timing,
    /// `initdb` runs only once all of these have reported that they hold no data.
    pub bootstrap_members: Vec<MemberName>,
    /// How commits wait for standbys.
    pub synchronous: SynchronousMode,
    /// W: how many standbys must have flushed a commit before it is acknowledged.
    pub write_quorum: u32,
    /// How far W may be lowered where standbys are gone: at most `write_quorum`. With the same
    /// number commits wait rather than being confirmed by fewer; with 0 a primary that no standby
    /// follows goes on alone, and then only it itself can be promoted.
    #[serde(default = "default_write_quorum_min")]
    pub write_quorum_min: u32,
    /// How long a synchronous standby must be gone, or lag, before it leaves the configuration, in
    /// milliseconds.
    #[serde(default = "default_shrink_after_ms")]
    pub shrink_after_ms: u64,
    /// A synchronous standby that is further behind than this for `shrink_after_ms` leaves the
    /// configuration while others confirm, in bytes.
    #[serde(default = "default_sync_lag_bytes_max")]
    pub sync_lag_bytes_max: u64,
    /// In asynchronous mode, how many bytes a standby may be behind the last known position of the
    /// primary to be promoted without it, which loses them. `None`: never without the operator.
    #[serde(default)]
    pub max_lag_bytes: Option<u64>,
    /// After how long the slot of a member that is away is dropped, in milliseconds.
    #[serde(default = "default_slot_ttl_ms")]
    pub slot_ttl_ms: u64,
    /// Most failovers after crashes of PostgreSQL within `crash_window_ms`; then the crashed
    /// primary itself is waited for, so that a poison query does not walk through the cluster.
    pub crash_failovers_max: u32,
    /// Length of the window for `crash_failovers_max`, in milliseconds.
    pub crash_window_ms: u64,
    /// Whether a primary that no controller answers goes on while every other member promises to
    /// take no part in a grant.
    #[serde(default)]
    pub failsafe: bool,
    /// The operator's PostgreSQL parameters.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// The operator's `pg_hba.conf` lines.
    #[serde(default)]
    pub hba: Vec<String>,
    /// The operator's `pg_ident.conf` lines.
    #[serde(default)]
    pub ident: Vec<String>,
    /// Roles that have to exist.
    #[serde(default)]
    pub roles: Vec<RoleSpec>,
    /// Databases that have to exist.
    #[serde(default)]
    pub databases: Vec<DatabaseSpec>,
}

fn default_write_quorum_min() -> u32 {
    1
}

fn default_shrink_after_ms() -> u64 {
    10_000
}

fn default_sync_lag_bytes_max() -> u64 {
    64 << 20
}

fn default_slot_ttl_ms() -> u64 {
    4 * 3600 * 1000
}

impl ClusterSpec {
    /// What holds where the operator asks for nothing: quorum commits by one standby, where there
    /// are other members. With two members the primary may go on alone while the other is gone.
    pub fn of(bootstrap_members: Vec<MemberName>) -> Self {
        let (synchronous, write_quorum_min) = match bootstrap_members.len() {
            0 | 1 => (SynchronousMode::Async, 0),
            2 => (SynchronousMode::Quorum, 0),
            _ => (SynchronousMode::Quorum, 1),
        };
        Self {
            timing: Timing::default(),
            bootstrap_members,
            synchronous,
            write_quorum: 1,
            write_quorum_min,
            shrink_after_ms: default_shrink_after_ms(),
            sync_lag_bytes_max: default_sync_lag_bytes_max(),
            max_lag_bytes: None,
            slot_ttl_ms: default_slot_ttl_ms(),
            crash_failovers_max: 3,
            crash_window_ms: 600_000,
            failsafe: false,
            parameters: BTreeMap::new(),
            hba: Vec::new(),
            ident: Vec::new(),
            roles: Vec::new(),
            databases: Vec::new(),
        }
    }
}

/// How commits wait for standbys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SynchronousMode {
    /// `ANY W (N)`: any W of the synchronous standbys (PostgreSQL manual, section 27.2.8).
    Quorum,
    /// `FIRST W (N)`: the first W of the synchronous standbys that are there, in the order of
    /// their priorities.
    Priority,
    /// No waiting: a failover loses what was not yet streamed, and needs the operator's word.
    Async,
}

/// How far a cluster has come to life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Members register; no data exists.
    AwaitingMembers,
    /// This member makes the data directory.
    Bootstrapping {
        /// Who runs `initdb`.
        member: MemberName,
    },
    /// This member takes over data that exists, which nobody led under this control plane.
    Adopting {
        /// Who has the primary's data.
        member: MemberName,
        /// Its system identifier.
        system_id: SystemId,
        /// Its timeline.
        epoch: Epoch,
        /// Where each of its timelines begins.
        lineage: Lineage,
    },
    /// Data exists: from here on `initdb` never runs again.
    Running,
}

/// A registered member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node that it is bound to.
    pub node: NodeName,
    /// `host:port` where other members and clients reach its PostgreSQL.
    pub address: String,
    /// `host:port` where other agents reach its agent, where that is known.
    #[serde(default)]
    pub agent_address: Option<String>,
    /// Breaks ties between equally advanced candidates; greater is better.
    #[serde(default)]
    pub priority: i32,
    /// What it is not to be used for, or is to be used for.
    #[serde(default)]
    pub tags: Tags,
}

impl Member {
    /// Whether it may be made primary. One that applies WAL late would hold a failover up.
    pub fn may_lead(&self) -> bool {
        !self.tags.nofailover && self.tags.delay_ms == 0
    }

    /// Whether commits of this primary may wait for it. Who counts in the quorum counts in the
    /// choice, so it must be able to lead; and the primary must see it, so it follows nobody else.
    pub fn may_confirm(&self, primary: &MemberName) -> bool {
        let follows = self.tags.replicatefrom.as_ref().is_none_or(|from| from == primary);
        self.may_lead() && !self.tags.nosync && follows
    }
}

/// One leadership: the right of one member, in one life of its guard, to be primary in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// The fencing token.
    pub epoch: Epoch,
    /// Who holds it.
    pub member: MemberName,
    /// The one life of the member's guard that may run it.
    pub guard: GuardId,
    /// How far it has come.
    pub stage: Stage,
    /// Set when the epoch is over: no renewal of it is acknowledged from then on.
    #[serde(default)]
    pub closed: Option<Closed>,
    /// Whether the holder has proved that it stopped: nobody needs to wait for its lease.
    #[serde(default)]
    pub stopped: bool,
    /// Whether the promises of all `peers` may keep its lease while no controller answers. As the
    /// specification was at the grant; a later change holds from the next on.
    #[serde(default)]
    pub failsafe: bool,
    /// All members but the holder that were registered at the grant, without those that were
    /// removed since.
    #[serde(default)]
    pub peers: BTreeSet<MemberName>,
}

/// How far a leadership has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Granted; PostgreSQL is still a sealed standby.
    Granted,
    /// Promoted to the epoch's timeline; writes are held back until the barrier.
    Promoted,
    /// Open for writes.
    Active {
        /// Start of the postmaster that is active, in microseconds since 1970 by its own clock.
        /// Another postmaster, even of the same member, is not active.
        postmaster_start_us: i64,
    },
}

/// The end of an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Why.
    pub reason: CloseReason,
    /// When, by the proposer's wall clock.
    pub at: WallMillis,
}

/// Why an epoch was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The first epoch of a fresh or adopted data directory is never led.
    Initial,
    /// PostgreSQL ended, and its agent proved it.
    Crashed,
    /// The holder's agent gave the epoch up: it could not promote, or PostgreSQL hung.
    GivenUp,
    /// No renewal came for the suspicion time.
    LeaseLost,
    /// A switchover stopped the holder in order.
    Switchover,
    /// The operator asked for a failover.
    Failover,
    /// The control plane was recovered by hand from a state that may not be the newest.
    Recovered,
}

/// An operation of the operator, under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Number, unique in the cluster.
    pub id: u64,
    /// What.
    pub kind: OperationKind,
    /// The epoch that it started in; it is done once a later one is active.
    pub epoch: Epoch,
    /// Who asked.
    pub by: String,
    /// When, by the proposer's wall clock.
    pub at: WallMillis,
    /// How long it may take, in milliseconds; 0 for what its kind may.
    #[serde(default)]
    pub deadline_ms: u64,
}

/// A pause: nothing happens by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Who asked.
    pub by: String,
    /// Since when, by the proposer's wall clock.
    pub at: WallMillis,
    /// When it ends by itself, by the leader's wall clock; `None` for not.
    #[serde(default)]
    pub until: Option<WallMillis>,
}

/// What an operation is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Hand the primary's role over in order.
    Switchover {
        /// To whom.
        target: MemberName,
    },
    /// Replace a primary that is gone.
    Failover {
        /// To whom; `None` for the best.
        target: Option<MemberName>,
        /// Whether the operator accepts that acknowledged commits are lost.
        accept_data_loss: bool,
    },
    /// Restart the primary where it is: it stops in order, and is granted the next epoch.
    RestartPrimary {
        /// Which member.
        member: MemberName,
    },
    /// Restart members one after the other, the primary last, by a switchover.
    RollingRestart {
        /// The life of each one's guard that is to end by it.
        guards: BTreeMap<MemberName, GuardId>,
        /// The standby whose turn it is.
        at: Option<MemberName>,
        /// Who is to be primary after the primary's turn, once that has come.
        target: Option<MemberName>,
    },
    /// Restart a standby. A job.
    Restart {
        /// Which.
        member: MemberName,
        /// The life of its guard that is to end by it.
        guard: GuardId,
    },
    /// Make a member's PostgreSQL read its configuration again. A job.
    Reload {
        /// Which.
        member: MemberName,
    },
    /// Keep a standby's data aside, and copy it anew. A job.
    Reinitialise {
        /// Which.
        member: MemberName,
        /// Whether its data may be given up: from then on it confirms no commit, whatever
        /// becomes of the operation, until the copy is proven.
        begun: bool,
    },
    /// Begin something later.
    Later {
        /// When, by the leader's wall clock.
        at: WallMillis,
        /// What.
        what: Later,
    },
}

/// An operation that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedOperation {
    /// What it was.
    pub operation: Operation,
    /// How it ended.
    pub outcome: Outcome,
    /// When, by the proposer's wall clock.
    pub at: WallMillis,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// This member is primary in a new epoch.
    Done {
        /// The new primary.
        primary: MemberName,
    },
    /// It was carried out, and no primary changed by it.
    Completed,
    /// It was called off.
    Cancelled {
        /// By whom.
        by: String,
    },
    /// It was given up before anything was changed, or ended with another primary than asked.
    Failed {
        /// Why, for a person.
        why: String,
    },
}
