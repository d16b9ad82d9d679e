//! The specification of a cluster as a document of its own: what an operator shows, edits and
//! applies while the cluster runs.
//!
//! It has the keys of a section `[[cluster]]`, but for those that never change: `name` and
//! `bootstrap_members`. Owns both directions. Imports the siblings only.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::error::Problem;
use super::reader::Section;
use super::{Cluster, Synchronous, check, read};
use crate::domain::types::{ClusterName, MemberName};

/// Keys that a document may not have, and why.
const FIXED: [(&str, &str); 3] = [
    ("name", "is the name of the cluster, which never changes"),
    ("bootstrap_members", "counted before there was data, and never changes"),
    ("timing", "never changes: leases that are held rest on it"),
];

/// Reads a document. `members` are those of the cluster now: defaults and bounds depend on how many
/// there are.
///
/// # Errors
/// Every problem that was found.
pub fn specification(
    mut table: Table,
    name: &ClusterName,
    members: &BTreeSet<MemberName>,
) -> Result<Cluster, Vec<Problem>> {
    let mut problems = Vec::new();
    for (key, why) in FIXED {
        if table.remove(key).is_some() {
            problems.push(Problem::new(key, "", why, "remove it from the document"));
        }
    }
    table.insert("name".to_owned(), Value::String(name.to_string()));
    let all = members.iter().map(|m| Value::String(m.to_string())).collect();
    table.insert("bootstrap_members".to_owned(), Value::Array(all));
    let cluster = read::read_cluster(Section::new("", table), &mut problems);
    if let Some(cluster) = &cluster {
        check::cluster(cluster, &mut problems);
    }
    match cluster {
        Some(cluster) if problems.is_empty() => Ok(cluster),
        _ => Err(problems),
    }
}

/// The document of a cluster, with every key that has a value.
pub fn document(cluster: &Cluster) -> Table {
    let mut table = Table::new();
    let mut put = |key: &str, value: Value| _ = table.insert(key.to_owned(), value);
    let mode = match cluster.synchronous {
        Synchronous::Quorum => "quorum",
        Synchronous::Priority => "priority",
        Synchronous::Async => "async",
    };
    put("synchronous", text(mode));
    put("write_quorum", number(cluster.write_quorum.into()));
    put("write_quorum_min", number(cluster.write_quorum_min.into()));
    put("shrink_after_ms", number(cluster.shrink_after_ms));
    put("sync_lag_bytes_max", number(cluster.sync_lag_bytes_max));
    if let Some(bytes) = cluster.max_lag_bytes {
        put("max_lag_bytes", number(bytes));
    }
    put("slot_ttl_ms", number(cluster.slot_ttl_ms));
    put("crash_failovers_max", number(cluster.crash_failovers_max.into()));
    put("crash_window_ms", number(cluster.crash_window_ms));
    put("failsafe", Value::Boolean(cluster.failsafe));
    if !cluster.hba.is_empty() {
        put("hba", list(&cluster.hba));
    }
    if !cluster.ident.is_empty() {
        put("ident", list(&cluster.ident));
    }
    if !cluster.parameters.is_empty() {
        let parameters = cluster.parameters.iter().map(|(k, v)| (k.clone(), text(v)));
        put("parameters", Value::Table(parameters.collect()));
    }
    let roles: Vec<Value> = cluster
        .roles
        .iter()
        .map(|role| {
            let mut one = Table::from_iter([
                ("name".to_owned(), text(&role.name)),
                ("login".to_owned(), Value::Boolean(role.login)),
            ]);
            if !role.in_roles.is_empty() {
                one.insert("in_roles".to_owned(), list(&role.in_roles));
            }
            if let Some(path) = &role.password_file {
                one.insert("password_file".to_owned(), text(&path.to_string_lossy()));
            }
            Value::Table(one)
        })
        .collect();
    if !roles.is_empty() {
        put("role", Value::Array(roles));
    }
    let databases: Vec<Value> = cluster
        .databases
        .iter()
        .map(|database| {
            let mut one = Table::from_iter([("name".to_owned(), text(&database.name))]);
            if let Some(owner) = &database.owner {
                one.insert("owner".to_owned(), text(owner));
            }
            if !database.extensions.is_empty() {
                one.insert("extensions".to_owned(), list(&database.extensions));
            }
            Value::Table(one)
        })
        .collect();
    if !databases.is_empty() {
        put("database", Value::Array(databases));
    }
    table
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

fn number(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn list(values: &[String]) -> Value {
    Value::Array(values.iter().map(|v| text(v)).collect())
}

#[cfg(test)]
mod unit {
    use super::*;

    fn read(text: &str) -> Result<Cluster, Vec<Problem>> {
        let members = ["a", "b", "c"].iter().map(|m| MemberName::new(*m).unwrap()).collect();
        specification(text.parse().unwrap(), &ClusterName::new("main").unwrap(), &members)
    }

    #[test]
    fn a_document_is_read_back_as_it_was_written() {
        for text in [
            "",
            "synchronous = \"async\"\nmax_lag_bytes = 5",
            "synchronous = \"priority\"\nwrite_quorum = 2\nhba = [\"host all all ::/0 md5\"]\n\
             ident = ['m /^(.*)@x$ \\1']\n[parameters]\nwork_mem = \"4MB\"\n\"a.b\" = \"it's\"\n\
             [[role]]\nname = \"app\"\nin_roles = [\"r\"]\npassword_file = \"/etc/p\"\n\
             [[database]]\nname = \"app\"\nowner = \"app\"\nextensions = [\"hstore\"]",
        ] {
            let cluster = read(text).unwrap();
            let written = toml::to_string(&document(&cluster)).unwrap();
            assert_eq!(read(&written).unwrap(), cluster, "{written}");
        }
    }

    #[test]
    fn problems_name_key_value_and_mend() {
        for (text, key, part) in [
            ("name = \"x\"", "name", "never changes"),
            ("bootstrap_members = []", "bootstrap_members", "never changes"),
            ("[timing]\nttl_ms = 5", "timing", "leases"),
            ("write_quorom = 2", "write_quorom", "not a known key"),
            ("write_quorum = 3", "write_quorum", "number of standbys"),
            ("write_quorum = 0", "write_quorum", "without a standby"),
            ("ident = [\"m root\"]", "ident", "is not a map"),
            ("hba = [\"hosts all\"]", "hba", "does not begin"),
            ("[[role]]\nlogin = true", "role[#1].name", "missing"),
            ("[[role]]\nname = \"pg_x\"", "role[#1].name", "pg_"),
            ("[[role]]\nname = \"a\"\npassword_file = \"x\"", "password_file", "absolute"),
            ("[[role]]\nname = \"a\"\n[[role]]\nname = \"a\"", "role[#2].name", "twice"),
            ("[[database]]\nname = \"template1\"", "database[#1].name", "template"),
            ("[parameters]\nport = 1", "parameters.port", "written by hanode"),
        ] {
            let problems = read(text).unwrap_err();
            let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let found = problems.iter().find(|p| p.key.contains(key));
            assert!(found.is_some_and(|p| p.problem.contains(part)), "{text}: {told:?}");
        }
    }
}
