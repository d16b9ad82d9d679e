//! A small generator (splitmix64): a seed gives one run. Each purpose draws from a stream of its
//! own, so that a fault that is left out changes as little as possible of everything else.

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

/// Mixes the bits of a number.
pub fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream of this number that belongs to `seed`.
    pub fn stream(seed: u64, number: u64) -> Self {
        Self(mix(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ mix(number.wrapping_add(0x5851_F42D))))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `n`; 0 where `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// A number from `low` up to, without, `high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, p: u64) -> bool {
        p > 0 && self.below(1000) < p
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
