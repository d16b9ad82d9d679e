//! A new data directory (PostgreSQL manual, "initdb").
//!
//! Owns that it appears whole or not at all, that it never appears beside data that survives, and
//! that our users are in it before any server was started on it, so that the first start can be
//! that of a sealed standby. No password reaches a log or an argument: `initdb` reads it from a
//! file, and the users are made in single-user mode with SCRAM verifiers.

use std::path::PathBuf;
use std::time::Duration;

use super::binaries::Binaries;
use super::conf::Settings;
use super::controldata::{self, ControlData, DataDirectory};
use super::credentials::Credentials;
use super::files;
use super::layout::{self, Layout};
use super::os_user::{self, Command, OsUser};
use crate::domain::types::WallMillis;

const INITDB_DEADLINE: Duration = Duration::from_secs(300);
const SINGLE_DEADLINE: Duration = Duration::from_secs(60);

/// Why no data directory was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is something at its place.
    #[error("{} holds something already ({what}); nothing is made over it", pgdata.display())]
    Occupied {
        /// The data directory.
        pgdata: PathBuf,
        /// What is there.
        what: String,
    },
    /// There is a data directory that was kept aside.
    #[error(
        "{} was kept aside, so this member had data; \
         move or remove it before a new cluster is made here", aside.display()
    )]
    Surviving {
        /// The directory that was kept aside.
        aside: PathBuf,
    },
    /// Single-user mode refused a statement.
    #[error("the users could not be made: {message}")]
    Users {
        /// What PostgreSQL said.
        message: String,
    },
    /// A program failed.
    #[error(transparent)]
    Run(#[from] os_user::Error),
    /// The new directory is not readable.
    #[error(transparent)]
    Control(#[from] controldata::Error),
    /// Something with the places.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Choices that cannot be changed later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Encoding of the databases, such as `UTF8`.
    pub encoding: String,
    /// Locale of the databases. `C.UTF-8` sorts the same on every machine, so that an upgrade of
    /// the C library breaks no index.
    pub locale: String,
    /// Size of WAL segments in MiB; PostgreSQL's default is 16.
    pub segment_mib: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { encoding: "UTF8".into(), locale: "C.UTF-8".into(), segment_mib: 16 }
    }
}

/// Makes a data directory at `layout.pgdata`, with page checksums and our three users. The server
/// has not been started; its timeline is 1. Call [`super::start::install`] before it is, with the
/// same `settings`: those that a standby must not have lower are put into the new directory.
pub async fn create(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
    credentials: &Credentials,
    options: &Options,
    settings: &Settings,
) -> Result<ControlData, Error> {
    refuse_beside_data(binaries, user, layout).await?;
    let new = layout.make_new_dir(user)?;
    let pwfile = layout.run_dir.join("initdb.password");
    let line = format!("{}\n", credentials.superuser.password().reveal());
    files::write_atomic(&pwfile, line.as_bytes(), 0o600, user)?;
    let made = Command::new(&binaries.program("initdb"), user, INITDB_DEADLINE)
        .arg("--data-checksums")
        .args(["--auth", "scram-sha-256"])
        .args(["--encoding", &options.encoding])
        .args(["--locale", &options.locale])
        .arg(format!("--wal-segsize={}", options.segment_mib))
        .args(["--username", credentials.superuser.user()])
        .arg("--pwfile")
        .arg(&pwfile)
        .arg("--pgdata")
        .arg(&new)
        .run_ok()
        .await;
    files::remove_if_exists(&pwfile)?;
    made?;
    let program = binaries.program("postgres");
    let output = Command::new(&program, user, SINGLE_DEADLINE)
        .arg("--single")
        .arg("-D")
        .arg(&new)
        .args(["-c", "exit_on_error=on", "-c", "log_statement=none"])
        .args(["-c", "log_min_error_statement=panic"])
        .args(floor_arguments(settings))
        .arg("postgres")
        .stdin(user_statements(credentials).join("\n") + "\n")
        .run()
        .await?;
    // Single-user mode can end with status 0 after an error.
    let bad = |l: &&str| ["ERROR:", "FATAL:", "PANIC:"].iter().any(|level| l.contains(level));
    if let Some(line) = output.stderr.lines().find(bad) {
        return Err(Error::Users { message: line.to_owned() });
    }
    os_user::check("postgres --single", output)?;
    let control = controldata::read(binaries, user, &new).await?;
    layout.install_new(WallMillis(0), "empty")?;
    Ok(control)
}

/// Arguments for the settings that go into the control file and bind every later start as a
/// standby. PostgreSQL's defaults there would forbid lower ones for ever.
fn floor_arguments(settings: &Settings) -> Vec<String> {
    let mut arguments = Vec::new();
    for (name, _) in controldata::FLOOR {
        let ours = settings.max_wal_senders.to_string();
        let value = match name {
            "max_wal_senders" => Some(&ours),
            _ => settings.operator.get(name),
        };
        if let Some(value) = value {
            arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
    }
    arguments
}

async fn refuse_beside_data(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
) -> Result<(), Error> {
    let occupied = |what: String| Err(Error::Occupied { pgdata: layout.pgdata.clone(), what });
    match controldata::inspect(binaries, user, &layout.pgdata).await? {
        DataDirectory::Absent | DataDirectory::Empty => {}
        DataDirectory::Foreign { why } => return occupied(why),
        DataDirectory::OtherVersion { found } => {
            return occupied(format!("a data directory of PostgreSQL {found}"));
        }
        DataDirectory::Present(control) => {
            return occupied(format!(
                "a data directory with system identifier {}",
                control.system_id
            ));
        }
    }
    if let Some(why) = layout.incomplete()? {
        return occupied(format!("a change that did not finish: {why}"));
    }
    // A crash between the two renames of a replacement leaves the only copy aside.
    match layout.list_aside()?.pop() {
        Some(aside) => Err(Error::Surviving { aside: aside.path }),
        None => Ok(()),
    }
}

/// The statements that make the replication user and the rewind user, one line each, for the
/// database `postgres`. The rewind user may execute what `pg_rewind` needs (PostgreSQL manual,
/// "pg_rewind", Notes) and nothing else.
pub fn user_statements(credentials: &Credentials) -> Vec<String> {
    let (replication, rewind) = (&credentials.replication, &credentials.rewind);
    let create = |login: &super::credentials::Login, rights: &str| {
        let (user, verifier) = (login.user(), login.password().verifier());
        format!("CREATE ROLE \"{user}\" LOGIN {rights} PASSWORD '{verifier}';")
    };
    let mut statements = vec![create(replication, "REPLICATION")];
    if rewind.user() != replication.user() {
        statements.push(create(rewind, "NOSUPERUSER"));
    }
    for function in [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ] {
        let user = rewind.user();
        statements.push(format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO \"{user}\";"));
    }
    statements
}
