//! Reads one TOML table key by key and collects what is wrong, so that all problems are reported
//! at once and no key is silently ignored.
//!
//! Owns [`Section`]. Imports the sibling error type only.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::{Table, Value};

use super::error::Problem;

/// A table of the file, its place in it, and the keys that were asked for so far.
pub(super) struct Section {
    path: String,
    table: Table,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl Section {
    /// A table at the dotted path `path`; empty for the root of the file.
    pub(super) fn new(path: impl Into<String>, table: Table) -> Self {
        Self { path: path.into(), table, known: Vec::new(), problems: Vec::new() }
    }

    /// Dotted path of `key` in this table.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The text at `key`, without taking it: for naming the section in messages.
    pub(super) fn peek(&self, key: &str) -> Option<&str> {
        self.table.get(key).and_then(Value::as_str)
    }

    /// Whether the key is there.
    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.known.push(key);
        self.table.contains_key(key)
    }

    /// Names the section after something that the operator recognises.
    pub(super) fn rename(&mut self, path: String) {
        self.path = path;
    }

    /// Whether any problem was found so far.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Records a problem of `key`.
    pub(super) fn refuse(
        &mut self,
        key: &str,
        value: impl Display,
        problem: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let key = self.key(key);
        self.problems.push(Problem::new(key, value, problem, mend));
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn wrong_type(&mut self, key: &str, value: &Value, wanted: &str, example: &str) {
        let problem = format!("is {}, and {wanted} is needed", kind(value));
        self.refuse(key, shown(value), problem, format!("write {key} = {example}"));
    }

    fn missing(&mut self, key: &str, example: &str) {
        self.refuse(key, "", "is missing", format!("add {key} = {example}"));
    }

    /// A text that may be left out.
    pub(super) fn text(&mut self, key: &'static str, example: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(s) if s.trim().is_empty() => {
                self.refuse(key, "\"\"", "is empty", format!("write {key} = {example}"));
                None
            }
            Value::String(s) if s.contains(|c: char| c.is_control()) => {
                let mend = format!("write {key} = {example}");
                self.refuse(key, "", "contains a control character", mend);
                None
            }
            Value::String(s) => Some(s),
            other => {
                self.wrong_type(key, &other, "a text", example);
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, key: &'static str, example: &str) -> Option<String> {
        if self.table.contains_key(key) {
            return self.text(key, example);
        }
        self.known.push(key);
        self.missing(key, example);
        None
    }

    /// A text with a form of its own that may be left out.
    pub(super) fn parsed<T>(&mut self, key: &'static str, example: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(key, example)?;
        self.parse(key, text, example)
    }

    /// A text with a form of its own that must be there.
    pub(super) fn required<T>(&mut self, key: &'static str, example: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.required_text(key, example)?;
        self.parse(key, text, example)
    }

    fn parse<T>(&mut self, key: &str, text: String, example: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(e) => {
                let mend = format!("write, for example, {key} = {example}");
                self.refuse(key, format!("{text:?}"), e.to_string(), mend);
                None
            }
        }
    }

    /// A path that may be left out; a relative one is meant from `base`.
    pub(super) fn path(
        &mut self,
        key: &'static str,
        example: &str,
        base: &Path,
    ) -> Option<PathBuf> {
        self.text(key, example).map(|p| resolve(base, &p))
    }

    /// A path that must be there; a relative one is meant from `base`.
    pub(super) fn required_path(
        &mut self,
        key: &'static str,
        example: &str,
        base: &Path,
    ) -> Option<PathBuf> {
        self.required_text(key, example).map(|p| resolve(base, &p))
    }

    /// One of a few words; `default` where the key is not there.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        default: T,
    ) -> T {
        let choices: Vec<String> = words.iter().map(|(w, _)| format!("{w:?}")).collect();
        let choices = choices.join(" or ");
        let Some(text) = self.text(key, &choices) else { return default };
        if let Some((_, value)) = words.iter().find(|(w, _)| *w == text) {
            return *value;
        }
        let mend = format!("write {key} = {choices}");
        self.refuse(key, format!("{text:?}"), "is not a word that is known here", mend);
        default
    }

    /// A whole number that may be left out.
    pub(super) fn number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        let Value::Integer(n) = value else {
            self.wrong_type(key, &value, "a whole number", &range.start().to_string());
            return None;
        };
        match u64::try_from(n) {
            Ok(n) if range.contains(&n) => Some(n),
            _ => {
                let rule = format!("is not between {} and {}", range.start(), range.end());
                self.refuse(key, n, rule, "choose a number in this range");
                None
            }
        }
    }

    /// A whole number with a default.
    pub(super) fn number_or(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        self.number(key, range).unwrap_or(default)
    }

    /// `true` or `false`, with a default.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(b)) => b,
            Some(other) => {
                self.wrong_type(key, &other, "true or false", "true");
                default
            }
        }
    }

    /// A list of texts; empty where the key is not there.
    pub(super) fn texts(&mut self, key: &'static str, example: &str) -> Vec<String> {
        let items = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong_type(key, &other, "a list of texts", example);
                return Vec::new();
            }
        };
        let mut out = Vec::new();
        for item in items {
            match item {
                Value::String(s) => out.push(s),
                other => self.wrong_type(key, &other, "a list of texts", example),
            }
        }
        out
    }

    /// A table below this one; empty where it is not there.
    pub(super) fn table(&mut self, key: &'static str) -> Section {
        let path = self.key(key);
        match self.take(key) {
            None => Section::new(path, Table::new()),
            Some(Value::Table(t)) => Section::new(path, t),
            Some(other) => {
                let problem = format!("is {}, and a table is needed", kind(&other));
                self.refuse(key, shown(&other), problem, format!("write a section [{path}]"));
                Section::new(path, Table::new())
            }
        }
    }

    /// A list of tables below this one; empty where there is none.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Section> {
        let path = self.key(key);
        let items = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                let problem = format!("is {}, and a list of tables is needed", kind(&other));
                let mend = format!("write each one as a section [[{path}]], with two brackets");
                self.refuse(key, shown(&other), problem, mend);
                return Vec::new();
            }
        };
        let mut out = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            let path = format!("{path}[#{}]", i + 1);
            match item {
                Value::Table(t) => out.push(Section::new(path, t)),
                other => {
                    let problem = format!("is {}, and a table is needed", kind(&other));
                    let mend = "write it as a section with two brackets";
                    self.problems.push(Problem::new(path, shown(&other), problem, mend));
                }
            }
        }
        out
    }

    /// Takes all keys that are left: for tables whose keys are free, such as settings.
    pub(super) fn rest(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    /// Ends the reading: every key that nobody asked for is a problem. The values of such keys are
    /// not shown, since a password may have been put there.
    pub(super) fn finish(mut self, problems: &mut Vec<Problem>) {
        let unknown: Vec<String> = self.table.keys().cloned().collect();
        for key in unknown {
            let near = self.known.iter().find(|k| near(k, &key));
            let mend = match near {
                Some(k) => format!("write {k}, if that is meant, or remove it"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            self.refuse(&key, "", "is not a known key", mend);
        }
        problems.append(&mut self.problems);
    }
}

/// Makes a path absolute: relative ones are meant from `base`; `.` and `..` are taken out as text,
/// without a look at the file system.
pub(super) fn resolve(base: &Path, path: &str) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::new();
    for part in base.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// The kind of a TOML value, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

/// A value for a message: short ones as they stand, others not at all. A text that stands where
/// none belongs is not shown: it could be anything.
fn shown(value: &Value) -> String {
    match value {
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
            value.to_string()
        }
        Value::String(_) | Value::Array(_) | Value::Table(_) => String::new(),
    }
}

/// Whether two keys differ by at most two edits, so that one is likely a typing error.
fn near(a: &str, b: &str) -> bool {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (cb, pair) in b.iter().zip(row.windows(2)) {
            let [diagonal, above] = pair else { continue };
            let left = next.last().copied().unwrap_or_default();
            let replaced = diagonal + usize::from(ca != *cb);
            next.push(replaced.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().is_some_and(|d| *d <= 2)
}
