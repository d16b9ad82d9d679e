//! Switchovers and failovers by hand: what may start them, and how each of them ends.

use super::command::Change;
use super::fixture_test::{
    Bench, Leader, holder, m, primary, promotion, report, rules, sealed, sealed_report, tagged,
};
use super::observation::Condition;
use super::plan::{
    FAILOVER_TARGET_WAIT, LOSS_SETTLE, SWITCHOVER_DEADLINE, failover_check, switchover_check,
};
use super::plan_test::{all_well, ended, grantee, settled};
use super::state::{CloseReason, OperationKind, Outcome};
use super::types::Epoch;

fn switchover(target: &str) -> Change {
    Change::StartSwitchover { expect_epoch: Epoch(2), target: m(target), by: "test".to_owned() }
}

#[test]
fn a_switchover_ends_with_one_primary_whatever_happens_to_the_target() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(switchover("c"));
    assert_eq!(rules(&leader.plan(&bench)), ["switchover"]);

    // A new leader has heard of nobody: that fails nothing.
    let mut new = Leader::new();
    assert_eq!(new.plan(&bench).proposal, None);
    // One probe that failed fails nothing.
    leader.hears("c", report("c", Condition::Unknown));
    assert_eq!(leader.plan(&bench).proposal, None);

    // The target dies before the primary has stopped.
    let mut dead = (bench.clone(), leader.clone());
    dead.1.pass_ms(2_001);
    all_well(&dead.0, &mut dead.1, "a b");
    match dead.1.plan(&dead.0).proposal {
        Some(Change::FinishOperation { outcome: Outcome::Failed { .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
    // The primary does not stop.
    let mut slow = (bench.clone(), leader.clone());
    slow.1.pass_ms(SWITCHOVER_DEADLINE.as_millis() as u64);
    all_well(&slow.0, &mut slow.1, "a b c");
    assert!(matches!(slow.1.plan(&slow.0).proposal, Some(Change::FinishOperation { .. })));

    // It stops in order; the target is waited for, and then not for ever.
    leader.hears("a", ended("a", 2, false));
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(change, Change::Close { reason: CloseReason::Switchover, stopped: true, .. }));
    bench.ok(change);
    leader.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
    leader.hears("a", sealed_report(&holder("a", 3, 2, 500, 2)));
    // What the target is is not known, and it is waited for.
    assert_eq!(rules(&leader.plan(&bench)), ["member.problem", "switchover.target-sealed"]);
    let mut in_time = leader.clone();
    in_time.hears("c", sealed_report(&sealed("c", 3, 2, 500)));
    assert_eq!(grantee(in_time.plan(&bench).proposal), "c");
    leader.pass_ms(2_000);
    assert_eq!(grantee(leader.plan(&bench).proposal), "a", "a and b are equal");
}

fn failover(target: Option<&str>, accept_data_loss: bool) -> Change {
    Change::StartFailover {
        expect_epoch: Epoch(2),
        target: target.map(m),
        accept_data_loss,
        by: "test".to_owned(),
    }
}

#[test]
fn a_failover_by_hand_does_not_wait_for_ever() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(failover(Some("c"), false));
    leader.plan(&bench);
    leader.pass_ms(4_000);
    let hear = |leader: &mut Leader| {
        leader.hears("a", ended("a", 2, false));
        leader.hears("a", sealed_report(&holder("a", 3, 2, 500, 2)));
        leader.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
    };
    hear(&mut leader);
    assert_eq!(rules(&leader.plan(&bench)).last(), Some(&"switchover.target-sealed"));
    leader.pass_ms(FAILOVER_TARGET_WAIT.as_millis() as u64);
    hear(&mut leader);
    assert_eq!(grantee(leader.plan(&bench).proposal), "a");
    // With nobody at all the operation ends, so that another can be asked for.
    leader.pass_ms(120_000);
    match leader.plan(&bench).proposal {
        Some(Change::FinishOperation { outcome: Outcome::Failed { .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn data_loss_is_accepted_only_after_a_proof_was_looked_for() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(failover(None, true));
    assert!(matches!(
        bench.state().operation.as_ref().unwrap().kind,
        OperationKind::Failover { accept_data_loss: true, .. }
    ));
    leader.plan(&bench);
    leader.pass_ms(LOSS_SETTLE.as_millis() as u64 - 1);
    leader.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
    assert_eq!(rules(&leader.plan(&bench)).last(), Some(&"takeover.read-quorum"));
    let mut proven = leader.clone();
    proven.hears("c", sealed_report(&sealed("c", 3, 2, 600)));
    let Some(Change::Grant(grant)) = proven.plan(&bench).proposal else { panic!("no grant") };
    assert_eq!((grant.member, grant.accept_data_loss), (m("c"), None));
    leader.pass_ms(1);
    leader.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
    let Some(Change::Grant(grant)) = leader.plan(&bench).proposal else { panic!("no grant") };
    assert_eq!((grant.member.clone(), grant.accept_data_loss), (m("b"), Some(1)));
    bench.ok(Change::Grant(grant));
}

#[test]
fn what_an_operation_may_start() {
    let (mut bench, leader) = settled("a b c", 1);
    let check = |bench: &Bench, leader: &Leader, target: Option<&str>| {
        let target = target.map(m);
        switchover_check(bench.state(), &leader.observed, target.as_ref(), leader.now)
            .map(|t| t.to_string())
            .map_err(|p| p.iter().map(|p| p.rule()).collect::<Vec<_>>())
    };
    assert_eq!(check(&bench, &leader, None), Ok("b".to_owned()));
    assert_eq!(check(&bench, &leader, Some("c")), Ok("c".to_owned()));
    assert_eq!(check(&bench, &leader, Some("a")), Err(vec!["switchover.target-is-standby"]));
    assert_eq!(check(&bench, &leader, Some("x")), Err(vec!["member.exists"]));
    let mut later = leader.clone();
    later.pass_ms(2_001);
    assert_eq!(check(&bench, &later, Some("c")), Err(vec!["switchover.target-reports"]));
    assert_eq!(check(&bench, &later, None), Err(vec!["switchover.target"]));

    let silent = Some(std::time::Duration::from_millis(100));
    let hand = |bench: &Bench, target: Option<&str>, loss| {
        let target = target.map(m);
        failover_check(bench.state(), &leader.observed, silent, target.as_ref(), loss, leader.now)
            .map_err(|p| p.iter().map(|p| p.rule()).collect::<Vec<_>>())
    };
    assert_eq!(hand(&bench, None, false), Err(vec!["failover.primary-gone"]));
    assert_eq!(hand(&bench, None, true), Ok(()));
    bench.ok(tagged("c"));
    assert_eq!(hand(&bench, Some("c"), true), Err(vec!["switchover.target-tag"]));
    assert_eq!(check(&bench, &leader, Some("c")), Err(vec!["switchover.target-tag"]));
    bench.ok(switchover("b"));
    assert_eq!(check(&bench, &leader, None), Err(vec!["operation.one-at-a-time"]));
}

#[test]
fn an_operation_ends_although_the_new_primary_never_becomes_active() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(switchover("b"));
    leader.hears("a", ended("a", 2, false));
    bench.ok(leader.plan(&bench).proposal.unwrap());
    leader.hears("a", sealed_report(&holder("a", 3, 2, 500, 2)));
    leader.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
    bench.ok(leader.plan(&bench).proposal.unwrap());
    bench.ok(promotion(&bench, 500));
    // Nobody is left that could confirm its barrier: it goes on, and the operation must not. Or it
    // is gone itself.
    for holder_is_there in [true, false] {
        let (mut bench, mut leader) = (bench.clone(), leader.clone());
        for _ in 0..130 {
            leader.pass_ms(500);
            if holder_is_there {
                leader.renewed(3);
                leader.hears("b", primary("b", 3, "", None));
            }
            if let Some(change @ Change::FinishOperation { .. }) = leader.plan(&bench).proposal {
                bench.ok(change);
                break;
            }
        }
        assert!(bench.state().operation.is_none(), "the holder is there: {holder_is_there}");
        let finished = bench.state().finished.back().unwrap();
        assert!(matches!(finished.outcome, Outcome::Failed { .. }));
    }
}
