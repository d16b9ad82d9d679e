//! A timeline as text, short enough to be read.
//!
//! Owns which lines are kept. Repetitions become one line; of the rest the least important go first,
//! and those furthest from the violation. Imports the timeline and what was found.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::entry::{Class, Entry, Timeline};
use crate::check::Violation;

/// What is told.
#[derive(Debug, Clone, Copy)]
pub struct Story<'a> {
    /// What happened.
    pub timeline: &'a Timeline,
    /// Where it ends, if anything was found.
    pub violation: Option<&'a Violation>,
    /// What is known of the writes concerned, a line each.
    pub writes: &'a [String],
    /// Most lines of the timeline.
    pub lines_max: usize,
}

/// Lines that are equal but for their time, one after the other.
struct Line<'a> {
    entry: &'a Entry,
    /// How many more there are, and when the last of them was.
    more: usize,
    last: u64,
}

fn seconds(at: u64) -> String {
    format!("{:9.3}", at as f64 / 1e6)
}

impl Story<'_> {
    /// The text: what happened, then why it is wrong.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let lines = self.lines();
        let kept = self.kept(&lines);
        let (mut left_out, mut in_all) = (0, 0);
        for (i, line) in lines.iter().enumerate() {
            if !kept.contains(&i) {
                left_out += 1 + line.more;
                in_all += 1 + line.more;
                continue;
            }
            elided(&mut text, &mut left_out);
            let Entry { at, node, class, text: what, .. } = line.entry;
            let node = node.map_or_else(|| "--".to_owned(), |n| format!("n{n}"));
            let _ = write!(text, "{} s  {node:<3} {:<9} {what}", seconds(*at), class.name());
            if line.more > 0 {
                let _ =
                    write!(text, "  ({} more until {} s)", line.more, seconds(line.last).trim());
            }
            text.push('\n');
        }
        if in_all > 0 {
            let _ = writeln!(text, "({in_all} lines of less importance are left out)");
        }
        if let Some(violation) = self.violation {
            let _ = writeln!(text, "\nBroken: {}.", violation.rule.says());
            let _ =
                writeln!(text, "Found at {} s: {}.", seconds(violation.at).trim(), violation.found);
            for write in self.writes {
                let _ = writeln!(text, "  {write}");
            }
        }
        text
    }

    fn lines(&self) -> Vec<Line<'_>> {
        let end = self.violation.map_or(u64::MAX, |v| v.at);
        let mut lines: Vec<Line<'_>> = Vec::new();
        let mut entries: Vec<&Entry> = self.timeline.entries().iter().collect();
        entries.retain(|e| e.at <= end);
        entries.sort_by_key(|e| e.at);
        for entry in entries {
            let about = entry.row.is_some_and(|row| self.concerns(row));
            match lines.last_mut() {
                Some(line) if !about && same(line.entry, entry) => {
                    line.more += 1;
                    line.last = entry.at;
                }
                _ => lines.push(Line { entry, more: 0, last: entry.at }),
            }
        }
        lines
    }

    fn concerns(&self, row: u64) -> bool {
        self.violation.is_some_and(|v| v.values.contains(row))
    }

    /// Which lines are kept.
    fn kept(&self, lines: &[Line<'_>]) -> BTreeSet<usize> {
        let end = self.violation.map_or(u64::MAX, |v| v.at);
        let mut order: Vec<usize> = (0..lines.len()).collect();
        order.sort_by_key(|i| {
            let entry = lines[*i].entry;
            let class = match entry.row {
                Some(row) if self.concerns(row) => Class::Fault,
                _ => entry.class,
            };
            (class, end - lines[*i].last, *i)
        });
        order.into_iter().take(self.lines_max).collect()
    }
}

fn same(a: &Entry, b: &Entry) -> bool {
    a.node == b.node && a.class == b.class && a.text == b.text && a.row.is_none() && b.row.is_none()
}

/// Gaps of fewer lines are not worth a line of their own.
const GAP_MIN: usize = 20;

fn elided(text: &mut String, left_out: &mut usize) {
    if *left_out >= GAP_MIN {
        text.push_str("      ...\n");
    }
    *left_out = 0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Rule;

    fn story(timeline: &Timeline, violation: Option<&Violation>, lines_max: usize) -> String {
        let writes = ["write 7: begun at 1.000 s in session 3, refused".to_owned()];
        Story { timeline, violation, writes: &writes, lines_max }.text()
    }

    #[test]
    fn a_story_is_told_in_order_with_its_reason() {
        let mut timeline = Timeline::default();
        timeline.note(1_000_000, Some(0), Class::Server, "m0 opens for writes in epoch 2");
        timeline.note(2_500_000, None, Class::Fault, "n0 is cut off from all");
        for i in 0..5 {
            timeline.note(3_000_000 + i, Some(1), Class::Log, "no answer from the leader");
        }
        timeline.row(3_500_000, Some(0), 7, "write 7 is refused");
        let violation =
            Violation::new(Rule::RefusedAbsent, 4_000_000, &[1], "m1 shows 7").about([7]);
        timeline.note(4_000_000, Some(1), Class::Violation, "m1 shows 7");
        timeline.note(9_000_000, Some(1), Class::Log, "after the end");
        let text = story(&timeline, Some(&violation), 100);
        let expected = "    1.000 s  n0  server    m0 opens for writes in epoch 2
    2.500 s  --  fault     n0 is cut off from all
    3.000 s  n1  log       no answer from the leader  (4 more until 3.000 s)
    3.500 s  n0  row       write 7 is refused
    4.000 s  n1  VIOLATION m1 shows 7

Broken: a write that was refused never appears.
Found at 4.000 s: m1 shows 7.
  write 7: begun at 1.000 s in session 3, refused
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_matters_least_is_left_out() {
        let mut timeline = Timeline::default();
        for i in 0..200 {
            timeline.row(i * 1000, Some(0), i, format!("write {i} is acknowledged"));
            timeline.note(i * 1000, Some(1), Class::Log, format!("line {i}"));
        }
        timeline.note(77, None, Class::Fault, "n0 is killed");
        let violation =
            Violation::new(Rule::AcknowledgedKept, 150_000, &[1], "5 is gone").about([5]);
        let text = story(&timeline, Some(&violation), 20);
        assert!(text.lines().count() < 40, "{text}");
        for there in ["n0 is killed", "write 5 is acknowledged", "write 150 is acknowledged"] {
            assert!(text.contains(there), "{there}: {text}");
        }
        for gone in ["line 3", "write 6 is", "write 151 is"] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        assert!(text.contains("left out"));
        // Without a violation the end of the run matters most.
        assert!(story(&timeline, None, 20).contains("write 199 is"));
    }
}
