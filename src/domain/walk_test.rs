//! A random walk: a leader and its members, played by the code that production runs, on an
//! abstract PostgreSQL and a network that loses, delays and cuts. At every step there is at most
//! one writer, and no acknowledged write is missing from an active primary; once faults end, the
//! cluster heals. A seed that fails is printed and plays the same again.

use std::collections::BTreeSet;

use super::command::Change;
use super::desired::{Desired, desired};
use super::fixture_test::{Bench, cluster, m};
use super::lease::{HolderLease, LeaderLedger, Ticket};
use super::observation::{Observations, Report};
use super::plan::plan;
use super::reconcile::{Action, Process, reconcile};
use super::state::{ClusterState, SynchronousMode};
use super::types::{BootTime, Epoch, GuardId, MemberName, WallMillis};
use super::walk_member_test::Member;

const TICK_MS: u64 = 50;

/// A small generator (splitmix64), so that a seed gives one walk.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

enum Message {
    Report { from: usize, report: Box<Report> },
    Renewal { from: usize, epoch: Epoch, guard: GuardId, sent: BootTime },
    Barrier { from: usize, epoch: Epoch, guard: GuardId, sent: BootTime, ticket: Ticket },
    Acknowledged { to: usize, guard: GuardId, lease: HolderLease },
}

struct World {
    seed: u64,
    random: Random,
    ms: u64,
    bench: Bench,
    views: Vec<ClusterState>,
    observed: Observations,
    ledger: LeaderLedger,
    leader_ppm: i64,
    members: Vec<Member>,
    /// Members that the leader cannot reach, and pairs that cannot reach each other.
    cut_off: BTreeSet<usize>,
    cut: BTreeSet<(usize, usize)>,
    net: Vec<(u64, Message)>,
    faults: bool,
    next_write: u64,
    acknowledged: BTreeSet<u64>,
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64, list: &str, w: u32) -> Self {
        let mut random = Random(seed);
        let names: Vec<&str> = list.split_whitespace().collect();
        let ppm = |random: &mut Random| random.below(20_001) as i64 - 10_000;
        let members = names.iter().map(|n| Member::new(n, ppm(&mut random))).collect();
        let mut bench = Bench::registered(list, SynchronousMode::Quorum, w);
        bench.wall = WallMillis(0);
        let views = vec![bench.state().clone()];
        Self {
            seed,
            leader_ppm: ppm(&mut random),
            random,
            ms: 10_000,
            views,
            observed: Observations::default(),
            ledger: LeaderLedger::new(bench.at.term, BootTime::from_nanos(0)),
            bench,
            members,
            cut_off: BTreeSet::new(),
            cut: BTreeSet::new(),
            net: Vec::new(),
            faults: false,
            next_write: 1,
            acknowledged: BTreeSet::new(),
            trace: Vec::new(),
        }
    }

    fn now(&self) -> BootTime {
        let scaled = i128::from(self.ms) * i128::from(1_000_000 + self.leader_ppm);
        BootTime::from_nanos(u64::try_from(scaled).unwrap())
    }

    fn log(&mut self, what: String) {
        self.trace.push(format!("{:>7} {what}", self.ms));
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        self.members[a].up && self.members[b].up && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn send(&mut self, member: usize, message: Message) {
        if self.cut_off.contains(&member) || (self.faults && self.random.one_in(20)) {
            return;
        }
        let late = if self.faults && self.random.one_in(10) { 3_000 } else { 60 };
        let at = self.ms + self.random.below(late);
        self.net.push((at, message));
    }

    fn propose(&mut self, change: Change) {
        self.log(format!("propose {change:?}"));
        self.bench.wall = WallMillis(self.ms);
        let reply = self.bench.run(change);
        self.log(format!("  {reply:?}"));
        if self.views.last() != Some(self.bench.state()) {
            self.views.push(self.bench.state().clone());
        }
    }

    fn elect(&mut self) {
        self.bench.at.term += 1;
        self.leader_ppm = self.random.below(20_001) as i64 - 10_000;
        self.observed = Observations::default();
        self.ledger = LeaderLedger::new(self.bench.at.term, self.now());
        self.log(format!("leader of term {}", self.bench.at.term));
    }

    fn step(&mut self) {
        self.ms += TICK_MS;
        if self.faults {
            self.fault();
        }
        for i in 0..self.members.len() {
            self.members[i].guard_timer(self.ms);
        }
        self.deliver();
        let (now, wall) = (self.now(), WallMillis(self.ms));
        self.observed.note_state(self.bench.state(), now);
        let plan = plan(&cluster(), self.bench.state(), &self.observed, &self.ledger, now, wall);
        if let Some(change) = plan.proposal {
            self.propose(change);
        }
        for i in 0..self.members.len() {
            if self.members[i].awake(self.ms) {
                self.agent(i);
            }
        }
        self.replicate();
        self.check();
    }

    fn deliver(&mut self) {
        let due: Vec<(u64, Message)> = {
            let (due, later) = self.net.drain(..).partition(|(at, _)| *at <= self.ms);
            self.net = later;
            due
        };
        for (_, message) in due {
            let now = self.now();
            match message {
                Message::Report { from, report } => {
                    let name = self.members[from].name.clone();
                    self.observed.record(name, *report, now);
                }
                Message::Renewal { from, epoch, guard, sent } => {
                    let ticket = self.ledger.arrive(cluster(), epoch, now);
                    let barrier = Message::Barrier { from, epoch, guard, sent, ticket };
                    let at = self.ms + self.random.below(2 * TICK_MS);
                    self.net.push((at, barrier));
                }
                Message::Barrier { from, epoch, guard, sent, ticket } => {
                    let tenure = self.bench.state().open_tenure();
                    let good = tenure.is_some_and(|t| t.epoch == epoch && t.guard == guard);
                    if !good {
                        self.ledger.refuse(ticket);
                    } else if self.ledger.acknowledge(ticket) {
                        let timing = &self.bench.state().spec.timing;
                        let lease = HolderLease::from_renewal(epoch, sent, timing);
                        self.send(from, Message::Acknowledged { to: from, guard, lease });
                    }
                }
                Message::Acknowledged { to, guard, lease } => {
                    let (ms, member) = (self.ms, &mut self.members[to]);
                    let now = member.clock(ms);
                    let running = matches!(member.local.process, Process::Primary { .. });
                    let ours = member.local.guard.as_ref() == Some(&guard);
                    if member.awake(ms) && running && ours && now < lease.stop_at {
                        let old = member.local.lease;
                        member.local.lease = Some(old.map_or(lease, |o| o.extend(lease)));
                    }
                }
            }
        }
    }

    fn standbys(&self, primary: usize) -> Vec<usize> {
        let Some((epoch, _)) = self.members[primary].primary() else { return Vec::new() };
        let follows = |i: &usize| {
            self.linked(primary, *i)
                && self.members[*i].following() == Some(epoch)
                && self.members[primary].wal.starts_with(&self.members[*i].wal)
        };
        (0..self.members.len()).filter(|i| *i != primary).filter(follows).collect()
    }

    fn agent(&mut self, i: usize) {
        let newest = self.views.len() - 1;
        let unheard = self.faults && self.random.one_in(4);
        if !unheard && !self.cut_off.contains(&i) {
            self.members[i].view = newest;
        }
        let name = self.members[i].name.clone();
        let want = desired(&self.views[self.members[i].view], &name);
        let now = self.members[i].clock(self.ms);
        let action = reconcile(&name, &want, &self.members[i].local, now);
        if !matches!(action, Action::Nothing { .. } | Action::ConfirmSync { .. }) {
            let text = format!("{action:?}");
            self.log(format!("{name} {}", text.split(", lineage").next().unwrap_or_default()));
        }
        let index = |who: &MemberName| self.members.iter().position(|x| x.name == *who);
        let source = match &want {
            Desired::Follow(duty) => index(&duty.primary).filter(|s| self.linked(i, *s)),
            _ => None,
        };
        let source = source.map(|s| self.members[s].clone());
        let caught_up = match &action {
            Action::HandOver { target, .. } => index(target).is_some_and(|t| {
                self.standbys(i).contains(&t) && self.members[t].wal == self.members[i].wal
            }),
            _ => false,
        };
        let ms = self.ms;
        self.members[i].act(&action, source.as_ref(), caught_up, ms);
        if self.ms % 200 < TICK_MS {
            let standbys: Vec<Member> =
                self.standbys(i).into_iter().map(|s| self.members[s].clone()).collect();
            let report = self.members[i].report(&standbys.iter().collect::<Vec<_>>());
            self.send(i, Message::Report { from: i, report: Box::new(report) });
        }
        if let (Process::Primary { epoch, .. }, Some(guard)) =
            (&self.members[i].local.process, self.members[i].local.guard.clone())
            && self.ms % 500 < TICK_MS
        {
            let (epoch, sent) = (*epoch, self.members[i].clock(self.ms));
            self.send(i, Message::Renewal { from: i, epoch, guard, sent });
        }
    }

    fn replicate(&mut self) {
        for i in 0..self.members.len() {
            let Some((epoch, open)) = self.members[i].primary() else { continue };
            if self.ms % 200 < TICK_MS {
                let write = self.next_write;
                self.members[i].wal.push((epoch.0, write));
                self.next_write += 1;
            }
            let wal = self.members[i].wal.clone();
            let mut have = Vec::new();
            for s in self.standbys(i) {
                if !(self.faults && self.random.one_in(3)) {
                    self.members[s].stream(&wal);
                }
                have.push((self.members[s].name.clone(), self.members[s].wal.len()));
            }
            let member = &mut self.members[i];
            member.confirm(&have);
            let Some(config) = &member.config else { continue };
            let flushed = have.iter().filter(|(n, _)| config.members.contains(n));
            let mut lengths: Vec<usize> = flushed.map(|(_, len)| *len).collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            let upto = match config.w as usize {
                0 => wal.len(),
                w => lengths.get(w - 1).copied().unwrap_or(0),
            };
            if open {
                let new = wal.iter().take(upto).skip(member.acknowledged_to);
                let writes = new.map(|r| r.1).filter(|id| (1..1_000_000_000).contains(id));
                self.acknowledged.extend(writes);
                member.acknowledged_to = member.acknowledged_to.max(upto);
            }
        }
    }

    fn fault(&mut self) {
        let n = self.members.len() as u64;
        let i = self.random.below(n) as usize;
        let j = self.random.below(n) as usize;
        let what = self.random.below(400);
        match what {
            0 => self.members[i].power_off(),
            1..=8 if !self.members[i].up => self.members[i].power_on(),
            9 => self.members[i].dies(true),
            10 => self.members[i].frozen_until = self.ms + self.random.below(8_000),
            11 if self.members[i].up => self.members[i].agent_restarts(),
            12 => drop(self.cut_off.insert(i)),
            13..=16 => drop(self.cut_off.remove(&i)),
            17 if i != j => drop(self.cut.insert((i.min(j), i.max(j)))),
            18..=22 => drop(self.cut.remove(&(i.min(j), i.max(j)))),
            23 => return self.elect(),
            24 => return self.operate(i),
            _ => return,
        }
        if matches!(what, 0 | 9..=12 | 17) {
            let name = self.members[i].name.clone();
            self.log(format!("fault {what} at {name} ({j})"));
        }
    }

    fn operate(&mut self, i: usize) {
        let (expect_epoch, target) = (self.bench.state().epoch, self.members[i].name.clone());
        let by = "walk".to_owned();
        if self.random.one_in(3) {
            let target = self.random.one_in(2).then_some(target);
            let accept_data_loss = false;
            self.propose(Change::StartFailover { expect_epoch, target, accept_data_loss, by });
        } else {
            self.propose(Change::StartSwitchover { expect_epoch, target, by });
        }
    }

    fn check(&mut self) {
        let writers: Vec<&Member> =
            self.members.iter().filter(|x| x.primary().is_some_and(|p| p.1)).collect();
        if writers.len() > 1 {
            let names: Vec<_> =
                writers.iter().map(|x| (x.name.clone(), x.lease_left(self.ms))).collect();
            self.fail(&format!("two writers: {names:?}"));
        }
        if let Some(writer) = writers.first() {
            let has: BTreeSet<u64> = writer.wal.iter().map(|r| r.1).collect();
            if let Some(lost) = self.acknowledged.iter().find(|w| !has.contains(w)) {
                self.fail(&format!("{} is active without write {lost}", writer.name));
            }
        }
    }

    fn healed(&self) -> bool {
        let Some(primary) = self.bench.state().active_primary() else { return false };
        let Some(p) = self.members.iter().position(|x| x.name == *primary) else { return false };
        self.members[p].primary().is_some_and(|x| x.1)
            && self.standbys(p).len() == self.members.len() - 1
            && self.bench.state().operation.is_none()
            && self.bench.state().syncs.len() == 1
    }

    fn fail(&self, why: &str) -> ! {
        let tail = self.trace.len().saturating_sub(120);
        for line in &self.trace[tail..] {
            eprintln!("{line}");
        }
        for member in &self.members {
            eprintln!(
                "{} up {} {:?} {:?}",
                member.name, member.up, member.local.process, member.local.record
            );
        }
        let s = self.bench.state();
        eprintln!("{:?}\n{:?}\n{:?}", s.tenure, s.syncs, s.operation);
        panic!("seed {}, at {} ms: {why}", self.seed, self.ms);
    }

    fn heal(&mut self, within_ms: u64) {
        self.faults = false;
        self.cut.clear();
        self.cut_off.clear();
        for member in &mut self.members {
            member.frozen_until = 0;
            if !member.up {
                member.power_on();
            }
        }
        let end = self.ms + within_ms;
        while !self.healed() {
            if self.ms >= end {
                self.fail("it did not heal");
            }
            self.step();
        }
    }
}

fn walk(seed: u64, list: &str, w: u32, faults_ms: u64) -> (u64, u64) {
    let mut world = World::new(seed, list, w);
    world.heal(60_000);
    world.faults = true;
    let end = world.ms + faults_ms;
    while world.ms < end {
        world.step();
    }
    // A crash bound may hold for its whole window.
    world.heal(700_000);
    assert!(world.members.iter().any(|x| x.name == m(&list[..1])));
    (world.bench.state().epoch.0, world.acknowledged.len() as u64)
}

/// Walks with these seeds; `QUORATE_WALKS` sets how many, `QUORATE_WALK_SEED` the first.
fn walks(list: &str, w: u32) {
    let number = |name: &str, default| {
        std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let first = number("QUORATE_WALK_SEED", 1);
    for seed in first..first + number("QUORATE_WALKS", 4) {
        let (epochs, writes) = walk(seed, list, w, 120_000);
        assert!(epochs > 1 && writes > 0, "seed {seed}: {epochs} epochs, {writes} writes");
    }
}

#[test]
fn three_members_wait_for_one() {
    walks("a b c", 1);
}

#[test]
fn three_members_wait_for_two() {
    walks("a b c", 2);
}

#[test]
fn two_members() {
    walks("a b", 1);
}

#[test]
fn one_member() {
    walks("a", 1);
}

#[test]
fn five_members_wait_for_two() {
    walks("a b c d e", 2);
}
