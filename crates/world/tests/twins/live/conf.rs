//! The settings of real servers.

use std::fmt::Write as _;

use crate::servers::Name;

/// What scenarios change.
#[derive(Debug, Default)]
pub struct Conf {
    /// `synchronous_standby_names`.
    pub names: String,
    /// Whom it follows.
    pub follows: Option<Name>,
    /// Whether it uses the slot of its name at the server that it follows.
    pub slot: bool,
    /// `default_transaction_read_only`.
    pub read_only: bool,
    /// `restart_after_crash`.
    pub restart_after_crash: bool,
    /// Whether it keeps no WAL for standbys beyond what slots keep.
    pub keeps_no_wal: bool,
    /// Grows with each change, so that a session can tell which settings it has.
    pub generation: u64,
}

impl Conf {
    /// The text of `postgresql.conf`. `follows` is the followed server with its port.
    pub fn text(&self, name: Name, port: u16, follows: Option<(Name, u16)>) -> String {
        let mut text = format!("port = {port}\ntwins.generation = {}\n", self.generation);
        text.push_str(FIXED);
        writeln!(text, "synchronous_standby_names = '{}'", self.names).unwrap();
        writeln!(text, "default_transaction_read_only = {}", self.read_only).unwrap();
        writeln!(text, "restart_after_crash = {}", self.restart_after_crash).unwrap();
        let keep = if self.keeps_no_wal { 0 } else { 64 };
        writeln!(text, "wal_keep_size = '{keep}MB'").unwrap();
        if self.slot {
            writeln!(text, "primary_slot_name = '{name}'").unwrap();
        }
        if let Some((_, port)) = follows {
            let who = format!("user=postgres application_name={name}");
            writeln!(text, "primary_conninfo = 'host=127.0.0.1 port={port} {who}'").unwrap();
        }
        text
    }
}

/// Settings of every server. Nothing happens by itself if it can be helped; a frozen process is
/// never taken for a dead one.
const FIXED: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = '4MB'
max_connections = 20
dynamic_shared_memory_type = mmap
max_wal_senders = 10
max_replication_slots = 10
min_wal_size = '8MB'
wal_log_hints = on
autovacuum = off
wal_retrieve_retry_interval = '100ms'
wal_receiver_status_interval = '1s'
wal_sender_timeout = 0
wal_receiver_timeout = 0
timezone = 'UTC'
log_timezone = 'UTC'
";

/// A sum of the fixed settings, which tells one set of them from another (FNV-1a).
pub fn sum() -> u32 {
    FIXED.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
