//! Room on file systems, and when it is too little.

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

/// Below this nothing is promoted: two or three WAL segments and a checkpoint would fill it.
pub const CRITICAL_BYTES: u64 = 64 * MIB;
/// The same on a file system that is small itself: the two WAL segments that every promotion
/// writes.
pub const CRITICAL_BYTES_MIN: u64 = 32 * MIB;
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
    /// Below so many free bytes it is as good as full. Where the whole is small, so is the bound:
    /// a fiftieth, but never less than a promotion needs.
    pub fn critical_bytes(&self) -> u64 {
        CRITICAL_BYTES.min((self.total_bytes / 50).max(CRITICAL_BYTES_MIN))
    }

    /// Below so many free bytes an operator should look: a tenth where the whole is small, and
    /// always well before it is as good as full.
    pub fn low_bytes(&self) -> u64 {
        LOW_BYTES.min((self.total_bytes / 10).max(2 * self.critical_bytes()))
    }

    /// How much room there is.
    pub fn level(&self) -> Level {
        if self.free_bytes < self.critical_bytes() {
            Level::Critical
        } else if self.free_bytes < self.low_bytes() {
            Level::Low
        } else {
            Level::Enough
        }
    }

    /// The level to show where it was `before`: it becomes better only once there is a quarter more
    /// room than that takes, so that it does not flap at a bound.
    pub fn level_after(&self, before: Level) -> Level {
        let now = self.level();
        if now <= before {
            return now;
        }
        let less = self.free_bytes - self.free_bytes / 5;
        Space { free_bytes: less, ..*self }.level().max(before)
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
        assert_eq!(level(60 * MIB, 400 * MIB), Level::Low);
        assert_eq!(level(40 * MIB, 400 * MIB), Level::Low);
        assert_eq!(level(31 * MIB, 400 * MIB), Level::Critical);
        assert_eq!(Disks::default().level(), Level::Enough);
    }

    #[test]
    fn a_level_does_not_flap() {
        let at = |free: u64| Space { free_bytes: free * MIB, total_bytes: 1000 * 1024 * MIB };
        assert_eq!(at(63).level_after(Level::Enough), Level::Critical, "worse at once");
        assert_eq!(at(65).level_after(Level::Critical), Level::Critical);
        assert_eq!(at(79).level_after(Level::Critical), Level::Critical);
        assert_eq!(at(81).level_after(Level::Critical), Level::Low);
        assert_eq!(at(2050).level_after(Level::Low), Level::Low);
        assert_eq!(at(2050).level_after(Level::Critical), Level::Low, "a step at least");
        assert_eq!(at(2561).level_after(Level::Low), Level::Enough);
        assert_eq!(at(2561).level_after(Level::Critical), Level::Enough);
    }
}
