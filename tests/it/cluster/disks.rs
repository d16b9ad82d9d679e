//! The disk of a node is full.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::support::{Cluster, HEAL, Mode, Options, SOON, until_seen};

/// A file system of a bounded size, in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one; `None` where the machine does not permit that.
    fn mount(at: &Path) -> Option<SmallDisk> {
        std::fs::create_dir(at).expect("a directory");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=500m,mode=0755", "tmpfs"]).arg(at);
        command.status().is_ok_and(|s| s.success()).then(|| SmallDisk(at.to_path_buf()))
    }

    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.0.join("ballast");
        let mut file = std::fs::File::create(&path).expect("a file");
        let block = vec![0; 64 << 10];
        while file.write_all(&block).is_ok() {}
        // The last bytes of the last block too.
        while file.write_all(&block[..512]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // At once, whoever still uses it: the processes are ended after it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The primary's disk fills up: it is replaced once, the others do not follow it into the same
/// disaster, and it comes back by itself when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn the_primarys_disk_is_full() {
    let options = Options::default();
    let cluster = Cluster::prepare("the_primarys_disk_is_full", &options);
    // The member that comes first makes the data, and is the first primary.
    let node = &cluster.nodes[0];
    let Some(disk) = SmallDisk::mount(&node.state_dir()) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    cluster.bring_up(&options).await;
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;
    assert_eq!(before.primary().as_ref(), Some(&node.member));
    let conn = cluster.superuser(node.index).await;
    conn.must("CREATE TABLE bulk (text text)").await;
    let end = node.tree().watch_end();
    let ballast = disk.fill();
    let bulk = "INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 20000)";
    while let Ok(Ok(_)) = tokio::time::timeout(SOON, conn.rows(bulk)).await {}
    drop(conn);
    if cluster.leaders_status().await.epoch() == before.epoch() {
        // A table that cannot grow is an error and no more; the log is what has to grow.
        let conn = cluster.superuser(node.index).await;
        for _ in 0..200 {
            let write = "SELECT pg_switch_wal(), pg_logical_emit_message(false, 'fill', repeat('x', 4000000))";
            if !matches!(tokio::time::timeout(SOON, conn.rows(write)).await, Ok(Ok(_))) {
                break;
            }
        }
    }
    let after = cluster.new_epoch(before.epoch()).await;
    assert_ne!(after.primary(), before.primary());
    let gone_at = end.at().await;
    cluster.rows_flow(50).await;
    let taken_at = cluster.journal.first_above(before.epoch()).expect("a row");
    assert!(gone_at < taken_at, "the old tree ran when the new primary acknowledged a row");
    let epoch = cluster.leaders_status().await.epoch();
    assert!(epoch <= before.epoch() + 2, "no loop of failovers: epoch {epoch}");
    std::fs::remove_file(ballast).expect("it is removed");
    // A daemon whose own store had no room has ended; its supervisor starts it again.
    if node.ended().is_some() {
        node.start();
    }
    until_seen("PostgreSQL runs there again", HEAL, || {
        if node.ended().is_some() {
            node.start();
        }
        node.find_tree()
    })
    .await;
    cluster.judge(writers, since).await;
}
