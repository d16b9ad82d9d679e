//! Who may begin a new generation, from what.

use std::sync::Arc;

use super::file::{Controller, Saved};
use super::place::{Place, PlaceError};
use super::receipt::Receipt;
use super::recover::{Refusal, Statement, plan};
use super::{SealError, generation_after, restore};
use crate::domain::generation::Generation;
use crate::domain::nodes::{Node, Removed};
use crate::domain::types::WallMillis;
use crate::raft::Peer;
use crate::raft::identity::{Beneficiary, Ended};
use crate::raft::kv::KvEngine;
use crate::raft::kv_mem::KvMem;
use crate::raft::offline::{self, Beginning, Contents};
use crate::raft::wire::StoreId;

const AT: WallMillis = WallMillis(1_700_000_000_000);

fn peer(id: u64) -> Peer {
    Peer { name: format!("n{id}"), address: format!("h{id}:1") }
}

fn for_node(id: u64) -> Beneficiary {
    Beneficiary { id, name: format!("n{id}") }
}

/// What the store of controller 1 of three says.
fn contents(last: (u64, u64)) -> Contents {
    Contents {
        node_id: 1,
        control_plane: "cp".to_owned(),
        store: StoreId::from_bytes([1; 16]),
        generation: Generation(1),
        ended: None,
        removed: false,
        vote_term: last.0,
        last,
        voters: vec![[1, 2, 3].into()],
        peers: [(2, StoreId::from_bytes([2; 16]))].into(),
        nodes: (1..=3).map(|id| (id, peer(id))).collect(),
        state: Default::default(),
    }
}

fn receipt(id: u8, last: (u64, u64)) -> Receipt {
    Receipt {
        control_plane: "cp".to_owned(),
        generation: Generation(1),
        id: id.into(),
        node: format!("n{id}"),
        store: StoreId::from_bytes([id; 16]),
        vote_term: last.0 + 1,
        last,
        beneficiary: Some(for_node(1)),
        at: AT,
    }
}

fn says(receipts: Vec<Receipt>, lost: &[&str]) -> Statement {
    let lost = lost.iter().map(|n| (*n).to_owned()).collect();
    Statement { receipts, lost, members_complete: false, by: "me".to_owned(), at: AT }
}

#[test]
fn every_other_controller_is_accounted_for() {
    let own = contents((3, 10));
    let rule = |s: &Statement| plan(&own, s).unwrap_err().rule();
    assert_eq!(rule(&says(vec![], &["n2"])), "recovery.all-controllers");
    assert_eq!(rule(&says(vec![], &["n2", "n1"])), "recovery.statement");
    assert_eq!(rule(&says(vec![], &["n2", "nx"])), "recovery.statement");
    assert_eq!(rule(&says(vec![receipt(2, (3, 9))], &["n2", "n3"])), "recovery.statement");
    let stated = plan(&own, &says(vec![], &["n2", "n3"])).unwrap();
    assert!(!stated.recovery.proven);
    assert_eq!(stated.beginning.at, (4, 11));
    assert_eq!(stated.beginning.state.nodes.next_id, 1004, "ids that it does not know of");
    assert_eq!(stated.recovery.generation, Generation(AT.0 / 1000));
    let proven = plan(&own, &says(vec![receipt(2, (3, 10))], &["n3"])).unwrap();
    assert!(proven.recovery.proven, "two of three are bound");
    assert_eq!(proven.beginning.state.nodes.next_id, 4);
    assert_eq!(proven.beginning.at, (5, 11), "no term that was voted in comes back");
}

#[test]
fn both_halves_of_a_joint_membership_need_a_majority() {
    let mut own = contents((3, 10));
    own.voters = vec![[1, 2, 3].into(), [3, 4, 5].into()];
    own.nodes.extend([(4, peer(4)), (5, peer(5))]);
    let receipts = vec![receipt(2, (3, 9)), receipt(4, (3, 9))];
    let half = plan(&own, &says(receipts.clone(), &["n3", "n5"])).unwrap();
    assert!(!half.recovery.proven);
    let both = [receipts, vec![receipt(5, (3, 9))]].concat();
    assert!(plan(&own, &says(both, &["n3"])).unwrap().recovery.proven);
}

#[test]
fn the_longest_log_wins_and_strange_receipts_do_not_count() {
    let own = contents((3, 10));
    for longer in [(3, 11), (4, 2)] {
        let refused = plan(&own, &says(vec![receipt(2, longer)], &["n3"])).unwrap_err();
        let Refusal::Behind { node, .. } = &refused else { panic!("{refused}") };
        assert_eq!(node, "n2");
    }
    let strange: [fn(&mut Receipt); 7] = [
        |r| r.beneficiary = Some(for_node(3)),
        |r| r.beneficiary = None,
        |r| r.control_plane = "other".to_owned(),
        |r| r.generation = Generation(7),
        |r| r.id = 9,
        |r| r.id = 1,
        |r| r.store = StoreId::from_bytes([9; 16]),
    ];
    for change in strange {
        let mut receipt = receipt(2, (3, 9));
        change(&mut receipt);
        let refused = plan(&own, &says(vec![receipt], &["n3"])).unwrap_err();
        assert_eq!(refused.rule(), "recovery.receipt");
    }
}

#[test]
fn an_old_generation_recovers_nothing() {
    let mut own = contents((3, 10));
    own.ended = Some(crate::raft::identity::Ended::Superseded { by: Generation(5) });
    let refused = plan(&own, &says(vec![], &["n2", "n3"])).unwrap_err();
    assert_eq!(refused.rule(), "recovery.newest-generation");
}

#[test]
fn at_most_one_recovery_of_a_generation_is_proven() {
    let own = contents((3, 10));
    let serves_one = receipt(3, (3, 10));
    assert!(plan(&own, &says(vec![serves_one.clone()], &["n2"])).unwrap().recovery.proven);
    // The second is only cut off, and has the same receipt.
    let mut second = contents((3, 10));
    (second.node_id, second.store) = (2, StoreId::from_bytes([2; 16]));
    let refused = plan(&second, &says(vec![serves_one], &["n1"])).unwrap_err();
    assert_eq!(refused.rule(), "recovery.receipt");
    // The one that is retired for another may go on by statement, and proves nothing.
    let mut third = contents((3, 10));
    (third.node_id, third.store) = (3, StoreId::from_bytes([3; 16]));
    let mut of_two = receipt(2, (3, 10));
    of_two.beneficiary = Some(for_node(3));
    let judged = |third: &Contents| plan(third, &says(vec![of_two.clone()], &["n1"])).unwrap();
    assert!(judged(&third).recovery.proven);
    for ended in [Ended::Retired, Ended::RetiredFor(for_node(1))] {
        third.ended = Some(ended);
        assert!(!judged(&third).recovery.proven);
    }
}

#[test]
fn a_store_is_retired_for_another_voter() {
    let own = contents((3, 10));
    assert_eq!(Receipt::beneficiary(&own, "n2").unwrap(), for_node(2));
    assert_eq!(Receipt::beneficiary(&own, "n1").unwrap_err().rule(), "recovery.statement");
    assert_eq!(Receipt::beneficiary(&own, "nx").unwrap_err().rule(), "recovery.statement");
}

#[test]
fn a_node_that_its_group_has_removed_recovers_nothing() {
    let own = Contents { removed: true, ..contents((3, 10)) };
    let refused = plan(&own, &says(vec![receipt(2, (3, 9))], &["n3"])).unwrap_err();
    assert_eq!(refused.rule(), "recovery.removed");
    assert!(refused.to_string().contains("n2, n3"), "{refused}");
}

#[test]
fn generations_only_grow_and_two_recoveries_differ() {
    assert_eq!(generation_after(Generation(1), AT), Generation(1_700_000_000));
    assert_eq!(generation_after(Generation(u64::MAX - 1), AT), Generation(u64::MAX));
    let wrong_clock = WallMillis(0);
    assert_eq!(generation_after(Generation(1_700_000_000), wrong_clock), Generation(1_700_000_001));
}

#[test]
fn damage_of_a_file_is_noticed() {
    let saved = Saved {
        control_plane: "cp".to_owned(),
        generation: Generation(1),
        node: "n1".to_owned(),
        from_leader: true,
        at: AT,
        term: 3,
        index: 10,
        controllers: vec![Controller { id: 1, name: "n1".to_owned(), address: "h1:1".to_owned() }],
        state: Default::default(),
    };
    let bytes = saved.encode().unwrap();
    assert_eq!(Saved::decode(&bytes).unwrap(), saved);
    for cut in 0..bytes.len() {
        assert!(Saved::decode(&bytes[..cut]).is_err(), "{cut}");
    }
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(Saved::decode(&bad).is_err(), "{at}");
    }
    assert!(matches!(Receipt::decode(&bytes), Err(SealError::Kind { .. })));
    let receipt = receipt(2, (3, 9));
    assert_eq!(Receipt::decode(&receipt.encode().unwrap()).unwrap(), receipt);
}

#[test]
fn a_restored_state_is_in_doubt_and_above_everything_known() {
    let names = ["n1", "n2", "n3"];
    let controller = |(i, name): (usize, &&str)| Controller {
        id: i as u64 + 1,
        name: (*name).to_owned(),
        address: format!("{name}:1"),
    };
    let saved = Saved {
        control_plane: "cp".to_owned(),
        generation: Generation(3),
        node: "n2".to_owned(),
        from_leader: true,
        at: AT,
        term: 7,
        index: 99,
        controllers: names.iter().enumerate().map(controller).collect(),
        state: Default::default(),
    };
    let store = StoreId::from_bytes([5; 16]);
    let node = saved.controllers[0].clone();
    let restore = |s: &Statement, above| restore::plan(&saved, &node, store.clone(), s, above);
    let refused = restore(&says(vec![], &["n2"]), Generation(0)).unwrap_err();
    assert_eq!(refused, Refusal::Unaccounted(vec!["n3".to_owned()]));
    let plan = restore(&says(vec![], &["n2", "n3"]), Generation(1_700_086_400)).unwrap();
    assert!(!plan.recovery.proven);
    assert_eq!(plan.recovery.generation, Generation(1_700_086_401));
    assert_eq!((plan.beginning.at, plan.beginning.node_id), ((8, 100), 1));
    let refused = restore(&says(vec![], &["n2", "n3"]), Generation(1_700_086_401)).unwrap_err();
    assert_eq!(refused.rule(), "recovery.above");

    // No id is used twice, as far as the file knows.
    let mut saved = saved.clone();
    let node = |id| Node { name: format!("n{id}"), address: format!("n{id}:1"), voter: true };
    saved.state.nodes.members = (1..=3).map(|id| (id, node(id))).collect();
    saved.state.nodes.removed =
        [(5, Removed { name: "n5".to_owned(), at: AT })].into_iter().collect();
    saved.state.nodes.next_id = 7;
    let lost = says(vec![], &["n2", "n3"]);
    let restore = |id, name: &str| {
        let node = Controller { id, name: name.to_owned(), address: "n1:1".to_owned() };
        restore::plan(&saved, &node, store.clone(), &lost, Generation(0))
    };
    for (id, name) in [(2, "n1"), (5, "n1"), (5, "n5"), (6, "n1")] {
        assert_eq!(restore(id, name).unwrap_err().rule(), "recovery.id", "{id} {name}");
    }
    assert_eq!(restore(1, "n1").unwrap().beginning.state.nodes.next_id, 1007);
    assert_eq!(restore(9, "n1").unwrap().beginning.state.nodes.next_id, 1010);
}

#[test]
fn a_store_is_begun_read_and_retired() {
    let engine: Arc<dyn KvEngine> = Arc::new(KvMem::new());
    assert!(offline::read(&engine).is_err());
    assert!(!offline::is_used(&*engine).unwrap());
    let beginning = Beginning {
        node_id: 4,
        peer: peer(4),
        control_plane: "cp".to_owned(),
        store: StoreId::from_bytes([4; 16]),
        generation: Generation(9),
        at: (5, 41),
        state: Default::default(),
    };
    offline::begin(&*engine, &beginning).unwrap();
    let read = offline::read(&engine).unwrap();
    assert_eq!(
        (read.node_id, read.generation, read.last, read.vote_term),
        (4, Generation(9), (5, 41), 5)
    );
    assert_eq!(read.voters, vec![[4].into()]);
    assert_eq!(read.nodes, [(4, peer(4))].into());
    assert!(read.ended.is_none());
    // A store that was founded before there were generations.
    let old = Beginning { generation: Generation::NONE, ..beginning };
    offline::begin(&*engine, &old).unwrap();
    assert_eq!(offline::read(&engine).unwrap().generation, Generation::FIRST);
    offline::retire(&*engine, &for_node(1)).unwrap();
    offline::retire(&*engine, &for_node(1)).unwrap();
    assert!(offline::retire(&*engine, &for_node(2)).is_err(), "it serves one recovery");
    assert_eq!(offline::read(&engine).unwrap().ended, Some(Ended::RetiredFor(for_node(1))));
}

#[test]
fn a_directory_of_another_user_is_left_alone() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    drop(Place::create(&dir.path().join("data/dir")).unwrap());
    std::os::unix::fs::chown(dir.path(), Some(1), None).unwrap();
    let other = dir.path().join("other/dir");
    assert!(matches!(Place::create(&other), Err(PlaceError::User { .. })));
    assert!(!dir.path().join("other").exists(), "nothing is made");
    let data_dir = dir.path().join("data/dir");
    drop(Place::open(&data_dir));
    std::os::unix::fs::chown(&data_dir, Some(1), None).unwrap();
    assert!(matches!(Place::open(&data_dir), Err(PlaceError::User { .. })));
}
