//! Members and clusters that come and go: what is refused, and why nothing that was acknowledged is
//! lost by a removal.

use super::clusters::ClustersChange;
use super::command::{Change, Reply};
use super::desired::{Desired, desired};
use super::fixture_test::{
    Bench, Leader, SYSTEM, activation, any, at_ms, cluster, grant, guard, holder, m, names,
    numbered, plain, primary, promotion, register, rules, sealed, spec, standby,
};
use super::lease::{HolderLease, Timing};
use super::membership::{MembershipChange, REMOVED_MAX};
use super::observation::Data;
use super::plan::{NotDown, REMOVAL_DEADLINE, member_removal_check, members_not_down};
use super::plan_test::{all_well, settled};
use super::reconcile::{Action, EndReason, Local, Process, reconcile};
use super::record::MemberRecord;
use super::state::{CloseReason, SynchronousMode};
use super::types::Epoch;

const QUORUM: SynchronousMode = SynchronousMode::Quorum;

fn by() -> String {
    "test".to_owned()
}

fn begin(member: &str) -> Change {
    let (expect_epoch, member) = (Epoch(2), m(member));
    Change::Membership(MembershipChange::BeginRemoval { expect_epoch, member, by: by() })
}

fn finish(member: &str) -> Change {
    let (expect_epoch, member) = (Epoch(2), m(member));
    Change::Membership(MembershipChange::FinishRemoval { expect_epoch, member })
}

fn permit(member: &str) -> Change {
    Change::Membership(MembershipChange::Permit { member: m(member), by: by() })
}

fn change_sync(bench: &Bench, w: u32, list: &str) -> Change {
    Change::BeginSyncChange {
        expect_epoch: Epoch(2),
        expect_syncs: bench.state().syncs.clone(),
        to: numbered(bench, any(2, w, list)),
    }
}

fn finish_sync(bench: &Bench) -> Change {
    let expect_syncs = bench.state().syncs.clone();
    Change::FinishSyncChange { expect_epoch: Epoch(2), expect_syncs }
}

/// Out of `c` of three, where `b` is left to confirm.
fn without_c() -> Bench {
    let mut bench = Bench::active("a b c", 1);
    bench.ok(begin("c"));
    bench.ok(change_sync(&bench, 1, "b"));
    bench.ok(finish_sync(&bench));
    bench.ok(finish("c"));
    bench
}

#[test]
fn who_may_not_be_removed() {
    let rule = |bench: &mut Bench, change| bench.refused(change).rule();
    let mut three = Bench::active("a b c", 1);
    assert_eq!(rule(&mut three, begin("x")), "member.exists");
    assert_eq!(rule(&mut three, begin("a")), "member.remove-standby");
    assert_eq!(rule(&mut three, finish("c")), "member.leaving");
    three.ok(begin("c"));
    assert_eq!(rule(&mut three, begin("c")), "member.leaving");
    assert_eq!(rule(&mut three, finish("c")), "member.counts");
    // The floor is 1: with both gone nobody would be left to confirm.
    assert_eq!(rule(&mut three, begin("b")), "member.write-quorum");

    let mut one = Bench::active("a", 0);
    assert_eq!(rule(&mut one, begin("a")), "member.last");
    let mut early = Bench::initial("a b c", QUORUM, 1);
    assert_eq!(rule(&mut early, begin("c")), "member.remove-while-active");

    let mut busy = Bench::active("a b c", 1);
    let (expect_epoch, target) = (Epoch(2), m("b"));
    busy.ok(Change::StartSwitchover { expect_epoch, target, by: by() });
    assert_eq!(rule(&mut busy, begin("c")), "operation.one-at-a-time");

    let mut stale = Bench::active("a b c", 1);
    let change =
        MembershipChange::BeginRemoval { expect_epoch: Epoch(1), member: m("c"), by: by() };
    assert_eq!(rule(&mut stale, Change::Membership(change)), "epoch.current");
    stale.close(CloseReason::LeaseLost, false);
    assert_eq!(rule(&mut stale, begin("c")), "member.remove-while-active");
}

#[test]
fn who_is_tagged_takes_nobodys_place() {
    // With c tagged only b confirms, and c can go: it confirmed nothing.
    let mut bench = Bench::active("a b c", 1);
    bench.ok(change_sync(&bench, 1, "b"));
    bench.ok(finish_sync(&bench));
    bench.ok(super::fixture_test::tagged("c"));
    assert_eq!(bench.refused(begin("b")).rule(), "member.write-quorum");
    bench.ok(begin("c"));
    bench.ok(finish("c"));
}

/// What c alone had confirmed is asked for by every takeover until a barrier has shown it on b.
#[test]
fn a_removal_loses_no_acknowledged_commit() {
    let lost_holder = |bench: &Bench, name: &str| {
        let mut after = bench.clone();
        after.close(CloseReason::LeaseLost, false);
        let change = grant(&after, name, vec![sealed(name, 3, 2, 300)], any(3, 0, ""));
        match after.run(change) {
            Reply::Applied { .. } => None,
            Reply::Rejected(rejection) => Some(rejection.rule()),
            Reply::Nothing => panic!("nothing"),
        }
    };
    let mut bench = Bench::active("a b c", 1);
    bench.ok(begin("c"));
    assert_eq!(lost_holder(&bench, "b"), Some("takeover.read-quorum"), "c may have more");
    bench.ok(change_sync(&bench, 1, "b"));
    assert_eq!(lost_holder(&bench, "b"), Some("takeover.read-quorum"), "c may have more still");
    assert_eq!(bench.refused(finish("c")).rule(), "member.counts");
    bench.ok(finish_sync(&bench));
    assert_eq!(lost_holder(&bench, "b"), None, "the barrier has shown that b has all of it");
    bench.ok(finish("c"));
    assert_eq!(lost_holder(&bench, "b"), None);
    assert_eq!(lost_holder(&bench, "c"), Some("member.exists"));
}

#[test]
fn a_removed_name_comes_back_by_the_operators_word_only() {
    let mut bench = without_c();
    assert_eq!(desired(bench.state(), &m("c")), Desired::Removed);
    let again = register("c", "node-c", Some(SYSTEM));
    assert_eq!(bench.refused(again.clone()).rule(), "member.removed");
    assert_eq!(bench.refused(register("c", "node-d", None)).rule(), "member.removed");
    assert_eq!(bench.refused(permit("d")).rule(), "member.nothing-to-permit");
    assert_eq!(bench.refused(permit("b")).rule(), "member.new");
    bench.ok(permit("c"));
    assert_eq!(desired(bench.state(), &m("c")), Desired::Register);
    bench.ok(again);
    assert!(matches!(desired(bench.state(), &m("c")), Desired::Follow(duty) if !duty.counted));
}

#[test]
fn one_that_leaves_can_stay() {
    let mut bench = Bench::active("a b c", 1);
    bench.ok(begin("c"));
    bench.ok(permit("c"));
    assert!(bench.state().leaving.is_empty());
    // It is needed: it has become primary.
    bench.ok(begin("c"));
    bench.close(CloseReason::Crashed, true);
    let evidence = vec![sealed("b", 3, 2, 300), sealed("c", 3, 2, 400)];
    bench.ok(grant(&bench, "c", evidence, any(3, 1, "b")));
    assert!(bench.state().leaving.is_empty());
}

#[test]
fn the_planner_takes_it_out_of_the_quorum_first() {
    let (mut bench, mut leader) = settled("a b c", 1);
    leader.pass_ms(5_000);
    all_well(&bench, &mut leader, "a b c");
    bench.ok(begin("c"));
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(&change, Change::BeginSyncChange { to, .. } if to.members == names("b")));
    bench.ok(change);
    let waiting = leader.plan(&bench);
    assert_eq!(waiting.proposal, None);
    assert!(rules(&waiting).contains(&"member.leaving"), "{waiting:?}");
    let syncs = bench.state().syncs.clone();
    leader.hears("a", primary("a", 2, "b c", Some(&syncs)));
    bench.ok(leader.plan(&bench).proposal.unwrap());
    assert_eq!(plain(&bench.state().syncs), [any(2, 1, "b")]);
    let change = leader.plan(&bench).proposal.unwrap();
    assert_eq!(change, finish("c"));
    bench.ok(change);
    leader.hears("a", primary("a", 2, "b", Some(&bench.state().syncs.clone())));
    assert_eq!(leader.plan(&bench).proposal, None);
}

#[test]
fn a_removal_that_cannot_succeed_is_given_up() {
    let (mut bench, mut leader) = settled("a b c", 1);
    // b does not stream: c is the only one that confirms.
    leader.hears("a", primary("a", 2, "c", None));
    let refused = member_removal_check(bench.state(), &leader.observed, &m("c"), leader.now);
    assert_eq!(refused.unwrap_err().rule(), "member.others-stream");
    assert_eq!(member_removal_check(bench.state(), &leader.observed, &m("b"), leader.now), Ok(()));
    bench.ok(begin("c"));
    leader.observed.note_state(bench.state(), leader.now);
    leader.pass_ms(REMOVAL_DEADLINE.as_millis() as u64);
    leader.renewed(2);
    let syncs = bench.state().syncs.clone();
    leader.hears("a", primary("a", 2, "c", Some(&syncs)));
    leader.hears("c", standby("c", 2, 500));
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(
        matches!(&change, Change::Membership(MembershipChange::AbandonRemoval { .. })),
        "{change:?}"
    );
    bench.ok(change);
    assert!(bench.state().leaving.is_empty());
}

#[test]
fn removed_names_are_bounded() {
    let mut bench = without_c();
    for i in 0..REMOVED_MAX {
        let name = format!("m{i}");
        bench.wall.0 += 1;
        bench.ok(register(&name, "node-m", None));
        bench.ok(begin(&name));
        bench.ok(finish(&name));
    }
    assert_eq!(bench.state().removed.len(), REMOVED_MAX);
    assert!(!bench.state().removed.contains_key(&m("c")), "the oldest is forgotten");
}

fn remove_cluster(epoch: u64, forced: bool) -> Change {
    Change::Clusters(ClustersChange::Remove { expect_epoch: Epoch(epoch), forced, by: by() })
}

#[test]
fn a_removed_cluster_does_not_come_back_by_itself() {
    let mut bench = Bench::active("a b c", 1);
    let create = || ClustersChange::Create { spec: spec("a b", QUORUM, 1), by: by() };
    assert_eq!(bench.refused(Change::Clusters(create())).rule(), "cluster.new");
    assert_eq!(bench.refused(remove_cluster(1, false)).rule(), "epoch.current");
    // Without force nobody is forgotten who was granted the role and may still have it.
    assert_eq!(bench.refused(remove_cluster(2, false)).rule(), "cluster.not-stopped");
    let mut ended = Bench::active("a b c", 1);
    ended.close(CloseReason::Crashed, false);
    assert_eq!(ended.refused(remove_cluster(2, false)).rule(), "cluster.not-stopped");
    let mut ended = Bench::active("a b c", 1);
    ended.close(CloseReason::Crashed, true);
    ended.ok(remove_cluster(2, false));
    bench.ok(remove_cluster(2, true));
    assert_eq!(bench.refused(remove_cluster(2, true)).rule(), "cluster.exists");
    let removed = bench.control.removed_clusters.back().unwrap().clone();
    assert_eq!((removed.epoch, removed.members, removed.system_id), (Epoch(2), 3, Some(SYSTEM)));
    assert!(removed.forced && !removed.lifted && bench.control.is_removed(&cluster()));

    let come = Change::CreateCluster { spec: spec("a b c", QUORUM, 1) };
    assert_eq!(bench.refused(come).rule(), "cluster.removed");
    bench.ok(Change::Clusters(create()));
    assert!(!bench.control.is_removed(&cluster()));
    // Data of before is not bootstrapped beside.
    assert_eq!(
        bench.refused(register("a", "node-a", Some(SYSTEM))).rule(),
        "data.no-bootstrap-beside"
    );
    bench.ok(register("a", "node-a", None));
    bench.ok(remove_cluster(0, false));
    assert_eq!(bench.control.removed_clusters.len(), 2);
    assert!(bench.control.is_removed(&cluster()));
}

#[test]
fn only_a_fresh_report_says_that_a_member_is_down() {
    let (bench, mut leader) = settled("a b c", 1);
    let not_down = |leader: &Leader| members_not_down(bench.state(), &leader.observed, leader.now);
    let found = |running: &str, silent: &str| NotDown {
        running: names(running).into_iter().collect(),
        silent: names(silent).into_iter().collect(),
    };
    assert_eq!(not_down(&leader), found("a b c", ""));
    leader.hears("b", super::plan_test::ended("b", 1, false));
    assert_eq!(not_down(&leader), found("a c", ""));
    let rule = |found: NotDown| found.check().unwrap_err().rule();
    assert_eq!(rule(not_down(&leader)), "cluster.members-run");
    leader.pass_ms(2_001);
    // A leader that has just begun knows as little: silence is no proof.
    assert_eq!(not_down(&leader), found("", "a b c"));
    assert_eq!(rule(not_down(&leader)), "cluster.members-silent");
    for name in ["a", "b", "c"] {
        leader.hears(name, super::plan_test::ended(name, 1, false));
    }
    assert_eq!(not_down(&leader).check(), Ok(()));
}

#[test]
fn whoever_was_removed_stops_in_order_and_stays_down() {
    let record = MemberRecord::new(cluster(), m("a"));
    let now = at_ms(10_000);
    let timing = Timing::default();
    let lease = |sent_ms| HolderLease::from_renewal(Epoch(2), at_ms(sent_ms), &timing);
    let local = |process: Process| Local {
        record: record.clone(),
        data: Data::Present { system_id: SYSTEM },
        guard: Some(guard(b'a')),
        process,
        lease: Some(lease(9_900)),
        hung: false,
        rewind_failed: false,
        source_lacks_wal: false,
        unstartable: false,
        consistent: true,
        upstream_lost: false,
        no_part_until: super::fixture_test::at_ms(0),
    };
    let action = |local: &Local| reconcile(&m("a"), &Desired::Removed, local, now);
    let leads =
        Process::Primary { epoch: Epoch(2), promoted: true, confirmed: None, writes_open: true };
    let follows = Process::Following { epoch: Epoch(2), address: "b.example:5432".to_owned() };
    for runs in [leads.clone(), follows, Process::Sealed { promise: Epoch(3), position: None }] {
        assert_eq!(action(&local(runs)), Action::Retire);
    }
    assert!(matches!(action(&local(Process::Down)), Action::Nothing { .. }));
    assert_eq!(action(&local(Process::Ending)), Action::ProveEnd);
    // No longer than the lease allows.
    let late = Local { lease: Some(lease(5_000)), ..local(leads) };
    let (epoch, why) = (Epoch(2), EndReason::LeaseExpired);
    assert_eq!(action(&late), Action::EndEpoch { epoch, why });
}

#[test]
fn a_member_that_came_back_is_judged_like_any_return() {
    let mut bench = without_c();
    bench.ok(permit("c"));
    bench.ok(register("c", "node-c", Some(SYSTEM)));
    bench.close(CloseReason::Crashed, true);
    // It is in no configuration: it is neither needed nor enough.
    let alone = vec![sealed("c", 3, 2, 400)];
    let refused = bench.refused(grant(&bench, "c", alone, any(3, 0, "")));
    assert_eq!(refused.rule(), "takeover.read-quorum");
    let evidence = vec![holder("a", 3, 2, 500, 2)];
    bench.ok(grant(&bench, "a", evidence, any(3, 1, "b")));
    bench.ok(promotion(&bench, 500));
    bench.ok(activation(&bench));
}
