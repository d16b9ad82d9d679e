//! Coming to rest once faults have ended, within a bound: by itself, or, where the plan allows for
//! that, once the operator has accepted a loss.

use super::clock::{Micros, SECOND};
use super::oracle::{HEALS, HEEDS};
use super::server::Role;
use super::world::World;
use crate::domain::command::Change;
use crate::domain::record::DataMark;

/// How long it may take until it is at rest: crashes are remembered for two minutes.
const HEAL: Micros = 300 * SECOND;
/// How long after that an operator who accepts a loss may take.
const HELP: Micros = 300 * SECOND;

/// Waits until the cluster is at rest without those who are lost for good; with `help`, the operator
/// gives a word in the end.
pub(super) fn come_to_rest(world: &mut World, help: bool, without: &[usize]) {
    let begun = world.now;
    let mut step = 0;
    while world.broken.is_none() {
        let waited = world.now - begun;
        if step % 4 == 0 {
            world.take_back_settings();
        }
        if world.healed(without) {
            if waited > HEAL {
                world.counts.helped += 1;
            }
            return;
        }
        if waited > HEAL && !help || waited > HEAL + HELP {
            let found = world.state_of_things();
            return world.fail(if help { HEEDS } else { HEALS }, found);
        }
        if waited > HEAL && step % 40 == 0 {
            let expect_epoch = world.raft.agreed().epoch;
            let by = "operator".to_owned();
            let (target, accept_data_loss) = (None, true);
            let change = Change::StartFailover { expect_epoch, target, accept_data_loss, by };
            world.operate(change, true);
        }
        step += 1;
        let next = world.now + SECOND / 2;
        world.run_until(next);
    }
}

impl World {
    /// Whether a primary is open, and every other member follows it and counts; but for those that
    /// are lost for good.
    fn healed(&self, without: &[usize]) -> bool {
        let agreed = self.raft.agreed();
        let Some(primary) = agreed.active_primary().and_then(|p| self.index(p)) else {
            return false;
        };
        let tree = &self.members[primary].tree;
        let follows = |m: usize| {
            let member = &self.members[m];
            let counts = member.record.data == DataMark::Intact;
            let of = member.tree.receiver.as_ref().is_some_and(|r| r.source == primary);
            of && counts && member.tree.role == Role::Standby
        };
        tree.runs()
            && tree.open
            && tree.primary() == Some(agreed.epoch)
            && agreed.operation.is_none()
            && agreed.syncs.len() == 1
            && (0..self.members.len()).all(|m| m == primary || without.contains(&m) || follows(m))
    }
}
