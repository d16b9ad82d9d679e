//! Commands near what a state would take.

use super::operation::operation;
use super::{cluster, epoch, guard, lineage, lsn, member, node, sealed, sync, system_id};
use crate::domain::alarm::{Alarm, AlarmCode, Notice, NoticeCode};
use crate::domain::candidate::{self, Proof};
use crate::domain::clusters::ClustersChange;
use crate::domain::command::{Basis, Change, Command, Grant};
use crate::domain::membership::MembershipChange;
use crate::domain::observation::{Sealed, Sequence};
use crate::domain::state::{CloseReason, ClusterSpec, Outcome, SynchronousMode, Tags};
use crate::domain::sync::SyncConfig;
use crate::domain::types::{Epoch, MemberName, WallMillis};
use crate::domain::{ClusterState, ControlState};
use crate::input::Input;

const REASONS: [CloseReason; 6] = [
    CloseReason::Initial,
    CloseReason::Crashed,
    CloseReason::GivenUp,
    CloseReason::LeaseLost,
    CloseReason::Switchover,
    CloseReason::Failover,
];

/// A command that `state` may take, at the time `at` and in the Raft term `term`.
pub fn command(input: &mut Input<'_>, state: &ControlState, at: WallMillis, term: u64) -> Command {
    let cluster = cluster(input);
    let at = if input.stray() { WallMillis(input.number(at.0)) } else { at };
    let change = match state.clusters.get(&cluster) {
        None => match input.flag() {
            true => Change::CreateCluster { spec: spec(input) },
            false => {
                let (spec, by) = (spec(input), input.text());
                Change::Clusters(ClustersChange::Create { spec, by })
            }
        },
        Some(agreed) => change(input, agreed, term),
    };
    Command { cluster, at, change }
}

fn spec(input: &mut Input<'_>) -> ClusterSpec {
    let names: Vec<MemberName> = super::MEMBERS
        .iter()
        .take(1 + input.below(4))
        .filter_map(|n| MemberName::new(*n).ok())
        .collect();
    let mut spec = ClusterSpec::of(names);
    if input.flag() {
        let modes = [SynchronousMode::Quorum, SynchronousMode::Priority, SynchronousMode::Async];
        spec.synchronous = input.pick(&modes);
        spec.write_quorum = input.below(4) as u32;
        spec.write_quorum_min = input.below(3) as u32;
        spec.max_lag_bytes = input.option(|i| i.number(64));
        spec.crash_failovers_max = input.below(4) as u32;
    }
    if input.stray() {
        let t = &mut spec.timing;
        match input.below(13) {
            0 => t.renew_ms = input.number(t.renew_ms),
            1 => t.ttl_ms = input.number(t.ttl_ms),
            2 => t.fence_margin_ms = input.number(t.fence_margin_ms),
            3 => t.kill_margin_ms = input.number(t.kill_margin_ms),
            4 => t.suspect_ms = input.number(t.suspect_ms),
            5 => t.clock_error_ppm = input.number(t.clock_error_ppm),
            6 => spec.bootstrap_members = input.list(6, member),
            7 => spec.shrink_after_ms = input.number(spec.shrink_after_ms),
            8 => spec.slot_ttl_ms = input.number(spec.slot_ttl_ms),
            9 => spec.sync_lag_bytes_max = input.number(spec.sync_lag_bytes_max),
            10 => spec.crash_window_ms = input.number(spec.crash_window_ms),
            11 => spec.failsafe = input.flag(),
            _ => spec.write_quorum = input.number(1) as u32,
        }
    }
    spec
}

fn tags(input: &mut Input<'_>) -> Tags {
    let bits = input.byte();
    if bits < 200 {
        return Tags::default();
    }
    Tags {
        nofailover: bits & 1 != 0,
        nosync: bits & 2 != 0,
        noloadbalance: bits & 4 != 0,
        clonefrom: bits & 8 != 0,
        replicatefrom: input.option(member),
        delay_ms: if bits & 16 != 0 { input.number(5) } else { 0 },
    }
}

fn alarm(input: &mut Input<'_>) -> Alarm {
    let codes = [AlarmCode::SpaceLow, AlarmCode::HeldConnection, AlarmCode::Impostor];
    Alarm::about(input.pick(&codes), input.text(), input.text())
}

fn change(input: &mut Input<'_>, state: &ClusterState, term: u64) -> Change {
    // One choice in a byte; the weights are those of a cluster's life.
    let kind = input.byte();
    let current = epoch(input, state.epoch);
    let syncs = syncs(input, state);
    let tenure = state.tenure.as_ref();
    let guard = match tenure {
        Some(t) if !input.stray() => t.guard.clone(),
        _ => guard(input),
    };
    match kind {
        0..=31 => {
            let member = member(input);
            let address = match input.stray() {
                true => input.text(),
                false => format!("{member}:5432"),
            };
            Change::RegisterMember {
                node: node(input, &member),
                address,
                agent_address: if input.flag() { Some(format!("{member}:7400")) } else { None },
                priority: input.below(3) as i32 - 1,
                tags: tags(input),
                system_id: if input.flag() { Some(system_id(input)) } else { None },
                member,
            }
        }
        32..=39 => Change::BeginBootstrap { member: member(input) },
        40..=43 => {
            Change::AbandonBootstrap { member: bootstrapper(input, state), why: input.text() }
        }
        44..=51 => Change::FinishBootstrap {
            member: bootstrapper(input, state),
            system_id: system_id(input),
            epoch: epoch(input, Epoch(1)),
        },
        52..=75 => Change::Close {
            expect_epoch: current,
            reason: input.pick(&REASONS),
            stopped: input.flag(),
        },
        76..=87 => Change::RecordStop { expect_epoch: current },
        88..=127 => Change::Grant(grant(input, state, current, syncs, term)),
        128..=151 => Change::RecordPromotion {
            expect_epoch: current,
            guard,
            lineage: match input.byte() {
                0..=199 => {
                    let last = state.lineage.last().map(|e| e.start).unwrap_or_default();
                    state.lineage.with(state.epoch, lsn(input).max(last))
                }
                _ => lineage(input, state),
            },
        },
        152..=175 => Change::Activate {
            expect_epoch: current,
            guard,
            expect_syncs: syncs,
            postmaster_start_us: input.number(1) as i64,
        },
        176..=191 => {
            let primary = tenure.map(|t| &t.member);
            let to = sync(input, state, primary, state.epoch);
            Change::BeginSyncChange { expect_epoch: current, expect_syncs: syncs, to }
        }
        192..=207 => Change::FinishSyncChange { expect_epoch: current, expect_syncs: syncs },
        208..=215 => operation(input, state, current),
        216..=223 => Change::StartFailover {
            expect_epoch: current,
            target: input.option(member),
            accept_data_loss: input.flag(),
            by: input.text(),
        },
        224..=229 => Change::NotePosition { expect_epoch: current, lsn: lsn(input) },
        230..=245 => Change::NoteHealth {
            member: member(input),
            alarms: many(input, alarm),
            notices: many(input, |i| Notice {
                number: i.number(1),
                code: i.pick(&[NoticeCode::Rewound, NoticeCode::Ended]),
                text: i.text(),
            }),
            upto: Sequence { run: input.number(1), number: input.number(5) },
        },
        246..=249 => membership(input, current),
        250..=253 => Change::FinishOperation {
            operation: input.number(state.operation.as_ref().map_or(0, |o| o.id)),
            outcome: match input.flag() {
                true => Outcome::Done { primary: member(input) },
                false => Outcome::Failed { why: input.text() },
            },
        },
        _ => Change::CreateCluster { spec: spec(input) },
    }
}

fn membership(input: &mut Input<'_>, expect_epoch: Epoch) -> Change {
    let member = member(input);
    Change::Membership(match input.below(5) {
        0 | 1 => MembershipChange::BeginRemoval { expect_epoch, member, by: input.text() },
        2 => MembershipChange::FinishRemoval { expect_epoch, member },
        3 => MembershipChange::AbandonRemoval { member, why: input.text() },
        _ => match input.flag() {
            true => MembershipChange::Permit { member, by: input.text() },
            false => {
                let (forced, by) = (input.flag(), input.text());
                return Change::Clusters(ClustersChange::Remove { expect_epoch, forced, by });
            }
        },
    })
}

/// A list that is now and then longer than what is taken of it.
fn many<T: Clone>(input: &mut Input<'_>, mut item: impl FnMut(&mut Input<'_>) -> T) -> Vec<T> {
    let mut list = input.list(4, &mut item);
    if input.stray() {
        let repeated = list.clone();
        list.extend(repeated.iter().cycle().take(40).cloned());
    }
    list
}

fn bootstrapper(input: &mut Input<'_>, state: &ClusterState) -> MemberName {
    match &state.phase {
        crate::domain::state::Phase::Bootstrapping { member } if !input.stray() => member.clone(),
        _ => member(input),
    }
}

fn syncs(input: &mut Input<'_>, state: &ClusterState) -> Vec<SyncConfig> {
    let mut syncs = state.syncs.clone();
    if input.stray() {
        syncs.pop();
    }
    syncs
}

fn grant(
    input: &mut Input<'_>,
    state: &ClusterState,
    expect_epoch: Epoch,
    expect_syncs: Vec<SyncConfig>,
    term: u64,
) -> Grant {
    let there = input.byte();
    let mut evidence: Vec<Sealed> = Vec::new();
    for (i, name) in state.members.keys().enumerate() {
        if there & (1 << (i % 8)) != 0 {
            evidence.push(sealed(input, state, name.clone()));
        }
    }
    if input.stray() {
        let name = member(input);
        evidence.push(sealed(input, state, name));
    }
    let proof = Proof::Waived;
    // Mostly the one that the rules choose.
    let wish = candidate::wish(state, WallMillis(0));
    let best = candidate::choose(state, &evidence, wish.as_ref(), proof).ok();
    let (member, guard) = match best {
        Some(best) if !input.stray() => (best.member.clone(), best.guard.clone()),
        _ => (member(input), guard(input)),
    };
    let next = Epoch(state.epoch.0.saturating_add(1));
    let operation = state.operation.as_ref().map(|o| o.id);
    Grant {
        sync: sync(input, state, Some(&member), next),
        basis: match input.flag() {
            true => Basis::Stopped,
            false => Basis::Expired { term: input.number(term) },
        },
        accept_data_loss: if input.flag() { operation } else { None },
        within_lag_of: if input.stray() { Some(lsn(input)) } else { None },
        witnesses: match input.stray() {
            true => state.members.keys().map(|m| (m.clone(), next)).collect(),
            false => Default::default(),
        },
        expect_epoch,
        expect_syncs,
        member,
        guard,
        evidence,
    }
}
