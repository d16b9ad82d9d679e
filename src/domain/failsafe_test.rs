//! The rules of failsafe, one by one.

use std::collections::BTreeSet;

use super::command::{Basis, Change, Rejection};
use super::desired::desired;
use super::failsafe::{
    Abstention, Denial, Question, TTL_MS_MAX, Witnesses, due, heard, is_lapsed, judge, keepable,
};
use super::fixture_test::{
    Bench, Leader, TERM, activation, any, at_ms, cluster, grant, guard, holder, m, names,
    promotion, register, rules, sealed, sealed_report, spec, standby,
};
use super::lease::{HolderLease, Timing};
use super::membership::MembershipChange;
use super::observation::Sealed;
use super::reconcile::{Action, Local, Process, reconcile};
use super::record::MemberRecord;
use super::state::{CloseReason, ClusterSpec, ClusterState, SynchronousMode, Tenure};
use super::types::{BootTime, Epoch};

/// `a` is active in epoch 2, which was granted with failsafe, and `ANY 2 (b c)`: one of them is a
/// read quorum.
fn bench() -> Bench {
    active("a b c", true)
}

fn active(list: &str, failsafe: bool) -> Bench {
    let mut bench = Bench::empty();
    let others: Vec<&str> = list.split_whitespace().skip(1).collect();
    let w = others.len() as u32;
    let mode = if w == 0 { SynchronousMode::Async } else { SynchronousMode::Quorum };
    bench.ok(Change::CreateCluster { spec: ClusterSpec { failsafe, ..spec(list, mode, w) } });
    for name in list.split_whitespace() {
        bench.ok(register(name, &format!("node-{name}"), None));
    }
    bench.ok(Change::BeginBootstrap { member: m("a") });
    bench.ok(Change::FinishBootstrap {
        member: m("a"),
        system_id: super::fixture_test::SYSTEM,
        epoch: Epoch(1),
    });
    let sync = any(2, w, &others.join(" "));
    bench.ok(grant(&bench, "a", vec![holder("a", 2, 1, 100, 1)], sync));
    bench.ok(promotion(&bench, 200));
    bench.ok(activation(&bench));
    bench
}

fn question() -> Question {
    let timing = Timing::default();
    Question {
        cluster: cluster(),
        peer: m("b"),
        holder: m("a"),
        epoch: Epoch(2),
        guard: guard(b'a'),
        ttl_ms: timing.ttl_ms,
        clock_error_ppm: timing.clock_error_ppm,
        end: None,
    }
}

fn says(state: &ClusterState, promised: u64) -> Result<(), Denial> {
    judge(&question(), Epoch(promised), false, Some(state))
}

fn lapsed(state: &ClusterState, tenure: &Tenure, evidence: &[Sealed]) -> bool {
    is_lapsed(state, tenure, &heard(evidence, &Witnesses::new()))
}

/// `b` is sealed for epoch 3 with all of epoch 2.
fn sealed_b() -> Sealed {
    let lineage = super::lineage::Lineage::root(Epoch(1)).with(Epoch(2), super::types::Lsn(200));
    Sealed { lineage, ..sealed("b", 3, 2, 500) }
}

#[test]
fn the_grant_fixes_failsafe_and_its_peers() {
    let mut bench = bench();
    let tenure = bench.state().tenure.clone().unwrap();
    assert!(tenure.failsafe);
    assert_eq!(tenure.peers, names("b c"));
    bench.ok(register("d", "node-d", None));
    assert_eq!(bench.state().tenure.as_ref().unwrap().peers, names("b c"), "fixed for the epoch");
    let off = active("a b c", false);
    assert!(!off.state().tenure.as_ref().unwrap().failsafe);
    // Nobody could be asked, and nobody's seal could end it.
    let alone = active("a", true);
    assert!(!alone.state().tenure.as_ref().unwrap().failsafe);
}

#[test]
fn state_of_before_reads_as_without_failsafe() {
    let bench = bench();
    let mut json = serde_json::to_value(bench.state()).unwrap();
    let strip = |value: &mut serde_json::Value, keys: &[&str]| {
        let map = value.as_object_mut().unwrap();
        keys.iter().for_each(|k| _ = map.remove(*k).unwrap());
    };
    strip(&mut json["tenure"], &["failsafe", "peers"]);
    strip(&mut json["spec"], &["failsafe"]);
    strip(&mut json["members"]["a"], &["agent_address"]);
    let old: ClusterState = serde_json::from_value(json).unwrap();
    assert!(!old.spec.failsafe);
    let tenure = old.tenure.unwrap();
    assert!(!tenure.failsafe && tenure.peers.is_empty());
}

#[test]
fn a_peer_promises_the_holder_that_it_knows() {
    let bench = bench();
    assert_eq!(says(bench.state(), 2), Ok(()));
    assert_eq!(says(bench.state(), 1), Ok(()), "it may not have followed yet");
}

#[test]
fn a_peer_that_has_promised_a_later_epoch_does_not_promise() {
    let bench = bench();
    assert_eq!(says(bench.state(), 3), Err(Denial::Promised { promised: Epoch(3) }));
    let blind = judge(&question(), Epoch(3), false, None);
    assert_eq!(blind, Err(Denial::Promised { promised: Epoch(3) }), "whatever it knows");
}

#[test]
fn a_primary_does_not_promise() {
    let bench = bench();
    let answer = judge(&question(), Epoch(2), true, Some(bench.state()));
    assert_eq!(answer, Err(Denial::Leads));
}

#[test]
fn a_peer_that_knows_of_the_end_does_not_promise() {
    let mut bench = bench();
    bench.close(CloseReason::LeaseLost, false);
    assert_eq!(says(bench.state(), 2), Err(Denial::Closed { epoch: Epoch(2) }));
    bench.ok(grant(&bench, "b", vec![sealed_b()], any(3, 1, "c")));
    assert_eq!(says(bench.state(), 2), Err(Denial::Another { known: Epoch(3) }));
}

#[test]
fn a_peer_does_not_promise_another_holder_or_guard() {
    let bench = bench();
    let ask = |question: Question| judge(&question, Epoch(2), false, Some(bench.state()));
    let another = Err(Denial::Another { known: Epoch(2) });
    assert_eq!(ask(Question { guard: guard(b'Z'), ..question() }), another);
    assert_eq!(ask(Question { holder: m("c"), ..question() }), another);
    assert_eq!(ask(Question { epoch: Epoch(3), ..question() }), another, "it is behind");
}

#[test]
fn a_peer_that_knows_nothing_promises_what_it_followed() {
    assert_eq!(judge(&question(), Epoch(2), false, None), Ok(()));
    let lost = judge(&question(), Epoch(0), false, None);
    assert_eq!(lost, Err(Denial::Unknown { epoch: Epoch(2) }), "its record may be lost");
}

#[test]
fn nobody_stands_back_for_ever() {
    let bench = bench();
    for (ttl_ms, clock_error_ppm) in [(0, 0), (TTL_MS_MAX + 1, 0), (u64::MAX, 0), (1, 500_000)] {
        let question = Question { ttl_ms, clock_error_ppm, ..question() };
        let answer = judge(&question, Epoch(2), false, Some(bench.state()));
        assert_eq!(answer, Err(Denial::BadTimes { ttl_ms, clock_error_ppm }));
    }
}

#[test]
fn a_promise_outlasts_the_lease_by_any_clocks() {
    let mut abstention = Abstention::new(at_ms(0));
    let bench = bench();
    abstention.promise(&question(), at_ms(10_000));
    let until = abstention.until(Some(bench.state()));
    assert_eq!(until, at_ms(10_000).plus(Timing::default().takeover_wait()));
    // An older question takes nothing back.
    abstention.promise(&question(), at_ms(9_000));
    assert_eq!(abstention.until(Some(bench.state())), until);
}

#[test]
fn an_agent_that_starts_stands_back_as_if_it_had_promised() {
    let started = at_ms(10_000);
    let abstention = Abstention::new(started);
    assert_eq!(abstention.until(None), BootTime::from_nanos(u64::MAX), "until it knows more");
    let with = bench();
    assert_eq!(
        abstention.until(Some(with.state())),
        started.plus(Timing::default().takeover_wait())
    );
    let without = active("a b c", false);
    assert_eq!(abstention.until(Some(without.state())), at_ms(0), "no failsafe, no wait");
}

#[test]
fn only_an_active_open_epoch_of_its_own_is_kept() {
    let mut bench = bench();
    let mine = |bench: &Bench| keepable(bench.state(), &m("a"), Epoch(2), &guard(b'a')).is_some();
    assert!(mine(&bench));
    assert!(keepable(bench.state(), &m("b"), Epoch(2), &guard(b'a')).is_none());
    assert!(keepable(bench.state(), &m("a"), Epoch(3), &guard(b'a')).is_none());
    assert!(keepable(bench.state(), &m("a"), Epoch(2), &guard(b'Z')).is_none());
    assert!(!mine(&active("a b c", false)), "off");
    bench.close(CloseReason::LeaseLost, false);
    assert!(!mine(&bench), "closed");
    // Granted with failsafe, and not active yet.
    bench.ok(grant(&bench, "b", vec![sealed_b()], any(3, 1, "c")));
    assert!(bench.state().tenure.as_ref().unwrap().failsafe);
    assert!(keepable(bench.state(), &m("b"), Epoch(3), &guard(b'b')).is_none());
}

#[test]
fn peers_are_asked_late_at_first_and_then_as_often_as_it_renews() {
    let timing = Timing::default();
    let lease = HolderLease::from_renewal(Epoch(2), at_ms(10_000), &timing);
    assert_eq!(lease.sent(&timing), at_ms(10_000));
    assert_eq!(due(&lease, false, &timing), at_ms(11_500));
    assert_eq!(due(&lease, true, &timing), at_ms(10_500));
}

#[test]
fn an_expiry_alone_follows_no_epoch_that_peers_may_keep() {
    let mut bench = active("a b c", true);
    bench.ok(register("d", "node-d", None));
    bench.ok(Change::BeginSyncChange {
        expect_epoch: Epoch(2),
        expect_syncs: bench.state().syncs.clone(),
        to: super::fixture_test::numbered(&bench, any(2, 3, "b c d")),
    });
    bench.ok(Change::FinishSyncChange {
        expect_epoch: Epoch(2),
        expect_syncs: bench.state().syncs.clone(),
    });
    bench.close(CloseReason::LeaseLost, false);
    // The one that joined later is a read quorum, and was never asked.
    let d = Sealed { member: m("d"), guard: guard(b'd'), ..sealed_b() };
    let late = grant(&bench, "d", vec![d.clone()], any(3, 1, "b"));
    let refused = bench.refused(late);
    assert_eq!(refused.rule(), "failsafe.peer-sealed");
    assert!(
        matches!(&refused, Rejection::FailsafePeers { peers, .. } if *peers == [m("b"), m("c")])
    );
    assert!(refused.to_string().contains("b, c"), "{refused}");
    // The operator's word is about data, not about who runs.
    bench.ok(Change::StartFailover {
        expect_epoch: Epoch(2),
        target: None,
        accept_data_loss: true,
        by: "ops".to_owned(),
    });
    let mut waived = grant(&bench, "d", vec![d.clone()], any(3, 1, "b"));
    if let Change::Grant(g) = &mut waived {
        g.accept_data_loss = bench.state().operation.as_ref().map(|op| op.id);
    }
    assert_eq!(bench.refused(waived).rule(), "failsafe.peer-sealed");
    // A sealed peer has not promised for a window, and never will again.
    let mut more = bench.clone();
    let evidence = vec![sealed_b(), d.clone()];
    more.ok(grant(&more, "b", evidence, any(3, 1, "c")));
    // A proven stop needs none of it.
    bench.ok(Change::RecordStop { expect_epoch: Epoch(2) });
    bench.ok(grant(&bench, "d", vec![d], any(3, 1, "b")));
}

#[test]
fn a_seal_for_the_epoch_itself_says_nothing() {
    let bench = bench();
    let tenure = bench.state().tenure.as_ref().unwrap();
    assert!(!lapsed(bench.state(), tenure, &[]));
    assert!(!lapsed(bench.state(), tenure, &[sealed("b", 2, 1, 100)]));
    assert!(!lapsed(bench.state(), tenure, &[sealed("d", 3, 2, 100)]));
    assert!(lapsed(bench.state(), tenure, &[sealed("b", 3, 2, 100)]));
    assert!(lapsed(bench.state(), tenure, &[holder("a", 3, 2, 100, 2)]), "it has ended");
    let off = active("a b c", false);
    assert!(lapsed(off.state(), off.state().tenure.as_ref().unwrap(), &[]));
}

#[test]
fn the_leader_waits_for_a_peer_and_says_so() {
    let mut bench = active("a b c", true);
    bench.ok(register("d", "node-d", None));
    bench.ok(Change::BeginSyncChange {
        expect_epoch: Epoch(2),
        expect_syncs: bench.state().syncs.clone(),
        to: super::fixture_test::numbered(&bench, any(2, 3, "b c d")),
    });
    bench.ok(Change::FinishSyncChange {
        expect_epoch: Epoch(2),
        expect_syncs: bench.state().syncs.clone(),
    });
    let mut leader = Leader::new();
    leader.plan(&bench);
    leader.pass_ms(2_500);
    leader.hears("d", standby("d", 2, 500));
    let plan = leader.plan(&bench);
    assert!(rules(&plan).contains(&"failsafe.peer-sealed"), "{plan:?}");
    assert_eq!(plan.proposal, None, "it may be healthy by its peers: it is not closed");
    leader.hears("b", standby("b", 2, 500));
    let plan = leader.plan(&bench);
    assert!(matches!(plan.proposal, Some(Change::Close { .. })), "{plan:?}");

    bench.close(CloseReason::LeaseLost, false);
    leader.plan(&bench);
    leader.pass_ms(10_000);
    let d = Sealed { member: m("d"), guard: guard(b'd'), ..sealed_b() };
    leader.hears("d", sealed_report(&d));
    let plan = leader.plan(&bench);
    assert!(rules(&plan).contains(&"failsafe.peer-sealed"), "{plan:?}");
    assert_eq!(plan.proposal, None);
    leader.hears("b", sealed_report(&sealed_b()));
    let plan = leader.plan(&bench);
    let Some(Change::Grant(granted)) = &plan.proposal else { panic!("{plan:?}") };
    assert_eq!(granted.basis, Basis::Expired { term: TERM });
    bench.ok(plan.proposal.unwrap());
}

#[test]
fn nobody_accepts_an_epoch_while_it_stands_back() {
    let mut bench = bench();
    bench.close(CloseReason::LeaseLost, false);
    bench.ok(grant(&bench, "b", vec![sealed_b()], any(3, 1, "c")));
    let wanted = desired(bench.state(), &m("b"));
    let mut local = Local {
        record: MemberRecord { promised: Epoch(3), ..MemberRecord::new(cluster(), m("b")) },
        data: super::observation::Data::Present { system_id: super::fixture_test::SYSTEM },
        guard: Some(guard(b'b')),
        process: Process::Sealed { promise: Epoch(3), position: Some(sealed_b()) },
        lease: None,
        hung: false,
        rewind_failed: false,
        source_lacks_wal: false,
        unstartable: false,
        consistent: true,
        upstream_lost: false,
        no_part_until: at_ms(5_000),
    };
    let waits = reconcile(&m("b"), &wanted, &local, at_ms(4_999));
    assert!(matches!(waits, Action::Nothing { .. }), "{waits:?}");
    let goes = reconcile(&m("b"), &wanted, &local, at_ms(5_000));
    assert_eq!(goes, Action::Accept { epoch: Epoch(3) });
    // It may be sealed meanwhile.
    local.process = Process::Sealed { promise: Epoch(3), position: None };
    let seals = reconcile(&m("b"), &wanted, &local, at_ms(4_999));
    assert_eq!(seals, Action::Seal { promise: Epoch(3) });
}

#[test]
fn a_member_that_is_removed_is_no_peer_any_more() {
    let mut bench = bench();
    bench.ok(Change::BeginSyncChange {
        expect_epoch: Epoch(2),
        expect_syncs: bench.state().syncs.clone(),
        to: super::fixture_test::numbered(&bench, any(2, 1, "b")),
    });
    bench.ok(Change::FinishSyncChange {
        expect_epoch: Epoch(2),
        expect_syncs: bench.state().syncs.clone(),
    });
    let (expect_epoch, member) = (Epoch(2), m("c"));
    let by = "ops".to_owned();
    let begin = MembershipChange::BeginRemoval { expect_epoch, member: member.clone(), by };
    bench.ok(Change::Membership(begin));
    assert_eq!(bench.state().tenure.as_ref().unwrap().peers, names("b c"), "not yet");
    bench.ok(Change::Membership(MembershipChange::FinishRemoval { expect_epoch, member }));
    assert_eq!(bench.state().tenure.as_ref().unwrap().peers, names("b"));
}

/// A control plane that was recovered by hand may not know the newest epoch, nor that it has failsafe.
#[test]
fn an_old_state_takes_its_newest_epoch_for_one_with_failsafe() {
    let mut bench = active("a b c", false);
    bench.ok(register("d", "node-d", None));
    let mut state = bench.state().clone();
    super::failsafe::doubt(&mut state);
    let tenure = state.tenure.clone().unwrap();
    assert_eq!((tenure.failsafe, &tenure.peers), (true, &names("b c")));
    assert!(!lapsed(&state, &tenure, &[sealed("d", 3, 2, 100)]));
    assert!(lapsed(&state, &tenure, &[sealed("c", 3, 2, 100)]));
    // All who could know are stated to be gone for ever.
    let lost = names("a b c");
    state.verify = Some(super::rescue::Verify { raised: true, lost, complete: true });
    assert!(lapsed(&state, &tenure, &[sealed("d", 3, 2, 100)]));
    state.verify = Some(super::rescue::Verify { raised: true, lost: names("a b"), complete: true });
    assert!(!lapsed(&state, &tenure, &[sealed("d", 3, 2, 100)]));
    // Of before there were peers.
    state.tenure.as_mut().unwrap().peers.clear();
    super::failsafe::doubt(&mut state);
    assert_eq!(state.tenure.unwrap().peers, names("b c d"));
}

#[test]
fn nobody_is_its_own_peer() {
    for list in ["a b", "a b c", "a b c d e"] {
        let bench = active(list, true);
        let mut all: BTreeSet<_> = names(list);
        assert!(all.remove(&m("a")));
        assert_eq!(bench.state().tenure.as_ref().unwrap().peers, all);
    }
}
