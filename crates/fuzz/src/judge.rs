//! What must hold of every step of the domain, whatever the command.

use crate::domain::apply::Position;
use crate::domain::{Command, ControlState, Reply, apply, invariants};

/// Applies a command, and panics where `apply` breaks its word: a command that is refused or has no
/// effect changes nothing, and every invariant holds afterwards.
pub fn step(state: &mut ControlState, position: Position, command: &Command) -> Reply {
    let before = state.clone();
    let reply = apply(state, position, command);
    if !matches!(reply, Reply::Applied { .. }) {
        assert!(*state == before, "{reply:?} changed the state: {command:?}");
    }
    if let Reply::Rejected(rejection) = &reply {
        assert!(!rejection.rule().is_empty() && !rejection.to_string().is_empty());
    }
    let violations = invariants::check(state);
    assert!(violations.is_empty(), "{violations:?} after {command:?} on {before:?}");
    let violations = invariants::check_step(&before, state);
    assert!(violations.is_empty(), "{violations:?} after {command:?} on {before:?}");
    reply
}

/// Applies commands one after another, and all of them once more: every node comes to one state.
pub struct Log {
    first: ControlState,
    state: ControlState,
    applied: Vec<(Position, Command, Reply)>,
}

impl Log {
    /// Nothing applied on `state` yet.
    pub fn new(state: ControlState) -> Self {
        Self { first: state.clone(), state, applied: Vec::new() }
    }

    /// The state now.
    pub fn state(&self) -> &ControlState {
        &self.state
    }

    /// Applies one more, see [`step`].
    pub fn apply(&mut self, position: Position, command: Command) -> &Reply {
        let reply = step(&mut self.state, position, &command);
        self.applied.push((position, command, reply));
        &self.applied[self.applied.len() - 1].2
    }

    /// The state in the end; panics where another node would come to another one.
    pub fn finish(mut self) -> ControlState {
        for (position, command, reply) in &self.applied {
            let again = apply(&mut self.first, *position, command);
            assert!(again == *reply, "once {reply:?}, once {again:?} to {command:?}");
        }
        assert!(self.first == self.state, "two nodes apply the same and differ");
        survives_a_snapshot(&self.state);
        self.state
    }
}

/// The state as a snapshot holds it, read back.
fn survives_a_snapshot(state: &ControlState) {
    let bytes = serde_json::to_vec(state).expect("a state can be written");
    let again: ControlState = serde_json::from_slice(&bytes).expect("a state can be read");
    assert!(again == *state, "a snapshot changes the state: {}", String::from_utf8_lossy(&bytes));
}
