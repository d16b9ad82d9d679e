//! Groups of Raft nodes in one process: elections, partitions, restarts, wiped stores.
//!
//! The network is a map in memory whose links can be cut; the nodes are the production ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use quorate::clock::BootClock;
use quorate::domain::command::Change;
use quorate::domain::state::ClusterSpec;
use quorate::domain::types::{ClusterName, MemberName, WallMillis};
use quorate::domain::{Command, Reply};
use quorate::raft::grpc::{self, GrpcTransport};
use quorate::raft::kv::{Error, KvEngine};
use quorate::raft::kv_mem::KvMem;
use quorate::raft::kv_rocks::KvRocks;
use quorate::raft::runtime::BootRuntime;
use quorate::raft::{
    AsyncRuntime, BarrierError, FatalReason, FormationError, Handle, MembershipError, Method,
    Options, Peer, ProposeError, Service, StartError, Starting, TransferError, Transport,
    TransportError,
};
use quorate::transport::{self, ClientOptions, Identity};

pub(crate) type Rt = BootRuntime;

/// Generous: it only bounds a test that hangs.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(40);
pub(crate) const SHORT: Duration = Duration::from_secs(3);

pub(crate) fn run(future: impl Future<Output = ()> + Send) {
    Rt::new(2).block_on(async { Rt::timeout(3 * WAIT_MAX, future).await.unwrap() });
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool + Send) {
    let wait = async {
        while !holds() {
            Rt::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(Rt::timeout(WAIT_MAX, wait).await.is_ok(), "never: {what}");
}

#[derive(Default)]
pub(crate) struct Net {
    services: Mutex<BTreeMap<String, Service<Rt>>>,
    cut: Mutex<BTreeSet<(u64, String)>>,
    /// Calls by caller and method, the lost ones as well.
    calls: Mutex<BTreeMap<(u64, Method), u64>>,
}

impl Net {
    fn cut(&self, from: u64, to: &str) -> bool {
        self.cut.lock().unwrap().contains(&(from, to.to_owned()))
    }

    pub(crate) fn isolate(&self, node: u64, all: impl IntoIterator<Item = u64>) {
        let mut cut = self.cut.lock().unwrap();
        for other in all {
            cut.insert((node, address(other)));
            cut.insert((other, address(node)));
        }
    }

    fn calls(&self, from: u64, method: Method) -> u64 {
        self.calls.lock().unwrap().get(&(from, method)).copied().unwrap_or_default()
    }

    pub(crate) fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }
}

fn address(node: u64) -> String {
    format!("n{node}:1")
}

pub(crate) struct Link {
    net: Arc<Net>,
    from: u64,
}

impl Transport for Link {
    async fn call(
        &self,
        target: &Peer,
        method: Method,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        *self.net.calls.lock().unwrap().entry((self.from, method)).or_default() += 1;
        let gone = || TransportError::Unreachable("nobody listens".to_owned());
        if self.net.cut(self.from, &target.address) {
            Rt::sleep(deadline).await;
            return Err(TransportError::Timeout);
        }
        let service = self.net.services.lock().unwrap().get(&target.address).cloned();
        let service = service.ok_or_else(gone)?;
        // The peer goes on when the caller gives up.
        let served = Rt::spawn(async move { service.handle(method, &payload).await });
        let reply = served.await.map_err(|_| gone())?;
        let to: u64 = target.address[1..].split(':').next().unwrap().parse().unwrap();
        if self.net.cut(to, &address(self.from)) {
            Rt::sleep(deadline).await;
            return Err(TransportError::Timeout);
        }
        Ok(reply)
    }
}

pub(crate) fn members(count: u64) -> BTreeMap<u64, Peer> {
    let peer = |id| Peer { name: format!("node-{id}"), address: address(id) };
    (1..=count).map(|id| (id, peer(id))).collect()
}

pub(crate) struct Group {
    pub(crate) net: Arc<Net>,
    pub(crate) stores: BTreeMap<u64, KvMem>,
    pub(crate) nodes: BTreeMap<u64, Handle<Rt>>,
    pub(crate) options: fn(Options) -> Options,
    command: fn() -> Command,
}

impl Group {
    pub(crate) fn new(count: u64) -> Self {
        let stores = (1..=count).map(|id| (id, KvMem::new())).collect();
        Self { net: Arc::default(), stores, nodes: BTreeMap::new(), options: |o| o, command: add }
    }

    async fn open(&self, id: u64) -> Starting<Rt, Link> {
        self.open_among(id, members(self.stores.len() as u64)).await
    }

    pub(crate) async fn open_among(
        &self,
        id: u64,
        members: BTreeMap<u64, Peer>,
    ) -> Starting<Rt, Link> {
        self.try_open(id, members).await.unwrap()
    }

    pub(crate) async fn try_open(
        &self,
        id: u64,
        members: BTreeMap<u64, Peer>,
    ) -> Result<Starting<Rt, Link>, StartError> {
        let options = Options::new(id, members, "cp");
        let engine: Arc<dyn KvEngine> = Arc::new(self.stores[&id].clone());
        let link = Link { net: self.net.clone(), from: id };
        let clock = Arc::new(BootClock);
        let starting =
            quorate::raft::open::<Rt, _>((self.options)(options), engine, link, clock).await;
        let starting = starting?;
        self.net.services.lock().unwrap().insert(address(id), starting.service());
        Ok(starting)
    }

    pub(crate) async fn start(&mut self, ids: &[u64]) {
        let mut tasks = Vec::new();
        for id in ids {
            let starting = self.open(*id).await;
            tasks.push((*id, Rt::spawn(starting.start())));
        }
        for (id, task) in tasks {
            self.nodes.insert(id, task.await.unwrap().unwrap());
        }
    }

    pub(crate) async fn stop(&mut self, id: u64) {
        self.net.services.lock().unwrap().remove(&address(id));
        self.nodes.remove(&id).unwrap().shutdown().await;
    }

    /// The established leader among `ids`.
    pub(crate) async fn leader(&self, ids: &[u64]) -> u64 {
        let mut found = None;
        until("a leader", || {
            found = ids.iter().copied().find(|id| {
                let role = self.nodes[id].role().get();
                role.established
            });
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Creates one more cluster through whoever leads; gives how many there are then.
    pub(crate) async fn add(&self, ids: &[u64]) -> usize {
        let command = (self.command)();
        loop {
            let node = &self.nodes[&self.leader(ids).await];
            match node.propose(command.clone(), SHORT).await {
                Ok(Reply::Applied { .. } | Reply::Nothing) => return count(node),
                Ok(reply) => panic!("{reply:?}"),
                // The same command again changes nothing where it was applied after all.
                Err(e) if e.retryable() || e.is_unknown() => {
                    Rt::sleep(Duration::from_millis(20)).await
                }
                Err(e) => panic!("{e}"),
            }
        }
    }

    pub(crate) async fn all_have(&self, value: usize) {
        for (id, node) in &self.nodes {
            until(&format!("node {id} has {value}"), || count(node) == value).await;
        }
    }
}

/// A command that shows in [`count`]: it creates a cluster with a name of its own.
pub(crate) fn add() -> Command {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let spec = ClusterSpec::of(vec![MemberName::new("m1").unwrap()]);
    let name = format!("c{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let cluster = ClusterName::new(name).unwrap();
    Command { cluster, at: WallMillis(1), change: Change::CreateCluster { spec } }
}

pub(crate) fn count(node: &Handle<Rt>) -> usize {
    node.applied().get().state.clusters.len()
}

#[test]
fn a_group_elects_applies_and_survives_restarts() {
    run(async {
        let mut group = Group::new(3);
        group.start(&[1, 2, 3]).await;
        for n in 1..=20 {
            assert_eq!(group.add(&[1, 2, 3]).await, n);
        }
        group.all_have(20).await;
        let leader = group.leader(&[1, 2, 3]).await;
        let read = group.nodes[&leader].read_barrier(SHORT).await.unwrap();
        assert_eq!(read.state.clusters.len(), 20);
        let metrics = group.nodes[&leader].metrics();
        assert_eq!((metrics.state.as_str(), metrics.voters.len()), ("leader", 3));
        assert!(!metrics.disk_stalled);
        let follower = (1..=3).find(|id| *id != leader).unwrap();
        let refused = group.nodes[&follower].read_barrier(SHORT).await.unwrap_err();
        let BarrierError::NotLeader { leader: Some(hint) } = refused else { panic!("{refused}") };
        assert_eq!(hint.id, leader);
        let refused = group.nodes[&follower].propose(add(), SHORT).await.unwrap_err();
        let ProposeError::NotLeader { leader: Some(hint) } = refused else { panic!("{refused}") };
        assert_eq!(hint.id, leader);

        for id in 1..=3 {
            group.stop(id).await;
        }
        group.start(&[1, 2, 3]).await;
        assert_eq!(group.add(&[1, 2, 3]).await, 21);
        group.all_have(21).await;
    });
}

#[test]
fn a_leader_that_is_cut_off_passes_no_barrier() {
    run(async {
        let mut group = Group::new(3);
        group.start(&[1, 2, 3]).await;
        group.add(&[1, 2, 3]).await;
        let old = group.leader(&[1, 2, 3]).await;
        let rest: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
        group.net.isolate(old, rest.clone());
        let refused = group.nodes[&old].read_barrier(SHORT).await.unwrap_err();
        assert!(matches!(refused, BarrierError::NoQuorum | BarrierError::NotLeader { .. }));
        let refused = group.nodes[&old].propose(add(), Duration::from_millis(200)).await;
        assert!(refused.is_err());
        assert_eq!(group.add(&rest).await, 2);
        let refused = group.nodes[&old].read_barrier(SHORT).await;
        assert!(refused.is_err(), "it is deposed and does not know it");
        group.net.heal();
        until("the old leader follows", || !group.nodes[&old].role().get().is_leader).await;
        // The command that was never answered is gone, or came after all; nobody disagrees.
        let value = group.add(&[1, 2, 3]).await;
        assert!(value == 3 || value == 4, "{value}");
        group.all_have(value).await;
    });
}

#[test]
fn a_leader_that_is_heard_but_hears_nobody_is_replaced() {
    run(async {
        let mut group = Group::new(3);
        group.start(&[1, 2, 3]).await;
        group.add(&[1, 2, 3]).await;
        let deaf = group.leader(&[1, 2, 3]).await;
        let rest: Vec<u64> = (1..=3).filter(|id| *id != deaf).collect();
        {
            let mut cut = group.net.cut.lock().unwrap();
            cut.extend(rest.iter().map(|id| (*id, address(deaf))));
        }
        // Its heartbeats reach them all the time; it is asked for barriers, and it has an entry that
        // it replicates again and again.
        let asking = group.nodes[&deaf].clone();
        drop(Rt::spawn(async move {
            let _ = asking.propose(add(), Duration::from_millis(100)).await;
            while asking.role().get().ended.is_none() {
                let _ = asking.read_barrier(SHORT).await;
                Rt::sleep(Duration::from_millis(100)).await;
            }
        }));
        group.leader(&rest).await;
        // The entry that the deaf one never heard of as stored may be in there.
        let value = group.add(&rest).await;
        assert!(value == 2 || value == 3, "{value}");
        group.net.heal();
        group.all_have(value).await;
        until("the deaf one follows", || !group.nodes[&deaf].role().get().is_leader).await;
    });
}

#[test]
fn a_follower_that_comes_back_does_not_force_a_healthy_leader_out() {
    run(async {
        let mut group = Group::new(3);
        // Long, so that a busy machine does not depose a healthy leader by itself.
        group.options = |o| Options {
            election_min: Duration::from_secs(2),
            election_max: Duration::from_secs(3),
            ..o
        };
        group.start(&[1, 2, 3]).await;
        let leader = group.leader(&[1, 2, 3]).await;
        let follower = (1..=3).find(|id| *id != leader).unwrap();
        let before = group.nodes[&leader].role().get();
        let voted = group.net.calls(follower, Method::Vote);
        group.net.isolate(follower, (1..=3).filter(|id| *id != follower));
        // It asks both others, again and again, in vain.
        let asked = group.net.calls(follower, Method::PreVote);
        let asks = || group.net.calls(follower, Method::PreVote) >= asked + 8;
        until("it wants to be elected", asks).await;
        assert_eq!(group.net.calls(follower, Method::Vote), voted, "it asked for a real vote");
        assert_eq!(group.nodes[&follower].metrics().term, before.term, "its term grew");
        group.net.heal();
        let value = group.add(&[leader]).await;
        until("it catches up", || count(&group.nodes[&follower]) == value).await;
        let after = group.nodes[&leader].role().get();
        assert_eq!((after.term, after.since, after.is_leader), (before.term, before.since, true));
    });
}

#[test]
fn a_wiped_controller_is_refused_and_a_late_one_is_not() {
    run(async {
        let mut group = Group::new(3);
        // The third only says that it knows of no group, and takes part long after the others.
        let third = group.open(3).await;
        group.start(&[1, 2]).await;
        group.add(&[1, 2]).await;
        drop(third);
        group.start(&[3]).await;
        group.all_have(1).await;

        group.stop(3).await;
        group.stores.insert(3, KvMem::new());
        let refused = group.open(3).await.start().await.err().unwrap();
        let StartError::Formation(FormationError::Wiped { node_id: 3, .. }) = &refused else {
            panic!("{refused}");
        };
        assert!(refused.to_string().contains("never used"), "{refused}");
        // The others go on.
        assert_eq!(group.add(&[1, 2]).await, 2);
    });
}

#[test]
fn two_of_three_form_a_group_whoever_founds_it_first() {
    run(async {
        let mut group = Group::new(3);
        let _third = group.open(3).await;
        let first = group.open(1).await;
        let second = group.open(2).await;
        // The second founds while the first has not even asked.
        group.nodes.insert(2, second.start().await.unwrap());
        until("it wants votes", || group.net.calls(2, Method::Vote) > 0).await;
        group.nodes.insert(1, first.start().await.unwrap());
        assert_eq!(group.add(&[1, 2]).await, 1);
        group.all_have(1).await;
    });
}

#[test]
fn a_lost_controller_is_replaced_under_a_new_id() {
    run(async {
        let mut group = Group::new(3);
        group.start(&[1, 2, 3]).await;
        group.add(&[1, 2, 3]).await;
        group.stop(3).await;
        let leader = group.leader(&[1, 2]).await;
        let other = 3 - leader;
        let handle = group.nodes[&leader].clone();
        let refused = group.nodes[&other].remove_controller(3, SHORT).await;
        assert!(matches!(refused, Err(MembershipError::NotLeader { .. })), "{refused:?}");
        handle.remove_controller(3, WAIT_MAX).await.unwrap();
        let again = handle.remove_controller(3, SHORT).await;
        assert!(matches!(again, Err(MembershipError::Refused(_))), "{again:?}");

        group.stores.insert(4, KvMem::new());
        let mut among = members(4);
        among.remove(&3);
        let peer = among[&4].clone();
        let starting = group.open_among(4, among).await;
        group.nodes.insert(4, starting.start().await.unwrap());
        handle.add_controller(4, peer, WAIT_MAX).await.unwrap();
        let voters = handle.metrics().voters.into_keys().collect::<Vec<_>>();
        assert_eq!(voters, [1, 2, 4]);
        group.all_have(1).await;
        // It counts: without the old leader the other two go on.
        group.stop(leader).await;
        assert_eq!(group.add(&[other, 4]).await, 2);
        group.all_have(2).await;
    });
}

#[test]
fn an_empty_node_waits_where_it_cannot_know() {
    run(async {
        let mut group = Group::new(3);
        let third = group.open(3).await;
        group.start(&[1, 2]).await;
        group.add(&[1, 2]).await;
        drop(third);
        // Node 2 might be the only one that once counted a vote of node 3.
        group.stop(2).await;
        let starting = group.open(3).await;
        let started = Rt::spawn(starting.start());
        assert!(Rt::timeout(SHORT, started).await.is_err(), "it must wait for node 2");
        // Alone, an empty node founds nothing either, nor do two: the third may know of a group.
        let alone = Group::new(3);
        let starting = alone.open(1).await;
        assert!(Rt::timeout(SHORT, starting.start()).await.is_err());
        let (first, second) = (alone.open(1).await, alone.open(2).await);
        let second = Rt::spawn(second.start());
        assert!(Rt::timeout(SHORT, first.start()).await.is_err());
        drop(second);
    });
}

#[test]
fn leadership_moves_on_request() {
    run(async {
        let mut group = Group::new(3);
        group.start(&[1, 2, 3]).await;
        let mut value = group.add(&[1, 2, 3]).await;
        for _ in 0..3 {
            let leader = group.leader(&[1, 2, 3]).await;
            let to = leader % 3 + 1;
            let handle = &group.nodes[&leader];
            assert_eq!(
                handle.transfer_leadership(leader, SHORT).await,
                Err(TransferError::BadTarget(leader))
            );
            handle.transfer_leadership(to, WAIT_MAX).await.unwrap();
            assert_eq!(group.leader(&[to]).await, to);
            value += 1;
            assert_eq!(group.add(&[1, 2, 3]).await, value);
        }
    });
}

#[test]
fn a_follower_far_behind_gets_a_snapshot() {
    run(async {
        let mut group = Group::new(3);
        group.options = |o| Options { snapshot_entries: 50, keep_entries: 10, ..o };
        // Large enough for a snapshot of several messages.
        group.command = || {
            let mut command = add();
            if let Change::CreateCluster { spec } = &mut command.change {
                spec.hba.push("x".repeat(10_000));
            }
            command
        };
        group.start(&[1, 2, 3]).await;
        group.add(&[1, 2, 3]).await;
        group.stop(3).await;
        for n in 2..=300 {
            assert_eq!(group.add(&[1, 2]).await, n);
        }
        until("the log is purged", || {
            group.nodes.values().all(|node| node.metrics().purged > Some(100))
        })
        .await;
        let net = group.net.clone();
        let sent = || (1..=2).map(|id| net.calls(id, Method::Snapshot)).sum::<u64>();
        let before = sent();
        group.start(&[3]).await;
        group.all_have(300).await;
        assert!(sent() >= before + 3);
        // And from its own snapshot after a restart.
        for id in 1..=3 {
            group.stop(id).await;
        }
        group.start(&[1, 2, 3]).await;
        assert_eq!(group.add(&[1, 2, 3]).await, 301);
        group.all_have(301).await;
    });
}

/// A store that does writes at once, until it is stalled.
fn stallable() -> (KvMem, Arc<AtomicBool>) {
    let stalled = Arc::new(AtomicBool::new(false));
    let own: Arc<OnceLock<KvMem>> = Arc::default();
    let (hook_own, hook_stalled) = (own.clone(), stalled.clone());
    let store = KvMem::queued(move || {
        while !hook_stalled.load(Ordering::SeqCst) && hook_own.get().is_some_and(KvMem::step) {}
    });
    assert!(own.set(store.clone()).is_ok());
    (store, stalled)
}

#[test]
fn a_leader_with_a_stuck_disk_gives_up() {
    run(async {
        let mut group = Group::new(3);
        let mut switches = BTreeMap::new();
        for id in 1..=3 {
            let (store, stalled) = stallable();
            group.stores.insert(id, store);
            switches.insert(id, stalled);
        }
        group.start(&[1, 2, 3]).await;
        group.add(&[1, 2, 3]).await;
        let old = group.leader(&[1, 2, 3]).await;
        let rest: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
        switches[&old].store(true, Ordering::SeqCst);
        // Its followers commit this without its disk.
        let _ = group.nodes[&old].propose(add(), SHORT).await;
        until("it is seen", || group.nodes[&old].metrics().disk_stalled).await;
        let refused = group.nodes[&old].read_barrier(SHORT).await.unwrap_err();
        assert_eq!(refused, BarrierError::DiskStalled);
        group.leader(&rest).await;
        let value = group.add(&rest).await;
        assert_eq!(value, 3);
        switches[&old].store(false, Ordering::SeqCst);
        while group.stores[&old].step() {}
        group.all_have(value).await;
        until("it is over", || !group.nodes[&old].metrics().disk_stalled).await;
    });
}

#[test]
fn a_failed_store_is_fatal() {
    run(async {
        let mut group = Group::new(3);
        group.start(&[1, 2, 3]).await;
        group.add(&[1, 2, 3]).await;
        let leader = group.leader(&[1, 2, 3]).await;
        group.stores[&leader].fail(Error::Io("no space left".to_owned()));
        let _ = group.nodes[&leader].propose(add(), SHORT).await;
        let reason = Rt::timeout(WAIT_MAX, group.nodes[&leader].fatal()).await.unwrap();
        assert!(matches!(&reason, FatalReason::Store(e) if e.contains("no space")), "{reason}");
        assert!(!group.nodes[&leader].role().get().is_leader);
        let rest: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        group.add(&rest).await;
    });
}

#[test]
fn an_orderly_stop_is_told_apart_and_long_commands_are_refused() {
    run(async {
        let mut group = Group::new(1);
        group.start(&[1]).await;
        group.leader(&[1]).await;
        let node = group.nodes[&1].clone();
        let (member, why) = (MemberName::new("m1").unwrap(), "x".repeat(2 << 20));
        let long = Command { change: Change::AbandonBootstrap { member, why }, ..add() };
        let refused = node.propose(long, SHORT).await.unwrap_err();
        assert!(matches!(refused, ProposeError::TooLong { .. }));
        node.shutdown().await;
        assert_eq!(node.fatal().await, FatalReason::Stopped);
        assert!(matches!(node.propose(add(), SHORT).await, Err(ProposeError::Fatal(_))));
        assert!(matches!(node.read_barrier(SHORT).await, Err(BarrierError::Fatal(_))));
    });
}

#[test]
fn three_nodes_over_grpc_on_rocksdb_and_a_stranger() {
    run(async {
        let identity = Identity::new("cp", "secret").unwrap();
        let mut listeners = Vec::new();
        let mut members = BTreeMap::new();
        for id in 1..=3 {
            let listener = transport::bind("127.0.0.1:0").await.unwrap();
            let address = listener.address.to_string();
            members.insert(id, Peer { name: format!("node-{id}"), address });
            listeners.push((id, listener));
        }
        let (mut starting, mut dirs) = (Vec::new(), Vec::new());
        for (id, listener) in listeners {
            let options = Options::new(id, members.clone(), "cp");
            let transport = GrpcTransport::new(identity.clone(), ClientOptions::default());
            let dir = tempfile::TempDir::new().unwrap();
            let engine = Arc::new(KvRocks::open(dir.path()).unwrap());
            dirs.push(dir);
            let clock = Arc::new(BootClock);
            let node =
                quorate::raft::open::<Rt, _>(options, engine, transport, clock).await.unwrap();
            let router = transport::server().add_service(grpc::server(node.service(), &identity));
            drop(Rt::spawn(router.serve_with_incoming(listener.incoming)));
            starting.push(Rt::spawn(node.start()));
        }
        let mut nodes = BTreeMap::new();
        for (id, task) in (1..).zip(starting) {
            nodes.insert(id, task.await.unwrap().unwrap());
        }
        let group = Group { nodes, ..Group::new(0) };
        for n in 1..=10 {
            assert_eq!(group.add(&[1, 2, 3]).await, n);
        }
        group.all_have(10).await;
        let leader = group.leader(&[1, 2, 3]).await;
        let read = group.nodes[&leader].read_barrier(SHORT).await.unwrap();
        assert_eq!(read.state.clusters.len(), 10);

        for (control_plane, token) in [("other", "secret"), ("cp", "wrong")] {
            let stranger = Identity::new(control_plane, token).unwrap();
            let transport = GrpcTransport::new(stranger, ClientOptions::default());
            let reply = transport.call(&members[&1], Method::Hello, Vec::new(), SHORT).await;
            assert!(matches!(reply, Err(TransportError::Refused(_))), "{reply:?}");
        }
        let nobody = Peer { name: "x".to_owned(), address: "127.0.0.1:1".to_owned() };
        let transport = GrpcTransport::new(identity, ClientOptions::default());
        let reply = transport.call(&nobody, Method::Hello, Vec::new(), SHORT).await;
        assert!(matches!(reply, Err(TransportError::Unreachable(_))), "{reply:?}");
    });
}
