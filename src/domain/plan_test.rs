//! Situations that a leader meets, and what it proposes in each.

use super::command::{Basis, Change};
use super::fixture_test::{
    Bench, Leader, SYSTEM, TERM, WALL, any, grant, guard, holder, m, numbered, primary, promotion,
    report, rules, sealed, sealed_report, spec, standby,
};
use super::observation::{Condition, Data, Progress, Report};
use super::plan::{FIRST_SYNC_WAIT, GAVE_UP_FOR, PROMOTION_DEADLINE};
use super::state::{CloseReason, SynchronousMode};
use super::types::{Epoch, WallMillis};

const QUORUM: SynchronousMode = SynchronousMode::Quorum;

/// A report of a member that has proved the end of `epoch`, run by its guard.
pub fn ended(name: &str, epoch: u64, crashed: bool) -> Report {
    let mut report = report(name, Condition::Down);
    report.ended = Epoch(epoch);
    report.emptied = vec![guard(name.as_bytes()[0])];
    report.guard = None;
    report.crashed = crashed;
    report
}

pub fn grantee(change: Option<Change>) -> String {
    match change {
        Some(Change::Grant(grant)) => grant.member.to_string(),
        other => format!("{other:?}"),
    }
}

/// Active in epoch 2, everybody reports, and the primary renews.
pub fn settled(list: &str, w: u32) -> (Bench, Leader) {
    let bench = Bench::active(list, w);
    let mut leader = Leader::new();
    leader.observed.note_state(bench.state(), leader.now);
    all_well(&bench, &mut leader, list);
    (bench, leader)
}

pub fn all_well(bench: &Bench, leader: &mut Leader, list: &str) {
    let (first, others) = list.split_once(' ').unwrap_or((list, ""));
    leader.renewed(bench.state().epoch.0);
    leader.hears(first, primary(first, 2, others, Some(&bench.state().syncs)));
    for other in others.split_whitespace() {
        leader.hears(other, standby(other, 2, 500));
    }
}

/// Active, then crashed and proven, with nobody sealed yet.
fn crashed(list: &str, w: u32) -> (Bench, Leader) {
    let (mut bench, mut leader) = settled(list, w);
    let first = list.split_whitespace().next().unwrap();
    leader.hears(first, ended(first, 2, true));
    let change = leader.plan(&bench).proposal;
    bench.ok(change.unwrap());
    (bench, leader)
}

#[test]
fn data_is_made_only_once_every_member_says_that_it_has_none() {
    let bench = Bench::registered("a b c", QUORUM, 1);
    let mut leader = Leader::new();
    let empty = |name| Report { data: Data::Empty, ..report(name, Condition::Down) };
    let plan = leader.plan(&bench);
    assert_eq!(plan.proposal, None);
    assert!(rules(&plan).contains(&"bootstrap.all-members"));
    leader.hears("a", empty("a")).hears("b", empty("b"));
    assert_eq!(leader.plan(&bench).proposal, None, "c has said nothing");
    for data in [Data::Unknown, Data::Incomplete, Data::Present { system_id: SYSTEM }] {
        leader.hears("c", Report { data, ..empty("c") });
        assert_eq!(leader.plan(&bench).proposal, None);
    }
    assert!(rules(&leader.plan(&bench)).contains(&"data.no-bootstrap-beside"));
    leader.hears("c", empty("c"));
    let begin = Some(Change::BeginBootstrap { member: m("a") });
    assert_eq!(leader.plan(&bench).proposal, begin);
    leader.pass_ms(2_001);
    assert_eq!(leader.plan(&bench).proposal, None, "what was heard is old");
}

#[test]
fn a_bootstrap_that_is_cut_off_is_waited_for() {
    let mut bench = Bench::registered("a b c", QUORUM, 1);
    bench.ok(Change::BeginBootstrap { member: m("a") });
    let mut leader = Leader::new();
    for _ in 0..10 {
        leader.pass_ms(60_000);
        assert_eq!(leader.plan(&bench).proposal, None);
    }
    leader.hears("a", report("a", Condition::Down));
    assert!(matches!(leader.plan(&bench).proposal, Some(Change::FinishBootstrap { .. })));
}

#[test]
fn the_first_epoch_goes_to_whoever_made_the_data() {
    let bench = Bench::initial("a b c", QUORUM, 1);
    let mut leader = Leader::new();
    leader.hears("a", sealed_report(&holder("a", 2, 1, 100, 1)));
    let Some(Change::Grant(grant)) = leader.plan(&bench).proposal else { panic!("no grant") };
    assert_eq!((grant.member, grant.basis), (m("a"), Basis::Stopped));
    assert_eq!(grant.sync, numbered(&bench, any(2, 1, "b c")), "nobody is there: all who may come");
}

#[test]
fn nothing_is_done_where_all_is_well() {
    for (list, w) in [("a", 1), ("a b", 1), ("a b c", 1), ("a b c", 2), ("a b c d e", 2)] {
        let (bench, mut leader) = settled(list, w);
        for _ in 0..100 {
            leader.pass_ms(500);
            all_well(&bench, &mut leader, list);
            let plan = leader.plan(&bench);
            assert_eq!(plan.proposal, None, "{list}: {:?}", plan.findings);
            assert_eq!(rules(&plan), ["settled"], "{list}");
        }
    }
}

#[test]
fn a_proven_stop_closes_at_once_and_needs_no_waiting() {
    let (mut bench, mut leader) = settled("a b c", 1);
    leader.hears("a", ended("a", 2, true));
    let change = leader.plan(&bench).proposal.unwrap();
    let want =
        Change::Close { expect_epoch: Epoch(2), reason: CloseReason::Crashed, stopped: true };
    assert_eq!(change, want);
    bench.ok(change);
    leader.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
    assert_eq!(rules(&leader.plan(&bench)), ["takeover.read-quorum"]);
    leader.hears("c", sealed_report(&sealed("c", 3, 2, 400)));
    let Some(Change::Grant(grant)) = leader.plan(&bench).proposal else { panic!("no grant") };
    assert_eq!((grant.member.clone(), grant.basis), (m("b"), Basis::Stopped));
    assert_eq!(grant.sync, numbered(&bench, any(3, 1, "c")));
    bench.ok(Change::Grant(grant));
}

#[test]
fn a_stop_is_proved_by_the_guard_that_was_granted_the_epoch_only() {
    let (bench, mut leader) = settled("a b c", 1);
    let mut clone = ended("a", 2, true);
    clone.emptied = vec![guard(9)];
    leader.hears("a", clone.clone());
    assert_eq!(leader.plan(&bench).proposal, None);
    clone.emptied = vec![guard(b'a')];
    clone.ended = Epoch(1);
    leader.hears("a", clone);
    assert_eq!(leader.plan(&bench).proposal, None, "an older epoch");
}

#[test]
fn a_silent_holder_is_closed_and_its_lease_waited_out() {
    let (mut bench, mut leader) = settled("a b c", 1);
    leader.pass_ms(2_199);
    leader.hears("b", standby("b", 2, 500)).hears("c", standby("c", 2, 500));
    assert_eq!(leader.plan(&bench).proposal, None);
    leader.pass_ms(1);
    let change = leader.plan(&bench).proposal.unwrap();
    let want =
        Change::Close { expect_epoch: Epoch(2), reason: CloseReason::LeaseLost, stopped: false };
    assert_eq!(change, want);
    bench.ok(change);
    for left in [860, 100, 0] {
        leader.now = leader.ledger.expires(&super::fixture_test::cluster(), Epoch(2), &timing());
        leader.now = super::types::BootTime::from_nanos(leader.now.as_nanos() - left * 1_000_000);
        leader.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
        leader.hears("c", sealed_report(&sealed("c", 3, 2, 500)));
        let plan = leader.plan(&bench);
        if left > 0 {
            assert_eq!(plan.proposal, None, "{left} ms before the lease ends");
            assert!(rules(&plan).contains(&"takeover.expiry"));
        } else {
            let Some(Change::Grant(grant)) = plan.proposal else { panic!("no grant") };
            assert_eq!(grant.basis, Basis::Expired { term: TERM });
        }
    }
}

fn timing() -> super::lease::Timing {
    super::lease::Timing::default()
}

#[test]
fn a_false_alarm_without_a_quorum_closes_nothing() {
    // (who still answers, whether the epoch is closed), all under ANY w of the others.
    let table = [
        ("a b c", 1, "", false),
        ("a b c", 1, "b", false),
        ("a b c", 1, "b c", true),
        ("a b c", 2, "c", true),
        ("a b", 1, "b", true),
        ("a b c d e", 2, "b c", false),
        ("a b c d e", 2, "b c d", true),
    ];
    for (list, w, who, closes) in table {
        let (bench, mut leader) = settled(list, w);
        leader.pass_ms(2_500);
        for name in who.split_whitespace() {
            leader.hears(name, standby(name, 2, 500));
        }
        let plan = leader.plan(&bench);
        assert_eq!(plan.proposal.is_some(), closes, "{list}, W = {w}, {who:?} answer");
        assert!(rules(&plan).contains(&"takeover.lease-lost"));
        assert_eq!(rules(&plan).contains(&"takeover.likely-quorum"), !closes);
    }
}

#[test]
fn an_epoch_that_its_holder_gave_up_is_closed_without_a_quorum() {
    for (ended, closes) in [(1, false), (2, true)] {
        let (bench, mut leader) = settled("a b c", 1);
        leader.pass_ms(2_500);
        // Its end is recorded, and not proven: the life of the guard is not known.
        let mut report = standby("a", 1, 500);
        (report.condition, report.ended) = (Condition::Down, Epoch(ended));
        leader.hears("a", report).hears("b", standby("b", 2, 500));
        let plan = leader.plan(&bench);
        match plan.proposal {
            Some(Change::Close { reason, stopped, .. }) if closes => {
                assert_eq!((reason, stopped), (CloseReason::LeaseLost, false));
            }
            None if !closes => {}
            other => panic!("{ended}: {other:?}"),
        }
    }
}

#[test]
fn a_new_leader_gives_a_full_window_at_every_point() {
    let (mut bench, _) = settled("a b c", 1);
    let mut new = Leader::new();
    new.hears("b", standby("b", 2, 500)).hears("c", standby("c", 2, 500));
    assert_eq!(new.plan(&bench).proposal, None, "open: nobody is suspected yet");
    bench.close(CloseReason::LeaseLost, false);
    new.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
    new.hears("c", sealed_report(&sealed("c", 3, 2, 500)));
    assert_eq!(rules(&new.plan(&bench)).last(), Some(&"takeover.expiry"));
    new.pass_ms(3_060);
    new.hears("b", sealed_report(&sealed("b", 3, 2, 500)));
    new.hears("c", sealed_report(&sealed("c", 3, 2, 500)));
    assert_eq!(new.plan(&bench).proposal, None, "0.6 ms are left");
    new.pass_ms(1);
    assert_eq!(grantee(new.plan(&bench).proposal), "b");
}

#[test]
fn promotion_is_recorded_and_activation_waits_for_the_barrier() {
    let (mut bench, mut leader) = crashed("a b c", 1);
    let two = vec![sealed("b", 3, 2, 500), sealed("c", 3, 2, 500)];
    let change = grant(&bench, "b", two, any(3, 1, "c"));
    bench.ok(change);
    let mut view = primary("b", 3, "c", None);
    if let Condition::Primary(p) = &mut view.condition {
        p.progress = Progress::Accepted;
    }
    leader.hears("b", view);
    assert_eq!(leader.plan(&bench).proposal, None);
    leader.hears("b", primary("b", 3, "c", None));
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(change, Change::RecordPromotion { .. }));
    bench.ok(change);
    assert_eq!(leader.plan(&bench).proposal, None, "no barrier yet");
    let only_new = &bench.state().syncs[1..];
    leader.hears("b", primary("b", 3, "c", Some(only_new)));
    assert_eq!(leader.plan(&bench).proposal, None, "a barrier under another list");
    let now = bench.state().syncs.clone();
    let mut other = primary("b", 3, "c", Some(&now));
    other.guard = Some(guard(9));
    leader.hears("b", other);
    assert_eq!(leader.plan(&bench).proposal, None, "another life of the guard");
    leader.hears("b", primary("b", 3, "c", Some(&now)));
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(change, Change::Activate { .. }));
    bench.ok(change);
}

#[test]
fn a_promotion_that_cannot_reach_its_barrier_turns_to_who_is_there() {
    let (mut bench, mut leader) = crashed("a b c", 1);
    let two = vec![sealed("b", 3, 2, 500), sealed("c", 3, 2, 500)];
    let change = grant(&bench, "b", two, any(3, 1, "c"));
    bench.ok(change);
    let change = promotion(&bench, 600);
    bench.ok(change);
    // c dies; a comes back and streams.
    leader.hears("b", primary("b", 3, "a", None)).hears("a", standby("a", 3, 600));
    assert_eq!(leader.plan(&bench).proposal, None, "those named first may still come");
    leader.pass_ms(FIRST_SYNC_WAIT.as_millis() as u64);
    leader.renewed(3);
    leader.hears("b", primary("b", 3, "a", None)).hears("a", standby("a", 3, 600));
    match leader.plan(&bench).proposal {
        Some(Change::BeginSyncChange { to, .. }) => {
            assert_eq!(to.members, any(3, 1, "a c").members)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_member_that_never_promotes_does_not_hold_the_cluster() {
    let (mut bench, mut leader) = crashed("a b c", 2);
    let change = grant(&bench, "b", vec![sealed("b", 3, 2, 500)], any(3, 2, "a c"));
    bench.ok(change);
    leader.plan(&bench);
    leader.pass_ms(PROMOTION_DEADLINE.as_millis() as u64);
    leader.renewed(3);
    leader.hears("c", standby("c", 2, 500)).hears("a", standby("a", 2, 500));
    match leader.plan(&bench).proposal {
        Some(Change::Close { reason: CloseReason::GivenUp, stopped: false, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_failed_to_promote_is_passed_over_for_a_while() {
    for reason in [CloseReason::GivenUp, CloseReason::Crashed, CloseReason::LeaseLost] {
        let (mut bench, mut leader) = crashed("a b c d", 2);
        let three: Vec<_> = ["b", "c", "d"].map(|n| sealed(n, 3, 2, 500)).to_vec();
        let change = grant(&bench, "b", three, any(3, 2, "c d"));
        bench.ok(change);
        leader.plan(&bench);
        bench.close(reason, reason != CloseReason::LeaseLost);
        leader.pass_ms(4_000);
        let hear = |leader: &mut Leader| {
            leader.hears("b", sealed_report(&holder("b", 4, 2, 500, 3)));
            leader.hears("c", sealed_report(&sealed("c", 4, 2, 500)));
            leader.hears("d", sealed_report(&sealed("d", 4, 2, 500)));
        };
        leader.plan(&bench);
        hear(&mut leader);
        assert_eq!(grantee(leader.plan(&bench).proposal), "c", "{reason:?}");
        leader.pass_ms(GAVE_UP_FOR.as_millis() as u64);
        hear(&mut leader);
        assert_eq!(grantee(leader.plan(&bench).proposal), "b", "{reason:?}");
        // Where nobody else will do it is asked again at once.
        leader.observed.gave_up.insert(m("b"), leader.now);
        leader.pass_ms(3_000);
        leader.hears("b", sealed_report(&holder("b", 4, 2, 500, 3)));
        assert_eq!(grantee(leader.plan(&bench).proposal), "b", "{reason:?}");
    }
}

#[test]
fn crashes_do_not_walk_through_the_cluster() {
    let (mut bench, mut leader) = crashed("a b c", 1);
    for _ in 0..3 {
        let epoch = bench.state().epoch.0;
        let change = grant(
            &bench,
            "a",
            vec![holder("a", epoch + 1, 2, 500, epoch)],
            any(epoch + 1, 1, "b c"),
        );
        bench.ok(change);
        let steps = promotion(&bench, 600 + epoch);
        bench.ok(steps);
        let steps = super::fixture_test::activation(&bench);
        bench.ok(steps);
        bench.close(CloseReason::Crashed, true);
    }
    let next = bench.state().epoch.0 + 1;
    let hear = |leader: &mut Leader| {
        leader.hears("b", sealed_report(&sealed("b", next, 2, 500)));
        leader.hears("c", sealed_report(&sealed("c", next, 2, 500)));
    };
    hear(&mut leader);
    assert_eq!(rules(&leader.plan(&bench)), ["takeover.crash-bound"]);
    // The crashed member itself may return.
    leader.hears("a", sealed_report(&holder("a", next, next - 1, 900, next - 1)));
    assert_eq!(grantee(leader.plan(&bench).proposal), "a");
    // It is gone: after the window others are asked again.
    leader.observed.members.remove(&m("a"));
    bench.wall = WallMillis(WALL.0 + 600_000);
    assert_eq!(grantee(leader.plan(&bench).proposal), "b");
    // A crash that a wrong clock put into the future holds nobody back.
    bench.wall = WallMillis(WALL.0 - 1);
    assert_eq!(grantee(leader.plan(&bench).proposal), "b");
}

#[test]
fn synchronous_standbys_come_at_once_and_go_after_a_while() {
    let (mut bench, mut leader) = settled("a b c", 1);
    let wait = spec("a b c", SynchronousMode::Quorum, 1).shrink_after_ms;
    for step in 0..(wait / 500 + 1) {
        let gone = leader.plan(&bench).proposal;
        assert_eq!(gone.is_some(), step * 500 >= wait, "after {} ms", step * 500);
        leader.pass_ms(500);
        leader.renewed(2);
        leader.hears("a", primary("a", 2, "b", Some(&bench.state().syncs)));
        leader.hears("b", standby("b", 2, 500));
    }
    let change = leader.plan(&bench).proposal.unwrap();
    bench.ok(change);
    let both = bench.state().syncs.clone();
    assert_eq!(leader.plan(&bench).proposal, None, "not confirmed yet");
    leader.hears("a", primary("a", 2, "b", Some(&both)));
    let change = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(change, Change::FinishSyncChange { .. }));
    bench.ok(change);
    // The last one is never given up: commits wait.
    leader.pass_ms(60_000);
    leader.renewed(2);
    leader.hears("a", primary("a", 2, "", Some(&bench.state().syncs)));
    let plan = leader.plan(&bench);
    assert!(rules(&plan).contains(&"sync.write-quorum"));
    let alarm = plan.proposal.unwrap();
    assert!(matches!(&alarm, Change::NoteHealth { alarms, .. } if alarms.len() == 1), "{alarm:?}");
    bench.ok(alarm);
    assert_eq!(leader.plan(&bench).proposal, None);
    // A copy that is not proven does not count.
    let mut copy = standby("c", 2, 500);
    if let Condition::Standby(view) = &mut copy.condition {
        view.counts = false;
    }
    leader.hears("a", primary("a", 2, "b c", Some(&bench.state().syncs)));
    leader.hears("b", standby("b", 2, 500)).hears("c", copy);
    let over = leader.plan(&bench).proposal.unwrap();
    assert!(matches!(&over, Change::NoteHealth { alarms, .. } if alarms.is_empty()), "{over:?}");
    bench.ok(over);
    assert_eq!(leader.plan(&bench).proposal, None);
    leader.hears("c", standby("c", 2, 500));
    match leader.plan(&bench).proposal {
        Some(Change::BeginSyncChange { to, .. }) => {
            assert_eq!(to.members, any(2, 1, "b c").members)
        }
        other => panic!("{other:?}"),
    }
}
