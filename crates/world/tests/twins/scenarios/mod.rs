//! The rules, one scenario each. Each names the place where PostgreSQL says so: a section of its
//! manual, or a source file with the function.

pub mod orphans;
pub mod rewinds;
pub mod standbys;
pub mod timelines;
pub mod waiters;
pub mod wal;
pub mod walsenders;
