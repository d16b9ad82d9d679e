//! The teeth: which rule can be left out, and what has to notice.
//!
//! Owns the table alone, as data. Each tooth names a [`Mutant`], the checker that is expected to
//! find it, and the story in which it bites: which faults, in which order, and why. Checkers judge
//! what clients and an observer of all machines see; none of them looks at the place of the bug.

use crate::domain::mutant::Mutant;

/// Who is expected to notice. Any other checker of them will do as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finder {
    /// At every instant at most one PostgreSQL acknowledges writes.
    OneWriter,
    /// No acknowledged write is lost.
    Kept,
    /// What was read on an active primary does not vanish.
    Read,
    /// No two controllers hold different commands for applied at one place of the log.
    Agreed,
    /// Once faults end, the cluster is whole again within a bound.
    Heals,
    /// Trouble of a minority of controllers, and of no other, ends no epoch.
    Calm,
}

/// The smallest simulation that can express it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum World {
    /// The domain alone.
    Domain,
    /// Agents, controllers and Raft, too.
    Whole,
}

/// Settings and conditions without which it cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing special.
    Nothing,
    /// Asynchronous commits, and clients that set a session to be writable by themselves:
    /// `default_transaction_read_only` is no fence.
    RudeClients,
    /// Clocks within the bound of the specification, and that bound so wide that it matters beside
    /// the margins of the lease: 100,000 ppm with the default times.
    WideClocks,
    /// Clocks beyond the bound.
    BadClocks,
    /// A write quorum of two.
    TwoConfirm,
    /// Standbys that others are copied from (`clonefrom`).
    CloneFrom,
    /// Five members.
    Five,
    /// Elections, transfers of the leadership and slow disks, in the moments that matter.
    Elections,
    /// One controller in trouble that does not lead, and nothing else.
    OneFollower,
    /// Standbys of which one has what another lacks.
    Losses,
    /// Processes of the primary that stand still or die, and clients that notice.
    Hands,
    /// Members that are removed and come back.
    Leavers,
    /// Controllers apart from members, and failsafe.
    Failsafe,
}

/// One rule that is left out.
#[derive(Debug, Clone, Copy)]
pub struct Tooth {
    /// Which. Its documentation says what is left out.
    pub mutant: Mutant,
    /// Who has to notice.
    pub finder: Finder,
    /// Where it can be seen.
    pub world: World,
    /// What it takes.
    pub needs: Needs,
    /// The story.
    pub story: &'static str,
}

const fn tooth(mutant: Mutant, finder: Finder, world: World, story: &'static str) -> Tooth {
    Tooth { mutant, finder, world, needs: Needs::Nothing, story }
}

impl Tooth {
    const fn with(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// The name, as it is written on a command line: `vote-not-synced`.
    pub fn name(&self) -> String {
        name(self.mutant)
    }
}

/// The name of a mutant: its words in lower case, joined by dashes.
pub fn name(mutant: Mutant) -> String {
    let mut name = String::new();
    for c in format!("{mutant:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// All that a simulation has to find.
pub const TEETH: &[Tooth] = &[
    // ---- the domain ----
    tooth(
        Mutant::NoFullWindow,
        Finder::OneWriter,
        World::Domain,
        "The primary renews, at once the leadership of the control plane is transferred and the \
         primary is cut off. The new leader knows of no renewal, closes after suspect_ms and finds \
         the lease run out since long: it grants while the old one writes on.",
    )
    .with(Needs::Elections),
    tooth(
        Mutant::PendingNotCounted,
        Finder::OneWriter,
        World::Domain,
        "A renewal waits at the leader for its barrier while the last acknowledged one gets old: \
         the leader grants, then acknowledges the one that waited.",
    )
    .with(Needs::Elections),
    tooth(
        Mutant::NoClockFactor,
        Finder::OneWriter,
        World::Domain,
        "The holder's clock is slow, the leader's is fast, both within the bound; the holder is cut \
         off right after a renewal.",
    )
    .with(Needs::WideClocks),
    tooth(
        Mutant::NoLease,
        Finder::OneWriter,
        World::Domain,
        "The granted member is cut off before its first renewal is acknowledged and promotes all \
         the same, under no timer; the leader grants another epoch after suspect_ms.",
    )
    .with(Needs::Hands),
    tooth(
        Mutant::NoReadQuorum,
        Finder::Kept,
        World::Domain,
        "One standby confirms a write, the other lags. The primary and the first standby are lost; \
         the one that lags is promoted alone.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::OrderByPosition,
        Finder::Kept,
        World::Domain,
        "A primary with much WAL that nobody confirmed is lost; its successor acknowledges a little \
         and is lost with it, while the first one is back: the greater position of the older epoch \
         wins.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::NoJointChange,
        Finder::Kept,
        World::Domain,
        "A standby goes silent and is dropped from the configuration at once; the primary, still \
         with the old one, acknowledges by that standby alone and is lost. Who is left covers the \
         new configuration and lacks the write.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::ChangeEndsUnconfirmed,
        Finder::Kept,
        World::Domain,
        "As without a joint change: the old configuration is given up before the primary runs with \
         the new one, and the primary is lost in between.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::NoMixture,
        Finder::Kept,
        World::Domain,
        "From ANY 2 of two to ANY 1 of one: a walsender that has the new number takes the other's \
         confirmation, and the primary is lost before the change is done.",
    )
    .with(Needs::TwoConfirm),
    tooth(
        Mutant::NoCompareAndSet,
        Finder::Kept,
        World::Domain,
        "The planner decides on a set of configurations, and another is put beside them before its \
         grant is applied: a primary whose clock stands still changes its configuration and \
         acknowledges by it.",
    )
    .with(Needs::BadClocks),
    tooth(
        Mutant::GrantReplacesSyncs,
        Finder::Kept,
        World::Domain,
        "The chosen member dies before its barrier. Its configuration names only a standby that \
         lacks what the epoch before had acknowledged, and that one is promoted by it.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::OlderIsImplied,
        Finder::Kept,
        World::Domain,
        "As above, where the newer configuration is not such that whoever covers it covers the \
         older.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::AnyHolderCovers,
        Finder::Kept,
        World::Domain,
        "The holder of an old epoch returns, diverged, when the holder of a newer one is lost, and \
         is taken for a proof of what the newer one acknowledged.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::NoCoverageByRecord,
        Finder::Heals,
        World::Domain,
        "A granted member dies for good before it is active, after another has flushed records of \
         its epoch: the two that have everything are never enough.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::GranteeIsNoHolder,
        Finder::Heals,
        World::Domain,
        "A member is granted an epoch, never hears of it, and comes back sealed when the others are \
         lost for good: it covers everything and is not believed.",
    ),
    tooth(
        Mutant::RewindAtOnce,
        Finder::Heals,
        World::Domain,
        "The old primary is rewound while its successor is not active yet; the successor's data is \
         lost for good, and nobody covers the old epoch any more.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::ForeignEpochIsPrefix,
        Finder::Kept,
        World::Domain,
        "A member promoted for an epoch that was never recorded dies, and comes back under the next \
         primary: its log is taken for a beginning of the agreed one, it confirms, and its rows are \
         others.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::FollowsDiverged,
        Finder::Heals,
        World::Domain,
        "A primary is killed with WAL that nobody had. It comes back, is never rewound, and the \
         new primary refuses to send to it for ever.",
    ),
    tooth(
        Mutant::NoBarrier,
        Finder::Kept,
        World::Domain,
        "One standby confirms a write that the other lacks, and the primary is lost. The first is \
         promoted and active at once, with a configuration of the other alone; the link between \
         them is cut, and the new primary is lost before the other has anything of it.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::OpensBeforeActive,
        Finder::Read,
        World::Domain,
        "As without the barrier, but the old configurations still hold: clients read on the new \
         primary what only it has, it is lost, and the old primary with the others is back without \
         it.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::ReplacedCounts,
        Finder::Kept,
        World::Domain,
        "A rewind or a copy is interrupted. What is there is started and counts for what it once \
         confirmed; or it is waited for, and never comes up.",
    )
    .with(Needs::Losses),
    // ---- the Raft part ----
    tooth(
        Mutant::LeaderRestored,
        Finder::Agreed,
        World::Whole,
        "The leader's disk is slow. An entry is committed by the others' disks, the leader's \
         machine loses power before its own, and is back within an election timeout: it leads on \
         and writes another entry under the same log id.",
    )
    .with(Needs::Elections),
    tooth(
        Mutant::VoteNotSynced,
        Finder::Agreed,
        World::Whole,
        "A controller votes and its machine loses power before the vote is on disk. The elected \
         leader is cut off, and the controller, back again, votes for another in the same term: \
         two leaders write different entries under the same log ids.",
    )
    .with(Needs::Elections),
    tooth(
        Mutant::AppendNotSynced,
        Finder::Agreed,
        World::Whole,
        "Disks are slow. A grant is committed, and the machines of the leader and of a follower \
         lose power at once: the third controller never had it. The same epoch is granted again, to \
         another or with another configuration.",
    )
    .with(Needs::Elections),
    tooth(
        Mutant::OtherStoreAdmitted,
        Finder::Agreed,
        World::Whole,
        "A follower is cut off while entries are committed by the two others. The other follower's \
         Raft store is wiped, the leader is isolated: the wiped one elects the one that has \
         nothing.",
    )
    .with(Needs::Elections),
    tooth(
        Mutant::PreVoteGranted,
        Finder::Calm,
        World::Whole,
        "A follower that hears nobody, and is heard, asks for votes in ever higher terms: each time \
         the leader is forced out, until the primary has not been renewed for a lease.",
    )
    .with(Needs::OneFollower),
    tooth(
        Mutant::BarrierSkipped,
        Finder::OneWriter,
        World::Whole,
        "Primary and leader of the control plane are on one node, as for some seconds after a \
         failover, and the node is cut off: it renews its own lease for ever while the others grant \
         the next epoch.",
    )
    .with(Needs::Elections),
    tooth(
        Mutant::BarrierShared,
        Finder::OneWriter,
        World::Whole,
        "The daemon with the leader and the primary stands still just when the answers to a barrier \
         are on their way, for longer than an election takes. When it goes on, a renewal of now \
         joins the barrier of before and is acknowledged by a leader that was deposed; then the node \
         is cut off.",
    )
    .with(Needs::Elections),
    // ---- controller, agent and session ----
    tooth(
        Mutant::LedgerKept,
        Finder::OneWriter,
        World::Whole,
        "A controller leads, loses the leadership and gains it again, right after the leader in \
         between has acknowledged a renewal, and the primary is cut off.",
    )
    .with(Needs::Elections),
    tooth(
        Mutant::LeaseFromAnswer,
        Finder::OneWriter,
        World::Whole,
        "The daemon of the primary stands still for about two seconds while a renewal is on its \
         way, and the node is cut off meanwhile, its clients not. When it goes on, the answer of \
         long ago is good for a whole lease from now.",
    )
    .with(Needs::Hands),
    tooth(
        Mutant::GrantIsLease,
        Finder::OneWriter,
        World::Whole,
        "A granted member stands still, or is cut off, right when it learns of the grant. The epoch \
         has no renewal, so the next is granted as soon as it is closed; the first one goes on, \
         promotes and writes by a lease that nobody gave.",
    )
    .with(Needs::RudeClients),
    tooth(
        Mutant::GuardNotArmed,
        Finder::OneWriter,
        World::Whole,
        "The daemon of the primary is killed, or stands still, for longer than a lease.",
    )
    .with(Needs::RudeClients),
    tooth(
        Mutant::DeathIsProof,
        Finder::OneWriter,
        World::Whole,
        "The postmaster alone is killed: its backends go on with their sessions, and the next epoch \
         is active within a second.",
    )
    .with(Needs::RudeClients),
    tooth(
        Mutant::ReplacingNotMarked,
        Finder::Kept,
        World::Whole,
        "A member's machine loses power in the middle of a rewind or a copy. What is there looks \
         startable; it is sealed, counts, and lacks what it once confirmed, when another of the \
         quorum is lost.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::CopyCountsAtOnce,
        Finder::Kept,
        World::Whole,
        "A standby that confirmed a write is wiped and copied anew from another standby, which lags. \
         Primary and the rest of the quorum are lost: the copy stands for a write that it lacks.",
    )
    .with(Needs::CloneFrom),
    tooth(
        Mutant::FrozenKeepsLease,
        Finder::Heals,
        World::Whole,
        "The postmaster stands still and nobody wakes it: the primary is renewed for ever, and takes \
         no connection.",
    )
    .with(Needs::RudeClients),
    tooth(
        Mutant::CountingMemberLeaves,
        Finder::Kept,
        World::Whole,
        "A standby that confirmed a write is removed before another configuration is in force. The          primary is lost: those that are left are taken for enough, and none of them has it.",
    )
    .with(Needs::Leavers),
    tooth(
        Mutant::AsksOneController,
        Finder::Heals,
        World::Whole,
        "Whoever is asked first does not lead.",
    ),
    // ---- failsafe ----
    tooth(
        Mutant::PeerMissing,
        Finder::OneWriter,
        World::Whole,
        "The primary and a standby hear each other and no controller; the other standby hears the \
         controllers, is sealed, waits and is promoted, while the first two go on.",
    )
    .with(Needs::Failsafe),
    tooth(
        Mutant::PromiseNotKept,
        Finder::OneWriter,
        World::Whole,
        "The primary hears no controller, its peers hear both. They promise, are sealed a moment \
         later, and one is granted the next epoch while the lease that they kept runs.",
    )
    .with(Needs::Failsafe),
    tooth(
        Mutant::PromiseForgotten,
        Finder::OneWriter,
        World::Whole,
        "As above, and the daemon of a peer is killed right after it has promised: it comes back, \
         knows nothing of it, and is promoted.",
    )
    .with(Needs::Failsafe),
    tooth(
        Mutant::AnyMemberIsPeer,
        Finder::OneWriter,
        World::Whole,
        "A member joins after the grant. Primary and peers are cut off from the controllers and from \
         it: nobody asked it to promise anything, and it is promoted.",
    )
    .with(Needs::Failsafe),
    tooth(
        Mutant::OldPeersAsked,
        Finder::OneWriter,
        World::Whole,
        "A member joins, and an epoch is granted to another: it is a peer of that one. Primary and \
         the other peers are cut off from the controllers and from it, and go on without its promise; \
         it is promoted.",
    )
    .with(Needs::Failsafe),
    // ---- behind the interface to the database ----
    tooth(
        Mutant::GuardCountsMonotonic,
        Finder::OneWriter,
        World::Whole,
        "The daemon of the primary is killed, its machine is suspended for longer than a lease, and \
         goes on while another is primary: the guard believes that little time has passed.",
    )
    .with(Needs::RudeClients),
    tooth(
        Mutant::ReopensAfterCrash,
        Finder::Read,
        World::Whole,
        "Replication is cut and a commit waits. A backend crashes, PostgreSQL opens by itself and \
         shows the row, and the node is lost: it was read, and is gone.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::NoSeal,
        Finder::Kept,
        World::Whole,
        "A primary whose clock stands still writes on after its lease. A standby that was sealed \
         for the next epoch goes on confirming what its position does not tell of.",
    )
    .with(Needs::BadClocks),
    tooth(
        Mutant::NamesAfterPromotion,
        Finder::Kept,
        World::Whole,
        "The daemon is killed between the promotion and the setting of the names: until the guard's \
         timer fires the primary acknowledges what nobody else has.",
    )
    .with(Needs::RudeClients),
    tooth(
        Mutant::TimelineNotEpoch,
        Finder::Heals,
        World::Whole,
        "Any promotion after one that was never done: the number is not that of the epoch, and \
         nothing agrees any more. Where two promotions took one number a fork is taken for a \
         beginning, and a write is lost.",
    ),
    tooth(
        Mutant::WalsendersNotRefreshed,
        Finder::Kept,
        World::Whole,
        "A walsender is stuck over a change of the configuration: the barrier passes by others, the \
         old configuration is given up, and the stuck one releases a write by it.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::FollowedEpochCounts,
        Finder::Kept,
        World::Whole,
        "A standby that lags is told to follow a new primary, cannot reach it, and the new primary \
         is lost: it counts as if it had a record of that epoch, and so covers the one before.",
    )
    .with(Needs::Losses),
    tooth(
        Mutant::RecordNotSynced,
        Finder::Kept,
        World::Whole,
        "A member's machine loses power in the middle of a copy or rewind, before the mark of it is \
         on disk.",
    )
    .with(Needs::Losses),
];

/// Rules that are kept twice: without one of them the other still holds in a simulation, so no
/// checker can see it. With what keeps it.
pub const KEPT_TWICE: &[(Mutant, &str)] = &[
    (
        Mutant::ExpiryOfAnyTerm,
        "a close is committed before any expiry is judged, and no later leader renews a closed \
         epoch: the complete search of the model finds nothing either",
    ),
    (
        Mutant::StopNotFinal,
        "an epoch belongs to one life of the guard, and a stopped tree needs another",
    ),
    (
        Mutant::GuardNotCompared,
        "the leader compares the guard at every renewal, so another life has no lease",
    ),
    (
        Mutant::ProofOfAnyGuard,
        "it takes a second machine with the identity of the first, which no simulation has",
    ),
    (
        Mutant::LeaseNeverEnds,
        "the kernel's timer in the guard ends the tree before any lease can be granted again",
    ),
];
