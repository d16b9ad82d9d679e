//! The controllers that this node has heard of: kept beside its data, so that a restart finds a
//! group that has changed since the configuration file was written.
//!
//! Owns the file and its form. It is no secret and no authority: a controller with a store has its
//! membership from there, everybody else asks these addresses beside those of the file.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Its name in the data directory of the node.
pub const LEARNED_FILE: &str = "controllers.toml";

/// One controller that was heard of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Learned {
    /// Its id in the Raft group.
    pub id: u64,
    /// Its node's name.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    #[serde(default)]
    controller: Vec<Learned>,
}

/// Where it is kept.
pub fn learned_path(data_dir: &Path) -> PathBuf {
    data_dir.join(LEARNED_FILE)
}

/// What is kept in the node's data directory; nothing where there is none yet.
///
/// # Errors
/// The file cannot be read, or is none of ours.
pub fn read_learned(data_dir: &Path) -> io::Result<Vec<Learned>> {
    let text = match fs::read_to_string(learned_path(data_dir)) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let content: Content = toml::from_str(&text)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.message().to_owned()))?;
    Ok(content.controller)
}

/// Keeps `controllers`, unless that is what is kept. A crash leaves the old file or the new one.
///
/// # Errors
/// The file cannot be written.
pub fn write_learned(data_dir: &Path, controllers: &[Learned]) -> io::Result<()> {
    if read_learned(data_dir).is_ok_and(|kept| kept == controllers) {
        return Ok(());
    }
    let content = Content { controller: controllers.to_vec() };
    let body = toml::to_string(&content).map_err(io::Error::other)?;
    let head = "# Written by hanode: the controllers that it has heard of. Not to be edited.\n";
    let path = learned_path(data_dir);
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(format!("{head}{body}").as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    fs::File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_is_kept_and_damage_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_learned(dir.path()).unwrap(), []);
        let one = |id: u64| Learned { id, name: format!("n{id}"), address: format!("h{id}:1") };
        for list in [vec![one(1)], vec![one(1), one(4)], vec![]] {
            write_learned(dir.path(), &list).unwrap();
            assert_eq!(read_learned(dir.path()).unwrap(), list);
        }
        fs::write(learned_path(dir.path()), "controller = 3").unwrap();
        let error = read_learned(dir.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        write_learned(dir.path(), &[one(2)]).unwrap();
        assert_eq!(read_learned(dir.path()).unwrap(), [one(2)]);
    }
}
