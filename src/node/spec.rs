//! From the configuration to what the control plane agrees on.

use crate::config::{self, Config};
use crate::domain::lease::Timing;
use crate::domain::specification::{DatabaseSpec, RoleSpec};
use crate::domain::state::{ClusterSpec, SynchronousMode};
use crate::domain::types::ClusterName;

/// What the configuration asks of a cluster.
pub fn spec(config: &Config, cluster: &config::Cluster) -> ClusterSpec {
    of(&config.timing, cluster)
}

/// What the operator hands in for a new cluster, as TOML.
///
/// # Errors
/// All that is wrong with it, for a person.
pub fn specification(name: &ClusterName, text: &str) -> Result<ClusterSpec, String> {
    match config::definition(name, text) {
        Ok((cluster, timing)) => Ok(of(&timing, &cluster)),
        Err(problems) => {
            Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        }
    }
}

fn of(t: &config::Timing, cluster: &config::Cluster) -> ClusterSpec {
    ClusterSpec {
        timing: Timing {
            renew_ms: t.renew_ms,
            ttl_ms: t.ttl_ms,
            fence_margin_ms: t.fence_margin_ms,
            kill_margin_ms: t.kill_margin_ms,
            suspect_ms: t.suspect_ms,
            clock_error_ppm: t.clock_error_ppm,
        },
        bootstrap_members: cluster.bootstrap_members.iter().cloned().collect(),
        synchronous: match cluster.synchronous {
            config::Synchronous::Quorum => SynchronousMode::Quorum,
            config::Synchronous::Priority => SynchronousMode::Priority,
            config::Synchronous::Async => SynchronousMode::Async,
        },
        write_quorum: cluster.write_quorum,
        write_quorum_min: cluster.write_quorum_min,
        shrink_after_ms: cluster.shrink_after_ms,
        sync_lag_bytes_max: cluster.sync_lag_bytes_max,
        max_lag_bytes: cluster.max_lag_bytes,
        slot_ttl_ms: cluster.slot_ttl_ms,
        crash_failovers_max: cluster.crash_failovers_max,
        crash_window_ms: cluster.crash_window_ms,
        failsafe: cluster.failsafe,
        parameters: cluster.parameters.clone(),
        hba: cluster.hba.clone(),
        ident: cluster.ident.clone(),
        roles: cluster.roles.iter().map(role).collect(),
        databases: cluster.databases.iter().map(database).collect(),
    }
}

fn role(role: &config::DatabaseRole) -> RoleSpec {
    RoleSpec {
        name: role.name.clone(),
        login: role.login,
        in_roles: role.in_roles.clone(),
        password_file: role.password_file.as_ref().map(|p| p.display().to_string()),
    }
}

fn database(database: &config::Database) -> DatabaseSpec {
    DatabaseSpec {
        name: database.name.clone(),
        owner: database.owner.clone(),
        extensions: database.extensions.clone(),
    }
}
