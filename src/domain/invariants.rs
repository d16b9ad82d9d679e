//! What must hold of agreed state, one function for each invariant.
//!
//! Checked after every applied command in tests and simulation, and by `hactl doctor` on a live
//! cluster. The invariants that speak of running processes are checked from outside, by probes.

use std::collections::BTreeSet;
use std::fmt;

use super::state::{ClusterSpec, ClusterState, ControlState, Phase, Stage};
use super::types::{ClusterName, MemberName};

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Of which cluster.
    pub cluster: ClusterName,
    /// The invariant's name.
    pub invariant: &'static str,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {}: {}: {}", self.cluster, self.invariant, self.found)
    }
}

type Check = fn(&ClusterState) -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("a tenure is of the highest granted epoch", tenure_is_current),
    ("nobody leads without data", no_tenure_without_data),
    ("the holder of an open epoch is a member", holder_is_member),
    ("a stop is recorded of closed epochs only", stopped_is_closed),
    ("a running cluster has a synchronous configuration in force", some_sync),
    ("synchronous configurations make sense", syncs_make_sense),
    ("the newest synchronous configuration is of the open epoch", newest_sync_is_current),
    ("synchronous configurations are numbered in order", syncs_numbered),
    ("no primary waits for itself", primary_not_in_sync),
    ("the lineage is in order and ends at or before the epoch", lineage_in_order),
    ("no two members share a slot name or an address", members_distinct),
    ("who leaves is a member, and who was removed is none", leaving_and_removed),
    ("nobody is active, or granted an epoch too early, while the state is in doubt", doubt_holds),
    ("the peers of an epoch are members other than its holder", peers_are_others),
    ("histories are bounded and numbered", histories_bounded),
    ("operations are numbered, and each is in its place", operations_in_place),
    ("revisions of the specification are numbered, and the newest is in force", revisions_in_order),
];

/// Every broken invariant.
pub fn check(state: &ControlState) -> Vec<Violation> {
    state.clusters.iter().flat_map(|(name, cluster)| check_cluster(name, cluster)).collect()
}

/// Every broken invariant of one cluster.
pub fn check_cluster(name: &ClusterName, cluster: &ClusterState) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (invariant, check) in CHECKS {
        if let Err(found) = check(cluster) {
            violations.push(Violation { cluster: name.clone(), invariant, found });
        }
    }
    violations
}

/// What may never change from one state to the next.
pub fn check_step(before: &ControlState, after: &ControlState) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, old) in &before.clusters {
        let mut broken = |invariant, found: String| {
            violations.push(Violation { cluster: name.clone(), invariant, found });
        };
        let Some(new) = after.clusters.get(name) else {
            if !after.is_removed(name) {
                broken("a cluster is not forgotten", "it is gone".to_owned());
            }
            continue;
        };
        if new.epoch < old.epoch {
            broken("epochs only grow", format!("{} after {}", new.epoch, old.epoch));
        }
        if old.system_id.is_some() && new.system_id != old.system_id {
            broken("the system identifier never changes", format!("{:?}", new.system_id));
        }
        if old.phase == Phase::Running && new.phase != Phase::Running {
            broken("data is never made twice", format!("{:?}", new.phase));
        }
        if let (Some(a), Some(b)) = (&old.tenure, &new.tenure) {
            if a.epoch == b.epoch && (a.member != b.member || a.guard != b.guard) {
                broken("an epoch has one holder", format!("epoch {}", a.epoch));
            }
            if a.epoch == b.epoch && a.closed.is_some() && b.closed.is_none() {
                broken("a closed epoch stays closed", format!("epoch {}", a.epoch));
            }
            // Who was never asked says nothing of those who were.
            if a.epoch == b.epoch && (a.failsafe != b.failsafe || !b.peers.is_subset(&a.peers)) {
                broken("nobody becomes a peer within an epoch", format!("epoch {}", a.epoch));
            }
            if b.epoch > a.epoch && a.closed.is_none() {
                broken("no grant beside an open epoch", format!("epoch {}", b.epoch));
            }
        }
        if new.spec_revision < old.spec_revision {
            broken("revisions of the specification only grow", new.spec_revision.to_string());
        }
        if new.spec_revision == old.spec_revision && new.spec != old.spec {
            broken("a specification changes with its revision", new.spec_revision.to_string());
        }
        if new.spec.timing != old.spec.timing {
            broken("the times of leases never change", format!("{:?}", new.spec.timing));
        }
        let counted = |m: &MemberName| old.syncs.iter().any(|c| c.members.contains(m));
        for gone in old.members.keys().filter(|m| !new.members.contains_key(*m)) {
            let led = old.tenure.as_ref().is_some_and(|t| t.member == *gone);
            if led || counted(gone) {
                broken("nobody is removed whom a takeover may need", gone.to_string());
            }
        }
        if new.next_event < old.next_event || new.next_operation < old.next_operation {
            broken("numbers of events and operations only grow", String::new());
        }
    }
    violations
}

fn tenure_is_current(s: &ClusterState) -> Result<(), String> {
    match &s.tenure {
        Some(t) if t.epoch != s.epoch => Err(format!("{} and {}", t.epoch, s.epoch)),
        _ => Ok(()),
    }
}

fn no_tenure_without_data(s: &ClusterState) -> Result<(), String> {
    let running = s.phase == Phase::Running;
    if running == s.tenure.is_some() && running == s.system_id.is_some() {
        return Ok(());
    }
    Err(format!("phase {:?}, system identifier {:?}", s.phase, s.system_id))
}

fn holder_is_member(s: &ClusterState) -> Result<(), String> {
    match s.open_tenure() {
        Some(t) if !s.members.contains_key(&t.member) => Err(t.member.to_string()),
        _ => Ok(()),
    }
}

fn stopped_is_closed(s: &ClusterState) -> Result<(), String> {
    match &s.tenure {
        Some(t) if t.stopped && t.closed.is_none() => Err(format!("epoch {}", t.epoch)),
        _ => Ok(()),
    }
}

fn some_sync(s: &ClusterState) -> Result<(), String> {
    if (s.phase == Phase::Running) == s.syncs.is_empty() {
        return Err(format!("{} in force", s.syncs.len()));
    }
    Ok(())
}

fn syncs_make_sense(s: &ClusterState) -> Result<(), String> {
    for config in &s.syncs {
        if let Some(why) = config.problem() {
            return Err(format!("{config}: {why}"));
        }
        if config.epoch > s.epoch {
            return Err(format!("{config} is of an epoch that was never granted"));
        }
    }
    Ok(())
}

fn newest_sync_is_current(s: &ClusterState) -> Result<(), String> {
    match (s.open_tenure(), s.syncs.last()) {
        (Some(t), Some(config)) if config.epoch != t.epoch => Err(config.to_string()),
        _ => Ok(()),
    }
}

fn syncs_numbered(s: &ClusterState) -> Result<(), String> {
    let in_order = s.syncs.windows(2).all(|pair| pair[0].seq < pair[1].seq);
    let last_fits = s.syncs.last().is_none_or(|c| c.seq < s.next_sync);
    if in_order && last_fits { Ok(()) } else { Err("they are out of order".to_owned()) }
}

fn primary_not_in_sync(s: &ClusterState) -> Result<(), String> {
    let Some(tenure) = s.open_tenure() else { return Ok(()) };
    let own = s.syncs.iter().filter(|c| c.epoch == tenure.epoch);
    match own.into_iter().find(|c| c.members.contains(&tenure.member)) {
        Some(config) => Err(config.to_string()),
        None => Ok(()),
    }
}

fn lineage_in_order(s: &ClusterState) -> Result<(), String> {
    if s.phase != Phase::Running {
        return Ok(());
    }
    if let Some(why) = s.lineage.problem() {
        return Err(why);
    }
    match s.lineage.last() {
        Some(last) if last.epoch > s.epoch => Err(format!("it ends at epoch {}", last.epoch)),
        _ => Ok(()),
    }
}

fn doubt_holds(s: &ClusterState) -> Result<(), String> {
    match (&s.verify, s.open_tenure()) {
        (Some(_), Some(t)) if matches!(t.stage, Stage::Active { .. }) => {
            Err(format!("epoch {} is active", t.epoch))
        }
        (Some(v), Some(t)) if !v.raised => Err(format!("epoch {} is open", t.epoch)),
        _ => Ok(()),
    }
}

fn members_distinct(s: &ClusterState) -> Result<(), String> {
    let mut slots = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for (name, member) in &s.members {
        if !slots.insert(name.slot_name()) || !addresses.insert(&member.address) {
            return Err(name.to_string());
        }
    }
    Ok(())
}

fn leaving_and_removed(s: &ClusterState) -> Result<(), String> {
    let stranger = s.leaving.keys().find(|m| !s.members.contains_key(*m));
    let both = s.removed.keys().find(|m| s.members.contains_key(*m));
    match stranger.or(both) {
        Some(name) => Err(name.to_string()),
        None => Ok(()),
    }
}

fn peers_are_others(s: &ClusterState) -> Result<(), String> {
    let Some(tenure) = &s.tenure else { return Ok(()) };
    let other = |m: &&MemberName| **m == tenure.member || !s.members.contains_key(*m);
    match tenure.peers.iter().find(other) {
        Some(peer) => Err(peer.to_string()),
        None => Ok(()),
    }
}

fn histories_bounded(s: &ClusterState) -> Result<(), String> {
    let in_order = s.history.iter().zip(s.history.iter().skip(1)).all(|(a, b)| a.id < b.id);
    let last_fits = s.history.back().is_none_or(|e| e.id + 1 == s.next_event);
    let bounded = s.history.len() <= super::state::HISTORY_MAX
        && s.finished.len() <= super::state::OPERATIONS_MAX;
    if in_order && last_fits && bounded {
        Ok(())
    } else {
        Err("events are out of order".to_owned())
    }
}

fn operations_in_place(s: &ClusterState) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let all = s.under_way().chain(s.scheduled.values());
    for id in all.map(|op| op.id) {
        if id >= s.next_operation || !seen.insert(id) {
            return Err(format!("operation {id}"));
        }
    }
    if let Some(op) = &s.operation
        && (op.kind.job_of().is_some() || op.scheduled_for().is_some())
    {
        return Err(format!("operation {} does not lead", op.id));
    }
    for (member, job) in &s.jobs {
        if job.kind.job_of() != Some(member) {
            return Err(format!("operation {} is no job of {member}", job.id));
        }
    }
    match s.scheduled.iter().find(|(id, op)| op.id != **id || op.scheduled_for().is_none()) {
        Some((id, _)) => Err(format!("operation {id} is not scheduled")),
        None if s.scheduled.len() > super::operation::SCHEDULED_MAX => {
            Err(format!("{} are scheduled", s.scheduled.len()))
        }
        None => Ok(()),
    }
}

fn revisions_in_order(s: &ClusterState) -> Result<(), String> {
    let numbers: Vec<u64> = s.spec_history.iter().map(|r| r.revision).collect();
    let in_order = numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    let newest = s.spec_history.back();
    let in_force = newest.is_none_or(|r| r.revision == s.spec_revision && r.spec == s.spec);
    let bounded = numbers.len() <= super::specification::REVISIONS_MAX;
    if in_order && in_force && bounded { Ok(()) } else { Err(format!("{numbers:?}")) }
}

/// A process tree of some hundred processes is gone 14 to 22 ms after the kernel killed it.
const KILL_MARGIN_MS_MIN: u64 = 50;

/// Why a specification makes no sense, if so. The leases rest on it, so `apply` asks again,
/// whatever the configuration's own check said.
pub fn spec_problem(spec: &ClusterSpec) -> Option<String> {
    let t = &spec.timing;
    let day_ms = 86_400_000;
    if [t.renew_ms, t.ttl_ms, t.fence_margin_ms, t.kill_margin_ms, t.suspect_ms]
        .iter()
        .any(|ms| *ms == 0 || *ms > day_ms)
    {
        return Some("every time must be between 1 ms and a day".to_owned());
    }
    if !(t.kill_margin_ms < t.fence_margin_ms && t.fence_margin_ms < t.ttl_ms) {
        return Some("kill margin < fence margin < ttl must hold".to_owned());
    }
    if t.kill_margin_ms < KILL_MARGIN_MS_MIN {
        return Some(format!("the kill margin must be at least {KILL_MARGIN_MS_MIN} ms"));
    }
    if t.clock_error_ppm >= 500_000 {
        return Some("the bound on the clocks' error must be below 50 %".to_owned());
    }
    if t.renew_ms * 2 > t.suspect_ms {
        return Some("two renewals must fit before suspicion".to_owned());
    }
    if spec.write_quorum_min > spec.write_quorum.max(1) {
        return Some("W cannot be lowered to more than it is".to_owned());
    }
    if spec.shrink_after_ms < 1000 || spec.shrink_after_ms > day_ms {
        return Some("a standby must be gone for 1 s to a day before it stops counting".to_owned());
    }
    if spec.slot_ttl_ms < 1000 {
        return Some("slots of absent members must be kept for 1 s or more".to_owned());
    }
    let distinct: BTreeSet<&MemberName> = spec.bootstrap_members.iter().collect();
    if distinct.is_empty() || distinct.len() != spec.bootstrap_members.len() {
        return Some("the members of the bootstrap must be named, each once".to_owned());
    }
    None
}
