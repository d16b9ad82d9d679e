//! Raft by itself: three nodes in this process, the network and the disk of production.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate::clock::BootClock;
use quorate::domain::command::Change;
use quorate::domain::types::{ClusterName, MemberName, WallMillis};
use quorate::domain::{Command, Reply};
use quorate::raft::grpc::{self, GrpcTransport};
use quorate::raft::kv_rocks::KvRocks;
use quorate::raft::runtime::BootRuntime;
use quorate::raft::{AsyncRuntime, Handle, Options, Peer};
use quorate::transport::{self, ClientOptions, Identity};
use serde_json::{Value, json};

use crate::common::figures::{Series, Table};
use crate::common::since_ms;
use crate::{LATENCY, brief, latency_row};

type Rt = BootRuntime;

const LIMIT: Duration = Duration::from_secs(10);
/// Callers at once, where there is more than one. They make more calls, so that it takes a while.
const CALLERS: usize = 64;
const CROWD_CALLS: usize = 10;
/// Bytes of text in a proposal: about as many as etcd's benchmarks put.
const BYTES: usize = 256;

/// Measures, prints a table, and returns the figures.
pub fn measure(calls: usize) -> Value {
    Rt::new(2).block_on(async move {
        let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("a directory")).collect();
        let nodes = start(&dirs).await;
        let leader = leader(&nodes).await;
        let value = run(&leader, calls).await;
        for node in &nodes {
            node.shutdown().await;
        }
        value
    })
}

async fn start(dirs: &[tempfile::TempDir]) -> Vec<Handle<Rt>> {
    let identity = Identity::new("bench", "a-token-of-benchmarks").expect("an identity");
    let (mut listeners, mut members) = (Vec::new(), BTreeMap::new());
    for id in 1..=dirs.len() as u64 {
        let listener = transport::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.address.to_string();
        members.insert(id, Peer { name: format!("node-{id}"), address });
        listeners.push((id, listener));
    }
    let mut starting = Vec::new();
    for ((id, listener), dir) in listeners.into_iter().zip(dirs) {
        let options = Options::new(id, members.clone(), "bench");
        let transport = GrpcTransport::new(identity.clone(), ClientOptions::default());
        let engine = Arc::new(KvRocks::open(dir.path()).expect("a store"));
        let clock = Arc::new(BootClock);
        let node = quorate::raft::open::<Rt, _>(options, engine, transport, clock).await;
        let node = node.expect("a node");
        let router = transport::server().add_service(grpc::server(node.service(), &identity));
        drop(Rt::spawn(router.serve_with_incoming(listener.incoming)));
        starting.push(Rt::spawn(node.start()));
    }
    let mut nodes = Vec::new();
    for node in starting {
        nodes.push(node.await.expect("no panic").expect("it starts"));
    }
    nodes
}

async fn leader(nodes: &[Handle<Rt>]) -> Handle<Rt> {
    let begun = Instant::now();
    loop {
        for node in nodes {
            if node.role().get().is_leader && node.read_barrier(LIMIT).await.is_ok() {
                return node.clone();
            }
        }
        assert!(begun.elapsed() < 3 * LIMIT, "no leader was elected");
        Rt::sleep(Duration::from_millis(20)).await;
    }
}

/// A command of the usual size that is written, replicated and applied, and then refused, since
/// its cluster is not known: the state does not grow while it is measured.
fn command() -> Command {
    Command {
        cluster: ClusterName::new("none").expect("a name"),
        at: WallMillis(0),
        change: Change::AbandonBootstrap {
            member: MemberName::new("a").expect("a name"),
            why: "x".repeat(BYTES),
        },
    }
}

async fn propose_ms(node: &Handle<Rt>) -> f64 {
    let begun = Instant::now();
    let reply = node.propose(command(), LIMIT).await.expect("an answer");
    assert!(matches!(reply, Reply::Rejected(_)), "{reply:?}");
    since_ms(begun)
}

async fn barrier_ms(node: &Handle<Rt>) -> f64 {
    let begun = Instant::now();
    node.read_barrier(LIMIT).await.expect("a barrier");
    since_ms(begun)
}

/// Calls of many callers at once, and how many a second were answered.
async fn crowd<F>(
    node: &Handle<Rt>,
    calls: usize,
    call: impl Fn(Handle<Rt>) -> F + Send + Clone + 'static,
) -> (Series, f64)
where
    F: Future<Output = f64> + Send,
{
    let begun = Instant::now();
    let each = (CROWD_CALLS * calls).div_ceil(CALLERS);
    let caller = |_| {
        let (node, call) = (node.clone(), call.clone());
        Rt::spawn(async move {
            let mut series = Series::default();
            for _ in 0..each {
                series.0.push(call(node.clone()).await);
            }
            series
        })
    };
    let callers: Vec<_> = (0..CALLERS).map(caller).collect();
    let mut all = Series::default();
    for caller in callers {
        all.0.extend(caller.await.expect("no panic").0);
    }
    let rate = all.count() as f64 / begun.elapsed().as_secs_f64();
    (all, rate)
}

async fn run(leader: &Handle<Rt>, calls: usize) -> Value {
    let (mut proposals, mut barriers) = (Series::default(), Series::default());
    for _ in 0..50 {
        propose_ms(leader).await;
    }
    let begun = Instant::now();
    for _ in 0..calls {
        proposals.0.push(propose_ms(leader).await);
    }
    let rate = calls as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    for _ in 0..calls {
        barriers.0.push(barrier_ms(leader).await);
    }
    let barrier_rate = calls as f64 / begun.elapsed().as_secs_f64();
    let (many, many_rate) = crowd(leader, calls, |n| async move { propose_ms(&n).await }).await;
    let (many_barriers, many_barriers_rate) =
        crowd(leader, calls, |n| async move { barrier_ms(&n).await }).await;

    let title = "Raft: three nodes in one process, gRPC on loopback, RocksDB, synced";
    let mut table = Table::new(title, &LATENCY);
    let rows = [
        (format!("propose {BYTES} bytes, 1 caller"), &proposals, rate),
        (format!("propose {BYTES} bytes, {CALLERS} callers"), &many, many_rate),
        ("read barrier, 1 caller".to_owned(), &barriers, barrier_rate),
        (format!("read barrier, {CALLERS} callers"), &many_barriers, many_barriers_rate),
    ];
    for (name, series, rate) in &rows {
        table.row(latency_row(name, series, Some(*rate)));
    }
    table.print();
    let record = |(name, series, rate): &(String, &Series, f64)| {
        (name.clone(), json!({ "ms": brief(series), "per_second": rate }))
    };
    rows.iter().map(record).collect()
}
