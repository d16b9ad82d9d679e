//! Draws a plan from a seed.
//!
//! Owns which families of faults a seed has: each seed enables a random part of them, with a random
//! intensity (Groce and others, "Swarm testing", 2012). A run with everything at once rarely gets
//! far enough for anything deep to happen. Imports the vocabulary, the plan and the scenes.

use super::fault::{
    Act, Disk, Event, Fault, Kind, Links, Node, Operation, Processes, Traffic, Trigger, Who, Wipe,
};
use super::plan::{
    ClockClass, Controller, DiskClass, MemberPlan, NodePlan, Plan, Settings, Topology, Workload,
};
use super::rng::Rng;
use super::scenes::{SHAPES, Shape, scene};
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
    ];

    /// The profile of a name.
    pub fn named(name: &str) -> Option<Profile> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, profile)| *profile)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, p)| *p == self).map_or("", |(name, _)| name)
    }

    fn families(self) -> &'static [Family] {
        use Family::*;
        match self {
            Profile::All => &[
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
        }
    }
}

/// Kinds of faults that are drawn, or not, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
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
}

/// How long a fault lasts at most.
const LONGEST_MS: u64 = 25_000;
/// The first faults come after a healthy start, most of the time.
const START_MS: u64 = 8000;
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
    let topology = topology(&mut rng);
    let settings = settings(&mut rng, &topology, beyond, lying);
    let horizon_ms = START_MS + rng.scale(15_000, 90_000);
    let mut draw = Draw { rng, topology, settings, horizon_ms, out: Default::default(), wiped: 0 };
    draw.clocks();
    draw.fill(profile);
    let Draw { topology, settings, out: (mut faults, mut operations), .. } = draw;
    faults.retain(|f| f.at_ms < horizon_ms);
    operations.retain(|o| o.at_ms < horizon_ms);
    faults.sort_by_key(|f| f.at_ms);
    operations.sort_by_key(|o| o.at_ms);
    Plan { seed, horizon_ms, heal_ms: HEAL_MS, topology, settings, faults, operations }
}

fn topology(rng: &mut Rng) -> Topology {
    let plain = |controller, member: bool| NodePlan {
        controller,
        member: member.then(|| MemberPlan { priority: 0, tags: Tags::default() }),
        clock_ppm: 0,
    };
    let (votes, none) = (Controller::Voter, Controller::No);
    let mut nodes = match rng.below(20) {
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
        && let Some(member) = nodes.iter_mut().rev().find_map(|n| n.member.as_mut())
    {
        member.tags = tags(rng);
    }
    Topology { nodes }
}

fn tags(rng: &mut Rng) -> Tags {
    let mut tags = Tags::default();
    match rng.below(5) {
        0 => tags.nofailover = true,
        1 => tags.nosync = true,
        2 => tags.delay_ms = rng.scale(200, 3000),
        3 => tags.replicatefrom = Some(Topology::member_name(1)),
        _ => {}
    }
    tags
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
    let mut workload = Workload { write_every_ms: rng.scale(20, 200), ..Workload::default() };
    workload.held_writers = rng.between(0, 3) as u32;
    workload.fresh_writers = rng.between(1, 2) as u32;
    workload.read_every_ms = rng.scale(100, 1000);
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

struct Draw {
    rng: Rng,
    topology: Topology,
    settings: Settings,
    horizon_ms: u64,
    out: (Vec<Fault>, Vec<Operation>),
    wiped: u32,
}

impl Draw {
    /// Rates that clocks have from the beginning.
    fn clocks(&mut self) {
        let bound = self.settings.spec.timing.clock_error_ppm as i64;
        let beyond = self.settings.clocks == ClockClass::BeyondBound;
        // Real clocks differ by some ppm; the worst case is at both ends of the bound.
        let skewed = self.rng.percent(50);
        for node in &mut self.topology.nodes {
            node.clock_ppm = match (skewed, beyond && self.rng.percent(40)) {
                (_, true) => self.rng.between_signed(-40 * bound, 40 * bound),
                (true, false) if self.rng.percent(60) => *self.rng.pick(&[-bound, bound]),
                (true, false) => self.rng.between_signed(-bound, bound),
                (false, false) => self.rng.between_signed(-50, 50),
            };
        }
    }

    fn fill(&mut self, profile: Profile) {
        let all = profile.families();
        let chance = self.rng.between(15, 60);
        let mut families: Vec<Family> = Vec::new();
        families.extend(all.iter().filter(|_| self.rng.percent(chance)));
        if families.is_empty() {
            families.push(*self.rng.pick(all));
        }
        let mut shapes: Vec<Shape> = Vec::new();
        shapes.extend(SHAPES.iter().filter(|_| self.rng.percent(30)));
        if shapes.is_empty() {
            shapes.push(*self.rng.pick(SHAPES));
        }
        // Between episodes: from a storm to what leaves time to heal.
        let gap = self.rng.scale(600, 12_000);
        let mut at = if self.rng.percent(85) { START_MS } else { self.rng.below(START_MS) };
        at += self.rng.below(2000);
        while at < self.horizon_ms {
            for _ in 0..1 + u64::from(self.rng.percent(25)) {
                let family = *self.rng.pick(&families);
                let begin = at + self.rng.below(300);
                self.episode(family, &shapes, begin);
            }
            at += gap / 2 + self.rng.below(gap);
        }
    }

    fn who(&mut self) -> Who {
        match self.rng.below(10) {
            0..=3 => Who::Holder,
            4 => Who::Leader,
            5 => Who::Standby(self.rng.index(4)),
            6 => Who::Follower(self.rng.index(4)),
            _ => Who::Node(self.rng.index(self.topology.nodes.len())),
        }
    }

    fn links(&mut self) -> Links {
        let traffic = match self.rng.below(6) {
            0 => Traffic::Raft,
            1 => Traffic::Session,
            2 => Traffic::Replication,
            _ => Traffic::All,
        };
        let mut links = Links { from: vec![], to: vec![], traffic };
        if self.rng.percent(60) {
            links.from = vec![self.who()];
        }
        if self.rng.percent(40) {
            links.to = vec![self.who()];
        }
        links
    }

    fn disk(&mut self) -> Disk {
        *self.rng.pick(&[Disk::Raft, Disk::Data, Disk::Both])
    }

    fn push(&mut self, at: u64, length: u64, what: Kind) {
        self.out.0.push(Fault::at(at, what).lasting(length.min(LONGEST_MS)));
    }

    fn instant(&mut self, at: u64, what: Kind) {
        self.out.0.push(Fault::at(at, what));
    }

    fn act(&mut self, at_ms: u64, what: Act) {
        self.out.1.push(Operation { at_ms, on: None, what });
    }

    fn episode(&mut self, family: Family, shapes: &[Shape], at: u64) {
        let length = self.rng.scale(150, 16_000);
        match family {
            Family::Lossy => self.lossy(at, length),
            Family::Late => {
                let links = self.links();
                let kind = match self.rng.percent(75) {
                    true => Kind::Delay {
                        links,
                        add_ms: self.rng.scale(1, 1200),
                        jitter_ms: self.rng.scale(1, 2000),
                    },
                    false => Kind::Reorder {
                        links,
                        permille: self.rng.between(10, 500) as u32,
                        by_ms: self.rng.scale(5, 4000),
                    },
                };
                self.push(at, length, kind);
            }
            Family::Cuts => {
                let mut links = self.links();
                if links.from.is_empty() && links.to.is_empty() {
                    links.from = vec![self.who()];
                }
                self.push(at, length, Kind::Cut { links });
            }
            Family::Partitions => self.partition(at, length),
            Family::Daemons => {
                let node = self.who();
                self.push(at, length, Kind::CrashDaemon { node });
            }
            Family::Machines => {
                let node = self.who();
                let torn = self.rng.percent(40);
                self.push(at, length, Kind::CrashMachine { node, torn });
            }
            Family::Postgres => self.postgres(at),
            Family::Pauses => {
                let node = self.who();
                let processes = *self.rng.pick(&[
                    Processes::Daemon,
                    Processes::Guard,
                    Processes::Postmaster,
                    Processes::Postgres,
                    Processes::All,
                ]);
                let suspend = self.rng.percent(30);
                let kind = match suspend {
                    true => Kind::Suspend { node },
                    false => Kind::Pause { node, processes },
                };
                self.push(at, length, kind);
            }
            Family::Clocks => self.clock(at, length),
            Family::Disks => self.disks(at, length),
            Family::Wipes => self.wipe(at, length),
            Family::Senders => {
                let node = self.who();
                let to = self.rng.percent(60).then(|| Who::Standby(self.rng.index(3)));
                let kind = match self.rng.percent(60) {
                    true => Kind::StuckWalsender { node: Who::Holder, to },
                    false => Kind::StuckReplay { node },
                };
                self.push(at, length, kind);
            }
            Family::Operator => self.operator(at),
            Family::Controllers => self.controllers(at),
            Family::Scenes => {
                let shape = *self.rng.pick(shapes);
                let nodes = self.topology.nodes.len();
                let scene = scene(&mut self.rng, shape, at, nodes);
                self.out.0.extend(scene.faults);
                self.out.1.extend(scene.operations);
            }
        }
    }

    fn lossy(&mut self, at: u64, length: u64) {
        let links = self.links();
        let permille = self.rng.scale(5, 700) as u32;
        let kind = match self.rng.percent(70) {
            true => Kind::Loss { links, permille },
            false => Kind::Duplicate { links, permille },
        };
        self.push(at, length, kind);
    }

    fn partition(&mut self, at: u64, length: u64) {
        let nodes = self.topology.nodes.len();
        let mut order: Vec<Node> = (0..nodes).collect();
        for i in (1..nodes).rev() {
            order.swap(i, self.rng.index(i + 1));
        }
        let named = |side: &[Node]| side.iter().map(|n| Who::Node(*n)).collect::<Vec<_>>();
        let kind = match self.rng.below(8) {
            0..=2 => {
                let node = self.who();
                Kind::Isolate { node, clients: self.rng.percent(40) }
            }
            3 | 4 => {
                let cut = 1 + self.rng.index(nodes - 1);
                Kind::Split { left: named(&order[..cut]), right: named(&order[cut..]) }
            }
            // One node hears both sides.
            5 => {
                let cut = 1 + self.rng.index(nodes - 2);
                Kind::Split { left: named(&order[..cut]), right: named(&order[cut + 1..]) }
            }
            6 => Kind::Ring,
            _ => Kind::CutClients { node: self.who() },
        };
        self.push(at, length, kind);
    }

    fn postgres(&mut self, at: u64) {
        let node = match self.rng.percent(70) {
            true => Who::Holder,
            false => self.who(),
        };
        let kind = match self.rng.below(5) {
            0 | 1 => Kind::KillPostmaster { node, orphans_ms: self.rng.scale(100, 15_000) },
            2 => Kind::CrashBackend { node },
            3 => Kind::KillGuard { node },
            _ => Kind::StopByHand { node },
        };
        self.instant(at, kind);
    }

    fn clock(&mut self, at: u64, length: u64) {
        let node = self.who();
        let bound = self.settings.spec.timing.clock_error_ppm as i64;
        let beyond = self.settings.clocks == ClockClass::BeyondBound;
        match self.rng.below(6) {
            0 => {
                let by_ms = self.rng.between_signed(-86_400_000, 86_400_000);
                self.instant(at, Kind::WallStep { node, by_ms });
            }
            1 | 2 if beyond => self.push(at, length, Kind::Freeze { node }),
            3 if beyond => {
                let by_ms = self.rng.scale(200, 20_000);
                self.instant(at, Kind::BootJump { node, by_ms });
            }
            _ => {
                let most = if beyond { 60 * bound } else { bound };
                let ppm = match self.rng.percent(60) {
                    true => *self.rng.pick(&[-most.min(900_000), most]),
                    false => self.rng.between_signed(-most.min(900_000), most),
                };
                self.push(at, length, Kind::ClockRate { node, ppm });
            }
        }
    }

    fn disks(&mut self, at: u64, length: u64) {
        let node = self.who();
        let disk = self.disk();
        if self.settings.disks == DiskClass::Lying && self.rng.percent(50) {
            self.push(at, length, Kind::LyingDisk { node, disk });
            if self.rng.percent(60) {
                let late = at + self.rng.below(length + 1);
                let torn = self.rng.percent(50);
                let down = self.rng.scale(300, 8000);
                self.push(late, down, Kind::CrashMachine { node, torn });
            }
            return;
        }
        let kind = match self.rng.below(8) {
            0..=3 => Kind::SlowDisk { node, disk, sync_ms: self.rng.scale(5, 3000) },
            4 | 5 => Kind::StuckDisk { node, disk },
            6 => Kind::FailingDisk { node, disk },
            _ => Kind::FullDisk { node, disk },
        };
        self.push(at, length, kind);
    }

    /// At most one machine loses its data in a plan: losing two may lose every copy of what was
    /// acknowledged, and nothing could be asked of such a run.
    fn wipe(&mut self, at: u64, length: u64) {
        if self.wiped > 0 {
            return self.push(at, length, Kind::CrashMachine { node: Who::Standby(0), torn: true });
        }
        self.wiped += 1;
        let node = Who::Node(self.rng.index(self.topology.nodes.len()));
        let what =
            *self.rng.pick(&[Wipe::Data, Wipe::Data, Wipe::Member, Wipe::Raft, Wipe::Machine]);
        self.push(at, length, Kind::WipeDisk { node, what });
        if matches!(what, Wipe::Raft | Wipe::Machine) {
            let late = at + length + self.rng.scale(500, 8000);
            self.act(late.min(self.horizon_ms - 1), Act::ReplaceController { node });
        }
    }

    fn operator(&mut self, at: u64) {
        let what = match self.rng.below(12) {
            0..=5 => Act::Switchover { target: Who::Standby(self.rng.index(4)) },
            6 | 7 => {
                let target = self.rng.percent(40).then(|| Who::Standby(self.rng.index(4)));
                Act::Failover { target, accept_data_loss: self.rng.percent(20) }
            }
            8 => {
                let node = Who::Node(*self.rng.pick(&self.topology.members()));
                Act::Retag { node, tags: tags(&mut self.rng) }
            }
            _ => Act::RestartDaemon { node: self.who() },
        };
        // While a takeover is under way, too.
        let on = self.rng.percent(20).then(|| {
            let event = *self.rng.pick(&[Event::Closed, Event::Granted, Event::Active]);
            Trigger { event, after_ms: self.rng.scale(1, 500) }
        });
        self.out.1.push(Operation { at_ms: at, on, what });
    }

    fn controllers(&mut self, at: u64) {
        let spares = (0..self.topology.nodes.len())
            .filter(|n| self.topology.nodes[*n].controller == Controller::Spare);
        let spares: Vec<Node> = spares.collect();
        let what = match (self.rng.below(3), spares.first()) {
            (0, Some(node)) => Act::AddController { node: *node },
            (1, Some(node)) => Act::RemoveController { node: Who::Node(*node) },
            _ => Act::TransferLeadership { to: Who::Follower(self.rng.index(4)) },
        };
        self.act(at, what);
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
        assert!(heal > 1800, "liveness is judged in {heal} of 2000 only");
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
