//! Commits a second, and how long they take, beside the same PostgreSQL set up by hand.
//!
//! Both sides are a primary and two standbys on this machine, one of two standbys has to confirm
//! a commit, and `pgbench` talks to the primary directly. What makes the comparison a fair one:
//!
//! - The servers by hand take over every setting of the product's primary that somebody has set,
//!   its encoding and locale, its data checksums, and have a slot for each standby. All settings of
//!   both are compared, and what differs is printed.
//! - Each run begins in the same state: history empty, tables vacuumed, a checkpoint on the primary
//!   and then on the standbys, all of it on disk. So the images of full pages, which are most of
//!   the log of a short run, are the same.
//! - The sides are measured in turns, so that what drifts on the machine meets both.
//!
//! Three nodes share the processors here, and so does `pgbench`. With eight clients the processors
//! are the limit: what three daemons take is missing then, though each node of a real cluster pays
//! for one daemon only. There are two ways to treat the side that is not measured:
//!
//! - `stopped`: it does not run at all. Each side is started for its run, warmed up and stopped
//!   again. The servers by hand have all of the machine, and the product pays for all that it runs.
//!   This is the ratio that counts.
//! - `idle`: it runs without load. The daemons run during both, so what remains is what the product
//!   does to its PostgreSQL: the agent's questions, the heartbeats that it writes, the name space.
//!   It flatters the product where the processors are the limit.
//!
//! Freezing the idle side is no third way: the product's cannot be frozen without losing its lease,
//! and to freeze one side only would favour one.
//!
//! `cargo bench --bench commits -- --seconds 10 --runs 7`

// Real processes take real time.
#![allow(clippy::disallowed_methods)]

mod common;

use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use common::figures::{Series, Table, write_json};
use common::pair::{Pair, Side};
use common::pgbench::{self, Measured};
use common::support::{Conn, Proc};
use common::{machine, rest, runtime, tell};

/// The product's share of the commits by hand that is aimed at.
const SHARE: f64 = 0.97;

/// So many runs of one turn may be repeated because the primary changed in them.
const SPOILED_MAX: usize = 3;

/// Measures commits in quorum mode, the product's and by hand.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// Length of a run, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Runs of each side, in turns.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Load before the first run after a start, in seconds.
    #[arg(long, default_value_t = 3)]
    warmup: u64,
    /// Size of the tables: so many times 100,000 accounts.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Clients of pgbench; more than one case by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 1])]
    clients: Vec<u32>,
    /// Built-in script of pgbench.
    #[arg(long, default_value = "tpcb-like")]
    script: String,
    /// What the side does that is not measured; more than one by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Other::Stopped, Other::Idle])]
    other: Vec<Other>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the side does that is not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Other {
    /// It does not run.
    Stopped,
    /// It runs without load.
    Idle,
}

/// What one side showed in one case.
#[derive(Debug, Clone, Default)]
struct Shown {
    tps: Series,
    mean_ms: Series,
    p99_ms: Series,
    wal_per_commit: Series,
    syncs_per_commit: Series,
    /// Segments of the log that lie ready when a run begins; the server has to make the others.
    ready_segments: Series,
    /// Processor time of daemons, guards and inits, in percent of one core.
    manager_percent: Series,
}

impl Shown {
    fn json(&self) -> Value {
        json!({
            "tps": self.tps.json(), "mean_ms": self.mean_ms.json(), "p99_ms": self.p99_ms.json(),
            "wal_bytes_per_commit": self.wal_per_commit.json(),
            "wal_syncs_per_commit": self.syncs_per_commit.json(),
            "ready_segments": self.ready_segments.json(),
            "manager_cpu_percent": self.manager_percent.json(),
        })
    }
}

/// One case: how many clients, and what the other side did meanwhile.
#[derive(Debug, Clone)]
struct Case {
    other: Other,
    clients: u32,
    product: Shown,
    hand: Shown,
}

fn main() {
    let arguments = Arguments::parse();
    let (cases, spoiled) = runtime().block_on(measure(&arguments));
    show(&cases, spoiled, &arguments);
}

async fn measure(arguments: &Arguments) -> (Vec<Case>, usize) {
    tell(&format!("both sides are made, scale {}", arguments.scale));
    let mut pair = Pair::start("commits", arguments.scale).await;
    pair.print_differences();
    let (mut cases, mut spoiled) = (Vec::new(), 0);
    for other in arguments.other.clone() {
        let fresh = |clients: &u32| Case {
            other,
            clients: *clients,
            product: Shown::default(),
            hand: Shown::default(),
        };
        let mut of_this: Vec<Case> = arguments.clients.iter().map(fresh).collect();
        if other == Other::Stopped {
            pair.halt(Side::Hand).await;
            pair.halt(Side::Product).await;
        }
        for run in 1..=arguments.runs {
            for side in [Side::Product, Side::Hand] {
                spoiled += turn(&mut pair, side, run, arguments, &mut of_this).await;
            }
        }
        if other == Other::Stopped {
            pair.resume(Side::Hand).await;
            pair.resume(Side::Product).await;
        }
        cases.append(&mut of_this);
    }
    (cases, spoiled)
}

/// One run of one side in every case. Returns how many runs were spoiled by a change of the primary.
async fn turn(
    pair: &mut Pair,
    side: Side,
    run: usize,
    arguments: &Arguments,
    cases: &mut [Case],
) -> usize {
    let Some(other) = cases.first().map(|c| c.other) else { return 0 };
    if other == Other::Stopped {
        pair.resume(side).await;
    }
    if other == Other::Stopped || run == 1 {
        let (endpoint, clients) = (pair.endpoint(side).await, arguments.clients.iter().max());
        let clients = clients.copied().unwrap_or(1);
        pgbench::measure(&endpoint, &arguments.script, clients, arguments.warmup.max(1)).await;
    }
    let mut spoiled = 0;
    for case in cases.iter_mut() {
        let done = loop {
            match once(pair, side, case.clients, arguments).await {
                Some(done) => break done,
                None => spoiled += 1,
            }
            assert!(spoiled < SPOILED_MAX, "the primary changes all the time");
        };
        tell(&format!(
            "  {run}: {other:?} {side:?} -c {}: {:.0} tps, mean {:.2} ms, p99 {:.2} ms, \
             {:.0} B of log and {:.2} syncs a commit, {:.0} segments ready, \
             manager {:.1} % of a core",
            case.clients,
            done.measured.tps,
            done.measured.mean_ms,
            done.measured.p99_ms,
            done.wal,
            done.syncs,
            done.ready,
            done.manager,
        ));
        let shown = match side {
            Side::Product => &mut case.product,
            Side::Hand => &mut case.hand,
        };
        shown.tps.0.push(done.measured.tps);
        shown.mean_ms.0.push(done.measured.mean_ms);
        shown.p99_ms.0.push(done.measured.p99_ms);
        shown.wal_per_commit.0.push(done.wal);
        shown.syncs_per_commit.0.push(done.syncs);
        shown.ready_segments.0.push(done.ready);
        shown.manager_percent.0.push(done.manager);
    }
    if other == Other::Stopped {
        pair.halt(side).await;
    }
    spoiled
}

/// One run.
struct Done {
    measured: Measured,
    wal: f64,
    syncs: f64,
    ready: f64,
    manager: f64,
}

/// One run; nothing where the primary changed meanwhile.
async fn once(pair: &Pair, side: Side, clients: u32, arguments: &Arguments) -> Option<Done> {
    pair.settle(side).await;
    let before_epoch = epoch(pair, side).await;
    let (endpoint, conn) = (pair.endpoint(side).await, pair.primary(side).await);
    // What came with the preparation is over: reports of it, and a healthy cluster's look at it.
    rest(Duration::from_secs(1)).await;
    let managers = managers(pair, side);
    let (log, cpu, begun) = (Log::of(&conn).await, cpu(&managers), Instant::now());
    let measured = pgbench::measure(&endpoint, &arguments.script, clients, arguments.seconds).await;
    let (used, seconds) = (cpu_since(&managers, &cpu), begun.elapsed().as_secs_f64());
    if epoch(pair, side).await != before_epoch {
        println!("the primary changed during a run, which is repeated");
        return None;
    }
    let written = Log::of(&conn).await;
    let per_commit = |a: f64, b: f64| (b - a) / measured.count as f64;
    Some(Done {
        wal: per_commit(log.bytes, written.bytes),
        syncs: per_commit(log.syncs, written.syncs),
        ready: log.ready,
        manager: 100.0 * used / seconds,
        measured,
    })
}

async fn epoch(pair: &Pair, side: Side) -> u64 {
    match side {
        Side::Product => pair.cluster.healed().await.epoch(),
        Side::Hand => 0,
    }
}

/// What the primary has logged so far (PostgreSQL manual, `pg_stat_wal`).
struct Log {
    bytes: f64,
    syncs: f64,
    /// Segments behind the current one, of its timeline.
    ready: f64,
}

impl Log {
    async fn of(conn: &Conn) -> Log {
        let sql = "SELECT w.wal_bytes, w.wal_sync, (SELECT count(*) FROM pg_ls_waldir() \
                   WHERE name > c.name AND left(name, 8) = left(c.name, 8)) \
                   FROM pg_stat_wal w, pg_walfile_name(pg_current_wal_lsn()) c(name)";
        let rows = conn.rows(sql).await;
        let row = rows.expect("the statistics of the log").swap_remove(0);
        let number = |i: usize| row[i].parse().expect("a number");
        Log { bytes: number(0), syncs: number(1), ready: number(2) }
    }
}

/// The product's own processes, on all nodes.
fn managers(pair: &Pair, side: Side) -> Vec<Proc> {
    if side == Side::Hand {
        return Vec::new();
    }
    let of_node = |n: &common::support::Node| {
        let tree = n.tree();
        [n.daemon(), tree.guard, tree.init]
    };
    pair.cluster.nodes.iter().flat_map(of_node).collect()
}

fn cpu(processes: &[Proc]) -> Vec<Duration> {
    processes.iter().map(|p| machine::cpu_time(&format!("/proc/{}", p.pid()))).collect()
}

fn cpu_since(processes: &[Proc], before: &[Duration]) -> f64 {
    let used = cpu(processes).into_iter().zip(before).map(|(now, b)| now.saturating_sub(*b));
    used.sum::<Duration>().as_secs_f64()
}

/// The median of the ratios of runs that were neighbours: what drifts slowly falls out.
fn paired(product: &Series, hand: &Series) -> f64 {
    Series(product.0.iter().zip(&hand.0).map(|(a, b)| a / b).collect()).median()
}

fn show(cases: &[Case], spoiled: usize, arguments: &Arguments) {
    let mut records = Vec::new();
    for other in &arguments.other {
        let title = match other {
            Other::Stopped => "Commits in quorum mode; the other side does not run",
            Other::Idle => "Commits in quorum mode; the other side runs without load",
        };
        let columns =
            ["", "side", "runs", "median", "min", "quartiles", "max", "ratio", "in pairs", "aim"];
        let mut table = Table::new(title, &columns);
        for case in cases.iter().filter(|c| c.other == *other) {
            let (product, hand) = (&case.product, &case.hand);
            let share = product.tps.median() / hand.tps.median();
            let met = if share >= SHARE { "yes" } else { "NO" };
            let what = format!("-c {}", case.clients);
            for (name, digits, a, b, aim) in [
                ("commits/s", 0, &product.tps, &hand.tps, format!("{SHARE}: {met}")),
                ("mean, ms", 2, &product.mean_ms, &hand.mean_ms, "-".to_owned()),
                ("p99, ms", 2, &product.p99_ms, &hand.p99_ms, "-".to_owned()),
            ] {
                let ratio = format!("{:.3}", a.median() / b.median());
                let ratios = [ratio, format!("{:.3}", paired(a, b)), aim];
                table.row(row(&format!("{what} {name}"), "product", digits, a, ratios));
                table.row(row("", "by hand", digits, b, [(); 3].map(|()| String::new())));
            }
            records.push(json!({
                "other": format!("{other:?}").to_lowercase(), "clients": case.clients,
                "product": product.json(), "by_hand": hand.json(), "share": share,
                "share_in_pairs": paired(&product.tps, &hand.tps), "aim": SHARE,
                "met": share >= SHARE,
            }));
        }
        table.print();
    }
    beside(cases);
    if spoiled > 0 {
        println!("\nRuns repeated, since the primary changed in them: {spoiled}");
    }
    let settings = [
        ("sides", "a primary and two standbys each, all on this machine".to_owned()),
        ("synchronous", "ANY 1 of 2 standbys".to_owned()),
        ("load", format!("pgbench -b {}, scale {}", arguments.script, arguments.scale)),
        ("a run", format!("{} s, right after a checkpoint", arguments.seconds)),
    ];
    let machine = machine::describe(&settings);
    let json = json!({ "cases": records, "spoiled": spoiled, "machine": machine });
    write_json("commits", &json);
}

fn row(
    what: &str,
    side: &str,
    digits: usize,
    series: &Series,
    [ratio, in_pairs, aim]: [String; 3],
) -> Vec<String> {
    let number = |n: f64| format!("{n:.digits$}");
    let quartiles = [0.25, 0.75].map(|q| number(series.quantile(q))).join("..");
    vec![
        what.to_owned(),
        side.to_owned(),
        series.count().to_string(),
        number(series.median()),
        number(series.min()),
        quartiles,
        number(series.max()),
        ratio,
        in_pairs,
        aim,
    ]
}

/// What helps to explain a ratio.
fn beside(cases: &[Case]) {
    let columns =
        ["", "B of log a commit", "syncs a commit", "segments ready", "daemons, % of a core"];
    let mut table = Table::new("Beside it, medians on the primary", &columns);
    for case in cases {
        for (side, shown) in [("product", &case.product), ("by hand", &case.hand)] {
            table.row(vec![
                format!("-c {}, other {:?}, {side}", case.clients, case.other),
                format!("{:.0}", shown.wal_per_commit.median()),
                format!("{:.3}", shown.syncs_per_commit.median()),
                format!("{:.0}", shown.ready_segments.median()),
                format!("{:.1}", shown.manager_percent.median()),
            ]);
        }
    }
    table.print();
}
