//! What the product takes while nothing happens: memory and processor time of every node.
//!
//! Three nodes on one machine, all members streaming, no client. Memory is read from
//! `/proc/PID/smaps_rollup`: RSS counts shared pages in full, PSS divides them by their users.
//! Processor time is user and system time of all threads, as a share of one core.
//!
//! `cargo bench --bench idle -- --seconds 60`

// Real processes take real time.
#![allow(clippy::disallowed_methods)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};

use common::figures::{Table, verdict, write_json};
use common::support::{Cluster, Node, Options, Proc};
use common::{machine, rest, runtime, tell};

/// Targets: MB a node, percent of a core on the leader and on a follower.
const MEMORY_MB: f64 = 40.0;
const LEADER_PERCENT: f64 = 2.0;
const FOLLOWER_PERCENT: f64 = 1.0;

/// Measures memory and processor time of idle nodes.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How long to wait before, in seconds: for what follows a start.
    #[arg(long, default_value_t = 20)]
    settle: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One process at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    rss_kb: u64,
    pss_kb: u64,
    cpu: Duration,
    /// How often its threads went to sleep and were woken.
    wakeups: u64,
}

/// A value of `/proc/PID/smaps_rollup` in kB.
fn rollup(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.split_ascii_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

impl Sample {
    fn of(process: Proc) -> Sample {
        let dir = format!("/proc/{}", process.pid());
        let memory = fs::read_to_string(format!("{dir}/smaps_rollup")).unwrap_or_default();
        Sample {
            rss_kb: rollup(&memory, "Rss"),
            pss_kb: rollup(&memory, "Pss"),
            cpu: machine::cpu_time(&dir),
            wakeups: wakeups(&dir),
        }
    }
}

/// `voluntary_ctxt_switches` of proc_pid_status(5), over all threads of now.
fn wakeups(dir: &str) -> u64 {
    let threads = fs::read_dir(format!("{dir}/task")).into_iter().flatten().flatten();
    let count = |thread: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(thread.path().join("status")).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    threads.filter_map(count).sum()
}

/// The processes of a node that are the product's own, and those of PostgreSQL.
fn processes(node: &Node) -> (Vec<(&'static str, Proc)>, Vec<Proc>) {
    let tree = node.tree();
    let ours = vec![("hanode", node.daemon()), ("guard", tree.guard), ("init", tree.init)];
    let postgres = tree.processes().into_iter().filter(|p| *p != tree.init).collect();
    (ours, postgres)
}

fn main() {
    let arguments = Arguments::parse();
    let options = Options { prepared: false, ..Options::default() };
    runtime().block_on(async {
        let cluster = Cluster::start("idle", &options).await;
        tell(&format!("three nodes run; {} s to come to rest", arguments.settle));
        rest(Duration::from_secs(arguments.settle)).await;
        measure(&cluster, &arguments).await;
    });
}

async fn measure(cluster: &Cluster, arguments: &Arguments) {
    let status = cluster.healed().await;
    let (leader, primary) = (status.raft_leader(), status.primary());
    tell(&format!("measuring for {} s", arguments.seconds));
    let look = || -> Vec<_> { cluster.nodes.iter().map(processes).collect() };
    let before = look();
    let cpu = |p: &Proc| Sample::of(*p).cpu;
    let first: Vec<Vec<Sample>> =
        before.iter().map(|(ours, _)| ours.iter().map(|(_, p)| Sample::of(*p)).collect()).collect();
    let first_postgres: Vec<Vec<Duration>> =
        before.iter().map(|(_, list)| list.iter().map(cpu).collect()).collect();
    let begun = Instant::now();
    rest(Duration::from_secs(arguments.seconds)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let percent = |d: Duration| 100.0 * d.as_secs_f64() / seconds;

    let columns = ["", "RSS MB", "PSS MB", "% of a core", "wakeups/s"];
    let mut table = Table::new("Idle, every process", &columns);
    let (mut records, mut nodes) = (Vec::new(), Vec::new());
    for (i, node) in cluster.nodes.iter().enumerate() {
        let mut sum = Sample::default();
        for (j, (name, process)) in before[i].0.iter().enumerate() {
            let now = Sample::of(*process);
            let used = now.cpu.saturating_sub(first[i][j].cpu);
            let woken = now.wakeups.saturating_sub(first[i][j].wakeups) as f64 / seconds;
            table.row(vec![
                format!("{} {name}", node.name),
                mb(now.rss_kb),
                mb(now.pss_kb),
                format!("{:.2}", percent(used)),
                format!("{woken:.0}"),
            ]);
            records.push(json!({
                "node": node.name, "process": name, "rss_kb": now.rss_kb, "pss_kb": now.pss_kb,
                "cpu_percent": percent(used), "wakeups_per_second": woken,
            }));
            sum.rss_kb += now.rss_kb;
            sum.pss_kb += now.pss_kb;
            sum.cpu += used;
        }
        // What the agent's questions cost there is in it: an idle PostgreSQL takes next to nothing.
        let postgres = before[i].1.iter().zip(&first_postgres[i]);
        let postgres: Duration =
            postgres.map(|(p, first)| Sample::of(*p).cpu.saturating_sub(*first)).sum();
        table.row(vec![
            format!("{} PostgreSQL", node.name),
            "-".to_owned(),
            "-".to_owned(),
            format!("{:.2}", percent(postgres)),
            "-".to_owned(),
        ]);
        nodes.push((node, sum, percent(sum.cpu), percent(postgres)));
    }
    table.print();

    let columns = ["", "RSS MB", "PSS MB", "% of a core", "target", "met"];
    let mut table = Table::new("Idle, every node without PostgreSQL", &columns);
    let mut summary: Vec<Value> = Vec::new();
    for (node, sum, cpu, postgres) in nodes {
        let leads = leader.as_ref() == Some(&node.name);
        let limit = if leads { LEADER_PERCENT } else { FOLLOWER_PERCENT };
        let role = match (leads, primary.as_ref() == Some(&node.member)) {
            (true, true) => "Raft leader, primary",
            (true, false) => "Raft leader, standby",
            (false, true) => "Raft follower, primary",
            (false, false) => "Raft follower, standby",
        };
        let megabytes = sum.rss_kb as f64 * 1024.0 / 1e6;
        table.row(vec![
            format!("{} ({role})", node.name),
            mb(sum.rss_kb),
            mb(sum.pss_kb),
            format!("{cpu:.2}"),
            format!("{MEMORY_MB} MB, {limit} %"),
            format!("{}, {}", verdict(megabytes, MEMORY_MB), verdict(cpu, limit)),
        ]);
        summary.push(json!({
            "node": node.name, "role": role, "rss_kb": sum.rss_kb, "pss_kb": sum.pss_kb,
            "cpu_percent": cpu, "postgres_cpu_percent": postgres,
        }));
    }
    table.print();
    let after = cluster.healed().await;
    if after.raft_leader() != leader || after.epoch() != status.epoch() {
        println!(
            "\nThe leader or the primary changed meanwhile: the roles above are of the start."
        );
    }
    let settings = [
        ("nodes", "3, each with controller and member, on one machine".to_owned()),
        ("measured for", format!("{seconds:.0} s, after {} s of rest", arguments.settle)),
    ];
    let machine = machine::describe(&settings);
    write_json("idle", &json!({ "processes": records, "nodes": summary, "machine": machine }));
}

fn mb(kb: u64) -> String {
    format!("{:.1}", kb as f64 * 1024.0 / 1e6)
}
