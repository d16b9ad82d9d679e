//! Processes of real servers, found by the directory that they run in.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process. Its start tells it from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proc {
    pid: i32,
    start: u64,
}

impl Proc {
    /// The process of this number, if there is one.
    pub fn find(pid: i32) -> Option<Self> {
        Some(Self { pid, start: stat(pid)?.1 })
    }

    /// Its state letter (proc_pid_stat(5)); `None` once it is gone.
    pub fn state(self) -> Option<char> {
        stat(self.pid).filter(|s| s.1 == self.start).map(|s| s.0)
    }

    /// How many bytes it has read so far (proc_pid_io(5)).
    pub fn has_read(self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/io", self.pid)).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("rchar: "));
        line.and_then(|l| l.parse().ok()).unwrap_or_else(|| panic!("no rchar in {text:?}"))
    }

    /// Whether it is there and no zombie.
    pub fn is_alive(self) -> bool {
        self.state().is_some_and(|s| !matches!(s, 'Z' | 'X'))
    }

    /// Sends a signal, if it is still there.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end between the two; that is no failure.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// State and start of a process: fields 3 and 22 of proc_pid_stat(5). The second field, the name,
/// may hold anything.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// Every living process whose working directory is `dir` or below it, the one with the smallest
/// number first. All processes of a server run in its data directory.
pub fn of_directory(dir: &Path) -> Vec<Proc> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<i32> =
        entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter()
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|d| d.starts_with(dir)))
        .filter_map(Proc::find)
        .filter(|p| p.is_alive())
        .collect()
}

/// Kills what runs in `dir`, by number, until nothing is left.
pub fn kill_directory(dir: &Path) {
    for _ in 0..2000 {
        let left = of_directory(dir);
        if left.is_empty() {
            return;
        }
        for process in left {
            process.signal(Signal::SIGKILL);
        }
        super::moment();
    }
    // A test that is failing already must not be aborted.
    assert!(std::thread::panicking(), "processes are left in {}", dir.display());
}
