//! What operators do.
//!
//! Owns the way of a request to the leader, and the steps of acts that have several. An operator
//! who gets no answer may ask again; one who is refused does not.

use std::time::Duration;

use quorate_world::exec;
use quorate_world::schedule::{self, Act, Topology};
use tokio::sync::oneshot;

use super::Faults;
use crate::SimClock;
use crate::domain::types::MemberName;
use crate::node::daemon::Signal;
use crate::node::{self, MakeDatabase};
use crate::operator::{self, Outcome, Request};
use crate::world::cluster_name;

/// How long an operator waits before asking again.
const AGAIN: Duration = Duration::from_millis(500);
/// Ids of controllers that come in later begin here.
const LATER_IDS: u64 = 100;

impl<M: MakeDatabase> Faults<M> {
    pub(super) fn act(&self, number: usize) {
        if exec::now() >= self.horizon() {
            return;
        }
        let own = self.clone();
        drop(exec::spawn_on(exec::ScopeId::WORLD, async move { own.carry_out(number).await }));
    }

    async fn carry_out(self, number: usize) {
        let act = self.0.plan.operations[number].what.clone();
        let roles = self.roles();
        let say = |text: &str| {
            crate::trace(|| format!("operator {number}: {text}"));
            self.0.observer.operator(number, || text.to_owned());
        };
        say(&format!("begins: {act}"));
        let outcome = match act {
            Act::Switchover { target } => {
                let target = Some(Topology::member_name(target.resolve(&roles)));
                self.ask(Request::Switchover { target }).await
            }
            Act::Failover { target, accept_data_loss } => {
                let target = target.map(|who| Topology::member_name(who.resolve(&roles)));
                self.ask(Request::Failover { target, accept_data_loss }).await
            }
            Act::Restart { node } => {
                let member = Topology::member_name(node.resolve(&roles));
                self.ask(Request::Restart { member: Some(member) }).await
            }
            Act::Roll => self.ask(Request::Restart { member: None }).await,
            Act::Reinitialise { node } => {
                let member = Topology::member_name(node.resolve(&roles));
                self.ask(Request::Reinitialise { member }).await
            }
            Act::Pause { length_ms } => self.pause(length_ms).await,
            Act::Leave { node, away_ms } => {
                self.leave(Topology::member_name(node.resolve(&roles)), away_ms).await
            }
            Act::Retag { node, tags } => {
                let node = &self.0.nodes[node.resolve(&roles)];
                node.configure(|_, old| *old = old.as_ref().map(|_| tags));
                node.signal(Signal::LeaveRunning);
                Outcome::Begun { text: "its daemon starts anew".to_owned() }
            }
            Act::RestartDaemon { node } => {
                self.0.nodes[node.resolve(&roles)].signal(Signal::LeaveRunning);
                Outcome::Begun { text: "its daemon starts anew".to_owned() }
            }
            Act::TransferLeadership { to } => match self.0.nodes[to.resolve(&roles)].raft_id() {
                Some(to) => self.ask(Request::Transfer { to }).await,
                None => Outcome::Refused { why: "it is no controller".to_owned() },
            },
            Act::AddController { node } => self.add(node).await,
            Act::RemoveController { node } => self.remove(node.resolve(&roles)).await,
            Act::ReplaceController { node } => self.replace(number, node.resolve(&roles)).await,
        };
        say(&match outcome {
            Outcome::Begun { text } => text,
            Outcome::NotLeader => "no leader was found".to_owned(),
            Outcome::Refused { why } => format!("refused: {why}"),
            Outcome::Unknown { why } => format!("nobody knows: {why}"),
        });
    }

    /// Asks whoever leads, as a task of the daemon there.
    async fn ask(&self, request: Request) -> Outcome {
        let Some(leader) = self.roles().leader else { return Outcome::NotLeader };
        let node = &self.0.nodes[leader];
        let (Some(part), Some(scope)) = (node.part(), node.daemon()) else {
            return Outcome::NotLeader;
        };
        let clock: SimClock = exec::MachineClock(node.place().machine);
        let (answer, answered) = oneshot::channel();
        drop(exec::spawn_on(scope, async move {
            let outcome = operator::ask(&part, &clock, &cluster_name(), request).await;
            // The operator may have gone.
            let _ = answer.send(outcome);
        }));
        answered.await.unwrap_or(Outcome::Unknown { why: "the daemon died".to_owned() })
    }

    /// Pauses, and resumes after a while, whatever it takes: an operator does not forget a pause.
    async fn pause(&self, length_ms: u64) -> Outcome {
        let paused = self.ask(Request::Pause).await;
        if !matches!(paused, Outcome::Begun { .. } | Outcome::Unknown { .. }) {
            return paused;
        }
        exec::sleep(Duration::from_millis(length_ms)).await;
        loop {
            match self.ask(Request::Resume).await {
                Outcome::Begun { .. } => return Outcome::Begun { text: "it is over".to_owned() },
                // Nothing was paused, or not any more.
                Outcome::Refused { why } if why.contains("not paused") => return paused,
                _ => exec::sleep(AGAIN).await,
            }
        }
    }

    /// Removes a member, and lets it come back, whatever it takes.
    async fn leave(&self, member: MemberName, away_ms: u64) -> Outcome {
        let asked = self.ask(Request::Leave { member: member.clone() }).await;
        if !matches!(asked, Outcome::Begun { .. } | Outcome::Unknown { .. }) {
            return asked;
        }
        let stays = || Outcome::Refused { why: "it stays".to_owned() };
        loop {
            match self.ask(Request::Gone { member: member.clone() }).await {
                Outcome::Begun { .. } => break,
                Outcome::Refused { why } if why == "it stays" => return stays(),
                _ => exec::sleep(AGAIN).await,
            }
        }
        exec::sleep(Duration::from_millis(away_ms)).await;
        loop {
            match self.ask(Request::Permit { member: member.clone() }).await {
                Outcome::Begun { .. } => {
                    return Outcome::Begun { text: "it was removed, and may come back".to_owned() };
                }
                // An answer that was lost meant yes.
                Outcome::Refused { why }
                    if why.contains("was not removed") || why.contains("already") =>
                {
                    return stays();
                }
                _ => exec::sleep(AGAIN).await,
            }
        }
    }

    /// Asks until there is a clear answer, or faults are over.
    async fn insist(&self, request: Request) -> Outcome {
        loop {
            let outcome = self.ask(request.clone()).await;
            match outcome {
                Outcome::Begun { .. } => return outcome,
                _ if exec::now() + AGAIN.as_nanos() as u64 >= self.horizon() => return outcome,
                _ => exec::sleep(AGAIN).await,
            }
        }
    }

    async fn add(&self, node: schedule::Node) -> Outcome {
        let node = &self.0.nodes[node];
        match node.raft_id() {
            Some(id) => self.insist(Request::Add { id, peer: node.peer() }).await,
            None => Outcome::Refused { why: "it is no controller".to_owned() },
        }
    }

    async fn remove(&self, node: schedule::Node) -> Outcome {
        match self.0.nodes[node].raft_id() {
            Some(id) => self.insist(Request::Remove { id }).await,
            None => Outcome::Refused { why: "it is no controller".to_owned() },
        }
    }

    /// The old identity out, a new one in, by which the node is configured meanwhile.
    async fn replace(&self, number: usize, at: schedule::Node) -> Outcome {
        let node = &self.0.nodes[at];
        let Some(old) = node.raft_id() else {
            return Outcome::Refused { why: "it is no controller".to_owned() };
        };
        let removed = self.insist(Request::Remove { id: old }).await;
        if !matches!(removed, Outcome::Begun { .. }) {
            return removed;
        }
        let id = LATER_IDS + number as u64;
        let others = self.voters();
        let peer = node.peer();
        node.configure(|raft, _| {
            if let Some(raft) = raft {
                raft.node_id = id;
                raft.members = others;
                raft.members.insert(id, peer.clone());
            }
        });
        // A store of the old identity belongs to the old host.
        node.kill_daemon();
        node.disk().wipe();
        self.insist(Request::Add { id, peer }).await
    }

    /// Who votes, as the leader says.
    fn voters(&self) -> std::collections::BTreeMap<u64, crate::raft::Peer> {
        let leader = self.roles().leader;
        let part = leader.and_then(|leader| self.0.nodes[leader].part());
        part.map(|part| part.raft.metrics().voters).unwrap_or_else(|| {
            let voters = self.0.plan.topology.voters();
            node::peers(voters.iter().map(|n| (*n, Topology::node_name(*n))))
        })
    }
}
