//! Rules and steps of changes of the nodes, and a walk of both together over every leader change.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::domain::command::{Rejection, Reply};

fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn command(act: NodesAct) -> NodesCommand {
    NodesCommand { nodes_at: WallMillis(1000), by: "me".to_owned(), act }
}

fn add(id: NodeId, node: &str) -> NodesCommand {
    let (name, address) = (name(node), format!("{node}{id}:1"));
    command(NodesAct::Add { id, name, address, expires_at: WallMillis(5000) })
}

fn remove(id: NodeId) -> NodesCommand {
    command(NodesAct::Remove { id })
}

fn note(nodes: &mut Nodes, configs: &[&[NodeId]], learners: &[NodeId]) {
    let configs: Vec<BTreeSet<_>> = configs.iter().map(|c| c.iter().copied().collect()).collect();
    let all = configs.iter().flatten().chain(learners);
    let all = all.map(|id| (*id, (format!("n{id}"), format!("h{id}:1")))).collect();
    nodes.note_membership(&configs, &all);
}

fn group_of(voters: &[NodeId]) -> Nodes {
    let mut nodes = Nodes::default();
    note(&mut nodes, &[voters], &[]);
    nodes
}

fn rule(reply: &Reply) -> &'static str {
    match reply {
        Reply::Rejected(rejection) => rejection.rule(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_id_is_used_once() {
    let mut nodes = group_of(&[1, 2, 3]);
    assert_eq!(nodes.next_id, 4);
    assert_eq!(rule(&apply(&mut nodes, &add(3, "x"))), "node.id-unused");
    assert_eq!(apply(&mut nodes, &remove(3)), Reply::Applied { operation: None });
    assert!(nodes.is_removed(3) && !nodes.is_gone(3), "it counts until it is out");
    note(&mut nodes, &[&[1, 2, 3], &[1, 2]], &[]);
    assert!(nodes.change.is_some(), "a joint membership is not the end");
    note(&mut nodes, &[&[1, 2]], &[]);
    assert!(nodes.change.is_none() && nodes.is_gone(3));
    assert_eq!(rule(&apply(&mut nodes, &add(3, "n3"))), "node.id-unused");
    // The same name comes back under a new id.
    apply(&mut nodes, &add(4, "n3"));
    note(&mut nodes, &[&[1, 2]], &[4]);
    note(&mut nodes, &[&[1, 2], &[1, 2, 4]], &[]);
    note(&mut nodes, &[&[1, 2, 4]], &[]);
    assert!(nodes.change.is_none());
    assert_eq!(nodes.next_id, 5);
    let kinds: Vec<_> = nodes.history.iter().map(|e| (e.id, e.node)).collect();
    assert_eq!(kinds, [(1, 3), (2, 3), (3, 4), (4, 4)]);
}

#[test]
fn one_change_at_a_time_and_every_guard_before_it() {
    let mut nodes = group_of(&[1]);
    assert_eq!(rule(&apply(&mut nodes, &remove(1))), "node.not-last");
    assert_eq!(rule(&apply(&mut nodes, &remove(7))), "node.exists");
    assert_eq!(rule(&apply(&mut nodes, &add(2, "n1"))), "node.name-free");
    let taken = command(NodesAct::Add {
        id: 2,
        name: name("x"),
        address: "h1:1".to_owned(),
        expires_at: WallMillis(0),
    });
    assert_eq!(rule(&apply(&mut nodes, &taken)), "node.address-free");
    let before = nodes.clone();
    assert_eq!(before.change, None);
    apply(&mut nodes, &add(2, "n2"));
    assert_eq!(rule(&apply(&mut nodes, &add(3, "n3"))), "node.one-change");
    assert_eq!(rule(&apply(&mut nodes, &remove(1))), "node.one-change");
    // What is on its way in can be given up, and its id is gone.
    apply(&mut nodes, &remove(2));
    assert!(nodes.change.is_none() && nodes.is_gone(2));
    assert_eq!(nodes.next_id, 3);
    let mut full = group_of(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(rule(&apply(&mut full, &add(10, "n10"))), "node.bound");
}

#[test]
fn what_does_not_come_in_time_is_given_up_and_a_voter_is_not() {
    let mut nodes = group_of(&[1]);
    apply(&mut nodes, &add(2, "n2"));
    note(&mut nodes, &[&[1]], &[2]);
    let group = Group {
        own: 1,
        configs: vec![[1].into()],
        learners: [2].into(),
        settled: true,
        caught_up: BTreeSet::new(),
    };
    assert_eq!(next_step(&group, &nodes, WallMillis(4000)), None);
    assert_eq!(next_step(&group, &nodes, WallMillis(6000)), Some(Step::Expire(2)));
    let expire = command(NodesAct::Expire { id: 2 });
    let mut voting = nodes.clone();
    note(&mut voting, &[&[1], &[1, 2]], &[]);
    assert_eq!(apply(&mut voting, &expire), Reply::Nothing);
    apply(&mut nodes, &expire);
    assert_eq!(next_step(&group, &nodes, WallMillis(6000)), Some(Step::RemoveLearner(2)));
    note(&mut nodes, &[&[1]], &[]);
    assert!(nodes.change.is_none() && nodes.is_gone(2));
}

#[test]
fn nothing_is_done_by_a_leader_that_has_settled_nothing() {
    let mut nodes = group_of(&[1, 2, 3]);
    apply(&mut nodes, &remove(3));
    let configs = vec![[1, 2, 3].into()];
    let group = Group { own: 1, configs, settled: false, ..Group::default() };
    assert_eq!(next_step(&group, &nodes, WallMillis(0)), None);
    let group = Group { settled: true, ..group };
    assert_eq!(next_step(&group, &nodes, WallMillis(0)), None, "node 2 does not answer");
    let group = Group { caught_up: [2].into(), ..group };
    assert_eq!(next_step(&group, &nodes, WallMillis(0)), Some(Step::RemoveVoter(3)));
    // The one that goes hands over, also in the middle of it, and never takes itself out.
    let own = Group { own: 3, ..group.clone() };
    assert_eq!(next_step(&own, &nodes, WallMillis(0)), None, "1 and 2 could decide nothing");
    let own = Group { caught_up: [1, 2].into(), ..own };
    assert_eq!(next_step(&own, &nodes, WallMillis(0)), Some(Step::HandOver));
    let joint = Group { configs: vec![[1, 2, 3].into(), [1, 2].into()], ..own };
    assert_eq!(next_step(&joint, &nodes, WallMillis(0)), Some(Step::HandOver));
    let other = Group { own: 2, ..joint.clone() };
    assert_eq!(next_step(&other, &nodes, WallMillis(0)), Some(Step::Flatten));
    let outside = Group { own: 9, ..joint };
    assert_eq!(next_step(&outside, &nodes, WallMillis(0)), None);
}

/// A model of the group: what a step does to the membership, where the leader may stop after any
/// half of it and another goes on.
struct Model {
    nodes: Nodes,
    configs: Vec<BTreeSet<NodeId>>,
    learners: BTreeSet<NodeId>,
}

impl Model {
    fn agree(&mut self) {
        let all = self.configs.iter().flatten().chain(&self.learners);
        let all: BTreeMap<_, _> =
            all.map(|id| (*id, (format!("n{id}"), format!("h{id}:1")))).collect();
        self.nodes.note_membership(&self.configs, &all);
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.configs.last().unwrap().clone()
    }

    /// One half of a step.
    fn act(&mut self, step: Step) {
        match step {
            Step::AddLearner(id) => _ = self.learners.insert(id),
            Step::RemoveLearner(id) => _ = self.learners.remove(&id),
            Step::Promote(id) => {
                self.learners.remove(&id);
                let mut to = self.voters();
                to.insert(id);
                self.configs.push(to);
            }
            Step::RemoveVoter(id) => {
                let mut to = self.voters();
                to.remove(&id);
                self.configs.push(to);
            }
            Step::Flatten => _ = self.configs.remove(0),
            Step::HandOver => return,
            Step::Expire(id) => {
                apply(&mut self.nodes, &command(NodesAct::Expire { id }));
            }
        }
        self.agree();
    }

    fn settle(&mut self, leaders: &mut impl Iterator<Item = usize>) {
        for _ in 0..1000 {
            let voters: Vec<_> = self.configs.iter().flatten().copied().collect();
            let own = voters[leaders.next().unwrap() % voters.len()];
            let group = Group {
                own,
                configs: self.configs.clone(),
                learners: self.learners.clone(),
                settled: true,
                caught_up: self.learners.union(&self.voters()).copied().collect(),
            };
            match next_step(&group, &self.nodes, WallMillis(0)) {
                Some(step) => self.act(step),
                None => {
                    assert_eq!(self.nodes.change, None);
                    return;
                }
            }
            // Two sets in force always share one that was in force before.
            assert!(self.configs.len() <= 2);
        }
        panic!("it never ends: {:?}", self.nodes);
    }
}

#[test]
fn a_change_ends_whoever_leads_in_between() {
    for seed in 0..200_u64 {
        // Any leader may be elected after any half of a step: Knuth's generator draws it.
        let mut state = seed;
        let mut leaders = std::iter::repeat_with(move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap()
        });
        let mut model =
            Model { nodes: group_of(&[1]), configs: vec![[1].into()], learners: BTreeSet::new() };
        for id in 2..=4 {
            apply(&mut model.nodes, &add(id, &format!("m{id}")));
            model.settle(&mut leaders);
            assert!(model.voters().contains(&id));
        }
        for id in [1, 3, 2] {
            assert_eq!(apply(&mut model.nodes, &remove(id)), Reply::Applied { operation: None });
            model.settle(&mut leaders);
            assert!(!model.voters().contains(&id));
        }
        assert_eq!(model.configs, [BTreeSet::from([4])]);
        let last = apply(&mut model.nodes, &remove(4));
        assert!(matches!(last, Reply::Rejected(Rejection::Nodes(NodesRejection::Last { .. }))));
        assert_eq!(model.nodes.next_id, 5);
    }
}

/// {1, 2, 3} with 1 to be removed; it has handed over to 2, and 3 has died.
#[test]
fn no_membership_is_begun_that_nobody_could_commit() {
    let mut nodes = group_of(&[1, 2, 3]);
    apply(&mut nodes, &remove(1));
    let group = |own, caught_up: &[NodeId], learners: &[NodeId]| Group {
        own,
        configs: vec![[1, 2, 3].into()],
        learners: learners.iter().copied().collect(),
        settled: true,
        caught_up: caught_up.iter().copied().collect(),
    };
    let step = |g: &Group, nodes: &Nodes| next_step(g, nodes, WallMillis(0));
    assert_eq!(step(&group(2, &[1, 3], &[]), &nodes), Some(Step::RemoveVoter(1)));
    let stuck = group(2, &[1], &[]);
    assert_eq!(step(&stuck, &nodes), None);
    let why = waiting(&stuck, &nodes).unwrap();
    assert!(
        why.ends_with(
            "2 voters there would be then, these do not answer or have not caught up: n3"
        ),
        "{why}"
    );
    assert_eq!(waiting(&group(2, &[1, 3], &[]), &nodes), None);

    // It is called off, and another change may be asked for.
    let keep = command(NodesAct::Keep { id: 1 });
    let mut begun = nodes.clone();
    note(&mut begun, &[&[1, 2, 3], &[2, 3]], &[]);
    assert_eq!(rule(&apply(&mut begun, &keep)), "node.removal-not-begun");
    assert_eq!(apply(&mut nodes, &keep), Reply::Applied { operation: None });
    assert!(nodes.change.is_none() && !nodes.is_removed(1));
    assert_eq!(rule(&apply(&mut nodes, &keep)), "node.leaving");
    // A change of the membership that was under way already is not lost sight of.
    let mut late = nodes.clone();
    note(&mut late, &[&[1, 2, 3], &[2, 3]], &[]);
    note(&mut late, &[&[2, 3]], &[]);
    assert!(late.is_gone(1));
    assert_eq!(late.history.back().unwrap().kind, NodeEventKind::Removed);

    // The same for one that comes in: with it there would be four voters, and two answer.
    apply(&mut nodes, &add(4, "n4"));
    note(&mut nodes, &[&[1, 2, 3]], &[4]);
    assert_eq!(step(&group(2, &[1, 4], &[4]), &nodes), Some(Step::Promote(4)));
    let lagging = group(2, &[4], &[4]);
    assert_eq!(step(&lagging, &nodes), None);
    assert!(waiting(&lagging, &nodes).unwrap().contains("n1, n3"));
}
