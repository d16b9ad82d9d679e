//! The agent's end of the connection to a guard.
#![allow(clippy::disallowed_methods)] // talks to a real process: real time, a task of its own

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::daemon::exit_code;
use super::proof::{self, Proof, ProofError};
use super::protocol::{EVENT_ID, PACKET_BYTES_MAX, Reply, Request};
use super::refusal::Refusal;
use super::spec::StartSpec;
use super::status::{FencingKind, Status, TreeState};
use super::{LOG_FILE, SOCKET_FILE, cgroup, socket};
use crate::domain::types::{BootTime, GuardId};

/// Longest wait for the answer to a request.
const REQUEST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait for a start: the guard writes its record to disk, the init executes a program.
const START_WAIT: Duration = Duration::from_secs(10);
/// How often a cgroup is asked whether it is empty.
const CGROUP_POLL: Duration = Duration::from_millis(5);
/// A guard writes a few lines in its life; a log beyond this length is begun anew, in bytes.
const LOG_BYTES_MAX: u64 = 256 * 1024;
/// Longest reply, in bytes, with room for what later versions add.
const REPLY_BYTES_MAX: usize = 4096;

/// What went wrong between agent and guard.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guard answered no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No answer in time. Whether the guard did it is unknown.
    #[error("the guard did not answer within {after:?}")]
    TimedOut {
        /// The time that was waited.
        after: Duration,
    },
    /// The connection has ended. Whether the guard lives, or did what was asked, is unknown.
    #[error("the connection to the guard is lost")]
    Lost,
    /// Another guard, or the init of one, is alive in the run directory: attach to it.
    #[error("another guard is alive in {}", run_dir.display())]
    AnotherGuard {
        /// The run directory.
        run_dir: PathBuf,
    },
    /// The tree of an earlier guard is not proven to be empty: see [`prove_empty`].
    #[error("an earlier process tree may be alive, see {}", log.display())]
    EarlierTree {
        /// The guard's log.
        log: PathBuf,
    },
    /// The guard process did not come up.
    #[error("the guard did not start (exit code {code:?}), see {}", log.display())]
    NotStarted {
        /// Exit code of `hanode guard`; `None` where a signal ended it.
        code: Option<i32>,
        /// The guard's log.
        log: PathBuf,
    },
    /// The request does not fit into a packet.
    #[error("the request has {bytes} bytes, more than {PACKET_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The answer does not belong to the request.
    #[error("the guard gave an answer that does not fit the request")]
    Protocol,
    /// The tree was not empty at the deadline.
    #[error("the process tree is not empty after {after:?}")]
    NotEmpty {
        /// The time that was waited.
        after: Duration,
    },
    /// With best-effort fencing only a living guard can tell that the tree is empty.
    #[error(
        "no proof that the process tree is empty: fencing is best-effort and the guard is lost"
    )]
    NoProof,
    /// A system call or a file failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

type Answer = (Reply, Option<OwnedFd>);
type Pending = Option<BTreeMap<u32, oneshot::Sender<Answer>>>;

/// State that requests and the reader share.
struct Shared {
    fd: AsyncFd<OwnedFd>,
    /// Requests that wait for an answer; `None` once the connection is lost.
    pending: Mutex<Pending>,
    tree: watch::Sender<TreeState>,
    next_id: AtomicU32,
    /// The guard said that the tree is empty, which stays true when the guard is lost.
    ended: AtomicBool,
    proof: Mutex<Option<(FencingKind, Arc<AsyncFd<OwnedFd>>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-changed by what runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the reader with the last client.
struct Reader(tokio::task::JoinHandle<()>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection to a guard. Cheap to clone; requests of all clones run side by side. Dropping the
/// last one closes the connection and leaves the guard and its tree alone.
#[derive(Clone)]
pub struct GuardClient {
    guard_id: GuardId,
    shared: Arc<Shared>,
    _reader: Arc<Reader>,
}

impl GuardClient {
    /// Starts a new guard, `binary guard ...`, and waits up to `deadline` until it answers. It
    /// has no tie to this process but the connection.
    pub async fn spawn(
        binary: &Path,
        run_dir: &Path,
        deadline: Duration,
    ) -> Result<GuardClient, Error> {
        match timeout(deadline, Self::spawn_now(binary, run_dir)).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { after: deadline }),
        }
    }

    async fn spawn_now(binary: &Path, run_dir: &Path) -> Result<GuardClient, Error> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|e| Error::Io {
            what: "drawing a guard id",
            source: io::Error::other(e.to_string()),
        })?;
        let guard_id = GuardId::from_bytes(random);
        let log = run_dir.join(LOG_FILE);
        let stderr = open_log(&log).map_err(io_error("opening the guard's log"))?;
        // No environment: it may hold secrets, and the guard needs none.
        let status = Command::new(binary)
            .arg("guard")
            .arg("--run-dir")
            .arg(run_dir)
            .args(["--guard-id", guard_id.as_str()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(true)
            .status()
            .await
            .map_err(io_error("executing the guard"))?;
        match status.code() {
            Some(0) => {}
            Some(exit_code::LOCKED) => {
                return Err(Error::AnotherGuard { run_dir: run_dir.to_owned() });
            }
            Some(exit_code::EARLIER_TREE) => return Err(Error::EarlierTree { log }),
            code => return Err(Error::NotStarted { code, log }),
        }
        match Self::attach_now(run_dir).await? {
            Some(client) if client.guard_id == guard_id => Ok(client),
            Some(_) => Err(Error::AnotherGuard { run_dir: run_dir.to_owned() }),
            None => Err(Error::NotStarted { code: None, log }),
        }
    }

    /// Connects to the guard that lives in `run_dir`, and takes it over from an older client.
    /// `None`: there is no guard, see [`prove_empty`] for what it left.
    pub async fn attach(run_dir: &Path, deadline: Duration) -> Result<Option<GuardClient>, Error> {
        match timeout(deadline, Self::attach_now(run_dir)).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { after: deadline }),
        }
    }

    async fn attach_now(run_dir: &Path) -> Result<Option<GuardClient>, Error> {
        let fd = match socket::connect(&run_dir.join(SOCKET_FILE)) {
            Ok(fd) => fd,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(io_error("connecting to the guard")(e)),
        };
        let shared = Arc::new(Shared {
            // SAFETY: an OwnedFd is one descriptor, open for as long as it lives.
            fd: unsafe { AsyncFd::register(fd) }
                .map_err(|e| io_error("watching the guard's socket")(e.into()))?,
            pending: Mutex::new(Some(BTreeMap::new())),
            tree: watch::Sender::new(TreeState::Idle),
            next_id: AtomicU32::new(EVENT_ID),
            ended: AtomicBool::new(false),
            proof: Mutex::new(None),
        });
        let reader = Arc::new(Reader(tokio::spawn(read_replies(shared.clone()))));
        let status = match shared.request(Request::Status, REQUEST_WAIT).await? {
            (Reply::Status(status), _) => *status,
            _ => return Err(Error::Protocol),
        };
        let client = GuardClient { guard_id: status.guard_id, shared, _reader: reader };
        if status.init_pid.is_some() {
            client.fetch_proof().await?;
        }
        Ok(Some(client))
    }

    /// The guard's identity.
    pub fn guard_id(&self) -> &GuardId {
        &self.guard_id
    }

    /// Starts the tree, and waits until the postmaster's program runs. A guard does this once. On
    /// a refusal [`GuardClient::status`] tells whether it may be asked again (`Idle`).
    pub async fn start(&self, spec: &StartSpec) -> Result<Status, Error> {
        let request = Request::Start(Box::new(spec.clone()));
        let status = match self.shared.request(request, START_WAIT).await? {
            (Reply::Status(status), _) => *status,
            _ => return Err(Error::Protocol),
        };
        self.fetch_proof().await?;
        Ok(status)
    }

    /// Moves the kernel timer forward to `deadline`, at which the whole tree dies. Returns the
    /// deadline in force.
    pub async fn arm(&self, deadline: BootTime) -> Result<BootTime, Error> {
        match self.shared.request(Request::Arm(deadline), REQUEST_WAIT).await? {
            (Reply::Armed(in_force), _) => Ok(in_force),
            _ => Err(Error::Protocol),
        }
    }

    /// Sends signal number `sig` to the postmaster.
    pub async fn signal(&self, sig: i32) -> Result<(), Error> {
        self.expect_done(Request::Signal(sig)).await
    }

    /// Kills every process of the tree. Its end is told by [`GuardClient::empty`].
    pub async fn kill(&self) -> Result<(), Error> {
        self.expect_done(Request::Kill).await
    }

    /// Asks for the state of guard and tree.
    pub async fn status(&self) -> Result<Status, Error> {
        match self.shared.request(Request::Status, REQUEST_WAIT).await? {
            (Reply::Status(status), _) => Ok(*status),
            _ => Err(Error::Protocol),
        }
    }

    /// Ends the guard. Refused while a process of its tree is alive.
    pub async fn exit(&self) -> Result<(), Error> {
        self.expect_done(Request::Exit).await
    }

    async fn expect_done(&self, request: Request) -> Result<(), Error> {
        match self.shared.request(request, REQUEST_WAIT).await? {
            (Reply::Done, _) => Ok(()),
            _ => Err(Error::Protocol),
        }
    }

    /// The latest state of the tree, pushed by the guard; `Lost` for good once the connection has
    /// ended.
    pub fn watch(&self) -> watch::Receiver<TreeState> {
        self.shared.tree.subscribe()
    }

    /// Waits up to `deadline` for proof that no process of the tree is left. It needs no guard:
    /// the kernel itself is asked. A guard that has started nothing has an empty tree.
    pub async fn empty(&self, deadline: Duration) -> Result<(), Error> {
        match timeout(deadline, self.empty_now()).await {
            Ok(result) => result,
            Err(_) => Err(Error::NotEmpty { after: deadline }),
        }
    }

    async fn empty_now(&self) -> Result<(), Error> {
        if self.shared.ended.load(Ordering::Acquire) {
            return Ok(());
        }
        let held = lock(&self.shared.proof).clone();
        let held = match held {
            Some(held) => Some(held),
            None => self.fetch_proof().await?,
        };
        match held {
            None => Ok(()),
            Some((FencingKind::PidNamespace, pidfd)) => {
                pidfd
                    .readable()
                    .await
                    .map_err(io_error("waiting for the init's end"))?
                    .retain_ready();
                Ok(())
            }
            Some((FencingKind::Cgroup, events)) => {
                let events = events.get_ref().try_clone().map_err(io_error("cgroup.events"))?;
                let events = File::from(events);
                while cgroup::is_populated(&events).map_err(io_error("cgroup.events"))? {
                    tokio::time::sleep(CGROUP_POLL).await;
                }
                Ok(())
            }
            Some((FencingKind::BestEffort, _)) => {
                let mut tree = self.watch();
                let ended =
                    |tree: &TreeState| matches!(tree, TreeState::Empty(_) | TreeState::Lost);
                match tree.wait_for(ended).await.as_deref() {
                    Ok(TreeState::Empty(_)) => Ok(()),
                    _ => Err(Error::NoProof),
                }
            }
        }
    }

    /// Gets the descriptor that proves emptiness and keeps it. `None`: the tree is empty.
    async fn fetch_proof(&self) -> Result<Option<(FencingKind, Arc<AsyncFd<OwnedFd>>)>, Error> {
        let (kind, fd) = match self.shared.request(Request::PidFd, REQUEST_WAIT).await {
            Ok((Reply::PidFd(kind), Some(fd))) => (kind, fd),
            Err(Error::Refused(Refusal::NotRunning)) => return Ok(None),
            Err(Error::Refused(Refusal::TreeEnded)) => {
                self.shared.ended.store(true, Ordering::Release);
                return Ok(None);
            }
            Ok(_) => return Err(Error::Protocol),
            Err(e) => return Err(e),
        };
        // A file of a cgroup is ready for priority events only.
        let interest =
            if kind == FencingKind::Cgroup { Interest::PRIORITY } else { Interest::READABLE };
        // SAFETY: an OwnedFd is one descriptor, open for as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, interest) }
            .map_err(|e| io_error("watching the init's descriptor")(e.into()))?;
        let proof = (kind, Arc::new(fd));
        *lock(&self.shared.proof) = Some(proof.clone());
        Ok(Some(proof))
    }
}

/// Opens the guard's log for appending; begins it anew where it has grown too long.
fn open_log(path: &Path) -> io::Result<File> {
    let file = File::options().append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.len() > LOG_BYTES_MAX {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Forgets a request when it is answered, given up or cancelled.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(pending) = lock(&self.shared.pending).as_mut() {
            pending.remove(&self.id);
        }
    }
}

impl Shared {
    /// Sends a request at once, beside others that wait, and waits for its answer. A refusal
    /// comes back as an error.
    async fn request(&self, request: Request, wait: Duration) -> Result<Answer, Error> {
        let id = loop {
            match self.next_id.fetch_add(1, Ordering::Relaxed) {
                EVENT_ID => {}
                id => break id,
            }
        };
        let mut packet = Vec::with_capacity(64);
        request.encode(id, &mut packet);
        if packet.len() > PACKET_BYTES_MAX {
            return Err(Error::TooLong { bytes: packet.len() });
        }
        let (sender, receiver) = oneshot::channel();
        lock(&self.pending).as_mut().ok_or(Error::Lost)?.insert(id, sender);
        let _waiting = Waiting { shared: self, id };
        let answer = timeout(wait, async {
            match self.send(&packet).await {
                // The sender is dropped when the connection ends.
                Ok(()) => receiver.await.map_err(|_| Error::Lost),
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Error::Lost),
                Err(e) => Err(io_error("sending to the guard")(e)),
            }
        })
        .await;
        match answer {
            Err(_) => Err(Error::TimedOut { after: wait }),
            Ok(Ok((Reply::Refused(refusal), _))) => Err(Error::Refused(refusal)),
            Ok(answer) => answer,
        }
    }

    fn learn(&self, tree: TreeState) {
        if let TreeState::Empty(_) = tree {
            self.ended.store(true, Ordering::Release);
        }
        self.tree.send_if_modified(|known| std::mem::replace(known, tree) != tree);
    }

    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        let send = |fd: &OwnedFd| socket::send(fd.as_fd(), packet, None);
        self.fd.async_io(Interest::WRITABLE, send).await
    }
}

/// Hands replies to those who wait for them, until the connection ends.
async fn read_replies(shared: Arc<Shared>) {
    let mut buf = vec![0u8; REPLY_BYTES_MAX];
    loop {
        let read = |fd: &OwnedFd| socket::recv_with_fd(fd.as_fd(), &mut buf);
        let (n, passed) = match shared.fd.async_io(Interest::READABLE, read).await {
            Ok((n, passed)) if n > 0 => (n, passed),
            _ => break,
        };
        // What a later guard says and this client does not understand is skipped.
        let Ok((id, reply)) = Reply::decode(buf.get(..n).unwrap_or_default()) else { continue };
        match &reply {
            Reply::Event(tree) => shared.learn(*tree),
            Reply::Status(status) => shared.learn(status.tree),
            _ => {}
        }
        let waiting = lock(&shared.pending).as_mut().and_then(|pending| pending.remove(&id));
        if let Some(waiting) = waiting {
            // Nobody waits any more where the request timed out.
            let _ = waiting.send((reply, passed));
        }
    }
    *lock(&shared.pending) = None;
    shared.tree.send_replace(TreeState::Lost);
}

/// For a guard that is gone: proves from `guard.json` in `run_dir` (boot id, process id, start
/// time) that its tree is empty, waiting up to `deadline` for it. Kills nothing, unless `kill`:
/// then what is left of guard and init is killed first.
pub async fn prove_empty(
    run_dir: &Path,
    kill: bool,
    deadline: Duration,
) -> Result<Proof, ProofError> {
    let dir = run_dir.to_owned();
    // The proof itself keeps the deadline.
    let task = tokio::task::spawn_blocking(move || proof::prove(&dir, kill, deadline));
    task.await.unwrap_or_else(|e| {
        Err(ProofError::Io { path: run_dir.to_owned(), source: io::Error::other(e) })
    })
}
