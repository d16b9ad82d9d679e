//! Tells a run to a person: what went wrong, what the cluster did, and why that breaks a rule.
//!
//! Owns the form of the text, and what is left out where a run has more to tell than a person wants
//! to read. Imports what was found.

mod entry;
mod text;

pub use entry::{Class, Entry, Timeline};
pub use text::Story;
