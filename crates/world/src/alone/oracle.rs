//! What clients were told, and whether it is kept. It looks at servers from outside: who can
//! acknowledge, what was acknowledged, what an open primary shows.
//!
//! Writes are known by their branch and their place in it, and so are reads: who opens for writes
//! later has to have all of it.

use super::server::Role;
use super::setup::Class;
use super::wal::Log;
use super::world::World;
use crate::domain::command::{Change, Command, Reply};
use crate::domain::event::EventKind;
use crate::domain::invariants;
use crate::domain::observation::Sealed;
use crate::domain::state::{OperationKind, Outcome};
use crate::domain::sync::SyncConfig;
use crate::domain::types::Epoch;

/// What is known of a branch.
#[derive(Debug, Clone)]
struct Branch {
    epoch: u64,
    start: u64,
    /// Up to where writes were acknowledged.
    acknowledged: u64,
    /// Up to where somebody may have read it on an open primary.
    seen: u64,
    /// Where the operator's word has given up the rest: up to where it was kept.
    kept: Option<u64>,
}

impl Branch {
    /// Up to where everybody who opens has to have it.
    fn needed(&self) -> u64 {
        let upto = self.acknowledged.max(self.seen);
        self.kept.map_or(upto, |kept| kept.min(upto))
    }
}

/// A grant whose proof was waived: what the chosen one has is kept, the rest of what the waived
/// configurations stood for is given up.
#[derive(Debug, Clone)]
struct Waiver {
    epoch: Epoch,
    all: bool,
    /// The configurations in force at that time, and which of them were not covered.
    in_force: Vec<(u64, bool)>,
}

/// The memory of the run's clients.
#[derive(Debug, Default)]
pub struct Oracle {
    branches: Vec<Branch>,
    waivers: Vec<Waiver>,
}

impl Oracle {
    /// The branch that `initdb` begins.
    pub fn first_branch(&mut self) -> u32 {
        self.push(Epoch(1), 0)
    }

    fn push(&mut self, epoch: Epoch, start: u64) -> u32 {
        let branch = Branch { epoch: epoch.0, start, acknowledged: start, seen: start, kept: None };
        self.branches.push(branch);
        self.branches.len() as u32 - 1
    }

    /// A promotion begins a branch at the end of this log. Where the epoch was granted on the
    /// operator's word alone, what the log lacks of the rest is given up now.
    pub fn branch(&mut self, epoch: Epoch, start: u64, log: &Log) -> u32 {
        // Also where whoever was granted it never came to be promoted, or to be open for writes: its
        // own grant is a proof for the next, and what was given up then is not asked for again.
        for waiver in self.waivers.iter().filter(|w| w.epoch <= epoch) {
            for number in 0..self.branches.len() {
                let branch = &self.branches[number];
                // What stood for the writes of this branch: the oldest configuration in force that
                // is not older.
                let guard = waiver.in_force.iter().filter(|(e, _)| *e >= branch.epoch).min();
                let uncovered = waiver.all || guard.is_none_or(|(_, uncovered)| *uncovered);
                if branch.epoch < waiver.epoch.0 && uncovered {
                    // What is acknowledged of it later on, by clocks beyond the bound, is given up
                    // as well.
                    let here = log.upto(number as u32, branch.start);
                    let kept = branch.kept.map_or(here, |kept| kept.min(here));
                    self.branches[number].kept = Some(kept);
                }
            }
        }
        self.push(epoch, start)
    }

    /// Commits of a branch were acknowledged up to here.
    pub fn acknowledged(&mut self, branch: u32, upto: u64) {
        let branch = &mut self.branches[branch as usize];
        branch.acknowledged = branch.acknowledged.max(upto);
    }

    /// What a session reads on an open primary with this log: all of it from before its own
    /// branch.
    fn read(&mut self, log: &Log, own: u32) {
        for (piece, end) in log.spans().filter(|(p, _)| p.branch != own) {
            let branch = &mut self.branches[piece.branch as usize];
            if piece.start == branch.start {
                branch.seen = branch.seen.max(end);
            }
        }
    }

    /// What this log lacks of what was acknowledged or read.
    fn missing(&self, log: &Log) -> Option<String> {
        for (number, branch) in self.branches.iter().enumerate() {
            let upto = branch.needed();
            if upto <= branch.start {
                continue;
            }
            if !log.has(number as u32, branch.start, upto) {
                let what = if branch.acknowledged >= branch.seen { "acknowledged" } else { "read" };
                return Some(format!(
                    "what was {what} in epoch {} up to {upto} (it began at {})",
                    branch.epoch, branch.start
                ));
            }
        }
        None
    }
}

/// Two servers that could both acknowledge writes.
pub const ONE_WRITER: &str = "one writer";
/// What was acknowledged or read is missing.
pub const NOTHING_LOST: &str = "nothing acknowledged or read is lost";
/// The agreed state contradicts itself.
pub const AGREED: &str = "the agreed state makes sense";
/// Somebody does the same again and again without a pause.
pub const GOES_ON: &str = "it goes on";
/// It does not come to rest.
pub const HEALS: &str = "it heals";
/// It cannot come to rest by itself, and the operator's word is not taken.
pub const HEEDS: &str = "an operator who accepts a loss is heeded";

impl World {
    /// A server can acknowledge writes from now on: nobody else may.
    pub(super) fn check_writers(&mut self, m: usize) {
        if !self.one_writer_holds() || !self.writes(m) {
            return;
        }
        let other = (0..self.members.len()).find(|j| *j != m && self.writes(*j));
        if let Some(other) = other {
            let epoch = |i: usize| self.members[i].tree.primary().map_or(0, |e| e.0);
            let found = format!(
                "{} writes in epoch {}, and {} in epoch {}",
                self.members[other].name,
                epoch(other),
                self.members[m].name,
                epoch(m)
            );
            self.fail(ONE_WRITER, found);
        }
    }

    /// A primary is open for writes, and somebody reads there.
    pub(super) fn opened(&mut self, m: usize) {
        self.counts.openings += 1;
        let member = &self.members[m];
        let Role::Primary { branch, epoch, .. } = member.tree.role else { return };
        let name = member.name.clone();
        self.story.tell(self.now, || format!("{name} is open for writes in epoch {epoch}"));
        self.check_log(m);
        let log = self.members[m].dir.log.clone();
        self.oracle.read(&log, branch);
        self.oracle.waivers.retain(|w| w.epoch > epoch);
    }

    /// Whether an open primary has everything that it has to have.
    pub(super) fn check_log(&mut self, m: usize) {
        if !self.writes_hold() {
            return;
        }
        if let Some(missing) = self.oracle.missing(&self.members[m].dir.log) {
            let found = format!("{} is open for writes without {missing}", self.members[m].name);
            self.fail(NOTHING_LOST, found);
        }
    }

    /// Looks at a command that was applied.
    pub(super) fn judge_command(&mut self, command: &Command, reply: &Reply) {
        let now = self.now;
        if let Reply::Rejected(rejection) = reply {
            self.story.tell(now, || {
                format!("refused: {} ({})", super::story::change(&command.change), rejection.rule())
            });
            return;
        }
        if *reply == Reply::Nothing {
            return;
        }
        self.story.tell(now, || format!("agreed: {}", super::story::change(&command.change)));
        let Some(state) = self.control.cluster(&self.cluster) else { return };
        for event in &state.history {
            match &event.kind {
                EventKind::Granted { data_loss_accepted, at_stake, .. } => {
                    if event.epoch > Epoch(2) {
                        self.counts.failovers += 1;
                    }
                    if *data_loss_accepted {
                        self.counts.losses_accepted += 1;
                        let uncovered: Vec<&SyncConfig> =
                            at_stake.iter().flat_map(|s| &s.uncovered).map(|u| &u.config).collect();
                        let Change::Grant(grant) = &command.change else { continue };
                        let in_force = grant.expect_syncs.iter();
                        let in_force = in_force
                            .map(|c| (c.epoch.0, uncovered.iter().any(|u| u.epoch == c.epoch)))
                            .collect();
                        // The operator may have named one that has less than another.
                        let end = |s: &Sealed| (s.wal_epoch, s.lsn);
                        let mut others = grant.evidence.iter();
                        let chosen = others.clone().find(|s| s.member == grant.member).map(end);
                        let all = others.any(|s| Some(end(s)) > chosen);
                        let waiver = Waiver { epoch: event.epoch, all, in_force };
                        self.oracle.waivers.push(waiver);
                    }
                }
                EventKind::OperationFinished { outcome: Outcome::Done { .. }, .. } => {
                    let last = state.finished.back().map(|f| &f.operation.kind);
                    if matches!(last, Some(OperationKind::Switchover { .. })) {
                        self.counts.switchovers += 1;
                    }
                }
                _ => {}
            }
        }
        if self.black_box {
            return;
        }
        let mut broken = invariants::check(&self.control);
        broken.extend(invariants::check_step(&self.before, &self.control));
        self.before.clone_from(&self.control);
        if let Some(first) = broken.first()
            && self.setup.class != Class::Lying
        {
            let found = first.to_string();
            self.fail(AGREED, found);
        }
    }
}
