//! What a guard is asked to start.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use super::status::FencingKind;

/// User and groups that a process takes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All supplementary groups, see `setgroups(2)`.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Looks `user` up in the system's user and group databases. It may read files or ask a
    /// directory service, so that it may block: never called by the guard.
    pub fn of_user(user: &str) -> io::Result<Credentials> {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("no such user: {user}"));
        let entry = nix::unistd::User::from_name(user)?.ok_or_else(unknown)?;
        let name = CString::new(user)?;
        let groups = nix::unistd::getgrouplist(&name, entry.gid)?;
        Ok(Credentials {
            uid: entry.uid.as_raw(),
            gid: entry.gid.as_raw(),
            groups: groups.into_iter().map(|g| g.as_raw()).collect(),
        })
    }
}

/// The program that becomes the first process of the tree, and its surroundings. Nothing is
/// inherited from the guard: what is not named here, the program does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartSpec {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Arguments, the program's own name first. PostgreSQL finds its installation by it, so that
    /// it has to be the absolute path again.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// User and groups to change to; `None` keeps the guard's.
    pub credentials: Option<Credentials>,
    /// Working directory, opened with the new credentials.
    pub working_dir: PathBuf,
    /// File to which standard output and error are appended; made with mode 0600 by the new user.
    pub log_file: PathBuf,
    /// File mode creation mask, such as `0o077`.
    pub umask: u32,
    /// An empty cgroup v2 directory that the guard may use where PID namespaces are not permitted.
    pub cgroup: Option<PathBuf>,
    /// Accept [`FencingKind::BestEffort`] where nothing better works.
    pub best_effort: bool,
    /// Use this kind of fencing and no other. `BestEffort` needs `best_effort` as well.
    pub only: Option<FencingKind>,
}
