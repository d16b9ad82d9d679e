//! A managed cluster and the same PostgreSQL by hand, side by side, to be measured in turns.

use super::floor::Floor;
use super::pgbench;
use super::settings::Settings;
use super::support::{Cluster, Conn, Endpoint, HEAL, Options, until};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The managed cluster.
    Product,
    /// PostgreSQL set up by hand.
    Hand,
}

/// Both, with pgbench's tables of the same size.
pub struct Pair {
    /// The managed cluster: three nodes, quorum mode.
    pub cluster: Cluster,
    /// The servers by hand: the settings of that cluster's primary, a slot for each standby.
    pub floor: Floor,
    /// Settings that differ all the same, of the primaries and of a standby each: name, the
    /// product's, by hand.
    pub differences: Vec<(String, String, String)>,
}

impl Pair {
    /// Makes both. Both run afterwards.
    pub async fn start(name: &str, scale: u32) -> Pair {
        let cluster = vec!["crash_failovers_max = 1000".to_owned()];
        let options = Options { cluster, prepared: false, ..Options::default() };
        let cluster = Cluster::start(name, &options).await;
        super::prepare(&cluster).await;
        let primary = cluster.primary().await;
        let conn = cluster.superuser(primary.index).await;
        let settings = Settings::of(&conn).await;
        let floor = Floor::start_like(settings.clone()).await;
        let mut differences = settings.differences(&Settings::of(&floor.superuser().await).await);
        let standby = cluster.standbys().await[0].index;
        let theirs = Settings::of(&cluster.superuser(standby).await).await;
        let ours = Settings::of(&floor.superuser_of(floor.standby()).await).await;
        let seen = |name: &String| differences.iter().any(|(known, ..)| known == name);
        let more = theirs.differences(&ours).into_iter().filter(|(name, ..)| !seen(name));
        let more: Vec<_> = more.map(|(n, a, b)| (format!("{n} (standby)"), a, b)).collect();
        differences.extend(more);
        let pair = Pair { cluster, floor, differences };
        for side in [Side::Product, Side::Hand] {
            pgbench::initialize(&pair.endpoint(side).await, scale).await;
        }
        pair
    }

    /// Prints in what the settings differ that should not.
    pub fn print_differences(&self) {
        println!("\nSettings that differ (names, places and addresses apart)");
        for (name, product, hand) in &self.differences {
            println!("  {name}: product {product:?}, by hand {hand:?}");
        }
        if self.differences.is_empty() {
            println!("  none");
        }
    }

    /// Where the primary of one side listens.
    pub async fn endpoint(&self, side: Side) -> Endpoint {
        match side {
            Side::Product => self.cluster.primary().await.sql(),
            Side::Hand => self.floor.endpoints().swap_remove(self.floor.primary()),
        }
    }

    /// The superuser on the primary of one side.
    pub async fn primary(&self, side: Side) -> Conn {
        match side {
            Side::Product => self.cluster.superuser(self.cluster.primary().await.index).await,
            Side::Hand => self.floor.superuser().await,
        }
    }

    /// The superuser on the standbys of one side.
    pub async fn standbys(&self, side: Side) -> Vec<Conn> {
        let mut conns = Vec::new();
        match side {
            Side::Product => {
                for node in self.cluster.standbys().await {
                    conns.push(self.cluster.superuser(node.index).await);
                }
            }
            Side::Hand => {
                for i in (0..3).filter(|i| *i != self.floor.primary()) {
                    conns.push(self.floor.superuser_of(i).await);
                }
            }
        }
        conns
    }

    /// Starts one side, which does not run, and waits until both standbys confirm commits.
    pub async fn resume(&mut self, side: Side) {
        match side {
            Side::Product => {
                self.cluster.nodes.iter().for_each(|n| n.start());
                self.cluster.healed().await;
            }
            Side::Hand => self.floor.restore().await,
        }
    }

    /// Stops one side in order. Nothing of it runs afterwards.
    pub async fn halt(&mut self, side: Side) {
        match side {
            Side::Product => {
                let [a, b, c] = self.cluster.nodes.as_slice() else { panic!("three nodes") };
                tokio::join!(a.stop(), b.stop(), c.stop());
            }
            Side::Hand => self.floor.stop().await,
        }
    }

    /// Brings one side into the state that every measurement begins in: both standbys confirm, no
    /// dead rows, an empty history, all servers with a checkpoint behind them and all replayed,
    /// nothing left to be written to disk.
    pub async fn settle(&self, side: Side) {
        if side == Side::Product {
            self.cluster.healed().await;
        }
        let primary = self.primary(side).await;
        primary.must("TRUNCATE pgbench_history").await;
        for table in ["accounts", "branches", "tellers", "history"] {
            primary.must(&format!("VACUUM ANALYZE pgbench_{table}")).await;
        }
        primary.must("CHECKPOINT").await;
        let end = primary.must("SELECT pg_current_wal_flush_lsn()").await;
        for standby in self.standbys(side).await {
            let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
            until("a standby has replayed all", HEAL, || async {
                (standby.must(&replayed).await == "t").then_some(())
            })
            .await;
            // A restartpoint at the primary's checkpoint.
            standby.must("CHECKPOINT").await;
        }
        let confirming = "SELECT count(*) FROM pg_stat_replication \
                          WHERE state = 'streaming' AND sync_state = 'quorum'";
        until("both standbys confirm", HEAL, || async {
            (primary.must(confirming).await == "2").then_some(())
        })
        .await;
        nix::unistd::sync();
    }
}
