//! What the agreed state asks of each member, at each point of a cluster's life.

use super::command::Change;
use super::desired::{Desired, desired, desired_on};
use super::fixture_test::{
    Bench, SYSTEM, activation, any, grant, guard, holder, m, promotion, sealed,
};
use super::state::{CloseReason, SynchronousMode};
use super::types::{Epoch, NodeName};

fn asked(bench: &Bench) -> Vec<String> {
    let of = |name: &str| match desired(bench.state(), &m(name)) {
        Desired::Register => "register".to_owned(),
        Desired::Removed => "removed".to_owned(),
        Desired::Adopt { epoch, .. } => format!("adopt {epoch}"),
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

#[test]
fn whom_a_follower_is_tagged_to_take_wal_and_copies_from() {
    // (tags, upstream of each of b, c, d under primary a)
    type Tags = &'static [(&'static str, &'static str)];
    let table: [(Tags, [&str; 3]); 6] = [
        (&[], ["", "", ""]),
        (&[("c", "b"), ("d", "c")], ["", "b", "c"]),
        (&[("c", "a"), ("d", "x")], ["", "", ""]),
        // A chain that comes back is none, and neither is one that leads into it.
        (&[("b", "c"), ("c", "b"), ("d", "c")], ["", "", ""]),
        // One that leads to the primary ends there, whatever that is tagged with.
        (&[("a", "d"), ("d", "c"), ("c", "a")], ["", "", "c"]),
        (&[("b", "d"), ("a", "b")], ["d", "", ""]),
    ];
    for (tags, want) in table {
        let mut state = Bench::active("a b c d", 1).state().clone();
        for (name, upstream) in tags {
            state.members.get_mut(&m(name)).unwrap().tags.replicatefrom = Some(m(upstream));
        }
        for name in ["a", "d"] {
            state.members.get_mut(&m(name)).unwrap().tags.clonefrom = true;
        }
        for (name, want) in ["b", "c", "d"].into_iter().zip(want) {
            let Desired::Follow(duty) = desired(&state, &m(name)) else { panic!("{name}") };
            let found = duty.upstream.as_ref().map_or("", |u| u.member.as_str());
            assert_eq!(found, want, "{name} under {tags:?}");
            let (from, address) = duty.streams_from();
            assert_eq!(from.as_str(), if want.is_empty() { "a" } else { want });
            assert_eq!(address, state.members[from].address);
            assert_eq!(duty.from_primary().streams_from().0, &m("a"));
            let sources: Vec<_> = duty.sources.iter().map(|s| s.member.as_str()).collect();
            assert_eq!(sources, if name == "d" { vec![] } else { vec!["d"] });
        }
    }
}

#[test]
fn a_name_that_is_bound_to_another_node_is_not_this_nodes_member() {
    let mut bench = Bench::active("a b", 1);
    let on = |bench: &Bench, name: &str, node: &str| {
        desired_on(bench.state(), &m(name), &NodeName::new(node).unwrap())
    };
    for name in ["a", "b", "x"] {
        let home = format!("node-{name}");
        assert_eq!(on(&bench, name, &home), desired(bench.state(), &m(name)), "{name}");
    }
    // Neither follows under the other's slot name, nor leads.
    assert_eq!(on(&bench, "b", "node-old"), Desired::Removed);
    assert_eq!(on(&bench, "a", "node-old"), Desired::Removed);
    bench.close(CloseReason::Crashed, true);
    assert_eq!(on(&bench, "b", "node-old"), Desired::Removed, "nor is it sealed as the other");
}
