//! Every guard of `apply`: accepted once, refused by the right rule, the state untouched by a
//! refusal. The bench checks the last, and all invariants, after every command.

use super::apply::{MEMBERS_MAX, Position, apply};
use super::command::{Basis, Change, Command, Grant, Reply};
use super::fixture_test::{
    Bench, SYSTEM, TERM, WALL, activation, any, cluster, grant, guard, holder, m, numbered, plain,
    promotion, register, sealed, spec, tagged,
};
use super::lineage::Lineage;
use super::state::{
    CloseReason, ControlState, HISTORY_MAX, OPERATIONS_MAX, Outcome, Stage, SynchronousMode,
};
use super::sync::SyncConfig;
use super::types::{Epoch, Lsn, SystemId};

const QUORUM: SynchronousMode = SynchronousMode::Quorum;

fn rule(bench: &mut Bench, change: Change) -> &'static str {
    bench.refused(change).rule()
}

fn close(epoch: u64, reason: CloseReason, stopped: bool) -> Change {
    Change::Close { expect_epoch: Epoch(epoch), reason, stopped }
}

fn edit(change: Change, with: impl FnOnce(&mut Grant)) -> Change {
    let Change::Grant(mut grant) = change else { panic!("not a grant: {change:?}") };
    with(&mut grant);
    Change::Grant(grant)
}

/// Granted to the second best.
fn to_c(grant: &mut Grant) {
    grant.member = m("c");
    grant.guard = guard(b'c');
    reshape(grant, any(3, 1, "b"));
}

/// Another configuration under the number that is due.
fn reshape(grant: &mut Grant, sync: SyncConfig) {
    grant.sync = SyncConfig { seq: grant.sync.seq, ..sync };
}

#[test]
fn a_cluster_is_created_once_and_from_a_sound_specification() {
    let mut bench = Bench::registered("a b c", QUORUM, 1);
    assert_eq!(bench.run(Change::CreateCluster { spec: spec("a", QUORUM, 1) }), Reply::Nothing);
    let mut empty = Bench::empty();
    assert_eq!(rule(&mut empty, register("a", "node-a", None)), "cluster.exists");
    let mut bad = spec("a b", QUORUM, 1);
    bad.timing.kill_margin_ms = bad.timing.fence_margin_ms;
    assert_eq!(rule(&mut empty, Change::CreateCluster { spec: bad }), "spec.valid");
    let twice = spec("a a", QUORUM, 1);
    assert_eq!(rule(&mut empty, Change::CreateCluster { spec: twice }), "spec.valid");
}

#[test]
fn a_name_is_bound_to_its_node_and_makes_one_slot() {
    let mut bench = Bench::registered("a b-c", QUORUM, 1);
    assert_eq!(bench.run(register("a", "node-a", None)), Reply::Nothing);
    assert_eq!(rule(&mut bench, register("a", "node-x", None)), "member.node");
    assert_eq!(rule(&mut bench, register("b_c", "node-x", None)), "member.unique");
    let mut same_address = register("d", "node-d", None);
    if let Change::RegisterMember { address, .. } = &mut same_address {
        "a.example:5432".clone_into(address);
    }
    assert_eq!(rule(&mut bench, same_address), "member.unique");
    for i in bench.state().members.len()..MEMBERS_MAX {
        bench.ok(register(&format!("m{i}"), &format!("node-m{i}"), None));
    }
    assert_eq!(rule(&mut bench, register("z", "node-z", None)), "spec.valid");
}

#[test]
fn foreign_and_unknown_data_is_refused() {
    let mut fresh = Bench::registered("a b", QUORUM, 1);
    assert_eq!(rule(&mut fresh, register("c", "node-c", Some(SYSTEM))), "data.no-bootstrap-beside");
    let mut running = Bench::active("a b", 1);
    let foreign = Some(SystemId(1));
    assert_eq!(rule(&mut running, register("b", "node-b", foreign)), "data.system-identifier");
    running.ok(register("c", "node-c", Some(SYSTEM)));
}

#[test]
fn data_is_made_once() {
    let begin = |name| Change::BeginBootstrap { member: m(name) };
    let finish = |name, epoch| Change::FinishBootstrap {
        member: m(name),
        system_id: SYSTEM,
        epoch: Epoch(epoch),
    };
    let mut partly = Bench::empty();
    partly.ok(Change::CreateCluster { spec: spec("a b", QUORUM, 1) });
    partly.ok(register("a", "node-a", None));
    assert_eq!(rule(&mut partly, begin("a")), "member.exists");

    let mut bench = Bench::registered("a b", QUORUM, 1);
    assert_eq!(rule(&mut bench, finish("a", 1)), "cluster.phase");
    assert_eq!(rule(&mut bench, begin("x")), "member.exists");
    bench.ok(begin("a"));
    assert_eq!(rule(&mut bench, begin("b")), "cluster.phase");
    assert_eq!(rule(&mut bench, finish("b", 1)), "cluster.phase");
    for epoch in [0, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(rule(&mut bench, finish("a", epoch)), "spec.valid");
    }
    bench.ok(finish("a", 1));
    assert_eq!(rule(&mut bench, finish("a", 1)), "cluster.phase");
    assert_eq!(rule(&mut bench, begin("a")), "cluster.phase");
    let abandon = Change::AbandonBootstrap { member: m("a"), why: String::new() };
    assert_eq!(rule(&mut bench, abandon), "cluster.phase");
}

#[test]
fn an_epoch_is_closed_once() {
    let mut bench = Bench::active("a b c", 1);
    assert_eq!(rule(&mut bench, close(1, CloseReason::Crashed, true)), "epoch.current");
    assert_eq!(rule(&mut bench, close(3, CloseReason::Crashed, true)), "epoch.current");
    assert_eq!(rule(&mut bench, close(2, CloseReason::LeaseLost, true)), "epoch.stage");
    bench.ok(close(2, CloseReason::LeaseLost, false));
    assert_eq!(rule(&mut bench, close(2, CloseReason::LeaseLost, false)), "epoch.open");
}

#[test]
fn a_stop_is_recorded_of_a_closed_epoch() {
    let mut bench = Bench::active("a b c", 1);
    let stop = |e| Change::RecordStop { expect_epoch: Epoch(e) };
    assert_eq!(rule(&mut bench, stop(2)), "epoch.closed-before-grant");
    bench.close(CloseReason::LeaseLost, false);
    assert_eq!(rule(&mut bench, stop(1)), "epoch.current");
    bench.ok(stop(2));
    assert_eq!(bench.run(stop(2)), Reply::Nothing);
}

#[test]
fn every_guard_of_a_grant() {
    let mut bench = Bench::active("a b c", 1);
    let evidence = vec![sealed("b", 3, 2, 300), sealed("c", 3, 2, 200)];
    let good = |bench: &Bench| grant(bench, "b", evidence.clone(), any(3, 1, "c"));
    let now = good(&bench);
    assert_eq!(rule(&mut bench, now), "epoch.closed-before-grant");
    bench.close(CloseReason::LeaseLost, false);

    type Edit = fn(&mut Grant);
    let table: [(Edit, &str); 21] = [
        (|g| g.expect_epoch = Epoch(1), "epoch.current"),
        (|g| g.expect_epoch = Epoch(3), "epoch.current"),
        (|g| g.basis = Basis::Stopped, "epoch.stop-proven"),
        (|g| g.basis = Basis::Expired { term: TERM - 1 }, "lease.leadership"),
        (|g| g.basis = Basis::Expired { term: TERM + 1 }, "lease.leadership"),
        (|g| g.sync.seq += 1, "sync.valid"),
        (|g| g.sync.seq -= 1, "sync.valid"),
        (|g| g.expect_syncs = vec![], "sync.current"),
        (|g| g.expect_syncs = vec![any(2, 2, "b c")], "sync.current"),
        (|g| g.member = m("x"), "member.exists"),
        (|g| to_c(g), "takeover.best-candidate"),
        (|g| g.guard = guard(9), "takeover.best-candidate"),
        (|g| g.evidence.clear(), "takeover.read-quorum"),
        (|g| g.evidence.truncate(1), "takeover.read-quorum"),
        (|g| g.evidence[1].promised = Epoch(2), "takeover.evidence"),
        (|g| reshape(g, any(2, 1, "c")), "sync.valid"),
        (|g| reshape(g, any(3, 1, "b")), "sync.valid"),
        (|g| reshape(g, any(3, 2, "c")), "sync.valid"),
        (|g| reshape(g, any(3, 0, "c")), "sync.valid"),
        (|g| reshape(g, any(3, 1, "x")), "member.exists"),
        (|g| g.accept_data_loss = Some(1), "operation.exists"),
    ];
    for (i, (change, want)) in table.into_iter().enumerate() {
        let bad = edit(good(&bench), change);
        assert_eq!(rule(&mut bench, bad), want, "row {i}");
    }
    let now = good(&bench);
    bench.ok(now.clone());
    assert_eq!(bench.state().epoch, Epoch(3));
    assert_eq!(plain(&bench.state().syncs), [any(2, 1, "b c"), any(3, 1, "c")]);
    assert_eq!(rule(&mut bench, now), "epoch.current", "a grant is applied once");
}

#[test]
fn promotion_and_activation_belong_to_one_life_of_the_guard() {
    let mut bench = Bench::active("a b c", 1);
    bench.close(CloseReason::Crashed, true);
    let evidence = vec![sealed("b", 3, 2, 300), sealed("c", 3, 2, 200)];
    let now = grant(&bench, "b", evidence, any(3, 1, "c"));
    bench.ok(now);
    let early = activation(&bench);
    assert_eq!(rule(&mut bench, early), "epoch.stage");

    let record = |epoch, g, lineage: Lineage| Change::RecordPromotion {
        expect_epoch: Epoch(epoch),
        guard: guard(g),
        lineage,
    };
    let good = bench.state().lineage.with(Epoch(3), Lsn(300));
    let root = Lineage::root(Epoch(1));
    let table = [
        (record(2, b'b', good.clone()), "epoch.current"),
        (record(3, b'x', good.clone()), "lease.guard"),
        (record(3, b'b', Lineage::default()), "lineage.valid"),
        (record(3, b'b', root.clone()), "lineage.valid"),
        (record(3, b'b', root.with(Epoch(4), Lsn(9))), "lineage.valid"),
        (record(3, b'b', root.with(Epoch(2), Lsn(9)).with(Epoch(3), Lsn(8))), "lineage.valid"),
    ];
    for (change, want) in table {
        let text = format!("{change:?}");
        assert_eq!(rule(&mut bench, change), want, "{text}");
    }
    bench.ok(record(3, b'b', good.clone()));
    assert_eq!(bench.run(record(3, b'b', good)), Reply::Nothing);

    let with = |epoch, g, syncs: &[_]| Change::Activate {
        expect_epoch: Epoch(epoch),
        guard: guard(g),
        expect_syncs: syncs.to_vec(),
        postmaster_start_us: 7,
    };
    let syncs = bench.state().syncs.clone();
    assert_eq!(rule(&mut bench, with(2, b'b', &syncs)), "epoch.current");
    assert_eq!(rule(&mut bench, with(3, b'x', &syncs)), "lease.guard");
    assert_eq!(rule(&mut bench, with(3, b'b', &syncs[1..])), "sync.current");
    bench.ok(with(3, b'b', &syncs));
    assert_eq!(plain(&bench.state().syncs), [any(3, 1, "c")], "older configurations end");
    assert_eq!(bench.run(with(3, b'b', &syncs)), Reply::Nothing);
}

#[test]
fn a_synchronous_configuration_is_changed_jointly() {
    let mut bench = Bench::active("a b c", 1);
    let begin = |epoch, syncs: &[_], to| Change::BeginSyncChange {
        expect_epoch: Epoch(epoch),
        expect_syncs: syncs.to_vec(),
        to,
    };
    let finish = |epoch, syncs: &[_]| Change::FinishSyncChange {
        expect_epoch: Epoch(epoch),
        expect_syncs: syncs.to_vec(),
    };
    let old = bench.state().syncs.clone();
    let next = |config| numbered(&bench, config);
    let (new, own, late) = (next(any(2, 1, "b")), next(any(2, 1, "a")), next(any(3, 1, "b")));
    assert_eq!(rule(&mut bench, begin(1, &old, new.clone())), "epoch.current");
    assert_eq!(rule(&mut bench, begin(2, &[], new.clone())), "sync.current");
    assert_eq!(rule(&mut bench, begin(2, &old, own)), "sync.valid");
    assert_eq!(rule(&mut bench, begin(2, &old, late)), "sync.valid");
    assert_eq!(rule(&mut bench, begin(2, &old, any(2, 1, "b"))), "sync.valid");
    bench.ok(begin(2, &old, new.clone()));
    let both = [old[0].clone(), new.clone()];
    assert_eq!(bench.state().syncs, both);
    assert_eq!(rule(&mut bench, finish(2, &old)), "sync.current");
    bench.ok(finish(2, &both));
    assert_eq!(bench.state().syncs, [new]);

    // There and back again makes another list, so nothing old fits it.
    for config in [any(2, 1, "b c"), any(2, 1, "b")] {
        let now = bench.state().syncs.clone();
        let to = numbered(&bench, config);
        bench.ok(begin(2, &now, to));
        let now = bench.state().syncs.clone();
        assert_eq!(rule(&mut bench, finish(2, &both)), "sync.current");
        bench.ok(finish(2, &now));
    }
    bench.close(CloseReason::Crashed, true);
    let closed = bench.state().syncs.clone();
    let to = numbered(&bench, any(2, 1, "c"));
    assert_eq!(rule(&mut bench, begin(2, &closed, to)), "epoch.open");
    assert_eq!(rule(&mut bench, finish(2, &closed)), "epoch.open");
}

#[test]
fn a_list_that_is_full_of_changes_has_room_for_grants() {
    let mut bench = Bench::active("a b c", 1);
    let begin = |bench: &Bench, config| Change::BeginSyncChange {
        expect_epoch: Epoch(2),
        expect_syncs: bench.state().syncs.clone(),
        to: numbered(bench, config),
    };
    let full = (0..100).find(|i| {
        let to = begin(&bench, any(2, 1, if i % 2 == 0 { "b" } else { "c" }));
        matches!(bench.run(to), Reply::Rejected(_))
    });
    assert!(full.is_some(), "the list is bounded");
    for epoch in 3..100 {
        bench.close(CloseReason::Crashed, true);
        let evidence = vec![holder("a", epoch, 2, 300, epoch - 1)];
        let again = grant(&bench, "a", evidence, any(epoch, 1, "b c"));
        bench.ok(again);
    }
}

#[test]
fn operations_come_one_at_a_time() {
    let mut bench = Bench::active("a b c", 1);
    let over = |epoch, target| Change::StartSwitchover {
        expect_epoch: Epoch(epoch),
        target: m(target),
        by: "test".to_owned(),
    };
    let fail = |epoch, target: Option<&str>, accept_data_loss| Change::StartFailover {
        expect_epoch: Epoch(epoch),
        target: target.map(m),
        accept_data_loss,
        by: "test".to_owned(),
    };
    assert_eq!(rule(&mut bench, over(1, "b")), "epoch.current");
    assert_eq!(rule(&mut bench, over(2, "a")), "switchover.target-is-standby");
    assert_eq!(rule(&mut bench, over(2, "x")), "member.exists");
    bench.ok(tagged("c"));
    assert_eq!(rule(&mut bench, over(2, "c")), "member.nofailover");
    assert_eq!(rule(&mut bench, fail(2, Some("c"), true)), "member.nofailover");
    bench.ok(register("c", "node-c", None));
    bench.ok(over(2, "b"));
    assert_eq!(rule(&mut bench, over(2, "c")), "operation.one-at-a-time");
    assert_eq!(rule(&mut bench, fail(2, None, false)), "operation.one-at-a-time");
    let end = |operation| Change::FinishOperation {
        operation,
        outcome: Outcome::Failed { why: "é".repeat(600) },
    };
    assert_eq!(rule(&mut bench, end(9)), "operation.exists");
    bench.ok(end(1));
    assert_eq!(rule(&mut bench, end(1)), "operation.exists");

    assert_eq!(rule(&mut bench, fail(1, None, false)), "epoch.current");
    assert_eq!(rule(&mut bench, fail(2, Some("a"), false)), "switchover.target-is-standby");
    bench.ok(fail(2, None, true));
    assert!(bench.state().open_tenure().is_none(), "a failover closes the epoch");
    assert_eq!(rule(&mut bench, over(2, "b")), "operation.one-at-a-time");
}

#[test]
fn accepted_data_loss_needs_its_own_operation() {
    let mut bench = Bench::active("a b c", 1);
    bench.ok(Change::StartFailover {
        expect_epoch: Epoch(2),
        target: None,
        accept_data_loss: true,
        by: "test".to_owned(),
    });
    let alone = grant(&bench, "c", vec![sealed("c", 3, 2, 300)], any(3, 1, "b"));
    assert_eq!(rule(&mut bench, alone.clone()), "takeover.read-quorum");
    let other = edit(alone.clone(), |g| g.accept_data_loss = Some(7));
    assert_eq!(rule(&mut bench, other), "operation.exists");
    bench.ok(edit(alone, |g| g.accept_data_loss = Some(1)));
    assert_eq!(plain(&bench.state().syncs), [any(3, 1, "b")], "older promises are given up");
    let steps = [promotion(&bench, 300)];
    steps.into_iter().for_each(|s| bench.ok(s));
    let active = activation(&bench);
    bench.ok(active);
    assert!(bench.state().operation.is_none());
    assert!(matches!(bench.state().finished[0].outcome, Outcome::Done { .. }));
}

#[test]
fn a_switchover_that_ends_with_another_primary_has_failed() {
    let mut bench = Bench::active("a b c", 1);
    bench.ok(Change::StartSwitchover {
        expect_epoch: Epoch(2),
        target: m("b"),
        by: "test".to_owned(),
    });
    bench.close(CloseReason::Switchover, true);
    let back = grant(&bench, "a", vec![holder("a", 3, 2, 300, 2)], any(3, 1, "b c"));
    bench.ok(back);
    let promoted = promotion(&bench, 300);
    bench.ok(promoted);
    let active = activation(&bench);
    bench.ok(active);
    assert!(matches!(bench.state().finished[0].outcome, Outcome::Failed { .. }));
    assert!(matches!(bench.state().tenure.as_ref().unwrap().stage, Stage::Active { .. }));
}

#[test]
fn promotions_that_fail_in_a_row_do_not_pile_configurations_up() {
    let mut bench = Bench::active("a b c", 1);
    for epoch in 3..60 {
        bench.close(CloseReason::GivenUp, true);
        let (to, other) = if epoch % 2 == 0 { ("b", "c") } else { ("c", "b") };
        let evidence = vec![sealed("b", epoch, 2, 300), sealed("c", epoch, 2, 300)];
        let mut change = grant(&bench, to, evidence, any(epoch, 1, other));
        // The best of two that are equal is the first by name, unless the wish says otherwise.
        if to == "c" {
            change = edit(change, |g| g.evidence[1].lsn = Lsn(301));
        }
        bench.ok(change);
        assert!(bench.state().syncs.len() <= 3, "{:?}", bench.state().syncs);
    }
    assert!(bench.state().history.len() <= HISTORY_MAX);
}

#[test]
fn histories_are_bounded() {
    let mut bench = Bench::active("a b c", 1);
    for id in 1..=(HISTORY_MAX as u64) {
        bench.ok(Change::StartSwitchover {
            expect_epoch: Epoch(2),
            target: m("b"),
            by: "x".repeat(4000),
        });
        bench.ok(Change::FinishOperation {
            operation: id,
            outcome: Outcome::Failed { why: "y".repeat(4000) },
        });
    }
    assert_eq!(bench.state().history.len(), HISTORY_MAX);
    assert_eq!(bench.state().finished.len(), OPERATIONS_MAX);
    assert!(serde_json::to_string(&bench.control).unwrap().len() < 1_000_000);
}

#[test]
fn the_same_log_gives_the_same_bytes() {
    let bytes = || serde_json::to_vec(&Bench::active("a b c d e", 2).control).unwrap();
    assert_eq!(bytes(), bytes());
    let state = Bench::active("a b c", 1).control;
    let text = serde_json::to_string(&state).unwrap();
    let back: ControlState = serde_json::from_str(&text).unwrap();
    assert_eq!(back, state);
    let mut control = ControlState::default();
    let command = Command { cluster: cluster(), at: WALL, change: register("a", "n", None) };
    assert!(matches!(
        apply(&mut control, Position { term: 1, index: 1 }, &command),
        Reply::Rejected(_)
    ));
    assert_eq!(control, ControlState::default());
}
