//! What is wrong with a configuration file, in a form that the operator can act on.
//!
//! Owns [`Problem`] and [`Error`]. Imports nothing of the crate.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong (or doubtful), with the way to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key, such as `timing.ttl_ms` or `member[main/a].address`.
    pub key: String,
    /// The value as it stands in the file. Empty where there is none, and where the value could be
    /// a secret: an unknown key, a connection string, the options of an hba line.
    pub value: String,
    /// What is wrong with it, as a clause without a full stop.
    pub problem: String,
    /// What to do about it, as a clause without a full stop.
    pub mend: String,
}

impl Problem {
    /// A problem of `key`, which has `value`. Keys can hold anything: what would move the cursor of
    /// a terminal is written as an escape.
    pub fn new(
        key: impl Into<String>,
        value: impl fmt::Display,
        problem: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            key: visible(key.into()),
            value: value.to_string(),
            problem: problem.into(),
            mend: mend.into(),
        }
    }
}

fn visible(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, ": {}. To mend it: {}.", self.problem, self.mend)
    }
}

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}. To mend it: give the path of a file that this user can read", file.display())]
    Read {
        /// The configuration file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}:{column}: not valid TOML: {problem}. To mend it: correct this line", file.display())]
    Syntax {
        /// The configuration file.
        file: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Column in bytes, counted from 1.
        column: usize,
        /// What the parser said.
        problem: String,
    },
    /// The file is TOML, but not a configuration that is safe to run. Carries every problem that
    /// was found, in the order of the file's sections.
    #[error("{}", list(file, problems))]
    Invalid {
        /// The configuration file.
        file: PathBuf,
        /// At least one problem.
        problems: Vec<Problem>,
    },
}

impl Error {
    /// The problems of the file's content; empty where it could not be read or parsed.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Error::Invalid { problems, .. } => problems,
            Error::Read { .. } | Error::Syntax { .. } => &[],
        }
    }
}

fn list(file: &std::path::Path, problems: &[Problem]) -> String {
    let mut out = format!("{}: {} problem(s)", file.display(), problems.len());
    for problem in problems {
        out.push_str("\n  ");
        out.push_str(&problem.to_string());
    }
    out
}
