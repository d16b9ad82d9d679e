//! What tests and benchmarks of whole nodes share: real daemons, real PostgreSQL, real clients.
//!
//! Owns the processes that it starts: they are ended by their number when a [`Cluster`] is
//! dropped, also after a panic, and by a reaper of its own where the test itself is killed. It
//! knows the product only as an operator does: configuration files, programs, `hactl -o json`,
//! PostgreSQL. So it imports nothing of the library, and benchmarks may include it by path.

// Tests of real processes wait in real time, on the real machine.
#![allow(clippy::disallowed_methods)]
// Every test uses a part of it, and a benchmark another.
#![allow(dead_code, unused_imports)]

mod address;
mod client;
mod cluster;
mod config;
mod disk;
mod journal;
mod net;
mod node;
mod oracle;
mod process;
mod reaper;
mod status;
mod tree;
mod writer;

use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use address::Turn;
pub use client::{APP_PASSWORD, APP_USER, Conn, Endpoint, application, superuser};
pub use cluster::{Cluster, Hactl};
pub use config::{CLUSTER, Options, put, text};
pub use disk::SmallDisk;
pub use journal::{Entry, Journal, Outcome};
pub use net::PrivateNetwork;
pub use node::Node;
pub use oracle::Verdict;
pub use process::Proc;
pub use status::{MemberStatus, Status};
pub use tree::Tree;
pub use writer::{Mode, Writer};

/// Longest wait for a state that a healthy product reaches in seconds. It only bounds a test that
/// would hang.
pub const HEAL: Duration = Duration::from_secs(90);
/// Longest wait for something small.
pub const SOON: Duration = Duration::from_secs(30);

/// The daemon that is tested: `HANODE_BIN` where it is set, else the one that was built.
pub fn hanode_bin() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| program("HANODE_BIN", option_env!("CARGO_BIN_EXE_hanode")))
}

/// The tool that is tested: `HACTL_BIN` where it is set, else the one that was built.
pub fn hactl_bin() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| program("HACTL_BIN", option_env!("CARGO_BIN_EXE_hactl")))
}

fn program(variable: &str, built: Option<&str>) -> String {
    match (std::env::var(variable), built) {
        (Ok(path), _) => path,
        (Err(_), Some(path)) => path.to_owned(),
        (Err(_), None) => panic!("set {variable} to the program that is to be tested"),
    }
}

/// Asks again and again until the answer is there; panics with `what` after `limit`.
pub async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same for something that is seen without waiting.
pub async fn until_seen<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    until(what, limit, || std::future::ready(look())).await
}
