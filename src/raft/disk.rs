//! The disk of the Raft store: how much room it has, and a reserve for when it has none.
//!
//! Owns the reserve: a file of a fixed size in the store's directory, whose removal lets the log go on
//! while the operator makes room. Everything here waits for the disk: call it where that holds up
//! nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;

use crate::domain::space::{Level, Space};

const MIB: u64 = 1 << 20;
/// Size of the reserve: some snapshots, and the log that is kept after them.
const RESERVE_BYTES: u64 = 64 * MIB;
/// On a file system that is small itself the reserve is this part of it.
const RESERVE_PART: u64 = 20;
/// With less than this the reserve is spent, where nobody else would take its room.
const SPEND_BELOW_BYTES: u64 = 16 * MIB;
/// How much room has to be left once the reserve is made again.
const KEEP_ABOVE_BYTES: u64 = 128 * MIB;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Room on the file system.
    pub space: Space,
    /// Whether the reserve is there.
    pub reserved: bool,
}

/// The directory of the store, with the reserve in it: the directory may be a mount point.
#[derive(Debug, Clone)]
pub struct Disk {
    dir: PathBuf,
    reserve: PathBuf,
}

impl Disk {
    /// The disk of the store in `dir`. Nothing is touched.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), reserve: dir.join("quorate.reserve") }
    }

    /// The directory of the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether `other` is on the same file system; `false` where that is not known.
    pub fn shares_with(&self, other: &Path) -> bool {
        let device = |path: &Path| {
            let found = path.ancestors().find_map(|p| fs::metadata(p).ok());
            found.map(|m| m.dev())
        };
        device(&self.dir).is_some_and(|d| device(other) == Some(d))
    }

    /// Looks, and makes the reserve where there is room for it.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn look(&self) -> io::Result<Room> {
        let space = self.space()?;
        let reserved = self.reserve.exists();
        let bytes = RESERVE_BYTES.min(space.total_bytes / RESERVE_PART);
        // Half of a small file system is always enough.
        let left_min = KEEP_ABOVE_BYTES.min(space.total_bytes / 2);
        if !reserved && space.free_bytes >= bytes + left_min {
            self.make(bytes)?;
            return self.look_only();
        }
        Ok(Room { space, reserved })
    }

    /// Looks, and spends the reserve where there is as good as no room: for a disk that holds
    /// nothing else that grows, since that would take the room first.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn look_and_spend(&self) -> io::Result<Room> {
        let room = self.look()?;
        if !room.reserved || room.space.free_bytes >= spend_below(&room.space) {
            return Ok(room);
        }
        self.spend();
        self.look_only()
    }

    /// Removes the reserve, so that the store has room; whether there was one.
    pub fn spend(&self) -> bool {
        fs::remove_file(&self.reserve).is_ok()
    }

    fn look_only(&self) -> io::Result<Room> {
        Ok(Room { space: self.space()?, reserved: self.reserve.exists() })
    }

    fn make(&self, bytes: u64) -> io::Result<()> {
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.reserve)?;
        let length = i64::try_from(bytes).unwrap_or(i64::MAX);
        match posix_fallocate(&file, 0, length) {
            Ok(()) => Ok(()),
            Err(e) => {
                // A part of a reserve would be taken for the whole.
                self.spend();
                Err(e.into())
            }
        }
    }

    fn space(&self) -> io::Result<Space> {
        let found = statvfs(&self.dir)?;
        let unit = found.fragment_size();
        let (free, all) = (found.blocks_available(), found.blocks());
        let kept_back = found.blocks_free().saturating_sub(free);
        let total_bytes = all.saturating_sub(kept_back) * unit;
        Ok(Space { free_bytes: free * unit, total_bytes })
    }
}

fn spend_below(space: &Space) -> u64 {
    SPEND_BELOW_BYTES.min(space.total_bytes / RESERVE_PART)
}

impl Room {
    /// How much room there is: as good as none once the reserve is spent.
    pub fn level(&self) -> Level {
        let by_space = match self.space {
            // Without the bound for what PostgreSQL needs: the store is small.
            space if space.free_bytes < 2 * spend_below(&space) => Level::Critical,
            space => space.level().max(Level::Low),
        };
        if self.reserved { by_space } else { Level::Critical }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_made_spent_and_made_again() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(&root.path().join("raft"));
        assert!(disk.look().is_err(), "there is no directory yet");
        fs::create_dir(disk.dir()).unwrap();
        let room = disk.look().unwrap();
        if !room.reserved {
            eprintln!("skipped: this machine has little room itself");
            return;
        }
        let bytes = fs::metadata(root.path().join("raft/quorate.reserve")).unwrap().blocks() * 512;
        assert!(bytes >= RESERVE_BYTES.min(room.space.total_bytes / RESERVE_PART) / 2);
        assert!(disk.spend() && !disk.spend());
        assert!(disk.look().unwrap().reserved);
        assert!(disk.shares_with(root.path()) && disk.shares_with(&root.path().join("x/y")));
        assert!(!disk.shares_with(Path::new("/proc")));
    }

    #[test]
    fn the_level_is_that_of_a_small_store() {
        let room = |free: u64, reserved| Room {
            space: Space { free_bytes: free * MIB, total_bytes: 100 * 1024 * MIB },
            reserved,
        };
        assert_eq!(room(50_000, true).level(), Level::Enough);
        assert_eq!(room(1_000, true).level(), Level::Low);
        assert_eq!(room(40, true).level(), Level::Low);
        assert_eq!(room(31, true).level(), Level::Critical);
        assert_eq!(room(80, false).level(), Level::Critical, "it lives on its reserve");
    }
}
