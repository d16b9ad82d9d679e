//! `hactl member`: who belongs to a cluster.

use clap::{Args, Subcommand};
use tokio::time::{Duration, Instant, sleep};

use super::Context;
use super::confirm::Consent;
use super::failure::Failure;
use super::operate::{refuse_on, report_checks, requested_by};
use super::output::{self, Format};
use super::table::{Column, Screen, Text, render};
use crate::client;
use crate::pb::{text, v1};

/// How often the status is looked at while a member leaves.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Commands of `hactl member`.
#[derive(Debug, Subcommand)]
pub(super) enum MemberCommand {
    /// List the members, those that leave, and those that were removed
    List,
    /// Permit the name of a removed member again, or let one stay that is about to leave
    Add(AddArgs),
    /// Take a standby out of the cluster: its PostgreSQL is stopped, and its data kept
    Remove(RemoveArgs),
}

/// Arguments of `hactl member add`.
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The cluster, then the member; the member alone where --cluster or the only one is meant
    #[arg(num_args = 1..=2, value_name = "CLUSTER] [MEMBER", required = true)]
    names: Vec<String>,
}

/// Arguments of `hactl member remove`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// The cluster, then the member; the member alone where --cluster or the only one is meant
    #[arg(num_args = 1..=2, value_name = "CLUSTER] [MEMBER", required = true)]
    names: Vec<String>,
    /// Only check, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
}

const COLUMNS: [Column; 6] = [
    Column::new("MEMBER"),
    Column::new("NODE"),
    Column::new("ADDRESS"),
    Column::new("STATE"),
    Column::new("SINCE").spare(1),
    Column::new("BY").spare(2),
];

pub(super) async fn run(context: Context, command: &MemberCommand) -> Result<(), Failure> {
    match command {
        MemberCommand::List => list(context).await,
        MemberCommand::Add(args) => add(context, args).await,
        MemberCommand::Remove(args) => remove(context, args).await,
    }
}

/// `CLUSTER MEMBER`, or `MEMBER` of the cluster that is meant anyway.
async fn names(context: &mut Context, names: &[String]) -> Result<(String, String), Failure> {
    match names {
        [cluster, member] => Ok((cluster.clone(), member.clone())),
        [member] => Ok((context.cluster().await?, member.clone())),
        _ => Err(Failure::Usage("a member is wanted, or a cluster and a member".to_owned())),
    }
}

async fn list(mut context: Context) -> Result<(), Failure> {
    let cluster = context.cluster().await?;
    let status = context.client.status(&cluster).await?;
    let Some(found) = status.clusters.into_iter().next() else {
        return Err(Failure::refused("the answer names no cluster", ""));
    };
    let shown = serde_json::json!({
        "cluster": found.name, "members": found.members, "removed": found.removed_members,
    });
    output::value(context.format, &shown, || render(&COLUMNS, &rows(&found), Screen::stdout()))
}

fn rows(cluster: &v1::Cluster) -> Vec<Vec<Text>> {
    let member = |m: &v1::Member| -> Vec<Text> {
        let role = text::of::<v1::MemberRole>(m.role);
        let state = if m.leaving { format!("{role}, leaving") } else { role.to_owned() };
        let (name, node, address) = (m.name.clone(), m.node.clone(), m.address.clone());
        vec![name.into(), node.into(), address.into(), state.into(), "".into(), "".into()]
    };
    let removed = |m: &v1::RemovedMember| -> Vec<Text> {
        let (name, node, address) = (m.name.clone(), m.node.clone(), m.address.clone());
        let (since, by) = (output::time(m.at_unix_ms), m.by.clone());
        vec![name.into(), node.into(), address.into(), "removed".into(), since.into(), by.into()]
    };
    let members = cluster.members.iter().map(member);
    members.chain(cluster.removed_members.iter().map(removed)).collect()
}

async fn add(mut context: Context, args: &AddArgs) -> Result<(), Failure> {
    let (cluster, member) = names(&mut context, &args.names).await?;
    let request = v1::PermitMemberRequest {
        cluster: cluster.clone(),
        member: member.clone(),
        requested_by: requested_by(),
    };
    let call = |mut c: client::Connection, request| async move { c.permit_member(request).await };
    let answer = context.client.ask(false, &request, call).await?;
    output::value(context.format, &answer, || {
        format!(
            "{member} may belong to cluster {cluster}. Its node's configuration needs\n\n\
             [[member]]\ncluster = \"{cluster}\"\nname = \"{member}\"\n\
             address = \"HOST:PORT\"\ndata_dir = \"/var/lib/quorate/{cluster}/{member}\"\n\n\
             and hanode there has to run: it registers the member by itself."
        )
    })
}

async fn remove(mut context: Context, args: &RemoveArgs) -> Result<(), Failure> {
    if !args.dry_run {
        args.consent.possible()?;
    }
    let (cluster, member) = names(&mut context, &args.names).await?;
    let request = v1::RemoveMemberRequest {
        cluster: cluster.clone(),
        member: member.clone(),
        requested_by: requested_by(),
        dry_run: true,
    };
    let checked = send(&mut context, &request).await?;
    if args.dry_run {
        return report_checks(context.format, &checked, &checked.problems);
    }
    refuse_on(&checked.problems)?;
    args.consent.ask(&format!(
        "Take {member} out of cluster {cluster}? Its PostgreSQL is stopped, and its data kept."
    ))?;
    let request = v1::RemoveMemberRequest { dry_run: false, ..request };
    let answer = send(&mut context, &request).await?;
    follow(&mut context, &cluster, &member).await?;
    if context.format != Format::Table {
        return output::value(context.format, &answer, String::new);
    }
    output::line(format!(
        "{member} is no member of cluster {cluster} any more. Its agent stops PostgreSQL and keeps \
         the data; take the [[member]] out of its node's configuration."
    ))
}

async fn send(
    context: &mut Context,
    request: &v1::RemoveMemberRequest,
) -> Result<v1::RemoveMemberResponse, client::Error> {
    let call = |mut c: client::Connection, request| async move { c.remove_member(request).await };
    context.client.ask(request.dry_run, request, call).await
}

/// Waits until the member is gone, or stays.
async fn follow(context: &mut Context, cluster: &str, member: &str) -> Result<(), Failure> {
    let end = Instant::now() + context.limit;
    loop {
        match context.client.status(cluster).await {
            Ok(status) => {
                let found = status.clusters.iter().flat_map(|c| &c.members);
                match found.into_iter().find(|m| m.name == member) {
                    None => return Ok(()),
                    Some(m) if !m.leaving => {
                        let message = format!("{member} stays: its removal was given up");
                        return Err(Failure::refused(
                            message,
                            "see `hactl history` for the reason",
                        ));
                    }
                    Some(_) => {}
                }
            }
            Err(client::Error::NoLeader(_) | client::Error::Unreachable(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= end {
            let message = format!("{member} still leaves");
            return Err(Failure::refused(message, "see `hactl explain` for what it waits for"));
        }
        sleep(LOOK_EVERY).await;
    }
}
