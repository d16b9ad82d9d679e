//! The parts by themselves: the planner, `apply`, Raft, and the API of a running node.
//!
//! - Domain: one command applied, and one pass of the planner, with 1 and with 1000 clusters.
//! - Raft: three nodes in this process, over gRPC on loopback, with RocksDB on the disk; beside it
//!   what `fdatasync` takes there, which every proposal waits for.
//! - API: a status from a running leader, confirmed by a read barrier, and one without.
//!
//! `cargo bench --bench micro -- domain`

// It measures real time, and talks over real sockets.
#![allow(clippy::disallowed_methods)]

mod common;
#[path = "common/domain.rs"]
mod domain;
#[path = "common/group.rs"]
mod group;

use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};

use common::figures::{Series, Table, write_json};
use common::support::{Cluster, Options};
use common::{isolated, machine, runtime, since_ms, tell};
use quorate::client::Client;

/// Measures the parts by themselves.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure: domain, raft, api; all where none is given.
    parts: Vec<String>,
    /// How often a call to Raft or to the API is measured.
    #[arg(long, default_value_t = 2000)]
    calls: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let wanted =
        |part: &str| arguments.parts.is_empty() || arguments.parts.iter().any(|p| p == part);
    let calls = arguments.calls;
    let mut results = serde_json::Map::new();
    let mut add = |part: &str, measured: Result<Value, String>| match measured {
        Ok(value) => drop(results.insert(part.to_owned(), value)),
        Err(why) => println!("{part}: failed: {why}"),
    };
    if wanted("domain") {
        tell("domain");
        add("domain", Ok(domain::measure()));
    }
    if wanted("raft") {
        tell("raft: three nodes in this process");
        add("raft", isolated(move || group::measure(calls)));
    }
    if wanted("api") {
        tell("api: three running nodes");
        add("api", isolated(move || runtime().block_on(api(calls))));
    }
    let machine = machine::describe(&[("calls", calls.to_string())]);
    results.insert("machine".to_owned(), machine);
    write_json("micro", &Value::Object(results));
}

/// The quantiles of latencies as a row of a table.
fn latency_row(name: &str, series: &Series, rate: Option<f64>) -> Vec<String> {
    let of = |q| format!("{:.3} ms", series.quantile(q));
    let rate = rate.map_or_else(|| "-".to_owned(), |r| format!("{r:.0}/s"));
    vec![name.to_owned(), series.count().to_string(), of(0.5), of(0.99), of(1.0), rate]
}

/// The columns of [`latency_row`].
const LATENCY: [&str; 6] = ["", "calls", "p50", "p99", "max", "rate"];

/// A status through the leader-following client: with a read barrier and without.
async fn api(calls: usize) -> Value {
    let options = Options { prepared: false, ..Options::default() };
    let cluster = Cluster::start("api", &options).await;
    let endpoints: Vec<String> = cluster.nodes.iter().map(|n| n.api()).collect();
    let limit = Duration::from_secs(10);
    let mut client = Client::new(&endpoints, limit).expect("addresses");
    let mut table = Table::new("API of a running node, one caller", &LATENCY);
    let (mut confirmed, mut plain) = (Series::default(), Series::default());
    // The first calls connect and find the leader.
    for _ in 0..20 {
        client.status("").await.expect("a status");
    }
    for _ in 0..calls {
        let begun = Instant::now();
        client.status("").await.expect("a status");
        confirmed.0.push(since_ms(begun));
    }
    for _ in 0..calls {
        let begun = Instant::now();
        client.status_of_any("").await.expect("a status");
        plain.0.push(since_ms(begun));
    }
    table.row(latency_row("status with read barrier", &confirmed, None));
    table.row(latency_row("status as any node knows it", &plain, None));
    table.print();
    json!({ "status_with_barrier_ms": brief(&confirmed), "status_of_any_ms": brief(&plain) })
}

/// The quantiles as JSON; thousands of values are left out.
fn brief(series: &Series) -> Value {
    json!({
        "count": series.count(), "p50": series.quantile(0.5), "p99": series.quantile(0.99),
        "max": series.max(),
    })
}
