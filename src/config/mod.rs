//! The configuration of a node: one TOML file, read and validated once, before anything starts.
//!
//! Owns the file format, its rules, the settings of PostgreSQL that are not the operator's, and
//! what is derived from the shared secret. Imports [`crate::domain::types`] only. Units are in the
//! names: `_ms` are milliseconds, `_bytes` bytes.
//!
//! Two steps, both collect every problem instead of stopping at the first:
//! - [`Config::load`] judges the text alone. The same file gives the same answer on every machine.
//! - [`check_machine`] judges what only the machine shows: rights, users, lengths of socket paths.
//!
//! Relative paths are meant from the directory of the configuration file.

mod address;
mod check;
mod definition;
mod error;
pub(crate) mod hba;
mod hooks;
mod join;
mod learned;
mod machine;
mod objects;
mod read;
mod reader;
mod secret;
mod settings;
mod specification;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use address::Address;
pub use definition::definition;
pub use error::{Error, Problem};
pub(crate) use hba::{ident_problem, problem as hba_problem};
pub use hooks::{BEFORE_PROMOTION_TIMEOUT_MS_MAX, Hooks};
pub use join::{JoinError, JoinFile, JoinPlaces, JoiningNode};
pub use learned::{LEARNED_FILE, Learned, learned_path, read_learned, write_learned};
pub use machine::check_machine;
pub use objects::{Database, DatabaseRole};
pub use secret::{Password, PasswordRole, SECRET_CHARS_MIN, Secret};
pub use settings::{OWNED, OwnedSetting, owned_reason};
pub use specification::{document, specification};
pub use timing::{KILL_MARGIN_MS_MIN, Raft, Timing};

use crate::domain::types::{ClusterName, MemberName, NodeId, NodeName, Tags};

/// Longest path of a Unix socket, in bytes: `sun_path` has 108, one of them ends the text
/// (manual page unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The user that PostgreSQL runs as where `hanode` is started as root and `run_as` is not given.
pub const RUN_AS_DEFAULT: &str = "postgres";

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Votes in the Raft group and, as its leader, decides.
    Controller,
    /// Runs members of clusters.
    Agent,
}

/// Format of the log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How acknowledged commits of a new cluster are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synchronous {
    /// A commit is acknowledged when any `write_quorum` standbys have flushed it.
    Quorum,
    /// The same by the first `write_quorum` of those that are there, in the order of
    /// `failover_priority`.
    Priority,
    /// A commit is acknowledged when the primary has flushed it; a failover can lose the last ones.
    Async,
}

/// What is done where the kernel gives no proof that a whole process tree ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// Such a member never gets a lease.
    Required,
    /// It does, and status shows it: two primaries are possible for a time.
    BestEffort,
}

/// Section `[node]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name of the node, unique in the control plane.
    pub name: NodeName,
    /// At least one role.
    pub roles: BTreeSet<Role>,
    /// Where the gRPC server listens.
    pub listen: SocketAddr,
    /// The same as others reach it.
    pub advertise: Address,
    /// Directory of the Raft store and of the records of members.
    pub data_dir: PathBuf,
    /// Directory of sockets and of the directories of guards; `<data_dir>/run` if not given.
    pub run_dir: PathBuf,
    /// Format of the log.
    pub log_format: LogFormat,
}

/// One `[[controller]]`: a voter of the Raft group at its first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Identity in the Raft group.
    pub id: NodeId,
    /// Name of its node.
    pub name: NodeName,
    /// Its gRPC address, equal to that node's `advertise`.
    pub address: Address,
}

/// One `[[cluster]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Name of the cluster.
    pub name: ClusterName,
    /// `initdb` runs only once all of these have reported that they hold no data.
    pub bootstrap_members: BTreeSet<MemberName>,
    /// How commits are protected; by default [`Synchronous::Quorum`] from two members up.
    pub synchronous: Synchronous,
    /// W: how many standbys must have flushed a commit. 0 exactly where `synchronous` is
    /// [`Synchronous::Async`].
    pub write_quorum: u32,
    /// How far W may be lowered while standbys are gone; `write_quorum` with `strict = true`. By
    /// default 1 from three members up, 0 with two.
    pub write_quorum_min: u32,
    /// How long a synchronous standby must be gone or lag before it stops counting; milliseconds.
    pub shrink_after_ms: u64,
    /// How many bytes a synchronous standby may be behind for so long.
    pub sync_lag_bytes_max: u64,
    /// With [`Synchronous::Async`]: how many bytes a failover may lose by itself; `None` for none.
    pub max_lag_bytes: Option<u64>,
    /// After how long the slot of a member that is away is dropped; milliseconds.
    pub slot_ttl_ms: u64,
    /// So many failovers may follow crashes of PostgreSQL within `crash_window_ms`.
    pub crash_failovers_max: u32,
    /// See `crash_failovers_max`; milliseconds.
    pub crash_window_ms: u64,
    /// Whether a primary that no controller answers goes on while every other member promises to
    /// take no part in a failover.
    pub failsafe: bool,
    /// The operator's settings of PostgreSQL, name to value as text without quotes. None is owned.
    pub parameters: BTreeMap<String, String>,
    /// The operator's lines of `pg_hba.conf`, in their order.
    pub hba: Vec<String>,
    /// The operator's lines of `pg_ident.conf`, in their order.
    pub ident: Vec<String>,
    /// Roles that have to exist, `[[cluster.role]]`.
    pub roles: Vec<DatabaseRole>,
    /// Databases that have to exist, `[[cluster.database]]`.
    pub databases: Vec<Database>,
}

/// One `[[member]]`: an instance of PostgreSQL that this node's agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The cluster that it belongs to.
    pub cluster: ClusterName,
    /// Its name, unique in the cluster.
    pub name: MemberName,
    /// Where other members and clients reach it.
    pub address: Address,
    /// `listen_addresses` of PostgreSQL; by default the IP address of `address`, or `*` where that
    /// is a name.
    pub listen_addresses: String,
    /// PGDATA.
    pub data_dir: PathBuf,
    /// Directory of its logs; `<node.data_dir>/log/<cluster>.<name>` if not given.
    pub log_dir: PathBuf,
    /// Directory of `postgres` and its tools; `None` means that it is found on the machine.
    pub bin_dir: Option<PathBuf>,
    /// Directory of its Unix socket; `<node.run_dir>/<cluster>.<name>/socket` if not given.
    pub socket_dir: PathBuf,
    /// User that PostgreSQL runs as; `None` means [`RUN_AS_DEFAULT`] under root, else the user
    /// that started `hanode`.
    pub run_as: Option<String>,
    /// File of the superuser's password; `None` means derived from the shared secret.
    pub superuser_password_file: Option<PathBuf>,
    /// The same for the replication role.
    pub replication_password_file: Option<PathBuf>,
    /// The same for the role of `pg_rewind`.
    pub rewind_password_file: Option<PathBuf>,
    /// What is done where fencing cannot be guaranteed.
    pub fencing: Fencing,
    /// What it is to be used for, or not.
    pub tags: Tags,
    /// Whether the data of an existing server in `data_dir` may be adopted, see `hactl cluster adopt`.
    pub adopt: bool,
    /// Among equally good candidates the greatest is promoted.
    pub failover_priority: i32,
    /// So many replaced data directories are kept aside.
    pub aside_count_max: u32,
    /// So many bytes of them are kept; 0 means no such bound.
    pub aside_bytes_max: u64,
    /// Programs that are told of its role: its own, or those of the node.
    pub hooks: Hooks,
}

/// A valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// Name of the control plane; every RPC carries it.
    pub control_plane: String,
    /// File of the secret that all nodes of the control plane share; read by [`Secret::load`].
    pub secret_file: PathBuf,
    /// This node.
    pub node: Node,
    /// Times of Raft, and this node's identity in it.
    pub raft: Raft,
    /// All initial controllers, the same on every node.
    pub controllers: Vec<Controller>,
    /// Times of leases.
    pub timing: Timing,
    /// All clusters, the same on every node that has them.
    pub clusters: Vec<Cluster>,
    /// The members of this node.
    pub members: Vec<Member>,
    /// What is allowed but doubtful; to be logged at the start.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Syntax`], or [`Error::Invalid`] with all problems at once.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { file: path.to_path_buf(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        // Relative paths must keep their meaning whatever the working directory becomes later.
        let file = std::path::absolute(path).map_err(read)?;
        Self::parse(&text, &file)
    }

    /// Validates `text`, which stands in the file `file`. Reads nothing from the machine; relative
    /// paths in it are meant from the directory of `file`.
    ///
    /// # Errors
    /// [`Error::Syntax`], or [`Error::Invalid`] with all problems at once.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Error> {
        let table: toml::Table = text.parse().map_err(|e| syntax(file, text, &e))?;
        read::config(table, file)
            .map_err(|problems| Error::Invalid { file: file.to_path_buf(), problems })
    }

    /// Whether this node has `role`.
    pub fn has_role(&self, role: Role) -> bool {
        self.node.roles.contains(&role)
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &ClusterName) -> Option<&Cluster> {
        self.clusters.iter().find(|c| c.name == *name)
    }

    /// Directory of the guard of `member`: its socket, lock and record.
    pub fn guard_dir(&self, member: &Member) -> PathBuf {
        // No name contains a dot, so two members never share a directory.
        self.node.run_dir.join(format!("{}.{}.guard", member.cluster, member.name))
    }

    /// Directory of the short-lived files of `member`'s PostgreSQL, such as password files.
    pub fn member_run_dir(&self, member: &Member) -> PathBuf {
        self.node.run_dir.join(format!("{}.{}", member.cluster, member.name))
    }

    /// Password of `role` for `member`: from its file where one is given, else derived.
    ///
    /// # Errors
    /// The file cannot be used; the problem names the key and never the content.
    pub fn password(
        &self,
        member: &Member,
        role: PasswordRole,
        secret: &Secret,
    ) -> Result<Password, Problem> {
        match member.password_file(role) {
            (key, Some(path)) => secret::read_password(path, &format!("{}.{key}", member.key())),
            (_, None) => Ok(secret.password(&self.control_plane, &member.cluster, role)),
        }
    }
}

impl Member {
    /// Its place in the file, for messages: `member[main/a]`.
    pub fn key(&self) -> String {
        format!("member[{}/{}]", self.cluster, self.name)
    }

    /// Path of the Unix socket that PostgreSQL makes (PostgreSQL manual, section 20.3.1).
    pub fn postgres_socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{}", self.address.port()))
    }

    /// Key and value of the password file of `role`.
    fn password_file(&self, role: PasswordRole) -> (&'static str, Option<&Path>) {
        let (key, path) = match role {
            PasswordRole::Superuser => ("superuser_password_file", &self.superuser_password_file),
            PasswordRole::Replication => {
                ("replication_password_file", &self.replication_password_file)
            }
            PasswordRole::Rewind => ("rewind_password_file", &self.rewind_password_file),
        };
        (key, path.as_deref())
    }
}

/// The parser's error without the text of the line, which may hold a secret.
fn syntax(file: &Path, text: &str, e: &toml::de::Error) -> Error {
    let start = e.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Error::Syntax {
        file: file.to_path_buf(),
        line: before.matches('\n').count() + 1,
        column: before.len() - line_start + 1,
        problem: e.message().trim().replace('\n', ", "),
    }
}
