//! Faults of a machine's guard, PostgreSQL and disk.
//!
//! Owns what all faults that go on make of a machine. They overlap in any order, so its state is
//! worked out anew from those that go on.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_world::pg::{Disk, Mode, Span, Status, Stopped};
use quorate_world::schedule::{Kind, Processes, Topology, Who, Wipe};

use super::machine::{Inner, Machine};
use crate::domain::types::BootTime;

/// Faults that go on, by their place in the plan.
#[derive(Debug, Default)]
pub(super) struct Active {
    kinds: BTreeMap<usize, Kind>,
    /// What was made of the processes.
    stopped: Stopped,
    guard_stopped: bool,
    /// Whether the postmaster stands still until it is killed.
    hung: bool,
    replay_held: bool,
    /// Since when the machine is suspended.
    suspended: Option<BootTime>,
}

/// What faults make of the disk.
fn disk(kinds: &BTreeMap<usize, Kind>) -> Disk {
    let mut made = Disk::default();
    for kind in kinds.values() {
        match kind {
            Kind::SlowDisk { disk, sync_ms, .. } if disk.data() => {
                made.slower = made.slower.max(Duration::from_millis(*sync_ms));
            }
            Kind::StuckDisk { disk, .. } => made.hung |= disk.data(),
            Kind::FailingDisk { disk, .. } => made.fails |= disk.data(),
            Kind::FullDisk { disk, .. } => made.full |= disk.data(),
            Kind::LyingDisk { disk, .. } => made.lies |= disk.data(),
            _ => {}
        }
    }
    made
}

/// Which processes faults stop, and whether the guard is among them.
fn stopped(kinds: &BTreeMap<usize, Kind>) -> (Stopped, bool) {
    let (mut made, mut guard) = (Stopped::default(), false);
    for kind in kinds.values() {
        let Kind::Pause { processes, .. } = kind else { continue };
        match processes {
            Processes::Daemon => {}
            Processes::Guard => guard = true,
            Processes::Postmaster => made.postmaster = true,
            Processes::Postgres => made.all = true,
            Processes::All => (made.all, guard) = (true, true),
        }
    }
    (made, guard)
}

impl Active {
    /// No process is left.
    pub(super) fn tree_ended(&mut self) {
        self.hung = false;
    }
}

impl Machine {
    /// A fault begins here.
    pub(super) fn begin_fault(&self, number: usize, kind: &Kind) {
        self.with(|inner, now| {
            let server = &mut inner.host.server;
            match kind {
                Kind::KillPostmaster { orphans_ms, .. } => {
                    server.env_mut().pace.orphan = Span::millis(0, *orphans_ms);
                    server.kill_postmaster(now);
                }
                Kind::CrashBackend { .. } => server.crash_backend(now),
                Kind::KillGuard { .. } => inner.host.kill_guard(),
                Kind::StopByHand { .. } => server.stop(now, Mode::Fast),
                Kind::HangPostmaster { .. } => inner.active.hung = server.run().is_some(),
                Kind::StuckWalsender { to, .. } => {
                    let name = name_of(*to);
                    let meant = |standby: &str| name.as_ref().is_none_or(|n| n == standby);
                    server.stick_senders(now, true, meant);
                }
                Kind::WipeDisk { what, .. } => wipe(inner, *what),
                _ => {}
            }
            if kind.lasts() {
                inner.active.kinds.insert(number, kind.clone());
            }
        });
        self.work_out();
    }

    /// A fault that lasts ends.
    pub(super) fn end_fault(&self, number: usize) {
        self.with(|inner, now| {
            let over = inner.active.kinds.remove(&number);
            if let Some(Kind::StuckWalsender { to, .. }) = over {
                let name = name_of(to);
                let meant = |standby: &str| name.as_ref().is_none_or(|n| n == standby);
                inner.host.server.stick_senders(now, false, meant);
            }
        });
        self.work_out();
    }

    fn work_out(&self) {
        self.with(|inner, now| {
            let kinds = &inner.active.kinds;
            let disk = disk(kinds);
            let (mut stopped, guard) = stopped(kinds);
            stopped.postmaster |= inner.active.hung;
            let held = kinds.values().any(|k| matches!(k, Kind::StuckReplay { .. }));
            let server = &mut inner.host.server;
            if server.env().disk != disk {
                server.set_disk(now, disk);
            }
            // Processes that were started since are not stopped.
            if inner.active.stopped != stopped {
                inner.active.stopped = stopped;
                server.set_stopped(now, stopped);
            }
            if inner.active.replay_held != held {
                inner.active.replay_held = held;
                server.pause_replay(now, held);
            }
            if inner.active.guard_stopped != guard {
                inner.active.guard_stopped = guard;
                inner.host.set_guard_answers(!guard);
            }
            let suspended = kinds.values().any(|k| matches!(k, Kind::Suspend { .. }));
            match (suspended, inner.active.suspended) {
                (true, None) => inner.active.suspended = Some(now),
                (false, Some(since)) => {
                    inner.active.suspended = None;
                    inner.host.woke(now.since(since));
                }
                _ => {}
            }
        });
    }

    /// What PostgreSQL would say of itself, for who watches from outside; `None` where it takes no
    /// statements.
    pub fn look(&self) -> Option<Status> {
        self.lock().host.server.status().ok()
    }
}

/// What a standby calls itself; `None` is everybody.
fn name_of(who: Option<Who>) -> Option<String> {
    match who {
        Some(Who::Node(node)) => Some(Topology::member_name(node).as_str().to_owned()),
        _ => None,
    }
}

/// The disk is a new one. The machine is off.
fn wipe(inner: &mut Inner, what: Wipe) {
    if what == Wipe::Raft {
        return;
    }
    inner.host.server.set_dir(None);
    if what != Wipe::Data {
        inner.files.wipe();
    }
}
