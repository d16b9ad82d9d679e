//! What can be done to a machine's guard, PostgreSQL and disk, from outside.

use quorate_world::pg::{Disk, Mode, Span, Status, Stopped};

use super::machine::Machine;

impl Machine {
    /// Changes how the disk under PostgreSQL and the member's record behaves.
    pub fn set_disk(&self, disk: Disk) {
        self.trace(|| format!("disk {disk:?}"));
        self.with(|inner, now| inner.host.server.set_disk(now, disk));
    }

    /// How that disk behaves now.
    pub fn disk(&self) -> Disk {
        self.lock().host.server.env().disk
    }

    /// Stops processes of PostgreSQL with SIGSTOP, or lets them go on.
    pub fn set_stopped(&self, stopped: Stopped) {
        self.trace(|| format!("stopped {stopped:?}"));
        self.with(|inner, now| inner.host.server.set_stopped(now, stopped));
    }

    /// What of PostgreSQL is stopped now.
    pub fn stopped(&self) -> Stopped {
        self.lock().host.server.stopped()
    }

    /// SIGSTOP of the guard, or SIGCONT: the kernel's timer on it works all the same.
    pub fn set_guard_answers(&self, answers: bool) {
        self.with(|inner, _| inner.host.set_guard_answers(answers));
    }

    /// SIGKILL of the guard: its tree dies with it.
    pub fn kill_guard(&self) {
        self.with(|inner, _| inner.host.kill_guard());
    }

    /// SIGKILL of the postmaster alone; backends that are busy go on for so long at most.
    pub fn kill_postmaster(&self, orphans_ms: u64) {
        self.with(|inner, now| {
            inner.host.server.env_mut().pace.orphan = Span::millis(0, orphans_ms);
            inner.host.server.kill_postmaster(now);
        });
    }

    /// SIGKILL of all of PostgreSQL.
    pub fn kill_postgres(&self) {
        self.with(|inner, _| inner.host.server.kill_all());
    }

    /// SIGKILL of one backend.
    pub fn crash_backend(&self) {
        self.with(|inner, now| inner.host.server.crash_backend(now));
    }

    /// Somebody stops PostgreSQL in order (`pg_ctl stop`).
    pub fn stop_by_hand(&self) {
        self.with(|inner, now| inner.host.server.stop(now, Mode::Fast));
    }

    /// Somebody promotes it (`pg_ctl promote`). Without effect on a primary.
    pub fn promote_by_hand(&self) {
        self.with(|inner, now| {
            // A primary refuses, and nothing is to be done about that.
            let _ = inner.host.server.signal_promotion(now, None);
        });
    }

    /// Walsenders for members whose name is `wanted` do nothing at all, or go on.
    pub fn stick_walsenders(&self, stuck: bool, wanted: impl Fn(&str) -> bool) {
        self.with(|inner, now| inner.host.server.stick_senders(now, stuck, wanted));
    }

    /// A session holds replay up, or does no longer.
    pub fn hold_replay(&self, held: bool) {
        self.with(|inner, now| inner.host.server.pause_replay(now, held));
    }

    /// A load of data, of this many bytes of WAL.
    pub fn bulk(&self, bytes: u64) {
        self.with(|inner, now| inner.host.server.bulk(now, bytes));
    }

    /// Whoever waits for standbys gives up (`pg_cancel_backend` of every session). Returns the rows
    /// of the commits that were waiting.
    pub fn cancel_waits(&self) -> Vec<u64> {
        self.with(|inner, now| {
            let server = &mut inner.host.server;
            let Some(run) = server.run() else { return Vec::new() };
            let rows = run.hidden.values().flatten().copied().collect();
            let sessions: Vec<_> = run.sessions.keys().copied().collect();
            for session in sessions {
                server.cancel(now, session);
            }
            rows
        })
    }

    /// The disk is a new one: with the machine off. `record` is whether the member's record is gone
    /// as well.
    pub fn wipe(&self, record: bool) {
        self.with(|inner, _| {
            inner.host.server.set_dir(None);
            if record {
                inner.files.wipe();
            }
        });
    }

    /// What PostgreSQL would say of itself, for checkers; `None` where it takes no statements.
    pub fn look(&self) -> Option<Status> {
        self.lock().host.server.status().ok()
    }

    /// The epoch in which a write would be acknowledged now, for checkers: PostgreSQL runs as a
    /// primary, and holds no writes back.
    pub fn writes(&self) -> Option<u64> {
        let inner = self.lock();
        let server = &inner.host.server;
        if server.stopped().all {
            return None;
        }
        let status = server.status().ok()?;
        (!status.in_recovery && !status.read_only).then_some(u64::from(status.timeline.0))
    }
}
