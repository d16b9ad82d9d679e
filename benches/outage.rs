//! Write outages as a client sees them.
//!
//! A probe opens a fresh connection every 20 ms, with all hosts and
//! `target_session_attrs=read-write`, and writes a row. The outage is the longest time between two
//! acknowledgements. Beside the product stands what PostgreSQL takes by itself, set up by hand and
//! measured by the same probe in the same run. At the end every acknowledged row is looked for.
//!
//! `cargo bench --bench outage -- switchover --runs 3`

// Real processes take real time.
#![allow(clippy::disallowed_methods)]

mod common;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

use common::figures::{Series, Table, seconds, verdict, write_json};
use common::floor::Floor;
use common::load::{self, Load};
use common::probe::{self, Probe};
use common::support::{Cluster, HEAL, Options, PrivateNetwork, SOON, Status};
use common::{isolated, machine, ms, rest, runtime, tell};

/// Measures write outages.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// What to measure: names or beginnings of names, see --list; all where none is given.
    cases: Vec<String>,
    /// How often.
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Seed of the order in which clients try the hosts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only list the cases.
    #[arg(long)]
    list: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `hactl switchover`.
    Switchover,
    /// SIGKILL to the postmaster.
    Postgres,
    /// SIGKILL to every process of the primary's node.
    Node,
    /// Nothing goes in or out of the primary's node any more, silently.
    Cut,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    /// The product; with the Raft leader on the primary's node, or elsewhere.
    Product { leader_here: bool },
    /// PostgreSQL by hand.
    Floor,
}

/// One line of the result.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    text: &'static str,
    subject: Subject,
    fault: Fault,
    load: bool,
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    None,
    Milliseconds(f64),
    /// Twice the median of another case.
    Twice(&'static str),
}

const ELSEWHERE: Subject = Subject::Product { leader_here: false };
const HERE: Subject = Subject::Product { leader_here: true };

const fn case(
    name: &'static str,
    text: &'static str,
    subject: Subject,
    fault: Fault,
    load: bool,
    target: Target,
) -> Case {
    Case { name, text, subject, fault, load, target }
}

use Fault::{Cut, Node, Postgres, Switchover};
use Target::{Milliseconds, Twice};

const CASES: [Case; 10] = [
    case(
        "switchover-floor",
        "by hand: switchover",
        Subject::Floor,
        Switchover,
        false,
        Target::None,
    ),
    case("switchover", "switchover", ELSEWHERE, Switchover, false, Milliseconds(400.0)),
    case(
        "switchover-load-floor",
        "by hand: switchover, pgbench -c8",
        Subject::Floor,
        Switchover,
        true,
        Target::None,
    ),
    case(
        "switchover-load",
        "switchover, pgbench -c8",
        ELSEWHERE,
        Switchover,
        true,
        Twice("switchover-load-floor"),
    ),
    case("postgres-killed-floor", "by hand: killed", Subject::Floor, Postgres, false, Target::None),
    case("postgres-killed", "PostgreSQL killed", ELSEWHERE, Postgres, false, Milliseconds(500.0)),
    case("node-killed", "node killed", ELSEWHERE, Node, false, Milliseconds(3500.0)),
    case(
        "node-killed-leader",
        "node killed, Raft leader on it",
        HERE,
        Node,
        false,
        Milliseconds(5000.0),
    ),
    case("cut-off", "node silently cut off", ELSEWHERE, Cut, false, Milliseconds(3500.0)),
    case(
        "cut-off-leader",
        "node silently cut off, Raft leader on it",
        HERE,
        Cut,
        false,
        Milliseconds(5000.0),
    ),
];

/// What was measured.
#[derive(Debug, Clone, Default)]
struct Outcome {
    outages_ms: Series,
    /// By hand: the promotion alone.
    promote_ms: Series,
    /// By hand: from the beginning to the first confirmed commit, without connecting.
    to_write_ms: Series,
    /// Further times without acknowledgements over 100 ms in the same windows.
    other_gaps: usize,
    acknowledged: usize,
    lost: usize,
    latency_ms: f64,
    tps: Option<f64>,
    /// Why there is nothing, or not all.
    skipped: Option<String>,
}

fn main() {
    let arguments = Arguments::parse();
    let chosen = |c: &&Case| {
        arguments.cases.is_empty() || arguments.cases.iter().any(|a| c.name.starts_with(a.as_str()))
    };
    let cases: Vec<Case> = CASES.iter().filter(chosen).copied().collect();
    if arguments.list {
        cases.iter().for_each(|c| println!("{:<24}{}", c.name, c.text));
        return;
    }
    if cases.is_empty() {
        eprintln!("no such case; --list shows them");
        std::process::exit(2);
    }
    let mut results: Vec<(Case, Outcome)> = Vec::new();
    for case in cases {
        tell(&format!("{}: {} runs", case.name, arguments.runs));
        let outcome = measure(case, &arguments);
        if let Some(why) = &outcome.skipped {
            println!("{}: {why}", case.name);
        }
        results.push((case, outcome));
    }
    show(&results, &arguments);
}

/// Measures one case. What was measured before a failure is kept.
fn measure(case: Case, arguments: &Arguments) -> Outcome {
    let (sender, results) = mpsc::channel();
    let arguments = arguments.clone();
    let ended = isolated(move || match (case.subject, case.fault) {
        (Subject::Floor, _) => runtime().block_on(by_hand(case, &arguments, &sender)),
        (_, Cut) => PrivateNetwork::run(3, move |network| async move {
            let cluster = Cluster::start_on(case.name, network, &options()).await;
            product(case, &arguments, cluster, &sender).await;
        }),
        _ => runtime().block_on(async {
            let cluster = Cluster::start(case.name, &options()).await;
            product(case, &arguments, cluster, &sender).await;
        }),
    });
    let mut outcome = results.try_iter().last().unwrap_or_else(|| Outcome {
        skipped: Some("skipped: network namespaces or iptables are not permitted here".to_owned()),
        ..Outcome::default()
    });
    if let Err(why) = ended {
        outcome.skipped = Some(format!("failed: {}", why.lines().next().unwrap_or_default()));
    }
    outcome
}

/// A crash a run is more than the bound of an ordinary cluster.
fn options() -> Options {
    let cluster = vec!["crash_failovers_max = 1000".to_owned()];
    Options { cluster, prepared: false, ..Options::default() }
}

/// How long rows flow undisturbed before and after what is done.
const CALM: Duration = Duration::from_secs(1);

async fn product(
    case: Case,
    arguments: &Arguments,
    cluster: Cluster,
    sender: &mpsc::Sender<Outcome>,
) {
    let Subject::Product { leader_here } = case.subject else { return };
    common::prepare(&cluster).await;
    let load = match case.load {
        true => Some(Load::start(&cluster.endpoints()).await),
        false => None,
    };
    let probe = Probe::start(cluster.endpoints(), arguments.seed);
    probe.flows(Instant::now(), SOON).await;
    let mut outcome = Outcome::default();
    let _ = sender.send(outcome.clone());
    for run in 1..=arguments.runs {
        cluster.healed().await;
        rest(CALM).await;
        let status = take_position(&cluster, leader_here, case.fault).await;
        if outcome.latency_ms == 0.0 {
            outcome.latency_ms = probe.latencies().median();
        }
        let primary = cluster.node_of(&status.primary().expect("a primary")).index;
        probe.flows(Instant::now(), SOON).await;
        let begun = Instant::now();
        strike(&cluster, case.fault, primary).await;
        // Nothing is asked of the cluster meanwhile, so that nothing is disturbed.
        probe.flows(begun + Duration::from_millis(200), HEAL).await;
        mend(&cluster, case.fault, primary);
        let healed = cluster.healed().await;
        rest(CALM).await;
        let gap = probe.gap(begun).expect("rows");
        let length = ms(gap.length());
        tell(&format!(
            "  {run}: {} ({} to {}, epoch {}, {:.0} ms after it began); healed after {}",
            seconds(length),
            status.primary().unwrap_or_default(),
            healed.primary().unwrap_or_default(),
            healed.epoch(),
            ms(gap.from.saturating_duration_since(begun)),
            seconds(common::since_ms(begun) - ms(CALM)),
        ));
        outcome.outages_ms.0.push(length);
        outcome.other_gaps += gap.others;
        let _ = sender.send(outcome.clone());
    }
    cluster.healed().await;
    let primary = cluster.superuser(cluster.primary().await.index).await;
    if let Some(load) = load {
        outcome.tps = Some(load.stop(&primary).await);
    }
    let acknowledged = probe.stop().await;
    outcome.acknowledged = acknowledged.len();
    outcome.lost = probe::lost(&acknowledged, &primary).await;
    let _ = sender.send(outcome);
}

/// Brings the primary to the node of the Raft leader, or away from it. The product does the latter
/// by itself after a while. A switchover is measured wherever the leader is.
async fn take_position(cluster: &Cluster, leader_here: bool, fault: Fault) -> Status {
    let begun = Instant::now();
    loop {
        let status = cluster.healed().await;
        let leader = status.raft_leader().unwrap_or_default();
        let member = cluster.nodes.iter().find(|n| n.name == leader).map(|n| n.member.clone());
        let is_here = member.is_some() && member == status.primary();
        if is_here == leader_here || fault == Switchover {
            return status;
        }
        assert!(begun.elapsed() < 2 * HEAL, "the Raft leader is not where it is wanted");
        match member {
            Some(member) if leader_here => {
                let done = cluster.hactl(&["switchover", "--yes", "--to", &member]).await;
                if done.code != 0 {
                    tell(&format!("  switchover to {member}: {}", done.stderr.trim()));
                }
            }
            _ => rest(Duration::from_millis(300)).await,
        }
    }
}

async fn strike(cluster: &Cluster, fault: Fault, primary: usize) {
    let node = &cluster.nodes[primary];
    match fault {
        Switchover => {
            let done = cluster.hactl(&["switchover", "--yes"]).await;
            assert_eq!(done.code, 0, "{}", done.stderr);
        }
        Postgres => node.tree().postmaster().signal(libc::SIGKILL),
        Node => node.kill_everything().await,
        Cut => silence(cluster.network().namespace(primary)),
    }
}

/// Drops what comes into a network namespace and what leaves it, without an answer to anybody.
fn silence(namespace: std::os::fd::RawFd) {
    use std::os::unix::process::CommandExt;
    let rules = "iptables -w -A INPUT -i eth0 -j DROP && iptables -w -A OUTPUT -o eth0 -j DROP";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", rules]);
    // SAFETY: setns is async-signal-safe, and the descriptor is open in the child.
    unsafe {
        command.pre_exec(move || match libc::setns(namespace, libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    let output = command.output().expect("sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn mend(cluster: &Cluster, fault: Fault, primary: usize) {
    match fault {
        Switchover | Postgres => {}
        Node => cluster.nodes[primary].start(),
        Cut => cluster.network().heal(primary),
    }
}

async fn by_hand(case: Case, arguments: &Arguments, sender: &mpsc::Sender<Outcome>) {
    let mut floor = Floor::start().await;
    let load = match case.load {
        true => Some(Load::start(&floor.endpoints()).await),
        false => None,
    };
    let probe = Probe::start(floor.endpoints(), arguments.seed);
    probe.flows(Instant::now(), SOON).await;
    let mut outcome = Outcome::default();
    for run in 1..=arguments.runs {
        rest(CALM).await;
        if outcome.latency_ms == 0.0 {
            outcome.latency_ms = probe.latencies().median();
        }
        let takeover = match case.fault {
            Postgres => floor.crash().await,
            _ => floor.switch_over().await,
        };
        probe.flows(takeover.begun + Duration::from_millis(200), HEAL).await;
        let gap = probe.gap(takeover.begun).expect("rows");
        floor.restore().await;
        let (length, promote) = (ms(gap.length()), takeover.promote_ms);
        tell(&format!(
            "  {run}: {}; to the first confirmed commit {}, pg_promote() {promote:.0} ms",
            seconds(length),
            seconds(takeover.to_write_ms),
        ));
        outcome.outages_ms.0.push(length);
        outcome.promote_ms.0.push(promote);
        outcome.to_write_ms.0.push(takeover.to_write_ms);
        outcome.other_gaps += gap.others;
        let _ = sender.send(outcome.clone());
    }
    let primary = floor.superuser().await;
    if let Some(load) = load {
        outcome.tps = Some(load.stop(&primary).await);
    }
    let acknowledged = probe.stop().await;
    outcome.acknowledged = acknowledged.len();
    outcome.lost = probe::lost(&acknowledged, &primary).await;
    let _ = sender.send(outcome);
}

fn show(results: &[(Case, Outcome)], arguments: &Arguments) {
    let median = |name: &str| {
        let of = results.iter().find(|(c, _)| c.name == name);
        of.map(|(_, o)| o.outages_ms.median())
    };
    let columns = ["", "runs", "median", "max", "target", "median meets it", "lost", "rows"];
    let mut table =
        Table::new("Write outage, as a client with fresh connections sees it", &columns);
    let mut records = Vec::new();
    for (case, outcome) in results {
        let outages = &outcome.outages_ms;
        let target = match case.target {
            Target::None => None,
            Milliseconds(ms) => Some(ms),
            Twice(of) => median(of).map(|m| 2.0 * m),
        };
        let met = target.filter(|_| outages.count() > 0).map(|t| verdict(outages.median(), t));
        let dash = || "-".to_owned();
        let target_text = match (case.target, target) {
            (Twice(_), Some(t)) => format!("{} (2 x by hand)", seconds(t)),
            (_, Some(t)) => seconds(t),
            (_, None) => dash(),
        };
        table.row(vec![
            case.text.to_owned(),
            outages.count().to_string(),
            seconds(outages.median()),
            seconds(outages.max()),
            target_text,
            met.map_or_else(dash, str::to_owned),
            outcome.lost.to_string(),
            outcome.acknowledged.to_string(),
        ]);
        records.push(json!({
            "case": case.name, "text": case.text, "outage_ms": outages.json(),
            "target_ms": target, "met": met.map(|m| m == "yes"),
            "acknowledged": outcome.acknowledged, "lost": outcome.lost,
            "promote_ms": outcome.promote_ms.json(), "to_write_ms": outcome.to_write_ms.json(),
            "other_gaps_over_100_ms": outcome.other_gaps, "row_ms": outcome.latency_ms,
            "transactions_per_second": outcome.tps, "skipped": outcome.skipped,
        }));
    }
    table.print();
    let columns = ["", "median", "max"];
    let mut parts = Table::new("By hand: no Raft, no lease, no fence, no agent", &columns);
    for (case, outcome) in results.iter().filter(|(_, o)| o.promote_ms.count() > 0) {
        let name = case.text.trim_start_matches("by hand: ");
        for (what, series) in [
            ("to the first confirmed commit", &outcome.to_write_ms),
            ("pg_promote() alone", &outcome.promote_ms),
        ] {
            let (median, max) = (seconds(series.median()), seconds(series.max()));
            parts.row(vec![format!("{name}: {what}"), median, max]);
        }
    }
    if results.iter().any(|(_, o)| o.promote_ms.count() > 0) {
        parts.print();
    }
    let mut more = Table::new(
        "Beside it",
        &["", "a row takes", "gaps > 0.1 s more", "pgbench, outages included"],
    );
    for (case, outcome) in results {
        let tps = outcome.tps.map_or_else(|| "-".to_owned(), |t| format!("{t:.0} tps"));
        let row = format!("{:.1} ms", outcome.latency_ms);
        more.row(vec![case.text.to_owned(), row, outcome.other_gaps.to_string(), tps]);
    }
    more.print();
    let lost: usize = results.iter().map(|(_, o)| o.lost).sum();
    let rows: usize = results.iter().map(|(_, o)| o.acknowledged).sum();
    println!("\nLost acknowledged writes: {lost} of {rows}");
    for (case, outcome) in results {
        if let Some(why) = &outcome.skipped {
            println!("{}: {why}", case.text);
        }
    }
    let settings = [
        ("nodes", "3, each with controller and member, on one machine".to_owned()),
        ("lease", "ttl 3 s, renewal 0.5 s, Raft heartbeat 0.1 s, election 0.5 to 1 s".to_owned()),
        ("synchronous", "ANY 1 of 2 standbys".to_owned()),
        ("probe", "a row every 20 ms, fresh connection, connect_timeout 1 s, SCRAM".to_owned()),
        ("load", format!("pgbench -c{}, scale {}", load::CLIENTS, load::SCALE)),
        ("seed", arguments.seed.to_string()),
    ];
    let machine = machine::describe(&settings);
    write_json("outage", &json!({ "cases": records, "lost": lost, "machine": machine }));
}
