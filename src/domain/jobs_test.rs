//! Restarts, reloads, reinitialisations, pauses, and what is scheduled: what may begin them, what
//! they step through, and how each ends.

use super::command::{Change, Rejection, Reply};
use super::desired::{Desired, desired};
use super::fixture_test::{
    Bench, Leader, activation, any, guard, holder, m, numbered, promotion, register, report, rules,
    sealed, sealed_report, standby,
};
use super::observation::{Condition, Data, Reloaded, Report};
use super::operation::{GRACE_MS, Later, Restart, Step};
use super::plan::{OperationProblem, RESTART_WAIT, reinitialise_check, restart_check};
use super::plan_test::{all_well, ended, grantee, settled};
use super::state::{CloseReason, OperationKind, Outcome};
use super::types::{Epoch, WallMillis};

const BY: &str = "test";

fn by() -> String {
    BY.to_owned()
}

fn starting(restart: Restart) -> Change {
    Change::StartRestart { expect_epoch: Epoch(2), restart, deadline_ms: 0, by: by() }
}

fn standby_restart(name: &str) -> Change {
    let guard = guard(name.as_bytes()[0]);
    starting(Restart::Member { member: m(name), guard })
}

fn rolling(bench: &Bench, leader: &Leader) -> Change {
    let checked = restart_check(bench.state(), &leader.observed, None, false, false, leader.now);
    starting(checked.unwrap())
}

/// A standby that streams, in another life of its guard.
fn restarted(name: &str, epoch: u64) -> Report {
    Report { guard: Some(guard(b'Z')), ..standby(name, epoch, 500) }
}

fn reinitialise(name: &str) -> Change {
    Change::StartReinitialise { expect_epoch: Epoch(2), member: m(name), deadline_ms: 0, by: by() }
}

fn finished(bench: &Bench) -> &Outcome {
    &bench.state().finished.back().unwrap().outcome
}

/// Carries out what the leader wants, until it wants nothing.
fn run(bench: &mut Bench, leader: &mut Leader) -> usize {
    let mut steps = 0;
    while let Some(change) = leader.plan(bench).proposal {
        bench.ok(change);
        steps += 1;
        assert!(steps < 20, "it does not come to rest");
    }
    steps
}

#[test]
fn a_standby_is_restarted_once() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(standby_restart("b"));
    let asked = |bench: &Bench, name: &str| match desired(bench.state(), &m(name)) {
        Desired::Follow(duty) => duty.restart,
        other => panic!("{other:?}"),
    };
    assert_eq!(asked(&bench, "b"), Some(guard(b'b')));
    assert_eq!(asked(&bench, "c"), None);
    assert_eq!(rules(&leader.plan(&bench)), ["operation.under-way"]);
    assert_eq!(leader.plan(&bench).proposal, None, "it is the same life of the guard");
    // One job a member, and no other operation that would pull it away.
    assert_eq!(bench.refused(standby_restart("b")).rule(), "operation.one-a-member");
    let to_b = Change::StartSwitchover { expect_epoch: Epoch(2), target: m("b"), by: by() };
    assert_eq!(bench.refused(to_b).rule(), "operation.one-a-member");
    // It is down for a moment, and comes back in another life: that is the end, and not before it
    // streams.
    leader.hears("b", Report { guard: None, ..report("b", Condition::Down) });
    assert_eq!(leader.plan(&bench).proposal, None);
    let mut starting = restarted("b", 2);
    starting.condition = Condition::Starting;
    leader.hears("b", starting);
    assert_eq!(leader.plan(&bench).proposal, None);
    leader.hears("b", restarted("b", 2));
    assert_eq!(run(&mut bench, &mut leader), 1);
    assert_eq!(*finished(&bench), Outcome::Completed);
    assert_eq!(asked(&bench, "b"), None);
}

#[test]
fn a_restart_that_does_not_come_back_is_given_up_and_can_be_called_off() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(standby_restart("b"));
    let id = bench.state().jobs[&m("b")].id;
    leader.plan(&bench);
    let (mut called_off, _) = (bench.clone(), ());
    called_off.ok(Change::CancelOperation { operation: id, by: by() });
    assert_eq!(*finished(&called_off), Outcome::Cancelled { by: by() });
    let again = Change::CancelOperation { operation: id, by: by() };
    assert_eq!(called_off.refused(again).rule(), "operation.exists");

    leader.pass_ms(600_000);
    all_well(&bench, &mut leader, "a b c");
    run(&mut bench, &mut leader);
    let Outcome::Failed { why } = finished(&bench) else { panic!("{:?}", finished(&bench)) };
    assert!(why.contains("not done in time"), "{why}");
}

#[test]
fn what_is_for_standbys_is_refused_for_the_primary_and_while_an_epoch_ends() {
    let (mut bench, leader) = settled("a b c", 1);
    assert_eq!(bench.refused(standby_restart("a")).rule(), "operation.standby-only");
    assert_eq!(bench.refused(reinitialise("a")).rule(), "operation.standby-only");
    assert_eq!(bench.refused(reinitialise("x")).rule(), "member.exists");
    let of = |member, in_place| {
        restart_check(
            bench.state(),
            &leader.observed,
            Some(&m(member)),
            false,
            in_place,
            leader.now,
        )
    };
    assert_eq!(of("a", false), Err(vec![OperationProblem::IsPrimary(m("a"))]));
    assert_eq!(of("a", true), Ok(Restart::Primary { member: m("a") }));
    assert_eq!(of("x", true), Err(vec![OperationProblem::UnknownMember(m("x"))]));
    bench.close(CloseReason::LeaseLost, false);
    assert_eq!(bench.refused(standby_restart("b")).rule(), "epoch.open");
    assert_eq!(bench.refused(reinitialise("b")).rule(), "epoch.open");
}

#[test]
fn a_primary_that_restarts_is_granted_the_next_epoch() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(starting(Restart::Primary { member: m("a") }));
    match desired(bench.state(), &m("a")) {
        Desired::Primary(duty) => assert_eq!(duty.handover, Some(m("a"))),
        other => panic!("{other:?}"),
    }
    leader.hears("a", ended("a", 2, false));
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(change, Change::Close { stopped: true, .. }), "{change:?}");
    bench.ok(change);
    // The others are sealed first: it is waited for, as long as a start may take.
    leader.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
    leader.hears("c", sealed_report(&sealed("c", 3, 2, 500)));
    assert_eq!(leader.plan(&bench).proposal, None);
    leader.pass_ms(1_900);
    let mut never = (bench.clone(), leader.clone());
    leader.hears("a", sealed_report(&holder("a", 3, 2, 500, 2)));
    let change = leader.plan(&bench).proposal;
    assert_eq!(grantee(change.clone()), "a");
    bench.ok(change.unwrap());
    bench.ok(promotion(&bench, 600));
    bench.ok(activation(&bench));
    assert_eq!(*finished(&bench), Outcome::Done { primary: m("a") });

    // It does not come back: another takes over, and the operation says so.
    never.1.pass_ms(RESTART_WAIT.as_millis() as u64);
    never.1.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
    never.1.hears("c", sealed_report(&sealed("c", 3, 2, 500)));
    let change = never.1.plan(&never.0).proposal;
    assert_eq!(grantee(change.clone()), "b");
    never.0.ok(change.unwrap());
    never.0.ok(promotion(&never.0, 600));
    never.0.ok(activation(&never.0));
    assert!(matches!(finished(&never.0), Outcome::Failed { .. }));
}

#[test]
fn a_rolling_restart_takes_the_standbys_one_by_one_and_the_primary_last() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(rolling(&bench, &leader));
    let id = bench.state().operation.as_ref().unwrap().id;
    let step = |leader: &mut Leader, bench: &Bench| match leader.plan(bench).proposal {
        Some(Change::StepOperation { step, .. }) => Some(step),
        None => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(step(&mut leader, &bench), Some(Step::Restart(m("b"))));
    bench.ok(Change::StepOperation { operation: id, step: Step::Restart(m("b")) });
    assert_eq!(bench.state().restart_of(&m("b")), Some(&guard(b'b')));
    assert_eq!(bench.state().restart_of(&m("c")), None);
    // Nobody else before it is back.
    assert_eq!(step(&mut leader, &bench), None);
    assert_eq!(rules(&leader.plan(&bench)), ["operation.under-way"]);
    leader.hears("b", restarted("b", 2));
    // And the primary has to see it stream.
    leader.hears("a", super::fixture_test::primary("a", 2, "c", Some(&bench.state().syncs)));
    assert_eq!(step(&mut leader, &bench), None);
    leader.hears("a", super::fixture_test::primary("a", 2, "b c", Some(&bench.state().syncs)));
    assert_eq!(step(&mut leader, &bench), Some(Step::Restart(m("c"))));
    bench.ok(Change::StepOperation { operation: id, step: Step::Restart(m("c")) });
    // However long the standbys took, the primary's turn has its own time.
    leader.pass_ms(120_000);
    all_well(&bench, &mut leader, "a b c");
    leader.renewed(2);
    leader.hears("b", restarted("b", 2));
    leader.hears("c", restarted("c", 2));
    let Some(Step::HandOver(target)) = step(&mut leader, &bench) else { panic!("no switchover") };
    // Until then it can be called off, and not after.
    let mut stopped = bench.clone();
    stopped.ok(Change::CancelOperation { operation: id, by: by() });
    bench.ok(Change::StepOperation { operation: id, step: Step::HandOver(target.clone()) });
    let off = bench.refused(Change::CancelOperation { operation: id, by: by() });
    assert_eq!(off.rule(), "operation.revocable");
    match desired(bench.state(), &m("a")) {
        Desired::Primary(duty) => assert_eq!(duty.handover, Some(target.clone())),
        other => panic!("{other:?}"),
    }
    leader.plan(&bench);
    leader.hears("a", ended("a", 2, false));
    bench.ok(leader.plan(&bench).proposal.unwrap());
    assert_eq!(leader.plan(&bench).proposal, None, "the target is waited for");
    for name in ["b", "c"] {
        let position = sealed(name, 3, 2, 500);
        let mut said = sealed_report(&position);
        said.guard = Some(position.guard.clone());
        leader.hears(name, said);
    }
    let change = leader.plan(&bench).proposal;
    assert_eq!(grantee(change.clone()), target.as_str());
    bench.ok(change.unwrap());
    bench.ok(promotion(&bench, 600));
    bench.ok(activation(&bench));
    assert_eq!(*finished(&bench), Outcome::Done { primary: target });
}

#[test]
fn a_rolling_restart_ends_where_the_primary_changes_by_itself() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(rolling(&bench, &leader));
    bench.close(CloseReason::LeaseLost, false);
    bench.ok(Change::RecordStop { expect_epoch: Epoch(2) });
    leader.pass_ms(10_000);
    for name in ["b", "c"] {
        leader.hears(name, sealed_report(&sealed(name, 3, 2, 500)));
    }
    bench.ok(leader.plan(&bench).proposal.unwrap());
    bench.ok(promotion(&bench, 600));
    bench.ok(activation(&bench));
    let Outcome::Failed { why } = finished(&bench) else { panic!("{:?}", finished(&bench)) };
    assert!(why.contains("begin it anew"), "{why}");
}

#[test]
fn what_is_copied_anew_leaves_the_quorum_first() {
    let (mut bench, mut leader) = settled("a b c", 1);
    let copied = |bench: &Bench| match desired(bench.state(), &m("b")) {
        Desired::Follow(duty) => duty.copy_anew.filter(|_| duty.expendable),
        other => panic!("{other:?}"),
    };
    bench.ok(reinitialise("b"));
    let id = bench.state().jobs[&m("b")].id;
    assert_eq!(copied(&bench), None, "commits may be in b alone");
    // Both configurations are in force until the change is confirmed.
    let change = leader.plan(&bench).proposal.unwrap();
    let Change::BeginSyncChange { to, .. } = &change else { panic!("{change:?}") };
    assert!(!to.members.contains(&m("b")), "{to}");
    bench.ok(change);
    assert_eq!(copied(&bench), None);
    let early = Change::StepOperation { operation: id, step: Step::Copy };
    assert_eq!(bench.refused(early.clone()).rule(), "sync.valid");
    all_well(&bench, &mut leader, "a b c");
    bench.ok(leader.plan(&bench).proposal.unwrap());
    assert_eq!(bench.state().syncs.len(), 1);
    assert_eq!(copied(&bench), None, "it may still be called off");
    bench.clone().ok(Change::CancelOperation { operation: id, by: by() });
    // What was planned before the step, and comes after it, does not bring it back.
    let back = Change::BeginSyncChange {
        expect_epoch: Epoch(2),
        expect_syncs: bench.state().syncs.clone(),
        to: numbered(&bench, any(2, 1, "b c")),
    };
    bench.clone().ok(back.clone());
    assert_eq!(leader.plan(&bench).proposal, Some(early.clone()));
    bench.ok(early);
    assert_eq!(copied(&bench), Some(id));
    assert_eq!(bench.refused(back).rule(), "sync.valid");
    let off = Change::CancelOperation { operation: id, by: by() };
    assert_eq!(bench.refused(off).rule(), "operation.revocable");
    // Its deadline ends nothing while it may be about to give its data up.
    let (mut late, mut waiting) = (bench.clone(), leader.clone());
    waiting.plan(&late);
    waiting.pass_ms(86_400_000);
    all_well(&late, &mut waiting, "a b c");
    assert_eq!(waiting.plan(&late).proposal, None);
    waiting.hears("b", Report { data: Data::Incomplete, ..report("b", Condition::Down) });
    late.ok(waiting.plan(&late).proposal.unwrap());
    assert!(matches!(finished(&late), Outcome::Failed { .. }));
    // It counts again only once it is done, and proven.
    assert_eq!(leader.plan(&bench).proposal, None);
    leader.hears("b", Report { copied_for: id, ..standby("b", 2, 500) });
    bench.ok(leader.plan(&bench).proposal.unwrap());
    assert_eq!(*finished(&bench), Outcome::Completed);
    assert_eq!(copied(&bench), None);
    leader.pass_ms(3_000);
    all_well(&bench, &mut leader, "a b c");
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(
        matches!(&change, Change::BeginSyncChange { to, .. } if to.members.contains(&m("b"))),
        "{change:?}"
    );
}

#[test]
fn a_primary_that_is_lost_while_a_standby_is_copied_anew_is_replaced() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(reinitialise("b"));
    let id = bench.state().jobs[&m("b")].id;
    // Before anything is given up it is needed like any other.
    let mut needed = (bench.clone(), leader.clone());
    let take_over = |bench: &mut Bench, leader: &mut Leader, sealed_ones: &[&str]| {
        bench.close(CloseReason::LeaseLost, false);
        bench.ok(Change::RecordStop { expect_epoch: Epoch(2) });
        leader.pass_ms(10_000);
        for name in sealed_ones {
            leader.hears(name, sealed_report(&sealed(name, 3, 2, 500)));
        }
        bench.ok(leader.plan(bench).proposal.unwrap());
        bench.ok(promotion(bench, 600));
        bench.state().syncs.last().unwrap().clone()
    };
    let sync = take_over(&mut needed.0, &mut needed.1, &["b", "c"]);
    assert_eq!((sync.w, sync.members.len()), (1, 1), "{sync}");
    assert!(sync.members.contains(&m("b")) || sync.members.contains(&m("c")), "{sync}");

    // After it c is granted, and waits for a, until the copy of b is proven.
    bench.ok(leader.plan(&bench).proposal.unwrap());
    all_well(&bench, &mut leader, "a b c");
    bench.ok(leader.plan(&bench).proposal.unwrap());
    bench.ok(leader.plan(&bench).proposal.unwrap());
    assert!(bench.state().is_given_up(&m("b")));
    let sync = take_over(&mut bench, &mut leader, &["c"]);
    assert_eq!(sync.members.into_iter().collect::<Vec<_>>(), [m("a")]);
    let asked = |bench: &Bench| match desired(bench.state(), &m("b")) {
        Desired::Follow(duty) => (duty.copy_anew, duty.expendable),
        other => panic!("{other:?}"),
    };
    assert_eq!(asked(&bench), (Some(id), false), "the copy that it makes anyway is the one");
    leader.plan(&bench);
    leader.pass_ms(6_000);
    let c = super::fixture_test::primary("c", 3, "b", None);
    leader.hears("c", Report { guard: Some(guard(b'c')), ..c });
    leader.hears("b", Report { copied_for: id, ..standby("b", 3, 700) });
    leader.renewed(3);
    let done = |bench: &Bench| bench.state().jobs.is_empty();
    for _ in 0..4 {
        if let Some(change) = leader.plan(&bench).proposal {
            bench.ok(change);
        }
    }
    let why = format!("{:?}", leader.plan(&bench).findings);
    assert!(done(&bench), "{why}");
    assert!(bench.state().syncs.last().unwrap().members.contains(&m("b")), "{why}");
}

#[test]
fn a_rolling_restart_waits_for_a_member_that_has_a_job() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(rolling(&bench, &leader));
    bench.ok(Change::StartReload { member: m("b"), by: by() });
    // It is waited for, and the planner is free for everything else.
    assert_eq!(leader.plan(&bench).proposal, None);
    assert_eq!(rules(&leader.plan(&bench)), ["operation.under-way", "operation.under-way"]);
    leader.pass_ms(60_000);
    all_well(&bench, &mut leader, "a b c");
    leader.renewed(2);
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(change, Change::FinishOperation { .. }), "the job is late: {change:?}");
}

#[test]
fn the_last_standby_that_commits_need_is_not_copied_anew() {
    let (bench, leader) = settled("a b c", 2);
    let mut needed = bench.clone();
    let mut spec = bench.state().spec.clone();
    spec.write_quorum_min = 2;
    needed.control.clusters.values_mut().for_each(|c| c.spec = spec.clone());
    let check =
        |bench: &Bench| reinitialise_check(bench.state(), &leader.observed, &m("b"), leader.now);
    let Err(problems) = check(&needed) else { panic!("it is not refused") };
    assert_eq!(problems[0].rule(), "reinitialise.write-quorum");
    assert_eq!(check(&bench), Ok(()));
}

#[test]
fn a_reload_ends_with_what_postgresql_said() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.ok(Change::StartReload { member: m("a"), by: by() });
    bench.ok(Change::StartReload { member: m("b"), by: by() });
    let id = |bench: &Bench, name: &str| bench.state().jobs[&m(name)].id;
    assert_eq!(bench.state().reload_of(&m("b")), Some(id(&bench, "b")));
    let said = |operation, problem: &str| Some(Reloaded { operation, problem: problem.to_owned() });
    let mut a = super::fixture_test::primary("a", 2, "b c", Some(&bench.state().syncs));
    a.reloaded = said(id(&bench, "a"), "");
    leader.hears("a", a);
    let b = Report { reloaded: said(id(&bench, "b"), "line 3"), ..standby("b", 2, 500) };
    leader.hears("b", b);
    assert_eq!(run(&mut bench, &mut leader), 2);
    let ends: Vec<&Outcome> = bench.state().finished.iter().map(|f| &f.outcome).collect();
    assert_eq!(ends, [&Outcome::Completed, &Outcome::Failed { why: "line 3".to_owned() }]);
}

#[test]
fn under_a_pause_nothing_is_closed_and_nothing_granted() {
    let (mut bench, mut leader) = settled("a b c", 1);
    let all = rolling(&bench, &leader);
    bench.ok(Change::Pause { until: None, by: by() });
    assert_eq!(rules(&leader.plan(&bench)), ["cluster.paused"]);
    let over = Change::StartSwitchover { expect_epoch: Epoch(2), target: m("b"), by: by() };
    assert_eq!(bench.refused(over).rule(), "cluster.paused");
    assert_eq!(bench.refused(all).rule(), "cluster.paused");
    // A standby may be restarted: nobody is promoted by that.
    bench.ok(standby_restart("b"));
    // The primary ends, and that is how it stays.
    leader.hears("a", ended("a", 2, true));
    assert_eq!(leader.plan(&bench).proposal, None);
    leader.pass_ms(60_000);
    leader.hears("a", ended("a", 2, true));
    leader.hears("b", standby("b", 2, 500));
    leader.hears("c", standby("c", 2, 500));
    assert_eq!(leader.plan(&bench).proposal, None);
    assert!(bench.state().open_tenure().is_some());
    let close =
        Change::Close { expect_epoch: Epoch(2), reason: CloseReason::LeaseLost, stopped: false };
    assert_eq!(bench.refused(close).rule(), "cluster.paused", "decided before the pause");

    assert_eq!(
        bench.refused(Change::Pause { until: Some(bench.wall), by: by() }).rule(),
        "schedule.valid"
    );
    bench.ok(Change::Resume { over: None, by: by() });
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(change, Change::Close { .. }), "{change:?}");
    assert_eq!(bench.refused(Change::Resume { over: None, by: by() }), Rejection::NotPaused);
}

#[test]
fn a_closed_epoch_is_followed_by_no_grant_under_a_pause_whatever_the_proposer_believes() {
    let (mut bench, mut leader) = settled("a b c", 1);
    bench.close(CloseReason::Crashed, true);
    for name in ["b", "c"] {
        leader.hears(name, sealed_report(&sealed(name, 3, 2, 500)));
    }
    let granted = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(granted, Change::Grant(_)));
    bench.ok(Change::Pause { until: Some(WallMillis(bench.wall.0 + 1000)), by: by() });
    assert_eq!(bench.refused(granted.clone()).rule(), "cluster.paused");
    assert_eq!(leader.plan(&bench).proposal, None);
    // It ends by itself.
    bench.wall = WallMillis(bench.wall.0 + 1000);
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(change, Change::Resume { .. }), "{change:?}");
    // One that was made longer meanwhile stays.
    let mut longer = bench.clone();
    longer.ok(Change::Pause { until: Some(WallMillis(bench.wall.0 + 9000)), by: by() });
    assert_eq!(longer.run(change.clone()), Reply::Nothing);
    bench.ok(change);
    assert_eq!(leader.plan(&bench).proposal, Some(granted));
}

#[test]
fn no_pause_is_begun_in_the_middle_of_an_operation() {
    let (mut bench, leader) = settled("a b c", 1);
    bench.ok(rolling(&bench, &leader));
    let refused = bench.refused(Change::Pause { until: None, by: by() });
    assert_eq!(refused.rule(), "operation.one-at-a-time");
}

fn scheduled(bench: &mut Bench, in_ms: u64) -> u64 {
    let what = Later::Switchover { target: None };
    bench.ok(Change::Schedule { at: WallMillis(bench.wall.0 + in_ms), what, by: by() });
    *bench.state().scheduled.last_key_value().unwrap().0
}

#[test]
fn what_is_scheduled_begins_at_its_time_under_its_number() {
    let (mut bench, mut leader) = settled("a b c", 1);
    let id = scheduled(&mut bench, 5_000);
    assert_eq!(leader.plan(&bench).proposal, None);
    bench.wall = WallMillis(bench.wall.0 + 5_000);
    let change = leader.plan(&bench).proposal.unwrap();
    bench.ok(change.clone());
    let op = bench.state().operation.clone().unwrap();
    assert_eq!(op.id, id);
    assert!(matches!(op.kind, OperationKind::Switchover { .. }));
    assert_eq!(bench.refused(change), Rejection::NoSuchOperation { id });
}

#[test]
fn what_cannot_begin_in_time_fails_and_is_never_late() {
    let (mut bench, mut leader) = settled("a b c", 1);
    let id = scheduled(&mut bench, 5_000);
    // The control plane was away.
    let (mut away, mut back) = (bench.clone(), leader.clone());
    away.wall = WallMillis(away.wall.0 + 5_001 + GRACE_MS);
    run(&mut away, &mut back);
    assert!(away.state().operation.is_none());
    assert!(matches!(finished(&away), Outcome::Failed { .. }));
    // A pause stands against it for a while.
    bench.ok(Change::Pause { until: None, by: by() });
    bench.wall = WallMillis(bench.wall.0 + 5_000);
    assert_eq!(leader.plan(&bench).proposal, None);
    assert_eq!(rules(&leader.plan(&bench)), ["cluster.paused", "operation.scheduled"]);
    bench.ok(Change::CancelOperation { operation: id, by: by() });
    assert!(bench.state().scheduled.is_empty());
}

#[test]
fn what_cannot_be_scheduled_is_refused() {
    let (mut bench, _) = settled("a b c", 1);
    let later = |in_ms: u64, target: Option<&str>, bench: &Bench| Change::Schedule {
        at: WallMillis(bench.wall.0 + in_ms),
        what: Later::Switchover { target: target.map(m) },
        by: by(),
    };
    let refused = |bench: &mut Bench, change| bench.refused(change).rule();
    let (past, far) = (later(0, None, &bench), later(400 * 86_400_000, None, &bench));
    assert_eq!(refused(&mut bench, past), "schedule.valid");
    assert_eq!(refused(&mut bench, far), "schedule.valid");
    let unknown = later(1000, Some("x"), &bench);
    assert_eq!(refused(&mut bench, unknown), "member.exists");
    for _ in 0..super::operation::SCHEDULED_MAX {
        scheduled(&mut bench, 1000);
    }
    let more = later(1000, None, &bench);
    assert_eq!(refused(&mut bench, more), "schedule.valid");
    let id = *bench.state().scheduled.first_key_value().unwrap().0;
    // Only what can be scheduled is begun under such a number.
    let change = Box::new(register("d", "node-d", None));
    let begun = Change::StartScheduled { operation: id, change };
    assert_eq!(refused(&mut bench, begun), "schedule.valid");
}
