//! `hactl node`: the nodes of the control plane.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};

use super::Context;
use super::confirm::Consent;
use super::failure::Failure;
use super::operate::requested_by;
use super::output::{self, Format, age, time};
use super::table::{Column, Screen, Text, Tone, render};
use crate::client;
use crate::config::{JoinFile, JoiningNode, Learned, Secret};
use crate::pb::v1;

/// Where the secret is looked for by default, as in the example configuration.
const SECRET_FILE: &str = "/etc/quorate/secret";
/// How often the end of a removal is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Arguments of `hactl node`.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the nodes of the control plane
    List,
    /// Add a controller, and write the join file that its `hanode join` needs. Run it where the
    /// secret file can be read: the secret does not come from the control plane
    Add(AddArgs),
    /// Remove a controller, for ever: its identity is never used again
    Remove(RemoveArgs),
    /// Show what happened to the nodes
    History,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Name of the new node
    name: String,
    /// Where the other nodes will reach it
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// What it is to be
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [RoleArg::Controller])]
    roles: Vec<RoleArg>,
    /// Where the join file is written. Default: NAME.join.toml
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The secret that all nodes of the control plane share
    #[arg(long, value_name = "FILE", default_value = SECRET_FILE)]
    secret_file: PathBuf,
    /// How many hours the node may take until it votes
    #[arg(long, value_name = "HOURS", default_value_t = 24,
          value_parser = clap::value_parser!(u64).range(1..=168))]
    expires: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    Controller,
    Agent,
}

impl RoleArg {
    fn name(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Agent => "agent",
        }
    }
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Name of the node
    name: String,
    /// Remove it although members of clusters are registered on it: only for a node that is dead
    #[arg(long)]
    force: bool,
    /// Keep it after all: call off a removal that has not begun in the group
    #[arg(long, conflicts_with = "force")]
    cancel: bool,
    #[command(flatten)]
    consent: Consent,
}

const COLUMNS: [Column; 9] = [
    Column::new("ID").right(),
    Column::new("NAME"),
    Column::new("ADDRESS").spare(2),
    Column::new("ROLES"),
    Column::new("LEADER"),
    Column::new("LAG").right().spare(3),
    Column::new("CONTACT").right(),
    Column::new("VERSION").spare(1),
    Column::new("CHANGE"),
];

const EVENTS: [Column; 4] = [
    Column::new("ID").right(),
    Column::new("TIME"),
    Column::new("NODE"),
    Column::new("EVENT").prose(),
];

pub(super) async fn run(context: Context, args: &NodeArgs) -> Result<(), Failure> {
    match &args.verb {
        Verb::List => list(context).await,
        Verb::Add(args) => add(context, args).await,
        Verb::Remove(args) => remove(context, args).await,
        Verb::History => history(context).await,
    }
}

async fn list(mut context: Context) -> Result<(), Failure> {
    let answer = context.client.list_nodes().await?;
    output::value(context.format, &answer, || table(&answer, Screen::stdout()))
}

fn table(answer: &v1::ListNodesResponse, screen: Screen) -> String {
    let row = |n: &v1::Node| -> Vec<Text> {
        let tone = if n.change.is_empty() { Tone::Plain } else { Tone::Changing };
        let in_group = n.id != 0;
        let contact = match n.last_contact_ms {
            Some(ms) => age(ms),
            None if n.leader || !in_group => String::new(),
            None => "never".to_owned(),
        };
        vec![
            if in_group { n.id.to_string() } else { String::new() }.into(),
            n.name.clone().into(),
            n.address.clone().into(),
            n.roles.join(",").into(),
            if n.leader { "leader" } else { "" }.into(),
            n.lag_entries.map(|lag| lag.to_string()).unwrap_or_default().into(),
            contact.into(),
            n.version.clone().into(),
            Text::toned(n.change.clone(), tone),
        ]
    };
    let rows: Vec<Vec<Text>> = answer.nodes.iter().map(row).collect();
    let mut out = render(&COLUMNS, &rows, screen);
    if !answer.change.is_empty() {
        out.push_str(&format!("{}\n", answer.change));
    }
    out
}

async fn history(mut context: Context) -> Result<(), Failure> {
    let answer = context.client.list_nodes().await?;
    output::value(context.format, &answer.events, || {
        if answer.events.is_empty() {
            return "nothing has happened yet".to_owned();
        }
        let row = |e: &v1::NodeEvent| -> Vec<Text> {
            let node = format!("{} ({})", e.name, e.node);
            vec![
                e.id.to_string().into(),
                time(e.at_unix_ms).into(),
                node.into(),
                e.text.clone().into(),
            ]
        };
        let rows: Vec<Vec<Text>> = answer.events.iter().map(row).collect();
        render(&EVENTS, &rows, Screen::stdout())
    })
}

async fn add(mut context: Context, args: &AddArgs) -> Result<(), Failure> {
    if !args.roles.contains(&RoleArg::Controller) {
        return Err(Failure::Usage(
            "a node that is no controller is not added: give it the secret file and a \
             configuration with the [[controller]] list, and start hanode there"
                .to_owned(),
        ));
    }
    let out = args.out.clone().unwrap_or_else(|| format!("{}.join.toml", args.name).into());
    // Everything that can go wrong here goes wrong before the control plane is asked.
    Secret::load(&args.secret_file).map_err(|problem| {
        Failure::Usage(format!("{problem} Run this where the secret is, or give --secret-file."))
    })?;
    let secret = fs::read_to_string(&args.secret_file)?.trim().to_owned();
    if out.exists() {
        return Err(Failure::Usage(format!("{} is there already", out.display())));
    }
    let request = v1::AddNodeRequest {
        name: args.name.clone(),
        address: args.address.clone(),
        expires_in_ms: args.expires * 3_600_000,
        requested_by: requested_by(),
    };
    let answer = context.client.add_node(request).await?;
    let settings = |list: &[v1::Setting]| list.iter().map(|s| (s.name.clone(), s.value)).collect();
    let learned =
        |n: &v1::Node| Learned { id: n.id, name: n.name.clone(), address: n.address.clone() };
    let join = JoinFile {
        control_plane: answer.control_plane.clone(),
        secret,
        expires_unix_ms: answer.expires_unix_ms,
        node: JoiningNode {
            id: answer.id,
            name: answer.name.clone(),
            address: answer.address.clone(),
            roles: args.roles.iter().map(|r| r.name().to_owned()).collect(),
        },
        raft: settings(&answer.raft),
        timing: settings(&answer.timing),
        controller: answer.controllers.iter().map(learned).collect(),
    };
    let text = join.text().map_err(std::io::Error::other)?;
    write_secret(&out, &text)?;
    output::value(context.format, &answer, || {
        format!(
            "node {} gets id {}; it votes once it runs and has caught up, or is given up at {}\n\
             {} is written. It holds the secret of the control plane: take it to the new node by a \
             safe way, run there\n  hanode join --file {}\nand remove it in both places",
            answer.name,
            answer.id,
            time(answer.expires_unix_ms),
            out.display(),
            out.file_name().unwrap_or_default().to_string_lossy(),
        )
    })
}

/// A file that only its owner reads, from the first moment on.
fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// Calls a removal off.
async fn keep(mut context: Context, args: &RemoveArgs) -> Result<(), Failure> {
    let request = v1::RemoveNodeRequest {
        name: args.name.clone(),
        requested_by: requested_by(),
        cancel: true,
        ..Default::default()
    };
    let answer = context.client.remove_node(request).await?;
    output::value(context.format, &answer, || {
        format!("node {} (id {}) stays", args.name, answer.id)
    })
}

async fn remove(mut context: Context, args: &RemoveArgs) -> Result<(), Failure> {
    if args.cancel {
        return keep(context, args).await;
    }
    args.consent.possible()?;
    args.consent.ask(&format!(
        "Remove node {} from the control plane? It never comes back under its identity.",
        args.name
    ))?;
    let request = v1::RemoveNodeRequest {
        name: args.name.clone(),
        force: args.force,
        requested_by: requested_by(),
        ..Default::default()
    };
    let answer = context.client.remove_node(request).await?;
    let end = Instant::now() + context.client.limit();
    loop {
        match context.client.list_nodes().await {
            Ok(nodes) if nodes.nodes.iter().all(|n| n.id != answer.id) => break,
            // The one that goes may have led: somebody else is asked then.
            Ok(_) | Err(client::Error::NoLeader(_) | client::Error::Unreachable(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= end {
            return Err(Failure::refused(
                format!("node {} is not removed yet", args.name),
                "it goes on; see `hactl node list`",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    output::value(context.format, &answer, || {
        format!("node {} (id {}) is removed", args.name, answer.id)
    })?;
    if context.format == Format::Table {
        output::note(
            "its hanode ends by itself where it runs, or goes on for the members that its file has; its \
             id is never used again",
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_shown() {
        let voter = |id: u64, name: &str| v1::Node {
            id,
            name: name.to_owned(),
            address: format!("10.0.0.{id}:7400"),
            roles: vec!["voter".to_owned()],
            version: "0.1.0".to_owned(),
            ..Default::default()
        };
        let mut nodes = vec![voter(1, "n1"), voter(4, "n4")];
        nodes[0].leader = true;
        nodes[1].last_contact_ms = Some(70);
        nodes[1].lag_entries = Some(2);
        nodes[1].change = "joining".to_owned();
        nodes.push(v1::Node {
            name: "db".to_owned(),
            roles: vec!["agent".to_owned()],
            ..Default::default()
        });
        let answer = v1::ListNodesResponse {
            nodes,
            change: "node n4 (id 4) is being added".to_owned(),
            ..Default::default()
        };
        let text = table(&answer, Screen { width: None, colours: false });
        assert_eq!(
            text,
            "ID  NAME  ADDRESS        ROLES  LEADER  LAG  CONTACT  VERSION  CHANGE\n \
             1  n1    10.0.0.1:7400  voter  leader                0.1.0\n \
             4  n4    10.0.0.4:7400  voter            2    0.1 s  0.1.0    joining\n    \
             db                   agent\n\
             node n4 (id 4) is being added\n"
        );
    }
}
