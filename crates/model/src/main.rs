//! Explores the protocol exhaustively within small bounds, with the domain code that production
//! runs.

#[path = "../../../src/domain/mod.rs"]
pub mod domain;

fn main() {}
