//! Rules that are left out, one at a time, and how soon that is found.

use super::campaign::{Campaign, Failure, Tally, campaign};
use super::clock::Micros;
use crate::domain::mutant::{Mutant, leave_out};

/// Every rule that can be left out, its name, and why its absence cannot be found here, where that
/// is known.
pub const MUTANTS: &[(Mutant, &str, Option<&str>)] = &[
    (Mutant::StopNotFinal, "StopNotFinal", None),
    (Mutant::NoFullWindow, "NoFullWindow", None),
    (Mutant::GrantReplacesSyncs, "GrantReplacesSyncs", None),
    (Mutant::NoCoverageByRecord, "NoCoverageByRecord", None),
    (Mutant::AnyHolderCovers, "AnyHolderCovers", None),
    (Mutant::NoMixture, "NoMixture", None),
    (Mutant::ForeignEpochIsPrefix, "ForeignEpochIsPrefix", None),
    (Mutant::CopyCountsAtOnce, "CopyCountsAtOnce", None),
    (Mutant::ReplacedCounts, "ReplacedCounts", None),
    (Mutant::OrderByPosition, "OrderByPosition", None),
    (Mutant::NoJointChange, "NoJointChange", None),
    (Mutant::NoCompareAndSet, "NoCompareAndSet", None),
    (Mutant::NoReadQuorum, "NoReadQuorum", None),
    (Mutant::NoSeal, "NoSeal", None),
    (Mutant::NoBarrier, "NoBarrier", None),
    (Mutant::ChangeEndsUnconfirmed, "ChangeEndsUnconfirmed", None),
    (Mutant::OlderIsImplied, "OlderIsImplied", None),
    (Mutant::GranteeIsNoHolder, "GranteeIsNoHolder", None),
    (Mutant::RewindAtOnce, "RewindAtOnce", None),
    (Mutant::NoLease, "NoLease", None),
    (Mutant::ExpiryOfAnyTerm, "ExpiryOfAnyTerm", None),
    (Mutant::ProofOfAnyGuard, "ProofOfAnyGuard", None),
    (Mutant::PendingNotCounted, "PendingNotCounted", None),
    (Mutant::NoClockFactor, "NoClockFactor", None),
    (Mutant::LeaseNeverEnds, "LeaseNeverEnds", None),
    (Mutant::GuardNotCompared, "GuardNotCompared", None),
];

/// How a search for one of them ended.
#[derive(Debug)]
pub struct Found {
    /// The seed that broke a promise, and how.
    pub failure: Option<(u64, Failure)>,
    /// Seeds that were run.
    pub seeds: u64,
    /// Simulated time, in microseconds.
    pub simulated: Micros,
}

/// Runs seeds without this rule until a promise is broken. The rule is left out in the whole
/// process meanwhile.
pub fn search(mutant: Mutant, plan: &Campaign) -> Found {
    leave_out(Some(mutant));
    let plan = Campaign { stop_at_first: true, verify: false, ..*plan };
    let Tally { failures, seeds, simulated, .. } = campaign(&plan, |_, _| ());
    leave_out(None);
    Found { failure: failures.into_iter().next(), seeds, simulated }
}
