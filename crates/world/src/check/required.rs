//! Rows that have to be there from some time on.
//!
//! Owns the sums that make asking cheap: a run asks ten thousand times for ten thousand rows.

use super::rows::{Rows, Value};
use super::violation::Micros;

/// A sum is kept after so many rows.
const SUM_EVERY: usize = 64;

/// Rows, each with the time from which on it is required. They are added in the order of that time.
#[derive(Debug, Clone, Default)]
pub(super) struct Required {
    entries: Vec<(Micros, Value)>,
    /// The set of the first `SUM_EVERY`, of the first two times `SUM_EVERY`, and so on.
    sums: Vec<Rows>,
}

impl Required {
    /// Requires one from `from` on.
    pub(super) fn add(&mut self, from: Micros, value: Value) {
        debug_assert!(self.entries.last().is_none_or(|(last, _)| *last <= from), "out of order");
        self.entries.push((from, value));
        if self.entries.len().is_multiple_of(SUM_EVERY) {
            let mut sum = self.sums.last().cloned().unwrap_or_default();
            for (_, value) in &self.entries[self.entries.len() - SUM_EVERY..] {
                sum.insert(*value);
            }
            self.sums.push(sum);
        }
    }

    /// What is required before `at`, and is not in `rows`.
    pub(super) fn missing(&self, at: Micros, rows: &Rows) -> Rows {
        let count = self.entries.partition_point(|(from, _)| *from < at);
        let summed = count / SUM_EVERY;
        let mut missing = match summed.checked_sub(1) {
            Some(i) => self.sums[i].without(rows),
            None => Rows::default(),
        };
        for (_, value) in &self.entries[summed * SUM_EVERY..count] {
            if !rows.contains(*value) {
                missing.insert(*value);
            }
        }
        missing
    }

    /// Requires those no longer.
    pub(super) fn forget(&mut self, mut which: impl FnMut(Value) -> bool) {
        if !self.entries.iter().any(|(_, value)| which(*value)) {
            return;
        }
        let entries = std::mem::take(&mut self.entries);
        self.sums.clear();
        for (from, value) in entries {
            if !which(value) {
                self.add(from, value);
            }
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Rows {
        self.missing(Micros::MAX, &Rows::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_change_nothing() {
        let mut required = Required::default();
        for i in 0..1000 {
            // Two a microsecond, numbered backwards.
            required.add(i / 2, 5000 - i);
        }
        let rows: Rows = (4300..4900).collect();
        for at in [0, 1, 31, 32, 33, 64, 200, 499, 500, 10_000] {
            let simple: Rows = (0..1000)
                .filter(|i| i / 2 < at)
                .map(|i| 5000 - i)
                .filter(|v| !rows.contains(*v))
                .collect();
            assert_eq!(required.missing(at, &rows), simple, "at {at}");
        }
        required.forget(|value| value % 3 == 0);
        let left: Rows = (4001..=5000).filter(|v| v % 3 != 0).collect();
        assert_eq!(required.all(), left);
        assert_eq!(required.missing(1, &Rows::default()), [4999, 5000].into_iter().collect());
    }
}
