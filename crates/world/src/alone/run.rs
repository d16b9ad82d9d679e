//! One run: faults for a time, checked all the while; then an end of them, and a bound within which
//! the cluster has to come to rest.

use super::clock::{MS, Micros, SECOND};
use super::oracle::{HEALS, HEEDS};
use super::rng::Rng;
use super::schedule::{Fault, Kind, SpecChange, derive};
use super::setup::{Class, Setup};
use super::story::Story;
use super::world::{Broken, Counts, World};
use crate::domain::command::Change;
use crate::domain::record::DataMark;
use crate::domain::state::SynchronousMode;

/// How long it may take until it is at rest: crashes are remembered for two minutes.
const HEAL: Micros = 300 * SECOND;
/// How long after that an operator who accepts a loss may take.
const HELP: Micros = 300 * SECOND;

/// What to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// The seed.
    pub seed: u64,
    /// How long faults go on, in seconds.
    pub fault_seconds: u64,
    /// The faults of its schedule that happen; `None` for all.
    pub only: Option<Vec<u32>>,
    /// Whether the story is told.
    pub told: bool,
}

/// How it went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What the seed may do.
    pub class: Class,
    /// Simulated time, in microseconds.
    pub simulated: Micros,
    /// Numbers.
    pub counts: Counts,
    /// The hash of everything that happened, in its order.
    pub hash: u64,
    /// The promise that was broken, if one was.
    pub broken: Option<Broken>,
    /// The story, where it was told.
    pub story: Vec<String>,
}

/// The cluster of a job and the faults of its seed.
pub fn schedule(seed: u64, fault_seconds: u64) -> (Setup, Vec<Fault>) {
    let setup = Setup::of(seed, fault_seconds);
    let faults = derive(&setup);
    (setup, faults)
}

/// Whether only the operator's word may bring a cluster back after these faults: data was lost for
/// good, or nobody else ever had what one primary acknowledged alone.
fn may_need_help(setup: &Setup, faults: &[Fault], kept: &[u32]) -> bool {
    let alone = |kind: &Kind| {
        matches!(kind, Kind::Wipe { .. } | Kind::Spec(SpecChange::Mode(SynchronousMode::Async)))
    };
    setup.class == Class::Lying
        || setup.spec.synchronous == SynchronousMode::Async
        || kept.iter().filter_map(|n| faults.get(*n as usize)).any(|f| alone(&f.kind))
}

/// Runs a job.
pub fn run(job: &Job) -> Outcome {
    let (setup, faults) = schedule(job.seed, job.fault_seconds);
    let (class, end) = (setup.class, setup.end);
    let all: Vec<u32> = (0..faults.len() as u32).collect();
    let kept = job.only.clone().unwrap_or(all);
    let help = may_need_help(&setup, &faults, &kept);
    let story = if job.told { Story::told() } else { Story::untold() };
    let mut world = World::new(setup, faults, story);
    world.plant(&kept);
    world.run_until(end);
    world.end_all_faults();
    come_to_rest(&mut world, help, None);
    lose_one_for_good(&mut world);
    if world.broken.is_none() {
        let primary = world.raft.agreed().active_primary().cloned();
        if let Some(primary) = primary.and_then(|p| world.index(&p)) {
            world.check_log(primary);
        }
    }
    Outcome {
        seed: job.seed,
        class,
        simulated: world.now,
        counts: world.counts.clone(),
        hash: world.hash,
        broken: world.broken.clone(),
        story: world.story.lines().to_vec(),
    }
}

/// A takeover in which one member is lost for good: the others have all that they need, whatever
/// moment that is.
fn lose_one_for_good(world: &mut World) {
    let agreed = world.raft.agreed().clone();
    let waits = agreed.syncs.iter().all(|c| c.w > 0);
    let Some(primary) = agreed.active_primary().and_then(|p| world.index(p)) else { return };
    let setup = world.setup.clone();
    if world.broken.is_some() || setup.class != Class::Bounded || setup.members < 3 || !waits {
        return;
    }
    let mut rng = Rng::stream(setup.seed, 9);
    let begun = world.now;
    world.story.tell(begun, || "one member will be lost for good".to_owned());
    // The primary is away for a moment, and perhaps somebody confirms late.
    let back = begun + rng.within(200, 3000) * MS;
    let power = rng.one_in(2);
    if power {
        world.power_off(primary);
    } else {
        world.crash_postmaster(primary);
    }
    let slow = rng.below(setup.members as u64) as usize;
    if rng.one_in(2) {
        world.machines[slow].slow_us += rng.within(500, 4000) * MS;
    }
    let lost_at = begun + rng.within(50, 5000) * MS;
    if lost_at < back {
        world.run_until(lost_at);
    }
    let mut lost = None;
    for at in [lost_at.min(back), back.max(lost_at)] {
        world.run_until(at);
        if at >= lost_at && lost.is_none() {
            let agreed = world.raft.agreed().clone();
            let holder = agreed.tenure.as_ref().and_then(|t| world.index(&t.member));
            let other = rng.below(setup.members as u64) as usize;
            let who = holder.filter(|_| rng.below(4) > 0).unwrap_or(other);
            world.power_off(who);
            lost = Some(who);
            let called = world.called(who);
            world.story.tell(world.now, || format!("{called} is lost for good"));
        }
        if at >= back && power && lost != Some(primary) {
            world.power_on(primary);
        }
    }
    let later = world.now + rng.within(1000, 6000) * MS;
    world.run_until(later);
    world.machines[slow].slow_us = 0;
    // With more members, or where more have to confirm, one that was being rewound to the lost one
    // may be missing too: then the operator has to say so.
    let replacing = world.members.iter().any(|m| m.record.data != DataMark::Intact);
    let small = setup.members == 3 && agreed.syncs.iter().all(|c| c.w == 1);
    come_to_rest(world, replacing && !small, lost);
}

fn come_to_rest(world: &mut World, help: bool, without: Option<usize>) {
    let begun = world.now;
    let mut step = 0;
    while world.broken.is_none() {
        let waited = world.now - begun;
        if step % 4 == 0 {
            world.take_back_settings();
        }
        if world.healed(without) {
            if waited > HEAL {
                world.counts.helped += 1;
            }
            return;
        }
        if waited > HEAL && !help || waited > HEAL + HELP {
            let found = world.state_of_things();
            return world.fail(if help { HEEDS } else { HEALS }, found);
        }
        if waited > HEAL && step % 40 == 0 {
            let expect_epoch = world.raft.agreed().epoch;
            let by = "operator".to_owned();
            let (target, accept_data_loss) = (None, true);
            let change = Change::StartFailover { expect_epoch, target, accept_data_loss, by };
            world.operate(change, true);
        }
        step += 1;
        let next = world.now + SECOND / 2;
        world.run_until(next);
    }
}

impl World {
    /// What there is, for a person.
    pub(super) fn state_of_things(&self) -> String {
        let agreed = self.raft.agreed();
        let tenure = agreed.tenure.as_ref().map_or("nobody leads".to_owned(), |t| {
            let open = t.closed.as_ref().map_or("open".to_owned(), |c| format!("{:?}", c.reason));
            format!("epoch {} of {} is {:?}, {open}", t.epoch, t.member, t.stage)
        });
        let mut text = format!("{tenure}; operation {:?}", agreed.operation);
        for config in &agreed.syncs {
            text.push_str(&format!("; {config}"));
        }
        for (i, member) in self.members.iter().enumerate() {
            let process = member.agent.as_ref().map(|a| format!("{:?}", a.local.process));
            let process = process.map(|p| p.split(", position").next().unwrap_or("").to_owned());
            let log = &member.dir.log;
            text.push_str(&format!(
                "\n{}: {:?}, promised {}, held {}, ended {}, log {}:{}, tree {:?} {:?}, agent {}",
                member.name,
                member.record.data,
                member.record.promised,
                member.record.held,
                member.record.ended,
                log.epoch(),
                log.end,
                member.tree.phase,
                member.tree.role,
                process.unwrap_or_else(|| "none".to_owned()),
            ));
            if let Some(agent) = &member.agent
                && let Some(work) = &agent.work
            {
                text.push_str(&format!(" at {:?} stage {}", work.task, work.stage));
            }
            if !self.machines[i].up {
                text.push_str(" (no power)");
            }
        }
        if let Some(c) = self.raft_leader()
            && let Some(findings) = self.findings(c)
        {
            text.push_str(&format!("\nthe planner finds: {findings}"));
        }
        text
    }
}
