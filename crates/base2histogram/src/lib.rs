//! A histogram with a bucket for each power of two.
//!
//! Offers what openraft calls of the crate of the same name, without that one's lookup tables for
//! sixteen precisions, which take 24 MB in every process. Percentiles are exact to a factor of two.

use std::fmt;
use std::marker::PhantomData;

/// One bucket for zero and one for each power of two.
const BUCKETS: usize = 65;

/// Counts values by their power of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    _p: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), _p: PhantomData }
    }
}

impl<T> Histogram<T> {
    /// An empty histogram.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `value` once.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` `times` over.
    pub fn record_n(&mut self, value: u64, times: u64) {
        if let Some(count) = self.counts.get_mut((u64::BITS - value.leading_zeros()) as usize) {
            *count = count.saturating_add(times);
        }
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The least value of the bucket that holds the value at `fraction` (0 to 1) of all.
    pub fn percentile(&self, fraction: f64) -> u64 {
        let wanted = ((self.total() as f64 * fraction).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return if bucket == 0 { 0 } else { 1 << (bucket - 1) };
            }
        }
        0
    }

    /// The usual percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// The usual percentiles of a histogram.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p99, p99_9, .. } = self;
        write!(f, "{samples} samples, p50 {p50}, p99 {p99}, p99.9 {p99_9}")
    }
}

/// Several histograms as text, one a line.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

impl AsciiChart {
    /// Without a histogram.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    #[allow(clippy::should_implement_trait)]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> Self {
        self.0.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, stats) in &self.0 {
            writeln!(f, "{name}: {stats}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_factor_of_two() {
        let mut h = Histogram::<()>::new();
        assert_eq!(h.percentile_stats().p50, 0);
        for value in 0..1000 {
            h.record(value);
        }
        h.record(u64::MAX);
        assert_eq!(h.total(), 1001);
        let stats = h.percentile_stats();
        assert_eq!((stats.p1, stats.p50, stats.p99), (8, 256, 512));
        assert_eq!(h.percentile(1.0), 1 << 63);
    }
}
