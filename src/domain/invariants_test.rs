//! Random commands, some made to fit the state and some not: whatever comes in whatever order,
//! `apply` is total, a refusal changes nothing, and no invariant breaks. The bench checks all three.

use proptest::prelude::*;

use super::command::{Basis, Change, Grant, Reply};
use super::fixture_test::{Bench, SYSTEM, TERM, any, guard, m, register, spec, tagged};
use super::invariants::{check, spec_problem};
use super::lineage::Lineage;
use super::observation::Sealed;
use super::state::{CloseReason, Outcome, SynchronousMode};
use super::sync::SyncConfig;
use super::types::{Epoch, Lsn, MemberName, SystemId};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Numbers to build one command from.
type Dice = (u8, u8, u8, u64, bool, bool);

fn dice() -> impl Strategy<Value = Dice> {
    (0u8..40, 0u8..4, 0u8..16, 0u64..5, any_bool(9), any_bool(2))
}

/// True most of the time: `of - 1` times out of `of`.
fn any_bool(of: u32) -> impl Strategy<Value = bool> {
    (0..of).prop_map(|n| n > 0)
}

fn subset(bits: u8, without: &MemberName) -> Vec<MemberName> {
    let chosen = (0..4).filter(|i| bits & (1 << i) != 0).map(|i| m(NAMES[i]));
    chosen.filter(|x| x != without).collect()
}

/// Evidence that mostly fits: everybody in `bits` and `who` sealed for the next epoch.
fn evidence(bench: &Bench, bits: u8, who: &MemberName, wal: u64) -> Vec<Sealed> {
    let epoch = bench.state().epoch;
    let holder = bench.state().tenure.as_ref().map(|t| t.member.clone());
    let mut names = subset(bits, who);
    names.push(who.clone());
    // Mostly an epoch that was recorded: nobody but its holder has WAL of another.
    let recorded = |back: u64| {
        let all = &bench.state().lineage.0;
        let index = (all.len() as u64).saturating_sub(1 + back % 3);
        all.get(index as usize).map_or(Epoch(0), |e| e.epoch)
    };
    let one = |member: MemberName| Sealed {
        guard: guard(member.as_str().as_bytes()[0]),
        promised: epoch.next(),
        wal_epoch: recorded(wal),
        lsn: Lsn(wal * 10 + u64::from(member == *who)),
        held: if Some(&member) == holder.as_ref() { epoch } else { Epoch(0) },
        lineage: Lineage::root(Epoch(1)),
        member,
        no_room: false,
    };
    names.into_iter().map(one).collect()
}

/// A command from dice. `fits` takes what it expects from the state; otherwise it is off by some.
fn change(bench: &Bench, (kind, who, bits, number, fits, flag): Dice) -> Change {
    let state = bench.state();
    let member = m(NAMES[usize::from(who)]);
    let epoch = if fits { state.epoch } else { Epoch(number) };
    let tenure_guard = state.tenure.as_ref().map_or(guard(0), |t| t.guard.clone());
    let g = if fits { tenure_guard } else { guard(who) };
    let syncs = if fits { state.syncs.clone() } else { vec![any(number, 1, "b")] };
    let sync = |epoch: Epoch| {
        let members = subset(bits, &member);
        let w = if members.is_empty() { 0 } else { 1 + number as u32 % members.len() as u32 };
        let seq = if fits { state.next_sync } else { number };
        let members = members.into_iter().collect();
        SyncConfig { epoch, seq, w, members, order: Vec::new() }
    };
    match kind {
        0 => Change::CreateCluster { spec: spec("a b", SynchronousMode::Async, 0) },
        1 => register(member.as_str(), &format!("node-{member}"), Some(SYSTEM)),
        2 if flag => tagged(member.as_str()),
        2 => register(member.as_str(), "elsewhere", Some(SystemId(number))),
        3 => Change::BeginBootstrap { member },
        4 => Change::AbandonBootstrap { member, why: "x".repeat(usize::from(bits) * 100) },
        5 => Change::FinishBootstrap { member, system_id: SYSTEM, epoch: Epoch(number) },
        6..=11 => {
            let reason = match number {
                0 => CloseReason::Crashed,
                1 => CloseReason::GivenUp,
                2 => CloseReason::Switchover,
                _ => CloseReason::LeaseLost,
            };
            Change::Close { expect_epoch: epoch, reason, stopped: flag && number < 3 }
        }
        12..=13 => Change::RecordStop { expect_epoch: epoch },
        14..=23 => {
            let stopped = state.tenure.as_ref().is_some_and(|t| t.stopped);
            Change::Grant(Grant {
                expect_epoch: epoch,
                expect_syncs: syncs,
                guard: guard(member.as_str().as_bytes()[0]),
                basis: if stopped { Basis::Stopped } else { Basis::Expired { term: TERM } },
                evidence: evidence(bench, if flag { 15 } else { bits }, &member, number),
                sync: sync(epoch.next()),
                witnesses: Default::default(),
                within_lag_of: None,
                accept_data_loss: state.operation.as_ref().filter(|_| !flag).map(|op| op.id),
                member,
            })
        }
        24..=27 => Change::RecordPromotion {
            expect_epoch: epoch,
            guard: g,
            lineage: state.lineage.with(epoch, Lsn(state.epoch.0 * 100 + number)),
        },
        28..=30 => Change::Activate {
            expect_epoch: epoch,
            guard: g,
            expect_syncs: syncs,
            postmaster_start_us: 1,
        },
        31..=33 => {
            Change::BeginSyncChange { expect_epoch: epoch, expect_syncs: syncs, to: sync(epoch) }
        }
        34..=35 => Change::FinishSyncChange { expect_epoch: epoch, expect_syncs: syncs },
        36 => Change::StartSwitchover { expect_epoch: epoch, target: member, by: "x".to_owned() },
        37 => Change::StartFailover {
            expect_epoch: epoch,
            target: flag.then_some(member),
            accept_data_loss: number % 2 == 0,
            by: "x".to_owned(),
        },
        _ => Change::FinishOperation {
            operation: state.operation.as_ref().map_or(number, |op| op.id),
            outcome: Outcome::Failed { why: "é".repeat(usize::from(bits) * 60) },
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_commands_breaks_an_invariant(
        start in 0u8..3, rolls in proptest::collection::vec(dice(), 1..200),
    ) {
        let mut bench = match start {
            0 => Bench::registered("a b c d", SynchronousMode::Quorum, 1),
            1 => Bench::initial("a b c d", SynchronousMode::Quorum, 1),
            _ => Bench::active("a b c d", 1),
        };
        for roll in rolls {
            let change = change(&bench, roll);
            bench.run(change);
        }
    }
}

#[test]
fn the_random_commands_reach_far() {
    // The property says little if nearly all is refused: a fixed run must get through epochs.
    let mut bench = Bench::active("a b c d", 1);
    let (mut applied, mut x) = (0, 1u64);
    for _ in 0..1_500 {
        let mut roll = |n: u64| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) % n
        };
        let one =
            (roll(40) as u8, roll(4) as u8, roll(16) as u8, roll(5), roll(9) > 0, roll(2) > 0);
        let change = change(&bench, one);
        applied += usize::from(matches!(bench.run(change), Reply::Applied { .. }));
        if bench.state().operation.is_some()
            && bench.state().members.values().all(|x| !x.may_lead())
        {
            bench = Bench::active("a b c d", 1);
        }
    }
    assert!(applied > 60, "{applied} applied");
    assert!(bench.state().next_event > 50, "{} events", bench.state().next_event);
}

#[test]
fn each_invariant_is_seen_when_it_breaks() {
    type Break = fn(&mut super::state::ClusterState);
    let breaks: [(Break, &str); 9] = [
        (|s| s.epoch = Epoch(9), "highest granted epoch"),
        (|s| s.tenure = None, "without data"),
        (|s| drop(s.members.remove(&m("a"))), "is a member"),
        (|s| s.tenure.iter_mut().for_each(|t| t.stopped = true), "closed epochs only"),
        (|s| s.syncs.clear(), "in force"),
        (|s| s.syncs[0].w = 9, "make sense"),
        (|s| s.syncs[0].epoch = Epoch(1), "of the open epoch"),
        (|s| s.lineage = Lineage::default(), "lineage"),
        (|s| s.next_event = 0, "numbered"),
    ];
    for (spoil, name) in breaks {
        let mut control = Bench::active("a b c", 1).control;
        assert_eq!(check(&control), vec![]);
        control.clusters.values_mut().for_each(spoil);
        let found = check(&control);
        assert!(found.iter().any(|v| v.invariant.contains(name)), "{name}: {found:?}");
    }
}

#[test]
fn specifications_that_are_unsafe_are_refused() {
    type Edit = fn(&mut super::state::ClusterSpec);
    let sound = spec("a b c", SynchronousMode::Quorum, 1);
    assert_eq!(spec_problem(&sound), None);
    let edits: [Edit; 9] = [
        |s| s.timing.ttl_ms = 0,
        |s| s.timing.ttl_ms = 86_400_001,
        |s| s.timing.fence_margin_ms = s.timing.ttl_ms,
        |s| s.timing.kill_margin_ms = s.timing.fence_margin_ms,
        |s| s.timing.kill_margin_ms = 10,
        |s| s.timing.clock_error_ppm = 500_000,
        |s| s.timing.suspect_ms = s.timing.renew_ms,
        |s| s.bootstrap_members.clear(),
        |s| s.bootstrap_members.push(m("a")),
    ];
    for (i, edit) in edits.into_iter().enumerate() {
        let mut bad = sound.clone();
        edit(&mut bad);
        assert!(spec_problem(&bad).is_some(), "row {i}");
    }
}
