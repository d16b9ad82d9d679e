//! `guard.json`: which processes belong to a guard, for an agent that finds the guard gone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RECORD_FILE;
use super::status::FencingKind;
use super::sys;
use crate::domain::types::GuardId;

/// Contents of `guard.json`. Written when the guard starts, and again when the init exists and
/// before it may start anything: no process of a tree ever ran that is not in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The guard's identity.
    pub guard_id: GuardId,
    /// Boot of the machine in which the process numbers mean something.
    pub boot_id: String,
    /// PID namespace of the guard, in which the process numbers mean something.
    pub pid_namespace: String,
    /// The guard's process id.
    pub guard_pid: i32,
    /// When the guard was started, in clock ticks after boot.
    pub guard_starttime: u64,
    /// The init's process id; absent before a start.
    pub init_pid: Option<i32>,
    /// When the init was started, in clock ticks after boot.
    pub init_starttime: Option<u64>,
    /// The fence in use; absent before a start.
    pub fencing: Option<FencingKind>,
    /// Directory of the cgroup, where that is the fence.
    pub cgroup: Option<PathBuf>,
}

impl Record {
    /// The record of a guard that has started nothing: this process.
    pub fn of_this_process(guard_id: GuardId) -> io::Result<Record> {
        let guard_pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let gone = || io::Error::other("this process is not in /proc");
        Ok(Record {
            guard_id,
            boot_id: sys::boot_id()?,
            pid_namespace: sys::pid_namespace()?,
            guard_pid,
            guard_starttime: sys::start_ticks(guard_pid)?.ok_or_else(gone)?,
            init_pid: None,
            init_starttime: None,
            fencing: None,
            cgroup: None,
        })
    }

    /// Reads the record in `run_dir`; `None` where there is none.
    pub fn read(run_dir: &Path) -> io::Result<Option<Record>> {
        match fs::read(run_dir.join(RECORD_FILE)) {
            Ok(bytes) => {
                let record: Record = serde_json::from_slice(&bytes)?;
                record.check()?;
                Ok(Some(record))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A number that no process can have would look like a process that is gone.
    fn check(&self) -> io::Result<()> {
        let init_ok = match (self.init_pid, self.init_starttime) {
            (None, None) => true,
            (Some(pid), Some(_)) => pid > 0 && self.fencing.is_some(),
            _ => false,
        };
        if self.guard_pid > 0 && init_ok {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the record contradicts itself"))
        }
    }

    /// Replaces the record in `run_dir`: a reader sees the old or the new one, also after a crash.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        let temporary = run_dir.join(format!("{RECORD_FILE}.new"));
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, run_dir.join(RECORD_FILE))?;
        File::open(run_dir)?.sync_all()
    }
}
