//! The data directory of a node whose `hanode` does not run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::Flock;
use nix::unistd::{Uid, User, geteuid};

use super::lock::{LockError, lock};
use crate::raft::kv::{self, KvEngine};
use crate::raft::kv_rocks::KvRocks;
use crate::raft::offline::{self, Contents, OfflineError};

/// A locked data directory with its store.
pub struct Place {
    data_dir: PathBuf,
    engine: Arc<dyn KvEngine>,
    _lock: Flock<File>,
}

/// Why a data directory cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// `hanode` runs, or the lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no store.
    #[error(
        "{0} holds no Raft store: name the data_dir of a node that is a controller, as in its \
         configuration"
    )]
    NoStore(PathBuf),
    /// There is a store where none must be.
    #[error(
        "{0} holds a Raft store already: a state is never restored over one. Use `hactl recover` to \
         go on from it, or move its raft directory away"
    )]
    Used(PathBuf),
    /// Another user's `hanode` works on it, and could not use what this one writes.
    #[error(
        "{path} belongs to user {owner}, and this runs as {me}: hanode could not use what would be \
         written"
    )]
    User {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who runs this.
        me: String,
    },
    /// A directory cannot be made.
    #[error("{path}: {source}")]
    Path {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] OfflineError),
}

impl From<kv::Error> for PlaceError {
    fn from(error: kv::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Files of another user, such as root, would keep the daemon from its own store.
fn expect_owner(path: &Path) -> Result<(), PlaceError> {
    use std::os::unix::fs::MetadataExt as _;
    let failed = |source| PlaceError::Path { path: path.to_owned(), source };
    let owner = Uid::from_raw(std::fs::metadata(path).map_err(failed)?.uid());
    let me = geteuid();
    if owner == me {
        return Ok(());
    }
    let name = |uid: Uid| match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("#{uid}"),
    };
    Err(PlaceError::User { path: path.to_owned(), owner: name(owner), me: name(me) })
}

impl Place {
    /// Locks the data directory of a controller, and opens its store.
    pub fn open(data_dir: &Path) -> Result<Self, PlaceError> {
        let raft = data_dir.join("raft");
        // Opening would make one where none is.
        if !raft.join("CURRENT").exists() {
            return Err(PlaceError::NoStore(data_dir.to_owned()));
        }
        expect_owner(data_dir)?;
        let lock = lock(data_dir)?;
        let engine = Arc::new(KvRocks::open(&raft)?);
        Ok(Self { data_dir: data_dir.to_owned(), engine, _lock: lock })
    }

    /// Makes a store where none is.
    pub fn create(data_dir: &Path) -> Result<Self, PlaceError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let make = |path: &Path, mode: u32| {
            let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
            made.map_err(|source| PlaceError::Path { path: path.to_owned(), source })
        };
        // A relative path ends in an empty one, which is the working directory.
        let there = data_dir.ancestors().find(|dir| dir.exists());
        expect_owner(there.unwrap_or(Path::new(".")))?;
        make(data_dir, 0o755)?;
        let lock = lock(data_dir)?;
        let raft = data_dir.join("raft");
        make(&raft, 0o700)?;
        let engine = Arc::new(KvRocks::open(&raft)?);
        if offline::is_used(&*engine)? {
            return Err(PlaceError::Used(data_dir.to_owned()));
        }
        Ok(Self { data_dir: data_dir.to_owned(), engine, _lock: lock })
    }

    /// The directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its store.
    pub fn engine(&self) -> &Arc<dyn KvEngine> {
        &self.engine
    }

    /// All that the store holds.
    pub fn read(&self) -> Result<Contents, PlaceError> {
        Ok(offline::read(&self.engine)?)
    }
}
