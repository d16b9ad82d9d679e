//! Settings, as far as they matter here (PostgreSQL manual, chapter 20).

use std::time::Duration;

/// Who must confirm a commit: `synchronous_standby_names` (PostgreSQL manual, section 20.6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncNames {
    /// Whether the first of them must (`FIRST`), or any of them (`ANY`).
    pub first: bool,
    /// How many.
    pub count: usize,
    /// Of whom, by `application_name`; `*` is everybody.
    pub names: Vec<String>,
}

impl SyncNames {
    /// `ANY count (names)`.
    pub fn any<S: Into<String>>(count: usize, names: impl IntoIterator<Item = S>) -> Self {
        Self { first: false, count, names: names.into_iter().map(Into::into).collect() }
    }

    /// `FIRST count (names)`.
    pub fn first<S: Into<String>>(count: usize, names: impl IntoIterator<Item = S>) -> Self {
        Self { first: true, ..Self::any(count, names) }
    }

    /// The priority that a standby of this name has; 0 for none (`SyncRepGetStandbyPriority`).
    pub fn priority(&self, name: &str) -> u32 {
        let place = self.names.iter().position(|n| n == "*" || n.eq_ignore_ascii_case(name));
        match place {
            None => 0,
            Some(i) if self.first => i as u32 + 1,
            Some(_) => 1,
        }
    }

    /// The setting's text.
    pub fn render(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|n| format!("\"{n}\"")).collect();
        let method = if self.first { "FIRST" } else { "ANY" };
        format!("{method} {} ({})", self.count, names.join(", "))
    }
}

/// Where a standby takes WAL from: `primary_conninfo` and `primary_slot_name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The server's address.
    pub address: String,
    /// What the standby calls itself there (`application_name`).
    pub name: String,
    /// The slot that it uses there.
    pub slot: Option<String>,
}

/// How durable a commit is before it is acknowledged: `synchronous_commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// It need not be on any disk.
    Off,
    /// It is on this server's disk.
    Local,
    /// The synchronous standbys have written it.
    RemoteWrite,
    /// The synchronous standbys have flushed it.
    #[default]
    On,
    /// The synchronous standbys have applied it.
    RemoteApply,
}

/// A server's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `synchronous_standby_names`; `None` where it is empty.
    pub synchronous: Option<SyncNames>,
    /// `primary_conninfo`; `None` where it is empty.
    pub primary: Option<Upstream>,
    /// `default_transaction_read_only`.
    pub read_only: bool,
    /// `wal_retrieve_retry_interval`.
    pub retry: Duration,
    /// `recovery_min_apply_delay`.
    pub apply_delay: Duration,
    /// `wal_sender_timeout`.
    pub sender_timeout: Duration,
    /// `wal_receiver_timeout`.
    pub receiver_timeout: Duration,
    /// `wal_receiver_status_interval`.
    pub status_interval: Duration,
    /// `restart_after_crash`.
    pub restart_after_crash: bool,
    /// `wal_keep_size`, in bytes.
    pub wal_keep: u64,
    /// `checkpoint_timeout`.
    pub checkpoint_timeout: Duration,
    /// A custom setting by which the product says what the server is for (`quorate.role`).
    pub role: String,
    /// The same for its epoch (`quorate.epoch`).
    pub epoch: u64,
}

impl Default for Settings {
    /// PostgreSQL's own, but for the intervals that the product shortens.
    fn default() -> Self {
        Self {
            synchronous: None,
            primary: None,
            read_only: false,
            retry: Duration::from_millis(100),
            apply_delay: Duration::ZERO,
            sender_timeout: Duration::from_secs(10),
            receiver_timeout: Duration::from_secs(5),
            status_interval: Duration::from_secs(1),
            restart_after_crash: false,
            wal_keep: 256 << 20,
            checkpoint_timeout: Duration::from_secs(300),
            role: String::new(),
            epoch: 0,
        }
    }
}
