//! PostgreSQL's settings: what is ours, what is the operator's, and how both get into files.
//!
//! Owns the rendering, pure and total. Files are written by [`super::start::install`]. The order
//! of precedence in PostgreSQL (manual, section 20.1) is: `postgresql.base.conf` (what `initdb`
//! or the operator wrote), then `quorate.spec.conf` (the operator's settings for the whole
//! cluster), then `quorate.conf` (ours), then `quorate.floor.conf` (see
//! [`super::start::raise_to_floor`]), then `postgresql.auto.conf` (ALTER SYSTEM). So ours have to
//! be taken out of the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::domain::types::{ClusterName, Epoch, MemberName};

/// First line of every file that we write.
pub const HEADER: &str = "# Written by quorate. Changes made here are overwritten.\n";

/// File of the settings that had to be raised for a start ([`super::start::raise_to_floor`]).
pub const FLOOR_FILE: &str = "quorate.floor.conf";

/// `wal_retrieve_retry_interval` of a sealed server, in milliseconds: how long its startup process
/// sleeps between two looks, so how fast a seal can be confirmed.
pub const SEALED_RETRY_MS: u32 = 20;

/// The same for a standby that follows. PostgreSQL's default of 5 s can cost a promotion 5 s.
const FOLLOWING_RETRY_MS: u32 = 100;

/// Why settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a setting's name.
    #[error("{name:?} is not the name of a setting")]
    Name {
        /// The name.
        name: String,
    },
    /// No file can hold it.
    #[error("the value of setting {name} has a line break or a NUL in it")]
    Value {
        /// The setting.
        name: String,
    },
    /// It is ours.
    #[error("setting {name} is managed by quorate and cannot be set")]
    Owned {
        /// The setting.
        name: String,
    },
    /// More confirmations than members.
    #[error("{wanted} of {have} members cannot confirm a commit")]
    Quorum {
        /// How many must confirm.
        wanted: u32,
        /// How many there are.
        have: usize,
    },
}

/// Settings that only we write. Every other one is the operator's.
const OWNED: [&str; 55] = [
    "cluster_name",
    "config_file",
    "data_directory",
    "data_sync_retry",
    "db_user_namespace",
    "default_transaction_read_only",
    "external_pid_file",
    "fsync",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "hot_standby_feedback",
    "ident_file",
    "ignore_checksum_failure",
    "ignore_invalid_pages",
    "listen_addresses",
    "log_directory",
    "logging_collector",
    "max_replication_slots",
    "max_wal_senders",
    "password_encryption",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "quorate.epoch",
    "quorate.read_only",
    "quorate.role",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restart_after_crash",
    "restore_command",
    "sync_replication_slots",
    "superuser_reserved_connections",
    "synchronized_standby_slots",
    "synchronous_standby_names",
    "transaction_read_only",
    "unix_socket_directories",
    "unix_socket_group",
    "unix_socket_permissions",
    "wal_log_hints",
    "wal_receiver_create_temp_slot",
    "wal_receiver_status_interval",
    "wal_receiver_timeout",
    "wal_retrieve_retry_interval",
    "wal_sender_timeout",
    "wal_level",
    "zero_damaged_pages",
];

/// Settings of ours in which the operator has a say: within bounds, we write what they want.
const SHARED: [&str; 5] =
    ["fsync", "full_page_writes", "max_replication_slots", "max_wal_senders", "wal_level"];

/// The first major version whose standbys copy logical slots from their primary.
pub const SLOT_SYNC_MAJOR: u32 = 17;

/// Whether standbys of this major version copy logical slots from their primary: since 17, and
/// where the operator wants logical decoding at all.
pub fn syncs_slots(major: u32, operator: &BTreeMap<String, String>) -> bool {
    major >= SLOT_SYNC_MAJOR && operator.get("wal_level").is_some_and(|v| v == "logical")
}

/// Whether a setting is ours. Names are compared as PostgreSQL does, without case.
pub fn is_owned(name: &str) -> bool {
    OWNED.contains(&name.to_ascii_lowercase().as_str())
}

/// Whether it is one of ours in which the operator has a say: within bounds, what they want is
/// written.
pub fn is_shared(name: &str) -> bool {
    SHARED.contains(&name.to_ascii_lowercase().as_str())
}

/// Who must confirm a commit: `synchronous_standby_names` (PostgreSQL manual, section 20.6.2).
/// There is no `*`: a base backup or a stranger would count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Synchronous {
    /// Nobody. It releases all that wait at once, so it has to be meant.
    Nobody,
    /// Any `count` of these.
    Any {
        /// How many.
        count: u32,
        /// Of whom.
        members: Vec<MemberName>,
    },
    /// The first `count` of these that are there.
    First {
        /// How many.
        count: u32,
        /// Of whom, best first.
        members: Vec<MemberName>,
    },
}

impl Synchronous {
    /// Checks that as many can confirm as must.
    pub fn check(&self) -> Result<(), Error> {
        let (count, members) = match self {
            Self::Nobody => return Ok(()),
            Self::Any { count, members } | Self::First { count, members } => (*count, members),
        };
        let distinct: BTreeSet<_> = members.iter().collect();
        if count == 0 || distinct.len() != members.len() || count as usize > members.len() {
            return Err(Error::Quorum { wanted: count, have: distinct.len() });
        }
        Ok(())
    }

    /// The setting's value.
    pub fn render(&self) -> String {
        let list = |members: &[MemberName]| {
            let quoted: Vec<_> = members.iter().map(|m| format!("\"{m}\"")).collect();
            quoted.join(", ")
        };
        match self {
            Self::Nobody => String::new(),
            Self::Any { count, members } => format!("ANY {count} ({})", list(members)),
            Self::First { count, members } => format!("FIRST {count} ({})", list(members)),
        }
    }
}

/// What a server is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A standby that takes WAL from nobody.
    Sealed {
        /// The epoch that it waits for: WAL of older ones is not taken any more.
        promised: Epoch,
    },
    /// A standby that follows.
    Standby {
        /// The epoch that it follows.
        epoch: Epoch,
        /// The host of the primary, or of the standby that it streams from.
        host: String,
        /// The port there.
        port: u16,
        /// This member's slot there.
        slot: String,
        /// Whether it has yet to find its primary: then it looks as often as a sealed one, and a
        /// promotion is confirmed the sooner. Later that would be a waste where the primary is gone.
        eager: bool,
        /// How late it applies WAL, in milliseconds (PostgreSQL manual, section 20.5.5,
        /// `recovery_min_apply_delay`); with 0 the operator's own setting holds.
        delay_ms: u64,
    },
    /// The primary, also just before its promotion.
    Primary {
        /// Its epoch.
        epoch: Epoch,
        /// Whether transactions are read-only by default: until it is active.
        read_only: bool,
    },
}

impl Role {
    /// The epoch that the role belongs to.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Sealed { promised } => *promised,
            Self::Standby { epoch, .. } | Self::Primary { epoch, .. } => *epoch,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Sealed { .. } => "sealed",
            Self::Standby { .. } => "standby",
            Self::Primary { .. } => "primary",
        }
    }
}

/// Everything that our file is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterName,
    /// This member. It is the `application_name` of its walreceiver, by which the primary's
    /// `synchronous_standby_names` know it.
    pub member: MemberName,
    /// Addresses to listen at, separated by commas.
    pub listen_addresses: String,
    /// The port.
    pub port: u16,
    /// The data directory.
    pub pgdata: PathBuf,
    /// Directory of the socket.
    pub socket_dir: PathBuf,
    /// Directory of the logs.
    pub log_dir: PathBuf,
    /// Password file for the walreceiver.
    pub passfile: PathBuf,
    /// The user of the walreceiver.
    pub replication_user: String,
    /// More parameters of connections to other members, such as `sslmode`.
    pub connection: BTreeMap<String, String>,
    /// Major version of PostgreSQL.
    pub major: u32,
    /// The least `max_wal_senders`; the operator may want more. The same on all members: a standby
    /// must not have less than its primary.
    pub max_wal_senders: u32,
    /// The least `max_replication_slots`; the operator may want more.
    pub max_replication_slots: u32,
    /// The operator's settings for the cluster.
    pub operator: BTreeMap<String, String>,
    /// Who must confirm a commit. Standbys have it as well: it must be there before a promotion.
    pub synchronous: Synchronous,
    /// What the server is for.
    pub role: Role,
}

/// Quotes a value for a configuration file (PostgreSQL manual, section 20.1.2). Line breaks and
/// NUL cannot be written and give `None`.
pub fn quote(value: &str) -> Option<String> {
    if value.contains(['\n', '\r', '\0']) {
        return None;
    }
    // The backslash is special in PostgreSQL's parser, though the manual does not say so.
    Some(format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")))
}

/// Quotes a value for a libpq connection string (manual, section 34.1.1.1). Total.
pub fn quote_conninfo(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Renders a libpq connection string.
pub fn conninfo<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let parts: Vec<_> =
        parameters.into_iter().map(|(k, v)| format!("{k}={}", quote_conninfo(v))).collect();
    parts.join(" ")
}

fn is_name(name: &str) -> bool {
    let part = |p: &str| {
        let mut bytes = p.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
    };
    name.len() <= 126 && name.split('.').count() <= 2 && name.split('.').all(part)
}

/// Checks the operator's settings: the names' shape, that none is ours, that a file can hold them.
/// Some values of settings in which the operator has a say are allowed although they are ours.
/// Whether PostgreSQL takes a value is asked of PostgreSQL (`super::dry_start::check_settings`).
pub fn check_operator(operator: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in operator {
        if !is_name(name) {
            return Err(Error::Name { name: name.clone() });
        }
        let shared = match name.as_str() {
            "wal_level" => matches!(value.as_str(), "replica" | "logical"),
            "fsync" | "full_page_writes" => matches!(value.as_str(), "on" | "true" | "yes" | "1"),
            _ => SHARED.contains(&name.as_str()) && value.parse::<u32>().is_ok(),
        };
        if is_owned(name) && !shared {
            return Err(Error::Owned { name: name.clone() });
        }
        if quote(value).is_none() {
            return Err(Error::Value { name: name.clone() });
        }
    }
    Ok(())
}

/// The content of `postgresql.conf`.
pub fn render_main() -> String {
    format!(
        "{HEADER}include_if_exists 'postgresql.base.conf'\n\
         include 'quorate.spec.conf'\ninclude 'quorate.conf'\n\
         include_if_exists '{FLOOR_FILE}'\n"
    )
}

fn lines<'a, V: AsRef<str> + 'a>(
    settings: impl IntoIterator<Item = (&'a str, V)>,
) -> Result<String, Error> {
    let mut text = HEADER.to_owned();
    for (name, value) in settings {
        let value = quote(value.as_ref()).ok_or_else(|| Error::Value { name: name.to_owned() })?;
        text.push_str(&format!("{name} = {value}\n"));
    }
    Ok(text)
}

/// The content of `quorate.spec.conf`: the operator's settings, checked.
pub fn render_operator(operator: &BTreeMap<String, String>) -> Result<String, Error> {
    check_operator(operator)?;
    // The operator's word has precedence over the default that we give.
    let mut all = BTreeMap::from([
        ("synchronous_commit", "on"),
        // A rewind needs WAL back to the last checkpoint before the divergence.
        ("wal_keep_size", "256MB"),
    ]);
    all.extend(
        operator.iter().filter(|(k, _)| !is_owned(k)).map(|(k, v)| (k.as_str(), v.as_str())),
    );
    lines(all)
}

/// The content of `quorate.conf`: the settings that are ours.
pub fn render(settings: &Settings) -> Result<String, Error> {
    settings.synchronous.check()?;
    let path = |p: &PathBuf| p.to_string_lossy().into_owned();
    let on = |b: bool| if b { "on" } else { "off" }.to_owned();
    let mut cluster_name = format!("{}/{}", settings.cluster, settings.member);
    cluster_name.truncate(63);
    let logical = settings.operator.get("wal_level").is_some_and(|v| v == "logical");
    let at_least = |name: &str, own: u32| {
        let wanted = settings.operator.get(name).and_then(|v| v.parse::<u32>().ok());
        wanted.unwrap_or(0).max(own).to_string()
    };
    let mut all: BTreeMap<&str, String> = BTreeMap::from([
        ("cluster_name", cluster_name),
        ("fsync", on(true)),
        ("full_page_writes", on(true)),
        // Each of these would go on with data that is known to be damaged. A session can still set
        // most of them for a rescue.
        ("data_sync_retry", on(false)),
        ("ignore_checksum_failure", on(false)),
        ("ignore_invalid_pages", on(false)),
        ("zero_damaged_pages", on(false)),
        // Absolute: a relative one would be shown as waiting for a restart after each reload.
        ("hba_file", path(&settings.pgdata.join("pg_hba.conf"))),
        ("ident_file", path(&settings.pgdata.join("pg_ident.conf"))),
        ("hot_standby", on(true)),
        ("hot_standby_feedback", on(true)),
        ("listen_addresses", settings.listen_addresses.clone()),
        ("port", settings.port.to_string()),
        ("unix_socket_directories", path(&settings.socket_dir)),
        ("unix_socket_group", String::new()),
        ("unix_socket_permissions", "0777".into()),
        ("log_directory", path(&settings.log_dir)),
        ("logging_collector", on(true)),
        (
            "max_replication_slots",
            at_least("max_replication_slots", settings.max_replication_slots),
        ),
        ("max_wal_senders", at_least("max_wal_senders", settings.max_wal_senders)),
        ("password_encryption", "scram-sha-256".into()),
        ("quorate.epoch", settings.role.epoch().to_string()),
        ("quorate.role", settings.role.name().into()),
        ("recovery_target_timeline", "latest".into()),
        // With `on` a crashed server opens again by itself, without a lease.
        ("restart_after_crash", on(false)),
        ("restore_command", String::new()),
        ("superuser_reserved_connections", "5".into()),
        ("synchronous_standby_names", settings.synchronous.render()),
        ("wal_level", if logical { "logical" } else { "replica" }.into()),
        ("wal_log_hints", on(true)),
        ("wal_receiver_status_interval", "1s".into()),
        ("wal_receiver_timeout", "5s".into()),
        ("wal_sender_timeout", "10s".into()),
    ]);
    for target in ["", "_lsn", "_name", "_time", "_xid"] {
        let name = OWNED.iter().find(|n| n.strip_prefix("recovery_target") == Some(target));
        all.extend(name.map(|n| (*n, String::new())));
    }
    let mut retry_ms = FOLLOWING_RETRY_MS;
    let mut follow = (String::new(), String::new());
    let mut read_only = true;
    match &settings.role {
        Role::Sealed { .. } => {
            retry_ms = SEALED_RETRY_MS;
            // Nothing may hold replay up while a position is taken.
            all.insert("recovery_min_apply_delay", "0".into());
            all.insert("max_standby_streaming_delay", "0".into());
            all.insert("max_standby_archive_delay", "0".into());
        }
        Role::Standby { host, port, slot, eager, delay_ms, .. } => {
            if *eager {
                retry_ms = SEALED_RETRY_MS;
            }
            if *delay_ms > 0 {
                all.insert("recovery_min_apply_delay", format!("{delay_ms}ms"));
            }
            follow = (primary_conninfo(settings, host, *port), slot.clone());
        }
        // A standby would be read-only anyhow. This is for one that was promoted by hand.
        Role::Primary { read_only: wanted, .. } => read_only = *wanted,
    }
    if syncs_slots(settings.major, &settings.operator) {
        all.extend(slot_sync(settings));
    }
    all.insert("wal_retrieve_retry_interval", format!("{retry_ms}ms"));
    all.insert("primary_conninfo", follow.0);
    all.insert("primary_slot_name", follow.1);
    all.insert("default_transaction_read_only", on(read_only));
    // Sessions can pin the one above; this one shows what the files say.
    all.insert("quorate.read_only", on(read_only));
    lines(all)
}

/// Logical slots that were made with `failover` are copied by the standbys (PostgreSQL 17 manual,
/// section 47.2.3). A sealed server has no primary to copy from, and would complain all the time.
/// No logical consumer gets to see what the synchronous standbys do not have: after a failover it
/// would be ahead of the new primary.
fn slot_sync(settings: &Settings) -> [(&'static str, String); 2] {
    let copies = matches!(settings.role, Role::Standby { .. });
    let ahead = match (&settings.role, &settings.synchronous) {
        (
            Role::Primary { .. },
            Synchronous::Any { members, .. } | Synchronous::First { members, .. },
        ) => members.iter().map(MemberName::slot_name).collect::<Vec<_>>().join(", "),
        _ => String::new(),
    };
    let on = if copies { "on" } else { "off" };
    [("sync_replication_slots", on.to_owned()), ("synchronized_standby_slots", ahead)]
}

/// The walreceiver's connection string. Timeouts are short: a primary that is gone must be given
/// up within a lease.
fn primary_conninfo(settings: &Settings, host: &str, port: u16) -> String {
    let port = port.to_string();
    let passfile = settings.passfile.to_string_lossy();
    let mut parameters: BTreeMap<&str, &str> = BTreeMap::from([
        ("connect_timeout", "2"),
        ("keepalives", "1"),
        ("keepalives_count", "3"),
        ("keepalives_idle", "2"),
        ("keepalives_interval", "1"),
        ("tcp_user_timeout", "5000"),
    ]);
    parameters.extend(settings.connection.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    if syncs_slots(settings.major, &settings.operator) {
        // For what copies logical slots; the walreceiver itself takes no notice of it.
        parameters.insert("dbname", "postgres");
    }
    parameters.extend([
        ("host", host),
        ("port", port.as_str()),
        ("user", settings.replication_user.as_str()),
        ("passfile", passfile.as_ref()),
        ("application_name", settings.member.as_str()),
    ]);
    conninfo(parameters)
}

/// Takes our settings out of the text of a `postgresql.auto.conf`. Returns the rest and the names
/// that were taken out; values are not reported, they may hold passwords. Total.
pub fn strip_owned(auto: &str) -> (String, BTreeSet<String>) {
    let mut kept = String::new();
    let mut removed = BTreeSet::new();
    for line in auto.lines() {
        let start = line.trim_start();
        let end = start
            .find(|c: char| c.is_ascii() && !(c.is_ascii_alphanumeric() || "_.$".contains(c)))
            .unwrap_or(start.len());
        let name = start.get(..end).unwrap_or_default().to_ascii_lowercase();
        if is_owned(&name) {
            removed.insert(name);
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    (kept, removed)
}

#[cfg(test)]
#[path = "conf_test.rs"]
mod tests;
