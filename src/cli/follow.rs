//! Waiting for the end of an operation.
//!
//! A verb that starts one holds `#[command(flatten)] wait: Wait` in its arguments, which brings
//! `--no-wait`, and ends with [`finish`].

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::failure::Failure;
use super::operation::{one, what};
use super::output;
use super::progress::Progress;
use crate::pb::v1;

/// How often the clock of the line moves.
const TICK: Duration = Duration::from_millis(100);

/// The part of a command line that says whether to wait.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct Wait {
    /// Return once it has begun, and do not wait for its end
    #[arg(long)]
    pub(super) no_wait: bool,
}

/// Follows an operation to its end and says how it ended; `done` makes the text for people where
/// it succeeded. SIGINT and the deadline end the wait, not the operation.
pub(super) async fn finish(
    mut context: Context,
    begun: Option<v1::Operation>,
    wait: &Wait,
    done: impl FnOnce(&v1::Operation) -> String,
) -> Result<(), Failure> {
    let begun = begun
        .ok_or_else(|| Failure::refused("the answer names no operation", "see `hactl history`"))?;
    let people = context.format.is_for_people();
    let scheduled = begun.state() == v1::OperationState::Scheduled;
    if people && begun.state() == v1::OperationState::Running {
        output::note(&format!("{} began", title(&begun)))?;
    }
    let ended = if wait.no_wait || scheduled { begun } else { follow(&mut context, begun).await? };
    if !people {
        output::value(context.format, &ended, String::new)?;
    }
    match ended.state() {
        v1::OperationState::Done if people => output::line(done(&ended)),
        v1::OperationState::Done => Ok(()),
        v1::OperationState::Scheduled if people => output::line(one(&ended)),
        v1::OperationState::Scheduled => Ok(()),
        v1::OperationState::Cancelled => Err(Failure::refused(
            format!("operation {} was {}", ended.id, ended.failure),
            "see `hactl history`",
        )),
        v1::OperationState::Failed => Err(Failure::refused(
            format!("operation {} failed: {}", ended.id, ended.failure),
            "see `hactl status` and `hactl history`",
        )),
        _ if wait.no_wait => Ok(()),
        _ => Err(Failure::StillRunning(ended.id)),
    }
}

/// The operation as it is when it has ended, or at the deadline.
async fn follow(context: &mut Context, begun: v1::Operation) -> Result<v1::Operation, Failure> {
    let (id, name) = (begun.id, title(&begun));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let progress = std::cell::RefCell::new(Progress::new(context.format));
    progress.borrow_mut().show(&name);
    let ended = context.client.follow_with(begun, |known| {
        if !known.progress.is_empty() {
            progress.borrow_mut().show(&format!("{name}: {}", known.progress));
        }
    });
    let mut ended = std::pin::pin!(ended);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            ended = &mut ended => return Ok(ended?),
            _ = interrupt.recv() => return Err(Failure::Interrupted(id)),
            _ = tick.tick() => progress.borrow_mut().tick(),
        }
    }
}

/// `operation 3: switchover to b of cluster main`.
fn title(operation: &v1::Operation) -> String {
    format!("operation {}: {} of cluster {}", operation.id, what(operation), operation.cluster)
}
