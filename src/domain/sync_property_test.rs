//! Properties of synchronous configurations: coverage against a definition by brute force, every
//! grant and every change through `apply` against a history that forgets nothing, and `apply`
//! itself under arbitrary commands.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::alarm::{Alarm, AlarmCode};
use super::candidate::{Proof, choose};
use super::command::{Basis, Change, Grant, Reply};
use super::fixture_test::{
    self, Bench, SYSTEM, TERM, activation, grant, guard, holder, m, numbered, promotion, sealed,
    spec,
};
use super::lineage::Lineage;
use super::observation::{Sealed, Sequence};
use super::state::{CloseReason, Outcome, Phase, SynchronousMode, Tags};
use super::sync::{SyncConfig, to_cover, uncovered};
use super::types::{Epoch, GuardId, Lsn, MemberName, NodeName, SystemId};

/// The names of all members, in their order.
pub const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

/// `n` cases; `QUORATE_PROPTEST_CASES` multiplies them.
pub fn cases(n: u32) -> ProptestConfig {
    let text = std::env::var("QUORATE_PROPTEST_CASES").ok();
    let times = text.and_then(|t| t.parse::<u32>().ok()).unwrap_or(1).max(1);
    ProptestConfig {
        cases: n.saturating_mul(times),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// The members whose bits are set.
pub fn subset(bits: u8) -> BTreeSet<MemberName> {
    let chosen = NAMES.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0);
    chosen.map(|(_, name)| m(name)).collect()
}

/// The bit of a member.
pub fn bit(member: &MemberName) -> u8 {
    let index = NAMES.iter().position(|name| *name == member.as_str());
    index.map_or(0, |i| 1 << i)
}

/// The bits of members.
pub fn bits<'a>(members: impl IntoIterator<Item = &'a MemberName>) -> u8 {
    members.into_iter().fold(0, |sum, member| sum | bit(member))
}

/// A configuration that makes sense, as near to what is asked as possible. About half of them are
/// `FIRST`, which is to make no difference to what has to be covered.
pub fn config(epoch: u64, w: u32, members: BTreeSet<MemberName>) -> SyncConfig {
    let w = w.min(members.len() as u32);
    let members = if w == 0 { BTreeSet::new() } else { members };
    let mut made = SyncConfig { w, members, ..fixture_test::any(epoch, 0, "") };
    if w > 0 && made.members.len().is_multiple_of(2) {
        made.order = made.members.iter().rev().cloned().collect();
    }
    made
}

/// Whether the evidence holds every commit that was acknowledged in `epoch` by some W of N, told
/// from the meaning alone: every set of W members is met, or somebody surely has all.
fn holds_all(epoch: Epoch, w: u32, n: u8, evidence: &[Sealed]) -> bool {
    let read = bits(evidence.iter().map(|s| &s.member));
    let witness = |s: &Sealed| s.wal_epoch > epoch || (s.held.0 != 0 && s.held >= epoch);
    let write_sets = (0..128u8).filter(|set| set & !n == 0 && set.count_ones() == w);
    evidence.iter().any(witness) || write_sets.map(|set| set & read).all(|met| met != 0)
}

/// Whether the evidence holds all, whatever mixture of the configurations of an epoch the
/// walsenders of its primary had.
pub fn covered_by_brute_force(in_force: &[SyncConfig], evidence: &[Sealed]) -> bool {
    let epochs: BTreeSet<Epoch> = in_force.iter().map(|c| c.epoch).collect();
    epochs.into_iter().all(|epoch| {
        let of_epoch: Vec<&SyncConfig> = in_force.iter().filter(|c| c.epoch == epoch).collect();
        mixtures(&of_epoch).into_iter().all(|(w, n)| holds_all(epoch, w, n, evidence))
    })
}

/// (least W, union of N) of every set of configurations.
fn mixtures(configs: &[&SyncConfig]) -> Vec<(u32, u8)> {
    let sets = 1..1u32 << configs.len();
    let mixture = |set: u32| {
        let chosen = || configs.iter().enumerate().filter(move |(i, _)| set & (1 << i) != 0);
        let w = chosen().map(|(_, c)| c.w).min().unwrap_or(0);
        (w, chosen().fold(0, |n, (_, c)| n | bits(&c.members)))
    };
    sets.map(mixture).collect()
}

fn covered(in_force: &[SyncConfig], evidence: &[Sealed]) -> bool {
    uncovered(in_force, &evidence.iter().collect::<Vec<_>>()).is_empty()
}

/// Sealed members whose WAL ends in `wal_epoch`, and that never were primary.
fn plain(bits: u8, wal_epoch: u64) -> Vec<Sealed> {
    subset(bits).iter().map(|x| sealed(x.as_str(), 99, wal_epoch, 100)).collect()
}

fn any_config(epoch: impl Strategy<Value = u64>) -> impl Strategy<Value = SyncConfig> {
    (epoch, 0u32..=4, 0u8..128).prop_map(|(epoch, w, n)| config(epoch, w, subset(n)))
}

/// Evidence about some of the members; few were primary, and few have WAL of a late epoch.
fn any_evidence() -> impl Strategy<Value = Vec<Sealed>> {
    let one = (
        any::<bool>(),
        prop_oneof![8 => Just(0u64), 1 => 1u64..8],
        prop_oneof![8 => Just(1u64), 1 => 2u64..8],
    );
    vec(one, NAMES.len()).prop_map(|list| {
        let there = NAMES.iter().zip(list).filter(|(_, (there, _, _))| *there);
        there.map(|(name, (_, held, wal))| holder(name, 99, wal, 100, held)).collect()
    })
}

proptest! {
    #![proptest_config(cases(256))]

    /// `to_cover` and `uncovered` say what the meaning of an acknowledged commit says.
    #[test]
    fn coverage_is_what_brute_force_says(
        in_force in vec(any_config(3u64..6), 1..5), evidence in any_evidence(),
    ) {
        let read = bits(evidence.iter().map(|s| &s.member));
        let alone = |c: &SyncConfig| holds_all(c.epoch, c.w, bits(&c.members), &evidence);
        prop_assert_eq!(
            covered(&in_force, &evidence), covered_by_brute_force(&in_force, &evidence)
        );
        let all = to_cover(&in_force);
        prop_assert_eq!(&all[..in_force.len()], &in_force[..], "those in force come first");
        let uncovered = uncovered(&in_force, &evidence.iter().collect::<Vec<_>>());
        let wanted: Vec<&SyncConfig> = all.iter().filter(|c| !alone(c)).collect();
        prop_assert_eq!(uncovered.iter().map(|u| &u.config).collect::<Vec<_>>(), wanted);
        for found in uncovered {
            let n = bits(&found.config.members);
            prop_assert_eq!(bits(&found.missing), n & !read);
            prop_assert_eq!(found.have, (n & read).count_ones() as usize);
            // The least number of which any choice will do.
            let enough = |k: u32| (0..128u8).filter(|r| r & !n == 0 && r.count_ones() == k)
                .all(|r| holds_all(found.config.epoch, found.config.w, n, &plain(r, 1)));
            let need = (1..=n.count_ones()).find(|k| enough(*k)).map(|k| k as usize);
            prop_assert_eq!(found.need, need, "{}", found.config);
        }
    }

    /// Whoever covers the newer one covers what it implies; and where it does not imply, some set
    /// of members shows why, so the list of those in force is as short as it can be.
    #[test]
    fn implied_is_what_brute_force_says(
        older in any_config(3u64..6), newer in any_config(3u64..6),
    ) {
        let both = |evidence: &[Sealed]| {
            let one = |c: &SyncConfig| holds_all(c.epoch, c.w, bits(&c.members), evidence);
            !one(&newer) || one(&older)
        };
        let always = (0..128u8).all(|r| {
            let mut evidence = plain(r, 1);
            both(&evidence) && (1..8u64).all(|e| {
                evidence.push(holder("x", 99, 1, 100, e));
                let held = both(&evidence);
                evidence.pop();
                evidence.push(sealed("x", 99, e, 100));
                let record = both(&evidence);
                evidence.pop();
                held && record
            })
        });
        // One that nobody but a holder covers says nothing of standbys: where it is waived, the
        // older one must still be there.
        let hidden = older.w > 0 && newer.w == 0;
        let wanted = always && newer.epoch > older.epoch && !hidden;
        prop_assert_eq!(older.implied_by(&newer), wanted);
    }
}

/// One leadership: to whom it is granted, with what, what it is changed to, and whether it became
/// active before it ended.
#[derive(Debug, Clone)]
struct Leadership {
    to: usize,
    first: (u32, u8),
    changes: Vec<(u32, u8)>,
    active: bool,
    finished: bool,
}

fn leadership() -> impl Strategy<Value = Leadership> {
    let one = (0u32..=4, 0u8..32);
    let activity = prop_oneof![3 => Just(false), 1 => Just(true)];
    (0usize..5, one.clone(), vec(one, 0..3), activity, any::<bool>()).prop_map(
        |(to, first, changes, active, finished)| Leadership {
            to,
            first,
            changes,
            active,
            finished,
        },
    )
}

/// A change to a configuration of the epoch as near to (w, n) as is valid.
fn begin(bench: &Bench, w: u32, n: u8) -> Change {
    let state = bench.state();
    let primary = state.tenure.as_ref().map_or(0, |t| bit(&t.member));
    let to = config(state.epoch.0, w, subset(n & !primary));
    Change::BeginSyncChange {
        expect_epoch: state.epoch,
        expect_syncs: state.syncs.clone(),
        to: numbered(bench, to),
    }
}

fn finish(bench: &Bench) -> Change {
    let state = bench.state();
    Change::FinishSyncChange { expect_epoch: state.epoch, expect_syncs: state.syncs.clone() }
}

/// Whoever covers what is in force covers all that ever was and that no barrier ended.
fn nothing_is_forgotten(bench: &Bench, ghost: &[SyncConfig], trace: &[String]) {
    let in_force = &bench.state().syncs;
    let last = bench.state().epoch.0;
    let check = |evidence: &[Sealed]| {
        assert!(
            !covered(in_force, evidence) || covered_by_brute_force(ghost, evidence),
            "{evidence:?} covers {in_force:?}, but not {ghost:?}, after {trace:#?}"
        );
    };
    for read in 0..32u8 {
        let mut evidence = plain(read, 1);
        check(&evidence);
        evidence.push(holder("x", 99, 1, 100, last.saturating_sub(1)));
        check(&evidence);
    }
    for epoch in 1..=last {
        check(&[holder("x", 99, 1, 100, epoch)]);
        check(&[sealed("x", 99, epoch, 100)]);
    }
}

proptest! {
    #![proptest_config(cases(48))]

    /// However many promotions fail in a row, and whatever their configurations were, a grant
    /// drops only what is covered all the same. Only a barrier (activation, or the end of a
    /// change) ends a configuration.
    #[test]
    fn a_grant_drops_only_what_is_implied(
        w in 1u32..=4, leaderships in vec(leadership(), 1..6),
    ) {
        let mut bench = Bench::active("a b c d e", w);
        let mut ghost = bench.state().syncs.clone();
        let mut trace = Vec::new();
        for next in leaderships {
            trace.push(format!("{next:?}"));
            bench.close(CloseReason::LeaseLost, false);
            let state = bench.state();
            let (epoch, old) = (state.epoch.0, state.tenure.as_ref().unwrap().member.clone());
            let to = NAMES[next.to];
            let mut evidence = vec![sealed(to, epoch + 1, 1, 200)];
            if old.as_str() != to {
                evidence.push(sealed(old.as_str(), epoch + 1, 1, 100));
            }
            let first = config(epoch + 1, next.first.0, subset(next.first.1 & !(1 << next.to)));
            bench.ok(grant(&bench, to, evidence, first));
            ghost.push(bench.state().syncs.last().unwrap().clone());
            nothing_is_forgotten(&bench, &ghost, &trace);
            if next.active {
                bench.ok(promotion(&bench, 100 * (epoch + 1)));
                bench.ok(activation(&bench));
                ghost.drain(..ghost.len() - 1);
            }
            for (w, n) in next.changes {
                bench.ok(begin(&bench, w, n));
                ghost.push(bench.state().syncs.last().unwrap().clone());
                nothing_is_forgotten(&bench, &ghost, &trace);
            }
            if next.finished && next.active && ghost.len() > 1 {
                bench.ok(finish(&bench));
                ghost.drain(..ghost.len() - 1);
            }
            nothing_is_forgotten(&bench, &ghost, &trace);
        }
    }

    /// While configurations change, a walsender may have any of those since the last barrier, and
    /// the server any mixture of them. An adversary who picks W members outside a read quorum
    /// that is accepted never finds enough.
    #[test]
    fn read_quorums_meet_whatever_a_walsender_has(
        list in 2usize..=7, w in 1u32..=4, steps in vec((0u8..4, 0u32..=4, 0u8..128), 1..8),
    ) {
        let mut bench = Bench::active(&NAMES[..list].join(" "), w.min(list as u32 - 1));
        let everybody = (1u16 << list) as u8 - 1;
        let mut walsenders = bench.state().syncs.clone();
        for (kind, w, n) in steps {
            if kind == 0 {
                bench.run(finish(&bench));
                walsenders.drain(..walsenders.len() - 1);
            } else if walsenders.len() < 4 {
                bench.ok(begin(&bench, w, n & everybody));
                walsenders.push(bench.state().syncs.last().unwrap().clone());
            }
            let mixed = mixtures(&walsenders.iter().collect::<Vec<_>>());
            for read in 0..=everybody {
                if !covered(&bench.state().syncs, &plain(read, 1)) {
                    continue;
                }
                for (w, n) in &mixed {
                    prop_assert!(
                        (n & !read).count_ones() < *w,
                        "{w} of {:?} are outside of {:?} under {walsenders:?}",
                        subset(*n), subset(read)
                    );
                }
            }
        }
    }
}

/// A command of any kind. Where `right` says so, what it expects is what the state says; else it
/// is anything.
#[derive(Debug, Clone)]
struct Garbage {
    kind: u8,
    right: (bool, bool, bool),
    who: usize,
    number: u64,
    w: u32,
    n: u8,
    evidence: Vec<Sealed>,
    flag: bool,
}

fn garbage() -> impl Strategy<Value = Garbage> {
    let right = prop_oneof![4 => Just(true), 1 => Just(false)];
    let number = prop_oneof![8 => 0u64..8, 1 => Just(u64::from(u32::MAX) - 1), 1 => Just(u64::MAX)];
    let w = prop_oneof![8 => 0u32..=4, 1 => Just(u32::MAX)];
    let evidence = any_evidence();
    (
        0u8..23,
        (right.clone(), right.clone(), right),
        0usize..9,
        number,
        w,
        0u8..128,
        evidence,
        any::<bool>(),
    )
        .prop_map(|(kind, right, who, number, w, n, evidence, flag)| Garbage {
            kind,
            right,
            who,
            number,
            w,
            n,
            evidence,
            flag,
        })
}

impl Garbage {
    fn change(&self, bench: &Bench) -> Change {
        let Some(state) = bench.control.clusters.values().next() else {
            return Change::CreateCluster { spec: spec("a b", SynchronousMode::Quorum, self.w) };
        };
        let name = |i: usize| m(NAMES.get(i).unwrap_or(&"stranger"));
        let pick = name(self.who);
        let tenure = state.tenure.as_ref();
        let expect_epoch = if self.right.0 { state.epoch } else { Epoch(self.number) };
        let expect_syncs = match (self.right.1, self.flag) {
            (true, _) => state.syncs.clone(),
            (false, true) => state.syncs.iter().skip(1).cloned().collect(),
            (false, false) => vec![config(self.number, self.w, subset(self.n))],
        };
        let holder = if self.right.2 { tenure.map(|t| t.guard.clone()) } else { None };
        let holder = holder.unwrap_or_else(|| guard(self.n));
        let seq = if self.right.2 { state.next_sync } else { self.number };
        let mut to =
            SyncConfig { w: self.w, members: subset(self.n), ..fixture_test::any(0, 0, "") };
        if self.right.0 && self.right.1 {
            let led = tenure.filter(|_| self.flag).map_or(0, |t| bit(&t.member));
            to = config(0, self.w, subset(self.n & bits(state.members.keys()) & !led));
        }
        let to = SyncConfig { seq, epoch: expect_epoch, ..to };
        let at = SystemId(if self.right.0 { SYSTEM.0 } else { self.number });
        let id = state.operation.as_ref().filter(|_| self.right.1).map_or(self.number, |o| o.id);
        match self.kind {
            0 | 1 => Change::RegisterMember {
                member: pick.clone(),
                node: NodeName::new(format!("node-{}", if self.right.0 { self.who } else { 0 }))
                    .unwrap(),
                address: format!("{}:5432", if self.right.1 { pick.as_str() } else { "x" }),
                agent_address: None,
                priority: self.w as i32,
                tags: Tags {
                    nofailover: !self.right.2,
                    nosync: self.n.is_multiple_of(5),
                    ..Tags::default()
                },
                system_id: self.flag.then_some(at),
            },
            2 => Change::BeginBootstrap { member: name(self.who % 3) },
            3 => Change::FinishBootstrap {
                member: match &state.phase {
                    Phase::Bootstrapping { member } => member.clone(),
                    _ => pick,
                },
                system_id: at,
                epoch: Epoch(self.number),
            },
            4 => Change::AbandonBootstrap { member: pick, why: "é".repeat(300) },
            5 | 6 => Change::Close {
                expect_epoch,
                reason: if self.flag { CloseReason::LeaseLost } else { CloseReason::Crashed },
                stopped: self.w > 1,
            },
            7 => Change::RecordStop { expect_epoch },
            8..=11 => {
                let next = Epoch(state.epoch.0 + 1);
                let mut evidence = self.evidence.clone();
                if self.right.0 {
                    evidence.retain(|s| state.members.get(&s.member).is_some_and(|x| x.may_lead()));
                    evidence.iter_mut().for_each(|s| s.held = s.held.min(state.epoch));
                    evidence.iter_mut().for_each(|s| s.wal_epoch = s.wal_epoch.min(state.epoch));
                }
                let chosen = choose(state, &evidence, None, Proof::Quorum).ok();
                let member = chosen.map_or(pick, |s| s.member.clone());
                let members = to
                    .members
                    .iter()
                    .filter(|x| **x != member || self.n.is_multiple_of(5))
                    .cloned()
                    .collect();
                let to = if self.right.1 { config(0, to.w, members) } else { to };
                Change::Grant(Grant {
                    expect_epoch,
                    expect_syncs,
                    guard: match self.n.is_multiple_of(8) {
                        true => holder,
                        false => guard(member.as_str().as_bytes()[0]),
                    },
                    member,
                    basis: if tenure.is_some_and(|t| t.stopped) && self.right.0 {
                        Basis::Stopped
                    } else {
                        Basis::Expired { term: if self.right.1 { TERM } else { self.number } }
                    },
                    evidence,
                    sync: SyncConfig { epoch: next, seq, ..to },
                    accept_data_loss: self.flag.then_some(id),
                    witnesses: Default::default(),
                    within_lag_of: (self.n.is_multiple_of(4)).then_some(Lsn(self.number)),
                })
            }
            12 | 13 => Change::RecordPromotion {
                expect_epoch,
                guard: holder,
                lineage: match self.right.1 {
                    true => state.lineage.with(expect_epoch, Lsn(state.epoch.0 * 100)),
                    false => Lineage::root(Epoch(self.number)).with(expect_epoch, Lsn(self.number)),
                },
            },
            14 | 15 => Change::Activate {
                expect_epoch,
                guard: holder,
                expect_syncs,
                postmaster_start_us: 1,
            },
            16 | 17 => Change::BeginSyncChange { expect_epoch, expect_syncs, to },
            18 => Change::FinishSyncChange { expect_epoch, expect_syncs },
            19 => Change::StartSwitchover { expect_epoch, target: pick, by: String::new() },
            20 => Change::StartFailover {
                expect_epoch,
                target: (self.w > 0).then_some(pick),
                accept_data_loss: self.flag,
                by: "x".repeat(600),
            },
            21 => Change::NoteHealth {
                member: pick,
                alarms: vec![Alarm::new(AlarmCode::SpaceLow, "é".repeat(300)); self.who],
                notices: Vec::new(),
                upto: Sequence { run: 1, number: self.number },
            },
            _ => {
                let outcome = Outcome::Failed { why: "x".repeat(600) };
                Change::FinishOperation { operation: id, outcome }
            }
        }
    }
}

/// What a command expects of the state: the epoch, the configurations in force, and the guard of
/// the holder.
fn asked(change: &Change) -> (Option<Epoch>, Option<&[SyncConfig]>, Option<&GuardId>) {
    match change {
        Change::Close { expect_epoch, .. }
        | Change::RecordStop { expect_epoch }
        | Change::StartSwitchover { expect_epoch, .. }
        | Change::StartFailover { expect_epoch, .. } => (Some(*expect_epoch), None, None),
        Change::BeginSyncChange { expect_epoch, expect_syncs, .. }
        | Change::FinishSyncChange { expect_epoch, expect_syncs } => {
            (Some(*expect_epoch), Some(expect_syncs), None)
        }
        Change::Grant(g) => (Some(g.expect_epoch), Some(&g.expect_syncs), None),
        Change::RecordPromotion { expect_epoch, guard, .. } => {
            (Some(*expect_epoch), None, Some(guard))
        }
        Change::Activate { expect_epoch, expect_syncs, guard, .. } => {
            (Some(*expect_epoch), Some(expect_syncs), Some(guard))
        }
        _ => (None, None, None),
    }
}

proptest! {
    #![proptest_config(cases(160))]

    /// Any command on any state gets a reply; one that is not applied leaves the state as it was,
    /// byte for byte; and the invariants hold after each. `Bench::run` checks all three.
    #[test]
    fn apply_is_total_and_atomic(
        start in 0u8..4, w in 0u32..=4, commands in vec(garbage(), 1..40),
    ) {
        let mut bench = match start {
            0 => Bench::empty(),
            1 => Bench::registered("a b c", SynchronousMode::Quorum, w),
            2 => Bench::initial("a b c d e", SynchronousMode::Quorum, w),
            _ => Bench::active("a b c d e", w.max(1)),
        };
        for command in commands {
            let change = command.change(&bench);
            let before = bench.control.clusters.values().next().cloned();
            let reply = bench.run(change.clone());
            if !matches!(reply, Reply::Applied { .. }) {
                continue;
            }
            let Some(before) = before else { continue };
            // Applied is only what was decided on the state as it is.
            let (epoch, syncs, holder) = asked(&change);
            prop_assert!(epoch.is_none_or(|e| e == before.epoch), "{change:?}");
            prop_assert!(syncs.is_none_or(|s| s == before.syncs), "{change:?}");
            let tenure = before.tenure.as_ref();
            let held = |g: &GuardId| tenure.is_some_and(|t| t.guard == *g);
            prop_assert!(holder.is_none_or(held), "{change:?}");
            let grows = matches!(change, Change::Grant(_) | Change::FinishBootstrap { .. });
            prop_assert!(grows || bench.state().epoch == before.epoch, "{change:?}");
            if let Change::Grant(g) = &change {
                prop_assert!(tenure.is_some_and(|t| t.closed.is_some()), "{change:?}");
                prop_assert!(g.evidence.iter().any(|s| s.member == g.member), "{g:?}");
                prop_assert_eq!(bench.state().syncs.last(), Some(&g.sync));
            }
        }
    }
}
