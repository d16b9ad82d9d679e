//! What an operator asks of the control plane, by the path of the API.
//!
//! Owns switchover and failover as `src/api/operate.rs` does them on the leader (confirm by a
//! barrier, check, propose), and changes of the controllers. Each runs as a task of the node that
//! is asked, so that it dies with it.

use std::time::Duration;

use crate::SimClock;
use crate::clock::Clock as _;
use crate::controller::ClusterView;
use crate::domain::command::Change;
use crate::domain::membership::MembershipChange;
use crate::domain::plan;
use crate::domain::state::ClusterState;
use crate::domain::types::{BootTime, ClusterName, MemberName};
use crate::domain::{Command, Reply};
use crate::node::front::Part;
use crate::raft::{Peer, ProposeError};

/// Longest wait for a barrier, as in the API.
const BARRIER_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a proposal, as in the API.
const PROPOSAL_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a change of the controllers.
const MEMBERSHIP_MAX: Duration = Duration::from_secs(20);
/// Longest wait for a move of the Raft leadership.
const TRANSFER_MAX: Duration = Duration::from_secs(2);

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// To hand the leadership of the cluster over.
    Switchover {
        /// To whom; to the best where it is not said.
        target: Option<MemberName>,
    },
    /// To take the leadership of the cluster from its holder.
    Failover {
        /// For whom; for the best where it is not said.
        target: Option<MemberName>,
        /// Whether acknowledged commits may be lost.
        accept_data_loss: bool,
    },
    /// To restart a member, in its place where it leads; or all of them, one after the other.
    Restart {
        /// Which.
        member: Option<MemberName>,
    },
    /// To copy a standby anew.
    Reinitialise {
        /// Which.
        member: MemberName,
    },
    /// To pause.
    Pause,
    /// To end a pause.
    Resume,
    /// To remove a standby.
    Leave {
        /// Which.
        member: MemberName,
    },
    /// To let a removed member come back.
    Permit {
        /// Which.
        member: MemberName,
    },
    /// Whether a member belongs to the cluster; refused where it does.
    Gone {
        /// Which.
        member: MemberName,
    },
    /// To move the leadership of the control plane to the controller of this Raft id.
    Transfer {
        /// To whom.
        to: u64,
    },
    /// To let a controller vote that runs already, with an empty store.
    Add {
        /// Its Raft id, never used before.
        id: u64,
        /// Who and where it is.
        peer: Peer,
    },
    /// To take a controller out, for ever.
    Remove {
        /// Its Raft id.
        id: u64,
    },
}

/// How it ended, from the operator's point of view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was begun, or done.
    Begun {
        /// What the answer said.
        text: String,
    },
    /// This node does not lead; nothing was begun.
    NotLeader,
    /// It was refused; nothing was begun.
    Refused {
        /// Why.
        why: String,
    },
    /// Nobody knows.
    Unknown {
        /// Why.
        why: String,
    },
}

fn refused(why: impl ToString) -> Outcome {
    Outcome::Refused { why: why.to_string() }
}

/// Asks the node whose part this is.
pub async fn ask(
    part: &Part,
    clock: &SimClock,
    cluster: &ClusterName,
    request: Request,
) -> Outcome {
    match request {
        Request::Switchover { target } => switchover(part, clock, cluster, target).await,
        Request::Failover { target, accept_data_loss } => {
            failover(part, clock, cluster, target, accept_data_loss).await
        }
        Request::Restart { member } => restart(part, clock, cluster, member).await,
        Request::Reinitialise { member } => reinitialise(part, clock, cluster, member).await,
        Request::Pause => {
            let change = Change::Pause { until: None, by: by() };
            propose(part, clock, cluster, change).await
        }
        Request::Resume => {
            let change = Change::Resume { over: None, by: by() };
            propose(part, clock, cluster, change).await
        }
        Request::Leave { member } => leave(part, clock, cluster, member).await,
        Request::Permit { member } => {
            let change = Change::Membership(MembershipChange::Permit { member, by: by() });
            propose(part, clock, cluster, change).await
        }
        Request::Gone { member } => match confirmed(part, clock, cluster).await {
            Ok((agreed, _)) if agreed.removed.contains_key(&member) => {
                Outcome::Begun { text: "it is removed".to_owned() }
            }
            Ok((agreed, _)) if agreed.leaving.contains_key(&member) => {
                Outcome::Unknown { why: "it is leaving still".to_owned() }
            }
            Ok(_) => refused("it stays"),
            Err(outcome) => outcome,
        },
        Request::Transfer { to } => match part.raft.transfer_leadership(to, TRANSFER_MAX).await {
            Ok(()) => Outcome::Begun { text: format!("controller {to} leads") },
            Err(error) => refused(error),
        },
        Request::Add { id, peer } => {
            changed(part.raft.add_controller(id, peer, MEMBERSHIP_MAX).await)
        }
        Request::Remove { id } => changed(part.raft.remove_controller(id, MEMBERSHIP_MAX).await),
    }
}

fn changed(outcome: Result<(), crate::raft::MembershipError>) -> Outcome {
    use crate::raft::MembershipError as E;
    match outcome {
        Ok(()) => Outcome::Begun { text: "the controllers are changed".to_owned() },
        Err(E::NotLeader { .. }) => Outcome::NotLeader,
        Err(E::Unknown) => Outcome::Unknown { why: "no answer in time".to_owned() },
        Err(error) => refused(error),
    }
}

/// The state and the leader's view, once this node is confirmed as the leader.
async fn confirmed(
    part: &Part,
    clock: &SimClock,
    cluster: &ClusterName,
) -> Result<(ClusterState, ClusterView), Outcome> {
    if !part.raft.role().get().is_leader {
        return Err(Outcome::NotLeader);
    }
    part.raft.read_barrier(BARRIER_MAX).await.map_err(refused)?;
    let state = part.raft.applied().get().state.clone();
    let agreed = state.cluster(cluster).ok_or_else(|| refused("there is no such cluster"))?;
    let view = part.memory.view(clock.now());
    let seen = view.clusters.get(cluster).cloned().unwrap_or_default();
    Ok((agreed.clone(), seen))
}

/// Asks for what is decided on the agreed state and what the leader sees; an error is why not.
async fn decided(
    part: &Part,
    clock: &SimClock,
    cluster: &ClusterName,
    decide: impl FnOnce(&ClusterState, &ClusterView, BootTime) -> Result<Change, String>,
) -> Outcome {
    let (agreed, seen) = match confirmed(part, clock, cluster).await {
        Ok(found) => found,
        Err(outcome) => return outcome,
    };
    match decide(&agreed, &seen, clock.now()) {
        Err(why) => refused(why),
        Ok(change) => propose(part, clock, cluster, change).await,
    }
}

fn by() -> String {
    "operator".to_owned()
}

async fn switchover(
    part: &Part,
    clock: &SimClock,
    cluster: &ClusterName,
    target: Option<MemberName>,
) -> Outcome {
    decided(part, clock, cluster, |agreed, seen, now| {
        let checked = plan::switchover_check(agreed, &seen.observations, target.as_ref(), now);
        let target = checked.map_err(|problems| list(&problems))?;
        Ok(Change::StartSwitchover { expect_epoch: agreed.epoch, target, by: by() })
    })
    .await
}

async fn restart(
    part: &Part,
    clock: &SimClock,
    cluster: &ClusterName,
    member: Option<MemberName>,
) -> Outcome {
    decided(part, clock, cluster, |agreed, seen, now| {
        let seen = &seen.observations;
        let checked = plan::restart_check(agreed, seen, member.as_ref(), false, true, now);
        let restart = checked.map_err(|problems| list(&problems))?;
        let expect_epoch = agreed.epoch;
        Ok(Change::StartRestart { expect_epoch, restart, deadline_ms: 0, by: by() })
    })
    .await
}

async fn reinitialise(
    part: &Part,
    clock: &SimClock,
    cluster: &ClusterName,
    member: MemberName,
) -> Outcome {
    decided(part, clock, cluster, |agreed, seen, now| {
        plan::reinitialise_check(agreed, &seen.observations, &member, now)
            .map_err(|problems| list(&problems))?;
        let expect_epoch = agreed.epoch;
        Ok(Change::StartReinitialise { expect_epoch, member, deadline_ms: 0, by: by() })
    })
    .await
}

async fn leave(
    part: &Part,
    clock: &SimClock,
    cluster: &ClusterName,
    member: MemberName,
) -> Outcome {
    decided(part, clock, cluster, |agreed, seen, now| {
        plan::member_removal_check(agreed, &seen.observations, &member, now)
            .map_err(|problem| problem.to_string())?;
        let expect_epoch = agreed.epoch;
        let change = MembershipChange::BeginRemoval { expect_epoch, member, by: by() };
        Ok(Change::Membership(change))
    })
    .await
}

async fn failover(
    part: &Part,
    clock: &SimClock,
    cluster: &ClusterName,
    target: Option<MemberName>,
    accept_data_loss: bool,
) -> Outcome {
    decided(part, clock, cluster, |agreed, seen, now| {
        let (observed, age) = (&seen.observations, seen.lease_age);
        plan::failover_check(agreed, observed, age, target.as_ref(), accept_data_loss, now)
            .map_err(|problems| list(&problems))?;
        let expect_epoch = agreed.epoch;
        Ok(Change::StartFailover { expect_epoch, target, accept_data_loss, by: by() })
    })
    .await
}

fn list(problems: &[plan::OperationProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

async fn propose(part: &Part, clock: &SimClock, cluster: &ClusterName, change: Change) -> Outcome {
    let command = Command { cluster: cluster.clone(), at: clock.wall(), change };
    match part.raft.propose(command, PROPOSAL_MAX).await {
        Ok(Reply::Applied { operation: Some(id) }) => {
            Outcome::Begun { text: format!("operation {id}") }
        }
        Ok(Reply::Applied { operation: None }) => Outcome::Begun { text: "it is done".to_owned() },
        Ok(Reply::Nothing) => refused("it has no effect"),
        Ok(Reply::Rejected(rejection)) => refused(rejection),
        Err(ProposeError::NotLeader { .. }) => Outcome::NotLeader,
        Err(error) if error.is_unknown() => Outcome::Unknown { why: error.to_string() },
        Err(error) => refused(error),
    }
}
