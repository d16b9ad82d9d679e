//! Questions to the server of another member, over TCP, as the user of `pg_rewind`.
//!
//! Owns the connection and the questions. The user may read little, and change nothing. Each
//! question opens a connection of its own: they are rare.

use std::time::Duration;

use tokio_postgres::Config;

use super::connect::{APPLICATION_NAME, Connection, Error, Row, literal};
use super::credentials::Login;
use super::wal::Segment;
use crate::domain::types::{Lsn, SystemId, Timeline};

/// Where the server is, and as whom to log in.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Its host: a name or an IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The user of `pg_rewind`.
    pub login: Login,
}

/// What a server says about where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its system identifier.
    pub system_id: SystemId,
    /// What it writes; `None` for a standby.
    pub writes: Option<Writes>,
    /// Timeline of its last checkpoint.
    pub checkpoint_timeline: Timeline,
}

/// What a primary writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writes {
    /// The timeline.
    pub timeline: Timeline,
    /// WAL is flushed to here.
    pub flush: Lsn,
}

/// What a standby says about what it follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its system identifier.
    pub system_id: SystemId,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// `quorate.role` of its settings.
    pub role: Option<String>,
    /// `quorate.epoch` of its settings: the epoch that it has promised, and follows where its role
    /// is that of a standby.
    pub epoch: Option<u64>,
    /// Whether its walreceiver is connected.
    pub receives: bool,
    /// End of the WAL that it has.
    pub end: Option<Lsn>,
}

/// A member's slot on another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSlot {
    /// Whether a walsender holds it.
    pub active: bool,
    /// Whether WAL that it needs is gone (`wal_status` is `lost`).
    pub lost: bool,
}

const PLACE: &str = "\
SELECT s.system_identifier AS system_id, c.timeline_id AS checkpoint_tli,
 CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END AS flush,
 CASE WHEN NOT pg_is_in_recovery()
  THEN ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::bigint
  END AS tli
FROM pg_control_system() s CROSS JOIN pg_control_checkpoint() c";

const STANDING: &str = "\
SELECT s.system_identifier AS system_id, pg_is_in_recovery() AS in_recovery,
 current_setting('quorate.role', true) AS role, current_setting('quorate.epoch', true) AS epoch,
 r.pid IS NOT NULL AS receives,
 CASE WHEN pg_is_in_recovery()
  THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) END AS \"end\"
FROM pg_control_system() s LEFT JOIN pg_stat_get_wal_receiver() r ON true";

impl Remote {
    fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(self.login.user())
            .password(self.login.password().reveal())
            .dbname("postgres")
            .application_name(APPLICATION_NAME)
            .options("-c search_path=pg_catalog -c statement_timeout=10000");
        config
    }

    async fn ask(&self, sql: &str, deadline: Duration) -> Result<Vec<Row>, Error> {
        let ask = async {
            let connection = Connection::dial(&self.config(), deadline).await?;
            connection.query(sql, deadline).await
        };
        match tokio::time::timeout(deadline, ask).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Deadline(deadline)),
        }
    }

    /// Asks where the server is, within `deadline`.
    pub async fn place(&self, deadline: Duration) -> Result<Place, Error> {
        let row = one(self.ask(PLACE, deadline).await?)?;
        let flush: Option<Lsn> = row.parse_optional("flush")?;
        let timeline: Option<u32> = row.parse_optional("tli")?;
        Ok(Place {
            // The server shows it as a signed number.
            system_id: SystemId(row.parse::<i64>("system_id")?.cast_unsigned()),
            writes: timeline
                .zip(flush)
                .map(|(timeline, flush)| Writes { timeline: Timeline(timeline), flush }),
            checkpoint_timeline: Timeline(row.parse("checkpoint_tli")?),
        })
    }

    /// Asks a standby what it follows, within `deadline`. Whoever it is that it streams from may be
    /// hidden from our user, but not that there is somebody.
    pub async fn standing(&self, deadline: Duration) -> Result<Standing, Error> {
        let row = one(self.ask(STANDING, deadline).await?)?;
        Ok(Standing {
            system_id: SystemId(row.parse::<i64>("system_id")?.cast_unsigned()),
            in_recovery: row.flag("in_recovery")?,
            role: row.optional("role")?.map(str::to_owned),
            epoch: row.optional("epoch")?.and_then(|e| e.parse().ok()),
            receives: row.flag("receives")?,
            end: row.parse_optional("end")?,
        })
    }

    /// Asks for a physical slot, within `deadline`; `None` where there is none of that name.
    pub async fn slot(&self, name: &str, deadline: Duration) -> Result<Option<RemoteSlot>, Error> {
        let sql = format!(
            "SELECT active, coalesce(wal_status = 'lost', false) AS lost \
             FROM pg_get_replication_slots() WHERE slot_name = {}",
            literal(name)
        );
        let rows = self.ask(&sql, deadline).await?;
        let slot =
            |row: &Row| Ok(RemoteSlot { active: row.flag("active")?, lost: row.flag("lost")? });
        rows.first().map(slot).transpose()
    }

    /// How many bytes its data directory has, without WAL and with all tablespaces, within
    /// `deadline`. Files that come and go meanwhile may be missing.
    pub async fn data_bytes(&self, deadline: Duration) -> Result<u64, Error> {
        // A strict function gives no rows for a null: nothing is listed below a file.
        const SQL: &str = "\
WITH RECURSIVE tree(path, dir, size) AS (
 SELECT '.', true, 0::bigint
 UNION ALL
 SELECT t.path || '/' || f.name, s.isdir, s.size
 FROM tree t
 CROSS JOIN LATERAL pg_ls_dir(CASE WHEN t.dir THEN t.path END, true, false) AS f(name)
 CROSS JOIN LATERAL pg_stat_file(t.path || '/' || f.name, true) s
 WHERE s.size IS NOT NULL AND t.path || '/' || f.name <> './pg_wal')
SELECT coalesce(sum(size) FILTER (WHERE NOT dir), 0)::bigint AS n FROM tree";
        one(self.ask(SQL, deadline).await?)?.parse::<u64>("n")
    }

    /// Whether the server still has the WAL segment that holds the byte at `lsn`, of whatever
    /// timeline, within `deadline`.
    pub async fn has_wal(
        &self,
        lsn: Lsn,
        segment_bytes: u64,
        deadline: Duration,
    ) -> Result<bool, Error> {
        let name = Segment::of(Timeline(0), lsn, segment_bytes).file_name(segment_bytes);
        let number = name.get(8..).unwrap_or_default();
        // With these arguments: the shorter form of the function is not granted to the user.
        let sql = format!(
            "SELECT count(*) AS n FROM pg_ls_dir('pg_wal', true, false) AS f(name) \
             WHERE length(name) = 24 AND substr(name, 9) = {}",
            literal(number)
        );
        Ok(one(self.ask(&sql, deadline).await?)?.parse::<u64>("n")? > 0)
    }
}

fn one(rows: Vec<Row>) -> Result<Row, Error> {
    rows.into_iter().next().ok_or_else(|| Error::Answer("a row".to_owned()))
}
