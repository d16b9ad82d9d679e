//! What a running server says about itself.
//!
//! Owns the questions and the types of the answers. Functions are asked and not the views over
//! them: the views join catalogs that a standby can have locked while it replays.

use std::collections::BTreeMap;

use super::connect::{Error, Row};
use super::sql::Session;
use crate::domain::types::{Lsn, Timeline};

/// A standby's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Whether it is a standby at all. What follows means little if not.
    pub in_recovery: bool,
    /// Replayed to here.
    pub replay: Option<Lsn>,
    /// Received and flushed to here; `None` when nothing was received since the start.
    pub receive: Option<Lsn>,
    /// Timeline of what is being received.
    pub received_timeline: Option<Timeline>,
    /// Whether a walreceiver process is there, whatever it does.
    pub has_receiver: bool,
    /// What the walreceiver does, such as `streaming`.
    pub receiver_status: Option<String>,
    /// Whether replay is paused.
    pub replay_paused: bool,
    /// What the startup process waits for, such as `RecoveryRetrieveRetryInterval`; `None` when it
    /// works.
    pub startup_wait: Option<String>,
    /// The kind of that wait, such as `Lock`.
    pub startup_wait_type: Option<String>,
    /// How far the other side was when it last said so, while a walreceiver runs.
    pub primary_end: Option<Lsn>,
    /// Start of the postmaster, in microseconds since 1970 on the server's clock.
    pub postmaster_start_us: i64,
    /// Timeline of the last checkpoint or restartpoint.
    pub checkpoint_timeline: Timeline,
    /// Newest timeline that the control file knows.
    pub control_timeline: Timeline,
    /// `quorate.role` as this session sees it.
    pub role: Option<String>,
    /// `quorate.epoch` as this session sees it.
    pub epoch: Option<u64>,
}

/// One walsender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walsender {
    /// Its process.
    pub pid: i32,
    /// The name that the other side gave. It proves nothing.
    pub application_name: String,
    /// The slot that it holds.
    pub slot: Option<String>,
    /// Whether that slot goes with the connection, as that of a base backup does.
    pub slot_is_temporary: bool,
    /// What it does, such as `streaming` or `backup`.
    pub state: String,
    /// Its start, in microseconds since 1970 on the server's clock.
    pub backend_start_us: i64,
    /// Sent to here.
    pub sent: Option<Lsn>,
    /// Written there to here.
    pub write: Option<Lsn>,
    /// Flushed there to here.
    pub flush: Option<Lsn>,
    /// Replayed there to here.
    pub replay: Option<Lsn>,
    /// `sync_state` as this session computes it.
    pub sync_state: String,
    /// `sync_priority` as the walsender computed it.
    pub sync_priority: i32,
    /// Last message from the other side, in microseconds since 1970 on its clock.
    pub reply_time_us: Option<i64>,
}

/// One replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether it is a physical one.
    pub physical: bool,
    /// Whether it goes with its connection.
    pub temporary: bool,
    /// The walsender that uses it.
    pub active_pid: Option<i32>,
    /// WAL is kept from here on.
    pub restart: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Whether it holds back the removal of dead rows.
    pub holds_xmin: bool,
}

/// A primary's state. On a standby the positions are `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryStatus {
    /// Whether it is a standby after all.
    pub in_recovery: bool,
    /// WAL is written to here.
    pub write: Option<Lsn>,
    /// WAL is flushed to here.
    pub flush: Option<Lsn>,
    /// The timeline that it writes.
    pub timeline: Option<Timeline>,
    /// Start of the postmaster, in microseconds since 1970 on the server's clock.
    pub postmaster_start_us: i64,
    /// `synchronous_standby_names` as this session sees it.
    pub synchronous_standby_names: String,
    /// Whether transactions are read-only by default, by `quorate.read_only`: this session's own
    /// `default_transaction_read_only` is pinned.
    pub read_only: bool,
    /// `quorate.role` as this session sees it.
    pub role: Option<String>,
    /// `quorate.epoch` as this session sees it.
    pub epoch: Option<u64>,
    /// Settings that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Its walsenders.
    pub walsenders: Vec<Walsender>,
    /// Its slots, by name.
    pub slots: BTreeMap<String, Slot>,
}

const STANDBY: &str = "\
SELECT pg_is_in_recovery() AS in_recovery, pg_last_wal_replay_lsn() AS replay,
 pg_last_wal_receive_lsn() AS receive, r.received_tli, r.latest_end_lsn,
 r.status AS receiver_status,
 EXISTS (SELECT FROM pg_stat_get_activity(NULL) WHERE backend_type = 'walreceiver')
  OR r.pid IS NOT NULL AS has_receiver,
 CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS paused,
 s.wait_event, s.wait_event_type,
 (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AS start_us,
 c.timeline_id AS checkpoint_tli,
 greatest(c.timeline_id, m.min_recovery_end_timeline) AS control_tli,
 current_setting('quorate.role', true) AS role, current_setting('quorate.epoch', true) AS epoch
FROM pg_control_checkpoint() c CROSS JOIN pg_control_recovery() m
LEFT JOIN pg_stat_get_wal_receiver() r ON true
LEFT JOIN LATERAL (SELECT wait_event, wait_event_type FROM pg_stat_get_activity(NULL)
 WHERE backend_type = 'startup') s ON true";

const PRIMARY: &str = "\
SELECT 'server' AS kind, pg_is_in_recovery() AS in_recovery,
 CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() END AS write,
 CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END AS flush,
 CASE WHEN NOT pg_is_in_recovery()
  THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END AS tli,
 (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AS start_us,
 current_setting('synchronous_standby_names') AS names,
 current_setting('quorate.read_only', true) AS read_only,
 current_setting('quorate.role', true) AS role, current_setting('quorate.epoch', true) AS epoch;
SELECT 'pending' AS kind, name FROM pg_show_all_settings() WHERE pending_restart ORDER BY name;
SELECT 'walsender' AS kind, w.pid, a.application_name, s.slot_name,
 coalesce(s.temporary, false) AS temporary, w.state,
 (extract(epoch FROM a.backend_start) * 1000000)::bigint AS start_us,
 w.sent_lsn, w.write_lsn, w.flush_lsn, w.replay_lsn, w.sync_state, w.sync_priority,
 (extract(epoch FROM w.reply_time) * 1000000)::bigint AS reply_us
FROM pg_stat_get_wal_senders() w JOIN pg_stat_get_activity(NULL) a USING (pid)
LEFT JOIN pg_get_replication_slots() s ON s.active_pid = w.pid
ORDER BY w.pid;
SELECT 'slot' AS kind, slot_name, slot_type = 'physical' AS physical, temporary, active_pid,
 restart_lsn, wal_status, xmin IS NOT NULL OR catalog_xmin IS NOT NULL AS holds_xmin
FROM pg_get_replication_slots() ORDER BY slot_name";

impl Session {
    /// Asks a standby for its state.
    pub async fn standby_status(&mut self) -> Result<StandbyStatus, Error> {
        let row = self.row(STANDBY).await?;
        let text =
            |column: &str| -> Result<_, Error> { Ok(row.optional(column)?.map(str::to_owned)) };
        Ok(StandbyStatus {
            in_recovery: row.flag("in_recovery")?,
            replay: row.parse_optional("replay")?,
            receive: row.parse_optional("receive")?,
            received_timeline: row.parse_optional("received_tli")?.map(Timeline),
            primary_end: row.parse_optional("latest_end_lsn")?,
            has_receiver: row.flag("has_receiver")?,
            receiver_status: text("receiver_status")?,
            replay_paused: row.flag("paused")?,
            startup_wait: text("wait_event")?,
            startup_wait_type: text("wait_event_type")?,
            postmaster_start_us: row.parse("start_us")?,
            checkpoint_timeline: Timeline(row.parse("checkpoint_tli")?),
            control_timeline: Timeline(row.parse("control_tli")?),
            role: text("role")?,
            epoch: epoch(&row)?,
        })
    }

    /// Asks a primary for its state.
    pub async fn primary_status(&mut self) -> Result<PrimaryStatus, Error> {
        let rows = self.query(PRIMARY).await?;
        let mut server = None;
        let mut pending_restart = Vec::new();
        let mut walsenders = Vec::new();
        let mut slots = BTreeMap::new();
        for row in rows {
            match row.text("kind")? {
                "server" => server = Some(row),
                "pending" => pending_restart.push(row.text("name")?.to_owned()),
                "walsender" => walsenders.push(walsender(&row)?),
                _ => {
                    let slot = slot(&row)?;
                    slots.insert(slot.name.clone(), slot);
                }
            }
        }
        let row = server.ok_or_else(|| Error::Answer("kind".to_owned()))?;
        Ok(PrimaryStatus {
            in_recovery: row.flag("in_recovery")?,
            write: row.parse_optional("write")?,
            flush: row.parse_optional("flush")?,
            timeline: row.parse_optional("tli")?.map(Timeline),
            postmaster_start_us: row.parse("start_us")?,
            synchronous_standby_names: row.text("names")?.to_owned(),
            read_only: row.optional("read_only")? != Some("off"),
            role: row.optional("role")?.map(str::to_owned),
            epoch: epoch(&row)?,
            pending_restart,
            walsenders,
            slots,
        })
    }

    /// Lists the slots, by name. On a standby as well.
    pub async fn slots(&mut self) -> Result<BTreeMap<String, Slot>, Error> {
        Ok(self.primary_status().await?.slots)
    }
}

fn epoch(row: &Row) -> Result<Option<u64>, Error> {
    // An empty text is a setting that was removed from the file.
    Ok(row.optional("epoch")?.and_then(|e| e.parse().ok()))
}

fn walsender(row: &Row) -> Result<Walsender, Error> {
    Ok(Walsender {
        pid: row.parse("pid")?,
        application_name: row.optional("application_name")?.unwrap_or_default().to_owned(),
        slot: row.optional("slot_name")?.map(str::to_owned),
        slot_is_temporary: row.flag("temporary")?,
        state: row.optional("state")?.unwrap_or_default().to_owned(),
        backend_start_us: row.parse("start_us")?,
        sent: row.parse_optional("sent_lsn")?,
        write: row.parse_optional("write_lsn")?,
        flush: row.parse_optional("flush_lsn")?,
        replay: row.parse_optional("replay_lsn")?,
        sync_state: row.optional("sync_state")?.unwrap_or_default().to_owned(),
        sync_priority: row.parse_optional("sync_priority")?.unwrap_or(0),
        reply_time_us: row.parse_optional("reply_us")?,
    })
}

fn slot(row: &Row) -> Result<Slot, Error> {
    Ok(Slot {
        name: row.text("slot_name")?.to_owned(),
        physical: row.flag("physical")?,
        temporary: row.flag("temporary")?,
        active_pid: row.parse_optional("active_pid")?,
        restart: row.parse_optional("restart_lsn")?,
        wal_status: row.optional("wal_status")?.map(str::to_owned),
        holds_xmin: row.flag("holds_xmin")?,
    })
}
