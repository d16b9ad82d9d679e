//! `hactl operation`: what was asked for, how far it is, and how it ended.

use clap::{Args, Subcommand};

use super::Context;
use super::failure::Failure;
use super::follow::{Wait, finish};
use super::operate::requested_by;
use super::output::{self, time};
use super::table::{Column, Screen, Text, Tone, render};
use crate::pb::{text, v1};

/// Arguments of `hactl operation`.
#[derive(Debug, Args)]
pub(super) struct OperationArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List what is under way and what is scheduled
    List {
        /// Also what has ended: the latest fifty
        #[arg(short, long)]
        all: bool,
    },
    /// Show one
    Show {
        /// Its number; the latest where it is left out
        #[arg(value_name = "ID", default_value_t = 0, hide_default_value = true)]
        id: u64,
    },
    /// Wait for the end of one
    Wait {
        /// Its number
        #[arg(value_name = "ID")]
        id: u64,
    },
    /// Call off what is scheduled, a job of a standby, or a rolling restart
    Cancel {
        /// Its number
        #[arg(value_name = "ID")]
        id: u64,
    },
}

const COLUMNS: [Column; 6] = [
    Column::new("ID").right(),
    Column::new("WHAT").squeezed(),
    Column::new("STATE"),
    Column::new("TIME").squeezed(),
    Column::new("BY").spare(1),
    Column::new("RESULT").prose(),
];

pub(super) async fn run(mut context: Context, args: &OperationArgs) -> Result<(), Failure> {
    let cluster = context.cluster().await?;
    match args.verb {
        Verb::List { all } => {
            let answer = context.client.operations(&cluster, all).await?;
            output::value(context.format, &answer, || table(&answer.operations, Screen::stdout()))
        }
        Verb::Show { id } => {
            let operation = context.client.get_operation(&cluster, id).await?;
            output::value(context.format, &operation, || one(&operation))
        }
        Verb::Wait { id } => {
            let operation = context.client.get_operation(&cluster, id).await?;
            let operation = match operation.state() {
                v1::OperationState::Scheduled => context.client.follow(operation).await?,
                _ => operation,
            };
            match operation.state() {
                v1::OperationState::Scheduled => Err(Failure::StillRunning(id)),
                _ => finish(context, Some(operation), &Wait { no_wait: false }, one).await,
            }
        }
        Verb::Cancel { id } => {
            let request =
                v1::CancelOperationRequest { cluster, operation: id, requested_by: requested_by() };
            let operation = context.client.cancel(request).await?;
            output::value(context.format, &operation, || one(&operation))
        }
    }
}

/// What an operation does, in a few words: `switchover to b`.
pub(super) fn what(operation: &v1::Operation) -> String {
    let name = |kind: i32| text::of::<v1::OperationKind>(kind);
    let mut out = match operation.later() {
        v1::OperationKind::Unspecified => name(operation.kind),
        _ => name(operation.later),
    };
    if !operation.member.is_empty() {
        out.push_str(&format!(" of {}", operation.member));
    }
    if !operation.target.is_empty() {
        out.push_str(&format!(" to {}", operation.target));
    }
    out
}

/// How far it is, or how it ended.
fn result(operation: &v1::Operation) -> String {
    match operation.state() {
        v1::OperationState::Done if operation.primary.is_empty() => String::new(),
        v1::OperationState::Done => format!("{} is primary", operation.primary),
        v1::OperationState::Running => operation.progress.clone(),
        _ => operation.failure.clone(),
    }
}

/// One line about one operation.
pub(super) fn one(operation: &v1::Operation) -> String {
    let state = text::of::<v1::OperationState>(operation.state);
    let mut out = format!("operation {}: {}, {state}", operation.id, what(operation));
    if operation.state() == v1::OperationState::Scheduled {
        out.push_str(&format!(" for {}", time(operation.scheduled_unix_ms)));
    }
    let result = result(operation);
    if !result.is_empty() {
        out.push_str(&format!(": {result}"));
    }
    out
}

fn table(operations: &[v1::Operation], screen: Screen) -> String {
    if operations.is_empty() {
        return "nothing is under way or scheduled".to_owned();
    }
    let row = |o: &v1::Operation| -> Vec<Text> {
        let tone = match o.state() {
            v1::OperationState::Done => Tone::Good,
            v1::OperationState::Failed => Tone::Bad,
            v1::OperationState::Running => Tone::Changing,
            _ => Tone::Plain,
        };
        let state = text::of::<v1::OperationState>(o.state);
        let at = [o.ended_unix_ms, o.started_unix_ms, o.scheduled_unix_ms];
        let at = at.into_iter().find(|at| *at > 0).unwrap_or_default();
        vec![
            o.id.to_string().into(),
            what(o).into(),
            Text::toned(state, tone),
            time(at).into(),
            o.requested_by.clone().into(),
            result(o).into(),
        ]
    };
    let rows: Vec<Vec<Text>> = operations.iter().map(row).collect();
    render(&COLUMNS, &rows, screen)
}
