//! The checks of a live control plane: the leader's, on the state that was agreed on.

use super::error::Error;
use super::source::{ControllerInfo, Source};
use super::status::find;
use crate::domain::doctor::{self, Diagnosis, Patient, Severity, Voter};
use crate::domain::observation::Observations;
use crate::domain::types::ClusterName;
use crate::domain::{ClusterState, ControlState};
use crate::pb::v1;

/// What is wrong with the control plane, and with one cluster or with all.
pub(super) fn diagnose(
    source: &dyn Source,
    state: &ControlState,
    only: Option<&ClusterName>,
) -> Result<v1::DiagnoseResponse, Error> {
    let clusters: Vec<(&ClusterName, &ClusterState)> = match only {
        Some(name) => vec![(name, find(state, name)?)],
        None => state.clusters.iter().collect(),
    };
    let (view, wall) = (source.leader_view(), source.wall());
    let voters: Vec<Voter> = source.controllers().into_iter().map(voter).collect();
    let mut findings: Vec<v1::Diagnosis> =
        doctor::group(&voters).iter().map(|d| diagnosis("", d)).collect();
    let nothing = Observations::default();
    for (name, state) in &clusters {
        let observations = view.clusters.get(*name).map_or(&nothing, |c| &c.observations);
        let (voters, now) = (&voters[..], view.now);
        let patient = Patient { name, state, observations, voters, now, wall };
        findings.extend(doctor::cluster(&patient).iter().map(|d| diagnosis(name.as_str(), d)));
    }
    findings.sort_by_key(|d| std::cmp::Reverse(d.severity));
    Ok(v1::DiagnoseResponse {
        findings,
        leader: source.node_name().to_owned(),
        at_unix_ms: wall.0,
        clusters: clusters.iter().map(|(name, _)| name.to_string()).collect(),
        checks: doctor::NAMES.iter().map(|n| (*n).to_owned()).collect(),
    })
}

fn voter(controller: ControllerInfo) -> Voter {
    let host = controller.address.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
    Voter {
        name: controller.name,
        host,
        is_leader: controller.is_leader,
        silent: controller.last_contact,
        lag_entries: controller.lag_entries,
    }
}

fn diagnosis(cluster: &str, found: &Diagnosis) -> v1::Diagnosis {
    let severity = match found.severity {
        Severity::Warning => v1::Severity::Warning,
        Severity::Problem => v1::Severity::Problem,
    };
    v1::Diagnosis {
        check: found.check.to_owned(),
        severity: severity.into(),
        cluster: cluster.to_owned(),
        member: found.member.as_ref().map(ToString::to_string).unwrap_or_default(),
        node: found.node.clone().unwrap_or_default(),
        what: found.what.clone(),
        todo: found.todo.clone(),
    }
}
