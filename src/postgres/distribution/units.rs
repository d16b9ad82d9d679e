//! Units of systemd, as it would load them: fragments and drop-ins (`systemd.unit(5)`), and which of
//! them start a server where (`systemd.service(5)`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::command::{self, Place};
use super::{Debian, entries, is_absent, is_there};
use crate::postgres::files;

/// Units that start a server on `own`, which is a path without links, by what their files say.
/// Instances of templates are not among them. `dirs` have the units, the first one first; root
/// alone writes there.
pub(super) fn on(
    dirs: &[&Path],
    own: &Path,
    debian: &[Debian],
) -> Result<Vec<String>, files::Error> {
    let mut found = Vec::new();
    for (name, text) in fragments(dirs)? {
        let mut service = Service::default();
        service.read(&text);
        for text in drop_ins(dirs, &name)? {
            service.read(&text);
        }
        let place = Place { own, pgdata: service.pgdata.as_deref(), debian };
        if service.starts.iter().any(|line| command::starts_server(line, &place)) {
            found.push(name);
        }
    }
    Ok(found)
}

/// The main file of each service. The first one of a name hides the others, also where it masks it
/// for now: a mask that ends with a restart of the machine is none.
fn fragments(dirs: &[&Path]) -> Result<BTreeMap<String, String>, files::Error> {
    let real: Vec<PathBuf> =
        dirs.iter().filter_map(|dir| std::fs::canonicalize(dir).ok()).collect();
    let mut texts = BTreeMap::new();
    for dir in dirs {
        for file in entries(dir)? {
            if !file.ends_with(".service") || file.contains('@') || texts.contains_key(&file) {
                continue;
            }
            let path = dir.join(&file);
            let to = match std::fs::canonicalize(&path) {
                Ok(to) => to,
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(files::Error::new("follow", &path, e)),
            };
            // Another name for a unit; any other link is a unit that lies elsewhere.
            let alias = path.is_symlink()
                && to.file_name() != path.file_name()
                && to.parent().is_some_and(|parent| real.iter().any(|dir| dir == parent));
            if alias || to == Path::new("/dev/null") {
                continue;
            }
            if let Some(text) = read(&to)? {
                texts.insert(file, text);
            }
        }
    }
    Ok(texts)
}

/// The drop-ins of a unit in the order in which they are applied: that of their names, wherever they
/// lie. Of one name the one counts that is for fewer units, and lies in the first directory.
fn drop_ins(dirs: &[&Path], unit: &str) -> Result<Vec<String>, files::Error> {
    let stem = unit.trim_end_matches(".service");
    let mut for_units = vec![format!("{unit}.d")];
    for (at, _) in stem.match_indices('-').collect::<Vec<_>>().into_iter().rev() {
        for_units.push(format!("{}-.service.d", stem.get(..at).unwrap_or_default()));
    }
    for_units.push("service.d".to_owned());
    let mut paths = BTreeMap::new();
    for name in for_units {
        for dir in dirs {
            let dir = dir.join(&name);
            for file in entries(&dir)?.into_iter().filter(|file| file.ends_with(".conf")) {
                paths.entry(file.clone()).or_insert_with(|| dir.join(file));
            }
        }
    }
    let mut texts = Vec::new();
    for path in paths.values() {
        let nothing = std::fs::canonicalize(path).is_ok_and(|to| to == Path::new("/dev/null"));
        if !nothing && is_there(path)? {
            texts.extend(read(path)?);
        }
    }
    Ok(texts)
}

fn read(path: &Path) -> Result<Option<String>, files::Error> {
    let content = files::read_if_exists(path)?;
    Ok(content.map(|content| String::from_utf8_lossy(&content).into_owned()))
}

/// What counts of a service.
#[derive(Debug, Default)]
struct Service {
    /// The last `PGDATA` of its environment.
    pgdata: Option<String>,
    /// Its `ExecStart`.
    starts: Vec<String>,
}

impl Service {
    /// Applies one file after another. An empty value begins a list anew.
    fn read(&mut self, text: &str) {
        let mut section = String::new();
        for line in joined(text) {
            let line = line.trim();
            if let Some(name) = line.strip_prefix('[') {
                name.trim_end_matches(']').clone_into(&mut section);
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            if section != "Service" {
                continue;
            }
            let value = value.trim();
            match key.trim_end() {
                "Environment" if value.is_empty() => self.pgdata = None,
                "Environment" => {
                    let words = command::words(value);
                    let last = words.iter().filter_map(|w| w.strip_prefix("PGDATA=")).next_back();
                    if let Some(last) = last {
                        self.pgdata = Some(last.to_owned());
                    }
                }
                "ExecStart" if value.is_empty() => self.starts.clear(),
                "ExecStart" => self.starts.push(value.to_owned()),
                _ => {}
            }
        }
    }
}

/// Lines without comments, each with those that continue it.
fn joined(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let (part, more) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        match lines.last_mut().filter(|_| open) {
            Some(last) => {
                last.push(' ');
                last.push_str(part);
            }
            None => lines.push(part.to_owned()),
        }
        open = more;
    }
    lines
}
