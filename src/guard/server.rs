//! The guard at work: takes its run directory over, then serves one client and one tree.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::Flock;

use super::daemon::{self, exit_code};
use super::init::Message;
use super::protocol::{DecodeError, EVENT_ID, PACKET_BYTES_MAX, Reply, Request};
use super::record::Record;
use super::refusal::Refusal;
use super::spec::StartSpec;
use super::status::{Status, TreeState};
use super::timer::Deadline;
use super::tree::{self, Surroundings, Tree};
use super::{LOCK_FILE, SOCKET_FILE, proof, socket, sys};
use crate::clock::boot_now;
use crate::domain::types::{BootTime, GuardId};

/// A guard that nobody talks to and that guards nothing leaves after this time.
const UNATTENDED_MAX: Duration = Duration::from_secs(600);
/// How often a tree without a PID namespace is asked whether it is empty.
const SETTLE_POLL_MS: i32 = 5;
/// Requests that are answered before the other descriptors are looked at again.
const REQUESTS_PER_TURN: u32 = 16;

/// The guard process. Single-threaded; nothing in it waits but `poll(2)`.
pub struct Guard {
    run_dir: PathBuf,
    record: Record,
    lock: Flock<File>,
    oom_score_adj: Option<String>,
    listener: OwnedFd,
    client: Option<OwnedFd>,
    deadline: Deadline,
    tree: Option<Tree>,
    /// Id of the start request that waits for the postmaster to run.
    starting: Option<u32>,
    unattended_since: BootTime,
    leave: bool,
    packet_in: Vec<u8>,
    packet_out: Vec<u8>,
}

impl Guard {
    /// Takes the run directory over. The error is an exit code; its reason is in the log.
    pub fn new(run_dir: PathBuf, guard_id: GuardId) -> Result<Guard, i32> {
        let failed = |what: &'static str| {
            move |e: io::Error| daemon::fail(exit_code::FAILED, &format!("{what}: {e}"))
        };
        let lock = daemon::lock(&run_dir.join(LOCK_FILE))?;
        if let Err(e) = proof::prove_holding_lock(&run_dir) {
            return Err(daemon::fail(exit_code::EARLIER_TREE, &format!("an earlier tree: {e}")));
        }
        let record = Record::of_this_process(guard_id).map_err(failed("/proc"))?;
        record.write(&run_dir).map_err(failed("guard.json"))?;
        let path = run_dir.join(SOCKET_FILE);
        // The lock is ours, so a socket that is left belongs to no living guard.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(failed("removing an old socket")(e));
            }
            _ => {}
        }
        let listener = socket::listen(&path).map_err(failed("guard.sock"))?;
        let deadline = Deadline::new().map_err(|e| failed("timer")(e.into()))?;
        let oom_score_adj = daemon::protect_from_oom();
        let guard = Guard {
            run_dir,
            record,
            lock,
            oom_score_adj,
            listener,
            client: None,
            deadline,
            tree: None,
            starting: None,
            unattended_since: boot_now(),
            leave: false,
            packet_in: vec![0; PACKET_BYTES_MAX],
            packet_out: Vec::with_capacity(1024),
        };
        daemon::raise_priority();
        if let Err(e) = sys::lock_memory() {
            sys::log(&format!("memory is not locked: {e}"));
        }
        Ok(guard)
    }

    /// Serves until it is told to leave, or nobody has been there for long. Returns the exit code.
    pub fn run(&mut self) -> i32 {
        sys::log(&format!("ready as {}", self.record.guard_id));
        while !self.leave {
            self.turn();
        }
        let _ = fs::remove_file(self.run_dir.join(SOCKET_FILE));
        sys::log("left: nothing to guard");
        0
    }

    /// Waits for something to happen and deals with it. Allocates nothing but for a start.
    fn turn(&mut self) {
        let tree_fds = self.tree.as_ref().map(Tree::poll_fds).unwrap_or_default();
        let [control, init, watcher] = tree_fds;
        let fds = [Some(self.listener.as_fd()), self.client.as_ref().map(|c| c.as_fd())];
        let [listener, client] = fds;
        // A negative descriptor is skipped by poll(2).
        let mut polls = [listener, client, control, init, watcher].map(|fd| libc::pollfd {
            fd: fd.map_or(-1, |fd: BorrowedFd<'_>| fd.as_raw_fd()),
            events: libc::POLLIN,
            revents: 0,
        });
        let timeout = self.poll_timeout_ms();
        // SAFETY: `polls` outlives the call.
        let rc = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout) };
        if rc < 0 && sys::last_errno() != libc::EINTR {
            // Cannot be with valid arguments; better a short rest than a busy loop.
            #[allow(clippy::disallowed_methods)] // the guard has no runtime to block
            std::thread::sleep(Duration::from_millis(1));
        }
        let [listener, client, control, init, watcher] = polls.map(|p| rc > 0 && p.revents != 0);

        // Requests first: arming is what is urgent.
        if client {
            self.serve_client();
        }
        if control {
            self.read_control();
        }
        if init {
            // What the init said before it died is still to be read.
            self.read_control();
        }
        if init || self.tree.as_ref().is_some_and(Tree::is_settling) {
            self.settle();
        } else if watcher && let Some(tree) = &self.tree {
            // First of all: the log can be on a disk that stands still.
            let _ = tree.kill();
            sys::log("the watcher is dead: without it nothing fences, so the tree is killed");
        }
        if listener {
            self.accept();
        }
        if self.is_unattended() && self.unattended_left().is_zero() {
            self.leave = true;
        }
    }

    fn is_unattended(&self) -> bool {
        self.client.is_none() && matches!(self.tree_state(), TreeState::Idle | TreeState::Empty(_))
    }

    fn unattended_left(&self) -> Duration {
        self.unattended_since.plus(UNATTENDED_MAX).since(boot_now())
    }

    fn poll_timeout_ms(&self) -> i32 {
        if self.tree.as_ref().is_some_and(Tree::is_settling) {
            SETTLE_POLL_MS
        } else if self.is_unattended() {
            i32::try_from(self.unattended_left().as_millis()).unwrap_or(i32::MAX).saturating_add(1)
        } else {
            -1
        }
    }

    fn tree_state(&self) -> TreeState {
        self.tree.as_ref().map_or(TreeState::Idle, Tree::state)
    }

    /// The newest connection is the one that counts: an older client may be stuck.
    fn accept(&mut self) {
        let Ok(client) = socket::accept(self.listener.as_fd()) else { return };
        // SAFETY: cannot fail.
        let own = unsafe { libc::geteuid() };
        match socket::peer_uid(&client) {
            Ok(uid) if uid == own || uid == 0 => {
                self.client = Some(client);
                self.starting = None;
            }
            _ => sys::log("a connection of another user was refused"),
        }
    }

    fn hang_up(&mut self) {
        self.client = None;
        self.starting = None;
        self.unattended_since = boot_now();
    }

    fn serve_client(&mut self) {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(client) = &self.client else { return };
            let n = match socket::recv(client.as_fd(), &mut self.packet_in) {
                Ok(0) => return self.hang_up(),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return self.hang_up(),
            };
            // A packet that was cut is longer than the buffer.
            let packet = self.packet_in.get(..n).ok_or(DecodeError::Header);
            match packet.and_then(Request::decode) {
                Ok((id, request)) => self.serve(id, request),
                Err(DecodeError::Unsupported(id)) => {
                    self.reply(id, &Reply::Refused(Refusal::Unsupported));
                }
                Err(DecodeError::Payload(id)) => {
                    self.reply(id, &Reply::Refused(Refusal::Malformed));
                }
                // Whoever speaks another language is not our agent.
                Err(DecodeError::Header) => {
                    self.reply(EVENT_ID, &Reply::Refused(Refusal::Malformed));
                    return self.hang_up();
                }
            }
        }
    }

    fn serve(&mut self, id: u32, request: Request) {
        let reply = match request {
            Request::Arm(deadline) => self.arm(deadline).map(Reply::Armed),
            Request::Status => Ok(Reply::Status(Box::new(self.status()))),
            Request::Start(spec) => match self.start(&spec) {
                // Answered when the postmaster's program runs, or does not.
                Ok(()) => {
                    self.starting = Some(id);
                    return self.announce();
                }
                Err(refusal) => Err(refusal),
            },
            Request::Signal(signal) => match &self.tree {
                Some(tree) => tree.signal(signal).map(|()| Reply::Done),
                None => Err(Refusal::NotRunning),
            },
            Request::Kill => match &self.tree {
                Some(tree) => tree.kill().map(|()| Reply::Done),
                None => Err(Refusal::NotRunning),
            },
            Request::PidFd => return self.pass_proof(id),
            Request::Exit => match self.tree_state() {
                TreeState::Idle | TreeState::Empty(_) => {
                    self.leave = true;
                    Ok(Reply::Done)
                }
                _ => Err(Refusal::TreeAlive),
            },
        };
        self.reply(id, &reply.unwrap_or_else(Reply::Refused));
    }

    fn arm(&mut self, deadline: BootTime) -> Result<BootTime, Refusal> {
        if matches!(self.tree_state(), TreeState::Empty(_)) {
            return Err(Refusal::TreeEnded);
        }
        self.deadline.arm(deadline, boot_now())
    }

    fn start(&mut self, spec: &StartSpec) -> Result<(), Refusal> {
        if self.tree.is_some() {
            return Err(Refusal::AlreadyStarted);
        }
        let around = Surroundings {
            run_dir: &self.run_dir,
            record: &self.record,
            lock: self.lock.as_fd(),
            oom_score_adj: self.oom_score_adj.as_deref(),
        };
        let tree = tree::start(spec, &around)?;
        sys::log(&format!("init {} started, fencing by {}", tree.init_pid(), tree.kind()));
        self.tree = Some(tree);
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            guard_id: self.record.guard_id.clone(),
            guard_pid: self.record.guard_pid,
            init_pid: self.tree.as_ref().map(Tree::init_pid),
            postmaster_pid: self.tree.as_ref().and_then(Tree::postmaster_pid),
            tree: self.tree_state(),
            deadline: self.deadline.in_force(),
            fencing: self.tree.as_ref().map(Tree::kind),
        }
    }

    fn pass_proof(&mut self, id: u32) {
        let Some(tree) = &self.tree else {
            return self.reply(id, &Reply::Refused(Refusal::NotRunning));
        };
        // A watcher's file is gone with its tree; so is the need for a proof.
        if let TreeState::Empty(_) = tree.state() {
            return self.reply(id, &Reply::Refused(Refusal::TreeEnded));
        }
        Reply::PidFd(tree.kind()).encode(id, &mut self.packet_out);
        let Some(client) = &self.client else { return };
        if socket::send(client.as_fd(), &self.packet_out, Some(tree.proof())).is_err() {
            self.hang_up();
        }
    }

    fn read_control(&mut self) {
        // The init says three things at most.
        for _ in 0..3 {
            let Some(message) = self.tree.as_mut().and_then(Tree::read_control) else { return };
            match (message, self.starting.take()) {
                (Message::Failed(stage, errno), id) => {
                    let refusal = Refusal::Failed { stage, errno };
                    sys::log(&refusal.to_string());
                    if let Some(id) = id {
                        self.reply(id, &Reply::Refused(refusal));
                    }
                }
                (Message::Started, id) => {
                    self.announce();
                    if let Some(id) = id {
                        let status = self.status();
                        self.reply(id, &Reply::Status(Box::new(status)));
                    }
                }
                (Message::Exited(_), _) => self.announce(),
            }
        }
    }

    fn settle(&mut self) {
        let Some(tree) = &mut self.tree else { return };
        tree.settle();
        if let TreeState::Empty(exit) = tree.state() {
            self.deadline.disarm();
            self.unattended_since = boot_now();
            match exit {
                Some(exit) => sys::log(&format!("tree empty; postmaster: {exit}")),
                None => sys::log("tree empty; killed"),
            }
            if let Some(id) = self.starting.take() {
                // The init died before it could say why.
                self.reply(id, &Reply::Refused(Refusal::TreeEnded));
            }
            self.announce();
        }
    }

    fn announce(&mut self) {
        let event = Reply::Event(self.tree_state());
        self.reply(EVENT_ID, &event);
    }

    /// Sends without waiting. A client that does not read is hung up on: it can come back and ask.
    fn reply(&mut self, id: u32, reply: &Reply) {
        let Some(client) = &self.client else { return };
        reply.encode(id, &mut self.packet_out);
        if socket::send(client.as_fd(), &self.packet_out, None).is_err() {
            self.hang_up();
        }
    }
}
