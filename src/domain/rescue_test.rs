//! A recovered control plane whose state may not be the newest.

use std::collections::BTreeMap;

use super::command::{Change, Rejection};
use super::event::EventKind;
use super::fixture_test::{
    Bench, Leader, QUIET_MS, WALL, activation, any, cluster, grant, holder, m, promotion, report,
    rules, sealed, sealed_report, standby,
};
use super::generation::Generation;
use super::lineage::Lineage;
use super::observation::{Condition, Data, Report};
use super::plan_test::grantee;
use super::rescue::{Recovery, Source, UNSEEN_EPOCHS, recover};
use super::state::{CloseReason, SynchronousMode};
use super::types::{Epoch, Lsn};

fn recovery(lost: &[&str], proven: bool) -> Recovery {
    Recovery {
        generation: Generation(2),
        source: Source::Survivor,
        node: "node-a".to_owned(),
        by: "me".to_owned(),
        at: WALL,
        lost: lost.iter().map(|n| (*n).to_owned()).collect(),
        retired: Vec::new(),
        proven,
        members_complete: true,
    }
}

/// Active in epoch 2 of `ANY 1 (b c)`, then recovered.
fn recovered(lost: &[&str]) -> (Bench, Leader) {
    let mut bench = Bench::active("a b c", 1);
    recover(&mut bench.control, &recovery(lost, false));
    (bench, Leader::new())
}

fn knows(name: &str, promised: u64) -> Report {
    Report { promised: Epoch(promised), ..report(name, Condition::Down) }
}

fn known(list: &[(&str, u64)]) -> BTreeMap<super::types::MemberName, Epoch> {
    list.iter().map(|(name, epoch)| (m(name), Epoch(*epoch))).collect()
}

fn raise(bench: &Bench, list: &[(&str, u64)]) -> Change {
    let expect_epoch = bench.state().epoch;
    Change::RaiseEpoch { expect_epoch, known: known(list), accept_missing: None }
}

#[test]
fn a_proven_state_goes_on_as_it_is() {
    let mut bench = Bench::active("a b c", 1);
    let before = bench.state().clone();
    recover(&mut bench.control, &recovery(&["node-c"], true));
    let after = bench.state();
    assert_eq!(
        (&after.tenure, &after.syncs, &after.verify),
        (&before.tenure, &before.syncs, &None)
    );
    let event = &after.history.back().unwrap().kind;
    assert!(
        matches!(event, EventKind::ControlPlaneRecovered { proven: true, lost, .. } if lost.len() == 1)
    );
}

#[test]
fn a_state_in_doubt_closes_the_epoch_and_grants_nothing() {
    let (mut bench, _) = recovered(&[]);
    let closed = bench.state().tenure.clone().unwrap().closed.unwrap();
    assert_eq!(closed.reason, CloseReason::Recovered);
    let all = vec![holder("a", 3, 2, 500, 2), sealed("b", 3, 2, 500)];
    let refused = bench.refused(grant(&bench, "a", all, any(3, 1, "b c")));
    assert_eq!(refused.rule(), "recovery.all-sealed");
}

#[test]
fn an_epoch_is_raised_above_all_that_anybody_knows() {
    let (mut bench, mut leader) = recovered(&[]);
    leader.pass_ms(QUIET_MS);
    leader.hears("a", knows("a", 2)).hears("b", knows("b", 7));
    let plan = leader.plan(&bench);
    assert_eq!(plan.proposal, None);
    assert!(rules(&plan).contains(&"recovery.all-members"), "{plan:?}");
    let refused = bench.refused(raise(&bench, &[("a", 2), ("b", 7)]));
    assert_eq!(refused, Rejection::Unverified { missing: vec![m("c")] });

    leader.hears("c", knows("c", 5));
    bench.ok(leader.plan(&bench).proposal.unwrap());
    let raised = 8 + UNSEEN_EPOCHS;
    assert_eq!(bench.state().epoch, Epoch(raised), "7 may have been granted");
    assert!(bench.state().verify.as_ref().unwrap().raised);
    // Sealing for the next epoch raises nothing again.
    for name in ["a", "b", "c"] {
        leader.hears(
            name,
            Report {
                promised: Epoch(raised + 1),
                ..sealed_report(&sealed(name, raised + 1, 2, 100))
            },
        );
    }
    assert_eq!(grantee(leader.plan(&bench).proposal), "a");
}

#[test]
fn nobody_is_asked_before_the_rest_had_time_to_register() {
    let (bench, mut leader) = recovered(&[]);
    for name in ["a", "b", "c"] {
        leader.hears(name, knows(name, 2));
    }
    assert_eq!(leader.plan(&bench).proposal, None);
    leader.pass_ms(QUIET_MS);
    for name in ["a", "b", "c"] {
        leader.hears(name, knows(name, 2));
    }
    assert!(matches!(leader.plan(&bench).proposal, Some(Change::RaiseEpoch { .. })));
}

#[test]
fn whoever_has_most_is_granted_even_of_an_epoch_that_the_state_never_heard_of() {
    let (mut bench, _) = recovered(&[]);
    // Epoch 5 was granted to b and streamed to c, and this state does not know it.
    bench.ok(raise(&bench, &[("a", 3), ("b", 5), ("c", 5)]));
    assert_eq!(bench.state().epoch, Epoch(6 + UNSEEN_EPOCHS));
    let next = bench.state().epoch.next().0;
    let of_five = Lineage::root(Epoch(1)).with(Epoch(2), Lsn(200)).with(Epoch(5), Lsn(520));
    let a = holder("a", next, 2, 900, 2);
    let mut b = holder("b", next, 5, 600, 5);
    let mut c = sealed("c", next, 5, 650);
    (b.lineage, c.lineage) = (of_five.clone(), of_five.clone());
    let some = vec![a.clone(), b.clone()];
    let refused = bench.refused(grant(&bench, "b", some, any(next, 1, "a c")));
    assert_eq!(refused.rule(), "recovery.all-sealed", "c may have more");
    let all = vec![a, b, c];
    let refused = bench.refused(grant(&bench, "a", all.clone(), any(next, 1, "b c")));
    assert_eq!(refused.rule(), "takeover.best-candidate");
    bench.ok(grant(&bench, "c", all, any(next, 1, "a b")));
    assert!(bench.state().verify.is_some(), "until it is active all are needed again");
    let start = Change::RecordPromotion {
        expect_epoch: Epoch(next),
        guard: bench.state().tenure.as_ref().unwrap().guard.clone(),
        lineage: of_five.with(Epoch(next), Lsn(660)),
    };
    bench.ok(start);
    bench.ok(activation(&bench));
    assert_eq!(bench.state().verify, None);
}

#[test]
fn a_grantee_that_is_lost_before_it_is_active_is_needed_again() {
    let (mut bench, _) = recovered(&[]);
    bench.ok(raise(&bench, &[("a", 2), ("b", 2), ("c", 2)]));
    let next = bench.state().epoch.next().0;
    let all = |e| vec![holder("a", e, 2, 500, 2), sealed("b", e, 2, 400), sealed("c", e, 2, 400)];
    bench.ok(grant(&bench, "a", all(next), any(next, 1, "b c")));
    bench.ok(promotion(&bench, 600));
    bench.close(CloseReason::LeaseLost, false);
    let rest = vec![sealed("b", next + 1, 2, 400), sealed("c", next + 1, 2, 400)];
    let refused = bench.refused(grant(&bench, "b", rest, any(next + 1, 1, "a c")));
    assert_eq!(refused.rule(), "recovery.all-sealed");
}

#[test]
fn a_member_that_is_gone_is_the_operators_decision() {
    let (mut bench, mut leader) = recovered(&["node-b"]);
    leader.pass_ms(QUIET_MS);
    leader.hears("a", knows("a", 2)).hears("c", knows("c", 2));
    bench.ok(leader.plan(&bench).proposal.unwrap());
    // Whatever b alone was granted is not granted again.
    assert_eq!(bench.state().epoch, Epoch(3 + UNSEEN_EPOCHS));
    let next = bench.state().epoch.next().0;
    let both = |leader: &mut Leader| {
        for (name, lsn) in [("a", 400), ("c", 500)] {
            let sealed = sealed(name, next, 2, lsn);
            leader.hears(name, Report { promised: Epoch(next), ..sealed_report(&sealed) });
        }
    };
    both(&mut leader);
    let plan = leader.plan(&bench);
    assert_eq!(plan.proposal, None);
    assert!(rules(&plan).contains(&"recovery.all-sealed"), "{plan:?}");
    let expect_epoch = bench.state().epoch;
    bench.ok(Change::StartFailover {
        expect_epoch,
        target: None,
        accept_data_loss: true,
        by: "me".to_owned(),
    });
    leader.plan(&bench);
    leader.pass_ms(6_000);
    both(&mut leader);
    let change = leader.plan(&bench).proposal;
    assert_eq!(grantee(change.clone()), "c");
    bench.ok(change.unwrap());
    let event = &bench.state().history.back().unwrap().kind;
    assert!(matches!(event, EventKind::Granted { data_loss_accepted: true, .. }), "{event:?}");
}

#[test]
fn a_lost_member_that_returns_counts_and_may_win() {
    let (mut bench, _) = recovered(&["node-b"]);
    bench.ok(raise(&bench, &[("a", 2), ("c", 2)]));
    let next = bench.state().epoch.next().0;
    let five = Lineage::root(Epoch(1)).with(Epoch(2), Lsn(200)).with(Epoch(5), Lsn(520));
    let mut b = holder("b", next, 5, 900, 5);
    b.lineage = five;
    let all = vec![holder("a", next, 2, 500, 2), b, sealed("c", next, 2, 500)];
    bench.ok(grant(&bench, "b", all, any(next, 1, "a c")));
}

#[test]
fn a_member_that_knows_a_later_epoch_raises_it_again() {
    let (mut bench, mut leader) = recovered(&["node-b"]);
    bench.ok(raise(&bench, &[("a", 2), ("c", 2)]));
    let epoch = bench.state().epoch.0;
    leader.pass_ms(QUIET_MS);
    leader.hears("a", knows("a", epoch + 1)).hears("c", knows("c", epoch + 1));
    assert!(!matches!(leader.plan(&bench).proposal, Some(Change::RaiseEpoch { .. })));
    leader.hears("b", knows("b", epoch + 5));
    bench.ok(leader.plan(&bench).proposal.unwrap());
    assert_eq!(bench.state().epoch, Epoch(epoch + 6 + UNSEEN_EPOCHS));
}

#[test]
fn a_member_that_knows_more_ends_an_epoch_that_is_not_active_yet() {
    let (mut bench, mut leader) = recovered(&[]);
    bench.ok(raise(&bench, &[("a", 2), ("b", 2), ("c", 2)]));
    let next = bench.state().epoch.next().0;
    let rest = [sealed("b", next, 2, 400), sealed("c", next, 2, 400)];
    let all = [vec![holder("a", next, 2, 500, 2)], rest.to_vec()].concat();
    bench.ok(grant(&bench, "a", all, any(next, 1, "b c")));
    // It joined after the state was made, and comes between the grant and the promotion.
    let stranger = Change::RegisterMember {
        member: m("d"),
        node: super::types::NodeName::new("node-d").unwrap(),
        address: "d:5432".to_owned(),
        agent_address: None,
        priority: 0,
        tags: Default::default(),
        system_id: bench.state().system_id,
    };
    bench.ok(stranger);
    leader.pass_ms(QUIET_MS);
    for (name, epoch) in [("a", next), ("b", next), ("c", next), ("d", 900)] {
        leader.hears(name, knows(name, epoch));
    }
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(
        matches!(change, Change::Close { reason: CloseReason::Recovered, stopped: false, .. }),
        "{change:?}"
    );
    bench.ok(change);
    bench.ok(leader.plan(&bench).proposal.unwrap());
    assert_eq!(bench.state().epoch, Epoch(901 + UNSEEN_EPOCHS));
    assert!(bench.state().verify.is_some());
}

/// `a b c` are heard, and `d`, which joined later, has what was acknowledged.
#[test]
fn a_member_that_the_state_never_heard_of_is_the_operators_decision() {
    let mut bench = Bench::active("a b c", 1);
    let unconfirmed = Recovery { members_complete: false, ..recovery(&[], false) };
    recover(&mut bench.control, &unconfirmed);
    let mut leader = Leader::new();
    let all = [("a", 2), ("b", 2), ("c", 2)];
    let heard = |leader: &mut Leader| {
        for (name, epoch) in all {
            leader.hears(name, knows(name, epoch));
        }
    };
    leader.pass_ms(QUIET_MS);
    heard(&mut leader);
    let plan = leader.plan(&bench);
    assert_eq!(plan.proposal, None);
    assert!(rules(&plan).contains(&"recovery.members-complete"), "{plan:?}");
    assert_eq!(bench.refused(raise(&bench, &all)).rule(), "recovery.members-complete");
    let evidence = vec![holder("a", 3, 2, 500, 2), sealed("b", 3, 2, 400), sealed("c", 3, 2, 400)];
    let refused = bench.refused(grant(&bench, "a", evidence, any(3, 1, "b c")));
    assert_eq!(refused.rule(), "recovery.all-members", "nothing is granted before the raise");

    let expect_epoch = bench.state().epoch;
    bench.ok(Change::StartFailover {
        expect_epoch,
        target: None,
        accept_data_loss: true,
        by: "me".to_owned(),
    });
    leader.plan(&bench);
    leader.pass_ms(6_000);
    heard(&mut leader);
    bench.ok(leader.plan(&bench).proposal.unwrap());
    let next = bench.state().epoch.next().0;
    assert_eq!(next, 4 + UNSEEN_EPOCHS);
    let evidence = vec![holder("a", next, 2, 500, 2), sealed("b", next, 2, 400)];
    for sealed in evidence.into_iter().chain([sealed("c", next, 2, 400)]) {
        let name = sealed.member.to_string();
        leader.hears(&name, Report { promised: Epoch(next), ..sealed_report(&sealed) });
    }
    assert_eq!(grantee(leader.plan(&bench).proposal), "a");
}

#[test]
fn data_is_never_made_by_a_state_that_a_member_has_outlived() {
    let mut bench = Bench::registered("a b c", SynchronousMode::Quorum, 1);
    recover(&mut bench.control, &recovery(&[], false));
    let begin = Change::BeginBootstrap { member: m("a") };
    assert_eq!(bench.refused(begin.clone()).rule(), "recovery.all-members");
    let mut leader = Leader::new();
    leader.pass_ms(QUIET_MS);
    for name in ["a", "b"] {
        leader.hears(name, Report { data: Data::Empty, ..knows(name, 0) });
    }
    leader.hears("c", Report { data: Data::Empty, ..knows("c", 4) });
    let plan = leader.plan(&bench);
    assert_eq!(plan.proposal, None);
    assert!(rules(&plan).contains(&"recovery.state-too-old"));
    let refused = bench.refused(raise(&bench, &[("a", 0), ("b", 0), ("c", 4)]));
    assert_eq!(refused.rule(), "recovery.state-too-old");
    bench.ok(raise(&bench, &[("a", 0), ("b", 0), ("c", 1)]));
    assert_eq!(bench.state().verify, None);
    bench.ok(begin);
}

#[test]
fn a_state_without_doubt_is_never_raised() {
    let mut bench = Bench::active("a b", 1);
    bench.close(CloseReason::LeaseLost, false);
    bench.refused(raise(&bench, &[("a", 2), ("b", 9)]));
    assert_eq!(standby("b", 2, 100).knows(), Epoch(2));
    assert!(bench.control.cluster(&cluster()).is_some());
}
