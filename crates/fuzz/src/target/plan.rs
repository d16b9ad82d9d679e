//! The planner, and what follows from the state for each member: total, and never against `apply`.

use std::time::Duration;

use crate::convert::{self, Seen};
use crate::domain::apply::Position;
use crate::domain::desired::{Desired, desired};
use crate::domain::lease::LeaderLedger;
use crate::domain::observation::Observations;
use crate::domain::plan::{failover_check, plan, switchover_check};
use crate::domain::reconcile::{Action, Local, Process, reconcile};
use crate::domain::state::Stage;
use crate::domain::types::{BootTime, MemberName, WallMillis};
use crate::domain::{ClusterState, Command, Reply};
use crate::generate;
use crate::input::Input;
use crate::judge::Log;
use crate::states;

const STEPS_MAX: usize = 96;

/// A leader of the control plane with one cluster.
struct Leader {
    log: Log,
    observed: Observations,
    ledger: LeaderLedger,
    now: BootTime,
    term: u64,
    index: u64,
}

/// The first byte chooses the state to begin with; the rest are what happens, one after another.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let now = BootTime::from_nanos(1_000_000_000_000);
    let mut leader = Leader {
        log: Log::new(states::state(input.byte())),
        observed: Observations::default(),
        ledger: LeaderLedger::new(1, now),
        now,
        term: 1,
        index: 1,
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        leader.happens(&mut input);
    }
    leader.plans();
    leader.shows();
    leader.log.finish();
}

impl Leader {
    fn cluster(&self) -> Option<&ClusterState> {
        self.log.state().clusters.get(&states::main())
    }

    fn wall(&self) -> WallMillis {
        WallMillis(states::REACHED.0 + (self.now.as_nanos() / 1_000_000 - 1_000_000))
    }

    fn happens(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0..=79 => self.hears(input),
            80..=119 => {
                let ms = input.below(16) as u64 * if input.stray() { 10_000 } else { 250 };
                self.now = self.now.plus(Duration::from_millis(ms));
            }
            120..=191 => self.plans(),
            192..=207 => self.renews(input),
            208..=231 => self.obeys(input),
            232..=247 => {
                let command = generate::command(input, self.log.state(), self.wall(), self.term);
                self.proposes(command);
            }
            _ => {
                self.term += 1;
                self.ledger = LeaderLedger::new(self.term, self.now);
                self.observed = Observations::default();
            }
        }
    }

    fn hears(&mut self, input: &mut Input<'_>) {
        let member = generate::member(input);
        self.index += 1;
        let Some(cluster) = self.log.state().clusters.get(&states::main()) else { return };
        let report = generate::report(input, cluster, &member, self.index);
        self.observed.note_state(cluster, self.now);
        self.observed.record(member, report, self.now);
    }

    fn renews(&mut self, input: &mut Input<'_>) {
        let Some(epoch) = self.cluster().map(|c| c.epoch) else { return };
        let epoch = generate::epoch(input, epoch);
        let ticket = self.ledger.arrive(states::main(), epoch, self.now);
        match input.below(3) {
            0 => assert!(self.ledger.acknowledge(ticket)),
            1 => self.ledger.refuse(ticket),
            _ => {}
        }
    }

    fn proposes(&mut self, command: Command) -> &Reply {
        self.index += 1;
        self.log.apply(Position { term: self.term, index: self.index }, command)
    }

    fn plans(&mut self) {
        let main = states::main();
        let (now, wall) = (self.now, self.wall());
        let Some(cluster) = self.log.state().clusters.get(&main) else { return };
        self.observed.note_state(cluster, now);
        let planned = plan(&main, cluster, &self.observed, &self.ledger, now, wall);
        let again = plan(&main, cluster, &self.observed, &self.ledger, now, wall);
        assert_eq!(planned, again, "the planner is not deterministic");
        assert!(!planned.findings.is_empty(), "the planner says nothing");
        for finding in &planned.findings {
            assert!(!finding.rule().is_empty() && !finding.to_string().is_empty());
        }
        if let Some(change) = planned.proposal {
            let told = format!("{change:?}");
            let reply = self.proposes(Command { cluster: main, at: wall, change });
            assert!(
                !matches!(reply, Reply::Nothing),
                "the planner proposes what has no effect, and would do so for ever: {told}"
            );
        }
    }

    /// One member does what is asked of it.
    fn obeys(&self, input: &mut Input<'_>) {
        let Some(cluster) = self.cluster() else { return };
        let member = generate::member(input);
        let local = generate::local(input, &states::main(), cluster, &member, self.now);
        let wanted = desired(cluster, &member);
        let action = reconcile(&member, &wanted, &local, self.now);
        assert_eq!(action, reconcile(&member, &wanted, &local, self.now));
        judge_action(&member, &wanted, &local, self.now, &action);
    }

    /// What people and programs are shown of it can always be put together.
    fn shows(&self) {
        for (name, cluster) in &self.log.state().clusters {
            let seen = Seen { observations: &self.observed, lease_age: None, now: self.now };
            let shown = convert::cluster(name, cluster, Some(seen));
            serde_json::to_vec(&shown).expect("a status can be written as JSON");
            assert!(!convert::summary(cluster).is_empty());
            for event in &cluster.history {
                let shown = convert::event(event);
                serde_json::to_vec(&shown).expect("an event can be written as JSON");
            }
            convert::hosts(cluster);
            for member in cluster.members.keys() {
                // Whoever is named passes the checks, or the checks say why not.
                for target in [None, Some(member)] {
                    if let Err(problems) =
                        switchover_check(cluster, &self.observed, target, self.now)
                    {
                        assert!(!problems.is_empty());
                    }
                    let lease = Some(Duration::from_millis(1));
                    let checked =
                        failover_check(cluster, &self.observed, lease, target, false, self.now);
                    assert!(checked.is_ok() || !checked.unwrap_err().is_empty());
                }
            }
        }
    }
}

/// Nothing dangerous is done but on the grounds that the protocol names.
fn judge_action(
    member: &MemberName,
    wanted: &Desired,
    local: &Local,
    now: BootTime,
    action: &Action,
) {
    let told = || format!("{member}: {action:?} of {wanted:?} and {local:?}");
    let duty = match wanted {
        Desired::Primary(duty) => Some(duty),
        _ => None,
    };
    let leased = |epoch| local.lease.is_some_and(|l| l.epoch == epoch && now < l.stop_at);
    let is_ours = |epoch| {
        duty.is_some_and(|d| d.epoch == epoch && Some(&d.guard) == local.guard.as_ref())
            && local.record.ended < epoch
    };
    match action {
        Action::Accept { epoch } => {
            let granted = duty.is_some_and(|d| d.stage == Stage::Granted);
            assert!(is_ours(*epoch) && granted && local.record.may_hold(*epoch), "{}", told());
            let sealed = matches!(local.process, Process::Sealed { position: Some(_), .. });
            assert!(sealed, "{}", told());
        }
        Action::Promote { epoch, .. } => {
            assert!(is_ours(*epoch) && leased(*epoch), "{}", told());
        }
        Action::OpenWrites { epoch } => {
            let active = duty.is_some_and(|d| matches!(d.stage, Stage::Active { .. }));
            assert!(is_ours(*epoch) && leased(*epoch) && active, "{}", told());
        }
        Action::Initialise => assert_eq!(*wanted, Desired::Bootstrap, "{}", told()),
        Action::Rewind(_) | Action::Clone(_) => {
            assert!(matches!(wanted, Desired::Follow(_)), "{}", told());
        }
        _ => {}
    }
    if let Process::Primary { epoch, .. } = local.process
        && local.lease.is_some_and(|l| l.epoch == epoch && now >= l.stop_at)
    {
        assert!(matches!(action, Action::EndEpoch { .. }), "it outlives its lease: {}", told());
    }
}
