//! One run: faults for a time, checked all the while; then an end of them, and a bound within which
//! the cluster has to come to rest.

use super::clock::Micros;
use super::derive::derive;
use super::last::last_act;
use super::rest::come_to_rest;
use super::schedule::{Fault, Kind, SpecChange};
use super::setup::{Class, Setup};
use super::story::Story;
use super::world::{Broken, Counts, World};
use crate::domain::state::SynchronousMode;

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
    /// Whether only what clients and an operator see is judged, and not the agreed state.
    pub black_box: bool,
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
    world.black_box = job.black_box;
    world.plant(&kept);
    world.run_until(end);
    world.end_all_faults();
    come_to_rest(&mut world, help, &[]);
    last_act(&mut world);
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
