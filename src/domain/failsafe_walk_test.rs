//! A random walk over failsafe: a primary that renews and asks, peers that promise, seal, report
//! and start anew, controllers that are lost and come back, clocks at their worst. Whatever comes:
//! from the grant of the next epoch on no lease of the last one runs.
//!
//! And each rule is needed: without it the same walk finds two holders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use super::candidate::{self, Proof};
use super::command::{Basis, Change};
use super::desired::{Desired, desired};
use super::failsafe::{Abstention, Question, judge, keepable};
use super::fixture_test::{
    Bench, SYSTEM, activation, any, at_ms, cluster, grant, guard, holder, m, names, numbered,
    promotion, register, sealed, spec,
};
use super::lease::{HolderLease, LeaderLedger, Timing};
use super::lineage::Lineage;
use super::observation::Sealed;
use super::state::{CloseReason, ClusterSpec, ClusterState, SynchronousMode};
use super::types::{BootTime, Epoch, Lsn, MemberName};

const E: Epoch = Epoch(2);
/// Clocks are wrong by up to a fifth, so that what allows for it is seen.
const PPM: i64 = 200_000;
const WALKS: u64 = 3_000;
const STEPS: usize = 300;

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A grant by expiry needs no sealed peer.
    PeerSeal,
    /// A peer that has promised goes on to say where its log ends.
    Promise,
    /// It stands back for the length of the lease, as if all clocks were equal.
    ClockFactor,
    /// An agent that starts anew takes part at once.
    RestartWait,
    /// One peer may be missing.
    EveryPeer,
    /// The lease is counted from the last answer.
    SentBefore,
    /// Who has promised the next epoch promises all the same.
    NextEpochBinds,
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }
}

struct Peer {
    ppm: i64,
    promised: Epoch,
    abstention: Abstention,
    known: Option<ClusterState>,
    reaches: bool,
}

struct Round {
    sent: BootTime,
    missing: BTreeSet<MemberName>,
}

struct Controllers {
    ledger: LeaderLedger,
    evidence: BTreeMap<MemberName, Sealed>,
}

struct World {
    without: Without,
    random: Random,
    true_ms: u64,
    bench: Bench,
    timing: Timing,
    ppm: i64,
    reaches: bool,
    known: ClusterState,
    refused: bool,
    lease: Option<HolderLease>,
    round: Option<Round>,
    peers: BTreeMap<MemberName, Peer>,
    controllers: Option<Controllers>,
    leader_ppm: i64,
    kept_rounds: u32,
}

fn shows(true_ms: u64, ppm: i64) -> BootTime {
    let ns = i128::from(true_ms) * i128::from(1_000_000 + ppm);
    BootTime::from_nanos(u64::try_from(ns).unwrap())
}

/// `a` is active in an epoch that was granted with failsafe, and `d` has joined since: it alone is
/// a read quorum, and no peer of the epoch.
fn begin() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        let timing = Timing { clock_error_ppm: PPM as u64, ..Timing::default() };
        let mut bench = Bench::empty();
        let spec = spec("a b c", SynchronousMode::Quorum, 2);
        let spec = ClusterSpec { failsafe: true, timing, ..spec };
        bench.ok(Change::CreateCluster { spec });
        for name in ["a", "b", "c"] {
            bench.ok(register(name, &format!("node-{name}"), None));
        }
        bench.ok(Change::BeginBootstrap { member: m("a") });
        bench.ok(Change::FinishBootstrap { member: m("a"), system_id: SYSTEM, epoch: Epoch(1) });
        bench.ok(grant(&bench, "a", vec![holder("a", 2, 1, 100, 1)], any(2, 2, "b c")));
        bench.ok(promotion(&bench, 200));
        bench.ok(activation(&bench));
        bench.ok(register("d", "node-d", None));
        let (expect_epoch, expect_syncs) = (E, bench.state().syncs.clone());
        let to = numbered(&bench, any(2, 3, "b c d"));
        bench.ok(Change::BeginSyncChange { expect_epoch, expect_syncs, to });
        let expect_syncs = bench.state().syncs.clone();
        bench.ok(Change::FinishSyncChange { expect_epoch, expect_syncs });
        bench
    })
}

impl World {
    fn new(without: Without, seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
        let bench = begin().clone();
        let timing = bench.state().spec.timing;
        let mut ppm = || match random.below(3) {
            0 => -PPM,
            1 => 0,
            _ => PPM,
        };
        let true_ms = 1_000_000;
        let (own, leader_ppm) = (ppm(), ppm());
        let mut peer = |_: &str| {
            let ppm = ppm();
            let abstention = Abstention::new(at_ms(0));
            let known = Some(bench.state().clone());
            Peer { ppm, promised: E, abstention, known, reaches: true }
        };
        let peers = ["b", "c", "d"].iter().map(|n| (m(n), peer(n))).collect();
        let ledger = LeaderLedger::new(bench.at.term, shows(true_ms, leader_ppm));
        let lease = HolderLease::from_renewal(E, shows(true_ms, own), &timing);
        Self {
            without,
            random,
            true_ms,
            known: bench.state().clone(),
            bench,
            timing,
            ppm: own,
            reaches: true,
            refused: false,
            lease: Some(lease),
            round: None,
            peers,
            controllers: Some(Controllers { ledger, evidence: BTreeMap::new() }),
            leader_ppm,
            kept_rounds: 0,
        }
    }

    fn now(&self) -> BootTime {
        shows(self.true_ms, self.ppm)
    }

    /// Whether the holder's lease runs, to its very end.
    fn lease_runs(&self) -> bool {
        self.lease.is_some_and(|l| self.now().since(l.sent(&self.timing)).as_millis() < 3_000)
    }

    fn may_write(&self) -> bool {
        self.lease.is_some_and(|l| l.may_write(E, self.now()))
    }

    fn some_peer(&mut self) -> MemberName {
        let at = self.random.below(3) as usize;
        self.peers.keys().nth(at).unwrap().clone()
    }

    fn step(&mut self) {
        match self.random.below(160) {
            0..=39 => self.true_ms += 1 + self.random.below(280),
            40..=79 => self.ask(),
            80..=91 => self.renew(),
            92..=103 => self.learn(),
            104..=115 => self.seal(),
            116..=131 => self.report(),
            132..=135 => self.restart(),
            136..=138 => self.rewire(),
            139..=140 => self.turn_controllers(),
            141..=146 => self.close(),
            147..=157 => self.grant(),
            _ => self.holder_learns(),
        }
    }

    // ---- the holder ----

    /// The next step of a round of questions.
    fn ask(&mut self) {
        let now = self.now();
        let Some(mut round) = self.round.take() else {
            let keeps = keepable(&self.known, &m("a"), E, &guard(b'a'));
            if let Some(tenure) = keeps.filter(|_| self.may_write() && !self.refused) {
                self.round = Some(Round { sent: now, missing: tenure.peers.clone() });
            }
            return;
        };
        let enough = usize::from(self.without == Without::EveryPeer);
        if round.missing.len() <= enough {
            if self.may_write() && !self.refused {
                let from = if self.without == Without::SentBefore { now } else { round.sent };
                let lease = HolderLease::from_renewal(E, from, &self.timing);
                self.lease = self.lease.map(|held| held.extend(lease));
                self.kept_rounds += 1;
            }
            return;
        }
        let at = self.random.below(round.missing.len() as u64) as usize;
        let name = round.missing.iter().nth(at).unwrap().clone();
        let question = Question {
            cluster: cluster(),
            peer: name.clone(),
            holder: m("a"),
            epoch: E,
            guard: guard(b'a'),
            ttl_ms: self.timing.ttl_ms,
            clock_error_ppm: match self.without {
                Without::ClockFactor => 0,
                _ => self.timing.clock_error_ppm,
            },
            end: None,
        };
        let true_ms = self.true_ms;
        let peer = self.peers.get_mut(&name).unwrap();
        let promised = match self.without {
            Without::NextEpochBinds => E,
            _ => peer.promised,
        };
        let known = match self.without {
            Without::NextEpochBinds => None,
            _ => peer.known.as_ref(),
        };
        // A refusal ends the round.
        if judge(&question, promised, false, known).is_ok() {
            peer.abstention.promise(&question, shows(true_ms, peer.ppm));
            round.missing.remove(&name);
            self.round = Some(round);
        }
    }

    fn renew(&mut self) {
        let now = self.now();
        let at = shows(self.true_ms, self.leader_ppm);
        let Some(controllers) = self.controllers.as_mut().filter(|_| self.reaches) else { return };
        let ticket = controllers.ledger.arrive(cluster(), E, at);
        let state = self.bench.state();
        if state.epoch == E && state.open_tenure().is_some() {
            assert!(controllers.ledger.acknowledge(ticket));
            // The answer may be lost.
            if self.random.flag() {
                let lease = HolderLease::from_renewal(E, now, &self.timing);
                self.lease = self.lease.map(|held| held.extend(lease));
            }
        } else {
            controllers.ledger.refuse(ticket);
            self.refused |= self.random.flag();
        }
    }

    fn holder_learns(&mut self) {
        if self.controllers.is_some() && self.reaches {
            self.known = self.bench.state().clone();
        }
    }

    // ---- its peers ----

    fn learn(&mut self) {
        let name = self.some_peer();
        let state = self.bench.state().clone();
        let lead = self.controllers.is_some();
        let peer = self.peers.get_mut(&name).unwrap();
        if lead && peer.reaches {
            peer.known = Some(state);
        }
    }

    fn seal(&mut self) {
        let name = self.some_peer();
        let peer = self.peers.get_mut(&name).unwrap();
        if let Some(Desired::Sealed { promise }) = peer.known.as_ref().map(|s| desired(s, &name)) {
            peer.promised = peer.promised.max(promise);
        }
    }

    fn report(&mut self) {
        let name = self.some_peer();
        let (without, true_ms) = (self.without, self.true_ms);
        let peer = self.peers.get_mut(&name).unwrap();
        let Some(controllers) = self.controllers.as_mut().filter(|_| peer.reaches) else { return };
        let until = peer.abstention.until(peer.known.as_ref());
        let takes_part = shows(true_ms, peer.ppm) >= until || without == Without::Promise;
        if peer.promised > E && takes_part {
            let lineage = Lineage::root(Epoch(1)).with(E, Lsn(200));
            let own = guard(name.as_str().as_bytes()[0]);
            let said = sealed(name.as_str(), peer.promised.0, 2, 500);
            controllers.evidence.insert(name, Sealed { lineage, guard: own, ..said });
        }
    }

    fn restart(&mut self) {
        let name = self.some_peer();
        let true_ms = self.true_ms;
        let peer = self.peers.get_mut(&name).unwrap();
        match self.without {
            // It has lost its promises, and does not know.
            Without::RestartWait => peer.abstention = Abstention::new(at_ms(0)),
            _ => peer.abstention = Abstention::new(shows(true_ms, peer.ppm)),
        }
        peer.known = None;
    }

    // ---- the controllers ----

    fn rewire(&mut self) {
        self.reaches = self.random.flag();
        for peer in self.peers.values_mut() {
            peer.reaches = self.random.flag();
        }
    }

    fn turn_controllers(&mut self) {
        self.controllers = match self.controllers.take() {
            Some(_) if self.random.flag() => None,
            _ => {
                self.bench.at.term += 1;
                let now = shows(self.true_ms, self.leader_ppm);
                let ledger = LeaderLedger::new(self.bench.at.term, now);
                Some(Controllers { ledger, evidence: BTreeMap::new() })
            }
        };
    }

    fn close(&mut self) {
        let state = self.bench.state();
        let open = state.epoch == E && state.open_tenure().is_some();
        if self.controllers.is_some() && open {
            let reason = CloseReason::LeaseLost;
            self.bench.ok(Change::Close { expect_epoch: E, reason, stopped: false });
        }
    }

    fn grant(&mut self) {
        let now = shows(self.true_ms, self.leader_ppm);
        let Some(controllers) = &self.controllers else { return };
        let state = self.bench.state();
        let expired = now >= controllers.ledger.expires(&cluster(), E, &self.timing);
        if state.epoch != E || state.open_tenure().is_some() || !expired {
            return;
        }
        let evidence: Vec<Sealed> = controllers.evidence.values().cloned().collect();
        let Ok(best) = candidate::choose(state, &evidence, None, Proof::Quorum) else { return };
        let best = best.member.clone();
        let mut others = names("b c d");
        others.remove(&best);
        let others: Vec<&str> = others.iter().map(MemberName::as_str).collect();
        let mut change = grant(&self.bench, best.as_str(), evidence, any(3, 1, &others.join(" ")));
        if let Change::Grant(grant) = &mut change {
            grant.basis = Basis::Expired { term: controllers.ledger.term() };
        }
        if self.without == Without::PeerSeal {
            let main = self.bench.control.clusters.get_mut(&cluster()).unwrap();
            main.tenure.as_mut().unwrap().failsafe = false;
        }
        self.bench.run(change);
    }
}

/// Walks. Returns whether two held at once, how often peers kept a lease, and whether the next epoch
/// was granted.
fn walk(without: Without, seed: u64) -> (bool, u32, bool) {
    let mut world = World::new(without, seed);
    for _ in 0..STEPS {
        world.step();
        if world.bench.state().epoch > E && world.lease_runs() {
            return (true, world.kept_rounds, true);
        }
    }
    (false, world.kept_rounds, world.bench.state().epoch > E)
}

#[test]
fn two_never_hold_at_once() {
    let (mut kept, mut granted, mut both) = (0, 0, 0);
    for seed in 0..WALKS {
        let (broken, rounds, next) = walk(Without::Nothing, seed);
        assert!(!broken, "seed {seed}");
        kept += u32::from(rounds > 0);
        granted += u32::from(next);
        both += u32::from(rounds > 0 && next);
    }
    // The walk goes where it matters.
    assert!(kept > 1_000 && granted > 200 && both > 100, "{kept} {granted} {both}");
}

#[test]
fn each_rule_is_needed() {
    for without in [
        Without::PeerSeal,
        Without::Promise,
        Without::ClockFactor,
        Without::RestartWait,
        Without::EveryPeer,
        Without::SentBefore,
        Without::NextEpochBinds,
    ] {
        let found = (0..20 * WALKS).find(|seed| walk(without, *seed).0);
        assert!(found.is_some(), "{without:?} is not missed");
    }
}
