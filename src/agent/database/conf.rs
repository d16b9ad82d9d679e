//! PostgreSQL's settings for what the member has to be.
//!
//! Owns what our settings are made from, and how they get into force. Which of the operator's are
//! used is for `specification`.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use super::error::{self, Result, timed_out};
use super::repair::NAMES_CHANGED;
use super::specification::Operator;
use super::{PgDatabase, lock};
use crate::agent::driver::{Error, RunRole};
use crate::domain::alarm::NoticeCode;
use crate::domain::desired::FollowDuty;
use crate::domain::state::ClusterSpec;
use crate::domain::sync::SyncConfig;
pub(super) use crate::postgres::conf::{Role, Synchronous};
use crate::postgres::connect::{self, Connection};
use crate::postgres::sql::Session;
use crate::postgres::start::{self, ServerIs};
use crate::postgres::{conf, hands, hba};

/// The same on all members: a standby must not have less than its primary had (PostgreSQL manual,
/// section 27.4.3).
pub(super) const WAL_SENDERS_MAX: u32 = 32;
const REPLICATION_SLOTS_MAX: u32 = 32;

/// How long a reload may take to be seen by new sessions. Measured: 3 to 12 ms.
const RELOAD: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);

/// What our files are made from.
#[derive(Clone, PartialEq)]
pub(super) struct Files {
    pub settings: conf::Settings,
    pub rules: hba::Rules,
}

/// Which settings every session has to see.
pub(super) struct InForce {
    pub names: String,
    pub read_only: bool,
    pub epoch: u64,
}

/// The setting of a synchronous configuration.
pub(super) fn synchronous(sync: &SyncConfig) -> Synchronous {
    if sync.w == 0 {
        return Synchronous::Nobody;
    }
    let (count, members) = (sync.w, sync.in_order().cloned().collect());
    match sync.order.is_empty() {
        true => Synchronous::Any { count, members },
        false => Synchronous::First { count, members },
    }
}

/// Splits `host:port`; an IPv6 address is in brackets.
pub(super) fn host_and_port(address: &str) -> Result<(String, u16)> {
    let invalid = || Error::Failed(format!("{address:?} is not an address"));
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().map_err(|_| invalid())?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() { Err(invalid()) } else { Ok((host.to_owned(), port)) }
}

impl PgDatabase {
    /// What a server that is no primary waits for: itself. It is never empty, since the way from
    /// an empty setting to another is taken by the checkpointer in its own time; and one that is
    /// promoted by hand acknowledges nothing.
    pub(super) fn standby_sync(&self) -> Synchronous {
        Synchronous::Any { count: 1, members: vec![self.settings.member.clone()] }
    }

    pub(super) fn standby_role(&self, duty: &FollowDuty, eager: bool) -> Result<Role> {
        let (host, port) = host_and_port(duty.streams_from().1)?;
        let slot = self.settings.member.slot_name();
        let delay_ms = duty.delay_ms;
        Ok(Role::Standby { epoch: duty.epoch, host, port, slot, eager, delay_ms })
    }

    /// The role of a standby that was taken over, and has long found its primary.
    pub(super) fn taken_over_role(&self, run: &RunRole) -> Option<Role> {
        let RunRole::Following { epoch, address } = run else { return None };
        let (host, port) = host_and_port(address).ok()?;
        let slot = self.settings.member.slot_name();
        // How late it is to be is not remembered: the worker says so before anything is repaired.
        Some(Role::Standby { epoch: *epoch, host, port, slot, eager: false, delay_ms: 0 })
    }

    /// What the files are to be made from, with parameters that PostgreSQL takes.
    pub(super) async fn files(
        &self,
        role: Role,
        synchronous: Synchronous,
        spec: &ClusterSpec,
    ) -> Result<Files> {
        Ok(self.files_with(role, synchronous, self.operator(spec).await?))
    }

    /// The same for a start.
    pub(super) async fn files_at_start(
        &self,
        role: Role,
        synchronous: Synchronous,
        spec: &ClusterSpec,
    ) -> Result<Files> {
        Ok(self.files_with(role, synchronous, self.operator_at_start(spec).await?))
    }

    /// The same with the operator's part that the running server has.
    pub(super) async fn files_in_force(
        &self,
        role: Role,
        synchronous: Synchronous,
        spec: &ClusterSpec,
    ) -> Result<Files> {
        Ok(self.files_with(role, synchronous, self.operator_in_force(spec).await?))
    }

    fn files_with(&self, role: Role, synchronous: Synchronous, part: Operator) -> Files {
        let own = &self.settings;
        let credentials = &own.credentials;
        let Operator { parameters: operator, hba, ident } = part;
        let major = self.binaries.major();
        Files {
            settings: conf::Settings {
                cluster: own.cluster.clone(),
                member: own.member.clone(),
                pgdata: own.layout.pgdata.clone(),
                listen_addresses: own.listen_addresses.clone(),
                port: own.port,
                socket_dir: own.layout.socket_dir.clone(),
                log_dir: own.layout.log_dir.clone(),
                passfile: own.passfile(),
                replication_user: credentials.replication.user().to_owned(),
                connection: BTreeMap::new(),
                major,
                max_wal_senders: WAL_SENDERS_MAX,
                max_replication_slots: REPLICATION_SLOTS_MAX,
                operator: operator.clone(),
                synchronous,
                role,
            },
            rules: hba::Rules {
                superuser: credentials.superuser.user().to_owned(),
                replication: credentials.replication.user().to_owned(),
                rewind: credentials.rewind.user().to_owned(),
                peers: Vec::new(),
                peers_tls: false,
                slot_sync: conf::syncs_slots(major, &operator),
                operator: hba,
                ident,
            },
        }
    }

    /// Writes the files of the running server and reloads it. Returns before every process has
    /// read them.
    pub(super) async fn reconfigure(&self, session: &mut Session, files: &Files) -> Result<()> {
        let overridden = self.write_files(files).await?;
        for name in &overridden {
            // ALTER SYSTEM has precedence over our files.
            session.reset_system_setting(name).await.map_err(error::sql)?;
            self.note(
                NoticeCode::SettingsRepaired,
                format!("{name} was set with ALTER SYSTEM, but is managed here: it was taken back"),
            );
        }
        // Also where nothing changed: an earlier call can have ended between the two.
        let asked_us = session.reload_at().await.map_err(error::sql)?;
        let mut memory = lock(&self.memory);
        (memory.reloaded_us, memory.reload_due) = (asked_us, false);
        Ok(())
    }

    /// Writes the files of the running server, which has to be told. Returns what ALTER SYSTEM sets
    /// of them. Whoever waits for it can leave: what is written is remembered all the same.
    pub(super) fn write_files(
        &self,
        files: &Files,
    ) -> impl Future<Output = Result<Vec<String>>> + Send + use<> {
        let (layout, user) = (self.settings.layout.clone(), self.user.clone());
        let (memory, new) = (self.memory.clone(), files.clone());
        let write = move || {
            let before = lock(&memory).installed.clone();
            // What differs from what was written last was somebody else.
            let changed = match &before {
                Some(last) => hands::changed(&layout, &last.settings, &last.rules)?,
                None => hands::Changed::default(),
            };
            if changed.synchronous {
                lock(&memory).doubt(NAMES_CHANGED);
            }
            let edited = changed.files;
            hands::keep(&layout, &user, &edited)?;
            let running = ServerIs::Running;
            let done = start::install(&layout, &user, &new.settings, &new.rules, running)?;
            let mut memory = lock(&memory);
            // Here, and not by who waits for it: where that is left, these are no edits by hand.
            memory.installed = Some(new);
            memory.reload_due = true;
            for name in edited {
                let text = format!(
                    "{name} was changed by hand: it was written again, and what it held is kept in \
                     {name}.edited"
                );
                memory.note(NoticeCode::SettingsRepaired, text);
            }
            Ok(done.overridden.into_iter().collect())
        };
        let turn = self.settings_turn.clone();
        async move { turn.write(write).await?.map_err(error::start) }
    }

    /// Waits until a *new* session has the settings: then the postmaster has them, and whatever it
    /// starts from now on.
    pub(super) async fn await_in_force(&self, wanted: &InForce) -> Result<()> {
        let sql = "SELECT current_setting('synchronous_standby_names') AS names, \
                   current_setting('quorate.read_only', true) AS read_only, \
                   current_setting('quorate.epoch', true) AS epoch";
        let begun = Instant::now();
        let target = self.target();
        loop {
            let ask = async {
                let connection = Connection::open(&target, RELOAD).await?;
                let rows = connection.query(sql, RELOAD).await?;
                rows.into_iter().next().ok_or_else(|| connect::Error::Answer("a row".to_owned()))
            };
            let row = ask.await.map_err(error::sql)?;
            let read_only = if wanted.read_only { "on" } else { "off" };
            let text = |column| row.optional(column).map_err(error::sql);
            if text("names")? == Some(wanted.names.as_str())
                && text("read_only")? == Some(read_only)
                && text("epoch")? == Some(wanted.epoch.to_string().as_str())
            {
                return Ok(());
            }
            if begun.elapsed() >= RELOAD {
                return Err(timed_out("the reload of the settings", RELOAD));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Reads back what `postgres::conf::render_operator` has written, without the defaults that it
/// adds. Total.
pub(super) fn parse_operator(text: &str) -> BTreeMap<String, String> {
    let defaults = conf::render_operator(&BTreeMap::new()).unwrap_or_default();
    let parse = |line: &str| {
        let (name, value) = line.split_once(" = ")?;
        let value = value.strip_prefix('\'')?.strip_suffix('\'')?;
        Some((name.to_owned(), value.replace("''", "'").replace("\\\\", "\\")))
    };
    text.lines().filter(|line| !defaults.lines().any(|d| d == *line)).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::{Epoch, MemberName};

    #[test]
    fn parameters_are_read_back() {
        let given = BTreeMap::from([
            ("work_mem".to_owned(), "4MB".to_owned()),
            ("search_path".to_owned(), "\"it's\", 'x\\y'".to_owned()),
        ]);
        let text = conf::render_operator(&given).unwrap();
        assert_eq!(parse_operator(&text), given);
        assert_eq!(parse_operator(&conf::render_operator(&BTreeMap::new()).unwrap()).len(), 0);
    }

    #[test]
    fn addresses_are_split() {
        assert_eq!(host_and_port("10.0.0.1:5432").unwrap(), ("10.0.0.1".to_owned(), 5432));
        assert_eq!(host_and_port("[fe80::1]:1").unwrap(), ("fe80::1".to_owned(), 1));
        for bad in ["", "x", ":1", "x:", "x:y"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn both_renderings_of_a_configuration_agree() {
        let names = ["a", "b-2"].map(|m| MemberName::new(m).unwrap());
        let any = SyncConfig {
            epoch: Epoch(3),
            seq: 2,
            w: 1,
            members: names.clone().into(),
            order: Vec::new(),
        };
        let first = SyncConfig { order: names.into_iter().rev().collect(), ..any.clone() };
        assert_eq!(first.setting(), "FIRST 1 (\"b-2\", \"a\")");
        for sync in [SyncConfig::asynchronous(Epoch(3), 1), any, first] {
            assert_eq!(synchronous(&sync).render(), sync.setting());
        }
    }
}
