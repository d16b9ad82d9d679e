//! The PostgreSQL layer against a real server.

// Tests against real processes wait in real time.
#![allow(clippy::disallowed_methods)]

#[path = "postgres/server.rs"]
mod server;

#[path = "postgres/leadership.rs"]
mod leadership;
#[path = "postgres/standby.rs"]
mod standby;
#[path = "postgres/surroundings.rs"]
mod surroundings;
