//! Fault plans: what goes wrong in a run, as data that can be kept, changed and shrunk.
//!
//! Owns the vocabulary of faults (`fault`, `who`) and of operators (`operation`), in English too
//! (`words`), the plan and what it lets one expect (`plan`), its text (`text`), and the generator:
//! `generate` draws machines and settings, `episode` faults of the families that a seed has,
//! `scenes` holds sequences of faults that go deep, `failsafe` those that take controllers away. Nothing here runs anything. Imports the
//! domain's types.

mod episode;
mod failsafe;
mod fault;
mod generate;
mod moments;
mod operation;
mod plan;
mod rng;
mod scenes;
mod text;
mod who;
mod words;

pub use fault::{Fault, Kind};
pub use generate::{Profile, generate};
pub use operation::{Act, Event, Operation, Trigger};
pub use plan::{
    ClockClass, Controller, DiskClass, Guarantees, MemberPlan, NodePlan, Plan, Settings, Topology,
    Workload,
};
pub use rng::Rng;
pub use text::{ReadError, read, write};
pub use who::{Disk, Links, Node, Processes, Roles, Traffic, Who, Wipe};
