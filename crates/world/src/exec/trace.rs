//! What happened in a run, as lines and as a hash of them.

use super::Nanos;

/// The trace of a run.
#[derive(Debug)]
pub(super) struct Trace {
    pub hash: u64,
    pub keep: bool,
    pub lines: Vec<String>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, keep: false, lines: Vec::new() }
    }
}

impl Trace {
    fn mix(&mut self, bytes: &[u8]) {
        // FNV-1a over words: quick, and the same everywhere.
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash ^= u64::from_le_bytes(word);
            self.hash = self.hash.wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
    }

    pub fn line(&mut self, at: Nanos, scope: u32, place: &str, text: &str) {
        self.mix(&at.to_le_bytes());
        self.mix(&scope.to_le_bytes());
        self.mix(text.as_bytes());
        if self.keep {
            let (s, us) = (at / 1_000_000_000, at / 1_000 % 1_000_000);
            self.lines.push(format!("{s:>5}.{us:06} {place:<12} {text}"));
        }
    }
}
