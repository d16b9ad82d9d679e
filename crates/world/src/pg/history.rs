//! Timeline histories (PostgreSQL manual, section 26.3.5; timeline.c).

use std::collections::BTreeMap;

use crate::domain::types::{Lsn, Timeline};

/// A timeline that was left for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ancestor {
    /// Which.
    pub timeline: Timeline,
    /// The first byte that is not its own.
    pub end: Lsn,
}

/// A timeline with its ancestors, oldest first: the content of a history file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The timeline.
    pub timeline: Timeline,
    /// Its ancestors.
    pub ancestors: Vec<Ancestor>,
}

impl History {
    /// That of a timeline without ancestors.
    pub fn root(timeline: Timeline) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// That of a child that leaves this timeline at `end`.
    pub fn child(&self, timeline: Timeline, end: Lsn) -> Self {
        let mut ancestors = self.ancestors.clone();
        ancestors.push(Ancestor { timeline: self.timeline, end });
        Self { timeline, ancestors }
    }

    /// A number that was never written, as the product marks it: it names no usable parent.
    pub fn placeholder(timeline: Timeline) -> Self {
        Self { timeline, ancestors: vec![Ancestor { timeline: Timeline(1), end: Lsn(1) }] }
    }

    /// Whether it is a placeholder.
    pub fn is_placeholder(&self) -> bool {
        self.ancestors.iter().any(|a| a.end == Lsn(1))
    }

    /// Where the timeline begins.
    pub fn begin(&self) -> Lsn {
        self.ancestors.last().map_or(Lsn(0), |a| a.end)
    }

    /// Each timeline with its beginning, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = (Timeline, Lsn)> {
        let begin = |i: usize| if i == 0 { Lsn(0) } else { self.ancestors[i - 1].end };
        let own = std::iter::once((self.timeline, self.begin()));
        let older = self.ancestors.iter().enumerate().rev();
        own.chain(older.map(move |(i, a)| (a.timeline, begin(i))))
    }

    /// Each timeline with its beginning and its end, oldest first.
    pub fn oldest_first(&self) -> impl Iterator<Item = (Timeline, Lsn, Lsn)> {
        let mut begin = Lsn(0);
        let own = std::iter::once((self.timeline, Lsn(u64::MAX)));
        let all = self.ancestors.iter().map(|a| (a.timeline, a.end)).chain(own);
        all.map(move |(timeline, end)| (timeline, std::mem::replace(&mut begin, end), end))
    }

    /// The timeline to which the byte at `lsn` belongs (`tliOfPointInHistory`).
    pub fn timeline_of(&self, lsn: Lsn) -> Timeline {
        let found = self.newest_first().find(|(_, begin)| *begin <= lsn);
        found.map_or(self.timeline, |(timeline, _)| timeline)
    }

    /// Where an ancestor was left, and for which timeline (`tliSwitchPoint`).
    pub fn switch_point(&self, timeline: Timeline) -> Option<(Lsn, Timeline)> {
        let i = self.ancestors.iter().position(|a| a.timeline == timeline)?;
        let next = self.ancestors.get(i + 1).map_or(self.timeline, |a| a.timeline);
        Some((self.ancestors[i].end, next))
    }

    /// The last position and timeline that two histories share (`findCommonAncestorTimeline` in
    /// pg_rewind.c); `None` where they share none.
    pub fn common(&self, other: &History) -> Option<(Lsn, Timeline)> {
        let mut found = None;
        for ((timeline, begin, end), (theirs, their_begin, their_end)) in
            self.oldest_first().zip(other.oldest_first())
        {
            if timeline != theirs || begin != their_begin {
                break;
            }
            found = Some((end.min(their_end), timeline));
        }
        found
    }
}

/// The history files of a data directory.
#[derive(Debug, Clone, Default)]
pub struct Histories(BTreeMap<Timeline, History>);

impl Histories {
    /// All files.
    pub fn iter(&self) -> impl Iterator<Item = &History> {
        self.0.values()
    }

    /// Whether there is a file of this timeline.
    pub fn has(&self, timeline: Timeline) -> bool {
        self.0.contains_key(&timeline)
    }

    /// The file of this timeline.
    pub fn file(&self, timeline: Timeline) -> Option<&History> {
        self.0.get(&timeline)
    }

    /// The history of a timeline; without a file it has no ancestors (`readTimeLineHistory`).
    pub fn of(&self, timeline: Timeline) -> History {
        self.0.get(&timeline).cloned().unwrap_or_else(|| History::root(timeline))
    }

    /// Writes a file, over one that is there.
    pub fn put(&mut self, history: History) {
        self.0.insert(history.timeline, history);
    }

    /// Removes a file.
    pub fn remove(&mut self, timeline: Timeline) {
        self.0.remove(&timeline);
    }

    /// Keeps some files only.
    pub fn retain(&mut self, mut keep: impl FnMut(Timeline) -> bool) {
        self.0.retain(|timeline, _| keep(*timeline));
    }

    /// The newest number that is reached from `from` without a gap (`findNewestTimeLine`).
    pub fn newest(&self, from: Timeline) -> Timeline {
        let mut newest = from;
        while self.has(Timeline(newest.0 + 1)) {
            newest.0 += 1;
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_belong_to_timelines() {
        let history =
            History::root(Timeline(1)).child(Timeline(4), Lsn(100)).child(Timeline(6), Lsn(200));
        for (lsn, timeline) in [(0, 1), (99, 1), (100, 4), (199, 4), (200, 6), (999, 6)] {
            assert_eq!(history.timeline_of(Lsn(lsn)), Timeline(timeline), "{lsn}");
        }
        assert_eq!(history.switch_point(Timeline(4)), Some((Lsn(200), Timeline(6))));
        assert_eq!(history.switch_point(Timeline(5)), None);
    }

    #[test]
    fn the_last_common_point_is_found() {
        let root = History::root(Timeline(1));
        let two = root.child(Timeline(2), Lsn(100));
        let three = root.child(Timeline(3), Lsn(80));
        assert_eq!(two.common(&root), Some((Lsn(100), Timeline(1))));
        assert_eq!(two.common(&three), Some((Lsn(80), Timeline(1))));
        assert_eq!(two.common(&two), Some((Lsn(u64::MAX), Timeline(2))));
        assert_eq!(History::root(Timeline(9)).common(&two), None);
    }

    #[test]
    fn the_search_for_the_newest_stops_at_a_gap() {
        let mut files = Histories::default();
        for timeline in [2, 3, 5] {
            files.put(History::placeholder(Timeline(timeline)));
        }
        assert_eq!(files.newest(Timeline(1)), Timeline(3));
        assert_eq!(files.newest(Timeline(4)), Timeline(5));
    }
}
