//! Validation of requests: everything from outside passes here before anything is done with it.

use std::time::Duration;

use super::error::Error;
use crate::domain::operation::{AHEAD_MS_MAX, DEADLINE_MS_MAX};
use crate::domain::types::{ClusterName, MemberName, ParseError, WallMillis};

/// Longest text that says who asks, in bytes.
const REQUESTED_BY_BYTES_MAX: usize = 100;
/// Longest wait for the end of an operation.
const WAIT_MAX_MS: u32 = 600_000;
const WAIT_DEFAULT_MS: u32 = 60_000;
const HEARTBEAT_MIN_MS: u32 = 500;
const HEARTBEAT_MAX_MS: u32 = 60_000;
const HEARTBEAT_DEFAULT_MS: u32 = 5_000;

pub(super) fn refused(field: &'static str, error: ParseError) -> Error {
    let problem = format!("{} is wanted: {}", error.what, error.rule);
    Error::Field { field, value: error.value, problem }
}

/// The cluster that is asked for.
pub(super) fn cluster(name: &str) -> Result<ClusterName, Error> {
    ClusterName::new(name).map_err(|e| refused("cluster", e))
}

/// The cluster that is asked for; `None` for all.
pub(super) fn cluster_or_all(name: &str) -> Result<Option<ClusterName>, Error> {
    if name.is_empty() { Ok(None) } else { cluster(name).map(Some) }
}

/// The member that is asked for; `None` for the best.
pub(super) fn target(name: &str) -> Result<Option<MemberName>, Error> {
    if name.is_empty() {
        return Ok(None);
    }
    MemberName::new(name).map(Some).map_err(|e| refused("target", e))
}

/// The member that it is about.
pub(super) fn member(name: &str) -> Result<MemberName, Error> {
    MemberName::new(name).map_err(|e| refused("member", e))
}

/// The member that it is about; `None` for all.
pub(super) fn member_or_all(name: &str) -> Result<Option<MemberName>, Error> {
    if name.is_empty() { Ok(None) } else { member(name).map(Some) }
}

/// When something is to be, by the wall clock; `None` where nothing was said.
pub(super) fn later(at_unix_ms: u64, now: WallMillis) -> Result<Option<WallMillis>, Error> {
    let bad = |problem: &str| {
        let (field, value) = ("at_unix_ms", at_unix_ms.to_string());
        Err(Error::Field { field, value, problem: problem.to_owned() })
    };
    match at_unix_ms {
        0 => Ok(None),
        at if at <= now.0 => bad("it is in the past by the leader's clock"),
        at if at - now.0 > AHEAD_MS_MAX => bad("it is more than a year ahead"),
        at => Ok(Some(WallMillis(at))),
    }
}

/// How long an operation may take, in milliseconds; 0 for what its kind may.
pub(super) fn deadline(deadline_ms: u64) -> Result<u64, Error> {
    if deadline_ms <= DEADLINE_MS_MAX {
        return Ok(deadline_ms);
    }
    let problem = format!("at most {DEADLINE_MS_MAX} is allowed, a week");
    Err(Error::Field { field: "deadline_ms", value: deadline_ms.to_string(), problem })
}

/// Who asks.
pub(super) fn requested_by(text: &str) -> Result<String, Error> {
    let bad = |problem: String| {
        Err(Error::Field { field: "requested_by", value: text.to_owned(), problem })
    };
    if text.is_empty() {
        return Ok("api".to_owned());
    }
    if text.len() > REQUESTED_BY_BYTES_MAX {
        return bad(format!("at most {REQUESTED_BY_BYTES_MAX} bytes are allowed"));
    }
    if text.chars().any(char::is_control) {
        return bad("printable characters are wanted".to_owned());
    }
    Ok(text.to_owned())
}

fn bounded(
    field: &'static str,
    value: u32,
    default: u32,
    allowed: std::ops::RangeInclusive<u32>,
) -> Result<u32, Error> {
    match value {
        0 => Ok(default),
        v if allowed.contains(&v) => Ok(v),
        v => Err(Error::Field {
            field,
            value: v.to_string(),
            problem: format!("{} to {} is allowed", allowed.start(), allowed.end()),
        }),
    }
}

/// How long to wait for the end of an operation.
pub(super) fn wait(timeout_ms: u32) -> Result<Duration, Error> {
    let ms = bounded("timeout_ms", timeout_ms, WAIT_DEFAULT_MS, 1..=WAIT_MAX_MS)?;
    Ok(Duration::from_millis(ms.into()))
}

/// How often a watch sends at least.
pub(super) fn heartbeat(heartbeat_ms: u32) -> Result<Duration, Error> {
    let allowed = HEARTBEAT_MIN_MS..=HEARTBEAT_MAX_MS;
    let ms = bounded("heartbeat_ms", heartbeat_ms, HEARTBEAT_DEFAULT_MS, allowed)?;
    Ok(Duration::from_millis(ms.into()))
}

/// How many events at most.
pub(super) fn limit(limit: u32) -> Result<usize, Error> {
    let max = u32::try_from(crate::domain::state::HISTORY_MAX).unwrap_or(u32::MAX);
    Ok(bounded("limit", limit, max, 1..=max)? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_fields_are_named() {
        let named = |r: Result<(), Error>| match r {
            Err(Error::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(named(cluster("").map(drop)), "cluster");
        assert_eq!(named(cluster_or_all("a'b").map(drop)), "cluster");
        assert_eq!(named(target("Ä").map(drop)), "target");
        assert_eq!(named(requested_by("a\nb").map(drop)), "requested_by");
        assert_eq!(named(requested_by(&"x".repeat(101)).map(drop)), "requested_by");
        assert_eq!(named(wait(600_001).map(drop)), "timeout_ms");
        assert_eq!(named(heartbeat(499).map(drop)), "heartbeat_ms");
        assert_eq!(named(limit(401).map(drop)), "limit");
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        assert_eq!(cluster_or_all("").unwrap(), None);
        assert_eq!(target("").unwrap(), None);
        assert_eq!(requested_by("").unwrap(), "api");
        assert_eq!(wait(0).unwrap(), Duration::from_secs(60));
        assert_eq!(heartbeat(0).unwrap(), Duration::from_secs(5));
        assert_eq!(limit(0).unwrap(), 400);
    }
}
