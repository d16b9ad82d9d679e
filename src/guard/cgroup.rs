//! Fencing by a delegated cgroup v2, where PID namespaces are not permitted.
//!
//! When the guard dies by its kernel timer, somebody has to write `cgroup.kill`: the *watcher*, a
//! forked process that waits for the guard's death with the file open. This is weaker than a PID
//! namespace, where the kernel does it: a stopped watcher does nothing.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::init;
use super::sys::{self, Forked};

/// A cgroup v2 directory that holds one process tree.
pub struct Cgroup {
    dir: PathBuf,
    kill: File,
    events: File,
}

impl Cgroup {
    /// Opens `dir`. Needs `cgroup.kill`, which Linux has from 5.14.
    pub fn open(dir: &Path) -> io::Result<Cgroup> {
        let kill = File::options().write(true).open(dir.join("cgroup.kill"))?;
        let events = File::open(dir.join("cgroup.events"))?;
        Ok(Cgroup { dir: dir.to_owned(), kill, events })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that tells whether a process is left, see [`is_populated`].
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// True while a process is left in the cgroup or below it.
    pub fn is_populated(&self) -> io::Result<bool> {
        is_populated(&self.events)
    }

    /// Moves process `pid` into the cgroup; its children are born there.
    pub fn enter(&self, pid: i32) -> io::Result<()> {
        let mut procs = File::options().write(true).open(self.dir.join("cgroup.procs"))?;
        procs.write_all(pid.to_string().as_bytes())
    }

    /// Kills every process in the cgroup, also ones that are being forked meanwhile.
    pub fn kill(&self) -> io::Result<()> {
        (&self.kill).write_all(b"1")
    }

    /// Forks the watcher.
    pub fn watch(&self) -> io::Result<Watcher> {
        let guard = sys::pidfd_open(i32::try_from(std::process::id()).map_err(io::Error::other)?)?;
        // SAFETY: the guard has one thread.
        match unsafe { sys::fork_with(0) }? {
            Forked::Child => self.run_watcher(&guard),
            Forked::Parent(pid, pidfd) => Ok(Watcher { pid, pidfd }),
        }
    }

    fn run_watcher(&self, guard: &OwnedFd) -> ! {
        init::set_name(c"quorate-watch");
        // Nothing of the guard may stay open here: its clients wait for the end of connections.
        let keep = [guard.as_raw_fd(), self.kill.as_raw_fd()];
        let (low, high) = (keep[0].min(keep[1]), keep[0].max(keep[1]));
        let close = |first: i32, last: i32| {
            if first <= last {
                // SAFETY: numbers only; what is closed is not used below.
                unsafe { libc::close_range(first as u32, last as u32, 0) };
            }
        };
        // SAFETY: makes a session of its own.
        unsafe { libc::setsid() };
        close(3, low - 1);
        close(low + 1, high - 1);
        close(high + 1, i32::MAX);
        let end_of_time = crate::domain::types::BootTime::from_nanos(u64::MAX);
        while !sys::wait_readable(guard.as_fd(), end_of_time) {}
        init::exit(i32::from(self.kill().is_err()))
    }
}

/// Reads an open `cgroup.events`: true while a process is left.
pub fn is_populated(events: &File) -> io::Result<bool> {
    let mut buf = [0u8; 256];
    // A removed directory is an empty one: the kernel removes no other.
    let n = match events.read_at(&mut buf, 0) {
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        n => n?,
    };
    let text = std::str::from_utf8(buf.get(..n).unwrap_or_default()).map_err(io::Error::other)?;
    match text.lines().find_map(|line| line.strip_prefix("populated ")) {
        Some("0") => Ok(false),
        Some("1") => Ok(true),
        _ => Err(io::Error::other("cgroup.events does not tell whether the cgroup is populated")),
    }
}

/// The process that writes `cgroup.kill` when the guard dies. Ended when this is dropped.
pub struct Watcher {
    pid: i32,
    pidfd: OwnedFd,
}

impl Watcher {
    /// Readable once the watcher is dead.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        sys::wait_child(self.pid, true);
    }
}
