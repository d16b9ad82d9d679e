//! Settings of PostgreSQL: which are not the operator's, and which values are unsafe.
//!
//! Owns the list [`OWNED`] and the check of `[cluster.parameters]`. Imports the siblings only.

use std::collections::BTreeMap;

use toml::Value;

use super::Synchronous;
use super::error::Problem;
use super::reader::{Section, kind};

/// A setting that `hanode` writes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnedSetting {
    /// Its name, in lower case.
    pub name: &'static str,
    /// Why it is not the operator's, as a clause.
    pub reason: &'static str,
    /// Where the operator has a say instead; empty where nowhere.
    pub instead: &'static str,
}

const fn owned(name: &'static str, reason: &'static str, instead: &'static str) -> OwnedSetting {
    OwnedSetting { name, reason, instead }
}

const RECOVERY: &str = "a recovery target would end or stop the replay of a standby";
const FILES: &str = "the files of the configuration are generated";
const CONNECT: &str = "the agent and the other members must find the member";

const DAMAGE: &str = "PostgreSQL must not go on with data that it knows to be damaged";
const PEERS: &str = "members must find each other gone within a lease";
const LOGICAL: &str = "logical slots are kept across failovers with it, from PostgreSQL 17 on";

/// What sessions of PostgreSQL are shown by it. These are ours altogether.
const OWN_NAMES: OwnedSetting = owned("quorate", "it shows what the member is", "");

/// Every setting that the operator may not give, in the order of their names. Those of our own
/// name come on top.
pub const OWNED: &[OwnedSetting] = &[
    owned("cluster_name", "it names the member", ""),
    owned("config_file", FILES, ""),
    owned("data_directory", "it is where the member's data is", "member.data_dir"),
    owned("data_sync_retry", DAMAGE, ""),
    owned("db_user_namespace", CONNECT, ""),
    owned("default_transaction_read_only", "it is on until a promotion has been confirmed", ""),
    owned("external_pid_file", FILES, ""),
    owned("hba_file", FILES, "cluster.hba"),
    owned("hot_standby", "members are judged by queries, so a standby must answer them", ""),
    owned("hot_standby_feedback", "a standby's queries must not hold up a failover", ""),
    owned("ident_file", FILES, ""),
    owned("ignore_checksum_failure", DAMAGE, ""),
    owned("ignore_invalid_pages", DAMAGE, ""),
    owned("listen_addresses", CONNECT, "member.listen_addresses"),
    owned("log_directory", "the agent looks for the logs there", "member.log_dir"),
    owned("logging_collector", "PostgreSQL is no service of its own that would have a log", ""),
    owned("password_encryption", "the rules of access want scram-sha-256", ""),
    owned("port", CONNECT, "member.address"),
    owned("primary_conninfo", "it is what makes a standby follow the primary of an epoch", ""),
    owned("primary_slot_name", "every member has a slot on every other member", ""),
    owned("promote_trigger_file", "only a granted epoch promotes", "hactl switchover"),
    owned("recovery_end_command", RECOVERY, ""),
    owned("recovery_target", RECOVERY, ""),
    owned("recovery_target_action", RECOVERY, ""),
    owned("recovery_target_inclusive", RECOVERY, ""),
    owned("recovery_target_lsn", RECOVERY, ""),
    owned("recovery_target_name", RECOVERY, ""),
    owned("recovery_target_time", RECOVERY, ""),
    owned("recovery_target_timeline", "a standby follows every granted epoch", ""),
    owned("recovery_target_xid", RECOVERY, ""),
    owned(
        "restart_after_crash",
        "a crash ends the epoch: PostgreSQL must not open again by itself, or it would show rows that no standby has",
        "",
    ),
    owned("restore_command", "WAL of an archive could be that of an epoch that is over", ""),
    owned("superuser_reserved_connections", "the agent must get in where nobody else does", ""),
    owned("sync_replication_slots", LOGICAL, ""),
    owned("synchronized_standby_slots", LOGICAL, ""),
    owned(
        "synchronous_standby_names",
        "it is the write quorum, and changes only through the control plane",
        "cluster.write_quorum",
    ),
    owned("transaction_read_only", "it is on until a promotion has been confirmed", ""),
    owned("unix_socket_directories", CONNECT, "member.socket_dir"),
    owned("unix_socket_group", CONNECT, ""),
    owned("unix_socket_permissions", CONNECT, ""),
    owned("wal_log_hints", "without it or data checksums pg_rewind is impossible", ""),
    owned("wal_receiver_create_temp_slot", "every member has a slot on every other member", ""),
    owned("wal_receiver_status_interval", PEERS, ""),
    owned("wal_receiver_timeout", PEERS, ""),
    owned("wal_retrieve_retry_interval", "its default of 5 s can delay a failover by 5 s", ""),
    owned("wal_sender_timeout", PEERS, ""),
    owned("zero_damaged_pages", DAMAGE, ""),
];

/// Why the operator may not give the setting `name`; `None` where it is theirs. Case does not
/// count, as in PostgreSQL.
pub fn owned_reason(name: &str) -> Option<&'static OwnedSetting> {
    let name = name.to_ascii_lowercase();
    if name.starts_with("quorate.") {
        return Some(&OWN_NAMES);
    }
    OWNED.iter().find(|o| o.name == name)
}

/// Spellings of "off" in `postgresql.conf`: PostgreSQL takes any unambiguous prefix (PostgreSQL
/// manual, section 20.1.1).
fn is_off(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    value == "0"
        || (value.len() >= 2 && "off".starts_with(&value))
        || (!value.is_empty() && ("false".starts_with(&value) || "no".starts_with(&value)))
}

fn is_name(name: &str) -> bool {
    let part = |p: &str| {
        p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
            && p.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
    };
    name.len() <= 126 && name.split('.').count() <= 2 && name.split('.').all(part)
}

/// Why `value` of the setting `name` (lower case) is unsafe here, and what to write.
fn unsafe_value(
    name: &str,
    value: &str,
    synchronous: Synchronous,
    members: usize,
) -> Option<(String, String)> {
    let refuse = |problem: &str, mend: &str| Some((problem.to_owned(), mend.to_owned()));
    // Of these the product writes a value of its own that heeds the operator's, so it has to
    // understand that. Any other text that is no value is PostgreSQL's to refuse: `postgres -C` is
    // asked before use.
    let least = |least: usize, what: &str| match value.parse::<u32>() {
        Ok(n) if (n as usize) < least => Some((
            format!("is below {least}: {what}"),
            format!("raise it to {least} or more, or remove it"),
        )),
        Ok(_) => None,
        Err(_) => Some(("is not a whole number".to_owned(), format!("write {least} or more"))),
    };
    match name {
        "fsync" if is_off(value) => {
            refuse("loses acknowledged commits when the machine fails", "remove it")
        }
        "fsync" if !["on", "true", "yes", "1"].contains(&value) => {
            refuse("is not a way to say that it is on", "remove it")
        }
        "full_page_writes" if is_off(value) => {
            refuse("breaks the data when the machine fails, and pg_rewind needs it", "remove it")
        }
        "full_page_writes" if !["on", "true", "yes", "1"].contains(&value) => {
            refuse("is not a way to say that it is on", "remove it")
        }
        "wal_level" if value.eq_ignore_ascii_case("minimal") => {
            refuse("leaves nothing for standbys to replay", "write \"replica\" or \"logical\"")
        }
        "wal_level" if !["replica", "logical"].contains(&value) => {
            refuse("is neither replica nor logical", "write \"replica\" or \"logical\"")
        }
        "synchronous_commit" if synchronous != Synchronous::Async => {
            let flushed = ["on", "true", "yes", "1", "remote_apply"];
            if flushed.contains(&value.to_ascii_lowercase().as_str()) {
                return None;
            }
            refuse(
                "would acknowledge commits that no standby has flushed, unless synchronous = \"async\"",
                "remove it, or lower it for single sessions or roles only",
            )
        }
        "max_wal_senders" => least(
            members.saturating_add(2),
            "every other member needs one, and base backups and pg_rewind need some",
        ),
        "max_replication_slots" => {
            least(members.max(2), "every member has a slot on every other member")
        }
        _ => None,
    }
}

/// Reads `[cluster.parameters]`. `members` is the number of bootstrap members.
pub(super) fn read(
    mut s: Section,
    synchronous: Synchronous,
    members: usize,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (key, value) in s.rest() {
        let name = key.to_ascii_lowercase();
        if !is_name(&key)
            || ["include", "include_dir", "include_if_exists"].contains(&name.as_str())
        {
            s.refuse(
                &key,
                "",
                "is not the name of a setting of PostgreSQL",
                "correct or remove it",
            );
            continue;
        }
        if let Some(owned) = owned_reason(&name) {
            let mend = match owned.instead {
                "" => "remove it".to_owned(),
                instead => format!("remove it; use {instead} instead"),
            };
            // The value is not shown: a connection string holds a password.
            s.refuse(&key, "", format!("is written by hanode itself: {}", owned.reason), mend);
            continue;
        }
        let text = match &value {
            Value::String(text) => text.clone(),
            Value::Integer(n) => n.to_string(),
            Value::Float(x) if x.is_finite() => x.to_string(),
            Value::Boolean(b) => if *b { "on" } else { "off" }.to_owned(),
            other => {
                let problem = format!("is {}, which no setting of PostgreSQL takes", kind(other));
                s.refuse(&key, "", problem, format!("write {key} = \"...\""));
                continue;
            }
        };
        if text.contains(|c: char| c.is_control()) {
            let problem = "contains a line end or another control character";
            s.refuse(&key, "", problem, "write it on one line");
        } else if let Some((problem, mend)) = unsafe_value(&name, &text, synchronous, members) {
            s.refuse(&key, format!("{text:?}"), problem, mend);
        } else if out.insert(name, text).is_some() {
            let problem = "is given twice: names of settings have no case";
            s.refuse(&key, "", problem, "keep one of them");
        }
    }
    s.finish(problems);
    out
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_unique() {
        assert!(OWNED.windows(2).all(|w| w[0].name < w[1].name));
        assert!(OWNED.iter().all(|o| o.name == o.name.to_ascii_lowercase()));
    }

    #[test]
    fn off_is_seen_in_every_spelling() {
        for off in ["off", "OFF", "of", "false", "f", "no", "n", "0"] {
            assert!(is_off(off), "{off}");
        }
        for on in ["on", "true", "yes", "1", "o", ""] {
            assert!(!is_off(on), "{on}");
        }
    }
}
