//! Steps in words, for a reader of a counterexample.

use std::fmt;

use super::Action;
use super::logs::Cmd;
use super::state::{MEMBERS_MAX, NODES, State};

/// A step in words, with the state that it leads from.
pub struct Told<'a>(pub &'a State, pub Action);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told(state, action) = self;
        let n = |node: u8| {
            let node = &state.nodes[usize::from(node) % NODES];
            format!("n{} (term {})", node.name + 1, node.term)
        };
        let m = |member: u8| char::from(b'a' + member);
        let renewal = |member: u8| {
            let claim = state.members[usize::from(member) % MEMBERS_MAX].renewal.claim();
            claim.map_or(String::new(), |c| format!("of epoch {} sent {} ago", c.epoch, c.age))
        };
        match *action {
            Action::Tick => write!(f, "a tick passes"),
            Action::Elect { node, voter } => {
                write!(f, "{} is elected with the vote of {}", n(node), n(voter))
            }
            Action::Replicate { leader, to, part: false } => {
                write!(f, "{} replicates its log to {}", n(leader), n(to))
            }
            Action::Replicate { leader, to, part: true } => {
                write!(f, "{} replicates all but its last entry to {}", n(leader), n(to))
            }
            Action::Commit { leader } => write!(f, "{} commits", n(leader)),
            Action::Append { leader, cmd } => write!(f, "{} appends {cmd}", n(leader)),
            Action::Decide { leader, cmd } => write!(f, "{} is to propose {cmd}", n(leader)),
            Action::EarlyBarrier { leader, by } => {
                write!(f, "{} passes a barrier that {} confirms", n(leader), n(by))
            }
            Action::Prejudge { member, leader } => {
                write!(f, "{} judges {}'s renewal {}", n(leader), m(member), renewal(member))
            }
            Action::Arrive { member, leader } => {
                write!(f, "{}'s renewal {} arrives at {}", m(member), renewal(member), n(leader))
            }
            Action::Confirm { member, by } => {
                let held = state.members[usize::from(member)].renewal.node().map(n);
                let held = held.unwrap_or_default();
                write!(f, "{} confirms {held}, which judges {}'s renewal", n(by), m(member))
            }
            Action::Settle { member } => {
                let held = state.members[usize::from(member)].renewal.node().map(n);
                write!(f, "{} acknowledges {}'s renewal", held.unwrap_or_default(), m(member))
            }
            Action::TakeLease { member } => {
                write!(f, "{} takes the lease {}", m(member), renewal(member))
            }
            Action::RenewAt { member, leader } => {
                write!(f, "{} sends a renewal, which arrives at {}", m(member), n(leader))
            }
            Action::LearnAndAct { member, from } => {
                write!(f, "{} hears the agreed state from {} and acts", m(member), n(from))
            }
            Action::ArmLate { member } => write!(f, "{}'s guard is armed", m(member)),
            Action::Renew { member } => write!(f, "{} sends a renewal", m(member)),
            Action::Learn { member, from } => {
                write!(f, "{} hears the agreed state from {}", m(member), n(from))
            }
            Action::Agent { member } => write!(f, "{}'s agent acts", m(member)),
            Action::Promoted { member } => write!(f, "{} is promoted", m(member)),
            Action::Die { member } => write!(f, "{}'s postmaster dies", m(member)),
            Action::Vanish { member } => write!(f, "{}'s last process is gone", m(member)),
            Action::RestartAgent { member } => write!(f, "{}'s agent starts anew", m(member)),
            Action::RunAgain { member } => write!(f, "{} runs its epoch again", m(member)),
        }
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cmd::Noop => write!(f, "nothing"),
            Cmd::Close { epoch, stopped: true } => write!(f, "close of {epoch}, stop proven"),
            Cmd::Close { epoch, stopped: false } => write!(f, "close of {epoch}"),
            Cmd::RecordStop { epoch } => write!(f, "stop of {epoch}"),
            Cmd::Grant { epoch, member, guard, expired_in } => {
                let basis = if *expired_in == 0 { "stopped" } else { "expired" };
                let to = char::from(b'a' + member);
                write!(f, "grant of {} to {to} (guard {guard}): {epoch} {basis}", epoch + 1)
            }
        }
    }
}
