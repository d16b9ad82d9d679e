//! How long a member that comes back takes until it streams.
//!
//! Three ways back: it was down and has the beginning of the primary's log (follow), it was primary
//! and has log that nobody else has (rewind), its data is gone (clone). Beside each stands what
//! PostgreSQL's own tools take in the same run, on servers set up by hand with the same settings
//! and as much data: start; `pg_rewind` and start; `pg_basebackup` and start.
//!
//! Both sides are measured in the same way: the clock begins when the node, or the tool, is
//! started, and ends when the primary shows the member's slot in use by a sender that has caught up
//! (`streaming`). Meanwhile the other side does not run. Before the member goes, all servers do a
//! checkpoint, so that there is as much to be replayed; while it is away, the primary gets a fixed
//! number of transactions; before it comes back, everything is written to disk. So the product's time includes the start of its daemon, and everything that is asked and decided before
//! PostgreSQL may start; the tool's begins with the decision made. The primary has done a checkpoint
//! on its new timeline before a rewind begins: the tool needs it, and the product waits for it.
//!
//! For the product there is a second time: until the member counts for commits again, and the
//! cluster is healthy as `hactl status` shows it. By hand nothing corresponds to it.
//!
//! `cargo bench --bench returns -- rewind --runs 3 --scale 68`

// Real processes take real time.
#![allow(clippy::disallowed_methods)]

mod common;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

use common::figures::{Series, Table, seconds, write_json};
use common::floor::streaming_sql;
use common::pair::{Pair, Side};
use common::support::{Cluster, Conn, HEAL, Node, Proc, until};
use common::{isolated, machine, pgbench, rest, runtime, since_ms, tell};

/// Measures how long a member takes to come back.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// What to measure: follow, rewind, clone; all where none is given.
    cases: Vec<String>,
    /// How often.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Size of the database: so many times 100,000 accounts, about 15 MB each.
    #[arg(long, default_value_t = 68)]
    scale: u32,
    /// Transactions while the member is away.
    #[arg(long, default_value_t = 10_000)]
    transactions: u32,
    /// Shows what the node logged on its way back.
    #[arg(long)]
    log: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Follow,
    Rewind,
    Clone,
}

const WAYS: [(Way, &str, &str); 3] = [
    (Way::Follow, "follow", "it was down"),
    (Way::Rewind, "rewind", "it was primary and diverged"),
    (Way::Clone, "clone", "its data is gone"),
];

/// What only the dying primary writes: more than the sockets on the way to the standbys can hold.
const ALONE: &str = "SET synchronous_commit = local; \
    UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= 100000";

/// The clients that write while a member is away.
const CLIENTS: u32 = 4;

/// What was measured of one way.
#[derive(Debug, Clone, Default)]
struct Times {
    product_ms: Series,
    /// Until the member counts, and the cluster is healthy.
    counts_ms: Series,
    hand_ms: Series,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default)]
struct Results {
    times: Vec<(Way, Times)>,
    database_mb: f64,
}

fn main() {
    let arguments = Arguments::parse();
    let named = |name: &str| {
        arguments.cases.is_empty() || arguments.cases.iter().any(|a| name.starts_with(a.as_str()))
    };
    let ways: Vec<Way> = WAYS.iter().filter(|(_, name, _)| named(name)).map(|w| w.0).collect();
    if ways.is_empty() {
        eprintln!("there are: follow, rewind, clone");
        std::process::exit(2);
    }
    let (sender, results) = mpsc::channel();
    let ended = {
        let arguments = arguments.clone();
        isolated(move || runtime().block_on(measure(&ways, &arguments, &sender)))
    };
    // What was measured before a failure is kept.
    let results = results.try_iter().last().unwrap_or_default();
    show(&results, &arguments);
    if let Err(why) = ended {
        println!("\nfailed: {}", why.lines().next().unwrap_or_default());
        std::process::exit(1);
    }
}

async fn measure(ways: &[Way], arguments: &Arguments, sender: &mpsc::Sender<Results>) {
    tell(&format!("both sides are made, scale {}", arguments.scale));
    let mut pair = Pair::start("returns", arguments.scale).await;
    pair.print_differences();
    let size = "SELECT pg_database_size('postgres')";
    let bytes: f64 = pair.primary(Side::Product).await.must(size).await.parse().expect("a size");
    let times = ways.iter().map(|w| (*w, Times::default())).collect();
    let mut results = Results { times, database_mb: bytes / 1e6 };
    pair.halt(Side::Hand).await;
    for run in 1..=arguments.runs {
        for i in 0..ways.len() {
            let (way, times) = &mut results.times[i];
            pair.settle(Side::Product).await;
            let (streams, counts) = product(&pair.cluster, *way, arguments).await;
            tell(&format!(
                "  {run}: {way:?}: streams after {}, counts after {}",
                seconds(streams),
                seconds(counts)
            ));
            times.product_ms.0.push(streams);
            times.counts_ms.0.push(counts);
            let _ = sender.send(results.clone());
        }
        pair.halt(Side::Product).await;
        pair.resume(Side::Hand).await;
        for i in 0..ways.len() {
            let (way, times) = &mut results.times[i];
            pair.settle(Side::Hand).await;
            let streams = by_hand(&mut pair, *way, arguments).await;
            tell(&format!("  {run}: {way:?} by hand: streams after {}", seconds(streams)));
            times.hand_ms.0.push(streams);
            let _ = sender.send(results.clone());
        }
        if run < arguments.runs {
            pair.halt(Side::Hand).await;
            pair.resume(Side::Product).await;
        }
    }
}

/// The product's member goes away and comes back. Returns after how many milliseconds it streamed,
/// and after how many the cluster was healthy.
async fn product(cluster: &Cluster, way: Way, arguments: &Arguments) -> (f64, f64) {
    let before = cluster.healed().await;
    let node = match way {
        Way::Rewind => {
            let old = diverge(cluster).await;
            cluster.new_epoch(before.epoch()).await;
            old
        }
        Way::Follow | Way::Clone => {
            let standby = cluster.standbys().await.swap_remove(0);
            standby.stop().await;
            standby
        }
    };
    if way == Way::Clone {
        std::fs::remove_dir_all(node.data_dir()).expect("a data directory");
    }
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    away(&primary.sql(), &conn, arguments).await;
    let epoch = cluster.leaders_status().await.epoch();
    let streams = streaming_sql(&node.member, &format!("quorate_{}", node.member));
    assert_eq!(conn.must(&streams).await, "0", "it streams already");
    let logged = std::fs::read(node.log()).map_or(0, |l| l.len());

    let begun = Instant::now();
    node.start();
    until("it streams", 4 * HEAL, || async { (conn.must(&streams).await == "1").then_some(()) })
        .await;
    let streams_ms = since_ms(begun);
    let healed = cluster.healed().await;
    let counts_ms = since_ms(begun);

    let log = std::fs::read(node.log()).unwrap_or_default();
    let log = String::from_utf8_lossy(log.get(logged..).unwrap_or_default()).into_owned();
    if arguments.log {
        tell(&log);
    }
    let done = |action: &str| log.contains(&format!("action={action}"));
    let taken = match (done("Clone"), done("Rewind")) {
        (true, _) => Way::Clone,
        (_, true) => Way::Rewind,
        _ => Way::Follow,
    };
    assert_eq!(taken, way, "it came back in another way:\n{log}");
    assert_eq!(healed.epoch(), epoch, "the primary changed meanwhile");
    (streams_ms, counts_ms)
}

/// Makes the primary write what nobody else gets, and kills its node.
async fn diverge(cluster: &Cluster) -> &Node {
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    let mut receivers: Vec<Proc> = Vec::new();
    for standby in cluster.standbys().await {
        let own = cluster.superuser(standby.index).await;
        let pid = own.must("SELECT pid FROM pg_stat_wal_receiver").await;
        let receiver = standby.tree().inner(pid.parse().expect("a number"));
        receivers.push(receiver.expect("a receiver"));
    }
    for receiver in &receivers {
        receiver.freeze().await;
    }
    let written = conn.rows(ALONE).await;
    primary.kill_everything().await;
    receivers.iter().for_each(|r| r.thaw());
    written.expect("the primary wrote");
    primary
}

/// What happens while a member is away: the same on both sides.
async fn away(primary: &common::support::Endpoint, conn: &Conn, arguments: &Arguments) {
    pgbench::work(primary, CLIENTS, arguments.transactions / CLIENTS).await;
    conn.must("CHECKPOINT").await;
    nix::unistd::sync();
    rest(Duration::from_secs(1)).await;
}

/// The same with PostgreSQL's own tools.
async fn by_hand(pair: &mut Pair, way: Way, arguments: &Arguments) -> f64 {
    let i = match way {
        Way::Rewind => pair.floor.diverge(ALONE).await,
        Way::Follow | Way::Clone => {
            let standby = pair.floor.standby();
            pair.floor.stop_one(standby).await;
            standby
        }
    };
    if way == Way::Clone {
        pair.floor.wipe(i);
    }
    let (endpoint, conn) = (pair.endpoint(Side::Hand).await, pair.primary(Side::Hand).await);
    away(&endpoint, &conn, arguments).await;
    let took = match way {
        Way::Follow => pair.floor.follow(i).await,
        Way::Rewind => pair.floor.rewind(i).await,
        Way::Clone => pair.floor.copy(i).await,
    };
    pair.floor.restore().await;
    took
}

fn show(results: &Results, arguments: &Arguments) {
    let columns =
        ["", "runs", "median", "min", "max", "by hand", "min", "max", "ratio", "counts after"];
    let mut table = Table::new("A member comes back: until it streams", &columns);
    let mut records = Vec::new();
    for (way, times) in &results.times {
        let found = WAYS.iter().find(|w| w.0 == *way);
        let (name, text) = found.map_or(("", ""), |(_, name, text)| (*name, *text));
        let (product, hand) = (&times.product_ms, &times.hand_ms);
        let ratio = product.median() / hand.median();
        table.row(vec![
            format!("{name}: {text}"),
            product.count().to_string(),
            seconds(product.median()),
            seconds(product.min()),
            seconds(product.max()),
            seconds(hand.median()),
            seconds(hand.min()),
            seconds(hand.max()),
            format!("{ratio:.2}"),
            seconds(times.counts_ms.median()),
        ]);
        records.push(json!({
            "case": name, "text": text, "product_ms": product.json(),
            "counts_ms": times.counts_ms.json(), "by_hand_ms": hand.json(), "ratio": ratio,
        }));
    }
    table.print();
    let settings = [
        ("sides", "a primary and two standbys each, all on this machine".to_owned()),
        ("database", format!("{:.0} MB, pgbench scale {}", results.database_mb, arguments.scale)),
        ("while it is away", format!("{} transactions, a checkpoint", arguments.transactions)),
        ("diverged by", "an update of 100,000 accounts".to_owned()),
    ];
    let machine = machine::describe(&settings);
    let json = json!({
        "cases": records, "database_mb": results.database_mb, "machine": machine,
    });
    write_json("returns", &json);
}
