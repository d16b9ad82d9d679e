//! The barrier: proof that enough members have flushed WAL of this epoch, under the synchronous
//! setting of this epoch.
//!
//! Owns its two steps. First every walsender that began before the new setting was in force is
//! ended, since the number of confirmations that it counts with is visible nowhere. Then a
//! position has to be confirmed by members that are found by the walsender that holds their slot:
//! a slot has one holder, so a half-open walsender beside its successor does not count twice, and
//! nobody counts by calling itself `application_name`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::connect;
use super::sql::Session;
use super::status::Walsender;
use crate::domain::types::{Lsn, MemberName};

const POLL: Duration = Duration::from_millis(2);

/// For how long an ended walsender's slot is awaited before the next one is ended. Its standby
/// comes back within `wal_retrieve_retry_interval` and a connection; one that does not come back
/// must not keep the others from having the new setting.
const RETURN_WAIT: Duration = Duration::from_millis(400);

/// Why there is no barrier.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server is not a primary.
    #[error("the server is a standby")]
    Standby,
    /// The setting is not in force.
    #[error(
        "synchronous_standby_names is {found:?} and did not become {expected:?} in {deadline:?}"
    )]
    NotInForce {
        /// The value.
        found: String,
        /// The value wanted.
        expected: String,
        /// The time it had.
        deadline: Duration,
    },
    /// Walsenders of before do not end.
    #[error("walsenders with the old setting did not end within {0:?}")]
    Walsenders(Duration),
    /// Too few confirmed.
    #[error(
        "{} of the {wanted} members needed confirmed {lsn} within {deadline:?}", confirmed.len()
    )]
    Unconfirmed {
        /// The position.
        lsn: Lsn,
        /// How many are needed.
        wanted: usize,
        /// Those that confirmed.
        confirmed: BTreeSet<MemberName>,
        /// The time they had.
        deadline: Duration,
    },
    /// More members are needed than are given.
    #[error("{wanted} members must confirm, but only {given} can")]
    Impossible {
        /// How many are needed.
        wanted: usize,
        /// How many are given.
        given: usize,
    },
    /// The server did not answer as needed.
    #[error(transparent)]
    Sql(#[from] connect::Error),
}

/// A member and its slot here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmer {
    /// The member. Its lineage was verified in this epoch.
    pub member: MemberName,
    /// Its slot.
    pub slot: String,
}

/// Walsenders that began before a setting was in force, as far as is known.
///
/// They are told by the list of those that were there once it was, and not by their start alone:
/// that is wall-clock time, which is set back now and then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Old {
    /// Process and start, in microseconds since 1970, of each that was there.
    listed: Option<BTreeSet<(i32, i64)>>,
    /// When the setting was loaded, in microseconds since 1970.
    loaded_us: i64,
}

impl Old {
    /// Whether a walsender may have begun before. One that was just being started when the list was
    /// made is told by its start.
    fn has(&self, walsender: &Walsender) -> bool {
        let one = (walsender.pid, walsender.backend_start_us);
        let listed = self.listed.as_ref().is_none_or(|listed| listed.contains(&one));
        listed || walsender.backend_start_us <= self.loaded_us
    }
}

/// Whether it streams WAL to somebody who confirms it: base backups confirm nothing.
fn confirms(walsender: &Walsender) -> bool {
    let backup = walsender.state == "backup" || walsender.slot_is_temporary;
    !backup && walsender.application_name != super::basebackup::APPLICATION_NAME
}

/// Makes sure that every walsender runs with `synchronous_standby_names = expected`, which the
/// caller has written: reloads where it is not in force, then ends those that began before, one by
/// one, so that confirmations keep coming from the others. Base backups are left alone: they
/// confirm nothing. Returns the processes that were ended. `old` is kept by the caller from one
/// attempt to the next, for as long as it is about this setting in this life of the server: then
/// nobody is ended twice.
pub async fn refresh_walsenders(
    session: &mut Session,
    expected: &str,
    old: &mut Old,
    deadline: Duration,
) -> Result<Vec<i32>, Error> {
    let mut found = None;
    let work = async {
        let mut reloaded = false;
        loop {
            let status = session.primary_status().await?;
            if status.in_recovery {
                return Err(Error::Standby);
            }
            let in_force = status.synchronous_standby_names == expected;
            found = Some(status.synchronous_standby_names);
            if in_force {
                break;
            }
            if !reloaded {
                session.reload().await?;
                reloaded = true;
            }
            tokio::time::sleep(POLL).await;
        }
        // This session read the files later than the postmaster did. What the postmaster started
        // after that has the new setting from its first moment.
        if old.listed.is_none() {
            let sql = "SELECT (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint AS us";
            old.loaded_us = session.row(sql).await?.parse("us")?;
            let there = session.primary_status().await?.walsenders;
            let there = there.iter().filter(|w| confirms(w));
            old.listed = Some(there.map(|w| (w.pid, w.backend_start_us)).collect());
        }
        let mut ended = Vec::new();
        while let Some((pid, slot)) = next_old(session, old, &ended).await? {
            session.terminate_walsender(pid).await?;
            ended.push(pid);
            let wait = await_return(session, pid, slot.as_deref());
            if let Ok(done) = tokio::time::timeout(RETURN_WAIT, wait).await {
                done?;
            } else {
                // Dropped in the middle of a statement.
                session.close();
            }
        }
        Ok(ended)
    };
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done,
        Err(_) => {
            session.close();
            let expected = expected.to_owned();
            Err(match found {
                Some(found) if found == expected => Error::Walsenders(deadline),
                found => {
                    let found = found.unwrap_or_default();
                    Error::NotInForce { found, expected, deadline }
                }
            })
        }
    }
}

/// The next walsender that began before the setting was in force. One that was told to end but is
/// still there is looked for again and again: until it is gone it can release a commit.
async fn next_old(
    session: &mut Session,
    old: &Old,
    ended: &[i32],
) -> Result<Option<(i32, Option<String>)>, connect::Error> {
    loop {
        let status = session.primary_status().await?;
        let there = status.walsenders.into_iter();
        let old: Vec<_> = there.filter(|w| confirms(w) && old.has(w)).collect();
        match old.iter().find(|w| !ended.contains(&w.pid)) {
            Some(walsender) => return Ok(Some((walsender.pid, walsender.slot.clone()))),
            None if old.is_empty() => return Ok(None),
            None => tokio::time::sleep(POLL).await,
        }
    }
}

/// Waits until the walsender is gone and its slot is used by another that streams.
async fn await_return(
    session: &mut Session,
    pid: i32,
    slot: Option<&str>,
) -> Result<(), connect::Error> {
    loop {
        let status = session.primary_status().await?;
        let gone = status.walsenders.iter().all(|w| w.pid != pid);
        let back =
            |w: &&Walsender| w.pid != pid && w.slot.as_deref() == slot && w.state == "streaming";
        if gone && (slot.is_none() || status.walsenders.iter().any(|w| back(&w))) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until `wanted` of the members have flushed to `lsn`. Returns those that have: at least
/// `wanted`, perhaps more. With 0 wanted it returns at once.
pub async fn confirm_flush(
    session: &mut Session,
    lsn: Lsn,
    wanted: usize,
    confirmers: &[Confirmer],
    deadline: Duration,
) -> Result<BTreeSet<MemberName>, Error> {
    // Two names of members can give the same name of a slot: it counts once.
    let by_slot: BTreeMap<_, _> = confirmers.iter().map(|c| (&c.slot, &c.member)).collect();
    let given = by_slot.values().collect::<BTreeSet<_>>().len();
    if wanted > given {
        return Err(Error::Impossible { wanted, given });
    }
    let mut confirmed = BTreeSet::new();
    let work = async {
        loop {
            let status = session.primary_status().await?;
            if status.in_recovery {
                return Err(Error::Standby);
            }
            for walsender in status.walsenders {
                let member = walsender.slot.as_ref().and_then(|slot| by_slot.get(slot));
                // The slot is what counts; the name tells a walreceiver from a base backup, which
                // holds the slot too and confirms WAL that no standby has yet.
                let own = member.filter(|m| walsender.application_name == m.as_str());
                // A standby tells the end of its own WAL at once, whatever it is being sent: only one
                // that was sent the position itself confirms it.
                let streams = walsender.state == "streaming" && walsender.sent >= Some(lsn);
                if let (Some(member), true) = (own, streams && walsender.flush >= Some(lsn)) {
                    confirmed.insert((*member).clone());
                }
            }
            if confirmed.len() >= wanted {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done.map(|()| confirmed),
        Err(_) => {
            session.close();
            Err(Error::Unconfirmed { lsn, wanted, confirmed, deadline })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walsender(pid: i32, backend_start_us: i64) -> Walsender {
        Walsender { pid, backend_start_us, state: "streaming".into(), ..Walsender::default() }
    }

    #[test]
    fn who_began_before_is_told_although_the_clock_was_set_back() {
        // The setting was loaded at 500, after the clock had been set back from 9,000.
        let listed = Some([(10, 8_000), (11, 400)].into());
        let old = Old { listed, loaded_us: 500 };
        assert!(old.has(&walsender(10, 8_000)));
        assert!(old.has(&walsender(11, 400)));
        // One that was not in the list yet, and began before.
        assert!(old.has(&walsender(12, 499)));
        assert!(!old.has(&walsender(13, 501)));
        // Another process with the number of one that has ended.
        assert!(!old.has(&walsender(10, 600)));
    }

    #[test]
    fn before_the_list_is_made_everybody_may_be_old() {
        assert!(Old::default().has(&walsender(10, 8_000)));
    }

    #[test]
    fn base_backups_confirm_nothing() {
        let stream = walsender(1, 1);
        assert!(confirms(&stream));
        assert!(!confirms(&Walsender { state: "backup".into(), ..stream.clone() }));
        assert!(!confirms(&Walsender { slot_is_temporary: true, ..stream.clone() }));
        let name = super::super::basebackup::APPLICATION_NAME.to_owned();
        assert!(!confirms(&Walsender { application_name: name, ..stream }));
    }
}
