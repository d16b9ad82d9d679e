//! Processes of the machine, each known by its number and its start.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{SOON, until_seen};

/// A process. Its start tells it from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proc {
    pid: i32,
    start: u64,
}

impl Proc {
    /// The process of this number, if there is one.
    pub fn find(pid: i32) -> Option<Proc> {
        Some(Proc { pid, start: stat(pid)?.start })
    }

    /// The process of this number and start, as a record names it.
    pub fn of_record(pid: i32, start: u64) -> Proc {
        Proc { pid, start }
    }

    /// Its number, as seen from outside of every PID namespace.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// Its state letter; `None` once it is gone.
    pub fn state(self) -> Option<char> {
        stat(self.pid).filter(|s| s.start == self.start).map(|s| s.state)
    }

    /// Whether it can still do something: it is there, and no zombie.
    pub fn is_alive(self) -> bool {
        self.state().is_some_and(|s| s != 'Z' && s != 'X')
    }

    /// Its parent's number.
    pub fn parent(self) -> Option<i32> {
        stat(self.pid).filter(|s| s.start == self.start).map(|s| s.parent)
    }

    /// Its command line, or its title where it has set one.
    pub fn title(self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
    }

    /// Its number in its own PID namespace.
    pub fn inner_pid(self) -> Option<i32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
        line.split_ascii_whitespace().last()?.parse().ok()
    }

    /// Its PID namespace.
    pub fn pid_namespace(self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/ns/pid", self.pid)).ok()
    }

    /// Sends a signal, if it is still there.
    pub fn signal(self, signal: i32) {
        if self.state().is_some() {
            // SAFETY: integers only.
            unsafe { libc::kill(self.pid, signal) };
        }
    }

    /// Kills it and waits until it can do nothing any more.
    pub async fn kill(self) {
        self.signal(libc::SIGKILL);
        let what = format!("the end of process {}", self.pid);
        until_seen(&what, SOON, || (!self.is_alive()).then_some(())).await;
    }

    /// Stops it as a debugger would, and waits until it is stopped.
    pub async fn freeze(self) {
        self.signal(libc::SIGSTOP);
        let what = format!("the stop of process {}", self.pid);
        let stopped = || matches!(self.state(), None | Some('T' | 'Z')).then_some(());
        until_seen(&what, SOON, stopped).await;
    }

    /// Lets it go on.
    pub fn thaw(self) {
        self.signal(libc::SIGCONT);
    }
}

struct Stat {
    state: char,
    parent: i32,
    start: u64,
}

/// The fields 3, 4 and 22 of proc_pid_stat(5). The second, the name, may hold anything.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, start })
}

/// Every process of the machine.
pub fn all() -> Vec<Proc> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |e: std::io::Result<fs::DirEntry>| e.ok()?.file_name().to_str()?.parse().ok();
    entries.filter_map(pid).filter_map(Proc::find).collect()
}

/// Every process that runs in `dir` or names it in its command line.
pub fn of_directory(dir: &Path) -> Vec<Proc> {
    let named = dir.to_string_lossy();
    let is_ours = |p: &Proc| {
        // Its own reaper names the directory too, and is ended apart.
        let title = p.title();
        let cwd = fs::read_link(format!("/proc/{}/cwd", p.pid)).unwrap_or_default();
        p.is_alive()
            && (cwd.starts_with(dir) || title.contains(&*named))
            && !title.contains(super::reaper::MARK)
    };
    let ours = std::process::id() as i32;
    all().into_iter().filter(|p| p.pid != ours).filter(is_ours).collect()
}

/// Kills what [`of_directory`] finds until nothing is left, from a place that cannot wait
/// asynchronously. Returns what is left after some seconds.
pub fn kill_directory(dir: &Path) -> Vec<Proc> {
    let mut left = of_directory(dir);
    for _ in 0..400 {
        if left.is_empty() {
            break;
        }
        for process in &left {
            process.signal(libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(25));
        left = of_directory(dir);
    }
    left
}
