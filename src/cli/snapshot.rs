//! `hactl snapshot`: the agreed state as a file, and a control plane out of such a file.

use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Context;
use super::failure::Failure;
use super::masked;
use super::output::{self, Format, bytes, time};
use super::rescue::{Others, failed, place_failed, refused, saved_of};
use crate::clock::{BootClock, Clock as _};
use crate::domain::generation::Generation;
use crate::pb::v1;
use crate::raft::offline;
use crate::raft::wire::StoreId;
use crate::rescue::file::{self, Controller, Saved};
use crate::rescue::place::Place;
use crate::rescue::restore;

/// What to do with a snapshot.
#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Save the agreed state of the control plane to a new file. It holds the whole specification:
    /// keep it like a secret
    Save(SaveArgs),
    /// Show what a file holds, and check that it is whole
    Show(ShowArgs),
    /// Make a new control plane of one controller out of a file, where all controllers are gone
    Restore(RestoreArgs),
}

/// Arguments of `hactl snapshot save`.
#[derive(Debug, Args)]
pub(super) struct SaveArgs {
    /// The file; it must not exist
    file: PathBuf,
    /// Take what any node knows, which may be old: where there is no leader
    #[arg(long, conflicts_with = "local")]
    stale: bool,
    /// Read the store in the data_dir of a node whose hanode is stopped
    #[arg(long, value_name = "DIR")]
    local: Option<PathBuf>,
}

/// Arguments of `hactl snapshot show`.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The file
    file: PathBuf,
    /// Show all of it, without values that may be secrets
    #[arg(long)]
    full: bool,
    /// With --full: show those values as well
    #[arg(long, requires = "full")]
    secrets: bool,
}

/// Arguments of `hactl snapshot restore`.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The file
    file: PathBuf,
    /// The data_dir of the new controller's node; it holds no Raft store
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The node of the new controller, as in its configuration
    #[arg(long, value_name = "NAME")]
    node: String,
    /// Its number, where the file does not know the node
    #[arg(long, value_name = "N", requires = "address")]
    id: Option<u64>,
    /// Where it listens, where the file does not know the node
    #[arg(long, value_name = "HOST:PORT", requires = "id")]
    address: Option<String>,
    /// A generation that is known to have existed: the new one is higher
    #[arg(long, value_name = "N", default_value_t = 0)]
    above: u64,
    #[command(flatten)]
    others: Others,
}

/// What is told of a file.
#[derive(Serialize)]
struct Summary<'a> {
    control_plane: &'a str,
    generation: Generation,
    node: &'a str,
    from_leader: bool,
    at_unix_ms: u64,
    term: u64,
    index: u64,
    controllers: &'a [Controller],
    clusters: Vec<ClusterSummary>,
}

#[derive(Serialize)]
struct ClusterSummary {
    name: String,
    epoch: u64,
    primary: Option<String>,
    members: Vec<String>,
    events: usize,
}

pub(super) async fn save(
    context: impl FnOnce() -> Result<Context, Failure>,
    args: &SaveArgs,
    format: Format,
) -> Result<(), Failure> {
    let saved = match &args.local {
        Some(dir) => {
            let place = Place::open(dir).map_err(|e| place_failed(&e))?;
            let contents = place.read().map_err(|e| place_failed(&e))?;
            saved_of(&contents, BootClock.wall())
        }
        None => {
            let request = v1::GetSnapshotRequest { stale: args.stale };
            let mut context = context()?;
            let answer = context.client.read(|mut c| async move { c.get_snapshot(request).await });
            // What came over the network is checked before it is trusted as a backup.
            Saved::decode(&answer.await?.file).map_err(|e| failed(&e))?
        }
    };
    let content = saved.encode().map_err(|e| failed(&e))?;
    file::write(&args.file, &content).map_err(|e| failed(&e))?;
    let size = bytes(content.len() as u64);
    output::value(format, &summary(&saved), || {
        format!(
            "saved to {} ({size}); it holds the whole specification: keep it like a secret\n{}",
            args.file.display(),
            describe(&saved)
        )
    })
}

pub(super) fn show(args: &ShowArgs, format: Format) -> Result<(), Failure> {
    let saved = Saved::load(&args.file).map_err(|e| failed(&e))?;
    if args.full {
        let format = if format == Format::Table { Format::Yaml } else { format };
        let mut all = serde_json::to_value(&saved).map_err(io::Error::other)?;
        if !args.secrets {
            masked::mask(&mut all);
        }
        return output::value(format, &all, String::new);
    }
    output::value(format, &summary(&saved), || describe(&saved))
}

pub(super) fn restore(args: &RestoreArgs, format: Format) -> Result<(), Failure> {
    let saved = Saved::load(&args.file).map_err(|e| failed(&e))?;
    let known = saved.controllers.iter().find(|c| c.name == args.node).cloned();
    let node = match (known, args.id, &args.address) {
        (_, Some(id), Some(address)) => {
            Controller { id, name: args.node.clone(), address: address.clone() }
        }
        (Some(known), _, _) => known,
        (None, _, _) => {
            return Err(Failure::Usage(format!(
                "the file knows no controller named {}: give --id and --address as in its \
                 configuration",
                args.node
            )));
        }
    };
    let statement = args.others.statement()?;
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|e| Failure::refused(format!("no randomness: {e}"), ""))?;
    let store = StoreId::from_bytes(random);
    let above = Generation(args.above);
    let plan = restore::plan(&saved, &node, store, &statement, above).map_err(|e| refused(&e))?;
    let note = format!(
        "  the state is of {}; members that joined the cluster since are not known to it: start \
         them before this controller\n",
        time(saved.at.0)
    );
    if !args.others.agreed(format, &plan, &note)? {
        return Ok(());
    }
    let place = Place::create(&args.data_dir).map_err(|e| place_failed(&e))?;
    offline::begin(&**place.engine(), &plan.beginning).map_err(|e| failed(&e))?;
    drop(place);
    output::value(format, &plan.recovery, || {
        format!(
            "{} is the only controller of generation {}\nnext: start hanode there with node id {}, \
             look at `hactl status` and `hactl explain`, then add controllers",
            node.name, plan.recovery.generation, node.id
        )
    })
}

fn summary(saved: &Saved) -> Summary<'_> {
    let clusters = saved.state.clusters.iter().map(|(name, c)| ClusterSummary {
        name: name.to_string(),
        epoch: c.epoch.0,
        primary: c.active_primary().map(ToString::to_string),
        members: c.members.keys().map(ToString::to_string).collect(),
        events: c.history.len(),
    });
    Summary {
        control_plane: &saved.control_plane,
        generation: saved.generation,
        node: &saved.node,
        from_leader: saved.from_leader,
        at_unix_ms: saved.at.0,
        term: saved.term,
        index: saved.index,
        controllers: &saved.controllers,
        clusters: clusters.collect(),
    }
}

fn describe(saved: &Saved) -> String {
    let said = match saved.from_leader {
        true => "the leader",
        false => "not the leader: it may have been old",
    };
    let names: Vec<&str> = saved.controllers.iter().map(|c| c.name.as_str()).collect();
    let mut out = format!(
        "control plane {}, generation {}, taken {} from {} ({said}), entry {} of term {}\n\
         controllers: {}\n",
        saved.control_plane,
        saved.generation,
        time(saved.at.0),
        saved.node,
        saved.index,
        saved.term,
        names.join(", ")
    );
    for cluster in summary(saved).clusters {
        let primary = cluster.primary.unwrap_or_else(|| "none".to_owned());
        out.push_str(&format!(
            "cluster {}: epoch {}, primary {primary}, members {}, {} events\n",
            cluster.name,
            cluster.epoch,
            cluster.members.join(", "),
            cluster.events
        ));
    }
    out
}
