//! The rules, one scenario each. Each names the place where PostgreSQL says so.

pub mod waiters;
