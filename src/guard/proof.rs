//! Proof that the process tree of an earlier guard is empty.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::cgroup;
use super::record::Record;
use super::status::FencingKind;
use super::{LOCK_FILE, RECORD_FILE, sys};
use crate::clock::boot_now;
use crate::domain::types::BootTime;

/// How often a cgroup is asked whether it is empty.
const CGROUP_POLL: Duration = Duration::from_millis(5);

/// What is known of an earlier tree. Processes that ended are meant, not the guard: it may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// No guard started anything in this run directory, and none that could is alive. Only as
    /// good as the directory: it is not proven that nobody wiped it.
    NeverRan,
    /// The tree ran and no process of it is left.
    Empty,
    /// Every process that is on record is gone, but others may be left: the fence was
    /// best-effort, or the record comes from another PID namespace (a container that ended),
    /// where only the lock could be asked. Good for a restart on this node, where PostgreSQL's own
    /// interlock keeps a second postmaster off; never good for the report of a proven stop.
    Assumed,
}

/// Why there is no proof. In doubt, the tree is alive.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The guard is alive, so that it could still start a tree.
    #[error("guard {pid} is alive")]
    GuardAlive {
        /// Its process id.
        pid: i32,
    },
    /// The tree was not empty at the deadline.
    #[error("processes of the tree of init {pid} are still alive")]
    TreeAlive {
        /// The init's process id.
        pid: i32,
    },
    /// A guard or init in another PID namespace holds the lock.
    #[error("a guard in another PID namespace holds {}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The record or a process could not be looked at.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// Looks for the tree of an earlier guard in `run_dir` and waits up to `wait` for its end. With
/// `kill`, guard and init are killed first, each identified beyond doubt: boot, process id and
/// start time. Blocks the thread.
pub fn prove(run_dir: &Path, kill: bool, wait: Duration) -> Result<Proof, ProofError> {
    prove_unless_locked(run_dir, kill, wait, is_locked)
}

/// The same for a new guard that holds the lock itself, and neither waits nor kills.
pub fn prove_holding_lock(run_dir: &Path) -> Result<Proof, ProofError> {
    prove_unless_locked(run_dir, false, Duration::ZERO, |_| Ok(false))
}

fn prove_unless_locked(
    run_dir: &Path,
    kill: bool,
    wait: Duration,
    is_locked: impl FnOnce(&Path) -> io::Result<bool>,
) -> Result<Proof, ProofError> {
    let end = boot_now().plus(wait);
    let io_error = |name: &str| {
        let path = run_dir.join(name);
        move |source| ProofError::Io { path, source }
    };
    let read = || Record::read(run_dir).map_err(io_error(RECORD_FILE));
    let Some(mut record) = read()? else { return Ok(Proof::NeverRan) };

    if record.boot_id != sys::boot_id().map_err(io_error(RECORD_FILE))? {
        return Ok(if record.init_pid.is_some() { Proof::Empty } else { Proof::NeverRan });
    }
    if record.pid_namespace != sys::pid_namespace().map_err(io_error(RECORD_FILE))? {
        let path = run_dir.join(LOCK_FILE);
        return match is_locked(&path) {
            Ok(false) if record.init_pid.is_some() => Ok(Proof::Assumed),
            Ok(false) => Ok(Proof::NeverRan),
            Ok(true) => Err(ProofError::Locked { path }),
            Err(source) => Err(ProofError::Io { path, source }),
        };
    }

    let proc = || io_error("/proc");
    let guard = open(record.guard_pid, record.guard_starttime).map_err(proc())?;
    if let Some(guard) = &guard
        && (kill || record.init_pid.is_none())
    {
        // A guard that has started nothing yet could do so at any time, so its own end counts.
        if !ends(guard, kill, end) {
            return Err(ProofError::GuardAlive { pid: record.guard_pid });
        }
        // It may have started its tree after the record was read.
        record = match read()? {
            Some(again) if again.guard_id == record.guard_id => again,
            _ => return Err(ProofError::GuardAlive { pid: record.guard_pid }),
        };
    }
    let (Some(init_pid), Some(init_starttime)) = (record.init_pid, record.init_starttime) else {
        return Ok(Proof::NeverRan);
    };

    let init = open(init_pid, init_starttime).map_err(proc())?;
    if let Some(init) = &init
        && !ends(init, kill, end)
    {
        return Err(ProofError::TreeAlive { pid: init_pid });
    }
    match (record.fencing, record.cgroup) {
        (Some(FencingKind::PidNamespace), _) => Ok(Proof::Empty),
        (Some(FencingKind::Cgroup), Some(dir)) => match cgroup_ends(&dir, kill, end) {
            Ok(true) => Ok(Proof::Empty),
            Ok(false) => Err(ProofError::TreeAlive { pid: init_pid }),
            Err(source) => Err(ProofError::Io { path: dir, source }),
        },
        _ => Ok(Proof::Assumed),
    }
}

/// Opens the process that has this number and this start time; `None` where there is none.
fn open(pid: i32, started: u64) -> io::Result<Option<OwnedFd>> {
    let pidfd = match sys::pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        // EINVAL and ENOENT: the number belongs to a thread now, so that the process is gone.
        Err(e) if matches!(sys::errno_of(&e), libc::ESRCH | libc::EINVAL | libc::ENOENT) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    // Asked after the descriptor was opened: if the start time is right, so is the descriptor.
    let now = sys::start_ticks(pid)?;
    Ok((now == Some(started)).then_some(pidfd))
}

fn ends(process: &OwnedFd, kill: bool, end: BootTime) -> bool {
    if kill {
        // Whether it worked shows in the wait.
        let _ = sys::pidfd_send_signal(process.as_fd(), libc::SIGKILL);
    }
    sys::wait_readable(process.as_fd(), end)
}

fn cgroup_ends(dir: &Path, kill: bool, end: BootTime) -> io::Result<bool> {
    let events = match File::open(dir.join("cgroup.events")) {
        // The kernel removes only a cgroup that is empty.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        events => events?,
    };
    if kill {
        std::fs::write(dir.join("cgroup.kill"), "1")?;
    }
    loop {
        if !cgroup::is_populated(&events)? {
            return Ok(true);
        }
        let now = boot_now();
        if now >= end {
            return Ok(false);
        }
        #[allow(clippy::disallowed_methods)] // real processes, on a thread that may block
        std::thread::sleep(CGROUP_POLL.min(end.since(now)));
    }
}

fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::options().write(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_) => Ok(false),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, e)) => Err(e.into()),
    }
}
