//! Judges what became of the rows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::client::{self, Conn};
use super::cluster::Cluster;
use super::journal::Outcome;
use super::{HEAL, until};

/// What was found right.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Rows that were acknowledged.
    pub acknowledged: usize,
    /// Rows of which nothing is known.
    pub unknown: usize,
    /// Rows that were refused.
    pub refused: usize,
    /// The longest time without an acknowledged row since the given moment.
    pub outage: Duration,
}

/// Judges all rows of the cluster, which has to be healed and without writers:
///
/// - every acknowledged row is there, in the epoch that acknowledged it;
/// - no refused row is there, and none twice; unknown ones may be there or not;
/// - every standby, once caught up, holds exactly the rows of the primary;
/// - never did two servers acknowledge writes at one time.
pub async fn judge(cluster: &Cluster, since: Instant) -> Verdict {
    let writers = cluster.journal.writers.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(writers, 0, "writers are to be stopped before their rows are judged");
    let entries = cluster.journal.entries();
    if let Some(why) = cluster.journal.second_writer() {
        panic!("two writers: {why}");
    }
    let primary = cluster.primary().await;
    let on_primary = rows(&cluster.superuser(primary.index).await).await;
    let (mut acknowledged, mut unknown, mut refused) = (0, 0, 0);
    let mut wrong = Vec::new();
    for entry in &entries {
        let there = on_primary.get(&entry.id);
        match &entry.outcome {
            Outcome::Acknowledged { epoch, server } => {
                acknowledged += 1;
                if there != Some(&(*epoch, server.clone())) {
                    wrong.push(format!("acknowledged, and there is {there:?}: {entry:?}"));
                }
            }
            Outcome::Unknown(_) => unknown += 1,
            Outcome::Refused(_) => {
                refused += 1;
                if there.is_some() {
                    wrong.push(format!("refused, and it is there: {entry:?}"));
                }
            }
        }
    }
    let count = wrong.len();
    wrong.truncate(10);
    assert!(wrong.is_empty(), "{count} rows are wrong on {}: {wrong:#?}", primary.member);
    for node in cluster.member_nodes().iter().filter(|n| n.index != primary.index) {
        caught_up(cluster, primary.index, node.index).await;
        let on_standby = rows(&cluster.superuser(node.index).await).await;
        let missing: Vec<_> = on_primary.iter().filter(|r| !on_standby.contains_key(r.0)).collect();
        let extra: Vec<_> = on_standby.iter().filter(|r| !on_primary.contains_key(r.0)).collect();
        assert!(
            on_primary == on_standby,
            "{} differs from the primary {}: {} rows are missing, {} are too many, such as {:?}",
            node.member,
            primary.member,
            missing.len(),
            extra.len(),
            missing.first().or(extra.first())
        );
    }
    let outage = cluster.journal.longest_outage(since);
    Verdict { acknowledged, unknown, refused, outage }
}

/// All rows by their identity; none may be there twice.
async fn rows(conn: &Conn) -> BTreeMap<i64, (u64, String)> {
    let rows = conn.rows("SELECT id, epoch, server FROM q_rows").await.expect("the rows");
    let mut all = BTreeMap::new();
    for row in rows {
        let [id, epoch, server] = row.as_slice() else { panic!("{row:?}") };
        let id = id.parse().expect("a number");
        let twice = all.insert(id, (epoch.parse().expect("a number"), server.clone()));
        assert_eq!(twice, None, "row {id} is there twice");
    }
    all
}

/// Waits until a standby has replayed all that the primary has written by now.
pub async fn caught_up(cluster: &Cluster, primary: usize, standby: usize) {
    let lsn = cluster.superuser(primary).await.must("SELECT pg_current_wal_lsn()").await;
    let conn = cluster.superuser(standby).await;
    let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    let what = format!("{} replays up to {lsn}", cluster.nodes[standby].member);
    until(&what, HEAL, || async { (conn.must(&sql).await == "t").then_some(()) }).await;
}
