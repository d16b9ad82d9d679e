//! Changes of a specification: the compare-and-set, what never changes, the roll-back, and how the
//! planner follows another way of waiting for standbys.

use super::command::{Change, Rejection};
use super::event::EventKind;
use super::fixture_test::{Bench, Leader, any, m, plain, report, rules};
use super::observation::Condition;
use super::plan_modes_test::Play;
use super::specification::{REVISIONS_MAX, RefusedSpec};
use super::state::{ClusterSpec, SynchronousMode};

fn bench() -> Bench {
    Bench::active("a b c", 1)
}

fn update(bench: &Bench, change: impl FnOnce(&mut ClusterSpec)) -> Change {
    let mut spec = bench.state().spec.clone();
    change(&mut spec);
    let expect_revision = bench.state().spec_revision;
    Change::UpdateSpec { expect_revision, spec, by: "test".to_owned() }
}

fn set(bench: &mut Bench, name: &str, value: &str) {
    let change = update(bench, |s| _ = s.parameters.insert(name.into(), value.into()));
    bench.ok(change);
}

#[test]
fn a_change_is_made_for_the_revision_in_force() {
    let mut bench = bench();
    assert_eq!(bench.state().spec_revision, 1);
    let stale = update(&bench, |s| s.write_quorum = 2);
    set(&mut bench, "work_mem", "8MB");
    assert_eq!(bench.state().spec_revision, 2);
    assert_eq!(bench.state().spec_history.len(), 2, "the first one is kept too");
    let refusal = bench.refused(stale);
    assert_eq!(refusal, Rejection::StaleRevision { expected: 1, actual: 2 });
    assert_eq!(refusal.rule(), "spec.current");
    let last = bench.state().history.back().unwrap();
    let EventKind::SpecChanged { revision: 2, by, changes, more: 0 } = &last.kind else {
        panic!("{last:?}")
    };
    assert_eq!((by.as_str(), changes[0].key.as_str()), ("test", "parameters.work_mem"));
    // The same again is no change.
    let same = update(&bench, |_| {});
    assert_eq!(bench.run(same), super::Reply::Nothing);
}

#[test]
fn what_leases_rest_on_never_changes() {
    let mut bench = bench();
    let ttl = update(&bench, |s| s.timing.ttl_ms += 1000);
    let members = update(&bench, |s| s.bootstrap_members.push(m("d")));
    for change in [ttl, members] {
        let refusal = bench.refused(change);
        assert_eq!(refusal.rule(), "spec.fixed", "{refusal}");
    }
    let floor = update(&bench, |s| s.write_quorum_min = 2);
    assert_eq!(bench.refused(floor).rule(), "spec.valid");
    let too_many = update(&bench, |s| s.write_quorum = 3);
    assert_eq!(bench.refused(too_many).rule(), "spec.valid");
}

#[test]
fn so_many_revisions_are_kept() {
    let mut bench = bench();
    for n in 0..30 {
        set(&mut bench, "work_mem", &format!("{}MB", n + 1));
    }
    let kept = &bench.state().spec_history;
    assert_eq!(kept.len(), REVISIONS_MAX);
    assert_eq!(kept.back().unwrap().revision, 31);
    assert_eq!(kept.back().unwrap().spec, bench.state().spec);
}

#[test]
fn a_refused_revision_is_rolled_back_in_what_postgresql_reads() {
    let mut bench = bench();
    set(&mut bench, "work_mem", "8MB");
    set(&mut bench, "shared_buffers", "4TB");
    let quorum = update(&bench, |s| s.write_quorum = 2);
    bench.ok(quorum);
    let mut leader = Leader::new();
    let mut refusing = report("a", Condition::Unknown);
    let refused = refused(4, 2);
    refusing.settings.refused = Some(refused.clone());
    for name in ["b", "c"] {
        leader.hears(name, report(name, Condition::Unknown));
    }
    leader.hears("a", refusing.clone());
    leader.renewed(2);
    let plan = leader.plan(&bench);
    assert!(rules(&plan).contains(&"spec.refused"), "{:?}", plan.findings);
    let Some(change @ Change::RollBackSpec { to: 2, .. }) = plan.proposal else {
        panic!("{:?}", plan.proposal)
    };
    bench.ok(change.clone());
    let state = bench.state();
    assert_eq!(state.spec_revision, 5);
    assert_eq!(state.spec.parameters.get("shared_buffers"), None);
    assert_eq!(state.spec.parameters.get("work_mem").unwrap(), "8MB");
    assert_eq!(state.spec.write_quorum, 2, "what the control plane follows stays");
    let kind = &state.history.back().unwrap().kind;
    assert!(matches!(kind, EventKind::SpecRolledBack { refused: 4, to: 2, revision: 5, .. }));
    // What is said of the older revision is settled, and a late proposal is refused.
    leader.hears("a", refusing.clone());
    let plan = leader.plan(&bench);
    assert!(!matches!(plan.proposal, Some(Change::RollBackSpec { .. })));
    assert_eq!(bench.refused(change.clone()).rule(), "spec.current");
    // A roll-back is never rolled back.
    refusing.settings.refused = Some(RefusedSpec { revision: 5, last_good: 3, ..refused.clone() });
    leader.hears("a", refusing.clone());
    let plan = leader.plan(&bench);
    assert!(rules(&plan).contains(&"spec.refused"));
    assert!(!matches!(plan.proposal, Some(Change::RollBackSpec { .. })));
    let Change::RollBackSpec { member, setting, why, .. } = change else { panic!() };
    let again = Change::RollBackSpec { expect_revision: 5, to: 3, member, setting, why };
    assert_eq!(bench.refused(again).rule(), "spec.valid");
    // One that is not kept is not gone back to.
    set(&mut bench, "work_mem", "9MB");
    refusing.settings.refused = Some(RefusedSpec { revision: 6, last_good: 0, ..refused });
    leader.hears("a", refusing);
    let plan = leader.plan(&bench);
    assert!(rules(&plan).contains(&"spec.refused"));
    assert!(!matches!(plan.proposal, Some(Change::RollBackSpec { .. })));
}

fn refused(revision: u64, last_good: u64) -> RefusedSpec {
    RefusedSpec {
        revision,
        last_good,
        setting: "shared_buffers".into(),
        why: "could not map anonymous shared memory".into(),
    }
}

#[test]
fn one_standby_does_not_take_the_cluster_back_and_two_of_three_do() {
    let mut bench = bench();
    for value in ["8MB", "9MB", "10MB"] {
        set(&mut bench, "work_mem", value);
    }
    let mut leader = Leader::new();
    let refusing = |name: &str, last_good| {
        let mut report = report(name, Condition::Down);
        report.settings.refused = Some(refused(4, last_good));
        report
    };
    for name in ["a", "b"] {
        leader.hears(name, report(name, Condition::Unknown));
    }
    leader.hears("c", refusing("c", 1));
    leader.renewed(2);
    let plan = leader.plan(&bench);
    assert!(rules(&plan).contains(&"spec.refused"), "{:?}", plan.findings);
    assert!(!matches!(plan.proposal, Some(Change::RollBackSpec { .. })), "{:?}", plan.proposal);
    leader.hears("b", refusing("b", 3));
    let plan = leader.plan(&bench);
    let to_newest = matches!(plan.proposal, Some(Change::RollBackSpec { to: 3, .. }));
    assert!(to_newest, "{:?}", plan.proposal);
}

// ---- how commits wait ----

const ALL: &[(&str, u64)] = &[("b", 0), ("c", 0)];

impl Play {
    /// Changes the specification, and follows it until nothing is changing any more. Both
    /// configurations are in force at least once on the way.
    fn change_to(&mut self, change: impl FnOnce(&mut ClusterSpec)) {
        let update = update(&self.bench, change);
        self.bench.ok(update);
        let mut joint = false;
        for _ in 0..20 {
            self.step(ALL);
            joint |= self.bench.state().syncs.len() == 2;
        }
        assert!(joint, "it changed without both in force");
        assert_eq!(self.bench.state().syncs.len(), 1);
    }
}

fn settled(change: impl FnOnce(&mut ClusterSpec)) -> Play {
    let mut play = Play::new("a b c", change);
    play.steps(10, ALL);
    play
}

#[test]
fn quorum_becomes_priority_and_back_by_joint_changes() {
    let mut play = settled(|_| {});
    assert_eq!(play.setting(), "ANY 1 (\"b\", \"c\")");
    play.change_to(|s| s.synchronous = SynchronousMode::Priority);
    assert_eq!(play.setting(), "FIRST 1 (\"b\", \"c\")");
    play.change_to(|s| s.synchronous = SynchronousMode::Quorum);
    assert_eq!(play.setting(), "ANY 1 (\"b\", \"c\")");
}

#[test]
fn the_write_quorum_grows_and_shrinks_by_joint_changes() {
    let mut play = settled(|_| {});
    play.change_to(|s| s.write_quorum = 2);
    assert_eq!(play.setting(), "ANY 2 (\"b\", \"c\")");
    play.change_to(|s| s.write_quorum = 1);
    assert_eq!(play.setting(), "ANY 1 (\"b\", \"c\")");
}

#[test]
fn asynchronous_commits_become_synchronous_and_back() {
    let mut play = settled(|s| {
        (s.synchronous, s.write_quorum, s.write_quorum_min) = (SynchronousMode::Async, 0, 0);
    });
    assert_eq!(plain(&play.bench.state().syncs), [any(2, 0, "")]);
    play.change_to(|s| {
        (s.synchronous, s.write_quorum, s.write_quorum_min) = (SynchronousMode::Quorum, 1, 1);
    });
    assert_eq!(play.setting(), "ANY 1 (\"b\", \"c\")");
    play.change_to(|s| {
        (s.synchronous, s.write_quorum, s.write_quorum_min) = (SynchronousMode::Async, 0, 0);
    });
    assert_eq!(play.setting(), "");
}

#[test]
fn what_was_promised_by_an_older_specification_is_kept() {
    // Asynchronous, with loss allowed: but the configuration in force is still synchronous, so only
    // its read quorum is a proof.
    let mut play = settled(|s| s.write_quorum = 1);
    let change = update(&play.bench, |s| {
        (s.synchronous, s.write_quorum, s.write_quorum_min) = (SynchronousMode::Async, 0, 0);
        s.max_lag_bytes = Some(1 << 30);
    });
    play.bench.ok(change);
    play.lose_primary(&[("b", 0)]);
    let plan = play.leader.plan(&play.bench);
    assert_eq!(plan.proposal, None, "{:?}", plan.findings);
    assert!(rules(&plan).contains(&"takeover.read-quorum"), "{:?}", rules(&plan));
}
