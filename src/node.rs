//! One node: everything wired together, and the order in which it starts and stops.
//!
//! This file and those below it are the only ones that know all parts. Import everything.
//!
//! ```text
//!   controller   the life of the controller, and its next one after its store has failed
//!   alarms       what is wrong with the node itself
//!   join         the configuration of a node that joins
//!   learned      what it hears of the controllers
//!   nodes        the controllers as the API shows them
//!   spec         what the configuration asks of a cluster
//! ```

// The place that starts the runtime's tasks of production.
#![allow(clippy::disallowed_methods)]

mod alarms;
mod controller;
pub mod join;
mod learned;
mod nodes;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::agent::database::{PgDatabase, Settings};
use crate::agent::{self, Member};
use crate::api::{self, ControllerInfo, Leader, LeaderView, Leadership, Source};
use crate::clock::{BootClock, Clock};
use crate::config::{self, Config, Role};
use crate::controller::{ClusterView, Memory};
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::domain::state::ClusterSpec;
use crate::domain::types::{ClusterName, WallMillis};
use crate::domain::{Command, ControlState, Reply};
use crate::raft::{self, Handle};
use crate::rescue::{self, file};
use crate::runtime::BootRuntime;
use crate::service_manager::ServiceManager;
use crate::session::{self, grpc::Answers};
use crate::transport::{self, ClientOptions, Identity};

use alarms::NodeAlarms;
use spec::spec;

type Raft = Handle<BootRuntime>;

/// How long what has to answer may do nothing at all before PostgreSQL is given up as hung.
const HUNG_AFTER: Duration = Duration::from_secs(10);
/// How long a proposal of the API may take.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a read barrier of the API may take.
const BARRIER_DEADLINE: Duration = Duration::from_secs(2);
/// How long the controller may take to end in order.
const FAREWELL: Duration = Duration::from_secs(6);
/// How long the agent goes on at least without the controller of its node, so that a controller
/// that fails at every start does not take the agent down every second.
const REPRIEVE: Duration = Duration::from_secs(10);
/// How often is looked whether a member leads.
const LEADS_POLL: Duration = Duration::from_millis(500);
/// Pause before a port that could not be had is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// How long connecting to another node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// Why a node does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration does not fit this machine.
    #[error("{file}: this machine does not fit the configuration:{}", list(problems))]
    Machine {
        /// The configuration file.
        file: String,
        /// All that is wrong.
        problems: Vec<config::Problem>,
    },
    /// The shared secret cannot be used.
    #[error("{file}: {problem}")]
    Secret {
        /// The configuration file.
        file: String,
        /// What is wrong.
        problem: config::Problem,
    },
    /// A directory or a file of the node cannot be used.
    #[error("{path}: {source}")]
    Path {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another daemon or a tool works on the same directory.
    #[error(transparent)]
    Locked(#[from] rescue::LockError),
    /// The port or a client.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// The Raft store or the group.
    #[error(transparent)]
    Raft(#[from] raft::StartError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] raft::kv::Error),
    /// A member's settings.
    #[error("{member}: {source}")]
    Member {
        /// Whose.
        member: String,
        /// What is wrong.
        source: agent::database::SettingsError,
    },
    /// A member's database cannot be taken on.
    #[error("{member}: {source}")]
    Database {
        /// Whose.
        member: String,
        /// What is wrong.
        source: agent::driver::Error,
    },
    /// The API could not be assembled.
    #[error(transparent)]
    Api(#[from] api::ReflectionError),
    /// The node was removed from the control plane.
    #[error(
        "node {name} (id {id}) was removed from the control plane, and never comes back under this \
         id: add the host anew with `hactl node add`, which gives it another one"
    )]
    Removed {
        /// Its name.
        name: String,
        /// Its id.
        id: u64,
    },
    /// The gRPC server ended.
    #[error("the gRPC server ended: {0}")]
    Server(String),
    /// The Raft core ended.
    #[error("{0}; the daemon ends, and is to be restarted")]
    Core(raft::FatalReason),
    /// A task of the agent ended.
    #[error("the agent ended; the daemon is to be restarted")]
    Agent,
}

fn list(problems: &[config::Problem]) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
}

impl Error {
    /// Whether the same controller may be well again in this process: its store has failed, and
    /// can be opened anew once the disk is well. What the group or the configuration refuses is
    /// not.
    fn may_pass(&self) -> bool {
        match self {
            Error::Store(_) | Error::Core(_) | Error::Path { .. } => true,
            Error::Raft(error) => {
                matches!(error, raft::StartError::Store(_) | raft::StartError::Fatal(_))
            }
            _ => false,
        }
    }

    /// Whether the store never takes part again, by the operator's word or since a higher
    /// generation of the control plane exists.
    fn is_for_good(&self) -> bool {
        use raft::{FatalReason, IdentityError, StartError};
        matches!(
            self,
            Error::Core(FatalReason::Superseded { .. })
                | Error::Raft(StartError::Identity(
                    IdentityError::Retired | IdentityError::Superseded { .. }
                ))
        )
    }

    /// Whether the group goes on without this node, by the operator's word.
    fn is_removal(&self) -> bool {
        use raft::{FormationError, StartError};
        matches!(
            self,
            Error::Removed { .. }
                | Error::Raft(
                    StartError::Removed(_) | StartError::Formation(FormationError::Removed { .. })
                )
        )
    }

    /// Whether the store is damaged.
    fn is_damage(&self) -> bool {
        matches!(
            self,
            Error::Store(raft::kv::Error::Corrupt { .. })
                | Error::Raft(raft::StartError::Store(raft::kv::Error::Corrupt { .. }))
        )
    }
}

/// How a node was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// PostgreSQL goes on under its guard: an upgrade, or a restart of the daemon.
    LeaveRunning,
    /// Everything stops.
    StopAll,
}

/// Runs the node until it is told to end.
pub async fn run(config: Config) -> Result<(), Error> {
    let file = config.file.display().to_string();
    for warning in &config.warnings {
        warn!(%warning, "configuration");
    }
    prepare_directories(&config)?;
    let problems = config::check_machine(&config);
    if !problems.is_empty() {
        return Err(Error::Machine { file, problems });
    }
    let secret = config::Secret::load(&config.secret_file)
        .map_err(|problem| Error::Secret { file: file.clone(), problem })?;
    let token = secret.rpc_token(&config.control_plane);
    let identity = Identity::new(&config.control_plane, token.expose())?;
    // Never let go before the process ends: tasks go on for a moment after this function, and answer
    // other agents. The next daemon counts on it that no promise is given after its own start.
    std::mem::forget(rescue::lock(&config.node.data_dir)?);
    let clock = Arc::new(BootClock);
    let (shutdown, shutting_down) = watch::channel(false);
    let (stop, stopping) = crate::watch::channel(false);

    // What is wrong with the machine is said before anything runs.
    let node_id = config.raft.node_id.filter(|_| config.has_role(Role::Controller));
    let listener = match node_id {
        Some(_) => Some(transport::bind(&config.node.listen.to_string()).await?),
        None => None,
    };
    // The agent comes first: a running primary needs its renewals, and any controller gives them.
    let (alarms, node_alarms) = NodeAlarms::new();
    let keeper = learned::Keeper::new(&config);
    let agent = start_agent(
        &config,
        &secret,
        &identity,
        clock.clone(),
        (stopping, node_alarms),
        keeper.clone(),
    )
    .await?;
    let (agent, leads, promises, agreed): (_, agent::Leads, _, _) = match agent {
        Some(Running { handle, leads, promises, agreed }) => {
            (Some(handle), leads, Some(promises), Some(agreed))
        }
        None => (None, Arc::new(|| false), None, None),
    };
    if node_id.is_none()
        && let Some((promises, agreed)) = promises.clone().zip(agreed)
    {
        let front = Front { alarms: alarms.clone(), promises, ending: shutting_down.clone() };
        serve_without_controller(&config, &identity, clock.clone(), front, agreed);
    }
    let controller = node_id.zip(listener).map(|(node_id, listener)| {
        let controller = controller::Controller {
            node_id,
            config: config.clone(),
            identity: identity.clone(),
            clock: clock.clone(),
            alarms: alarms.clone(),
            promises,
            shutting_down,
            keeper,
        };
        tokio::spawn(async move {
            let ended = controller.run(listener).await;
            if let Err(error) = &ended {
                // Trouble of the control plane on this node is not its primary's: the other
                // controllers renew its lease. Only once nothing leads here does the daemon end.
                error!(%error, "this node's controller has ended");
                tokio::time::sleep(REPRIEVE).await;
                while leads() {
                    tokio::time::sleep(LEADS_POLL).await;
                }
            }
            ended
        })
    });
    info!(node = %config.node.name, listen = %config.node.listen, "hanode is running");
    let manager = Arc::new(ServiceManager::from_env());
    manager.ready(&format!("node {} of {}", config.node.name, config.control_plane));
    let living = manager.clone();
    let living = tokio::spawn(async move { living.live().await });
    let mut controller = controller;
    let outcome = supervise(&mut controller, agent, stop, &manager).await;
    shutdown.send_replace(true);
    if let Some(controller) = controller
        && !controller.is_finished()
    {
        // A leader hands its leadership over, and the store is flushed.
        drop(tokio::time::timeout(FAREWELL, controller).await);
    }
    living.abort();
    outcome
}

/// Waits for a signal, or for a part that ends by itself.
async fn supervise(
    controller: &mut Option<tokio::task::JoinHandle<Result<(), Error>>>,
    mut agent: Option<tokio::task::JoinHandle<()>>,
    stop: crate::watch::Sender<bool>,
    manager: &ServiceManager,
) -> Result<(), Error> {
    let agent_ended = async {
        match &mut agent {
            Some(handle) => drop(handle.await),
            None => std::future::pending().await,
        }
    };
    let controller_ended = async {
        match controller {
            Some(handle) => match handle.await {
                Ok(ended) => ended,
                Err(_) => Err(Error::Core(raft::FatalReason::Panicked)),
            },
            None => std::future::pending().await,
        }
    };
    let ending = tokio::select! {
        biased;
        ending = asked_to_end() => ending,
        ended = controller_ended => return ended,
        () = agent_ended => return Err(Error::Agent),
    };
    info!(?ending, "ending");
    manager.stopping(match ending {
        Ending::StopAll => "the members of this node are being stopped",
        Ending::LeaveRunning => "the members of this node go on under their guards",
    });
    if ending == Ending::StopAll
        && let Some(handle) = agent
    {
        // The controller goes on meanwhile: the ends of the members are to be known.
        stop.send_replace(true);
        if handle.await.is_err() {
            return Err(Error::Agent);
        }
    }
    Ok(())
}

async fn asked_to_end() -> Ending {
    let (Ok(mut term), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        error!("signals cannot be received");
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        _ = interrupt.recv() => Ending::StopAll,
        _ = term.recv() => Ending::LeaveRunning,
    }
}

/// Directories that are ours to make: only their owner reads them, except for those that
/// PostgreSQL's user has to pass through.
fn prepare_directories(config: &Config) -> Result<(), Error> {
    for dir in [&config.node.data_dir, &config.node.run_dir] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(|source| Error::Path { path: dir.clone(), source })?;
    }
    Ok(())
}

fn client_options() -> ClientOptions {
    ClientOptions { connect_timeout: CONNECT_TIMEOUT, ..ClientOptions::default() }
}

// ---- the agent ----

/// The agent that runs.
struct Running {
    handle: tokio::task::JoinHandle<()>,
    leads: agent::Leads,
    promises: session::Promises,
    agreed: crate::watch::Receiver<Arc<agent::Snapshot>>,
}

/// What a node without a controller answers, until it ends: other agents, and the API with what its
/// own agent was told.
fn serve_without_controller(
    config: &Config,
    identity: &Identity,
    clock: Arc<BootClock>,
    front: Front,
    mut agreed: crate::watch::Receiver<Arc<agent::Snapshot>>,
) {
    let late = Arc::new(Late::new(config, clock));
    let (address, identity) = (config.node.listen.to_string(), identity.clone());
    let served = late.clone();
    tokio::spawn(async move {
        let mut ending = front.ending.clone();
        let over = async move { drop(ending.wait_for(|ending| *ending).await) };
        tokio::select! {
            () = over => {}
            () = serve_peers(&address, &identity, served, &front) => {}
        }
    });
    tokio::spawn(async move {
        loop {
            let snapshot = agreed.borrow_and_update().clone();
            let clusters = snapshot.clusters.iter().map(|(k, v)| (k.clone(), (**v).clone()));
            let state = ControlState { clusters: clusters.collect(), ..ControlState::default() };
            late.applied.send_replace((snapshot.index, Arc::new(state)));
            if agreed.changed().await.is_err() {
                return;
            }
        }
    });
}

/// What a node without a controller serves with.
struct Front {
    alarms: NodeAlarms,
    promises: session::Promises,
    ending: watch::Receiver<bool>,
}

/// Serves the other agents and the API. A port that is taken is an alarm, and no reason for a
/// primary here to end: its own lease needs nobody to reach this node.
async fn serve_peers(address: &str, identity: &Identity, late: Arc<Late>, front: &Front) {
    loop {
        let failed = match transport::bind(address).await {
            Err(error) => error.to_string(),
            Ok(listener) => {
                front.alarms.set(&[AlarmCode::PortTaken], Vec::new());
                let nobody = Answers::<BootRuntime, BootClock>::default();
                let routes = match api::routes(late.clone(), front.ending.clone()) {
                    Ok(routes) => routes,
                    Err(error) => return error!(%error, "this node is not served"),
                };
                let promises = Some(front.promises.clone());
                let router = transport::server()
                    .add_routes(routes)
                    .add_service(session::grpc::server(nobody, promises, identity));
                let mut ending = front.ending.clone();
                let over = async move { drop(ending.wait_for(|ending| *ending).await) };
                match router.serve_with_incoming_shutdown(listener.incoming, over).await {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                }
            }
        };
        error!(%failed, address, "other agents cannot reach this node");
        let text = format!(
            "{address}: {failed}; other agents cannot reach this node, so failsafe \
                            does not hold, and its API does not answer"
        );
        front.alarms.set(&[AlarmCode::PortTaken], vec![Alarm::new(AlarmCode::PortTaken, text)]);
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

async fn start_agent(
    config: &Config,
    secret: &config::Secret,
    identity: &Identity,
    clock: Arc<BootClock>,
    (stopping, node_alarms): (crate::watch::Receiver<bool>, crate::watch::Receiver<Vec<Alarm>>),
    keeper: learned::Keeper,
) -> Result<Option<Running>, Error> {
    if !config.has_role(Role::Agent) || config.members.is_empty() {
        return Ok(None);
    }
    let mut members = Vec::new();
    for member in &config.members {
        let error = |source| Error::Member { member: member.key(), source };
        let settings = Settings::from_config(config, member, secret).map_err(error)?;
        let database = PgDatabase::new(settings)
            .await
            .map_err(|source| Error::Database { member: member.key(), source })?;
        let Some(cluster) = config.cluster(&member.cluster) else { continue };
        let definition = Member {
            cluster: member.cluster.clone(),
            name: member.name.clone(),
            address: member.address.to_string(),
            agent_address: Some(config.node.advertise.to_string()),
            priority: member.failover_priority,
            tags: member.tags.clone(),
            adopt: member.adopt,
            spec: spec(config, cluster),
        };
        members.push((definition, Arc::new(database)));
    }
    let transport = session::grpc::GrpcTransport::new(identity.clone(), client_options());
    let addresses = controllers_nearest_first(config, &learned::known(config));
    let client = session::Client::new(Arc::new(transport), addresses);
    tokio::spawn(keeper.follow_agent(client.told()));
    let options = agent::Options {
        node: config.node.name.clone(),
        report_every: Duration::from_millis(config.timing.report_ms),
        hung_after: HUNG_AFTER,
        node_alarms,
    };
    let agent = agent::Agent::new(options, members, clock);
    let (leads, promises, agreed) = (agent.leads(), agent.promises(), agent.agreed());
    let running = agent::run::<BootRuntime, _, _, _>(agent, client, stopping);
    Ok(Some(Running { handle: tokio::spawn(running), leads, promises, agreed }))
}

/// The controller of this node first, where it has one: it knows the leader as soon as anybody.
/// Those that were heard of come before those that only the file has.
fn controllers_nearest_first(config: &Config, learned: &[config::Learned]) -> Vec<String> {
    let (own, others): (Vec<_>, Vec<_>) =
        config.controllers.iter().partition(|c| c.name == config.node.name);
    let mut out: Vec<String> = Vec::new();
    let learned = learned.iter().map(|c| c.address.clone());
    let own = own.into_iter().map(|c| c.address.to_string());
    for address in own.chain(learned).chain(others.into_iter().map(|c| c.address.to_string())) {
        if !out.contains(&address) {
            out.push(address);
        }
    }
    out
}

// ---- the API's view of the node ----

/// The node as the API sees it; before Raft takes part it has no leader and an empty state.
struct Late {
    control_plane: String,
    node_name: String,
    node_id: u64,
    controllers: Vec<config::Controller>,
    join_terms: api::JoinTerms,
    clock: Arc<BootClock>,
    part: Mutex<Option<Part>>,
    /// Why no part is taken, where a failure is why.
    down: Mutex<Option<String>>,
    applied: watch::Sender<(u64, Arc<ControlState>)>,
}

/// The part that the controller takes in the group, from a start of its store on.
#[derive(Clone)]
struct Part {
    raft: Raft,
    memory: Arc<Memory>,
}

impl Late {
    fn new(config: &Config, clock: Arc<BootClock>) -> Self {
        Self {
            control_plane: config.control_plane.clone(),
            node_name: config.node.name.to_string(),
            node_id: config.raft.node_id.unwrap_or_default(),
            controllers: config.controllers.clone(),
            join_terms: nodes::join_terms(config),
            clock,
            part: Mutex::new(None),
            down: Mutex::default(),
            applied: watch::Sender::default(),
        }
    }

    /// From now on this is why no part is taken.
    fn down(&self, why: Option<String>) {
        *self.down.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// From now on this part is shown, or none: then the state that was known last stays.
    fn set(self: &Arc<Self>, part: Option<Part>) {
        let applied = part.as_ref().map(|part| part.raft.applied());
        *self.part.lock().unwrap_or_else(PoisonError::into_inner) = part;
        let Some(mut applied) = applied else { return };
        let own = self.clone();
        tokio::spawn(async move {
            loop {
                let latest = applied.get();
                // A store that was opened anew applies what is known already.
                own.applied.send_if_modified(|(index, state)| {
                    let newer = latest.index >= *index;
                    if newer {
                        (*index, *state) = (latest.index, latest.state.clone());
                    }
                    newer
                });
                if applied.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    fn part(&self) -> Option<Part> {
        self.part.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The leader that this node knows, perhaps itself.
    fn leader_id(&self) -> Option<u64> {
        let leadership = self.leadership();
        let own = leadership.is_leader.then_some(self.node_id);
        leadership.leader.map(|l| l.id).or(own)
    }

    fn raft(&self) -> Result<Raft, api::ProposeError> {
        let part = self.part().ok_or_else(|| api::ProposeError::Unavailable {
            why: match self.down.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                Some(why) => format!("this controller takes no part: {why}"),
                None if self.node_id == 0 => "this node has no controller".to_owned(),
                None => {
                    "this controller takes no part now: it waits for the others, or for its disk"
                        .to_owned()
                }
            },
        })?;
        Ok(part.raft)
    }
}

fn proposed(outcome: Result<Reply, raft::ProposeError>) -> Result<Reply, api::ProposeError> {
    match outcome {
        Ok(reply) => Ok(reply),
        Err(raft::ProposeError::NotLeader { leader: to }) => {
            Err(api::ProposeError::NotLeader { leader: to.map(leader) })
        }
        Err(raft::ProposeError::TooLong { .. }) => {
            Err(api::ProposeError::Unavailable { why: "the command is too long".to_owned() })
        }
        Err(raft::ProposeError::Unknown | raft::ProposeError::Fatal(_)) => {
            Err(api::ProposeError::Unknown)
        }
    }
}

fn leader(leader: raft::Leader) -> Leader {
    Leader { id: leader.id, name: leader.peer.name, address: leader.peer.address }
}

#[tonic::async_trait]
impl Source for Late {
    fn control_plane(&self) -> &str {
        &self.control_plane
    }

    fn node_name(&self) -> &str {
        &self.node_name
    }

    fn node_id(&self) -> u64 {
        self.node_id
    }

    fn applied(&self) -> Arc<ControlState> {
        self.applied.borrow().1.clone()
    }

    fn applied_watch(&self) -> watch::Receiver<(u64, Arc<ControlState>)> {
        self.applied.subscribe()
    }

    fn leadership(&self) -> Leadership {
        let Some(part) = self.part() else { return Leadership::default() };
        let role = part.raft.role().get();
        // A leader that cannot lead may have been deposed long ago: it does not speak for the group.
        let fit = !role.is_leader || part.raft.is_fit();
        Leadership {
            is_leader: role.is_leader && fit,
            established: role.established && fit,
            leader: role.leader.filter(|_| fit).map(leader),
            term: role.term,
        }
    }

    fn leader_view(&self) -> Arc<LeaderView> {
        let now = self.clock.now();
        let view = self.part().map(|part| part.memory.view(now));
        let Some(view) = view else {
            return Arc::new(LeaderView { now, ..LeaderView::default() });
        };
        let clusters = view.clusters.into_iter().map(|(name, c)| {
            let ClusterView { observations, findings, lease_age, catalogue } = c;
            (name, api::ClusterView { observations, findings, lease_age, catalogue })
        });
        Arc::new(LeaderView { now: view.now, clusters: clusters.collect() })
    }

    fn controllers(&self) -> Vec<ControllerInfo> {
        let known = self.leadership().leader.map(|l| l.id);
        let metrics = self.part().map(|part| part.raft.metrics());
        if let Some(metrics) = metrics.as_ref().filter(|m| !m.voters.is_empty()) {
            return nodes::infos(metrics, &metrics.voters, self.leader_id());
        }
        let info = |c: &config::Controller| ControllerInfo {
            id: c.id,
            name: c.name.to_string(),
            address: c.address.to_string(),
            is_leader: known == Some(c.id),
            last_contact: None,
            lag_entries: None,
        };
        // Who votes is in the log; before that is known, what is configured.
        let votes = |c: &&config::Controller| {
            metrics.as_ref().is_none_or(|m| m.voters.is_empty() || m.voters.contains_key(&c.id))
        };
        self.controllers.iter().filter(votes).map(info).collect()
    }

    fn learners(&self) -> Vec<ControllerInfo> {
        let metrics = self.part().map(|part| part.raft.metrics());
        metrics.map(|m| nodes::infos(&m, &m.learners, self.leader_id())).unwrap_or_default()
    }

    fn reachable(&self) -> BTreeSet<u64> {
        self.part().map(|part| part.raft.reachable()).unwrap_or_default()
    }

    fn group(&self) -> Option<crate::domain::nodes::Group> {
        self.part()?.raft.group().map(|(group, _)| group)
    }

    async fn versions(&self) -> BTreeMap<u64, String> {
        match self.part() {
            Some(part) => part.raft.versions().await,
            None => BTreeMap::new(),
        }
    }

    fn join_terms(&self) -> api::JoinTerms {
        self.join_terms.clone()
    }

    async fn propose_nodes(
        &self,
        command: crate::domain::nodes::NodesCommand,
    ) -> Result<Reply, api::ProposeError> {
        proposed(self.raft()?.propose_nodes(command, PROPOSE_DEADLINE).await)
    }

    async fn propose(&self, command: Command) -> Result<Reply, api::ProposeError> {
        proposed(self.raft()?.propose(command, PROPOSE_DEADLINE).await)
    }

    async fn read_barrier(&self) -> Result<(), api::ProposeError> {
        match self.raft()?.read_barrier(BARRIER_DEADLINE).await {
            Ok(_) => Ok(()),
            Err(raft::BarrierError::NotLeader { leader: to }) => {
                Err(api::ProposeError::NotLeader { leader: to.map(leader) })
            }
            Err(error) => Err(api::ProposeError::Unavailable { why: error.to_string() }),
        }
    }

    fn specification(&self, name: &ClusterName, text: &str) -> Result<ClusterSpec, String> {
        spec::specification(name, text)
    }

    fn generation(&self) -> u64 {
        self.part().map_or(0, |part| part.raft.generation().0)
    }

    fn snapshot(&self) -> Result<Vec<u8>, api::ProposeError> {
        let unavailable = |why: String| api::ProposeError::Unavailable { why };
        let raft = self.raft()?;
        let applied = raft.applied().get();
        let metrics = raft.metrics();
        let controller = |(id, peer): (u64, raft::Peer)| file::Controller {
            id,
            name: peer.name,
            address: peer.address,
        };
        let saved = file::Saved {
            control_plane: self.control_plane.clone(),
            generation: raft.generation(),
            node: self.node_name.clone(),
            from_leader: self.leadership().established,
            at: self.clock.wall(),
            term: applied.term,
            index: applied.index,
            controllers: metrics.voters.into_iter().map(controller).collect(),
            state: (*applied.state).clone(),
        };
        saved.encode().map_err(|e| unavailable(e.to_string()))
    }

    fn wall(&self) -> WallMillis {
        self.clock.wall()
    }
}
