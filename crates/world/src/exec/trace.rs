//! What happened in a run, as lines and as a hash of them.

use super::Nanos;

/// A hash that is quick, and the same in every process and on every machine. Not a defence against
/// anybody.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hash(u64);

impl Hash {
    pub(crate) const fn new() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }

    pub(crate) fn text(&mut self, text: &str) {
        // The length tells texts apart that differ in zeros at their ends.
        self.number(text.len() as u64);
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        for word in words {
            self.number(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.number(u64::from_le_bytes(last));
    }

    pub(crate) const fn value(self) -> u64 {
        self.0
    }
}

/// The trace of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) hash: Hash,
    pub(crate) keep: bool,
    /// Prints each line as it comes: also of a run that does not end.
    pub(crate) print: bool,
    pub(crate) lines: Vec<String>,
}

impl Trace {
    pub(crate) const fn new() -> Self {
        Self { hash: Hash::new(), keep: false, print: false, lines: Vec::new() }
    }

    /// Adds a line. `place` is asked for only where lines are kept.
    pub(crate) fn line(
        &mut self,
        at: Nanos,
        scope: u32,
        place: impl FnOnce() -> String,
        text: &str,
    ) {
        self.hash.number(at);
        self.hash.number(u64::from(scope));
        self.hash.text(text);
        if self.keep || self.print {
            let (s, us) = (at / 1_000_000_000, at / 1_000 % 1_000_000);
            let line = format!("{s:>5}.{us:06} {:<12} {text}", place());
            if self.print {
                println!("{line}");
            }
            if self.keep {
                self.lines.push(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(at: Nanos, scope: u32, text: &str, keep: bool) -> u64 {
        let mut trace = Trace::new();
        trace.keep = keep;
        trace.line(at, scope, || "a/b".into(), text);
        assert_eq!(trace.lines.is_empty(), !keep);
        trace.hash.value()
    }

    #[test]
    fn time_scope_and_text_count_and_keeping_does_not() {
        let one = hash(1, 1, "text", false);
        assert_eq!(one, hash(1, 1, "text", true));
        for other in [
            hash(2, 1, "text", false),
            hash(1, 2, "text", false),
            hash(1, 1, "test", false),
            hash(1, 1, "text\0", false),
            hash(1, 1, "text and more", false),
        ] {
            assert_ne!(one, other);
        }
    }
}
