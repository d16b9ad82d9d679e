//! One run of `pgbench`, and what it measured.

use std::path::Path;
use std::process::{Command, Stdio};

use super::figures::Series;
use super::load;
use super::support::Endpoint;

/// What a run measured.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Transactions a second, without the time to connect.
    pub tps: f64,
    /// Mean time of a transaction in milliseconds.
    pub mean_ms: f64,
    /// 99 of 100 transactions took no longer, in milliseconds.
    pub p99_ms: f64,
    /// How many there were.
    pub count: usize,
}

/// Makes the tables: so many times 100,000 accounts, about 15 MB each.
pub async fn initialize(endpoint: &Endpoint, scale: u32) {
    let mut command = load::pgbench(std::slice::from_ref(endpoint));
    command.args(["-i", "-q", "-s", &scale.to_string()]);
    output(command).await;
}

/// Runs a built-in script for so many seconds. Nothing is vacuumed: that is for the caller to do.
pub async fn measure(endpoint: &Endpoint, script: &str, clients: u32, seconds: u64) -> Measured {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let mut command = load::pgbench(std::slice::from_ref(endpoint));
    command.args(["-n", "-b", script, "-c", &clients.to_string()]);
    command.args(["-j", &clients.min(2).to_string(), "-T", &seconds.to_string()]);
    // A line a transaction: that is where the p99 comes from. It costs both sides the same.
    command.arg("-l").arg("--log-prefix").arg(&log);
    let text = output(command).await;
    let tps = text.lines().find_map(|l| l.strip_prefix("tps = "));
    let tps = tps.and_then(|l| l.split(' ').next()?.parse().ok());
    let times = times_ms(dir.path());
    Measured {
        tps: tps.unwrap_or_else(|| panic!("no figure in what pgbench printed: {text}")),
        mean_ms: times.0.iter().sum::<f64>() / times.count() as f64,
        p99_ms: times.quantile(0.99),
        count: times.count(),
    }
}

/// Runs a fixed number of transactions: the same work for everybody.
pub async fn work(endpoint: &Endpoint, clients: u32, transactions_each: u32) {
    let mut command = load::pgbench(std::slice::from_ref(endpoint));
    command.args(["-n", "-b", "simple-update", "-c", &clients.to_string(), "-j", "2"]);
    command.args(["-t", &transactions_each.to_string()]);
    output(command).await;
}

/// The third column of pgbench's logs of transactions is how long each took, in microseconds
/// (PostgreSQL manual, "pgbench").
fn times_ms(dir: &Path) -> Series {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let text = files.map(|f| std::fs::read_to_string(f.path()).unwrap_or_default());
    let time = |line: &str| line.split(' ').nth(2)?.parse::<f64>().ok().map(|us| us / 1000.0);
    Series(text.flat_map(|t| t.lines().filter_map(time).collect::<Vec<_>>()).collect())
}

/// Runs it to its end. It has to succeed: a transaction that fails ends one of its clients, and the
/// rest would be another load.
async fn output(mut command: Command) -> String {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = run.await.expect("no panic").expect("pgbench can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pgbench: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
