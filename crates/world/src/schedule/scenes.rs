//! Sequences of faults that belong together: each is the shape of something that went wrong
//! somewhere, with the numbers left open.
//!
//! Owns the shapes; `generate` says which are drawn, and when. Imports the vocabulary of faults.

use super::failsafe;
use super::fault::{Fault, Kind};
use super::moments;
use super::operation::{Act, Event, Operation, Trigger};
use super::rng::Rng;
use super::who::{Disk, Links, Processes, Traffic, Who};

/// Something that a plan is put together from.
#[derive(Debug, Default)]
pub struct Scene {
    /// In any order.
    pub faults: Vec<Fault>,
    /// In any order.
    pub operations: Vec<Operation>,
}

impl Scene {
    pub(super) fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    pub(super) fn act(mut self, at_ms: u64, on: Option<(Event, u64)>, what: Act) -> Self {
        let on = on.map(|(event, after_ms)| Trigger { event, after_ms });
        self.operations.push(Operation { at_ms, on, what });
        self
    }
}

/// The shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// The primary is lost, then the candidate at one of the steps of its promotion.
    CandidateDies,
    /// The primary hears nobody any more, and clients still reach it.
    CutOffWithClients,
    /// A standby is cut off until it leaves the configuration; then the primary is lost.
    ShrinkThenCrash,
    /// The configuration is being changed when the primary, or a standby, goes.
    CrashInChange,
    /// Switchovers with something in their way.
    TroubledSwitchover,
    /// The primary is lost together with the leader, or just after an election.
    LeaderToo,
    /// The postmaster is gone and its sessions go on, behind a bad network.
    Orphans,
    /// A process stands still for about as long as a lease runs, and wakes up.
    WakesLate,
    /// Renewals are late, so that leaders change while some are under way.
    LateRenewals,
    /// A member comes back by rewind or copy, and that is interrupted.
    BrokenReturn,
    /// Whoever becomes primary is killed, again and again.
    Chain,
    /// A standby's walsender keeps its configuration through a change.
    StuckSender,
    /// All machines at once.
    PowerLoss,
    /// Controllers restart one after the other while one of them is slow.
    RollingControllers,

    /// Leadership is transferred, and the primary is cut off at once.
    LeaderMoved,
    /// Leadership goes to and fro, and the primary is cut off once it is back.
    LeaderBack,
    /// Primary and leader are on one node, which is cut off, or stands still and is.
    SameNode,
    /// The daemon of the primary stands still over the answer to a renewal, and is cut off.
    LateAnswer,
    /// Machines lose power right after an election, before slow disks have it.
    ForgottenVote,
    /// Machines lose power right after a commit, before slow disks have it.
    ForgottenEntry,
    /// A controller's store is wiped while another has missed what was agreed, and the leader goes.
    StoreWiped,
    /// The daemon of the primary is gone for longer than a lease.
    DaemonGone,
    /// The daemon of a candidate is killed in the middle of its promotion.
    DaemonGoneInPromotion,
    /// A candidate is cut off right when it learns of its grant.
    GranteeCut,
    /// The machine of a primary without a daemon is suspended.
    Sleeper,
    /// The postmaster stands still for good.
    Hung,
    /// One standby has what the other lacks when the primary goes.
    OneLags,
    /// A standby is back just when it is dropped from the configuration, and confirms alone.
    DroppedReturns,
    /// An old primary with much that nobody has is back when its successor is lost.
    OldAndLong,
    /// A successor is lost for good once the old primary was rewound to it.
    RewoundTooSoon,
    /// A backend crashes while commits wait, and then the node goes.
    ShownAgain,
    /// A standby that lags follows a primary that it never reaches.
    FollowerLost,
    /// A standby is copied anew from one that lags.
    CopyOfLaggard,

    /// A majority of the controllers, or all, are gone.
    ControllersGone,
    /// The holder hears no controller; its peers hear both.
    HolderAside,
    /// Some peers are with the holder, the others with the controllers.
    PeersDivided,
}

/// Those that went wrong somewhere; `moments` has the others.
pub const SHAPES: &[Shape] = &[
    Shape::CandidateDies,
    Shape::CutOffWithClients,
    Shape::ShrinkThenCrash,
    Shape::CrashInChange,
    Shape::TroubledSwitchover,
    Shape::LeaderToo,
    Shape::Orphans,
    Shape::WakesLate,
    Shape::LateRenewals,
    Shape::BrokenReturn,
    Shape::Chain,
    Shape::StuckSender,
    Shape::PowerLoss,
    Shape::RollingControllers,
];

/// One way among many to take a server away.
pub fn loss_of(rng: &mut Rng, node: Who) -> (Kind, u64) {
    let down = rng.scale(200, 15_000);
    let kind = match rng.below(8) {
        0 | 1 => Kind::CrashMachine { node, torn: rng.percent(50) },
        2 => Kind::KillGuard { node },
        3 => Kind::KillPostmaster { node, orphans_ms: rng.scale(100, 8000) },
        4 => Kind::CrashBackend { node },
        5 => Kind::Isolate { node, clients: rng.percent(30) },
        6 => Kind::Pause { node, processes: *rng.pick(&[Processes::All, Processes::Postgres]) },
        _ => Kind::Suspend { node },
    };
    (kind, down)
}

/// All steps of a takeover.
const STEPS: &[Event] = &[
    Event::Closed,
    Event::Sealed,
    Event::Granted,
    Event::Promoted,
    Event::Recorded,
    Event::Active,
];

/// Between two nodes, both ways.
pub(super) fn between(a: Who, b: Who, traffic: Traffic) -> [Links; 2] {
    [Links { from: vec![a], to: vec![b], traffic }, Links { from: vec![b], to: vec![a], traffic }]
}

/// A scene of this shape that begins at `at` and takes about `length` milliseconds at most.
pub fn scene(rng: &mut Rng, shape: Shape, at: u64, nodes: usize) -> Scene {
    let mut s = Scene::default();
    match shape {
        Shape::CandidateDies => {
            let (kind, down) = loss_of(rng, Who::Holder);
            s = s.fault(Fault::at(at, kind).lasting(down));
            for _ in 0..rng.between(1, 2) {
                let (kind, down) = loss_of(rng, Who::Holder);
                let event = *rng.pick(STEPS);
                let after = if rng.percent(60) { rng.below(60) } else { rng.below(1500) };
                s = s.fault(Fault::at(at + 1, kind).lasting(down).on(event, after));
            }
        }
        Shape::CutOffWithClients => {
            let length = rng.scale(500, 20_000);
            s = s.fault(
                Fault::at(at, Kind::Isolate { node: Who::Holder, clients: false }).lasting(length),
            );
            if rng.percent(50) {
                let node = *rng.pick(&[Who::Standby(0), Who::Standby(1), Who::Leader]);
                let (kind, down) = loss_of(rng, node);
                s = s.fault(Fault::at(at + rng.below(length), kind).lasting(down));
            }
        }
        Shape::ShrinkThenCrash => {
            let gone = rng.between(1500, 14_000);
            for links in between(Who::Holder, Who::Standby(0), Traffic::Replication) {
                s = s.fault(Fault::at(at, Kind::Cut { links }).lasting(gone + rng.below(4000)));
            }
            if rng.percent(40) {
                let (kind, down) = loss_of(rng, Who::Standby(1));
                s = s.fault(Fault::at(at + rng.below(gone), kind).lasting(down));
            }
            let (kind, down) = loss_of(rng, Who::Holder);
            s = s.fault(Fault::at(at + gone, kind).lasting(down));
        }
        Shape::CrashInChange => {
            let gone = rng.scale(1000, 12_000);
            let who = Who::Standby(rng.index(2));
            let kind = Kind::CrashMachine { node: who, torn: rng.percent(30) };
            s = s.fault(Fault::at(at, kind).lasting(gone));
            let event =
                *rng.pick(&[Event::SyncChangeBegun, Event::SyncChangeEnded, Event::Streams]);
            let hit = *rng.pick(&[Who::Holder, Who::Holder, Who::Leader, Who::Standby(0)]);
            let (kind, down) = loss_of(rng, hit);
            s = s.fault(Fault::at(at, kind).lasting(down).on(event, rng.scale(1, 400) - 1));
        }
        Shape::TroubledSwitchover => {
            let target = Who::Standby(rng.index(2));
            s = s.act(at, None, Act::Switchover { target });
            if rng.percent(75) {
                let hit = *rng.pick(&[Who::Holder, target, Who::Leader, Who::Standby(1)]);
                let (kind, down) = loss_of(rng, hit);
                let event = *rng.pick(&[
                    Event::HandOver,
                    Event::Closed,
                    Event::Granted,
                    Event::Promoted,
                    Event::Recorded,
                    Event::Active,
                ]);
                s = s.fault(Fault::at(at, kind).lasting(down).on(event, rng.scale(1, 1000) - 1));
            }
        }
        Shape::LeaderToo => {
            let (kind, down) = loss_of(rng, Who::Holder);
            s = s.fault(Fault::at(at, kind).lasting(down));
            let node = Who::Leader;
            let kind = match rng.below(4) {
                0 => Kind::CrashDaemon { node },
                1 => Kind::CrashMachine { node, torn: rng.percent(50) },
                2 => Kind::Pause { node, processes: Processes::Daemon },
                _ => Kind::Isolate { node, clients: false },
            };
            let fault = Fault::at(at.saturating_sub(rng.below(400)), kind);
            let fault = fault.lasting(rng.scale(200, 10_000));
            let waits = rng.percent(50);
            let event = *rng.pick(&[Event::Closed, Event::Granted, Event::Elected]);
            s = s.fault(if waits { fault.on(event, rng.scale(1, 500) - 1) } else { fault });
        }
        Shape::Orphans => {
            let node = Who::Holder;
            let orphans_ms = rng.between(2000, 20_000);
            s = s.fault(Fault::at(at, Kind::KillPostmaster { node, orphans_ms }));
            let kind = match rng.below(3) {
                0 => Kind::Isolate { node, clients: false },
                1 => Kind::Pause { node, processes: Processes::Daemon },
                _ => Kind::CrashDaemon { node },
            };
            let early = at.saturating_sub(rng.below(1000));
            s = s.fault(Fault::at(early, kind).lasting(rng.scale(500, 12_000)));
        }
        Shape::WakesLate => {
            let node = *rng.pick(&[Who::Holder, Who::Holder, Who::Leader]);
            let length = rng.between(1800, 6500);
            let kind = match rng.below(4) {
                0 => Kind::Suspend { node },
                1 => Kind::Pause { node, processes: Processes::All },
                2 => Kind::Pause { node, processes: Processes::Daemon },
                _ => Kind::StuckDisk { node, disk: Disk::Both },
            };
            s = s.fault(Fault::at(at, kind).lasting(length));
            if rng.percent(40) {
                let late = at + rng.below(length + 500);
                let (kind, down) = loss_of(rng, Who::Leader);
                s = s.fault(Fault::at(late, kind).lasting(down));
            }
        }
        Shape::LateRenewals => {
            let length = rng.between(2000, 9000);
            let links = match rng.percent(50) {
                true => Links { from: vec![Who::Holder], to: vec![], traffic: Traffic::Session },
                false => Links { from: vec![], to: vec![Who::Holder], traffic: Traffic::Session },
            };
            let kind = Kind::Delay { links, add_ms: rng.below(1500), jitter_ms: rng.below(2500) };
            s = s.fault(Fault::at(at, kind).lasting(length));
            for _ in 0..rng.between(1, 2) {
                let node = Who::Leader;
                let kind = match rng.below(3) {
                    0 => Kind::Pause { node, processes: Processes::Daemon },
                    1 => Kind::Cut { links: Links { from: vec![node], ..Links::default() } },
                    _ => Kind::CrashDaemon { node },
                };
                let late = at + rng.below(length);
                s = s.fault(Fault::at(late, kind).lasting(rng.scale(300, 6000)));
            }
        }
        Shape::BrokenReturn => {
            let (kind, down) = loss_of(rng, Who::Holder);
            s = s.fault(Fault::at(at, kind).lasting(down.min(4000)));
            let events = [
                Event::RewindBegun,
                Event::RewindDone,
                Event::CopyBegun,
                Event::CopyDone,
                Event::Streams,
            ];
            for _ in 0..rng.between(1, 2) {
                let event = *rng.pick(&events);
                let hit = *rng.pick(&[Who::Holder, Who::Standby(0), Who::Standby(1)]);
                let (kind, down) = loss_of(rng, hit);
                s = s.fault(Fault::at(at, kind).lasting(down).on(event, rng.scale(1, 2000) - 1));
            }
        }
        Shape::Chain => {
            let mut when = at;
            for _ in 0..rng.between(2, 4) {
                let (kind, down) = loss_of(rng, Who::Holder);
                let fault = Fault::at(when, kind).lasting(down);
                let event = *rng.pick(&[Event::Active, Event::Active, Event::Recorded]);
                s = s.fault(if when == at { fault } else { fault.on(event, rng.scale(1, 3000)) });
                when += rng.between(50, 1500);
            }
        }
        Shape::StuckSender => {
            let to = rng.percent(70).then(|| Who::Standby(rng.index(2)));
            let kind = Kind::StuckWalsender { node: Who::Holder, to };
            let length = rng.scale(1000, 20_000);
            s = s.fault(Fault::at(at, kind).lasting(length));
            let lost = Who::Standby(rng.index(2));
            let (kind, down) = loss_of(rng, lost);
            s = s.fault(Fault::at(at + rng.below(1000), kind).lasting(down));
            if rng.percent(70) {
                let (kind, down) = loss_of(rng, Who::Holder);
                s = s.fault(Fault::at(at + rng.below(length), kind).lasting(down));
            }
        }
        Shape::PowerLoss => {
            let torn = rng.percent(50);
            for n in 0..nodes {
                let kind = Kind::CrashMachine { node: Who::Node(n), torn };
                let off = rng.scale(300, 6000);
                s = s.fault(Fault::at(at + rng.below(40), kind).lasting(off));
            }
        }
        Shape::RollingControllers => {
            let slow = Who::Follower(rng.index(3));
            let kind = Kind::SlowDisk { node: slow, disk: Disk::Raft, sync_ms: rng.scale(20, 900) };
            s = s.fault(Fault::at(at, kind).lasting(rng.scale(2000, 20_000)));
            let mut when = at;
            for n in 0..nodes {
                let kind = match rng.percent(50) {
                    true => Kind::CrashMachine { node: Who::Node(n), torn: rng.percent(50) },
                    false => Kind::CrashDaemon { node: Who::Node(n) },
                };
                let down = rng.scale(200, 2500);
                s = s.fault(Fault::at(when, kind).lasting(down));
                when += rng.between(100, down + 800);
            }
        }
        Shape::ControllersGone | Shape::HolderAside | Shape::PeersDivided => {
            s = failsafe::scene(rng, shape, at, nodes);
        }
        of_a_moment => s = moments::scene(rng, of_a_moment, at, nodes),
    }
    s
}
