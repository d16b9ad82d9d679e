//! Results of pure production code, remembered: the same small questions come up in millions of
//! states.

#![allow(clippy::disallowed_types)] // looked things up in only, never gone through

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

/// Answers by question.
#[derive(Debug)]
pub struct Memo<K, V>(RwLock<HashMap<K, V>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Eq + Hash + Copy, V: Copy> Memo<K, V> {
    /// The answer to `key`, found out by `ask` the first time.
    pub fn get(&self, key: K, ask: impl FnOnce() -> V) -> V {
        if let Some(value) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return *value;
        }
        let value = ask();
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key, value);
        value
    }
}
