//! The specification: from the domain and back.

use std::collections::BTreeMap;

use crate::domain::catalogue::Catalogue;
use crate::domain::observation::Observations;
use crate::domain::specification::{
    DatabaseSpec, PendingSetting, RefusedSpec, RoleSpec, SpecChange, SpecRevision,
};
use crate::domain::state::{ClusterSpec, ClusterState, SynchronousMode};
use crate::pb::v1;

pub(super) fn mode(mode: SynchronousMode) -> v1::SyncMode {
    match mode {
        SynchronousMode::Quorum => v1::SyncMode::Quorum,
        SynchronousMode::Priority => v1::SyncMode::Priority,
        SynchronousMode::Async => v1::SyncMode::Async,
    }
}

/// A specification without what never changes.
pub fn spec(spec: &ClusterSpec) -> v1::ClusterSpec {
    let role = |r: &RoleSpec| v1::RoleSpec {
        name: r.name.clone(),
        login: r.login,
        in_roles: r.in_roles.clone(),
        password_file: r.password_file.clone().unwrap_or_default(),
    };
    let database = |d: &DatabaseSpec| v1::DatabaseSpec {
        name: d.name.clone(),
        owner: d.owner.clone().unwrap_or_default(),
        extensions: d.extensions.clone(),
    };
    let parameter = |(name, value): (&String, &String)| v1::Parameter {
        name: name.clone(),
        value: value.clone(),
    };
    v1::ClusterSpec {
        synchronous: mode(spec.synchronous).into(),
        write_quorum: spec.write_quorum,
        write_quorum_min: spec.write_quorum_min,
        shrink_after_ms: spec.shrink_after_ms,
        sync_lag_bytes_max: spec.sync_lag_bytes_max,
        max_lag_bytes: spec.max_lag_bytes,
        slot_ttl_ms: spec.slot_ttl_ms,
        crash_failovers_max: spec.crash_failovers_max,
        crash_window_ms: spec.crash_window_ms,
        failsafe: spec.failsafe,
        parameters: spec.parameters.iter().map(parameter).collect(),
        hba: spec.hba.clone(),
        ident: spec.ident.clone(),
        roles: spec.roles.iter().map(role).collect(),
        databases: spec.databases.iter().map(database).collect(),
    }
}

/// The specification that a caller asks for; what never changes is that of `now`. An error names
/// the field, its value, and what is wrong.
pub fn spec_from(
    asked: v1::ClusterSpec,
    now: &ClusterSpec,
) -> Result<ClusterSpec, (&'static str, String, &'static str)> {
    let synchronous = match v1::SyncMode::try_from(asked.synchronous) {
        Ok(v1::SyncMode::Quorum) => SynchronousMode::Quorum,
        Ok(v1::SyncMode::Priority) => SynchronousMode::Priority,
        Ok(v1::SyncMode::Async) => SynchronousMode::Async,
        Ok(v1::SyncMode::Unspecified) | Err(_) => {
            let value = asked.synchronous.to_string();
            return Err(("spec.synchronous", value, "quorum, priority or async is wanted"));
        }
    };
    let mut parameters = BTreeMap::new();
    for parameter in asked.parameters {
        let name = parameter.name.clone();
        if parameters.insert(parameter.name, parameter.value).is_some() {
            return Err(("spec.parameters", name, "is given twice: keep it once"));
        }
    }
    let some = |text: String| (!text.is_empty()).then_some(text);
    let role = |r: v1::RoleSpec| RoleSpec {
        name: r.name,
        login: r.login,
        in_roles: r.in_roles,
        password_file: some(r.password_file),
    };
    let database = |d: v1::DatabaseSpec| DatabaseSpec {
        name: d.name,
        owner: some(d.owner),
        extensions: d.extensions,
    };
    Ok(ClusterSpec {
        timing: now.timing,
        bootstrap_members: now.bootstrap_members.clone(),
        synchronous,
        write_quorum: asked.write_quorum,
        write_quorum_min: asked.write_quorum_min,
        shrink_after_ms: asked.shrink_after_ms,
        sync_lag_bytes_max: asked.sync_lag_bytes_max,
        max_lag_bytes: asked.max_lag_bytes,
        slot_ttl_ms: asked.slot_ttl_ms,
        crash_failovers_max: asked.crash_failovers_max,
        crash_window_ms: asked.crash_window_ms,
        failsafe: asked.failsafe,
        parameters,
        hba: asked.hba,
        ident: asked.ident,
        roles: asked.roles.into_iter().map(role).collect(),
        databases: asked.databases.into_iter().map(database).collect(),
    })
}

/// One difference. The catalogue tells whether it waits for a restart.
pub fn spec_change(change: &SpecChange, catalogue: Option<&Catalogue>) -> v1::SpecChange {
    let parameter = change.key.strip_prefix("parameters.");
    let restart = parameter.and_then(|name| catalogue?.needs_restart(name));
    v1::SpecChange {
        key: change.key.clone(),
        old: change.old.clone(),
        new: change.new.clone(),
        restart: restart.unwrap_or(false),
    }
}

/// One revision.
pub fn spec_revision(revision: &SpecRevision) -> v1::SpecRevision {
    v1::SpecRevision {
        revision: revision.revision,
        at_unix_ms: revision.at.0,
        requested_by: revision.by.clone(),
        why: revision.why.clone().unwrap_or_default(),
        changes: revision.changes.iter().map(|c| spec_change(c, None)).collect(),
        spec: Some(spec(&revision.spec)),
    }
}

pub(super) fn pending(pending: &PendingSetting) -> v1::PendingSetting {
    v1::PendingSetting {
        name: pending.name.clone(),
        running: pending.running.clone(),
        wanted: pending.wanted.clone(),
        first: pending.first.clone(),
    }
}

pub(super) fn refused(refused: &RefusedSpec) -> v1::RefusedSpec {
    v1::RefusedSpec {
        revision: refused.revision,
        last_good: refused.last_good,
        setting: refused.setting.clone(),
        why: refused.why.clone(),
    }
}

/// How far each registered member is with the specification in force.
pub fn member_settings(state: &ClusterState, seen: &Observations) -> Vec<v1::MemberSettings> {
    let of = |member: &crate::domain::types::MemberName| {
        let report = seen.members.get(member).map(|o| &o.report.settings);
        v1::MemberSettings {
            member: member.to_string(),
            revision: report.map_or(0, |s| s.revision),
            pending_restart: report.iter().flat_map(|s| &s.pending).map(pending).collect(),
            refused: report.and_then(|s| s.refused.as_ref()).map(refused),
        }
    };
    state.members.keys().map(of).collect()
}

/// Changes in one line, for people.
pub(super) fn changes_text(changes: &[SpecChange], more: u64) -> String {
    let one = |change: &SpecChange| match (&change.old, &change.new) {
        (None, Some(new)) => format!("{} = {new} added", change.key),
        (Some(old), None) => format!("{} = {old} removed", change.key),
        (Some(old), Some(new)) => format!("{} from {old} to {new}", change.key),
        (None, None) => change.key.clone(),
    };
    let mut all: Vec<String> = changes.iter().map(one).collect();
    if more > 0 {
        all.push(format!("{more} more"));
    }
    all.join("; ")
}
