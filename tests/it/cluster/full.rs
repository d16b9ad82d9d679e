//! Disks that fill up, one or all of them, each a file system of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate::clock::boot_now;
use quorate::config::{Config, Secret};
use quorate::domain::state::{ClusterSpec, Tags};
use quorate::domain::types::{ClusterName, MemberName};
use quorate::session::grpc::GrpcTransport;
use quorate::session::wire::RegisterRequest;
use quorate::session::{Client, Failure};
use quorate::transport::{ClientOptions, Identity};

use crate::support::{
    Cluster, HEAL, Mode, Node, Options, SOON, SmallDisk, Status, until, until_seen,
};

/// Of a data directory.
const DATA_MIB: u32 = 400;
/// Of a Raft store.
const RAFT_MIB: u32 = 200;

/// Every data directory is below `d`, and the log is kept short.
fn options() -> Options {
    let parameters =
        ["min_wal_size = \"32MB\"", "max_wal_size = \"48MB\"", "wal_keep_size = \"0\""];
    let parameters = parameters.map(str::to_owned).to_vec();
    Options { data_dir: "d/main", parameters, ..Options::default() }
}

/// Gives these nodes a small disk for their data.
fn data_disks(nodes: &[Node]) -> Option<Vec<SmallDisk>> {
    let disks: Option<Vec<_>> =
        nodes.iter().map(|n| SmallDisk::mount(&n.state_dir().join("d"), DATA_MIB)).collect();
    if disks.is_none() {
        eprintln!("skipped: no file system can be mounted here");
    }
    disks
}

fn member<'a>(status: &'a Status, name: &str) -> &'a serde_json::Value {
    let members = status.0["clusters"][0]["members"].as_array().expect("members");
    members.iter().find(|m| m["name"] == name).expect("a member")
}

/// Whether the status shows this alarm of a member.
fn has_alarm(status: &Status, name: &str, code: &str) -> bool {
    let alarms = member(status, name)["alarms"].as_array().cloned().unwrap_or_default();
    alarms.iter().any(|a| a["code"] == code)
}

async fn alarm(cluster: &Cluster, name: &str, code: &str, raised: bool) {
    let what = format!("{code} of {name} is {}", if raised { "raised" } else { "cleared" });
    until(&what, HEAL, || async {
        let status = cluster.status().await.filter(Status::is_leaders)?;
        (has_alarm(&status, name, code) == raised).then_some(())
    })
    .await;
}

/// Leaves little room on a member's disk until that is an alarm: PostgreSQL removes WAL meanwhile.
async fn little_room(cluster: &Cluster, node: &Node, disk: &SmallDisk) {
    until(&format!("little room of {} is an alarm", node.member), HEAL, || async {
        disk.fill_to(50 << 20);
        let status = cluster.status().await.filter(Status::is_leaders)?;
        has_alarm(&status, &node.member, "space-low").then_some(())
    })
    .await;
}

/// Whether the history tells of this alarm of a member.
async fn told(cluster: &Cluster, name: &str, code: &str) {
    until(&format!("the history tells of {code} of {name}"), SOON, || async {
        let events = cluster.history().await;
        let found = events
            .iter()
            .map(ToString::to_string)
            .any(|e| e.contains(&format!("\"{code}\"")) && e.contains(&format!("\"{name}\"")));
        found.then_some(())
    })
    .await;
}

/// Writes WAL on the primary until it does not take any more, or so much of it.
async fn write_wal(cluster: &Cluster, node: &Node, rounds: usize) {
    let conn = cluster.superuser(node.index).await;
    let sql = "SELECT pg_logical_emit_message(false, 'fill', repeat('x', 8000000))";
    for _ in 0..rounds {
        if !matches!(tokio::time::timeout(SOON, conn.rows(sql)).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Nothing was replaced: no data directory is kept aside. WAL that only it had may be.
fn not_copied(node: &Node) {
    let beside = node.data_dir();
    let entries = std::fs::read_dir(beside.parent().expect("a directory")).expect("listed");
    let names: Vec<_> = entries.map(|e| e.expect("an entry").file_name()).collect();
    let is_data = |name: &str| name.contains(".aside-") && !name.ends_with("-wal");
    assert!(!names.iter().any(|n| is_data(&n.to_string_lossy())), "{names:?}");
}

/// A standby's disk fills up, then the primary's.
#[tokio::test(flavor = "multi_thread")]
async fn one_disk_after_the_other() {
    let options = options();
    let cluster = Cluster::prepare("one_disk_after_the_other", &options);
    let Some(disks) = data_disks(&cluster.nodes[..2]) else { return };
    cluster.bring_up(&options).await;
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;
    let (first, second) = (&cluster.nodes[0], &cluster.nodes[1]);
    assert_eq!(before.primary().as_ref(), Some(&first.member), "the first one made the data");

    eprintln!("-- little room on a standby: an alarm");
    little_room(&cluster, second, &disks[1]).await;
    told(&cluster, &second.member, "space-low").await;
    let status = cluster.leaders_status().await;
    let space = &member(&status, &second.member)["data_space"];
    assert!(space.to_string().contains("free_bytes"), "{space}");

    eprintln!("-- none: the primary goes on");
    disks[1].fill_to(0);
    alarm(&cluster, &second.member, "space-critical", true).await;
    told(&cluster, &second.member, "space-critical").await;
    cluster.rows_flow(20).await;
    let sql = "SELECT pg_logical_emit_message(false, 'fill', repeat('x', 8000000))";
    let conn = cluster.superuser(first.index).await;
    until("the standby ends for want of room", HEAL, || async {
        conn.must(sql).await;
        let status = cluster.status().await.filter(Status::is_leaders)?;
        let streaming = status.member(&second.member)?.streaming;
        (!streaming).then_some(())
    })
    .await;
    drop(conn);
    cluster.rows_flow(50).await;
    let target = cluster.hactl(&["switchover", "--to", &second.member, "--dry-run"]).await;
    assert_ne!(target.code, 0, "a full member is no target: {target:?}");

    eprintln!("-- room again: it comes back by itself");
    disks[1].empty();
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the primary was never in question");
    not_copied(second);
    alarm(&cluster, &second.member, "space-critical", false).await;

    eprintln!("-- the primary's: it is replaced");
    let end = first.tree().watch_end();
    little_room(&cluster, first, &disks[0]).await;
    disks[0].fill_to(0);
    alarm(&cluster, &first.member, "space-critical", true).await;
    write_wal(&cluster, first, 200).await;
    let taken = cluster.new_epoch(before.epoch()).await;
    assert_ne!(taken.primary().as_ref(), Some(&first.member));
    let gone_at = end.at().await;
    cluster.rows_flow(50).await;
    let taken_at = cluster.journal.first_above(before.epoch()).expect("a row");
    assert!(gone_at < taken_at, "the old tree ran when the new primary acknowledged a row");
    let epoch = cluster.leaders_status().await.epoch();
    assert!(epoch <= before.epoch() + 2, "no loop of failovers: epoch {epoch}");
    disks[0].empty();
    cluster.healed().await;
    not_copied(first);
    cluster.judge(writers, since).await;
}

/// All disks are full: nobody is promoted into the same disaster, and it heals with room.
#[tokio::test(flavor = "multi_thread")]
async fn all_disks_are_full() {
    let options = options();
    let cluster = Cluster::prepare("all_disks_are_full", &options);
    let Some(disks) = data_disks(&cluster.nodes) else { return };
    cluster.bring_up(&options).await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;
    for disk in &disks {
        disk.fill_to(0);
    }
    for node in &cluster.nodes {
        alarm(&cluster, &node.member, "space-critical", true).await;
    }
    let first = cluster.primary().await;
    let room_is_waited_for = || async {
        let answer = cluster.hactl(&["explain", "-o", "json"]).await;
        answer.stdout.contains("takeover.room").then_some(())
    };
    until("the primary ends, and room is waited for", HEAL, || async {
        if first.find_tree().is_some() && cluster.status().await.is_some_and(|s| !s.is_closed()) {
            write_wal_where_it_runs(&cluster, first).await;
        }
        room_is_waited_for().await
    })
    .await;
    let epoch = cluster.leaders_status().await.epoch();
    assert!(epoch <= before.epoch() + 1, "no loop of promotions: epoch {epoch}");
    // It stays so: looked at for a while that is long against a takeover.
    let until_then = boot_now().plus(Duration::from_secs(8));
    while boot_now() < until_then {
        assert_eq!(cluster.leaders_status().await.epoch(), epoch, "nobody is promoted");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for disk in &disks {
        disk.empty();
    }
    let after = cluster.healed().await;
    assert!(after.epoch() <= epoch + 2, "epoch {}", after.epoch());
    cluster.nodes.iter().for_each(not_copied);
    cluster.rows_flow(30).await;
    cluster.judge(writers, since).await;
}

/// Some WAL, if the server takes it.
async fn write_wal_where_it_runs(cluster: &Cluster, node: &Node) {
    // A server that is about to end may not let anybody in.
    let write = write_wal(cluster, node, 20);
    let _ = tokio::time::timeout(Duration::from_secs(3), write).await;
}

/// Fills the log of the control plane: each entry carries a long text.
struct Bulk {
    client: Client<GrpcTransport>,
    request: RegisterRequest,
    count: AtomicUsize,
}

impl Bulk {
    fn new(node: &Node, cluster: &Cluster) -> Bulk {
        let config = Config::load(&node.config()).expect("a configuration");
        let secret = Secret::load(&config.secret_file).expect("a secret");
        let token = secret.rpc_token(&config.control_plane);
        let identity = Identity::new(&config.control_plane, token.expose()).expect("an identity");
        let transport = GrpcTransport::new(identity, ClientOptions::default());
        let addresses = cluster.nodes.iter().map(Node::api).collect();
        let client = Client::new(std::sync::Arc::new(transport), addresses);
        let own = &config.members[0];
        let name = MemberName::new("x").expect("a name");
        let mut spec = ClusterSpec::of(vec![name.clone()]);
        spec.parameters.insert("filler".to_owned(), "x".repeat(400 << 10));
        let request = RegisterRequest {
            cluster: own.cluster.clone(),
            spec,
            member: name,
            node: config.node.name.clone(),
            address: "127.0.0.1:1".to_owned(),
            agent_address: None,
            priority: 0,
            tags: Tags::default(),
            adopt: false,
            system_id: None,
            generation: Default::default(),
        };
        Bulk { client, request, count: AtomicUsize::new(0) }
    }

    /// One more entry.
    async fn write(&self) -> Result<(), Failure> {
        let name = format!("bulk-{}", self.count.fetch_add(1, Ordering::SeqCst));
        let cluster = ClusterName::new(&name).expect("a name");
        let request = RegisterRequest { cluster, ..self.request.clone() };
        self.client.register(&request, Duration::from_secs(4)).await.map(drop)
    }
}

fn down(node: &Node) -> bool {
    let log = std::fs::read_to_string(node.log()).unwrap_or_default();
    log.contains("takes no part: its store will be opened anew")
}

/// The disk of a Raft store is full while it runs: on the node of the primary, and then on the node
/// that leads the control plane. Writes go on.
#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_a_raft_store_is_full() {
    let options = Options::default();
    let cluster = Cluster::prepare("the_disk_of_a_raft_store_is_full", &options);
    let mount = |n: &Node| SmallDisk::mount(&n.state_dir().join("raft"), RAFT_MIB);
    let Some(disks) = cluster.nodes.iter().map(mount).collect::<Option<Vec<_>>>() else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    cluster.bring_up(&options).await;
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let other_leader = || async {
        let leader = cluster.raft_leader().await;
        (leader.index != primary.index).then_some(leader)
    };
    until("the leader is not on the primary's node", HEAL, other_leader).await;
    let bulk = Bulk::new(primary, &cluster);

    for on_leader in [false, true] {
        let struck = if on_leader { cluster.raft_leader().await } else { primary };
        eprintln!("-- full on {}", struck.name);
        let disk = &disks[struck.index];
        disk.fill_to(50 << 20);
        alarm(&cluster, &struck.member, "space-low", true).await;
        until_seen("the reserve is spent, and its room taken", HEAL, || {
            disk.fill_to(0);
            let reserve = struck.state_dir().join("raft/quorate.reserve");
            (!reserve.exists()).then_some(())
        })
        .await;
        disk.fill_to(0);
        alarm(&cluster, &struck.member, "space-critical", true).await;
        until("its controller fails", HEAL, || async {
            let _ = bulk.write().await;
            down(struck).then_some(())
        })
        .await;
        told(&cluster, &struck.member, "controller-down").await;
        cluster.rows_flow(100).await;
        assert!(struck.ended().is_none(), "the daemon goes on");

        eprintln!("-- a restart finds it full");
        struck.terminate_daemon().await;
        // Whatever the store has given back meanwhile.
        disk.fill_to(0);
        struck.start();
        alarm(&cluster, &struck.member, "controller-down", true).await;
        cluster.rows_flow(100).await;
        let now = cluster.leaders_status().await;
        assert_eq!(now.epoch(), before.epoch(), "a healthy primary goes on");

        eprintln!("-- room again");
        disk.empty();
        alarm(&cluster, &struck.member, "controller-down", false).await;
        alarm(&cluster, &struck.member, "space-critical", false).await;
        let after = cluster.healed().await;
        assert_eq!(after.epoch(), before.epoch());
        // What it missed comes to it: it can stand in for another one.
        let write = || async { bulk.write().await.ok() };
        until("the control plane takes entries", SOON, write).await;
    }
    cluster.judge(writers, since).await;
}
