//! `hactl switchover` and `hactl failover`.

use clap::Args;

use super::Context;
use super::confirm::Consent;
use super::failure::{Failure, REFUSED};
use super::follow::{Wait, finish};
use super::output::{self, Format};
use super::when;
use crate::pb::v1;

/// Arguments of `hactl switchover`.
#[derive(Debug, Args)]
pub(super) struct SwitchoverArgs {
    /// The new primary; the best standby where it is left out
    #[arg(long, value_name = "MEMBER")]
    to: Option<String>,
    /// Begin then, such as 2026-11-23T02:00:00Z or +2h; within five minutes of it or not at all
    #[arg(long, value_parser = when::moment, value_name = "TIME")]
    at: Option<u64>,
    /// Only check, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    wait: Wait,
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
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn switchover(mut context: Context, args: &SwitchoverArgs) -> Result<(), Failure> {
    if !args.dry_run {
        args.consent.possible()?;
    }
    let cluster = context.cluster().await?;
    let request = v1::SwitchoverRequest {
        cluster: cluster.clone(),
        target: args.to.clone().unwrap_or_default(),
        requested_by: requested_by(),
        dry_run: true,
        at_unix_ms: args.at.unwrap_or_default(),
        ..Default::default()
    };
    if args.dry_run || !args.consent.yes {
        let checked = context.client.switchover(request.clone()).await?;
        if args.dry_run {
            return report(
                context.format,
                &checked,
                &promoted_one(&checked.target),
                &checked.problems,
            );
        }
        refuse_on(&checked.problems)?;
        let who = match checked.target.as_str() {
            "" => "the best standby",
            target => target,
        };
        let when = args.at.map(|at| format!(" at {}", output::time(at))).unwrap_or_default();
        let question = format!(
            "Make {who} the primary of cluster {cluster}{when}? Open transactions are lost, and \
             writes stop for a moment."
        );
        args.consent.ask(&question)?;
    }
    let request = v1::SwitchoverRequest { dry_run: false, ..request };
    let begun = context.client.switchover(request).await?.operation;
    finish(context, begun, &args.wait, promoted).await
}

pub(super) async fn failover(mut context: Context, args: &FailoverArgs) -> Result<(), Failure> {
    if !args.dry_run {
        args.consent.possible()?;
    }
    let cluster = context.cluster().await?;
    let request = v1::FailoverRequest {
        cluster: cluster.clone(),
        target: args.to.clone().unwrap_or_default(),
        accept_data_loss: args.accept_data_loss,
        requested_by: requested_by(),
        dry_run: true,
        ..Default::default()
    };
    if args.dry_run || !args.consent.yes {
        let checked = context.client.failover(request.clone()).await?;
        if args.dry_run {
            return report(
                context.format,
                &checked,
                &promoted_one(&checked.target),
                &checked.problems,
            );
        }
        refuse_on(&checked.problems)?;
        let who = if checked.target.is_empty() { "the best member" } else { &checked.target };
        let question = format!("End the primary of cluster {cluster} and promote {who}?");
        if args.accept_data_loss {
            let question = format!("{question} ACKNOWLEDGED COMMITS MAY BE LOST.");
            args.consent.ask_for_name(&question, &cluster)?;
        } else {
            args.consent.ask(&question)?;
        }
    }
    let request = v1::FailoverRequest { dry_run: false, ..request };
    let begun = context.client.failover(request).await?.operation;
    finish(context, begun, &args.wait, promoted).await
}

/// How an operation that made a new primary ended.
fn promoted(ended: &v1::Operation) -> String {
    let took = ended.ended_unix_ms.saturating_sub(ended.started_unix_ms);
    format!("done: {} is primary, after {took} ms", ended.primary)
}

fn promoted_one(target: &str) -> String {
    match target {
        "" => "the best member would be promoted".to_owned(),
        target => format!("{target} would be promoted"),
    }
}

/// Says what a dry run found.
pub(super) fn report<T: serde::Serialize>(
    format: Format,
    answer: &T,
    would: &str,
    problems: &[v1::Check],
) -> Result<(), Failure> {
    output::value(format, answer, || {
        let mut lines = match problems {
            [] => format!("nothing stands against it; {would}"),
            _ => "it would be refused:".to_owned(),
        };
        for p in problems {
            lines.push_str(&format!("\n  {} (rule {})", p.message, p.rule));
        }
        lines
    })?;
    if problems.is_empty() { Ok(()) } else { Err(Failure::Said(REFUSED)) }
}

/// Says what a dry run found of what has no target.
pub(super) fn report_checks<T: serde::Serialize>(
    format: Format,
    answer: &T,
    problems: &[v1::Check],
) -> Result<(), Failure> {
    output::value(format, answer, || {
        let each = problems.iter().map(|p| format!("\n  {} (rule {})", p.message, p.rule));
        match problems {
            [] => "nothing stands against it".to_owned(),
            _ => format!("it would be refused:{}", each.collect::<String>()),
        }
    })?;
    if problems.is_empty() { Ok(()) } else { Err(Failure::Said(REFUSED)) }
}

pub(super) fn refuse_on(problems: &[v1::Check]) -> Result<(), Failure> {
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

/// Who asks, for the history: user and host, cut to what a request may hold.
pub(super) fn requested_by() -> String {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    let user = user.map_or_else(|| format!("uid {uid}"), |u| u.name);
    let host = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned());
    let text = format!("{user}@{}", host.unwrap_or_else(|_| "unknown".to_owned()));
    let clean: String = text.chars().filter(|c| c.is_ascii() && !c.is_control()).collect();
    clean.chars().take(100).collect()
}
