//! `hactl cluster`: which clusters there are.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Context;
use super::confirm::Consent;
use super::failure::{Failure, REFUSED};
use super::operate::{refuse_on, report_checks, requested_by};
use super::output;
use super::table::{Column, Screen, Text, render};
use crate::client;
use crate::pb::v1;

/// Commands of `hactl cluster`.
#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// List the clusters, and those that were removed
    List,
    /// Create a cluster before its members come
    Create(CreateArgs),
    /// Take over an existing PostgreSQL that was stopped, with its data and settings
    Adopt(AdoptArgs),
    /// Forget a cluster: its PostgreSQL is stopped, and all data kept
    Remove(RemoveArgs),
}

/// Arguments of `hactl cluster create`.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its name
    name: String,
    /// The keys of one [[cluster]] as TOML, without `name`; [timing] for other times than the usual
    #[arg(short, long, value_name = "SPEC.toml")]
    file: PathBuf,
}

/// Arguments of `hactl cluster adopt`.
#[derive(Debug, Args)]
pub(super) struct AdoptArgs {
    /// Its name; --cluster or the only one where it is left out
    name: Option<String>,
    /// The member whose data is the primary's, where that cannot be proven
    #[arg(long, value_name = "MEMBER")]
    primary: Option<String>,
    /// Only check, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
}

/// Arguments of `hactl cluster remove`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Its name
    name: String,
    /// Remove it though members run, or are silent: they stop
    #[arg(long)]
    force: bool,
    /// Only check, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
}

const COLUMNS: [Column; 6] = [
    Column::new("CLUSTER"),
    Column::new("EPOCH").right(),
    Column::new("PRIMARY"),
    Column::new("MEMBERS").right(),
    Column::new("SYSTEM ID").spare(1),
    Column::new("STATE"),
];

pub(super) async fn run(context: Context, command: &ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::List => list(context).await,
        ClusterCommand::Create(args) => create(context, args).await,
        ClusterCommand::Adopt(args) => adopt(context, args).await,
        ClusterCommand::Remove(args) => remove(context, args).await,
    }
}

async fn list(mut context: Context) -> Result<(), Failure> {
    let answer = context
        .client
        .read(|mut c| async move { c.list_clusters(v1::ListClustersRequest {}).await })
        .await?;
    output::value(context.format, &answer, || match (&answer.clusters[..], &answer.removed[..]) {
        ([], []) => "this control plane has no cluster yet".to_owned(),
        _ => render(&COLUMNS, &rows(&answer), Screen::stdout()),
    })
}

fn rows(answer: &v1::ListClustersResponse) -> Vec<Vec<Text>> {
    let row = |name: &str, epoch: u64, primary: &str, members: u32, id: &str, state: String| {
        let (epoch, members) = (epoch.to_string(), members.to_string());
        let texts = [name.to_owned(), epoch, primary.to_owned(), members, id.to_owned(), state];
        texts.into_iter().map(Text::from).collect::<Vec<Text>>()
    };
    let here = answer
        .clusters
        .iter()
        .map(|c| row(&c.name, c.epoch, &c.primary, c.members, &c.system_id, c.summary.clone()));
    let gone = answer.removed.iter().map(|c| {
        let forced = if c.forced { ", forced" } else { "" };
        let state = format!("removed {} by {}{forced}", output::time(c.at_unix_ms), c.by);
        row(&c.name, c.epoch, "", c.members, &c.system_id, state)
    });
    here.chain(gone).collect()
}

async fn create(mut context: Context, args: &CreateArgs) -> Result<(), Failure> {
    let specification = std::fs::read_to_string(&args.file)
        .map_err(|e| Failure::Usage(format!("{}: {e}", args.file.display())))?;
    let request = v1::CreateClusterRequest {
        cluster: args.name.clone(),
        specification,
        requested_by: requested_by(),
    };
    let call = |mut c: client::Connection, request| async move { c.create_cluster(request).await };
    let answer = context.client.ask(false, &request, call).await?;
    output::value(context.format, &answer, || {
        format!(
            "cluster {} waits for its members: name them in [[member]] of their nodes",
            args.name
        )
    })
}

async fn adopt(mut context: Context, args: &AdoptArgs) -> Result<(), Failure> {
    if !args.dry_run {
        args.consent.possible()?;
    }
    let cluster = match &args.name {
        Some(name) => name.clone(),
        None => context.cluster().await?,
    };
    let request = v1::AdoptClusterRequest {
        cluster: cluster.clone(),
        primary: args.primary.clone().unwrap_or_default(),
        requested_by: requested_by(),
        dry_run: true,
    };
    let checked = send_adoption(&mut context, &request).await?;
    if args.dry_run {
        output::value(context.format, &checked, || adoption_text(&checked))?;
        return match checked.problems.is_empty() {
            true => Ok(()),
            false => Err(Failure::Said(REFUSED)),
        };
    }
    refuse_on(&checked.problems)?;
    if !args.consent.yes {
        output::note(&adoption_text(&checked))?;
    }
    args.consent.ask(&format!("Adopt the data of {} as cluster {cluster}?", checked.member))?;
    // What was shown is what is done.
    let primary = checked.member.clone();
    let named = args.primary.is_some();
    let request = v1::AdoptClusterRequest {
        primary: if named { primary } else { String::new() },
        dry_run: false,
        ..request
    };
    let answer = send_adoption(&mut context, &request).await?;
    output::value(context.format, &answer, || {
        format!("{}\nthe adoption has begun: see `hactl status`", adoption_text(&answer))
    })
}

fn adoption_text(answer: &v1::AdoptClusterResponse) -> String {
    if !answer.problems.is_empty() {
        let each = answer.problems.iter().map(|p| format!("\n  {} (rule {})", p.message, p.rule));
        return format!("it would be refused:{}", each.collect::<String>());
    }
    let mut text = format!(
        "the data of {} is the primary's: system identifier {}, timeline {}; the first epoch is {}",
        answer.member,
        answer.system_id,
        answer.timeline,
        answer.first_epoch.max(answer.timeline + 1)
    );
    let mut parameters: Vec<_> = answer.parameters.iter().collect();
    parameters.sort();
    for (name, value) in parameters {
        text.push_str(&format!("\n  setting {name} = {value}"));
    }
    for line in &answer.hba {
        text.push_str(&format!("\n  rule {line}"));
    }
    for line in &answer.ident {
        text.push_str(&format!("\n  map {line}"));
    }
    for what in &answer.left_out {
        text.push_str(&format!("\n  not taken over: {what}"));
    }
    for step in &answer.steps {
        text.push_str(&format!("\n  turned off on {step}"));
    }
    text
}

async fn send_adoption(
    context: &mut Context,
    request: &v1::AdoptClusterRequest,
) -> Result<v1::AdoptClusterResponse, client::Error> {
    let call = |mut c: client::Connection, request| async move { c.adopt_cluster(request).await };
    context.client.ask(request.dry_run, request, call).await
}

async fn remove(mut context: Context, args: &RemoveArgs) -> Result<(), Failure> {
    if !args.dry_run {
        args.consent.possible()?;
    }
    let request = v1::RemoveClusterRequest {
        cluster: args.name.clone(),
        force: args.force,
        requested_by: requested_by(),
        dry_run: true,
    };
    let checked = send(&mut context, &request).await?;
    if args.dry_run {
        return report_checks(context.format, &checked, &checked.problems);
    }
    refuse_on(&checked.problems)?;
    let question = format!(
        "Forget cluster {}, its history and its epochs? Its PostgreSQL is stopped. No data is removed.",
        args.name
    );
    args.consent.ask_for_name(&question, &args.name)?;
    let answer =
        send(&mut context, &v1::RemoveClusterRequest { dry_run: false, ..request }).await?;
    output::value(context.format, &answer, || {
        format!(
            "cluster {} is removed. Its data directories are where they were; its members do not \
             register again before `hactl cluster create {}`",
            args.name, args.name
        )
    })
}

async fn send(
    context: &mut Context,
    request: &v1::RemoveClusterRequest,
) -> Result<v1::RemoveClusterResponse, client::Error> {
    let call = |mut c: client::Connection, request| async move { c.remove_cluster(request).await };
    context.client.ask(request.dry_run, request, call).await
}
