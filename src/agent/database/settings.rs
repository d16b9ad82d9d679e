//! What a member's database is told about itself: taken from the configuration once.
//!
//! Owns the translation of a `[[member]]` into the places, users and limits of one instance.
//! Imports the configuration, nothing else of the node.

use std::path::PathBuf;

use crate::config;
use crate::domain::types::{ClusterName, MemberName};
use crate::postgres::credentials::{self, Credentials, Login, Password};
use crate::postgres::layout::{self, Layout};

/// Our superuser: the one that `initdb` makes.
pub const SUPERUSER: &str = "postgres";
/// The user of walreceivers and base backups.
pub const REPLICATION_USER: &str = "quorate_replication";
/// The user of `pg_rewind`, and of our questions to another member.
pub const REWIND_USER: &str = "quorate_rewind";

/// Why a member's settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A password file cannot be used.
    #[error("{0}")]
    Password(config::Problem),
    /// A password is not one that works everywhere.
    #[error("the password of {user} must be one line of 1 to 512 bytes without control characters")]
    PasswordContent {
        /// Whose.
        user: &'static str,
    },
    /// A user cannot be used.
    #[error(transparent)]
    Login(#[from] credentials::Error),
    /// A path cannot be used.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// The program that is to be the guard is not known.
    #[error("the path of this program is not known: {0}")]
    Program(std::io::Error),
}

/// Everything that a member's database needs to know. It holds passwords, and shows none.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterName,
    /// The member.
    pub member: MemberName,
    /// `listen_addresses` of PostgreSQL.
    pub listen_addresses: String,
    /// Its port.
    pub port: u16,
    /// PGDATA, sockets, logs and password files of PostgreSQL.
    pub layout: Layout,
    /// Directory of the member's durable record and of the password file for PostgreSQL's
    /// programs.
    pub state_dir: PathBuf,
    /// Directory of the guard: socket, lock, record, and what runs under it.
    pub guard_dir: PathBuf,
    /// Directory of PostgreSQL's programs; `None` means that they are searched for.
    pub bin_dir: Option<PathBuf>,
    /// User that PostgreSQL runs as; `None` means `postgres` under root, else ourselves.
    pub run_as: Option<String>,
    /// The users that we connect as.
    pub credentials: Credentials,
    /// Whether a process tree may run that nothing in the kernel ends for certain.
    pub best_effort: bool,
    /// So many replaced data directories are kept aside.
    pub aside_count_max: usize,
    /// So many bytes of them are kept.
    pub aside_bytes_max: u64,
    /// Programs that are told of the member's role.
    pub hooks: config::Hooks,
    /// The program that becomes the guard when it is run as `<program> guard ...`.
    pub guard_program: PathBuf,
}

impl Settings {
    /// The settings of `member`. Reads password files where some are given; touches nothing else.
    ///
    /// # Errors
    /// A password or a path cannot be used. The error names the key and never the content.
    pub fn from_config(
        config: &config::Config,
        member: &config::Member,
        secret: &config::Secret,
    ) -> Result<Self, Error> {
        let login = |user: &'static str, role| {
            let password = config.password(member, role, secret).map_err(Error::Password)?;
            let password =
                Password::new(password.expose()).ok_or(Error::PasswordContent { user })?;
            Ok::<_, Error>(Login::new(user, password)?)
        };
        let credentials = Credentials {
            superuser: login(SUPERUSER, config::PasswordRole::Superuser)?,
            replication: login(REPLICATION_USER, config::PasswordRole::Replication)?,
            rewind: login(REWIND_USER, config::PasswordRole::Rewind)?,
        };
        let layout = Layout::new(
            member.data_dir.clone(),
            member.socket_dir.clone(),
            config.member_run_dir(member),
            member.log_dir.clone(),
        )?;
        let name = format!("{}.{}", member.cluster, member.name);
        let bytes_max = member.aside_bytes_max;
        Ok(Self {
            cluster: member.cluster.clone(),
            member: member.name.clone(),
            listen_addresses: member.listen_addresses.clone(),
            port: member.address.port(),
            layout,
            state_dir: config.node.data_dir.join("member").join(name),
            guard_dir: config.guard_dir(member),
            bin_dir: member.bin_dir.clone(),
            run_as: member.run_as.clone(),
            credentials,
            best_effort: member.fencing == config::Fencing::BestEffort,
            aside_count_max: usize::try_from(member.aside_count_max).unwrap_or(usize::MAX),
            aside_bytes_max: if bytes_max == 0 { u64::MAX } else { bytes_max },
            hooks: member.hooks.clone(),
            guard_program: std::env::current_exe().map_err(Error::Program)?,
        })
    }

    /// The password file for PostgreSQL's programs, see `Credentials::write_passfile`.
    pub(super) fn passfile(&self) -> PathBuf {
        self.state_dir.join("pgpass")
    }

    /// The superuser's password file, for the operator: `PGPASSFILE=... hactl psql -U postgres`.
    pub(super) fn operator_passfile(&self) -> PathBuf {
        self.state_dir.join("superuser.pgpass")
    }

    /// The superuser's password file for a hook, for as long as that runs.
    pub(super) fn hook_passfile(&self) -> PathBuf {
        self.state_dir.join("hook.pgpass")
    }

    /// The member's durable record.
    pub(super) fn record_file(&self) -> PathBuf {
        self.state_dir.join("member.json")
    }

    /// What runs under the guard.
    pub(super) fn run_file(&self) -> PathBuf {
        self.guard_dir.join("run.json")
    }
}
