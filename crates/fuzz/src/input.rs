//! The bytes of one input, as a source of decisions.
//!
//! Every question takes few bytes and has an answer for any of them, so that a changed byte changes
//! one decision. At the end of the bytes every answer is the first of its kind.

/// What is left of the bytes.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte; 0 behind the end.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `n`, which is 1 to 256.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// Yes or no; no at the end.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Whether to leave the beaten track: about one in eleven.
    pub fn stray(&mut self) -> bool {
        self.byte() > 232
    }

    /// One of `items`, which are not none.
    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        let at = self.below(items.len());
        items[at].clone()
    }

    /// Eight bytes as a number.
    pub fn word(&mut self) -> u64 {
        let mut bytes = [0; 8];
        bytes.fill_with(|| self.byte());
        u64::from_le_bytes(bytes)
    }

    /// A number: most often `near`, or a little beside it, else one at which arithmetic breaks.
    pub fn number(&mut self, near: u64) -> u64 {
        match self.byte() {
            0..=159 => near,
            b @ 160..=191 => near.saturating_add(u64::from(b - 159)),
            b @ 192..=223 => near.saturating_sub(u64::from(b - 191)),
            224..=227 => 0,
            228..=230 => 1,
            231..=233 => u64::MAX,
            234 => u64::MAX - 1,
            235 => u64::from(u32::MAX),
            236 => u64::from(u32::MAX) - 1,
            237 => u64::from(u32::MAX) + 1,
            238 => i64::MAX as u64,
            239 => 1 << 63,
            240..=247 => u64::from(self.byte()),
            _ => self.word(),
        }
    }

    /// The next `n` bytes, or as many as are left.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// A text: a usual one, or one that is hard to cut, to quote or to print, or of these bytes.
    pub fn text(&mut self) -> String {
        match self.byte() {
            0..=99 => "why".to_owned(),
            100..=129 => String::new(),
            130..=159 => "x".repeat(600),
            160..=179 => format!("y{}", "ä€𐍈".repeat(80)),
            180..=199 => "line\nbreak\tand \"quotes\" 'here' \\ \0 \u{1b}[31m".to_owned(),
            _ => {
                let n = self.below(64);
                String::from_utf8_lossy(self.bytes(n)).into_owned()
            }
        }
    }

    /// So many items, at most `max`.
    pub fn list<T>(&mut self, max: usize, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let n = self.below(max + 1);
        (0..n).map(|_| item(self)).collect()
    }

    /// An item, or none.
    pub fn option<T>(&mut self, item: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.flag() { Some(item(self)) } else { None }
    }
}
