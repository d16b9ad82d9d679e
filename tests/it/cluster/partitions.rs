//! Nodes are cut off from each other.

use std::time::{Duration, Instant};

use crate::support::{Cluster, Mode, Node, Options, PrivateNetwork};

/// How the primary is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// From the other nodes alone: clients still reach it, and write.
    FromPeers,
    /// From everybody.
    Unplugged,
    /// It hears the others, and they do not hear it.
    OneWay,
}

fn cut(cluster: &Cluster, node: &Node, how: Cut) {
    let network = cluster.network();
    match how {
        Cut::FromPeers => network.cut_from_peers(node.index),
        Cut::Unplugged => network.unplug(node.index),
        Cut::OneWay => {
            for peer in cluster.nodes.iter().filter(|n| n.index != node.index) {
                network.cut_one_way(node.index, peer.index);
            }
        }
    }
}

#[test]
fn the_primary_is_cut_off() {
    PrivateNetwork::run(3, |network| async {
        let cluster =
            Cluster::start_on("the_primary_is_cut_off", network, &Options::default()).await;
        for how in [Cut::FromPeers, Cut::Unplugged, Cut::OneWay] {
            eprintln!("-- the primary is cut off: {how:?}");
            let since = Instant::now();
            let mut writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
            writers.extend(cluster.probes());
            cluster.rows_flow(50).await;
            let before = cluster.healed().await;
            let node = cluster.primary().await;
            let tree = node.tree();
            let end = tree.watch_end();
            cut(&cluster, node, how);
            cluster.new_epoch(before.epoch()).await;
            let gone_at = end.at().await;
            cluster.rows_flow(50).await;
            let taken_at = cluster.journal.first_above(before.epoch()).expect("a row");
            assert!(gone_at < taken_at, "the old tree ran when the new primary acknowledged a row");
            cluster.network().heal(node.index);
            cluster.judge(writers, since).await;
        }
    });
}

/// Cuts that must not disturb the primary.
#[test]
fn others_are_cut_off() {
    PrivateNetwork::run(3, |network| async {
        let cluster = Cluster::start_on("others_are_cut_off", network, &Options::default()).await;
        let cluster = &cluster;
        // A primary's node that leads the control plane gives that away after some seconds.
        crate::support::until("the Raft leader is elsewhere", crate::support::HEAL, || async {
            let status = cluster.leaders_status().await;
            let leader = status.raft_leader()?;
            (cluster.node_of(&status.primary()?).name != leader).then_some(())
        })
        .await;

        for scenario in ["Raft leader", "other standby", "link between the standbys"] {
            eprintln!("-- cut: {scenario}");
            let since = Instant::now();
            let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
            cluster.rows_flow(50).await;
            let before = cluster.healed().await;
            let leader = cluster.raft_leader().await.index;
            let primary = cluster.primary().await.index;
            let third = (0..3).find(|i| *i != leader && *i != primary).expect("a third");
            match scenario {
                "Raft leader" => cluster.network().unplug(leader),
                "other standby" => cluster.network().unplug(third),
                _ => cluster.network().cut(leader, third),
            }
            // That it does not happen has no other end: longer than two leases.
            tokio::time::sleep(Duration::from_secs(7)).await;
            cluster.rows_flow(50).await;
            let during = cluster.leaders_status().await;
            assert_eq!(during.epoch(), before.epoch(), "the primary goes on: {during:?}");
            for i in [leader, third] {
                cluster.network().heal(i);
            }
            let after = cluster.healed().await;
            assert_eq!(after.epoch(), before.epoch(), "the primary goes on");
            cluster.judge(writers, since).await;
        }
    });
}
