//! Inputs to begin with that are no one's output: messages and packets as the product writes them.

use std::ffi::OsStr;
use std::path::PathBuf;

use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft_rt_tokio::TokioRuntime;
use prost::Message;
use serde::Serialize;

use crate::domain::command::Change;
use crate::domain::observation::Report;
use crate::domain::record::MemberRecord;
use crate::domain::types::{BootTime, Epoch, GuardId, MemberName, NodeName};
use crate::domain::{ClusterState, Command};
use crate::generate;
use crate::guard::protocol::{Reply, Request};
use crate::guard::status::{Exit, FencingKind, Status, TreeState};
use crate::guard::{Credentials, StartSpec};
use crate::input::Input;
use crate::pb::v1;
use crate::raft::types::{Entry, LeaderId, Peer, Proposal, SnapshotMeta, TypeConfig, Vote, log_id};
use crate::raft::wire::{self, Chunk, Header, Hello, StoreId};
use crate::session::wire::{
    Claim, PollReply, PollRequest, RegisterRequest, RenewRequest, ReportRequest, SessionError,
};
use crate::states;

/// One input: the target, a name for its file, and the bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// All of them.
pub fn seeds() -> Vec<Seed> {
    let mut all = Vec::new();
    for state in 0..states::count() as u8 {
        for target in ["apply", "plan"] {
            let mut bytes = vec![state];
            // Every kind of command, or of event, as it would mostly be.
            bytes.extend((0..32_u8).flat_map(|kind| [0, 0, kind.wrapping_mul(8), 0, 0, 0, 0, 0]));
            all.push((target, format!("state-{state}"), bytes));
        }
        all.push(("request", format!("state-{state}"), vec![state, 0, 0, 0, 0]));
    }
    commands(&mut all);
    session(&mut all);
    raft(&mut all);
    guard(&mut all);
    requests(&mut all);
    all
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("it can be written")
}

fn running() -> ClusterState {
    states::state(1).clusters[&states::main()].clone()
}

fn name(text: &str) -> MemberName {
    MemberName::new(text).expect("a valid name")
}

fn command(change: Change) -> Command {
    Command { cluster: states::main(), at: states::REACHED, change }
}

fn commands(all: &mut Vec<Seed>) {
    let epoch = Epoch(2);
    let changes = [
        Change::StartSwitchover { expect_epoch: epoch, target: name("b"), by: "api".to_owned() },
        Change::FinishSyncChange { expect_epoch: epoch, expect_syncs: running().syncs },
        Change::CreateCluster { spec: running().spec },
    ];
    let list: Vec<Command> = changes.into_iter().map(command).collect();
    all.push(("apply", "json".to_owned(), [&[1][..], &json(&list)].concat()));
}

fn report(number: u8) -> Report {
    let bytes = [number; 64];
    generate::report(&mut Input::new(&bytes), &running(), &name("a"), 1)
}

fn session(all: &mut Vec<Seed>) {
    let (cluster, member) = (states::main(), name("a"));
    let node = NodeName::new("n-a").expect("a valid name");
    let guard = GuardId::from_bytes([1; 16]);
    let mut put = |kind: u8, what: &str, body: Vec<u8>| {
        all.push(("session", what.to_owned(), [&[kind][..], &body].concat()));
    };
    let register = RegisterRequest {
        cluster: cluster.clone(),
        spec: running().spec,
        member: member.clone(),
        node: node.clone(),
        address: "a:5432".to_owned(),
        agent_address: None,
        priority: 1,
        tags: Default::default(),
        adopt: false,
        system_id: None,
        generation: Default::default(),
    };
    put(0, "register", json(&register));
    for number in [0, 90, 201, 240] {
        let request = ReportRequest {
            cluster: cluster.clone(),
            member: member.clone(),
            node: node.clone(),
            report: report(number),
            generation: Default::default(),
        };
        put(1, &format!("report-{number}"), json(&request));
    }
    let poll = PollRequest {
        clusters: vec![cluster.clone()],
        known_index: 7,
        wait_ms: 1000,
        generation: Default::default(),
    };
    put(2, "poll", json(&poll));
    let claim = Claim { cluster: cluster.clone(), member: member.clone(), guard, epoch: Epoch(2) };
    let generation = Default::default();
    put(3, "renew", json(&RenewRequest { node, claims: vec![claim], generation }));
    let answer = PollReply {
        index: 7,
        clusters: [(cluster.clone(), running())].into(),
        removed: Default::default(),
        presence: Default::default(),
        generation: Default::default(),
        controllers: Vec::new(),
    };
    put(6, "poll-reply", json(&Ok::<_, SessionError>(answer)));
    let refused = SessionError::NotLeader { leader: Some("n2:7400".to_owned()) };
    put(7, "not-the-leader", json(&Err::<(), _>(refused)));
    put(8, "record", json(&MemberRecord::new(cluster, member)));
}

fn raft(all: &mut Vec<Seed>) {
    type Types = TypeConfig<TokioRuntime>;
    let header = Header {
        control_plane: "demo".to_owned(),
        from: 2,
        store: StoreId::from_bytes([2; 16]),
        to: 1,
        generation: Default::default(),
    };
    let mut put = |kind: u8, what: &str, message: Vec<u8>| {
        all.push(("raft_wire", what.to_owned(), [&[kind][..], &message].concat()));
    };
    let vote = Vote { leader_id: LeaderId { term: 3, voted_for: 2 }, committed: true };
    let entry = |index, payload| Entry { log_id: log_id(3, index), payload };
    let member = name("a");
    let peer = Peer { name: "n1".to_owned(), address: "n1:7400".to_owned() };
    let membership =
        openraft::Membership::new(vec![[1].into()], std::collections::BTreeMap::from([(1, peer)]));
    let mut entries = vec![
        entry(4, EntryPayload::Blank),
        entry(
            5,
            EntryPayload::Normal(Proposal::Cluster(command(Change::BeginBootstrap { member }))),
        ),
    ];
    if let Ok(membership) = membership {
        entries.push(entry(6, EntryPayload::Membership(membership)));
    }
    let append = AppendEntriesRequest::<Types> {
        vote,
        prev_log_id: Some(log_id(2, 3)),
        entries,
        leader_commit: Some(log_id(3, 4)),
    };
    let written = |body: &dyn Fn() -> Result<Vec<u8>, wire::Refusal>| body().expect("written");
    put(0, "append", written(&|| wire::encode(&header, &append, &[])));
    let ask = VoteRequest::<Types>::new(vote, Some(log_id(3, 6)));
    put(1, "vote", written(&|| wire::encode(&header, &ask, &[])));
    let transfer = TransferLeaderRequest::<Types>::new(vote, 2, Some(log_id(3, 6)));
    put(2, "transfer", written(&|| wire::encode(&header, &transfer, &[])));
    let chunk = Chunk { about: (vote, SnapshotMeta::default()), total: 5, crc: 1, offset: 0 };
    put(3, "snapshot", written(&|| wire::encode(&header, &chunk, b"piece")));
    put(4, "hello", written(&|| wire::encode(&header, &Hello { members: 9 }, &[])));
}

fn guard(all: &mut Vec<Seed>) {
    let path = |text: &str| PathBuf::from(OsStr::new(text));
    let spec = StartSpec {
        program: path("/usr/lib/postgresql/15/bin/postgres"),
        argv: vec!["postgres".to_owned(), "-D".to_owned()],
        env: vec![("LC_ALL".to_owned(), "C".to_owned())],
        credentials: Some(Credentials { uid: 101, gid: 103, groups: vec![103, 104] }),
        working_dir: path("/"),
        log_file: path("/log"),
        umask: 0o077,
        cgroup: Some(path("/sys/fs/cgroup/x")),
        best_effort: true,
        only: Some(FencingKind::Cgroup),
    };
    let time = BootTime::from_nanos(1_000_000_000);
    let status = Status {
        guard_id: GuardId::from_bytes([1; 16]),
        guard_pid: 10,
        init_pid: Some(11),
        postmaster_pid: Some(12),
        tree: TreeState::PostmasterExited(Exit::Code(0)),
        deadline: Some(time),
        fencing: Some(FencingKind::PidNamespace),
    };
    let mut packet = Vec::new();
    let requests = [
        ("start", Request::Start(Box::new(spec))),
        ("arm", Request::Arm(time)),
        ("signal", Request::Signal(2)),
    ];
    for (what, request) in requests {
        request.encode(1, &mut packet);
        all.push(("guard", what.to_owned(), packet.clone()));
    }
    let replies = [
        ("status", Reply::Status(Box::new(status))),
        ("armed", Reply::Armed(time)),
        ("event", Reply::Event(TreeState::Empty(Some(Exit::Signal(9))))),
    ];
    for (what, reply) in replies {
        reply.encode(1, &mut packet);
        all.push(("guard", what.to_owned(), packet.clone()));
    }
}

fn requests(all: &mut Vec<Seed>) {
    let mut put = |method: u8, what: &str, body: Vec<u8>| {
        // A running cluster, no reports, no lease, the leader.
        all.push(("request", what.to_owned(), [&[1, 0, 0, 0, method][..], &body].concat()));
    };
    let (cluster, target) = ("main".to_owned(), "b".to_owned());
    let status = v1::GetStatusRequest { cluster: cluster.clone(), linearizable: true };
    put(0, "status", status.encode_to_vec());
    let switchover = v1::SwitchoverRequest {
        cluster: cluster.clone(),
        target: target.clone(),
        dry_run: true,
        wait: true,
        timeout_ms: 1000,
        requested_by: "somebody".to_owned(),
        at_unix_ms: 0,
    };
    put(1, "switchover", switchover.encode_to_vec());
    let failover = v1::FailoverRequest {
        cluster: cluster.clone(),
        target,
        accept_data_loss: true,
        dry_run: false,
        wait: true,
        timeout_ms: 1000,
        requested_by: "somebody".to_owned(),
    };
    put(2, "failover", failover.encode_to_vec());
    let operation = v1::GetOperationRequest { cluster: cluster.clone(), operation: 1 };
    put(3, "operation", operation.encode_to_vec());
    let history = v1::HistoryRequest {
        cluster: cluster.clone(),
        after_event: 1,
        limit: 10,
        linearizable: false,
    };
    put(4, "history", history.encode_to_vec());
    put(5, "explain", v1::ExplainRequest { cluster: cluster.clone() }.encode_to_vec());
    put(6, "connection", v1::GetConnectionRequest { cluster: cluster.clone() }.encode_to_vec());
    let watch = v1::WatchStatusRequest { cluster, heartbeat_ms: 500, from_leader: true };
    put(7, "watch", watch.encode_to_vec());
}
