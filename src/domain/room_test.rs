//! Members whose disks are full: who is promoted, who is not, and what is said.

use super::command::Change;
use super::fixture_test::{
    Bench, Leader, holder, m, report, rules, sealed, sealed_report, standby,
};
use super::observation::{Condition, Report};
use super::plan::{Finding, OperationProblem, Plan, switchover_check};
use super::plan_test::{all_well, ended, grantee, settled};
use super::space::{Disks, Space};
use super::state::CloseReason;

const MIB: u64 = 1 << 20;

/// The report of a member with so many MiB left, of a hundred GiB.
fn with_mib(mut report: Report, free: u64) -> Report {
    let total_bytes = 100 * 1024 * MIB;
    let space = Space { free_bytes: free * MIB, total_bytes };
    report.disks = Disks { data: Some(space), wal: None };
    report
}

fn full(report: Report) -> Report {
    with_mib(report, 10)
}

/// Active in epoch 2, and the primary has crashed, proven.
fn crashed(list: &str, w: u32, disk_is_full: bool) -> (Bench, Leader) {
    let (mut bench, mut leader) = settled(list, w);
    let first = list.split_whitespace().next().unwrap();
    let report = ended(first, 2, true);
    leader.hears(first, if disk_is_full { full(report) } else { report });
    let change = leader.plan(&bench).proposal;
    bench.ok(change.unwrap());
    (bench, leader)
}

#[track_caller]
fn awaits_room(plan: &Plan, who: &str) {
    let found = plan.findings.iter().find_map(|f| match f {
        Finding::AwaitingRoom { members } => Some(members.clone()),
        _ => None,
    });
    let wanted: Vec<_> = who.split_whitespace().map(m).collect();
    assert_eq!(found, Some(wanted), "{:?}", plan.findings);
    assert!(rules(plan).contains(&"takeover.room"));
    assert_eq!(plan.proposal, None);
}

#[test]
fn a_full_member_is_passed_over_where_the_others_suffice() {
    // Under ANY 2 (b c) each of both holds everything.
    let (bench, mut leader) = crashed("a b c", 2, true);
    leader.hears("b", full(sealed_report(&sealed("b", 3, 2, 900))));
    leader.hears("c", sealed_report(&sealed("c", 3, 2, 500)));
    let Some(Change::Grant(grant)) = leader.plan(&bench).proposal else { panic!("no grant") };
    assert_eq!(grant.member, m("c"));
    assert!(grant.evidence.iter().all(|s| s.member == m("c")), "{:?}", grant.evidence);
    let mut bench = bench;
    bench.ok(Change::Grant(grant));
}

#[test]
fn the_quorum_is_computed_anew_without_a_full_member() {
    // Under ANY 1 (b c) both are needed: what only b has must not be lost.
    let (mut bench, mut leader) = crashed("a b c", 1, true);
    leader.hears("b", full(sealed_report(&sealed("b", 3, 2, 900))));
    leader.hears("c", sealed_report(&sealed("c", 3, 2, 500)));
    awaits_room(&leader.plan(&bench), "a b");
    // A bit of room is enough.
    leader.hears("b", with_mib(sealed_report(&sealed("b", 3, 2, 900)), 65));
    let Some(Change::Grant(grant)) = leader.plan(&bench).proposal else { panic!("no grant") };
    assert_eq!(grant.member, m("b"));
    bench.ok(Change::Grant(grant));
}

#[test]
fn what_is_missing_otherwise_is_said_where_room_would_not_help() {
    let (bench, mut leader) = crashed("a b c", 1, false);
    leader.hears("b", full(sealed_report(&sealed("b", 3, 2, 900))));
    // Neither a nor c answers: room on b alone changes nothing.
    leader.observed.members.remove(&m("a"));
    leader.observed.members.remove(&m("c"));
    assert_eq!(rules(&leader.plan(&bench)).last(), Some(&"takeover.read-quorum"));
}

#[test]
fn a_full_old_primary_that_is_needed_is_waited_for() {
    let (mut bench, mut leader) = crashed("a b c", 1, true);
    leader.observed.members.remove(&m("c"));
    leader.hears("b", sealed_report(&sealed("b", 3, 2, 400)));
    // PostgreSQL does not even start there.
    leader.hears("a", full(ended("a", 2, true)));
    awaits_room(&leader.plan(&bench), "a");
    // It starts, and is as full as before.
    leader.hears("a", full(sealed_report(&holder("a", 3, 2, 500, 2))));
    awaits_room(&leader.plan(&bench), "a");
    leader.hears("a", with_mib(sealed_report(&holder("a", 3, 2, 500, 2)), 2_000));
    let Some(Change::Grant(grant)) = leader.plan(&bench).proposal else { panic!("no grant") };
    assert_eq!(grant.member, m("a"));
    bench.ok(Change::Grant(grant));
}

#[test]
fn nobody_is_promoted_where_all_are_full() {
    for starts in [true, false] {
        let (mut bench, mut leader) = crashed("a b c", 1, true);
        for _ in 0..1_000 {
            leader.pass_ms(500);
            for name in ["a", "b", "c"] {
                let sealed = match name {
                    "a" => holder("a", 3, 2, 500, 2),
                    other => sealed(other, 3, 2, 500),
                };
                let down = match name {
                    "a" => ended("a", 2, true),
                    other => report(other, Condition::Down),
                };
                leader.hears(name, full(if starts { sealed_report(&sealed) } else { down }));
            }
            awaits_room(&leader.plan(&bench), "a b c");
        }
        leader.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
        leader.hears("c", sealed_report(&sealed("c", 3, 2, 500)));
        let change = leader.plan(&bench).proposal;
        let Some(Change::Grant(grant)) = change else { panic!("{change:?}") };
        bench.ok(Change::Grant(grant));
    }
}

#[test]
fn a_silent_primary_keeps_its_epoch_where_nobody_has_room() {
    let (bench, mut leader) = settled("a b c", 1);
    leader.pass_ms(2_500);
    leader.hears("b", full(standby("b", 2, 500))).hears("c", full(standby("c", 2, 500)));
    let plan = leader.plan(&bench);
    assert!(rules(&plan).contains(&"takeover.lease-lost"));
    awaits_room(&plan, "b c");
    // Unknown is not full.
    leader.hears("b", standby("b", 2, 500)).hears("c", with_mib(standby("c", 2, 500), 70));
    let close = leader.plan(&bench).proposal;
    assert!(matches!(close, Some(Change::Close { reason: CloseReason::LeaseLost, .. })));
}

#[test]
fn the_bound_on_crashes_waits_for_no_member_that_is_full() {
    let (mut bench, mut leader) = crashed("a b c", 1, false);
    for _ in 0..3 {
        let epoch = bench.state().epoch.0;
        let change = super::fixture_test::grant(
            &bench,
            "a",
            vec![holder("a", epoch + 1, 2, 500, epoch)],
            super::fixture_test::any(epoch + 1, 1, "b c"),
        );
        bench.ok(change);
        let step = super::fixture_test::promotion(&bench, 600 + epoch);
        bench.ok(step);
        let step = super::fixture_test::activation(&bench);
        bench.ok(step);
        bench.close(CloseReason::Crashed, true);
    }
    let next = bench.state().epoch.0 + 1;
    leader.hears("b", sealed_report(&sealed("b", next, 2, 500)));
    leader.hears("c", sealed_report(&sealed("c", next, 2, 500)));
    assert_eq!(rules(&leader.plan(&bench)), ["takeover.crash-bound"]);
    leader.hears("a", full(sealed_report(&holder("a", next, next - 1, 900, next - 1))));
    assert_eq!(grantee(leader.plan(&bench).proposal), "b", "why a crashed is known");
}

#[test]
fn a_full_member_is_no_target_of_a_switchover() {
    let (bench, mut leader) = settled("a b c", 1);
    leader.hears("b", full(standby("b", 2, 500)));
    let check = |leader: &Leader, target: Option<&str>| {
        let target = target.map(m);
        switchover_check(bench.state(), &leader.observed, target.as_ref(), leader.now)
    };
    assert_eq!(check(&leader, Some("b")), Err(vec![OperationProblem::NoRoom(m("b"))]));
    assert_eq!(check(&leader, None), Ok(m("c")), "another one is found");
    leader.hears("c", full(standby("c", 2, 500)));
    assert_eq!(check(&leader, None), Err(vec![OperationProblem::NoTarget]));
    all_well(&bench, &mut leader, "a b c");
    assert_eq!(check(&leader, Some("b")), Ok(m("b")));
}
