//! Durable file operations: what is reported as written survives a crash of the machine.
//!
//! Owns atomic replacement, `fsync` of directories and ownership of the files that we make.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::os_user::OsUser;

/// A file operation that failed: what was tried, where, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct Error {
    /// What was tried, such as "write".
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

impl Error {
    /// An error of `action` on `path`.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }
}

/// The directory that holds `path`.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Makes the names in `dir` durable.
pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::new("sync", dir, e))
}

/// Makes the content of a file durable, whoever wrote it.
pub fn sync_file(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::new("sync", path, e))
}

/// Makes the names in the directory that holds `path` durable.
pub fn sync_parent(path: &Path) -> Result<(), Error> {
    sync_dir(parent(path))
}

/// Gives an open file to `user`, where we run as root for another user.
pub(super) fn give(file: &File, path: &Path, user: &OsUser) -> Result<(), Error> {
    if !user.switches() {
        return Ok(());
    }
    // SAFETY: the descriptor is open for the whole call.
    let rc = unsafe { libc::fchown(file.as_raw_fd(), user.uid(), user.gid()) };
    if rc == 0 {
        Ok(())
    } else {
        Err(Error::new("change the owner of", path, io::Error::last_os_error()))
    }
}

/// Whether an error says that the file system, or the user's share of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Replaces `path` by a file with this content, mode and owner: temporary file, fsync, rename,
/// fsync of the directory. A reader sees the old content or the new one, also after a crash. Where
/// the disk is full, the reserve of the directory is spent, see [`super::reserve`].
pub fn write_atomic(path: &Path, content: &[u8], mode: u32, user: &OsUser) -> Result<(), Error> {
    match replace(path, content, mode, user) {
        Err(e) if is_full(&e.source) && super::reserve::spend(parent(path)) => {
            replace(path, content, mode, user)
        }
        done => done,
    }
}

fn replace(path: &Path, content: &[u8], mode: u32, user: &OsUser) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".quorate-tmp");
    let temp = parent(path).join(name);
    remove_if_exists(&temp)?;
    // `create_new` never follows a link: the directory belongs to a less privileged user.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temp)
        .map_err(|e| Error::new("create", &temp, e))?;
    give(&file, &temp, user)?;
    let written = file.write_all(content).and_then(|()| {
        // The umask may have taken bits away.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        file.set_permissions(permissions)?;
        file.sync_all()
    });
    if let Err(e) = written {
        // It would hold room that is missing.
        let _ = fs::remove_file(&temp);
        return Err(Error::new("write", &temp, e));
    }
    fs::rename(&temp, path).map_err(|e| Error::new("rename to", path, e))?;
    sync_parent(path)
}

/// Like [`write_atomic`], but leaves a file alone that has this content already. Returns whether
/// it was written.
pub fn write_if_changed(
    path: &Path,
    content: &[u8],
    mode: u32,
    user: &OsUser,
) -> Result<bool, Error> {
    if let Some(old) = read_if_exists(path)?
        && old == content
    {
        return Ok(false);
    }
    write_atomic(path, content, mode, user)?;
    Ok(true)
}

/// Runs `work` on what is at `path` with the rights of `user`, see [`OsUser::act`].
pub fn as_user<T: Send, E: From<Error> + Send>(
    user: &OsUser,
    path: &Path,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    user.act(work).unwrap_or_else(|e| {
        Err(Error::new("take the rights of PostgreSQL's user for", path, e).into())
    })
}

/// Reads at most 16 MiB of a file; `None` where there is none. What is no regular file is an error,
/// and not waited for: a less privileged user may have put a pipe there.
pub fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    const BYTES_MAX: u64 = 16 << 20;
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::new("open", path, e)),
    };
    let meta = file.metadata().map_err(|e| Error::new("look at", path, e))?;
    if !meta.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(Error::new("read", path, source));
    }
    let mut content = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut content).map_err(|e| Error::new("read", path, e))?;
    Ok(Some(content))
}

/// Removes a file durably. Returns whether it was there.
pub fn remove_if_exists(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::new("remove", path, e)),
    }
}

/// Whether something has this name. An error of any other kind than "not found" is an error.
pub fn exists(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::new("look at", path, e)),
    }
}

/// Makes a directory with this mode and owner, where it is missing; sets both where it is there.
/// Its parent must exist.
pub fn ensure_dir(path: &Path, mode: u32, user: &OsUser) -> Result<(), Error> {
    match fs::create_dir(path) {
        Ok(()) => sync_parent(path)?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(Error::new("create", path, e)),
    }
    // O_NOFOLLOW: a link put here must not make us change what it points to.
    let dir = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
        .map_err(|e| Error::new("open", path, e))?;
    give(&dir, path, user)?;
    dir.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
        .map_err(|e| Error::new("change the mode of", path, e))
}

/// Renames durably. `to` must not exist, except as an empty directory.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|e| Error::new("rename", from, e))?;
    sync_parent(to)?;
    if parent(from) != parent(to) { sync_parent(from) } else { Ok(()) }
}

/// Copies a regular file durably (the copy is synced; its directory is not) and gives it to
/// `user` with mode 0600.
pub fn copy_file(from: &Path, to: &Path, user: &OsUser) -> Result<u64, Error> {
    let mut source = File::open(from).map_err(|e| Error::new("open", from, e))?;
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(|e| Error::new("create", to, e))?;
    give(&target, to, user)?;
    let bytes = io::copy(&mut source, &mut target).map_err(|e| Error::new("copy", from, e))?;
    target.sync_all().map_err(|e| Error::new("sync", to, e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn writes_are_atomic_and_idempotent() {
        let dir = tempfile::tempdir().unwrap();
        let user = OsUser::current().unwrap();
        let path = dir.path().join("a");
        assert_eq!(read_if_exists(&path).unwrap(), None);
        assert!(write_if_changed(&path, b"one", 0o640, &user).unwrap());
        assert!(!write_if_changed(&path, b"one", 0o640, &user).unwrap());
        assert!(write_if_changed(&path, b"two", 0o600, &user).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_if_exists(&path).unwrap().unwrap(), b"two");
        assert!(remove_if_exists(&path).unwrap());
        assert!(!remove_if_exists(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read_if_exists(&pipe).unwrap_err().to_string().contains("regular file"));
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let user = OsUser::current().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, "kept").unwrap();
        let temp = dir.path().join("a.quorate-tmp");
        std::os::unix::fs::symlink(&target, &temp).unwrap();
        write_atomic(&dir.path().join("a"), b"new", 0o600, &user).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"kept");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(ensure_dir(&link, 0o700, &user).is_err());
    }
}
