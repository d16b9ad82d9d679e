//! A set of rows, kept as ranges of their numbers.
//!
//! Owns the set. Rows are numbered in the order in which clients begin to write them, and nearly
//! all of them arrive, so thousands of rows are a few ranges: a checker can compare every state
//! that any client saw. Imports nothing.

use std::collections::BTreeSet;
use std::fmt;

/// The number of a row; no two writes have the same.
pub type Value = u64;

/// A set of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// First and last of each range; in order, with a gap before each.
    ranges: Vec<(Value, Value)>,
}

impl Rows {
    /// Of numbers in any order. An error is a number that is there twice.
    pub fn of(values: impl IntoIterator<Item = Value>) -> Result<Self, Value> {
        let mut values: Vec<Value> = values.into_iter().collect();
        values.sort_unstable();
        match values.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(pair[0]),
            None => Ok(Self::sorted(values)),
        }
    }

    /// Of ranges, first and last of each, in any order. An error is a number that is there twice.
    pub fn of_ranges(mut ranges: Vec<(Value, Value)>) -> Result<Self, Value> {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        match ranges.windows(2).find(|pair| pair[1].0 <= pair[0].1) {
            Some(pair) => Err(pair[1].0),
            None => Ok(Rows::default().union(&Rows { ranges })),
        }
    }

    /// Its ranges, first and last of each, in order.
    pub fn ranges(&self) -> &[(Value, Value)] {
        &self.ranges
    }

    fn sorted(values: impl IntoIterator<Item = Value>) -> Self {
        let mut rows = Self::default();
        for value in values {
            match rows.ranges.last_mut() {
                Some((_, last)) if *last + 1 == value => *last = value,
                _ => rows.ranges.push((value, value)),
            }
        }
        rows
    }

    /// How many.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether this one is in it.
    pub fn contains(&self, value: Value) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= value);
        after > 0 && value <= self.ranges[after - 1].1
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The largest.
    pub fn last(&self) -> Option<Value> {
        self.ranges.last().map(|range| range.1)
    }

    /// Puts one in.
    pub fn insert(&mut self, value: Value) {
        let after = self.ranges.partition_point(|(first, _)| *first <= value);
        if after > 0 && value <= self.ranges[after - 1].1 {
            return;
        }
        let joins_left = after > 0 && self.ranges[after - 1].1 + 1 == value;
        let joins_right = self.ranges.get(after).is_some_and(|range| range.0 == value + 1);
        match (joins_left, joins_right) {
            (true, true) => {
                self.ranges[after - 1].1 = self.ranges[after].1;
                self.ranges.remove(after);
            }
            (true, false) => self.ranges[after - 1].1 = value,
            (false, true) => self.ranges[after].0 = value,
            (false, false) => self.ranges.insert(after, (value, value)),
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, value: Value) {
        let after = self.ranges.partition_point(|(first, _)| *first <= value);
        if after == 0 || value > self.ranges[after - 1].1 {
            return;
        }
        let (first, last) = self.ranges[after - 1];
        let left = (first < value).then(|| (first, value - 1));
        let right = (value < last).then(|| (value + 1, last));
        self.ranges.splice(after - 1..after, left.into_iter().chain(right));
    }

    /// Those that are not in `other`.
    pub fn without(&self, other: &Rows) -> Rows {
        let mut ranges = Vec::new();
        let mut cuts = other.ranges.iter().peekable();
        for &(first, last) in &self.ranges {
            let mut from = first;
            while let Some(&&(cut_first, cut_last)) = cuts.peek() {
                if cut_last < from {
                    cuts.next();
                    continue;
                }
                if cut_first > last {
                    break;
                }
                if cut_first > from {
                    ranges.push((from, cut_first - 1));
                }
                from = cut_last + 1;
                if cut_last >= last {
                    break;
                }
                cuts.next();
            }
            if from <= last {
                ranges.push((from, last));
            }
        }
        Rows { ranges }
    }

    /// Those that are in either.
    pub fn union(&self, other: &Rows) -> Rows {
        let mut all: Vec<(Value, Value)> =
            self.ranges.iter().chain(&other.ranges).copied().collect();
        all.sort_unstable();
        let mut ranges: Vec<(Value, Value)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match ranges.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => ranges.push((first, last)),
            }
        }
        Rows { ranges }
    }
}

impl FromIterator<Value> for Rows {
    fn from_iter<I: IntoIterator<Item = Value>>(values: I) -> Self {
        Self::sorted(values.into_iter().collect::<BTreeSet<_>>())
    }
}

/// At most so many ranges are written.
const SHOWN: usize = 8;

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (i, (first, last)) in self.ranges.iter().take(SHOWN).enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first} to {last}")?,
            }
        }
        if self.ranges.len() > SHOWN {
            write!(f, " and more, {} in all", self.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::schedule::Rng;
    use super::*;

    fn rows(values: &[Value]) -> Rows {
        values.iter().copied().collect()
    }

    #[test]
    fn it_is_a_set() {
        let mut rng = Rng::new(3, 0);
        for _ in 0..300 {
            let mut draw = || -> BTreeSet<Value> { (0..30).map(|_| rng.below(40)).collect() };
            let (a, b) = (draw(), draw());
            let (ra, rb): (Rows, Rows) = (a.iter().copied().collect(), b.iter().copied().collect());
            assert!(ra.iter().eq(a.iter().copied()));
            assert_eq!(ra.len(), a.len() as u64);
            assert_eq!(ra.without(&rb), a.difference(&b).copied().collect());
            assert_eq!(ra.union(&rb), a.union(&b).copied().collect());
            assert_eq!(ra.last(), a.last().copied());
            let (mut put, mut taken) = (Rows::default(), ra.clone());
            for value in &b {
                put.insert(*value);
                put.insert(*value);
                taken.remove(*value);
                taken.remove(*value);
            }
            assert_eq!(put, rb);
            assert_eq!(taken, ra.without(&rb));
            assert!((0..42).all(|v| ra.contains(v) == a.contains(&v)));
        }
    }

    #[test]
    fn one_that_is_there_twice_is_told() {
        assert_eq!(Rows::of([3, 1, 2]), Ok(rows(&[1, 2, 3])));
        assert_eq!(Rows::of([3, 1, 3]), Err(3));
        let ranges = vec![(5, 6), (1, 3), (4, 4), (9, 8)];
        assert_eq!(Rows::of_ranges(ranges), Ok(rows(&[1, 2, 3, 4, 5, 6])));
        assert_eq!(Rows::of_ranges(vec![(1, 3), (3, 4)]), Err(3));
    }

    #[test]
    fn many_are_written_short() {
        assert_eq!(rows(&[]).to_string(), "none");
        assert_eq!(rows(&[1, 2, 3, 7]).to_string(), "1 to 3, 7");
        let many: Rows = (0..40).map(|i| i * 2).collect();
        assert!(many.to_string().ends_with("14 and more, 40 in all"), "{many}");
    }
}
