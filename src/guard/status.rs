//! What a guard says about itself and its process tree.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::types::{BootTime, GuardId};

/// How a process tree is killed when its guard dies, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FencingKind {
    /// A PID namespace: the kernel kills every process in it when its init dies, and the init
    /// dies with the guard. Nothing of ours has to run.
    PidNamespace,
    /// A delegated cgroup v2: a watcher process writes `cgroup.kill` when the guard dies. It
    /// fails to fence where guard *and* watcher are stopped; the postmaster dies even then.
    Cgroup,
    /// Only the postmaster is sure to die with the guard. Orphaned backends may go on. No proof
    /// of emptiness exists after the guard's death.
    BestEffort,
}

impl FencingKind {
    /// True where a lease may rest on it without the operator's consent.
    pub fn is_fence(self) -> bool {
        self != FencingKind::BestEffort
    }
}

impl fmt::Display for FencingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FencingKind::PidNamespace => "pid-namespace",
            FencingKind::Cgroup => "cgroup",
            FencingKind::BestEffort => "best-effort",
        })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It called `exit` with this code. PostgreSQL's postmaster: 0 after an orderly shutdown.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// From the status word of `waitpid(2)`; `None` where it is not an end.
    pub fn from_wait_status(status: i32) -> Option<Exit> {
        if libc::WIFEXITED(status) {
            Some(Exit::Code(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Exit::Signal(libc::WTERMSIG(status)))
        } else {
            None
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// The life of a process tree. It only ever moves down this list; a guard has one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeState {
    /// Nothing was started yet.
    Idle,
    /// The init exists, the postmaster's program does not run yet.
    Starting,
    /// The postmaster's program runs.
    Running,
    /// The postmaster is dead; other processes of the tree may be alive for some milliseconds.
    PostmasterExited(Exit),
    /// No process of the tree is left. The status is the postmaster's; `None` where it never ran
    /// or was killed together with the init, before anybody could ask.
    Empty(Option<Exit>),
    /// Seen by clients only: the connection ended, so that nothing is known. The tree may live.
    Lost,
}

/// Answer to a status request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The guard's identity.
    pub guard_id: GuardId,
    /// The guard's process id.
    pub guard_pid: i32,
    /// The init's process id, as seen by the guard, also after its end; `None` before a start.
    pub init_pid: Option<i32>,
    /// The postmaster's process id, as seen by the guard. It is not the number in
    /// `postmaster.pid`, which is the one inside the namespace.
    pub postmaster_pid: Option<i32>,
    /// Where the tree is in its life.
    pub tree: TreeState,
    /// When the kernel will kill the guard; `None` where it was never armed or the tree is empty.
    pub deadline: Option<BootTime>,
    /// The fence in use; `None` before a start.
    pub fencing: Option<FencingKind>,
}
