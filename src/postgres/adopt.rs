//! A data directory that was made by somebody else (PostgreSQL manual, sections 20.1 and 21.1).
//!
//! Owns what is read of its configuration, wherever that lies, and how our users get into it: in
//! single-user mode, with SCRAM verifiers, so that nobody has to tell a password. What the operator
//! had is kept aside before anything is changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::binaries::Binaries;
use super::controldata::ControlData;
use super::credentials::Credentials;
use super::distribution::Machine;
use super::files;
use super::hba;
use super::initdb;
use super::layout::Layout;
use super::os_user::{self, Command, OsUser};
use super::start;
use crate::config::owned_reason;
use crate::domain::types::{Epoch, Lsn};

mod aside;

pub use aside::{clear_files, keep_aside};

/// How long one page of WAL may take to be read.
const WAL_DEADLINE: Duration = Duration::from_secs(10);
const SINGLE_DEADLINE: Duration = Duration::from_secs(300);
/// Deepest nesting of included files, as in PostgreSQL.
const DEPTH_MAX: usize = 10;
/// Most files, and most bytes of them, that are read of one configuration.
const FILES_MAX: usize = 1000;
const BYTES_MAX: usize = 16 << 20;

/// Why a data directory was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Single-user mode refused a statement.
    #[error("the users could not be made: {message}")]
    Users {
        /// What PostgreSQL said.
        message: String,
    },
    /// A file cannot be read as configuration.
    #[error("{}: {why}", path.display())]
    Conf {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A program failed.
    #[error(transparent)]
    Run(#[from] os_user::Error),
    /// The server's signal file could not be set.
    #[error(transparent)]
    Start(#[from] Box<start::Error>),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Where the configuration of a server lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `postgresql.conf`.
    pub main: PathBuf,
    /// `pg_hba.conf`.
    pub hba: PathBuf,
    /// `pg_ident.conf`.
    pub ident: PathBuf,
    /// What is unclear about them, for a person.
    pub problems: Vec<String>,
}

/// What a server was configured with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Settings that are the operator's.
    pub parameters: BTreeMap<String, String>,
    /// Names of settings that are not taken over, with the reason.
    pub left_out: Vec<String>,
    /// Lines of `pg_hba.conf` that have the right form.
    pub hba: Vec<String>,
    /// Lines of `pg_ident.conf` that have the right form.
    pub ident: Vec<String>,
    /// What is unclear, for a person.
    pub problems: Vec<String>,
}

impl Found {
    /// Leaves out the rules that have the form of those that we write for these users: of data that
    /// was managed before.
    pub fn leave_out_ours(&mut self, superuser: &str, replication: &str, rewind: &str) {
        let (left_out, ours) = (&mut self.left_out, "which Quorate writes by itself");
        self.hba.retain(|line| {
            let own = hba::is_ours(line, superuser, replication, rewind);
            if own {
                // Its method is the last word: there is no option in it, and no password.
                left_out.push(format!("a rule of pg_hba.conf, {ours}: {line}"));
            }
            !own
        });
    }
}

/// Bytes of a WAL page, and of the headers of pages and of a segment's first page
/// (`access/xlog_internal.h`).
const PAGE: u64 = 8192;
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;
/// Bytes of a checkpoint's record: its header, that of its data, and `CheckPoint`. The same in
/// PostgreSQL 13 to 18.
const CHECKPOINT_RECORD: u64 = 24 + 2 + 88;

/// Where the log of a server ends that was stopped in order: after its shutdown checkpoint, whose
/// record begins at `checkpoint`. The control file has only where it begins, and a standby that has
/// received all of it says where it ends.
pub fn end_of_checkpoint(checkpoint: Lsn, segment_bytes: u64) -> Lsn {
    let (mut at, mut left) = (checkpoint.0, CHECKPOINT_RECORD);
    loop {
        let room = PAGE - at % PAGE;
        if left <= room {
            // Records begin at multiples of 8.
            return Lsn((at + left).div_ceil(8) * 8);
        }
        left -= room;
        at += room;
        at += if at.is_multiple_of(segment_bytes) { SEGMENT_HEADER } else { PAGE_HEADER };
    }
}

/// Whether a record of `timeline` that is in `pg_wal` begins at `lsn` or later. The control file of a
/// standby has how far it replayed, and it may have received more, which it would replay when it is
/// started. A program that says something unexpected counts as yes.
pub async fn holds_wal_from(
    binaries: &Binaries,
    user: &OsUser,
    wal_dir: &Path,
    timeline: Epoch,
    lsn: Lsn,
) -> Result<bool, Error> {
    let output = Command::new(&binaries.program("pg_waldump"), user, WAL_DEADLINE)
        .arg("-p")
        .arg(wal_dir)
        .args(["-n", "1", "-t", &timeline.to_string(), "-s", &lsn.to_string()])
        .run()
        .await?;
    let none = |l: &str| l.contains("could not find");
    Ok(!output.stdout.trim().is_empty() || !output.stderr.lines().any(none))
}

/// The configuration of a data directory: in it, or where Debian keeps it, or where that says that
/// its rules are (PostgreSQL manual, section 20.2). Whoever may write the configuration says which
/// files these are: look with the rights of PostgreSQL's user ([`OsUser::act`]), as for [`read`].
pub fn places(pgdata: &Path, machine: &Machine) -> Places {
    let own = pgdata.join("postgresql.conf");
    let mut unclear = Vec::new();
    let mut dir = pgdata.to_path_buf();
    if !own.exists() {
        match machine.debian(pgdata) {
            Ok(found) => {
                if let [first, second, ..] = &found[..] {
                    unclear.push(format!(
                        "the data is that of two clusters of Debian, {} and {}: change \
                         data_directory in the one that is not meant",
                        first.dir.display(),
                        second.dir.display()
                    ));
                }
                if let Some(cluster) = found.into_iter().next() {
                    dir = cluster.dir;
                }
            }
            Err(e) => unclear.push(e.to_string()),
        }
    }
    let mut places = Places {
        main: dir.join("postgresql.conf"),
        hba: dir.join("pg_hba.conf"),
        ident: dir.join("pg_ident.conf"),
        problems: unclear,
    };
    // What cannot be read is told of by `read`.
    let mut all = Settings::default();
    let _ = all.read(&places.main);
    let _ = all.read(&pgdata.join("postgresql.auto.conf"));
    let all = all.values;
    let problems = &mut places.problems;
    for (name, place) in [("hba_file", &mut places.hba), ("ident_file", &mut places.ident)] {
        let Some(path) = all.get(name).filter(|p| !p.is_empty()).map(PathBuf::from) else {
            continue;
        };
        if !path.is_absolute() {
            problems.push(format!(
                "{name} is {}, which depends on where the server was started: write the whole path",
                path.display()
            ));
        } else if !matches!(files::read_if_exists(&path), Ok(Some(_))) {
            problems.push(format!("{name} is {}, which cannot be read", path.display()));
        }
        *place = path;
    }
    if let Some(other) = all.get("data_directory").filter(|p| !p.is_empty()) {
        let (found, own) = (std::fs::canonicalize(other), std::fs::canonicalize(pgdata));
        let same = found.is_ok_and(|found| own.is_ok_and(|own| own == found));
        if !same || !Path::new(other).is_absolute() {
            problems.push(format!(
                "data_directory of {} is {other}, and not {}: set data_dir of the [[member]] to the \
                 directory that has the data",
                places.main.display(),
                pgdata.display()
            ));
        }
    }
    places
}

/// Reads the configuration. Values of settings that are ours are not looked at.
pub fn read(pgdata: &Path, places: &Places) -> Result<Found, Error> {
    let mut all = Settings::default();
    all.read(&places.main)?;
    let auto = pgdata.join("postgresql.auto.conf");
    if files::exists(&auto)? {
        all.read(&auto)?;
    }
    let mut found = Found { problems: places.problems.clone(), ..Found::default() };
    for (name, value) in all.values {
        match kept(&name, &value) {
            Ok(()) => _ = found.parameters.insert(name, value),
            Err(why) => found.left_out.push(format!("{name}: {why}")),
        }
    }
    let hba = files::read_if_exists(&places.hba)?;
    if hba.is_none() {
        found
            .problems
            .push(format!("there is no {}: its rules are not known", places.hba.display()));
    }
    for line in lines(&hba.unwrap_or_default()) {
        let line = line.as_str();
        match crate::config::hba_problem(line) {
            None => found.hba.push(line.to_owned()),
            // Not shown: its options can hold a password.
            Some((why, _)) => found.left_out.push(format!("a rule of pg_hba.conf that {why}")),
        }
    }
    // A server runs without this one.
    let ident = files::read_if_exists(&places.ident)?.unwrap_or_default();
    for line in lines(&ident) {
        match crate::config::ident_problem(&line) {
            None => found.ident.push(line),
            Some((why, _)) => found.left_out.push(format!("a line of pg_ident.conf that {why}")),
        }
    }
    Ok(found)
}

/// Lines that are no comments.
fn lines(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let all = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    all.map(str::to_owned).collect()
}

/// Why a setting is not the operator's here, if so.
fn kept(name: &str, value: &str) -> Result<(), String> {
    let off = ["off", "false", "no", "0"].contains(&value.to_ascii_lowercase().as_str());
    match name {
        "data_directory"
        | "config_file"
        | "hba_file"
        | "ident_file"
        | "external_pid_file"
        | "stats_temp_directory" => Err("it says where files are".to_owned()),
        "fsync" | "full_page_writes" if off => Err("it is unsafe".to_owned()),
        "wal_level" if !["replica", "logical"].contains(&value) => {
            Err("standbys could not follow".to_owned())
        }
        "synchronous_commit" => Err("the cluster's synchronous mode says it".to_owned()),
        "log_destination" | "logging_collector" | "log_directory" | "log_filename" => {
            Err("logs go where hanode puts them".to_owned())
        }
        // The cluster's own answer to the number of members.
        "max_wal_senders" | "max_replication_slots" => Err("it is managed".to_owned()),
        _ => match owned_reason(name) {
            Some(owned) => Err(owned.reason.to_owned()),
            None => Ok(()),
        },
    }
}

/// Settings of files and of those that they include; the last one of a name counts.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Values by name.
    pub values: BTreeMap<String, String>,
    /// The files that were included, with their contents.
    included: Vec<(PathBuf, Vec<u8>)>,
    /// How many files were read, and how many bytes of them.
    read: (usize, usize),
}

impl Settings {
    /// Reads a file and those that it includes. What was read before an error stays.
    pub fn read(&mut self, path: &Path) -> Result<(), Error> {
        self.read_nested(path, 0)
    }

    fn read_nested(&mut self, path: &Path, depth: usize) -> Result<(), Error> {
        let bad = |why: &str| Error::Conf { path: path.to_path_buf(), why: why.to_owned() };
        if depth > DEPTH_MAX {
            return Err(bad("files are included too deeply"));
        }
        let Some(content) = files::read_if_exists(path)? else {
            return Err(bad("there is no such file"));
        };
        self.read = (self.read.0 + 1, self.read.1 + content.len());
        if self.read.0 > FILES_MAX || self.read.1 > BYTES_MAX {
            return Err(bad("this is more configuration than can be read"));
        }
        let text = String::from_utf8(content).map_err(|e| bad(&e.to_string()))?;
        if depth > 0 {
            self.included.push((path.to_path_buf(), text.clone().into_bytes()));
        }
        let dir = path.parent().unwrap_or(Path::new("/"));
        for (i, line) in text.lines().enumerate() {
            let bad = |why| bad(&format!("line {}: {why}", i + 1));
            let Some((name, value)) = setting(line).map_err(bad)? else { continue };
            match name.as_str() {
                "include" => self.read_nested(&dir.join(&value), depth + 1)?,
                "include_if_exists" => {
                    let path = dir.join(&value);
                    if files::exists(&path)? {
                        self.read_nested(&path, depth + 1)?;
                    }
                }
                "include_dir" => {
                    for path in conf_files(&dir.join(&value))? {
                        self.read_nested(&path, depth + 1)?;
                    }
                }
                _ => _ = self.values.insert(name, value),
            }
        }
        Ok(())
    }
}

/// Files of an `include_dir` in the order of PostgreSQL.
fn conf_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(dir).map_err(|e| files::Error::new("list", dir, e))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.ends_with(".conf") && !name.starts_with('.') && p.is_file()
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Name and value of a line; `None` where it has none.
fn setting(line: &str) -> Result<Option<(String, String)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_.$".contains(c)));
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    if name.is_empty() {
        return Err("is no setting");
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquote(quoted)?,
        None => {
            let end = rest.find(|c: char| c.is_whitespace() || c == '#').unwrap_or(rest.len());
            rest.get(..end).unwrap_or_default().to_owned()
        }
    };
    Ok(Some((name.to_ascii_lowercase(), value)))
}

/// The value after its first quote. Quotes are doubled or have a backslash before them.
fn unquote(text: &str) -> Result<String, &'static str> {
    let mut value = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => return Ok(value),
            '\\' => match chars.next() {
                Some(next @ ('\'' | '\\')) => value.push(next),
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                _ => return Err("has an escape that is not understood"),
            },
            c => value.push(c),
        }
    }
    Err("has a quote that is not closed")
}

/// Makes our users in the stopped data directory of a primary, or gives them our passwords.
/// `superuser` is made where it is not there.
pub async fn make_users(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
    credentials: &Credentials,
    control: &ControlData,
    wal_level: Option<&str>,
) -> Result<(), Error> {
    start::set_signal(layout, user, start::Signal::None).map_err(Box::new)?;
    let conf = layout.pgdata.join("quorate.adopt.conf");
    files::write_atomic(&conf, b"", 0o600, user)?;
    let mut config = std::ffi::OsString::from("config_file=");
    config.push(&conf);
    let mut command = Command::new(&binaries.program("postgres"), user, SINGLE_DEADLINE)
        .arg("--single")
        .arg("-D")
        .arg(&layout.pgdata)
        .arg("-c")
        .arg(config)
        .args(["-c", "exit_on_error=on", "-c", "log_statement=none"])
        .args(["-c", "log_min_error_statement=panic"]);
    // What a standby must not have lower stays as it was.
    for (name, value) in &control.floor {
        command = command.arg("-c").arg(format!("{name}={value}"));
    }
    if let Some(level) = wal_level {
        command = command.arg("-c").arg(format!("wal_level={level}"));
    }
    let output =
        command.arg("postgres").stdin(statements(credentials).join("\n") + "\n").run().await;
    files::remove_if_exists(&conf)?;
    let output = output?;
    let bad = |l: &&str| ["ERROR:", "FATAL:", "PANIC:"].iter().any(|level| l.contains(level));
    if let Some(line) = output.stderr.lines().find(bad) {
        return Err(Error::Users { message: line.to_owned() });
    }
    os_user::check("postgres --single", output)?;
    Ok(())
}

/// Statements that can be run again, one a line.
fn statements(credentials: &Credentials) -> Vec<String> {
    let mut all = Vec::new();
    let (superuser, replication) = (&credentials.superuser, &credentials.replication);
    for (login, rights) in [
        (superuser, "SUPERUSER"),
        (replication, "REPLICATION"),
        (&credentials.rewind, "NOSUPERUSER"),
    ] {
        let name = login.user();
        all.push(format!(
            "DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{name}') \
             THEN CREATE ROLE \"{name}\"; END IF; END$$;"
        ));
        if name == replication.user() && rights == "NOSUPERUSER" {
            continue;
        }
        let verifier = login.password().verifier();
        all.push(format!("ALTER ROLE \"{name}\" LOGIN {rights} PASSWORD '{verifier}';"));
    }
    let grants = initdb::user_statements(credentials);
    all.extend(grants.into_iter().filter(|s| s.starts_with("GRANT ")));
    all
}

#[cfg(test)]
#[path = "adopt_test.rs"]
mod tests;
