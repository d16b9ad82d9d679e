//! Sequences of faults that meet the protocol between two of its steps: each takes away what one
//! rule is there for.
//!
//! Owns these shapes, and which of them a profile draws. `scenes` has those that went wrong
//! somewhere. Imports the vocabulary of faults.

use super::fault::{Fault, Kind};
use super::operation::{Act, Event};
use super::rng::Rng;
use super::scenes::{Scene, Shape, between, loss_of};
use super::who::{Disk, Links, Processes, Traffic, Who, Wipe};

/// Trouble of the control plane, with a primary that notices.
pub const CONTROL: &[Shape] = &[
    Shape::LeaderMoved,
    Shape::LeaderBack,
    Shape::SameNode,
    Shape::SameNode,
    Shape::LateAnswer,
    Shape::ForgottenVote,
    Shape::ForgottenEntry,
    Shape::StoreWiped,
];

/// Trouble of the primary and of whoever becomes one, with clients that respect nothing.
pub const HANDS: &[Shape] = &[
    Shape::DaemonGone,
    Shape::DaemonGoneInPromotion,
    Shape::GranteeCut,
    Shape::Sleeper,
    Shape::Hung,
    Shape::Orphans,
    Shape::WakesLate,
    Shape::LateAnswer,
    Shape::CutOffWithClients,
];

/// Trouble of what was confirmed, and by whom.
pub const DATA: &[Shape] = &[
    Shape::OneLags,
    Shape::OneLags,
    Shape::DroppedReturns,
    Shape::DroppedReturns,
    Shape::OldAndLong,
    Shape::RewoundTooSoon,
    Shape::ShownAgain,
    Shape::FollowerLost,
    Shape::CopyOfLaggard,
    Shape::BrokenReturn,
    Shape::CandidateDies,
    Shape::ShrinkThenCrash,
    Shape::CrashInChange,
    Shape::StuckSender,
    Shape::Chain,
    Shape::PowerLoss,
];

/// Whose controller hears nothing, or is not heard, or neither.
pub fn deaf(rng: &mut Rng, node: Who, traffic: Traffic) -> Vec<Links> {
    let hears = Links { from: vec![], to: vec![node], traffic };
    let says = Links { from: vec![node], to: vec![], traffic };
    match rng.below(4) {
        0 | 1 => vec![hears],
        2 => vec![hears, says],
        _ => vec![says],
    }
}

/// Two numbers below `nodes` that differ.
fn two_of(rng: &mut Rng, nodes: usize) -> (usize, usize) {
    let a = rng.index(nodes);
    (a, (a + 1 + rng.index(nodes.saturating_sub(1))) % nodes)
}

fn alone(node: Who, at: u64, for_ms: u64) -> Fault {
    Fault::at(at, Kind::Isolate { node, clients: false }).lasting(for_ms)
}

fn paused(node: Who, at: u64, for_ms: u64) -> Fault {
    Fault::at(at, Kind::Pause { node, processes: Processes::Daemon }).lasting(for_ms)
}

/// A scene of one of these shapes; none for those of `scenes`.
pub fn scene(rng: &mut Rng, shape: Shape, at: u64, nodes: usize) -> Scene {
    match shape {
        Shape::LeaderMoved | Shape::LeaderBack | Shape::SameNode | Shape::LateAnswer => {
            leadership(rng, shape, at, nodes)
        }
        Shape::ForgottenVote | Shape::ForgottenEntry | Shape::StoreWiped => {
            stores(rng, shape, at, nodes)
        }
        Shape::OneLags
        | Shape::DroppedReturns
        | Shape::OldAndLong
        | Shape::RewoundTooSoon
        | Shape::ShownAgain
        | Shape::FollowerLost
        | Shape::CopyOfLaggard => data(rng, shape, at),
        _ => hands(rng, shape, at),
    }
}

fn leadership(rng: &mut Rng, shape: Shape, at: u64, nodes: usize) -> Scene {
    let s = Scene::default();
    let cut_off = rng.between(3500, 9000);
    let delay = |links, add_ms, from: u64, length| {
        Fault::at(from, Kind::Delay { links, add_ms, jitter_ms: 20 }).lasting(length)
    };
    match shape {
        Shape::LeaderMoved => s
            .act(at, None, Act::TransferLeadership { to: Who::Follower(rng.index(2)) })
            .fault(alone(Who::Holder, at + rng.below(400), cut_off)),
        Shape::LeaderBack => {
            let (a, b) = two_of(rng, nodes);
            let (a, b) = (Who::Node(a), Who::Node(b));
            let back = at + 800 + rng.between(2500, 5000);
            s.act(at, None, Act::TransferLeadership { to: a })
                .act(at + 800, None, Act::TransferLeadership { to: b })
                .act(back, None, Act::TransferLeadership { to: a })
                .fault(alone(Who::Holder, back + rng.below(500), cut_off))
        }
        Shape::SameNode => {
            let s = s.act(at, None, Act::TransferLeadership { to: Who::Holder });
            let then = at + rng.between(100, 1500);
            if rng.percent(50) {
                return s.fault(alone(Who::Holder, then, cut_off));
            }
            let links = Links { from: vec![], to: vec![Who::Holder], traffic: Traffic::Raft };
            let stands = rng.between(1400, 2600);
            s.fault(delay(links, rng.between(20, 300), then.saturating_sub(300), 400))
                .fault(paused(Who::Holder, then, stands))
                .fault(alone(Who::Holder, then + rng.between(300, stands + 30), cut_off))
        }
        _ => {
            let links = match rng.percent(70) {
                true => Links { from: vec![], to: vec![Who::Holder], traffic: Traffic::Session },
                false => Links { from: vec![Who::Holder], to: vec![], traffic: Traffic::Session },
            };
            let late = rng.between(50, 380);
            let then = at + rng.between(600, 1200);
            let stands = rng.between(1500, 2650);
            s.fault(delay(links, late, at, then - at + late))
                .fault(paused(Who::Holder, then, stands))
                .fault(alone(Who::Holder, then + late + rng.below(600), stands + cut_off))
        }
    }
}

fn stores(rng: &mut Rng, shape: Shape, at: u64, nodes: usize) -> Scene {
    let mut s = Scene::default();
    let crash = |node, down| Fault::at(at, Kind::CrashMachine { node, torn: false }).lasting(down);
    match shape {
        Shape::ForgottenVote => {
            let sync_ms = rng.between(60, 400);
            for n in 0..nodes {
                let kind = Kind::SlowDisk { node: Who::Node(n), disk: Disk::Raft, sync_ms };
                s = s.fault(Fault::at(at, kind).lasting(9000));
            }
            // Somebody hears nothing of the term that the two others agree on.
            let deaf = Who::Follower(0);
            let length = rng.between(1200, 3500);
            for links in [
                Links { from: vec![deaf], to: vec![], traffic: Traffic::Raft },
                Links { from: vec![], to: vec![deaf], traffic: Traffic::Raft },
            ] {
                s = s.fault(Fault::at(at + 50, Kind::Cut { links }).lasting(length));
            }
            s = match rng.percent(60) {
                true => s.act(at + 150, None, Act::TransferLeadership { to: Who::Follower(1) }),
                false => s.fault(paused(Who::Leader, at + 150, rng.between(900, 2000))),
            };
            for n in 0..2 {
                let down = rng.between(100, 500);
                let hit = crash(Who::Follower(n), down).on(Event::Elected, rng.below(120));
                s = s.fault(hit);
            }
            let cut_off = rng.between(2500, 6000);
            s.fault(alone(Who::Leader, at, cut_off).on(Event::Elected, rng.below(400)))
        }
        Shape::ForgottenEntry => {
            let sync_ms = rng.between(40, 400);
            let all = rng.percent(60);
            for n in 0..nodes {
                let node = if all { Who::Node(n) } else { Who::Leader };
                let kind = Kind::SlowDisk { node, disk: Disk::Raft, sync_ms };
                s = s.fault(Fault::at(at, kind).lasting(12_000));
            }
            // Something has to be committed.
            let kind = match rng.below(3) {
                0 => {
                    return s
                        .act(at + 100, None, Act::Switchover { target: Who::Standby(0) })
                        .fault(
                            crash(Who::Leader, rng.between(80, 900))
                                .on(Event::Granted, rng.below(200)),
                        );
                }
                1 => Kind::KillGuard { node: Who::Holder },
                _ => Kind::CrashBackend { node: Who::Holder },
            };
            s = s.fault(Fault::at(at + 100, kind));
            let steps =
                [Event::Closed, Event::Closed, Event::Granted, Event::Recorded, Event::Active];
            let event = *rng.pick(&steps);
            let after = rng.below(250);
            s = s.fault(crash(Who::Leader, rng.between(80, 3000)).on(event, after));
            let others = rng.below(3) as usize;
            for n in 0..others {
                let down = rng.between(80, 1500);
                let near = after + rng.below(3);
                s = s.fault(crash(Who::Follower(n), down).on(event, near));
            }
            s
        }
        _ => {
            let (leads, wiped) = two_of(rng, nodes);
            let (leads, wiped) = (Who::Node(leads), Who::Node(wiped));
            let gone = rng.between(2500, 6000);
            s = s.act(at, None, Act::TransferLeadership { to: leads });
            // The third hears nothing from the leader, who agrees with the other.
            for n in (0..nodes).map(Who::Node).filter(|n| *n != leads && *n != wiped) {
                for links in between(n, leads, Traffic::Raft) {
                    s = s.fault(Fault::at(at + 900, Kind::Cut { links }).lasting(gone + 5000));
                }
            }
            s = s.act(at + 1300, None, Act::Switchover { target: Who::Standby(rng.index(2)) });
            let off = rng.between(200, 900);
            let over = at + 900 + gone;
            let kind = Kind::WipeDisk { node: wiped, what: Wipe::Raft };
            s.fault(Fault::at(over - off, kind).lasting(off)).fault(alone(
                leads,
                over.saturating_sub(off) + rng.below(off + 900),
                rng.between(4000, 9000),
            ))
        }
    }
}

fn hands(rng: &mut Rng, shape: Shape, at: u64) -> Scene {
    let s = Scene::default();
    let long = rng.between(4000, 14_000);
    let dead = |at| Fault::at(at, Kind::CrashDaemon { node: Who::Holder }).lasting(long);
    match shape {
        Shape::DaemonGone => match rng.percent(50) {
            true => s.fault(dead(at)),
            false => s.fault(paused(Who::Holder, at, long)),
        },
        Shape::DaemonGoneInPromotion => {
            let (kind, down) = loss_of(rng, Who::Holder);
            let event = *rng.pick(&[Event::Promoted, Event::Promoted, Event::Granted]);
            s.fault(Fault::at(at, kind).lasting(down)).fault(dead(at + 1).on(event, rng.below(40)))
        }
        Shape::GranteeCut => {
            let (kind, down) = loss_of(rng, Who::Holder);
            let after = rng.below(150);
            let hit = match rng.percent(70) {
                true => alone(Who::Holder, at + 1, long),
                false => paused(Who::Holder, at + 1, long.min(6000)),
            };
            s.fault(Fault::at(at, kind).lasting(down)).fault(hit.on(Event::Granted, after))
        }
        Shape::Hung => s.fault(Fault::at(at, Kind::HangPostmaster { node: Who::Holder })),
        // A guard's clock goes on while its machine sleeps.
        _ => {
            let sleeps = rng.between(3200, 8000);
            let kind = Kind::Suspend { node: Who::Holder };
            s.fault(dead(at)).fault(Fault::at(at + rng.between(20, 1500), kind).lasting(sleeps))
        }
    }
}

fn data(rng: &mut Rng, shape: Shape, at: u64) -> Scene {
    let mut s = Scene::default();
    let cut = |links, at, length| Fault::at(at, Kind::Cut { links }).lasting(length);
    let off =
        |node, at, down| Fault::at(at, Kind::CrashMachine { node, torn: false }).lasting(down);
    match shape {
        Shape::OneLags => {
            // What one standby confirms the other lacks when the primary goes.
            let lags = rng.between(300, 4000);
            let which = rng.index(2);
            for links in between(Who::Holder, Who::Standby(which), Traffic::Replication) {
                s = s.fault(cut(links, at, lags + rng.below(1500)));
            }
            if rng.percent(70) {
                let down = rng.between(1500, 14_000);
                s = s.fault(off(Who::Standby(1 - which), at + lags - rng.below(300), down));
            }
            let down = rng.between(1000, 14_000);
            s = s.fault(off(Who::Holder, at + lags, down));
            if rng.percent(40) {
                let down = rng.between(1000, 10_000);
                s = s
                    .fault(off(Who::Holder, at + lags + 1, down).on(Event::Active, rng.below(900)));
            }
            s
        }
        Shape::DroppedReturns => {
            // A standby that is dropped from the configuration is back before the primary knows,
            // and alone confirms what comes then.
            let which = rng.index(2);
            let (back, other) = (Who::Standby(which), Who::Standby(1 - which));
            let down = rng.between(1000, 3200);
            let daemon = Kind::CrashDaemon { node: back };
            s = s.fault(Fault::at(at, daemon).lasting(down));
            s = s.fault(Fault::at(at + 5, Kind::KillGuard { node: back }));
            let event = Event::SyncChangeBegun;
            let stands = rng.between(1000, 2800);
            s = s.fault(paused(Who::Holder, at + 5, stands + 200).on(event, rng.below(15)));
            for links in between(Who::Holder, other, Traffic::Replication) {
                s = s.fault(cut(links, at + 5, stands + 1000).on(event, rng.below(15)));
            }
            s = s.fault(off(Who::Holder, at + 5, rng.between(5000, 14_000)).on(event, stands));
            s.fault(off(back, at + 5, rng.between(4000, 14_000)).on(event, stands - 1))
        }
        Shape::OldAndLong => {
            let gathers = rng.between(1500, 6000);
            let links =
                Links { from: vec![Who::Holder], to: vec![], traffic: Traffic::Replication };
            s.fault(cut(links, at, gathers + 100))
                .fault(off(Who::Holder, at + gathers, rng.between(3300, 6500)))
                .fault(
                    off(Who::Holder, at + gathers + 1, rng.between(7000, 14_000))
                        .on(Event::Active, rng.between(10, 300)),
                )
        }
        Shape::RewoundTooSoon => {
            // One lags and stays behind; the old primary has what the new one lacks.
            let lags = rng.between(400, 1500);
            let alone = rng.between(100, 900);
            let behind =
                Links { from: vec![], to: vec![Who::Standby(1)], traffic: Traffic::Replication };
            let links =
                Links { from: vec![Who::Holder], to: vec![], traffic: Traffic::Replication };
            let wipe = Kind::WipeDisk { node: Who::Holder, what: Wipe::Data };
            s.fault(cut(behind, at, lags + 12_000))
                .fault(cut(links, at + lags, alone))
                .fault(Fault::at(at + lags + alone, Kind::KillGuard { node: Who::Holder }))
                .fault(
                    Fault::at(at + lags + alone, wipe)
                        .lasting(rng.between(200, 2000))
                        .on(Event::RewindDone, rng.below(60)),
                )
        }
        Shape::ShownAgain => {
            // Commits wait when a backend crashes; then the node goes.
            let length = rng.between(1500, 4000);
            let links =
                Links { from: vec![Who::Holder], to: vec![], traffic: Traffic::Replication };
            let crash = Kind::CrashBackend { node: Who::Holder };
            s.fault(cut(links, at, length + 2000))
                .fault(Fault::at(at + rng.between(100, 900), crash))
                .fault(off(Who::Holder, at + length, rng.between(5000, 15_000)))
        }
        Shape::FollowerLost => {
            // A standby that lags is told to follow whom it does not reach.
            let lags = rng.between(500, 2500);
            let behind = Who::Standby(1);
            for links in between(Who::Holder, behind, Traffic::Replication) {
                s = s.fault(cut(links, at, lags + 200));
            }
            s = s.fault(off(Who::Holder, at + lags, rng.between(2500, 6000)));
            let links = Links { from: vec![], to: vec![], traffic: Traffic::Replication };
            let silent = rng.between(500, 3000);
            s = s.fault(cut(links, at + 1, silent + 600).on(Event::Granted, rng.below(50)));
            s.fault(
                off(Who::Holder, at + 1, rng.between(8000, 15_000))
                    .on(Event::Recorded, rng.between(50, silent)),
            )
        }
        _ => {
            // A standby that confirmed is copied anew from one that lags.
            let before = rng.between(100, 900);
            for links in between(Who::Holder, Who::Standby(1), Traffic::Replication) {
                s = s.fault(cut(links, at, 9000));
            }
            let kind = Kind::WipeDisk { node: Who::Standby(0), what: Wipe::Data };
            s.fault(Fault::at(at + before, kind).lasting(rng.between(50, 300)))
                .fault(off(Who::Holder, at, 12_000).on(Event::CopyDone, rng.below(400)))
        }
    }
}
