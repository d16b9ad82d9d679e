//! Libraries that PostgreSQL loads by settings, and where it looks for them.
//!
//! Owns the search as PostgreSQL does it (manual, sections 20.11.4 and 38.10.1): a library that is
//! not there is found out before a session or a start fails for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::binaries::Binaries;
use crate::domain::libraries::{names, preloads};

/// What the server's own directory of libraries has in every version.
const ALWAYS_THERE: &str = "libpqwalreceiver.so";
/// How a library's file ends. PostgreSQL for Linux knows no other.
const SUFFIX: &str = ".so";
/// Most bytes of all names that are listed: each report has them.
const LISTED_BYTES_MAX: usize = 8 * 1024;

/// A library that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The setting that names it.
    pub setting: String,
    /// The library, as it is named there.
    pub library: String,
    /// Where it was looked for.
    pub looked_in: Vec<PathBuf>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places: Vec<_> = self.looked_in.iter().map(|p| p.display().to_string()).collect();
        write!(
            f,
            "{} names library \"{}\", which is not on this node (looked in {}): install the \
             package that has it on every node of the cluster, or take it out of the setting",
            self.setting,
            self.library,
            places.join(", ")
        )
    }
}

/// The directory of the server's own libraries, `$libdir`; `None` where it is not known.
pub fn directory(binaries: &Binaries) -> Option<PathBuf> {
    let prefix = binaries.dir().parent()?;
    ["lib", "lib/postgresql", "lib64", "lib64/postgresql", "lib64/pgsql"]
        .map(|part| prefix.join(part))
        .into_iter()
        .find(|dir| dir.join(ALWAYS_THERE).is_file())
}

/// Whether any of these settings names a library.
pub fn are_named(parameters: &BTreeMap<String, String>) -> bool {
    preloads(parameters).next().is_some()
}

/// The first library of the settings that is not there. `path` is `dynamic_library_path`, `libdir`
/// what `$libdir` stands for in it. Waits for the disk.
pub fn missing(
    parameters: &BTreeMap<String, String>,
    path: &str,
    libdir: &Path,
    pgdata: &Path,
) -> Option<Missing> {
    for (setting, value, plugins) in preloads(parameters) {
        for library in names(value) {
            let places = places(&library, plugins, path, libdir, pgdata);
            let there = |place: &PathBuf| {
                let mut with_suffix = place.as_os_str().to_owned();
                with_suffix.push(SUFFIX);
                place.is_file() || Path::new(&with_suffix).is_file()
            };
            if !places.iter().any(there) {
                let above = |place: &PathBuf| place.parent().map(Path::to_owned);
                let looked_in = places.iter().filter_map(above).collect();
                return Some(Missing { setting: setting.clone(), library, looked_in });
            }
        }
    }
    None
}

/// Where PostgreSQL looks for a library, without the suffix.
fn places(library: &str, plugins: bool, path: &str, libdir: &Path, pgdata: &Path) -> Vec<PathBuf> {
    let expand = |text: &str| match text.strip_prefix("$libdir") {
        Some(rest) => libdir.join(rest.trim_start_matches('/')),
        // Its working directory is the data directory.
        None => pgdata.join(text),
    };
    if library.contains('/') {
        return vec![expand(library)];
    }
    if plugins {
        return vec![libdir.join("plugins").join(library)];
    }
    let dirs = path.split(':').map(str::trim).filter(|dir| !dir.is_empty());
    dirs.map(|dir| expand(dir).join(library)).collect()
}

/// What can be named in these settings without a directory: the libraries in the directories of
/// `path`, which is `dynamic_library_path`. `None` where that is not known, or too much. Waits for
/// the disk.
pub fn listed(path: &str, libdir: &Path) -> Option<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for dir in path.split(':').map(str::trim).filter(|dir| !dir.is_empty()) {
        let dir = match dir.strip_prefix("$libdir") {
            Some(rest) => libdir.join(rest.trim_start_matches('/')),
            None => PathBuf::from(dir),
        };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(_) => return None,
        };
        for entry in entries {
            let name = entry.ok()?.file_name();
            let Some(name) = name.to_str().and_then(|n| n.strip_suffix(SUFFIX)) else { continue };
            // Conversions between encodings are half of what is there, and never preloaded.
            if !name.contains("_and_") {
                found.insert(name.to_owned());
            }
        }
    }
    let bytes: usize = found.iter().map(String::len).sum();
    (bytes <= LISTED_BYTES_MAX).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_library_is_looked_for_where_postgresql_does() {
        let root = tempfile::tempdir().unwrap();
        let (lib, more) = (root.path().join("lib"), root.path().join("more"));
        let plugins = lib.join("plugins");
        for dir in [&lib, &more, &plugins] {
            std::fs::create_dir_all(dir).unwrap();
        }
        for file in [lib.join("one.so"), more.join("two.so"), plugins.join("three.so")] {
            std::fs::write(file, "").unwrap();
        }
        std::fs::write(lib.join("utf8_and_win.so"), "").unwrap();
        let search = format!("$libdir:{}", more.display());
        let look = |name: &str, value: &str| {
            missing(&set(name, value), &search, &lib, root.path()).map(|m| m.library)
        };
        for fine in ["one", "one.so", "two", "one, two", "$libdir/one", "lib/one", ""] {
            assert_eq!(look("session_preload_libraries", fine), None, "{fine}");
        }
        assert_eq!(look("Shared_Preload_Libraries", "one,nope"), Some("nope".into()));
        assert_eq!(look("shared_preload_libraries", "three"), Some("three".into()));
        assert_eq!(look("local_preload_libraries", "three"), None);
        assert_eq!(look("local_preload_libraries", "$libdir/plugins/three"), None);
        assert_eq!(look("local_preload_libraries", "one"), Some("one".into()));
        assert_eq!(look("work_mem", "nope"), None);
        let text = missing(&set("shared_preload_libraries", "x"), "$libdir", &lib, root.path());
        assert!(text.unwrap().to_string().contains("take it out of the setting"));
        let both = BTreeSet::from(["one", "two"].map(str::to_owned));
        assert_eq!(listed(&format!("{search}:/nonexistent"), &lib), Some(both));
    }

    #[tokio::test]
    async fn the_directory_of_this_machine_is_found() {
        let user = crate::postgres::os_user::OsUser::current().unwrap();
        let Ok(binaries) = Binaries::find(None, None, &user).await else { return };
        let dir = directory(&binaries).unwrap();
        assert!(listed("$libdir", &dir).unwrap().contains("pg_stat_statements"));
    }
}
