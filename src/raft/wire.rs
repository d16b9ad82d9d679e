//! What controllers say to each other.
//!
//! Owns the format of requests and replies. A message is three parts: a header that says who talks
//! to whom, a JSON body, and raw bytes (a piece of a snapshot). JSON tolerates fields that one side
//! does not know yet, which a rolling upgrade needs. The transport carries it without looking in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::Peer;
use crate::domain::generation::Generation;

/// Bound of one message in bytes, for both sides.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Bytes of a snapshot in one message.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Bound of a snapshot in bytes.
pub const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;

/// What is asked of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Who are you, and do you know me?
    Hello,
    /// Take these entries; also the heartbeat.
    Append,
    /// Vote for me.
    Vote,
    /// Would you vote for me?
    PreVote,
    /// Take this piece of a snapshot.
    Snapshot,
    /// Become leader.
    TransferLeader,
}

/// Carries a request to a peer and its reply back. gRPC does it in production, the simulator's
/// network there.
pub trait Transport: Send + Sync + 'static {
    /// Asks `target`. It gives up by itself after `deadline`, and never blocks: connecting is part
    /// of the call.
    fn call(
        &self,
        target: &Peer,
        method: Method,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, TransportError>> + Send;
}

/// Why no reply came. The peer may have acted on the request all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The deadline passed.
    #[error("no reply within the deadline")]
    Timeout,
    /// There is no connection.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// The peer, or something in front of it, refused the call.
    #[error("the peer refused the call: {0}")]
    Refused(String),
}

/// Identity of a store: 32 hexadecimal digits, drawn when the store is created. A node that lost
/// its disk comes back with another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(String);

impl StoreId {
    /// Formats 16 random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..8).unwrap_or(&self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {self}")
    }
}

/// Who talks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Name of the control plane.
    pub control_plane: String,
    /// The node that talks.
    pub from: u64,
    /// Its store.
    pub store: StoreId,
    /// The node that is meant.
    pub to: u64,
    /// Of which generation of the control plane the one who talks is.
    #[serde(default)]
    pub generation: Generation,
}

/// Why a peer did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another control plane.
    #[error("the peer belongs to control plane {theirs:?}")]
    ControlPlane {
        /// The peer's.
        theirs: String,
    },
    /// It is of another generation of the control plane.
    #[error("generation {own} of the control plane answers, and the call is of generation {got}")]
    Generation {
        /// The generation that counts for the peer.
        own: Generation,
        /// The caller's.
        got: Generation,
    },
    /// Another node was meant.
    #[error("node {node} answers at this address")]
    WrongNode {
        /// Who answered.
        node: u64,
    },
    /// It knows the caller's node id under another store: the caller's disk was wiped or replaced.
    #[error("the peer knows node {node} with {known:?}, not with {got:?}")]
    OtherStore {
        /// The caller.
        node: u64,
        /// The store that the peer knows.
        known: StoreId,
        /// The store that called.
        got: StoreId,
    },
    /// The caller was removed from the control plane.
    #[error("node {node} was removed from the control plane")]
    Removed {
        /// The caller.
        node: u64,
    },
    /// Its Raft core does not run (yet, or any more).
    #[error("the peer does not take part in Raft now: {0}")]
    NotReady(String),
    /// It does not understand the message.
    #[error("the message is malformed: {0}")]
    Malformed(String),
}

/// The body of a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Digest of the initial members that the caller is configured with.
    pub members: u32,
}

/// The answer to a hello. The header of the reply says who answers, with which store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// Entries of a leader are stored here: the group exists. The first membership alone, which
    /// every founder writes for itself, does not count.
    pub established: bool,
    /// The store under which the caller is known here.
    pub known: Option<StoreId>,
    /// Of which generation that group is.
    #[serde(default)]
    pub generation: Generation,
    /// Digest of the initial members that the answering node is configured with.
    pub members: u32,
    /// The members of the group by the state that the answering node has applied, learners too.
    #[serde(default)]
    pub group: BTreeMap<u64, Peer>,
    /// Nodes that were removed, by the same state.
    #[serde(default)]
    pub gone: BTreeSet<u64>,
    /// Version of the program that answers.
    #[serde(default)]
    pub version: String,
}

/// Where a piece belongs in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk<M> {
    /// The leader's vote and what the snapshot covers.
    pub about: M,
    /// Length of the whole, in bytes.
    pub total: u64,
    /// CRC32C of the whole.
    pub crc: u32,
    /// First byte of this piece.
    pub offset: u64,
}

/// The answer to a piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkReply<R> {
    /// Send the piece that begins here.
    Continue(u64),
    /// The snapshot is installed, or refused by a higher vote.
    Done(R),
}

/// Parts of a decoded message.
pub struct Message<'a> {
    /// Who talks.
    pub header: Header,
    body: &'a [u8],
    /// Raw bytes behind the body.
    pub raw: &'a [u8],
}

impl Message<'_> {
    /// The body as `T`.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(self.body).map_err(|e| Refusal::Malformed(e.to_string()))
    }
}

/// Builds a message.
pub fn encode<T: Serialize>(header: &Header, body: &T, raw: &[u8]) -> Result<Vec<u8>, Refusal> {
    let malformed = |e: &dyn fmt::Display| Refusal::Malformed(e.to_string());
    let mut message = Vec::new();
    let header = serde_json::to_vec(header).map_err(|e| malformed(&e))?;
    let body = serde_json::to_vec(body).map_err(|e| malformed(&e))?;
    for part in [&header, &body] {
        let length = u32::try_from(part.len()).map_err(|e| malformed(&e))?;
        message.extend_from_slice(&length.to_le_bytes());
        message.extend_from_slice(part);
    }
    message.extend_from_slice(raw);
    Ok(message)
}

/// Takes a message apart.
pub fn decode(message: &[u8]) -> Result<Message<'_>, Refusal> {
    let short = || Refusal::Malformed("it ends too early".to_owned());
    let (header, rest) = part(message).ok_or_else(short)?;
    let (body, raw) = part(rest).ok_or_else(short)?;
    let header = serde_json::from_slice(header).map_err(|e| Refusal::Malformed(e.to_string()))?;
    Ok(Message { header, body, raw })
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_garbage_is_refused() {
        let header = Header {
            control_plane: "cp".to_owned(),
            from: 1,
            store: StoreId::from_bytes([7; 16]),
            to: 2,
            generation: Generation(3),
        };
        let bytes = encode(&header, &Hello { members: 9 }, b"raw").unwrap();
        let message = decode(&bytes).unwrap();
        assert_eq!(message.header, header);
        assert_eq!(message.body::<Hello>().unwrap(), Hello { members: 9 });
        assert_eq!(message.raw, b"raw");
        for length in 0..bytes.len() - 3 {
            assert!(decode(&bytes[..length]).is_err(), "{length}");
        }
        assert!(decode(&[0xff; 64]).is_err());
    }
}
