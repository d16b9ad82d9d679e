//! Draws a plan from a seed.
//!
//! Owns the machines and settings of a seed, and which families of faults a profile has; `episode`
//! draws the faults. Imports the plan.

use super::episode::{Draw, Family, START_MS, tags};
use super::failsafe;
use super::moments::{CONTROL, DATA, HANDS};
use super::operation::{Act, Operation};
use super::plan::{
    ClockClass, Controller, DiskClass, MemberPlan, NodePlan, Plan, Settings, Topology, Workload,
};
use super::rng::Rng;
use super::scenes::{SHAPES, Scene, Shape};
use super::who::Who;
use crate::domain::state::{ClusterSpec, SynchronousMode};
use crate::domain::types::Tags;

/// What kind of plans are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Everything that clocks within the bound and honest disks allow, and sometimes more.
    All,
    /// No faults: clients, and an operator.
    Calm,
    /// Messages only.
    Network,
    /// Crashes, restarts and pauses.
    Crashes,
    /// Every plan has clocks beyond the bound.
    Clocks,
    /// Every plan has troubled disks; some lie.
    Disks,
    /// Switchovers, failovers, tags and controllers.
    Operator,
    /// Everything, with clients that set their sessions to be writable, and commits that wait for
    /// nobody in most plans.
    Rude,
    /// Everything, with clocks that differ by as much as the specification allows, which is a lot.
    WideClocks,
    /// Everything, with commits that wait for two.
    TwoConfirm,
    /// Everything, with members that others are copied from.
    CloneFrom,
    /// Everything, with five members.
    Five,
    /// The control plane, in the moments that matter: elections, transfers, wiped stores.
    Control,
    /// One controller that does not lead, and nothing else.
    Follower,
    /// What was confirmed, by whom, and who is lost then.
    Data,
    /// Restarts, copies and pauses that an operator asks for, while members come and go.
    Jobs,
    /// Members that are removed and come back, while others fail.
    Members,
    /// Controllers apart from members, failsafe, and controllers that are gone.
    Failsafe,
}

impl Profile {
    /// All profiles by name.
    pub const ALL: &[(&str, Profile)] = &[
        ("all", Profile::All),
        ("calm", Profile::Calm),
        ("network", Profile::Network),
        ("crashes", Profile::Crashes),
        ("clocks", Profile::Clocks),
        ("disks", Profile::Disks),
        ("operator", Profile::Operator),
        ("rude", Profile::Rude),
        ("wide-clocks", Profile::WideClocks),
        ("two-confirm", Profile::TwoConfirm),
        ("clone-from", Profile::CloneFrom),
        ("five", Profile::Five),
        ("control", Profile::Control),
        ("follower", Profile::Follower),
        ("data", Profile::Data),
        ("jobs", Profile::Jobs),
        ("members", Profile::Members),
        ("failsafe", Profile::Failsafe),
    ];

    /// The profile of a name.
    pub fn named(name: &str) -> Option<Profile> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, profile)| *profile)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, p)| *p == self).map_or("", |(name, _)| name)
    }

    pub(super) fn families(self) -> &'static [Family] {
        use Family::*;
        match self {
            Profile::All | Profile::Five => &[
                Lossy,
                Late,
                Cuts,
                Partitions,
                Daemons,
                Machines,
                Postgres,
                Pauses,
                Clocks,
                Disks,
                Wipes,
                Senders,
                Operator,
                Controllers,
                Scenes,
                Scenes,
            ],
            Profile::Calm => &[Operator],
            Profile::Network => &[Lossy, Late, Cuts, Partitions],
            Profile::Crashes => &[Daemons, Machines, Postgres, Pauses, Scenes],
            Profile::Clocks => &[Clocks, Pauses, Cuts, Partitions, Scenes],
            Profile::Disks => &[Disks, Machines, Daemons, Wipes, Scenes],
            Profile::Operator => &[Operator, Controllers, Postgres, Scenes],
            Profile::Rude | Profile::WideClocks => {
                &[Scenes, Scenes, Scenes, Cuts, Daemons, Postgres, Pauses, Operator]
            }
            Profile::Control => &[Scenes, Scenes, Scenes, Controllers],
            Profile::Follower => &[Follower],
            Profile::Failsafe => {
                &[Scenes, Scenes, Scenes, Scenes, Scenes, Cuts, Daemons, Members, Operator]
            }
            Profile::Jobs => &[Jobs, Jobs, Jobs, Operator, Postgres, Machines, Daemons, Cuts],
            Profile::Members => {
                &[Members, Members, Members, Operator, Jobs, Postgres, Machines, Daemons, Cuts]
            }
            Profile::Data | Profile::TwoConfirm | Profile::CloneFrom => {
                &[Scenes, Scenes, Scenes, Cuts, Machines, Senders]
            }
        }
    }

    fn shapes(self) -> &'static [Shape] {
        match self {
            Profile::Control => CONTROL,
            Profile::Failsafe => failsafe::SHAPES,
            Profile::Rude | Profile::WideClocks => HANDS,
            Profile::Data | Profile::CloneFrom | Profile::TwoConfirm => DATA,
            _ => SHAPES,
        }
    }
}

/// Bound of the heal phase.
const HEAL_MS: u64 = 120_000;

/// The plan of a seed. The same for ever: a change of this function changes what seeds mean, which
/// is why plans that failed are kept as text.
pub fn generate(seed: u64, profile: Profile) -> Plan {
    let mut rng = Rng::new(seed, 1);
    let beyond = match profile {
        Profile::Clocks => true,
        Profile::All => rng.percent(8),
        _ => false,
    };
    let lying = match profile {
        Profile::Disks => rng.percent(30),
        Profile::All => rng.percent(4),
        _ => false,
    };
    let mut topology = match profile {
        Profile::Failsafe => failsafe::topology(&mut rng),
        _ => topology(&mut rng, profile),
    };
    let mut settings = settings(&mut rng, &topology, beyond, lying);
    adjust(&mut rng, profile, &mut topology, &mut settings);
    let first = match profile {
        Profile::Failsafe => failsafe::latecomer(&mut rng, &topology, &mut settings),
        _ => Scene::default(),
    };
    let horizon_ms = START_MS + rng.scale(15_000, 90_000);
    let mut draw = Draw { rng, topology, settings, horizon_ms, out: Default::default(), wiped: 0 };
    draw.out = (first.faults, first.operations);
    draw.clocks();
    draw.fill(profile.families(), profile.shapes());
    let Draw { topology, settings, out: (mut faults, mut operations), .. } = draw;
    if profile == Profile::Follower {
        let what = Act::TransferLeadership { to: Who::Node(0) };
        operations.push(Operation { at_ms: START_MS - 2000, on: None, what });
        faults.iter_mut().for_each(|f| f.at_ms = f.at_ms.max(START_MS));
    }
    faults.retain(|f| f.at_ms < horizon_ms);
    operations.retain(|o| o.at_ms < horizon_ms);
    faults.sort_by_key(|f| f.at_ms);
    operations.sort_by_key(|o| o.at_ms);
    Plan { seed, horizon_ms, heal_ms: HEAL_MS, topology, settings, faults, operations }
}

/// What a profile insists on.
fn adjust(rng: &mut Rng, profile: Profile, topology: &mut Topology, settings: &mut Settings) {
    let spec = &mut settings.spec;
    if profile.shapes() != SHAPES {
        // Many crashes, each of which has to be followed by a failover.
        spec.crash_failovers_max = 1000;
    }
    match profile {
        Profile::Rude | Profile::WideClocks => {
            settings.workload.rude = true;
            settings.workload.write_every_ms = settings.workload.write_every_ms.min(80);
            if rng.percent(70) {
                spec.synchronous = SynchronousMode::Async;
                spec.write_quorum_min = 0;
                // Else only who has everything is ever promoted.
                spec.max_lag_bytes = rng.percent(80).then_some(1 << 24);
            }
            if profile == Profile::WideClocks {
                spec.timing.clock_error_ppm = 100_000;
            }
        }
        Profile::Failsafe => failsafe::adjust(rng, settings),
        Profile::Follower => {
            spec.synchronous = SynchronousMode::Quorum;
            spec.write_quorum = 1;
            spec.write_quorum_min = 1;
        }
        Profile::Data => {
            settings.workload.write_every_ms = settings.workload.write_every_ms.min(120);
            spec.shrink_after_ms = spec.shrink_after_ms.min(rng.between(1000, 2000));
        }
        Profile::TwoConfirm => {
            spec.synchronous = SynchronousMode::Quorum;
            spec.write_quorum = 2;
            spec.write_quorum_min = spec.write_quorum_min.clamp(1, 2);
        }
        Profile::CloneFrom => {
            for member in topology.nodes.iter_mut().filter_map(|n| n.member.as_mut()) {
                member.tags.clonefrom = rng.percent(60);
            }
        }
        _ => {}
    }
}

fn topology(rng: &mut Rng, profile: Profile) -> Topology {
    let plain = |controller, member: bool| NodePlan {
        controller,
        member: member.then(|| MemberPlan { priority: 0, tags: Tags::default() }),
        clock_ppm: 0,
    };
    let (votes, none) = (Controller::Voter, Controller::No);
    let drawn = match profile {
        Profile::Five => 15,
        Profile::Control | Profile::Follower => 0,
        Profile::TwoConfirm | Profile::CloneFrom | Profile::Data => *rng.pick(&[0, 0, 0, 15, 17]),
        _ => rng.below(20),
    };
    let mut nodes = match drawn {
        // Three nodes with all roles is the default.
        0..=11 => vec![plain(votes, true); 3],
        // Two members and a witness.
        12..=14 => vec![plain(votes, true), plain(votes, true), plain(votes, false)],
        15..=16 => vec![plain(votes, true); 5],
        // A member without a controller.
        17 => [vec![plain(votes, true); 3], vec![plain(none, true)]].concat(),
        18 => [vec![plain(votes, true); 3], vec![plain(Controller::Spare, false)]].concat(),
        _ => [vec![plain(votes, true); 4], vec![plain(votes, false)]].concat(),
    };
    for node in &mut nodes {
        if let Some(member) = &mut node.member
            && rng.percent(15)
        {
            member.priority = rng.between_signed(-5, 5) as i32;
        }
    }
    // A tag on the last member, so that enough others can lead.
    let members = nodes.iter().filter(|n| n.member.is_some()).count();
    if members > 2
        && rng.percent(15)
        && let Some(last) = nodes.iter().rposition(|n| n.member.is_some())
        && let Some(member) = &mut nodes[last].member
    {
        member.tags = tags(rng, last);
    }
    Topology { nodes }
}

fn settings(rng: &mut Rng, topology: &Topology, beyond: bool, lying: bool) -> Settings {
    let members = topology.members();
    let mut spec = ClusterSpec::of(members.iter().map(|n| Topology::member_name(*n)).collect());
    if members.len() > 2 {
        match rng.below(10) {
            0 => spec.synchronous = SynchronousMode::Priority,
            1 => spec.synchronous = SynchronousMode::Async,
            _ => {}
        }
    }
    if spec.synchronous == SynchronousMode::Async {
        spec.write_quorum_min = 0;
        if rng.percent(50) {
            spec.max_lag_bytes = Some(rng.scale(1 << 10, 1 << 24));
        }
    } else if members.len() > 2 {
        spec.write_quorum = if rng.percent(15) { 2 } else { 1 };
        let least = u64::from(rng.percent(85));
        spec.write_quorum_min = rng.between(least, u64::from(spec.write_quorum)) as u32;
    }
    // Otherwise a run is over before the configuration shrinks.
    spec.shrink_after_ms = rng.scale(1000, 10_000);
    let mut workload = Workload { write_every_ms: rng.scale(30, 600), ..Workload::default() };
    workload.held_writers = rng.between(0, 3) as u32;
    workload.fresh_writers = rng.between(1, 2) as u32;
    workload.read_every_ms = rng.scale(200, 1500);
    workload.rude = rng.percent(30);
    let latency_us_min = rng.scale(50, 2000);
    Settings {
        clocks: if beyond { ClockClass::BeyondBound } else { ClockClass::WithinBound },
        disks: if lying { DiskClass::Lying } else { DiskClass::Honest },
        latency_us_min,
        latency_us_max: latency_us_min * rng.between(1, 8),
        sync_us_max: rng.scale(100, 12_000),
        snapshot_entries: if rng.percent(40) { rng.scale(10, 400) } else { 2000 },
        keep_entries: if rng.percent(40) { rng.scale(5, 200) } else { 5000 },
        workload,
        spec,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_plan_makes_sense_and_is_the_same_again() {
        for (name, profile) in Profile::ALL {
            assert_eq!(Profile::named(name), Some(*profile));
            assert_eq!(profile.name(), *name);
            for seed in 0..500 {
                let plan = generate(seed, *profile);
                assert_eq!(plan.problem(), None, "seed {seed}, profile {name}");
                assert_eq!(plan, generate(seed, *profile));
            }
        }
    }

    #[test]
    fn every_kind_is_drawn_and_plans_differ() {
        let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
        let mut heal = 0;
        for seed in 0..2000 {
            let plan = generate(seed, Profile::All);
            heal += u32::from(plan.guarantees().heals);
            for fault in &plan.faults {
                *kinds.entry(fault.what.name()).or_default() += 1;
            }
            for operation in &plan.operations {
                let value = serde_json::to_value(&operation.what).unwrap();
                let name = value.as_object().unwrap().keys().next().unwrap().clone();
                *kinds.entry(name).or_default() += 1;
            }
        }
        for name in [
            "loss",
            "delay",
            "duplicate",
            "reorder",
            "cut",
            "isolate",
            "split",
            "ring",
            "cut_clients",
            "crash_daemon",
            "crash_machine",
            "kill_postmaster",
            "crash_backend",
            "kill_guard",
            "stop_by_hand",
            "pause",
            "suspend",
            "clock_rate",
            "wall_step",
            "boot_jump",
            "freeze",
            "slow_disk",
            "stuck_disk",
            "failing_disk",
            "full_disk",
            "lying_disk",
            "wipe_disk",
            "stuck_walsender",
            "stuck_replay",
            "switchover",
            "failover",
            "retag",
            "restart_daemon",
            "transfer_leadership",
            "add_controller",
            "remove_controller",
            "replace_controller",
        ] {
            assert!(kinds.get(name).is_some_and(|n| *n >= 10), "{name}: {kinds:?}");
        }
        assert!(heal > 1500, "liveness is judged in {heal} of 2000 only");
    }

    #[test]
    fn a_plan_says_what_may_be_asked_of_it() {
        let plan = |clocks, disks| {
            let mut plan = generate(1, Profile::Calm);
            plan.settings.clocks = clocks;
            plan.settings.disks = disks;
            plan.guarantees()
        };
        let all = plan(ClockClass::WithinBound, DiskClass::Honest);
        assert!(all.one_writer && all.durable && all.heals && all.agreed);
        let clocks = plan(ClockClass::BeyondBound, DiskClass::Honest);
        assert!(!clocks.one_writer && clocks.durable && clocks.heals && clocks.agreed);
        assert!(!plan(ClockClass::WithinBound, DiskClass::Lying).durable);
    }
}
