//! `hactl switchover` and `hactl failover`.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use super::Context;
use super::failure::{Failure, REFUSED};
use super::output::{self, Format};
use crate::pb::{text, v1};

/// Arguments of `hactl switchover`.
#[derive(Debug, Args)]
pub(super) struct SwitchoverArgs {
    /// The new primary; the best standby where it is left out
    #[arg(long, value_name = "MEMBER")]
    to: Option<String>,
    /// Only check, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Arguments of `hactl failover`.
#[derive(Debug, Args)]
pub(super) struct FailoverArgs {
    /// The new primary; the best member where it is left out
    #[arg(long, value_name = "MEMBER")]
    to: Option<String>,
    /// Promote even where acknowledged commits may be lost. Nothing else is overridden
    #[arg(long)]
    accept_data_loss: bool,
    /// Only check, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(super) async fn switchover(mut context: Context, args: &SwitchoverArgs) -> Result<(), Failure> {
    may_ask(args.yes || args.dry_run)?;
    let cluster = context.cluster().await?;
    let request = v1::SwitchoverRequest {
        cluster: cluster.clone(),
        target: args.to.clone().unwrap_or_default(),
        requested_by: requested_by(),
        dry_run: true,
        ..Default::default()
    };
    if args.dry_run || !args.yes {
        let checked = context.client.switchover(request.clone()).await?;
        if args.dry_run {
            return report(context.format, &checked, &checked.target, &checked.problems);
        }
        refuse_on(&checked.problems)?;
        let question = format!(
            "Make {} the primary of cluster {cluster}? Open transactions are lost, and writes \
             stop for a moment.",
            checked.target
        );
        confirm(&question)?;
    }
    let request = v1::SwitchoverRequest { dry_run: false, ..request };
    let begun = context.client.switchover(request).await?.operation;
    finish(context, begun).await
}

pub(super) async fn failover(mut context: Context, args: &FailoverArgs) -> Result<(), Failure> {
    may_ask(args.yes || args.dry_run)?;
    let cluster = context.cluster().await?;
    let request = v1::FailoverRequest {
        cluster: cluster.clone(),
        target: args.to.clone().unwrap_or_default(),
        accept_data_loss: args.accept_data_loss,
        requested_by: requested_by(),
        dry_run: true,
        ..Default::default()
    };
    if args.dry_run || !args.yes {
        let checked = context.client.failover(request.clone()).await?;
        if args.dry_run {
            return report(context.format, &checked, &checked.target, &checked.problems);
        }
        refuse_on(&checked.problems)?;
        let who = if checked.target.is_empty() { "the best member" } else { &checked.target };
        let loss = if args.accept_data_loss { " ACKNOWLEDGED COMMITS MAY BE LOST." } else { "" };
        confirm(&format!("End the primary of cluster {cluster} and promote {who}?{loss}"))?;
    }
    let request = v1::FailoverRequest { dry_run: false, ..request };
    let begun = context.client.failover(request).await?.operation;
    finish(context, begun).await
}

/// Follows an operation to its end and says how it ended.
async fn finish(mut context: Context, begun: Option<v1::Operation>) -> Result<(), Failure> {
    let begun = begun
        .ok_or_else(|| Failure::refused("the answer names no operation", "see `hactl history`"))?;
    if context.format == Format::Table {
        let kind = text::of::<v1::OperationKind>(begun.kind);
        output::note(&format!(
            "operation {}: {kind} of cluster {} began",
            begun.id, begun.cluster
        ))?;
    }
    let ended = context.client.follow(begun).await?;
    if context.format != Format::Table {
        output::value(context.format, &ended, String::new)?;
    }
    match ended.state() {
        v1::OperationState::Done if context.format == Format::Table => {
            let took = ended.ended_unix_ms.saturating_sub(ended.started_unix_ms);
            output::line(format!("done: {} is primary, after {took} ms", ended.primary))
        }
        v1::OperationState::Done => Ok(()),
        v1::OperationState::Failed => Err(Failure::refused(
            format!("operation {} failed: {}", ended.id, ended.failure),
            "see `hactl status` and `hactl history`",
        )),
        _ => Err(Failure::StillRunning(ended.id)),
    }
}

/// Says what a dry run found.
fn report<T: serde::Serialize>(
    format: Format,
    answer: &T,
    target: &str,
    problems: &[v1::Check],
) -> Result<(), Failure> {
    output::value(format, answer, || {
        let mut lines = match (problems, target) {
            ([], "") => "nothing stands against it; the best member would be promoted".to_owned(),
            ([], target) => format!("nothing stands against it; {target} would be promoted"),
            _ => "it would be refused:".to_owned(),
        };
        for p in problems {
            lines.push_str(&format!("\n  {} (rule {})", p.message, p.rule));
        }
        lines
    })?;
    if problems.is_empty() { Ok(()) } else { Err(Failure::Said(REFUSED)) }
}

fn refuse_on(problems: &[v1::Check]) -> Result<(), Failure> {
    match problems {
        [] => Ok(()),
        [first, ..] => {
            let all: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
            Err(Failure::refused(
                all.join("; "),
                format!("rule {}; see `hactl status`", first.rule),
            ))
        }
    }
}

/// Refuses before anything is asked of the control plane where nobody can answer a question.
fn may_ask(decided: bool) -> Result<(), Failure> {
    if decided || io::stdin().is_terminal() {
        return Ok(());
    }
    let message = "standard input is not a terminal, so nobody can be asked: give --yes";
    Err(Failure::Usage(message.to_owned()))
}

fn confirm(question: &str) -> Result<(), Failure> {
    write!(io::stderr(), "{question} [y/N] ")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::refused("not done", ""))
}

/// Who asks, for the history: user and host, cut to what a request may hold.
fn requested_by() -> String {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    let user = user.map_or_else(|| format!("uid {uid}"), |u| u.name);
    let host = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned());
    let text = format!("{user}@{}", host.unwrap_or_else(|_| "unknown".to_owned()));
    let clean: String = text.chars().filter(|c| c.is_ascii() && !c.is_control()).collect();
    clean.chars().take(100).collect()
}
