//! Forms of output, and how numbers and times are written for people.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use clap::ValueEnum;
use serde::Serialize;

use super::failure::Failure;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
    /// For `config show`; elsewhere the same as for people.
    Toml,
}

impl Format {
    /// Whether a person reads it.
    pub(super) fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Toml)
    }
}

/// Writes a line to standard output.
pub(super) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.as_ref())?;
    Ok(out.flush()?)
}

/// Tells the operator something beside the output, on standard error.
pub(super) fn note(text: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stderr(), "{text}")?)
}

/// Writes `value` in `format`, which for [`Format::Table`] is what `table` makes.
pub(super) fn value<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match format {
        Format::Table | Format::Toml => line(folded(table().trim_end(), width(&io::stdout()))),
        Format::Json => line(serde_json::to_string_pretty(value).map_err(io::Error::other)?),
        Format::Yaml => line(serde_yaml_ng::to_string(value).map_err(io::Error::other)?.trim_end()),
    }
}

/// The same for one of many values: JSON in one line each, YAML as one document each.
pub(super) fn item<T: Serialize>(
    format: Format,
    one: &T,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match format {
        Format::Table | Format::Toml => line(folded(text().trim_end(), width(&io::stdout()))),
        Format::Json => line(serde_json::to_string(one).map_err(io::Error::other)?),
        Format::Yaml => {
            line("---")?;
            value(format, one, String::new)
        }
    }
}

/// When colours are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Colour {
    /// On a terminal, where NO_COLOR is not set and TERM is not `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What the command line said about colours; set once, before anything is printed.
static COLOUR: OnceLock<Colour> = OnceLock::new();

/// Remembers what the command line said about colours.
pub(super) fn set_colours(when: Colour) {
    let _ = COLOUR.set(when);
}

/// Whether colours may be used on standard output.
pub(super) fn colours() -> bool {
    match COLOUR.get().copied().unwrap_or_default() {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
            on_screen() && !unwanted
        }
    }
}

/// Whether standard output is a terminal that can be drawn on again.
pub(super) fn on_screen() -> bool {
    io::stdout().is_terminal() && can_move()
}

/// Whether the terminal, if there is one, understands escape sequences.
pub(super) fn can_move() -> bool {
    std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Characters in a line of the terminal that `to` is; `None` where it is none, or does not know.
pub(super) fn width(to: &impl AsFd) -> Option<usize> {
    let (terminal_size::Width(columns), _) = terminal_size::terminal_size_of(to)?;
    (columns > 0).then_some(usize::from(columns))
}

/// Breaks lines that are wider than the terminal between words, and indents what follows. A word
/// that is wider by itself stays whole, so that it can be copied.
pub(super) fn folded(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let mut out = String::with_capacity(text.len());
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if visible(line) <= width {
            out.push_str(line);
            continue;
        }
        let indent = line.len() - line.trim_start().len() + 2;
        let mut column = 0;
        for (j, word) in line.split(' ').enumerate() {
            let wide = visible(word);
            if j > 0 && column > indent && column + 1 + wide > width {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else if j > 0 {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += wide;
        }
    }
    out
}

/// Characters that take room: all but those of escape sequences.
fn visible(text: &str) -> usize {
    let (mut count, mut escape) = (0, false);
    for c in text.chars() {
        match (escape, c) {
            (false, '\x1b') => escape = true,
            (true, c) => escape = !c.is_ascii_alphabetic(),
            (false, _) => count += 1,
        }
    }
    count
}

/// Bytes with a unit: `0 B`, `16.0 MiB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A length of time: `0.2 s`, `12 s`, `3 min`, `5 h`, `2 d`.
pub(super) fn age(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{:.1} s", ms as f64 / 1000.0),
        10_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// A wall-clock time in UTC: `2026-11-22 01:45:07.250Z`.
pub(super) fn time(unix_ms: u64) -> String {
    let (days, of_day) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (h, m, s, ms) =
        (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// The Gregorian date of a day since 1970: years are counted from March, so that the leap day is
/// the last of a year, and eras of 400 years have 146097 days each.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(16 << 20), "16.0 MiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(age(230), "0.2 s");
        assert_eq!(age(61_000), "61 s");
        assert_eq!(age(3_600_000), "60 min");
        assert_eq!(age(u64::MAX / 2), "106751991167 d");
    }

    #[test]
    fn lines_are_folded_between_words() {
        let text = "cluster main: epoch 4, primary a\n  - one two three\nshort";
        assert_eq!(folded(text, None), text);
        assert_eq!(folded(text, Some(40)), text);
        let want = "cluster main: epoch\n  4, primary a\n  - one two three\nshort";
        assert_eq!(folded(text, Some(19)), want);
        assert_eq!(folded("  - one two three", Some(12)), "  - one two\n    three");
        assert_eq!(
            folded("see postgresql://a:1,b:2/x now", Some(10)),
            "see\n  postgresql://a:1,b:2/x\n  now"
        );
        assert_eq!(folded("\x1b[32mprimary\x1b[39m a", Some(9)), "\x1b[32mprimary\x1b[39m a");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00.000Z");
        assert_eq!(time(1_709_251_199_999), "2024-02-29 23:59:59.999Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01 00:00:00.000Z");
    }
}
