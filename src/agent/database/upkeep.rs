//! What changes slowly and is looked after from time to time.
//!
//! Owns the order, and the questions about commits and logical slots. Where nothing is wrong it
//! costs two statements and the reading of a few small files.

use std::time::{Duration, Instant};

use super::conf::Files;
use super::error::{self, Result};
use super::{PgDatabase, lock};
use crate::agent::driver::{Care, Upkeep};
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::domain::specification::{PendingSetting, SettingsReport};
use crate::domain::state::SynchronousMode;
use crate::postgres::conf::SLOT_SYNC_MAJOR;
use crate::postgres::connect::{self, Row};
use crate::postgres::sql::Session;
use crate::postgres::status::PrimaryStatus;

/// How often weakened commits are looked for.
const WEAKENED_EVERY: Duration = Duration::from_secs(30);
/// How long a standby looks for its primary without a pause.
const EAGER_MAX: Duration = Duration::from_secs(10);
/// So many roles and databases are told of one by one.
const WEAKENED_MAX: usize = 12;
/// So many names are listed in one text.
const NAMES_MAX: usize = 8;

/// Commits that were found to be weakened, and when that was looked for.
#[derive(Debug, Default)]
pub(super) struct Weakened {
    asked: Option<Instant>,
    alarms: Vec<Alarm>,
}

/// Settings of roles and databases (PostgreSQL manual, section 53.39), and what ALTER SYSTEM or the
/// operator's own file says. Values below `on` let a commit be acknowledged before a standby has
/// flushed it (manual, section 20.5.1).
const WEAKENED: &str = "\
WITH found AS (
 SELECT CASE WHEN s.setrole <> 0 THEN pg_get_userbyid(s.setrole) END AS role,
  d.datname AS database, split_part(c.text, '=', 2) AS value
 FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase
 CROSS JOIN LATERAL unnest(s.setconfig) AS c(text)
 WHERE lower(split_part(c.text, '=', 1)) = 'synchronous_commit'
 UNION ALL
 SELECT NULL, NULL, f.setting FROM pg_show_all_file_settings() f
 WHERE lower(f.name) = 'synchronous_commit' AND f.applied)
SELECT role, database, value, count(*) OVER () AS total FROM found
WHERE lower(value) NOT IN ('on', 'true', 'yes', '1', 'remote_apply')
ORDER BY role NULLS FIRST, database NULLS FIRST";

/// Logical slots that a standby does not copy. `failover` is a column since 17.
const LOGICAL: &str = "\
SELECT s.slot_name FROM pg_get_replication_slots() s
WHERE s.slot_type = 'logical' AND NOT s.temporary
 AND NOT coalesce((to_jsonb(s) ->> 'failover')::boolean, false)
ORDER BY s.slot_name";

impl PgDatabase {
    pub(super) async fn look_after(&self, care: &Care) -> Result<Upkeep> {
        self.running()?;
        let mut session = self.take_worker();
        let status = match session.primary_status().await {
            Ok(status) => status,
            Err(e @ connect::Error::Server { .. }) => {
                self.unlock().await?;
                return Err(error::sql(e));
            }
            Err(e) => return Err(error::sql(e)),
        };
        let standby = match status.in_recovery {
            true => Some(session.standby_status().await.map_err(error::sql)?),
            false => None,
        };
        let mut upkeep = Upkeep::default();
        let replay = standby.as_ref().and_then(|s| s.replay);
        self.keep_slots(&mut session, &status, replay, care, &mut upkeep).await;

        let standby_paused = standby.as_ref().is_some_and(|s| s.replay_paused);
        let streams = standby.is_some_and(|s| s.receiver_status.as_deref() == Some("streaming"));
        let settled = {
            let memory = lock(&self.memory);
            let long = memory.following.as_ref().is_none_or(|f| f.begun.elapsed() >= EAGER_MAX);
            // One that looks for a primary that is gone would fill its log.
            let settled = if streams || long { memory.settled.clone() } else { None };
            // The operator's part may have changed since.
            let part = memory.installed.as_ref().map(Files::operator);
            match (settled, part) {
                (Some(files), Some(part)) => Some(files.with_operator(part, self.binaries.major())),
                (settled, _) => settled,
            }
        };
        if let Some(files) = settled {
            self.reconfigure(&mut session, &files).await?;
            lock(&self.memory).settled = None;
        }
        upkeep.alarms.extend(self.put_right(&mut session, &status, care).await?);
        if !status.in_recovery {
            upkeep.alarms.extend(self.weakened_commits(&mut session, care).await?);
            let major = self.binaries.major();
            upkeep.alarms.extend(logical_slots(&mut session, &status, major, care).await?);
            upkeep.alarms.extend(self.impostor_alarms());
            upkeep.alarms.extend(self.kept_wal(&mut session, &status).await?);
        }
        upkeep.settings = self.settings_report(&mut session, care).await?;
        if status.in_recovery && standby_paused {
            upkeep.restart = self.starved_of_settings(&mut session).await?;
        }
        if !status.in_recovery {
            upkeep.alarms.extend(self.keep_objects(care, &upkeep.settings));
        }
        upkeep.alarms.extend(self.settings_alarms(&upkeep.settings, care));
        upkeep.alarms.extend(self.next_start(&mut session).await?);
        self.worker.put(session);
        upkeep.notices = lock(&self.memory).notices.drain(..).collect();
        Ok(upkeep)
    }

    /// Has the configuration read again. What is wrong in its files is refused by PostgreSQL, which
    /// goes on with what it had: that is said.
    pub(super) async fn read_again(&self) -> Result<Option<String>> {
        self.running()?;
        let mut session = self.take_worker();
        session.reload().await.map_err(error::sql)?;
        let problems = session.file_problems(self.binaries.major()).await.map_err(error::sql)?;
        self.worker.put(session);
        Ok((!problems.is_empty()).then(|| listed(&problems)))
    }

    fn settings_alarms(&self, report: &SettingsReport, care: &Care) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        if !report.pending.is_empty() {
            let one = |p: &PendingSetting| format!("{} from {} to {}", p.name, p.running, p.wanted);
            let names: Vec<String> = report.pending.iter().map(one).collect();
            let text = format!("settings wait for a restart of PostgreSQL: {}", listed(&names));
            alarms.push(Alarm::new(AlarmCode::PendingRestart, text));
        }
        if let Some(why) = self.untried_settings(care) {
            let text = format!(
                "whether PostgreSQL takes the cluster's parameters is not known, and they are not \
                 used yet: {why}"
            );
            alarms.push(Alarm::new(AlarmCode::ParametersRefused, text));
        } else if let Some(why) = self.refused_settings(care) {
            let text =
                format!("the cluster's parameters are refused, the last good ones stay: {why}");
            alarms.push(Alarm::new(AlarmCode::ParametersRefused, text));
        }
        alarms
    }

    async fn weakened_commits(&self, session: &mut Session, care: &Care) -> Result<Vec<Alarm>> {
        if care.spec.synchronous == SynchronousMode::Async {
            return Ok(Vec::new());
        }
        {
            let known = &lock(&self.memory).weakened;
            if known.asked.is_some_and(|at| at.elapsed() < WEAKENED_EVERY) {
                return Ok(known.alarms.clone());
            }
        }
        let rows = session.query(WEAKENED).await.map_err(error::sql)?;
        let mut alarms = Vec::new();
        for row in rows.iter().take(WEAKENED_MAX) {
            alarms.push(weakened(row).map_err(error::sql)?);
        }
        if rows.len() > WEAKENED_MAX {
            let more = rows.len() - WEAKENED_MAX;
            let text = format!("{more} more roles and databases weaken their commits");
            alarms.push(Alarm::about(AlarmCode::WeakenedCommits, "others", text));
        }
        lock(&self.memory).weakened =
            Weakened { asked: Some(Instant::now()), alarms: alarms.clone() };
        Ok(alarms)
    }
}

/// A name as SQL has it, in one short line.
fn quoted(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("\"{}\"", plain.replace('"', "\"\""))
}

fn weakened(row: &Row) -> std::result::Result<Alarm, connect::Error> {
    let (role, database) = (row.optional("role")?, row.optional("database")?);
    let value = row.text("value")?;
    let (subject, command) = match (role, database) {
        (Some(role), Some(database)) => (
            format!("role {role} in database {database}"),
            format!("ALTER ROLE {} IN DATABASE {} RESET", quoted(role), quoted(database)),
        ),
        (Some(role), None) => {
            (format!("role {role}"), format!("ALTER ROLE {} RESET", quoted(role)))
        }
        (None, Some(database)) => {
            (format!("database {database}"), format!("ALTER DATABASE {} RESET", quoted(database)))
        }
        (None, None) => ("the server".to_owned(), "ALTER SYSTEM RESET".to_owned()),
    };
    let text = format!(
        "with synchronous_commit = {value} commits of {subject} are acknowledged before a standby \
         has them, and a failover can lose them; if that is not meant: {command} \
         synchronous_commit"
    );
    Ok(Alarm::about(AlarmCode::WeakenedCommits, subject, text))
}

/// Names for a text, not more than a person reads.
fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMES_MAX);
    let shown: Vec<_> = names.iter().take(NAMES_MAX).map(String::as_str).collect();
    let shown = shown.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

async fn logical_slots(
    session: &mut Session,
    status: &PrimaryStatus,
    major: u32,
    care: &Care,
) -> Result<Option<Alarm>> {
    let any = status.slots.values().any(|s| !s.physical && !s.temporary);
    if !any || care.others.is_empty() {
        return Ok(None);
    }
    let rows = session.query(LOGICAL).await.map_err(error::sql)?;
    let name = |row: &Row| row.text("slot_name").map(str::to_owned);
    let names = rows.iter().map(name).collect::<std::result::Result<Vec<_>, _>>();
    Ok(logical_alarm(&names.map_err(error::sql)?, major))
}

fn logical_alarm(names: &[String], major: u32) -> Option<Alarm> {
    if names.is_empty() {
        return None;
    }
    let names = listed(names);
    let text = if major < SLOT_SYNC_MAJOR {
        format!(
            "logical slots are lost with this primary, since PostgreSQL {major} does not copy them \
             to standbys: {names}; after a failover make them again and have their consumers \
             begin anew, or upgrade to {SLOT_SYNC_MAJOR}"
        )
    } else {
        format!(
            "logical slots are lost with this primary, since they were made without failover: \
             {names}; make them with failover = true (ALTER SUBSCRIPTION ... SET (failover = \
             true) for subscriptions)"
        )
    };
    Some(Alarm::new(AlarmCode::LogicalSlots, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_bounded() {
        let names: Vec<_> = (0..1000).map(|n| format!("slot_{n}")).collect();
        for major in [15, 17] {
            let alarm = logical_alarm(&names, major).unwrap();
            assert!(alarm.text.len() < 400 && alarm.text.contains("and 992 more"), "{alarm:?}");
        }
        let few = logical_alarm(&names[..2], 15).unwrap();
        assert!(few.text.contains(": slot_0, slot_1; "), "{few:?}");
        assert_eq!(logical_alarm(&[], 15), None);
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted("a\"b\nc"), "\"a\"\"b?c\"");
    }
}
