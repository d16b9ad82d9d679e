//! The wire format between the guard and its client.
//!
//! One request, reply or event is one packet of a `SOCK_SEQPACKET` unix socket, so that no frame
//! is ever seen in part. Numbers are little endian:
//!
//! ```text
//! 'Q' | version | kind | 0 | request id (4 bytes) | payload
//! ```
//!
//! A guard outlives upgrades of `hanode`: kinds and payloads are never changed, only added. Who
//! reads a reply or an event ignores bytes after the payload that it knows.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::refusal::{Refusal, Stage};
use super::spec::{Credentials, StartSpec};
use super::status::{Exit, FencingKind, Status, TreeState};
use crate::domain::types::{BootTime, GuardId};

/// Longest packet that either side sends or takes, in bytes. A start request is the only long one.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;
const MAGIC: u8 = b'Q';
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;
/// Request id of events, which answer no request.
pub const EVENT_ID: u32 = 0;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Start the tree.
    Start(Box<StartSpec>),
    /// Move the deadline.
    Arm(BootTime),
    /// Send a signal to the postmaster.
    Signal(i32),
    /// Kill the whole tree.
    Kill,
    /// Describe guard and tree.
    Status,
    /// Pass the descriptor that proves emptiness.
    PidFd,
    /// End the guard, whose tree must be empty.
    Exit,
}

/// What a guard answers or announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Signal, kill and exit: done.
    Done,
    /// Start and status.
    Status(Box<Status>),
    /// Arm: the deadline in force.
    Armed(BootTime),
    /// The descriptor travels beside the packet; the kind says how to read it.
    PidFd(FencingKind),
    /// The request was not carried out.
    Refused(Refusal),
    /// Not an answer: the tree has changed.
    Event(TreeState),
}

/// A packet that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// Too short to have a header, or not of this protocol.
    Header,
    /// A kind that this side does not know, with the request's id.
    Unsupported(u32),
    /// A payload that breaks the rules, with the request's id.
    Payload(u32),
}

struct Short;

/// Reads a payload; every step can fail, none can panic.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], Short> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        self.bytes(N)?.try_into().map_err(|_| Short)
    }

    fn u8(&mut self) -> Result<u8, Short> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Short> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, Short> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn time(&mut self) -> Result<BootTime, Short> {
        Ok(BootTime::from_nanos(u64::from_le_bytes(self.array()?)))
    }

    fn flag(&mut self) -> Result<bool, Short> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Short),
        }
    }

    fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Short>,
    ) -> Result<Option<T>, Short> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    /// A list; its length is bounded by the packet, since each element takes a byte at least.
    fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, Short>,
    ) -> Result<Vec<T>, Short> {
        let n = self.u32()?;
        let mut list = Vec::new();
        for _ in 0..n {
            list.push(read(self)?);
        }
        Ok(list)
    }

    /// Bytes that become a C string: no NUL inside.
    fn text_bytes(&mut self) -> Result<&'a [u8], Short> {
        let n = usize::try_from(self.u32()?).map_err(|_| Short)?;
        let bytes = self.bytes(n)?;
        if bytes.contains(&0) { Err(Short) } else { Ok(bytes) }
    }

    fn text(&mut self) -> Result<String, Short> {
        String::from_utf8(self.text_bytes()?.to_vec()).map_err(|_| Short)
    }

    fn path(&mut self) -> Result<PathBuf, Short> {
        Ok(PathBuf::from(OsString::from_vec(self.text_bytes()?.to_vec())))
    }

    fn kind(&mut self) -> Result<FencingKind, Short> {
        match self.u8()? {
            1 => Ok(FencingKind::PidNamespace),
            2 => Ok(FencingKind::Cgroup),
            3 => Ok(FencingKind::BestEffort),
            _ => Err(Short),
        }
    }

    fn exit(&mut self) -> Result<Exit, Short> {
        match self.u8()? {
            0 => Ok(Exit::Code(self.i32()?)),
            1 => Ok(Exit::Signal(self.i32()?)),
            _ => Err(Short),
        }
    }

    fn tree(&mut self) -> Result<TreeState, Short> {
        match self.u8()? {
            0 => Ok(TreeState::Idle),
            1 => Ok(TreeState::Starting),
            2 => Ok(TreeState::Running),
            3 => Ok(TreeState::PostmasterExited(self.exit()?)),
            4 => Ok(TreeState::Empty(self.optional(Self::exit)?)),
            _ => Err(Short),
        }
    }
}

/// Writes a payload into a buffer that is used again and again, so that nothing is allocated once
/// it has grown.
struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    fn i32(&mut self, v: i32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    fn time(&mut self, v: BootTime) {
        self.0.extend_from_slice(&v.as_nanos().to_le_bytes());
    }

    fn optional<T>(&mut self, v: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(v.is_some()));
        if let Some(v) = v {
            write(self, v);
        }
    }

    fn list<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.u32(u32::try_from(list.len()).unwrap_or(u32::MAX));
        for item in list {
            write(self, item);
        }
    }

    fn text(&mut self, v: &[u8]) {
        self.u32(u32::try_from(v.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(v);
    }

    fn path(&mut self, v: &Path) {
        self.text(v.as_os_str().as_bytes());
    }

    fn kind(&mut self, v: FencingKind) {
        self.u8(match v {
            FencingKind::PidNamespace => 1,
            FencingKind::Cgroup => 2,
            FencingKind::BestEffort => 3,
        });
    }

    fn exit(&mut self, v: Exit) {
        let (tag, value) = match v {
            Exit::Code(code) => (0, code),
            Exit::Signal(signal) => (1, signal),
        };
        self.u8(tag);
        self.i32(value);
    }

    fn tree(&mut self, v: TreeState) {
        match v {
            // `Lost` is a client's word for not knowing: a guard never says it.
            TreeState::Idle | TreeState::Lost => self.u8(0),
            TreeState::Starting => self.u8(1),
            TreeState::Running => self.u8(2),
            TreeState::PostmasterExited(exit) => {
                self.u8(3);
                self.exit(exit);
            }
            TreeState::Empty(exit) => {
                self.u8(4);
                self.optional(exit, Self::exit);
            }
        }
    }
}

fn header(buf: &mut Vec<u8>, kind: u8, id: u32) {
    buf.clear();
    buf.extend_from_slice(&[MAGIC, VERSION, kind, 0]);
    buf.extend_from_slice(&id.to_le_bytes());
}

fn split(packet: &[u8]) -> Result<(u8, u32, Reader<'_>), DecodeError> {
    let mut r = Reader(packet.get(..HEADER_BYTES).ok_or(DecodeError::Header)?);
    let [magic, version, kind, reserved] = r.array().map_err(|_| DecodeError::Header)?;
    let id = r.u32().map_err(|_| DecodeError::Header)?;
    if magic != MAGIC || reserved != 0 {
        return Err(DecodeError::Header);
    }
    if version != VERSION {
        return Err(DecodeError::Unsupported(id));
    }
    Ok((kind, id, Reader(packet.get(HEADER_BYTES..).unwrap_or_default())))
}

impl Request {
    /// Writes the packet for this request into `buf`, replacing what was there.
    pub fn encode(&self, id: u32, buf: &mut Vec<u8>) {
        let kind = match self {
            Request::Start(_) => 1,
            Request::Arm(_) => 2,
            Request::Signal(_) => 3,
            Request::Kill => 4,
            Request::Status => 5,
            Request::PidFd => 6,
            Request::Exit => 7,
        };
        header(buf, kind, id);
        let mut w = Writer(buf);
        match self {
            Request::Start(spec) => write_spec(&mut w, spec),
            Request::Arm(deadline) => w.time(*deadline),
            Request::Signal(signal) => w.i32(*signal),
            Request::Kill | Request::Status | Request::PidFd | Request::Exit => {}
        }
    }

    /// Reads a packet. Strict: a request with bytes left over is malformed.
    pub fn decode(packet: &[u8]) -> Result<(u32, Request), DecodeError> {
        let (kind, id, mut r) = split(packet)?;
        let bad = |_: Short| DecodeError::Payload(id);
        let request = match kind {
            1 => Request::Start(Box::new(read_spec(&mut r).map_err(bad)?)),
            2 => Request::Arm(r.time().map_err(bad)?),
            3 => Request::Signal(r.i32().map_err(bad)?),
            4 => Request::Kill,
            5 => Request::Status,
            6 => Request::PidFd,
            7 => Request::Exit,
            _ => return Err(DecodeError::Unsupported(id)),
        };
        if r.0.is_empty() { Ok((id, request)) } else { Err(DecodeError::Payload(id)) }
    }
}

impl Reply {
    /// Writes the packet for this reply into `buf`, replacing what was there.
    pub fn encode(&self, id: u32, buf: &mut Vec<u8>) {
        let kind = match self {
            Reply::Done => 0x80,
            Reply::Status(_) => 0x81,
            Reply::Armed(_) => 0x82,
            Reply::PidFd(_) => 0x83,
            Reply::Refused(_) => 0x84,
            Reply::Event(_) => 0xC0,
        };
        header(buf, kind, id);
        let mut w = Writer(buf);
        match self {
            Reply::Done => {}
            Reply::Status(status) => write_status(&mut w, status),
            Reply::Armed(deadline) => w.time(*deadline),
            Reply::PidFd(kind) => w.kind(*kind),
            Reply::Refused(refusal) => write_refusal(&mut w, *refusal),
            Reply::Event(tree) => w.tree(*tree),
        }
    }

    /// Reads a packet.
    pub fn decode(packet: &[u8]) -> Result<(u32, Reply), DecodeError> {
        let (kind, id, mut r) = split(packet)?;
        let bad = |_: Short| DecodeError::Payload(id);
        let reply = match kind {
            0x80 => Reply::Done,
            0x81 => Reply::Status(Box::new(read_status(&mut r).map_err(bad)?)),
            0x82 => Reply::Armed(r.time().map_err(bad)?),
            0x83 => Reply::PidFd(r.kind().map_err(bad)?),
            0x84 => Reply::Refused(read_refusal(&mut r).map_err(bad)?),
            0xC0 => Reply::Event(r.tree().map_err(bad)?),
            _ => return Err(DecodeError::Unsupported(id)),
        };
        Ok((id, reply))
    }
}

fn write_spec(w: &mut Writer<'_>, spec: &StartSpec) {
    w.path(&spec.program);
    w.list(&spec.argv, |w, arg| w.text(arg.as_bytes()));
    w.list(&spec.env, |w, (name, value)| {
        w.text(name.as_bytes());
        w.text(value.as_bytes());
    });
    w.optional(spec.credentials.as_ref(), |w, c| {
        w.u32(c.uid);
        w.u32(c.gid);
        w.list(&c.groups, |w, group| w.u32(*group));
    });
    w.path(&spec.working_dir);
    w.path(&spec.log_file);
    w.u32(spec.umask);
    w.optional(spec.cgroup.as_deref(), Writer::path);
    w.u8(u8::from(spec.best_effort));
    w.optional(spec.only, Writer::kind);
}

fn read_spec(r: &mut Reader<'_>) -> Result<StartSpec, Short> {
    Ok(StartSpec {
        program: r.path()?,
        argv: r.list(Reader::text)?,
        env: r.list(|r| Ok((r.text()?, r.text()?)))?,
        credentials: r.optional(|r| {
            Ok(Credentials { uid: r.u32()?, gid: r.u32()?, groups: r.list(Reader::u32)? })
        })?,
        working_dir: r.path()?,
        log_file: r.path()?,
        umask: r.u32()?,
        cgroup: r.optional(Reader::path)?,
        best_effort: r.flag()?,
        only: r.optional(Reader::kind)?,
    })
}

fn write_status(w: &mut Writer<'_>, status: &Status) {
    w.text(status.guard_id.as_str().as_bytes());
    w.i32(status.guard_pid);
    w.optional(status.init_pid, Writer::i32);
    w.optional(status.postmaster_pid, Writer::i32);
    w.tree(status.tree);
    w.optional(status.deadline, Writer::time);
    w.optional(status.fencing, Writer::kind);
}

fn read_status(r: &mut Reader<'_>) -> Result<Status, Short> {
    Ok(Status {
        guard_id: GuardId::new(r.text()?).map_err(|_| Short)?,
        guard_pid: r.i32()?,
        init_pid: r.optional(Reader::i32)?,
        postmaster_pid: r.optional(Reader::i32)?,
        tree: r.tree()?,
        deadline: r.optional(Reader::time)?,
        fencing: r.optional(Reader::kind)?,
    })
}

fn write_refusal(w: &mut Writer<'_>, refusal: Refusal) {
    match refusal {
        Refusal::Malformed => w.u8(0),
        Refusal::Unsupported => w.u8(1),
        Refusal::AlreadyStarted => w.u8(2),
        Refusal::NotRunning => w.u8(3),
        Refusal::TreeEnded => w.u8(4),
        Refusal::TreeAlive => w.u8(5),
        Refusal::DeadlinePassed => w.u8(6),
        Refusal::DeadlineTooFar => w.u8(7),
        Refusal::DeadlineBackwards { in_force } => {
            w.u8(8);
            w.time(in_force);
        }
        Refusal::System { errno } => {
            w.u8(9);
            w.i32(errno);
        }
        Refusal::NoFencing { pid_namespace, user_namespace, cgroup } => {
            w.u8(10);
            w.i32(pid_namespace);
            w.i32(user_namespace);
            w.i32(cgroup);
        }
        Refusal::Failed { stage, errno } => {
            w.u8(11);
            w.u8(stage.code());
            w.i32(errno);
        }
    }
}

fn read_refusal(r: &mut Reader<'_>) -> Result<Refusal, Short> {
    Ok(match r.u8()? {
        0 => Refusal::Malformed,
        1 => Refusal::Unsupported,
        2 => Refusal::AlreadyStarted,
        3 => Refusal::NotRunning,
        4 => Refusal::TreeEnded,
        5 => Refusal::TreeAlive,
        6 => Refusal::DeadlinePassed,
        7 => Refusal::DeadlineTooFar,
        8 => Refusal::DeadlineBackwards { in_force: r.time()? },
        9 => Refusal::System { errno: r.i32()? },
        10 => Refusal::NoFencing {
            pid_namespace: r.i32()?,
            user_namespace: r.i32()?,
            cgroup: r.i32()?,
        },
        11 => Refusal::Failed { stage: Stage::from_code(r.u8()?).ok_or(Short)?, errno: r.i32()? },
        _ => return Err(Short),
    })
}

#[cfg(test)]
mod tests;
