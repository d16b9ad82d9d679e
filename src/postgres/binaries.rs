//! PostgreSQL's programs on this machine.
//!
//! Owns where they are and which version they have. One installation serves one member.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::os_user::{self, Command, OsUser};

/// Oldest major version that works: `primary_conninfo` can be reloaded since 13.
pub const MAJOR_MIN: u32 = 13;
/// Newest major version that this was written for.
pub const MAJOR_MAX: u32 = 18;

/// The programs that a member cannot do without.
const REQUIRED: [&str; 5] = ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"];

const DEADLINE: Duration = Duration::from_secs(10);

/// Why no usable installation was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not where it should be.
    #[error(
        "{program} is missing in {}; install the Debian package postgresql-{package} \
         or set the directory of PostgreSQL's programs", dir.display()
    )]
    Missing {
        /// The directory that was searched.
        dir: PathBuf,
        /// The program.
        program: &'static str,
        /// The version in the package's name, such as "15".
        package: String,
    },
    /// Nothing was configured and nothing was found.
    #[error(
        "PostgreSQL's programs were found neither in /usr/lib/postgresql/*/bin nor in PATH; \
         install the Debian package postgresql-{package} or set their directory"
    )]
    NotFound {
        /// The version in the package's name.
        package: String,
    },
    /// `postgres --version` printed something else.
    #[error("{}/postgres printed no version that is known: {text:?}", dir.display())]
    Unreadable {
        /// The directory.
        dir: PathBuf,
        /// What it printed.
        text: String,
    },
    /// A version that is not supported.
    #[error(
        "PostgreSQL {version} in {} is not supported; versions {MAJOR_MIN} to {MAJOR_MAX} are",
        dir.display()
    )]
    Unsupported {
        /// The directory.
        dir: PathBuf,
        /// Its version.
        version: Version,
    },
    /// The program could not be run.
    #[error(transparent)]
    Run(#[from] os_user::Error),
}

/// A version of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Major version, such as 15.
    pub major: u32,
    /// The whole number as printed, such as "15.8" or "18beta1".
    pub full: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl Version {
    /// Parses what `postgres --version` prints, such as `postgres (PostgreSQL) 15.8 (Debian
    /// 15.8-1)`. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let full = text.trim().split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
        let end = full.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(full.len());
        let major = full.get(..end)?.parse().ok()?;
        Some(Self { major, full: full.to_owned() })
    }
}

/// A checked set of programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    version: Version,
}

impl Binaries {
    /// Finds PostgreSQL's programs: in `configured`, or else the newest supported version (or the
    /// one of `major`) in `/usr/lib/postgresql/*/bin`, or else in `PATH`.
    pub async fn find(
        configured: Option<&Path>,
        major: Option<u32>,
        user: &OsUser,
    ) -> Result<Self, Error> {
        if let Some(dir) = configured {
            return Self::check(dir, major, user).await;
        }
        let mut last = None;
        for dir in candidates(major) {
            match Self::check(&dir, major, user).await {
                Ok(found) => return Ok(found),
                Err(e) => last = last.or(Some(e)),
            }
        }
        Err(last.unwrap_or(Error::NotFound { package: package(major) }))
    }

    /// Checks that `dir` holds every program needed, in a supported version.
    pub async fn check(dir: &Path, major: Option<u32>, user: &OsUser) -> Result<Self, Error> {
        for program in REQUIRED {
            if !dir.join(program).is_file() {
                let named = dir.parent().and_then(Path::file_name).and_then(|n| n.to_str());
                let package = match named.filter(|n| n.bytes().all(|b| b.is_ascii_digit())) {
                    Some(n) => n.to_owned(),
                    None => package(major),
                };
                return Err(Error::Missing { dir: dir.to_owned(), program, package });
            }
        }
        let output =
            Command::new(&dir.join("postgres"), user, DEADLINE).arg("--version").run_ok().await?;
        let Some(version) = Version::parse(&output.stdout) else {
            return Err(Error::Unreadable { dir: dir.to_owned(), text: output.stdout });
        };
        let supported = (MAJOR_MIN..=MAJOR_MAX).contains(&version.major);
        if !supported || major.is_some_and(|m| m != version.major) {
            return Err(Error::Unsupported { dir: dir.to_owned(), version });
        }
        Ok(Self { dir: dir.to_owned(), version })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.version.major
    }

    /// The path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn package(major: Option<u32>) -> String {
    major.unwrap_or(MAJOR_MAX).to_string()
}

/// Where to look, best first.
fn candidates(major: Option<u32>) -> Vec<PathBuf> {
    let debian = Path::new("/usr/lib/postgresql");
    let mut found: Vec<u32> = std::fs::read_dir(debian)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|m| (MAJOR_MIN..=MAJOR_MAX).contains(m) && major.is_none_or(|want| want == *m))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    let mut dirs: Vec<_> =
        found.into_iter().map(|m| debian.join(m.to_string()).join("bin")).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    dirs.extend(std::env::split_paths(&path).filter(|d| d.join("postgres").is_file()));
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed() {
        for (text, major, full) in [
            ("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n", 15, "15.8"),
            ("postgres (PostgreSQL) 13.0", 13, "13.0"),
            ("postgres (PostgreSQL) 18beta1", 18, "18beta1"),
            ("postgres (PostgreSQL) 17devel", 17, "17devel"),
        ] {
            assert_eq!(Version::parse(text), Some(Version { major, full: full.to_owned() }));
        }
        for text in ["", "postgres 15", "postgres (PostgreSQL) ", "postgres (PostgreSQL) x"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_missing_program_names_the_package() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("14/bin");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("postgres"), "").unwrap();
        let user = OsUser::current().unwrap();
        let error = Binaries::find(Some(&dir), None, &user).await.unwrap_err().to_string();
        assert!(error.contains("initdb is missing in"), "{error}");
        assert!(error.contains("postgresql-14"), "{error}");
    }
}
