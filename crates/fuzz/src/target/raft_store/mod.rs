//! What a Raft node finds on its disk at a start: whatever a crash or damage has left, it begins with
//! all that was committed there, or it does not begin.

mod damage;
mod node;

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{RaftLogReader, StorageHelper};
use openraft_rt_tokio::TokioRuntime;

use crate::domain::ControlState;
use crate::input::Input;
use crate::raft::identity::{PeerStores, load_or_create};
use crate::raft::kv::Space;
use crate::raft::kv_mem::KvMem;
use crate::raft::log_store::LogStore;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{Entry, TypeConfig, Vote};
use crate::raft::wal_check;
use crate::raft::wire::StoreId;
use crate::run::block_on;
use damage::Damage;
use node::Node;

type Rt = TokioRuntime;
type Types = TypeConfig<Rt>;

const CONTROL_PLANE: &str = "demo";
const STEPS_MAX: usize = 32;
const DAMAGES_MAX: usize = 3;

/// The first byte says how much is damaged, then come what the node does and the damage. Where it
/// is 255, the rest is a write-ahead log of RocksDB.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() {
        255 => _ = wal_check::check(input.rest()),
        first => block_on(node_starts(usize::from(first) % (DAMAGES_MAX + 1), &mut input)),
    }
}

/// What a start has made of the disk.
struct Started {
    store: StoreId,
    vote: Option<Vote>,
    entries: BTreeMap<u64, Entry>,
    applied: Option<u64>,
    state: Arc<ControlState>,
}

async fn node_starts(damages: usize, input: &mut Input<'_>) {
    let mut node = Node::new().await;
    let steps = input.below(STEPS_MAX);
    for _ in 0..steps {
        node.does(input).await;
    }
    // A crash and damage at one time could explain nearly everything.
    let losable = node.engine.losable();
    let keep = if damages == 0 { input.below(losable + 1) } else { losable };
    let engine = node.engine.crash(keep);
    let mut done = Vec::new();
    for _ in 0..damages {
        done.extend(damage::inflict(input, &engine));
    }
    let started = start(&engine).await;
    match (done.as_slice(), started) {
        ([], Err(error)) => panic!("a crash alone makes a start fail: {error}"),
        ([], Ok(started)) => node.judges(&started, keep == losable),
        ([one], Ok(started)) => one_damage(&node, one, &started),
        ([Damage::Replaced], Err(_)) => {}
        ([_], Err(error)) => {
            assert!(!error.is_empty());
        }
        // Much is not there any more; what is there is what once was.
        (many, Ok(started)) if !many.iter().any(|d| matches!(d, Damage::Replaced)) => {
            node.invents_nothing(&started);
        }
        _ => {}
    }
}

fn one_damage(node: &Node, damage: &Damage, started: &Started) {
    match damage {
        Damage::Changed { place } => panic!("nobody notices what was changed in {place}"),
        // A right checksum over anything: that is no damage, and only must not be a panic.
        Damage::Replaced => {}
        Damage::Lost { space, key } => {
            let vote_lost = (*space, key.as_slice()) == (Space::Meta, b"vote");
            let identity_lost = (*space, key.as_slice()) == (Space::Meta, b"identity");
            let knows_a_term = started.entries.values().any(|e| e.log_id.leader_id.term > 0);
            assert!(!(vote_lost && knows_a_term), "nobody notices that the vote is lost");
            let has_more = !started.entries.is_empty();
            assert!(!(identity_lost && has_more), "nobody notices that the identity is lost");
            node.kept_what_was_committed(started);
            if !vote_lost {
                assert_eq!(started.vote, node.vote, "another vote");
            }
        }
    }
}

/// As `raft::start` does it.
async fn start(engine: &KvMem) -> Result<Started, String> {
    let told = |e: &dyn std::fmt::Display| e.to_string();
    let shared = || Arc::new(engine.clone());
    let store = load_or_create::<Rt>(engine, 1, CONTROL_PLANE).await.map_err(|e| told(&e))?;
    let mut log = LogStore::<Rt>::open(shared()).map_err(|e| told(&e))?;
    log.check_vote().map_err(|e| told(&e))?;
    PeerStores::open(shared()).map_err(|e| told(&e))?;
    let (mut machine, applied) = StateMachine::open(shared()).map_err(|e| told(&e))?;
    machine.check_reaches(&log).map_err(|e| told(&e))?;
    let vote = log.read_vote().await.map_err(|e| told(&e))?;
    let mut helper = StorageHelper::<Types, _, _>::new(&mut log, &mut machine).with_id(1);
    helper.get_initial_state().await.map_err(|e| told(&e))?;
    let (last, _) =
        RaftStateMachine::<Types>::applied_state(&mut machine).await.map_err(|e| told(&e))?;
    let mut reader = log.get_log_reader().await;
    let read = reader.try_get_log_entries(..).await.map_err(|e| told(&e))?;
    let entries = read.into_iter().map(|e| (e.log_id.index, e)).collect();
    let state = applied.get().state.clone();
    Ok(Started { store, vote, entries, applied: last.map(|id| id.index), state })
}
