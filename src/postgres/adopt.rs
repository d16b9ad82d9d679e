//! A data directory that was made by somebody else (PostgreSQL manual, sections 20.1 and 21.1).
//!
//! Owns what is read of its configuration, wherever that lies, and how our users get into it: in
//! single-user mode, with SCRAM verifiers, so that nobody has to tell a password. What the operator
//! had is kept aside before anything is changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::binaries::Binaries;
use super::conf::{self, HEADER};
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
pub fn places(pgdata: &Path, config_dir: Option<&Path>) -> Places {
    let own = pgdata.join("postgresql.conf");
    let mut unclear = Vec::new();
    let dir = match config_dir {
        Some(dir) => dir.to_path_buf(),
        None if own.exists() => pgdata.to_path_buf(),
        None => match Machine::default().debian(pgdata) {
            Ok(found) => {
                if let [first, second, ..] = &found[..] {
                    unclear.push(format!(
                        "the data is that of two clusters of Debian, {} and {}: change \
                         data_directory in the one that is not meant",
                        first.dir.display(),
                        second.dir.display()
                    ));
                }
                found.into_iter().next().map_or_else(|| pgdata.to_path_buf(), |d| d.dir)
            }
            Err(e) => {
                unclear.push(e.to_string());
                pgdata.to_path_buf()
            }
        },
    };
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

/// Most versions of a file that are kept aside.
const ASIDE_MAX: usize = 9;

/// Keeps the configuration aside in `dir`, with the files that it includes, whose names there are
/// their paths with `%` for `/`. What is there is not overwritten: another content, of a server that
/// was adopted before, gets a number. They are read with the rights of `postgres`, who may have put
/// links there, and kept as those of `us`.
///
/// # Errors
/// There are too many versions of a file, or it cannot be read or kept.
pub fn keep_aside(pgdata: &Path, dir: &Path, us: &OsUser, postgres: &OsUser) -> Result<(), Error> {
    let found = files::as_user(postgres, pgdata, || to_keep(pgdata))?;
    files::ensure_dir(dir, 0o700, us)?;
    for (name, content) in found {
        keep_version(&dir.join(name), &content, us)?;
    }
    Ok(())
}

fn keep_version(path: &Path, content: &[u8], us: &OsUser) -> Result<(), Error> {
    for number in 1..=ASIDE_MAX {
        let mut to = path.as_os_str().to_owned();
        if number > 1 {
            to.push(format!(".{number}"));
        }
        let to = PathBuf::from(to);
        match files::read_if_exists(&to)? {
            Some(kept) if kept == content => return Ok(()),
            Some(_) => {}
            None => return Ok(files::write_atomic(&to, content, 0o600, us)?),
        }
    }
    let why = format!("{ASIDE_MAX} versions of it are kept already: move them elsewhere");
    Err(Error::Conf { path: path.to_path_buf(), why })
}

/// Names and contents of what is to be kept: all that is not exactly what we write ourselves.
fn to_keep(pgdata: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let places = &places(pgdata, None);
    let ours = [HEADER.as_bytes(), CLEARED, AUTO, conf::render_main().as_bytes()].map(<[u8]>::to_vec);
    let mut found = Vec::new();
    let own = |name: &str| pgdata.join(name);
    for (from, name) in [
        (&places.main, "postgresql.conf"),
        (&places.hba, "pg_hba.conf"),
        (&places.ident, "pg_ident.conf"),
        (&own("postgresql.auto.conf"), "postgresql.auto.conf"),
        (&own("postgresql.base.conf"), "postgresql.base.conf"),
    ] {
        found.extend(files::read_if_exists(from)?.map(|content| (name.to_owned(), content)));
    }
    let mut all = Settings::default();
    // What cannot be read there was told of, and stays where it is.
    let _ = all.read(&places.main);
    for (path, content) in all.included {
        // Kept above, or written by us under names that nobody else has.
        let named = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let managed = named.starts_with("quorate.") && content.starts_with(HEADER.as_bytes());
        if path != own("postgresql.base.conf") && !managed {
            let name = path.to_string_lossy().trim_start_matches('/').replace('/', "%");
            found.push((name, content));
        }
    }
    found.retain(|(_, content)| !ours.contains(content));
    Ok(found)
}

/// Content of `postgresql.base.conf`, and of a `postgresql.auto.conf` without settings.
const CLEARED: &[u8] =
    b"# What was configured before this cluster was adopted is in its specification.\n";
const AUTO: &[u8] = b"# Do not edit this file manually!\n";

/// What was configured is in the specification from now on: the files of the data directory say
/// nothing more than what ours say. They were kept aside before.
pub fn clear_files(layout: &Layout, user: &OsUser) -> Result<(), Error> {
    for (name, text) in [("postgresql.base.conf", CLEARED), ("postgresql.auto.conf", AUTO)] {
        files::write_if_changed(&layout.pgdata.join(name), text, 0o600, user)?;
    }
    Ok(())
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
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_like_postgresql_reads_them() {
        let pair = |n: &str, v: &str| Ok(Some((n.to_owned(), v.to_owned())));
        let cases = [
            ("work_mem = 4MB", pair("work_mem", "4MB")),
            ("  Work_Mem 4MB # more", pair("work_mem", "4MB")),
            ("search_path='\"it''s\", x' # y", pair("search_path", "\"it's\", x")),
            ("a.b = 'x\\'y\\\\'", pair("a.b", "x'y\\")),
            ("port=5432#x", pair("port", "5432")),
            ("# comment", Ok(None)),
            ("", Ok(None)),
        ];
        for (line, want) in cases {
            assert_eq!(setting(line), want, "{line}");
        }
        for bad in ["= 3", "x = 'open", "x = '\\q'"] {
            assert!(setting(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn includes_are_followed_and_what_is_ours_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        let main = "work_mem = 4MB\nport = 5433\nfsync = off\ninclude_dir 'conf.d'\n\
                    include_if_exists 'none.conf'\ndata_directory = '/x'\n";
        put("postgresql.conf", main);
        put("conf.d/10.conf", "work_mem = 8MB\nstatement_timeout = '5s'\n");
        put("conf.d/20.txt", "work_mem = 16MB\n");
        put("postgresql.auto.conf", "statement_timeout = '7s'\nprimary_conninfo = 'password=x'\n");
        put("pg_hba.conf", "# x\nhost all all 10.0.0.0/8 md5\nhost all all\n");
        let found = read(dir.path(), &places(dir.path(), None)).unwrap();
        let want = [("statement_timeout", "7s"), ("work_mem", "8MB")];
        assert_eq!(found.parameters, want.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
        assert_eq!(found.hba, ["host all all 10.0.0.0/8 md5"]);
        let left = found.left_out.join("; ");
        for name in ["port", "fsync", "data_directory", "primary_conninfo", "too few"] {
            assert!(left.contains(name), "{name}: {left}");
        }
        assert!(!left.contains("password"), "{left}");
    }

    #[test]
    fn a_checkpoint_ends_where_a_standby_says_that_it_ends() {
        let end = |at: u64| end_of_checkpoint(Lsn(at), 16 << 20).0;
        // Seen with PostgreSQL 15.
        assert_eq!(end(0x0300_88A0), 0x0300_8918);
        assert_eq!(end(8192 - 120), 8192);
        assert_eq!(end(8192 - 112), 8192 + PAGE_HEADER + 8);
        assert_eq!(end((16 << 20) - 64), (16 << 20) + SEGMENT_HEADER + 56);
    }

    #[test]
    fn rules_are_read_where_the_configuration_says_and_all_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (data, other) = (dir.path().join("data"), dir.path().join("other"));
        for made in [&data, &other] {
            std::fs::create_dir(made).unwrap();
        }
        let put = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        let (hba, ident) = (other.join("rules"), other.join("map"));
        let main = format!("hba_file = '{}'\nident_file = '{}'\n", hba.display(), ident.display());
        put(&data.join("postgresql.conf"), &main);
        put(&data.join("pg_hba.conf"), "host all all 10.0.0.0/8 trust\n");
        put(&hba, "host all all 10.0.0.0/8 scram-sha-256\n");
        put(&ident, "# x\nm root postgres\nm root\n");
        let found = read(&data, &places(&data, None)).unwrap();
        assert_eq!(found.hba, ["host all all 10.0.0.0/8 scram-sha-256"]);
        assert_eq!(found.ident, ["m root postgres"]);
        assert_eq!(found.problems, Vec::<String>::new());
        let user = OsUser::current().unwrap();
        let aside = dir.path().join("aside");
        keep_aside(&data, &aside, &user, &user).unwrap();
        for (name, text) in [("pg_hba.conf", "scram"), ("pg_ident.conf", "m root")] {
            assert!(std::fs::read_to_string(aside.join(name)).unwrap().contains(text), "{name}");
        }

        // Adopted once more, with another configuration, and with ours.
        put(&hba, "host all all 10.1.0.0/16 md5\n");
        put(&data.join("postgresql.auto.conf"), HEADER);
        put(&data.join("postgresql.base.conf"), std::str::from_utf8(CLEARED).unwrap());
        for _ in 0..2 {
            keep_aside(&data, &aside, &user, &user).unwrap();
        }
        let mut kept: Vec<_> = aside
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        kept.sort();
        assert_eq!(kept, ["pg_hba.conf", "pg_hba.conf.2", "pg_ident.conf", "postgresql.conf"]);

        for (line, problem) in [
            ("hba_file = '/nonexistent/hba'", "cannot be read"),
            ("hba_file = 'pg_hba.conf'", "whole path"),
            ("ident_file = '/nonexistent/ident'", "cannot be read"),
            ("data_directory = '/nonexistent'", "data_dir of"),
        ] {
            put(&data.join("postgresql.conf"), line);
            let found = read(&data, &places(&data, None)).unwrap();
            assert!(found.problems.join("; ").contains(problem), "{line}: {:?}", found.problems);
        }
        put(&data.join("postgresql.conf"), "");
        std::fs::remove_file(data.join("pg_hba.conf")).unwrap();
        assert_eq!(read(&data, &places(&data, None)).unwrap().problems.len(), 1);
    }

    #[test]
    fn what_was_edited_or_included_is_kept_and_nothing_falls_out() {
        let dir = tempfile::tempdir().unwrap();
        let (data, aside) = (dir.path().join("data"), dir.path().join("aside"));
        std::fs::create_dir(&data).unwrap();
        let put = |name: &str, text: &str| std::fs::write(data.join(name), text).unwrap();
        let user = OsUser::current().unwrap();
        let keep = || keep_aside(&data, &aside, &user, &user);
        put("postgresql.conf", &format!("{}work_mem = 1MB\n", conf::render_main()));
        put("quorate.spec.conf", HEADER);
        put("quorate.conf", &format!("{HEADER}port = 1\n"));
        put("pg_hba.conf", &format!("{HEADER}host all all all md5\n"));
        put("postgresql.base.conf", "include 'more.conf'\n");
        put("more.conf", "work_mem = 2MB\n");
        keep().unwrap();
        let kept = |name: &str| std::fs::read_to_string(aside.join(name)).unwrap_or_default();
        assert!(kept("postgresql.conf").ends_with("work_mem = 1MB\n"));
        assert!(kept("pg_hba.conf").ends_with("md5\n"));
        let more = data.join("more.conf").display().to_string();
        assert_eq!(kept(&more[1..].replace('/', "%")), "work_mem = 2MB\n");
        assert_eq!(aside.read_dir().unwrap().count(), 4, "ours are not kept");
        put("postgresql.conf", &conf::render_main());
        keep().unwrap();
        assert_eq!(aside.read_dir().unwrap().count(), 4);

        for number in 2..=ASIDE_MAX {
            put("pg_hba.conf", &format!("# {number}\n"));
            keep().unwrap();
        }
        put("pg_hba.conf", "# one more\n");
        let error = keep().unwrap_err().to_string();
        assert!(error.contains("pg_hba.conf: 9 versions") && error.contains("move"), "{error}");
    }

    #[test]
    fn rules_of_our_form_are_left_out_and_told() {
        let rule = |line: &str| line.to_owned();
        let ours = "host replication \"r\" 10.9.9.9/32 scram-sha-256";
        let mut found =
            Found { hba: vec![rule(ours), rule("host all all all md5")], ..Found::default() };
        found.leave_out_ours("s", "r", "w");
        assert_eq!(found.hba, ["host all all all md5"]);
        assert!(found.left_out.len() == 1 && found.left_out[0].contains("10.9.9.9"));
    }

    #[test]
    fn an_include_of_what_the_user_may_not_read_gives_nothing_away() {
        let Ok(user) = OsUser::resolve(Some("nobody")) else { return };
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(path, mode).unwrap();
        };
        let (data, secret) = (dir.path().join("data"), dir.path().join("secret"));
        std::fs::create_dir(&data).unwrap();
        for dir in [dir.path(), &data] {
            mode(dir, 0o755);
        }
        std::fs::write(&secret, "root:$6$secret\n").unwrap();
        mode(&secret, 0o640);
        std::os::unix::fs::symlink(&secret, data.join("pg_hba.conf")).unwrap();
        std::fs::write(data.join("postgresql.conf"), "include '../secret'\n").unwrap();
        let look = || read(&data, &places(&data, None));
        assert!(files::as_user(&user, &data, look).is_err());
        let aside = dir.path().join("aside");
        keep_aside(&data, &aside, &OsUser::current().unwrap(), &user).unwrap_err();
        assert!(!aside.exists());
    }

    #[test]
    fn an_include_of_itself_ends() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("postgresql.conf"), "include 'postgresql.conf'\n").unwrap();
        assert!(read(dir.path(), &places(dir.path(), None)).is_err());
        let twice = "include 'postgresql.conf'\n".repeat(2);
        std::fs::write(dir.path().join("postgresql.conf"), twice).unwrap();
        assert!(read(dir.path(), &places(dir.path(), None)).is_err());
    }
}
