//! WAL that stays on the disk of a primary: kept by slots, or since it is not archived.
//!
//! Owns the two questions and their bounds. The statement about the archive is one row, asked as
//! often as slots are looked after.

use super::PgDatabase;
use super::error::{self, Result};
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::domain::types::Lsn;
use crate::postgres::connect::{self, Row};
use crate::postgres::sql::Session;
use crate::postgres::status::{PrimaryStatus, Slot};

/// A slot that keeps more than this is told of.
const SLOT_BYTES_MAX: u64 = 4 << 30;
/// So many slots are told of one by one.
const SLOTS_MAX: usize = 8;

/// The archiver fails where its last try did (PostgreSQL manual, section 28.2.12). With
/// `archive_mode = off` it never tried.
const ARCHIVER: &str = "\
SELECT last_failed_wal, failed_count::text AS failed,
 to_char(last_failed_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS last_failed,
 (current_setting('archive_mode') <> 'off' AND last_failed_time IS NOT NULL
  AND (last_archived_time IS NULL OR last_failed_time > last_archived_time))::text AS fails
FROM pg_stat_get_archiver()";

impl PgDatabase {
    pub(super) async fn kept_wal(
        &self,
        session: &mut Session,
        status: &PrimaryStatus,
    ) -> Result<Vec<Alarm>> {
        let end = status.flush.unwrap_or(Lsn(0));
        let mut alarms: Vec<Alarm> = status.slots.values().filter_map(|s| held(s, end)).collect();
        alarms.truncate(SLOTS_MAX);
        let rows = session.query(ARCHIVER).await.map_err(error::sql)?;
        if let Some(row) = rows.first() {
            alarms.extend(archiver(row).map_err(error::sql)?);
        }
        Ok(alarms)
    }
}

fn held(slot: &Slot, end: Lsn) -> Option<Alarm> {
    let about = |text| Some(Alarm::about(AlarmCode::SlotHoldsWal, slot.name.clone(), text));
    let name = &slot.name;
    if slot.wal_status.as_deref() == Some("lost") {
        return about(format!(
            "slot {name} has lost the WAL that it was to keep: its consumer has to begin anew"
        ));
    }
    let kept = end.0.saturating_sub(slot.restart?.0);
    let used = if slot.active_pid.is_some() { "in use" } else { "not in use" };
    if kept <= SLOT_BYTES_MAX {
        return None;
    }
    about(format!(
        "slot {name}, which is {used}, keeps more than {} GiB of WAL: see that its consumer reads on, \
         or drop it if nobody needs it",
        SLOT_BYTES_MAX >> 30
    ))
}

fn archiver(row: &Row) -> std::result::Result<Option<Alarm>, connect::Error> {
    if row.optional("fails")? != Some("true") {
        return Ok(None);
    }
    let wal = row.optional("last_failed_wal")?.unwrap_or_default();
    let (at, failed) = (row.optional("last_failed")?, row.optional("failed")?);
    let text = format!(
        "WAL is not archived: {wal} failed last at {} UTC ({} failures in all); WAL is kept until it \
         is archived and fills the disk: mend archive_command or its target, see PostgreSQL's log",
        at.unwrap_or("?"),
        failed.unwrap_or("?"),
    );
    Ok(Some(Alarm::new(AlarmCode::ArchiveFailing, text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(restart: Option<u64>, wal_status: &str) -> Slot {
        Slot {
            name: "quorate_b".to_owned(),
            physical: true,
            temporary: false,
            active_pid: None,
            restart: restart.map(Lsn),
            wal_status: Some(wal_status.to_owned()),
            holds_xmin: false,
        }
    }

    #[test]
    fn slots_that_keep_much_or_have_lost_it() {
        let end = Lsn(9 << 30);
        assert_eq!(held(&slot(Some(5 << 30), "extended"), end), None);
        assert_eq!(held(&slot(None, "reserved"), end), None);
        let much = held(&slot(Some((5 << 30) - 1), "extended"), end).unwrap();
        assert!(much.subject == "quorate_b" && much.text.contains("4 GiB"), "{much:?}");
        let lost = held(&slot(None, "lost"), end).unwrap();
        assert!(lost.text.contains("has lost"), "{lost:?}");
    }
}
