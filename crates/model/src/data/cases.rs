//! What is explored, and what each exploration has to show.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::bounds::{Bounds, Choice, Twist};
use super::explore::{Case, Search};
use crate::domain::mutant::{self, Mutant};
use crate::report::{self, Expected, Outcome, Scale};

/// Three members that wait for one, no faults but those of clocks and messages: an epoch may be
/// closed under a healthy primary, which goes on for ever where it does not hear of it.
const BASE: Bounds = Bounds {
    members: 3,
    write_quorum: 1,
    last_epoch: 3,
    writes: 1,
    faults: 0,
    changes: 0,
    operations: 0,
    choice: Choice::Others,
    crash: false,
    wipe: false,
    wipe_all: false,
    interrupt: false,
    lose: false,
    half_open: false,
    cascade: false,
    patient: false,
    forgiving: false,
    ahead: 0,
    fresh: false,
    twist: None,
};

/// The same up to one epoch more.
const LONG: Bounds = Bounds { last_epoch: 4, ..BASE };

/// With changes of the synchronous configuration, to any set of members.
const CHANGES: Bounds = Bounds { changes: 1, choice: Choice::Subsets, ..BASE };

/// One member may be lost for good, and a leader takes the time that it needs.
const LOSES: Bounds =
    Bounds { faults: 1, lose: true, changes: 1, choice: Choice::Planned, patient: true, ..BASE };

/// One member may lose its data, and one may be lost for good. No primary is asked for while a
/// majority has no data that counts.
const REPLACED: Bounds = Bounds { faults: 2, lose: true, wipe: true, forgiving: true, ..BASE };

/// Most states that one exploration may take: beyond that the bounds are wrong.
const STATES_MAX: usize = 40_000_000;

fn case(name: &'static str, search: Search, bounds: Bounds) -> Case {
    let expected = Expected::Holds;
    Case { name, search, bounds, mutant: None, expected, states_max: STATES_MAX }
}

fn safe(name: &'static str, bounds: Bounds) -> Case {
    case(name, Search::Broken, bounds)
}

fn heals(name: &'static str, bounds: Bounds) -> Case {
    case(name, Search::Stuck, bounds)
}

fn without(name: &'static str, mutant: Mutant, bounds: Bounds) -> Case {
    let expected = Expected::Violated;
    Case { mutant: Some(mutant), expected, ..safe(name, bounds) }
}

fn twisted(name: &'static str, twist: Twist, bounds: Bounds) -> Case {
    let bounds = Bounds { twist: Some(twist), ..bounds };
    Case { expected: Expected::Violated, ..safe(name, bounds) }
}

fn stuck(name: &'static str, mutant: Mutant, bounds: Bounds, states_max: usize) -> Case {
    let expected = Expected::Violated;
    Case { mutant: Some(mutant), expected, states_max, ..heals(name, bounds) }
}

fn quick() -> Vec<Case> {
    let all_faults = Bounds { crash: true, wipe: true, wipe_all: true, interrupt: true, ..BASE };
    vec![
        safe("data-faults", Bounds { faults: 1, ..all_faults }),
        safe("data-epochs", LONG),
        safe("data-writes", Bounds { writes: 2, faults: 1, ..all_faults }),
        safe("data-changes", CHANGES),
        safe("data-two-confirm", Bounds { write_quorum: 2, half_open: true, ..CHANGES }),
        safe(
            "data-two-members",
            Bounds { members: 2, changes: 1, choice: Choice::WithAsync, ..LONG },
        ),
        safe("data-cascade", Bounds { cascade: true, faults: 1, wipe: true, ..BASE }),
        safe("data-operations", Bounds { operations: 1, ..BASE }),
        safe("data-beginning", Bounds { fresh: true, ..BASE }),
        safe(
            "data-old-view-after-crash",
            Bounds { twist: Some(Twist::OldViewAfterCrash), faults: 1, crash: true, ..BASE },
        ),
        heals("data-heals-crashes", Bounds { faults: 2, crash: true, ..BASE }),
        heals("data-heals-loss", LOSES),
        heals("data-heals-wipe-and-loss", REPLACED),
    ]
}

fn full() -> Vec<Case> {
    let crash = Bounds { faults: 1, crash: true, ..BASE };
    let all_faults = Bounds { wipe: true, wipe_all: true, interrupt: true, ..crash };
    vec![
        safe("data-full-faults", Bounds { faults: 2, crash: true, wipe: true, ..LONG }),
        safe("data-full-all-faults", Bounds { faults: 2, last_epoch: 3, writes: 2, ..all_faults }),
        safe("data-full-writes", Bounds { writes: 2, last_epoch: 4, ..crash }),
        safe("data-full-two-confirm", Bounds { write_quorum: 2, last_epoch: 4, ..crash }),
        safe("data-full-changes", Bounds { changes: 2, ..CHANGES }),
        safe("data-full-planned-changes", Bounds { changes: 1, choice: Choice::Planned, ..LONG }),
        safe(
            "data-full-two-confirm-changes",
            Bounds { write_quorum: 2, half_open: true, faults: 1, crash: true, ..CHANGES },
        ),
        safe(
            "data-full-two-members",
            Bounds { members: 2, changes: 1, choice: Choice::WithAsync, last_epoch: 4, ..crash },
        ),
        safe(
            "data-full-cascade",
            Bounds { cascade: true, faults: 2, wipe: true, interrupt: true, ..crash },
        ),
        safe("data-full-operations", Bounds { operations: 1, ..LONG }),
        safe("data-full-beginning", Bounds { fresh: true, ..crash }),
        heals("data-full-heals-crashes", Bounds { last_epoch: 4, ..crash }),
        heals("data-full-heals-loss", Bounds { last_epoch: 4, ..LOSES }),
    ]
}

fn mutants() -> Vec<Case> {
    let crash = Bounds { faults: 1, crash: true, ..BASE };
    let ahead = Bounds { ahead: 1, ..LONG };
    vec![
        without("data-without-read-quorum", Mutant::NoReadQuorum, BASE),
        without("data-without-seal", Mutant::NoSeal, BASE),
        without(
            "data-without-order-by-epoch",
            Mutant::OrderByPosition,
            Bounds { writes: 3, ahead: 2, ..LONG },
        ),
        without("data-without-joint-change", Mutant::NoJointChange, CHANGES),
        without("data-without-compare-and-set", Mutant::NoCompareAndSet, CHANGES),
        without("data-without-barrier-after-change", Mutant::ChangeEndsUnconfirmed, CHANGES),
        without(
            "data-without-mixture",
            Mutant::NoMixture,
            Bounds { write_quorum: 2, ahead: 1, ..CHANGES },
        ),
        without("data-without-barrier", Mutant::NoBarrier, ahead),
        without(
            "data-without-older-configurations",
            Mutant::GrantReplacesSyncs,
            Bounds { choice: Choice::Planned, ..ahead },
        ),
        without(
            "data-without-proof-of-implication",
            Mutant::OlderIsImplied,
            Bounds { choice: Choice::Planned, ..ahead },
        ),
        without("data-without-epoch-of-holder", Mutant::AnyHolderCovers, LONG),
        without("data-without-lineage", Mutant::ForeignEpochIsPrefix, ahead),
        without(
            "data-without-proof-of-copy",
            Mutant::CopyCountsAtOnce,
            Bounds { cascade: true, faults: 1, wipe: true, ahead: 1, ..BASE },
        ),
        without(
            "data-without-mark-of-replacement",
            Mutant::ReplacedCounts,
            Bounds { faults: 2, wipe: true, interrupt: true, ..BASE },
        ),
        twisted(
            "data-without-unique-timelines",
            Twist::NextFreeTimeline,
            Bounds { writes: 2, ahead: 1, ..LONG },
        ),
        twisted("data-without-names-before-promotion", Twist::NamesAfterPromotion, LONG),
        twisted("data-without-refresh-before-barrier", Twist::BarrierBeforeRefresh, CHANGES),
        twisted("data-without-durable-promise", Twist::VolatilePromise, crash),
        twisted("data-without-end-by-crash", Twist::ReopensAfterCrash, crash),
        twisted("data-without-epoch-of-flushed-wal", Twist::FollowedEpochCounts, ahead),
        stuck(
            "data-without-cover-by-record",
            Mutant::NoCoverageByRecord,
            Bounds { last_epoch: 4, writes: 0, ..REPLACED },
            200_000,
        ),
        stuck(
            "data-without-cover-by-grantee",
            Mutant::GranteeIsNoHolder,
            Bounds { last_epoch: 4, ..LOSES },
            100_000,
        ),
        stuck(
            "data-without-patience-of-diverged",
            Mutant::RewindAtOnce,
            Bounds { last_epoch: 4, ..LOSES },
            300_000,
        ),
    ]
}

/// The protocol as it stands: every property has to hold. Two explorations at a time.
pub fn run(scale: Scale) -> Vec<Outcome> {
    let cases = match scale {
        Scale::Quick => quick(),
        Scale::Full => full(),
    };
    let cases: Vec<Case> = cases.into_iter().filter(|c| report::wanted(c.name)).collect();
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = case.explore();
                    outcome.print();
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push(outcome);
                    }
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The protocol without one of its rules at a time: each has to have a counterexample.
pub fn mutations(_: Scale) -> Vec<Outcome> {
    let cases = mutants().into_iter().filter(|c| report::wanted(c.name));
    let explore = |case: Case| {
        // One at a time: the switch is the whole process's.
        mutant::leave_out(case.mutant);
        let outcome = case.explore();
        mutant::leave_out(None);
        outcome.print();
        outcome
    };
    cases.map(explore).collect()
}
