//! The document of a specification: between what the API carries and TOML.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use toml::Table;

use super::failure::Failure;
use crate::config::{self, Cluster, Database, DatabaseRole, Synchronous};
use crate::pb::v1;

/// The document of an answer, as a table.
pub(super) fn of(answer: &v1::GetSpecResponse) -> Result<Table, Failure> {
    Ok(config::document(&cluster(answer)?))
}

/// The same as text.
pub(super) fn text(answer: &v1::GetSpecResponse) -> Result<String, Failure> {
    toml::to_string_pretty(&of(answer)?).map_err(|e| io::Error::other(e).into())
}

/// Reads a document; every problem is told with its key, its value and what to do.
pub(super) fn read(
    table: Table,
    cluster: &str,
    members: &BTreeSet<String>,
) -> Result<v1::ClusterSpec, Failure> {
    let unusable = |what: &str| Failure::refused(format!("the answer names {what}"), "");
    let name = cluster.parse().map_err(|_| unusable("no cluster"))?;
    let members = members.iter().map(|m| m.parse()).collect::<Result<BTreeSet<_>, _>>();
    let members = members.map_err(|_| unusable("a member without a valid name"))?;
    let cluster = config::specification(table, &name, &members).map_err(|problems| {
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::Usage(told.join("\n       "))
    })?;
    Ok(spec(cluster))
}

fn cluster(answer: &v1::GetSpecResponse) -> Result<Cluster, Failure> {
    let unusable = || Failure::refused("the answer holds no specification", "upgrade hactl");
    let spec = answer.spec.clone().ok_or_else(unusable)?;
    let some = |text: String| (!text.is_empty()).then_some(text);
    let parameters: BTreeMap<String, String> =
        spec.parameters.into_iter().map(|p| (p.name, p.value)).collect();
    let role = |r: v1::RoleSpec| DatabaseRole {
        name: r.name,
        login: r.login,
        in_roles: r.in_roles,
        password_file: some(r.password_file).map(PathBuf::from),
    };
    let database = |d: v1::DatabaseSpec| Database {
        name: d.name,
        owner: some(d.owner),
        extensions: d.extensions,
    };
    Ok(Cluster {
        name: answer.cluster.parse().map_err(|_| unusable())?,
        bootstrap_members: BTreeSet::new(),
        synchronous: match v1::SyncMode::try_from(spec.synchronous) {
            Ok(v1::SyncMode::Quorum) => Synchronous::Quorum,
            Ok(v1::SyncMode::Priority) => Synchronous::Priority,
            Ok(v1::SyncMode::Async) => Synchronous::Async,
            Ok(v1::SyncMode::Unspecified) | Err(_) => return Err(unusable()),
        },
        write_quorum: spec.write_quorum,
        write_quorum_min: spec.write_quorum_min,
        shrink_after_ms: spec.shrink_after_ms,
        sync_lag_bytes_max: spec.sync_lag_bytes_max,
        max_lag_bytes: spec.max_lag_bytes,
        slot_ttl_ms: spec.slot_ttl_ms,
        crash_failovers_max: spec.crash_failovers_max,
        crash_window_ms: spec.crash_window_ms,
        failsafe: spec.failsafe,
        parameters,
        hba: spec.hba,
        ident: spec.ident,
        roles: spec.roles.into_iter().map(role).collect(),
        databases: spec.databases.into_iter().map(database).collect(),
    })
}

fn spec(cluster: Cluster) -> v1::ClusterSpec {
    let mode = match cluster.synchronous {
        Synchronous::Quorum => v1::SyncMode::Quorum,
        Synchronous::Priority => v1::SyncMode::Priority,
        Synchronous::Async => v1::SyncMode::Async,
    };
    let role = |r: DatabaseRole| v1::RoleSpec {
        name: r.name,
        login: r.login,
        in_roles: r.in_roles,
        password_file: r.password_file.map(|p| p.display().to_string()).unwrap_or_default(),
    };
    let database = |d: Database| v1::DatabaseSpec {
        name: d.name,
        owner: d.owner.unwrap_or_default(),
        extensions: d.extensions,
    };
    let parameter = |(name, value)| v1::Parameter { name, value };
    v1::ClusterSpec {
        synchronous: mode.into(),
        write_quorum: cluster.write_quorum,
        write_quorum_min: cluster.write_quorum_min,
        shrink_after_ms: cluster.shrink_after_ms,
        sync_lag_bytes_max: cluster.sync_lag_bytes_max,
        max_lag_bytes: cluster.max_lag_bytes,
        slot_ttl_ms: cluster.slot_ttl_ms,
        crash_failovers_max: cluster.crash_failovers_max,
        crash_window_ms: cluster.crash_window_ms,
        failsafe: cluster.failsafe,
        parameters: cluster.parameters.into_iter().map(parameter).collect(),
        hba: cluster.hba,
        ident: cluster.ident,
        roles: cluster.roles.into_iter().map(role).collect(),
        databases: cluster.databases.into_iter().map(database).collect(),
    }
}
