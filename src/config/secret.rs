//! The secret that all nodes of a control plane share, and what is derived from it.
//!
//! Owns reading secret files and deriving passwords. Imports domain types only. Nothing here is
//! ever printed: `Debug` of both types hides the content.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::error::Problem;
use crate::domain::types::ClusterName;

/// Fewest characters of the shared secret. 32 hexadecimal digits are 128 bits.
pub const SECRET_CHARS_MIN: usize = 32;

/// Longest secret file that is read, in bytes: a wrong path must not fill the memory.
const FILE_BYTES_MAX: u64 = 4096;

/// The roles of PostgreSQL that the agent itself uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PasswordRole {
    /// The superuser: management queries.
    Superuser,
    /// Streaming replication and base backups.
    Replication,
    /// `pg_rewind` from the primary (PostgreSQL manual, `pg_rewind`, "Notes").
    Rewind,
}

impl PasswordRole {
    fn label(self) -> &'static str {
        match self {
            PasswordRole::Superuser => "superuser",
            PasswordRole::Replication => "replication",
            PasswordRole::Rewind => "rewind",
        }
    }
}

/// A password or token. Its `Debug` hides it and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The password itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// The shared secret of a control plane.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl Secret {
    /// Takes the content of a secret file; white space at its ends does not count. `None` where it
    /// is shorter than [`SECRET_CHARS_MIN`].
    pub fn new(content: &str) -> Option<Self> {
        let content = content.trim();
        let enough = content.chars().count() >= SECRET_CHARS_MIN;
        enough.then(|| Self(content.as_bytes().to_vec()))
    }

    /// Reads `path`, which is the value of `secret_file`. Refuses a file that is not a regular one,
    /// that group or others have any right on, and that is too short.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let content = read_private(path, "secret_file")?;
        Self::new(&content).ok_or_else(|| {
            Problem::new(
                "secret_file",
                path.display(),
                format!("holds fewer than {SECRET_CHARS_MIN} characters"),
                "write 64 random hexadecimal digits to it (scripts/secret.sh does), the same on \
                 every node",
            )
        })
    }

    /// Token that every RPC of control plane `control_plane` carries.
    pub fn rpc_token(&self, control_plane: &str) -> Password {
        self.derive(&["rpc-token", control_plane])
    }

    /// Password of `role` in `cluster`, for members that are not given one by file. The same on
    /// every member: roles are replicated with the data.
    pub fn password(
        &self,
        control_plane: &str,
        cluster: &ClusterName,
        role: PasswordRole,
    ) -> Password {
        self.derive(&["password", control_plane, cluster.as_str(), role.label()])
    }

    /// HMAC-SHA256 over the parts, each preceded by its length so that no two lists of parts give
    /// the same input; 64 hexadecimal digits.
    fn derive(&self, parts: &[&str]) -> Password {
        // The type has one more constructor, of fixed key size. This one takes any length, and
        // returns an error only for hash functions that limit it, which SHA-256 does not.
        let mut mac = match Hmac::<Sha256>::new_from_slice(&self.0) {
            Ok(mac) => mac,
            Err(e) => unreachable!("HMAC-SHA256 takes keys of any length: {e}"),
        };
        mac.update(b"quorate 1");
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        Password(mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect())
    }
}

/// Reads a password file, named by `key`: its first line, without the line end.
pub(super) fn read_password(path: &Path, key: &str) -> Result<Password, Problem> {
    let content = read_private(path, key)?;
    let line = content.lines().next().unwrap_or_default();
    if line.is_empty() {
        let problem = "its first line is empty";
        let mend = "write the password to its first line, or remove the key to have one derived";
        return Err(Problem::new(key, path.display(), problem, mend));
    }
    Ok(Password(line.to_owned()))
}

/// Reads a file that nobody but its owner may have rights on. Mode and content come from the same
/// open file, so that it cannot be exchanged between the two looks.
pub(super) fn read_private(path: &Path, key: &str) -> Result<String, Problem> {
    let refuse =
        |problem: String, mend: &str| Err(Problem::new(key, path.display(), problem, mend));
    // A FIFO would block an ordinary open for ever.
    let opened = {
        use std::os::unix::fs::OpenOptionsExt;
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
    };
    let file = match opened {
        Ok(file) => file,
        Err(e) => {
            let mend = "create it, readable by the user that runs hanode, mode 0600";
            return refuse(format!("cannot be opened: {e}"), mend);
        }
    };
    let meta = match file.metadata() {
        Ok(meta) => meta,
        Err(e) => return refuse(format!("cannot be examined: {e}"), "check the file system"),
    };
    if !meta.is_file() {
        return refuse("is not a regular file".into(), "give the path of a regular file");
    }
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o7777;
        let problem = format!("has mode {mode:04o}: others than its owner have rights on it");
        return refuse(problem, &format!("run: chmod 0600 {}", path.display()));
    }
    let mut content = String::new();
    match file.take(FILE_BYTES_MAX + 1).read_to_string(&mut content) {
        Ok(n) if n as u64 > FILE_BYTES_MAX => {
            refuse(format!("is longer than {FILE_BYTES_MAX} bytes"), "check the path")
        }
        Ok(_) => Ok(content),
        // The error of a wrong encoding carries no content.
        Err(e) => refuse(format!("cannot be read: {e}"), "write it as plain text"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn derived_values_differ_by_every_part_and_stay_the_same() {
        let secret = Secret::new(&"ab".repeat(16)).unwrap();
        let main = ClusterName::new("main").unwrap();
        let other = ClusterName::new("other").unwrap();
        let all = [
            secret.rpc_token("demo"),
            secret.rpc_token("demo2"),
            secret.password("demo", &main, PasswordRole::Superuser),
            secret.password("demo", &main, PasswordRole::Replication),
            secret.password("demo", &main, PasswordRole::Rewind),
            secret.password("demo", &other, PasswordRole::Rewind),
            Secret::new(&"ac".repeat(16)).unwrap().rpc_token("demo"),
        ];
        for (i, a) in all.iter().enumerate() {
            assert_eq!(a.expose().len(), 64);
            for b in &all[i + 1..] {
                assert_ne!(a, b);
            }
        }
        // Pinned: another value would lock every running cluster out of its own members.
        let again = Secret::new(&format!(" {}\n", "ab".repeat(16))).unwrap();
        assert_eq!(all[0], again.rpc_token("demo"));
        assert_eq!(
            all[0].expose(),
            "3a2b2221d438423d304b59d0d1626ae049c97f0195af6b6a05bbe889c3659695"
        );
    }

    #[test]
    fn nothing_is_printed() {
        let secret = Secret::new(&"ab".repeat(16)).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(hidden)");
        assert_eq!(format!("{:?}", secret.rpc_token("demo")), "Password(hidden)");
    }

    #[test]
    fn secret_files_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let write = |content: &str, mode: u32| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let problem = |path: &Path| Secret::load(path).unwrap_err().problem;

        assert!(problem(&path).contains("cannot be opened"));
        assert!(problem(dir.path()).contains("not a regular file"));
        write(&"x".repeat(32), 0o640);
        assert!(problem(&path).contains("mode 0640"));
        write(&"x".repeat(31), 0o600);
        assert!(problem(&path).contains("fewer than 32"));
        write(&"x".repeat(5000), 0o600);
        assert!(problem(&path).contains("longer than 4096"));
        write(&"x".repeat(32), 0o600);
        assert!(Secret::load(&path).is_ok());
        write("\nsecond\n", 0o600);
        assert!(read_password(&path, "k").unwrap_err().problem.contains("first line is empty"));
        write("p w\nignored\n", 0o400);
        assert_eq!(read_password(&path, "k").unwrap().expose(), "p w");
    }
}
