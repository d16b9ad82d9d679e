//! Moments and lengths of time, as an operator types them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_MS: u64 = 86_400_000;

/// Units of lengths of time, in milliseconds.
const UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("min", 60_000), ("h", 3_600_000), ("d", DAY_MS)];

/// The milliseconds of a whole number with one of `units`, however many: every length of time on
/// the command line is read here. An empty unit in `units` stands for seconds.
pub(super) fn length_ms(text: &str, units: &[&str]) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let named = if unit.is_empty() { "s" } else { unit };
    let size = UNITS.iter().find(|(name, _)| *name == named).filter(|_| units.contains(&unit));
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match size {
        // More than can be counted is more than any bound.
        Some((_, ms)) if plain => Ok(digits.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(*ms)),
        _ => {
            let listed: Vec<_> = units.iter().copied().filter(|u| !u.is_empty()).collect();
            let (last, others) = listed.split_last().unwrap_or((&"s", &[]));
            Err(format!("a whole number with {} or {last} is wanted", others.join(", ")))
        }
    }
}

/// A length of time such as `90s`, `15m`, `2h` or `1d`. Never zero, a year at most.
pub(super) fn length(text: &str) -> Result<Duration, String> {
    match length_ms(text, &["s", "m", "min", "h", "d"])? {
        ms if ms > 0 && ms <= 366 * DAY_MS => Ok(Duration::from_millis(ms)),
        _ => Err("1s to 366d is allowed".to_owned()),
    }
}

/// A moment in milliseconds since 1970: `2026-11-23T02:00:00Z`, with another zone such as
/// `+01:00`, with a blank instead of the T, without seconds; or from now on, `+2h`.
pub(super) fn moment(text: &str) -> Result<u64, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    moment_from(text, u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn moment_from(text: &str, now_ms: u64) -> Result<u64, String> {
    if let Some(ahead) = text.strip_prefix('+') {
        let ahead = u64::try_from(length(ahead)?.as_millis()).unwrap_or(u64::MAX);
        return Ok(now_ms.saturating_add(ahead));
    }
    absolute(text).ok_or_else(|| {
        "a time with its zone is wanted, such as 2026-11-23T02:00:00Z or \
         2026-11-23T03:00+01:00, or a length from now on such as +2h"
            .to_owned()
    })
}

fn absolute(text: &str) -> Option<u64> {
    let (local, zone_s) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let at = text.len().checked_sub(6)?;
            let (local, zone) = (text.get(..at)?, text.get(at..)?);
            let sign = match zone.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (h, m) = zone.get(1..)?.split_once(':')?;
            (local, sign * (number(h, 2, 23)? * 3600 + number(m, 2, 59)? * 60))
        }
    };
    let (date, time) = local.split_once(['T', 't', ' '])?;
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4, 9999)?;
    let month = number(parts.next()?, 2, 12)?;
    let day = number(parts.next()?, 2, 31)?;
    let mut clock = time.split(':');
    let hour = number(clock.next()?, 2, 23)?;
    let minute = number(clock.next()?, 2, 59)?;
    let second = clock.next().map_or(Some(0), |s| number(s, 2, 59))?;
    if parts.next().is_some() || clock.next().is_some() || day > days_of(year, month)? {
        return None;
    }
    let days = days_since_1970(year, month, day);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - zone_s;
    u64::try_from(seconds).ok()?.checked_mul(1000)
}

/// Exactly so many digits, at most `max`.
fn number(text: &str, digits: usize, max: i64) -> Option<i64> {
    let fits = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten().filter(|n| *n <= max)
}

/// How many days a month has; `None` where there is no such month.
pub(super) fn days_of(year: i64, month: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    Some(match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    })
}

/// Days since 1970. Years are counted from March, so that the leap day is the last of a year, and eras of 400 years
/// have 146097 days each.
pub(super) fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::time;

    #[test]
    fn moments_are_read_as_they_are_written() {
        for text in ["2026-11-23T02:00:00Z", "2026-11-23 02:00Z", "2026-11-23T03:30+01:30"] {
            let ms = moment_from(text, 0).unwrap();
            assert_eq!(time(ms), "2026-11-23 02:00:00.000Z", "{text}");
        }
        assert_eq!(
            time(moment_from("2028-02-29T00:00:00-01:00", 0).unwrap()),
            "2028-02-29 01:00:00.000Z"
        );
        assert_eq!(moment_from("1970-01-01T00:00Z", 7), Ok(0));
        assert_eq!(moment_from("+90s", 7), Ok(90_007));
        assert_eq!(moment_from("+1d", 0), Ok(DAY_MS));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        let bad = [
            "",
            "now",
            "2026-11-23",
            "2026-11-23T02:00",
            "2026-02-29T00:00Z",
            "2026-13-01T00:00Z",
            "2026-11-31T00:00Z",
            "2026-11-23T24:00Z",
            "2026-11-23T02:00:00:00Z",
            "+",
            "+1w",
            "+0s",
            "+2",
            "1960-01-01T00:00Z",
            "2026-1-1T0:0Z",
            "ä",
            "2026-11-23T02:00+1:00",
        ];
        for text in bad {
            assert!(moment_from(text, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_have_a_unit() {
        assert_eq!(length("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(length("99999999999999999999d"), Err("1s to 366d is allowed".to_owned()));
        assert_eq!(length_ms("7ms", &["ms", ""]), Ok(7));
        assert_eq!(length_ms("7", &["ms", ""]), Ok(7000));
        let error = length_ms("7h", &["ms", "", "s"]).unwrap_err();
        assert_eq!(error, "a whole number with ms or s is wanted");
        assert_eq!(length("2h"), Ok(Duration::from_secs(7200)));
        for text in ["", "1", "0s", "400d", "1.5h", "-1h", "+1h", "h", "1ä"] {
            assert!(length(text).is_err(), "{text}");
        }
    }
}
