//! What the agreed state asks of each member, at each point of a cluster's life.

use super::command::Change;
use super::desired::{Desired, desired};
use super::fixture_test::{
    Bench, SYSTEM, activation, any, grant, guard, holder, m, promotion, sealed,
};
use super::state::{CloseReason, SynchronousMode};
use super::types::Epoch;

fn asked(bench: &Bench) -> Vec<String> {
    let of = |name: &str| match desired(bench.state(), &m(name)) {
        Desired::Register => "register".to_owned(),
        Desired::Wait { .. } => "wait".to_owned(),
        Desired::Bootstrap => "bootstrap".to_owned(),
        Desired::Sealed { promise } => format!("sealed {promise}"),
        Desired::Primary(d) => match d.handover {
            Some(to) => format!("primary {} to {to}", d.epoch),
            None => format!("primary {}", d.epoch),
        },
        Desired::Follow(d) => {
            format!("follow {} {}{}", d.primary, d.epoch, if d.active { "" } else { " early" })
        }
    };
    ["a", "b", "x"].map(of).to_vec()
}

#[test]
fn at_each_point_of_a_clusters_life() {
    let mut bench = Bench::registered("a b", SynchronousMode::Quorum, 1);
    assert_eq!(asked(&bench), ["wait", "wait", "register"]);
    bench.ok(Change::BeginBootstrap { member: m("a") });
    assert_eq!(asked(&bench), ["bootstrap", "wait", "register"]);
    bench.ok(Change::FinishBootstrap { member: m("a"), system_id: SYSTEM, epoch: Epoch(1) });
    assert_eq!(asked(&bench), ["sealed 2", "sealed 2", "register"]);
    let change = grant(&bench, "a", vec![holder("a", 2, 1, 100, 1)], any(2, 1, "b"));
    bench.ok(change);
    assert_eq!(asked(&bench), ["primary 2", "sealed 2", "register"]);
    let change = promotion(&bench, 200);
    bench.ok(change);
    assert_eq!(asked(&bench), ["primary 2", "follow a 2 early", "register"]);
    let change = activation(&bench);
    bench.ok(change);
    assert_eq!(asked(&bench), ["primary 2", "follow a 2", "register"]);
    bench.ok(Change::StartSwitchover {
        expect_epoch: Epoch(2),
        target: m("b"),
        by: "test".to_owned(),
    });
    assert_eq!(asked(&bench), ["primary 2 to b", "follow a 2", "register"]);
    bench.close(CloseReason::Switchover, true);
    assert_eq!(asked(&bench), ["sealed 3", "sealed 3", "register"]);
    let change = grant(&bench, "b", vec![sealed("b", 3, 2, 300)], any(3, 1, "a"));
    bench.ok(change);
    assert_eq!(asked(&bench), ["sealed 3", "primary 3", "register"], "nobody hands it over again");
}

#[test]
fn the_primary_is_told_of_its_guard_and_all_configurations() {
    let mut bench = Bench::active("a b c", 1);
    bench.close(CloseReason::Crashed, true);
    let two = vec![sealed("b", 3, 2, 300), sealed("c", 3, 2, 300)];
    let change = grant(&bench, "b", two, any(3, 1, "c"));
    bench.ok(change);
    let Desired::Primary(duty) = desired(bench.state(), &m("b")) else { panic!("not primary") };
    assert_eq!(duty.guard, guard(b'b'));
    assert_eq!(duty.syncs, bench.state().syncs);
    assert_eq!(duty.syncs.last().map(|c| c.epoch), Some(Epoch(3)));
    assert_eq!(duty.others, [m("a"), m("c")]);
}
