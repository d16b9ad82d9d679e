//! `domain::apply`: any commands on any state that commands reach.

use crate::domain::Command;
use crate::domain::apply::Position;
use crate::domain::types::WallMillis;
use crate::generate;
use crate::input::Input;
use crate::judge::Log;
use crate::states;

/// More would only make it slow: every state is reached by few commands.
const STEPS_MAX: usize = 48;

/// The first byte chooses the state to begin with; the rest are commands, one after another: as
/// JSON where that begins with `[`, else drawn from the bytes.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut log = Log::new(states::state(input.byte()));
    let rest = input.rest();
    if rest.first() == Some(&b'[') {
        json(&mut log, rest);
    } else {
        drawn(&mut log, &mut Input::new(rest));
    }
    log.finish();
}

fn json(log: &mut Log, text: &[u8]) {
    let Ok(commands) = serde_json::from_slice::<Vec<Command>>(text) else { return };
    for (index, command) in commands.into_iter().take(STEPS_MAX).enumerate() {
        let again = serde_json::to_vec(&command).expect("a command can be written");
        let again: Command = serde_json::from_slice(&again).expect("a command can be read");
        assert_eq!(command, again, "the log changes a command");
        log.apply(Position { term: 1, index: index as u64 }, command);
    }
}

fn drawn(log: &mut Log, input: &mut Input<'_>) {
    let mut term = 1;
    for index in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        if input.stray() {
            term += 1;
        }
        let at = WallMillis(states::REACHED.0 + index as u64 * 1000);
        let command = generate::command(input, log.state(), at, term);
        log.apply(Position { term, index: index as u64 }, command);
    }
}
