//! How a server is started, and what is checked and written before.
//!
//! Owns the command line, the files of the data directory that decide what the server becomes, and
//! the checks that turn an obscure failure into a clear one. The server itself is started by the
//! guard process.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::binaries::Binaries;
use super::controldata::{self, ControlData, DataDirectory};
use super::layout::{self, Layout};
use super::os_user::{self, Command, OsUser};
use super::{conf, files, hba, history};
use crate::domain::types::{SystemId, Timeline};

const CHECK_DEADLINE: Duration = Duration::from_secs(10);

/// Why a server cannot be started, or its files not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no data directory.
    #[error("there is no data directory at {}", pgdata.display())]
    NoData {
        /// Its place.
        pgdata: PathBuf,
    },
    /// What is there is not a data directory.
    #[error("{} is not a data directory: {why}", pgdata.display())]
    NotData {
        /// Its place.
        pgdata: PathBuf,
        /// What it lacks.
        why: String,
    },
    /// It belongs to another major version.
    #[error(
        "{} was made by PostgreSQL {found}, but the programs are of version {programs}",
        pgdata.display()
    )]
    OtherVersion {
        /// Its place.
        pgdata: PathBuf,
        /// Its version.
        found: String,
        /// The programs' version.
        programs: u32,
    },
    /// It belongs to another cluster.
    #[error(
        "{} has system identifier {found}, but this cluster's is {expected}", pgdata.display()
    )]
    Foreign {
        /// Its place.
        pgdata: PathBuf,
        /// Its identifier.
        found: SystemId,
        /// The cluster's.
        expected: SystemId,
    },
    /// A rewind or the like did not finish.
    #[error("{} cannot be started: {why}, and did not finish", pgdata.display())]
    Incomplete {
        /// Its place.
        pgdata: PathBuf,
        /// What did not finish.
        why: String,
    },
    /// PostgreSQL would refuse its mode.
    #[error("{} has mode {mode:04o}; PostgreSQL wants 0700 or 0750", pgdata.display())]
    Mode {
        /// Its place.
        pgdata: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// PostgreSQL would refuse its owner.
    #[error("{} belongs to user id {found}, but PostgreSQL runs as {user}", pgdata.display())]
    Owner {
        /// Its place.
        pgdata: PathBuf,
        /// Its owner's id.
        found: u32,
        /// The user.
        user: String,
    },
    /// Something else listens there.
    #[error("port {port} of {address} cannot be used: {why}")]
    Port {
        /// The address.
        address: String,
        /// The port.
        port: u16,
        /// The system's answer.
        why: String,
    },
    /// PostgreSQL refuses a setting.
    #[error("PostgreSQL refuses the settings: {message}")]
    Settings {
        /// What it said.
        message: String,
    },
    /// Whether PostgreSQL takes the settings was not found out.
    #[error("whether PostgreSQL takes the settings is not known: {why}")]
    Unknown {
        /// Why not.
        why: String,
    },
    /// A setting cannot be written.
    #[error(transparent)]
    Conf(#[from] conf::Error),
    /// A rule cannot be written.
    #[error(transparent)]
    Hba(#[from] hba::Error),
    /// A history file is not readable.
    #[error(transparent)]
    History(#[from] history::Error),
    /// The control file is not readable.
    #[error(transparent)]
    Control(#[from] controldata::Error),
    /// A program failed.
    #[error(transparent)]
    Run(#[from] os_user::Error),
    /// Something with the places.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Everything that is needed to start a server. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartSpec {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: BTreeMap<OsString, OsString>,
    /// The user to become, where the starter is root; else nobody is become.
    pub user: Option<UserIds>,
    /// Its working directory.
    pub dir: PathBuf,
    /// Where its standard output and error go until its own logging begins. Appended to.
    pub log_file: PathBuf,
    /// Its umask.
    pub umask: u32,
}

/// Ids of a user to become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIds {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// The arguments that say where a server's data and settings are. `data_directory` is given here,
/// since a value in a file that came with a copy would win over `-D`.
pub fn place_arguments(layout: &Layout) -> Vec<OsString> {
    let setting = |name: &str, path: &Path| {
        let mut text = OsString::from(format!("{name}="));
        text.push(path);
        text
    };
    vec![
        "-D".into(),
        layout.pgdata.clone().into(),
        "-c".into(),
        setting("config_file", &layout.pgdata.join("postgresql.conf")),
        "-c".into(),
        setting("data_directory", &layout.pgdata),
    ]
}

/// How to start the server of `layout`.
pub fn spec(binaries: &Binaries, user: &OsUser, layout: &Layout) -> StartSpec {
    let ids = || UserIds { uid: user.uid(), gid: user.gid(), groups: user.groups().to_vec() };
    StartSpec {
        program: binaries.program("postgres"),
        args: place_arguments(layout),
        env: user.environment(),
        user: user.switches().then(ids),
        dir: layout.pgdata.clone(),
        log_file: layout.log_dir.join("postgres-start.log"),
        umask: 0o077,
    }
}

/// Which signal file a data directory has (PostgreSQL manual, section 20.5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `standby.signal`: every start of ours is that of a standby.
    Standby,
    /// None: for single-user mode only.
    None,
}

/// Makes sure that the data directory has exactly this signal file. Returns whether it changed.
pub fn set_signal(layout: &Layout, user: &OsUser, signal: Signal) -> Result<bool, Error> {
    let mut changed = files::remove_if_exists(&layout.pgdata.join("recovery.signal"))?;
    // A request to promote that was never read would be obeyed by the next start.
    changed |= files::remove_if_exists(&layout.pgdata.join("promote"))?;
    let path = layout.pgdata.join("standby.signal");
    changed |= match signal {
        Signal::Standby => files::write_if_changed(&path, b"", 0o600, user)?,
        Signal::None => files::remove_if_exists(&path)?,
    };
    Ok(changed)
}

/// What [`install`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// Whether a file changed, so that a running server must reload.
    pub changed: bool,
    /// Settings of ours that somebody had set with ALTER SYSTEM. They are taken out of the file
    /// only where the server is stopped, else with [`super::sql::Session::reset_system_setting`].
    pub overridden: BTreeSet<String>,
}

/// Whether a server runs on the data directory. Only the server may write
/// `postgresql.auto.conf` then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerIs {
    /// It runs.
    Running,
    /// It is stopped, proven.
    Stopped,
}

/// The files of settings with their contents, in the order in which they are written. The included
/// ones come first: the main one must never name a file that is not there.
pub(super) fn render(
    settings: &conf::Settings,
    rules: &hba::Rules,
) -> Result<[(&'static str, String); 5], Error> {
    Ok([
        ("quorate.spec.conf", conf::render_operator(&settings.operator)?),
        ("quorate.conf", conf::render(settings)?),
        ("pg_hba.conf", hba::render(rules)?),
        ("pg_ident.conf", hba::render_ident(rules)?),
        ("postgresql.conf", conf::render_main()),
    ])
}

/// Writes all files of settings, each atomically and only where it changed. The first time the
/// `postgresql.conf` that is there becomes `postgresql.base.conf`.
pub fn install(
    layout: &Layout,
    user: &OsUser,
    settings: &conf::Settings,
    rules: &hba::Rules,
    server: ServerIs,
) -> Result<Installed, Error> {
    // Render everything before the first file changes.
    let rendered = render(settings, rules)?;
    let path = |name: &str| layout.pgdata.join(name);
    let mut done = Installed::default();
    let auto = files::read_if_exists(&path("postgresql.auto.conf"))?.unwrap_or_default();
    let (kept, overridden) = conf::strip_owned(&String::from_utf8_lossy(&auto));
    if !overridden.is_empty() && server == ServerIs::Stopped {
        files::write_atomic(&path("postgresql.auto.conf"), kept.as_bytes(), 0o600, user)?;
        done.changed = true;
    }
    done.overridden = overridden;
    let main = files::read_if_exists(&path("postgresql.conf"))?;
    let base = path("postgresql.base.conf");
    if let Some(text) = main
        && !text.starts_with(conf::HEADER.as_bytes())
    {
        // Only the first one is what everything else rests on; a later one is kept and no more.
        let kept = path("postgresql.conf.edited");
        let place = if files::exists(&base)? { kept } else { base };
        files::write_atomic(&place, &text, 0o600, user)?;
    }
    let floor = path(conf::FLOOR_FILE);
    if !files::exists(&floor)? {
        // PostgreSQL's every process would log that it is missing, at every reload.
        files::write_atomic(&floor, conf::HEADER.as_bytes(), 0o600, user)?;
    }
    for (name, text) in rendered {
        done.changed |= files::write_if_changed(&path(name), text.as_bytes(), 0o600, user)?;
    }
    Ok(done)
}

/// Raises settings that are lower than the WAL of this data directory allows for a standby, since
/// every start of ours is that of one, and PostgreSQL would refuse it. So such a setting cannot be
/// lowered on a cluster that has run with a higher one. Returns what was raised, with the values
/// that it needs: to be reported, not an error. To be called after [`install`].
pub async fn raise_to_floor(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
    control: &ControlData,
) -> Result<BTreeMap<String, u64>, Error> {
    let path = layout.pgdata.join(conf::FLOOR_FILE);
    files::write_atomic(&path, conf::HEADER.as_bytes(), 0o600, user)?;
    let mut raised = BTreeMap::new();
    let mut text = conf::HEADER.to_owned();
    for (name, least) in &control.floor {
        let output = Command::new(&binaries.program("postgres"), user, CHECK_DEADLINE)
            .args(place_arguments(layout))
            .args(["-C", *name])
            .run()
            .await?;
        if !output.success {
            return Err(Error::Settings { message: output.stderr.trim().to_owned() });
        }
        // What cannot be read is raised: too high a value costs memory, too low a one the start.
        let found = output.stdout.trim().parse().unwrap_or(0);
        if least > &found {
            text.push_str(&format!("{name} = {least}\n"));
            raised.insert((*name).to_owned(), *least);
        }
    }
    if !raised.is_empty() {
        files::write_atomic(&path, text.as_bytes(), 0o600, user)?;
    }
    Ok(raised)
}

/// Everything that must hold before a start. Also removes history files that would stop it.
/// Returns the control file, and the timelines whose history was removed.
pub async fn preflight(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
    expected: Option<SystemId>,
    listen_addresses: &str,
    port: u16,
) -> Result<(ControlData, Vec<Timeline>), Error> {
    let pgdata = || layout.pgdata.clone();
    let control = match controldata::inspect(binaries, user, &layout.pgdata).await? {
        DataDirectory::Absent | DataDirectory::Empty => {
            return Err(Error::NoData { pgdata: pgdata() });
        }
        DataDirectory::Foreign { why } => return Err(Error::NotData { pgdata: pgdata(), why }),
        DataDirectory::OtherVersion { found } => {
            let programs = binaries.major();
            return Err(Error::OtherVersion { pgdata: pgdata(), found, programs });
        }
        DataDirectory::Present(control) => control,
    };
    if let Some(why) = layout.incomplete()? {
        return Err(Error::Incomplete { pgdata: pgdata(), why });
    }
    if let Some(expected) = expected.filter(|e| *e != control.system_id) {
        return Err(Error::Foreign { pgdata: pgdata(), found: control.system_id, expected });
    }
    let meta = std::fs::metadata(&layout.pgdata)
        .map_err(|e| files::Error::new("look at", &layout.pgdata, e))?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o027 != 0 {
        return Err(Error::Mode { pgdata: pgdata(), mode });
    }
    if meta.uid() != user.uid() {
        return Err(Error::Owner { pgdata: pgdata(), found: meta.uid(), user: user.name().into() });
    }
    check_port(listen_addresses, port)?;
    let wal = layout.wal_dir();
    let own = control.newest_timeline();
    let removed = history::remove_unwritten(&wal, own, control.segment_bytes)?;
    Ok((control, removed))
}

/// Whether all addresses can be listened at.
pub fn check_port(listen_addresses: &str, port: u16) -> Result<(), Error> {
    for address in listen_addresses.split(',').map(str::trim).filter(|a| !a.is_empty()) {
        let host = match address {
            "*" => "0.0.0.0",
            other => other,
        };
        let error = |e: std::io::Error| Error::Port {
            address: address.to_owned(),
            port,
            why: e.to_string(),
        };
        let targets = (host, port).to_socket_addrs().map_err(error)?;
        for target in targets {
            TcpListener::bind(target).map_err(error)?;
        }
    }
    Ok(())
}

/// The process of a live server that has this data directory and is none of our tree: by its lock
/// file, the name of its program, and its working directory, since the number alone could be that
/// of anybody. To be asked where no tree of ours runs.
pub fn stranger(layout: &Layout) -> Result<Option<i32>, files::Error> {
    let Some(content) = files::read_if_exists(&layout.pgdata.join("postmaster.pid"))? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&content);
    let pid: Option<i32> = text.lines().next().and_then(|line| line.trim().parse().ok());
    let Some(pid) = pid.filter(|pid| *pid > 0) else { return Ok(None) };
    let proc = Path::new("/proc").join(pid.to_string());
    let name = std::fs::read_to_string(proc.join("comm")).unwrap_or_default();
    let (Ok(cwd), Ok(pgdata)) =
        (std::fs::read_link(proc.join("cwd")), std::fs::canonicalize(&layout.pgdata))
    else {
        return Ok(None);
    };
    // Older packages start it by its old name.
    let server = ["postgres", "postmaster"].contains(&name.trim());
    Ok((server && cwd == pgdata).then_some(pid))
}

/// Removes the lock files of a server that is gone: `postmaster.pid` and the socket's. Only after
/// its process tree was *proven* empty. They hold process ids of a namespace that is gone, which
/// can be those of strangers here. Returns whether there were any.
pub fn remove_stale_locks(layout: &Layout, port: u16) -> Result<bool, Error> {
    if stranger(layout)?.is_some() {
        // It is not ours, and would stop at once without its lock file.
        return Ok(false);
    }
    let socket = format!(".s.PGSQL.{port}");
    let mut any = false;
    for path in [
        layout.pgdata.join("postmaster.pid"),
        layout.socket_dir.join(format!("{socket}.lock")),
        layout.socket_dir.join(socket),
    ] {
        any |= files::remove_if_exists(&path)?;
    }
    Ok(any)
}
