//! What PostgreSQL's programs print, and what the kernel says of processes.

use crate::domain::types::WallMillis;
use crate::postgres::basebackup::{parse_positions, parse_progress};
use crate::postgres::binaries::Version;
use crate::postgres::layout::{Aside, utc_stamp};
use crate::postgres::{activity, rewind};

/// The text, taken for each of them. Its first line stands for a second file where one is needed.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(progress) = parse_progress(&text) {
        assert!(progress.bytes_done % 1024 == 0 && progress.bytes_total % 1024 == 0);
    }
    parse_positions(&text);
    rewind::parse_divergence(&text);
    if let Some(version) = Version::parse(&text) {
        assert!(
            version.full.starts_with(&version.major.to_string()) || version.full.starts_with('0')
        );
    }
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    activity::parse(first, rest);
    let aside = |stamp: String| {
        Aside { path: "/x".into(), stamp, reason: String::new(), bytes: 0 }.at_unix_ms()
    };
    aside(first.to_owned());
    // Every time has a stamp that is read back to the second.
    let mut number = [0; 8];
    number.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let at = u64::from_le_bytes(number);
    let stamp = utc_stamp(WallMillis(at));
    if stamp.len() == 16 {
        assert_eq!(aside(stamp.clone()), at / 1000 * 1000, "{stamp}");
    }
}
