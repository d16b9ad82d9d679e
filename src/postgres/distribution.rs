//! What of the distribution would start a server on a data directory, and how that is turned off.
//!
//! Owns Debian's `start.conf` (`pg_createcluster(1)`) and the units of systemd that name the
//! directory (`systemd.unit(5)`). A unit is masked and not disabled: whether it was enabled stays as
//! it was, so that `systemctl unmask` undoes all of it. What was done is kept beside the old
//! configuration, as a script that undoes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::adopt::settings;
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
    #[error("{unit} could not be masked: {source}; run as root: systemctl mask {unit}")]
    Mask {
        /// The unit.
        unit: String,
        /// Why.
        source: os_user::Error,
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
            Self::StartConf { path } => format!("write `disabled` into {}", path.display()),
            Self::Unit { name, .. } => format!("systemctl mask {name}"),
        }
    }

    /// What was done, for a person.
    fn done(&self) -> String {
        match self {
            Self::StartConf { path } => format!("{} says `disabled`", path.display()),
            Self::Unit { name, .. } => format!("{name} is masked"),
        }
    }

    /// Why it cannot be turned off by `us`, and what to do, if so.
    pub fn hindrance(&self, us: &OsUser) -> Option<String> {
        match self {
            Self::Unit { name, local: Some(path) } => Some(format!(
                "{name} would start it, and cannot be masked, since {} is in the place of the mask: \
                 run as root: systemctl disable {name}, and move that file away",
                path.display()
            )),
            _ if us.uid() == 0 => None,
            Self::Unit { name, .. } => Some(format!(
                "{name} would start it, and hanode does not run as root: run as root: systemctl \
                 mask {name}"
            )),
            Self::StartConf { path } => {
                use std::os::unix::fs::MetadataExt;
                let dir = path.parent().and_then(|dir| std::fs::metadata(dir).ok());
                let ours = dir.is_some_and(|meta| meta.uid() == us.uid());
                (!ours).then(|| {
                    format!(
                        "Debian would start it, and hanode, as user {}, may not change that: write \
                         `disabled` into {}",
                        us.name(),
                        path.display()
                    )
                })
            }
        }
    }
}

impl Machine {
    /// The cluster of Debian whose data is in this directory, by what its configuration says; where
    /// that does not say it, by the name of the directory.
    pub fn debian(&self, pgdata: &Path) -> Option<Debian> {
        let own = real(pgdata);
        let mut found = Vec::new();
        for version in entries(&self.debian) {
            for dir in entries(&self.debian.join(&version)) {
                let name = dir;
                let dir = self.debian.join(&version).join(&name);
                let conf = dir.join("postgresql.conf");
                if !conf.exists() {
                    continue;
                }
                let mut all = BTreeMap::new();
                // What cannot be read is told of where it is read for its settings.
                let _ = settings(&conf, 0, &mut all);
                let there = match all.get("data_directory").filter(|p| !p.is_empty()) {
                    Some(path) => real(Path::new(path)) == own,
                    None => own.ends_with(Path::new(&version).join(&name)),
                };
                if there {
                    found.push(Debian { dir, version: version.clone(), name });
                }
            }
        }
        found.into_iter().next()
    }

    /// Everything that would start a server on this directory, at boot or when it is asked for by
    /// name.
    ///
    /// # Errors
    /// `start.conf` cannot be read.
    pub fn starters(&self, pgdata: &Path) -> Result<Vec<Starter>, files::Error> {
        let mut starters = Vec::new();
        let debian = self.debian(pgdata);
        if let Some(debian) = &debian {
            let path = debian.dir.join("start.conf");
            let text = files::read_if_exists(&path)?.unwrap_or_default();
            if start_mode(&String::from_utf8_lossy(&text)) != "disabled" {
                starters.push(Starter::StartConf { path });
            }
        }
        if !self.runtime_units.exists() {
            return Ok(starters);
        }
        let mut names = self.units_on(pgdata);
        if let Some(debian) = debian
            && self.unit_dirs().any(|dir| dir.join("postgresql@.service").exists())
        {
            names.push(debian.unit());
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
    pub fn stop_hint(&self, pgdata: &Path) -> String {
        let unit = self.runtime_units.exists().then(|| self.units_on(pgdata).into_iter().next());
        match (self.debian(pgdata), unit.flatten()) {
            (Some(d), _) => format!("stop it: pg_ctlcluster {} {} stop", d.version, d.name),
            (None, Some(unit)) => format!("stop it: systemctl stop {unit}"),
            (None, None) => format!("stop it: pg_ctl stop -D {}", pgdata.display()),
        }
    }

    fn unit_dirs(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.local_units, &self.runtime_units].into_iter().chain(&self.vendor_units)
    }

    fn is_masked(&self, unit: &str) -> bool {
        [&self.local_units, &self.runtime_units].into_iter().any(|dir| {
            let path = dir.join(unit);
            let empty = || std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == 0);
            std::fs::read_link(&path).is_ok_and(|to| to == Path::new("/dev/null")) || empty()
        })
    }

    /// Units that start a server on this directory by what their files say. Instances of templates
    /// are not among them.
    fn units_on(&self, pgdata: &Path) -> Vec<String> {
        let own = real(pgdata);
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        for dir in self.unit_dirs() {
            for file in entries(dir) {
                let path = dir.join(&file);
                if file.ends_with(".service") && !file.contains('@') {
                    // The first one hides the others of its name; a link is another name for it.
                    if !texts.contains_key(&file) && !path.is_symlink() {
                        texts.insert(file, read(&path));
                    }
                }
            }
        }
        for dir in self.unit_dirs() {
            for (unit, text) in &mut texts {
                let drop_ins = dir.join(format!("{unit}.d"));
                for file in entries(&drop_ins).into_iter().filter(|f| f.ends_with(".conf")) {
                    text.push('\n');
                    text.push_str(&read(&drop_ins.join(file)));
                }
            }
        }
        let starts = |(name, text): (String, String)| starts_server(&text, &own).then_some(name);
        texts.into_iter().filter_map(starts).collect()
    }

    /// Turns all of this off. The old `start.conf`, and a script that undoes everything, are in
    /// `aside` before anything is changed. Nothing is done twice. Says what was done, for a person.
    ///
    /// # Errors
    /// Something could not be turned off; what was turned off before stays so.
    pub async fn turn_off(
        &self,
        pgdata: &Path,
        aside: &Path,
        owner: &OsUser,
        postgres: &OsUser,
    ) -> Result<Option<String>, Error> {
        let (machine, data) = (self.clone(), pgdata.to_path_buf());
        let (place, us, user) = (aside.to_path_buf(), owner.clone(), postgres.clone());
        let begun = on_thread(move || {
            let starters = machine.starters(&data)?;
            if !starters.is_empty() {
                keep(&starters, &place, &us)?;
            }
            for starter in &starters {
                if let Starter::StartConf { path } = starter {
                    disable(path, &place, &us, &user)?;
                }
            }
            Ok(starters)
        });
        let starters = begun.await?;
        if starters.is_empty() {
            return Ok(None);
        }
        for starter in &starters {
            let Starter::Unit { name, .. } = starter else { continue };
            let masked = Command::new(&self.systemctl, owner, MASK).args(["mask", name]).run_ok();
            masked.await.map_err(|source| Error::Mask { unit: name.clone(), source })?;
        }
        let (machine, data) = (self.clone(), pgdata.to_path_buf());
        let left = on_thread(move || machine.starters(&data)).await?;
        if let Some(starter) = left.first() {
            return Err(Error::StillOn { step: starter.step() });
        }
        let done: Vec<String> = starters.iter().map(Starter::done).collect();
        let undo = aside.join(UNDO);
        Ok(Some(format!("{}; to undo it: sh {}", done.join(", "), undo.display())))
    }
}

/// Files may lie on a disk that hangs: no thread waits for them that others need.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, files::Error> + Send + 'static,
) -> Result<T, files::Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        let source = std::io::Error::other(e.to_string());
        Err(files::Error::new("finish work on", Path::new("the configuration"), source))
    })
}

/// What the old `start.conf` said, and how everything is undone.
fn keep(starters: &[Starter], aside: &Path, owner: &OsUser) -> Result<(), files::Error> {
    files::ensure_dir(aside, 0o700, owner)?;
    let script = aside.join(UNDO);
    let known = files::read_if_exists(&script)?.unwrap_or_default();
    let mut text = String::from_utf8_lossy(&known).into_owned();
    if text.is_empty() {
        text.push_str(
            "# Gives back to the distribution what Quorate has turned off. Run as root,\n",
        );
        text.push_str("# once Quorate does not manage this data directory any more.\n");
    }
    for starter in starters {
        let line = match starter {
            Starter::StartConf { path } => match files::read_if_exists(path)? {
                Some(old) => {
                    let kept = aside.join("start.conf");
                    files::write_atomic(&kept, &old, 0o600, owner)?;
                    // The file keeps its mode and its owner.
                    format!("cat {} > {}", quoted(&kept), quoted(path))
                }
                None => format!("rm -f {}", quoted(path)),
            },
            Starter::Unit { name, .. } => format!("systemctl unmask {}", quoted(Path::new(name))),
        };
        if !text.lines().any(|known| known == line) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    files::write_if_changed(&script, text.as_bytes(), 0o600, owner)?;
    Ok(())
}

fn disable(
    path: &Path,
    aside: &Path,
    owner: &OsUser,
    postgres: &OsUser,
) -> Result<(), files::Error> {
    use std::os::unix::fs::MetadataExt;
    let old = files::read_if_exists(path)?.unwrap_or_default();
    let text = disabled(&String::from_utf8_lossy(&old), aside);
    // It stays whose it was; the directory's, where it is new.
    let meta = std::fs::metadata(path).or_else(|_| std::fs::metadata(path.with_file_name(".")));
    let theirs = meta.as_ref().is_ok_and(|m| m.uid() == postgres.uid());
    let user = if theirs { postgres } else { owner };
    files::write_atomic(path, text.as_bytes(), 0o644, user)
}

/// What `start.conf` says: `auto`, `manual` or `disabled`; `auto` where it says nothing.
fn start_mode(text: &str) -> &str {
    let mut words = text.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
    words.find(|w| !w.is_empty()).unwrap_or("auto")
}

/// The same file with `disabled` in it, and its comments. systemd's generator wants one line that is
/// no comment.
fn disabled(text: &str, aside: &Path) -> String {
    let mut new = String::new();
    for line in text.lines() {
        let bare = line.trim_start();
        if bare.is_empty() || bare.starts_with('#') {
            new.push_str(line);
            new.push('\n');
        }
    }
    let undo = aside.join(UNDO);
    new.push_str("# Quorate runs a server on this data directory. To undo this:\n");
    new.push_str(&format!("#   sh {}\ndisabled\n", undo.display()));
    new
}

/// Whether a unit starts a server, and on this directory, by the text of its files.
fn starts_server(text: &str, pgdata: &Path) -> bool {
    let mut starts = false;
    let mut named = false;
    let joined = text.replace("\\\n", " ");
    for line in joined.lines() {
        let Some((key, value)) = line.trim().split_once('=') else { continue };
        let words = || value.split(|c: char| c.is_whitespace() || "\"'=".contains(c));
        let names = || words().any(|w| w.starts_with('/') && real(Path::new(w)) == *pgdata);
        match key.trim() {
            "Environment" if value.contains("PGDATA=") => named |= names(),
            "ExecStart" => {
                let program = |word: &str| {
                    let path = word.trim_start_matches(['-', '@', ':', '+', '!']);
                    path.rsplit('/').next().unwrap_or_default().to_owned()
                };
                let has = |wanted: &[&str]| words().any(|w| wanted.contains(&program(w).as_str()));
                starts |= has(&["postgres", "postmaster"])
                    || (has(&["pg_ctl"]) && has(&["start", "restart"]));
                named |= names();
            }
            _ => {}
        }
    }
    starts && named
}

fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

fn read(path: &Path) -> String {
    let content = files::read_if_exists(path).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&content).into_owned()
}

/// Names in a directory, sorted; none where it cannot be read.
fn entries(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> =
        all.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// A word for a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

#[cfg(test)]
#[path = "distribution_test.rs"]
mod tests;
