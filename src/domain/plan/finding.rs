//! Why the planner did or did not act: typed, with the name of its rule.

use std::fmt;
use std::time::Duration;

use super::super::adoption::{Adoptable, Was};
use super::super::candidate::Refusal;
use super::super::sync::SyncConfig;
use super::super::types::{Epoch, MemberName, SystemId};

/// A reason for what the planner did or did not do.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// Nothing is to be done.
    Settled,
    /// A member of the bootstrap has not registered, or does not report.
    AwaitingMember { member: MemberName },
    /// A member holds data, and the control plane knows of none.
    UnknownData { member: MemberName, system_id: SystemId },
    /// `initdb` is under way, or failed.
    Bootstrapping { member: MemberName, problem: Option<String> },
    /// A member holds data that can be adopted.
    Adoptable { member: MemberName, found: Box<Adoptable> },
    /// Data is being taken over, or could not be.
    Adopting { member: MemberName, problem: Option<String> },
    /// The holder proved that its epoch ended.
    HolderStopped { member: MemberName, epoch: Epoch },
    /// No renewal has come for the suspicion time.
    HolderSilent { member: MemberName, silence: Duration },
    /// The holder is silent, but a takeover could not succeed, so its epoch stays open.
    TakeoverWouldFail { refusal: Refusal },
    /// The granted member is on its way to be primary.
    Promoting { member: MemberName, epoch: Epoch, step: &'static str },
    /// The old lease may still run.
    AwaitingExpiry { member: MemberName, remaining: Duration },
    /// The holder may go on by the promises of its peers, and none of them is sealed.
    AwaitingPeers { member: MemberName, peers: Vec<MemberName> },
    /// The read quorum or a candidate is missing.
    AwaitingCandidates { refusal: Refusal, sealed: Vec<MemberName> },
    /// The target of the switchover is about to be sealed.
    AwaitingTarget { member: MemberName },
    /// Too many failovers after crashes: the crashed member itself is waited for.
    CrashBound { member: MemberName, crashes: usize },
    /// A new epoch is granted.
    Granting { member: MemberName, epoch: Epoch },
    /// The synchronous configuration is being changed.
    ChangingSync { from: SyncConfig, to: SyncConfig },
    /// Too few synchronous standbys stream: commits wait.
    CommitsWait { config: SyncConfig, streaming: usize },
    /// Members that could take over have no room on their disks.
    AwaitingRoom { members: Vec<MemberName> },
    /// Too few members may confirm commits: the next epoch would begin below the floor.
    BelowFloor { config: SyncConfig, floor: u32 },
    /// A switchover waits for the primary to stop.
    SwitchingOver { target: MemberName },
    /// Nothing happens by itself.
    Paused { by: String },
    /// A member carries an operation out.
    Working { member: MemberName, operation: u64, text: String },
    /// A rolling restart is under way.
    Rolling { operation: u64, text: String },
    /// What is due cannot begin yet.
    ScheduledWaits { operation: u64, why: String },
    /// A member is to be removed, once it counts nowhere any more.
    MemberLeaving { member: MemberName },
    /// An operation was given up.
    OperationFailed { why: String },
    /// After a recovery of the control plane these members have not said what they know.
    Verifying { missing: Vec<MemberName>, lost: Vec<MemberName>, complete: bool },
    /// The epoch is raised above all that members know.
    RaisingEpoch { known: Epoch },
    /// The recovered state is of a time before the cluster had data.
    Outlived { known: Epoch },
    /// A member does not report.
    MemberSilent { member: MemberName },
    /// A member asked to be registered, and was refused.
    RegistrationRefused { member: MemberName, rule: &'static str, why: String },
    /// PostgreSQL of a member does not take the specification. It goes back to revision `to`, where
    /// one that worked is kept.
    SpecRefused { member: MemberName, revision: u64, to: Option<u64>, why: String },
    /// A member says that something is wrong.
    MemberProblem { member: MemberName, problem: String },
}

impl Finding {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Finding::Settled => "settled",
            Finding::AwaitingMember { .. } => "bootstrap.all-members",
            Finding::UnknownData { .. } => "data.no-bootstrap-beside",
            Finding::Bootstrapping { .. } => "bootstrap",
            Finding::Adoptable { .. } => "adopt.waits",
            Finding::Adopting { .. } => "adopt",
            Finding::HolderStopped { .. } => "takeover.proven-stop",
            Finding::HolderSilent { .. } => "takeover.lease-lost",
            Finding::TakeoverWouldFail { .. } => "takeover.likely-quorum",
            Finding::Promoting { .. } => "promotion",
            Finding::AwaitingExpiry { .. } => "takeover.expiry",
            Finding::AwaitingPeers { .. } => "failsafe.peer-sealed",
            Finding::AwaitingCandidates { refusal, .. } => refusal.rule(),
            Finding::AwaitingTarget { .. } => "switchover.target-sealed",
            Finding::CrashBound { .. } => "takeover.crash-bound",
            Finding::Granting { .. } => "takeover.grant",
            Finding::ChangingSync { .. } => "sync.joint-change",
            Finding::CommitsWait { .. } => "sync.write-quorum",
            Finding::AwaitingRoom { .. } => "takeover.room",
            Finding::BelowFloor { .. } => "sync.floor",
            Finding::SwitchingOver { .. } => "switchover",
            Finding::Paused { .. } => "cluster.paused",
            Finding::Working { .. } | Finding::Rolling { .. } => "operation.under-way",
            Finding::ScheduledWaits { .. } => "operation.scheduled",
            Finding::MemberLeaving { .. } => "member.leaving",
            Finding::OperationFailed { .. } => "operation.failed",
            Finding::Verifying { missing, complete: false, .. } if missing.is_empty() => {
                "recovery.members-complete"
            }
            Finding::Verifying { .. } => "recovery.all-members",
            Finding::RaisingEpoch { .. } => "recovery.raise-epoch",
            Finding::Outlived { .. } => "recovery.state-too-old",
            Finding::MemberSilent { .. } => "member.reports",
            Finding::RegistrationRefused { rule, .. } => rule,
            Finding::SpecRefused { .. } => "spec.refused",
            Finding::MemberProblem { .. } => "member.problem",
        }
    }

    /// The member that it is about, where there is one.
    pub fn member(&self) -> Option<&MemberName> {
        match self {
            Finding::AwaitingMember { member }
            | Finding::UnknownData { member, .. }
            | Finding::Bootstrapping { member, .. }
            | Finding::Adoptable { member, .. }
            | Finding::Adopting { member, .. }
            | Finding::HolderStopped { member, .. }
            | Finding::HolderSilent { member, .. }
            | Finding::Promoting { member, .. }
            | Finding::AwaitingExpiry { member, .. }
            | Finding::AwaitingPeers { member, .. }
            | Finding::AwaitingTarget { member }
            | Finding::CrashBound { member, .. }
            | Finding::Granting { member, .. }
            | Finding::SwitchingOver { target: member }
            | Finding::Working { member, .. }
            | Finding::MemberLeaving { member }
            | Finding::MemberSilent { member }
            | Finding::RegistrationRefused { member, .. }
            | Finding::SpecRefused { member, .. }
            | Finding::MemberProblem { member, .. } => Some(member),
            _ => None,
        }
    }
}

fn names(members: &[MemberName]) -> String {
    members.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Settled => write!(f, "nothing is to be done"),
            Finding::AwaitingMember { member } => {
                write!(f, "waiting for {member} to report before any data is made")
            }
            Finding::UnknownData { member, system_id } => write!(
                f,
                "{member} holds data with system identifier {system_id} that this control plane \
                 has never seen; no cluster is created beside it"
            ),
            Finding::Bootstrapping { member, problem: None } => {
                write!(f, "{member} makes the data directory")
            }
            Finding::Bootstrapping { member, problem: Some(why) } => {
                write!(f, "{member} could not make the data directory and tries again: {why}")
            }
            Finding::Adoptable { member, found } => {
                let was = match found.was {
                    Was::Primary => "was stopped in order as a primary",
                    Was::Standby => "was stopped in order as a standby",
                    Was::Unclear => "was not stopped in order, or runs",
                };
                write!(
                    f,
                    "{member} holds data with system identifier {}, timeline {}, up to {}, and {was}",
                    found.system_id, found.epoch, found.end
                )?;
                match found.problems.as_slice() {
                    [] => {
                        write!(f, "; `hactl cluster adopt` takes the cluster over")?;
                        match found.steps.as_slice() {
                            [] => Ok(()),
                            steps => write!(
                                f,
                                ", and turns off what would start this server: {}",
                                steps.join(", ")
                            ),
                        }
                    }
                    problems => write!(f, "; before it can be adopted: {}", problems.join("; ")),
                }
            }
            Finding::Adopting { member, problem: None } => {
                write!(f, "{member} takes over the data that it has")
            }
            Finding::Adopting { member, problem: Some(why) } => {
                write!(f, "{member} could not take over its data and tries again: {why}")
            }
            Finding::HolderStopped { member, epoch } => {
                write!(f, "{member} proved that it stopped epoch {epoch}")
            }
            Finding::HolderSilent { member, silence } => {
                write!(f, "{member} has not renewed its lease for {} ms", silence.as_millis())
            }
            Finding::TakeoverWouldFail { refusal } => write!(
                f,
                "the primary is silent, but its epoch stays open since a takeover would not \
                 succeed: {refusal}"
            ),
            Finding::Promoting { member, epoch, step } => {
                write!(f, "{member} becomes primary of epoch {epoch}: {step}")
            }
            Finding::AwaitingExpiry { member, remaining } => write!(
                f,
                "the lease of {member} may still run: waiting {} ms more",
                remaining.as_millis()
            ),
            Finding::AwaitingPeers { member, peers } => {
                let names: Vec<&str> = peers.iter().map(MemberName::as_str).collect();
                write!(
                    f,
                    "{member} may go on by failsafe while {} promise to take no part: one of them, \
                     or {member} itself, has to answer and to be sealed",
                    names.join(", ")
                )
            }
            Finding::AwaitingCandidates { refusal, sealed } => {
                let names: Vec<&str> = sealed.iter().map(MemberName::as_str).collect();
                write!(f, "no promotion yet: {refusal} (sealed: {})", names.join(", "))
            }
            Finding::AwaitingTarget { member } => {
                write!(f, "waiting for {member}, which is to take over, to be sealed")
            }
            Finding::CrashBound { member, crashes } => write!(
                f,
                "PostgreSQL crashed {crashes} times of late: waiting for {member} itself to \
                 return instead of letting the crash walk through the cluster"
            ),
            Finding::Granting { member, epoch } => {
                write!(f, "{member} is granted epoch {epoch}")
            }
            Finding::ChangingSync { from, to } => write!(f, "changing {from} to {to}"),
            Finding::CommitsWait { config, streaming } => write!(
                f,
                "commits wait: {config} needs {} and {streaming} of its members stream",
                config.w
            ),
            Finding::AwaitingRoom { members } => {
                let names: Vec<&str> = members.iter().map(MemberName::as_str).collect();
                write!(
                    f,
                    "not promoted, since their disks are full and they would fail at once: {}; \
                     make room there",
                    names.join(", ")
                )
            }
            Finding::BelowFloor { config, floor } => write!(
                f,
                "nobody is promoted: with the members that may confirm commits the next epoch would \
                 begin with {config}, and write_quorum_min is {floor}; take the tags nosync, \
                 nofailover, delay_ms or replicatefrom away from enough members"
            ),
            Finding::SwitchingOver { target } => {
                write!(f, "switching over to {target}: waiting for the primary to stop")
            }
            Finding::Paused { by } => {
                write!(f, "paused by {by}: whatever ends stays as it is, until `hactl resume`")
            }
            Finding::Working { operation, text, .. } => write!(f, "operation {operation}: {text}"),
            Finding::Rolling { operation, text } => {
                write!(f, "operation {operation}, rolling restart: {text}")
            }
            Finding::ScheduledWaits { operation, why } => {
                write!(f, "operation {operation} is due and cannot begin: {why}")
            }
            Finding::MemberLeaving { member } => {
                write!(f, "{member} is to be removed, once it counts in no configuration any more")
            }
            Finding::OperationFailed { why } => write!(f, "the operation was given up: {why}"),
            Finding::Verifying { missing, lost, complete } => {
                write!(
                    f,
                    "the control plane was recovered, and its state may lack epochs that were \
                     granted: every member is asked which it knows"
                )?;
                if !missing.is_empty() {
                    write!(f, "; not heard of: {}", names(missing))?;
                }
                if !lost.is_empty() {
                    write!(f, "; stated to be lost: {}", names(lost))?;
                }
                if !complete {
                    write!(
                        f,
                        "; a member that joined after this state was made is not known to it, and \
                         nobody has said that there is none"
                    )?;
                }
                Ok(())
            }
            Finding::RaisingEpoch { known } => {
                write!(f, "the epoch is raised above {known}, the highest that a member knows")
            }
            Finding::Outlived { known } => write!(
                f,
                "the recovered state is of a time before this cluster had data, and a member knows \
                 of epoch {known}: nothing is done; take the data over as a new cluster"
            ),
            Finding::MemberSilent { member } => write!(f, "{member} does not report"),
            Finding::RegistrationRefused { member, why, .. } => {
                write!(f, "{member} is not taken in: {why}")
            }
            Finding::SpecRefused { member, revision, to, why } => {
                write!(
                    f,
                    "PostgreSQL of {member} refuses revision {revision} of the specification: {why}; "
                )?;
                match to {
                    Some(to) => write!(f, "revision {to} comes back"),
                    None => f.write_str("no earlier one that worked is kept, so change it"),
                }
            }
            Finding::MemberProblem { member, problem } => write!(f, "{member}: {problem}"),
        }
    }
}
