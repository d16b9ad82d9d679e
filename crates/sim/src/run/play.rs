//! One run: the world of a plan with clients in it, a safety phase with faults, a heal phase
//! without, and the verdict.
//!
//! Owns the order of these. Everything that is judged was told by clients, or seen from outside of
//! all processes. Imports the world, its faults, clients and the judge.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::sync::oneshot::error::TryRecvError;

use quorate_world::check::{Final, Health, Judge, Micros, Value};
use quorate_world::clients::{self, Clients, Notes, Servers};
use quorate_world::exec::{self, MachineId, ScopeId};
use quorate_world::schedule::{Node, Plan};
use quorate_world::timeline::{Class, Story};

use super::control::{Control, words};
use super::failure::LINES_MAX;
use super::outcome::{Found, Outcome};
use crate::domain::event::EventKind;
use crate::node;
use crate::world::{Observer, Sim, cluster_name};

/// How much is told of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Only how it ended.
    Nothing,
    /// A timeline.
    Story,
    /// A timeline, and every line of the trace.
    Trace,
    /// A timeline; every line of the trace is printed as it comes.
    Printed,
}

/// A run that has ended.
#[derive(Debug, Clone)]
pub struct Played {
    /// In numbers.
    pub outcome: Outcome,
    /// The timeline, where it was asked for.
    pub story: String,
    /// The trace, where it was asked for.
    pub trace: Vec<String>,
}

/// Databases that can be looked into: what no client can know.
pub trait Databases: node::MakeDatabase + Servers {
    /// Which servers would accept and acknowledge a write at this instant, with their timelines.
    fn writers(&self) -> Vec<(Node, u64)>;

    /// Rows of commits whose wait for standbys was given up since this was asked last.
    fn take_cancelled(&self) -> Vec<Value>;
}

/// How often members are asked in the heal phase, in milliseconds.
const ASK_MS: u64 = 500;
/// How often somebody sees to it that a machine's sockets are there.
const SOCKETS: Duration = Duration::from_millis(20);
/// Most writes of a violation that are told about.
const WRITES_TOLD: usize = 5;

/// Clients tell the observer's judge, and a person where one listens.
#[derive(Clone)]
struct Book {
    observer: Observer,
    told: bool,
}

impl Notes for Book {
    fn judge<R>(&self, tell: impl FnOnce(&mut Judge) -> R) -> R {
        tell(&mut self.observer.seen().judge)
    }

    fn tell(&self, node: Option<Node>, row: Option<Value>, text: impl FnOnce() -> String) {
        let text = text();
        exec::trace(&text);
        if self.told
            && let Some(row) = row
        {
            self.observer.seen().timeline.row(micros(), node, row, text);
        }
    }
}

fn micros() -> Micros {
    exec::now() / 1000
}

fn millis() -> u64 {
    exec::now() / 1_000_000
}

/// A run that goes on.
struct Run<M> {
    sim: Sim<M>,
    databases: M,
    clients: Clients<Book>,
    control: Control,
    /// The index of the newest agreed state that was looked at.
    index: u64,
    healed_ms: Option<u64>,
}

/// Runs a plan with the modelled PostgreSQL.
pub fn play(plan: &Plan, told: Told) -> Played {
    play_with(plan, crate::database::Databases::new(), told)
}

/// Runs a plan with these databases.
pub fn play_with<M: Databases>(plan: &Plan, databases: M, told: Told) -> Played {
    let sim = Sim::build(plan, databases.clone());
    sim.world().keep_trace(told == Told::Trace);
    if told == Told::Printed {
        sim.world().print_trace();
    }
    let members: Vec<(Node, MachineId)> =
        plan.topology.members().iter().map(|n| (*n, sim.nodes()[*n].place().machine)).collect();
    for (node, machine) in &members {
        let node = sim.nodes()[*node].clone();
        drop(exec::spawn_on(ScopeId::WORLD, sockets(databases.clone(), node, *machine)));
    }
    let book = Book { observer: sim.observer().clone(), told: told != Told::Nothing };
    let scope = exec::scope(sim.clients(), "clients");
    let clients = Clients::start(scope, &plan.settings.workload, &members, book);
    sim.start();
    let control = Control::default();
    let mut run = Run { sim, databases, clients, control, index: 0, healed_ms: None };
    if run.until(plan.horizon_ms).is_continue() {
        // Whatever it was is with the judge.
        let _ = run.heal();
    }
    run.verdict(told)
}

/// Sees to it that a machine takes connections for its server, whenever it has power.
async fn sockets<M: Databases>(databases: M, node: node::Node<M>, machine: MachineId) {
    let mut scope = None;
    loop {
        if node.is_up() && scope.is_none_or(|scope| !exec::is_alive(scope)) {
            scope = Some(clients::attend(&databases, node.place().node, machine));
        }
        exec::sleep(SOCKETS).await;
    }
}

/// A run ends early where something is found.
type Flow = ControlFlow<()>;

impl<M: Databases> Run<M> {
    /// Runs to a time, in milliseconds, and looks after each step.
    fn until(&mut self, at_ms: u64) -> Flow {
        let Run { sim, databases, control, index, .. } = self;
        let flow = sim.run_until(at_ms, &mut |sim| look(sim, databases, control, index));
        match flow {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(_) => ControlFlow::Break(()),
        }
    }

    /// Asks all members; `None` where something was found meanwhile.
    fn ask(&mut self) -> Option<Vec<Final>> {
        let mut answer = self.clients.ask_all();
        loop {
            // Asking has a bound of its own.
            if self.until(millis() + ASK_MS / 5).is_break() {
                return None;
            }
            match answer.try_recv() {
                Ok(finals) => return Some(finals),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Closed) => return Some(Vec::new()),
            }
        }
    }

    /// Without faults the cluster comes back: some client's write is acknowledged, and once writers
    /// have stopped all members hold the same.
    fn heal(&mut self) -> Flow {
        let plan = self.sim.plan();
        let deadline = plan.horizon_ms + plan.heal_ms;
        let (asked, horizon) = (plan.guarantees().heals, plan.horizon_ms);
        let before = self.clients.acknowledged();
        let mut finals = Vec::new();
        let mut writes = false;
        while millis() < deadline {
            self.until(millis() + ASK_MS)?;
            if !writes {
                writes = self.clients.acknowledged() > before;
                if writes {
                    self.clients.stop_writers();
                }
            }
            if !writes || self.clients.writing() > 0 {
                continue;
            }
            let Some(answers) = self.ask() else { return ControlFlow::Break(()) };
            finals = answers;
            if Health::of(&finals) == Health::Healed {
                self.healed_ms = Some(millis() - horizon);
                break;
            }
            // Nothing more can be asked of it than that it breaks no promise.
            if !asked && millis() > horizon + 30_000 {
                break;
            }
        }
        if writes {
            self.sim.observer().seen().judge.end(micros(), &finals);
            return ControlFlow::Continue(());
        }
        let Some(finals) = self.ask() else { return ControlFlow::Break(()) };
        let say = |last: Final| match last.answer {
            Ok((Some(epoch), _)) => format!("m{} is open in epoch {epoch}", last.node),
            Ok((None, _)) => format!("m{} is not open for writes", last.node),
            Err(why) => format!("m{} does not answer: {why}", last.node),
        };
        let members: Vec<String> = finals.into_iter().map(say).collect();
        let waits = self.sim.findings().join("; ");
        let why = format!("no write is acknowledged; {}; the leader: {waits}", members.join("; "));
        self.sim.observer().seen().judge.unhealed(micros(), &why);
        ControlFlow::Continue(())
    }

    fn verdict(self, told: Told) -> Played {
        let mut seen = self.sim.observer().seen();
        for panicked in self.sim.world().take_panics() {
            let node = panicked.scope.split('/').next().and_then(|n| n.strip_prefix('n'));
            let node = node.and_then(|n| n.parse().ok()).unwrap_or_default();
            seen.judge.panicked(panicked.at / 1000, node, &panicked.text);
        }
        let violation = seen.judge.violation().cloned();
        let (counts, counted) = (seen.judge.counts(), self.control.counted());
        let found = violation.as_ref().map(|v| Found {
            rule: v.rule.name().to_owned(),
            at_us: v.at,
            what: v.found.clone(),
        });
        let outcome = Outcome {
            seed: self.sim.plan().seed,
            hash: self.sim.world().trace_hash(),
            simulated_ms: millis(),
            polls: self.sim.world().polls(),
            takeovers: counted.takeovers,
            switchovers: counted.switchovers,
            acknowledged: counts.acknowledged,
            refused: counts.refused,
            unknown: counts.unknown,
            healed_ms: self.healed_ms,
            found,
        };
        let mut story = String::new();
        if told != Told::Nothing {
            if let Some(violation) = &violation {
                let node = violation.nodes.first().copied();
                let (at, text) = (violation.at, violation.found.clone());
                seen.timeline.note(at, node, Class::Violation, text);
            }
            let values = violation.iter().flat_map(|v| v.values.iter());
            let writes: Vec<String> =
                values.take(WRITES_TOLD).map(|v| seen.judge.promises().story(v)).collect();
            let (timeline, violation) = (&seen.timeline, violation.as_ref());
            story = Story { timeline, violation, writes: &writes, lines_max: LINES_MAX }.text();
        }
        let trace = self.sim.world().take_trace();
        drop(seen);
        Played { outcome, story, trace }
    }
}

/// Looks at the world from outside, after each step.
fn look<M: Databases>(
    sim: &Sim<M>,
    databases: &M,
    control: &mut Control,
    index: &mut u64,
) -> ControlFlow<String> {
    let mut seen = sim.observer().seen();
    let at = micros();
    if seen.newest.index > *index {
        *index = seen.newest.index;
        let newest = seen.newest.clone();
        if let Some(cluster) = newest.state.cluster(&cluster_name()) {
            for news in control.news(cluster) {
                if let Some((epoch, guards)) = &news.gave_up {
                    seen.judge.gave_up(*epoch, guards);
                }
                if let EventKind::EpochClosed { closed, .. } = &news.event.kind {
                    seen.judge.closed(at, closed.0);
                }
                if !news.event.kind.is_said() {
                    seen.timeline.note(at, None, Class::Control, words(&news.event));
                }
            }
        }
    }
    databases.take_cancelled().into_iter().for_each(|row| seen.judge.wait_cancelled(row));
    seen.judge.look_at_writers(at, &databases.writers());
    match seen.judge.violation() {
        Some(violation) => ControlFlow::Break(violation.to_string()),
        None => ControlFlow::Continue(()),
    }
}
