//! What a process and a disk do, as the kernel tells: `/proc/PID/stat`, `/proc/PID/status` and
//! `/sys/dev/block` (proc(5), and "iostats" of the kernel's block layer).
//!
//! Owns the reading of these files. None of them waits for what it describes: a process that hangs
//! is looked at without hanging. `/proc/PID/cmdline` is not like that, and is never read here.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use crate::domain::types::BootTime;

/// A process at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its state letter, as in `ps`.
    pub state: char,
    /// Its start, in clock ticks since boot.
    pub started: u64,
    /// Its processor time in clock ticks, and how often it got or left a processor: grows whenever
    /// it runs.
    pub work: u64,
    /// Its number in the innermost PID namespace.
    pub inner_pid: i32,
}

/// Looks at the process of this number; `None` where there is none, or one that is not
/// PostgreSQL's.
///
/// # Errors
/// The kernel does not tell us.
pub fn look(pid: i32) -> io::Result<Option<Process>> {
    let (Some(stat), Some(status)) = (read(pid, "stat")?, read(pid, "status")?) else {
        return Ok(None);
    };
    let strange = || io::Error::other(format!("/proc/{pid} has an unknown form"));
    let (process, is_postgres) = parse(&stat, &status).ok_or_else(strange)?;
    Ok(is_postgres.then_some(process))
}

fn read(pid: i32, file: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(format!("/proc/{pid}/{file}")) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads both files of a process; with whether it is one of PostgreSQL.
pub(crate) fn parse(stat: &str, status: &str) -> Option<(Process, bool)> {
    // The name may hold anything, also `)`.
    let (front, rest) = stat.rsplit_once(") ")?;
    let name = front.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // State is field 3 of all.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let line = |name: &str| {
        let value = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        value.split_ascii_whitespace().last()?.parse::<u64>().ok()
    };
    let switches = line("voluntary_ctxt_switches")? + line("nonvoluntary_ctxt_switches")?;
    let process = Process {
        state: fields.first()?.chars().next()?,
        started: number(22)?,
        work: number(14)?.wrapping_add(number(15)?).wrapping_add(switches),
        inner_pid: i32::try_from(line("NSpid")?).ok()?,
    };
    Some((process, matches!(name, "postgres" | "postmaster")))
}

/// The children of a process that has one thread.
///
/// # Errors
/// The kernel does not tell us, or the process is gone.
pub fn children(pid: i32) -> io::Result<Vec<i32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// This instant in clock ticks since boot, rounded down, as [`Process::started`] is.
pub fn ticks(at: BootTime) -> u64 {
    static PER_SECOND: OnceLock<u64> = OnceLock::new();
    let per_second = *PER_SECOND.get_or_init(|| {
        // SAFETY: integers only.
        let n = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        u64::try_from(n).ok().filter(|n| *n > 0).unwrap_or(100)
    });
    let ticks = u128::from(at.as_nanos()) * u128::from(per_second) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// A block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    major: u32,
    minor: u32,
}

impl Device {
    /// The one that holds `path`; `None` where that is no single block device. It can wait for the
    /// file system.
    ///
    /// # Errors
    /// `path` cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Option<Device>> {
        let dev = fs::metadata(path)?.dev();
        let device = Device { major: libc::major(dev), minor: libc::minor(dev) };
        Ok((device.major != 0).then_some(device))
    }

    /// How many writes it has finished since boot. Waits for nothing.
    pub fn writes(self) -> Option<u64> {
        let Device { major, minor } = self;
        let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        text.split_ascii_whitespace().nth(4)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read() {
        let stat = "12 (postgres) D 7 1 1 0 -1 4194560 1 2 3 4 50 6 7 8 20 0 1 0 4321 99 1";
        let status = "Name:\tpostgres\nNSpid:\t812\t3\nvoluntary_ctxt_switches:\t20\n\
                      nonvoluntary_ctxt_switches:\t4\n";
        let process = Process { state: 'D', started: 4321, work: 80, inner_pid: 3 };
        assert_eq!(parse(stat, status), Some((process, true)));
        assert_eq!(parse(&stat.replace("(postgres)", "(a) (b)"), status), Some((process, false)));
        assert_eq!(parse("12 (postgres) D 7", status), None);
        assert_eq!(parse(stat, "NSpid:\t812\n"), None);
    }

    #[test]
    fn this_machine_is_read() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(look(me).unwrap(), None, "it is not PostgreSQL");
        assert!(children(me).is_ok());
        assert_eq!(look(i32::MAX).unwrap(), None);
        assert!(Device::of(Path::new("/nonexistent")).is_err());
        assert_eq!(Device::of(Path::new("/proc")).unwrap(), None);
        assert_eq!(ticks(BootTime::from_nanos(2_500_000_000)), 250);
    }
}
