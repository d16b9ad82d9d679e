//! What of the distribution would start a server on a data directory, and how that is turned off.
//!
//! Owns Debian's `start.conf` (`pg_createcluster(1)`) and the units of systemd that name the
//! directory (`systemd.unit(5)`). A unit is masked and not disabled: whether it was enabled stays as
//! it was, so that `systemctl unmask` undoes all of it. What was done is kept beside the old
//! configuration, as a script that undoes it.

use std::path::{Path, PathBuf};
use std::time::Duration;

mod command;
mod start_conf;
mod undo;
mod units;

use super::adopt::Settings;
use super::files;
use super::os_user::{self, Command, OsUser};

/// How long `systemctl mask` may take: it waits for systemd to read all of its units again.
const MASK: Duration = Duration::from_secs(30);
/// The script that undoes what was turned off, in the directory of what is kept aside.
pub const UNDO: &str = "undo.sh";

/// Why it was not turned off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `systemctl` failed.
    #[error("{unit} could not be masked: {source}; run as root: systemctl mask {unit}{}",
        if done.is_empty() { String::new() } else { format!("; done before: {done}") })]
    Mask {
        /// The unit.
        unit: String,
        /// Why.
        source: os_user::Error,
        /// What was turned off before, and how that is undone; empty where nothing was.
        done: String,
    },
    /// It is known before that something cannot be turned off. Nothing was done.
    #[error("{why}")]
    Hindered {
        /// Why, and what to do.
        why: String,
    },
    /// What would start a server is not known.
    #[error("what else would start a server on the data cannot be found out: {why}")]
    Unclear {
        /// Why.
        why: String,
    },
    /// It says that it did it, and it is not so.
    #[error("{step} did not help: it would still be started; do it by hand")]
    StillOn {
        /// What was to be done.
        step: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Where a machine keeps what starts its servers.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Debian's directory of configurations.
    pub debian: PathBuf,
    /// Is there while systemd runs, and has units for as long as it runs.
    pub runtime_units: PathBuf,
    /// Units of the operator, and masks.
    pub local_units: PathBuf,
    /// Units of packages.
    pub vendor_units: Vec<PathBuf>,
    /// The program that talks to systemd.
    pub systemctl: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            debian: "/etc/postgresql".into(),
            runtime_units: "/run/systemd/system".into(),
            local_units: "/etc/systemd/system".into(),
            vendor_units: vec![
                "/usr/local/lib/systemd/system".into(),
                "/usr/lib/systemd/system".into(),
                "/lib/systemd/system".into(),
            ],
            systemctl: "systemctl".into(),
        }
    }
}

/// A cluster of Debian's `pg_createcluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debian {
    /// Directory of its configuration.
    pub dir: PathBuf,
    /// Its major version, as in paths.
    pub version: String,
    /// Its name.
    pub name: String,
}

impl Debian {
    /// The unit of systemd that starts it.
    pub fn unit(&self) -> String {
        format!("postgresql@{}-{}.service", self.version, self.name)
    }
}

/// Something that would start a server on the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Starter {
    /// Debian's `start.conf` allows it.
    StartConf {
        /// The file. It need not be there.
        path: PathBuf,
        /// What it says, if it is there.
        mode: Option<&'static str>,
    },
    /// A unit of systemd that is not masked.
    Unit {
        /// Its name.
        name: String,
        /// Its file, where that lies in the place of a mask.
        local: Option<PathBuf>,
    },
}

impl Starter {
    /// What turns it off, for a person.
    pub fn step(&self) -> String {
        match self {
            Self::StartConf { path, .. } => format!("write `disabled` into {}", path.display()),
            Self::Unit { name, .. } => format!("systemctl mask {name}"),
        }
    }

    /// What was done, and how it is undone, for a person; empty where nothing was done.
    fn all_done(done: &[&Self], script: &Path) -> String {
        if done.is_empty() {
            return String::new();
        }
        let done: Vec<String> = done.iter().map(|starter| starter.done()).collect();
        format!("{}; to undo it: sh {}", done.join(", "), script.display())
    }

    /// What was done, for a person.
    fn done(&self) -> String {
        match self {
            Self::StartConf { path, .. } => format!("{} says `disabled`", path.display()),
            Self::Unit { name, .. } => format!("{name} is masked"),
        }
    }
}

impl Machine {
    /// Why a starter cannot be turned off by `us` or by the user of PostgreSQL, and what to do, if
    /// so.
    pub fn hindrance(&self, starter: &Starter, us: &OsUser, postgres: &OsUser) -> Option<String> {
        match starter {
            Starter::Unit { name, local: Some(path) } => Some(format!(
                "{name} would start it, and cannot be masked, since {} is in the place of the mask: \
                 run as root: systemctl disable {name}, and move that file away",
                path.display()
            )),
            Starter::Unit { name, .. } => (us.uid() != 0).then(|| {
                format!(
                    "{name} would start it, and hanode does not run as root: run as root: systemctl \
                     mask {name}"
                )
            }),
            Starter::StartConf { path, .. } => {
                let hands = start_conf::hands(&self.debian, files::parent(path), us, postgres);
                hands.is_none().then(|| {
                    format!(
                        "Debian would start it, and hanode, as user {}, may not change that: write \
                         `disabled` into {}, whose directory belongs neither to user {} nor, with \
                         those above it, to root alone",
                        us.name(),
                        path.display(),
                        postgres.name()
                    )
                })
            }
        }
    }

    /// The clusters of Debian whose data is in this directory, by what their configuration says;
    /// where that does not say it, by the name of the directory. Read this with the rights of
    /// PostgreSQL's user ([`OsUser::act`]), who may write there.
    ///
    /// # Errors
    /// The configuration of one cannot be read, so whose data it has is not known.
    pub fn debian(&self, pgdata: &Path) -> Result<Vec<Debian>, Error> {
        let own = real(pgdata);
        let mut found = Vec::new();
        for version in entries(&self.debian)? {
            for name in entries(&self.debian.join(&version))? {
                let dir = self.debian.join(&version).join(&name);
                let conf = dir.join("postgresql.conf");
                if !is_there(&conf)? {
                    continue;
                }
                let mut all = Settings::default();
                all.read(&conf).map_err(|e| Error::Unclear { why: e.to_string() })?;
                let there = match all.values.get("data_directory").filter(|p| !p.is_empty()) {
                    Some(path) => real(Path::new(path)) == own,
                    None => own.ends_with(Path::new(&version).join(&name)),
                };
                if there {
                    found.push(Debian { dir, version: version.clone(), name });
                }
            }
        }
        Ok(found)
    }

    /// Everything that would start a server on this directory, at boot or when it is asked for by
    /// name. `postgres` is the user of PostgreSQL.
    ///
    /// # Errors
    /// Something cannot be read: what would start a server is not known.
    pub fn starters(&self, pgdata: &Path, postgres: &OsUser) -> Result<Vec<Starter>, Error> {
        let mut starters = Vec::new();
        let debian = files::as_user(postgres, &self.debian, || {
            let debian = self.debian(pgdata)?;
            for cluster in &debian {
                let path = cluster.dir.join("start.conf");
                let mode = start_conf::mode(&path)?;
                if mode != Some("disabled") {
                    starters.push(Starter::StartConf { path, mode });
                }
            }
            Ok::<_, Error>(debian)
        })?;
        if !is_there(&self.runtime_units)? {
            return Ok(starters);
        }
        let mut names = self.units_on(&real(pgdata), &debian)?;
        if self.unit_dirs().any(|dir| dir.join("postgresql@.service").exists()) {
            names.extend(debian.iter().map(Debian::unit));
        }
        names.sort();
        names.dedup();
        for name in names.into_iter().filter(|name| !self.is_masked(name)) {
            let local = self.local_units.join(&name);
            let local = local.symlink_metadata().is_ok().then_some(local);
            starters.push(Starter::Unit { name, local });
        }
        Ok(starters)
    }

    /// How the server on this directory is stopped, for a person.
    pub fn stop_hint(&self, pgdata: &Path, postgres: &OsUser) -> String {
        let debian = files::as_user(postgres, &self.debian, || self.debian(pgdata));
        if let Some(d) = debian.unwrap_or_default().first() {
            return format!("stop it: pg_ctlcluster {} {} stop", d.version, d.name);
        }
        let units = match self.runtime_units.exists() {
            true => self.units_on(&real(pgdata), &[]).unwrap_or_default(),
            false => Vec::new(),
        };
        match units.first() {
            Some(unit) => format!("stop it: systemctl stop {unit}"),
            None => format!("stop it: pg_ctl stop -D {}", pgdata.display()),
        }
    }

    fn unit_dirs(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.local_units, &self.runtime_units].into_iter().chain(&self.vendor_units)
    }

    /// Whether it is masked for good: a mask of `systemctl mask --runtime` ends with a restart of the
    /// machine.
    fn is_masked(&self, unit: &str) -> bool {
        let path = self.local_units.join(unit);
        let empty = || std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == 0);
        std::fs::read_link(&path).is_ok_and(|to| to == Path::new("/dev/null")) || empty()
    }

    /// Units that start a server on this directory.
    fn units_on(&self, own: &Path, debian: &[Debian]) -> Result<Vec<String>, Error> {
        let dirs: Vec<&Path> = self.unit_dirs().map(PathBuf::as_path).collect();
        Ok(units::on(&dirs, own, debian)?)
    }

    /// Turns all of this off. A script that undoes everything is in `aside` before anything is
    /// changed. Nothing is done twice. Says what was done, for a person.
    ///
    /// # Errors
    /// Something could not be turned off; what was turned off before stays so, and is said.
    pub async fn turn_off(
        &self,
        pgdata: &Path,
        aside: &Path,
        us: &OsUser,
        postgres: &OsUser,
    ) -> Result<Option<String>, Error> {
        let script = aside.join(UNDO);
        let (machine, data, user) = (self.clone(), pgdata.to_path_buf(), postgres.clone());
        let (place, undo, own) = (aside.to_path_buf(), script.clone(), us.clone());
        let begun = on_thread(move || {
            let starters = machine.starters(&data, &user)?;
            machine.begin(&starters, &place, &undo, &own, &user)?;
            Ok(starters)
        });
        let starters = begun.await?;
        if starters.is_empty() {
            return Ok(None);
        }
        let mut done = Vec::new();
        for starter in &starters {
            if let Starter::Unit { name, .. } = starter {
                let masked = Command::new(&self.systemctl, us, MASK).args(["mask", name]).run_ok();
                masked.await.map_err(|source| {
                    let done = Starter::all_done(&done, &script);
                    Error::Mask { unit: name.clone(), source, done }
                })?;
            }
            done.push(starter);
        }
        let (machine, data, user) = (self.clone(), pgdata.to_path_buf(), postgres.clone());
        let left = on_thread(move || machine.starters(&data, &user)).await?;
        if let Some(starter) = left.first() {
            return Err(Error::StillOn { step: starter.step() });
        }
        Ok(Some(Starter::all_done(&done, &script)))
    }

    /// Looks whether all of it can be turned off, keeps how it is undone, and changes files.
    fn begin(
        &self,
        starters: &[Starter],
        aside: &Path,
        script: &Path,
        us: &OsUser,
        postgres: &OsUser,
    ) -> Result<(), Error> {
        let mut steps = Vec::new();
        let mut files = Vec::new();
        for starter in starters {
            if let Some(why) = self.hindrance(starter, us, postgres) {
                return Err(Error::Hindered { why });
            }
            match starter {
                Starter::Unit { name, .. } => steps.push(undo::Step::Unmask(name)),
                Starter::StartConf { path, mode } => {
                    let dir = files::parent(path);
                    let by = start_conf::hands(&self.debian, dir, us, postgres);
                    let by = by.unwrap_or(postgres);
                    steps.push(undo::Step::StartConf { path, mode: *mode, by });
                    files.push((path, by));
                }
            }
        }
        if steps.is_empty() {
            return Ok(());
        }
        files::ensure_dir(aside, 0o700, us)?;
        undo::write(script, &steps, us)?;
        for (path, by) in files {
            start_conf::disable(path, script, by)?;
        }
        Ok(())
    }
}

/// Files may lie on a disk that hangs: no thread waits for them that others need.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::Unclear { why: e.to_string() }))
}

fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Whether something is there, seen through links.
fn is_there(path: &Path) -> Result<bool, files::Error> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(files::Error::new("look at", path, e)),
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// Names in a directory, sorted; none where there is no such directory. Names that no program of the
/// distribution makes are left out: they are to be put into a script.
fn entries(dir: &Path) -> Result<Vec<String>, files::Error> {
    let failed = |e| files::Error::new("list", dir, e);
    let all = match std::fs::read_dir(dir) {
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        all => all.map_err(failed)?,
    };
    let odd = |c: char| c.is_control() || c.is_whitespace() || "'\"`$".contains(c);
    let mut names = Vec::new();
    for entry in all {
        let name = entry.map_err(failed)?.file_name().into_string();
        names.extend(name.ok().filter(|name| !name.contains(odd)));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
#[path = "distribution_test.rs"]
mod tests;
