//! Commands of the operator.

use super::{guard, member};
use crate::domain::ClusterState;
use crate::domain::command::Change;
use crate::domain::operation::{Later, Restart, Step};
use crate::domain::types::{Epoch, WallMillis};
use crate::input::Input;

/// A command that begins, moves on or ends an operation, or a pause.
pub fn operation(input: &mut Input<'_>, state: &ClusterState, current: Epoch) -> Change {
    let known = state.next_operation;
    match input.below(10) {
        0 => Change::StartRestart {
            expect_epoch: current,
            restart: restart(input),
            deadline_ms: input.number(0),
            by: input.text(),
        },
        1 => Change::StartReload { member: member(input), by: input.text() },
        2 => Change::StartReinitialise {
            expect_epoch: current,
            member: member(input),
            deadline_ms: input.number(0),
            by: input.text(),
        },
        3 => Change::StepOperation {
            operation: input.number(known),
            step: match input.below(3) {
                0 => Step::Restart(member(input)),
                1 => Step::HandOver(member(input)),
                _ => Step::Copy,
            },
        },
        4 => Change::Schedule {
            at: WallMillis(input.number(1)),
            what: later(input),
            by: input.text(),
        },
        5 => {
            let change = Box::new(match input.below(3) {
                0 => Change::StartSwitchover {
                    expect_epoch: current,
                    target: member(input),
                    by: input.text(),
                },
                1 => Change::StartRestart {
                    expect_epoch: current,
                    restart: restart(input),
                    deadline_ms: input.number(0),
                    by: input.text(),
                },
                _ => Change::Resume {
                    over: input.option(|i| WallMillis(i.number(1))),
                    by: input.text(),
                },
            });
            Change::StartScheduled { operation: input.number(known), change }
        }
        6 => Change::CancelOperation { operation: input.number(known), by: input.text() },
        7 => Change::Pause { until: input.option(|i| WallMillis(i.number(1))), by: input.text() },
        8 => Change::Resume { over: input.option(|i| WallMillis(i.number(1))), by: input.text() },
        _ => Change::StartSwitchover {
            expect_epoch: current,
            target: member(input),
            by: input.text(),
        },
    }
}

fn restart(input: &mut Input<'_>) -> Restart {
    match input.below(3) {
        0 => Restart::Member { member: member(input), guard: guard(input) },
        1 => Restart::Primary { member: member(input) },
        _ => {
            let named = input.list(4, |i| (member(i), guard(i)));
            Restart::Rolling { guards: named.into_iter().collect() }
        }
    }
}

fn later(input: &mut Input<'_>) -> Later {
    match input.flag() {
        true => Later::Switchover { target: input.option(member) },
        false => Later::Restart {
            member: input.option(member),
            pending_only: input.flag(),
            in_place: input.flag(),
        },
    }
}
