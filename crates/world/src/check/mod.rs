//! Who judges a run: black-box checkers of what clients were told and could see, and of what
//! controllers agree on.
//!
//! Owns the rules (`violation`), the history of clients and what was promised to them (`promises`,
//! with the sums it needs in `required`), the one writer (`writers`), the replicated state
//! (`agreement`) and the end (`finale`). [`Judge`] is all of them behind one door. No checker knows
//! how anything is done. Imports the domain's invariants.

mod agreement;
mod finale;
mod judge;
mod promises;
#[cfg(test)]
mod promises_test;
mod required;
mod rows;
mod violation;
mod writers;

pub use agreement::Agreement;
pub use finale::{Final, Health, finale};
pub use judge::Judge;
pub use promises::{Asked, Counts, Guard, Outcome, Promises, Read, Session};
pub use rows::{Rows, Value};
pub use violation::{Micros, Rule, Violation};
pub use writers::{Acknowledged, Writers};
