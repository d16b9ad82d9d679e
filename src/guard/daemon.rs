//! From `hanode guard` on the command line to a process of its own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::server::Guard;
use super::{init, sys};
use crate::domain::types::GuardId;

/// Exit codes of the process that starts the guard; 0: the guard is ready.
pub mod exit_code {
    /// Something else failed: see the guard's log.
    pub const FAILED: i32 = 1;
    /// The arguments are wrong.
    pub const USAGE: i32 = 64;
    /// Another guard or its init holds the lock of the run directory.
    pub const LOCKED: i32 = 65;
    /// An earlier guard's tree is not proven to be empty.
    pub const EARLIER_TREE: i32 = 66;
}

/// Runs `hanode guard`; `args` are the arguments after `guard`. Must be called before any thread
/// is made. Returns the exit code of the calling process: soon, once the guard is ready in a
/// process of its own, in a session of its own. In that process it returns at the guard's end.
pub fn main(args: &[OsString]) -> i32 {
    let Some((run_dir, guard_id)) = parse(args) else {
        sys::log("usage: hanode guard --run-dir ABSOLUTE-DIRECTORY --guard-id 32-HEX-DIGITS");
        return exit_code::USAGE;
    };
    // Descriptors that whoever executed us forgot to close: they would stay open for a long time.
    // SAFETY: this process has opened nothing yet that it would go on to use.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    // The parent waits for one byte: the exit code it returns.
    let (reader, writer) = match nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC) {
        Ok(pipe) => pipe,
        Err(e) => return fail(exit_code::FAILED, &format!("pipe: {e}")),
    };
    // SAFETY: no other thread exists yet.
    match unsafe { nix::unistd::fork() } {
        Err(e) => fail(exit_code::FAILED, &format!("fork: {e}")),
        Ok(nix::unistd::ForkResult::Parent { .. }) => {
            drop(writer);
            let mut code = [0u8; 1];
            match nix::unistd::read(&reader, &mut code) {
                Ok(1) => i32::from(code[0]),
                _ => exit_code::FAILED,
            }
        }
        Ok(nix::unistd::ForkResult::Child) => {
            drop(reader);
            detach();
            let guard = Guard::new(run_dir, guard_id);
            let code = guard.as_ref().err().copied().unwrap_or(0);
            let _ = nix::unistd::write(&writer, &[u8::try_from(code).unwrap_or(1)]);
            drop(writer);
            match guard {
                Ok(mut guard) => guard.run(),
                Err(code) => code,
            }
        }
    }
}

/// Says why on the log, and gives the code back.
pub fn fail(code: i32, what: &str) -> i32 {
    sys::log(what);
    code
}

fn parse(args: &[OsString]) -> Option<(PathBuf, GuardId)> {
    let (mut run_dir, mut guard_id) = (None, None);
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let value = args.next()?;
        if name == OsStr::new("--run-dir") {
            run_dir = Some(PathBuf::from(value)).filter(|dir| dir.is_absolute());
        } else if name == OsStr::new("--guard-id") {
            guard_id = Some(GuardId::new(value.to_str()?).ok()?);
        } else {
            return None;
        }
    }
    Some((run_dir?, guard_id?))
}

/// Leaves everything that ties this process to the one that started it.
fn detach() {
    init::set_name(c"quorate-guard");
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // SAFETY: dispositions and a mask; `set` is initialised by sigemptyset. A service manager or
    // a slip of the hand must not take PostgreSQL down. SIGCHLD must be default, or the exit
    // status of the init is lost.
    unsafe {
        for signal in [
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGPIPE,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGALRM,
            libc::SIGXFSZ,
        ] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Asks the out-of-memory killer to spare this process. Returns the value it had.
pub fn protect_from_oom() -> Option<String> {
    let path = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(path).ok()?;
    // Needs CAP_SYS_RESOURCE; without it nothing changes and nothing has to be restored.
    fs::write(path, "-1000").ok()?;
    Some(before.trim().to_owned())
}

/// A busy machine must not delay a renewal until the lease is over: asks for a high priority.
/// Without CAP_SYS_NICE it stays as it is. The postmaster does not inherit it.
pub fn raise_priority() {
    // Far above ordinary processes, and not the very highest.
    const NICE: i32 = -15;
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` outlives the call.
    unsafe {
        let policy = libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK;
        if libc::sched_setscheduler(0, policy, &param) == 0 {
            libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
        }
    }
}

/// Takes the lock of a run directory. The error is an exit code.
pub fn lock(path: &Path) -> Result<Flock<File>, i32> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| fail(exit_code::FAILED, &format!("guard.lock: {e}")))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        nix::errno::Errno::EWOULDBLOCK => {
            fail(exit_code::LOCKED, "another guard or its init holds guard.lock")
        }
        e => fail(exit_code::FAILED, &format!("guard.lock: {e}")),
    })
}
