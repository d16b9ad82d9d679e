//! When commits are acknowledged: what `src/backend/replication/syncrep.c` does with what the
//! walsenders know; and the barrier, which asks for the same.
//!
//! A walsender decides by its own configuration how many are needed, and whether it counts itself;
//! whether others count they have said of themselves. So for a moment after a reload PostgreSQL
//! mixes old and new.

use std::rc::Rc;

use super::clock::MS;
use super::queue::Server;
use super::server::{Barrier, Role};
use super::world::World;
use crate::domain::mutant::{Mutant, without};
use crate::domain::sync::SyncConfig;

impl World {
    /// Acknowledges whatever can be.
    pub(super) fn acknowledge(&mut self, m: usize) {
        let member = &self.members[m];
        let Role::Primary { branch, start, .. } = member.tree.role else { return };
        if !member.tree.lives()
            || member.tree.still
            || member.dir.flushed <= member.tree.acknowledged
        {
            return;
        }
        let limit = member.dir.flushed;
        let upto = self.released(m, limit).min(limit);
        let tree = &mut self.members[m].tree;
        if upto <= tree.acknowledged || upto <= start {
            return;
        }
        let new = upto - tree.acknowledged;
        tree.acknowledged = upto;
        self.counts.acknowledged += new;
        self.note(u64::from(branch), 16 + (upto & 0xff));
        self.oracle.acknowledged(branch, upto);
    }

    /// Up to where commits are released.
    fn released(&self, m: usize, limit: u64) -> u64 {
        let tree = &self.members[m].tree;
        if !tree.defined {
            // Backends wait for nobody.
            return limit;
        }
        let mut counted: [(u32, u64, usize); 8] = [(0, 0, 0); 8];
        let mut count = 0;
        for (j, sender) in tree.senders.iter().enumerate() {
            let Some(sender) = sender else { continue };
            let Some(flushed) = sender.flushed else { continue };
            if let Some(priority) = self.priority(&sender.config, j) {
                counted[count] = (priority, flushed, j);
                count += 1;
            }
        }
        let counted = &mut counted[..count];
        let mut upto = 0;
        for (j, sender) in tree.senders.iter().enumerate() {
            let Some(sender) = sender.as_ref().filter(|s| s.flushed.is_some()) else { continue };
            let config = &sender.config;
            let w = config.w as usize;
            if w == 0 || w > counted.len() || !counted.iter().any(|c| c.2 == j) {
                continue;
            }
            let position = if config.order.is_empty() {
                counted.sort_unstable_by_key(|c| std::cmp::Reverse(c.1));
                counted[w - 1].1
            } else {
                counted.sort_unstable_by_key(|c| (c.0, c.2));
                let first = &counted[..w];
                if !first.iter().any(|c| c.2 == j) {
                    continue;
                }
                first.iter().map(|c| c.1).min().unwrap_or(0)
            };
            upto = upto.max(position);
        }
        upto
    }

    /// The place of a member in a configuration; `None` where it does not count.
    fn priority(&self, config: &SyncConfig, j: usize) -> Option<u32> {
        let name = &self.members[j].name;
        if config.order.is_empty() {
            return config.members.contains(name).then_some(1);
        }
        config.order.iter().position(|n| n == name).map(|p| p as u32 + 1)
    }

    /// New processes run with this configuration; those that run read it soon.
    pub(super) fn write_config(&mut self, m: usize, config: SyncConfig) {
        let config = Rc::new(config);
        let tree = &mut self.members[m].tree;
        if tree.config.seq == config.seq {
            return;
        }
        tree.config = config;
        let senders: Vec<(usize, u32)> = tree
            .senders
            .iter()
            .enumerate()
            .filter_map(|(j, s)| Some((j, s.as_ref()?.session)))
            .collect();
        for (j, session) in senders {
            // A walsender that cannot send is stuck until it is ended.
            let stuck = !self.net.open(m, j);
            let after = if stuck { 150 * MS } else { self.pace.within(1, 30) * MS };
            self.later(m, after, Server::Reload { of: j as u8, session });
        }
        let after = self.pace.within(1, 60) * MS;
        self.later(m, after, Server::Defined);
    }

    /// A walsender runs with the configuration of now, or is ended so that its successor does.
    pub(super) fn reload_sender(&mut self, m: usize, j: usize, session: u32) {
        let stuck = !self.net.open(m, j);
        let ended = stuck || self.pace.one_in(3);
        let tree = &mut self.members[m].tree;
        let config = tree.config.clone();
        let Some(sender) = tree.senders[j].as_mut().filter(|s| s.session == session) else {
            return;
        };
        if ended {
            tree.senders[j] = None;
            self.close_far_end(m, j, session);
        } else {
            sender.config = config;
        }
        self.acknowledge(m);
        self.look_at_barrier(m);
    }

    /// Begins a barrier for the configuration that is written.
    pub(super) fn begin_barrier_of(&mut self, m: usize) {
        let tree = &mut self.members[m].tree;
        tree.barrier = Some(Barrier { config: tree.config.clone(), at: None, passed: false });
        self.look_at_barrier(m);
    }

    /// Whether the barrier under way holds now.
    pub(super) fn look_at_barrier(&mut self, m: usize) {
        let tree = &self.members[m].tree;
        let Some(barrier) = tree.barrier.as_ref().filter(|b| !b.passed) else { return };
        let seq = barrier.config.seq;
        let left_out = match tree.open {
            true => without(Mutant::ChangeEndsUnconfirmed),
            false => without(Mutant::NoBarrier),
        };
        if !left_out {
            let refreshed = tree.senders.iter().flatten().all(|s| s.config.seq == seq)
                && tree.defined == (barrier.config.w > 0);
            if !refreshed || tree.config.seq != seq {
                return;
            }
            let Some(at) = barrier.at else {
                self.members[m].dir.log.end += 1;
                let at = self.members[m].dir.log.end;
                if let Some(barrier) = &mut self.members[m].tree.barrier {
                    barrier.at = Some(at);
                }
                return self.flush_soon(m);
            };
            if self.members[m].dir.flushed < at {
                return;
            }
            let confirmed = tree.senders.iter().enumerate().filter(|(j, s)| {
                s.as_ref().is_some_and(|s| s.flushed.is_some_and(|f| f >= at))
                    && barrier.config.members.contains(&self.members[*j].name)
            });
            if confirmed.count() < barrier.config.w as usize {
                return;
            }
        }
        if let Some(barrier) = &mut self.members[m].tree.barrier {
            barrier.passed = true;
            // Its record is nobody's write.
            let own = u64::from(barrier.at.is_some());
            self.counts.acknowledged = self.counts.acknowledged.saturating_sub(own);
        }
        self.work_goes_on(m);
    }
}
