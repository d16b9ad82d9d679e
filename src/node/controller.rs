//! The controller of a node: its server, its part in the Raft group, and its disk.
//!
//! Trouble of the control plane is not trouble of the data: where the store fails, the controller
//! takes no part any more, at once, and what was built on the store is taken down. The server and
//! the agent go on, and the store is opened anew until that succeeds.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{error, info, warn};

use super::alarms::NodeAlarms;
use super::learned::{Keeper, known};
use super::{Error, Late, Part, Raft, client_options};
use crate::api;
use crate::clock::{BootClock, Clock as _};
use crate::config::{Config, Role};
use crate::controller::{self, Memory};
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::domain::space::Level;
use crate::raft::{self, Disk, Peer, Room, kv_rocks::KvRocks};
use crate::runtime::BootRuntime;
use crate::session::{self, grpc::Answers};
use crate::transport::{self, Identity};

/// How long is waited at first and at most until the store is opened anew.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// After how long a part that was taken counts as a success.
const STEADY: Duration = Duration::from_secs(60);
/// For how long a part has to be taken until the alarm about it ends: a failure that is mended at
/// once is to be seen all the same.
const SETTLE: Duration = Duration::from_secs(5);
/// How long everything that was built on a store may take to let go of it.
const LET_GO: Duration = Duration::from_secs(20);
const LET_GO_POLL: Duration = Duration::from_millis(20);
/// How often the disk is looked at, with room and without.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY_SHORT: Duration = Duration::from_secs(1);
/// How long a look may take before the disk is said to hang.
const LOOK: Duration = Duration::from_secs(5);

const MIB: u64 = 1 << 20;

type Server = JoinHandle<Result<(), tonic::transport::Error>>;

/// What a controller is made of.
pub(super) struct Controller {
    pub(super) node_id: u64,
    pub(super) config: Config,
    pub(super) identity: Identity,
    pub(super) clock: Arc<BootClock>,
    pub(super) alarms: NodeAlarms,
    /// The answers of the node's agent to others, where it has one.
    pub(super) promises: Option<session::Promises>,
    pub(super) shutting_down: watch::Receiver<bool>,
    pub(super) keeper: Keeper,
}

/// What outlives a failure of the store.
struct Fronts {
    late: Arc<Late>,
    peers: raft::grpc::Front<BootRuntime>,
    agents: Answers<BootRuntime, BootClock>,
    server: Server,
}

/// How a part in the group ended.
enum End {
    /// In order, with the node.
    InOrder,
    /// By a failure. `let_go` tells whether the store is closed, so that it can be opened anew.
    Failed { error: Error, let_go: bool },
}

impl Controller {
    /// Runs until the node ends, or until the controller fails for a reason that does not pass.
    pub(super) async fn run(self, listener: transport::Listener) -> Result<(), Error> {
        let dir = self.config.node.data_dir.join("raft");
        let disk = Disk::new(&dir);
        let mut fronts = self.serve(listener)?;
        let watcher = tokio::spawn(self.watch(disk.clone()));
        let outcome = self.keep_taking_part(&disk, &mut fronts).await;
        watcher.abort();
        outcome
    }

    /// The server answers from the first moment on, also while there is no part to take.
    fn serve(&self, listener: transport::Listener) -> Result<Fronts, Error> {
        let late = Arc::new(Late::new(&self.config, self.clock.clone()));
        let (peers, agents) = (raft::grpc::Front::default(), Answers::default());
        let routes = api::routes(late.clone(), self.shutting_down.clone())?;
        let router = transport::server()
            .add_routes(routes)
            .add_service(raft::grpc::server(peers.clone(), &self.identity))
            .add_service(session::grpc::server(
                agents.clone(),
                self.promises.clone(),
                &self.identity,
            ));
        let mut ending = self.shutting_down.clone();
        let served = router.serve_with_incoming_shutdown(listener.incoming, async move {
            ended(&mut ending).await;
        });
        Ok(Fronts { late, peers, agents, server: tokio::spawn(served) })
    }

    async fn keep_taking_part(&self, disk: &Disk, fronts: &mut Fronts) -> Result<(), Error> {
        let mut ending = self.shutting_down.clone();
        let mut backoff = BACKOFF_MIN;
        loop {
            let begun = self.clock.now();
            let (error, let_go) = match self.take_part(disk.dir(), fronts).await {
                End::InOrder => return Ok(()),
                End::Failed { error, let_go } => (error, let_go),
            };
            let alone = !self.config.has_role(Role::Agent);
            let bare = alone || self.config.members.is_empty();
            if (error.is_for_good() && !alone) || (error.is_removal() && !bare) {
                // The agent goes on for good: it obeys whoever leads the control plane now.
                error!(%error, "this node's controller never takes part again");
                self.say_down(fronts, &error, "it never takes part again");
                ended(&mut ending).await;
                return Ok(());
            }
            if !let_go || !error.may_pass() || (alone && error.is_damage()) {
                let hint = "restart hanode there once no member leads on it";
                self.say_down(fronts, &error, hint);
                return Err(error);
            }
            error!(%error, "this node's controller takes no part: its store will be opened anew");
            self.say_down(fronts, &error, "it is tried again");
            let disk = disk.clone();
            // The store may have failed for want of room.
            let spend = spawn_blocking(move || match disk.look_and_spend() {
                Ok(room) if room.level() == Level::Critical => disk.spend(),
                _ => false,
            });
            if let Ok(Ok(true)) = tokio::time::timeout(LOOK, spend).await {
                warn!("the reserve of the Raft store is spent, so that it has room");
            }
            if self.clock.now().since(begun) >= STEADY {
                backoff = BACKOFF_MIN;
            }
            tokio::select! {
                biased;
                () = ended(&mut ending) => return Ok(()),
                served = &mut fronts.server => return Err(Error::Server(format!("{served:?}"))),
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (2 * backoff).min(BACKOFF_MAX);
        }
    }

    fn say_down(&self, fronts: &Fronts, error: &Error, then: &str) {
        fronts.late.down(Some(error.to_string()));
        let name = &self.config.node.name;
        let text = format!("the controller of node {name} takes no part: {error}; {then}");
        let alarm = Alarm::new(AlarmCode::ControllerDown, text);
        self.alarms.set(&[AlarmCode::ControllerDown], vec![alarm]);
    }

    /// Opens the store, takes part until that ends, and lets go of everything.
    async fn take_part(&self, dir: &Path, fronts: &mut Fronts) -> End {
        let mut ending = self.shutting_down.clone();
        let opened = tokio::select! {
            biased;
            () = ended(&mut ending) => return End::InOrder,
            opened = open_store(dir) => opened,
        };
        let engine = match opened {
            Ok(engine) => engine,
            // Where it hangs in the kernel, no second attempt is begun.
            Err(error) => return End::Failed { error, let_go: true },
        };
        let mut tasks = Vec::new();
        let outcome = tokio::select! {
            biased;
            () = ended(&mut ending) => Ok(None),
            started = self.start(&engine, fronts, &mut tasks) => started.map(Some),
        };
        let (raft, error) = match outcome {
            Ok(None) => (None, None),
            Err(error) => (None, Some(error)),
            Ok(Some(raft)) => {
                let settle = async {
                    tokio::time::sleep(SETTLE).await;
                    self.alarms.set(&[AlarmCode::ControllerDown], Vec::new());
                    std::future::pending::<()>().await;
                };
                let error = tokio::select! {
                    biased;
                    reason = raft.fatal() => Some(Error::Core(reason)),
                    () = raft.removed() => Some(Error::Removed {
                        name: self.config.node.name.to_string(),
                        id: self.node_id,
                    }),
                    served = &mut fronts.server => Some(Error::Server(format!("{served:?}"))),
                    () = ended(&mut ending) => None,
                    () = settle => None,
                };
                (Some(raft), error)
            }
        };
        if let Some(raft) = &raft {
            if error.is_none() {
                leave_leadership(raft).await;
            }
            raft.shutdown().await;
        }
        // Whoever has the store open has to let go of it.
        fronts.peers.set(None);
        fronts.agents.set(None);
        fronts.late.set(None);
        for task in tasks {
            task.abort();
        }
        drop(raft);
        match error {
            None => {
                drop(engine.flush());
                End::InOrder
            }
            Some(error) => End::Failed { error, let_go: close(engine).await },
        }
    }

    async fn start(
        &self,
        engine: &Arc<KvRocks>,
        fronts: &Fronts,
        tasks: &mut Vec<JoinHandle<()>>,
    ) -> Result<Raft, Error> {
        let config = &self.config;
        let members: BTreeMap<u64, Peer> = config
            .controllers
            .iter()
            .map(|c| (c.id, Peer { name: c.name.to_string(), address: c.address.to_string() }))
            .collect();
        let learned = known(config).into_iter();
        let learned: BTreeMap<u64, Peer> =
            learned.map(|c| (c.id, Peer { name: c.name, address: c.address })).collect();
        // Where others than those of the file were heard of there is a group, which may have lost
        // any of the file's: with an empty store it is looked for, and never founded anew.
        let grown = learned.keys().any(|id| !members.contains_key(id));
        let mut options = raft::Options::new(self.node_id, members, &config.control_plane);
        options.learned = learned;
        options.may_found = !config.raft.join && !grown;
        options.heartbeat = Duration::from_millis(config.raft.heartbeat_ms);
        options.election_min = Duration::from_millis(config.raft.election_min_ms);
        options.election_max = Duration::from_millis(config.raft.election_max_ms);
        let peers = raft::grpc::GrpcTransport::new(self.identity.clone(), client_options());
        let clock = self.clock.clone();
        let starting =
            raft::open::<BootRuntime, _>(options, engine.clone(), peers, clock.clone()).await?;
        // The peers have to reach this node before it can take part.
        fronts.peers.set(Some(starting.service()));
        let raft = starting.start().await?;
        let memory = Arc::new(Memory::default());
        fronts.late.down(None);
        fronts.late.set(Some(Part { raft: raft.clone(), memory: memory.clone() }));
        let own = config.controllers.iter().find(|c| c.id == self.node_id);
        let service = controller::Service::new(raft.clone(), memory.clone(), clock.clone())
            .asked_at(own.map(|c| c.address.to_string()));
        fronts.agents.set(Some(service));
        let options = controller::Options::new(config.node.name.to_string());
        let changing = controller::change_nodes::<BootRuntime, _>(raft.clone(), clock.clone());
        tasks.push(tokio::spawn(changing));
        let planning = controller::run::<BootRuntime, _>(options, raft.clone(), memory, clock);
        tasks.push(tokio::spawn(planning));
        tasks.push(tokio::spawn(self.keeper.clone().follow_group(raft.clone())));
        Ok(raft)
    }

    /// Watches the room on the store's disk until the node ends.
    fn watch(&self, disk: Disk) -> impl Future<Output = ()> + Send + 'static {
        let alarms = self.alarms.clone();
        let neighbours: Vec<_> = self.config.members.iter().map(|m| m.data_dir.clone()).collect();
        async move {
            let mut known = None;
            loop {
                let (own, neighbours) = (disk.clone(), neighbours.clone());
                let mut look = spawn_blocking(move || {
                    // PostgreSQL would take the room of the reserve before the store does: there
                    // it is spent only once the store has failed.
                    let shared = neighbours.iter().any(|dir| own.shares_with(dir));
                    let room = if shared { own.look() } else { own.look_and_spend() };
                    room.map(|room| (room, shared))
                });
                let looked = match tokio::time::timeout(LOOK, &mut look).await {
                    Ok(looked) => looked,
                    Err(_) => {
                        warn!(dir = %disk.dir().display(), "the disk of the Raft store hangs");
                        look.await
                    }
                };
                let found = looked.ok().and_then(Result::ok);
                let alarm = found.and_then(|(room, shared)| alarm(disk.dir(), &room, shared));
                let short = alarm.is_some();
                let code = alarm.as_ref().map(|a| a.code);
                if code != known {
                    // A node without a member has nobody else to tell it.
                    match &alarm {
                        Some(alarm) => warn!(alarm = alarm.code.name(), text = %alarm.text, "room"),
                        None => info!(dir = %disk.dir().display(), "the Raft store has room again"),
                    }
                    known = code;
                }
                let codes = [AlarmCode::SpaceLow, AlarmCode::SpaceCritical];
                alarms.set(&codes, alarm.into_iter().collect());
                tokio::time::sleep(if short { LOOK_EVERY_SHORT } else { LOOK_EVERY }).await;
            }
        }
    }
}

/// The alarm about the store's disk. Where it is a member's disk as well, that member's own alarm
/// comes first.
fn alarm(dir: &Path, room: &Room, shared: bool) -> Option<Alarm> {
    let (free, total) = (room.space.free_bytes / MIB, room.space.total_bytes / MIB);
    let (code, what) = match room.level() {
        Level::Enough => return None,
        Level::Low if shared => return None,
        Level::Low => (AlarmCode::SpaceLow, "make room before the controller stops"),
        Level::Critical if room.reserved => {
            (AlarmCode::SpaceCritical, "the controller stops once it is full: make room")
        }
        Level::Critical => (
            AlarmCode::SpaceCritical,
            "the controller lives on its reserve, which is spent: make room",
        ),
    };
    let text = format!(
        "the file system of the Raft store {} has {free} MiB left of {total} MiB: {what}",
        dir.display()
    );
    Some(Alarm::about(code, dir.display().to_string(), text))
}

async fn ended(shutting_down: &mut watch::Receiver<bool>) {
    drop(shutting_down.wait_for(|ending| *ending).await);
}

/// Opens the store where waiting for its disk holds up nothing.
async fn open_store(dir: &Path) -> Result<Arc<KvRocks>, Error> {
    let own = dir.to_owned();
    let opened = spawn_blocking(move || {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&own)
            .map_err(|source| Error::Path { path: own.clone(), source })?;
        // Before the store: its room is there from the beginning.
        if let Err(error) = Disk::new(&own).look() {
            warn!(%error, "no reserve is kept for the Raft store");
        }
        Ok(Arc::new(KvRocks::open(&own)?))
    });
    opened.await.unwrap_or(Err(Error::Core(raft::FatalReason::Panicked)))
}

/// Closes a store that has failed, once nobody else holds it. Opened a second time while it is
/// still held it would refuse itself.
async fn close(engine: Arc<KvRocks>) -> bool {
    let alone = async {
        while Arc::strong_count(&engine) > 1 {
            tokio::time::sleep(LET_GO_POLL).await;
        }
    };
    if tokio::time::timeout(LET_GO, alone).await.is_err() {
        error!(holders = Arc::strong_count(&engine) - 1, "the failed Raft store is not let go of");
        return false;
    }
    // It waits for its writer, which may wait for the disk.
    let closed = tokio::time::timeout(LET_GO, spawn_blocking(move || drop(engine))).await;
    info!(closed = closed.is_ok(), "the failed Raft store is closed");
    closed.is_ok()
}

/// A leader that ends in order hands its leadership over first: its followers need not find out.
async fn leave_leadership(raft: &Raft) {
    if !raft.role().get().is_leader {
        return;
    }
    let metrics = raft.metrics();
    let caught_up = metrics.lag_entries.iter().find(|(_, lag)| lag.is_some_and(|n| n < 10));
    if let Some((id, _)) = caught_up
        && let Err(error) = raft.transfer_leadership(*id, Duration::from_millis(700)).await
    {
        warn!(%error, "Raft leadership was not handed over");
    }
}
