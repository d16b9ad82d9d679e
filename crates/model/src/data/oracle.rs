//! What was promised to clients, and whether it is kept; and the one form of each state.

use super::bounds::Bounds;
use super::log::Log;
use super::state::{Bad, Run, Sender, State};
use super::tables::Tables;
use crate::domain::mutant::{Mutant, without};

/// Whether `standby` is connected to `primary` and takes its WAL.
pub fn streams(s: &State, standby: usize, primary: usize) -> bool {
    let member = &s.members[standby];
    let connected = s.members[primary].senders[standby].config != 0;
    let takes = match member.run {
        Run::Following { source, .. } => usize::from(source) == primary,
        Run::Sealed { .. } => {
            without(Mutant::NoSeal) && s.members[primary].primary() == Some(member.followed)
        }
        _ => false,
    };
    connected && takes
}

/// Brings a state to its one form, and judges it.
pub fn settle(bounds: &Bounds, tables: &mut Tables, s: &mut State) {
    drop_senders(bounds, s);
    acknowledge(bounds, tables, s);
    forget(tables, s);
    s.bad = judge(tables, s);
}

fn drop_senders(bounds: &Bounds, s: &mut State) {
    for p in 0..bounds.members {
        for j in 0..bounds.members {
            let gone = s.members[p].primary().is_none() || s.members[j].lost;
            let deaf = !bounds.half_open && !streams(s, j, p);
            if gone || deaf {
                s.members[p].senders[j] = Sender::default();
            }
        }
    }
}

/// Every write that PostgreSQL would acknowledge is acknowledged at once. A walsender takes W from
/// its own setting, and whether the others count from what each of them says of itself.
pub fn acknowledge(bounds: &Bounds, tables: &Tables, s: &mut State) {
    for p in 0..bounds.members {
        let primary = s.members[p];
        let Run::Primary { promoted: true, .. } = primary.run else { continue };
        let epoch = primary.log.epoch();
        let own = primary.log.writes_of(epoch, primary.log.len());
        if own & !s.acknowledged == 0 {
            continue;
        }
        let mut flushed: Vec<u8> = Vec::new();
        let mut asked: Vec<usize> = Vec::new();
        if tables.config(primary.config).0 == 0 {
            asked.push(0);
        }
        for (j, sender) in primary.senders.iter().enumerate() {
            let (w, members) = tables.config(sender.config);
            if sender.config == 0 {
                continue;
            }
            if w == 0 {
                asked.push(0);
            } else if members[j] {
                let live = streams(s, j, p);
                let len = if live { s.members[j].log.len() } else { sender.flushed };
                flushed.push(len);
                asked.push(w);
            }
        }
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        for w in asked {
            let upto = match w {
                0 => primary.log.len(),
                w => flushed.get(w - 1).copied().unwrap_or(0),
            };
            s.acknowledged |= primary.log.writes_of(epoch, upto);
        }
    }
}

/// What cannot decide anything any more is forgotten.
fn forget(tables: &Tables, s: &mut State) {
    let cluster = tables.cluster(s.cluster);
    if !cluster.open || cluster.promoted || cluster.active {
        s.told_promotion = Log::default();
    }
    if !cluster.open {
        s.told_confirmed = 0;
    }
    for member in &mut s.members {
        if member.evidence != 0 && tables.promise_of(member.evidence) <= cluster.epoch {
            member.evidence = 0;
        }
        if member.ended < member.promised {
            member.ended = 0;
        }
        // No configuration of that epoch or an older one is in force, nor can be again.
        if member.held < cluster.oldest_sync
            && member.held < cluster.epoch
            && !matches!(member.run, Run::Primary { .. })
            && !without(Mutant::AnyHolderCovers)
        {
            member.held = 0;
        }
    }
}

fn judge(tables: &Tables, s: &mut State) -> Bad {
    let cluster = tables.cluster(s.cluster);
    if cluster.broken {
        return Bad::Invariant;
    }
    for (i, a) in s.members.iter().enumerate() {
        if s.members[..i].iter().any(|b| a.log.forks_from(b.log)) {
            return Bad::Fork;
        }
    }
    if !cluster.active {
        return Bad::No;
    }
    let primary = &s.members[cluster.holder];
    if primary.primary() != Some(cluster.epoch) {
        return Bad::No;
    }
    let has = primary.log.writes();
    if s.acknowledged & !has != 0 {
        return Bad::AcknowledgedLost;
    }
    if s.seen & !has != 0 {
        return Bad::SeenLost;
    }
    // A session reads what was there before the promotion; of what came after, what was
    // acknowledged, which is remembered anyway.
    s.seen |= has & !primary.log.writes_of(primary.log.epoch(), primary.log.len());
    Bad::No
}
