//! The init: first process of the tree, forked from the guard without exec.
//!
//! It starts the postmaster, reaps every orphan, reports how the postmaster ended, and dies. It
//! dies with the guard (`PR_SET_PDEATHSIG`), and in a PID namespace everything dies with it.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::prepared::Prepared;
use super::refusal::Stage;
use super::socket;
use super::status::FencingKind;
use super::sys::{self, Forked};

/// Longest message between guard and init, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 8;
/// The guard's word that the init is recorded and may start the postmaster.
pub const GO: [u8; 1] = [1];
/// Where the init keeps its end of the socket pair.
const CONTROL_FD: i32 = 3;
/// Where the init keeps the lock on the run directory.
const LOCK_FD: i32 = 4;

/// What the init tells the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// The postmaster's program runs. Its pidfd travels beside the message.
    Started,
    /// The postmaster could not be started.
    Failed(Stage, i32),
    /// The postmaster ended with this status of `waitpid(2)`.
    Exited(i32),
}

impl Message {
    /// Writes the message.
    pub fn encode(self) -> [u8; MESSAGE_BYTES_MAX] {
        let (tag, stage, number) = match self {
            Message::Started => (1, 0, 0),
            Message::Failed(stage, errno) => (2, stage.code(), errno),
            Message::Exited(status) => (3, 0, status),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [tag, stage, 0, 0, a, b, c, d]
    }

    /// Reads a message.
    pub fn decode(bytes: &[u8]) -> Option<Message> {
        let [tag, stage, _, _, a, b, c, d] = *bytes.first_chunk::<MESSAGE_BYTES_MAX>()?;
        let number = i32::from_le_bytes([a, b, c, d]);
        match tag {
            1 => Some(Message::Started),
            2 => Some(Message::Failed(Stage::from_code(stage)?, number)),
            3 => Some(Message::Exited(number)),
            _ => None,
        }
    }
}

/// Runs the init in a process that was just forked. `control` is connected to the guard; `lock`
/// is the descriptor of the locked file, kept so that the lock ends with the last of both.
pub fn run(control: OwnedFd, lock: BorrowedFd<'_>, prepared: &Prepared, kind: FencingKind) -> ! {
    set_name(c"quorate-init");
    let Some(control) = keep_only(&control, lock) else { exit(10) };
    let control = control.as_fd();
    // The order matters: first the signal is asked for, then the guard is seen alive. Its
    // descriptors are closed before its children are signalled, so that one of both is seen.
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        exit(11);
    }
    if kind != FencingKind::PidNamespace {
        // Orphans come to us as they would in a namespace.
        // SAFETY: integers only.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    }
    if !wait_for_go(control) || hung_up(control) {
        exit(12);
    }
    match start_postmaster(prepared, kind) {
        Err((stage, errno)) => {
            let _ = socket::send(control, &Message::Failed(stage, errno).encode(), None);
            exit(13);
        }
        Ok((pid, pidfd)) => {
            let message = Message::Started.encode();
            if socket::send(control, &message, Some(pidfd.as_fd())).is_err() {
                // A guard that does not know its postmaster cannot stop it in order.
                exit(14);
            }
            drop(pidfd);
            reap_until_exit(pid, control)
        }
    }
}

fn reap_until_exit(postmaster: i32, control: BorrowedFd<'_>) -> ! {
    loop {
        match sys::wait_child(-1, true) {
            Some((pid, status)) if pid == postmaster => {
                // The buffer takes it: this is the third message at most.
                let _ = socket::send(control, &Message::Exited(status).encode(), None);
                exit(0);
            }
            Some(_) => {}
            // Cannot be: the postmaster is our child until it is reaped above.
            None => exit(15),
        }
    }
}

/// Closes every descriptor but the standard ones, the control socket and the lock: the guard's
/// end of the socket pair above all, since its closing is how the guard's death is seen.
fn keep_only(control: &OwnedFd, lock: BorrowedFd<'_>) -> Option<OwnedFd> {
    const ABOVE: i32 = 10;
    // SAFETY: descriptors that are open, and numbers. Both are first moved out of the way, so
    // that neither is overwritten by the other.
    unsafe {
        let control = libc::fcntl(control.as_raw_fd(), libc::F_DUPFD, ABOVE);
        let lock = libc::fcntl(lock.as_raw_fd(), libc::F_DUPFD, ABOVE);
        let ok = control >= 0
            && lock >= 0
            && libc::dup3(control, CONTROL_FD, libc::O_CLOEXEC) >= 0
            && libc::dup3(lock, LOCK_FD, libc::O_CLOEXEC) >= 0
            && libc::close_range(5, libc::c_uint::MAX, 0) == 0;
        ok.then(|| OwnedFd::from_raw_fd(CONTROL_FD))
    }
}

fn wait_for_go(control: BorrowedFd<'_>) -> bool {
    let mut byte = [0u8; 1];
    loop {
        // SAFETY: `byte` outlives the call. Blocks until the guard speaks or is gone.
        let n = unsafe { libc::recv(control.as_raw_fd(), byte.as_mut_ptr().cast(), 1, 0) };
        match n {
            1 => return byte == GO,
            -1 if sys::last_errno() == libc::EINTR => {}
            _ => return false,
        }
    }
}

fn hung_up(control: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: control.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    unsafe { libc::poll(&mut poll, 1, 0) < 0 || poll.revents & libc::POLLHUP != 0 }
}

/// Forks the postmaster and waits until its program runs.
fn start_postmaster(
    prepared: &Prepared,
    kind: FencingKind,
) -> Result<(i32, OwnedFd), (Stage, i32)> {
    let failed = |stage| move |e: std::io::Error| (stage, sys::errno_of(&e));
    let mut pipe = [0i32; 2];
    // SAFETY: an array of two. Both ends close at exec, which is how success is seen.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err((Stage::Fork, sys::last_errno()));
    }
    // SAFETY: the kernel just made these descriptors for us alone.
    let (reader, writer) =
        unsafe { (OwnedFd::from_raw_fd(pipe[0]), OwnedFd::from_raw_fd(pipe[1])) };
    let init_pid = std::process::id();
    // SAFETY: the init has one thread.
    match unsafe { sys::fork_with(0) }.map_err(failed(Stage::Fork))? {
        Forked::Child => {
            let (stage, errno) = become_postmaster(prepared, kind, init_pid);
            let message = Message::Failed(stage, errno).encode();
            // SAFETY: `message` outlives the call.
            unsafe { libc::write(writer.as_raw_fd(), message.as_ptr().cast(), message.len()) };
            exit(127)
        }
        Forked::Parent(pid, pidfd) => {
            drop(writer);
            let mut message = [0u8; MESSAGE_BYTES_MAX];
            let n = loop {
                // SAFETY: `message` outlives the call.
                let n = unsafe {
                    libc::read(reader.as_raw_fd(), message.as_mut_ptr().cast(), message.len())
                };
                if n >= 0 || sys::last_errno() != libc::EINTR {
                    break n;
                }
            };
            match Message::decode(&message) {
                Some(Message::Failed(stage, errno)) if n > 0 => Err((stage, errno)),
                _ => Ok((pid, pidfd)),
            }
        }
    }
}

/// Turns a forked child into the postmaster. Returns only on failure.
fn become_postmaster(p: &Prepared, kind: FencingKind, init_pid: u32) -> (Stage, i32) {
    let failed = |stage| (stage, sys::last_errno());
    // SAFETY: all pointers are to C strings and null-ended arrays that `p` owns; the process has
    // one thread.
    unsafe {
        libc::setsid();
        reset_signals();
        if let Some(value) = &p.oom_score_adj {
            restore_oom_score_adj(value);
        }
        if let Some(c) = &p.credentials {
            // Groups first: after setresuid they could not be changed any more. In a user
            // namespace that maps one user only, they cannot be changed at all and stay.
            let groups = libc::setgroups(c.groups.len(), c.groups.as_ptr());
            if (groups != 0 && libc::geteuid() != c.uid)
                || libc::setresgid(c.gid, c.gid, c.gid) != 0
                || libc::setresuid(c.uid, c.uid, c.uid) != 0
            {
                return failed(Stage::Credentials);
            }
        }
        if kind != FencingKind::PidNamespace {
            // No namespace ends with the init, so the postmaster has to be told. After the
            // change of user, which clears it; and the init must be alive still.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() as u32 != init_pid {
                return (Stage::Fork, libc::ESRCH);
            }
        }
        libc::umask(p.umask);
        if libc::chdir(p.working_dir.as_ptr()) != 0 {
            return failed(Stage::WorkingDirectory);
        }
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        let log = libc::open(p.log_file.as_ptr(), flags, 0o600);
        if log < 0 || libc::dup2(log, 1) < 0 || libc::dup2(log, 2) < 0 {
            return failed(Stage::LogFile);
        }
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if null >= 0 {
            libc::dup2(null, 0);
        }
        // The pipe that reports failure stays until exec.
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32);
        libc::execve(p.program.as_ptr(), p.argv.as_ptr(), p.env.as_ptr());
    }
    failed(Stage::Exec)
}

/// Default reactions and an empty mask: the guard's ignored signals would outlive the exec.
fn reset_signals() {
    // All zero is SIG_DFL without flags, in every layout of the kernel's sigaction.
    let default = [0usize; 4];
    let mask_bytes = 8usize;
    // SAFETY: `default` is as large as the kernel's sigaction, `set` is initialised by
    // sigemptyset. The call itself and not signal(3), which leaves out two signals that the C
    // library keeps for its threads. Signals that cannot be changed are refused.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<libc::c_void>(),
                mask_bytes,
            );
        }
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

fn restore_oom_score_adj(value: &CStr) {
    // SAFETY: C strings; failure leaves the guard's value, which is no reason not to start.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
        if fd >= 0 {
            libc::write(fd, value.as_ptr().cast(), value.to_bytes().len());
            libc::close(fd);
        }
    }
}

/// Names this process in `ps` and `/proc/PID/comm`.
pub fn set_name(name: &CStr) {
    // SAFETY: a C string; the kernel copies 15 bytes at most.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Ends a forked process without running what its parent registered for its own end.
pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}
