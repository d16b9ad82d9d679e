//! Breadth-first exploration with stateright, and the search for states that never heal.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::bounds::Bounds;
use super::state::{Bad, State};
use super::world::{Label, World};
use crate::domain::mutant::Mutant;
use crate::report::{Expected, Found, Outcome};

/// A step together with the state that it leads to.
#[derive(Clone, PartialEq)]
pub struct Taken {
    label: Label,
    to: State,
}

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.label)
    }
}

const KEPT: &str = "every acknowledged write is on the active primary";
const STAYS: &str = "what was seen on an active primary stays";
const AGREED: &str = "the invariants of the agreed state hold";
const ONE: &str = "no two members write one timeline";
const HEALS: &str = "from every state an active primary can be reached without a fault";

impl Model for World {
    type State = State;
    type Action = Taken;

    fn init_states(&self) -> Vec<State> {
        vec![self.beginning()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Taken>) {
        actions.extend(self.next(state).into_iter().map(|(label, to, _)| Taken { label, to }));
    }

    fn next_state(&self, _: &State, action: Taken) -> Option<State> {
        Some(action.to)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(KEPT, |_, s: &State| s.bad != Bad::AcknowledgedLost),
            Property::always(STAYS, |_, s: &State| s.bad != Bad::SeenLost),
            Property::always(AGREED, |_, s: &State| s.bad != Bad::Invariant),
            Property::always(ONE, |_, s: &State| s.bad != Bad::Fork),
        ]
    }
}

/// What is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// A state in which a property is broken.
    Broken,
    /// A state from which no active primary can be reached without a further fault.
    Stuck,
}

/// One exploration.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name, unique in the program.
    pub name: &'static str,
    /// What is searched for.
    pub search: Search,
    /// Where.
    pub bounds: Bounds,
    /// The rule of the domain that is left out. Whoever explores the case leaves it out.
    pub mutant: Option<Mutant>,
    /// What it has to show.
    pub expected: Expected,
    /// The search is given up after so many states.
    pub states_max: usize,
}

impl Case {
    /// Explores everything within the bounds, or until something is found.
    pub fn explore(&self) -> Outcome {
        let begun = clock();
        let outcome = match self.search {
            Search::Broken => self.search_broken(),
            Search::Stuck => self.search_stuck(),
        };
        Outcome { seconds: begun.elapsed().as_secs_f64(), ..outcome }
    }

    fn outcome(&self, found: Option<Found>, states: usize, depth: usize) -> Outcome {
        let complete = found.is_none() && states < self.states_max;
        let (name, expected) = (self.name.to_owned(), self.expected);
        Outcome { name, expected, found, states, depth, complete, seconds: 0.0 }
    }

    // One thread: it finds the shortest counterexample.
    fn search_broken(&self) -> Outcome {
        // Counted are states as often as they are met, many times each.
        let met_max = self.states_max.saturating_mul(10);
        let checker = World::new(self.bounds)
            .checker()
            .finish_when(HasDiscoveries::Any)
            .target_state_count(met_max)
            .spawn_bfs()
            .join();
        let found = checker.discoveries().into_iter().min_by_key(|(name, _)| *name);
        let found = found.map(|(property, path)| {
            let steps = path.into_vec();
            let told = steps.windows(2).filter_map(|pair| match pair {
                [(_, Some(taken)), (after, _)] => Some(format!("{taken:?}  |  {after:?}")),
                _ => None,
            });
            let trace: Vec<String> = told.collect();
            Found { property: property.to_owned(), steps: trace.len(), trace }
        });
        let complete = found.is_none() && checker.state_count() < met_max;
        let outcome = self.outcome(found, checker.unique_state_count(), checker.max_depth());
        Outcome { complete, ..outcome }
    }

    fn search_stuck(&self) -> Outcome {
        let world = World::new(self.bounds);
        let mut graph = Graph::default();
        let mut waiting = VecDeque::from([(0, world.beginning())]);
        graph.meet(&world, &world.beginning(), 0, 0);
        while let Some((at, state)) = waiting.pop_front() {
            if graph.reached.len() >= self.states_max {
                waiting.push_front((at, state));
                break;
            }
            for (index, (_, to, fault)) in world.next(&state).into_iter().enumerate() {
                let known = graph.reached.len();
                let id = graph.meet(&world, &to, at, index);
                if id as usize == known {
                    waiting.push_back((id, to));
                }
                if !fault {
                    graph.edges.push((id, at));
                }
            }
        }
        // What was not looked into may heal.
        for (at, _) in waiting {
            graph.good[at as usize] = true;
        }
        let found = graph.stuck().map(|stuck| {
            let trace = graph.trace(&world, stuck);
            Found { property: HEALS.to_owned(), steps: trace.len(), trace }
        });
        self.outcome(found, graph.reached.len(), graph.depth)
    }
}

/// Every state that was reached, by number.
#[derive(Default)]
struct Graph {
    ids: BTreeMap<u64, u32>,
    /// From which state each was reached first, and as which of its successors.
    reached: Vec<(u32, u16)>,
    depths: Vec<u8>,
    depth: usize,
    /// Which are healed, or at the bounds.
    good: Vec<bool>,
    /// Steps without a fault: to, from.
    edges: Vec<(u32, u32)>,
}

impl Graph {
    fn meet(&mut self, world: &World, state: &State, from: u32, index: usize) -> u32 {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        let new = self.reached.len() as u32;
        let id = *self.ids.entry(hasher.finish()).or_insert(new);
        if id == new {
            self.reached.push((from, index as u16));
            self.good.push(world.healed(state) || world.at_the_bound(state));
            let depth = if new == 0 { 0 } else { self.depths[from as usize].saturating_add(1) };
            self.depths.push(depth);
            self.depth = self.depth.max(usize::from(depth));
        }
        id
    }

    /// The first state from which no good one can be reached.
    fn stuck(&mut self) -> Option<u32> {
        self.edges.sort_unstable();
        let numbers = 0..self.reached.len() as u32;
        let mut work: Vec<u32> = numbers.filter(|i| self.good[*i as usize]).collect();
        while let Some(to) = work.pop() {
            let first = self.edges.partition_point(|e| e.0 < to);
            for (_, from) in self.edges[first..].iter().take_while(|e| e.0 == to) {
                if !std::mem::replace(&mut self.good[*from as usize], true) {
                    work.push(*from);
                }
            }
        }
        self.good.iter().position(|good| !good).map(|i| i as u32)
    }

    fn trace(&self, world: &World, mut at: u32) -> Vec<String> {
        let mut indices = Vec::new();
        while at != 0 {
            let (from, index) = self.reached[at as usize];
            indices.push(index);
            at = from;
        }
        let mut state = world.beginning();
        let mut trace = Vec::new();
        for index in indices.into_iter().rev() {
            let Some((label, to, _)) = world.next(&state).into_iter().nth(usize::from(index))
            else {
                break;
            };
            state = to;
            trace.push(format!("{label}  |  {state:?}"));
        }
        trace
    }
}

// How long a search took is shown to a reader, and decides nothing.
#[allow(clippy::disallowed_methods)]
fn clock() -> Instant {
    Instant::now()
}
