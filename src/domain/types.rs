//! The vocabulary: small value types that every other module speaks in.
//!
//! Owns names, numbers and positions. Imports nothing but `std`, `serde` and `thiserror`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not a valid value of one of the types of this module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a valid {what}: {rule}")]
pub struct ParseError {
    /// What the text was taken for, such as "member name".
    pub what: &'static str,
    /// The text.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// Longest name that is accepted anywhere, in bytes. A member's name becomes part of a slot name,
/// and PostgreSQL cuts identifiers at 63 bytes.
pub const NAME_BYTES_MAX: usize = 40;

const NAME_RULE: &str = "1 to 40 characters of a-z, 0-9, '_' and '-', and a letter first";

fn check_name(what: &'static str, value: &str) -> Result<(), ParseError> {
    let ok = !value.is_empty()
        && value.len() <= NAME_BYTES_MAX
        && value.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
        && value.as_bytes()[0].is_ascii_lowercase();
    if ok { Ok(()) } else { Err(ParseError { what, value: value.to_owned(), rule: NAME_RULE }) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks `value` against the rule for names.
            pub fn new(value: impl Into<String>) -> Result<Self, ParseError> {
                let value = value.into();
                check_name($what, &value)?;
                Ok(Self(value))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Self::new(s)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = String::deserialize(d)?;
                Self::new(s).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// Name of a cluster: one PostgreSQL primary with its standbys.
    ClusterName,
    "cluster name"
);
name_type!(
    /// Name of a member: one PostgreSQL instance of a cluster. Unique within its cluster.
    MemberName,
    "member name"
);
name_type!(
    /// Name of a node: one host that runs `hanode`.
    NodeName,
    "node name"
);

impl MemberName {
    /// Name of the physical replication slot that serves this member, on every other member.
    /// Slot names allow only `a-z0-9_` (PostgreSQL manual, section 27.2.6), so `-` becomes `_`.
    pub fn slot_name(&self) -> String {
        format!("quorate_{}", self.0.replace('-', "_"))
    }
}

/// What the operator says of a member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// Never made primary automatically, and never counted in a quorum.
    #[serde(default)]
    pub nofailover: bool,
    /// Commits never wait for it. It may still be made primary.
    #[serde(default)]
    pub nosync: bool,
    /// Reads are not spread to it.
    #[serde(default)]
    pub noloadbalance: bool,
    /// Other members are copied from it rather than from the primary, where it is a standby.
    #[serde(default)]
    pub clonefrom: bool,
    /// It streams from this member rather than from the primary, where that is a standby.
    #[serde(default)]
    pub replicatefrom: Option<MemberName>,
    /// It applies WAL this late, in milliseconds; 0 for at once. Then it is never made primary.
    #[serde(default)]
    pub delay_ms: u64,
}

/// Identity of a controller in the Raft group. Never reused for another store.
pub type NodeId = u64;

/// Number of a leadership of a cluster: the fencing token. It grows by one with every grant, and
/// is the number of the timeline that the leadership writes. Never the Raft term.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }

    /// The timeline that this epoch writes: the same number.
    pub fn timeline(self) -> Timeline {
        Timeline(u32::try_from(self.0).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Number of a PostgreSQL timeline (PostgreSQL manual, section 26.3.5).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl Timeline {
    /// The epoch that wrote this timeline.
    pub fn epoch(self) -> Epoch {
        Epoch(u64::from(self.0))
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Position in the write-ahead log, in bytes (PostgreSQL manual, section 8.20).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF))
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Lsn {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let error = || ParseError {
            what: "LSN",
            value: s.to_owned(),
            rule: "two hexadecimal numbers of at most 8 digits with '/' between",
        };
        let (hi, lo) = s.split_once('/').ok_or_else(error)?;
        let part = |p: &str| {
            if p.is_empty() || p.len() > 8 || !p.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            u64::from_str_radix(p, 16).map_err(|_| error())
        };
        Ok(Lsn(part(hi)? << 32 | part(lo)?))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// PostgreSQL's system identifier, made by `initdb`: two data directories with different ones
/// never belong to one cluster. Written as text in every format, since it exceeds 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for SystemId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SystemId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = String::deserialize(d)?;
        s.parse().map(SystemId).map_err(serde::de::Error::custom)
    }
}

/// One life of a member's guard process, hence of one PostgreSQL process tree: 32 hexadecimal
/// digits, drawn when the guard starts. A lease belongs to (member, guard).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuardId(String);

impl GuardId {
    /// Takes 32 lower-case hexadecimal digits.
    pub fn new(value: impl Into<String>) -> Result<Self, ParseError> {
        let value = value.into();
        if value.len() == 32 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(value))
        } else {
            Err(ParseError { what: "guard id", value, rule: "32 lower-case hexadecimal digits" })
        }
    }

    /// Formats 16 random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for GuardId {
    type Error = ParseError;
    fn try_from(value: String) -> Result<Self, Self::Error> {
        Self::new(value)
    }
}

impl From<GuardId> for String {
    fn from(value: GuardId) -> Self {
        value.0
    }
}

impl fmt::Display for GuardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GuardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guard {}", &self.0[..8])
    }
}

/// A reading of CLOCK_BOOTTIME of one machine, in nanoseconds since its boot. It counts suspend,
/// never steps, and means nothing on another machine: never put it on the wire or in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(u64);

impl BootTime {
    /// From nanoseconds since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This instant moved forward by `d`; the end of time where it does not fit.
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to this instant; zero where `earlier` is later.
    pub fn since(self, earlier: BootTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time from now until this instant; zero once it has come.
    pub fn until_from(self, now: BootTime) -> Duration {
        self.since(now)
    }
}

/// Wall-clock time in milliseconds since 1970, for people only. Nothing is decided by it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WallMillis(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "node-1", "pg_main", "a23456789012345678901234567890123456789"] {
            assert!(MemberName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "A", "a b", "a'b", "a/b", "ä", &"a".repeat(41)] {
            assert!(MemberName::new(bad).is_err(), "{bad}");
            let json = serde_json::to_string(bad).unwrap();
            assert!(serde_json::from_str::<MemberName>(&json).is_err(), "{bad}");
        }
    }

    #[test]
    fn lsn_round_trips() {
        for (text, value) in [("0/0", 0), ("0/3000148", 0x0300_0148), ("1A/F", 0x1A_0000_000F)] {
            let lsn: Lsn = text.parse().unwrap();
            assert_eq!(lsn, Lsn(value));
            assert_eq!(lsn.to_string(), text);
        }
        for bad in ["", "0", "/", "0/", "x/0", "0/0/0", "123456789/0", "+1/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn boot_time_never_goes_negative() {
        let a = BootTime::from_nanos(5);
        let b = a.plus(Duration::from_nanos(7));
        assert_eq!(b.since(a), Duration::from_nanos(7));
        assert_eq!(a.since(b), Duration::ZERO);
        assert_eq!(
            BootTime::from_nanos(u64::MAX).plus(Duration::from_secs(1)).as_nanos(),
            u64::MAX
        );
    }
}
