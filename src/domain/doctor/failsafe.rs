//! Failsafe: whether it could help, and whom it waits for.

use std::collections::BTreeSet;

use super::{Diagnosis, Patient, Voter};
use crate::domain::state::Tenure;
use crate::domain::types::MemberName;

const CHECK: &str = "cluster.failsafe";

pub(super) fn failsafe(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let tenure = p.state.open_tenure();
    let armed = tenure.filter(|t| t.failsafe);
    if !p.state.spec.failsafe && armed.is_none() {
        return;
    }
    shared_hosts(p, found);
    match (tenure, armed) {
        (_, Some(tenure)) => peers(p, tenure, found),
        (Some(tenure), None) if p.state.members.len() > 1 => found.push(Diagnosis::warning(
            CHECK,
            format!(
                "failsafe is on, and epoch {} was granted without: without controllers {} stops",
                tenure.epoch, tenure.member
            ),
            "it holds from the next epoch on: `hactl switchover`, or `hactl restart` of the primary, \
             begins one",
        )),
        (Some(tenure), None) => found.push(Diagnosis::warning(
            CHECK,
            format!("failsafe is on, and {} has no other member to ask", tenure.member),
            "add members on other nodes, or switch it off: `hactl config set failsafe=false`",
        )),
        (None, None) => {}
    }
    if !p.state.spec.failsafe
        && let Some(tenure) = armed
    {
        found.push(Diagnosis::warning(
            CHECK,
            format!("failsafe is off, and still holds for epoch {}", tenure.epoch),
            "`hactl switchover`, or `hactl restart` of the primary, begins an epoch without it",
        ));
    }
}

/// A controller that is lost with a member is one that failsafe cannot stand in for: the primary
/// goes on only while all members answer.
fn shared_hosts(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let voters = p.voters.len();
    let nodes: BTreeSet<&str> = p.state.members.values().map(|m| m.node.as_str()).collect();
    let host = |address: &str| address.rsplit_once(':').map(|(host, _)| host.to_owned());
    let addresses = p.state.members.values();
    let addresses = addresses.flat_map(|m| [Some(m.address.as_str()), m.agent_address.as_deref()]);
    let hosts: BTreeSet<String> = addresses.flatten().filter_map(host).collect();
    let shares = |v: &&Voter| {
        nodes.contains(v.name.as_str()) || (!v.host.is_empty() && hosts.contains(&v.host))
    };
    let shared: Vec<&str> = p.voters.iter().filter(shares).map(|v| v.name.as_str()).collect();
    // So many must be lost for the majority to be gone.
    let too_many = voters.div_ceil(2);
    if voters > 0 && voters - shared.len() < too_many {
        found.push(Diagnosis::warning(
            CHECK,
            format!(
                "failsafe is on, and {} of {voters} controllers are on hosts of members ({}): where \
                 their majority is lost a member is lost too, and then the primary stops",
                shared.len(),
                shared.join(", ")
            ),
            "move the controllers to hosts without members, or switch failsafe off: it makes \
             takeovers slower",
        ));
    }
}

/// Everybody has to promise, and somebody of them has to be left for a takeover.
fn peers(p: &Patient<'_>, tenure: &Tenure, found: &mut Vec<Diagnosis>) {
    for peer in &tenure.peers {
        let Some(why) = silent(p, tenure, peer) else { continue };
        let what = format!("without controllers {} stops: {peer} {why}", tenure.member);
        let todo = "see that hanode runs there, and that `node.listen` of its node is reached from \
                    the primary's; or remove the member";
        found.push(Diagnosis::warning(CHECK, what, todo).of(peer, p.state));
    }
    let todo = "add a member; it is a peer from the next epoch on: `hactl switchover`, or \
                `hactl restart` of the primary, begins one";
    match tenure.peers.len() {
        // As from before such a removal was refused.
        0 => found.push(Diagnosis::problem(
            CHECK,
            format!(
                "no peer of epoch {} is left: if {} is lost nobody can take over",
                tenure.epoch, tenure.member
            ),
            todo,
        )),
        1 => found.push(Diagnosis::warning(
            CHECK,
            format!(
                "{} has one peer: while both are lost nobody can take over, whoever joins",
                tenure.member
            ),
            todo,
        )),
        _ => {}
    }
}

/// Why this peer would not promise now, as far as is known.
fn silent(p: &Patient<'_>, tenure: &Tenure, peer: &MemberName) -> Option<String> {
    if p.state.members.get(peer).is_none_or(|m| m.agent_address.is_none()) {
        return Some(
            "has not said where its agent listens (node.listen, node.advertise)".to_owned(),
        );
    }
    match p.report_of(peer) {
        None => Some("does not report".to_owned()),
        Some(o) if o.report.promised > tenure.epoch => {
            Some(format!("has promised epoch {} to the control plane", o.report.promised))
        }
        Some(_) => None,
    }
}
