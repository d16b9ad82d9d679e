//! Integration tests: one binary, since each that links RocksDB costs minutes.

mod api;
mod architecture;
mod cluster;
mod configs;
mod driver;
mod events;
mod fake_node;
mod guard;
mod hactl;
mod package;
mod postgres;
mod proto;
mod python;
mod raft_full;
mod raft_group;
mod raft_rescue;
mod raft_store;
mod support;
mod terminal;
