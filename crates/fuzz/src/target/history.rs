//! Timeline history files: `postgres::history`, and the lineage that is read from them.

use crate::alloc;
use crate::domain::types::{Lsn, Timeline};
use crate::input::Input;
use crate::postgres::history::{History, file_name, parse_file_name};
use crate::postgres::wal::Segment;

/// Four bytes of the timeline, then the file.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let number = (0..4).fold(0_u32, |n, _| n << 8 | u32::from(input.byte()));
    let timeline = Timeline(number);
    let text = String::from_utf8_lossy(input.rest());
    names(&text);
    let bytes_max = 64 * 1024 + 64 * text.len();
    let parsed = alloc::within(bytes_max, "a history", || History::parse(timeline, &text));
    let history = match parsed {
        Ok(history) => history,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let rendered = history.render();
    let again = History::parse(timeline, &rendered).expect("what was written can be read");
    assert_eq!(again, history, "{rendered:?}");
    assert!(history.parent().is_none_or(|parent| parent < timeline));
    let mut probes = vec![Lsn(0), Lsn(u64::MAX)];
    for entry in &history.entries {
        probes.extend([entry.end, Lsn(entry.end.0.saturating_sub(1))]);
    }
    for lsn in probes {
        let owner = history.timeline_of(lsn);
        assert_eq!(owner, as_postgresql_finds_it(&history, lsn), "{lsn} in {history:?}");
    }
    let start = history.start();
    assert_eq!(history.timeline_of(Lsn(start.0.max(1))), timeline);
}

/// `tliOfPointInHistory` of PostgreSQL's `timeline.c`: the newest entry whose range holds it.
fn as_postgresql_finds_it(history: &History, lsn: Lsn) -> Timeline {
    let mut begin = Lsn(0);
    let mut ranges = Vec::new();
    for entry in &history.entries {
        ranges.push((entry.timeline, begin, Some(entry.end)));
        begin = entry.end;
    }
    ranges.push((history.timeline, begin, None));
    // PostgreSQL lists the newest first.
    let holds = |(_, begin, end): &&(Timeline, Lsn, Option<Lsn>)| {
        (*begin == Lsn(0) || *begin <= lsn) && end.is_none_or(|end| end == Lsn(0) || lsn < end)
    };
    ranges.iter().rev().find(holds).map_or(history.timeline, |(timeline, _, _)| *timeline)
}

/// The same text, taken for names of files.
fn names(text: &str) {
    if let Some(timeline) = parse_file_name(text) {
        assert_eq!(file_name(timeline), text);
    }
    for bits in [20, 24, 30] {
        let segment_bytes = 1 << bits;
        if let Some(segment) = Segment::parse(text, segment_bytes) {
            assert_eq!(segment.file_name(segment_bytes), text);
            let again = Segment::of(segment.timeline, segment.start(segment_bytes), segment_bytes);
            assert_eq!(again, segment);
        }
    }
}
