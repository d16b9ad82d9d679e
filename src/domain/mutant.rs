//! Rules of the protocol that can be taken away, one at a time, to show what each is for.
//!
//! Only the model checker can: without its own compiler flag [`without`] is `false`, constant, and
//! costs nothing. The production build has no such flag, and no way to set one.

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// A stop that was reported may be run again.
    StopNotFinal,
    /// A new leader's ledger does not begin with a full window.
    NoFullWindow,
    /// A grant replaces the synchronous configurations in force.
    GrantReplacesSyncs,
    /// A record of a later epoch does not cover a configuration.
    NoCoverageByRecord,
    /// The holder of any epoch covers every configuration.
    AnyHolderCovers,
    /// The loosest mixture of two configurations of an epoch need not be covered.
    NoMixture,
    /// A log with an epoch that the lineage does not have is taken for a prefix.
    ForeignEpochIsPrefix,
    /// A copy counts as soon as it is finished.
    CopyCountsAtOnce,
    /// A data directory that is being replaced counts.
    ReplacedCounts,
    /// Candidates are ordered by position alone.
    OrderByPosition,
    /// A change of the synchronous configuration replaces the old one at once.
    NoJointChange,
    /// A grant is not compared with the configurations in force.
    NoCompareAndSet,
    /// A grant needs no read quorum.
    NoReadQuorum,
    /// A standby that is sealed may go on taking WAL of an older epoch.
    NoSeal,
    /// A primary opens for writes without a barrier.
    NoBarrier,
    /// A change of the synchronous configuration ends without a barrier.
    ChangeEndsUnconfirmed,
    /// A configuration ends as soon as an epoch with another one is granted and none is changing.
    OlderIsImplied,
    /// The member of a closed epoch counts as its holder only where it knew of the grant.
    GranteeIsNoHolder,
    /// A diverged member gives its data up before the new primary is active, whoever waits for it.
    RewindAtOnce,
    /// Members promote without a lease.
    NoLease,
    /// An expiry that another leadership judged is believed.
    ExpiryOfAnyTerm,
    /// A stop is believed whatever guard it is of.
    ProofOfAnyGuard,
    /// A renewal that was not answered yet does not count in the leader's ledger.
    PendingNotCounted,
    /// A leader waits for the length of a lease by its own clock, as if all clocks were equal.
    NoClockFactor,
    /// The holder does not look at the clock before it acts.
    LeaseNeverEnds,
    /// Any life of a member's guard may run the epoch that was granted to one of them.
    GuardNotCompared,
}

#[cfg(quorate_mutants)]
mod switch {
    use super::Mutant;
    use std::sync::RwLock;

    static ACTIVE: RwLock<Option<Mutant>> = RwLock::new(None);

    /// Leaves a rule out from here on, in the whole process; `None` puts it back.
    pub fn leave_out(mutant: Option<Mutant>) {
        if let Ok(mut active) = ACTIVE.write() {
            *active = mutant;
        }
    }

    /// Whether this rule is left out.
    pub fn without(mutant: Mutant) -> bool {
        ACTIVE.read().is_ok_and(|active| *active == Some(mutant))
    }
}

#[cfg(quorate_mutants)]
pub use switch::{leave_out, without};

/// Whether this rule is left out: never.
#[cfg(not(quorate_mutants))]
#[inline(always)]
pub const fn without(_: Mutant) -> bool {
    false
}
