//! Rules of the protocol that can be taken away, one at a time, to show what each is for.
//!
//! Only the model checker and the simulator can: without their own compiler flag [`without`] is
//! `false`, constant, and costs nothing. The production build has no such flag, and no way to set
//! one.
//!
//! Some rules are kept by what stands behind an interface (PostgreSQL, the guard, the disk). Those
//! are taken away in the model that stands there in a simulation; they are listed here all the
//! same, so that there is one list.

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
    /// A member that counts in a synchronous configuration is removed all the same.
    CountingMemberLeaves,
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
    /// A primary opens for writes before it is active.
    OpensBeforeActive,
    /// A member whose log has diverged follows all the same.
    FollowsDiverged,

    // ---- the Raft part ----
    /// A leader that restarts leads on without an election.
    LeaderRestored,
    /// A vote is given before it is on disk.
    VoteNotSynced,
    /// Entries of the log are reported as stored before they are on disk.
    AppendNotSynced,
    /// A controller whose store was wiped takes part again under its old identity.
    OtherStoreAdmitted,
    /// A Pre-Vote is taken for granted without asking anybody.
    PreVoteGranted,
    /// No quorum confirms that a controller still leads before it answers.
    BarrierSkipped,
    /// A read barrier answers those, too, who came after it had begun.
    BarrierShared,

    // ---- controller, agent and session ----
    /// A leadership counts leases from the beginning of the one that the node had before.
    LedgerKept,
    /// The agent counts a lease from when it hears of it, not from before it asked.
    LeaseFromAnswer,
    /// The agent takes a grant that it learns of for a first lease.
    GrantIsLease,
    /// No renewal moves the kernel's timer in the guard.
    GuardNotArmed,
    /// The end of the postmaster is taken for that of its whole process tree.
    DeathIsProof,
    /// It is not recorded that a data directory is being replaced.
    ReplacingNotMarked,
    /// A primary that hangs keeps its lease.
    FrozenKeepsLease,
    /// An agent asks none but the controller that it asked first.
    AsksOneController,

    // ---- failsafe ----
    /// A primary goes on by its peers though one of them has not promised.
    PeerMissing,
    /// A peer takes part in a grant within its promise.
    PromiseNotKept,
    /// An agent that starts takes part at once, as if nothing had been promised before.
    PromiseForgotten,
    /// Any sealed member ends what peers may keep, also one that was no peer.
    AnyMemberIsPeer,
    /// The members that the cluster began with are asked, not those that were there at the grant.
    OldPeersAsked,

    // ---- behind the agent's interface to the database ----
    /// The guard's timer counts CLOCK_MONOTONIC, which stands still while a machine is suspended.
    GuardCountsMonotonic,
    /// PostgreSQL opens again by itself after a crash (`restart_after_crash`).
    ReopensAfterCrash,
    /// The synchronous names are set after the promotion instead of before.
    NamesAfterPromotion,
    /// A promotion takes the next free timeline, not that of its epoch, and nobody looks.
    TimelineNotEpoch,
    /// A barrier does not wait until every walsender has the new configuration.
    WalsendersNotRefreshed,
    /// The epoch that a standby followed is taken for that of its last record.
    FollowedEpochCounts,
    /// The member's record is not synced before it is acted on.
    RecordNotSynced,
}

#[cfg(quorate_mutants)]
mod switch {
    use super::Mutant;
    use std::sync::atomic::{AtomicU8, Ordering};

    /// The number of the rule that is left out, plus one; 0 for none.
    static ACTIVE: AtomicU8 = AtomicU8::new(0);

    fn number(mutant: Mutant) -> u8 {
        mutant as u8 + 1
    }

    /// Leaves a rule out from here on, in the whole process; `None` puts it back.
    pub fn leave_out(mutant: Option<Mutant>) {
        ACTIVE.store(mutant.map_or(0, number), Ordering::SeqCst);
    }

    /// Whether this rule is left out.
    pub fn without(mutant: Mutant) -> bool {
        ACTIVE.load(Ordering::Relaxed) == number(mutant)
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
