//! Who may be promoted: the read quorum, the order of candidates, and every reason against one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::apply::unproven;
use super::mutant::{self, Mutant};
use super::observation::Sealed;
use super::operation::wished;
use super::state::{CloseReason, ClusterState, Operation, OperationKind, SynchronousMode, Tenure};
use super::sync::{self, Uncovered};
use super::types::{Epoch, Lsn, MemberName, WallMillis};

/// Why nobody, or not this one, is granted the next epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Not every synchronous configuration in force is covered.
    #[error("acknowledged commits could be missing: {}", describe(uncovered))]
    NotCovered {
        /// Which are not.
        uncovered: Vec<Uncovered>,
    },
    /// Nobody is sealed and fit.
    #[error("no member is sealed for epoch {epoch} and fit to be primary")]
    NoCandidate {
        /// For which epoch.
        epoch: Epoch,
    },
    /// Another member is better.
    #[error("{better} holds more than {member}: it has to be promoted instead")]
    NotTheBest {
        /// Who was to be granted.
        member: MemberName,
        /// Who is better.
        better: MemberName,
    },
    /// In asynchronous mode the best candidate is further behind than the operator allows.
    #[error("{why}")]
    TooFarBehind {
        /// Why, with the positions.
        why: String,
    },
    /// After a recovery of the control plane not all members are sealed.
    #[error(
        "the control plane was recovered, and its state may not be the newest: only where all \
         members that may lead are sealed is it known who has every acknowledged commit; missing: \
         {}",
        names(missing)
    )]
    Unverified {
        /// Who is not.
        missing: Vec<MemberName>,
    },
    /// The evidence names a member twice, or one that does not exist, or that has not promised the
    /// epoch.
    #[error("the evidence about {member} does not count: {why}")]
    BadEvidence {
        /// About whom.
        member: MemberName,
        /// Why.
        why: String,
    },
}

fn names(members: &[MemberName]) -> String {
    members.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ")
}

fn describe(uncovered: &[Uncovered]) -> String {
    let each = uncovered.iter().map(|u| {
        let missing: Vec<&str> = u.missing.iter().map(MemberName::as_str).collect();
        match u.need {
            Some(need) => format!(
                "{} needs {need} of its members sealed and has {}; missing: {}",
                u.config,
                u.have,
                missing.join(", ")
            ),
            None => format!("{} needs the member that held epoch {}", u.config, u.config.epoch),
        }
    });
    each.collect::<Vec<_>>().join("; ")
}

impl Refusal {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Refusal::NotCovered { .. } => "takeover.read-quorum",
            Refusal::NoCandidate { .. } => "takeover.candidate",
            Refusal::NotTheBest { .. } => "takeover.best-candidate",
            Refusal::TooFarBehind { .. } => "takeover.max-lag",
            Refusal::Unverified { .. } => "recovery.all-sealed",
            Refusal::BadEvidence { .. } => "takeover.evidence",
        }
    }
}

/// Whether a piece of evidence counts for the next epoch of `state`.
fn check_evidence(state: &ClusterState, evidence: &[Sealed]) -> Result<(), Refusal> {
    for (i, sealed) in evidence.iter().enumerate() {
        let bad = |why: &str| {
            Err(Refusal::BadEvidence { member: sealed.member.clone(), why: why.to_owned() })
        };
        match state.members.get(&sealed.member) {
            None => return bad("it is not a member"),
            Some(m) if !m.may_lead() => return bad("it is tagged nofailover, or delayed"),
            Some(_) => {}
        }
        if evidence[..i].iter().any(|other| other.member == sealed.member) {
            return bad("it is there twice");
        }
        if let Some(why) = evidence_problem(state, sealed) {
            return bad(why);
        }
    }
    Ok(())
}

/// Why what a sealed member says of its own log does not count for the next epoch, if so.
pub fn evidence_problem(state: &ClusterState, sealed: &Sealed) -> Option<&'static str> {
    if sealed.promised < state.epoch.next() {
        return Some("it has not promised the epoch that is to be granted");
    }
    // WAL of an epoch that was never granted is nobody's: it must not decide anything.
    if sealed.held > state.epoch || sealed.wal_epoch > state.epoch {
        return Some("it claims an epoch that was never granted");
    }
    // Only its own holder has such WAL; and that may have been granted a later epoch on it, and have
    // taken that up without being promoted to it. A rewind or a copy forgets what was held.
    let recorded = state.lineage.0.iter().any(|e| e.epoch == sealed.wal_epoch);
    // A state in doubt may lack the promotion.
    if !recorded && sealed.held < sealed.wal_epoch && state.verify.is_none() {
        return Some("it has WAL of an epoch whose promotion was never recorded");
    }
    if state.lineage.contradicts(&sealed.lineage) {
        return Some("an epoch begins elsewhere in its log than the one that was granted");
    }
    None
}

/// Whether `a` is a better candidate than `b`: more WAL, by (epoch, position); then room on its
/// disk, the operator's wish, priority, and name.
fn better(state: &ClusterState, a: &Sealed, b: &Sealed, wish: Option<&MemberName>) -> bool {
    let rank = |s: &Sealed| {
        let priority = state.members.get(&s.member).map_or(0, |m| m.priority);
        let by_position = mutant::without(Mutant::OrderByPosition);
        let wal_epoch = if by_position { Epoch(0) } else { s.wal_epoch };
        (wal_epoch, s.lsn, !s.no_room, wish == Some(&s.member), priority)
    };
    rank(a) > rank(b) || (rank(a) == rank(b) && a.member < b.member)
}

/// Whether PostgreSQL has crashed more often of late than failovers may follow. `now` is
/// wall-clock time; a crash that a wrong clock put into the future is not of late.
pub fn crash_bound_exceeded(state: &ClusterState, now: WallMillis) -> bool {
    let window = state.spec.crash_window_ms;
    let recent = |at: &&WallMillis| now.0.checked_sub(at.0).is_some_and(|age| age < window);
    let crashes = state.crashes.iter().filter(recent).count();
    crashes > state.spec.crash_failovers_max as usize
}

/// Who is wanted among equally advanced candidates: the operator's choice; or past the bound on
/// crashes the crashed member itself, so that the crash does not walk through the cluster.
pub fn wish(state: &ClusterState, now: WallMillis) -> Option<MemberName> {
    if let Some(op) = state.operation.as_ref().filter(|op| decides(op)) {
        return wished(op);
    }
    let tenure = state.tenure.as_ref()?;
    let crashed = tenure.closed.as_ref().is_some_and(|c| c.reason == CloseReason::Crashed);
    (crashed && crash_bound_exceeded(state, now)).then(|| tenure.member.clone())
}

/// Whether the operation decides who is primary next: the bound on crashes gives way to it.
pub fn decides(operation: &Operation) -> bool {
    !matches!(operation.kind, OperationKind::RollingRestart { target: None, .. })
}

/// The evidence as it counts for coverage. The member of the closed epoch counts as its holder,
/// even where it never heard of the grant: it was the best of a covering quorum then, its promise
/// has kept it from older WAL since, there is no later epoch to be rewound to, and nobody else
/// could write in that epoch.
fn counted(state: &ClusterState, evidence: &[Sealed]) -> Vec<Sealed> {
    // An epoch that was raised to has no holder.
    let is_grant =
        |t: &&Tenure| t.closed.as_ref().is_some_and(|c| c.reason != CloseReason::Recovered);
    let granted = state.tenure.as_ref().filter(is_grant);
    let mut counted = evidence.to_vec();
    for sealed in &mut counted {
        if let Some(tenure) = granted.filter(|t| t.member == sealed.member)
            && !mutant::without(Mutant::GranteeIsNoHolder)
        {
            sealed.held = sealed.held.max(tenure.epoch);
        }
    }
    counted
}

/// What a grant rests on, as to acknowledged commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The read quorum: none can be missing.
    Quorum,
    /// The operator's `max_lag_bytes`: the primary was last known to be here.
    WithinLagOf(Lsn),
    /// The operator's word for this failover.
    Waived,
}

/// What is not proven by these sealed members: the configurations that they do not cover.
pub fn uncovered(state: &ClusterState, evidence: &[Sealed]) -> Vec<Uncovered> {
    let counted = counted(state, evidence);
    sync::uncovered(&state.syncs, &counted.iter().collect::<Vec<_>>())
}

/// Chooses among sealed members. All that counts in the quorum counts in the choice.
///
/// Where the proof is waived, `wish` is followed even where another has more.
pub fn choose<'a>(
    state: &ClusterState,
    evidence: &'a [Sealed],
    wish: Option<&MemberName>,
    proof: Proof,
) -> Result<&'a Sealed, Refusal> {
    check_evidence(state, evidence)?;
    if proof == Proof::Waived
        && let Some(wished) = evidence.iter().find(|s| wish == Some(&s.member))
    {
        return Ok(wished);
    }
    let mut best: Option<&Sealed> = None;
    for sealed in evidence {
        if best.is_none_or(|b| better(state, sealed, b, wish)) {
            best = Some(sealed);
        }
    }
    let none = Refusal::NoCandidate { epoch: state.epoch.next() };
    if proof == Proof::Waived {
        return best.ok_or(none);
    }
    let there: BTreeSet<&MemberName> = evidence.iter().map(|s| &s.member).collect();
    let missing = unproven(state, &there);
    if !missing.is_empty() {
        return Err(Refusal::Unverified { missing });
    }
    let uncovered = uncovered(state, evidence);
    if uncovered.is_empty() || mutant::without(Mutant::NoReadQuorum) {
        return best.ok_or(none);
    }
    match (proof, best) {
        (Proof::WithinLagOf(end), Some(best)) => {
            check_lag(state, &uncovered, best, end)?;
            Ok(best)
        }
        _ => Err(Refusal::NotCovered { uncovered }),
    }
}

/// Whether the operator's `max_lag_bytes` allows for what `best` may lack. It never stands in for
/// a synchronous configuration, and positions are compared only within the last epoch that wrote.
fn check_lag(
    state: &ClusterState,
    uncovered: &[Uncovered],
    best: &Sealed,
    end: Lsn,
) -> Result<(), Refusal> {
    let asynchronous = uncovered.iter().all(|u| u.config.w == 0);
    let max = state.spec.max_lag_bytes.filter(|_| {
        state.spec.synchronous == SynchronousMode::Async
            && asynchronous
            && state.lineage.last().is_some_and(|last| last.epoch == best.wal_epoch)
    });
    let Some(max) = max else {
        return Err(Refusal::NotCovered { uncovered: uncovered.to_vec() });
    };
    // What was agreed on counts as well, whoever leads the control plane now.
    let end = match state.primary_end {
        Some((epoch, agreed)) if epoch == best.wal_epoch => end.max(agreed),
        _ => end,
    };
    let behind = end.0.saturating_sub(best.lsn.0);
    if behind <= max {
        return Ok(());
    }
    let (member, lsn) = (&best.member, best.lsn);
    Err(Refusal::TooFarBehind {
        why: format!(
            "{member} is at {lsn} and the primary was at {end}: {behind} bytes would be lost, and \
             max_lag_bytes allows {max}"
        ),
    })
}
