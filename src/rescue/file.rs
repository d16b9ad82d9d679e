//! A snapshot of the agreed state, as a file.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::sealed::{self, BYTES_MAX, SealError};
use crate::domain::ControlState;
use crate::domain::generation::Generation;
use crate::domain::types::WallMillis;

const KIND: &str = "snapshot";

/// The agreed state, and what it is the state of. It holds the whole specification with
/// its history, so whatever secret is in there: parameters, HBA options. It is kept like one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Name of the control plane.
    pub control_plane: String,
    /// Of which generation.
    pub generation: Generation,
    /// The node whose view it is.
    pub node: String,
    /// Whether that was the leader, which confirmed that it is. Else the state may be older.
    pub from_leader: bool,
    /// When, by that node's wall clock.
    pub at: WallMillis,
    /// Raft term of the last entry in it.
    pub term: u64,
    /// Log index of the last entry in it.
    pub index: u64,
    /// The controllers of the group.
    pub controllers: Vec<Controller>,
    /// The state.
    pub state: ControlState,
}

/// A controller of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Its number.
    pub id: u64,
    /// Its node's name.
    pub name: String,
    /// Where it listens.
    pub address: String,
}

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading or writing.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its content.
    #[error("{path}: {source}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: SealError,
    },
}

impl Saved {
    /// The content of the file.
    pub fn encode(&self) -> Result<Vec<u8>, SealError> {
        sealed::seal(KIND, self)
    }

    /// Reads the content of a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        sealed::unseal(KIND, bytes)
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let content = |source| FileError::Content { path: path.to_owned(), source };
        Self::decode(&read(path)?).map_err(content)
    }
}

/// Reads a file whose size is bounded.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let io = |source| FileError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let mut file = fs::File::open(path).map_err(io)?.take(BYTES_MAX + 1);
    file.read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io(io::Error::other(format!("it has more than {BYTES_MAX} bytes"))));
    }
    Ok(bytes)
}

/// Writes a file that only its owner reads, whole or not at all. One that is there is not replaced.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let io = |source| FileError::Io { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // Unlike a rename it fails where the name is taken.
        fs::hard_link(&part, path)?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
        fs::File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
    })();
    let _ = fs::remove_file(&part);
    written.map_err(io)
}
