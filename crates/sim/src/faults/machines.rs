//! Faults of machines: what all that go on now make of each node.
//!
//! Owns the state that faults put a node into, worked out from those that go on. What hits the
//! guard, PostgreSQL or its disk is passed on to the databases.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_world::exec::{self, ScopeId};
use quorate_world::schedule::{self, Kind, Processes, Wipe};

use crate::node::{MakeDatabase, Node};

/// As slow as a clock may be made to run, in parts per million: a machine that is frozen.
const FROZEN_PPM: i64 = -999_999;

struct Active {
    node: schedule::Node,
    kind: Kind,
    /// The daemon that it stopped.
    paused: Option<ScopeId>,
}

/// What faults make of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ills {
    off: bool,
    torn: bool,
    held: bool,
    suspended: bool,
    ppm: i64,
    slow_ms: u64,
    stuck: bool,
    failing: bool,
    lying: bool,
}

/// All faults of machines that go on.
pub struct Machines<M> {
    nodes: Vec<Node<M>>,
    /// The rate that each clock has without faults.
    rates: Vec<i64>,
    active: BTreeMap<usize, Active>,
    /// What was made of each node.
    ills: Vec<Ills>,
}

impl<M: MakeDatabase> Machines<M> {
    /// None, on these nodes, whose clocks have these rates.
    pub fn new(nodes: Vec<Node<M>>, rates: Vec<i64>) -> Self {
        let well = |ppm: &i64| Ills {
            off: false,
            torn: false,
            held: false,
            suspended: false,
            ppm: *ppm,
            slow_ms: 0,
            stuck: false,
            failing: false,
            lying: false,
        };
        let ills = rates.iter().map(well).collect();
        Self { nodes, rates, active: BTreeMap::new(), ills }
    }

    /// A fault begins, under this number.
    pub fn begin(&mut self, number: usize, at: schedule::Node, kind: &Kind) {
        let Some(node) = self.nodes.get(at).cloned() else { return };
        match kind {
            Kind::WallStep { by_ms, .. } => return exec::step_wall(node.place().machine, *by_ms),
            Kind::BootJump { by_ms, .. } => {
                return exec::jump_boot(node.place().machine, Duration::from_millis(*by_ms));
            }
            Kind::CrashDaemon { .. } => node.kill_daemon(),
            _ => {}
        }
        let stops =
            matches!(kind, Kind::Pause { processes: Processes::Daemon | Processes::All, .. });
        let paused = node.daemon().filter(|_| stops);
        paused.into_iter().for_each(exec::pause);
        if kind.lasts() {
            self.active.insert(number, Active { node: at, kind: kind.clone(), paused });
            self.work_out(at);
        }
        node.databases().begin(node.place(), number, kind);
        // Only now, since a machine that still runs would write to it again.
        if let Kind::WipeDisk { what: Wipe::Raft | Wipe::Machine, .. } = kind {
            node.disk().wipe();
        }
    }

    /// The fault of this number ends, where it goes on.
    pub fn end(&mut self, number: usize) {
        let Some(over) = self.active.remove(&number) else { return };
        let still = |scope: &ScopeId| self.active.values().any(|a| a.paused == Some(*scope));
        over.paused.into_iter().filter(|scope| !still(scope)).for_each(exec::resume);
        if let Some(node) = self.nodes.get(over.node) {
            node.databases().end(node.place(), number, &over.kind);
        }
        self.work_out(over.node);
    }

    /// What those that go on make of a node.
    fn ills(&self, at: schedule::Node) -> Ills {
        let mut ills = Ills {
            off: false,
            torn: false,
            held: false,
            suspended: false,
            ppm: self.rates.get(at).copied().unwrap_or_default(),
            slow_ms: 0,
            stuck: false,
            failing: false,
            lying: false,
        };
        let mut frozen = false;
        for active in self.active.values().filter(|a| a.node == at) {
            match &active.kind {
                Kind::CrashMachine { torn, .. } => {
                    ills.off = true;
                    ills.torn |= torn;
                }
                Kind::WipeDisk { .. } => ills.off = true,
                Kind::CrashDaemon { .. } => ills.held = true,
                Kind::Suspend { .. } => ills.suspended = true,
                Kind::Freeze { .. } => frozen = true,
                Kind::ClockRate { ppm, .. } => ills.ppm = *ppm,
                Kind::SlowDisk { disk, sync_ms, .. } if disk.raft() => {
                    ills.slow_ms = ills.slow_ms.max(*sync_ms);
                }
                Kind::StuckDisk { disk, .. } => ills.stuck |= disk.raft(),
                Kind::FailingDisk { disk, .. } | Kind::FullDisk { disk, .. } => {
                    ills.failing |= disk.raft();
                }
                Kind::LyingDisk { disk, .. } => ills.lying |= disk.raft(),
                _ => {}
            }
        }
        if frozen {
            (ills.suspended, ills.ppm) = (true, FROZEN_PPM);
        }
        ills
    }

    fn work_out(&mut self, at: schedule::Node) {
        let after = self.ills(at);
        let (Some(node), Some(ills)) = (self.nodes.get(at), self.ills.get_mut(at)) else { return };
        let before = std::mem::replace(ills, after);
        let machine = node.place().machine;
        if before.ppm != after.ppm {
            exec::set_rate(machine, after.ppm);
        }
        if before.suspended != after.suspended {
            exec::suspend(machine, after.suspended);
        }
        if before.held != after.held {
            node.hold(after.held);
        }
        let disk = node.disk();
        disk.slow(Duration::from_millis(after.slow_ms));
        disk.fail(after.failing);
        disk.lie(after.lying);
        disk.stick(after.stuck);
        if after.off && !before.off {
            node.power_off(after.torn);
        }
        if before.off && !after.off {
            node.power_on();
        }
    }
}
