//! The leader's decisions, by the production planner and ledger.

use serde_json::json;

use super::clocks::Age;
use super::logs::{Cmd, LogId, cluster, evidence, from_json, guard_id, member_name};
use super::memo::Memo;
use super::state::{Ledger, MEMBERS_MAX, Phase, Proc, State};
use super::{Action, Lease, Rule};
use crate::domain::command::{Basis, Change};
use crate::domain::lease::{LeaderLedger, Ticket};
use crate::domain::lineage::Lineage;
use crate::domain::observation::{
    Condition, Data, Fencing, Observations, Report, Sequence, StandbyView,
};
use crate::domain::plan::plan;
use crate::domain::types::{BootTime, Epoch, GuardId, Lsn, SystemId, WallMillis};

/// All that one pass of the planner depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pass {
    log: LogId,
    term: u8,
    ledger: Ledger,
    pending: Pending,
    heard: Heard,
}

/// What the leader has heard. One report at a time makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Heard {
    member: u8,
    ended: u8,
    emptied: u16,
    /// The life of its guard, and what it has promised, while it is sealed.
    sealed: Option<(u8, u8)>,
}

/// The pending renewals of a leader, by member.
type Pending = [Option<(u8, Age)>; MEMBERS_MAX];

/// Ledgers after a member's pending renewal is acknowledged.
pub type Settlings = Memo<(Ledger, Pending, u8), Option<Ledger>>;

/// Results of passes.
pub type Passes = Memo<Pass, Option<Cmd>>;

impl Lease {
    /// What a leader may append now.
    pub fn proposals(&self, state: &State, n: u8, actions: &mut Vec<Action>) {
        let node = &state.nodes[usize::from(n)];
        let Some(ledger) = node.ledger else { return };
        let applied = match self.without(Rule::CloseCommitted) {
            true => node.log,
            // One proposal after the other.
            false if node.log != node.commit => return,
            false => node.commit,
        };
        let tenure = self.logs.get(applied).tenure;
        if tenure.epoch >= self.bounds.epochs {
            // Nothing is granted after it, so its end is of no interest.
            return;
        }
        if !tenure.closed {
            // Suspicion may be mistaken, and an operator may ask at any time.
            let cmd = Cmd::Close { epoch: tenure.epoch, stopped: false };
            actions.push(Action::Append { leader: n, cmd });
        }
        let mut pending = [None; MEMBERS_MAX];
        for (slot, member) in pending.iter_mut().zip(&state.members) {
            *slot = member.renewal.pending(n);
        }
        let mut found: Vec<Cmd> = Vec::new();
        let mut pass = |heard: Heard| {
            let pass = Pass { log: applied, term: node.term, ledger, pending, heard };
            let cmd = self.passes.get(pass, || self.plan(pass));
            if let Some(cmd) = cmd.filter(|c| !found.contains(c)) {
                found.push(cmd);
            }
        };
        for m in 0..self.bounds.members {
            let member = &state.members[usize::from(m)];
            let (ended, emptied) = member.reported;
            let sealed = match (member.process, member.tree.phase) {
                (Proc::Sealed { settled: true, .. }, Phase::Running) => {
                    let promised = match self.bounds.stepwise {
                        true => member.record.promised,
                        false => member.record.promised.max(tenure.epoch + 1),
                    };
                    Some((member.tree.guard, promised))
                }
                _ => None,
            };
            pass(Heard { member: m, ended, emptied, sealed });
        }
        // Another machine with the same configuration never ran the epoch, and says that it is
        // over.
        let (member, ended) = (tenure.member, tenure.epoch);
        pass(Heard { member, ended, emptied: 0, sealed: None });
        for cmd in found {
            match cmd {
                Cmd::Close { stopped: false, .. } => {}
                Cmd::Grant { expired_in: 1.., .. } if self.bounds.late => {
                    actions.push(Action::Decide { leader: n, cmd });
                }
                _ => actions.push(Action::Append { leader: n, cmd }),
            }
        }
    }

    fn plan(&self, pass: Pass) -> Option<Cmd> {
        let log = self.logs.get(pass.log);
        let name = cluster();
        let state = log.state.cluster(&name)?;
        let now = self.clocks.leader_now();
        let heard = pass.heard;
        let condition = match heard.sealed {
            Some((guard, promised)) => {
                let sealed = evidence(state, heard.member, guard, u64::from(promised));
                let view: StandbyView = from_json(json!({
                    "streaming": null,
                    "replay": sealed.lsn,
                    "flushed": sealed.lsn,
                    "wal_epoch": sealed.wal_epoch,
                    "held": sealed.held,
                    "sealed": sealed,
                    "counts": true,
                }));
                Condition::Standby(view)
            }
            None => Condition::Unknown,
        };
        let emptied: Vec<GuardId> = (1..16)
            .filter(|g| heard.emptied & (1 << g) != 0)
            .map(|g| guard_id(heard.member, g))
            .collect();
        let report: Report = from_json(json!({
            "guard": heard.sealed.map(|(guard, _)| guard_id(heard.member, guard)),
            "sequence": Sequence { run: 1, number: 1 },
            "ended": heard.ended,
            "emptied": emptied,
            "crashed": false,
            "data": Data::Present { system_id: SystemId(7) },
            "condition": condition,
            "fencing": Fencing::PidNamespace,
        }));
        let mut observed = Observations::default();
        observed.note_state(state, BootTime::default());
        observed.record(member_name(heard.member), report, now);
        let (ledger, _) = self.ledger(pass.term, pass.ledger, &pass.pending);
        let proposal = plan(&name, state, &observed, &ledger, now, WallMillis(0)).proposal?;
        let small = |epoch: Epoch| u8::try_from(epoch.0).unwrap_or(u8::MAX);
        match proposal {
            Change::Close { expect_epoch, stopped, .. } => {
                Some(Cmd::Close { epoch: small(expect_epoch), stopped })
            }
            Change::RecordStop { expect_epoch } => {
                Some(Cmd::RecordStop { epoch: small(expect_epoch) })
            }
            Change::Grant(grant) => Some(Cmd::Grant {
                epoch: small(grant.expect_epoch),
                member: heard.member,
                guard: heard.sealed.map_or(0, |(guard, _)| guard),
                expired_in: match grant.basis {
                    Basis::Stopped => 0,
                    Basis::Expired { term } => u8::try_from(term).unwrap_or(u8::MAX),
                },
            }),
            // Of no concern to leases.
            _ => None,
        }
    }

    /// The production ledger, with the tickets of the pending renewals.
    fn ledger(
        &self,
        term: u8,
        ledger: Ledger,
        pending: &Pending,
    ) -> (LeaderLedger, [Option<Ticket>; MEMBERS_MAX]) {
        let at = |age: Age| self.clocks.leader_at(age);
        let mut full = LeaderLedger::new(u64::from(term), at(ledger.elected));
        let mut arrive =
            |epoch: u8, age: Age| full.arrive(cluster(), Epoch(u64::from(epoch)), at(age));
        let acked = ledger.acked.map(|(epoch, age)| arrive(epoch, age));
        let tickets = pending.map(|p| p.map(|(epoch, age)| arrive(epoch, age)));
        if let Some(ticket) = acked {
            assert!(full.acknowledge(ticket), "a ticket of this ledger");
        }
        (full, tickets)
    }

    /// The ledger after a pending renewal is acknowledged; `None` where it may not be.
    pub fn acknowledge(&self, state: &State, n: u8, member: u8) -> Option<Ledger> {
        let node = &state.nodes[usize::from(n)];
        let ledger = node.ledger?;
        let mut pending = [None; MEMBERS_MAX];
        for (slot, member) in pending.iter_mut().zip(&state.members) {
            *slot = member.renewal.pending(n);
        }
        self.settlings.get((ledger, pending, member), || {
            let (mut full, tickets) = self.ledger(1, ledger, &pending);
            let ticket = tickets[usize::from(member)]?;
            if !full.acknowledge(ticket) {
                return None;
            }
            // Back into small numbers: of all ages that it may have, the one that it has.
            let candidates = [ledger.acked, pending[usize::from(member)]];
            let acked = candidates.into_iter().flatten().find(|(epoch, age)| {
                let epoch = Epoch(u64::from(*epoch));
                full.last_acknowledged(&cluster(), epoch) == Some(self.clocks.leader_at(*age))
            });
            Some(Ledger { acked, ..ledger })
        })
    }
}

/// The lineage that every member has.
pub fn lineage() -> Lineage {
    Lineage::root(Epoch(1))
}

/// A position for members whose data is not looked at.
pub fn position() -> Lsn {
    Lsn(1000)
}
