//! Everything that touches PostgreSQL itself: its programs, files, settings and SQL.
//!
//! Owns what one PostgreSQL instance needs to be made, sealed, promoted, followed, rewound and
//! asked. It does not start the server: [`start::StartSpec`] says how, and the guard process
//! starts it, so that the guard is the parent of everything that must die with the lease.
//! May import `std`, `tokio`, `tokio-postgres`, `postgres-protocol`, `libc`, `nix`, `serde`,
//! `thiserror`, `tracing`, `crate::domain::types` and `crate::domain::libraries`.
//!
//! ```text
//!   binaries  os_user  files            programs, the user they run as, durable writes
//!   layout  start                       where things are, how the server is started
//!   conf  hba  credentials              what we write into a data directory
//!   controldata  history  wal           what we read out of one
//!   initdb  basebackup  rewind          how one is made, copied, turned back
//!   connect  sql  status  probe         questions to a running server
//!   settings_view                       what it says of its settings
//!   dry_start  libraries                what a start with other settings would say
//!   activity                            what its processes and its disk do
//!   remote                              questions to another member's server
//!   seal  promote  barrier              the steps of a change of leadership
//!   feedback  hands                     slots of members that are away, files changed by hand
//!   adopt  distribution                 data that somebody else made, and what would start it
//! ```

// This module talks to the real machine only, so it may use tokio's tasks and timers directly.
#![allow(clippy::disallowed_methods)]

pub mod activity;
pub mod adopt;
pub mod barrier;
pub mod basebackup;
pub mod binaries;
pub mod conf;
pub mod connect;
pub mod controldata;
pub mod credentials;
pub mod distribution;
pub mod dry_start;
pub mod feedback;
pub mod files;
pub mod hands;
pub mod hba;
pub mod history;
pub mod initdb;
pub mod layout;
pub mod libraries;
pub mod os_user;
pub mod probe;
pub mod promote;
pub mod remote;
pub mod reserve;
pub mod rewind;
pub mod seal;
pub mod settings_view;
pub mod sql;
pub mod start;
pub mod status;
pub mod wal;
