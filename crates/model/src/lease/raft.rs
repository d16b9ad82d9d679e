//! The Raft group: elections, replication, commits, and the answers of leaders.
//!
//! An election is one step: a voter that votes early only hears less of the old leader meanwhile,
//! which is a lost message. One other node makes the majority of three.

use super::Lease;
use super::logs::{Cmd, Entry, LogId, ROOT};
use super::state::{Claim, Ledger, Member, Node, Renewal, State};
use super::{Action, Rule};

fn node(state: &State, n: u8) -> &Node {
    &state.nodes[usize::from(n)]
}

impl Lease {
    /// What the group may do next.
    pub fn raft_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for n in 0..3 {
            let me = node(state, n);
            for other in (0..3).filter(|o| *o != n) {
                let them = node(state, other);
                if me.term.max(them.term) < self.bounds.terms && self.up_to_date(me, them) {
                    actions.push(Action::Elect { node: n, voter: other });
                }
                if me.leads && them.term <= me.term {
                    if them.log != me.log || them.term < me.term {
                        actions.push(Action::Replicate { leader: n, to: other, part: false });
                    }
                    let most = self.logs.get(me.log).parent;
                    if self.logs.common(most, them.log) != most {
                        actions.push(Action::Replicate { leader: n, to: other, part: true });
                    }
                }
            }
            if !me.leads {
                continue;
            }
            if self.committable(state, n).is_some() {
                actions.push(Action::Commit { leader: n });
            }
            if self.without(Rule::BarrierAfterArrival) && !me.early && me.ledger.is_some() {
                let voters = (0..3).filter(|o| *o != n && node(state, *o).term <= me.term);
                actions.extend(voters.map(|by| Action::EarlyBarrier { leader: n, by }));
            }
            if let Some(cmd) = me.intent {
                actions.push(Action::Append { leader: n, cmd });
            }
            if me.ledger.is_some() {
                self.proposals(state, n, actions);
            }
        }
        for m in 0..self.bounds.members {
            self.renewal_actions(state, m, actions);
        }
    }

    fn renewal_actions(&self, state: &State, m: u8, actions: &mut Vec<Action>) {
        match state.members[usize::from(m)].renewal {
            Renewal::None | Renewal::Acknowledged { .. } => {}
            Renewal::Judged { .. } if !self.bounds.stepwise => {}
            Renewal::Sent { .. } => {
                for n in (0..3).filter(|n| node(state, *n).leads) {
                    if node(state, n).ledger.is_some() {
                        actions.push(Action::Arrive { member: m, leader: n });
                    } else if self.without(Rule::CheckAfterBarrier) {
                        actions.push(Action::Prejudge { member: m, leader: n });
                    }
                }
            }
            Renewal::Prejudged { node: n, .. } => {
                if node(state, n).ledger.is_some() {
                    actions.push(Action::Arrive { member: m, leader: n });
                }
            }
            Renewal::Arrived { node: n, .. } => {
                let leader = node(state, n);
                if self.without(Rule::WaitForBarrier) {
                    actions.push(Action::Confirm { member: m, by: n });
                    return;
                }
                for by in (0..3).filter(|by| *by != n && node(state, *by).term <= leader.term) {
                    actions.push(Action::Confirm { member: m, by });
                }
            }
            Renewal::Judged { .. } => actions.push(Action::Settle { member: m }),
        }
    }

    /// Carries out an action of the group; `None` where it is of no effect.
    pub fn raft_step(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Elect { node: n, voter } => self.elect(state, n, voter),
            Action::Replicate { leader, to, part } => {
                let Node { term, log, .. } = *node(state, leader);
                self.hear(state, to, term);
                let most = self.logs.get(log).parent;
                state.nodes[usize::from(to)].log = if part { most } else { log };
            }
            Action::Commit { leader } => {
                let commit = self.committable(state, leader)?;
                let node = &mut state.nodes[usize::from(leader)];
                node.commit = commit;
                // The memory begins when the leader notices it: at the earliest now.
                node.ledger.get_or_insert(Ledger { elected: 0, acked: None });
            }
            Action::EarlyBarrier { leader, by } => {
                let term = node(state, leader).term;
                self.hear(state, by, term);
                state.nodes[usize::from(leader)].early = true;
            }
            Action::Decide { leader, cmd } => {
                state.nodes[usize::from(leader)].intent = Some(cmd);
            }
            Action::Append { leader, cmd } => {
                if let Cmd::Grant { epoch, member, .. } = cmd
                    && !self.bounds.stepwise
                {
                    let record = &mut state.members[usize::from(member)].record;
                    record.promised = record.promised.max(epoch + 1);
                }
                let node = &mut state.nodes[usize::from(leader)];
                node.log = self.logs.append(node.log, Entry { term: node.term, cmd });
                if node.intent == Some(cmd) {
                    node.intent = None;
                }
            }
            Action::Prejudge { member, leader } => {
                let renewal = &mut state.members[usize::from(member)].renewal;
                let claim = renewal.claim()?;
                if !self.judge(state.nodes[usize::from(leader)].commit, member, claim) {
                    return None;
                }
                *renewal = Renewal::Prejudged { claim, node: leader };
            }
            Action::Arrive { member, leader } => {
                let renewal = state.members[usize::from(member)].renewal;
                let claim = renewal.claim()?;
                let good = matches!(renewal, Renewal::Prejudged { .. })
                    || self.judge(node(state, leader).commit, member, claim);
                let arrived = match node(state, leader).early && good {
                    true => Renewal::Judged { claim, node: leader, since: 0 },
                    false => Renewal::Arrived { claim, node: leader, since: 0, good },
                };
                state.members[usize::from(member)].renewal = arrived;
            }
            Action::Confirm { member, by } => {
                let Renewal::Arrived { claim, node: n, since, good } =
                    state.members[usize::from(member)].renewal
                else {
                    return None;
                };
                let term = node(state, n).term;
                if by != n {
                    self.hear(state, by, term);
                }
                // In the state at the read index, or in a later one.
                if !good && !self.judge(node(state, n).commit, member, claim) {
                    return None;
                }
                state.members[usize::from(member)].renewal =
                    Renewal::Judged { claim, node: n, since };
            }
            Action::RenewAt { member, leader } => {
                let (epoch, guard) = {
                    let member = &state.members[usize::from(member)];
                    (member.claim, member.tree.guard)
                };
                let claim = Claim { age: 0, epoch, guard };
                state.members[usize::from(member)].renewal = match node(state, leader).early {
                    true => Renewal::Judged { claim, node: leader, since: 0 },
                    false => Renewal::Arrived { claim, node: leader, since: 0, good: true },
                };
            }
            Action::Settle { member } => self.settle(state, member)?,
            _ => return None,
        }
        Some(())
    }

    /// The controller turns a pending renewal into an acknowledged one.
    pub fn settle(&self, state: &mut State, member: u8) -> Option<()> {
        let Renewal::Judged { claim, node: n, .. } = state.members[usize::from(member)].renewal
        else {
            return None;
        };
        let ledger = self.acknowledge(state, n, member)?;
        state.nodes[usize::from(n)].ledger = Some(ledger);
        state.members[usize::from(member)].renewal = Renewal::Acknowledged { claim };
        Some(())
    }

    /// Whether `voter` votes for `candidate`: Raft's rule about logs.
    fn up_to_date(&self, candidate: &Node, voter: &Node) -> bool {
        let rank = |log: LogId| {
            let log = self.logs.get(log);
            (log.entry.term, log.depth)
        };
        candidate.log == voter.log || rank(candidate.log) >= rank(voter.log)
    }

    fn elect(&self, state: &mut State, n: u8, voter: u8) {
        let term = node(state, n).term.max(node(state, voter).term) + 1;
        self.hear(state, voter, term);
        self.hear(state, n, term);
        let node = &mut state.nodes[usize::from(n)];
        node.leads = true;
        if !self.without(Rule::FirstEntry) {
            node.log = self.logs.append(node.log, Entry { term, cmd: Cmd::Noop });
        }
        if self.without(Rule::OwnTermBeforeAnswer) {
            node.ledger = Some(Ledger { elected: 0, acked: None });
        }
    }

    /// A node hears of a term. A leader of an older one is none any more, and forgets all that it
    /// had in hand.
    fn hear(&self, state: &mut State, n: u8, term: u8) {
        let node = &mut state.nodes[usize::from(n)];
        if node.term >= term {
            return;
        }
        node.term = term;
        node.early = false;
        if !std::mem::take(&mut node.leads) {
            return;
        }
        node.ledger = None;
        if !self.remembers_commits() {
            // A leader answers nobody before an entry of its own is committed, so what it knew of
            // commits before makes no difference.
            node.commit = ROOT;
        }
        self.drop_renewals(state, n);
    }

    /// Whether a node answers by commits of before its own leadership.
    fn remembers_commits(&self) -> bool {
        self.without(Rule::OwnTermBeforeAnswer) || self.without(Rule::CheckAfterBarrier)
    }

    fn drop_renewals(&self, state: &mut State, n: u8) {
        for Member { renewal, .. } in &mut state.members {
            match *renewal {
                Renewal::Judged { claim, node, .. } if node == n && !self.bounds.stepwise => {
                    *renewal = Renewal::Acknowledged { claim };
                }
                _ if renewal.node() == Some(n) => *renewal = Renewal::None,
                _ => {}
            }
        }
    }

    /// How far a leader may commit: what another node has as well, its last entry of the leader's
    /// own term.
    fn committable(&self, state: &State, n: u8) -> Option<LogId> {
        let me = node(state, n);
        let depth = |log: LogId| self.logs.get(log).depth;
        let shared =
            (0..3).filter(|o| *o != n).map(|o| self.logs.common(me.log, node(state, o).log));
        let best = shared.max_by_key(|log| depth(*log))?;
        let own = self.logs.get(best).entry.term == me.term || self.without(Rule::OwnTermCommit);
        (own && depth(best) > depth(me.commit)).then_some(best)
    }

    /// Whether the state of a log names this member, this life of its guard and this epoch, and the
    /// epoch is not closed: the verdict of the controller's service.
    pub fn judge(&self, log: LogId, member: u8, claim: Claim) -> bool {
        let tenure = self.logs.get(log).tenure;
        tenure.epoch == claim.epoch
            && tenure.member == member
            && (tenure.guard == claim.guard || self.without(Rule::GuardInRenewal))
            && !tenure.closed
    }
}
