//! Room on file systems, and when it is too little.

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

/// Below this nothing is promoted: two or three WAL segments and a checkpoint would fill it.
pub const CRITICAL_BYTES: u64 = 64 * MIB;
/// Below this, and below a tenth of the whole, an alarm is raised.
pub const LOW_BYTES: u64 = 2048 * MIB;

/// One file system, as its users without privileges see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As good as full.
    Critical,
    /// An operator should look.
    Low,
    /// Enough.
    Enough,
}

impl Space {
    /// How much room there is. Where the whole is small, so are the bounds: a tenth is low, a
    /// fiftieth is critical.
    pub fn level(&self) -> Level {
        if self.free_bytes < CRITICAL_BYTES.min(self.total_bytes / 50) {
            Level::Critical
        } else if self.free_bytes < LOW_BYTES.min(self.total_bytes / 10) {
            Level::Low
        } else {
            Level::Enough
        }
    }
}

/// The file systems of a member. What could not be found out is `None`: unknown is not full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    /// Of the data directory.
    #[serde(default)]
    pub data: Option<Space>,
    /// Of `pg_wal`, where it is another one.
    #[serde(default)]
    pub wal: Option<Space>,
}

impl Disks {
    /// The worst of them.
    pub fn level(&self) -> Level {
        let levels = [self.data, self.wal].into_iter().flatten().map(|s| s.level());
        levels.min().unwrap_or(Level::Enough)
    }
}

/// A data directory that was replaced and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// Its absolute path.
    pub path: String,
    /// Bytes in it.
    pub bytes: u64,
    /// Why it was replaced, as its name tells.
    pub reason: String,
    /// When, in milliseconds since 1970 by the wall clock of its machine; 0 where not known.
    pub at_unix_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_disks_have_small_bounds() {
        let gib = 1024 * MIB;
        let level = |free: u64, total: u64| Space { free_bytes: free, total_bytes: total }.level();
        assert_eq!(level(500 * gib, 1000 * gib), Level::Enough);
        assert_eq!(level(3 * gib, 1000 * gib), Level::Enough);
        assert_eq!(level(gib, 1000 * gib), Level::Low);
        assert_eq!(level(63 * MIB, 1000 * gib), Level::Critical);
        assert_eq!(level(100 * MIB, 400 * MIB), Level::Enough);
        assert_eq!(level(30 * MIB, 400 * MIB), Level::Low);
        assert_eq!(level(7 * MIB, 400 * MIB), Level::Critical);
        assert_eq!(Disks::default().level(), Level::Enough);
    }
}
