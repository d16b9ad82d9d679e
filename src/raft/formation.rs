//! How a controller with an empty store finds its place.
//!
//! Owns the decision between founding the group, joining it, waiting and refusing. The rules:
//! - a peer that knows this node under another store: this disk was wiped, refuse;
//! - a member does not answer: wait. Nothing can be concluded without it: the group may exist by the
//!   votes of those that do not answer, and a member that was cut off from it all the time knows of
//!   nothing. A wiped node and such a one would found a second group;
//! - no member has an entry of a leader: found the group (all of them do, with the same members,
//!   which gives the same first entry; one may have done so already);
//! - a member has entries of a leader: the group exists, and this node is new. Whoever once counted
//!   its vote or acknowledgement remembers its store, and nobody knows another one: it joins.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::AsyncRuntime;

use super::network::Caller;
use super::options::Options;
use super::removal::ask_all;
use super::types::Peer;
use super::wire::{Hello, HelloReply, StoreId, Transport};
use crate::domain::generation::Generation;
use crate::domain::mutant::{Mutant, without};

const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often the reason for waiting is logged.
const REPORT_EVERY_ROUNDS: u32 = 50;

/// Why this node must not take part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormationError {
    /// The node was a voter with another store.
    #[error(
        "this controller's Raft store is empty, but {peer} knows node {node_id} with another \
         store ({known}): its disk was wiped or replaced. It must not vote again under its old \
         identity. Bring the old data directory back, or remove node {node_id} from the control \
         plane and add this host under a node id that was never used"
    )]
    Wiped {
        /// This node.
        node_id: u64,
        /// Who remembers it.
        peer: Peer,
        /// What it remembers.
        known: StoreId,
    },
    /// The node was removed from the control plane.
    #[error(
        "node {node_id} was removed from the control plane, as {peer} says. It never comes back \
         under this id: add the host anew with `hactl node add`, which gives it another one"
    )]
    Removed {
        /// This node.
        node_id: u64,
        /// Who says so.
        peer: Peer,
    },
    /// The initial members are not the same everywhere.
    #[error(
        "{peer} is configured with other controllers than this node: the list of controllers (ids, \
         names and addresses) must be the same on all of them before they form a group"
    )]
    MembersDiffer {
        /// Who differs.
        peer: Peer,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Found the group.
    Found,
    /// Wait for the leader.
    Join,
    /// These are missing.
    Wait(Vec<u64>),
}

/// The newest generation among groups that exist; the first where none does.
pub(super) fn generation(answers: &BTreeMap<u64, HelloReply>) -> Generation {
    let groups = answers.values().filter(|a| a.established).map(|a| a.generation);
    groups.max().unwrap_or(Generation::FIRST)
}

/// Decides from what the other members answered; `None` is no answer.
pub(super) fn judge(
    node_id: u64,
    store: &StoreId,
    members_digest: u32,
    members: &BTreeMap<u64, Peer>,
    answers: &BTreeMap<u64, HelloReply>,
) -> Result<Verdict, FormationError> {
    let others = members.iter().filter(|(id, _)| **id != node_id);
    let newest = generation(answers);
    let mut missing = Vec::new();
    let mut exists = false;
    for (id, peer) in others {
        let Some(answer) = answers.get(id) else {
            missing.push(*id);
            continue;
        };
        // What is left of an older generation does not speak for the group.
        if answer.established && answer.generation < newest {
            continue;
        }
        if let Some(known) = answer.known.as_ref().filter(|known| *known != store)
            && !without(Mutant::OtherStoreAdmitted)
        {
            let (peer, known) = (peer.clone(), known.clone());
            return Err(FormationError::Wiped { node_id, peer, known });
        }
        if answer.established && answer.gone.contains(&node_id) {
            return Err(FormationError::Removed { node_id, peer: peer.clone() });
        }
        if !answer.established && answer.members != members_digest {
            return Err(FormationError::MembersDiffer { peer: peer.clone() });
        }
        exists |= answer.established;
    }
    Ok(match exists {
        _ if !missing.is_empty() => Verdict::Wait(missing),
        true => Verdict::Join,
        false => Verdict::Found,
    })
}

/// Corrects who has to be asked by what those say that take part in a group: whoever is in it now
/// may have counted this node's vote, and who was removed need not answer. `true` where it changed.
pub(super) fn follow_group(
    members: &mut BTreeMap<u64, Peer>,
    answers: &BTreeMap<u64, HelloReply>,
) -> bool {
    let before: Vec<u64> = members.keys().copied().collect();
    let taking_part = || answers.values().filter(|a| a.established);
    let gone: BTreeSet<u64> = taking_part().flat_map(|a| &a.gone).copied().collect();
    for (id, peer) in taking_part().flat_map(|a| &a.group) {
        members.entry(*id).or_insert_with(|| peer.clone());
    }
    members.retain(|id, _| !gone.contains(id));
    !members.keys().eq(&before)
}

/// Asks the others until there is a verdict other than to wait.
pub(super) async fn settle<RT: AsyncRuntime, T: Transport>(
    caller: &Caller<T>,
    store: &StoreId,
    options: &Options,
) -> Result<(Verdict, Generation), FormationError> {
    let node_id = options.node_id;
    let members_digest = options.members_digest();
    let hello = Hello { members: members_digest };
    let mut members = options.members.clone();
    for (id, peer) in &options.learned {
        members.entry(*id).or_insert_with(|| peer.clone());
    }
    let mut round = 0_u32;
    loop {
        let others = members.iter().filter(|(id, _)| **id != node_id);
        let others = others.map(|(id, peer)| (*id, peer.clone())).collect();
        let answers = ask_all::<RT, T>(caller, &others, &hello).await;
        let verdict = judge(node_id, store, members_digest, &members, &answers)?;
        if follow_group(&mut members, &answers) {
            continue;
        }
        match verdict {
            Verdict::Found if !options.may_found => {
                if round.is_multiple_of(REPORT_EVERY_ROUNDS) {
                    tracing::warn!(
                        "this controller was to join a group, and nobody that it knows takes part \
                         in one: it founds none, and waits"
                    );
                }
            }
            Verdict::Wait(missing) => {
                if round.is_multiple_of(REPORT_EVERY_ROUNDS) {
                    tracing::info!(
                        ?missing,
                        "waiting for other controllers before the Raft group can be formed or joined"
                    );
                }
            }
            verdict => return Ok((verdict, generation(&answers))),
        }
        round = round.wrapping_add(1);
        RT::sleep(RETRY_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(answers: &[(u64, bool, Option<u8>)]) -> Result<Verdict, FormationError> {
        let store = StoreId::from_bytes([1; 16]);
        let members = (1..=3).map(|id| (id, Peer::default())).collect();
        let answers = answers
            .iter()
            .map(|(id, established, known)| {
                let known = known.map(|b| StoreId::from_bytes([b; 16]));
                let reply = HelloReply {
                    established: *established,
                    known,
                    members: 5,
                    ..Default::default()
                };
                (*id, reply)
            })
            .collect();
        judge(1, &store, 5, &members, &answers)
    }

    #[test]
    fn the_table_of_formation() {
        assert_eq!(run(&[]), Ok(Verdict::Wait(vec![2, 3])));
        // The third may know of a group in which this node had another store.
        assert_eq!(run(&[(2, false, None)]), Ok(Verdict::Wait(vec![3])));
        assert_eq!(run(&[(2, false, Some(1)), (3, false, None)]), Ok(Verdict::Found));
        assert_eq!(run(&[(2, true, None)]), Ok(Verdict::Wait(vec![3])));
        assert_eq!(run(&[(2, true, None), (3, false, None)]), Ok(Verdict::Join));
        assert_eq!(run(&[(2, true, Some(1)), (3, true, None)]), Ok(Verdict::Join));
        for wiped in [vec![(2, true, Some(9))], vec![(2, true, None), (3, true, Some(9))]] {
            assert!(matches!(run(&wiped), Err(FormationError::Wiped { .. })));
        }
    }

    #[test]
    fn who_is_asked_follows_the_group() {
        let peer = |n: &str| Peer { name: n.to_owned(), address: format!("{n}:1") };
        // The list of a file from before the group grew, and lost one of its founders.
        let mut members = BTreeMap::from([(1, peer("a")), (2, peer("b"))]);
        let mut answer = HelloReply { members: 9, ..HelloReply::default() };
        answer.group = [(1, peer("a")), (4, peer("d"))].into();
        answer.gone = [2].into();
        // One that only waits itself knows nothing.
        let mut before = members.clone();
        assert!(!follow_group(&mut before, &[(1, answer.clone())].into()));
        answer.established = true;
        assert!(follow_group(&mut members, &[(1, answer.clone())].into()));
        assert_eq!(members.keys().copied().collect::<Vec<_>>(), [1, 4]);
        let answers = [(1, answer.clone())].into();
        assert!(!follow_group(&mut members, &answers));
        let store = StoreId::from_bytes([1; 16]);
        // The fourth may be the only one that once counted this node's vote.
        assert_eq!(judge(5, &store, 5, &members, &answers), Ok(Verdict::Wait(vec![4])));
        assert!(matches!(
            judge(2, &store, 5, &members, &answers),
            Err(FormationError::Removed { node_id: 2, .. })
        ));
    }

    #[test]
    fn different_members_are_refused_and_a_single_node_founds() {
        let store = StoreId::from_bytes([1; 16]);
        let members: BTreeMap<_, _> = [(1, Peer::default()), (2, Peer::default())].into();
        let answer = HelloReply { members: 6, ..HelloReply::default() };
        let answers = [(2, answer)].into();
        let result = judge(1, &store, 5, &members, &answers);
        assert!(matches!(result, Err(FormationError::MembersDiffer { .. })));
        let alone = [(1, Peer::default())].into();
        assert_eq!(judge(1, &store, 5, &alone, &BTreeMap::new()), Ok(Verdict::Found));
    }
}
