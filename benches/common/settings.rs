//! Settings of servers: what is taken over from a managed server for one that is set up by hand,
//! and in what two servers still differ.

use std::collections::BTreeMap;

use super::support::Conn;

/// What makes a server this one and no other, or says who is primary. These always differ, and none
/// of them has a price.
const OWN: [&str; 13] = [
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "log_directory",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "synchronous_standby_names",
    "unix_socket_directories",
];

/// Prefix of the settings that only the managed server knows; PostgreSQL does nothing with them.
const MANAGER: &str = "quorate.";

/// All settings of a server, as `pg_settings` shows them (PostgreSQL manual, section 54.24).
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<String, (String, String)>,
}

impl Settings {
    /// Asks a server.
    pub async fn of(conn: &Conn) -> Settings {
        let sql = "SELECT name, coalesce(setting, ''), source FROM pg_settings";
        let rows = conn.rows(sql).await.expect("the settings");
        let values = rows.into_iter().filter_map(|row| match <[String; 3]>::try_from(row) {
            Ok([name, value, source]) => Some((name, (value, source))),
            Err(_) => None,
        });
        Settings { values: values.collect() }
    }

    /// One of them, as `pg_settings` shows it.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(value, _)| value.as_str())
    }

    fn is_own(name: &str) -> bool {
        OWN.contains(&name) || name.starts_with(MANAGER)
    }

    /// Lines of a configuration file with all that somebody has set, except what is a server's own.
    /// Values without a unit are in the unit that `pg_settings` shows them in.
    pub fn lines(&self) -> String {
        let is_set = |source: &str| {
            ["configuration file", "command line", "environment variable", "database", "user"]
                .contains(&source)
        };
        let set = self.values.iter().filter(|(n, (_, source))| is_set(source) && !Self::is_own(n));
        set.map(|(name, (value, _))| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect()
    }

    /// In what `other` differs: name, value here, value there. What clients choose for themselves
    /// is left out, since the same client has asked both.
    pub fn differences(&self, other: &Settings) -> Vec<(String, String, String)> {
        let none = (String::from("(not there)"), String::new());
        let names = self.values.keys().chain(other.values.keys());
        let names: std::collections::BTreeSet<&String> = names.collect();
        let mut found = Vec::new();
        for name in names {
            let here = self.values.get(name).unwrap_or(&none);
            let there = other.values.get(name).unwrap_or(&none);
            if here.0 != there.0 && !Self::is_own(name) && here.1 != "client" {
                found.push((name.clone(), here.0.clone(), there.0.clone()));
            }
        }
        found
    }
}
