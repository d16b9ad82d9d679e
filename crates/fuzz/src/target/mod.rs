//! The targets.

mod apply;
mod conf;
mod config;
mod controldata;
mod guard;
mod history;
mod plan;
mod raft_store;
mod raft_wire;
mod request;
mod session;
mod tools;

/// A part of the product under fire.
pub struct Target {
    /// Its name: also that of its folders of inputs.
    pub name: &'static str,
    /// Longest input that is worth a try, in bytes.
    pub bytes_max: usize,
    /// Feeds it; panics where it breaks its word.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, bytes_max: usize, run: fn(&[u8])) -> Target {
    Target { name, bytes_max, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("apply", 2048, apply::run),
    target("conf", 2048, conf::run),
    target("config", 8192, config::run),
    target("controldata", 8192, controldata::run),
    target("guard", 1024, guard::run),
    target("history", 2048, history::run),
    target("plan", 2048, plan::run),
    target("raft_store", 1024, raft_store::run),
    target("raft_wire", 4096, raft_wire::run),
    target("request", 256, request::run),
    target("session", 4096, session::run),
    target("tools", 2048, tools::run),
];

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}
