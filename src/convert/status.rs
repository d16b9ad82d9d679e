//! The status of a cluster: what was agreed on, joined with what the leader has seen.

use std::time::Duration;

use super::history::{close_reason, close_text};
use super::{lsn, millis, operation, sync_config};
use crate::domain::alarm::AlarmCode;
use crate::domain::lease::Timing;
use crate::domain::observation::{
    Condition, Data, Fencing, Observations, Observed, PrimaryView, StandbyProgress,
};
use crate::domain::plan::FRESH;
use crate::domain::space::{Aside, Level, Space};
use crate::domain::state::{ClusterSpec, ClusterState, Member, Phase, Stage, Tags, Tenure};
use crate::domain::types::{BootTime, ClusterName, Epoch, Lsn, MemberName};
use crate::pb::v1;

/// What the leader has seen of one cluster. Other nodes have none.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The reports.
    pub observations: &'a Observations,
    /// Time since the leader acknowledged a renewal; `None` where it did not yet.
    pub lease_age: Option<Duration>,
    /// The leader's clock, by which the reports carry their time.
    pub now: BootTime,
}

/// The status of a cluster. Without `seen` it holds what was agreed on, and says of everything
/// else that it is not known.
pub fn cluster(name: &ClusterName, state: &ClusterState, seen: Option<Seen<'_>>) -> v1::Cluster {
    let primary = seen.and_then(|s| current_primary(state, s));
    let members: Vec<v1::Member> =
        state.members.iter().map(|(n, m)| member(n, m, state, seen, primary)).collect();
    let current = state.syncs.len().checked_sub(1);
    let syncs = state.syncs.iter().enumerate().map(|(i, config)| {
        let streams =
            |m: &&v1::Member| m.streaming && config.members.iter().any(|c| c.as_str() == m.name);
        let known = primary.is_some() && Some(i) == current;
        let count = known.then(|| u32::try_from(members.iter().filter(streams).count()).ok());
        sync_config(config, count.flatten())
    });
    let known = seen.map(|s| s.observations);
    v1::Cluster {
        name: name.to_string(),
        phase: phase(&state.phase).into(),
        system_id: state.system_id.map(|id| id.to_string()).unwrap_or_default(),
        epoch: state.epoch.0,
        primary: state.active_primary().map(ToString::to_string).unwrap_or_default(),
        tenure: state.tenure.as_ref().map(tenure),
        lease_age_ms: seen.and_then(|s| s.lease_age).map(millis),
        syncs: syncs.collect(),
        timing: Some(timing(&state.spec.timing)),
        operation: state.operation.as_ref().map(|o| operation::under_way(name, state, known, o)),
        paused: state.paused.as_ref().map(operation::paused),
        jobs: state.jobs.values().map(|o| operation::under_way(name, state, known, o)).collect(),
        scheduled: operation::scheduled(name, state).collect(),
        lineage: state.lineage.0.iter().map(lineage_entry).collect(),
        members,
        last_operation: state.next_operation.saturating_sub(1),
        sync_policy: Some(policy(&state.spec)),
        removed_members: state
            .removed
            .iter()
            .map(|(name, removed)| super::membership::removed_member(name, removed))
            .collect(),
        failsafe: failsafe(state, primary).into(),
        recent_crashes: u32::try_from(state.crashes.len()).unwrap_or(u32::MAX),
        spec_revision: state.spec_revision,
    }
}

/// `primary` is what the leader sees of the primary, where it does.
fn failsafe(state: &ClusterState, primary: Option<&PrimaryView>) -> v1::Failsafe {
    // What was granted counts: a change of the specification holds from the next epoch on.
    match state.open_tenure() {
        Some(t) if t.failsafe && primary.is_some_and(|p| p.failsafe) => v1::Failsafe::Active,
        Some(t) if t.failsafe => v1::Failsafe::Armed,
        _ if state.spec.failsafe => v1::Failsafe::Pending,
        _ => v1::Failsafe::Off,
    }
}

fn policy(spec: &ClusterSpec) -> v1::SyncPolicy {
    let mode = super::spec::mode(spec.synchronous);
    v1::SyncPolicy {
        mode: mode.into(),
        write_quorum: spec.write_quorum,
        write_quorum_min: spec.write_quorum_min,
        max_lag_bytes: spec.max_lag_bytes,
    }
}

fn tags(tags: &Tags) -> v1::Tags {
    v1::Tags {
        nofailover: tags.nofailover,
        nosync: tags.nosync,
        noloadbalance: tags.noloadbalance,
        clonefrom: tags.clonefrom,
        replicatefrom: tags.replicatefrom.as_ref().map(ToString::to_string).unwrap_or_default(),
        delay_ms: tags.delay_ms,
    }
}

fn space(space: &Space) -> v1::Space {
    let level = match space.level() {
        Level::Enough => v1::SpaceLevel::Enough,
        Level::Low => v1::SpaceLevel::Low,
        Level::Critical => v1::SpaceLevel::Critical,
    };
    v1::Space { free_bytes: space.free_bytes, total_bytes: space.total_bytes, level: level.into() }
}

fn aside(aside: &Aside) -> v1::Aside {
    v1::Aside {
        path: aside.path.clone(),
        bytes: aside.bytes,
        reason: aside.reason.clone(),
        at_unix_ms: aside.at_unix_ms,
    }
}

fn upstream(condition: &Condition) -> String {
    match condition {
        Condition::Standby(view) => {
            view.upstream.as_ref().map(ToString::to_string).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// The one alarm that the leader raises itself.
fn commits_wait(state: &ClusterState, name: &MemberName) -> Option<v1::Alarm> {
    let held = state.alarms.get(name)?;
    held.iter().find(|a| a.code == AlarmCode::CommitsWait).map(super::alarm)
}

/// Where a cluster stands, in one sentence.
pub fn summary(state: &ClusterState) -> String {
    match &state.phase {
        Phase::AwaitingMembers => {
            let names: Vec<&str> =
                state.spec.bootstrap_members.iter().map(|m| m.as_str()).collect();
            format!("there is no data yet: members {} have to report first", names.join(", "))
        }
        Phase::Bootstrapping { member } => format!("{member} makes the first data directory"),
        Phase::Adopting { member, .. } => format!("the data of {member} is taken over"),
        Phase::Running => match &state.tenure {
            None => "data exists, and no epoch was granted yet".to_owned(),
            Some(t) => tenure_summary(t),
        },
    }
}

fn tenure_summary(t: &Tenure) -> String {
    let (member, epoch) = (&t.member, t.epoch);
    if let Some(closed) = &t.closed {
        let proof = if t.stopped { "its stop is proven" } else { "its stop is not proven" };
        let why = close_text(closed.reason);
        return format!(
            "no primary: epoch {epoch} of {member} is closed ({why}), {proof}, \
             and the next epoch is not granted yet"
        );
    }
    match t.stage {
        Stage::Granted => format!("{member} was granted epoch {epoch} and is not promoted yet"),
        Stage::Promoted => {
            format!("{member} is promoted in epoch {epoch}, and not open for writes yet")
        }
        Stage::Active { .. } => format!("{member} is primary in epoch {epoch}, open for writes"),
    }
}

/// The view that the holder of the open epoch has reported, as long as it reports.
fn current_primary<'a>(state: &ClusterState, seen: Seen<'a>) -> Option<&'a PrimaryView> {
    let tenure = state.open_tenure()?;
    let observed = seen.observations.members.get(&tenure.member)?;
    match &observed.report.condition {
        Condition::Primary(view) if view.epoch == tenure.epoch && reports(seen, observed) => {
            Some(view)
        }
        _ => None,
    }
}

/// Whether a report says what a member is doing now: the same bound as the planner's.
fn reports(seen: Seen<'_>, observed: &Observed) -> bool {
    seen.now.since(observed.at) <= FRESH
}

fn member(
    name: &MemberName,
    member: &Member,
    state: &ClusterState,
    seen: Option<Seen<'_>>,
    primary: Option<&PrimaryView>,
) -> v1::Member {
    let agreed = v1::Member {
        name: name.to_string(),
        node: member.node.to_string(),
        address: member.address.clone(),
        role: v1::MemberRole::Unknown.into(),
        last_role: v1::MemberRole::Unknown.into(),
        reachability: v1::Reachability::Unknown.into(),
        synchronous: state.current_sync().is_some_and(|c| c.members.contains(name)),
        fencing: v1::Fencing::Unknown.into(),
        priority: member.priority,
        nofailover: member.tags.nofailover,
        tags: Some(tags(&member.tags)),
        alarms: state.alarms.get(name).into_iter().flatten().map(super::alarm).collect(),
        data: v1::DataState::Unknown.into(),
        leaving: state.leaving.contains_key(name),
        ..Default::default()
    };
    let Some(seen) = seen else { return agreed };
    let Some(observed) = seen.observations.members.get(name) else {
        return v1::Member { reachability: v1::Reachability::NeverHeard.into(), ..agreed };
    };
    let report = &observed.report;
    let last_role = role(name, &report.condition, state);
    let reporting = reports(seen, observed);
    let reachability =
        if reporting { v1::Reachability::Reporting } else { v1::Reachability::Silent };
    let progress = primary.and_then(|p| p.standbys.get(name));
    let position = position(&report.condition, state.epoch, progress);
    let behind = |theirs: Lsn| {
        let primary = primary.filter(|_| position.is_standby && theirs != Lsn(0))?;
        Some(primary.flushed.0.saturating_sub(theirs.0))
    };
    v1::Member {
        role: if reporting { last_role } else { v1::MemberRole::Unknown }.into(),
        last_role: last_role.into(),
        reachability: reachability.into(),
        report_age_ms: Some(millis(seen.now.since(observed.at))),
        epoch: position.epoch.0,
        flush_lsn: lsn(position.flushed),
        replay_lsn: lsn(position.replayed),
        lag_bytes: behind(progress.map_or(position.flushed, |p| p.flushed)),
        replay_lag_bytes: behind(progress.map_or(position.replayed, |p| p.replayed)),
        streaming: reporting && position.streaming,
        counts: position.counts,
        fencing: fencing(report.fencing).into(),
        clone: clone_progress(&report.condition),
        problems: report.problems.clone(),
        data: data(&report.data).into(),
        alarms: report.alarms.iter().map(super::alarm).chain(commits_wait(state, name)).collect(),
        data_space: report.disks.data.as_ref().map(space),
        wal_space: report.disks.wal.as_ref().map(space),
        aside: report.aside.iter().map(aside).collect(),
        upstream: upstream(&report.condition),
        spec_revision: report.settings.revision,
        pending_restart: report.settings.pending.iter().map(super::spec::pending).collect(),
        refused_spec: report.settings.refused.as_ref().map(super::spec::refused),
        ..agreed
    }
}

fn role(name: &MemberName, condition: &Condition, state: &ClusterState) -> v1::MemberRole {
    match condition {
        Condition::Unknown => v1::MemberRole::Unknown,
        Condition::Down | Condition::BootstrapFailed { .. } | Condition::Adoptable(_) => {
            v1::MemberRole::Down
        }
        Condition::Starting => v1::MemberRole::Starting,
        Condition::Initialising => v1::MemberRole::Initialising,
        Condition::Rewinding => v1::MemberRole::Rewinding,
        Condition::Cloning { .. } => v1::MemberRole::Cloning,
        Condition::Standby(view) if view.sealed.is_some() => v1::MemberRole::Sealed,
        Condition::Standby(_) => v1::MemberRole::Standby,
        Condition::Primary(view) => match state.open_tenure() {
            Some(t) if t.member == *name && t.epoch == view.epoch => match t.stage {
                Stage::Active { .. } => v1::MemberRole::Primary,
                Stage::Granted | Stage::Promoted => v1::MemberRole::Promoting,
            },
            _ => v1::MemberRole::Ending,
        },
    }
}

/// Where a member stands in the log.
#[derive(Default)]
struct Position {
    epoch: Epoch,
    flushed: Lsn,
    replayed: Lsn,
    streaming: bool,
    counts: bool,
    is_standby: bool,
}

/// `progress` is the primary's view of a standby. Both sides have to agree that it streams: a
/// walsender can outlive its receiver by `wal_sender_timeout`.
fn position(condition: &Condition, current: Epoch, progress: Option<&StandbyProgress>) -> Position {
    match condition {
        Condition::Standby(view) => Position {
            epoch: view.wal_epoch,
            flushed: view.flushed.max(view.replay),
            replayed: view.replay,
            streaming: view.streaming == Some(current) && progress.is_none_or(|p| p.streaming),
            counts: view.counts,
            is_standby: true,
        },
        Condition::Primary(view) => Position {
            epoch: view.epoch,
            flushed: view.flushed,
            counts: true,
            ..Default::default()
        },
        _ => Position::default(),
    }
}

fn clone_progress(condition: &Condition) -> Option<v1::CloneProgress> {
    match condition {
        Condition::Cloning { source, done_bytes, total_bytes } => Some(v1::CloneProgress {
            source: source.to_string(),
            done_bytes: *done_bytes,
            total_bytes: *total_bytes,
        }),
        _ => None,
    }
}

fn fencing(fencing: Fencing) -> v1::Fencing {
    match fencing {
        Fencing::Unknown => v1::Fencing::Unknown,
        Fencing::PidNamespace => v1::Fencing::PidNamespace,
        Fencing::Cgroup => v1::Fencing::Cgroup,
        Fencing::BestEffort => v1::Fencing::BestEffort,
    }
}

fn data(data: &Data) -> v1::DataState {
    match data {
        Data::Unknown => v1::DataState::Unknown,
        Data::Empty => v1::DataState::Empty,
        Data::Present { .. } => v1::DataState::Present,
        Data::Incomplete => v1::DataState::Incomplete,
    }
}

fn phase(phase: &Phase) -> v1::ClusterPhase {
    match phase {
        Phase::AwaitingMembers => v1::ClusterPhase::AwaitingMembers,
        Phase::Bootstrapping { .. } => v1::ClusterPhase::Bootstrapping,
        Phase::Adopting { .. } => v1::ClusterPhase::Adopting,
        Phase::Running => v1::ClusterPhase::Running,
    }
}

fn tenure(tenure: &Tenure) -> v1::Tenure {
    let stage = match tenure.stage {
        Stage::Granted => v1::TenureStage::Granted,
        Stage::Promoted => v1::TenureStage::Promoted,
        Stage::Active { .. } => v1::TenureStage::Active,
    };
    let closed = tenure
        .closed
        .as_ref()
        .map(|c| v1::Closed { reason: close_reason(c.reason).into(), at_unix_ms: c.at.0 });
    v1::Tenure {
        epoch: tenure.epoch.0,
        member: tenure.member.to_string(),
        stage: stage.into(),
        closed,
        stopped: tenure.stopped,
    }
}

fn timing(timing: &Timing) -> v1::Timing {
    v1::Timing {
        renew_ms: timing.renew_ms,
        ttl_ms: timing.ttl_ms,
        fence_margin_ms: timing.fence_margin_ms,
        kill_margin_ms: timing.kill_margin_ms,
        suspect_ms: timing.suspect_ms,
        takeover_wait_ms: millis(timing.takeover_wait()),
    }
}

fn lineage_entry(entry: &crate::domain::lineage::Entry) -> v1::LineageEntry {
    v1::LineageEntry { epoch: entry.epoch.0, start_lsn: entry.start.to_string() }
}
