//! Whether PostgreSQL would start with other settings, found out without starting it.
//!
//! Owns the questions to `postgres -C`. For an ordinary setting it only reads the configuration.
//! For one that is computed at a start, which exist since 15, it goes the way of a start up to the
//! shared memory and the sockets: combinations of settings are judged, libraries loaded, TLS set up
//! with its certificate, key and ciphers. For that it locks the data directory. So it is asked in a
//! directory of its own, where everything is a link to what is in the real one but the lock.
//! PostgreSQL's documentation of it: manual, reference page of `postgres`, option `-C`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::debug;

use super::binaries::Binaries;
use super::layout::Layout;
use super::os_user::{self, Command, OsUser, Output};
use super::start::Error;
use super::{conf, files, libraries};

/// How long reading a configuration may take.
const READ: Duration = Duration::from_secs(10);
/// How long a dry start may take, which nobody has to wait for.
const START: Duration = Duration::from_secs(4);
/// The first version with a setting that is computed at a start after libraries and TLS.
const START_MAJOR: u32 = 15;
const COMPUTED: &str = "shared_memory_size";
/// What is said by the machine, and not of the settings.
const OF_THE_MACHINE: &[&str] = &[
    "control file",
    "lock file",
    "No space left on device",
    "Disk quota exceeded",
    "out of memory",
    "Cannot allocate memory",
    "Too many open files",
    "Input/output error",
    "data directory",
    "could not access the server configuration file",
];
/// How the directories of dry starts are named.
const SCRATCH: &str = "dry-start-";
/// The configuration that is asked about.
const CHECKED: &str = "quorate.check.conf";

/// Asks PostgreSQL whether it would take the operator's settings, and start with them, without
/// touching those in force. What is wrong with those that are in force as well is no fault of the
/// new ones.
///
/// # Errors
/// [`Error::Settings`]: it would not. Anything else: that is not known.
pub async fn check_settings(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
    operator: &BTreeMap<String, String>,
    in_force: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let own = conf::render_operator(operator)?;
    let text = format!(
        "include_if_exists 'postgresql.base.conf'\n{own}include_if_exists 'quorate.conf'\n\
         include_if_exists '{}'\n",
        conf::FLOOR_FILE
    );
    let path = layout.pgdata.join(CHECKED);
    let is_new = |(name, value): &(&String, &String)| in_force.get(*name) != Some(*value);
    let changed: BTreeMap<String, String> =
        operator.iter().filter(is_new).map(|(k, v)| (k.clone(), v.clone())).collect();
    let (at, content, owner) = (path.clone(), text.clone(), user.clone());
    off(move || files::write_atomic(&at, content.as_bytes(), 0o600, &owner)).await??;
    // One question tells where libraries are looked for, and whether the files can be read at all.
    let asked = read(binaries, user, &layout.pgdata, &path, "dynamic_library_path").await;
    off(move || files::remove_if_exists(&path)).await??;
    let output = asked?;
    if !output.success {
        let message = said(&output);
        return Err(match is_of_the_machine(&message) {
            true => Error::Unknown { why: message },
            false => Error::Settings { message },
        });
    }
    if libraries::are_named(&changed) {
        let (programs, pgdata, named) = (binaries.clone(), layout.pgdata.clone(), changed.clone());
        let look = move || {
            let libdir = libraries::directory(&programs)?;
            libraries::missing(&named, output.stdout.trim(), &libdir, &pgdata)
        };
        if let Some(missing) = off(look).await? {
            return Err(Error::Settings { message: missing.to_string() });
        }
    }
    if binaries.major() < START_MAJOR {
        return check_tls_files(user, layout, operator, &changed).await;
    }
    let Some(message) = start(binaries, user, layout, Some(&text)).await? else { return Ok(()) };
    if start(binaries, user, layout, None).await?.is_some() {
        // What is in force would not start either: a change must be able to mend one fault after
        // the other.
        return Ok(());
    }
    Err(Error::Settings { message })
}

/// Does what waits for the disk where it holds up no task.
async fn off<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let unfinished = |e: tokio::task::JoinError| Error::Unknown { why: e.to_string() };
    tokio::task::spawn_blocking(work).await.map_err(unfinished)
}

fn is_of_the_machine(message: &str) -> bool {
    message.is_empty() || OF_THE_MACHINE.iter().any(|words| message.contains(words))
}

/// What PostgreSQL would say to a start with what lies in the data directory now, where it would not
/// start. Always `None` before version 15. The server may run.
///
/// # Errors
/// That cannot be found out.
pub async fn would_say(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
) -> Result<Option<String>, Error> {
    match binaries.major() {
        ..START_MAJOR => Ok(None),
        _ => start(binaries, user, layout, None).await,
    }
}

async fn read(
    binaries: &Binaries,
    user: &OsUser,
    pgdata: &Path,
    config: &Path,
    name: &str,
) -> Result<Output, Error> {
    let mut file = OsString::from("config_file=");
    file.push(config);
    let command = Command::new(&binaries.program("postgres"), user, READ)
        .arg("-D")
        .arg(pgdata)
        .arg("-c")
        .arg(file)
        .args(["-C", name]);
    Ok(command.run().await?)
}

/// Goes the way of a start with `text` as the configuration, or with the one that is there. Returns
/// what PostgreSQL said where it would not start.
async fn start(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
    text: Option<&str>,
) -> Result<Option<String>, Error> {
    // One of its own: what an attempt that nobody waits for any more goes on with, it does there.
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let number = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    let dir = layout.run_dir.join(format!("{SCRATCH}{}-{number}", std::process::id()));
    let (pgdata, owner) = (layout.pgdata.clone(), user.clone());
    let (scratch, text) = (dir.clone(), text.map(str::to_owned));
    let config = off(move || make(&scratch, &pgdata, &owner, text))
        .await?
        .map_err(|e| Error::Unknown { why: format!("no directory for a dry start: {e}") })?;
    let assign = |name: &str, value: &OsStr| {
        let mut argument = OsString::from(format!("{name}="));
        argument.push(value);
        [OsString::from("-c"), argument]
    };
    let output = Command::new(&binaries.program("postgres"), user, START)
        .arg("-D")
        .arg(&dir)
        .args(assign("config_file", config.as_os_str()))
        // Else a directory that the files name would be locked.
        .args(assign("data_directory", dir.as_os_str()))
        // What it says is to come here, and in a form that is known.
        .args(assign("log_destination", OsStr::new("stderr")))
        .args(assign("log_line_prefix", OsStr::new("")))
        .args(assign("log_min_messages", OsStr::new("warning")))
        .args(["-C", COMPUTED])
        .run()
        .await;
    // Where nobody waits for its end, the next one removes it.
    let removed = off(move || remove(&dir)).await?;
    debug!(?removed, "a dry start has ended");
    let output = match output {
        Ok(output) => output,
        // It says nothing of the settings that nobody had the time to find out.
        Err(e @ os_user::Error::Deadline { .. }) => {
            return Err(Error::Unknown { why: e.to_string() });
        }
        Err(e) => return Err(e.into()),
    };
    let message = said(&output);
    match output.success {
        true => Ok(None),
        false if is_of_the_machine(&message) => Err(Error::Unknown { why: message }),
        false => Ok(Some(message)),
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes what attempts have left that nobody waited for.
fn sweep(dir: &Path) -> io::Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SCRATCH)
            && let Err(error) = remove(&entry.path())
        {
            debug!(%error, "what a dry start has left is not removed");
        }
    }
    Ok(())
}

/// Makes the directory, and returns the configuration in it.
fn make(dir: &Path, pgdata: &Path, user: &OsUser, text: Option<String>) -> io::Result<PathBuf> {
    sweep(dir)?;
    files::ensure_dir(dir, 0o700, user).map_err(|e| e.source)?;
    for entry in fs::read_dir(pgdata)? {
        let name = entry?.file_name();
        let of_a_run = name.to_string_lossy().starts_with("postmaster.");
        if !of_a_run && name != CHECKED {
            symlink(pgdata.join(&name), dir.join(&name))?;
        }
    }
    let Some(text) = text else { return Ok(dir.join("postgresql.conf")) };
    let path = dir.join(CHECKED);
    files::write_atomic(&path, text.as_bytes(), 0o600, user).map_err(|e| e.source)?;
    Ok(path)
}

/// What PostgreSQL gave up with, without what only warns, and without times and process numbers.
fn said(output: &Output) -> String {
    let lines = output.stderr.lines().filter(|l| !l.trim().is_empty() && !l.contains("WARNING:"));
    let plain = |line: &str| {
        let level = ["LOG:", "ERROR:", "FATAL:", "PANIC:"];
        let text = level.iter().find_map(|l| line.split_once(l).map(|(_, text)| text));
        text.unwrap_or(line).trim().to_owned()
    };
    lines.map(plain).take(5).collect::<Vec<_>>().join("; ")
}

/// The program that tells whether a user may read a file.
const TEST: &str = "/usr/bin/test";

/// Before 15 PostgreSQL cannot be asked about TLS: at least its files have to be there.
async fn check_tls_files(
    user: &OsUser,
    layout: &Layout,
    operator: &BTreeMap<String, String>,
    changed: &BTreeMap<String, String>,
) -> Result<(), Error> {
    // What is in force already is not for this change to mend.
    let concerned = changed.keys().any(|name| name.to_ascii_lowercase().starts_with("ssl"));
    if !concerned || !Path::new(TEST).exists() {
        return Ok(());
    }
    let given = |name: &str| {
        operator.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    };
    let on = given("ssl").is_some_and(|v| ["on", "true", "yes", "1"].contains(&v));
    if !on {
        return Ok(());
    }
    let named = [
        ("ssl_cert_file", given("ssl_cert_file").unwrap_or("server.crt")),
        ("ssl_key_file", given("ssl_key_file").unwrap_or("server.key")),
        ("ssl_ca_file", given("ssl_ca_file").unwrap_or_default()),
        ("ssl_crl_file", given("ssl_crl_file").unwrap_or_default()),
    ];
    for (setting, file) in named {
        if file.is_empty() {
            continue;
        }
        let path = layout.pgdata.join(file);
        // As its user: ours may read more.
        let test = Command::new(Path::new(TEST), user, READ).arg("-r").arg(&path);
        let readable = test.run().await?.success;
        if !readable {
            let message = format!("{setting} names {}, which cannot be read", path.display());
            return Err(Error::Settings { message });
        }
    }
    Ok(())
}
