//! What agents report.

use std::collections::BTreeMap;

use super::{epoch, guard_of, lineage, lsn, member, sealed, system_id};
use crate::domain::ClusterState;
use crate::domain::alarm::{Alarm, AlarmCode, Notice, NoticeCode};
use crate::domain::observation::{
    Condition, Confirmed, Data, Fencing, PrimaryView, Progress, Report, Sequence, StandbyProgress,
    StandbyView,
};
use crate::domain::space::{Aside, Disks, Space};
use crate::domain::types::{Epoch, MemberName};
use crate::input::Input;

fn space(input: &mut Input<'_>) -> Space {
    const GIB: u64 = 1 << 30;
    Space { free_bytes: input.number(10 * GIB), total_bytes: input.number(100 * GIB) }
}

/// A report of `member`, the `number`th of its agent.
pub fn report(
    input: &mut Input<'_>,
    state: &ClusterState,
    member: &MemberName,
    number: u64,
) -> Report {
    let guard = input.byte();
    let guard = if guard > 240 { None } else { Some(guard_of(input, member)) };
    let held = state.tenure.as_ref().filter(|t| t.member == *member);
    // Now and then it has ended what it holds, and proves it.
    let ends = held.filter(|_| input.below(6) == 1);
    Report {
        guard,
        sequence: Sequence { run: if input.stray() { 2 } else { 1 }, number: input.number(number) },
        ended: match ends {
            Some(t) => t.epoch,
            None if input.stray() => epoch(input, state.epoch),
            None => Epoch(0),
        },
        promised: if input.stray() { epoch(input, state.epoch.next()) } else { Epoch(0) },
        emptied: ends.map(|t| t.guard.clone()).into_iter().collect(),
        crashed: input.flag(),
        data: match input.byte() {
            0..=159 => Data::Present { system_id: system_id(input) },
            160..=219 => Data::Empty,
            220..=239 => Data::Unknown,
            _ => Data::Incomplete,
        },
        condition: condition(input, state, member),
        fencing: input.pick(&[
            Fencing::PidNamespace,
            Fencing::Unknown,
            Fencing::Cgroup,
            Fencing::BestEffort,
        ]),
        problems: if input.stray() { vec![input.text()] } else { Vec::new() },
        alarms: if input.stray() { input.list(3, alarm) } else { Vec::new() },
        notices: if input.stray() { input.list(3, notice) } else { Vec::new() },
        disks: Disks {
            data: if input.stray() { Some(space(input)) } else { None },
            wal: if input.stray() { Some(space(input)) } else { None },
        },
        life: if input.stray() { input.number(1) } else { 0 },
        copied_for: if input.stray() { input.number(1) } else { 0 },
        reloaded: None,
        about: Default::default(),
        aside: match input.stray() {
            true => vec![Aside {
                path: input.text(),
                bytes: input.word(),
                reason: input.text(),
                at_unix_ms: input.word(),
            }],
            false => Vec::new(),
        },
        settings: Default::default(),
    }
}

fn alarm(input: &mut Input<'_>) -> Alarm {
    Alarm::about(input.pick(&[AlarmCode::SpaceLow, AlarmCode::NewConnection]), "x", input.text())
}

fn notice(input: &mut Input<'_>) -> Notice {
    Notice { number: input.number(1), code: NoticeCode::Copied, text: input.text() }
}

fn condition(input: &mut Input<'_>, state: &ClusterState, name: &MemberName) -> Condition {
    let leads = state.open_tenure().is_some_and(|t| t.member == *name);
    match input.byte() {
        0..=199 if leads => Condition::Primary(primary(input, state)),
        0..=199 => Condition::Standby(standby(input, state, name)),
        200..=209 => Condition::Primary(primary(input, state)),
        210..=219 => Condition::Standby(standby(input, state, name)),
        220..=225 => Condition::Unknown,
        226..=231 => Condition::Down,
        232..=235 => Condition::Starting,
        236..=239 => Condition::Initialising,
        240..=243 => Condition::BootstrapFailed { why: input.text() },
        244..=247 => Condition::Rewinding,
        _ => Condition::Cloning {
            source: member(input),
            done_bytes: input.number(10),
            total_bytes: input.number(100),
        },
    }
}

fn standby(input: &mut Input<'_>, state: &ClusterState, name: &MemberName) -> StandbyView {
    let last = state.lineage.last().map_or(Epoch(0), |e| e.epoch);
    let is_sealed = state.open_tenure().is_none() != input.stray();
    StandbyView {
        streaming: if is_sealed { None } else { Some(epoch(input, state.epoch)) },
        replay: lsn(input),
        flushed: lsn(input),
        wal_epoch: epoch(input, last),
        held: if input.stray() { epoch(input, last) } else { Epoch(0) },
        sealed: is_sealed.then(|| sealed(input, state, name.clone())),
        counts: !input.stray(),
        primary_end: if input.stray() { Some((epoch(input, last), lsn(input))) } else { None },
        upstream: if input.stray() { Some(member(input)) } else { None },
    }
}

fn primary(input: &mut Input<'_>, state: &ClusterState) -> PrimaryView {
    let mut standbys = BTreeMap::new();
    let there = input.byte();
    for (i, name) in state.members.keys().enumerate() {
        if there & (1 << (i % 8)) != 0 {
            let progress = StandbyProgress {
                streaming: !input.stray(),
                flushed: lsn(input),
                replayed: lsn(input),
            };
            standbys.insert(name.clone(), progress);
        }
    }
    let mut syncs = state.syncs.clone();
    if input.stray() {
        syncs.pop();
    }
    PrimaryView {
        epoch: epoch(input, state.epoch),
        progress: match input.below(4) {
            1 => Progress::Accepted,
            _ => Progress::Promoted {
                lineage: match input.stray() {
                    true => lineage(input, state),
                    false => {
                        let start = state.lineage.last().map(|e| e.start).unwrap_or_default();
                        state.lineage.with(state.epoch, lsn(input).max(start))
                    }
                },
            },
        },
        flushed: lsn(input),
        standbys,
        confirmed: if input.flag() {
            Some(Confirmed { syncs, postmaster_start_us: input.number(1) as i64 })
        } else {
            None
        },
        failsafe: input.flag(),
    }
}
