//! That nothing is stuck: from a state, once faults end, some member becomes primary.
//!
//! Faults end here: messages arrive, processes act, and the one leader of the highest term is
//! heard by everybody. Terms, epochs and lives of guards are not bounded.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::logs::Cmd;
use super::state::{Node, Renewal, State};
use super::{Action, Lease};

/// How it is checked.
#[derive(Debug)]
pub struct Heal {
    /// Of so many states one is checked.
    pub every: u64,
    /// The same model without bounds.
    pub unbounded: Box<Lease>,
}

/// Steps until a member must be primary. It takes about thirty, and some ticks.
const STEPS_MAX: usize = 400;
/// Ticks after which a leader closes an epoch whose holder does not become primary.
const PATIENCE: usize = 3;

impl Lease {
    /// Whether the state heals, or is not asked about.
    pub fn heals_if_asked(&self, state: &State) -> bool {
        let Some(heal) = &self.heal else { return true };
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        !hasher.finish().is_multiple_of(heal.every) || heal.unbounded.heals(*state)
    }

    fn heals(&self, mut state: State) -> bool {
        let mut ticks = 0;
        let mut actions = Vec::new();
        for _ in 0..STEPS_MAX {
            if self.is_well(&state) {
                return true;
            }
            self.all_actions(&state, &mut actions);
            let wanted = actions
                .drain(..)
                .filter_map(|action| Some((self.rank(&state, action, ticks >= PATIENCE)?, action)));
            let mut wanted: Vec<(u8, Action)> = wanted.collect();
            wanted.sort_by_key(|(rank, _)| *rank);
            let next = wanted.into_iter().find_map(|(_, action)| {
                let next = self.step(&state, action)?;
                (next != state).then_some((action, next))
            });
            let Some((action, next)) = next else { return false };
            match action {
                Action::Tick => ticks += 1,
                Action::Append { .. } => ticks = 0,
                _ => {}
            }
            state = next;
        }
        false
    }

    fn leader<'a>(&self, state: &'a State) -> Option<(u8, &'a Node)> {
        let highest = state.nodes.iter().map(|n| n.term).max()?;
        (0..).zip(&state.nodes).find(|(_, n)| n.leads && n.term == highest)
    }

    /// Whether the holder of an open epoch is primary, and can stay it.
    fn is_well(&self, state: &State) -> bool {
        let Some((_, leader)) = self.leader(state) else { return false };
        let tenure = self.logs.get(leader.commit).tenure;
        let holder = &state.members[usize::from(tenure.member)];
        leader.ledger.is_some()
            && leader.log == leader.commit
            && !tenure.closed
            && holder.writes()
            && holder.tree.promoted == tenure.epoch
            && holder.claim == tenure.epoch
            && holder.lease == Some((tenure.epoch, 0))
    }

    /// In which order things happen once faults have ended; `None` for what is a fault.
    fn rank(&self, state: &State, action: Action, impatient: bool) -> Option<u8> {
        let leader = self.leader(state).map(|(n, _)| n);
        match action {
            Action::Elect { .. } => leader.is_none().then_some(0),
            Action::Replicate { leader: n, part: false, .. } | Action::Commit { leader: n } => {
                (leader == Some(n)).then_some(1)
            }
            Action::TakeLease { .. } | Action::Settle { .. } | Action::Promoted { .. } => Some(2),
            Action::Vanish { .. } => Some(2),
            Action::Learn { from, .. } | Action::LearnAndAct { from, .. } => {
                (leader == Some(from)).then_some(3)
            }
            Action::Agent { .. } => Some(4),
            Action::Confirm { member, .. } => {
                let at = state.members[usize::from(member)].renewal.node();
                (at.is_some() && at == leader).then_some(5)
            }
            Action::Arrive { leader: n, .. } => (leader == Some(n)).then_some(5),
            Action::RenewAt { leader: n, .. } => (leader == Some(n)).then_some(6),
            Action::Renew { member } => {
                let under_way = match state.members[usize::from(member)].renewal {
                    Renewal::None => false,
                    Renewal::Sent { .. } | Renewal::Acknowledged { .. } => true,
                    other => other.node() == leader,
                };
                (!under_way).then_some(6)
            }
            Action::Append { leader: n, cmd } if leader == Some(n) => match cmd {
                Cmd::Close { stopped: false, .. } => impatient.then_some(7),
                _ => Some(7),
            },
            Action::Decide { leader: n, .. } => (leader == Some(n)).then_some(7),
            Action::Tick => Some(8),
            _ => None,
        }
    }
}
