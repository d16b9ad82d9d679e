//! What the benchmarks share: a probe, a load, servers set up by hand to compare with, figures.
//!
//! Owns how an outage is measured and how results are shown. The clusters come from the support of
//! the tests, which knows the product only as an operator does.

// Each benchmark uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod figures;
pub mod floor;
pub mod load;
pub mod machine;
pub mod pair;
pub mod pgbench;
pub mod probe;
pub mod settings;
#[path = "../../tests/it/support/mod.rs"]
pub mod support;

use std::time::{Duration, Instant};

use support::Cluster;

/// Name of the user of probe and load.
pub const USER: &str = "bench";
/// Its password. It guards nothing: the servers listen on loopback or on a private network.
pub const PASSWORD: &str = "a-client-of-benchmarks";
/// Makes the user, and the table of the probe.
pub const PREPARE: &str = "CREATE ROLE bench LOGIN PASSWORD 'a-client-of-benchmarks';
    GRANT CREATE ON SCHEMA public TO bench;
    CREATE TABLE probe (id bigint PRIMARY KEY);
    GRANT ALL ON probe TO bench";

/// Prepares the database of a cluster for probe and load.
pub async fn prepare(cluster: &Cluster) {
    let primary = cluster.primary().await.index;
    cluster.superuser(primary).await.must(PREPARE).await;
}

/// Runs one part on a thread and a runtime of its own. A failure ends this part only: its panic
/// has cleaned up behind itself, and its message is returned.
pub fn isolated<T: Send + 'static>(part: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    std::thread::spawn(part).join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
        text.unwrap_or_else(|| "it panicked".to_owned())
    })
}

/// A runtime for one part.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Milliseconds, for people and for JSON.
pub fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

/// Waits a while: for a system to come to rest before it is measured.
pub async fn rest(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Says on standard error what goes on.
pub fn tell(text: &str) {
    eprintln!("{text}");
}

/// Time since `begun` in milliseconds.
pub fn since_ms(begun: Instant) -> f64 {
    ms(begun.elapsed())
}
