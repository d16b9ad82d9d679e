//! Rules that are left out, one at a time, and how soon that is found.
//!
//! Only what clients and an operator see is judged: acknowledged writes, one writer, reads,
//! healing. A seed counts only where the same seed with all rules in force keeps every promise.

use super::campaign::{Campaign, Failure, Tally, campaign};
use super::clock::Micros;
use super::oracle::GOES_ON;
use super::run::{Job, run};
use crate::domain::mutant::{Mutant, leave_out};

/// Every rule that can be left out, its name, and why its absence cannot be found here, where that
/// is known.
pub const MUTANTS: &[(Mutant, &str, Option<&str>)] = &[
    (Mutant::NoFullWindow, "NoFullWindow", None),
    (Mutant::PendingNotCounted, "PendingNotCounted", None),
    (
        Mutant::ExpiryOfAnyTerm,
        "ExpiryOfAnyTerm",
        Some("whatever is judged is closed before, and nobody renews it later"),
    ),
    (Mutant::NoClockFactor, "NoClockFactor", None),
    (Mutant::NoLease, "NoLease", None),
    (Mutant::NoReadQuorum, "NoReadQuorum", None),
    (Mutant::OrderByPosition, "OrderByPosition", None),
    (Mutant::NoJointChange, "NoJointChange", None),
    (Mutant::ChangeEndsUnconfirmed, "ChangeEndsUnconfirmed", None),
    (Mutant::NoMixture, "NoMixture", None),
    (Mutant::NoCompareAndSet, "NoCompareAndSet", None),
    (Mutant::GrantReplacesSyncs, "GrantReplacesSyncs", None),
    (Mutant::OlderIsImplied, "OlderIsImplied", None),
    (Mutant::AnyHolderCovers, "AnyHolderCovers", None),
    (Mutant::NoCoverageByRecord, "NoCoverageByRecord", None),
    (Mutant::GranteeIsNoHolder, "GranteeIsNoHolder", None),
    (Mutant::RewindAtOnce, "RewindAtOnce", None),
    (Mutant::ForeignEpochIsPrefix, "ForeignEpochIsPrefix", None),
    (Mutant::FollowsDiverged, "FollowsDiverged", None),
    (Mutant::NoBarrier, "NoBarrier", None),
    (Mutant::OpensBeforeActive, "OpensBeforeActive", None),
    (Mutant::ReplacedCounts, "ReplacedCounts", None),
    (Mutant::CopyCountsAtOnce, "CopyCountsAtOnce", None),
    (Mutant::NoSeal, "NoSeal", None),
    (Mutant::StopNotFinal, "StopNotFinal", Some("an epoch belongs to one life of the guard")),
    (
        Mutant::ProofOfAnyGuard,
        "ProofOfAnyGuard",
        Some("it takes a second machine with the identity of the first"),
    ),
    (Mutant::LeaseNeverEnds, "LeaseNeverEnds", Some("the kernel's timer ends the tree")),
    (
        Mutant::GuardNotCompared,
        "GuardNotCompared",
        Some("the end of an epoch is recorded, and the leader compares, too"),
    ),
];

/// How a search for one of them ended.
#[derive(Debug, Default)]
pub struct Found {
    /// The seed that broke a promise, and how.
    pub failure: Option<(u64, Failure)>,
    /// Seeds that were run.
    pub seeds: u64,
    /// Of those, how many broke a promise with all rules in force, too, and so say nothing.
    pub tainted: u64,
    /// Simulated time, in microseconds.
    pub simulated: Micros,
}

/// Runs seeds without this rule until a promise is broken that the same seed keeps with it. The
/// rule is left out in the whole process meanwhile.
pub fn search(mutant: Mutant, plan: &Campaign) -> Found {
    let mut found = Found::default();
    let end = plan.from + plan.seeds;
    let mut from = plan.from;
    while from < end {
        let part = Campaign {
            from,
            seeds: end - from,
            stop_at_first: true,
            verify: false,
            black_box: true,
            ..*plan
        };
        leave_out(Some(mutant));
        let Tally { failures, simulated, .. } = campaign(&part, |_, _| ());
        leave_out(None);
        found.simulated += simulated;
        // Threads may have gone further; the order of the seeds decides.
        let Some((seed, failure)) = failures.into_iter().next() else { break };
        from = seed + 1;
        if failure.broken.promise == GOES_ON {
            continue;
        }
        let fault_seconds = plan.fault_seconds;
        let same = Job { seed, fault_seconds, only: None, told: false, black_box: true };
        if run(&same).broken.is_some() {
            found.tainted += 1;
            continue;
        }
        found.seeds = from - plan.from;
        found.failure = Some((seed, failure));
        return found;
    }
    found.seeds = plan.seeds;
    found
}
