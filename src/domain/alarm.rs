//! What an agent finds wrong with its member, and what it did about it, for operators.
//!
//! An *alarm* holds for a time: it is raised, shown in the status, and cleared. A *notice* is a
//! thing that happened once. The leader takes both into the replicated history.

use serde::{Deserialize, Serialize};

/// Most alarms of one member that are taken.
pub const ALARMS_MAX: usize = 32;
/// Most notices that one report carries: the newest.
pub const NOTICES_MAX: usize = 32;

/// Longest text of a person, an agent or an error that is kept, in bytes.
pub const TEXT_BYTES_MAX: usize = 500;

/// A text, cut to what is kept of it.
pub fn bounded(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// What kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmCode {
    /// A file system is filling up.
    SpaceLow,
    /// A file system is as good as full: the member is not promoted.
    SpaceCritical,
    /// A connection that is open is not answered.
    HeldConnection,
    /// No new connection is answered.
    NewConnection,
    /// Nothing is flushed to disk.
    LocalWrite,
    /// The checkpointer does not move.
    Checkpointer,
    /// All connections but the superuser's are taken.
    ConnectionsExhausted,
    /// Roles or databases acknowledge commits without a standby.
    WeakenedCommits,
    /// Logical slots that a failover would lose.
    LogicalSlots,
    /// Somebody who is no member calls itself one to the primary.
    Impostor,
    /// Settings that are ours were changed by hand.
    SettingsChanged,
    /// Settings wait for a restart of PostgreSQL.
    PendingRestart,
    /// The cluster's parameters are refused by PostgreSQL.
    ParametersRefused,
    /// PostgreSQL runs, and would not start again.
    NextStart,
    /// A role, a database or an extension that has to exist is missing, and could not be made.
    ObjectsMissing,
    /// What the member needs to follow is gone: it has to be copied.
    WalMissing,
    /// There is no room for the copy that the member needs.
    NoRoomForCopy,
    /// A PostgreSQL that we did not start runs on the data directory.
    ForeignServer,
    /// Something of the machine would start a PostgreSQL on the data directory beside us.
    StartsByItself,
    /// Too few standbys confirm: commits wait.
    CommitsWait,
    /// The member it should replicate from cannot serve it: it follows the primary.
    UpstreamLost,
    /// The controller of the member's node takes no part.
    ControllerDown,
    /// The node's port could not be had: others cannot reach its agent.
    PortTaken,
    /// A slot keeps much WAL on the disk, or has lost what it kept.
    SlotHoldsWal,
    /// WAL is not archived.
    ArchiveFailing,
    /// The operator's program that was to run after the bootstrap failed.
    BootstrapHook,
    /// No controller answers: the primary goes on by the promises of all other members.
    Failsafe,
}

impl AlarmCode {
    /// The name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            AlarmCode::SpaceLow => "space-low",
            AlarmCode::SpaceCritical => "space-critical",
            AlarmCode::HeldConnection => "held-connection",
            AlarmCode::NewConnection => "new-connection",
            AlarmCode::LocalWrite => "local-write",
            AlarmCode::Checkpointer => "checkpointer",
            AlarmCode::ConnectionsExhausted => "connections-exhausted",
            AlarmCode::WeakenedCommits => "weakened-commits",
            AlarmCode::LogicalSlots => "logical-slots",
            AlarmCode::Impostor => "impostor",
            AlarmCode::SettingsChanged => "settings-changed",
            AlarmCode::PendingRestart => "pending-restart",
            AlarmCode::ParametersRefused => "parameters-refused",
            AlarmCode::NextStart => "next-start",
            AlarmCode::ObjectsMissing => "objects-missing",
            AlarmCode::WalMissing => "wal-missing",
            AlarmCode::NoRoomForCopy => "no-room-for-copy",
            AlarmCode::ForeignServer => "foreign-server",
            AlarmCode::StartsByItself => "starts-by-itself",
            AlarmCode::CommitsWait => "commits-wait",
            AlarmCode::UpstreamLost => "upstream-lost",
            AlarmCode::ControllerDown => "controller-down",
            AlarmCode::PortTaken => "port-taken",
            AlarmCode::SlotHoldsWal => "slot-holds-wal",
            AlarmCode::ArchiveFailing => "archive-failing",
            AlarmCode::BootstrapHook => "bootstrap-hook",
            AlarmCode::Failsafe => "failsafe",
        }
    }
}

/// Something that is wrong with a member, for as long as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Alarm {
    /// What kind.
    pub code: AlarmCode,
    /// What it is about, such as a path, a role, a slot; with the code it tells alarms apart.
    #[serde(default)]
    pub subject: String,
    /// What is wrong and what to do, for a person.
    pub text: String,
}

impl Alarm {
    /// An alarm about the member as a whole.
    pub fn new(code: AlarmCode, text: impl Into<String>) -> Self {
        Self { code, subject: String::new(), text: text.into() }
    }

    /// An alarm about a part of it.
    pub fn about(code: AlarmCode, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code, subject: subject.into(), text: text.into() }
    }

    /// The same with texts as they are kept.
    pub fn bounded(&self) -> Self {
        Self { code: self.code, subject: bounded(&self.subject), text: bounded(&self.text) }
    }

    /// What tells it from others.
    pub fn key(&self) -> (AlarmCode, &str) {
        (self.code, &self.subject)
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeCode {
    /// The data directory was rewound.
    Rewound,
    /// The data directory was copied.
    Copied,
    /// A copy or a rewind counts again.
    CopyProven,
    /// A slot of a member that is away was dropped.
    SlotDropped,
    /// A slot was made again, or made anew since its WAL was lost.
    SlotMade,
    /// A slot of a member that is away no longer holds back the removal of dead rows.
    SlotReleased,
    /// A setting that was changed by hand was put right.
    SettingsRepaired,
    /// A connection of somebody who called itself a member was ended.
    ImpostorEnded,
    /// The member was promoted by somebody else.
    PromotedByHand,
    /// PostgreSQL was given up as hung.
    GivenUp,
    /// PostgreSQL ended by itself, or by hand.
    Ended,
    /// A data directory that was kept aside was removed.
    AsideRemoved,
    /// PostgreSQL was stopped to start again, as the operator asked.
    Restarted,
    /// A new generation of the control plane is obeyed.
    GenerationObeyed,
    /// A program of the operator ran.
    HookRan,
    /// A program of the operator failed, or took too long.
    HookFailed,
    /// No controller answered, and the primary went on by the promises of all other members.
    FailsafeBegan,
    /// A controller has acknowledged the lease of such a primary again.
    FailsafeEnded,
    /// What of the distribution would start a server on the data directory was turned off.
    StartTurnedOff,
}

impl NoticeCode {
    /// The name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            NoticeCode::Rewound => "rewound",
            NoticeCode::Copied => "copied",
            NoticeCode::CopyProven => "copy-proven",
            NoticeCode::SlotDropped => "slot-dropped",
            NoticeCode::SlotMade => "slot-made",
            NoticeCode::SlotReleased => "slot-released",
            NoticeCode::SettingsRepaired => "settings-repaired",
            NoticeCode::ImpostorEnded => "impostor-ended",
            NoticeCode::PromotedByHand => "promoted-by-hand",
            NoticeCode::GivenUp => "given-up",
            NoticeCode::Ended => "ended",
            NoticeCode::AsideRemoved => "aside-removed",
            NoticeCode::Restarted => "restarted",
            NoticeCode::GenerationObeyed => "generation-obeyed",
            NoticeCode::HookRan => "hook-ran",
            NoticeCode::HookFailed => "hook-failed",
            NoticeCode::FailsafeBegan => "failsafe-began",
            NoticeCode::FailsafeEnded => "failsafe-ended",
            NoticeCode::StartTurnedOff => "start-turned-off",
        }
    }
}

/// Something that happened to a member once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Number within the run of the agent, growing by one from 1.
    pub number: u64,
    /// What.
    pub code: NoticeCode,
    /// What, for a person.
    pub text: String,
}
