//! A node that is not one: real state and the real `apply`, and switches for what may go wrong.
//! For the tests of the API, of its client and of `hactl`, where no PostgreSQL is needed.

#![allow(clippy::disallowed_methods)] // tests run on tokio, over real sockets

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;

use quorate::api::*;
use quorate::domain::apply::Position;
use quorate::domain::event::{Event, EventKind};
use quorate::domain::lineage::Lineage;
use quorate::domain::observation::{
    Condition, Data, Fencing, Observations, PrimaryView, Progress, Report, Sequence,
    StandbyProgress, StandbyView,
};
use quorate::domain::plan::Finding;
use quorate::domain::state::{ClusterSpec, ClusterState, Member, Phase, Stage, Tenure};
use quorate::domain::sync::SyncConfig;
use quorate::domain::types::{
    BootTime, ClusterName, Epoch, GuardId, Lsn, MemberName, NodeName, SystemId, WallMillis,
};
use quorate::domain::{Command, ControlState, Reply, apply};

pub fn main_cluster() -> ClusterName {
    ClusterName::new("main").unwrap()
}

pub fn member(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

/// What a fake does when it is asked to propose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proposals {
    Apply,
    /// Applies, and does not say so.
    Unclear,
    Unavailable,
}

pub struct Fake {
    name: String,
    state: watch::Sender<(u64, Arc<ControlState>)>,
    pub leadership: Mutex<Leadership>,
    pub view: Mutex<Arc<LeaderView>>,
    pub proposals: Mutex<Proposals>,
    pub barriers: Mutex<u64>,
}

impl Fake {
    pub fn leader() -> Arc<Fake> {
        let leadership = Leadership { is_leader: true, established: true, leader: None, term: 7 };
        Arc::new(Fake {
            name: "n1".to_owned(),
            state: watch::Sender::new((1, Arc::new(state()))),
            leadership: Mutex::new(leadership),
            view: Mutex::new(Arc::new(view())),
            proposals: Mutex::new(Proposals::Apply),
            barriers: Mutex::new(0),
        })
    }

    pub fn follower_of(leader: Option<SocketAddr>) -> Arc<Fake> {
        let fake = Fake::leader();
        let leader =
            leader.map(|a| Leader { id: 1, name: "n1".to_owned(), address: a.to_string() });
        *fake.leadership.lock().unwrap() =
            Leadership { is_leader: false, established: false, leader, term: 7 };
        fake
    }

    /// Changes the state as a committed command would.
    pub fn change(&self, f: impl FnOnce(&mut ClusterState)) {
        self.state.send_modify(|(index, state)| {
            *index += 1;
            let mut new = ControlState::clone(state);
            f(new.clusters.get_mut(&main_cluster()).unwrap());
            *state = Arc::new(new);
        });
    }

    pub fn cluster(&self) -> ClusterState {
        self.state.borrow().1.clusters[&main_cluster()].clone()
    }
}

#[tonic::async_trait]
impl Source for Fake {
    fn control_plane(&self) -> &str {
        "demo"
    }
    fn node_name(&self) -> &str {
        &self.name
    }
    fn node_id(&self) -> u64 {
        1
    }
    fn applied(&self) -> Arc<ControlState> {
        self.state.borrow().1.clone()
    }
    fn applied_watch(&self) -> watch::Receiver<(u64, Arc<ControlState>)> {
        self.state.subscribe()
    }
    fn leadership(&self) -> Leadership {
        self.leadership.lock().unwrap().clone()
    }
    fn leader_view(&self) -> Arc<LeaderView> {
        self.view.lock().unwrap().clone()
    }
    fn controllers(&self) -> Vec<ControllerInfo> {
        let one = |id, name: &str, last_contact| ControllerInfo {
            id,
            name: name.to_owned(),
            address: format!("10.0.0.{id}:7401"),
            is_leader: id == 1,
            last_contact,
            lag_entries: Some(0),
        };
        vec![one(1, "n1", None), one(2, "n2", Some(Duration::from_millis(40)))]
    }
    async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        let proposals = *self.proposals.lock().unwrap();
        if proposals == Proposals::Unavailable {
            return Err(ProposeError::Unavailable { why: "no quorum".to_owned() });
        }
        let mut reply = Reply::Nothing;
        self.state.send_modify(|(index, state)| {
            *index += 1;
            let mut new = ControlState::clone(state);
            reply = apply(&mut new, Position { term: 7, index: *index }, &command);
            *state = Arc::new(new);
        });
        if proposals == Proposals::Unclear { Err(ProposeError::Unknown) } else { Ok(reply) }
    }
    async fn read_barrier(&self) -> Result<(), ProposeError> {
        *self.barriers.lock().unwrap() += 1;
        Ok(())
    }
    fn specification(&self, _: &ClusterName, text: &str) -> Result<ClusterSpec, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }
    fn wall(&self) -> WallMillis {
        WallMillis(1_790_000_000_000)
    }
}

/// Three members, a is primary of epoch 3, b and c stream.
fn state() -> ControlState {
    let names = ["a", "b", "c"];
    let spec = ClusterSpec::of(names.map(member).to_vec());
    let mut cluster = ClusterState::new(spec);
    cluster.phase = Phase::Running;
    cluster.system_id = Some(SystemId(7_300_000_000_000_000_001));
    for (i, name) in names.iter().enumerate() {
        let node = NodeName::new(format!("n{}", i + 1)).unwrap();
        let address = format!("10.0.0.{}:5432", i + 1);
        let one =
            Member { node, address, agent_address: None, priority: 0, tags: Default::default() };
        cluster.members.insert(member(name), one);
    }
    cluster.epoch = Epoch(3);
    cluster.tenure = Some(Tenure {
        epoch: Epoch(3),
        member: member("a"),
        guard: GuardId::from_bytes([1; 16]),
        stage: Stage::Active { postmaster_start_us: 1 },
        closed: None,
        stopped: false,
        failsafe: false,
        peers: BTreeSet::new(),
    });
    let members = BTreeSet::from([member("b"), member("c")]);
    cluster.syncs = vec![SyncConfig { epoch: Epoch(3), seq: 1, w: 1, members, order: Vec::new() }];
    cluster.lineage = Lineage::root(Epoch(1)).with(Epoch(2), Lsn(0x100)).with(Epoch(3), Lsn(0x200));
    for id in 1..=5 {
        let kind = EventKind::Activated { member: member("a") };
        cluster.history.push_back(Event::new(id, WallMillis(id), Epoch(3), kind));
    }
    (cluster.next_event, cluster.next_sync) = (6, 2);
    ControlState {
        clusters: BTreeMap::from([(main_cluster(), cluster)]),
        ..ControlState::default()
    }
}

fn report(condition: Condition) -> Report {
    Report {
        guard: Some(GuardId::from_bytes([1; 16])),
        sequence: Sequence::default(),
        ended: Epoch(0),
        promised: Epoch(0),
        emptied: Vec::new(),
        crashed: false,
        data: Data::Present { system_id: SystemId(7_300_000_000_000_000_001) },
        condition,
        fencing: Fencing::PidNamespace,
        problems: Vec::new(),
        alarms: Vec::new(),
        notices: Vec::new(),
        disks: Default::default(),
        aside: Vec::new(),
        life: 0,
        copied_for: 0,
        reloaded: None,
        about: Default::default(),
        settings: Default::default(),
    }
}

/// What the leader sees of that: c is a mebibyte behind, and reports a problem.
fn view() -> LeaderView {
    let now = BootTime::from_nanos(100_000_000_000);
    let end = 0x300_0000;
    let (b_at, c_at) = (Lsn(end), Lsn(end - (1 << 20)));
    let progress = |at| StandbyProgress { streaming: true, flushed: at, replayed: at };
    let standby = |at| {
        report(Condition::Standby(StandbyView {
            streaming: Some(Epoch(3)),
            replay: at,
            flushed: at,
            wal_epoch: Epoch(3),
            held: Epoch(0),
            sealed: None,
            counts: true,
            primary_end: None,
            upstream: None,
        }))
    };
    let primary = report(Condition::Primary(PrimaryView {
        epoch: Epoch(3),
        progress: Progress::Promoted { lineage: Lineage::root(Epoch(3)) },
        flushed: Lsn(end),
        standbys: BTreeMap::from([(member("b"), progress(b_at)), (member("c"), progress(c_at))]),
        confirmed: None,
        failsafe: false,
    }));
    let mut c = standby(c_at);
    c.problems.push("the disk is almost full".to_owned());
    let mut observations = Observations::default();
    observations.record(member("a"), primary, now);
    observations.record(member("b"), standby(b_at), now);
    observations.record(member("c"), c, now);
    let findings = vec![Finding::MemberProblem {
        member: member("c"),
        problem: "the disk is almost full".to_owned(),
    }];
    let lease_age = Some(Duration::from_millis(230));
    let cluster = ClusterView { observations, findings, lease_age, catalogue: None };
    LeaderView { now, clusters: BTreeMap::from([(main_cluster(), cluster)]) }
}

/// A server over a fake. It ends when this is dropped.
pub struct Served {
    pub fake: Arc<Fake>,
    pub address: SocketAddr,
    pub shutdown: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    pub async fn new(fake: Arc<Fake>) -> Served {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = watch::Sender::new(false);
        let routes = routes(fake.clone(), shutdown.subscribe()).unwrap();
        let mut stop = shutdown.subscribe();
        let task = tokio::spawn(async move {
            let ended = async move { drop(stop.wait_for(|s| *s).await) };
            tonic::transport::Server::builder()
                .add_routes(routes)
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended)
                .await
                .unwrap();
        });
        Served { fake, address, shutdown, task }
    }

    pub async fn channel(&self) -> tonic::transport::Channel {
        let url = format!("http://{}", self.address);
        tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap()
    }

    /// Waits until the server has ended in order.
    pub async fn ended(mut self) {
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}
