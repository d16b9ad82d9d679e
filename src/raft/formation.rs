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

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::AsyncRuntime;

use super::network::{AskError, Caller};
use super::types::Peer;
use super::wire::{Hello, HelloReply, Method, StoreId, Transport};
use crate::domain::generation::Generation;
use crate::domain::mutant::{Mutant, without};

const HELLO_DEADLINE: Duration = Duration::from_secs(1);
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

/// Asks the others until there is a verdict other than to wait.
pub(super) async fn settle<RT: AsyncRuntime, T: Transport>(
    caller: &Caller<T>,
    node_id: u64,
    store: &StoreId,
    members_digest: u32,
    members: &BTreeMap<u64, Peer>,
) -> Result<(Verdict, Generation), FormationError> {
    let hello = Hello { members: members_digest };
    let mut round = 0_u32;
    loop {
        let asked = members.iter().filter(|(id, _)| **id != node_id).map(|(id, peer)| {
            let hello = &hello;
            async move {
                let answer: Result<(_, HelloReply), AskError> = caller
                    .ask::<RT, _, _>((*id, peer), Method::Hello, (hello, &[]), HELLO_DEADLINE)
                    .await;
                answer.ok().map(|(_, reply)| (*id, reply))
            }
        });
        let answers = join_all(asked).await.into_iter().flatten().collect();
        match judge(node_id, store, members_digest, members, &answers)? {
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
                (
                    *id,
                    HelloReply {
                        generation: Generation::FIRST,
                        established: *established,
                        known,
                        members: 5,
                    },
                )
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
    fn different_members_are_refused_and_a_single_node_founds() {
        let store = StoreId::from_bytes([1; 16]);
        let members: BTreeMap<_, _> = [(1, Peer::default()), (2, Peer::default())].into();
        let answer = HelloReply {
            generation: Generation::NONE,
            established: false,
            known: None,
            members: 6,
        };
        let answers = [(2, answer)].into();
        let result = judge(1, &store, 5, &members, &answers);
        assert!(matches!(result, Err(FormationError::MembersDiffer { .. })));
        let alone = [(1, Peer::default())].into();
        assert_eq!(judge(1, &store, 5, &alone, &BTreeMap::new()), Ok(Verdict::Found));
    }
}
