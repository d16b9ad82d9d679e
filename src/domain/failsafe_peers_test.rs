//! Peers of a primary with failsafe: who bears witness at a grant, who may leave, and what is left
//! where all of them are lost.

use super::apply::check_spec;
use super::command::{Basis, Change, Command, Grant};
use super::failsafe::Witnesses;
use super::fixture_test::{
    Bench, Leader, QUIET_MS, SYSTEM, TERM, WALL, activation, any, cluster, grant, guard, holder, m,
    names, numbered, promotion, register, report, rules, sealed, sealed_report, spec, standby,
};
use super::generation::Generation;
use super::lineage::Lineage;
use super::membership::MembershipChange;
use super::observation::{Condition, Report, Sealed};
use super::rescue::{Recovery, Source, recover};
use super::state::{CloseReason, ClusterSpec, SynchronousMode};
use super::types::{Epoch, Lsn};

const E: Epoch = Epoch(2);

/// `a` is active in epoch 2 of `ANY 1 (b)` with failsafe; `b` and `c` are its peers, and `c` may not
/// lead. `d` joined since, and is all of the configuration in force.
fn bench() -> Bench {
    let mut bench = Bench::empty();
    let plain = spec("a b c", SynchronousMode::Quorum, 1);
    bench.ok(Change::CreateCluster { spec: ClusterSpec { failsafe: true, ..plain } });
    for name in ["a", "b", "c"] {
        bench.ok(register(name, &format!("node-{name}"), None));
    }
    bench.ok(Change::BeginBootstrap { member: m("a") });
    bench.ok(Change::FinishBootstrap { member: m("a"), system_id: SYSTEM, epoch: Epoch(1) });
    bench.ok(grant(&bench, "a", vec![holder("a", 2, 1, 100, 1)], any(2, 1, "b")));
    bench.ok(promotion(&bench, 200));
    bench.ok(activation(&bench));
    bench.ok(super::fixture_test::tagged("c"));
    bench.ok(register("d", "node-d", None));
    to(&mut bench, "d");
    assert_eq!(bench.state().tenure.as_ref().unwrap().peers, names("b c"));
    bench
}

/// The configuration in force is `ANY 1 (list)` from here on.
fn to(bench: &mut Bench, list: &str) {
    let to = numbered(bench, any(bench.state().epoch.0, 1, list));
    let (expect_epoch, expect_syncs) = (bench.state().epoch, bench.state().syncs.clone());
    bench.ok(Change::BeginSyncChange { expect_epoch, expect_syncs, to });
    let expect_syncs = bench.state().syncs.clone();
    bench.ok(Change::FinishSyncChange { expect_epoch, expect_syncs });
}

/// Sealed for epoch 3, with all of epoch 2.
fn of_two(name: &str) -> Sealed {
    let lineage = Lineage::root(Epoch(1)).with(E, Lsn(200));
    Sealed { lineage, ..sealed(name, 3, 2, 500) }
}

fn witnessed(bench: &Bench, witnesses: &[(&str, u64)]) -> Change {
    let mut change = grant(bench, "d", vec![of_two("d")], any(3, 1, "b"));
    let said = witnesses.iter().map(|(name, promised)| (m(name), Epoch(*promised)));
    if let Change::Grant(grant) = &mut change {
        grant.witnesses = said.collect();
    }
    change
}

#[test]
fn a_peer_that_may_not_lead_bears_witness() {
    let mut bench = bench();
    bench.close(CloseReason::LeaseLost, false);
    let rule = |bench: &mut Bench, said: &[(&str, u64)]| {
        let change = witnessed(bench, said);
        bench.refused(change).rule()
    };
    assert_eq!(rule(&mut bench, &[]), "failsafe.peer-sealed");
    assert_eq!(rule(&mut bench, &[("c", 2)]), "failsafe.peer-sealed", "it may promise again");
    assert_eq!(rule(&mut bench, &[("d", 3)]), "failsafe.peer-sealed", "it was never asked");
    assert_eq!(rule(&mut bench, &[("x", 3)]), "failsafe.peer-sealed", "nobody knows it");
    let mut more = bench.clone();
    more.ok(witnessed(&more, &[("c", 3)]));
    // The holder, whatever its data is: its PostgreSQL of that epoch has ended.
    bench.ok(witnessed(&bench, &[("a", 3)]));
}

#[test]
fn a_witness_decides_nothing_about_data() {
    let mut bench = bench();
    to(&mut bench, "b d");
    bench.close(CloseReason::LeaseLost, false);
    // Both of them are needed, and b is only a witness.
    let refused = bench.refused(witnessed(&bench, &[("b", 3), ("c", 3)]));
    assert_eq!(refused.rule(), "takeover.read-quorum");
}

#[test]
fn a_grant_of_before_there_were_witnesses_is_read() {
    let bench = bench();
    let Change::Grant(grant) = witnessed(&bench, &[("c", 3)]) else { unreachable!() };
    let mut json = serde_json::to_value(&grant).unwrap();
    json.as_object_mut().unwrap().remove("witnesses").unwrap();
    let old: Grant = serde_json::from_value(json).unwrap();
    assert_eq!(old, Grant { witnesses: Witnesses::new(), ..grant });
}

#[test]
fn the_leader_names_witnesses_where_they_are_needed() {
    let mut bench = bench();
    let mut leader = Leader::new();
    leader.plan(&bench);
    leader.pass_ms(2_500);
    leader.hears("d", standby("d", 2, 500));
    assert_eq!(leader.plan(&bench).proposal, None, "nobody could follow");
    leader.hears("c", standby("c", 2, 500));
    let plan = leader.plan(&bench);
    assert!(matches!(plan.proposal, Some(Change::Close { .. })), "{plan:?}");
    // One that would have to replay for hours first is waited for by nobody.
    let mut late = bench.clone();
    let mut delayed = super::fixture_test::tagged("c");
    if let Change::RegisterMember { tags, .. } = &mut delayed {
        tags.delay_ms = 1_000;
    }
    late.ok(delayed);
    assert_eq!(leader.plan(&late).proposal, None);

    bench.close(CloseReason::LeaseLost, false);
    leader.plan(&bench);
    leader.pass_ms(10_000);
    leader.hears("d", sealed_report(&of_two("d")));
    // It has promised a primary to stand back: it does not say where its log ends.
    leader.hears("c", Report { promised: Epoch(3), ..standby("c", 2, 500) });
    let plan = leader.plan(&bench);
    assert!(rules(&plan).contains(&"failsafe.peer-sealed"), "{plan:?}");
    assert_eq!(plan.proposal, None);
    // A copy that is not proven will do.
    let mut copy = sealed_report(&of_two("c"));
    if let Condition::Standby(view) = &mut copy.condition {
        view.counts = false;
    }
    leader.hears("c", copy);
    let plan = leader.plan(&bench);
    let Some(Change::Grant(granted)) = &plan.proposal else { panic!("{plan:?}") };
    assert_eq!(granted.basis, Basis::Expired { term: TERM });
    assert_eq!(granted.evidence.len(), 1);
    assert_eq!(granted.witnesses, [(m("c"), Epoch(3))].into());
    bench.ok(plan.proposal.unwrap());
}

#[test]
fn a_witness_of_another_life_of_its_guard_is_none() {
    let mut bench = bench();
    bench.close(CloseReason::LeaseLost, false);
    let mut leader = Leader::new();
    leader.plan(&bench);
    leader.pass_ms(10_000);
    leader.hears("d", sealed_report(&of_two("d")));
    leader.hears("c", Report { guard: Some(guard(b'Z')), ..sealed_report(&of_two("c")) });
    assert_eq!(leader.plan(&bench).proposal, None);
}

#[test]
fn what_max_lag_bytes_is_measured_from_is_what_peers_were_told() {
    let mut bench = Bench::empty();
    let plain = spec("a b c", SynchronousMode::Async, 0);
    let max_lag_bytes = Some(1000);
    bench.ok(Change::CreateCluster {
        spec: ClusterSpec { failsafe: true, max_lag_bytes, write_quorum_min: 0, ..plain },
    });
    for name in ["a", "b", "c"] {
        bench.ok(register(name, &format!("node-{name}"), None));
    }
    bench.ok(Change::BeginBootstrap { member: m("a") });
    bench.ok(Change::FinishBootstrap { member: m("a"), system_id: SYSTEM, epoch: Epoch(1) });
    bench.ok(grant(&bench, "a", vec![holder("a", 2, 1, 100, 1)], any(2, 0, "")));
    bench.ok(promotion(&bench, 200));
    bench.ok(activation(&bench));
    bench.ok(Change::NotePosition { expect_epoch: E, lsn: Lsn(600) });
    bench.close(CloseReason::LeaseLost, false);
    let plan = |told: Option<u64>| {
        let mut leader = Leader::new();
        leader.plan(&bench);
        leader.pass_ms(20_000);
        leader.plan(&bench);
        for name in ["b", "c"] {
            let mut sealed = sealed_report(&of_two(name));
            if let Condition::Standby(view) = &mut sealed.condition {
                view.primary_end = told.map(|lsn| (E, Lsn(lsn)));
            }
            leader.hears(name, sealed);
        }
        leader.plan(&bench)
    };
    assert!(matches!(plan(None).proposal, Some(Change::Grant(_))), "{:?}", plan(None));
    // It went on without controllers, and without streaming to anybody.
    let far = plan(Some(90_000));
    assert_eq!(far.proposal, None);
    assert_eq!(rules(&far).last(), Some(&"takeover.max-lag"));
}

// ---- who may leave ----

fn begin_removal(member: &str, epoch: u64) -> Change {
    let (expect_epoch, by) = (Epoch(epoch), "ops".to_owned());
    Change::Membership(MembershipChange::BeginRemoval { expect_epoch, member: m(member), by })
}

fn finish_removal(member: &str, epoch: u64) -> Change {
    let expect_epoch = Epoch(epoch);
    Change::Membership(MembershipChange::FinishRemoval { expect_epoch, member: m(member) })
}

#[test]
fn the_last_peer_stays_until_another_epoch_begins() {
    let mut bench = bench();
    bench.ok(begin_removal("c", 2));
    // Not after one that leaves already, either.
    let refused = bench.refused(begin_removal("b", 2));
    assert_eq!(refused.rule(), "failsafe.last-peer");
    assert!(refused.to_string().contains("b is the last peer of a"), "{refused}");
    // The leader knows better whether the others answer.
    let mut leader = Leader::new();
    leader.plan(&bench);
    let check = |leader: &Leader| {
        super::plan::member_removal_check(bench.state(), &leader.observed, &m("b"), leader.now)
    };
    assert_eq!(check(&leader).map_err(|e| e.rule()), Err("failsafe.last-peer"));
    leader.hears("c", standby("c", 2, 500));
    leader.hears("d", standby("d", 2, 500));
    assert_ne!(check(&leader).map_err(|e| e.rule()), Err("failsafe.last-peer"));
    bench.ok(finish_removal("c", 2));
    assert_eq!(bench.refused(begin_removal("b", 2)).rule(), "failsafe.last-peer");
    // The way out: d takes over, and a is its peer.
    bench.close(CloseReason::LeaseLost, false);
    bench.ok(Change::RecordStop { expect_epoch: E });
    bench.ok(grant(&bench, "d", vec![of_two("d")], any(3, 1, "a")));
    bench.ok(promotion(&bench, 600));
    bench.ok(activation(&bench));
    bench.ok(begin_removal("b", 3));
    bench.ok(finish_removal("b", 3));
    assert_eq!(bench.state().tenure.as_ref().unwrap().peers, names("a"));
}

#[test]
fn of_two_members_one_leaves_once_failsafe_is_off() {
    let mut bench = Bench::active("a b", 1);
    let on = |bench: &mut Bench, failsafe: bool| {
        let spec = ClusterSpec { failsafe, ..bench.state().spec.clone() };
        let expect_revision = bench.state().spec_revision;
        check_spec(bench.state(), expect_revision, &spec).unwrap();
        bench.ok(Change::UpdateSpec { expect_revision, spec, by: "ops".to_owned() });
    };
    let again = |bench: &mut Bench| {
        let epoch = bench.state().epoch.0;
        bench.close(CloseReason::GivenUp, true);
        let mut a = holder("a", epoch + 1, epoch, 1000 * epoch, epoch);
        a.lineage = bench.state().lineage.clone();
        bench.ok(grant(bench, "a", vec![a], any(epoch + 1, 0, "")));
        bench.ok(promotion(bench, 1000 * (epoch + 1)));
        bench.ok(activation(bench));
    };
    let mut spec = bench.state().spec.clone();
    spec.write_quorum_min = 0;
    bench.ok(Change::UpdateSpec {
        expect_revision: bench.state().spec_revision,
        spec,
        by: "ops".to_owned(),
    });
    // It is to leave, and an epoch with failsafe begins before it has left.
    bench.ok(begin_removal("b", 2));
    on(&mut bench, true);
    again(&mut bench);
    assert_eq!(bench.refused(finish_removal("b", 3)).rule(), "failsafe.last-peer");
    let plan = {
        let mut leader = Leader::new();
        leader.hears("a", super::fixture_test::primary("a", 3, "", Some(&bench.state().syncs)));
        leader.hears("b", standby("b", 3, 500));
        leader.plan(&bench)
    };
    let Some(Change::Membership(MembershipChange::AbandonRemoval { why, .. })) = &plan.proposal
    else {
        panic!("{plan:?}")
    };
    assert!(why.contains("last peer"), "{why}");
    bench.ok(plan.proposal.unwrap());
    on(&mut bench, false);
    assert_eq!(bench.refused(begin_removal("b", 3)).rule(), "failsafe.last-peer", "not yet");
    again(&mut bench);
    bench.ok(begin_removal("b", 4));
    bench.ok(finish_removal("b", 4));
}

// ---- a control plane that was recovered by hand ----

fn raise(bench: &Bench, list: &[&str]) -> Change {
    let known = list.iter().map(|n| (m(n), E)).collect();
    Change::RaiseEpoch { expect_epoch: bench.state().epoch, known, accept_missing: None }
}

/// `a` and `b` are stated to be lost. `c`, the last who was asked, is heard, and lost for good after
/// the epoch was raised: `d` has everything.
#[test]
fn a_peer_that_is_lost_after_the_epoch_was_raised_can_be_accepted() {
    let mut bench = bench();
    let recovery = Recovery {
        generation: Generation(2),
        source: Source::Snapshot,
        node: "node-x".to_owned(),
        by: "me".to_owned(),
        at: WALL,
        lost: vec!["node-a".to_owned(), "node-b".to_owned()],
        retired: Vec::new(),
        proven: false,
        members_complete: true,
    };
    recover(&mut bench.control, &recovery);
    bench.ok(raise(&bench, &["c", "d"]));
    let first = bench.state().epoch;
    let mut leader = Leader::new();
    leader.plan(&bench);
    leader.pass_ms(QUIET_MS);
    let hears_d = |leader: &mut Leader, bench: &Bench| {
        let promised = bench.state().epoch.next();
        let d = Sealed { promised, ..of_two("d") };
        leader.hears("d", Report { promised, ..sealed_report(&d) });
    };
    hears_d(&mut leader, &bench);
    assert_eq!(leader.plan(&bench).proposal, None, "the operator has not said anything");
    bench.ok(Change::StartFailover {
        expect_epoch: first,
        target: None,
        accept_data_loss: true,
        by: "me".to_owned(),
    });
    // While c is heard it only has to be sealed.
    let mut other = leader.clone();
    other.plan(&bench);
    other.pass_ms(6_000);
    hears_d(&mut other, &bench);
    let down = Report { promised: first, ..report("c", Condition::Down) };
    other.hears("c", down);
    assert!(!matches!(other.plan(&bench).proposal, Some(Change::RaiseEpoch { .. })));

    // An agent that is started anew is not lost.
    let mut soon = leader.clone();
    soon.hears("c", report("c", Condition::Down));
    soon.plan(&bench);
    soon.pass_ms(6_000);
    hears_d(&mut soon, &bench);
    assert!(!matches!(soon.plan(&bench).proposal, Some(Change::RaiseEpoch { .. })));

    leader.plan(&bench);
    leader.pass_ms(6_000);
    hears_d(&mut leader, &bench);
    let raised = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(raised, Change::RaiseEpoch { .. }), "{raised:?}");
    bench.ok(raised);
    assert!(bench.state().epoch > first.next());
    assert_eq!(bench.state().verify.as_ref().unwrap().lost, names("a b c"));
    // Once is enough.
    leader.plan(&bench);
    leader.pass_ms(6_000);
    hears_d(&mut leader, &bench);
    let plan = leader.plan(&bench);
    let Some(Change::Grant(granted)) = &plan.proposal else { panic!("{plan:?}") };
    assert_eq!(granted.member, m("d"));
    let change = plan.proposal.unwrap();
    let command = Command { cluster: cluster(), at: WALL, change: change.clone() };
    assert!(serde_json::to_string(&command).is_ok());
    bench.ok(change);
}
