//! Fault plans: what goes wrong in a run, as data that can be kept, changed and shrunk.
//!
//! Owns the vocabulary of faults (`fault`), the plan and what it lets one expect (`plan`), its text
//! (`text`), and the generator: `generate` draws which families of faults a seed has, `scenes` holds
//! sequences of faults that go deep. Nothing here runs anything. Imports the domain's types.

mod fault;
mod generate;
mod plan;
mod rng;
mod scenes;
mod text;

pub use fault::{
    Act, Disk, Event, Fault, Kind, Links, Node, Operation, Processes, Roles, Traffic, Trigger, Who,
    Wipe,
};
pub use generate::{Profile, generate};
pub use plan::{
    ClockClass, Controller, DiskClass, Guarantees, MemberPlan, NodePlan, Plan, Settings, Topology,
    Workload,
};
pub use rng::Rng;
pub use text::{ReadError, read, write};
