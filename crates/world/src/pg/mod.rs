//! A model of PostgreSQL 15, as far as high availability depends on it: write-ahead log, timelines,
//! recovery, streaming, synchronous commit, promotion, rewind, copy, and the ways to die.
//!
//! Pure: it reads no clock and draws no random number of its own. Time is a parameter, what takes
//! time is due later ([`server::Server::due`]), and how long it takes is drawn from a stream that
//! the world has seeded. Servers exchange values ([`stream::Wire`]); who moves them decides what is
//! late or lost. May import the domain's types.
//!
//! ```text
//!   wal  history  directory  conf        what is on disk
//!   base  stream                         numbers, what takes how long, what is said
//!   server  ask                          a server, and what can be asked of it
//!   startup  checkpoint  session         its processes
//!   sender  receiver  syncrep
//!   stop                                 how it ends
//!   tools                                pg_basebackup, pg_rewind, single-user mode
//!   view                                 what it shows
//!   guard                                guard, kernel timer and machine
//!   lab                                  a few servers with a network that takes no time
//! ```
//!
//! Each rule of PostgreSQL that the product's safety leans on has a test by its name in
//! `tests/pg.rs`, and a twin that runs on the real one.

pub mod ask;
pub mod base;
pub mod checkpoint;
pub mod conf;
pub mod directory;
pub mod guard;
pub mod history;
pub mod lab;
pub mod receiver;
pub mod sender;
pub mod server;
pub mod session;
pub mod startup;
pub mod stop;
pub mod stream;
pub mod syncrep;
pub mod tools;
pub mod view;
pub mod wal;

pub use base::{Conn, Disk, Event, Outcome, Pace, Pid, Refused, Span, Stopped, Ticket};
pub use conf::{Level, Settings, SyncNames, Upstream};
pub use directory::{DataDir, State};
pub use history::History;
pub use lab::Lab;
pub use server::Server;
pub use stop::{Mode, Tail};
pub use tools::Rewound;
pub use view::Status;
