//! What an agent needs of a database: the boundary between deciding and doing.
//!
//! Production implements it with the guard and PostgreSQL, the simulator with a model. Every
//! method ends within a bound of its own, or when its future is dropped; none decides who may be
//! primary.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hooks::{Hooks, NoHooks};
use crate::domain::adoption::Adoptable;
use crate::domain::alarm::{Alarm, AlarmCode, NoticeCode};
use crate::domain::catalogue::Catalogue;
use crate::domain::desired::{FollowDuty, Upstream};
use crate::domain::health::{Activity, Answer, Question, Vitals};
use crate::domain::lineage::Lineage;
use crate::domain::observation::{Data, Fencing, StandbyProgress};
use crate::domain::record::MemberRecord;
use crate::domain::space::{Aside, Disks};
use crate::domain::specification::SettingsReport;
use crate::domain::state::ClusterSpec;
use crate::domain::sync::SyncConfig;
use crate::domain::types::{BootTime, Epoch, GuardId, Lsn, MemberName, SystemId, Timeline};
use crate::watch;

/// Why the database did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// PostgreSQL is starting, recovering, or not yet consistent: ask again.
    #[error("PostgreSQL is not ready: {0}")]
    NotReady(String),
    /// It did not end in time: whether it was done is not known.
    #[error("{what} did not end within {seconds} s")]
    TimedOut {
        /// What.
        what: String,
        /// The bound.
        seconds: u64,
    },
    /// The running standby has turned to a timeline that is not agreed, and follows no other until
    /// it is started anew.
    #[error("it has turned to {0}, and has to be started anew")]
    Astray(String),
    /// PostgreSQL, or a tool of it, refused.
    #[error("{0}")]
    Failed(String),
    /// The machine does not allow it: a directory, a port, a user, a namespace.
    #[error("{0}")]
    Machine(String),
}

/// How to start PostgreSQL. It never starts as a primary.
// One is made for each start, and none is kept.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum StartMode {
    /// As a standby that takes no WAL from anywhere.
    Sealed {
        /// The epoch promised.
        promise: Epoch,
    },
    /// As a standby of a primary.
    Following(FollowDuty),
}

/// What runs, remembered beside the guard, so that a restarted agent knows what it takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    /// In which life of the guard.
    pub guard: GuardId,
    /// As what.
    pub role: RunRole,
    /// Whether it was seen to answer: from then on silence means that it hangs.
    #[serde(default)]
    pub ready: bool,
}

/// What PostgreSQL was last made to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunRole {
    /// A sealed standby.
    Sealed {
        /// The epoch promised.
        promise: Epoch,
    },
    /// A standby that follows.
    Following {
        /// The epoch.
        epoch: Epoch,
        /// The primary's `host:port`.
        address: String,
    },
    /// A primary, or one on its way to be.
    Primary {
        /// The epoch.
        epoch: Epoch,
        /// Whether its promotion was recorded as done.
        promoted: Option<Lineage>,
        /// Whether it was opened for writes.
        writes_open: bool,
    },
}

/// The process tree, as the guard tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    /// There is none.
    None,
    /// The postmaster runs.
    Running,
    /// The postmaster has ended, or the guard has: something of it may be left.
    Ending {
        /// How it ended, for a person.
        how: String,
    },
}

/// How it is known that nothing of a process tree is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emptiness {
    /// The kernel has said so: good for a report that an epoch is over.
    Proven,
    /// Everything speaks for it, and nothing can prove it: the fence was only best-effort, or the
    /// tree lived in a PID namespace that is gone. Good for starting again here, and for nothing
    /// else.
    Assumed,
}

/// A process tree that outlived its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// In which life of the guard.
    pub guard: GuardId,
    /// How it would be killed.
    pub fencing: Fencing,
    /// When the kernel kills it, where a lease was armed.
    pub kill_at: Option<BootTime>,
    /// What it was last made to be; `None` where that was not remembered.
    pub run: Option<RunState>,
}

/// A started process tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// In which life of the guard.
    pub guard: GuardId,
    /// How it would be killed.
    pub fencing: Fencing,
}

/// Where a sealed standby's log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The epoch of its last record.
    pub wal_epoch: Epoch,
    /// Its end.
    pub lsn: Lsn,
    /// Where each epoch begins.
    pub lineage: Lineage,
}

/// What PostgreSQL says of itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// It runs, and takes no connections yet.
    Starting,
    /// A standby.
    Standby {
        /// End of the WAL replayed.
        replay: Lsn,
        /// End of the WAL flushed, as far as known.
        flushed: Lsn,
        /// The timeline that it streams, while it does.
        streaming: Option<Timeline>,
        /// Why it cannot be served by what it follows, where WAL that it needs is gone there.
        lacks_wal: Option<String>,
        /// How far what it follows was when it last said so, while it streams.
        primary_end: Option<Lsn>,
    },
    /// A primary.
    Primary {
        /// End of the WAL flushed.
        flushed: Lsn,
        /// Its standbys, each found by the slot that it holds.
        standbys: BTreeMap<MemberName, StandbyProgress>,
        /// How its settings differ from those that were confirmed, if they do.
        drift: Option<String>,
    },
}

/// How a rewind ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewound {
    /// The data directory is on the primary's lineage.
    Done,
    /// Nothing was changed: it can be tried again.
    Untouched {
        /// Why.
        why: String,
    },
    /// The directory needs a copy instead.
    Impossible {
        /// Why.
        why: String,
    },
}

/// What a stopped data directory says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Examined {
    /// Whether it needs nothing more of the server that it was copied from: it has replayed past
    /// the end of its backup.
    pub self_contained: bool,
    /// The epoch by whose number it ran as a primary, where it was one when it ended.
    pub led: Option<Epoch>,
}

/// Whether something is still asked for, by the newest state that the agent has heard of.
pub type Asked = Arc<dyn Fn() -> bool + Send + Sync>;

/// How far a copy has come, in bytes: done, and total where it is known.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

type Result<T> = std::result::Result<T, Error>;

/// Another member, as far as its slot needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Who.
    pub member: MemberName,
    /// Where it last said to be.
    pub position: Option<Lsn>,
    /// Whether the leader has heard of it since its election.
    pub heard: bool,
    /// For how long the leader has not heard of it; since its election where it never did.
    pub silent: Duration,
    /// Libraries of `shared_preload_libraries` that its PostgreSQL is known to run with.
    pub preloaded: Vec<String>,
}

/// What a member is to look after.
#[derive(Debug, Clone, PartialEq)]
pub struct Care {
    /// All other members.
    pub others: Vec<Other>,
    /// The synchronous configuration that the primary runs with; `None` on a standby.
    pub sync: Option<SyncConfig>,
    /// What the operator asks for.
    pub spec: ClusterSpec,
    /// The revision of that.
    pub revision: u64,
    /// Whether the member is the primary that is open for writes.
    pub active: bool,
    /// Whether the file systems are as good as full: then nothing is kept for members that are
    /// away.
    pub out_of_room: bool,
}

/// What was found and done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// What could not be done, for a person.
    pub problems: Vec<String>,
    /// All alarms of [`UPKEEP_ALARMS`] that hold.
    pub alarms: Vec<Alarm>,
    /// What was done.
    pub notices: Vec<(NoticeCode, String)>,
    /// What PostgreSQL runs with of the specification.
    pub settings: SettingsReport,
    /// Why a standby has to be started anew, if so.
    pub restart: Option<String>,
}

/// The kinds of alarms that [`Database::maintain`] finds.
pub const UPKEEP_ALARMS: &[AlarmCode] = &[
    AlarmCode::WeakenedCommits,
    AlarmCode::LogicalSlots,
    AlarmCode::Impostor,
    AlarmCode::SettingsChanged,
    AlarmCode::PendingRestart,
    AlarmCode::ParametersRefused,
    AlarmCode::NextStart,
    AlarmCode::SlotHoldsWal,
    AlarmCode::ArchiveFailing,
    AlarmCode::ObjectsMissing,
];

/// What a look at a member's file systems found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Room.
    pub disks: Disks,
    /// The data directory.
    pub data_path: String,
    /// Its `pg_wal`, for which `disks.wal` stands where that is on another file system.
    pub wal_path: String,
    /// Data directories kept aside, oldest first. A size that is not known yet is 0.
    pub aside: Vec<Aside>,
    /// What would start a server on the data directory beside us: what turns each off.
    pub starters: Vec<String>,
    /// Why it is not known whether there is more than `starters`, if so.
    pub starters_unclear: Option<String>,
}

/// Whether a copy of the primary would fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyRoom {
    /// Bytes that the copy takes, with what has to stay free after it.
    pub needed_bytes: u64,
    /// Bytes that are free for it.
    pub free_bytes: u64,
    /// Where it would be made.
    pub path: String,
    /// Replaced data directories that were removed to make room, as the bounds for them allow.
    pub removed: Vec<String>,
}

/// A member's database: its directory, its process tree, and the connection to it.
pub trait Database: Send + Sync + 'static {
    /// The durable record; `None` where there is none.
    fn load_record(&self) -> impl Future<Output = Result<Option<MemberRecord>>> + Send;

    /// Writes the record, and returns once it is on disk.
    fn save_record(&self, record: &MemberRecord) -> impl Future<Output = Result<()>> + Send;

    /// Writes what runs, beside the guard. Need not be synced: it is only of use while the
    /// machine is up.
    fn save_run(&self, run: &RunState) -> impl Future<Output = Result<()>> + Send;

    /// Looks at the data directory.
    fn inspect(&self) -> impl Future<Output = Result<Data>> + Send;

    /// Takes over a process tree that outlived its agent. Where only remains of one are left, they
    /// are killed and gone before it returns how that is known.
    fn attach(
        &self,
    ) -> impl Future<Output = Result<std::result::Result<Attached, Emptiness>>> + Send;

    /// Makes a data directory with `initdb`: synced, with its roles, ready to be started sealed.
    fn initialise(&self, spec: &ClusterSpec) -> impl Future<Output = Result<SystemId>> + Send;

    /// What a stopped data directory that was not made by us is, and what stands against taking it
    /// over.
    fn adoptable(&self) -> impl Future<Output = Result<Adoptable>> + Send {
        async { Err(Error::Machine("nothing can be adopted here".to_owned())) }
    }

    /// Keeps the configuration of data that somebody else made aside, once, before ours is written.
    fn keep_configuration(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Turns off what of the machine would start a server on the stopped data directory beside us,
    /// so that it can be undone. Says what was done, for a person; `None` where nothing was left to
    /// do.
    fn turn_off_starters(&self) -> impl Future<Output = Result<Option<String>>> + Send {
        async { Ok(None) }
    }

    /// Whether the stopped data directory has WAL of `timeline` that begins at `lsn` or later, as a
    /// standby has that received more than it replayed. Where that is not known it has.
    fn holds_wal_from(
        &self,
        timeline: Epoch,
        lsn: Lsn,
    ) -> impl Future<Output = Result<bool>> + Send {
        let _ = (timeline, lsn);
        async { Ok(true) }
    }

    /// Takes over the data directory of a stopped primary: our users are made in it, and what was
    /// configured is kept aside.
    fn adopt(&self, system_id: SystemId, epoch: Epoch) -> impl Future<Output = Result<()>> + Send {
        let _ = (system_id, epoch);
        async { Err(Error::Machine("nothing can be adopted here".to_owned())) }
    }

    /// The process of a live server on the data directory, where no tree of ours runs.
    fn stranger(&self) -> impl Future<Output = Result<Option<i32>>> + Send {
        async { Ok(None) }
    }

    /// Looks into the stopped data directory. What is not known is the default.
    fn examine(&self) -> impl Future<Output = Result<Examined>> + Send {
        async { Ok(Examined::default()) }
    }

    /// Starts a guard, and PostgreSQL under it. Returns once the postmaster runs; it may not take
    /// connections yet.
    fn start(
        &self,
        mode: &StartMode,
        spec: &ClusterSpec,
    ) -> impl Future<Output = Result<Started>> + Send;

    /// The version of the database's programs, such as "15.6"; empty where it is not known.
    fn version(&self) -> String {
        String::new()
    }

    /// Programs of the operator that are told of the member's role.
    fn hooks(&self) -> Arc<dyn Hooks> {
        Arc::new(NoHooks)
    }

    /// The process tree as it changes.
    fn tree(&self) -> watch::Receiver<Tree>;

    /// Moves the kernel's deadline of the running tree, if it is that of this guard: a lease never
    /// arms another life of it. On the path of every renewal: it waits for nothing but the guard.
    fn arm(&self, guard: &GuardId, kill_at: BootTime) -> impl Future<Output = Result<()>> + Send;

    /// Kills the process tree at once; without effect where none runs.
    fn kill(&self) -> impl Future<Output = Result<()>> + Send;

    /// Stops a running standby in order, and kills the tree where it does not end within a bound.
    /// Returns once the postmaster has ended; without effect where none runs.
    fn stop(&self) -> impl Future<Output = Result<()>> + Send;

    /// Returns once nothing of the process tree is left, and its guard is dismissed.
    fn prove_empty(&self) -> impl Future<Output = Result<Emptiness>> + Send;

    /// Seals the running standby: it takes no WAL from anywhere, and its position is final.
    fn seal(
        &self,
        promise: Epoch,
        spec: &ClusterSpec,
    ) -> impl Future<Output = Result<Position>> + Send;

    /// Whether WAL or a copy may be taken from `standby` under this duty: it is a standby of the
    /// cluster that has promised the duty's epoch and follows it, streams itself, and is not further
    /// behind than a synchronous standby may be. An error says why not.
    fn check_standby(
        &self,
        duty: &FollowDuty,
        standby: &Upstream,
        spec: &ClusterSpec,
    ) -> impl Future<Output = Result<()>> + Send {
        let _ = (duty, standby, spec);
        async { Err(Error::NotReady("no standby can be asked".to_owned())) }
    }

    /// Makes the running standby follow: the duty's upstream where it has one, which was asked
    /// before, else the primary.
    fn follow(
        &self,
        duty: &FollowDuty,
        spec: &ClusterSpec,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Makes the running PostgreSQL read its configuration again. What it found wrong with it, for
    /// a person; `None` where nothing is.
    fn reload(&self, spec: &ClusterSpec) -> impl Future<Output = Result<Option<String>>> + Send {
        let _ = spec;
        async { Ok(None) }
    }

    /// Promotes the running sealed standby to the timeline of `epoch`, with `sync` in force and
    /// writes held back from before the promotion on. Returns where each epoch begins.
    fn promote(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        spec: &ClusterSpec,
    ) -> impl Future<Output = Result<Lineage>> + Send;

    /// Runs with `sync`, and waits for its barrier. Returns the postmaster's start, in
    /// microseconds since 1970.
    fn confirm_sync(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        writes_open: bool,
        spec: &ClusterSpec,
    ) -> impl Future<Output = Result<i64>> + Send;

    /// Lifts the hold on writes.
    fn open_writes(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        spec: &ClusterSpec,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Checkpoint and fast stop, so that `target` has everything. Returns once the postmaster has
    /// ended; kills the tree where a standby holds it up.
    ///
    /// Right before anything is stopped `asked` is looked at again: where it is not asked for any
    /// more nothing is stopped, and the error is [`Error::NotReady`].
    fn hand_over(
        &self,
        target: &MemberName,
        asked: &Asked,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Whether a rewind to the primary can be begun: it can be reached, leads its epoch, and has
    /// done a checkpoint in it. Touches nothing.
    fn may_rewind(&self, duty: &FollowDuty) -> impl Future<Output = Result<()>> + Send;

    /// Rewinds the stopped data directory to the primary's lineage.
    fn rewind(
        &self,
        duty: &FollowDuty,
        spec: &ClusterSpec,
    ) -> impl Future<Output = Result<Rewound>> + Send;

    /// Keeps the old directory aside, and copies that of the first of the duty's sources, which was
    /// asked before; the primary's where there is none.
    fn clone_from(
        &self,
        duty: &FollowDuty,
        spec: &ClusterSpec,
        progress: Progress,
    ) -> impl Future<Output = Result<SystemId>> + Send;

    /// Whether a copy of the primary fits beside what is here. Removes replaced data directories
    /// where it does not, and the bounds for them allow it; touches nothing else.
    fn room_for_copy(&self, duty: &FollowDuty) -> impl Future<Output = Result<CopyRoom>> + Send;

    /// Looks at the file systems of the member. At most one look is under way: where one hangs,
    /// others fail at once.
    fn survey(&self) -> impl Future<Output = Result<Survey>> + Send;

    /// Whether PostgreSQL has said, since it was started last, that there was no room on a disk.
    fn said_no_room(&self) -> impl Future<Output = Result<bool>> + Send;

    /// Whether the operator's settings may be why PostgreSQL ended before it answered: it said so, or
    /// other settings with which it once started are left to try. Asked once nothing of it is left.
    fn settings_to_blame(&self) -> impl Future<Output = Result<bool>> + Send {
        std::future::ready(Ok(false))
    }

    /// Where the primary's log ends now, and in which epoch; asked of the primary itself.
    fn primary_position(
        &self,
        duty: &FollowDuty,
    ) -> impl Future<Output = Result<(Epoch, Lsn)>> + Send;

    /// Asks the running PostgreSQL what it is.
    fn observe(&self) -> impl Future<Output = Result<Seen>> + Send;

    /// Asks one question, to see whether PostgreSQL does its work. What has no answer after
    /// `patience` is given up; one question never waits for another.
    fn ask(&self, question: Question, patience: Duration) -> impl Future<Output = Answer> + Send;

    /// What the processes do that have to answer. `since` is when the new connection was asked
    /// for that is not answered yet. It waits for none of them, and for no disk.
    fn vitals(&self, since: Option<BootTime>) -> impl Future<Output = Vitals> + Send;

    /// What the checkpointer does, and whether a checkpoint is overdue by far.
    fn checkpointer(&self) -> impl Future<Output = (Activity, bool)> + Send;

    /// Every setting that the running PostgreSQL knows.
    fn catalogue(&self) -> impl Future<Output = Result<Catalogue>> + Send {
        async { Err(Error::NotReady("no settings can be asked for".to_owned())) }
    }

    /// Moves the unused slots of these members forward on a primary, to where they are: they stream
    /// from another standby.
    fn advance_slots(
        &self,
        members: &[(MemberName, Lsn)],
    ) -> impl Future<Output = Result<()>> + Send {
        let _ = members;
        async { Ok(()) }
    }

    /// Looks after what changes slowly: slots, settings that somebody changed, commits that are
    /// weakened, strangers that call themselves members.
    fn maintain(&self, care: &Care) -> impl Future<Output = Result<Upkeep>> + Send;
}
