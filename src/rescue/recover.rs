//! A new generation from the store of a controller that is left.
//!
//! Owns the rules of who may begin one. Every other voter of the old group is accounted for: its
//! store is retired, by a receipt, or the operator states that its machine is off for ever. With
//! receipts of a majority, this node counted, the newest state is among them, and nobody can ever
//! commit anything in the old group again, whoever is alive. Without them the statement carries
//! both, and the state is in doubt.

use std::collections::{BTreeMap, BTreeSet};

use super::generation_after;
use super::receipt::Receipt;
use crate::domain::generation::Generation;
use crate::domain::rescue::{self, Recovery, Source};
use crate::domain::types::WallMillis;
use crate::raft::Peer;
use crate::raft::identity::Ended;
use crate::raft::offline::{Beginning, Contents};

/// What the operator says.
#[derive(Debug, Clone, Default)]
pub struct Statement {
    /// Receipts of retired controllers.
    pub receipts: Vec<Receipt>,
    /// Names of nodes whose machine is off for ever.
    pub lost: Vec<String>,
    /// Whether there are no other members than those that the state names.
    pub members_complete: bool,
    /// Who says so.
    pub by: String,
    /// When.
    pub at: WallMillis,
}

/// Why no generation is begun. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The store is of an old generation.
    #[error(
        "this store is of generation {own}, and generation {by} of the control plane exists: it was \
         recovered elsewhere already"
    )]
    Superseded {
        /// Its own.
        own: Generation,
        /// The one that exists.
        by: Generation,
    },
    /// Its group has taken it out, and goes on without it.
    #[error(
        "node {node} was removed from its group, which goes on without it: nothing is recovered from \
         a store that the group does not know any more. The controllers that were left are among {}",
        .others.join(", ")
    )]
    Removed {
        /// The node.
        node: String,
        /// The others of the group, by its own log.
        others: Vec<String>,
    },
    /// The node does not vote.
    #[error("node {0} is no voter of its group by its own log: recover on another controller")]
    NotAVoter(String),
    /// A name that nobody has.
    #[error("no node is named {name}; nodes are {}", .known.join(", "))]
    UnknownNode {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The id is another's.
    #[error("id {id} cannot be that of {name}: it is that of {of}, and no id is used twice")]
    IdTaken {
        /// The id.
        id: u64,
        /// Who was to have it.
        name: String,
        /// Who has it, or had it.
        of: String,
    },
    /// The node itself cannot be lost.
    #[error("{0} is this node")]
    Itself(String),
    /// A node that is retired cannot be lost as well.
    #[error("{0} is stated to be lost, and has a receipt: leave out one of them")]
    Twice(String),
    /// A generation that cannot have existed.
    #[error(
        "generation {above} cannot have existed: one is never higher than the time of its recovery in \
         seconds, which is {now} here now, but for clocks that differ"
    )]
    Above {
        /// What was given.
        above: Generation,
        /// The time in seconds.
        now: u64,
    },
    /// A controller that nobody spoke for.
    #[error(
        "nothing is said of {}: each other controller of the old group has to be retired, or stated \
         to be lost for ever",
        .0.join(", ")
    )]
    Unaccounted(Vec<String>),
    /// A receipt of somebody else.
    #[error("the receipt of {node} does not count: {why}")]
    Receipt {
        /// Whose.
        node: String,
        /// Why.
        why: String,
    },
    /// Another node's log is longer.
    #[error(
        "the log of {node} ends at entry {} of term {}, this one at entry {} of term {}: recover on \
         {node} instead, with a receipt of this node",
        .theirs.1, .theirs.0, .own.1, .own.0
    )]
    Behind {
        /// Whose.
        node: String,
        /// Term and index of its last entry.
        theirs: (u64, u64),
        /// Those of this one.
        own: (u64, u64),
    },
}

impl Refusal {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Refusal::Superseded { .. } => "recovery.newest-generation",
            Refusal::Removed { .. } => "recovery.removed",
            Refusal::NotAVoter(_) => "recovery.voter",
            Refusal::UnknownNode { .. } | Refusal::Itself(_) | Refusal::Twice(_) => {
                "recovery.statement"
            }
            Refusal::Above { .. } => "recovery.above",
            Refusal::IdTaken { .. } => "recovery.id",
            Refusal::Unaccounted(_) => "recovery.all-controllers",
            Refusal::Receipt { .. } => "recovery.receipt",
            Refusal::Behind { .. } => "recovery.longest-log",
        }
    }

    /// What to do about it; may be empty.
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::Unaccounted(_) => {
                "where the machine lives: stop its hanode, run `hactl retire --data-dir DIR --for \
                 NODE` there, where NODE is this node, and give the receipt with --receipt; where \
                 it is off for ever: --lost NAME"
            }
            Refusal::Removed { .. } => "run `hactl recover` on one of those",
            Refusal::Behind { .. } => {
                "run `hactl retire --for NODE` here and `hactl recover` there. A store that is \
                 retired for another is recovered from by statement only: compare the ends of the \
                 logs first, with `hactl retire --dry-run`"
            }
            Refusal::IdTaken { .. } => {
                "give one with --id that no node ever had, and the same in the file of its hanode"
            }
            _ => "",
        }
    }
}

/// What will be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is written into the histories.
    pub recovery: Recovery,
    /// What the store is made to hold.
    pub beginning: Beginning,
}

/// Judges a recovery from this store.
pub fn plan(contents: &Contents, statement: &Statement) -> Result<Plan, Refusal> {
    if let Some(Ended::Superseded { by }) = contents.ended {
        return Err(Refusal::Superseded { own: contents.generation, by });
    }
    let name = |id: &u64| contents.nodes.get(id).map_or_else(|| id.to_string(), |p| p.name.clone());
    let own_name = name(&contents.node_id);
    if contents.removed {
        let others = contents.nodes.keys().filter(|id| **id != contents.node_id);
        return Err(Refusal::Removed { node: own_name, others: others.map(name).collect() });
    }
    let voters: BTreeSet<u64> = contents.voters.iter().flatten().copied().collect();
    if !voters.contains(&contents.node_id) {
        return Err(Refusal::NotAVoter(own_name));
    }
    let mut retired = BTreeMap::new();
    for receipt in &statement.receipts {
        check_receipt(contents, &voters, receipt)?;
        retired.insert(receipt.id, receipt);
    }
    let members = contents.state.clusters.values().flat_map(|c| c.members.values());
    let mut known: BTreeSet<String> = members.map(|m| m.node.to_string()).collect();
    known.extend(contents.nodes.values().map(|p| p.name.clone()));
    let lost: BTreeSet<&String> = statement.lost.iter().collect();
    for node in &lost {
        if **node == own_name {
            return Err(Refusal::Itself(own_name));
        }
        if !known.contains(*node) {
            let known = known.into_iter().collect();
            return Err(Refusal::UnknownNode { name: (*node).clone(), known });
        }
        if retired.keys().any(|id| name(id) == **node) {
            return Err(Refusal::Twice((*node).clone()));
        }
    }
    let spoken_for =
        |id: &u64| *id == contents.node_id || retired.contains_key(id) || lost.contains(&name(id));
    let silent: Vec<String> = voters.iter().filter(|id| !spoken_for(id)).map(name).collect();
    if !silent.is_empty() {
        return Err(Refusal::Unaccounted(silent));
    }
    // A receipt binds its store to this one; what a lost node may have is not known. A store that
    // is retired for another is bound there: two majorities that prove would meet in one store
    // that serves both, and there is none.
    let free = contents.ended.is_none();
    let held = |id: &u64| (*id == contents.node_id && free) || retired.contains_key(id);
    let proven =
        contents.voters.iter().all(|set| 2 * set.iter().filter(|id| held(id)).count() > set.len());
    let terms = retired.values().map(|r| r.vote_term.max(r.last.0));
    let term = terms.fold(contents.vote_term.max(contents.last.0), u64::max) + 1;
    let recovery = Recovery {
        generation: generation_after(contents.generation, statement.at),
        source: Source::Survivor,
        node: own_name,
        by: statement.by.clone(),
        at: statement.at,
        lost: lost.into_iter().cloned().collect(),
        retired: retired.values().map(|r| r.node.clone()).collect(),
        proven,
        members_complete: statement.members_complete,
    };
    let mut state = contents.state.clone();
    rescue::recover(&mut state, &recovery);
    let peer: Peer = contents.nodes.get(&contents.node_id).cloned().unwrap_or_default();
    state.nodes.next_id = state.nodes.free_id(contents.nodes.keys().copied());
    state.nodes.begin_anew(contents.node_id, &peer.name, &peer.address, statement.at, proven);
    let beginning = Beginning {
        node_id: contents.node_id,
        peer,
        control_plane: contents.control_plane.clone(),
        store: contents.store.clone(),
        generation: recovery.generation,
        at: (term, contents.last.1 + 1),
        state,
    };
    Ok(Plan { recovery, beginning })
}

fn check_receipt(
    contents: &Contents,
    voters: &BTreeSet<u64>,
    receipt: &Receipt,
) -> Result<(), Refusal> {
    let refused = |why: String| Err(Refusal::Receipt { node: receipt.node.clone(), why });
    if receipt.control_plane != contents.control_plane {
        return refused(format!("it is of control plane {:?}", receipt.control_plane));
    }
    if receipt.generation != contents.generation {
        let (theirs, own) = (receipt.generation, contents.generation);
        return refused(format!("it is of generation {theirs}, and this store of {own}"));
    }
    if receipt.id == contents.node_id {
        return refused("it is this node's own".to_owned());
    }
    match &receipt.beneficiary {
        Some(b) if b.id == contents.node_id => {}
        Some(b) => {
            return refused(format!(
                "its store was retired for a recovery on {}, and serves no other: recover there, or \
                 state it to be lost",
                b.name
            ));
        }
        None => {
            return refused(
                "it does not say for whose recovery the store was retired: state it to be lost"
                    .to_owned(),
            );
        }
    }
    if !voters.contains(&receipt.id) {
        return refused("it is no voter of this group".to_owned());
    }
    if contents.peers.get(&receipt.id).is_some_and(|known| *known != receipt.store) {
        return refused("it is of another store than the one that voted in this group".to_owned());
    }
    if receipt.last > contents.last {
        return Err(Refusal::Behind {
            node: receipt.node.clone(),
            theirs: receipt.last,
            own: contents.last,
        });
    }
    Ok(())
}
