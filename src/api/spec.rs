//! The specification of a cluster: shown, checked, and changed by compare-and-set.

use std::path::PathBuf;

use super::error::Error;
use super::operate::Operator;
use super::request;
use super::status::find;
use crate::config;
use crate::convert;
use crate::domain::alarm::bounded;
use crate::domain::apply;
use crate::domain::catalogue::Catalogue;
use crate::domain::command::Change;
use crate::domain::libraries;
use crate::domain::specification::differences;
use crate::domain::state::{ClusterSpec, ClusterState, SynchronousMode};
use crate::domain::types::ClusterName;
use crate::pb::v1;

/// Longest value that is repeated, in characters.
const VALUE_CHARS_MAX: usize = 100;

/// What is wrong with one key of a specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecProblem {
    /// Which, such as `parameters.work_mem`.
    pub key: String,
    /// Its value; empty where it can hold a password.
    pub value: String,
    /// What is wrong, as a clause.
    pub problem: String,
    /// How to mend it, as a clause.
    pub mend: String,
}

impl SpecProblem {
    fn new(key: &str, value: &str, problem: &str, mend: &str) -> Self {
        let value = value.chars().take(VALUE_CHARS_MAX).collect();
        Self { key: bounded(key), value, problem: bounded(problem), mend: bounded(mend) }
    }
}

impl std::fmt::Display for SpecProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl Operator {
    pub(super) async fn spec(
        &self,
        request: v1::GetSpecRequest,
    ) -> Result<v1::GetSpecResponse, Error> {
        let name = request::cluster(&request.cluster)?;
        let state = self.confirmed().await?;
        let cluster = find(&state, &name)?;
        let revision = match request.revision {
            0 => cluster.spec_revision,
            asked => asked,
        };
        let spec = if revision == cluster.spec_revision {
            &cluster.spec
        } else {
            let kept = cluster.spec_history.iter().find(|r| r.revision == revision);
            &kept.ok_or_else(|| no_revision(cluster, revision))?.spec
        };
        let view = self.source.leader_view();
        let seen = view.clusters.get(&name).map(|c| c.observations.clone()).unwrap_or_default();
        Ok(v1::GetSpecResponse {
            cluster: name.to_string(),
            revision,
            spec: Some(convert::spec(spec)),
            current_revision: cluster.spec_revision,
            members: convert::member_settings(cluster, &seen),
        })
    }

    pub(super) async fn spec_revisions(
        &self,
        request: v1::SpecHistoryRequest,
    ) -> Result<v1::SpecHistoryResponse, Error> {
        let name = request::cluster(&request.cluster)?;
        let state = self.confirmed().await?;
        let cluster = find(&state, &name)?;
        let mut revisions: Vec<v1::SpecRevision> =
            cluster.spec_history.iter().map(convert::spec_revision).collect();
        if revisions.is_empty() {
            // It was never changed.
            revisions.push(v1::SpecRevision {
                revision: cluster.spec_revision,
                requested_by: "the configuration of a node".to_owned(),
                spec: Some(convert::spec(&cluster.spec)),
                ..Default::default()
            });
        }
        Ok(v1::SpecHistoryResponse { revisions })
    }

    pub(super) async fn update_spec(
        &self,
        request: v1::UpdateSpecRequest,
    ) -> Result<v1::UpdateSpecResponse, Error> {
        let name = request::cluster(&request.cluster)?;
        let by = request::requested_by(&request.requested_by)?;
        let asked = request.spec.ok_or_else(|| Error::Field {
            field: "spec",
            value: String::new(),
            problem: "is missing: send all of the new specification".to_owned(),
        })?;
        let state = self.confirmed().await?;
        let cluster = find(&state, &name)?;
        let spec =
            convert::spec_from(asked, &cluster.spec).map_err(|(field, value, problem)| {
                Error::Field { field, value, problem: problem.to_owned() }
            })?;
        let expect_revision = request.expect_revision;
        // The revision first: whoever looked at an old one is told so, and not what else is wrong.
        apply::check_spec(cluster, expect_revision, &spec)?;
        let problems = form_problems(&name, cluster, &spec);
        if !problems.is_empty() {
            return Err(Error::Spec(problems));
        }
        let view = self.source.leader_view();
        let catalogue = view.clusters.get(&name).and_then(|c| c.catalogue.clone());
        if !request.no_validate {
            check_parameters(&name, &cluster.spec, &spec, catalogue.as_deref())?;
            let seen = view.clusters.get(&name).map(|c| &c.observations);
            let missing = seen.map(|s| libraries::missing(&cluster.spec, &spec, s, view.now));
            let problems: Vec<_> = missing.iter().flatten().map(missing_library).collect();
            if !problems.is_empty() {
                return Err(Error::Spec(problems));
            }
        }
        let changes = differences(&cluster.spec, &spec);
        let shown = changes.iter().map(|c| convert::spec_change(c, catalogue.as_deref()));
        let answer = v1::UpdateSpecResponse {
            revision: expect_revision + u64::from(!changes.is_empty()),
            changes: shown.collect(),
        };
        if request.dry_run || changes.is_empty() {
            return Ok(answer);
        }
        let change = Change::UpdateSpec { expect_revision, spec, by };
        self.apply(name, change).await?;
        Ok(answer)
    }
}

fn no_revision(cluster: &ClusterState, revision: u64) -> Error {
    let kept = cluster.spec_history.iter().map(|r| r.revision).collect();
    crate::domain::Rejection::NoSuchRevision { revision, kept }.into()
}

/// Judges the changed parameters by what PostgreSQL of the cluster knows.
///
/// Where the leader has no catalogue, the call is refused rather than let through: a member that
/// runs sends one within a second of an election, so its absence is short or means that nothing
/// runs, and a typing error that is found at the next restart costs more than trying again.
fn check_parameters(
    name: &ClusterName,
    old: &ClusterSpec,
    new: &ClusterSpec,
    catalogue: Option<&Catalogue>,
) -> Result<(), Error> {
    let changed: Vec<_> =
        new.parameters.iter().filter(|(k, v)| old.parameters.get(*k) != Some(v)).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let Some(catalogue) = catalogue else {
        return Err(Error::NoCatalogue { cluster: name.clone() });
    };
    let judge = |(key, value): &(&String, &String)| {
        let found = catalogue.check(key, value).err()?;
        let key = format!("parameters.{key}");
        Some(SpecProblem::new(&key, value, &found.problem, &found.mend))
    };
    let problems: Vec<SpecProblem> = changed.iter().filter_map(judge).collect();
    if problems.is_empty() { Ok(()) } else { Err(Error::Spec(problems)) }
}

/// A library that a start, or every new session, would fail for.
fn missing_library(missing: &libraries::Missing) -> SpecProblem {
    let members: Vec<_> = missing.members.iter().map(ToString::to_string).collect();
    let key = format!("parameters.{}", missing.setting);
    let problem =
        format!("names library {:?}, which {} does not have", missing.library, members.join(", "));
    let mend = "install the package that has it on the node of every member, which is seen within \
                some seconds, or take it out of the list";
    SpecProblem::new(&key, &missing.value, &problem, mend)
}

/// What the rules for configuration files say of it: the same for every way in.
fn form_problems(name: &ClusterName, state: &ClusterState, spec: &ClusterSpec) -> Vec<SpecProblem> {
    let mut members: std::collections::BTreeSet<_> = state.members.keys().cloned().collect();
    members.extend(state.spec.bootstrap_members.iter().cloned());
    let document = config::document(&as_configured(name, spec));
    let Err(problems) = config::specification(document, name, &members) else { return Vec::new() };
    let section = format!("cluster[{name}].");
    problems
        .into_iter()
        .map(|p| {
            let key = p.key.strip_prefix(&section).unwrap_or(&p.key);
            SpecProblem::new(key, &p.value, &p.problem, &p.mend)
        })
        .collect()
}

fn as_configured(name: &ClusterName, spec: &ClusterSpec) -> config::Cluster {
    let role = |r: &crate::domain::specification::RoleSpec| config::DatabaseRole {
        name: r.name.clone(),
        login: r.login,
        in_roles: r.in_roles.clone(),
        password_file: r.password_file.as_ref().map(PathBuf::from),
    };
    let database = |d: &crate::domain::specification::DatabaseSpec| config::Database {
        name: d.name.clone(),
        owner: d.owner.clone(),
        extensions: d.extensions.clone(),
    };
    config::Cluster {
        name: name.clone(),
        bootstrap_members: spec.bootstrap_members.iter().cloned().collect(),
        synchronous: match spec.synchronous {
            SynchronousMode::Quorum => config::Synchronous::Quorum,
            SynchronousMode::Priority => config::Synchronous::Priority,
            SynchronousMode::Async => config::Synchronous::Async,
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
        parameters: spec.parameters.clone(),
        hba: spec.hba.clone(),
        ident: spec.ident.clone(),
        roles: spec.roles.iter().map(role).collect(),
        databases: spec.databases.iter().map(database).collect(),
    }
}
