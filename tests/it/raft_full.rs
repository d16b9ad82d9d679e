//! A Raft store whose disk is full: it fails at once, lets go of everything, and is opened anew in
//! the same process, with all that was acknowledged.

// Tests of real processes wait in real time.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate::clock::BootClock;
use quorate::domain::command::Change;
use quorate::domain::state::ClusterSpec;
use quorate::domain::types::{ClusterName, MemberName, WallMillis};
use quorate::domain::{Command, Reply};
use quorate::raft::kv_rocks::KvRocks;
use quorate::raft::runtime::BootRuntime;
use quorate::raft::{
    self, Disk, FatalReason, Handle, Method, Options, Peer, ProposeError, Transport, TransportError,
};

use crate::support::{SOON, SmallDisk, until_seen};

type Rt = BootRuntime;

/// There is nobody to call.
struct Alone;

impl Transport for Alone {
    async fn call(
        &self,
        _target: &Peer,
        _method: Method,
        _payload: Vec<u8>,
        _deadline: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        Err(TransportError::Unreachable("nobody".to_owned()))
    }
}

async fn open(disk: &Disk) -> (Arc<KvRocks>, Handle<Rt>) {
    let engine = Arc::new(KvRocks::open(disk.dir()).expect("the store"));
    let peer = Peer { name: "n1".to_owned(), address: "n1:1".to_owned() };
    let options = Options::new(1, BTreeMap::from([(1, peer)]), "full");
    let clock = Arc::new(BootClock);
    let starting =
        raft::open::<Rt, _>(options, engine.clone(), Alone, clock).await.expect("it opens");
    let handle = starting.start().await.expect("it starts");
    let role = handle.role();
    until_seen("it leads", SOON, || role.get().established.then_some(())).await;
    (engine, handle)
}

fn command(number: usize) -> Command {
    let mut spec = ClusterSpec::of(vec![MemberName::new("x").expect("a name")]);
    spec.parameters.insert("filler".to_owned(), "x".repeat(300 << 10));
    let cluster = ClusterName::new(format!("c{number}")).expect("a name");
    Command { cluster, at: WallMillis(0), change: Change::CreateCluster { spec } }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_opened_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(small) = SmallDisk::mount(&dir.path().join("raft"), 60) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let disk = Disk::new(&dir.path().join("raft"));
    let mut acknowledged = Vec::new();
    let mut number = 0;
    for round in 0..2 {
        let (engine, handle) = open(&disk).await;
        let state = handle.applied().get().state.clone();
        for name in &acknowledged {
            assert!(state.cluster(name).is_some(), "round {round}: {name} is lost");
        }
        assert!(disk.look().expect("a look").reserved);
        small.fill_to(0);
        let refused = loop {
            number += 1;
            assert!(number < 1_000, "the disk never fills");
            let command = command(number);
            let name = command.cluster.clone();
            match handle.propose(command, SOON).await {
                Ok(Reply::Applied { .. }) => acknowledged.push(name),
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, ProposeError::Fatal(_) | ProposeError::Unknown), "{refused}");
        assert!(matches!(handle.fatal().await, FatalReason::Store(_)));
        assert!(handle.read_barrier(SOON).await.is_err(), "it takes no part any more");
        handle.shutdown().await;
        drop(handle);
        until_seen("everything lets go of the store", SOON, || {
            (Arc::strong_count(&engine) == 1).then_some(())
        })
        .await;
        drop(engine);
        small.empty();
    }
}
