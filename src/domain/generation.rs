//! The generation of a control plane.
//!
//! It grows by one when a group of controllers is replaced by hand, because its majority is lost.
//! Whoever has heard of a generation never again obeys a lower one: see `docs/leases.md`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of a group of controllers among those that ever served under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// Of a store that has not joined a group yet, and of an agent that has obeyed nobody.
    pub const NONE: Generation = Generation(0);
    /// Of a group that founded itself.
    pub const FIRST: Generation = Generation(1);

    /// The one after it.
    pub fn next(self) -> Generation {
        Generation(self.0.saturating_add(1))
    }

    /// What a group that says none is of: one that was founded before there were generations.
    pub fn or_first(self) -> Generation {
        self.max(Generation::FIRST)
    }

    /// [`Generation::NONE`], for records that begin with nothing.
    pub fn none() -> Generation {
        Generation::NONE
    }
}

impl Default for Generation {
    /// What a message or a store without a generation is of: there was none but the first.
    fn default() -> Self {
        Generation::FIRST
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
