//! The last act of a run: members are lost for good at a bad moment of a takeover, and whoever is
//! left has all that it needs.

use super::clock::{MS, Micros, SECOND};
use super::queue::{Ev, Server};
use super::rest::come_to_rest;
use super::rng::Rng;
use super::schedule::SpecChange;
use super::setup::Class;
use super::world::World;
use crate::domain::record::DataMark;
use crate::domain::state::ClusterState;
use crate::domain::sync::SyncConfig;

/// How long the moment of an act is waited for.
const MOMENT: Micros = 20 * SECOND;

/// One of the acts, where the cluster is such that its promise holds.
pub(super) fn last_act(world: &mut World) {
    let agreed = world.raft.agreed().clone();
    let waits = agreed.syncs.iter().all(|c| c.w > 0);
    let Some(primary) = agreed.active_primary().and_then(|p| world.index(p)) else { return };
    let setup = world.setup.clone();
    if world.broken.is_some() || setup.class != Class::Bounded || setup.members < 3 || !waits {
        return;
    }
    let mut rng = Rng::stream(setup.seed, 9);
    let one_of_two = agreed.spec.write_quorum_min == 1 && one_of_two_confirms(&agreed);
    match rng.below(8) {
        0 if one_of_two => only_the_grantee_is_left(world, primary, &mut rng),
        1 if one_of_two => only_who_confirmed_is_left(world, primary, &mut rng),
        2 | 3 if one_of_two => successor_is_lost(world, primary, &mut rng),
        _ => lose_one_for_good(world, primary, &mut rng),
    }
}

/// Whether there are three members, and a commit waits for one of both standbys.
fn one_of_two_confirms(agreed: &ClusterState) -> bool {
    let of_two = |c: &SyncConfig| c.w == 1 && c.members.len() == 2;
    agreed.members.len() == 3 && agreed.syncs.iter().all(of_two)
}

/// Runs until something holds, looking every `every`; whether it came to hold.
fn run_until_it(world: &mut World, every: Micros, holds: impl Fn(&World) -> bool) -> bool {
    let end = world.now + MOMENT;
    while world.broken.is_none() && world.now < end {
        if holds(world) {
            return true;
        }
        let next = world.now + every;
        world.run_until(next);
    }
    false
}

/// The member of the highest epoch, where that is above `above`.
fn grantee(world: &World, above: u64) -> Option<usize> {
    let agreed = world.raft.agreed();
    let tenure = agreed.tenure.as_ref().filter(|t| t.epoch.0 > above)?;
    world.index(&tenure.member)
}

/// The operator lets a single member go on alone, until that is agreed on; not before the epoch of
/// the one that is lost is closed, which could be made asynchronous by that.
fn let_one_go_on(world: &mut World) {
    let closed = |w: &World| w.raft.agreed().tenure.as_ref().is_some_and(|t| t.closed.is_some());
    if !run_until_it(world, 50 * MS, closed) {
        return;
    }
    for _ in 0..60 {
        if world.broken.is_some() || world.raft.agreed().spec.write_quorum_min == 0 {
            return;
        }
        world.change_spec(SpecChange::Floor(0));
        let next = world.now + SECOND / 2;
        world.run_until(next);
    }
}

/// Of three, whoever was granted the next epoch loses power that moment, perhaps before it has heard
/// of it, and the two others are lost for good: it was the best of a read quorum, and is enough.
fn only_the_grantee_is_left(world: &mut World, primary: usize, rng: &mut Rng) {
    world.story.tell(world.now, || "only the one that is granted the next epoch stays".to_owned());
    let epoch = world.raft.agreed().epoch.0;
    world.crash_postmaster(primary);
    if !run_until_it(world, 200, |w| grantee(w, epoch).is_some()) {
        return;
    }
    let Some(left) = grantee(world, epoch) else { return };
    let heard = world.now + if rng.one_in(2) { 0 } else { rng.below(20 * MS) };
    world.run_until(heard);
    if grantee(world, epoch) != Some(left) || !world.power_off(left) {
        return;
    }
    let others: Vec<usize> = (0..world.members.len()).filter(|m| *m != left).collect();
    for m in &others {
        world.lose_for_good(*m);
    }
    let back = world.now + rng.within(500, 8000) * MS;
    world.run_until(back);
    world.power_on(left);
    let_one_go_on(world);
    come_to_rest(world, false, &others);
}

/// Of three, the primary is lost for good, and its successor as soon as it has acknowledged a write
/// of its own epoch, active or not: the last one has confirmed that, and so has all there is.
fn only_who_confirmed_is_left(world: &mut World, primary: usize, rng: &mut Rng) {
    world.story.tell(world.now, || "only the one that confirms first stays".to_owned());
    let epoch = world.raft.agreed().epoch.0;
    if rng.one_in(2) {
        let leader = world.raft_leader().unwrap_or(0);
        world.machines[leader].tasks_us = rng.within(200, 2000) * MS;
    }
    world.lose_for_good(primary);
    let writes = |w: &World| {
        (0..w.members.len()).find(|m| w.members[*m].tree.primary().is_some_and(|e| e.0 > epoch))
    };
    if run_until_it(world, 500, |w| writes(w).is_some())
        && let Some(next) = writes(world)
    {
        for after in [0, 1, 3, 10, 30, 100, 300] {
            let what = Server::Burst;
            let at = world.now + after * MS;
            world.queue.put(at, Ev::Server { member: next as u8, life: 0, what });
        }
        let start = world.members[next].tree.acknowledged;
        let told = |w: &World| w.members[next].tree.acknowledged > start;
        if run_until_it(world, 300, |w| told(w) || writes(w) != Some(next)) && told(world) {
            world.lose_for_good(next);
            let leader = world.machines.iter_mut();
            leader.for_each(|m| m.tasks_us = 0);
            let_one_go_on(world);
            return come_to_rest(world, false, &[primary, next]);
        }
    }
    world.machines.iter_mut().for_each(|m| m.tasks_us = 0);
}

/// Of three, the primary crashes with writes that nobody has, and comes back; its successor is lost
/// for good before it reaches the third. The old primary has what it acknowledged, and stays.
fn successor_is_lost(world: &mut World, primary: usize, rng: &mut Rng) {
    world.story.tell(world.now, || "the successor will be lost for good".to_owned());
    let epoch = world.raft.agreed().epoch.0;
    let begun = world.now;
    let others: Vec<usize> = (0..world.members.len()).filter(|m| *m != primary).collect();
    for m in &others {
        world.net.cut(primary, *m, true);
    }
    for _ in 0..4 {
        let at = begun + rng.below(30 * MS);
        let what = Server::Burst;
        world.queue.put(at, Ev::Server { member: primary as u8, life: 0, what });
    }
    world.run_until(begun + 50 * MS);
    world.crash_postmaster(primary);
    for m in &others {
        world.net.cut(primary, *m, false);
    }
    world.review = true;
    if !run_until_it(world, MS, |w| grantee(w, epoch).is_some()) {
        return;
    }
    let Some(next) = grantee(world, epoch).filter(|g| *g != primary) else { return };
    let third = others.iter().copied().find(|m| *m != next).unwrap_or(primary);
    world.net.cut(next, third, true);
    world.net.cut(third, next, true);
    world.review = true;
    // The planner does not change who confirms before two seconds have passed.
    let lost = world.now + rng.within(50, 1900) * MS;
    world.run_until(lost);
    world.lose_for_good(next);
    let later = world.now + rng.within(500, 3000) * MS;
    world.run_until(later);
    world.net.cut(next, third, false);
    world.net.cut(third, next, false);
    world.review = true;
    come_to_rest(world, false, &[next]);
}

/// A takeover in which one member is lost for good: the others have all that they need, whatever
/// moment that is.
fn lose_one_for_good(world: &mut World, primary: usize, rng: &mut Rng) {
    let agreed = world.raft.agreed().clone();
    let members = world.members.len();
    let begun = world.now;
    world.story.tell(begun, || "one member will be lost for good".to_owned());
    // The primary is away for a moment, and perhaps somebody confirms late.
    let back = begun + rng.within(200, 3000) * MS;
    let power = rng.one_in(2);
    if power {
        world.power_off(primary);
    } else {
        world.crash_postmaster(primary);
    }
    let slow = rng.below(members as u64) as usize;
    if rng.one_in(2) {
        world.machines[slow].slow_us += rng.within(500, 4000) * MS;
    }
    let lost_at = begun + rng.within(50, 5000) * MS;
    if lost_at < back {
        world.run_until(lost_at);
    }
    let mut lost = None;
    for at in [lost_at.min(back), back.max(lost_at)] {
        world.run_until(at);
        if at >= lost_at && lost.is_none() {
            let agreed = world.raft.agreed().clone();
            let holder = agreed.tenure.as_ref().and_then(|t| world.index(&t.member));
            let other = rng.below(members as u64) as usize;
            let who = holder.filter(|_| rng.below(4) > 0).unwrap_or(other);
            // Nobody can do anything about the loss of the last whole data.
            if world.others_are_whole(who) {
                world.power_off(who);
                lost = Some(who);
                let called = world.called(who);
                world.story.tell(world.now, || format!("{called} is lost for good"));
            }
        }
        if at >= back && power && lost != Some(primary) {
            world.power_on(primary);
        }
    }
    let later = world.now + rng.within(1000, 6000) * MS;
    world.run_until(later);
    world.machines[slow].slow_us = 0;
    // With more members, or where others have to confirm, one that was being rewound to the lost one
    // may be missing too: then the operator has to say so.
    let replacing = world.members.iter().any(|m| m.record.data != DataMark::Intact);
    let small = one_of_two_confirms(&agreed);
    // Where the operator allows a primary to go on alone, nobody else may have what it wrote.
    let may_be_alone = agreed.spec.write_quorum_min == 0;
    let lost: Vec<usize> = lost.into_iter().collect();
    come_to_rest(world, may_be_alone || replacing && !small, &lost);
}
