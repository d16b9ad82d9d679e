//! Users and passwords of our own connections.
//!
//! Owns where passwords may be: in files of mode 0600, in memory, and in a password file for
//! PostgreSQL's programs (PostgreSQL manual, section 34.16). Never in arguments, settings, logs or
//! errors.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::files;
use super::os_user::OsUser;

/// Longest password that is accepted, in bytes.
const PASSWORD_BYTES_MAX: usize = 512;

/// Why a password was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others could read it.
    #[error(
        "{} has mode {mode:04o}, so others can read the password in it; run: chmod 600 {}",
        path.display(), path.display()
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a password that works everywhere.
    #[error(
        "{} holds no usable password: it must be one line of 1 to {PASSWORD_BYTES_MAX} bytes of \
         UTF-8 without control characters", path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// A user name that PostgreSQL would cut or that needs care everywhere.
    #[error("{name:?} is not a usable user name: 1 to 63 characters of a-z, 0-9 and '_'")]
    UserName {
        /// The name.
        name: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// A password. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Password {
    /// Takes a password, or gives `None` where it is not one line of 1 to 512 bytes.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let fits = (1..=PASSWORD_BYTES_MAX).contains(&text.len());
        (fits && !text.chars().any(char::is_control)).then_some(Self(text))
    }

    /// Reads a password from a file that only its owner can read. One newline at the end is cut.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let error = |action, e| files::Error::new(action, path, e);
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| error("open", e))?;
        let meta = file.metadata().map_err(|e| error("look at", e))?;
        let mode = meta.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::Mode { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        let content = || Error::Content { path: path.to_owned() };
        file.take(PASSWORD_BYTES_MAX as u64 + 2)
            .read_to_string(&mut text)
            .map_err(|_| content())?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Self::new(line.strip_suffix('\r').unwrap_or(line)).ok_or_else(content)
    }

    /// The password itself, for a connection.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Its SCRAM verifier with a fresh salt: what `pg_authid` stores (PostgreSQL manual, section
    /// 53.8). The password cannot be got back from it.
    pub fn verifier(&self) -> String {
        postgres_protocol::password::scram_sha_256(self.0.as_bytes())
    }
}

/// A user and its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    user: String,
    password: Password,
}

impl Login {
    /// Checks the user's name.
    pub fn new(user: impl Into<String>, password: Password) -> Result<Self, Error> {
        let name = user.into();
        let plain = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        let fits = (1..=63).contains(&name.len()) && !name.starts_with(|c: char| c.is_numeric());
        if plain && fits && !name.starts_with("pg_") {
            Ok(Self { user: name, password })
        } else {
            Err(Error::UserName { name })
        }
    }

    /// The user.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Its line of a password file, for every host and database (PostgreSQL manual, section 34.16).
    fn passfile_line(&self) -> String {
        let escape = |s: &str| s.replace('\\', "\\\\").replace(':', "\\:");
        format!("*:*:*:{}:{}\n", escape(&self.user), escape(&self.password.0))
    }

    /// The password.
    pub fn password(&self) -> &Password {
        &self.password
    }
}

/// The three users that we connect as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// For our own session on this machine.
    pub superuser: Login,
    /// For walreceivers and base backups.
    pub replication: Login,
    /// For `pg_rewind`.
    pub rewind: Login,
}

/// A user and the file with its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginSource {
    /// The user.
    pub user: String,
    /// The file: one line, mode 0600.
    pub password_file: PathBuf,
}

impl LoginSource {
    /// Reads the file.
    pub fn load(&self) -> Result<Login, Error> {
        Login::new(self.user.clone(), Password::load(&self.password_file)?)
    }
}

impl Credentials {
    /// Reads all three.
    pub fn load(
        superuser: &LoginSource,
        replication: &LoginSource,
        rewind: &LoginSource,
    ) -> Result<Self, Error> {
        Ok(Self {
            superuser: superuser.load()?,
            replication: replication.load()?,
            rewind: rewind.load()?,
        })
    }

    /// The content of the password file for PostgreSQL's programs: the replication user and the
    /// rewind user, for every host. The superuser's password is not in it.
    fn passfile(&self) -> String {
        [&self.replication, &self.rewind].map(Login::passfile_line).concat()
    }

    /// Writes a password file with the superuser alone, for the operator: mode 0600, of `owner`.
    pub fn write_superuser_passfile(&self, path: &Path, owner: &OsUser) -> Result<bool, Error> {
        let content = self.superuser.passfile_line();
        Ok(files::write_if_changed(path, content.as_bytes(), 0o600, owner)?)
    }

    /// Writes the password file with mode 0600 for `user`. Returns whether it changed.
    pub fn write_passfile(&self, path: &Path, user: &OsUser) -> Result<bool, Error> {
        Ok(files::write_if_changed(path, self.passfile().as_bytes(), 0o600, user)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn login(user: &str, password: &str) -> Login {
        Login::new(user, Password::new(password).unwrap()).unwrap()
    }

    #[test]
    fn passwords_are_not_shown() {
        let all = Credentials {
            superuser: login("admin", "geheim"),
            replication: login("replicator", "ge:he\\im"),
            rewind: login("rewinder", "geheim"),
        };
        assert!(!format!("{all:?}").contains("ge"), "{all:?}");
        assert_eq!(all.passfile(), "*:*:*:replicator:ge\\:he\\\\im\n*:*:*:rewinder:geheim\n");
        let verifier = all.superuser.password().verifier();
        assert!(verifier.starts_with("SCRAM-SHA-256$4096:") && !verifier.contains("geheim"));
    }

    #[test]
    fn loose_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let set = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Password::load(&path)
        };
        assert_eq!(set("geheim\n", 0o600).unwrap(), Password("geheim".into()));
        assert_eq!(set("geheim", 0o400).unwrap(), Password("geheim".into()));
        for mode in [0o640, 0o604, 0o660] {
            let error = set("geheim", mode).unwrap_err();
            assert!(matches!(error, Error::Mode { .. }), "{error}");
            assert!(error.to_string().contains("chmod 600"));
        }
        for bad in ["", "\n", "a\nb\n", &"x".repeat(513)] {
            assert!(matches!(set(bad, 0o600), Err(Error::Content { .. })), "{bad:?}");
        }
        assert!(Login::new("a'b", Password::new("x").unwrap()).is_err());
        assert!(Login::new("", Password::new("x").unwrap()).is_err());
    }
}
