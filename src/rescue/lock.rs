//! One process a data directory.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Why a data directory was not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "{path} is locked: another hanode, or a tool, works on this data directory (process {pid})"
    )]
    Held {
        /// The lock.
        path: PathBuf,
        /// The other process, as it wrote it down.
        pid: String,
    },
    /// The file cannot be used.
    #[error("{path}: {source}")]
    Path {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Locks the data directory of a node, for its daemon or for a tool that works on it. The lock ends
/// with the process, however that ends.
pub fn lock(data_dir: &Path) -> Result<Flock<File>, LockError> {
    let path = data_dir.join("hanode.pid");
    let error = |source| LockError::Path { path: path.clone(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .map_err(error)?;
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, _)| {
        let pid = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
        LockError::Held { path: path.clone(), pid }
    })?;
    lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(error)?;
    Ok(lock)
}
