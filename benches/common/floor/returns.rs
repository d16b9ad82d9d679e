//! How a standby by hand goes away and comes back: with PostgreSQL's own tools and nothing else.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::super::support::{Conn, HEAL, Proc, until};
use super::{Floor, NAMES, fs, since_ms, slot};

/// Whether the standby `name` holds `slot` and has caught up, asked of the primary. A base backup
/// holds the slot as well, under another name.
pub fn streaming_sql(name: &str, slot: &str) -> String {
    format!(
        "SELECT count(*) FROM pg_replication_slots s \
         JOIN pg_stat_replication r ON r.pid = s.active_pid \
         WHERE s.slot_name = '{slot}' AND r.application_name = '{name}' AND r.state = 'streaming'"
    )
}

impl Floor {
    /// A server that is no primary.
    pub fn standby(&self) -> usize {
        self.roles().1
    }

    /// The number of the primary.
    pub fn primary(&self) -> usize {
        self.primary
    }

    /// The superuser on server `i`.
    pub async fn superuser_of(&self, i: usize) -> Conn {
        self.conn(i).await
    }

    /// Stops server `i` in order.
    pub async fn stop_one(&mut self, i: usize) {
        self.signal(i, Signal::SIGINT);
        self.ended(i).await;
    }

    /// Removes the data of server `i`, which must not run.
    pub fn wipe(&self, i: usize) {
        fs::remove_dir_all(self.data(i)).expect("a data directory");
    }

    /// Makes the primary write what nobody else gets, kills it, and lets another take over. Returns
    /// the number of the dead one.
    pub async fn diverge(&mut self, write: &str) -> usize {
        let (old, first, second) = self.roles();
        let conn = self.superuser().await;
        let receivers: Vec<Proc> =
            [first, second].iter().flat_map(|i| self.receivers(*i)).collect();
        assert_eq!(receivers.len(), 2, "each standby has a receiver");
        for receiver in &receivers {
            receiver.freeze().await;
        }
        conn.must(write).await;
        self.take_over(|_| receivers.iter().for_each(|r| r.thaw())).await;
        // Until then pg_rewind would look at the old timeline.
        self.superuser().await.must("CHECKPOINT").await;
        old
    }

    fn receivers(&self, i: usize) -> Vec<Proc> {
        let postmaster = self.pid(i);
        let list = format!("/proc/{postmaster}/task/{postmaster}/children");
        let list = fs::read_to_string(list).unwrap_or_default();
        let children = list.split_ascii_whitespace().filter_map(|p| Proc::find(p.parse().ok()?));
        children.filter(|p| p.title().contains("walreceiver")).collect()
    }

    /// Starts server `i` with the data that it has. Returns after how many milliseconds it streamed.
    pub async fn follow(&mut self, i: usize) -> f64 {
        let begun = self.away(i).await;
        self.begin_to_follow(i);
        self.until_streaming(i).await;
        since_ms(begun)
    }

    /// Turns the data of server `i` back and starts it.
    pub async fn rewind(&mut self, i: usize) -> f64 {
        let begun = self.away(i).await;
        let (data, primary) = (self.data(i).display().to_string(), self.primary);
        let socket = self.dir.join(NAMES[primary]).display().to_string();
        let port = self.ports[primary];
        let source = format!("host={socket} port={port} user=postgres dbname=postgres");
        self.run(i, "pg_rewind", &["-D", &data, "--source-server", &source]);
        self.begin_to_follow(i);
        self.until_streaming(i).await;
        since_ms(begun)
    }

    /// Copies the primary to server `i`, which has no data, and starts it.
    pub async fn copy(&mut self, i: usize) -> f64 {
        let begun = self.away(i).await;
        self.clone_to(i).await;
        self.until_streaming(i).await;
        since_ms(begun)
    }

    /// Nobody holds the slot of server `i` yet: what is waited for is new.
    async fn away(&self, i: usize) -> Instant {
        let conn = self.superuser().await;
        assert_eq!(conn.must(&streaming_sql(NAMES[i], &slot(i))).await, "0", "it streams already");
        Instant::now()
    }

    async fn until_streaming(&self, i: usize) {
        let (conn, sql) = (self.superuser().await, streaming_sql(NAMES[i], &slot(i)));
        until("it streams", HEAL, || async { (conn.must(&sql).await == "1").then_some(()) }).await;
    }
}
