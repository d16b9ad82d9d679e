//! `hactl restart`, `reload`, `reinit`, `pause` and `resume`.

use std::time::Duration;

use clap::Args;

use super::Context;
use super::confirm::Consent;
use super::failure::Failure;
use super::follow::{Wait, finish};
use super::operate::{refuse_on, report, requested_by};
use super::operation::one;
use super::output;
use super::when;
use crate::pb::v1;

/// Arguments of `hactl restart`.
#[derive(Debug, Args)]
pub(super) struct RestartArgs {
    /// The member
    #[arg(value_name = "MEMBER", required_unless_present = "rolling")]
    member: Option<String>,
    /// All members, one after the other: the standbys first, the primary last, by a switchover
    #[arg(long, conflicts_with = "member")]
    rolling: bool,
    /// With --rolling: only members with settings that wait for a restart
    #[arg(long, requires = "rolling")]
    pending: bool,
    /// Also where MEMBER is the primary: it stops, and writes wait until it is back
    #[arg(long, conflicts_with = "rolling")]
    in_place: bool,
    /// Begin then, such as 2026-11-23T02:00:00Z or +2h; within five minutes of it or not at all
    #[arg(long, value_parser = when::moment, value_name = "TIME")]
    at: Option<u64>,
    /// Give it up after this long, such as 90s, 10m or 2h
    #[arg(long, value_parser = when::length, value_name = "TIME", conflicts_with = "at")]
    deadline: Option<Duration>,
    /// Only check, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    wait: Wait,
}

/// Arguments of `hactl reload`.
#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// The member; all where it is left out
    #[arg(value_name = "MEMBER")]
    member: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

/// Arguments of `hactl reinit`.
#[derive(Debug, Args)]
pub(super) struct ReinitArgs {
    /// The standby
    #[arg(value_name = "MEMBER")]
    member: String,
    /// Give it up after this long, such as 90s, 10m or 2h
    #[arg(long, value_parser = when::length, value_name = "TIME")]
    deadline: Option<Duration>,
    /// Only check, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    wait: Wait,
}

/// Arguments of `hactl pause`.
#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// End it by itself after this long, such as 90s, 10m or 2h
    #[arg(long = "for", value_parser = when::length, value_name = "TIME", conflicts_with = "until")]
    length: Option<Duration>,
    /// End it by itself then, such as 2026-11-23T02:00:00Z
    #[arg(long, value_parser = when::moment, value_name = "TIME")]
    until: Option<u64>,
    #[command(flatten)]
    consent: Consent,
}

fn millis(length: Option<Duration>) -> u64 {
    length.map_or(0, |l| u64::try_from(l.as_millis()).unwrap_or(u64::MAX))
}

pub(super) async fn restart(mut context: Context, args: &RestartArgs) -> Result<(), Failure> {
    if !args.dry_run {
        args.consent.possible()?;
    }
    let cluster = context.cluster().await?;
    let request = v1::RestartRequest {
        cluster: cluster.clone(),
        member: args.member.clone().unwrap_or_default(),
        pending_only: args.pending,
        in_place: args.in_place,
        at_unix_ms: args.at.unwrap_or_default(),
        deadline_ms: millis(args.deadline),
        dry_run: true,
        requested_by: requested_by(),
        ..Default::default()
    };
    if args.dry_run || !args.consent.yes {
        let checked = context.client.restart(request.clone()).await?;
        let would = match (&args.member, checked.members.as_slice()) {
            (Some(member), _) => format!("{member} would be restarted"),
            (None, []) => "the members would be restarted".to_owned(),
            (None, members) => format!("these would be restarted: {}", members.join(", ")),
        };
        if args.dry_run {
            return report(context.format, &checked, &would, &checked.problems);
        }
        refuse_on(&checked.problems)?;
        args.consent.ask(&question(args, &cluster, &checked.members))?;
    }
    let request = v1::RestartRequest { dry_run: false, ..request };
    let begun = context.client.restart(request).await?.operation;
    let what = if args.rolling { "all are restarted" } else { "it is restarted" };
    finish(context, begun, &args.wait, |ended| done(what, ended)).await
}

fn question(args: &RestartArgs, cluster: &str, members: &[String]) -> String {
    let when = match args.at {
        Some(at) => format!(" at {}", output::time(at)),
        None => String::new(),
    };
    match &args.member {
        None if args.at.is_some() => format!(
            "Restart the members of cluster {cluster} one after the other{when}? A switchover \
             follows: open transactions on the primary are lost, and writes stop for a moment."
        ),
        None => format!(
            "Restart {} of cluster {cluster} one after the other? Where the primary is among them \
             a switchover follows: open transactions are lost, and writes stop for a moment.",
            members.join(", ")
        ),
        Some(member) if args.in_place => format!(
            "Restart {member} of cluster {cluster}{when}? Its sessions end, and where it is the \
             primary writes stop until it is back."
        ),
        Some(member) => {
            format!("Restart standby {member} of cluster {cluster}{when}? Its sessions end.")
        }
    }
}

/// How long it took, and who is primary where that changed.
fn done(what: &str, ended: &v1::Operation) -> String {
    let took = ended.ended_unix_ms.saturating_sub(ended.started_unix_ms);
    match ended.primary.as_str() {
        "" => format!("done: {what}, after {}", output::age(took)),
        primary => format!("done: {what}, {primary} is primary, after {}", output::age(took)),
    }
}

pub(super) async fn reload(mut context: Context, args: &ReloadArgs) -> Result<(), Failure> {
    let cluster = context.cluster().await?;
    let request = v1::ReloadRequest {
        cluster,
        member: args.member.clone().unwrap_or_default(),
        requested_by: requested_by(),
    };
    let begun = context.client.reload(request).await?.operations;
    let mut failed = Vec::new();
    let mut running = None;
    let mut ended = Vec::new();
    for operation in begun {
        let operation = match args.wait.no_wait {
            true => operation,
            false => context.client.follow(operation).await?,
        };
        match operation.state() {
            v1::OperationState::Failed | v1::OperationState::Cancelled => {
                failed.push(format!("{}: {}", operation.member, operation.failure));
            }
            v1::OperationState::Running => running = Some(operation.id),
            _ => {}
        }
        ended.push(operation);
    }
    let answer = v1::ListOperationsResponse { operations: ended };
    output::value(context.format, &answer, || {
        answer.operations.iter().map(one).collect::<Vec<_>>().join("\n")
    })?;
    match (failed.is_empty(), running) {
        (false, _) => Err(Failure::refused(
            failed.join("; "),
            "PostgreSQL goes on with what it had: correct the files, and reload again",
        )),
        (true, Some(id)) if !args.wait.no_wait => Err(Failure::StillRunning(id)),
        _ => Ok(()),
    }
}

pub(super) async fn reinit(mut context: Context, args: &ReinitArgs) -> Result<(), Failure> {
    if !args.dry_run {
        args.consent.possible()?;
    }
    let cluster = context.cluster().await?;
    let member = &args.member;
    let request = v1::ReinitialiseRequest {
        cluster: cluster.clone(),
        member: member.clone(),
        deadline_ms: millis(args.deadline),
        dry_run: true,
        requested_by: requested_by(),
        ..Default::default()
    };
    if args.dry_run || !args.consent.yes {
        let checked = context.client.reinitialise(request.clone()).await?;
        if args.dry_run {
            let would = format!("{member} would be copied anew");
            return report(context.format, &checked, &would, &checked.problems);
        }
        refuse_on(&checked.problems)?;
        args.consent.ask(&format!(
            "Copy {member} of cluster {cluster} anew? What it has is kept aside, and it neither \
             serves reads nor counts until the copy is proven."
        ))?;
    }
    let request = v1::ReinitialiseRequest { dry_run: false, ..request };
    let begun = context.client.reinitialise(request).await?.operation;
    finish(context, begun, &args.wait, |ended| done("it is copied", ended)).await
}

pub(super) async fn pause(mut context: Context, args: &PauseArgs) -> Result<(), Failure> {
    args.consent.possible()?;
    let cluster = context.cluster().await?;
    let until = match args.length {
        Some(length) => {
            let (status, _) = context.status(&cluster).await?;
            status.at_unix_ms.saturating_add(millis(Some(length)))
        }
        None => args.until.unwrap_or_default(),
    };
    let end = match until {
        0 => "until `hactl resume`".to_owned(),
        at => format!("until {}", output::time(at)),
    };
    let (status, _) = context.status(&cluster).await?;
    let gone = status.clusters.iter().any(|c| c.primary.is_empty());
    let now = if gone { "THERE IS NO PRIMARY NOW, and it stays so. " } else { "" };
    args.consent.ask(&format!(
        "Pause cluster {cluster} {end}? {now}No failover happens meanwhile: a primary that ends, or \
         that loses the control plane, stays down."
    ))?;
    let request = v1::PauseRequest {
        cluster: cluster.clone(),
        until_unix_ms: until,
        requested_by: requested_by(),
    };
    let answer = context.client.pause(request).await?;
    output::value(context.format, &answer, || format!("cluster {cluster} is paused {end}"))
}

pub(super) async fn resume(mut context: Context) -> Result<(), Failure> {
    let cluster = context.cluster().await?;
    let request = v1::ResumeRequest { cluster: cluster.clone(), requested_by: requested_by() };
    let answer = context.client.resume(request).await?;
    let people = context.format.is_for_people();
    output::value(context.format, &answer, || format!("cluster {cluster} is resumed"))?;
    if people {
        output::note("see `hactl explain` for what it does now")?;
    }
    Ok(())
}
