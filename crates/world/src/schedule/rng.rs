//! A small generator of numbers, all of which follow from one seed.
//!
//! Owns splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
//! It is written out here because plans are kept for years: no new version of a crate may change
//! what a seed means. Imports nothing.

/// A stream of numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of a seed, for one use: streams of one seed with different `stream` do not
    /// resemble each other.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed);
        let mixed = rng.next() ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Self(mixed)
    }

    /// Any number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0. The bias of the remainder is below 2^-32 for all
    /// ends that are used here.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    /// A number from `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// The same for numbers with a sign.
    pub fn between_signed(&mut self, least: i64, most: i64) -> i64 {
        least.saturating_add_unsigned(self.below(most.abs_diff(least) + 1))
    }

    /// A number from `least` to `most`, small ones as likely as large ones: each doubling has the
    /// same share. `least` must not be 0.
    pub fn scale(&mut self, least: u64, most: u64) -> u64 {
        let doublings = u64::from((most / least.max(1)).max(1).ilog2());
        let low = least << self.below(doublings + 1);
        self.between(low.min(most), (low * 2 - 1).min(most))
    }

    /// Whether it happens, so many times in a hundred.
    pub fn percent(&mut self, of_hundred: u64) -> bool {
        self.below(100) < of_hundred
    }

    /// One of them. There must be one.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// An index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // The reference implementation's first numbers for the state 1234567.
        let mut rng = Rng(1_234_567);
        let numbers: Vec<u64> = (0..3).map(|_| rng.next()).collect();
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!(numbers[..2], expected);
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut rng = Rng::new(7, 1);
        let mut seen = [false; 4];
        for _ in 0..1000 {
            assert!(rng.below(3) < 3);
            let x = rng.between(2, 5);
            seen[(x - 2) as usize] = true;
            assert!((-9..=-3).contains(&rng.between_signed(-9, -3)));
            assert!((1..=1000).contains(&rng.scale(1, 1000)));
            assert!((5..=6).contains(&rng.scale(5, 6)));
        }
        assert_eq!(seen, [true; 4]);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.between(4, 4), 4);
    }

    #[test]
    fn streams_of_one_seed_differ() {
        let first = |seed, stream| Rng::new(seed, stream).next();
        assert_eq!(first(1, 1), first(1, 1));
        assert_ne!(first(1, 1), first(1, 2));
        assert_ne!(first(1, 1), first(2, 1));
    }
}
