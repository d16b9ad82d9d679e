//! Writing small files on a full disk.
//!
//! Owns two ways. A file that must always be writable has a *twin*: the new content is written into
//! the twin, whose blocks are there already, and the two change their names. A directory in which
//! files are replaced has a *reserve*: a file that is removed when there is no room for the new
//! one, and made again once there is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::files::{self, Error};
use super::os_user::OsUser;

/// Name of the reserve of a directory.
const RESERVE: &str = "quorate.reserve";
/// Enough for every file of ours that is replaced there.
const RESERVE_BYTES: usize = 64 << 10;
/// Least size of a file with a twin, so that its blocks are there for all that it may ever hold.
const TWIN_BYTES_MIN: usize = 16 << 10;

/// Removes the reserve of `dir`; whether there was one. Its room can be written to then.
pub(super) fn spend(dir: &Path) -> bool {
    fs::remove_file(dir.join(RESERVE)).is_ok()
}

/// Makes the reserve of `dir` where there is none.
///
/// # Errors
/// There is no room for it, or the directory is not usable.
pub fn keep(dir: &Path, user: &OsUser) -> Result<(), Error> {
    let path = dir.join(RESERVE);
    if files::exists(&path)? {
        return Ok(());
    }
    files::write_atomic(&path, &vec![0; RESERVE_BYTES], 0o600, user)
}

/// Where the twin of `path` is.
fn twin(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".twin");
    PathBuf::from(name)
}

/// Replaces the content of `path`, for its owner alone. A reader sees the old content or the new
/// one, also after a crash where `sync` asks for that. The content is filled up with line ends,
/// which a reader of JSON does not see. Needs no room on the disk from the second time on, as long
/// as the content stays below 16 KiB. For a directory that nobody else may write to.
///
/// # Errors
/// The file system refuses it. The old content is there then.
pub fn write_twin(path: &Path, content: &[u8], sync: bool, user: &OsUser) -> Result<(), Error> {
    let twin = twin(path);
    let mut filled = content.to_vec();
    filled.resize(content.len().max(TWIN_BYTES_MIN), b'\n');
    let write = |to: &Path| -> io::Result<()> {
        // No truncation: the blocks that are there are written anew.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(to)?;
        file.write_all(&filled)?;
        file.set_len(filled.len() as u64)?;
        if sync { file.sync_all() } else { Ok(()) }
    };
    write(&twin).map_err(|e| Error::new("write", &twin, e))?;
    if user.switches() {
        let file = File::open(&twin).map_err(|e| Error::new("open", &twin, e))?;
        files::give(&file, &twin, user)?;
    }
    let flags = RenameFlags::RENAME_EXCHANGE;
    match renameat2(AT_FDCWD, &twin, AT_FDCWD, path, flags) {
        Ok(()) => {}
        Err(nix::errno::Errno::ENOENT) => {
            // The first time. The next one finds a twin of full size.
            fs::rename(&twin, path).map_err(|e| Error::new("rename to", path, e))?;
            // Without room for it there is none: the next write needs room.
            let _ = write(&twin);
        }
        // A file system that cannot exchange names.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => {
            fs::rename(&twin, path).map_err(|e| Error::new("rename to", path, e))?;
            let _ = write(&twin);
        }
        Err(e) => return Err(Error::new("exchange", path, e.into())),
    }
    if sync { files::sync_parent(path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let user = OsUser::current().unwrap();
        let path = dir.path().join("a.json");
        let read = || String::from_utf8(fs::read(&path).unwrap()).unwrap().trim_end().to_owned();
        for n in 0..5 {
            write_twin(&path, format!("{{\"n\": {n}}}").as_bytes(), n % 2 == 0, &user).unwrap();
            assert_eq!(read(), format!("{{\"n\": {n}}}"));
            assert_eq!(fs::metadata(&path).unwrap().len(), TWIN_BYTES_MIN as u64);
            assert_eq!(fs::metadata(twin(&path)).unwrap().len(), TWIN_BYTES_MIN as u64);
        }
        // A longer one, and a short one after it.
        let long = "x".repeat(3 * TWIN_BYTES_MIN);
        write_twin(&path, long.as_bytes(), true, &user).unwrap();
        assert_eq!(read(), long);
        write_twin(&path, b"y", true, &user).unwrap();
        assert_eq!(read(), "y");
        // A twin that somebody removed is made again.
        fs::remove_file(twin(&path)).unwrap();
        write_twin(&path, b"z", true, &user).unwrap();
        assert_eq!(read(), "z");
    }

    #[test]
    fn a_reserve_is_spent_once_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let user = OsUser::current().unwrap();
        assert!(!spend(dir.path()));
        keep(dir.path(), &user).unwrap();
        keep(dir.path(), &user).unwrap();
        assert!(spend(dir.path()) && !spend(dir.path()));
        keep(dir.path(), &user).unwrap();
        assert!(dir.path().join(RESERVE).exists());
    }
}
