//! Who votes: changes of the group's membership.
//!
//! Owns adding and removing one controller at a time. Both go through the log, so a second change
//! is refused while one is under way. A node id belongs to one store for ever: a replaced host
//! comes in under a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{AsyncRuntime, ChangeMembers, Precondition};

use super::error::{FatalReason, Leader};
use super::handle::Handle;
use super::role::{fatal_reason, own_leadership};
use super::types::{Leadership, LogId, Peer, TypeConfig};
use crate::domain::nodes::{Group, LAG_ENTRIES_MAX, Step};

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// This node does not lead. Nothing was changed.
    #[error("this controller does not lead the control plane")]
    NotLeader {
        /// Where to go.
        leader: Option<Leader>,
    },
    /// Another change is under way, or this leadership is too young. Try again.
    #[error("another change of the controllers is under way")]
    InProgress,
    /// No answer in time: it may have happened, may happen later, or never. A controller that was
    /// to be added may have been added without a vote, which harms nothing: try again.
    #[error("it is unknown whether the change of the controllers takes effect")]
    Unknown,
    /// The rules forbid it. Nothing was changed.
    #[error("the controllers cannot be changed like this: {0}")]
    Refused(String),
    /// The Raft core has ended.
    #[error(transparent)]
    Fatal(FatalReason),
}

/// What a step is bound to: a leadership, and a membership. Where either has changed since, the step
/// is refused instead of taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    term: u64,
    membership: Option<LogId>,
}

type WriteError<RT> = RaftError<TypeConfig<RT>, ClientWriteError<TypeConfig<RT>>>;

impl<RT: AsyncRuntime> Handle<RT> {
    /// Adds a controller: first without a vote, then, once it has caught up, with one. The node
    /// runs already, with an empty store and an id that was never used. Call it on the leader.
    pub async fn add_controller(
        &self,
        id: u64,
        peer: Peer,
        deadline: Duration,
    ) -> Result<(), MembershipError> {
        if self.metrics().voters.contains_key(&id) {
            return Err(MembershipError::Refused(format!("node {id} is a controller already")));
        }
        let change = async {
            self.0.core.add_learner(id, peer, true).await?;
            let voters = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
            self.0.core.change_membership(voters, true).await
        };
        self.outcome(RT::timeout(deadline, change).await)
    }

    /// Removes a controller, at once and for ever. Call it on the leader; a leader that removes
    /// itself hands over first.
    pub async fn remove_controller(
        &self,
        id: u64,
        deadline: Duration,
    ) -> Result<(), MembershipError> {
        let voters = self.metrics().voters;
        if !voters.contains_key(&id) {
            return Err(MembershipError::Refused(format!("node {id} is no controller")));
        }
        if voters.len() == 1 {
            return Err(MembershipError::Refused("it is the last controller".to_owned()));
        }
        let change = async {
            let voters = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
            self.0.core.change_membership(voters, false).await
        };
        self.outcome(RT::timeout(deadline, change).await)
    }

    /// The group as this node leads it, and what a step that rests on it is bound to.
    pub fn group(&self) -> Option<(Group, Anchor)> {
        let near = |lag: &Option<u64>| lag.is_some_and(|entries| entries <= LAG_ENTRIES_MAX);
        let numbers = self.metrics();
        let answers = |id: &u64| numbers.contacts.get(id).is_some_and(|c| *c <= self.0.contact_max);
        let caught_up = numbers.lag_entries.iter().filter(|(id, lag)| near(lag) && answers(id));
        let caught_up = caught_up.map(|(id, _)| *id).collect();
        let metrics = self.0.core.metrics();
        let m = metrics.borrow_watched();
        let term = own_leadership(&m)?;
        let membership = m.membership_config.membership();
        let committed = m.local_committed.is_some_and(|id| id.leader_id.term == term);
        let group = Group {
            own: m.id,
            configs: membership.get_joint_config().clone(),
            learners: membership.learner_ids().collect(),
            settled: committed
                && m.membership_config.log_id() == m.committed_membership_config.log_id(),
            caught_up,
        };
        Some((group, Anchor { term, membership: *m.membership_config.log_id() }))
    }

    /// Takes one step of a change of the membership: only while this node leads in the anchor's
    /// term and the membership is the one that the step was chosen for. `peer` is the node that is
    /// added. [`Step::HandOver`] and [`Step::Expire`] are not of this kind, and change nothing.
    pub async fn change_nodes(
        &self,
        step: Step,
        peer: Peer,
        anchor: Anchor,
        deadline: Duration,
    ) -> Result<(), MembershipError> {
        let of = |id| BTreeSet::from([id]);
        let (change, retain) = match step {
            Step::AddLearner(id) => (ChangeMembers::AddNodes(BTreeMap::from([(id, peer)])), true),
            Step::Promote(id) => (ChangeMembers::AddVoterIds(of(id)), true),
            Step::RemoveVoter(id) => (ChangeMembers::RemoveVoters(of(id)), false),
            Step::RemoveLearner(id) => (ChangeMembers::RemoveNodes(of(id)), false),
            // What the joint membership was to end in; a voter that it drops is no learner after.
            Step::Flatten => (ChangeMembers::AddVoterIds(BTreeSet::new()), false),
            Step::HandOver | Step::Expire(_) => return Ok(()),
        };
        let bound = [
            Precondition::CommittedLeaderId { committed_leader_id: Leadership::new(anchor.term) },
            Precondition::LastMembershipLogId { last_membership_log_id: anchor.membership },
        ];
        let change = self.0.core.change_membership_if(change, retain, bound);
        self.outcome(RT::timeout(deadline, change).await)
    }

    /// Members that answer now, this node included. Of a leader.
    pub fn reachable(&self) -> BTreeSet<u64> {
        let contacts = self.metrics().contacts;
        let near = contacts.iter().filter(|(_, since)| **since <= self.0.contact_max);
        near.map(|(id, _)| *id).chain([self.0.node_id]).collect()
    }

    fn outcome<T, E>(
        &self,
        result: Result<Result<T, WriteError<RT>>, E>,
    ) -> Result<(), MembershipError> {
        match result {
            Err(_) => Err(MembershipError::Unknown),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(e))) => Err(MembershipError::Fatal(fatal_reason(&e))),
            Ok(Err(RaftError::APIError(e))) => Err(match e {
                ClientWriteError::ForwardToLeader(to) => {
                    let leader = self.leader(to.leader_id, to.leader_node);
                    MembershipError::NotLeader { leader }
                }
                ClientWriteError::LogEntryDiscarded(_) => MembershipError::Unknown,
                ClientWriteError::PreconditionFailed(_) => MembershipError::InProgress,
                ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_)
                    | ChangeMembershipError::UncommittedLeaderLog(_),
                ) => MembershipError::InProgress,
                e => MembershipError::Refused(e.to_string()),
            }),
        }
    }
}
