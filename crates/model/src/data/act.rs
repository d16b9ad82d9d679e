//! Members carry out what production's `reconcile` asks of them, as the agent's worker does.
//!
//! A step is whole where the points between its parts are reached in other ways too: a crash after
//! the record was written and before the effect is a step that a crash follows.

use super::asked::Step;
use super::bounds::Twist;
use super::log::Log;
use super::oracle;
use super::state::{Mark, Run, Sender, State};
use super::world::{Label, Next, can_stream, connect_if_possible};
use crate::domain::mutant::{Mutant, without};

/// Carries a step out.
pub fn act(next: &mut Next<'_>, i: usize, step: &Step) {
    let mut to = *next.from;
    match *step {
        Step::Nothing => {}
        Step::End => {
            to.members[i].stop();
            next.add(Label::Member(i, "ends its epoch"), to);
        }
        Step::Disown(epoch) => {
            let member = &mut to.members[i];
            member.ended = member.ended.max(epoch);
            next.add(Label::Numbered(i, "disowns epoch", epoch), to);
        }
        Step::StartSealed(promise) => {
            let guard = free_guard(next, i);
            to.members[i].guard = guard;
            seal(next, &mut to, i, promise);
            next.add(Label::Numbered(i, "starts sealed for", promise), to);
        }
        Step::Seal(promise) => {
            seal(next, &mut to, i, promise);
            next.add(Label::Numbered(i, "seals for", promise), to);
        }
        Step::Accept(epoch) => {
            let cluster = next.tables.cluster(to.cluster);
            let member = &mut to.members[i];
            member.held = member.held.max(epoch);
            member.promised = member.promised.max(epoch);
            // Nobody closes an epoch and opens it again: a renewal is acknowledged now or never.
            let leased = cluster.open && cluster.epoch == epoch && cluster.guard == member.guard;
            member.run = Run::Primary {
                epoch,
                leased: leased || without(Mutant::NoLease),
                promoted: false,
                open: false,
                confirmed: 0,
            };
            next.add(Label::Numbered(i, "accepts epoch", epoch), to);
        }
        Step::Promote(epoch, config) => promote(next, to, i, epoch, config),
        Step::Confirm(config, list) => confirm(next, to, i, config, list),
        Step::Open(config) => {
            let member = &mut to.members[i];
            if let Run::Primary { open, .. } = &mut member.run {
                *open = true;
            }
            member.config = config;
            next.add(Label::Member(i, "opens for writes"), to);
        }
        Step::HandOver(target) => {
            // In order where the target is there, and killed where it is not.
            let target = usize::from(target);
            if oracle::streams(&to, target, i) {
                to.members[target].log =
                    to.members[target].log.continued(to.members[i].log, to.members[i].log.len());
            }
            oracle::acknowledge(next.bounds, next.tables, &mut to);
            to.members[i].stop();
            next.add(Label::With(i, "hands over to", target), to);
            let mut to = *next.from;
            to.members[i].stop();
            next.add(Label::With(i, "is killed while it hands over to", target), to);
        }
        Step::Follow(epoch, source) => {
            follow(next, &mut to, i, epoch, source);
            next.add(Label::With(i, "follows", usize::from(source)), to);
        }
        Step::StartFollowing(epoch, source) => {
            to.members[i].guard = free_guard(next, i);
            to.members[i].promised = to.members[i].promised.max(epoch);
            follow(next, &mut to, i, epoch, source);
            next.add(Label::With(i, "starts as a follower of", usize::from(source)), to);
        }
        Step::Rewind(epoch, source) => replace(next, i, epoch, usize::from(source), true),
        Step::Clone(epoch, source) => replace(next, i, epoch, usize::from(source), false),
        Step::Care => prove(next, to, i),
    }
}

/// A number for a new life of the guard: the least that nothing refers to.
fn free_guard(next: &Next<'_>, i: usize) -> u8 {
    let member = &next.from.members[i];
    let cluster = next.tables.cluster(next.from.cluster);
    let granted = if cluster.holder == i { cluster.guard } else { 0 };
    let told = if member.evidence == 0 { 0 } else { next.tables.guard_of(member.evidence) };
    let viewed = next.tables.guard_in_view(member.view);
    (1..).find(|n| ![granted, told, viewed, member.guard].contains(n)).unwrap_or(u8::MAX)
}

/// Whether the data counts in quorums.
fn counts(mark: Mark) -> bool {
    mark == Mark::Intact || without(Mutant::ReplacedCounts)
}

/// The promise is recorded, the standby sealed, and its position told.
fn seal(next: &mut Next<'_>, to: &mut State, i: usize, promise: u8) {
    let member = &mut to.members[i];
    member.promised = member.promised.max(promise);
    member.run = Run::Sealed { promise };
    if member.log.epoch() > member.promised {
        // WAL of an epoch that it never promised: nothing of it is trusted.
        member.stop();
        (member.mark, member.held) = (Mark::Replacing, 0);
        return;
    }
    if counts(member.mark) {
        let wal_epoch = if next.bounds.without(Twist::FollowedEpochCounts) {
            member.log.epoch().max(member.followed)
        } else {
            member.log.epoch()
        };
        let (guard, promised, held, log) = (member.guard, member.promised, member.held, member.log);
        member.evidence = next.tables.evidence_id(i, guard, promised, held, wal_epoch, log);
    }
}

fn follow(next: &Next<'_>, to: &mut State, i: usize, epoch: u8, source: u8) {
    let member = &mut to.members[i];
    member.run = Run::Following { epoch, source };
    if next.bounds.without(Twist::FollowedEpochCounts) || without(Mutant::NoSeal) {
        member.followed = epoch;
    }
    connect_if_possible(next.bounds, to, i, usize::from(source));
}

fn promote(next: &mut Next<'_>, mut to: State, i: usize, epoch: u8, config: u16) {
    let asynchronous = next.tables.asynchronous();
    let member = &mut to.members[i];
    let number = match next.bounds.without(Twist::NextFreeTimeline) {
        true => member.log.epoch() + 1,
        false => epoch,
    };
    member.log = member.log.with_start(number);
    member.config = match next.bounds.without(Twist::NamesAfterPromotion) {
        true => asynchronous,
        false => config,
    };
    member.senders = Default::default();
    let log = member.log;
    if let Run::Primary { promoted, .. } = &mut member.run {
        *promoted = true;
    }
    let cluster = next.tables.cluster(to.cluster);
    if cluster.open && cluster.epoch == epoch && cluster.holder == i {
        to.told_promotion = log;
    }
    next.add(Label::Numbered(i, "promotes to", number), to);
}

/// Writes the newest configuration; or, where it is written, takes the barrier if that is possible.
fn confirm(next: &mut Next<'_>, mut to: State, i: usize, config: u16, list: u16) {
    if to.members[i].config != config {
        to.members[i].config = config;
        next.add(Label::Member(i, "writes the newest configuration"), to);
        return;
    }
    let (w, members) = next.tables.config(config);
    let own = to.members[i];
    let Run::Primary { epoch, open, .. } = own.run else { return };
    let senders: Vec<(usize, Sender)> =
        own.senders.iter().copied().enumerate().filter(|(_, s)| s.config != 0).collect();
    let refreshed = senders.iter().all(|(_, s)| s.config == config)
        || next.bounds.without(Twist::BarrierBeforeRefresh);
    let confirmed = senders
        .iter()
        .filter(|(j, _)| members[*j] && oracle::streams(&to, *j, i))
        .filter(|(j, _)| to.members[*j].log.len() >= own.log.len())
        .count();
    let left_out = match open {
        true => without(Mutant::ChangeEndsUnconfirmed),
        false => without(Mutant::NoBarrier),
    };
    if !(left_out || refreshed && confirmed >= w) {
        return;
    }
    if let Run::Primary { confirmed, .. } = &mut to.members[i].run {
        *confirmed = list;
    }
    let cluster = next.tables.cluster(to.cluster);
    if cluster.open && cluster.epoch == epoch && cluster.holder == i {
        to.told_confirmed = list;
    }
    next.add(Label::Member(i, "has confirmed the newest configuration by a barrier"), to);
}

/// Stops, and replaces the data by what the primary has; or is interrupted half-way.
fn replace(next: &mut Next<'_>, i: usize, epoch: u8, source: usize, rewind: bool) {
    let anybody = next.bounds.cascade && !rewind;
    for from in 0..next.bounds.members {
        let data = next.from.members[from];
        let good = from == source && data.primary() == Some(epoch);
        let other = anybody && data.mark == Mark::Intact && data.present && data.run != Run::Down;
        if from == i || data.lost || !(good || other) {
            continue;
        }
        let mut to = *next.from;
        let member = &mut to.members[i];
        member.stop();
        member.promised = member.promised.max(epoch);
        member.held = 0;
        let own = member.log;
        (member.log, member.present) = (Log::default(), true);
        if next.bounds.interrupt && to.faults < next.bounds.faults {
            let mut half = to;
            half.faults += 1;
            half.members[i].mark = Mark::Replacing;
            // What lies there is worth nothing; the beginning of the log may be readable.
            half.members[i].log = data.log.prefix(1);
            next.add_fault(Label::Member(i, "is interrupted while it replaces its data"), half);
        }
        let member = &mut to.members[i];
        member.log = if rewind && good { common(own, data.log) } else { data.log };
        member.mark = match without(Mutant::CopyCountsAtOnce) {
            true => Mark::Intact,
            false => Mark::Copied(epoch),
        };
        let what = if rewind { "is rewound to" } else { "is copied from" };
        next.add(Label::With(i, what, from), to);
    }
}

/// What both logs begin with.
fn common(own: Log, other: Log) -> Log {
    let len = (0..=own.len().min(other.len()))
        .rev()
        .find(|len| own.prefix(*len) == other.prefix(*len))
        .unwrap_or(0);
    own.prefix(len)
}

/// A copy counts once it has flushed past a position that the primary had after it ended. To ask
/// and to have got there at one moment leaves nothing out: the standby could have streamed up to
/// the position before the primary went on.
fn prove(next: &mut Next<'_>, mut to: State, i: usize) {
    let Run::Following { epoch, source } = to.members[i].run else { return };
    let primary = to.members[usize::from(source)];
    let streams = can_stream(next.bounds, &to.members[i], &primary);
    if primary.primary() == Some(epoch) && streams && to.members[i].log.len() >= primary.log.len() {
        to.members[i].mark = Mark::Intact;
        next.add(Label::Member(i, "has proven its copy"), to);
    }
}
