//! What is wrong with a live cluster, and what to do about it: the judgement behind `hactl doctor`.
//!
//! Pure functions from the agreed state and what the leader has seen to findings. Each check has a
//! stable name, looks at one thing, and is silent where that is well. They decide nothing: no step
//! of the protocol rests on them.
//!
//! ```text
//!   group     the controllers
//!   cluster   a cluster as a whole
//!   failsafe  what a primary without controllers rests on
//!   long      what must not last
//!   member    each of its members
//!   alarm     what to do about each alarm
//! ```

mod alarm;
mod cluster;
mod failsafe;
mod group;
mod long;
mod member;

use std::fmt;

use super::observation::{Observations, Observed};
use super::plan::FRESH;
use super::state::ClusterState;
use super::types::{BootTime, ClusterName, MemberName, WallMillis};

pub use group::{Voter, group};

/// How the problem of a member begins whose node's configuration is not the one agreed on.
pub const CONFIGURATION_DIFFERS: &str = "this node's configuration differs";

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, and would work less well, or not at all, if more went wrong.
    Warning,
    /// It does not work as it should.
    Problem,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The name of the check. It does not change between versions.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The member that it is about, where it is one.
    pub member: Option<MemberName>,
    /// The node that it is about, where it is one.
    pub node: Option<String>,
    /// What is wrong, for a person.
    pub what: String,
    /// What to do about it, for a person.
    pub todo: String,
}

impl Diagnosis {
    fn warning(check: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Self {
        let (what, todo) = (what.into(), todo.into());
        Self { check, severity: Severity::Warning, member: None, node: None, what, todo }
    }

    fn problem(check: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, ..Self::warning(check, what, todo) }
    }

    fn of(mut self, member: &MemberName, state: &ClusterState) -> Self {
        self.node = state.members.get(member).map(|m| m.node.to_string());
        self.member = Some(member.clone());
        self
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.check, self.what, self.todo)
    }
}

/// A cluster, as its leader knows it.
#[derive(Debug, Clone, Copy)]
pub struct Patient<'a> {
    /// Its name.
    pub name: &'a ClusterName,
    /// What was agreed on.
    pub state: &'a ClusterState,
    /// What its members report.
    pub observations: &'a Observations,
    /// The voters of the control plane.
    pub voters: &'a [Voter],
    /// The leader's clock, by which the reports carry their time.
    pub now: BootTime,
    /// The leader's wall clock at that time.
    pub wall: WallMillis,
}

impl<'a> Patient<'a> {
    /// What a member reports, where that is new enough to count.
    fn report_of(&self, member: &MemberName) -> Option<&'a Observed> {
        let observed = self.observations.members.get(member)?;
        (self.now.since(observed.at) <= FRESH).then_some(observed)
    }

    /// The holder of the epoch that is open for writes.
    fn primary(&self) -> Option<&'a MemberName> {
        self.state.active_primary()
    }
}

type Check = fn(&Patient<'_>, &mut Vec<Diagnosis>);

/// The checks of a cluster, by what they look at. One may find things under several names.
const CHECKS: &[Check] = &[
    cluster::invariants,
    cluster::primary,
    cluster::paused,
    cluster::timing,
    cluster::synchronous,
    long::syncs,
    cluster::candidates,
    cluster::tags,
    cluster::crashes,
    cluster::versions,
    failsafe::failsafe,
    member::reports,
    long::leads,
    long::specification,
    member::follows,
    member::counts,
    member::fencing,
    member::clock,
    member::space,
    member::configuration,
    member::problems,
    alarm::alarms,
];

/// The names of everything that is looked at.
pub const NAMES: &[&str] = &[
    "control-plane.voters",
    "control-plane.hosts",
    "control-plane.follows",
    "cluster.invariants",
    "cluster.primary",
    "cluster.paused",
    "cluster.timing",
    "cluster.synchronous",
    "cluster.sync-change",
    "cluster.candidates",
    "cluster.tags",
    "cluster.crashes",
    "cluster.versions",
    "cluster.failsafe",
    "member.reports",
    "member.leads",
    "member.specification",
    "member.follows",
    "member.counts",
    "member.fencing",
    "member.clock",
    "member.space",
    "member.configuration",
    "member.problem",
    "member.alarm",
];

/// Everything that is wrong with a cluster: the worst first, otherwise in the order of the checks.
pub fn cluster(patient: &Patient<'_>) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    for check in CHECKS {
        check(patient, &mut found);
    }
    found.sort_by_key(|d| std::cmp::Reverse(d.severity));
    found
}
