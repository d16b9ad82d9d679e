//! The process tree of a guard: how it is started, fenced, and seen to end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::cgroup::{Cgroup, Watcher};
use super::init::{self, Message};
use super::prepared::Prepared;
use super::record::Record;
use super::refusal::{Refusal, Stage};
use super::socket;
use super::spec::StartSpec;
use super::status::{Exit, FencingKind, TreeState};
use super::sys::{self, Forked};

/// What a start needs from the guard.
pub struct Surroundings<'a> {
    /// Directory of the record.
    pub run_dir: &'a Path,
    /// The record of a guard that has started nothing.
    pub record: &'a Record,
    /// The locked file, which the init keeps open.
    pub lock: BorrowedFd<'a>,
    /// The value of `oom_score_adj` that the guard was started with.
    pub oom_score_adj: Option<&'a str>,
}

/// A started tree.
pub struct Tree {
    kind: FencingKind,
    init_pid: i32,
    init: OwnedFd,
    control: OwnedFd,
    postmaster: Option<(Option<i32>, OwnedFd)>,
    exit: Option<Exit>,
    state: TreeState,
    init_dead: bool,
    fence: Option<(Cgroup, Watcher)>,
}

/// A forked init that waits for the word to go.
struct Init {
    pid: i32,
    pidfd: OwnedFd,
    control: OwnedFd,
}

impl Init {
    fn fork(
        flags: libc::c_int,
        kind: FencingKind,
        prepared: &Prepared,
        lock: BorrowedFd<'_>,
    ) -> io::Result<Init> {
        let (ours, theirs) = socket::pair()?;
        // SAFETY: the guard has one thread.
        match unsafe { sys::fork_with(flags) }? {
            Forked::Child => init::run(theirs, lock, prepared, kind),
            Forked::Parent(pid, pidfd) => Ok(Init { pid, pidfd, control: ours }),
        }
    }

    /// Ends an init that has not started anything.
    fn abandon(self) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        sys::wait_child(self.pid, true);
    }
}

/// Starts a tree with the strongest fence that works and that `spec` permits. On failure nothing
/// runs. The postmaster's own failure comes later, see [`Tree::read_control`].
pub fn start(spec: &StartSpec, around: &Surroundings<'_>) -> Result<Tree, Refusal> {
    let failed = |stage| move |e: io::Error| Refusal::Failed { stage, errno: sys::errno_of(&e) };
    let prepared = Prepared::new(spec, around.oom_score_adj).map_err(|_| Refusal::Malformed)?;
    let (kind, init, fence) = fork_fenced(spec, &prepared, around)?;

    // The record comes before the word to go: what it does not name never started anything.
    let recorded = sys::start_ticks(init.pid).and_then(|init_starttime| {
        // It waits for us and is not reaped, so it is there.
        let init_starttime = init_starttime.ok_or(io::ErrorKind::NotFound)?;
        Record {
            init_pid: Some(init.pid),
            init_starttime: Some(init_starttime),
            fencing: Some(kind),
            cgroup: fence.as_ref().map(|(cgroup, _)| cgroup.dir().to_owned()),
            ..around.record.clone()
        }
        .write(around.run_dir)
    });
    let ready = recorded.map_err(failed(Stage::Record)).and_then(|()| {
        socket::send(init.control.as_fd(), &init::GO, None).map_err(failed(Stage::Init))
    });
    if let Err(refusal) = ready {
        init.abandon();
        return Err(refusal);
    }
    Ok(Tree {
        kind,
        init_pid: init.pid,
        init: init.pidfd,
        control: init.control,
        postmaster: None,
        exit: None,
        state: TreeState::Starting,
        init_dead: false,
        fence,
    })
}

type Fenced = (FencingKind, Init, Option<(Cgroup, Watcher)>);

fn fork_fenced(
    spec: &StartSpec,
    prepared: &Prepared,
    around: &Surroundings<'_>,
) -> Result<Fenced, Refusal> {
    let wanted = |kind| spec.only.is_none_or(|only| only == kind);
    let fork = |flags, kind| Init::fork(flags, kind, prepared, around.lock);
    let (mut pid_namespace, mut user_namespace, mut cgroup) = (0, 0, 0);
    if wanted(FencingKind::PidNamespace) {
        // Never CLONE_NEWIPC: the shared-memory interlock that keeps a second postmaster off the
        // data directory works across PID namespaces only while IPC is shared.
        match fork(libc::CLONE_NEWPID, FencingKind::PidNamespace) {
            Ok(init) => return Ok((FencingKind::PidNamespace, init, None)),
            Err(e) => pid_namespace = not_permitted(&e)?,
        }
        match fork(libc::CLONE_NEWPID | libc::CLONE_NEWUSER, FencingKind::PidNamespace) {
            Ok(init) => match write_user_maps(init.pid, spec) {
                Ok(()) => return Ok((FencingKind::PidNamespace, init, None)),
                Err(e) => {
                    init.abandon();
                    user_namespace = sys::errno_of(&e);
                }
            },
            Err(e) => user_namespace = not_permitted(&e)?,
        }
    }
    if let Some(dir) = spec.cgroup.as_deref().filter(|_| wanted(FencingKind::Cgroup)) {
        match fork_in_cgroup(dir, fork) {
            Ok((init, fence)) => return Ok((FencingKind::Cgroup, init, Some(fence))),
            Err(e) => cgroup = sys::errno_of(&e),
        }
    }
    if spec.best_effort && wanted(FencingKind::BestEffort) {
        // The guard too becomes the parent of orphans, to end those that the init leaves behind.
        // SAFETY: integers only.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        let init = fork(0, FencingKind::BestEffort)
            .map_err(|e| Refusal::Failed { stage: Stage::Clone, errno: sys::errno_of(&e) })?;
        return Ok((FencingKind::BestEffort, init, None));
    }
    Err(Refusal::NoFencing { pid_namespace, user_namespace, cgroup })
}

/// The error number, where the error means that this system does not permit such a namespace.
fn not_permitted(e: &io::Error) -> Result<i32, Refusal> {
    match sys::errno_of(e) {
        errno @ (libc::EPERM | libc::ENOSPC | libc::EINVAL | libc::EUSERS) => Ok(errno),
        errno => Err(Refusal::Failed { stage: Stage::Clone, errno }),
    }
}

fn fork_in_cgroup(
    dir: &Path,
    fork: impl FnOnce(libc::c_int, FencingKind) -> io::Result<Init>,
) -> io::Result<(Init, (Cgroup, Watcher))> {
    let cgroup = Cgroup::open(dir)?;
    if cgroup.is_populated()? {
        // Somebody else's processes would be killed, or hide that ours are gone.
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    let watcher = cgroup.watch()?;
    let init = fork(0, FencingKind::Cgroup)?;
    if let Err(e) = cgroup.enter(init.pid) {
        init.abandon();
        return Err(e);
    }
    Ok((init, (cgroup, watcher)))
}

/// Maps user and groups of the namespace to themselves, so that files look the same inside.
fn write_user_maps(pid: i32, spec: &StartSpec) -> io::Result<()> {
    // SAFETY: cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let (mut uids, mut gids) = (vec![uid], vec![gid]);
    match spec.credentials.as_ref().filter(|c| c.uid != uid) {
        // More than one's own user needs CAP_SETUID and CAP_SETGID outside.
        Some(c) => {
            uids.push(c.uid);
            gids.push(c.gid);
            gids.extend_from_slice(&c.groups);
        }
        // The kernel's condition for mapping a group without CAP_SETGID.
        None => fs::write(format!("/proc/{pid}/setgroups"), "deny")?,
    }
    fs::write(format!("/proc/{pid}/uid_map"), identity_map(uids))?;
    fs::write(format!("/proc/{pid}/gid_map"), identity_map(gids))
}

fn identity_map(mut ids: Vec<u32>) -> String {
    ids.sort_unstable();
    ids.dedup();
    ids.iter().map(|id| format!("{id} {id} 1\n")).collect()
}

impl Tree {
    /// The fence in use.
    pub fn kind(&self) -> FencingKind {
        self.kind
    }

    /// The init's process id.
    pub fn init_pid(&self) -> i32 {
        self.init_pid
    }

    /// The postmaster's process id, while it is known.
    pub fn postmaster_pid(&self) -> Option<i32> {
        self.postmaster.as_ref().and_then(|(pid, _)| *pid)
    }

    /// Where the tree is in its life.
    pub fn state(&self) -> TreeState {
        self.state
    }

    /// The descriptors to poll: messages from the init, its death, and the watcher's death. The
    /// first two are `None` once the init is dead.
    pub fn poll_fds(&self) -> [Option<BorrowedFd<'_>>; 3] {
        let alive = !self.init_dead;
        [
            alive.then(|| self.control.as_fd()),
            alive.then(|| self.init.as_fd()),
            self.fence.as_ref().filter(|_| alive).map(|(_, watcher)| watcher.pidfd()),
        ]
    }

    /// True while processes may be left that only asking again can tell.
    pub fn is_settling(&self) -> bool {
        self.init_dead && !matches!(self.state, TreeState::Empty(_))
    }

    /// The descriptor by which a client proves that the tree is empty.
    pub fn proof(&self) -> BorrowedFd<'_> {
        match &self.fence {
            Some((cgroup, _)) => cgroup.events(),
            None => self.init.as_fd(),
        }
    }

    /// Takes one message of the init. `None`: there is none now.
    pub fn read_control(&mut self) -> Option<Message> {
        let mut buf = [0u8; init::MESSAGE_BYTES_MAX];
        let (n, passed) = socket::recv_with_fd(self.control.as_fd(), &mut buf).ok()?;
        let message = Message::decode(buf.get(..n)?)?;
        match message {
            Message::Started => {
                if let Some(pidfd) = passed {
                    let pid = sys::pidfd_pid(pidfd.as_fd()).unwrap_or_default();
                    self.postmaster = Some((pid, pidfd));
                }
                self.state = TreeState::Running;
            }
            Message::Exited(status) => {
                if let Some(exit) = Exit::from_wait_status(status) {
                    self.exit = Some(exit);
                    self.state = TreeState::PostmasterExited(exit);
                }
                self.postmaster = None;
            }
            Message::Failed(..) => {}
        }
        Some(message)
    }

    /// To be called once the init's descriptor is readable, and then until it says that the tree
    /// is empty.
    pub fn settle(&mut self) {
        if !self.init_dead {
            self.init_dead = true;
            self.postmaster = None;
            sys::wait_child(self.init_pid, false);
        }
        let empty = match (&self.fence, self.kind) {
            // The kernel lets the init die only after everything in its namespace is gone.
            (None, FencingKind::PidNamespace) => true,
            (Some((cgroup, _)), _) => {
                let _ = cgroup.kill();
                cgroup.is_populated().is_ok_and(|populated| !populated)
            }
            (None, _) => kill_orphans(),
        };
        if empty {
            self.state = TreeState::Empty(self.exit);
            self.fence = None;
        }
    }

    /// Sends `signal` to the postmaster.
    pub fn signal(&self, signal: i32) -> Result<(), Refusal> {
        let (_, pidfd) = self.postmaster.as_ref().ok_or(Refusal::NotRunning)?;
        sys::pidfd_send_signal(pidfd.as_fd(), signal)
            .map_err(|e| Refusal::System { errno: sys::errno_of(&e) })
    }

    /// Kills the whole tree. Its end is reported by [`Tree::settle`].
    pub fn kill(&self) -> Result<(), Refusal> {
        if self.init_dead {
            return Ok(());
        }
        if let Some((cgroup, _)) = &self.fence {
            let _ = cgroup.kill();
        }
        sys::pidfd_send_signal(self.init.as_fd(), libc::SIGKILL)
            .map_err(|e| Refusal::System { errno: sys::errno_of(&e) })
    }
}

/// Kills the processes that fell to the guard when the init died, and reaps them. True: none left.
fn kill_orphans() -> bool {
    // A child that dies hands its own children on to us, so that this is asked again and again.
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    for pid in children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
        // SAFETY: our own child, not reaped yet, so that the number is still its own.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    while sys::wait_child(-1, false).is_some() {}
    // SAFETY: a null status is allowed.
    let rc = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    // There is no child, dead or alive.
    rc == -1 && sys::last_errno() == libc::ECHILD
}
