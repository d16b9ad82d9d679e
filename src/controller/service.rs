//! The answers of a controller to agents.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Memory;
use crate::clock::Clock;
use crate::domain::catalogue::ENTRIES_MAX;
use crate::domain::command::{Change, Command, Reply};
use crate::domain::generation::Generation;
use crate::domain::lease::Ticket;
use crate::domain::nodes::Node;
use crate::domain::state::{ClusterSpec, ClusterState, Phase};
use crate::domain::types::{BootTime, ClusterName, Epoch, MemberName, NodeName};
use crate::raft::{Applied, BarrierError, FatalReason, Handle, Leader, ProposeError};
use crate::runtime::{self, Runtime};
use crate::session::wire::{
    self, CatalogueReply, CatalogueRequest, Claim, Method, PollReply, PollRequest, RegisterReply,
    RegisterRequest, RenewReply, RenewRequest, Renewal, ReportReply, ReportRequest, SessionError,
    TransportError,
};

/// Most claims in one renewal.
const CLAIMS_MAX: usize = 10_000;
/// Longest wait of a poll.
const POLL_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a read barrier may take before the renewal is refused: an agent that hears nothing
/// asks elsewhere long before.
const BARRIER_DEADLINE: Duration = Duration::from_millis(300);
/// How long a registration may take.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(3);

/// Answers agents. Clones are handles of one service.
pub struct Service<RT: Runtime, C> {
    raft: Handle<RT>,
    memory: Arc<Memory>,
    clock: Arc<C>,
    address: Option<String>,
}

impl<RT: Runtime, C> Clone for Service<RT, C> {
    fn clone(&self) -> Self {
        let Self { raft, memory, clock, address } = self;
        let (memory, clock) = (memory.clone(), clock.clone());
        Self { raft: raft.clone(), memory, clock, address: address.clone() }
    }
}

impl<RT: Runtime, C: Clock> Service<RT, C> {
    /// A service over the same memory as the loop that plans.
    pub fn new(raft: Handle<RT>, memory: Arc<Memory>, clock: Arc<C>) -> Self {
        Self { raft, memory, clock, address: None }
    }

    /// Agents are told that this node is asked here, whatever the log knows: its own file is newer.
    pub fn asked_at(self, address: Option<String>) -> Self {
        Self { address, ..self }
    }

    /// Answers one request. The answer is always a message; an error is inside it.
    pub async fn handle(&self, method: Method, body: &[u8]) -> Result<Vec<u8>, TransportError> {
        match method {
            Method::Register => reply(match wire::decode(body) {
                Ok(request) => self.register(request).await,
                Err(error) => Err(malformed(&error)),
            }),
            Method::Report => reply(match wire::decode(body) {
                Ok(request) => self.report(request),
                Err(error) => Err(malformed(&error)),
            }),
            Method::Poll => reply(match wire::decode(body) {
                Ok(request) => self.poll(request).await,
                Err(error) => Err(malformed(&error)),
            }),
            Method::Catalogue => reply(match wire::decode(body) {
                Ok(request) => self.catalogue(request),
                Err(error) => Err(malformed(&error)),
            }),
            Method::Renew => reply(match wire::decode(body) {
                Ok(request) => self.renew(request).await,
                Err(error) => Err(malformed(&error)),
            }),
            Method::Promise => Err(TransportError::Refused("an agent is asked for it".to_owned())),
        }
    }

    fn not_leader(&self) -> SessionError {
        let role = self.raft.role().get();
        // A leader that has not committed an entry of its own yet is no other node's business.
        let leader = role.leader.filter(|_| !role.is_leader);
        SessionError::NotLeader { leader: leader.map(|l| l.peer.address) }
    }

    /// Whether this node leads, and can do so. One that is not fit may have been deposed for long:
    /// an agent that goes on to ask it would be heard by nobody.
    fn leads(&self) -> bool {
        self.raft.role().get().established && self.raft.is_fit() && self.raft.superseded().is_none()
    }

    /// Refuses whoever obeys a higher generation of the control plane, and ends by that.
    fn hear(&self, generation: Generation) -> Result<(), SessionError> {
        self.raft.hear(generation);
        match self.raft.superseded() {
            Some(FatalReason::Superseded { by, .. }) => {
                Err(SessionError::Generation { own: by, got: generation })
            }
            _ => Ok(()),
        }
    }

    async fn propose(&self, cluster: &ClusterName, change: Change) -> Result<(), SessionError> {
        let command = Command { cluster: cluster.clone(), at: self.clock.wall(), change };
        match self.raft.propose(command, PROPOSE_DEADLINE).await {
            Ok(Reply::Rejected(rejection)) => Err(SessionError::Rejected(rejection)),
            Ok(_) => Ok(()),
            Err(ProposeError::NotLeader { leader }) => Err(not_leader(leader)),
            Err(error) => Err(SessionError::Unavailable { why: error.to_string() }),
        }
    }

    async fn register(&self, request: RegisterRequest) -> Result<RegisterReply, SessionError> {
        self.hear(request.generation)?;
        if !self.leads() {
            return Err(self.not_leader());
        }
        let known = self.raft.applied().get().state.clone();
        if known.cluster(&request.cluster).is_none() {
            let spec = request.spec.clone();
            self.propose(&request.cluster, Change::CreateCluster { spec }).await?;
        }
        // Data that waits for its adoption is no cluster's yet: nothing is bootstrapped beside it,
        // since its member does not report that it has none.
        let known = self.raft.applied().get().state.clone();
        let waits = request.adopt
            && known.cluster(&request.cluster).is_none_or(|c| c.phase == Phase::AwaitingMembers);
        let change = Change::RegisterMember {
            member: request.member.clone(),
            node: request.node.clone(),
            address: request.address.clone(),
            agent_address: request.agent_address.clone(),
            priority: request.priority,
            tags: request.tags.clone(),
            system_id: request.system_id.filter(|_| !waits),
        };
        let outcome = self.propose(&request.cluster, change).await;
        let refusal = match &outcome {
            Err(SessionError::Rejected(rejection)) => Some(rejection.clone()),
            _ => None,
        };
        let now = self.clock.now();
        self.memory.registered(&request.cluster, &request.member, refusal, now);
        outcome?;
        let state = self.raft.applied().get().state.clone();
        let differences = state
            .cluster(&request.cluster)
            .map(|c| differences(c, &request.spec))
            .unwrap_or_default();
        Ok(RegisterReply { differences })
    }

    fn report(&self, request: ReportRequest) -> Result<ReportReply, SessionError> {
        self.hear(request.generation)?;
        if !self.leads() {
            return Err(self.not_leader());
        }
        self.known_member(&request.cluster, &request.member, &request.node)?;
        if request.generation < self.raft.generation() {
            // What a member promised to an older generation is no promise to this one.
            return Ok(ReportReply { wants_catalogue: false });
        }
        let now = self.clock.now();
        let wants_catalogue =
            self.memory.lacks_catalogue(&request.cluster, request.report.settings.major);
        if self.memory.report(request.cluster, request.member, request.report, now) {
            Ok(ReportReply { wants_catalogue })
        } else {
            Err(self.not_leader())
        }
    }

    fn catalogue(&self, request: CatalogueRequest) -> Result<CatalogueReply, SessionError> {
        if !self.leads() {
            return Err(self.not_leader());
        }
        let entries = request.catalogue.entries.len();
        if entries > ENTRIES_MAX {
            let why = format!("{entries} settings are too many, {ENTRIES_MAX} are allowed");
            return Err(SessionError::Malformed { why });
        }
        self.known_member(&request.cluster, &request.member, &request.node)?;
        if self.memory.learn_catalogue(request.cluster, request.catalogue) {
            Ok(CatalogueReply {})
        } else {
            Err(self.not_leader())
        }
    }

    /// Only the node of a registered member may speak for it.
    fn known_member(
        &self,
        cluster: &ClusterName,
        member: &MemberName,
        node: &NodeName,
    ) -> Result<(), SessionError> {
        let state = self.raft.applied().get().state.clone();
        let bound = state.cluster(cluster).and_then(|c| {
            let removed = || c.removed.get(member).map(|r| &r.node);
            c.members.get(member).map(|m| &m.node).or_else(removed)
        });
        if bound != Some(node) {
            let why = format!("{member} is not a member on {node}");
            return Err(SessionError::Unavailable { why });
        }
        Ok(())
    }

    async fn poll(&self, request: PollRequest) -> Result<PollReply, SessionError> {
        self.hear(request.generation)?;
        // What was known of an older generation says nothing of this one.
        let knows_this = request.generation == self.raft.generation();
        let known_index = if knows_this { request.known_index } else { 0 };
        let request = PollRequest { known_index, ..request };
        let wait = Duration::from_millis(request.wait_ms).min(POLL_WAIT_MAX);
        let deadline = self.clock.now().plus(wait);
        let mut applied = self.raft.applied();
        let mut role = self.raft.role();
        let mut fitness = self.raft.fitness();
        if request.known_index == 0 {
            // An agent that knows nothing could not tell an old state from a new one, and a leader
            // that was deposed does not know it: a quorum has to confirm the first answer.
            return match self.raft.read_barrier(BARRIER_DEADLINE).await {
                Ok(latest) => Ok(self.answer(&request, &latest)),
                Err(error) => Err(barrier_error(error)),
            };
        }
        // A new leader's state may be behind what the agent has seen, for a moment.
        loop {
            if !self.leads() {
                return Err(self.not_leader());
            }
            let latest = applied.get();
            let remaining = deadline.since(self.clock.now());
            if latest.index > request.known_index || remaining.is_zero() {
                return Ok(self.answer(&request, &latest));
            }
            let timer = RT::sleep(remaining);
            runtime::first_of(vec![
                Box::pin(applied.another()),
                Box::pin(role.another()),
                Box::pin(fitness.another()),
                Box::pin(timer),
            ])
            .await;
        }
    }

    fn answer(&self, request: &PollRequest, applied: &Applied) -> PollReply {
        let mut clusters: BTreeMap<ClusterName, ClusterState> = BTreeMap::new();
        let mut presence = BTreeMap::new();
        let now = self.clock.now();
        let news = applied.index != request.known_index;
        for name in &request.clusters {
            if let Some(cluster) = applied.state.cluster(name) {
                if news {
                    clusters.insert(name.clone(), without_history(cluster));
                }
                let known = self.memory.presence(name, cluster.members.keys(), now);
                presence.insert(name.clone(), known);
            }
        }
        let own = |id: &u64| self.address.as_ref().filter(|_| *id == self.raft.node_id());
        let controller = |(id, n): (&u64, &Node)| wire::Controller {
            id: *id,
            name: n.name.clone(),
            address: own(id).unwrap_or(&n.address).clone(),
        };
        let controllers = applied.state.nodes.voters().map(controller).collect();
        let gone = request.clusters.iter().filter(|name| news && applied.state.is_removed(name));
        let removed = gone.cloned().collect();
        let generation = self.raft.generation();
        PollReply { index: applied.index, clusters, removed, presence, controllers, generation }
    }

    /// One read barrier serves all claims of a call, and all calls that wait for one. It begins
    /// after their arrival was noted, and every claim is judged by the state that it gives.
    async fn renew(&self, request: RenewRequest) -> Result<RenewReply, SessionError> {
        self.hear(request.generation)?;
        let own = self.raft.generation();
        if request.generation < own {
            // It has to obey this generation, durably, before it may hold a lease of it.
            return Err(SessionError::Generation { own, got: request.generation });
        }
        if request.claims.len() > CLAIMS_MAX {
            let why = format!("at most {CLAIMS_MAX} claims in one call");
            return Err(SessionError::Malformed { why });
        }
        let claims = request.claims.iter().map(|c| (c.cluster.clone(), c.epoch));
        let Some(arrivals) = Arrivals::note(self.memory.clone(), claims, self.clock.now()) else {
            return Err(self.not_leader());
        };
        let barrier = self.raft.read_barrier(BARRIER_DEADLINE).await;
        let renewals: Vec<Renewal> = match &barrier {
            Ok(applied) => request.claims.iter().map(|c| judge(applied, c)).collect(),
            Err(_) => Vec::new(),
        };
        let acknowledged = |i: usize| matches!(renewals.get(i), Some(Renewal::Acknowledged));
        let still_leads = arrivals.settle(acknowledged);
        match barrier {
            Err(error) => Err(barrier_error(error)),
            Ok(_) if !still_leads => Err(self.not_leader()),
            Ok(_) => Ok(RenewReply { renewals, generation: own }),
        }
    }
}

fn not_leader(leader: Option<Leader>) -> SessionError {
    SessionError::NotLeader { leader: leader.map(|l| l.peer.address) }
}

fn barrier_error(error: BarrierError) -> SessionError {
    match error {
        BarrierError::NotLeader { leader } => not_leader(leader),
        other => SessionError::Unavailable { why: other.to_string() },
    }
}

/// Renewals on their way. A caller that hangs up ends its handler anywhere: what it left unsettled
/// is refused then, since no answer can leave any more.
struct Arrivals {
    memory: Arc<Memory>,
    term: u64,
    tickets: Vec<Ticket>,
}

impl Arrivals {
    fn note(
        memory: Arc<Memory>,
        claims: impl Iterator<Item = (ClusterName, Epoch)>,
        now: BootTime,
    ) -> Option<Self> {
        let (term, tickets) = memory.arrive(claims, now)?;
        Some(Self { memory, term, tickets })
    }

    /// `false` where nothing may be acknowledged, since the leadership is over.
    fn settle(mut self, acknowledged: impl Fn(usize) -> bool) -> bool {
        let tickets = std::mem::take(&mut self.tickets);
        let verdicts: Vec<_> =
            tickets.into_iter().enumerate().map(|(i, ticket)| (ticket, acknowledged(i))).collect();
        self.memory.settle(self.term, &verdicts)
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        let refused: Vec<_> = self.tickets.drain(..).map(|ticket| (ticket, false)).collect();
        if !refused.is_empty() {
            self.memory.settle(self.term, &refused);
        }
    }
}

/// Whether the agreed state names this member, this life of its guard and this epoch, and the
/// epoch is not closed.
fn judge(applied: &Applied, claim: &Claim) -> Renewal {
    let refused = |why: String| Renewal::Refused { why };
    let Some(cluster) = applied.state.cluster(&claim.cluster) else {
        return refused(format!("there is no cluster named {}", claim.cluster));
    };
    let Some(tenure) = &cluster.tenure else {
        return refused("nobody leads this cluster".to_owned());
    };
    if tenure.epoch != claim.epoch {
        return refused(format!("the cluster is at epoch {}, not {}", tenure.epoch, claim.epoch));
    }
    if tenure.member != claim.member || tenure.guard != claim.guard {
        return refused(format!("epoch {} belongs to {}", tenure.epoch, tenure.member));
    }
    match &tenure.closed {
        Some(closed) => refused(format!("epoch {} is closed: {:?}", tenure.epoch, closed.reason)),
        None => Renewal::Acknowledged,
    }
}

fn without_history(cluster: &ClusterState) -> ClusterState {
    let mut copy = cluster.clone();
    copy.history.clear();
    copy.spec_history.clear();
    copy.finished.clear();
    copy.alarms.clear();
    copy.noticed.clear();
    copy
}

/// What a node's configuration says otherwise. Once the specification was changed through the API,
/// only what never changes matters: the file is that of the beginning.
fn differences(cluster: &ClusterState, own: &ClusterSpec) -> Vec<String> {
    let agreed = &cluster.spec;
    let matters =
        |key: &str| cluster.spec_revision <= 1 || matches!(key, "timing" | "bootstrap_members");
    let as_map = |spec: &ClusterSpec| match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let own = as_map(own);
    let agreed = as_map(agreed);
    let differing =
        agreed.iter().filter(|(key, value)| own.get(*key) != Some(value) && matters(key));
    differing.map(|(key, _)| key.clone()).collect()
}

fn malformed(error: &TransportError) -> SessionError {
    SessionError::Malformed { why: error.to_string() }
}

fn reply<T: Serialize>(outcome: Result<T, SessionError>) -> Result<Vec<u8>, TransportError> {
    wire::encode(&outcome)
}
