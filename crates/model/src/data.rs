//! The data part: no acknowledged write is lost, and none that was seen, whatever clocks do.
//!
//! Two or three members and one cluster. What is agreed is production's `ClusterState`, changed by
//! production's `apply` alone; what a member does is what production's `desired` and `reconcile`
//! say; who may be promoted is what `candidate` and `sync` say. The rest is written down here as
//! production and PostgreSQL do it: WAL as a list of records, streaming, walsenders each with the
//! setting that it has read, acknowledgements, seals, promotions, barriers, rewinds, copies.
//!
//! There is no time. A lease that was acknowledged once never ends by itself, and an epoch that is
//! closed may be granted anew at once: clocks are as bad as can be. Any message may be late, so a
//! member acts on the last state that it heard of, however old; proposals rest on any part of what
//! was ever reported. Leases, Raft and guards are the other part's matter.

mod act;
mod agreed;
mod asked;
mod bounds;
mod cases;
mod explore;
mod log;
mod oracle;
mod state;
mod tables;
mod world;

pub use cases::{mutations, run};
