//! Points in time on the command line: how long ago, or a date in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use super::when;

/// What is understood, for messages.
const WANTED: &str = "a time such as 15m, 2h or 1d (so long ago), 2026-11-22, \
                      \"2026-11-22 13:45\" or 2026-11-22T13:45:07Z (UTC) is wanted";

/// A point in time, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct When(pub(super) u64);

/// Reads a point in time as an argument.
pub(super) fn when(text: &str) -> Result<When, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    parse(text, u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn parse(text: &str, now_ms: u64) -> Result<When, String> {
    let text = text.trim();
    let ago = when::length_ms(text, &["ms", "s", "m", "min", "h", "d"]).ok();
    ago.map(|ms| When(now_ms.saturating_sub(ms)))
        .or_else(|| date_time(text).map(When))
        .ok_or_else(|| WANTED.to_owned())
}

/// A date, with or without a time of the day, in UTC.
fn date_time(text: &str) -> Option<u64> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time.strip_suffix('Z').unwrap_or(time)),
        None => (text, "00:00"),
    };
    let [year, month, day] = numbers::<3>(date, '-')?.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let days_of_month = when::days_of(year, month)?;
    if !(1970..=9999).contains(&year) || !(1..=days_of_month).contains(&day) {
        return None;
    }
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] =
        numbers::<3>(clock, ':').or_else(|| numbers::<2>(clock, ':').map(|[h, m]| [h, m, 0]))?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let ms: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let days = u64::try_from(when::days_since_1970(year, month, day)).ok()?;
    Some(days * 86_400_000 + ((hour * 60 + minute) * 60 + second) * 1000 + ms)
}

/// Exactly so many numbers with `between` between them.
fn numbers<const N: usize>(text: &str, between: char) -> Option<[u64; N]> {
    let parts: Option<Vec<u64>> = text
        .split(between)
        .map(|p| p.parse().ok().filter(|_| p.bytes().all(|b| b.is_ascii_digit())))
        .collect();
    parts?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::time;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn times_are_understood() {
        let shown = |text: &str| time(parse(text, NOW).unwrap().0);
        assert_eq!(shown("2026-11-22"), "2026-11-22 00:00:00.000Z");
        assert_eq!(shown("2026-11-22 13:45"), "2026-11-22 13:45:00.000Z");
        assert_eq!(shown("2026-11-22T13:45:07Z"), "2026-11-22 13:45:07.000Z");
        // What this program prints itself.
        for text in ["2000-02-29 23:59:59.999Z", "1970-01-01 00:00:00.000Z"] {
            assert_eq!(shown(text), text);
        }
        assert_eq!(parse("15m", NOW), Ok(When(NOW - 900_000)));
        assert_eq!(parse("2d", NOW), Ok(When(NOW - 172_800_000)));
        assert_eq!(parse("99999999999999999999d", NOW), Ok(When(0)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "m",
            "5",
            "5y",
            "-5m",
            "2026-13-01",
            "2026-02-30",
            "2026-11-22 24:00",
            "22.11.2026",
            "2026-11-22T1:2:3:4Z",
            "+2026-01-01",
            "2026-11-22 12:00+01:00",
        ] {
            assert!(parse(text, NOW).is_err(), "{text}");
        }
    }
}
