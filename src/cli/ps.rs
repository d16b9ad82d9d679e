//! `hactl ps`: the processes of this host's PostgreSQL trees.
//!
//! PostgreSQL runs in a PID namespace of its own, so that the numbers in its log, in
//! `postmaster.pid` and in `pg_stat_activity` are not those that this host knows. This lists both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::output::{self, Format};
use super::table::{Column, Screen, Text, render};

/// Arguments of `hactl ps`.
#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// The run directory of a member, as in hanode's configuration; may be given more than once
    #[arg(long = "run-dir", required = true, value_name = "DIR")]
    run_dirs: Vec<PathBuf>,
}

/// What is needed of `guard.json`, which the guard writes.
#[derive(Debug, Deserialize)]
struct Record {
    guard_pid: i32,
    guard_starttime: u64,
    init_pid: Option<i32>,
    init_starttime: Option<u64>,
}

/// One process.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Process {
    run_dir: PathBuf,
    /// Number on this host.
    pid: i32,
    /// Number in the namespace; absent outside of it.
    inner_pid: Option<i32>,
    /// Number of the parent on this host.
    parent: i32,
    /// One letter, as in `ps` (proc(5)): D cannot be interrupted, T is stopped, Z is dead.
    state: char,
    command: String,
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    starttime: u64,
}

const COLUMNS: [Column; 5] = [
    Column::new("PID").right(),
    Column::new("INNER PID").right(),
    Column::new("PARENT").right().spare(1),
    Column::new("STATE"),
    Column::new("COMMAND").prose(),
];

pub(super) fn run(args: &PsArgs, format: Format) -> Result<(), Failure> {
    let mut all = Vec::new();
    let mut table = String::new();
    for dir in &args.run_dirs {
        let processes = tree(dir)?;
        table.push_str(&format!("{}\n", dir.display()));
        if processes.is_empty() {
            table.push_str("no process: neither guard nor PostgreSQL runs\n");
        } else {
            let rows: Vec<Vec<Text>> = processes.iter().map(row).collect();
            table.push_str(&render(&COLUMNS, &rows, Screen::stdout()));
        }
        all.extend(processes);
    }
    output::value(format, &all, || table)
}

fn row(p: &Process) -> Vec<Text> {
    let inner = p.inner_pid.map_or_else(|| "-".to_owned(), |i| i.to_string());
    vec![
        p.pid.to_string().into(),
        inner.into(),
        p.parent.to_string().into(),
        p.state.to_string().into(),
        p.command.clone().into(),
    ]
}

/// The guard of a run directory, its init, and all that descends from it. Without a guard.json, or
/// after its processes ended, nothing.
fn tree(run_dir: &Path) -> Result<Vec<Process>, Failure> {
    let path = run_dir.join("guard.json");
    let failed = |e: &dyn std::fmt::Display, hint| {
        Failure::refused(format!("{} cannot be read: {e}", path.display()), hint)
    };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound && run_dir.is_dir() => return Ok(Vec::new()),
        Err(e) => return Err(failed(&e, "run this as the user of hanode, on its node")),
    };
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|e| failed(&e, "it is not written by this version of hanode"))?;

    let stats = all_stats()?;
    // A number may belong to another process by now: the start time tells them apart.
    let same = |pid: i32, start: u64| stats.get(&pid).is_some_and(|s| s.starttime == start);
    let mut pids = Vec::new();
    if same(record.guard_pid, record.guard_starttime) {
        pids.push(record.guard_pid);
    }
    if let (Some(init), Some(start)) = (record.init_pid, record.init_starttime)
        && same(init, start)
    {
        pids.extend(descendants(init, &stats));
    }
    let outside = record.guard_pid;
    let process = |pid: &i32| {
        let stat = stats.get(pid)?;
        let inner_pid = if *pid == outside { None } else { inner_pid(*pid) };
        Some(Process {
            run_dir: run_dir.to_owned(),
            pid: *pid,
            inner_pid,
            parent: stat.parent,
            state: stat.state,
            command: command(*pid),
        })
    };
    Ok(pids.iter().filter_map(process).collect())
}

/// `root` and all that descends from it, parents first, by number.
fn descendants(root: i32, stats: &BTreeMap<i32, Stat>) -> Vec<i32> {
    let mut out = vec![root];
    let mut next = 0;
    while let Some(parent) = out.get(next).copied() {
        next += 1;
        for (pid, stat) in stats {
            // A list that is read while processes come and go may hold a circle.
            if stat.parent == parent && !out.contains(pid) {
                out.push(*pid);
            }
        }
    }
    out
}

fn all_stats() -> io::Result<BTreeMap<i32, Stat>> {
    let mut stats = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // A process that ended meanwhile is no error.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(stat) = parse_stat(&text) {
            stats.insert(pid, stat);
        }
    }
    Ok(stats)
}

/// `PID (NAME) STATE PARENT ...`, see proc(5). The name may hold anything, also `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22 of all, and state is field 3.
    let starttime = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, starttime })
}

/// The number in the innermost namespace, where there is more than one.
fn inner_pid(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse_inner_pid(&text)
}

fn parse_inner_pid(status: &str) -> Option<i32> {
    let numbers = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    let mut numbers = numbers.split_ascii_whitespace();
    let _outer = numbers.next()?;
    numbers.last()?.parse().ok()
}

fn command(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|b| *b == 0).filter(|w| !w.is_empty()).collect();
    if words.is_empty() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        return format!("[{}]", name.trim());
    }
    let words: Vec<_> = words.into_iter().map(String::from_utf8_lossy).collect();
    // Titles of processes may hold anything: nothing that moves the cursor reaches the terminal.
    words.join(" ").chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_and_status_are_read() {
        let line = "12 (a) (b c) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4321 99 1";
        assert_eq!(parse_stat(line), Some(Stat { state: 'S', parent: 7, starttime: 4321 }));
        assert_eq!(parse_stat("12 (a"), None);
        assert_eq!(parse_inner_pid("Name:\tx\nNSpid:\t812\t3\n"), Some(3));
        assert_eq!(parse_inner_pid("NSpid:\t812\n"), None);
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let stat = |parent| Stat { state: 'S', parent, starttime: 0 };
        let stats = BTreeMap::from([(2, stat(4)), (3, stat(2)), (4, stat(3)), (9, stat(1))]);
        assert_eq!(descendants(2, &stats), [2, 3, 4]);
    }

    #[test]
    fn a_tree_is_listed_and_a_reused_number_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(tree(dir.path()).unwrap().is_empty());
        let me = i32::try_from(std::process::id()).unwrap();
        let start = all_stats().unwrap()[&me].starttime;
        let write = |start: u64| {
            let record = serde_json::json!({
                "guard_pid": 1, "guard_starttime": u64::MAX,
                "init_pid": me, "init_starttime": start, "more": true,
            });
            fs::write(dir.path().join("guard.json"), record.to_string()).unwrap();
        };
        write(start);
        let found = tree(dir.path()).unwrap();
        assert_eq!(found.first().map(|p| p.pid), Some(me));
        assert!(!found[0].command.is_empty());
        write(start + 1);
        assert!(tree(dir.path()).unwrap().is_empty());
        assert!(tree(&dir.path().join("none")).is_err());
    }
}
