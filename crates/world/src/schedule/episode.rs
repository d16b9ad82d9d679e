//! Draws what goes wrong in a plan.
//!
//! Owns the families of faults. Each seed enables a random part of them, with a random intensity
//! (Groce and others, "Swarm testing", 2012): a run with everything at once rarely gets far enough
//! for anything deep to happen. Imports the vocabulary, the plan and the scenes.

use super::fault::{Fault, Kind};
use super::moments::deaf;
use super::operation::{Act, Event, Operation, Trigger};
use super::plan::{ClockClass, Controller, DiskClass, Settings, Topology};
use super::rng::Rng;
use super::scenes::{Shape, scene};
use super::who::{Disk, Links, Node, Processes, Traffic, Who, Wipe};
use crate::domain::types::Tags;

/// Kinds of faults that are drawn, or not, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
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
    /// Restarts, copies, pauses.
    Jobs,
    /// Members that are removed and come back.
    Members,
    Controllers,
    Scenes,
    /// The controller of one node alone, which does not lead.
    Follower,
}

/// How long a fault lasts at most.
const LONGEST_MS: u64 = 25_000;
/// The first faults come after a healthy start, most of the time.
pub(super) const START_MS: u64 = 8000;
/// Tags of the member of a node.
pub(super) fn tags(rng: &mut Rng, node: Node) -> Tags {
    let mut tags = Tags::default();
    match rng.below(5) {
        0 => tags.nofailover = true,
        1 => tags.nosync = true,
        2 => tags.delay_ms = rng.scale(200, 3000),
        // Nobody follows himself.
        3 => tags.replicatefrom = Some(Topology::member_name(usize::from(node != 1))),
        _ => {}
    }
    tags
}

/// A plan while it is drawn.
pub(super) struct Draw {
    pub(super) rng: Rng,
    pub(super) topology: Topology,
    pub(super) settings: Settings,
    pub(super) horizon_ms: u64,
    pub(super) out: (Vec<Fault>, Vec<Operation>),
    pub(super) wiped: u32,
}

impl Draw {
    /// Rates that clocks have from the beginning.
    pub(super) fn clocks(&mut self) {
        let bound = self.settings.spec.timing.clock_error_ppm as i64;
        let beyond = self.settings.clocks == ClockClass::BeyondBound;
        // Real clocks differ by some ppm; the worst case is at both ends of the bound.
        let skewed = self.rng.percent(50) || bound > 10_000;
        for node in &mut self.topology.nodes {
            node.clock_ppm = match (skewed, beyond && self.rng.percent(40)) {
                (_, true) => self.rng.between_signed(-40 * bound, 40 * bound),
                (true, false) if self.rng.percent(60) => *self.rng.pick(&[-bound, bound]),
                (true, false) => self.rng.between_signed(-bound, bound),
                (false, false) => self.rng.between_signed(-50, 50),
            };
        }
    }

    /// Draws which families this seed has, and then episodes of them up to the horizon.
    pub(super) fn fill(&mut self, all: &[Family], of_profile: &[Shape]) {
        let chance = self.rng.between(15, 60);
        let mut families: Vec<Family> = Vec::new();
        families.extend(all.iter().filter(|_| self.rng.percent(chance)));
        if families.is_empty() {
            families.push(*self.rng.pick(all));
        }
        let mut shapes: Vec<Shape> = Vec::new();
        shapes.extend(of_profile.iter().filter(|_| self.rng.percent(30)));
        if shapes.is_empty() {
            shapes.push(*self.rng.pick(of_profile));
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
            Family::Jobs => self.jobs(at),
            Family::Members => self.members(at),
            Family::Controllers => self.controllers(at),
            Family::Scenes => {
                let mut shape = *self.rng.pick(shapes);
                // At most one store, and one directory, is gone in a plan.
                let wipes = [Shape::StoreWiped, Shape::CopyOfLaggard, Shape::RewoundTooSoon];
                if wipes.contains(&shape) {
                    if self.wiped > 0 {
                        shape = Shape::OneLags;
                    }
                    self.wiped += 1;
                }
                let nodes = self.topology.nodes.len();
                let scene = scene(&mut self.rng, shape, at, nodes);
                self.out.0.extend(scene.faults);
                self.out.1.extend(scene.operations);
            }
            Family::Follower => self.follower(at),
        }
    }

    /// One and the same node in the whole plan, so that nobody else is ever in trouble.
    fn follower(&mut self, at: u64) {
        let node = Who::Node(self.topology.nodes.len() - 1);
        let mut when = at;
        match self.rng.below(6) {
            // It comes and goes: each time it has missed elections, or asked for some.
            0..=2 => {
                let directions = deaf(&mut self.rng, node, Traffic::Raft);
                for i in 0..self.rng.between(2, 8) {
                    // Long enough to ask for some, a moment in which it is heard, and long again.
                    let length = match i % 2 {
                        0 => self.rng.between(700, 2500),
                        _ => self.rng.between(1500, 9000),
                    };
                    for links in &directions {
                        self.push(when, length, Kind::Cut { links: links.clone() });
                    }
                    when += length + self.rng.between(60, 500);
                }
            }
            3 => {
                let permille = self.rng.between(300, 970) as u32;
                let length = self.rng.between(3000, 20_000);
                for links in deaf(&mut self.rng, node, Traffic::Raft) {
                    self.push(at, length, Kind::Loss { links, permille });
                }
            }
            4 => {
                let add_ms = self.rng.between(200, 1500);
                let length = self.rng.between(3000, 20_000);
                for links in deaf(&mut self.rng, node, Traffic::Raft) {
                    self.push(at, length, Kind::Delay { links, add_ms, jitter_ms: add_ms });
                }
            }
            _ => {
                let sync_ms = self.rng.scale(20, 3000);
                let kind = Kind::SlowDisk { node, disk: Disk::Raft, sync_ms };
                let length = self.rng.between(2000, 20_000);
                self.push(at, length, kind);
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
                let node = *self.rng.pick(&self.topology.members());
                Act::Retag { node: Who::Node(node), tags: tags(&mut self.rng, node) }
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

    /// Operations of an operator that restart, copy or pause; also in the middle of a takeover.
    fn jobs(&mut self, at: u64) {
        let what = match self.rng.below(12) {
            0..=2 => Act::Restart { node: Who::Standby(self.rng.index(4)) },
            3 | 4 => Act::Restart { node: Who::Holder },
            5 | 6 => Act::Roll,
            7..=9 => Act::Reinitialise { node: Who::Standby(self.rng.index(4)) },
            _ => Act::Pause { length_ms: self.rng.scale(200, 20_000) },
        };
        let on = self.rng.percent(30).then(|| {
            let events = [Event::Closed, Event::Granted, Event::Active, Event::CopyBegun];
            Trigger { event: *self.rng.pick(&events), after_ms: self.rng.scale(1, 500) }
        });
        self.out.1.push(Operation { at_ms: at, on, what });
    }

    /// Standbys leave, for a moment or for long; also in the middle of a takeover.
    fn members(&mut self, at: u64) {
        let what = Act::Leave {
            node: Who::Standby(self.rng.index(4)),
            away_ms: self.rng.scale(10, 20_000),
        };
        let on = self.rng.percent(30).then(|| {
            let events = [Event::Closed, Event::Granted, Event::Active, Event::CopyBegun];
            Trigger { event: *self.rng.pick(&events), after_ms: self.rng.scale(1, 1500) }
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
