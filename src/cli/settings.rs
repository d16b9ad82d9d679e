//! Settings that are not on the command line: the configuration file of `hactl`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::failure::Failure;
use super::when;

/// Who is asked where nothing says otherwise.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:7401";

/// Contents of `hactl.toml`.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Nodes to ask, `host:port`.
    #[serde(default)]
    pub(super) endpoints: Vec<String>,
    /// The cluster.
    #[serde(default)]
    pub(super) cluster: Option<String>,
}

impl File {
    /// Reads the first file that exists; without one, nothing is set.
    pub(super) fn find() -> Result<File, Failure> {
        Self::first_of(&super::settings_files())
    }

    fn first_of(paths: &[PathBuf]) -> Result<File, Failure> {
        for path in paths {
            match std::fs::read_to_string(path) {
                Ok(text) => return Self::parse(path, &text),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Failure::Usage(format!("{}: {e}", path.display()))),
            }
        }
        Ok(File::default())
    }

    fn parse(path: &Path, text: &str) -> Result<File, Failure> {
        toml::from_str(text).map_err(|e| {
            let problem = e.message();
            let known = "it may set `endpoints` (a list of host:port) and `cluster`";
            Failure::Usage(format!("{}: {problem}; {known}", path.display()))
        })
    }
}

/// The endpoints to ask: those of the command line or the environment, else the file's, else the
/// node on this machine.
pub(super) fn endpoints(given: &[String], file: &File) -> Vec<String> {
    let wanted = if given.is_empty() { &file.endpoints } else { given };
    let mut out: Vec<String> = Vec::new();
    for endpoint in wanted.iter().map(|e| e.trim()).filter(|e| !e.is_empty()) {
        if !out.iter().any(|o| o == endpoint) {
            out.push(endpoint.to_owned());
        }
    }
    if out.is_empty() {
        out.push(DEFAULT_ENDPOINT.to_owned());
    }
    out
}

/// A time such as `500ms`, `10s`, `2m` or `10`, which is in seconds. Never zero, one hour at most.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match when::length_ms(text, &["ms", "", "s", "m"])? {
        ms @ 1..=3_600_000 => Ok(Duration::from_millis(ms)),
        _ => Err("1ms to 60m is allowed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let ms = |t: &str| duration(t).map(|d| d.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("10"), Ok(10_000));
        assert_eq!(ms("2m"), Ok(120_000));
        for bad in ["", "s", "0", "-1", "1.5s", "1h", "99999999999999999999", "61m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_file_counts_and_the_command_line_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (none, some) = (dir.path().join("none.toml"), dir.path().join("some.toml"));
        std::fs::write(&some, "endpoints = ['a:1', 'b:2']\ncluster = 'main'\n").unwrap();
        let file = File::first_of(&[none.clone(), some]).unwrap();
        assert_eq!(file.cluster.as_deref(), Some("main"));
        assert_eq!(endpoints(&[], &file), ["a:1", "b:2"]);
        assert_eq!(endpoints(&["c:3".into(), " c:3".into(), String::new()], &file), ["c:3"]);
        assert_eq!(endpoints(&[], &File::first_of(&[none]).unwrap()), [DEFAULT_ENDPOINT]);
    }

    #[test]
    fn a_wrong_file_is_a_usage_error() {
        let wrong = File::parse(Path::new("x.toml"), "endpoint = 'a:1'");
        assert!(matches!(wrong, Err(Failure::Usage(m)) if m.contains("endpoints")));
    }
}
