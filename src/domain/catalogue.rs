//! The catalogue of PostgreSQL's settings, and whether a value fits one of them.
//!
//! Pure. A member that runs sends its catalogue to the leader, which keeps it in memory: what is
//! asked for is judged by the version that runs, and nothing of it is ever agreed on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most settings of a catalogue. PostgreSQL 17 has some 380, and extensions add to them.
pub const ENTRIES_MAX: usize = 5000;

/// What one PostgreSQL knows of its settings (manual, section 54.24, `pg_settings`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Its major version.
    pub major: u32,
    /// By name, in lower case.
    pub entries: BTreeMap<String, Entry>,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The kind of its values.
    pub kind: Kind,
    /// When a change of it takes effect.
    pub context: Context,
    /// Whether it is not the operator's, and why, as a clause.
    #[serde(default)]
    pub owned: Option<String>,
}

/// The kind of a setting's values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// On or off.
    Bool,
    /// Any text.
    Text,
    /// One of some words.
    Enum {
        /// Which.
        words: Vec<String>,
    },
    /// A whole number.
    Integer {
        /// The least, in its unit.
        min: f64,
        /// The greatest.
        max: f64,
        /// Its unit, such as `8kB` or `ms`; empty for none.
        unit: String,
    },
    /// A number.
    Real {
        /// The least, in its unit.
        min: f64,
        /// The greatest.
        max: f64,
        /// Its unit; empty for none.
        unit: String,
    },
}

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// Never: it shows how PostgreSQL was built or its data made.
    Internal,
    /// At a restart.
    Restart,
    /// At a reload, or by a session.
    Reload,
}

impl Context {
    /// By the word in `pg_settings.context`.
    pub fn parse(word: &str) -> Self {
        match word {
            "internal" => Self::Internal,
            "postmaster" => Self::Restart,
            _ => Self::Reload,
        }
    }
}

/// What is wrong with a setting, and how to mend it: clauses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub mend: String,
}

fn problem(problem: impl Into<String>, mend: impl Into<String>) -> Problem {
    Problem { problem: problem.into(), mend: mend.into() }
}

impl Catalogue {
    /// What is wrong with `value` of the setting `name`, if anything. A name with a dot belongs to an
    /// extension, which may not be loaded yet: it is let through, and PostgreSQL says more.
    pub fn check(&self, name: &str, value: &str) -> Result<(), Problem> {
        let lower = name.to_ascii_lowercase();
        let Some(entry) = self.entries.get(&lower) else {
            if lower.contains('.') {
                return Ok(());
            }
            let mend = match self.nearest(&lower) {
                Some(near) => format!("did you mean {near}?"),
                None => "see `SELECT name FROM pg_settings` for those that there are".to_owned(),
            };
            return Err(problem(format!("is no setting of PostgreSQL {}", self.major), mend));
        };
        if let Some(why) = &entry.owned {
            return Err(problem(format!("is managed by quorate: {why}"), "remove it"));
        }
        if entry.context == Context::Internal {
            return Err(problem("cannot be set: it shows how the server was made", "remove it"));
        }
        check_value(&entry.kind, value)
    }

    /// Whether a change of the setting takes effect only at a restart; `None` where it is not known.
    pub fn needs_restart(&self, name: &str) -> Option<bool> {
        let entry = self.entries.get(&name.to_ascii_lowercase())?;
        Some(entry.context == Context::Restart)
    }

    /// The name that is most like this one, where one is like it at all.
    fn nearest(&self, name: &str) -> Option<&str> {
        let limit = (name.len() / 3).clamp(1, 4);
        let near = |known: &&String| known.len().abs_diff(name.len()) <= limit;
        let scored = self.entries.keys().filter(near).map(|known| (distance(name, known), known));
        let best = scored.min().filter(|(far, _)| *far <= limit);
        best.map(|(_, known)| known.as_str())
    }
}

fn check_value(kind: &Kind, value: &str) -> Result<(), Problem> {
    match kind {
        Kind::Text => Ok(()),
        Kind::Bool if boolean(value).is_some() => Ok(()),
        Kind::Bool => Err(problem("is neither on nor off", "write on or off")),
        Kind::Enum { words } => {
            let found = words.iter().any(|w| w.eq_ignore_ascii_case(value));
            // Many enumerations that have on and off take every spelling of them.
            let spelled = words.iter().any(|w| w == "on" || w == "off") && boolean(value).is_some();
            if found || spelled {
                return Ok(());
            }
            let listed = words.join(", ");
            Err(problem(
                "is none of the values that it can have",
                format!("write one of: {listed}"),
            ))
        }
        Kind::Integer { min, max, unit } => {
            let number = number(value, unit, true)?;
            in_range(number.round_ties_even(), *min, *max, unit)
        }
        Kind::Real { min, max, unit } => in_range(number(value, unit, false)?, *min, *max, unit),
    }
}

fn in_range(number: f64, min: f64, max: f64, unit: &str) -> Result<(), Problem> {
    if number >= min && number <= max {
        return Ok(());
    }
    let unit = if unit.is_empty() { String::new() } else { format!(" in units of {unit}") };
    let what = format!("is {number}{unit}, and {min} to {max} are allowed");
    Err(problem(what, format!("write a value from {min} to {max}{unit}")))
}

/// Spellings of on and off: any unambiguous beginning, whatever the case (PostgreSQL manual, section
/// 20.1.1).
fn boolean(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if value == "1" || value == "on" || begins("true", 1) || begins("yes", 1) {
        return Some(true);
    }
    (value == "0" || begins("off", 2) || begins("false", 1) || begins("no", 1)).then_some(false)
}

const MEMORY: [(&str, f64); 5] = [
    ("B", 1.0),
    ("kB", 1024.0),
    ("MB", 1_048_576.0),
    ("GB", 1_073_741_824.0),
    ("TB", 1_099_511_627_776.0),
];
const TIME: [(&str, f64); 6] = [
    ("us", 0.001),
    ("ms", 1.0),
    ("s", 1000.0),
    ("min", 60_000.0),
    ("h", 3_600_000.0),
    ("d", 86_400_000.0),
];

/// A number with an optional unit, in the setting's own unit (PostgreSQL manual, section 20.1.1).
fn number(value: &str, unit: &str, whole: bool) -> Result<f64, Problem> {
    let text = value.trim();
    let example = if unit.is_empty() { "10".to_owned() } else { example(unit) };
    let bad = || problem("is not a number", format!("write, for example, {example}"));
    let (digits, suffix) = split(text, whole);
    let number = parse(digits, whole).ok_or_else(bad)?;
    let suffix = suffix.trim_start();
    if suffix.is_empty() {
        return Ok(number);
    }
    // A unit of a setting can be a multiple of another: 8kB, 16MB.
    let at = unit.find(|c: char| !c.is_ascii_digit()).unwrap_or(unit.len());
    let (many, own) = unit.split_at(at);
    let many: f64 = if many.is_empty() { 1.0 } else { many.parse().unwrap_or(1.0) };
    for table in [&MEMORY[..], &TIME[..]] {
        let size = |word: &str| table.iter().find(|(u, _)| *u == word).map(|(_, size)| *size);
        if let Some(own) = size(own) {
            let Some(given) = size(suffix) else {
                let units: Vec<_> = table.iter().map(|(u, _)| *u).collect();
                let what = format!("has the unit {suffix:?}, which is none of this setting");
                let mend =
                    format!("write one of {}; upper and lower case differ", units.join(", "));
                return Err(problem(what, mend));
            };
            return Ok(number * given / (own * many));
        }
    }
    Err(problem(format!("has the unit {suffix:?}, and the setting has none"), "remove the unit"))
}

fn example(unit: &str) -> String {
    let memory = MEMORY.iter().any(|(u, _)| unit.ends_with(u)) && !unit.ends_with("ms");
    if memory { "64MB" } else { "30s" }.to_owned()
}

/// Splits a number from what follows it.
fn split(text: &str, whole: bool) -> (&str, &str) {
    let sign = usize::from(text.starts_with(['-', '+']));
    let hex = whole && text.get(sign..sign + 2).is_some_and(|t| t.eq_ignore_ascii_case("0x"));
    let mut end = sign;
    let mut exponent = false;
    let bytes = text.as_bytes();
    while let Some(&b) = bytes.get(end) {
        let sign_of_exponent = exponent
            && matches!(b, b'+' | b'-')
            && bytes.get(end.wrapping_sub(1)).is_some_and(|e| matches!(e, b'e' | b'E'));
        let takes = if hex {
            b.is_ascii_hexdigit() || (end == sign + 1 && matches!(b, b'x' | b'X'))
        } else if matches!(b, b'e' | b'E') && !exponent && end > sign {
            // Only with digits behind it: no unit begins with an e, but be exact.
            let next = bytes.get(end + 1);
            let digit = |b: Option<&u8>| b.is_some_and(u8::is_ascii_digit);
            exponent = digit(next)
                || (next.is_some_and(|n| matches!(n, b'+' | b'-')) && digit(bytes.get(end + 2)));
            exponent
        } else {
            b.is_ascii_digit() || b == b'.' || sign_of_exponent
        };
        if !takes {
            break;
        }
        end += 1;
    }
    text.split_at(end)
}

fn parse(digits: &str, whole: bool) -> Option<f64> {
    let (sign, plain) = match digits.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, digits.strip_prefix('+').unwrap_or(digits)),
    };
    if whole && plain.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b'x' | b'X')) {
        let hex = plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X"));
        if let Some(hex) = hex {
            return i64::from_str_radix(hex, 16).ok().map(|n| sign * n as f64);
        }
        // As strtol(3) reads it. With an 8 or 9 in it the number ends there for PostgreSQL.
        if plain.len() > 1 && plain.starts_with('0') && plain.bytes().all(|b| b.is_ascii_digit()) {
            return i64::from_str_radix(plain, 8).ok().map(|n| sign * n as f64);
        }
    }
    if !plain.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    plain.parse::<f64>().ok().filter(|n| n.is_finite()).map(|n| sign * n)
}

/// Edits between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<u8> = b.bytes().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = i;
        let mut left = i + 1;
        for (at, y) in b.iter().enumerate() {
            let above = row.get(at + 1).copied().unwrap_or(usize::MAX);
            let edit = if x == *y { before } else { 1 + before.min(above).min(left) };
            before = above;
            left = edit;
            if let Some(cell) = row.get_mut(at + 1) {
                *cell = edit;
            }
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        let entry = |kind, context| Entry { kind, context, owned: None };
        let int = |min, max, unit: &str| Kind::Integer { min, max, unit: unit.to_owned() };
        let words =
            |list: &[&str]| Kind::Enum { words: list.iter().map(|w| (*w).into()).collect() };
        let mut entries = BTreeMap::from([
            ("work_mem".into(), entry(int(64.0, 2_147_483_647.0, "kB"), Context::Reload)),
            ("shared_buffers".into(), entry(int(16.0, 1_073_741_823.0, "8kB"), Context::Restart)),
            ("max_connections".into(), entry(int(1.0, 262_143.0, ""), Context::Restart)),
            ("statement_timeout".into(), entry(int(0.0, 2_147_483_647.0, "ms"), Context::Reload)),
            ("checkpoint_timeout".into(), entry(int(30.0, 86_400.0, "s"), Context::Reload)),
            ("log_statement".into(), entry(words(&["none", "ddl", "mod", "all"]), Context::Reload)),
            (
                "wal_compression".into(),
                entry(words(&["pglz", "lz4", "on", "off"]), Context::Reload),
            ),
            ("jit".into(), entry(Kind::Bool, Context::Reload)),
            ("block_size".into(), entry(int(8192.0, 8192.0, ""), Context::Internal)),
            ("log_line_prefix".into(), entry(Kind::Text, Context::Reload)),
        ]);
        let cost = Kind::Real { min: 0.0, max: 1.797e308, unit: String::new() };
        entries.insert("random_page_cost".into(), entry(cost, Context::Reload));
        let delay = Kind::Real { min: -1.0, max: 100.0, unit: "ms".into() };
        entries.insert("autovacuum_vacuum_cost_delay".into(), entry(delay, Context::Reload));
        let owned = Some("it names the member".to_owned());
        let name = Entry { kind: Kind::Text, context: Context::Restart, owned };
        entries.insert("cluster_name".into(), name);
        Catalogue { major: 15, entries }
    }

    #[test]
    fn what_postgresql_takes_is_taken() {
        let c = catalogue();
        for (name, value) in [
            ("work_mem", "64MB"),
            ("work_mem", "64 MB"),
            ("work_mem", "4096"),
            ("Work_Mem", "0x1000"),
            ("work_mem", "0.5GB"),
            ("work_mem", "1e3"),
            ("shared_buffers", "128kB"),
            ("shared_buffers", "8TB".replace('8', "7").as_str()),
            ("statement_timeout", "1.5min"),
            ("statement_timeout", "500us"),
            ("checkpoint_timeout", "1d"),
            ("checkpoint_timeout", "30000ms"),
            ("max_connections", "0144"),
            ("log_statement", "DDL"),
            ("wal_compression", "true"),
            ("jit", "of"),
            ("jit", "y"),
            ("jit", "TRUE"),
            ("random_page_cost", "1.1"),
            ("random_page_cost", "1e1"),
            ("autovacuum_vacuum_cost_delay", "-1"),
            ("autovacuum_vacuum_cost_delay", "2ms"),
            ("log_line_prefix", "%m"),
            ("pg_stat_statements.max", "whatever"),
        ] {
            assert_eq!(c.check(name, value), Ok(()), "{name} = {value}");
        }
    }

    #[test]
    fn what_it_refuses_is_refused_with_a_way_out() {
        let c = catalogue();
        for (name, value, part) in [
            ("work_men", "4MB", "did you mean work_mem?"),
            ("zzzzzzzzzz", "1", "pg_settings"),
            ("work_mem", "4 mb", "upper and lower case"),
            ("work_mem", "4s", "write one of B, kB"),
            ("work_mem", "lots", "write, for example, 64MB"),
            ("work_mem", "", "write, for example"),
            ("work_mem", "1kB", "from 64"),
            ("shared_buffers", "100TB", "to 1073741823"),
            ("max_connections", "10MB", "remove the unit"),
            ("max_connections", "-1", "from 1"),
            ("checkpoint_timeout", "1s", "from 30"),
            ("statement_timeout", "x", "30s"),
            ("log_statement", "some", "none, ddl, mod, all"),
            ("jit", "o", "on or off"),
            ("jit", "", "on or off"),
            ("block_size", "8192", "remove it"),
            ("cluster_name", "x", "remove it"),
            ("random_page_cost", "nan", "for example"),
        ] {
            let found = c.check(name, value).unwrap_err();
            assert!(found.mend.contains(part), "{name} = {value}: {found:?}");
        }
    }

    #[test]
    fn any_text_is_survived() {
        let c = catalogue();
        for text in ["-", "+", "0x", "e", "1e", "1e+", "..", "1.2.3", "ä", "-ä", "0xä", "1 ä"] {
            for name in c.entries.keys() {
                let _ = c.check(name, text);
            }
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
