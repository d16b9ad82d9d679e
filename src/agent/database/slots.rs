//! Slots of the other members: each has one here, so that this member can serve it at once when it
//! is promoted.
//!
//! Owns which slots there are. On a standby they are moved forward, since nobody uses them there;
//! on a primary an unused one keeps the WAL for a member that will come back.

use std::collections::BTreeSet;

use super::error::{self, Result};
use super::{PgDatabase, lock};
use crate::agent::driver::{Care, Upkeep};
use crate::domain::types::Lsn;
use crate::postgres::sql::Session;
use crate::postgres::status::Slot;

/// Prefix of the names of all slots that are ours, see `MemberName::slot_name`.
const PREFIX: &str = "quorate_";
/// A slot that is less behind than this is left alone: WAL is removed in whole segments.
const ADVANCE_BYTES_MIN: u64 = 1 << 20;

impl PgDatabase {
    pub(super) async fn keep_slots(&self, care: &Care) -> Result<Upkeep> {
        self.running()?;
        let mut session = self.take_worker();
        let status = session.primary_status().await.map_err(error::sql)?;
        let replay = if status.in_recovery {
            session.standby_status().await.map_err(error::sql)?.replay
        } else {
            None
        };
        let mut problems = Vec::new();
        for other in &care.others {
            let name = other.member.slot_name();
            let slot = status.slots.get(&name);
            let done = match slot {
                None => session.create_slot(&name, true).await.map(drop),
                Some(slot) if is_lost(slot) && slot.active_pid.is_none() => {
                    problems.push(format!("slot {name} had lost its WAL and was made anew"));
                    remake(&mut session, &name).await
                }
                Some(slot) => match target(slot, replay, other.position.as_ref()) {
                    Some(to) => session.advance_slot(&name, to).await,
                    None => Ok(()),
                },
            };
            if let Err(e) = done {
                problems.push(format!("slot {name} is not kept: {e}"));
            }
        }
        let wanted: BTreeSet<_> = care.others.iter().map(|o| o.member.slot_name()).collect();
        let nobodys = status.slots.values().filter(|s| {
            s.name.starts_with(PREFIX)
                && !wanted.contains(&s.name)
                && s.physical
                && !s.temporary
                && s.active_pid.is_none()
        });
        for slot in nobodys {
            if let Err(e) = session.drop_slot(&slot.name).await {
                problems.push(format!("slot {} is nobody's and was not dropped: {e}", slot.name));
            }
        }
        let streams = session_streams(&mut session, status.in_recovery).await?;
        let settled = if streams { lock(&self.memory).settled.take() } else { None };
        if let Some(files) = settled {
            self.reconfigure(&mut session, &files).await?;
        }
        self.worker.put(session);
        if !status.pending_restart.is_empty() {
            let names = status.pending_restart.join(", ");
            problems.push(format!("settings wait for a restart of PostgreSQL: {names}"));
        }
        problems.extend(
            self.refused_parameters()
                .map(|why| format!("the cluster's parameters are refused: {why}")),
        );
        Ok(Upkeep { problems, ..Upkeep::default() })
    }
}

async fn session_streams(session: &mut Session, standby: bool) -> Result<bool> {
    if !standby {
        return Ok(false);
    }
    let status = session.standby_status().await.map_err(error::sql)?;
    Ok(status.receiver_status.as_deref() == Some("streaming"))
}

fn is_lost(slot: &Slot) -> bool {
    slot.wal_status.as_deref() == Some("lost")
}

async fn remake(
    session: &mut Session,
    name: &str,
) -> std::result::Result<(), crate::postgres::connect::Error> {
    session.drop_slot(name).await?;
    session.create_slot(name, true).await.map(drop)
}

/// Where an unused slot of a standby is to be moved: `replay` is the standby's own, `None` on a
/// primary; `theirs` is the member's that it is for.
fn target(slot: &Slot, replay: Option<Lsn>, theirs: Option<&Lsn>) -> Option<Lsn> {
    let to = replay?.min(*theirs?);
    let restart = slot.restart?;
    let behind = to.0.checked_sub(restart.0)? >= ADVANCE_BYTES_MIN;
    (behind && slot.active_pid.is_none()).then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unused_slots_of_a_standby_move() {
        let mib = 1 << 20;
        let mut slot = Slot {
            name: "quorate_b".into(),
            physical: true,
            temporary: false,
            active_pid: None,
            restart: Some(Lsn(10 * mib)),
            wal_status: None,
            holds_xmin: false,
        };
        let to = |slot: &Slot, replay: u64, theirs: u64| {
            target(slot, Some(Lsn(replay * mib)), Some(&Lsn(theirs * mib))).map(|l| l.0 / mib)
        };
        assert_eq!(to(&slot, 20, 15), Some(15));
        assert_eq!(to(&slot, 12, 15), Some(12));
        assert_eq!(to(&slot, 10, 15), None);
        assert_eq!(to(&slot, 9, 15), None);
        assert_eq!(target(&slot, None, Some(&Lsn(20 * mib))), None);
        assert_eq!(target(&slot, Some(Lsn(20 * mib)), None), None);
        slot.active_pid = Some(1);
        assert_eq!(to(&slot, 20, 15), None);
    }
}
