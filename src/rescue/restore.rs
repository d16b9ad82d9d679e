//! A new generation from a snapshot: all controllers are gone.
//!
//! The state may be older than reality by any time, so it is always in doubt: every member is asked
//! what it knows before anybody is granted anything, see `domain::rescue`.

use std::collections::BTreeSet;

use super::file::{Controller, Saved};
use super::generation_after;
use super::recover::{Plan, Refusal, Statement};
use crate::domain::generation::Generation;
use crate::domain::rescue::{self, Recovery, Source};
use crate::raft::Peer;
use crate::raft::offline::Beginning;
use crate::raft::wire::StoreId;

/// How far clocks may differ, in seconds.
const DAY_S: u64 = 24 * 60 * 60;

/// Judges a restore of `saved` for the controller `node`. `store` is a new identity. The old store
/// of `node` itself needs no statement: a state is restored only where no store is.
pub fn plan(
    saved: &Saved,
    node: &Controller,
    store: StoreId,
    statement: &Statement,
    above: Generation,
) -> Result<Plan, Refusal> {
    let now = statement.at.0 / 1000;
    // A slip of the hand would use up the numbers that later recoveries need.
    if above.0 > now.saturating_add(DAY_S) {
        return Err(Refusal::Above { above, now });
    }
    let voter = saved.controllers.iter().find(|c| c.id == node.id && c.name != node.name);
    let voter = voter.map(|c| format!("node {}", c.name));
    if let Some(of) = voter.or_else(|| saved.state.nodes.id_taken(node.id, &node.name)) {
        return Err(Refusal::IdTaken { id: node.id, name: node.name.clone(), of });
    }
    let members = saved.state.clusters.values().flat_map(|c| c.members.values());
    let mut known: BTreeSet<String> = members.map(|m| m.node.to_string()).collect();
    known.extend(saved.controllers.iter().map(|c| c.name.clone()));
    let mut retired = BTreeSet::new();
    for receipt in &statement.receipts {
        let refused = |why: String| Err(Refusal::Receipt { node: receipt.node.clone(), why });
        if receipt.control_plane != saved.control_plane {
            return refused(format!("it is of control plane {:?}", receipt.control_plane));
        }
        if receipt.generation < saved.generation {
            return refused(format!(
                "it is of generation {}, and the snapshot of {}",
                receipt.generation, saved.generation
            ));
        }
        retired.insert(receipt.node.clone());
    }
    let lost: BTreeSet<&String> = statement.lost.iter().collect();
    for name in &lost {
        if !known.contains(*name) {
            let known = known.into_iter().collect();
            return Err(Refusal::UnknownNode { name: (*name).clone(), known });
        }
        if **name == node.name {
            return Err(Refusal::Itself(node.name.clone()));
        }
        if retired.contains(*name) {
            return Err(Refusal::Twice((*name).clone()));
        }
    }
    let spoken_for =
        |name: &String| *name == node.name || retired.contains(name) || lost.contains(name);
    let silent: Vec<String> =
        saved.controllers.iter().map(|c| c.name.clone()).filter(|n| !spoken_for(n)).collect();
    if !silent.is_empty() {
        return Err(Refusal::Unaccounted(silent));
    }
    let receipts = &statement.receipts;
    let newest = receipts.iter().map(|r| r.generation).fold(saved.generation, Generation::max);
    let terms = receipts.iter().map(|r| r.vote_term.max(r.last.0));
    let term = terms.fold(saved.term, u64::max) + 1;
    let index = receipts.iter().map(|r| r.last.1).fold(saved.index, u64::max) + 1;
    let recovery = Recovery {
        generation: generation_after(newest.max(above), statement.at),
        source: Source::Snapshot,
        node: node.name.clone(),
        by: statement.by.clone(),
        at: statement.at,
        lost: lost.into_iter().cloned().collect(),
        retired: retired.into_iter().collect(),
        proven: false,
        members_complete: statement.members_complete,
    };
    let mut state = saved.state.clone();
    rescue::recover(&mut state, &recovery);
    state.nodes.next_id = state.nodes.free_id(saved.controllers.iter().map(|c| c.id));
    state.nodes.begin_anew(node.id, &node.name, &node.address, statement.at, false);
    let beginning = Beginning {
        node_id: node.id,
        peer: Peer { name: node.name.clone(), address: node.address.clone() },
        control_plane: saved.control_plane.clone(),
        store,
        generation: recovery.generation,
        at: (term, index),
        state,
    };
    Ok(Plan { recovery, beginning })
}
