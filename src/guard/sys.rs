//! System calls that the standard library does not offer, and facts from `/proc`.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::clock::boot_now;
use crate::domain::types::BootTime;

/// The error number of `error`; `EIO` where it has none.
pub fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// The error number that the last system call left.
pub fn last_errno() -> i32 {
    errno_of(&io::Error::last_os_error())
}

/// Opens a descriptor of process `pid`. It refers to that process for good, even once the number
/// is used again.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// Sends `signal` to the process behind `pidfd`.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed: the kernel fills in what kill(2) would.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The number of the process behind `pidfd`, as this process sees it; `None` once it is reaped.
pub fn pidfd_pid(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    Ok(pid.filter(|pid| *pid > 0))
}

/// Which side of a fork this is.
pub enum Forked {
    /// The new process.
    Child,
    /// The caller: number and descriptor of the new process.
    Parent(i32, OwnedFd),
}

/// `fork(2)` with clone flags, and with a pidfd for the parent.
///
/// # Safety
/// The caller has one thread only, so that no lock is held by a thread that the child lacks.
pub unsafe fn fork_with(flags: libc::c_int) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let flags = flags | libc::SIGCHLD | libc::CLONE_PIDFD;
    // SAFETY: without CLONE_VM and with a null stack this is fork(2); `pidfd` outlives the call.
    // The order of the last arguments differs between architectures, but both are null.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::c_long::from(flags),
            std::ptr::null_mut::<libc::c_void>(),
            &raw mut pidfd,
            std::ptr::null_mut::<libc::c_void>(),
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    match pid {
        0 => Ok(Forked::Child),
        pid if pid > 0 => {
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            Ok(Forked::Parent(pid, owned(i64::from(pidfd))?))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    match RawFd::try_from(fd) {
        // SAFETY: the kernel just made this descriptor for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for child `pid`; with `block` until it ends. `None`: it lives, or is no child of ours.
pub fn wait_child(pid: i32, block: bool) -> Option<(i32, i32)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        let rc = unsafe { libc::waitpid(pid, &mut status, if block { 0 } else { libc::WNOHANG }) };
        match rc {
            rc if rc > 0 => return Some((rc, status)),
            -1 if last_errno() == libc::EINTR => continue,
            _ => return None,
        }
    }
}

/// Waits until `fd` is readable, which for a pidfd means that the process is dead. False: `end`
/// came first.
pub fn wait_readable(fd: BorrowedFd<'_>, end: BootTime) -> bool {
    loop {
        let left = end.since(boot_now());
        // Rounded up, so that the last wait does not become a busy loop.
        let millis = i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which outlives the call.
        let rc = unsafe { libc::poll(&mut poll, 1, millis) };
        if rc > 0 && poll.revents & libc::POLLIN != 0 {
            return true;
        }
        if millis == 0 {
            return false;
        }
    }
}

/// When process `pid` was started, in clock ticks after boot: field 22 of `/proc/PID/stat`, see
/// proc(5). With the boot id it tells two processes of one number apart. `None`: no such process.
pub fn start_ticks(pid: i32) -> io::Result<Option<u64>> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(e) if matches!(errno_of(&e), libc::ENOENT | libc::ESRCH) => return Ok(None),
        Err(e) => return Err(e),
    };
    // The second field is the name in brackets, which may hold blanks and brackets itself.
    let ticks = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse().ok());
    ticks.map(Some).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no field 22")))
}

/// The id of this boot of the machine.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The PID namespace of this process, in which its process numbers mean something.
pub fn pid_namespace() -> io::Result<String> {
    let link = fs::read_link("/proc/self/ns/pid")?;
    Ok(link.to_string_lossy().into_owned())
}

/// Keeps the guard's memory from being paged out, where that is permitted. `MCL_ONFAULT`: only
/// pages that are used, since the guard is a small part of a large program.
pub fn lock_memory() -> io::Result<()> {
    // With a limit, later allocations could fail for having to be locked as well.
    let future = if memory_lock_is_unlimited() { libc::MCL_FUTURE } else { 0 };
    // SAFETY: changes no memory.
    let rc = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT | future) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn memory_lock_is_unlimited() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    let rc = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    if rc == 0 && limit.rlim_cur == libc::RLIM_INFINITY {
        return true;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}

/// A line to the guard's log. Failing to write it (a full disk) must not matter.
pub fn log(line: &str) {
    let _ = writeln!(io::stderr(), "guard {}: {line}", std::process::id());
}
