//! Members and clusters that come and go, by the operator's word.

use std::time::{Duration, Instant};

use quorate::config::{Config, Secret};
use quorate::domain::state::{ClusterSpec, Tags};
use quorate::domain::types::NodeName;
use quorate::session::Client;
use quorate::session::grpc::GrpcTransport;
use quorate::session::wire::RegisterRequest;
use quorate::transport::{ClientOptions, Identity};
use serde_json::Value;

use crate::support::config::put;
use crate::support::{Cluster, HEAL, Hactl, Mode, Node, Options, until};

/// Kinds of events that the history has, in order.
async fn kinds(cluster: &Cluster) -> Vec<String> {
    let name = |e: Value| e["kind"].as_object()?.keys().next().cloned();
    cluster.history().await.into_iter().filter_map(name).collect()
}

fn refused(answer: &Hactl, rule: &str) {
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stderr.contains(rule), "{answer:?}");
}

async fn slot_is_gone(cluster: &Cluster, node: &Node, of: &str) {
    let conn = cluster.superuser(node.index).await;
    let count =
        format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'quorate_{of}'");
    until("its slot is gone", HEAL, || async { (conn.must(&count).await == "0").then_some(()) })
        .await;
}

/// The member's PostgreSQL is gone, and its data is where it was.
async fn stopped_with_data(node: &Node) {
    let dir = node.data_dir();
    until("its PostgreSQL is stopped", HEAL, || async {
        (!dir.join("postmaster.pid").exists()).then_some(())
    })
    .await;
    assert!(dir.join("PG_VERSION").exists(), "its data is kept");
}

/// A standby leaves and comes back; a dead one is forgotten; the primary stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_leaves_and_comes_back() {
    // The control plane keeps its majority when the last member is lost.
    let options = Options { nodes: 5, witnesses: 2, ..Options::default() };
    let cluster = Cluster::start("a_standby_leaves_and_comes_back", &options).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let standbys = cluster.standbys().await;
    let (gone, left) = (standbys[0], standbys[1]);

    eprintln!("-- the primary is not removed");
    refused(&cluster.hactl(&["member", "remove", "-y", &primary.member]).await, "switch over");
    refused(&cluster.hactl(&["member", "remove", "-y", "nobody"]).await, "nobody");

    eprintln!("-- a standby is removed under load");
    let dry = cluster.hactl(&["member", "remove", "--dry-run", &gone.member]).await;
    assert_eq!(dry.code, 0, "{dry:?}");
    let answer = cluster.hactl(&["member", "remove", "-y", "main", &gone.member]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let status = cluster.leaders_status().await;
    assert_eq!(status.cluster()["members"].as_array().map(Vec::len), Some(2), "{status:?}");
    stopped_with_data(gone).await;
    slot_is_gone(cluster, primary, &gone.member).await;
    slot_is_gone(cluster, left, &gone.member).await;
    cluster.rows_flow(20).await;
    let listed = cluster.hactl(&["member", "list", "-o", "json"]).await.json().expect("JSON");
    assert_eq!(listed["removed"][0]["name"], gone.member.as_str(), "{listed}");

    eprintln!("-- its agent does not bring it back by itself, also when it is started anew");
    gone.kill_everything().await;
    gone.start();
    until("its registration is refused", HEAL, || async {
        let answer = cluster.hactl(&["explain", "-o", "json"]).await.json()?;
        let findings = answer["findings"].as_array()?.clone();
        findings.into_iter().find(|f| f["rule"] == "member.removed").map(drop)
    })
    .await;
    assert!(!gone.data_dir().join("postmaster.pid").exists(), "it stays down");

    eprintln!("-- it is permitted again, and follows with the data that it has");
    let answer = cluster.hactl(&["member", "add", "main", &gone.member]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.stdout.contains("[[member]]"), "{answer:?}");
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "none of that was an outage");
    refused(&cluster.hactl(&["member", "add", "main", &gone.member]).await, "already");
    let kinds_now = kinds(cluster).await;
    for kind in ["member_removal_started", "member_removed", "member_permitted"] {
        assert!(kinds_now.iter().any(|k| k == kind), "{kind}: {kinds_now:?}");
    }

    eprintln!("-- one whose node is gone for ever is forgotten");
    gone.kill_everything().await;
    until("its silence is seen", HEAL, || async {
        let status = cluster.leaders_status().await;
        (!status.member(&gone.member)?.streaming).then_some(())
    })
    .await;
    let answer = cluster.hactl(&["member", "remove", "-y", &gone.member]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    slot_is_gone(cluster, primary, &gone.member).await;
    cluster.rows_flow(20).await;

    eprintln!("-- with one standby left, the floor holds it");
    let answer = cluster.hactl(&["member", "remove", "-y", &left.member]).await;
    refused(&answer, "write_quorum_min");

    assert_eq!(cluster.hactl(&["member", "add", &gone.member]).await.code, 0);
    gone.start();
    cluster.judge(writers, since).await;
}

/// A second cluster on the same nodes and the same control plane comes and goes.
#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_on_one_control_plane() {
    let cluster = Cluster::start("two_clusters_on_one_control_plane", &Options::default()).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(10).await;
    let before = cluster.healed().await;

    eprintln!("-- a second cluster is created before its members come");
    let spec = cluster.dir().join("second-spec.toml");
    put(&spec, "bootstrap_members = [\"x\"]\nwrong = 1\n", 0o644);
    let path = spec.to_str().expect("a path");
    let wrong = cluster.hactl(&["cluster", "create", "second", "-f", path]).await;
    assert!(wrong.code == 2 && wrong.stderr.contains("wrong"), "{wrong:?}");
    put(&spec, "bootstrap_members = [\"x\"]\n[parameters]\nwork_mem = \"5MB\"\n", 0o644);
    let made = cluster.hactl(&["cluster", "create", "second", "-f", path]).await;
    assert_eq!(made.code, 0, "{made:?}");
    refused(&cluster.hactl(&["cluster", "create", "second", "-f", path]).await, "already");

    eprintln!("-- its member comes, beside a standby of the first");
    let node = cluster.standbys().await[0];
    let host = &node.host;
    let text = std::fs::read_to_string(node.config()).expect("a configuration");
    let more = format!(
        "\n[[cluster]]\nname = \"second\"\nbootstrap_members = [\"x\"]\n\
         \n[[member]]\ncluster = \"second\"\nname = \"x\"\naddress = \"{host}:5999\"\n\
         data_dir = \"{}/second\"\nsuperuser_password_file = \"superuser\"\n",
        node.name
    );
    put(&node.config(), &format!("{text}{more}"), 0o644);
    node.kill_everything().await;
    node.start();
    let second = || async {
        let answer = cluster.hactl(&["cluster", "list", "-o", "json"]).await.json()?;
        let all = answer["clusters"].as_array()?.clone();
        all.into_iter().find(|c| c["name"] == "second")
    };
    until("the second cluster has a primary", HEAL, || async {
        second().await.filter(|c| c["primary"] == "x").map(drop)
    })
    .await;
    let shown = cluster.hactl(&["history", "-c", "second"]).await;
    assert!(shown.stdout.contains("cluster created, asked for by"), "{shown:?}");

    eprintln!("-- it is not removed while it runs, and then by force");
    refused(&cluster.hactl(&["cluster", "remove", "-y", "second"]).await, "these members run: x");
    let answer = cluster.hactl(&["cluster", "remove", "-y", "--force", "second"]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(second().await, None);
    let data = node.state_dir().join("second");
    until("its PostgreSQL is stopped", HEAL, || async {
        (!data.join("postmaster.pid").exists()).then_some(())
    })
    .await;
    assert!(data.join("PG_VERSION").exists(), "its data is kept");

    eprintln!("-- it does not come back by itself, nor beside its data");
    node.kill_everything().await;
    node.start();
    until("its registration is refused", HEAL, || async {
        let log = std::fs::read_to_string(node.log()).unwrap_or_default();
        log.contains("cluster.removed").then_some(())
    })
    .await;
    assert_eq!(second().await, None);
    let made = cluster.hactl(&["cluster", "create", "second", "-f", path]).await;
    assert_eq!(made.code, 0, "{made:?}");
    until("its data is not bootstrapped beside", HEAL, || async {
        let answer = cluster.hactl(&["explain", "-c", "second", "-o", "json"]).await.json()?;
        let findings = answer["findings"].as_array()?.clone();
        findings.into_iter().find(|f| f["rule"] == "data.no-bootstrap-beside").map(drop)
    })
    .await;

    eprintln!("-- with the data moved away it begins anew");
    std::fs::rename(&data, node.state_dir().join("second.old")).expect("rename");
    node.kill_everything().await;
    node.start();
    until("the new second cluster has a primary", HEAL, || async {
        second().await.filter(|c| c["primary"] == "x").map(drop)
    })
    .await;
    let list = cluster.hactl(&["cluster", "list"]).await;
    assert!(list.stdout.contains("removed 20") && list.stdout.contains("forced"), "{list:?}");

    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the first cluster knows nothing of it");
    cluster.judge(writers, since).await;
}

/// Its name was given to another host while it was away: it stays down, and its data is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_went_to_another_host_is_not_taken_back() {
    let name = "a_name_that_went_to_another_host_is_not_taken_back";
    let cluster = Cluster::start(name, &Options::default()).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(20).await;
    cluster.healed().await;
    let old = cluster.standbys().await[0];
    old.kill_everything().await;
    until("it is removed", HEAL, || async {
        let answer = cluster.hactl(&["member", "remove", "-y", &old.member]).await;
        (answer.code == 0).then_some(())
    })
    .await;
    assert_eq!(cluster.hactl(&["member", "add", "main", &old.member]).await.code, 0);
    until("another host registers the name", HEAL, || register_elsewhere(cluster, old)).await;

    old.start();
    until("it says whose the name is", HEAL, || async {
        let log = std::fs::read(old.log()).ok()?;
        String::from_utf8_lossy(&log).contains("belongs to node elsewhere").then_some(())
    })
    .await;
    cluster.rows_flow(20).await;
    assert!(!old.data_dir().join("postmaster.pid").exists(), "it stays down");
    assert!(old.data_dir().join("PG_VERSION").exists(), "its data is kept");

    eprintln!("-- the other gives the name up: it comes back as any that was away");
    until("the other is removed", HEAL, || async {
        let answer = cluster.hactl(&["member", "remove", "-y", &old.member]).await;
        (answer.code == 0).then_some(())
    })
    .await;
    assert_eq!(cluster.hactl(&["member", "add", "main", &old.member]).await.code, 0);
    cluster.healed().await;
    cluster.judge(writers, since).await;
}

/// Registers the member of this node as another host would.
async fn register_elsewhere(cluster: &Cluster, node: &Node) -> Option<()> {
    let config = Config::load(&node.config()).expect("a configuration");
    let secret = Secret::load(&config.secret_file).expect("a secret");
    let token = secret.rpc_token(&config.control_plane);
    let identity = Identity::new(&config.control_plane, token.expose()).expect("an identity");
    let transport = GrpcTransport::new(identity, ClientOptions::default());
    let addresses: Vec<String> = cluster.nodes.iter().map(Node::api).collect();
    let attempts = addresses.len();
    let client = Client::new(std::sync::Arc::new(transport), addresses);
    let own = &config.members[0];
    let request = RegisterRequest {
        agent_address: None,
        cluster: own.cluster.clone(),
        spec: ClusterSpec::of(vec![own.name.clone()]),
        member: own.name.clone(),
        node: NodeName::new("elsewhere").expect("a name"),
        address: "127.0.0.1:1".to_owned(),
        priority: 0,
        tags: Tags::default(),
        adopt: false,
        system_id: None,
        generation: Default::default(),
    };
    for _ in 0..attempts {
        if client.register(&request, Duration::from_secs(2)).await.is_ok() {
            return Some(());
        }
    }
    None
}
