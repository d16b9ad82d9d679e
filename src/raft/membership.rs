//! Who votes: changes of the group's membership.
//!
//! Owns adding and removing one controller at a time. Both go through the log, so a second change
//! is refused while one is under way. A node id belongs to one store for ever: a replaced host
//! comes in under a new one.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{AsyncRuntime, ChangeMembers};

use super::error::{FatalReason, Leader};
use super::handle::Handle;
use super::role::fatal_reason;
use super::types::{Peer, TypeConfig};

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
                ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_)
                    | ChangeMembershipError::UncommittedLeaderLog(_),
                ) => MembershipError::InProgress,
                e => MembershipError::Refused(e.to_string()),
            }),
        }
    }
}
