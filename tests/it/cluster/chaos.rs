//! Faults of all kinds, drawn from a seed, one upon another; then they end, and it has to heal.
//!
//! `QUORATE_CHAOS_SEED` repeats a run as far as real processes can be repeated, and
//! `QUORATE_CHAOS_SECONDS` makes it longer.

use std::time::{Duration, Instant};

use crate::support::{Cluster, Mode, Node, Options, PrivateNetwork, Tree};

/// Random numbers from a seed: xorshift64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn pause(&mut self, ms_max: u64) -> Duration {
        Duration::from_millis(self.below(ms_max))
    }
}

/// What ends a fault.
enum Undo {
    Nothing,
    Thaw(Tree),
    ThawDaemon,
    Heal,
}

async fn strike(cluster: &Cluster, node: &Node, draw: &mut Draw) -> (String, Undo) {
    let runs = node.ended().is_none();
    let tree = node.find_tree();
    let what = draw.below(12);
    let undo = match (what, tree) {
        (0, Some(tree)) => {
            tree.guard.signal(libc::SIGKILL);
            Undo::Nothing
        }
        (1 | 2, Some(tree)) => {
            // Any process of the tree: the postmaster, a backend, a walsender, the checkpointer.
            let all = tree.processes();
            if let Some(one) = all.get(draw.below(all.len().max(1) as u64) as usize) {
                one.signal(libc::SIGKILL);
            }
            Undo::Nothing
        }
        (3, _) if runs => {
            node.daemon().signal(libc::SIGKILL);
            Undo::Nothing
        }
        (4, _) if runs => {
            node.daemon().signal(libc::SIGTERM);
            Undo::Nothing
        }
        (5, _) if runs => {
            node.kill_everything().await;
            Undo::Nothing
        }
        (6, Some(tree)) if runs => {
            node.daemon().freeze().await;
            tree.freeze().await;
            Undo::Thaw(tree)
        }
        (7, Some(tree)) => {
            let all = tree.processes();
            if let Some(one) = all.get(draw.below(all.len().max(1) as u64) as usize) {
                one.freeze().await;
            }
            Undo::Thaw(tree)
        }
        (8, _) if runs => {
            node.daemon().freeze().await;
            Undo::ThawDaemon
        }
        (9, _) => {
            cluster.network().cut_from_peers(node.index);
            Undo::Heal
        }
        (10, _) => {
            cluster.network().unplug(node.index);
            Undo::Heal
        }
        (11, _) => {
            let _ = cluster
                .hactl(&["--timeout", "5s", "switchover", "--to", &node.member, "--yes"])
                .await;
            Undo::Nothing
        }
        _ => Undo::Nothing,
    };
    const NAMES: [&str; 12] = [
        "guard killed",
        "process killed",
        "process killed",
        "daemon killed",
        "daemon restarted",
        "everything killed",
        "everything frozen",
        "process frozen",
        "daemon frozen",
        "cut from peers",
        "unplugged",
        "switchover",
    ];
    (format!("{} {}", node.name, NAMES[what as usize]), undo)
}

fn undo(cluster: &Cluster, node: &Node, undo: Undo) {
    match undo {
        Undo::Nothing => {}
        Undo::Thaw(tree) => {
            tree.thaw();
            if node.ended().is_none() {
                node.daemon().thaw();
            }
        }
        Undo::ThawDaemon if node.ended().is_none() => node.daemon().thaw(),
        Undo::ThawDaemon => {}
        Undo::Heal => cluster.network().heal(node.index),
    }
}

/// What a supervisor of services does: a daemon that has ended is started again.
fn supervise(cluster: &Cluster) {
    for node in &cluster.nodes {
        if node.ended().is_some() {
            node.start();
        }
    }
}

#[test]
fn it_survives_and_heals() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seed = number("QUORATE_CHAOS_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_micros() as u64)
    });
    let seconds = number("QUORATE_CHAOS_SECONDS").unwrap_or(30);
    eprintln!("QUORATE_CHAOS_SEED={seed}");
    PrivateNetwork::run(3, move |network| async move {
        let options =
            Options { cluster: vec!["crash_failovers_max = 1000".into()], ..Options::default() };
        let cluster = Cluster::start_on("chaos", network, &options).await;
        let mut draw = Draw(seed | 1);
        let since = Instant::now();
        let mut writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
        writers.extend(cluster.probes());
        while since.elapsed() < Duration::from_secs(seconds) {
            // Two at a time, of which the second may fall upon the first one's takeover.
            let mut under_way = Vec::new();
            for _ in 0..1 + draw.below(2) {
                let node = &cluster.nodes[draw.below(3) as usize];
                let (what, undo) = strike(&cluster, node, &mut draw).await;
                eprintln!("{:6.2} {what}", since.elapsed().as_secs_f32());
                under_way.push((node, undo));
                tokio::time::sleep(draw.pause(1500)).await;
            }
            tokio::time::sleep(draw.pause(4000)).await;
            for (node, end) in under_way {
                undo(&cluster, node, end);
            }
            supervise(&cluster);
            tokio::time::sleep(draw.pause(3000)).await;
            supervise(&cluster);
            if let Some(why) = cluster.journal.second_writer() {
                panic!("two writers: {why}");
            }
        }
        eprintln!("{:6.2} the faults end", since.elapsed().as_secs_f32());
        supervise(&cluster);
        cluster.rows_flow(50).await;
        cluster.judge(writers, since).await;
    });
}
