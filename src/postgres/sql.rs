//! The held session with the server of this machine, and the commands that we give it.
//!
//! Owns reconnection and the statements that change something. What is only read is in
//! [`super::status`].

use std::time::Duration;

use super::connect::{Connection, Error, Row, Target, literal};
use crate::domain::types::{Lsn, Timeline};

/// A condition on rows of `pg_stat_get_activity` that leaves out our own connections. The view
/// `pg_stat_activity` is not used: it joins catalogs that a standby can have locked.
const NOT_OURS: &str = "a.pid <> pg_backend_pid() AND NOT (a.application_name = 'quorate' AND \
     a.usesysid = (SELECT usesysid FROM pg_stat_get_activity(pg_backend_pid())))";

/// A held session. Not shared: a statement of one user must not wait for that of another.
pub struct Session {
    target: Target,
    connection: Option<Connection>,
    deadline: Duration,
}

impl Session {
    /// A session with the server of `target`. It connects with the first statement, and again
    /// after any failure. `deadline` is that of each call that has none of its own.
    pub fn new(target: Target, deadline: Duration) -> Self {
        Self { target, connection: None, deadline }
    }

    /// Where the server is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The deadline of each call.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Closes the connection; the next call opens another.
    pub fn close(&mut self) {
        self.connection = None;
    }

    /// Whether the next call finds an open connection.
    pub fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(|c| !c.is_closed())
    }

    /// Runs statements within the session's deadline.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        self.query_within(sql, self.deadline).await
    }

    /// Runs statements within `deadline`, including the time to connect where that is needed.
    pub async fn query_within(&mut self, sql: &str, deadline: Duration) -> Result<Vec<Row>, Error> {
        let run = async {
            let connection = match self.connection.take().filter(|c| !c.is_closed()) {
                Some(open) => open,
                None => Connection::open(&self.target, deadline).await?,
            };
            connection.take_notices();
            let answer = connection.query(sql, deadline).await;
            // Anything but a refused statement leaves the connection in an unknown state.
            if matches!(answer, Ok(_) | Err(Error::Server { .. })) {
                self.connection = Some(connection);
            }
            answer
        };
        match tokio::time::timeout(deadline, run).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Deadline(deadline)),
        }
    }

    /// Runs a statement that answers with one row.
    pub async fn row(&mut self, sql: &str) -> Result<Row, Error> {
        self.query(sql).await?.pop().ok_or_else(|| Error::Answer("a row".to_owned()))
    }

    /// Notices that came with the last statement.
    fn notices(&self) -> Vec<String> {
        self.connection.as_ref().map(Connection::take_notices).unwrap_or_default()
    }

    /// Makes every process read its settings again. It returns before they have.
    pub async fn reload(&mut self) -> Result<(), Error> {
        self.reload_at().await.map(drop)
    }

    /// The same. Returns when it was asked for, in microseconds since 1970 on the server's clock.
    pub async fn reload_at(&mut self) -> Result<i64, Error> {
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us, \
                   pg_reload_conf() AS done";
        let row = self.row(sql).await?;
        if !row.flag("done")? {
            return Err(Error::Lost("no reload was signalled".into()));
        }
        row.parse("us")
    }

    /// What PostgreSQL would find wrong in its configuration files if it read them now (manual,
    /// sections 54.8 to 54.10 in version 15), one line for each; those of `pg_ident.conf` from
    /// version 15 on.
    pub async fn file_problems(&mut self, major: u32) -> Result<Vec<String>, Error> {
        let mut sql = "SELECT concat(name || ', ', sourcefile, ' line ', sourceline, ': ', error) AS problem \
             FROM pg_show_all_file_settings() WHERE error IS NOT NULL \
             UNION ALL SELECT format('pg_hba.conf line %s: %s', line_number, error) \
             FROM pg_hba_file_rules() WHERE error IS NOT NULL"
            .to_owned();
        if major >= 15 {
            sql.push_str(
                " UNION ALL SELECT format('pg_ident.conf line %s: %s', line_number, error) \
                 FROM pg_ident_file_mappings() WHERE error IS NOT NULL",
            );
        }
        let rows = self.query(&sql).await?;
        rows.iter().map(|row| row.text("problem").map(str::to_owned)).collect()
    }

    /// The value of a setting in this session; `None` where there is no such setting.
    pub async fn setting(&mut self, name: &str) -> Result<Option<String>, Error> {
        let sql = format!("SELECT current_setting({}, true) AS value", literal(name));
        Ok(self.row(&sql).await?.optional("value")?.map(str::to_owned))
    }

    /// Takes back an `ALTER SYSTEM SET`. A reload must follow.
    pub async fn reset_system_setting(&mut self, name: &str) -> Result<(), Error> {
        let parts: Vec<_> =
            name.split('.').map(|p| format!("\"{}\"", p.replace(['"', '\0'], ""))).collect();
        self.query(&format!("ALTER SYSTEM RESET {}", parts.join("."))).await.map(drop)
    }

    /// Whether the server is a standby.
    pub async fn is_in_recovery(&mut self) -> Result<bool, Error> {
        self.row("SELECT pg_is_in_recovery() AS yes").await?.flag("yes")
    }

    /// Ends a pause of replay, if there is one.
    pub async fn resume_replay(&mut self) -> Result<(), Error> {
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume()::text END";
        self.query(sql).await.map(drop)
    }

    /// Asks for a promotion and does not wait for it.
    pub async fn request_promotion(&mut self) -> Result<(), Error> {
        let row = self.row("SELECT pg_promote(false) AS done").await?;
        if row.flag("done")? {
            Ok(())
        } else {
            Err(Error::Lost("no promotion was signalled".into()))
        }
    }

    /// The timeline that a primary writes. It is exact as soon as recovery has ended; the control
    /// file has it only after the next checkpoint.
    pub async fn current_timeline(&mut self) -> Result<Timeline, Error> {
        let row =
            self.row("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS tli").await?;
        let digits = row.text("tli")?;
        let number = u32::from_str_radix(digits, 16);
        number.map(Timeline).map_err(|_| Error::Answer("tli".to_owned()))
    }

    /// Does a checkpoint; on a standby a restartpoint.
    pub async fn checkpoint(&mut self, deadline: Duration) -> Result<(), Error> {
        let millis = deadline.as_millis().min(i32::MAX as u128);
        self.query(&format!("SET statement_timeout = {millis}")).await?;
        let done = self.query_within("CHECKPOINT", deadline).await;
        if let Some(connection) = &self.connection {
            connection.query("RESET statement_timeout", self.deadline).await?;
        }
        done.map(drop)
    }

    /// Ends client sessions except our own: those begun before `before_us` (microseconds since
    /// 1970 on the server's clock), or all. Returns how many are still there; call again until it
    /// is none.
    pub async fn terminate_clients(&mut self, before_us: Option<i64>) -> Result<u64, Error> {
        let before = match before_us {
            Some(us) => format!("AND a.backend_start < to_timestamp({us} / 1e6)"),
            None => String::new(),
        };
        self.terminate(&before).await
    }

    /// Ends client sessions that can hold replay up: those in a transaction.
    pub async fn terminate_transactions(&mut self) -> Result<u64, Error> {
        self.terminate("AND (a.xact_start IS NOT NULL OR a.backend_xmin IS NOT NULL)").await
    }

    async fn terminate(&mut self, condition: &str) -> Result<u64, Error> {
        let sql = format!(
            "SELECT count(pg_terminate_backend(a.pid)) AS n FROM pg_stat_get_activity(NULL) a \
             WHERE a.backend_type = 'client backend' AND {NOT_OURS} {condition}"
        );
        self.row(&sql).await?.parse("n")
    }

    /// The server's clock, in microseconds since 1970.
    pub async fn server_time_us(&mut self) -> Result<i64, Error> {
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us";
        self.row(sql).await?.parse("us")
    }

    /// Ends one walsender. Returns whether it was there.
    pub async fn terminate_walsender(&mut self, pid: i32) -> Result<bool, Error> {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) AS n FROM pg_stat_get_wal_senders() \
             WHERE pid = {pid}"
        );
        Ok(self.row(&sql).await?.parse::<u64>("n")? > 0)
    }

    /// Makes a physical slot, on a primary or a standby. `reserve_wal` keeps WAL from now on; else
    /// it is kept from the first connection on. Returns whether it was made.
    pub async fn create_slot(&mut self, name: &str, reserve_wal: bool) -> Result<bool, Error> {
        let name = literal(name);
        let sql = format!(
            "SELECT slot_name FROM pg_create_physical_replication_slot({name}, {reserve_wal}) \
             WHERE NOT EXISTS (SELECT FROM pg_get_replication_slots() WHERE slot_name = {name})"
        );
        match self.query(&sql).await {
            Ok(rows) => Ok(!rows.is_empty()),
            // duplicate_object: PostgreSQL evaluates the function before the condition.
            Err(Error::Server { code, .. }) if code == "42710" => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Drops a slot that nobody uses. Returns whether it was there.
    pub async fn drop_slot(&mut self, name: &str) -> Result<bool, Error> {
        match self.query(&format!("SELECT pg_drop_replication_slot({})", literal(name))).await {
            Ok(_) => Ok(true),
            // undefined_object
            Err(Error::Server { code, .. }) if code == "42704" => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Moves an unused slot forward, so that it keeps WAL from `to` on only.
    pub async fn advance_slot(&mut self, name: &str, to: Lsn) -> Result<(), Error> {
        let (name, to) = (literal(name), literal(&to.to_string()));
        // Not beyond what is there: that would be an error.
        let sql = format!(
            "SELECT pg_replication_slot_advance({name}, least({to}::pg_lsn, \
             CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
             ELSE pg_current_wal_flush_lsn() END))"
        );
        self.query(&sql).await.map(drop)
    }

    /// Writes one WAL record and waits until the synchronous standbys confirm it. Returns its
    /// position. A warning on the commit means that the wait was given up: that is an error.
    pub async fn emit_confirmed(&mut self, deadline: Duration) -> Result<Lsn, Error> {
        // `SET LOCAL` wins over whatever was set for the role or the database.
        let sql = "BEGIN; SET LOCAL synchronous_commit = on; \
                   SELECT pg_logical_emit_message(true, 'quorate', 'barrier') AS lsn; COMMIT";
        let answer = self.query_within(sql, deadline).await;
        if answer.is_err() {
            // A statement that failed leaves its transaction open.
            self.close();
        }
        let mut rows = answer?;
        if let Some(warning) = self.notices().pop() {
            return Err(Error::Warning(warning));
        }
        rows.pop().ok_or_else(|| Error::Answer("lsn".to_owned()))?.lsn("lsn")
    }

    /// Writes one WAL record, flushes it here, waits for nobody. Returns the position behind it.
    pub async fn emit_local(&mut self) -> Result<Lsn, Error> {
        let sql = "SELECT pg_logical_emit_message(true, 'quorate', 'barrier') AS lsn";
        self.row(sql).await?;
        self.row("SELECT pg_current_wal_flush_lsn() AS lsn").await?.lsn("lsn")
    }
}
