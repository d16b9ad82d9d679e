//! What can happen next in a state: proposals that are agreed on, steps of members, WAL that
//! flows, clients that write, and faults.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::act;
use super::agreed::{Kind, Told};
use super::bounds::{Bounds, Choice, MEMBERS_MAX, Twist};
use super::log::Log;
use super::oracle;
use super::state::{Bad, Mark, Member, Run, Sender, State, name};
use super::tables::{Cluster, Tables};
use crate::domain::lineage::Relation;
use crate::domain::mutant::{Mutant, without};
use crate::domain::types::{Epoch, Lsn};

/// What happened, for a reader.
#[derive(Clone, PartialEq)]
pub enum Label {
    /// A proposal was agreed on.
    Agreed(Arc<str>),
    /// A member did something.
    Member(usize, &'static str),
    /// A member did something with a number.
    Numbered(usize, &'static str, u8),
    /// A member did something with another.
    With(usize, &'static str, usize),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label::Agreed(text) => write!(f, "{text}"),
            Label::Member(i, what) => write!(f, "{} {what}", name(*i)),
            Label::Numbered(i, what, n) => write!(f, "{} {what} {n}", name(*i)),
            Label::With(i, what, j) => write!(f, "{} {what} {}", name(*i), name(*j)),
        }
    }
}

/// The model: its bounds, and the tables that its states refer to.
pub struct World {
    /// How far.
    pub bounds: Bounds,
    /// What states refer to by number. One thread at a time.
    pub tables: Mutex<Tables>,
    initial: State,
}

/// The states that can follow one, as they are found.
pub struct Next<'a> {
    pub bounds: &'a Bounds,
    pub tables: &'a mut Tables,
    pub from: &'a State,
    pub found: Vec<(Label, State)>,
    /// Whether what is found now is a fault.
    pub faulty: Vec<bool>,
    fault: bool,
}

impl Next<'_> {
    /// A state that follows, where it is another.
    pub fn add(&mut self, label: Label, mut state: State) {
        oracle::settle(self.bounds, self.tables, &mut state);
        if state != *self.from && self.found.iter().all(|(_, s)| *s != state) {
            self.found.push((label, state));
            self.faulty.push(self.fault);
        }
    }

    /// The same, by a fault.
    pub fn add_fault(&mut self, label: Label, state: State) {
        let fault = std::mem::replace(&mut self.fault, true);
        self.add(label, state);
        self.fault = fault;
    }
}

impl World {
    /// The model at its beginning.
    pub fn new(bounds: Bounds) -> Self {
        let mut tables = Tables::new(&bounds);
        let mut state = State { cluster: tables.initial(), ..State::default() };
        for (i, member) in state.members.iter_mut().enumerate().take(bounds.members) {
            // The first has made the data, and nobody has led it; the others have copied it.
            member.log = Log::initial();
            member.present = true;
            (member.held, member.ended) = if i == 0 { (1, 1) } else { (0, 0) };
        }
        for member in state.members.iter_mut().skip(bounds.members) {
            member.lost = true;
        }
        oracle::settle(&bounds, &mut tables, &mut state);
        let mut world = Self { bounds, tables: Mutex::new(tables), initial: state };
        if !world.bounds.fresh {
            world.initial = world.led();
            for _ in 0..world.bounds.ahead {
                world.initial = world.written();
            }
        }
        let first_views = world.initial.members.map(|m| m.view);
        world.lock().first_views = first_views;
        world
    }

    /// The state in which the first member is active in epoch 2 and all others follow: reached by
    /// the model's own steps.
    fn led(&self) -> State {
        let mut state = self.initial;
        let everybody = self.bounds.members;
        for _ in 0..200 {
            let cluster = self.lock().cluster(state.cluster).clone();
            let open = matches!(state.members[0].run, Run::Primary { open: true, .. });
            let streams = |m: &Member| {
                matches!(m.run, Run::Following { .. }) && m.log == state.members[0].log
            };
            if cluster.active && open && state.members[1..everybody].iter().all(streams) {
                return state;
            }
            let calm = |label: &Label| match label {
                Label::Agreed(text) => {
                    !text.contains("closed")
                        && !text.contains("operator")
                        && !text.contains("changing")
                        && (cluster.open || text.starts_with("agreed: a"))
                }
                Label::Member(_, what) | Label::Numbered(_, what, _) => *what != "writes",
                Label::With(..) => true,
            };
            let next = self.next(&state);
            // With all that answer as evidence, so that the first configuration is the wished one.
            let chosen = next.into_iter().filter(|(_, _, fault)| !fault).find(|(l, _, _)| calm(l));
            match chosen {
                Some((_, to, _)) => state = to,
                None => break,
            }
        }
        panic!("the beginning is not reached: {state:?}");
    }

    /// The beginning, after a write of the first member that has gone nowhere yet.
    fn written(&self) -> State {
        let writes = |label: &Label| *label == Label::Member(0, "writes");
        let found = self.next(&self.initial).into_iter().find(|(label, _, _)| writes(label));
        found.map_or(self.initial, |(_, to, _)| to)
    }

    /// The beginning.
    pub fn beginning(&self) -> State {
        self.initial
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether a member is primary, open for writes, and everybody agrees.
    pub fn healed(&self, s: &State) -> bool {
        let tables = self.lock();
        let cluster = tables.cluster(s.cluster);
        let run = s.members[cluster.holder].run;
        let opened =
            matches!(run, Run::Primary { epoch, open: true, .. } if epoch == cluster.epoch);
        cluster.open && cluster.active && opened
    }

    /// Whether the bounds allow no further epoch, or no further change where there were some.
    pub fn at_the_bound(&self, s: &State) -> bool {
        let changed = self.bounds.changes > 0 && s.changes >= self.bounds.changes;
        let lost = |m: &&Member| m.lost || !m.present || m.mark != Mark::Intact;
        let left = s.members[..self.bounds.members].iter().filter(lost).count();
        let hopeless = self.bounds.forgiving && left * 2 > self.bounds.members;
        changed || hopeless || self.lock().cluster(s.cluster).epoch >= self.bounds.last_epoch
    }

    /// Every state that can follow, how, and whether that is a fault.
    pub fn next(&self, state: &State) -> Vec<(Label, State, bool)> {
        if state.bad != Bad::No {
            return Vec::new();
        }
        let mut tables = self.lock();
        let mut next = Next {
            bounds: &self.bounds,
            tables: &mut tables,
            from: state,
            found: Vec::new(),
            faulty: Vec::new(),
            fault: false,
        };
        next.agreements();
        for i in 0..self.bounds.members {
            if !state.members[i].lost {
                next.member(i);
            }
        }
        next.fault = true;
        if state.faults < self.bounds.faults {
            for i in 0..self.bounds.members {
                if !state.members[i].lost {
                    next.faults(i);
                }
            }
        }
        let Next { found, faulty, .. } = next;
        found.into_iter().zip(faulty).map(|((l, s), f)| (l, s, f)).collect()
    }
}

impl Next<'_> {
    fn agreements(&mut self) {
        let s = *self.from;
        let mut evidence = [0; MEMBERS_MAX];
        for (i, member) in s.members.iter().enumerate() {
            evidence[i] = member.evidence;
        }
        let mut streaming = [false; MEMBERS_MAX];
        if self.bounds.choice == Choice::Planned {
            let Cluster { holder, active, .. } = *self.tables.cluster(s.cluster);
            for (i, member) in s.members.iter().enumerate() {
                streaming[i] = match self.bounds.patient && !active {
                    true => !member.lost && i != holder,
                    false => member.mark == Mark::Intact && oracle::streams(&s, i, holder),
                };
            }
        }
        let told = Told {
            cluster: s.cluster,
            promotion: s.told_promotion,
            confirmed: s.told_confirmed,
            evidence,
            streaming,
            may_change: s.changes < self.bounds.changes,
            may_operate: s.operations < self.bounds.operations,
        };
        let proposals = self.tables.proposals(told);
        for proposal in proposals.iter() {
            let mut to = s;
            to.cluster = proposal.to;
            match proposal.kind {
                Kind::Change => to.changes += 1,
                Kind::Operation => to.operations += 1,
                Kind::Close | Kind::Step => {}
            }
            // The end of an epoch that a healthy member holds is a fault of clocks or messages.
            let fault = self.fault;
            self.fault = fault || proposal.kind == Kind::Operation || self.healthy(proposal.kind);
            self.add(Label::Agreed(proposal.text.clone()), to);
            self.fault = fault;
        }
    }

    fn healthy(&self, kind: Kind) -> bool {
        let cluster = self.tables.cluster(self.from.cluster);
        let holder = &self.from.members[cluster.holder];
        kind == Kind::Close
            && !holder.lost
            && holder.guard == cluster.guard
            && holder.ended < cluster.epoch
    }

    fn member(&mut self, i: usize) {
        let s = *self.from;
        let member = s.members[i];
        let news = self.tables.cluster(s.cluster).views[i];
        if member.view != news {
            let mut to = s;
            to.members[i].view = news;
            self.add(Label::Member(i, "hears what is agreed"), to);
        }
        let step = self.tables.step(i, &member);
        act::act(self, i, &step);
        match member.run {
            Run::Following { source, .. } => {
                self.stream(i, usize::from(source));
                for other in 0..self.bounds.members {
                    if self.bounds.cascade && other != usize::from(source) {
                        self.stream(i, other);
                    }
                }
            }
            Run::Primary { promoted: true, .. } => self.lead(i),
            Run::Sealed { .. } if without(Mutant::NoSeal) => {
                for p in 0..self.bounds.members {
                    if s.members[p].primary() == Some(member.followed) {
                        self.stream(i, p);
                    }
                }
            }
            _ => {}
        }
    }

    /// A standby connects, and takes WAL.
    fn stream(&mut self, i: usize, source: usize) {
        let s = *self.from;
        let (member, from) = (s.members[i], s.members[source]);
        if source == i || from.lost || !can_stream(self.bounds, &member, &from) {
            return;
        }
        let followed =
            matches!(member.run, Run::Following { source: s, .. } if usize::from(s) == source);
        if followed && from.primary().is_some() && from.senders[i].config == 0 {
            let mut to = s;
            connect(self.bounds, &mut to, i, source);
            self.add(Label::With(i, "connects to", source), to);
            return;
        }
        for len in member.log.len() + 1..=from.log.len() {
            let mut to = s;
            to.members[i].log = member.log.continued(from.log, len);
            if to.members[source].senders[i].config != 0 && self.bounds.half_open {
                to.members[source].senders[i].flushed = len;
            }
            self.add(Label::Numbered(i, "has flushed up to", len), to);
        }
    }

    /// What happens on a primary by itself.
    fn lead(&mut self, i: usize) {
        let s = *self.from;
        if s.writes < self.bounds.writes {
            let mut to = s;
            to.writes += 1;
            let log = s.members[i].log;
            to.members[i].log = log.with_write(log.epoch(), to.writes);
            self.add(Label::Member(i, "writes"), to);
        }
        for j in 0..self.bounds.members {
            let sender = s.members[i].senders[j];
            if sender.config == 0 {
                continue;
            }
            if sender.config != s.members[i].config {
                let mut to = s;
                to.members[i].senders[j].config = s.members[i].config;
                self.add(Label::With(i, "has the new setting in the walsender of", j), to);
            }
            if self.bounds.half_open && !oracle::streams(&s, j, i) {
                let mut to = s;
                to.members[i].senders[j] = Sender::default();
                self.add(Label::With(i, "loses the walsender of", j), to);
            }
        }
    }

    fn faults(&mut self, i: usize) {
        let mut s = *self.from;
        s.faults += 1;
        let member = s.members[i];
        let runs = member.run != Run::Down;
        if self.bounds.crash && runs {
            let mut to = s;
            if self.bounds.without(Twist::ReopensAfterCrash)
                && let Run::Primary { epoch, promoted: true, open: true, .. } = member.run
            {
                // It recovers by itself, and shows whatever it had written.
                to.seen |= member.log.writes_of(epoch, member.log.len());
                to.members[i].senders = Default::default();
            } else {
                to.members[i].stop();
            }
            if self.bounds.without(Twist::VolatilePromise) {
                to.members[i].promised = 0;
            }
            self.add(Label::Member(i, "crashes"), to);
            if self.bounds.without(Twist::VolatilePromise)
                || self.bounds.without(Twist::OldViewAfterCrash)
            {
                to.members[i].view = self.first_view(i);
                self.add(Label::Member(i, "crashes, and hears old news"), to);
            }
        }
        if self.bounds.wipe && member.present {
            let mut to = s;
            to.members[i].stop();
            to.members[i].log = Log::default();
            to.members[i].present = false;
            self.add(Label::Member(i, "loses its data directory"), to);
        }
        if self.bounds.wipe_all && (member.present || member.promised > 0) {
            let mut to = s;
            // It knows nothing, and is told first what a quorum confirms.
            let view = self.tables.cluster(s.cluster).views[i];
            let Member { evidence, .. } = member;
            to.members[i] = Member { view, evidence, ..Member::default() };
            self.add(Label::Member(i, "loses its data directory and its record"), to);
            if member.present {
                let (log, present, mark) = (member.log, true, Mark::Copied(0));
                to.members[i] = Member { view, evidence, log, present, mark, ..Member::default() };
                self.add(Label::Member(i, "loses its record"), to);
            }
        }
        if self.bounds.lose {
            let mut to = s;
            to.members[i].stop();
            to.members[i] = Member { lost: true, evidence: member.evidence, ..Member::default() };
            self.add(Label::Member(i, "is lost for good"), to);
        }
    }

    fn first_view(&self, i: usize) -> u16 {
        // Of the cluster at the beginning of the exploration.
        self.tables.first_views[i]
    }
}

/// Whether PostgreSQL takes the standby's log for a prefix of the source's.
pub fn can_stream(bounds: &Bounds, member: &Member, from: &Member) -> bool {
    let epoch = match member.run {
        Run::Following { epoch, .. } => epoch,
        _ => member.followed,
    };
    let right = from.primary() == Some(epoch);
    let cascades = bounds.cascade && from.run != Run::Down && from.mark == Mark::Intact;
    if !(right || cascades) || from.log.len() < member.log.len() {
        return false;
    }
    let own = member.log;
    let lsn = Lsn(u64::from(own.len()));
    let wal_epoch = Epoch(u64::from(own.epoch()));
    // By numbers of timelines, which is all that it knows.
    let lineage = from.log.lineage();
    own.len() == 0 || lineage.relation_of(&own.lineage(), wal_epoch, lsn) == Relation::Prefix
}

/// A walsender for the standby, with the setting that is in force.
pub fn connect(bounds: &Bounds, s: &mut State, i: usize, source: usize) {
    let flushed = if bounds.half_open { s.members[i].log.len() } else { 0 };
    let config = s.members[source].config;
    s.members[source].senders[i] = Sender { config, flushed };
}

/// Connects where that is possible at once.
pub fn connect_if_possible(bounds: &Bounds, s: &mut State, i: usize, source: usize) {
    let (member, from) = (s.members[i], s.members[source]);
    if source != i && from.primary().is_some() && can_stream(bounds, &member, &from) {
        connect(bounds, s, i, source);
    }
}
