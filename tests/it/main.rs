//! Integration tests: one binary, since each that links RocksDB costs minutes.

mod api;
mod architecture;
mod cluster;
mod configs;
mod driver;
mod fake_node;
mod guard;
mod hactl;
mod postgres;
mod raft_full;
mod raft_group;
mod raft_rescue;
mod raft_store;
mod support;
