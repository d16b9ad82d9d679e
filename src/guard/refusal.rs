//! Why a guard refuses a request.

use std::io;

use crate::domain::types::BootTime;

/// The step at which a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Creating the init process.
    Clone,
    /// Writing the user and group maps of a user namespace.
    UserMap,
    /// Preparing or entering the cgroup.
    Cgroup,
    /// Talking to the init.
    Init,
    /// Writing `guard.json`.
    Record,
    /// Forking the postmaster.
    Fork,
    /// Setting groups, group or user of the postmaster.
    Credentials,
    /// Changing to the working directory.
    WorkingDirectory,
    /// Opening the log file of the postmaster.
    LogFile,
    /// Executing the program.
    Exec,
}

impl Stage {
    const ALL: [Stage; 10] = [
        Stage::Clone,
        Stage::UserMap,
        Stage::Cgroup,
        Stage::Init,
        Stage::Record,
        Stage::Fork,
        Stage::Credentials,
        Stage::WorkingDirectory,
        Stage::LogFile,
        Stage::Exec,
    ];

    pub(super) fn code(self) -> u8 {
        self as u8
    }

    pub(super) fn from_code(code: u8) -> Option<Stage> {
        Self::ALL.get(usize::from(code)).copied()
    }

    fn doing(self) -> &'static str {
        match self {
            Stage::Clone => "creating the init process",
            Stage::UserMap => "writing the maps of the user namespace",
            Stage::Cgroup => "preparing the cgroup",
            Stage::Init => "talking to the init process",
            Stage::Record => "writing guard.json",
            Stage::Fork => "forking the postmaster",
            Stage::Credentials => "changing to the postmaster's user and groups",
            Stage::WorkingDirectory => "changing to the working directory",
            Stage::LogFile => "opening the postmaster's log file",
            Stage::Exec => "executing the postmaster's program",
        }
    }
}

/// A request that the guard did not carry out. Nothing has changed, except where
/// [`Refusal::Failed`] says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The frame cannot be read.
    #[error("the guard cannot read the request")]
    Malformed,
    /// The guard is older than the request.
    #[error("the guard does not know this kind of request")]
    Unsupported,
    /// A guard runs one tree in its life.
    #[error("the guard has started its process tree already; a new tree needs a new guard")]
    AlreadyStarted,
    /// No tree was started, or the postmaster does not run.
    #[error("the postmaster does not run under this guard")]
    NotRunning,
    /// The tree is empty for good: no lease can rest on it.
    #[error("the guard's process tree has ended")]
    TreeEnded,
    /// The guard leaves only once its tree is empty.
    #[error("processes of the guard's tree are still alive")]
    TreeAlive,
    /// The deadline has come already.
    #[error("the deadline has passed")]
    DeadlinePassed,
    /// The deadline is more than an hour away, so that it is taken for a mistake.
    #[error("the deadline is more than an hour away")]
    DeadlineTooFar,
    /// A deadline moves forward only.
    #[error("the deadline is earlier than the one in force, {} ns after boot", in_force.as_nanos())]
    DeadlineBackwards {
        /// The deadline that stays in force.
        in_force: BootTime,
    },
    /// The kernel refused the timer, the signal or another call.
    #[error("the system refused: {}", io::Error::from_raw_os_error(*errno))]
    System {
        /// The error number.
        errno: i32,
    },
    /// None of the permitted kinds of fencing works here. Nothing was started; another start may
    /// follow.
    #[error(
        "no fencing is possible: PID namespace: {}; with a user namespace: {}; cgroup: {}; \
         allow PID namespaces, delegate a cgroup, or accept best-effort fencing",
        reason(*pid_namespace), reason(*user_namespace), reason(*cgroup)
    )]
    NoFencing {
        /// Error number of the attempt with a PID namespace alone; 0 where it was not tried.
        pid_namespace: i32,
        /// Error number of the attempt with a user namespace around it; 0 where it was not tried.
        user_namespace: i32,
        /// Error number of the attempt with a cgroup; 0 where it was not tried.
        cgroup: i32,
    },
    /// The start failed midway. Where the init ran already, its tree ends and the guard cannot
    /// start another one; the status tells (`Idle`: it can).
    #[error("{} failed: {}", stage.doing(), io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The step that failed.
        stage: Stage,
        /// The error number.
        errno: i32,
    },
}

fn reason(errno: i32) -> String {
    match errno {
        0 => "not tried".to_owned(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}
