//! A Raft group whose majority is lost: recovery of one store, and what becomes of the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate::domain::generation::Generation;
use quorate::domain::types::WallMillis;
use quorate::raft::kv::{Batch, KvEngine, Space};
use quorate::raft::kv_mem::KvMem;
use quorate::raft::{
    AsyncRuntime as _, FatalReason, Handle, IdentityError, ProposeError, StartError, offline,
};
use quorate::rescue::receipt::Receipt;
use quorate::rescue::recover::{self, Plan, Statement};

use crate::raft_group::{Group, Rt, SHORT, WAIT_MAX, add, count, members, run, until};

const AT: WallMillis = WallMillis(1_700_000_000_000);

fn engine(group: &Group, id: u64) -> Arc<dyn KvEngine> {
    Arc::new(group.stores[&id].clone())
}

fn receipt(group: &Group, id: u64, beneficiary: u64) -> Receipt {
    let engine = engine(group, id);
    let contents = offline::read(&engine).unwrap();
    let name = format!("node-{beneficiary}");
    let beneficiary = Receipt::beneficiary(&contents, &name).unwrap();
    offline::retire(&*engine, &beneficiary).unwrap();
    Receipt::of(&contents, beneficiary, AT)
}

/// Recovers from the store of `id`, which does not run.
fn recover(group: &Group, id: u64, receipts: Vec<Receipt>, lost: &[u64]) -> Plan {
    let engine = engine(group, id);
    let contents = offline::read(&engine).unwrap();
    let lost = lost.iter().map(|id| format!("node-{id}")).collect();
    let statement =
        Statement { receipts, lost, members_complete: false, by: "test".to_owned(), at: AT };
    let plan = recover::plan(&contents, &statement).unwrap();
    offline::begin(&*engine, &plan.beginning).unwrap();
    plan
}

async fn ended(node: &Handle<Rt>) -> FatalReason {
    Rt::timeout(WAIT_MAX, node.fatal()).await.expect("it ends")
}

async fn refused(group: &Group, id: u64) -> StartError {
    match group.try_open(id, members(3)).await {
        Ok(_) => panic!("node {id} takes part again"),
        Err(error) => error,
    }
}

/// The operator's statement is wrong: the two others live on, on the other side of a partition.
#[test]
fn an_old_majority_ends_as_soon_as_it_hears_of_the_new_generation() {
    run(async {
        let mut group = Group::new(3);
        group.start(&[1, 2, 3]).await;
        for n in 1..=5 {
            assert_eq!(group.add(&[1, 2, 3]).await, n);
        }
        group.all_have(5).await;
        group.stop(1).await;
        group.net.isolate(1, [2, 3]);
        let plan = recover(&group, 1, vec![], &[2, 3]);
        assert!(!plan.recovery.proven);
        let generation = plan.recovery.generation;
        group.start(&[1]).await;
        assert_eq!(group.leader(&[1]).await, 1);
        assert_eq!(group.nodes[&1].generation(), generation);
        assert_eq!(group.add(&[1]).await, 6, "nothing of before is lost");
        // They cannot know, and go on. What they decide is of the old generation.
        assert_eq!(group.add(&[2, 3]).await, 6);
        assert_eq!(group.nodes[&2].generation(), Generation::FIRST);

        group.net.heal();
        for id in [2, 3] {
            let reason = ended(&group.nodes[&id]).await;
            let wanted = FatalReason::Superseded { own: Generation::FIRST, by: generation };
            assert_eq!(reason, wanted, "node {id}");
            let propose = group.nodes[&id].propose(add(), SHORT).await.unwrap_err();
            assert!(matches!(propose, ProposeError::Fatal(FatalReason::Superseded { .. })));
            assert!(group.nodes[&id].read_barrier(SHORT).await.is_err());
        }
        assert_eq!(group.leader(&[1]).await, 1, "nobody outvoted it");
        assert_eq!(count(&group.nodes[&1]), 6);
        for id in [2, 3] {
            group.stop(id).await;
            let error = refused(&group, id).await;
            let StartError::Identity(IdentityError::Superseded { by, .. }) = error else {
                panic!("{error}");
            };
            assert_eq!(by, generation, "it ended for good");
        }
    });
}

/// With receipts of a majority it does not matter whether the statement is right.
#[test]
fn receipts_of_a_majority_bind_whoever_is_alive() {
    run(async {
        let mut group = Group::new(3);
        group.start(&[1, 2, 3]).await;
        group.add(&[1, 2, 3]).await;
        group.all_have(1).await;
        group.stop(1).await;
        group.stop(2).await;
        let receipt = receipt(&group, 2, 1);
        let plan = recover(&group, 1, vec![receipt], &[3]);
        assert!(plan.recovery.proven);
        let error = refused(&group, 2).await;
        assert!(matches!(error, StartError::Identity(IdentityError::Retired)), "{error}");
        // The third was never off. Alone it decides nothing, and it ends once it asks the first.
        assert!(group.nodes[&3].read_barrier(SHORT).await.is_err());
        group.start(&[1]).await;
        assert!(matches!(ended(&group.nodes[&3]).await, FatalReason::Superseded { .. }));
        assert_eq!(group.add(&[1]).await, 2);
    });
}

#[test]
fn a_recovered_group_survives_restarts_and_grows_again() {
    run(async {
        let mut group = Group::new(3);
        // The log is cut off behind a snapshot before it is recovered.
        group.options = |o| quorate::raft::Options { snapshot_entries: 10, keep_entries: 2, ..o };
        group.start(&[1, 2, 3]).await;
        for n in 1..=40 {
            assert_eq!(group.add(&[1, 2, 3]).await, n);
        }
        group.all_have(40).await;
        for id in 1..=3 {
            group.stop(id).await;
        }
        let generation = recover(&group, 2, vec![], &[1, 3]).recovery.generation;
        for n in 41..=43 {
            group.start(&[2]).await;
            assert_eq!(group.add(&[2]).await, n);
            group.stop(2).await;
        }
        // A wiped controller comes in under a new number.
        group.stores.insert(4, KvMem::new());
        group.start(&[2]).await;
        let both: BTreeMap<_, _> =
            members(4).into_iter().filter(|(id, _)| [2, 4].contains(id)).collect();
        let new = group.open_among(4, both.clone()).await;
        let joined = Rt::spawn(new.start());
        let node = joined.await.unwrap().unwrap();
        assert_eq!(node.generation(), generation);
        group.leader(&[2]).await;
        group.nodes[&2].add_controller(4, both[&4].clone(), WAIT_MAX).await.unwrap();
        group.nodes.insert(4, node);
        assert_eq!(group.add(&[2, 4]).await, 44);
        group.all_have(44).await;
        until("both vote", || group.nodes[&4].metrics().voters.len() == 2).await;
    });
}

/// The group was founded by a version that knew no generations, or wrote none down.
#[test]
fn a_group_without_a_generation_becomes_the_first() {
    run(async {
        for written in [None, Some(0)] {
            let mut group = Group::new(3);
            group.start(&[1, 2, 3]).await;
            group.add(&[1, 2, 3]).await;
            group.all_have(1).await;
            for id in 1..=3 {
                group.stop(id).await;
                let engine = engine(&group, id);
                write_generation(&*engine, written);
            }
            group.start(&[1, 2, 3]).await;
            for id in 1..=3 {
                assert_eq!(group.nodes[&id].generation(), Generation::FIRST, "{written:?}");
            }
            assert_eq!(group.add(&[1, 2, 3]).await, 2);
            group.all_have(2).await;
            group.stop(1).await;
            assert_eq!(offline::read(&engine(&group, 1)).unwrap().generation, Generation::FIRST);
            let generation = recover(&group, 1, vec![], &[2, 3]).recovery.generation;
            group.start(&[1]).await;
            assert_eq!(group.nodes[&1].generation(), generation);
        }
    });
}

/// Rewrites the identity of a store as an older version had it.
fn write_generation(engine: &dyn KvEngine, generation: Option<u64>) {
    const IDENTITY: &[u8] = b"identity";
    let sealed = engine.get(Space::Meta, IDENTITY).unwrap().expect("an identity");
    let mut own: serde_json::Value = serde_json::from_slice(&sealed[4..]).unwrap();
    let fields = own.as_object_mut().expect("fields");
    match generation {
        Some(number) => fields.insert("generation".to_owned(), number.into()),
        None => fields.remove("generation"),
    };
    let mut batch = Batch::new();
    let value = serde_json::to_vec(&own).unwrap();
    let covered = [&[Space::Meta.tag()], IDENTITY, &value].concat();
    let sealed = [&crc32c::crc32c(&covered).to_le_bytes()[..], &value].concat();
    batch.put(Space::Meta, IDENTITY, sealed);
    let (done, ended) = std::sync::mpsc::channel();
    engine.submit(batch, true, Box::new(move |result| drop(done.send(result))));
    ended.recv().unwrap().unwrap();
}
