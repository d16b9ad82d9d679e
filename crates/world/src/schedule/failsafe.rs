//! Plans in which primaries are kept by their peers: controllers on machines of their own, and
//! failsafe in the specification.
//!
//! Owns these machines, what the profile insists on, and sequences of faults that take the
//! controllers away from members, or from one of them. Imports the vocabulary of faults and the plan.

use super::fault::{Fault, Kind};
use super::operation::Act;
use super::plan::{Controller, MemberPlan, NodePlan, Settings, Topology};
use super::rng::Rng;
use super::scenes::{Scene, Shape, loss_of};
use super::who::{Links, Processes, Traffic, Who};
use crate::domain::state::SynchronousMode;
use crate::domain::types::Tags;

/// How many machines have a controller, and nothing else. They come last.
const CONTROLLERS: usize = 3;

/// What meets failsafe.
pub(super) const SHAPES: &[Shape] = &[
    Shape::ControllersGone,
    Shape::ControllersGone,
    Shape::HolderAside,
    Shape::HolderAside,
    Shape::PeersDivided,
    Shape::PeersDivided,
    Shape::CutOffWithClients,
];

/// Two to four members, and the controllers apart from them.
pub(super) fn topology(rng: &mut Rng) -> Topology {
    let plain = |controller, member: bool| NodePlan {
        controller,
        member: member.then(|| MemberPlan { priority: 0, tags: Tags::default() }),
        clock_ppm: 0,
    };
    let members = *rng.pick(&[2, 3, 3, 3, 4, 4, 4]);
    let mut nodes = vec![plain(Controller::No, true); members];
    nodes.extend(vec![plain(Controller::Voter, false); CONTROLLERS]);
    // It can be asked, and it can be no primary.
    if members > 2
        && rng.percent(25)
        && let Some(member) = nodes[members - 1].member.as_mut()
    {
        match rng.percent(60) {
            true => member.tags.nofailover = true,
            false => member.tags.delay_ms = rng.scale(200, 2000),
        }
    }
    Topology { nodes }
}

/// Failsafe, in most plans with commits that wait for nobody: then whoever runs acknowledges, and
/// whoever is left is promoted.
pub(super) fn adjust(rng: &mut Rng, settings: &mut Settings) {
    settings.workload.rude = true;
    settings.workload.write_every_ms = settings.workload.write_every_ms.min(100);
    let spec = &mut settings.spec;
    spec.failsafe = true;
    if rng.percent(65) {
        spec.synchronous = SynchronousMode::Async;
        spec.write_quorum_min = 0;
        spec.max_lag_bytes = rng.percent(85).then_some(1 << 24);
    }
    if rng.percent(30) {
        spec.timing.clock_error_ppm = 100_000;
    }
}

/// A member that begins late is no peer of the first epoch; in some plans it is left with the
/// controllers while all of the peers are with the holder.
pub(super) fn latecomer(rng: &mut Rng, topology: &Topology, settings: &mut Settings) -> Scene {
    let members = topology.members();
    let scene = Scene::default();
    let Some(last) = members.last().copied().filter(|_| members.len() > 3) else { return scene };
    if rng.percent(30) {
        return scene;
    }
    settings.spec.bootstrap_members.retain(|m| *m != Topology::member_name(last));
    let node = Who::Node(last);
    let late = Fault::at(0, Kind::CrashDaemon { node }).lasting(rng.between(3000, 5000));
    let scene = scene.fault(late);
    if rng.percent(40) {
        return scene;
    }
    let left = members.iter().filter(|n| **n != last).map(|n| Who::Node(*n)).collect();
    let mut right = controllers(topology.nodes.len());
    right.push(node);
    let kind = Kind::Split { left, right };
    let (at, length) = (rng.between(8000, 11_000), rng.between(5000, 14_000));
    scene.fault(Fault::at(at, kind).lasting(length))
}

fn controllers(nodes: usize) -> Vec<Who> {
    (nodes.saturating_sub(CONTROLLERS)..nodes).map(Who::Node).collect()
}

/// Something that happens to a peer, or to the holder, while promises are what keeps it.
fn meanwhile(rng: &mut Rng, s: Scene, at: u64, length: u64) -> Scene {
    let when = at + rng.below(length.min(6000));
    let peer = Who::Standby(rng.index(3));
    let short = rng.scale(50, 3000);
    let fault = match rng.below(8) {
        // What it has promised is forgotten.
        0..=2 => Fault::at(at + rng.between(1400, 3200), Kind::CrashDaemon { node: peer })
            .lasting(rng.scale(20, 400)),
        3 => {
            let links = Links { from: vec![Who::Holder], to: vec![peer], traffic: Traffic::All };
            Fault::at(when, Kind::Cut { links }).lasting(short)
        }
        4 => {
            let node = *rng.pick(&[Who::Holder, peer]);
            Fault::at(when, Kind::Pause { node, processes: Processes::Daemon }).lasting(short)
        }
        5 => {
            Fault::at(when, Kind::Suspend { node: *rng.pick(&[Who::Holder, peer]) }).lasting(short)
        }
        6 => Fault::at(when, Kind::CrashDaemon { node: Who::Holder }).lasting(short),
        _ => {
            let node = *rng.pick(&[Who::Holder, peer]);
            let (kind, down) = loss_of(rng, node);
            Fault::at(when, kind).lasting(down)
        }
    };
    s.fault(fault)
}

/// A scene of one of the shapes that are here.
pub(super) fn scene(rng: &mut Rng, shape: Shape, at: u64, nodes: usize) -> Scene {
    let mut s = Scene::default();
    let length = rng.between(3000, 16_000);
    let controllers = controllers(nodes);
    // Whoever has just become primary has other peers than the one before.
    let mut begin = at;
    if rng.percent(35) {
        s = s.act(at, None, Act::Switchover { target: Who::Standby(rng.index(3)) });
        begin += rng.between(1500, 4000);
    }
    match shape {
        Shape::ControllersGone => {
            let all = rng.percent(60);
            let gone = if all { controllers.len() } else { controllers.len() / 2 + 1 };
            for node in controllers.into_iter().take(gone) {
                let kind = match rng.below(3) {
                    0 => Kind::CrashMachine { node, torn: rng.percent(30) },
                    1 => Kind::CrashDaemon { node },
                    _ => Kind::Isolate { node, clients: false },
                };
                s = s.fault(Fault::at(begin + rng.below(300), kind).lasting(length));
            }
        }
        Shape::HolderAside => {
            // Its peers hear both.
            let kind = Kind::Split { left: vec![Who::Holder], right: controllers };
            s = s.fault(Fault::at(begin, kind).lasting(length));
        }
        _ => {
            // Some of the peers are with the holder, the others with the controllers.
            let standbys = nodes.saturating_sub(CONTROLLERS + 1);
            let with = rng.between(1, standbys.saturating_sub(1).max(1) as u64) as usize;
            let (mut left, mut right) = (vec![Who::Holder], controllers);
            for n in 0..standbys {
                let side = if n < with { &mut left } else { &mut right };
                side.push(Who::Standby(n));
            }
            let kind = Kind::Split { left, right };
            s = s.fault(Fault::at(begin, kind).lasting(length));
        }
    }
    if rng.percent(70) {
        s = meanwhile(rng, s, begin, length);
    }
    s
}
