//! What is said on a connection between a client and a server.
//!
//! Owns the messages and their bytes. A message is a kind and numbers; it is not PostgreSQL's
//! protocol, of which nothing here depends on the form.

use crate::check::Value;

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Whether it is in recovery.
    pub standby: bool,
    /// Whether transactions of this session are read-only.
    pub read_only: bool,
    /// Its timeline.
    pub timeline: u64,
}

impl Role {
    /// The epoch in which it is open for writes.
    pub fn open(self) -> Option<u64> {
        (!self.standby && !self.read_only).then_some(self.timeline)
    }
}

/// A client's request. The first on a connection is `Hello`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Opens a session.
    Hello { rude: bool },
    /// Asks for the role.
    Role,
    /// Asks for all rows.
    Rows,
    /// Inserts a row.
    Insert(Value),
    /// Cancels what is under way. There is no answer to it.
    Cancel,
}

/// A server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// To `Hello` and `Role`.
    Role(Role),
    /// To `Rows`.
    Rows(Role, Vec<(Value, Value)>),
    /// To `Insert`: acknowledged on this timeline.
    Acknowledged(u64),
    /// To `Insert`: done, with a notice.
    Unconfirmed,
    /// To anything: nothing was done, for this reason.
    Refused(String),
}

fn numbers(kind: u64, rest: &[u64]) -> Vec<u8> {
    std::iter::once(&kind).chain(rest).flat_map(|n| n.to_le_bytes()).collect()
}

fn parse(bytes: &[u8]) -> Option<(u64, Vec<u64>)> {
    let mut all = bytes.chunks_exact(8).map(|c| c.try_into().map(u64::from_le_bytes));
    let kind = all.next()?.ok()?;
    Some((kind, all.collect::<Result<_, _>>().ok()?))
}

impl Request {
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Request::Hello { rude } => numbers(0, &[u64::from(*rude)]),
            Request::Role => numbers(1, &[]),
            Request::Rows => numbers(2, &[]),
            Request::Insert(value) => numbers(3, &[*value]),
            Request::Cancel => numbers(4, &[]),
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = parse(bytes)?;
        Some(match (kind, rest.as_slice()) {
            (0, [rude]) => Request::Hello { rude: *rude != 0 },
            (1, []) => Request::Role,
            (2, []) => Request::Rows,
            (3, [value]) => Request::Insert(*value),
            (4, []) => Request::Cancel,
            _ => return None,
        })
    }
}

impl Role {
    fn numbers(self) -> [u64; 3] {
        [u64::from(self.standby), u64::from(self.read_only), self.timeline]
    }

    fn of(numbers: &[u64]) -> Option<Self> {
        let [standby, read_only, timeline] = *numbers else { return None };
        Some(Self { standby: standby != 0, read_only: read_only != 0, timeline })
    }
}

impl Answer {
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Answer::Role(role) => numbers(0, &role.numbers()),
            Answer::Rows(role, ranges) => {
                let mut all = role.numbers().to_vec();
                all.extend(ranges.iter().flat_map(|(first, last)| [*first, *last]));
                numbers(1, &all)
            }
            Answer::Acknowledged(timeline) => numbers(2, &[*timeline]),
            Answer::Unconfirmed => numbers(3, &[]),
            Answer::Refused(why) => {
                let mut bytes = numbers(4, &[]);
                bytes.extend(why.as_bytes());
                bytes
            }
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(&4u64.to_le_bytes()) {
            return Some(Answer::Refused(String::from_utf8(bytes[8..].to_vec()).ok()?));
        }
        let (kind, rest) = parse(bytes)?;
        Some(match (kind, rest.as_slice()) {
            (0, role) => Answer::Role(Role::of(role)?),
            (1, rest) => {
                let (role, ranges) = rest.split_at_checked(3)?;
                let ranges = ranges.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
                Answer::Rows(Role::of(role)?, ranges)
            }
            (2, [timeline]) => Answer::Acknowledged(*timeline),
            (3, []) => Answer::Unconfirmed,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        for request in [
            Request::Hello { rude: true },
            Request::Hello { rude: false },
            Request::Role,
            Request::Rows,
            Request::Insert(77),
            Request::Cancel,
        ] {
            assert_eq!(Request::parse(&request.bytes()), Some(request));
        }
        let role = Role { standby: false, read_only: true, timeline: 9 };
        for answer in [
            Answer::Role(role),
            Answer::Rows(role, vec![]),
            Answer::Rows(role, vec![(1, 2), (7, 7)]),
            Answer::Acknowledged(3),
            Answer::Unconfirmed,
            Answer::Refused("a read-only transaction".to_owned()),
            Answer::Refused(String::new()),
        ] {
            assert_eq!(Answer::parse(&answer.bytes()), Some(answer));
        }
        assert_eq!(Request::parse(&[]), None);
        assert_eq!(Answer::parse(&[9; 8]), None);
    }
}
