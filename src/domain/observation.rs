//! What agents report, and what the leader makes of it. Observations live in the leader's memory
//! and are never agreed on: only decisions are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::adoption::Adoptable;
use super::alarm::{Alarm, Notice};
use super::lineage::Lineage;
use super::space::{Aside, Disks};
use super::specification::SettingsReport;
use super::state::{CloseReason, ClusterState, Stage};
use super::sync::SyncConfig;
use super::types::{BootTime, Epoch, GuardId, Lsn, MemberName, SystemId, WallMillis};

/// A sealed member: it takes no WAL of an epoch below its promise, and its position is final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Who.
    pub member: MemberName,
    /// In which life of its guard.
    pub guard: GuardId,
    /// The epoch that it has durably promised.
    pub promised: Epoch,
    /// The epoch of its last flushed WAL record.
    pub wal_epoch: Epoch,
    /// The end of its flushed WAL.
    pub lsn: Lsn,
    /// The highest epoch that it held as primary, its data untouched since; 0 for none.
    pub held: Epoch,
    /// Where each epoch of its log begins.
    pub lineage: Lineage,
    /// Whether its disk is as good as full, by the leader's judgement: among equals it comes last.
    #[serde(default)]
    pub no_room: bool,
}

/// What an agent reports of its member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The life of the guard that is running, if one is.
    pub guard: Option<GuardId>,
    /// Of one run of the agent reports are numbered, so that a late one is known.
    pub sequence: Sequence,
    /// The highest epoch that the member has durably ended: it never runs it again.
    pub ended: Epoch,
    /// The latest lives of its guard whose process trees were proven empty.
    #[serde(default)]
    pub emptied: Vec<GuardId>,
    /// The highest epoch that the member has durably promised.
    #[serde(default)]
    pub promised: Epoch,
    /// Whether that end was a crash of PostgreSQL.
    pub crashed: bool,
    /// What lies in the data directory.
    pub data: Data,
    /// What the member is doing.
    pub condition: Condition,
    /// How its process tree would be killed.
    pub fencing: Fencing,
    /// What is wrong, for a person; empty where nothing is.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Alarms that hold.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// The newest notices of this run of the agent.
    #[serde(default)]
    pub notices: Vec<Notice>,
    /// Room on the member's file systems.
    #[serde(default)]
    pub disks: Disks,
    /// Data directories that were replaced and kept.
    #[serde(default)]
    pub aside: Vec<Aside>,
    /// What PostgreSQL runs with of the specification.
    #[serde(default)]
    pub settings: SettingsReport,
    /// The life of an adopted cluster that the member's record is of; 0 for none.
    #[serde(default)]
    pub life: u64,
    /// The last operation by which its data was copied anew; 0 for none.
    #[serde(default)]
    pub copied_for: u64,
    /// The last operation by which its configuration was read again.
    #[serde(default)]
    pub reloaded: Option<Reloaded>,
    /// What runs there. Nothing is decided by it.
    #[serde(default)]
    pub about: About,
}

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// By which operation.
    pub operation: u64,
    /// What PostgreSQL found wrong, for a person; empty where nothing is.
    pub problem: String,
}

/// What runs on a member's node, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Version of `hanode`; empty where not known.
    #[serde(default)]
    pub hanode: String,
    /// Version of PostgreSQL's programs, such as "15.6"; empty where not known.
    #[serde(default)]
    pub postgresql: String,
    /// The node's wall clock when it reported; 0 where not known.
    #[serde(default)]
    pub wall: WallMillis,
}

/// The number of a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Which run of the agent: any number that no other run has.
    pub run: u64,
    /// Which report of that run.
    pub number: u64,
}

/// What lies in a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// Not looked at, or could not be.
    Unknown,
    /// Nothing.
    Empty,
    /// A data directory.
    Present {
        /// Whose.
        system_id: SystemId,
    },
    /// A data directory that is being made or replaced, or was left half-way.
    Incomplete,
}

/// What a member is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Not known: a probe failed or timed out.
    Unknown,
    /// PostgreSQL does not run.
    Down,
    /// PostgreSQL starts or recovers.
    Starting,
    /// `initdb` runs.
    Initialising,
    /// `initdb` failed.
    BootstrapFailed {
        /// Why.
        why: String,
    },
    /// PostgreSQL does not run, and its data is that of a server that may be adopted.
    Adoptable(Adoptable),
    /// A rewind runs.
    Rewinding,
    /// A base backup runs.
    Cloning {
        /// From whom.
        source: MemberName,
        /// Bytes received.
        done_bytes: u64,
        /// Bytes expected; 0 where not known yet.
        total_bytes: u64,
    },
    /// A standby.
    Standby(StandbyView),
    /// A primary, or one on its way to be.
    Primary(PrimaryView),
}

/// What is seen of a standby.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StandbyView {
    /// The epoch whose primary it follows, and streams from; `None` while it does not stream.
    pub streaming: Option<Epoch>,
    /// End of the WAL that it has replayed.
    pub replay: Lsn,
    /// End of the WAL that it has flushed, as far as known.
    pub flushed: Lsn,
    /// The epoch of its last flushed WAL record, as far as known.
    pub wal_epoch: Epoch,
    /// The highest epoch that it held as primary, its data untouched since; 0 for none.
    pub held: Epoch,
    /// Set while it is sealed.
    pub sealed: Option<Sealed>,
    /// Whether its data counts in quorums: no copy or rewind is unproven.
    pub counts: bool,
    /// How far the primary was when it last said so, and in which epoch.
    #[serde(default)]
    pub primary_end: Option<(Epoch, Lsn)>,
    /// Whom it streams from, where that is not the primary.
    #[serde(default)]
    pub upstream: Option<MemberName>,
}

/// What is seen of a primary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrimaryView {
    /// Its epoch.
    pub epoch: Epoch,
    /// How far it has come.
    pub progress: Progress,
    /// End of the WAL that it has flushed.
    pub flushed: Lsn,
    /// The standbys that stream from it, by the slot that they hold.
    pub standbys: BTreeMap<MemberName, StandbyProgress>,
    /// The newest synchronous configuration that a barrier confirmed, with all that were in force.
    pub confirmed: Option<Confirmed>,
    /// Whether its lease is kept by its peers, since no controller acknowledges its renewals.
    #[serde(default)]
    pub failsafe: bool,
}

/// How far a member has come on its way to be primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It has accepted the grant, and is not promoted yet.
    Accepted,
    /// It is promoted.
    Promoted {
        /// Where each epoch of its log begins, its own the last.
        lineage: Lineage,
    },
}

/// A synchronous configuration that a barrier confirmed in this epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// All that were in force, the last of them the one confirmed.
    pub syncs: Vec<SyncConfig>,
    /// Start of the postmaster, in microseconds since 1970 by its own clock.
    pub postmaster_start_us: i64,
}

/// What a primary sees of one standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyProgress {
    /// Whether its walsender has caught up and streams.
    pub streaming: bool,
    /// End of the WAL that it has confirmed as flushed.
    pub flushed: Lsn,
    /// End of the WAL that it has confirmed as replayed.
    pub replayed: Lsn,
}

/// How a member's process tree is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fencing {
    /// Nothing runs, or not known.
    Unknown,
    /// By the death of its PID namespace.
    PidNamespace,
    /// By the kernel, through its control group.
    Cgroup,
    /// The postmaster alone: the operator allowed it.
    BestEffort,
}

/// A report with the time at which the leader received it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// When it arrived, by the leader's clock.
    pub at: BootTime,
    /// What it says.
    pub report: Report,
}

/// What the leader knows of the members of one cluster. Forgotten at every election.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observations {
    /// The newest report of each member.
    pub members: BTreeMap<MemberName, Observed>,
    /// When each member was last seen to stream from the primary of the current epoch.
    pub last_streaming: BTreeMap<MemberName, BootTime>,
    /// When this leader first saw the current epoch.
    pub epoch_seen: Option<(Epoch, BootTime)>,
    /// When this leader first saw the current epoch closed.
    pub closed_seen: Option<(Epoch, BootTime)>,
    /// When this leader first saw each operation under way.
    pub operations_seen: BTreeMap<u64, BootTime>,
    /// When it first saw that by this operation the primary is to leave its role.
    pub handover_seen: Option<(u64, BootTime)>,
    /// When this leader first saw that a member is to leave.
    pub leaving_seen: BTreeMap<MemberName, BootTime>,
    /// Members that gave a granted epoch up before it was active, and when.
    pub gave_up: BTreeMap<MemberName, BootTime>,
    /// The furthest position that the primary of an epoch has itself told this leader.
    pub primary_told: Option<(Epoch, Lsn)>,
    /// The furthest position that it is known to have had, by whomever.
    pub primary_end: Option<(Epoch, Lsn)>,
    /// The cluster's bound of that name.
    pub sync_lag_bytes_max: u64,
}

impl PrimaryView {
    /// How many bytes a standby has not flushed yet.
    pub fn lag_bytes(&self, standby: &StandbyProgress) -> u64 {
        self.flushed.0.saturating_sub(standby.flushed.0)
    }
}

impl Observations {
    /// Takes a report in.
    pub fn record(&mut self, member: MemberName, report: Report, now: BootTime) {
        let late = |held: &Observed| {
            let (old, new) = (held.report.sequence, report.sequence);
            old.run == new.run && old.number >= new.number
        };
        if self.members.get(&member).is_some_and(late) {
            return;
        }
        if let Condition::Primary(view) = &report.condition
            && self.epoch_seen.is_some_and(|(epoch, _)| epoch == view.epoch)
        {
            for (standby, progress) in &view.standbys {
                if progress.streaming && view.lag_bytes(progress) <= self.sync_lag_bytes_max {
                    self.last_streaming.insert(standby.clone(), now);
                }
            }
            if matches!(view.progress, Progress::Promoted { .. }) {
                let end = (view.epoch, view.flushed);
                self.primary_told = self.primary_told.max(Some(end));
                self.note_primary_end(end);
            }
        }
        if let Condition::Standby(StandbyView { primary_end: Some(end), .. }) = &report.condition {
            self.note_primary_end(*end);
        }
        self.members.insert(member, Observed { at: now, report });
    }

    fn note_primary_end(&mut self, end: (Epoch, Lsn)) {
        self.primary_end = self.primary_end.max(Some(end));
    }

    /// Notes what the agreed state says now, for the timers that start with it.
    pub fn note_state(&mut self, state: &ClusterState, now: BootTime) {
        self.sync_lag_bytes_max = state.spec.sync_lag_bytes_max;
        if self.epoch_seen.is_none_or(|(seen, _)| seen != state.epoch) {
            self.epoch_seen = Some((state.epoch, now));
            self.last_streaming.clear();
        }
        let closed = state.tenure.as_ref().filter(|t| t.closed.is_some());
        match closed {
            Some(t) if self.closed_seen.is_none_or(|(seen, _)| seen != t.epoch) => {
                self.closed_seen = Some((t.epoch, now));
                let reason = t.closed.as_ref().map(|c| c.reason);
                let active = matches!(t.stage, Stage::Active { .. });
                let failed = matches!(
                    reason,
                    Some(CloseReason::GivenUp | CloseReason::Crashed | CloseReason::LeaseLost)
                );
                if failed && !active {
                    self.gave_up.insert(t.member.clone(), now);
                }
            }
            Some(_) => {}
            None => self.closed_seen = None,
        }
        self.leaving_seen.retain(|member, _| state.leaving.contains_key(member));
        for member in state.leaving.keys() {
            self.leaving_seen.entry(member.clone()).or_insert(now);
        }
        self.operations_seen.retain(|id, _| state.under_way().any(|op| op.id == *id));
        for op in state.under_way() {
            self.operations_seen.entry(op.id).or_insert(now);
        }
        let handing = state.operation.as_ref().filter(|op| op.kind.handover().is_some());
        self.handover_seen = match (handing, self.handover_seen) {
            (Some(op), Some((id, at))) if op.id == id => Some((id, at)),
            (Some(op), _) => Some((op.id, now)),
            (None, _) => None,
        };
    }
}
