//! Who is chosen among sealed members, and each reason against one.

use super::candidate::{Proof, Refusal, choose};
use super::command::Change;
use super::fixture_test::{Bench, any, grant, guard, holder, m, register, sealed};
use super::observation::Sealed;
use super::state::CloseReason;
use super::types::Epoch;

/// Three members, `a` was primary of epoch 2 with `ANY 1 (b c)`, which is closed.
fn closed() -> Bench {
    let mut bench = Bench::active("a b c", 1);
    bench.close(CloseReason::LeaseLost, false);
    bench
}

fn chosen(bench: &Bench, evidence: &[Sealed], wish: Option<&str>) -> Result<String, &'static str> {
    let wish = wish.map(m);
    choose(bench.state(), evidence, wish.as_ref(), Proof::Quorum)
        .map(|s| s.member.to_string())
        .map_err(|refusal| refusal.rule())
}

#[test]
fn most_wal_wins_by_epoch_before_position() {
    let bench = closed();
    // (evidence, wish, who)
    let table = [
        (vec![sealed("b", 3, 2, 300), sealed("c", 3, 2, 200)], None, "b"),
        (vec![sealed("b", 3, 2, 200), sealed("c", 3, 2, 300)], None, "c"),
        (vec![sealed("b", 3, 1, 900), sealed("c", 3, 2, 300)], None, "c"),
        (vec![sealed("b", 3, 2, 300), sealed("c", 3, 2, 300)], None, "b"),
        (vec![sealed("b", 3, 2, 300), sealed("c", 3, 2, 300)], Some("c"), "c"),
        (vec![sealed("b", 3, 2, 301), sealed("c", 3, 2, 300)], Some("c"), "b"),
        (vec![holder("a", 3, 2, 300, 2), sealed("b", 3, 2, 300)], Some("b"), "b"),
        (vec![holder("a", 3, 2, 301, 2), sealed("b", 3, 2, 300)], Some("b"), "a"),
        (vec![holder("a", 3, 2, 300, 2)], None, "a"),
    ];
    for (evidence, wish, who) in table {
        assert_eq!(chosen(&bench, &evidence, wish), Ok(who.to_owned()), "{evidence:?} {wish:?}");
        let reversed: Vec<Sealed> = evidence.iter().rev().cloned().collect();
        assert_eq!(chosen(&bench, &reversed, wish), Ok(who.to_owned()), "order must not matter");
    }
}

#[test]
fn priority_breaks_ties_only() {
    let mut bench = closed();
    let mut preferred = register("c", "node-c", None);
    if let Change::RegisterMember { priority, .. } = &mut preferred {
        *priority = 9;
    }
    bench.ok(preferred);
    let tie = [sealed("b", 3, 2, 300), sealed("c", 3, 2, 300)];
    assert_eq!(chosen(&bench, &tie, None), Ok("c".to_owned()));
    let behind = [sealed("b", 3, 2, 301), sealed("c", 3, 2, 300)];
    assert_eq!(chosen(&bench, &behind, None), Ok("b".to_owned()));
}

#[test]
fn without_a_read_quorum_nobody_is_chosen() {
    let bench = closed();
    for evidence in [vec![], vec![sealed("b", 3, 2, 300)], vec![holder("b", 3, 2, 300, 1)]] {
        assert_eq!(chosen(&bench, &evidence, None), Err("takeover.read-quorum"), "{evidence:?}");
    }
}

#[test]
fn whoever_was_granted_the_epoch_covers_it_though_it_never_took_it_up() {
    // The grant was lost on the way, or the guard that it named ended before.
    let bench = closed();
    assert_eq!(chosen(&bench, &[sealed("a", 3, 2, 300)], None), Ok("a".to_owned()));
    let more = [sealed("a", 3, 2, 300), sealed("b", 3, 2, 301)];
    assert_eq!(chosen(&bench, &more, None), Ok("b".to_owned()), "who has most is still chosen");
}

#[test]
fn wal_of_an_unrecorded_promotion_counts_with_whoever_was_granted_more_on_it() {
    let mut bench = closed();
    // b is promoted to epoch 3, which is closed before anybody records that.
    let quorum = vec![sealed("b", 3, 2, 300), sealed("c", 3, 2, 300)];
    bench.ok(grant(&bench, "b", quorum, any(3, 1, "c")));
    bench.close(CloseReason::LeaseLost, false);
    assert_eq!(chosen(&bench, &[holder("b", 4, 3, 310, 3)], None), Ok("b".to_owned()));
    // It accepts epoch 4, and is lost before it is promoted again.
    bench.ok(grant(&bench, "b", vec![holder("b", 4, 3, 310, 3)], any(4, 1, "c")));
    bench.close(CloseReason::LeaseLost, false);
    assert_eq!(chosen(&bench, &[holder("b", 5, 3, 310, 4)], None), Ok("b".to_owned()));
    // Nobody else has such WAL.
    for held in [0, 2] {
        let refusal = chosen(&bench, &[holder("b", 5, 3, 310, held)], None);
        assert!(refusal.is_err(), "{held}: {refusal:?}");
    }
}

#[test]
fn evidence_that_does_not_count_is_refused() {
    let bench = closed();
    let b = sealed("b", 3, 2, 300);
    let table = [
        (vec![b.clone(), sealed("x", 3, 2, 300)], "it is not a member"),
        (vec![b.clone(), b.clone()], "it is there twice"),
        (vec![b.clone(), sealed("c", 2, 2, 300)], "has not promised"),
        (vec![b.clone(), sealed("c", 3, 3, 300)], "never granted"),
        (vec![b.clone(), holder("c", 3, 2, 300, 3)], "never granted"),
    ];
    for (evidence, why) in table {
        match choose(bench.state(), &evidence, None, Proof::Quorum) {
            Err(Refusal::BadEvidence { why: said, .. }) => assert!(said.contains(why), "{said}"),
            other => panic!("{evidence:?}: {other:?}"),
        }
        // The operator overrides the read quorum alone.
        assert!(choose(bench.state(), &evidence, None, Proof::Waived).is_err());
    }
    // It was tagged before the primary was lost.
    let mut state = bench.state().clone();
    state.members.get_mut(&m("c")).expect("a member").tags.nofailover = true;
    let refusal = choose(&state, &[b, sealed("c", 3, 2, 300)], None, Proof::Quorum).unwrap_err();
    assert!(refusal.to_string().contains("nofailover"), "{refusal}");
}

#[test]
fn accepted_data_loss_overrides_the_quorum_and_follows_the_wish() {
    let bench = closed();
    let evidence = [sealed("b", 3, 2, 300), sealed("c", 3, 2, 200)];
    let one = [sealed("c", 3, 2, 200)];
    let pick = |evidence, wish: Option<&str>| {
        let wish = wish.map(m);
        choose(bench.state(), evidence, wish.as_ref(), Proof::Waived).map(|s| s.member.clone())
    };
    assert_eq!(pick(&one, None), Ok(m("c")));
    assert_eq!(pick(&evidence, None), Ok(m("b")));
    assert_eq!(pick(&evidence, Some("c")), Ok(m("c")));
    assert_eq!(pick(&[], None), Err(Refusal::NoCandidate { epoch: Epoch(3) }));
}

#[test]
fn a_promise_of_a_later_epoch_counts() {
    let bench = closed();
    let evidence = [sealed("b", 9, 2, 300), sealed("c", 3, 2, 200)];
    assert_eq!(chosen(&bench, &evidence, None), Ok("b".to_owned()));
    assert_eq!(evidence[0].guard, guard(b'b'));
}
