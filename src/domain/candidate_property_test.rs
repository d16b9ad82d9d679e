//! Properties of the choice of a primary: the order of candidates, every refusal, and a small
//! abstract cluster in which whoever is chosen must hold every acknowledged commit.
//!
//! The cluster has members with logs, a primary whose walsenders may have any configuration since
//! the last barrier, and an adversary who decides what is flushed where, what crashes when, which
//! message comes late or again, and who is asked for evidence. Leases are assumed to fail: an old
//! primary runs on until it is crashed, so nothing here rests on a clock.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::candidate::{Proof, Refusal, choose, wish};
use super::command::{Basis, Change, Grant, Reply};
use super::fixture_test::{
    Bench, activation, guard, holder, m, numbered, promotion, register, sealed,
};
use super::lineage::Lineage;
use super::observation::Sealed;
use super::state::{CloseReason, SynchronousMode};
use super::sync::SyncConfig;
use super::sync_property_test::{NAMES, bit, bits, cases, config, covered_by_brute_force, subset};
use super::types::{Epoch, GuardId, Lsn, MemberName};

// ---- the order ----

/// A registration with another priority and tags: 0 is never primary, 1 confirms nothing.
fn registered(name: &str, with_priority: i32, tag: u8) -> Change {
    let mut change = register(name, &format!("node-{name}"), None);
    if let Change::RegisterMember { priority, tags, .. } = &mut change {
        (*priority, tags.nofailover, tags.nosync) = (with_priority, tag == 0, tag == 1);
    }
    change
}

/// Epoch 2 of `a` is closed. `a` is its holder, with less WAL than anybody, so evidence with `a`
/// is always enough, and `a` is never better.
fn closed(priorities: &[i32]) -> Bench {
    let mut bench = Bench::active(&NAMES.join(" "), 1);
    for (name, priority) in NAMES.iter().zip(priorities) {
        bench.run(registered(name, *priority, 9));
    }
    bench.close(CloseReason::LeaseLost, false);
    bench
}

fn others() -> impl Strategy<Value = Vec<Sealed>> {
    let one = (any::<bool>(), 1u64..3, 1u64..4, 0u64..3);
    vec(one, NAMES.len() - 1)
        .prop_map(|list| {
            let there = NAMES[1..].iter().zip(list).filter(|(_, (there, ..))| *there);
            there.map(|(name, (_, wal, lsn, held))| holder(name, 3, wal, lsn, held)).collect()
        })
        .prop_shuffle()
}

fn with_holder(others: &[Sealed]) -> Vec<Sealed> {
    let least = sealed("a", 3, 0, 0);
    others.iter().cloned().chain([least]).collect()
}

fn winner(bench: &Bench, evidence: &[Sealed], wish: Option<&MemberName>) -> MemberName {
    choose(bench.state(), evidence, wish, Proof::Quorum).unwrap().member.clone()
}

proptest! {
    #![proptest_config(cases(128))]

    /// The order is what the design says, told anew; total; and nothing but the evidence and the
    /// state decides, not the order in which evidence came.
    #[test]
    fn candidates_are_in_one_order(
        list in others(), key in any::<u64>(), priorities in vec(0i32..3, NAMES.len()),
        wished in proptest::option::of(0..NAMES.len()),
    ) {
        let bench = closed(&priorities);
        let wish = wished.map(|i| m(NAMES[i]));
        let evidence = with_holder(&list);
        let best = winner(&bench, &evidence, wish.as_ref());
        let mut shuffled = evidence.clone();
        shuffled.sort_by_key(|s| (key >> (8 * bit(&s.member).trailing_zeros())) & 0xff);
        prop_assert_eq!(&winner(&bench, &shuffled, wish.as_ref()), &best, "order of the evidence");

        let get = |name: &MemberName| evidence.iter().find(|s| s.member == *name).unwrap();
        let most = evidence.iter().map(|s| (s.wal_epoch.0, s.lsn.0)).max().unwrap();
        prop_assert_eq!((get(&best).wal_epoch.0, get(&best).lsn.0), most, "less WAL");
        let level = evidence.iter().filter(|s| (s.wal_epoch.0, s.lsn.0) == most);
        let level: BTreeSet<MemberName> = level.map(|s| s.member.clone()).collect();
        let rank = |x: &MemberName| priorities[bit(x).trailing_zeros() as usize];
        let highest = level.iter().map(rank).max().unwrap();
        let first = level.iter().find(|x| rank(x) == highest).unwrap();
        let expected = wish.as_ref().filter(|w| level.contains(w)).unwrap_or(first);
        prop_assert_eq!(&best, expected, "wish, then priority, then name");
        if wish.is_none() {
            let lossy = choose(bench.state(), &evidence, None, Proof::Waived).unwrap();
            prop_assert_eq!(&lossy.member, &best, "accepted loss alone changes no order");
        }

        let beats = |x: &Sealed, y: &Sealed| {
            let pair = with_holder(&[x.clone(), y.clone()]);
            winner(&bench, &pair, wish.as_ref()) == x.member
        };
        for x in list.iter().take(4) {
            for y in list.iter().take(4).filter(|y| y.member != x.member) {
                prop_assert!(beats(x, y) != beats(y, x), "{x:?} and {y:?}");
                let third = |z: &&Sealed| z.member != x.member && z.member != y.member;
                for z in list.iter().take(4).filter(third) {
                    prop_assert!(!beats(x, y) || !beats(y, z) || beats(x, z), "{x:?} {y:?} {z:?}");
                }
            }
        }
        prop_assert!(list.iter().all(|x| x.member == best || beats(get(&best), x)
            || best.as_str() == "a"));
    }

    /// Of evidence that does not count nothing counts, wherever it stands and whatever the
    /// operator accepts; else the read quorum decides, as brute force tells it.
    #[test]
    fn a_choice_is_refused_for_a_reason(
        list in others(), syncs in vec((1u64..3, 0u32..=4, 0u8..128), 1..4),
        spoil in 0u8..12, at in 0usize..8, lossy in any::<bool>(),
    ) {
        let mut bench = closed(&[]);
        let state = bench.control.clusters.values_mut().next().unwrap();
        state.syncs = syncs.iter().map(|(e, w, n)| config(*e, *w, subset(*n))).collect();
        let mut evidence = list.clone();
        let at = at.min(evidence.len());
        let bad = match spoil {
            0 => Some(sealed("stranger", 3, 1, 9)),
            1 => evidence.first().cloned(),
            2 => Some(sealed("a", 2, 1, 9)),
            3 => Some(sealed("a", 3, 3, 9)),
            4 => Some(holder("a", 3, 2, 9, 3)),
            5 => {
                state.members.get_mut(&m("a")).unwrap().tags.nofailover = true;
                Some(sealed("a", 3, 1, 9))
            }
            6 => Some(holder("a", 3, 1, 1, 2)),
            _ => None,
        };
        evidence.splice(at..at, bad.clone());
        let proof = if lossy { Proof::Waived } else { Proof::Quorum };
        let result = choose(bench.state(), &evidence, None, proof);
        if let Some(bad) = bad.filter(|_| spoil < 6) {
            let named = matches!(&result, Err(Refusal::BadEvidence { member, .. })
                if *member == bad.member);
            prop_assert!(named, "{result:?}");
        } else if !lossy && !covered_by_brute_force(&bench.state().syncs, &evidence) {
            prop_assert!(matches!(result, Err(Refusal::NotCovered { .. })), "{result:?}");
        } else if evidence.is_empty() {
            prop_assert!(matches!(result, Err(Refusal::NoCandidate { .. })), "{result:?}");
        } else {
            prop_assert!(result.is_ok(), "{result:?}");
        }
    }
}

// ---- the abstract cluster ----

/// A WAL record. A log that holds it holds all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    epoch: u64,
    /// Whether a commit waits for it; promotion records are nobody's.
    commit: bool,
    id: u64,
}

type Log = Vec<Record>;

#[derive(Debug, Clone, Default)]
struct Member {
    log: Log,
    promised: u64,
    held: u64,
    ended: u64,
    /// The data directory is lost.
    wiped: bool,
    /// A copy or rewind that counts once it has flushed up to here in this epoch.
    unproven: Option<(u64, usize)>,
    /// The epoch whose primary it streams from; `None` once sealed.
    following: Option<u64>,
}

/// A primary that runs, rightly or not.
#[derive(Debug, Clone)]
struct Running {
    who: usize,
    promoted: bool,
    /// The configurations in force as it knows them.
    view: Vec<SyncConfig>,
    /// What a walsender or a backend may have: all since every walsender was last replaced.
    in_use: Vec<SyncConfig>,
    /// How far each standby ever confirmed.
    flushed: BTreeMap<usize, usize>,
    barrier: Option<(Vec<SyncConfig>, usize)>,
    confirmed: Option<Vec<SyncConfig>>,
}

/// What the adversary does next. Numbers are taken modulo what there is, and what is not possible
/// does nothing, so that every list is a history, and so is every shorter one.
#[derive(Debug, Clone)]
enum Act {
    Register {
        who: usize,
        priority: i32,
        tag: u8,
    },
    /// The primary writes, and these flush all that they can.
    Commit {
        by: usize,
        mask: u8,
    },
    Flush {
        who: usize,
        records: usize,
    },
    Follow {
        who: usize,
        by: usize,
        lag: usize,
    },
    Wipe {
        who: usize,
    },
    Crash {
        by: usize,
    },
    /// The primary hears what is in force, and writes the newest names.
    Learn {
        by: usize,
    },
    /// Its walsenders are replaced: all have the newest names.
    Refresh {
        by: usize,
    },
    Barrier {
        by: usize,
    },
    Accept {
        back: usize,
    },
    Promote {
        by: usize,
    },
    RecordPromotion,
    /// A change begins; where `learn` says so, the primary hears of it at once.
    Begin {
        w: u32,
        mask: u8,
        learn: bool,
    },
    Finish,
    Activate,
    Close {
        stopped: bool,
    },
    RecordStop,
    Seal {
        who: usize,
    },
    Grant {
        mask: u8,
        w: u32,
        n: u8,
    },
    /// Close, seal these, grant.
    TakeOver {
        mask: u8,
        stopped: bool,
        w: u32,
        n: u8,
    },
    /// The same with the operator's word that commits may be lost.
    TakeOverLossy {
        mask: u8,
        w: u32,
        n: u8,
    },
    /// All the steps up to active, or to the end of a change, with these standbys.
    Settle {
        mask: u8,
    },
    /// The next proposal is sent, and does not arrive yet.
    Delay,
    /// A proposal of before arrives, or arrives again.
    Deliver {
        which: usize,
    },
    /// Another leader of the control plane, which remembers nothing.
    Elect,
}

fn act() -> impl Strategy<Value = Act> {
    use Act::*;
    let who = || 0usize..7;
    let by = || prop_oneof![3 => Just(0usize), 1 => 0usize..3];
    let wn = || (prop_oneof![1 => Just(0u32), 6 => 1u32..3, 2 => 3u32..5], 0u8..128);
    let mask = || prop_oneof![1 => Just(127u8), 1 => 0u8..128];
    let yes = any::<bool>;
    prop_oneof![
        1 => (who(), 0i32..3, 0u8..8)
            .prop_map(|(who, priority, tag)| Register { who, priority, tag }),
        12 => (by(), mask()).prop_map(|(by, mask)| Commit { by, mask }),
        4 => (who(), 1usize..4).prop_map(|(who, records)| Flush { who, records }),
        4 => (who(), by(), 0usize..3).prop_map(|(who, by, lag)| Follow { who, by, lag }),
        1 => who().prop_map(|who| Wipe { who }),
        1 => by().prop_map(|by| Crash { by }),
        3 => by().prop_map(|by| Learn { by }),
        2 => by().prop_map(|by| Refresh { by }),
        2 => by().prop_map(|by| Barrier { by }),
        1 => (0usize..3).prop_map(|back| Accept { back }),
        1 => by().prop_map(|by| Promote { by }),
        1 => Just(RecordPromotion),
        8 => (wn(), yes()).prop_map(|((w, mask), learn)| Begin { w, mask, learn }),
        3 => Just(Finish),
        2 => Just(Activate),
        1 => yes().prop_map(|stopped| Close { stopped }),
        1 => Just(RecordStop),
        1 => who().prop_map(|who| Seal { who }),
        2 => (mask(), wn()).prop_map(|(mask, (w, n))| Grant { mask, w, n }),
        5 => (mask(), yes(), wn())
            .prop_map(|(mask, stopped, (w, n))| TakeOver { mask, stopped, w, n }),
        1 => (mask(), wn()).prop_map(|(mask, (w, n))| TakeOverLossy { mask, w, n }),
        8 => mask().prop_map(|mask| Settle { mask }),
        1 => Just(Delay),
        2 => (0usize..40).prop_map(|which| Deliver { which }),
        1 => Just(Elect),
    ]
}

/// How often what was worth trying came to pass.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    grants: u32,
    changes: u32,
    commits: u32,
    mixed: u32,
    /// Grants after an epoch that never became active.
    failed: u32,
    /// Commits that a primary of an older epoch tried.
    zombies: u32,
}

struct World {
    bench: Bench,
    members: Vec<Member>,
    running: BTreeMap<u64, Running>,
    /// To whom each epoch was granted, and what was in force then.
    grants: BTreeMap<u64, (usize, Vec<SyncConfig>)>,
    /// The log of whoever was granted the last epoch, as it was then.
    chosen: Log,
    /// Of each epoch, the longest log that was acknowledged.
    acknowledged: BTreeMap<u64, Log>,
    /// Every proposal, with the log of whom it grants an epoch.
    sent: Vec<(Change, Log)>,
    delay: bool,
    /// Whether the last granted epoch became active.
    active: bool,
    next_id: u64,
    tally: Tally,
}

impl World {
    /// `a` is active with `ANY w` of the others, which stream.
    fn new(count: usize, w: u32) -> Self {
        let mut bench = Bench::initial(&NAMES[..count].join(" "), SynchronousMode::Quorum, w);
        let state = bench.control.clusters.values_mut().next().unwrap();
        state.spec.max_lag_bytes = Some(u64::MAX);
        let mut members = vec![Member { wiped: true, ..Member::default() }; NAMES.len()];
        let log = vec![Record { epoch: 1, commit: false, id: 0 }];
        members[0] = Member { log, held: 1, ended: 1, ..Member::default() };
        let mut world = Self {
            bench,
            members,
            running: BTreeMap::new(),
            grants: BTreeMap::new(),
            chosen: Log::new(),
            acknowledged: BTreeMap::new(),
            sent: Vec::new(),
            delay: false,
            active: false,
            next_id: 1,
            tally: Tally::default(),
        };
        world.act(&Act::TakeOver { mask: 1, stopped: true, w, n: 127 });
        world.act(&Act::Settle { mask: 127 });
        assert!(world.bench.state().active_primary().is_some(), "{:?}", world.bench.state());
        world
    }

    fn epoch(&self) -> u64 {
        self.bench.state().epoch.0
    }

    fn is_closed(&self) -> bool {
        self.bench.state().open_tenure().is_none()
    }

    fn guard(&self, who: usize) -> GuardId {
        guard(NAMES[who].as_bytes()[0])
    }

    fn runs(&self, who: usize) -> bool {
        self.running.values().any(|r| r.who == who)
    }

    /// The epoch of a running primary, the newest first.
    fn pick(&self, by: usize) -> Option<u64> {
        self.running.keys().rev().nth(by % self.running.len().max(1)).copied()
    }

    // ---- what members do ----

    fn write(&mut self, epoch: u64, commit: bool) {
        let Some(who) = self.running.get(&epoch).map(|r| r.who) else { return };
        self.members[who].log.push(Record { epoch, commit, id: self.next_id });
        self.next_id += 1;
    }

    fn flush(&mut self, who: usize, records: usize) {
        let Some(epoch) = self.members[who].following else { return };
        let Some(primary) = self.running.get_mut(&epoch) else { return };
        let have = self.members[who].log.len();
        let source = &self.members[primary.who].log;
        let new = source[have..source.len().min(have.saturating_add(records))].to_vec();
        let member = &mut self.members[who];
        member.log.extend(new);
        let end = member.log.len();
        member.unproven = member.unproven.filter(|(e, pos)| *e != epoch || end < *pos);
        let flushed = primary.flushed.entry(who).or_default();
        *flushed = end.max(*flushed);
    }

    /// Streams from a primary, after a rewind or a copy where needed. A copy of a source that
    /// lags lacks the last records.
    fn follow(&mut self, who: usize, epoch: u64, lag: usize) {
        let Some(primary) = self.running.get(&epoch).filter(|p| p.promoted) else { return };
        let source = self.members[primary.who].log.clone();
        let member = &self.members[who];
        if primary.who == who || self.runs(who) || member.promised > epoch {
            return;
        }
        let known = self.bench.state().members.contains_key(&m(NAMES[who]));
        if !known || member.following == Some(epoch) {
            return;
        }
        let member = &mut self.members[who];
        let common = member.log.iter().zip(&source).take_while(|(a, b)| a == b).count();
        if member.wiped {
            member.log = source[..source.len().saturating_sub(lag)].to_vec();
        }
        if member.wiped || common < member.log.len() {
            member.log.truncate(if member.wiped { source.len() } else { common });
            (member.wiped, member.held, member.unproven) = (false, 0, Some((epoch, source.len())));
        } else if member.unproven.is_some() {
            member.unproven = Some((epoch, source.len()));
        }
        member.following = Some(epoch);
        member.promised = epoch;
        self.flush(who, 0);
    }

    /// Takes an epoch up that was granted: also late, as long as nothing later was promised.
    fn accept(&mut self, epoch: u64) {
        let Some((who, then)) = self.grants.get(&epoch).cloned() else { return };
        let member = &self.members[who];
        let fit = !member.wiped && member.unproven.is_none();
        if !fit || self.runs(who) || member.promised > epoch || member.ended >= epoch {
            return;
        }
        let view = if epoch == self.epoch() { self.bench.state().syncs.clone() } else { then };
        let member = &mut self.members[who];
        (member.held, member.promised, member.following) = (epoch, epoch, None);
        let in_use = view.last().cloned().into_iter().collect();
        let (flushed, barrier, confirmed) = (BTreeMap::new(), None, None);
        let new = Running { who, promoted: false, view, in_use, flushed, barrier, confirmed };
        self.running.insert(epoch, new);
    }

    fn promote(&mut self, epoch: u64) {
        let Some(primary) = self.running.get_mut(&epoch).filter(|p| !p.promoted) else { return };
        primary.promoted = true;
        self.write(epoch, false);
    }

    fn learn(&mut self, epoch: u64) {
        let syncs = &self.bench.state().syncs;
        let Some(primary) = self.running.get_mut(&epoch) else { return };
        if epoch == self.bench.state().epoch.0 {
            primary.view.clone_from(syncs);
            primary
                .in_use
                .extend(syncs.last().filter(|c| primary.in_use.last() != Some(c)).cloned());
        }
    }

    fn refresh(&mut self, epoch: u64) {
        if let Some(primary) = self.running.get_mut(&epoch) {
            primary.in_use.drain(..primary.in_use.len() - 1);
        }
    }

    fn barrier(&mut self, epoch: u64) {
        let Some(primary) = self.running.get(&epoch).filter(|p| p.promoted) else { return };
        if primary.in_use.len() == 1 && primary.in_use.last() == primary.view.last() {
            self.write(epoch, true);
            let end = self.members[self.running[&epoch].who].log.len();
            let primary = self.running.get_mut(&epoch).unwrap();
            primary.barrier = Some((primary.view.clone(), end));
        }
    }

    /// The primary of an epoch is gone for good, and never runs it again.
    fn stop(&mut self, epoch: u64) {
        let who = self.grants.get(&epoch).map_or(0, |(who, _)| *who);
        self.running.remove(&epoch);
        self.members[who].ended = self.members[who].ended.max(epoch);
    }

    fn seal(&mut self, who: usize) {
        if self.is_closed() && !self.runs(who) {
            let next = self.epoch() + 1;
            let member = &mut self.members[who];
            member.promised = member.promised.max(next);
            member.following = None;
        }
    }

    fn lineage(&self, who: usize) -> Lineage {
        let mut lineage = Lineage::default();
        for (start, record) in self.members[who].log.iter().enumerate() {
            if lineage.last().is_none_or(|last| last.epoch.0 != record.epoch) {
                lineage = lineage.with(Epoch(record.epoch), Lsn(start as u64));
            }
        }
        lineage
    }

    // ---- what is proposed ----

    fn propose(&mut self, change: Change, log: Log) {
        self.sent.push((change.clone(), log.clone()));
        if !std::mem::take(&mut self.delay) {
            self.arrive(change, log);
        }
    }

    fn arrive(&mut self, change: Change, log: Log) {
        let given_up = match &change {
            Change::Grant(g) if g.accept_data_loss.is_some() => {
                let has = |s: &Sealed| (s.wal_epoch, s.lsn);
                let chosen = g.evidence.iter().find(|s| s.member == g.member).map(has);
                !super::candidate::uncovered(self.bench.state(), &g.evidence).is_empty()
                    || g.evidence.iter().any(|s| Some(has(s)) > chosen)
            }
            _ => false,
        };
        let reply = self.bench.run(change.clone());
        if !matches!(reply, Reply::Applied { .. }) {
            return;
        }
        self.tally.changes += u32::from(matches!(change, Change::FinishSyncChange { .. }));
        self.active |= matches!(change, Change::Activate { .. });
        if let Change::Grant(grant) = change {
            self.tally.failed += u32::from(!std::mem::take(&mut self.active));
            self.granted(&grant, log, given_up);
        }
    }

    fn granted(&mut self, grant: &Grant, log: Log, given_up: bool) {
        let who = bit(&grant.member).trailing_zeros() as usize;
        self.grants.insert(self.epoch(), (who, self.bench.state().syncs.clone()));
        self.chosen = log;
        self.tally.grants += 1;
        if given_up {
            // Given up by the operator's word, and so is what older primaries acknowledge yet.
            let epoch = self.epoch();
            self.acknowledged.retain(|e, _| *e >= epoch);
            self.grants.retain(|e, _| *e >= epoch);
            self.running.retain(|e, _| *e >= epoch);
            return;
        }
        self.chosen_has_all();
    }

    fn chosen_has_all(&self) {
        for (epoch, log) in self.acknowledged.range(..self.epoch()) {
            assert!(
                self.chosen.starts_with(log),
                "an acknowledged commit of epoch {epoch} is lost: {log:?} is not in {:?}",
                self.chosen
            );
        }
    }

    /// The evidence of those among `mask` who can give any.
    fn evidence(&self, mask: u8, as_if_sealed: bool) -> Vec<Sealed> {
        let next = self.epoch() + 1;
        let one = |who: usize| {
            let member = &self.members[who];
            let known = self.bench.state().members.get(&m(NAMES[who]));
            let able = known.is_some_and(|x| x.may_lead()) && !self.runs(who);
            let counts = !member.wiped && member.unproven.is_none();
            let promised = if as_if_sealed { member.promised.max(next) } else { member.promised };
            let last = member.log.last()?;
            (mask & (1 << who) != 0 && able && counts && promised >= next).then(|| Sealed {
                member: m(NAMES[who]),
                guard: self.guard(who),
                promised: Epoch(promised),
                wal_epoch: Epoch(last.epoch),
                lsn: Lsn(member.log.len() as u64),
                held: Epoch(member.held),
                lineage: self.lineage(who),
                no_room: false,
            })
        };
        (0..NAMES.len()).filter_map(one).collect()
    }

    fn grant(&mut self, mask: u8, w: u32, n: u8, loss: Option<u64>) {
        let state = self.bench.state();
        let evidence = self.evidence(mask, false);
        let wished = wish(state, self.bench.wall);
        let proof = if loss.is_some() { Proof::Waived } else { Proof::Quorum };
        let chosen = choose(state, &evidence, wished.as_ref(), proof);
        // The bound on lost bytes is for asynchronous clusters, and must not help here.
        let within_lag_of = Some(Lsn(1));
        let who = chosen.map_or(0, |s| bit(&s.member).trailing_zeros() as usize);
        let tagged =
            state.members.iter().filter(|(_, x)| !x.may_confirm(&m("z"))).map(|(name, _)| name);
        let n = n & bits(state.members.keys()) & !bits(tagged) & !(1 << who);
        let stopped = state.tenure.as_ref().is_some_and(|t| t.stopped);
        let term = self.bench.at.term;
        let change = Change::Grant(Grant {
            expect_epoch: state.epoch,
            expect_syncs: state.syncs.clone(),
            member: m(NAMES[who]),
            guard: self.guard(who),
            basis: if stopped { Basis::Stopped } else { Basis::Expired { term } },
            evidence,
            sync: numbered(&self.bench, config(state.epoch.0 + 1, w, subset(n))),
            accept_data_loss: loss,
            witnesses: Default::default(),
            within_lag_of,
        });
        let log = self.members[who].log.clone();
        self.propose(change, log);
    }

    /// Whatever members would be asked: a choice that is not refused loses nothing.
    fn every_choice_is_safe(&self) {
        let able = bits(self.evidence(127, true).iter().map(|s| &s.member));
        for mask in (0..128u8).filter(|mask| mask & !able == 0) {
            let evidence = self.evidence(mask, true);
            let Ok(chosen) = choose(self.bench.state(), &evidence, None, Proof::Quorum) else {
                continue;
            };
            let log = &self.members[bit(&chosen.member).trailing_zeros() as usize].log;
            for (epoch, acknowledged) in &self.acknowledged {
                assert!(
                    log.starts_with(acknowledged),
                    "{evidence:?} would lose commits of epoch {epoch}: {acknowledged:?}, {:?}",
                    self.bench.state().syncs
                );
            }
        }
    }

    fn act(&mut self, act: &Act) {
        let state = self.bench.state();
        let (expect_epoch, syncs) = (state.epoch, state.syncs.clone());
        let current = expect_epoch.0;
        match *act {
            Act::Register { who, priority, tag } => {
                self.bench.run(registered(NAMES[who], priority, tag));
            }
            Act::Commit { by, mask } => {
                let Some(epoch) = self.pick(by) else { return };
                if self.running[&epoch].promoted {
                    self.tally.zombies += u32::from(epoch < current);
                    self.write(epoch, true);
                    let ours = |who: &usize| mask & (1 << who) != 0;
                    for who in (0..NAMES.len()).filter(ours) {
                        if self.members[who].following == Some(epoch) {
                            self.flush(who, usize::MAX);
                        }
                    }
                }
            }
            Act::Flush { who, records } => self.flush(who, records),
            Act::Follow { who, by, lag } => {
                let Some(epoch) = self.pick(by) else { return };
                self.follow(who, epoch, lag);
            }
            Act::Wipe { who } if !self.runs(who) => {
                let (promised, ended) = (self.members[who].promised, self.members[who].ended);
                self.members[who] = Member { wiped: true, promised, ended, ..Member::default() };
            }
            Act::Wipe { .. } => {}
            Act::Crash { by } => self.pick(by).into_iter().for_each(|epoch| self.stop(epoch)),
            Act::Learn { by } => self.pick(by).into_iter().for_each(|epoch| self.learn(epoch)),
            Act::Refresh { by } => self.pick(by).into_iter().for_each(|epoch| self.refresh(epoch)),
            Act::Barrier { by } => self.pick(by).into_iter().for_each(|epoch| self.barrier(epoch)),
            Act::Promote { by } => self.pick(by).into_iter().for_each(|epoch| self.promote(epoch)),
            Act::Accept { back } => self.accept(current.saturating_sub(back as u64)),
            Act::RecordPromotion => {
                if self.running.get(&current).is_some_and(|p| p.promoted) {
                    let who = self.running[&current].who;
                    let mut change = promotion(&self.bench, 0);
                    if let Change::RecordPromotion { lineage, .. } = &mut change {
                        *lineage = self.lineage(who);
                    }
                    self.propose(change, Log::new());
                }
            }
            Act::Begin { w, mask, learn } => {
                let led = state.tenure.as_ref().map_or(0, |t| bit(&t.member));
                let known =
                    bits(state.members.iter().filter(|(_, x)| x.may_confirm(&m("z"))).map(|x| x.0));
                let to = config(current, w, subset(mask & known & !led));
                let to = numbered(&self.bench, to);
                let change = Change::BeginSyncChange { expect_epoch, expect_syncs: syncs, to };
                self.propose(change, Log::new());
                if learn {
                    self.learn(current);
                }
            }
            Act::Finish => {
                let confirmed = self.running.get(&current).and_then(|p| p.confirmed.clone());
                let Some(expect_syncs) = confirmed else { return };
                let change = Change::FinishSyncChange { expect_epoch, expect_syncs };
                self.propose(change, Log::new());
            }
            Act::Activate => {
                let confirmed = self.running.get(&current).and_then(|p| p.confirmed.clone());
                let mut change = activation(&self.bench);
                if let (Some(list), Change::Activate { expect_syncs, .. }) =
                    (confirmed, &mut change)
                {
                    *expect_syncs = list;
                    self.propose(change, Log::new());
                }
            }
            Act::Close { stopped } => {
                if stopped {
                    self.stop(current);
                }
                let reason = CloseReason::GivenUp;
                self.propose(Change::Close { expect_epoch, reason, stopped }, Log::new());
            }
            Act::RecordStop => {
                if self.is_closed() {
                    self.stop(current);
                    self.propose(Change::RecordStop { expect_epoch }, Log::new());
                }
            }
            Act::Seal { who } => self.seal(who),
            Act::Grant { mask, w, n } => self.grant(mask, w, n, None),
            Act::TakeOver { mask, stopped, w, n } => {
                if !self.is_closed() {
                    self.act(&Act::Close { stopped });
                }
                self.every_choice_is_safe();
                (0..NAMES.len()).filter(|i| mask & (1 << i) != 0).for_each(|who| self.seal(who));
                self.grant(mask, w, n, None);
            }
            Act::TakeOverLossy { mask, w, n } => {
                let change = Change::StartFailover {
                    expect_epoch,
                    target: None,
                    accept_data_loss: true,
                    by: String::new(),
                };
                if let Reply::Applied { operation: Some(id) } = self.bench.run(change) {
                    (0..NAMES.len())
                        .filter(|i| mask & (1 << i) != 0)
                        .for_each(|who| self.seal(who));
                    self.grant(mask, w, n, Some(id));
                }
            }
            Act::Settle { mask } => {
                self.accept(current);
                self.promote(current);
                self.act(&Act::RecordPromotion);
                let ours = |who: &usize| mask & (1 << who) != 0;
                (0..NAMES.len()).filter(ours).for_each(|who| self.follow(who, current, 0));
                self.learn(current);
                self.refresh(current);
                self.barrier(current);
                (0..NAMES.len()).filter(ours).for_each(|who| self.flush(who, usize::MAX));
                self.after();
                self.act(&Act::Activate);
                self.act(&Act::Finish);
            }
            Act::Delay => self.delay = true,
            Act::Deliver { which } => {
                let (change, log) = self.sent[which % self.sent.len()].clone();
                self.arrive(change, log);
            }
            Act::Elect => self.bench.at.term += 1,
        }
    }

    /// What happens by itself: every primary acknowledges what it can, by the loosest reading of
    /// its configurations, and barriers are confirmed.
    fn after(&mut self) {
        for (epoch, primary) in self.running.iter_mut().filter(|(_, p)| p.promoted) {
            let log = &self.members[primary.who].log;
            let confirmed_by = |w: u32, n: &BTreeSet<MemberName>| {
                let of_n = primary.flushed.iter().filter(|(who, _)| n.contains(&m(NAMES[**who])));
                let mut ends: Vec<usize> = of_n.map(|(_, end)| *end).collect();
                ends.sort_unstable_by(|a, b| b.cmp(a));
                match w {
                    0 => log.len(),
                    w => ends.get(w as usize - 1).copied().unwrap_or(0),
                }
            };
            let w = primary.in_use.iter().map(|c| c.w).min().unwrap_or(0);
            let n = primary.in_use.iter().flat_map(|c| c.members.iter().cloned()).collect();
            let reach = &log[..confirmed_by(w, &n)];
            let end = reach.iter().rposition(|r| r.commit && r.epoch == *epoch);
            if let Some(end) = end.map(|i| i + 1) {
                let old = self.acknowledged.entry(*epoch).or_default();
                if end > old.len() {
                    *old = log[..end].to_vec();
                    self.tally.commits += 1;
                    self.tally.mixed += u32::from(primary.in_use.len() > 1);
                }
            }
            if let Some((view, at)) = &primary.barrier
                && view.last().is_some_and(|c| confirmed_by(c.w, &c.members) >= *at)
            {
                primary.confirmed = Some(view.clone());
            }
        }
        self.chosen_has_all();
    }
}

const CASES: u32 = 256;

/// Whoever is granted an epoch holds every commit that was acknowledged, by whatever primary,
/// under whatever configuration, whatever else happened, and whoever was asked.
#[test]
fn no_acknowledged_commit_is_lost() {
    let total = Cell::new(Tally::default());
    let mut runner = TestRunner::new(cases(CASES));
    let history = (2usize..=5, 0u32..=4, vec(act(), 1..80));
    let result = runner.run(&history, |(count, w, acts)| {
        let mut world = World::new(count, w);
        for act in &acts {
            world.act(act);
            world.after();
        }
        world.every_choice_is_safe();
        let (a, b) = (total.get(), world.tally);
        total.set(Tally {
            grants: a.grants + b.grants,
            changes: a.changes + b.changes,
            commits: a.commits + b.commits,
            mixed: a.mixed + b.mixed,
            failed: a.failed + b.failed,
            zombies: a.zombies + b.zombies,
        });
        Ok(())
    });
    if let Err(found) = result {
        panic!("{found}");
    }
    // A history in which nothing happens shows nothing.
    let t = total.get();
    assert!(t.grants > 2 * CASES && t.commits > 2 * CASES && t.failed > CASES / 2, "{t:?}");
    assert!(t.changes > CASES / 8 && t.mixed > CASES / 8 && t.zombies > CASES / 8, "{t:?}");
}
