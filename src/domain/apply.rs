//! The one place where replicated state changes.
//!
//! Total: any command on any state gives a reply and never panics. Deterministic: no clock, no
//! randomness, no unordered map. A rejected command changes nothing. Every guard is checked here
//! again, whatever the proposer believed.

mod adopt;
mod clusters;
mod failsafe;
mod members;
mod operation;
mod spec;
mod verify;

use std::collections::{BTreeMap, BTreeSet};

use super::alarm::{ALARMS_MAX, Alarm, NOTICES_MAX, Notice, bounded};
use super::candidate::{self, Proof, Refusal};
use super::command::{Basis, Change, Command, Grant, Rejection, Reply};
use super::event::{AtStake, Event, EventKind};
use super::lineage::Lineage;
use super::mutant::{self, Mutant};
use super::observation::{Sealed, Sequence};
use super::state::{
    CloseReason, Closed, ClusterState, ControlState, HISTORY_MAX, Member, Operation, OperationKind,
    Phase, Stage, Tenure,
};
use super::sync::{SyncConfig, Uncovered};
use super::types::{Epoch, GuardId, MemberName, WallMillis};

pub use spec::check as check_spec;

/// Most synchronous configurations that may be in force at once.
pub const SYNCS_MAX: usize = 32;
/// Most crash times that are remembered.
const CRASHES_MAX: usize = 100;
/// Most members of a cluster.
pub const MEMBERS_MAX: usize = 64;

/// Where a command stands in the Raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The term of the leadership that proposed it.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// Applies one command.
pub fn apply(state: &mut ControlState, position: Position, command: &Command) -> Reply {
    if let Change::CreateCluster { spec } = &command.change {
        return clusters::come(state, command.at, &command.cluster, spec)
            .unwrap_or_else(Reply::Rejected);
    }
    if let Change::Clusters(change) = &command.change {
        return clusters::change(state, command.at, &command.cluster, change)
            .unwrap_or_else(Reply::Rejected);
    }
    let Some(cluster) = state.clusters.get_mut(&command.cluster) else {
        return Reply::Rejected(Rejection::UnknownCluster { cluster: command.cluster.clone() });
    };
    match change(cluster, position, command.at, &command.change) {
        Ok(reply) => reply,
        Err(rejection) => Reply::Rejected(rejection),
    }
}

pub(super) use verify::{abandon_operation, unproven};

const APPLIED: Reply = Reply::Applied { operation: None };

// Every arm checks all of its guards before it changes anything.
fn change(
    state: &mut ClusterState,
    position: Position,
    at: WallMillis,
    change: &Change,
) -> Result<Reply, Rejection> {
    match change {
        Change::CreateCluster { .. } | Change::Clusters(_) => Ok(Reply::Nothing),
        Change::RegisterMember { .. } => register(state, at, change),
        Change::BeginBootstrap { member } => begin_bootstrap(state, at, member),
        Change::AbandonBootstrap { member, why } => abandon_bootstrap(state, at, member, why),
        Change::FinishBootstrap { .. } => finish_bootstrap(state, at, change),
        Change::Close { expect_epoch, reason, stopped } => {
            expect_open(state, *expect_epoch)?;
            expect_not_paused(state)?;
            if *stopped && *reason == CloseReason::LeaseLost {
                return Err(Rejection::WrongStage {
                    epoch: *expect_epoch,
                    stage: "lost, not proven to be stopped".to_owned(),
                });
            }
            close(state, at, *reason, *stopped);
            Ok(APPLIED)
        }
        Change::RecordStop { expect_epoch } => record_stop(state, at, *expect_epoch),
        Change::RaiseEpoch { expect_epoch, known, accept_missing } => {
            verify::raise_epoch(state, at, *expect_epoch, known, *accept_missing)
        }
        Change::Grant(grant) => apply_grant(state, position, at, grant),
        Change::RecordPromotion { expect_epoch, guard, lineage } => {
            record_promotion(state, at, *expect_epoch, guard, lineage)
        }
        Change::Activate { expect_epoch, guard, expect_syncs, postmaster_start_us } => {
            activate(state, at, *expect_epoch, guard, expect_syncs, *postmaster_start_us)
        }
        Change::BeginSyncChange { expect_epoch, expect_syncs, to } => {
            begin_sync_change(state, at, *expect_epoch, expect_syncs, to)
        }
        Change::FinishSyncChange { expect_epoch, expect_syncs } => {
            finish_sync_change(state, at, *expect_epoch, expect_syncs)
        }
        Change::NotePosition { expect_epoch, lsn } => {
            expect_open(state, *expect_epoch)?;
            state.primary_end = state.primary_end.max(Some((*expect_epoch, *lsn)));
            state.primary_end_at = at;
            Ok(APPLIED)
        }
        Change::NoteHealth { member, alarms, notices, upto } => {
            note_health(state, at, member, alarms, notices, *upto)
        }
        Change::UpdateSpec { expect_revision, spec, by } => {
            spec::update(state, at, *expect_revision, spec, by)
        }
        Change::RollBackSpec { expect_revision, to, member, setting, why } => {
            let refused = spec::Refused { member, setting, why };
            spec::roll_back(state, at, *expect_revision, *to, &refused)
        }
        Change::Adopt(adoption) => adopt::begin(state, at, adoption),
        Change::Membership(change) => members::change(state, at, change),
        Change::StartSwitchover { .. }
        | Change::StartFailover { .. }
        | Change::StartRestart { .. }
        | Change::StartReload { .. }
        | Change::StartReinitialise { .. }
        | Change::StepOperation { .. }
        | Change::Schedule { .. }
        | Change::StartScheduled { .. }
        | Change::CancelOperation { .. }
        | Change::Pause { .. }
        | Change::Resume { .. }
        | Change::FinishOperation { .. } => operation::change(state, at, change),
    }
}

// ---- guards ----

fn expect_epoch(state: &ClusterState, expected: Epoch) -> Result<(), Rejection> {
    if state.epoch == expected {
        Ok(())
    } else {
        Err(Rejection::StaleEpoch { expected, actual: state.epoch })
    }
}

fn expect_open(state: &ClusterState, epoch: Epoch) -> Result<&Tenure, Rejection> {
    expect_epoch(state, epoch)?;
    state.open_tenure().ok_or(Rejection::EpochClosed { epoch })
}

fn expect_closed(state: &ClusterState, epoch: Epoch) -> Result<&Tenure, Rejection> {
    expect_epoch(state, epoch)?;
    match &state.tenure {
        Some(tenure) if tenure.closed.is_some() => Ok(tenure),
        _ => Err(Rejection::EpochOpen { epoch }),
    }
}

fn expect_holder<'a>(
    state: &'a ClusterState,
    epoch: Epoch,
    guard: &GuardId,
) -> Result<&'a Tenure, Rejection> {
    let tenure = expect_open(state, epoch)?;
    if tenure.guard == *guard {
        Ok(tenure)
    } else {
        Err(Rejection::OtherGuard { epoch, member: tenure.member.clone() })
    }
}

fn expect_syncs(state: &ClusterState, expected: &[SyncConfig]) -> Result<(), Rejection> {
    if state.syncs == expected || mutant::without(Mutant::NoCompareAndSet) {
        Ok(())
    } else {
        Err(Rejection::StaleSyncs)
    }
}

fn expect_member(state: &ClusterState, member: &MemberName) -> Result<(), Rejection> {
    if state.members.contains_key(member) {
        return Ok(());
    }
    let known = state.members.keys().cloned().collect();
    Err(Rejection::UnknownMember { member: member.clone(), known })
}

fn expect_promotable(state: &ClusterState, member: &MemberName) -> Result<(), Rejection> {
    expect_member(state, member)?;
    match state.members.get(member) {
        Some(m) if !m.may_lead() => Err(Rejection::Tagged { member: member.clone() }),
        _ => Ok(()),
    }
}

fn expect_not_paused(state: &ClusterState) -> Result<(), Rejection> {
    match &state.paused {
        Some(paused) => Err(Rejection::Paused { by: paused.by.clone() }),
        None => Ok(()),
    }
}

fn expect_no_operation(state: &ClusterState) -> Result<(), Rejection> {
    match &state.operation {
        Some(op) => Err(Rejection::OperationUnderWay { id: op.id }),
        None => Ok(()),
    }
}

fn check_sync(
    state: &ClusterState,
    sync: &SyncConfig,
    primary: &MemberName,
    epoch: Epoch,
) -> Result<(), Rejection> {
    let bad = |why: String| Err(Rejection::BadSync { config: sync.to_string(), why });
    if let Some(why) = sync.problem() {
        return bad(why);
    }
    if sync.epoch != epoch {
        return bad(format!("it has to carry epoch {epoch}"));
    }
    if sync.seq != state.next_sync {
        return bad(format!("it has to carry number {}", state.next_sync));
    }
    if sync.members.contains(primary) {
        return bad("the primary cannot wait for itself".to_owned());
    }
    for member in &sync.members {
        expect_member(state, member)?;
        if !state.may_confirm(member, primary) {
            return bad(format!("{member} is tagged or leaves, so it counts in no quorum"));
        }
        if state.is_given_up(member) {
            return bad(format!("the data of {member} is given up for a copy"));
        }
    }
    Ok(())
}

fn phase_name(phase: &Phase) -> String {
    match phase {
        Phase::AwaitingMembers => "waiting for its members".to_owned(),
        Phase::Bootstrapping { member } => format!("being bootstrapped by {member}"),
        Phase::Adopting { member, .. } => format!("being adopted with the data of {member}"),
        Phase::Running => "running".to_owned(),
    }
}

fn stage_name(stage: &Stage) -> String {
    match stage {
        Stage::Granted => "granted",
        Stage::Promoted => "promoted",
        Stage::Active { .. } => "active",
    }
    .to_owned()
}

// ---- histories ----

/// Records an event; as a step of the leading operation, where one is under way and it can be one.
pub(super) fn record(state: &mut ClusterState, at: WallMillis, kind: EventKind) {
    let operation = state.operation.clone();
    record_within(state, at, kind, operation.as_ref());
}

fn record_within(
    state: &mut ClusterState,
    at: WallMillis,
    kind: EventKind,
    operation: Option<&Operation>,
) {
    let id = state.next_event;
    state.next_event += 1;
    let event = Event::new(id, at, state.epoch, kind).within(operation);
    state.history.push_back(event);
    while state.history.len() > HISTORY_MAX {
        // Decisions are kept for longer than what members say of themselves.
        let said = |e: &Event| e.kind.is_said();
        let many = state.history.iter().filter(|e| said(e)).count() > HISTORY_MAX / 2;
        let oldest = state.history.iter().position(said).filter(|_| many).unwrap_or(0);
        state.history.remove(oldest);
    }
}

// ---- members and bootstrap ----

fn register(state: &mut ClusterState, at: WallMillis, change: &Change) -> Result<Reply, Rejection> {
    let Change::RegisterMember { member, node, address, agent_address, priority, tags, system_id } =
        change
    else {
        return Ok(Reply::Nothing);
    };
    members::expect_not_removed(state, member)?;
    if let Some(existing) = state.members.get(member)
        && existing.node != *node
    {
        return Err(Rejection::MemberOfOtherNode {
            member: member.clone(),
            owner: existing.node.clone(),
            node: node.clone(),
        });
    }
    let clash = |other: &MemberName, what: &str| {
        Err(Rejection::MemberClash {
            member: member.clone(),
            other: other.clone(),
            what: what.to_owned(),
        })
    };
    for (other, existing) in state.members.iter().filter(|(name, _)| *name != member) {
        if other.slot_name() == member.slot_name() {
            return clash(other, "the name of the replication slot");
        }
        if existing.address == *address {
            return clash(other, "the address");
        }
    }
    if !state.members.contains_key(member) && state.members.len() >= MEMBERS_MAX {
        return Err(Rejection::BadSpec {
            why: format!("a cluster has at most {MEMBERS_MAX} members"),
        });
    }
    match (state.system_id, *system_id) {
        (Some(expected), Some(found)) if expected != found => {
            return Err(Rejection::ForeignData { member: member.clone(), found, expected });
        }
        (None, Some(found))
            if !matches!(&state.phase, Phase::Bootstrapping { member: m } if m == member)
                && !matches!(&state.phase, Phase::Adopting { system_id, .. } if *system_id == found) =>
        {
            return Err(Rejection::UnknownData { member: member.clone(), found });
        }
        _ => {}
    }
    let new = Member {
        node: node.clone(),
        address: bounded(address),
        agent_address: agent_address.as_deref().map(bounded),
        priority: *priority,
        tags: tags.clone(),
    };
    let leads = state.open_tenure().is_some_and(|t| t.member == *member);
    let known = state.members.get(member);
    if leads && known.is_none_or(Member::may_lead) && !new.may_lead() {
        return Err(Rejection::PrimaryTagged { member: member.clone() });
    }
    if known.is_some_and(Member::may_lead) && !new.may_lead() {
        let others = state.members.iter().any(|(name, m)| name != member && m.may_lead());
        if !others {
            return Err(Rejection::LastTagged { member: member.clone() });
        }
        // It may be the one that has what was acknowledged.
        let active = |t: &Tenure| matches!(t.stage, Stage::Active { .. });
        let settled = state.operation.is_none() && state.open_tenure().is_some_and(active);
        if state.tenure.is_some() && !settled {
            return Err(Rejection::TaggedInChange { member: member.clone() });
        }
    }
    match state.members.insert(member.clone(), new.clone()) {
        Some(old) if old == new => return Ok(Reply::Nothing),
        Some(_) => record(state, at, EventKind::MemberChanged { member: member.clone() }),
        None => {
            let kind = EventKind::MemberRegistered {
                member: member.clone(),
                node: node.clone(),
                address: new.address,
            };
            record(state, at, kind);
        }
    }
    Ok(APPLIED)
}

fn begin_bootstrap(
    state: &mut ClusterState,
    at: WallMillis,
    member: &MemberName,
) -> Result<Reply, Rejection> {
    verify::expect_verified(state)?;
    expect_member(state, member)?;
    if state.phase != Phase::AwaitingMembers || state.system_id.is_some() {
        return Err(Rejection::WrongPhase { phase: phase_name(&state.phase) });
    }
    for expected in &state.spec.bootstrap_members {
        expect_member(state, expected)?;
    }
    state.phase = Phase::Bootstrapping { member: member.clone() };
    record(state, at, EventKind::BootstrapStarted { member: member.clone() });
    Ok(APPLIED)
}

fn abandon_bootstrap(
    state: &mut ClusterState,
    at: WallMillis,
    member: &MemberName,
    why: &str,
) -> Result<Reply, Rejection> {
    if state.phase != (Phase::Bootstrapping { member: member.clone() }) {
        return Err(Rejection::WrongPhase { phase: phase_name(&state.phase) });
    }
    state.phase = Phase::AwaitingMembers;
    let kind = EventKind::BootstrapAbandoned { member: member.clone(), why: bounded(why) };
    record(state, at, kind);
    Ok(APPLIED)
}

fn finish_bootstrap(
    state: &mut ClusterState,
    at: WallMillis,
    change: &Change,
) -> Result<Reply, Rejection> {
    let Change::FinishBootstrap { member, system_id, epoch } = change else {
        return Ok(Reply::Nothing);
    };
    let (lineage, adopted) = match &state.phase {
        Phase::Bootstrapping { member: m } if m == member => (Lineage::root(*epoch), false),
        Phase::Adopting { member: m, system_id: id, epoch: e, lineage }
            if (m, id, e) == (member, system_id, epoch) =>
        {
            (lineage.clone(), true)
        }
        phase => return Err(Rejection::WrongPhase { phase: phase_name(phase) }),
    };
    verify::expect_verified(state)?;
    if epoch.0 == 0 || epoch.0 >= u64::from(u32::MAX) {
        return Err(Rejection::BadSpec { why: format!("no data begins at timeline {epoch}") });
    }
    // Above everything that anybody knows of from an earlier life.
    let base = match (&state.adopted, adopted) {
        (Some(found), true) => found.base.max(*epoch),
        _ => *epoch,
    };
    state.phase = Phase::Running;
    state.system_id = Some(*system_id);
    state.epoch = base;
    state.lineage = lineage;
    // Nobody led this epoch. Only the member that has the data covers it, so only that member can
    // be granted the next.
    let root = SyncConfig::asynchronous(base, state.next_sync);
    push_sync(state, root);
    state.tenure = Some(Tenure {
        epoch: base,
        member: member.clone(),
        guard: GuardId::from_bytes([0; 16]),
        stage: Stage::Promoted,
        closed: Some(Closed { reason: CloseReason::Initial, at }),
        stopped: true,
        failsafe: false,
        peers: BTreeSet::new(),
    });
    let (member, system_id) = (member.clone(), *system_id);
    let kind = match adopted {
        true => EventKind::Adopted { member, system_id, epoch: *epoch },
        false => EventKind::BootstrapFinished { member, system_id },
    };
    record(state, at, kind);
    Ok(APPLIED)
}

// ---- epochs ----

pub(super) fn close(state: &mut ClusterState, at: WallMillis, reason: CloseReason, stopped: bool) {
    let Some(tenure) = &mut state.tenure else { return };
    tenure.closed = Some(Closed { reason, at });
    tenure.stopped = stopped;
    let (closed, member) = (tenure.epoch, tenure.member.clone());
    if reason == CloseReason::Crashed {
        state.crashes.push(at);
        let excess = state.crashes.len().saturating_sub(CRASHES_MAX);
        state.crashes.drain(..excess);
    }
    record(state, at, EventKind::EpochClosed { closed, member, reason, stopped });
}

fn record_stop(state: &mut ClusterState, at: WallMillis, epoch: Epoch) -> Result<Reply, Rejection> {
    if expect_closed(state, epoch)?.stopped {
        return Ok(Reply::Nothing);
    }
    let Some(tenure) = &mut state.tenure else { return Ok(Reply::Nothing) };
    tenure.stopped = true;
    let member = tenure.member.clone();
    record(state, at, EventKind::StopProven { closed: epoch, member });
    Ok(APPLIED)
}

fn apply_grant(
    state: &mut ClusterState,
    position: Position,
    at: WallMillis,
    grant: &Grant,
) -> Result<Reply, Rejection> {
    let epoch = grant.expect_epoch;
    expect_not_paused(state)?;
    let tenure = expect_closed(state, epoch)?;
    match grant.basis {
        Basis::Stopped if !tenure.stopped => return Err(Rejection::NotStopped { epoch }),
        Basis::Expired { term }
            if term != position.term && !mutant::without(Mutant::ExpiryOfAnyTerm) =>
        {
            return Err(Rejection::OtherLeadership { epoch });
        }
        Basis::Stopped | Basis::Expired { .. } => {}
    }
    failsafe::expect_lapsed(state, tenure, grant)?;
    expect_syncs(state, &grant.expect_syncs)?;
    expect_member(state, &grant.member)?;
    let next = epoch.next();
    if next.0 >= u64::from(u32::MAX) {
        return Err(Rejection::BadSpec { why: "timelines are exhausted".to_owned() });
    }
    check_sync(state, &grant.sync, &grant.member, next)?;
    if state.syncs.len() >= SYNCS_MAX {
        return Err(Rejection::BadSync {
            config: grant.sync.to_string(),
            why: format!("{SYNCS_MAX} configurations are in force already"),
        });
    }
    let (proof, by) = match (&state.operation, grant.accept_data_loss, grant.within_lag_of) {
        (_, None, None) => (Proof::Quorum, String::new()),
        (_, None, Some(end)) => (Proof::WithinLagOf(end), "max_lag_bytes".to_owned()),
        (Some(op), Some(id), _) if op.id == id && accepts_loss(op) => {
            (Proof::Waived, op.by.clone())
        }
        (_, Some(id), _) => return Err(Rejection::NoSuchOperation { id }),
    };
    let wish = candidate::wish(state, at);
    let chosen = candidate::choose(state, &grant.evidence, wish.as_ref(), proof)
        .map_err(Rejection::Candidate)?;
    if chosen.member != grant.member || chosen.guard != grant.guard {
        return Err(Rejection::Candidate(Refusal::NotTheBest {
            member: grant.member.clone(),
            better: chosen.member.clone(),
        }));
    }
    verify::expect_raised(state)?;
    let (wal_epoch, lsn) = (chosen.wal_epoch, chosen.lsn);
    // A proof that was not needed gives nothing up.
    let uncovered = candidate::uncovered(state, &grant.evidence);
    let more = |s: &Sealed| (s.wal_epoch, s.lsn) > (wal_epoch, lsn);
    let there: BTreeSet<&MemberName> = grant.evidence.iter().map(|s| &s.member).collect();
    let in_doubt = !unproven(state, &there).is_empty();
    let loss = proof != Proof::Quorum
        && (!uncovered.is_empty() || in_doubt || grant.evidence.iter().any(more));
    if loss {
        give_up_uncovered(state, &grant.evidence, &uncovered);
    }
    let primary_end = grant.within_lag_of;
    let at_stake = loss.then_some(AtStake { by, uncovered, primary_end });
    let peers = failsafe::peers(state, &grant.member);
    state.epoch = next;
    state.tenure = Some(Tenure {
        epoch: next,
        member: grant.member.clone(),
        guard: grant.guard.clone(),
        stage: Stage::Granted,
        closed: None,
        stopped: false,
        failsafe: state.spec.failsafe && !peers.is_empty(),
        peers,
    });
    if mutant::without(Mutant::GrantReplacesSyncs) {
        state.syncs = vec![grant.sync.clone()];
        state.next_sync = grant.sync.seq + 1;
    } else {
        add_sync(state, grant.sync.clone());
    }
    members::keep_granted(state, at, &grant.member);
    let kind = EventKind::Granted {
        member: grant.member.clone(),
        wal_epoch,
        lsn,
        data_loss_accepted: loss,
        at_stake,
        sync: grant.sync.clone(),
    };
    record(state, at, kind);
    Ok(APPLIED)
}

/// Gives up what is not covered. What is stays in force, and has to be covered by the next takeover
/// too, should the chosen member be lost before it is active.
fn give_up_uncovered(state: &mut ClusterState, evidence: &[Sealed], uncovered: &[Uncovered]) {
    state.syncs.retain(|c| !uncovered.iter().any(|u| u.config == *c));
    // Where only the mixture with another is not covered, the newest of its epoch stays.
    let mixed = candidate::uncovered(state, evidence);
    let newest: BTreeMap<Epoch, u64> = state.syncs.iter().map(|c| (c.epoch, c.seq)).collect();
    state.syncs.retain(|c| {
        !mixed.iter().any(|u| u.config.epoch == c.epoch) || newest.get(&c.epoch) == Some(&c.seq)
    });
}

fn accepts_loss(operation: &Operation) -> bool {
    matches!(operation.kind, OperationKind::Failover { accept_data_loss: true, .. })
}

fn record_promotion(
    state: &mut ClusterState,
    at: WallMillis,
    epoch: Epoch,
    guard: &GuardId,
    lineage: &Lineage,
) -> Result<Reply, Rejection> {
    let tenure = expect_holder(state, epoch, guard)?;
    if tenure.stage != Stage::Granted {
        return Ok(Reply::Nothing);
    }
    let member = tenure.member.clone();
    let bad = |why: String| Err(Rejection::BadLineage { member: member.clone(), why });
    if let Some(why) = lineage.problem() {
        return bad(why);
    }
    let start = match lineage.last() {
        Some(last) if last.epoch == epoch => last.start,
        _ => return bad(format!("its last epoch is not {epoch}")),
    };
    if lineage.0.len() > 1 + state.epoch.0 as usize {
        return bad("it is longer than the number of epochs".to_owned());
    }
    state.lineage = lineage.clone();
    if let Some(tenure) = &mut state.tenure {
        tenure.stage = Stage::Promoted;
    }
    record(state, at, EventKind::Promoted { member, start });
    Ok(APPLIED)
}

fn activate(
    state: &mut ClusterState,
    at: WallMillis,
    epoch: Epoch,
    guard: &GuardId,
    syncs: &[SyncConfig],
    postmaster_start_us: i64,
) -> Result<Reply, Rejection> {
    let tenure = expect_holder(state, epoch, guard)?;
    let member = tenure.member.clone();
    match tenure.stage {
        Stage::Promoted => {}
        Stage::Active { .. } => return Ok(Reply::Nothing),
        Stage::Granted => {
            let stage = stage_name(&tenure.stage);
            return Err(Rejection::WrongStage { epoch, stage });
        }
    }
    expect_syncs(state, syncs)?;
    keep_newest_sync(state);
    // What it holds is what there is from now on.
    state.verify = None;
    if let Some(tenure) = &mut state.tenure {
        tenure.stage = Stage::Active { postmaster_start_us };
    }
    record(state, at, EventKind::Activated { member: member.clone() });
    if let Some(op) = &state.operation
        && op.epoch < epoch
    {
        let outcome = super::operation::outcome(op, &member);
        operation::finish(state, at, outcome);
    }
    Ok(APPLIED)
}

// ---- what agents say ----

fn note_health(
    state: &mut ClusterState,
    at: WallMillis,
    member: &MemberName,
    alarms: &[Alarm],
    notices: &[Notice],
    upto: Sequence,
) -> Result<Reply, Rejection> {
    expect_member(state, member)?;
    let wanted: Vec<Alarm> = alarms.iter().take(ALARMS_MAX).map(Alarm::bounded).collect();
    let held = state.alarms.get(member).cloned().unwrap_or_default();
    let has = |list: &[Alarm], alarm: &Alarm| list.iter().any(|a| a.key() == alarm.key());
    let mut changed = false;
    for alarm in wanted.iter().filter(|a| !has(&held, a)) {
        let (member, alarm) = (member.clone(), alarm.clone());
        record(state, at, EventKind::AlarmRaised { member, alarm });
        changed = true;
    }
    for alarm in held.iter().filter(|a| !has(&wanted, a)) {
        let (code, subject) = (alarm.code, alarm.subject.clone());
        record(state, at, EventKind::AlarmCleared { member: member.clone(), code, subject });
        changed = true;
    }
    if changed {
        // A text that changes while an alarm holds is no news: the report has the newest.
        let kept = wanted
            .into_iter()
            .map(|a| held.iter().find(|h| h.key() == a.key()).cloned().unwrap_or(a));
        let kept: Vec<Alarm> = kept.collect();
        match kept.is_empty() {
            true => _ = state.alarms.remove(member),
            false => _ = state.alarms.insert(member.clone(), kept),
        }
    }
    let known = state.noticed.get(member).filter(|s| s.run == upto.run).map_or(0, |s| s.number);
    let new = notices.iter().filter(|n| n.number > known && n.number <= upto.number);
    let new: Vec<&Notice> = new.take(NOTICES_MAX).collect();
    for notice in &new {
        let (code, text) = (notice.code, bounded(&notice.text));
        record(state, at, EventKind::Noticed { member: member.clone(), code, text });
        changed = true;
    }
    if !new.is_empty() {
        state.noticed.insert(member.clone(), upto);
    }
    Ok(if changed { APPLIED } else { Reply::Nothing })
}

// ---- synchronous configurations ----

/// Adds a newer epoch's configuration. An older one ends by it where it is alone in its epoch, and
/// whoever covers the newer covers the older. So the list stays short however many promotions fail
/// in a row.
fn add_sync(state: &mut ClusterState, sync: SyncConfig) {
    let all = state.syncs.clone();
    let alone = |c: &SyncConfig| all.iter().filter(|o| o.epoch == c.epoch).count() == 1;
    state.syncs.retain(|c| !(alone(c) && c.implied_by(&sync)));
    push_sync(state, sync);
}

fn push_sync(state: &mut ClusterState, sync: SyncConfig) {
    state.next_sync = sync.seq + 1;
    state.syncs.push(sync);
}

fn keep_newest_sync(state: &mut ClusterState) {
    let older = state.syncs.len().saturating_sub(1);
    state.syncs.drain(..older);
}

fn begin_sync_change(
    state: &mut ClusterState,
    at: WallMillis,
    epoch: Epoch,
    syncs: &[SyncConfig],
    to: &SyncConfig,
) -> Result<Reply, Rejection> {
    let primary = expect_open(state, epoch)?.member.clone();
    expect_syncs(state, syncs)?;
    check_sync(state, to, &primary, epoch)?;
    // Grants, which heal, may use the whole of the list; changes only half of it.
    if state.syncs.len() >= SYNCS_MAX / 2 {
        return Err(Rejection::BadSync {
            config: to.to_string(),
            why: format!("{} configurations are in force already", state.syncs.len()),
        });
    }
    push_sync(state, to.clone());
    if mutant::without(Mutant::NoJointChange) {
        keep_newest_sync(state);
    }
    record(state, at, EventKind::SyncChanging { to: to.clone() });
    Ok(APPLIED)
}

fn finish_sync_change(
    state: &mut ClusterState,
    at: WallMillis,
    epoch: Epoch,
    syncs: &[SyncConfig],
) -> Result<Reply, Rejection> {
    let tenure = expect_open(state, epoch)?;
    if !matches!(tenure.stage, Stage::Active { .. }) {
        return Err(Rejection::WrongStage { epoch, stage: stage_name(&tenure.stage) });
    }
    expect_syncs(state, syncs)?;
    if state.syncs.len() < 2 {
        return Ok(Reply::Nothing);
    }
    keep_newest_sync(state);
    if let Some(to) = state.syncs.last().cloned() {
        record(state, at, EventKind::SyncChanged { to });
    }
    Ok(APPLIED)
}
