//! `hanode stop`: ends a node's members and its daemon, whether the daemon is alive or not.

// It waits on the real machine.
#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock::boot_now;
use crate::config::Config;
use crate::guard;

/// How often the daemon is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Why something is still running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon did not end in time.
    #[error("hanode (process {pid}) is still running after {seconds} s; look at its log")]
    StillRunning {
        /// Its process.
        pid: i32,
        /// How long was waited.
        seconds: u64,
    },
    /// The daemon cannot be told.
    #[error("hanode (process {pid}) cannot be signalled: {source}")]
    Signal {
        /// Its process.
        pid: i32,
        /// Why.
        source: Errno,
    },
    /// The lock file makes no sense.
    #[error("{path} is locked, but names no process")]
    Lock {
        /// Which.
        path: PathBuf,
    },
    /// A process tree whose daemon is gone could not be ended.
    #[error("{member}: {source}")]
    Tree {
        /// Whose.
        member: String,
        /// Why.
        source: guard::ProofError,
    },
}

/// Asks the daemon to stop everything and waits for its end; then ends what a daemon that is gone
/// left behind.
pub async fn stop(config: &Config, limit: Duration) -> Result<(), Error> {
    let path = config.node.data_dir.join("hanode.pid");
    let deadline = boot_now().plus(limit);
    let mut asked = false;
    // The lock says whether a daemon is alive; the number in it may be anybody's by now otherwise.
    while let Some(pid) = running(&path)? {
        if !asked {
            kill(Pid::from_raw(pid), Signal::SIGINT)
                .map_err(|source| Error::Signal { pid, source })?;
            asked = true;
        }
        if boot_now() >= deadline {
            return Err(Error::StillRunning { pid, seconds: limit.as_secs() });
        }
        tokio::time::sleep(LOOK).await;
    }
    for member in &config.members {
        let dir = config.guard_dir(member);
        guard::prove_empty(&dir, true, limit)
            .await
            .map_err(|source| Error::Tree { member: member.key(), source })?;
    }
    Ok(())
}

fn running(path: &std::path::Path) -> Result<Option<i32>, Error> {
    let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(path) else {
        return Ok(None);
    };
    if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    match text.trim().parse() {
        Ok(pid) => Ok(Some(pid)),
        Err(_) => Err(Error::Lock { path: path.to_path_buf() }),
    }
}
