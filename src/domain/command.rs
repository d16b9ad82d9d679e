//! Commands: the only way in which replicated state changes. Each names what it expects, so that
//! one which was decided on an older state is rejected instead of applied.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::adoption::{Adoption, AdoptionRefusal};
use super::alarm::{Alarm, Notice};
use super::candidate::Refusal;
use super::clusters::ClustersChange;
use super::lineage::Lineage;
use super::membership::{MembershipChange, MembershipRefusal};
use super::nodes::NodesRejection;
use super::observation::Sealed;
use super::observation::Sequence;
use super::operation::{Later, Restart, Step};
use super::state::{CloseReason, ClusterSpec, Outcome, Tags};
use super::sync::SyncConfig;
use super::types::{ClusterName, Epoch, GuardId, Lsn, MemberName, NodeName, SystemId, WallMillis};

/// A command to one cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Which cluster.
    pub cluster: ClusterName,
    /// When it was proposed, by the proposer's wall clock: for histories and for the bound on
    /// crash failovers.
    pub at: WallMillis,
    /// What to do.
    pub change: Change,
}

/// What a command changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Creates the cluster; without effect where it exists.
    CreateCluster {
        /// What the operator asks for.
        spec: ClusterSpec,
    },
    /// Registers a member, or renews its address, priority and tag.
    RegisterMember {
        /// Who.
        member: MemberName,
        /// Its node. A name that is bound to another node is rejected.
        node: NodeName,
        /// `host:port` of its PostgreSQL.
        address: String,
        /// `host:port` of its agent.
        #[serde(default)]
        agent_address: Option<String>,
        /// Breaks ties between candidates.
        priority: i32,
        /// What the operator says of it.
        tags: Tags,
        /// The system identifier of the data that it holds, where it holds any.
        system_id: Option<SystemId>,
    },
    /// Entrusts `initdb` to a member.
    BeginBootstrap {
        /// To whom.
        member: MemberName,
    },
    /// Takes `initdb` back from a member that failed or is gone.
    AbandonBootstrap {
        /// From whom.
        member: MemberName,
        /// Why.
        why: String,
    },
    /// The data directory exists; the member is the only one that may lead first.
    FinishBootstrap {
        /// Who made it.
        member: MemberName,
        /// Its system identifier.
        system_id: SystemId,
        /// The epoch of the timeline that it is on: 1 after `initdb`.
        epoch: Epoch,
    },
    /// Ends an epoch: no leader acknowledges a renewal of it from then on.
    Close {
        /// The epoch that must be open.
        expect_epoch: Epoch,
        /// Why.
        reason: CloseReason,
        /// Whether the holder's stop is proven.
        stopped: bool,
    },
    /// The holder of a closed epoch has proved that it stopped.
    RecordStop {
        /// Which epoch.
        expect_epoch: Epoch,
    },
    /// After a recovery of the control plane: raises the epoch above all that members know.
    RaiseEpoch {
        /// The epoch that must be the highest granted, and closed.
        expect_epoch: Epoch,
        /// The highest epoch that each member has heard of.
        known: BTreeMap<MemberName, Epoch>,
        /// The failover by which the operator accepts that members are missing.
        accept_missing: Option<u64>,
    },
    /// Grants the next epoch.
    Grant(Grant),
    /// The holder was promoted to the timeline of its epoch.
    RecordPromotion {
        /// Which epoch.
        expect_epoch: Epoch,
        /// In which life of the guard.
        guard: GuardId,
        /// Where each epoch of its log begins, itself the last.
        lineage: Lineage,
    },
    /// The barrier holds: open for writes. The older synchronous configurations end.
    Activate {
        /// Which epoch.
        expect_epoch: Epoch,
        /// In which life of the guard.
        guard: GuardId,
        /// The configurations in force when the barrier was taken; the last is what it was
        /// taken with.
        expect_syncs: Vec<SyncConfig>,
        /// Start of the postmaster, in microseconds since 1970 by its own clock.
        postmaster_start_us: i64,
    },
    /// Puts a further synchronous configuration in force beside those that are.
    BeginSyncChange {
        /// Which epoch.
        expect_epoch: Epoch,
        /// The configurations that must be in force.
        expect_syncs: Vec<SyncConfig>,
        /// The one to add.
        to: SyncConfig,
    },
    /// The newest configuration is confirmed by a barrier: the others end.
    FinishSyncChange {
        /// Which epoch.
        expect_epoch: Epoch,
        /// The configurations that must be in force.
        expect_syncs: Vec<SyncConfig>,
    },
    /// Starts a switchover.
    StartSwitchover {
        /// The epoch that must be active.
        expect_epoch: Epoch,
        /// To whom.
        target: MemberName,
        /// Who asks.
        by: String,
    },
    /// Starts a failover by hand: closes the epoch where it is open.
    StartFailover {
        /// The highest granted epoch.
        expect_epoch: Epoch,
        /// To whom; `None` for the best.
        target: Option<MemberName>,
        /// Whether acknowledged commits may be lost.
        accept_data_loss: bool,
        /// Who asks.
        by: String,
    },
    /// Starts a restart of one member or of many.
    StartRestart {
        /// The epoch that must be active.
        expect_epoch: Epoch,
        /// Of whom, and how.
        restart: Restart,
        /// How long it may take, in milliseconds; 0 for the usual time.
        deadline_ms: u64,
        /// Who asks.
        by: String,
    },
    /// Makes a member's PostgreSQL read its configuration again.
    StartReload {
        /// Which.
        member: MemberName,
        /// Who asks.
        by: String,
    },
    /// Has a standby copied anew.
    StartReinitialise {
        /// The epoch that must be active.
        expect_epoch: Epoch,
        /// Which.
        member: MemberName,
        /// How long it may take, in milliseconds; 0 for the usual time.
        deadline_ms: u64,
        /// Who asks.
        by: String,
    },
    /// Takes the next step of an operation.
    StepOperation {
        /// Its number.
        operation: u64,
        /// Which.
        step: Step,
    },
    /// Has something begin later.
    Schedule {
        /// When, by the leader's wall clock.
        at: WallMillis,
        /// What.
        what: Later,
        /// Who asks.
        by: String,
    },
    /// Begins what was scheduled, under its number.
    StartScheduled {
        /// Its number.
        operation: u64,
        /// How it begins: a switchover or a restart.
        change: Box<Change>,
    },
    /// Calls an operation off that is scheduled, or that can be left at any time.
    CancelOperation {
        /// Its number.
        operation: u64,
        /// Who asks.
        by: String,
    },
    /// From here on nothing happens by itself.
    Pause {
        /// When it ends by itself, by the leader's wall clock; `None` for not.
        until: Option<WallMillis>,
        /// Who asks.
        by: String,
    },
    /// Ends the pause.
    Resume {
        /// Only a pause that ends by itself then; `None` for any.
        over: Option<WallMillis>,
        /// Who asks.
        by: String,
    },
    /// Notes how far the primary is, for `max_lag_bytes`.
    NotePosition {
        /// Which epoch.
        expect_epoch: Epoch,
        /// The end of its flushed WAL.
        lsn: Lsn,
    },
    /// Takes a member's alarms and notices into the history.
    NoteHealth {
        /// Whose.
        member: MemberName,
        /// All of its alarms that hold now.
        alarms: Vec<Alarm>,
        /// Notices that may not be in the history yet; those that are there are left out.
        notices: Vec<Notice>,
        /// Of which run of the agent; its number is that of the newest notice.
        upto: Sequence,
    },
    /// Replaces the specification.
    UpdateSpec {
        /// The revision that must be in force.
        expect_revision: u64,
        /// All of the new one.
        spec: ClusterSpec,
        /// Who asks.
        by: String,
    },
    /// Goes back to what PostgreSQL last took, where it refuses the revision in force.
    RollBackSpec {
        /// The revision that must be in force, and is refused.
        expect_revision: u64,
        /// The revision whose parameters and rules of access come back.
        to: u64,
        /// Whose PostgreSQL refused it.
        member: MemberName,
        /// The setting that PostgreSQL named; empty where it named none.
        setting: String,
        /// What it said.
        why: String,
    },
    /// Takes over data that exists.
    Adopt(Adoption),
    /// Changes who belongs to the cluster.
    Membership(MembershipChange),
    /// Creates or removes the cluster by the operator's word.
    Clusters(ClustersChange),
    /// Ends the operation under way.
    FinishOperation {
        /// Its number.
        operation: u64,
        /// How it ended.
        outcome: Outcome,
    },
}

/// The grant of an epoch, with the evidence that it rests on: `apply` checks it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The epoch that must be the highest granted, and closed.
    pub expect_epoch: Epoch,
    /// The configurations that must be in force.
    pub expect_syncs: Vec<SyncConfig>,
    /// To whom.
    pub member: MemberName,
    /// In which life of its guard.
    pub guard: GuardId,
    /// Why the old holder is no danger any more.
    pub basis: Basis,
    /// The sealed members that were counted.
    pub evidence: Vec<Sealed>,
    /// Other sealed members, with the epoch that each has promised: they decide nothing about data,
    /// and say all the same that they stand by no older primary any more. See `domain::failsafe`.
    #[serde(default)]
    pub witnesses: BTreeMap<MemberName, Epoch>,
    /// The synchronous configuration of the new epoch.
    pub sync: SyncConfig,
    /// Overrides the read quorum, by this operation of the operator.
    pub accept_data_loss: Option<u64>,
    /// In asynchronous mode: the last known position of the primary, which the operator's
    /// `max_lag_bytes` allows the member to be short of.
    #[serde(default)]
    pub within_lag_of: Option<Lsn>,
}

/// Why the holder of a closed epoch is no danger any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Its stop is proven and recorded.
    Stopped,
    /// Its lease has run out by the proposing leader's clock and ledger. Holds only for an entry of
    /// that leader's own term: in a later one somebody else may have renewed it since.
    Expired {
        /// The Raft term of the leadership whose ledger says so.
        term: u64,
    },
}

/// What a command did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It changed nothing, because all is as it asks, or because the entry held no command.
    #[default]
    Nothing,
    /// It was applied.
    Applied {
        /// The number of the operation that it started.
        operation: Option<u64>,
    },
    /// It was refused and changed nothing.
    Rejected(Rejection),
}

/// Why a command was refused. Each is a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// No such cluster.
    #[error("there is no cluster named {cluster}")]
    UnknownCluster {
        /// The name.
        cluster: ClusterName,
    },
    /// No such member.
    #[error("there is no member named {member}; members are {known:?}")]
    UnknownMember {
        /// The name.
        member: MemberName,
        /// Those that there are.
        known: Vec<MemberName>,
    },
    /// The member's name is taken by another node.
    #[error("member {member} belongs to node {owner}, not to {node}: give it another name")]
    MemberOfOtherNode {
        /// The name.
        member: MemberName,
        /// Whose it is.
        owner: NodeName,
        /// Who asked.
        node: NodeName,
    },
    /// Two names that make one slot name, or two members at one address.
    #[error("member {member} clashes with {other}: {what}")]
    MemberClash {
        /// The new one.
        member: MemberName,
        /// The one that is there.
        other: MemberName,
        /// What they share.
        what: String,
    },
    /// Data of another cluster.
    #[error(
        "member {member} holds data with system identifier {found}, and this cluster's is {expected}: \
         move that data directory away, or join the member to the cluster that it belongs to"
    )]
    ForeignData {
        /// Who.
        member: MemberName,
        /// What it holds.
        found: SystemId,
        /// What it should hold.
        expected: SystemId,
    },
    /// Data exists, but the control plane does not know it.
    #[error(
        "member {member} holds data with system identifier {found}, and this control plane has never \
         seen this cluster's data: it will not create a cluster beside it"
    )]
    UnknownData {
        /// Who.
        member: MemberName,
        /// What it holds.
        found: SystemId,
    },
    /// The cluster is in another phase of its life.
    #[error("the cluster is {phase}, so this does not apply")]
    WrongPhase {
        /// In which.
        phase: String,
    },
    /// The epoch has moved on.
    #[error("the command was meant for epoch {expected}, and the cluster is at epoch {actual}")]
    StaleEpoch {
        /// Meant for.
        expected: Epoch,
        /// Is.
        actual: Epoch,
    },
    /// The epoch is closed.
    #[error("epoch {epoch} is closed")]
    EpochClosed {
        /// Which.
        epoch: Epoch,
    },
    /// The epoch is open.
    #[error("epoch {epoch} is not closed: its holder may be writing")]
    EpochOpen {
        /// Which.
        epoch: Epoch,
    },
    /// The holder's stop is not recorded.
    #[error("the stop of epoch {epoch} is not proven")]
    NotStopped {
        /// Which.
        epoch: Epoch,
    },
    /// Its peers may keep the holder's lease, and none of them is sealed.
    #[error(
        "epoch {epoch} may be kept by the promises of {}: one of them, or its holder, has to be sealed",
        names(peers)
    )]
    FailsafePeers {
        /// Which.
        epoch: Epoch,
        /// Its peers.
        peers: Vec<MemberName>,
    },
    /// The lease was judged by a leadership of the Raft group that is over.
    #[error("the lease of epoch {epoch} was judged by an older leadership of the control plane")]
    OtherLeadership {
        /// Which.
        epoch: Epoch,
    },
    /// The member is never made primary.
    #[error("{member} is tagged nofailover: it is never made primary")]
    Tagged {
        /// Who.
        member: MemberName,
    },
    /// Another life of the guard.
    #[error("epoch {epoch} belongs to another life of the guard of {member}")]
    OtherGuard {
        /// Which.
        epoch: Epoch,
        /// Whose.
        member: MemberName,
    },
    /// The leadership is at another stage.
    #[error("epoch {epoch} is {stage}, so this does not apply")]
    WrongStage {
        /// Which.
        epoch: Epoch,
        /// At which stage.
        stage: String,
    },
    /// The synchronous configurations have changed.
    #[error("the synchronous configurations in force have changed")]
    StaleSyncs,
    /// A synchronous configuration that makes no sense.
    #[error("synchronous configuration {config}: {why}")]
    BadSync {
        /// Which.
        config: String,
        /// Why.
        why: String,
    },
    /// A lineage that makes no sense.
    #[error("the lineage reported by {member} is refused: {why}")]
    BadLineage {
        /// By whom.
        member: MemberName,
        /// Why.
        why: String,
    },
    /// The evidence does not allow this grant.
    #[error("{0}")]
    Candidate(Refusal),
    /// An operation is under way.
    #[error("operation {id} is under way; wait for it, or see `hactl history`")]
    OperationUnderWay {
        /// Its number.
        id: u64,
    },
    /// No such operation is under way.
    #[error("operation {id} is not under way")]
    NoSuchOperation {
        /// Its number.
        id: u64,
    },
    /// Nothing happens by itself now.
    #[error("the cluster is paused by {by}: nobody is promoted until `hactl resume`")]
    Paused {
        /// By whom.
        by: String,
    },
    /// Nothing to resume.
    #[error("the cluster is not paused")]
    NotPaused,
    /// The member has a job already.
    #[error("{member} is busy with operation {id}; wait for it, or `hactl operation cancel {id}`")]
    MemberBusy {
        /// Who.
        member: MemberName,
        /// With which operation.
        id: u64,
    },
    /// What is for standbys only.
    #[error("{member} is the primary: switch over to another member first")]
    IsPrimary {
        /// Who.
        member: MemberName,
    },
    /// It goes on to its end.
    #[error("operation {id} cannot be called off: it ends by itself, one way or the other")]
    Irrevocable {
        /// Its number.
        id: u64,
    },
    /// What cannot be scheduled.
    #[error("it cannot be scheduled: {why}")]
    BadSchedule {
        /// Why.
        why: String,
    },
    /// The target is the primary.
    #[error("{member} is the primary already")]
    AlreadyPrimary {
        /// Who.
        member: MemberName,
    },
    /// The primary cannot be tagged so.
    #[error(
        "{member} is the primary: switch over to another member before it is tagged nofailover or \
         delayed"
    )]
    PrimaryTagged {
        /// Who.
        member: MemberName,
    },
    /// The next primary is not there yet, and it may be the one that has to be it.
    #[error(
        "{member} keeps its tags until there is a primary and no operation is under way: it may be \
         the one that has to be promoted"
    )]
    TaggedInChange {
        /// Who.
        member: MemberName,
    },
    /// Without it no member would be left that may lead.
    #[error(
        "{member} is the last member that may lead, and keeps its tags: nobody could be promoted \
         with nofailover or delay_ms on all of them; take these tags from another member first"
    )]
    LastTagged {
        /// Who.
        member: MemberName,
    },
    /// The primary is alive.
    #[error(
        "{member} is a healthy primary: a failover is for a primary that is gone, use switchover instead"
    )]
    PrimaryHealthy {
        /// Who.
        member: MemberName,
    },
    /// After a recovery of the control plane, before its state is proven to be the newest.
    #[error(
        "the control plane was recovered, and its state may lack epochs that were granted: these \
         members have not said what they know: {}",
        names(missing)
    )]
    Unverified {
        /// Who has to be heard of.
        missing: Vec<MemberName>,
    },
    /// The state may be old, and nobody has said that it names all members.
    #[error(
        "the control plane was recovered from a state that may be old: a member that joined later may \
         be the only one with what was acknowledged, and nobody has said that there is none"
    )]
    MembersUnconfirmed,
    /// The recovered state is of a time before the cluster had data.
    #[error(
        "the recovered state is of a time before this cluster had data, and a member knows of \
         epoch {known}: take the data over as a new cluster"
    )]
    Outlived {
        /// The highest epoch that a member knows.
        known: Epoch,
    },
    /// A change of the nodes of the control plane.
    #[error(transparent)]
    Nodes(NodesRejection),
    /// The specification has changed meanwhile.
    #[error(
        "the change was made for revision {expected} of the specification, and revision {actual} is \
         in force"
    )]
    StaleRevision {
        /// Made for.
        expected: u64,
        /// In force.
        actual: u64,
    },
    /// A key that never changes.
    #[error("{key} cannot be changed: {why}")]
    SpecFixed {
        /// Which.
        key: String,
        /// Why.
        why: String,
    },
    /// A revision that is not kept.
    #[error("revision {revision} of the specification is not kept; kept are {kept:?}")]
    NoSuchRevision {
        /// Which.
        revision: u64,
        /// Those that are.
        kept: Vec<u64>,
    },
    /// A rule about the adoption of data.
    #[error(transparent)]
    Adoption(#[from] AdoptionRefusal),
    /// A rule about members and clusters that come and go.
    #[error(transparent)]
    Membership(#[from] MembershipRefusal),
    /// The specification is not valid.
    #[error("the specification is refused: {why}")]
    BadSpec {
        /// Why.
        why: String,
    },
}

fn names(members: &[MemberName]) -> String {
    members.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ")
}

impl Rejection {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Rejection::UnknownCluster { .. } => "cluster.exists",
            Rejection::UnknownMember { .. } => "member.exists",
            Rejection::MemberOfOtherNode { .. } => "member.node",
            Rejection::MemberClash { .. } => "member.unique",
            Rejection::ForeignData { .. } => "data.system-identifier",
            Rejection::UnknownData { .. } => "data.no-bootstrap-beside",
            Rejection::WrongPhase { .. } => "cluster.phase",
            Rejection::StaleEpoch { .. } => "epoch.current",
            Rejection::EpochClosed { .. } => "epoch.open",
            Rejection::EpochOpen { .. } => "epoch.closed-before-grant",
            Rejection::NotStopped { .. } => "epoch.stop-proven",
            Rejection::FailsafePeers { .. } => "failsafe.peer-sealed",
            Rejection::OtherLeadership { .. } => "lease.leadership",
            Rejection::Tagged { .. } => "member.nofailover",
            Rejection::OtherGuard { .. } => "lease.guard",
            Rejection::WrongStage { .. } => "epoch.stage",
            Rejection::StaleSyncs => "sync.current",
            Rejection::BadSync { .. } => "sync.valid",
            Rejection::BadLineage { .. } => "lineage.valid",
            Rejection::Candidate(refusal) => refusal.rule(),
            Rejection::OperationUnderWay { .. } => "operation.one-at-a-time",
            Rejection::NoSuchOperation { .. } => "operation.exists",
            Rejection::Paused { .. } => "cluster.paused",
            Rejection::NotPaused => "cluster.is-paused",
            Rejection::MemberBusy { .. } => "operation.one-a-member",
            Rejection::IsPrimary { .. } => "operation.standby-only",
            Rejection::Irrevocable { .. } => "operation.revocable",
            Rejection::BadSchedule { .. } => "schedule.valid",
            Rejection::AlreadyPrimary { .. } => "switchover.target-is-standby",
            Rejection::PrimaryTagged { .. } => "member.primary-may-lead",
            Rejection::TaggedInChange { .. } => "member.settled-before-tags",
            Rejection::LastTagged { .. } => "member.last-may-lead",
            Rejection::PrimaryHealthy { .. } => "failover.primary-gone",
            Rejection::Unverified { .. } => "recovery.all-members",
            Rejection::MembersUnconfirmed => "recovery.members-complete",
            Rejection::Outlived { .. } => "recovery.state-too-old",
            Rejection::Nodes(rejection) => rejection.rule(),
            Rejection::Adoption(refusal) => refusal.rule(),
            Rejection::Membership(refusal) => refusal.rule(),
            Rejection::BadSpec { .. } => "spec.valid",
            Rejection::StaleRevision { .. } => "spec.current",
            Rejection::SpecFixed { .. } => "spec.fixed",
            Rejection::NoSuchRevision { .. } => "spec.revision",
        }
    }
}
