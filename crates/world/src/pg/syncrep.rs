//! Waiting for synchronous standbys, and being released (PostgreSQL's syncrep.c).
//!
//! The rule that everything here rests on: a commit is released by the walsender that gets a
//! confirmation, which judges by its *own* loaded settings, over priorities that every other
//! walsender has published by *its own*.

use crate::domain::types::Lsn;

use super::base::Pid;
use super::conf::{Level, SyncNames};
use super::sender::{Sender, SenderState};

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// That it is written.
    Write,
    /// That it is flushed.
    Flush,
    /// That it is applied.
    Apply,
}

impl Mode {
    const ALL: [Mode; 3] = [Mode::Write, Mode::Flush, Mode::Apply];

    /// What a level waits for; `None` where it waits for no standby.
    pub fn of(level: Level) -> Option<Mode> {
        match level {
            Level::Off | Level::Local => None,
            Level::RemoteWrite => Some(Mode::Write),
            Level::On => Some(Mode::Flush),
            Level::RemoteApply => Some(Mode::Apply),
        }
    }
}

/// The part of shared memory that is about it.
#[derive(Debug, Clone, Default)]
pub struct SyncRep {
    /// Up to where commits were released, by mode. It never goes back while the server lives, and
    /// a commit below it does not wait at all.
    pub(super) released: [Lsn; 3],
    /// Whether anybody waits at all. Only the checkpointer changes it.
    pub(super) defined: bool,
    /// Who waits, by mode: in the order of positions.
    queues: [Vec<(Lsn, Pid)>; 3],
}

impl SyncRep {
    /// Whether a commit at `lsn` has to wait; if so it does from now on.
    pub(super) fn join(&mut self, pid: Pid, lsn: Lsn, mode: Mode) -> bool {
        if !self.defined || lsn <= self.released[mode as usize] {
            return false;
        }
        let queue = &mut self.queues[mode as usize];
        let at = queue.partition_point(|(l, _)| *l <= lsn);
        queue.insert(at, (lsn, pid));
        true
    }

    /// Gives a wait up.
    pub(super) fn leave(&mut self, pid: Pid) {
        for queue in &mut self.queues {
            queue.retain(|(_, p)| *p != pid);
        }
    }

    /// Who waits for which position, by flush.
    pub fn waiting(&self) -> impl Iterator<Item = (Lsn, Pid)> {
        self.queues.iter().flatten().copied()
    }

    /// The checkpointer has read the settings: names are there or not. Without any, whoever waits
    /// is released at once (`SyncRepUpdateSyncStandbysDefined`).
    pub(super) fn define(&mut self, defined: bool) -> Vec<Pid> {
        if self.defined == defined {
            return Vec::new();
        }
        self.defined = defined;
        if defined {
            return Vec::new();
        }
        self.queues.iter_mut().flat_map(std::mem::take).map(|(_, pid)| pid).collect()
    }

    fn wake(&mut self, mode: Mode, upto: Lsn) -> Vec<Pid> {
        let released = &mut self.released[mode as usize];
        if *released >= upto {
            return Vec::new();
        }
        *released = upto;
        let queue = &mut self.queues[mode as usize];
        let ready = queue.partition_point(|(lsn, _)| *lsn <= upto);
        queue.drain(..ready).map(|(_, pid)| pid).collect()
    }
}

/// Positions of one walsender that counts.
struct Candidate {
    pid: Pid,
    priority: u32,
    at: [Lsn; 3],
}

fn counts(sender: &Sender) -> bool {
    matches!(sender.state, SenderState::Streaming | SenderState::Stopping)
        && sender.priority != 0
        && sender.flush > Lsn(0)
}

/// The walsenders that count for who goes by `names` (`SyncRepGetCandidateStandbys`). In quorum
/// mode all of them do, else the first of them.
fn candidates<'a>(
    names: &SyncNames,
    senders: impl Iterator<Item = (&'a Pid, &'a Sender)>,
) -> Vec<Candidate> {
    let candidate = |(pid, s): (&Pid, &Sender)| Candidate {
        pid: *pid,
        priority: s.priority,
        at: [s.write, s.flush, s.apply],
    };
    let mut found: Vec<_> = senders.filter(|(_, s)| counts(s)).map(candidate).collect();
    if names.first && found.len() > names.count {
        // Ties are broken by the place in shared memory, which is that of the older process here.
        found.sort_by_key(|c| (c.priority, c.pid));
        found.truncate(names.count);
    }
    found
}

/// What the walsender `me` releases now that it has a confirmation (`SyncRepReleaseWaiters`):
/// returns the sessions that wait no more.
pub(super) fn release(
    sync: &mut SyncRep,
    me: Pid,
    senders: &std::collections::BTreeMap<Pid, Sender>,
) -> Vec<Pid> {
    let Some(own) = senders.get(&me).filter(|s| counts(s)) else { return Vec::new() };
    let Some(names) = &own.conf.synchronous else { return Vec::new() };
    let found = candidates(names, senders.iter());
    if !found.iter().any(|c| c.pid == me) || found.len() < names.count || names.count == 0 {
        return Vec::new();
    }
    let mut woken = Vec::new();
    for mode in Mode::ALL {
        let mut at: Vec<Lsn> = found.iter().map(|c| c.at[mode as usize]).collect();
        at.sort();
        // FIRST: what the slowest of the chosen has. ANY n: the n-th newest of all.
        let upto = if names.first { at.first() } else { at.get(at.len() - names.count) };
        woken.extend(upto.map(|upto| sync.wake(mode, *upto)).unwrap_or_default());
    }
    woken
}
