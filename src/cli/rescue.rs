//! `hactl recover` and `hactl retire`: a control plane whose majority is lost.
//!
//! Both work on the files of one node whose `hanode` is stopped, and ask nobody.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use super::operate::requested_by;
use super::output::{self, Format, time};
use crate::clock::{BootClock, Clock as _};
use crate::raft::offline;
use crate::rescue::file::{self, Saved};
use crate::rescue::place::{Place, PlaceError};
use crate::rescue::receipt::Receipt;
use crate::rescue::recover::{self, Plan, Refusal, Statement};

/// What is said of the other controllers.
#[derive(Debug, Args)]
pub(super) struct Others {
    /// The receipt that `hactl retire` made on another controller; once for each
    #[arg(long = "receipt", value_name = "FILE")]
    receipts: Vec<PathBuf>,
    /// A node whose machine is off FOR EVER: its hanode never runs again. Once for each
    #[arg(long = "lost", value_name = "NODE")]
    lost: Vec<String>,
    /// There are NO other members than those that are shown: none joined after this state was made.
    /// Where it is not given, and the state may be old, nobody is promoted before you accept data loss
    #[arg(long)]
    members_complete: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; the statements above are meant
    #[arg(long, short)]
    yes: bool,
}

/// Arguments of `hactl recover`.
#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    /// The data_dir of this node, as in its configuration; its hanode is stopped
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    others: Others,
}

/// Arguments of `hactl retire`.
#[derive(Debug, Args)]
pub(super) struct RetireArgs {
    /// The data_dir of this node, as in its configuration; its hanode is stopped
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The node whose recovery it serves: the one that `hactl recover` is run on. It serves no other
    #[arg(long = "for", value_name = "NODE")]
    beneficiary: String,
    /// Say where this node's log ends, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Where the receipt is written; printed where it is left out
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Others {
    /// The statement, with the receipts read.
    pub(super) fn statement(&self) -> Result<Statement, Failure> {
        let mut receipts = Vec::new();
        for path in &self.receipts {
            let bytes = file::read(path).map_err(|e| failed(&e))?;
            let receipt = Receipt::decode(&bytes).map_err(|e| {
                Failure::refused(
                    format!("{}: {e}", path.display()),
                    "copy the receipt again from where `hactl retire` was run",
                )
            })?;
            receipts.push(receipt);
        }
        let at = BootClock.wall();
        let (lost, members_complete) = (self.lost.clone(), self.members_complete);
        Ok(Statement { receipts, lost, members_complete, by: requested_by(), at })
    }

    /// Shows what will be done, and asks for it where that is needed. `false` where it is only
    /// shown.
    pub(super) fn agreed(&self, format: Format, plan: &Plan, note: &str) -> Result<bool, Failure> {
        if self.dry_run {
            output::value(format, &plan.recovery, || format!("{}{note}", describe(plan)))?;
            return Ok(false);
        }
        output::note(&format!("{}{note}", describe(plan)))?;
        if !self.yes {
            typed("the name of the control plane", &plan.beginning.control_plane)?;
            if self.members_complete && !plan.recovery.proven {
                typed("\"complete\", where the lists of members above are", "complete")?;
            }
        }
        Ok(true)
    }
}

pub(super) fn recover(args: &RecoverArgs, format: Format) -> Result<(), Failure> {
    let statement = args.others.statement()?;
    let place = Place::open(&args.data_dir).map_err(|e| place_failed(&e))?;
    let contents = place.read().map_err(|e| place_failed(&e))?;
    let plan = recover::plan(&contents, &statement).map_err(|e| refused(&e))?;
    if !args.others.agreed(format, &plan, "")? {
        return Ok(());
    }
    // What was there stays readable, and cannot be run.
    let generation = plan.recovery.generation;
    let kept = args.data_dir.join(format!("before-generation-{generation}.snapshot"));
    let saved = saved_of(&contents, statement.at);
    let bytes = saved.encode().map_err(|e| failed(&e))?;
    file::write(&kept, &bytes).map_err(|e| failed(&e))?;
    offline::begin(&**place.engine(), &plan.beginning).map_err(|e| failed(&e))?;
    drop(place);
    output::value(format, &plan.recovery, || {
        format!(
            "this controller is the only one of generation {generation}; the state before is in {} (mode \
             0600; keep it like a secret)\n\
             next: start hanode here, look at `hactl status` and `hactl explain`, then add \
             controllers",
            kept.display()
        )
    })
}

pub(super) fn retire(args: &RetireArgs, format: Format) -> Result<(), Failure> {
    let place = Place::open(&args.data_dir).map_err(|e| place_failed(&e))?;
    let contents = place.read().map_err(|e| place_failed(&e))?;
    let beneficiary =
        Receipt::beneficiary(&contents, &args.beneficiary).map_err(|e| refused(&e))?;
    let receipt = Receipt::of(&contents, beneficiary.clone(), BootClock.wall());
    if args.dry_run {
        let (term, index) = receipt.last;
        let end = serde_json::json!({ "node": receipt.node, "term": term, "index": index });
        return output::value(format, &end, || {
            format!("the log of {} ends at entry {index} of term {term}", receipt.node)
        });
    }
    if !args.yes {
        output::note(&format!(
            "controller {} of control plane {} never votes or leads again in generation {}, \
             for a recovery on {} and no other node. Its members go on.",
            receipt.node, receipt.control_plane, receipt.generation, beneficiary.name
        ))?;
        typed("the name of the control plane", &receipt.control_plane)?;
    }
    offline::retire(&**place.engine(), &beneficiary).map_err(|e| failed(&e))?;
    drop(place);
    let bytes = receipt.encode().map_err(|e| failed(&e))?;
    match &args.out {
        None => output::line(String::from_utf8_lossy(&bytes).trim_end()),
        Some(path) => {
            file::write(path, &bytes).map_err(|e| failed(&e))?;
            output::value(format, &receipt, || {
                format!(
                    "{} is retired for {} at entry {} of term {}; the receipt is in {}",
                    receipt.node,
                    beneficiary.name,
                    receipt.last.1,
                    receipt.last.0,
                    path.display()
                )
            })
        }
    }
}

/// A store's contents as a snapshot.
pub(super) fn saved_of(
    contents: &offline::Contents,
    at: crate::domain::types::WallMillis,
) -> Saved {
    let voters = contents.voters.iter().flatten();
    let controller = |id: &u64| {
        let peer = contents.nodes.get(id).cloned().unwrap_or_default();
        file::Controller { id: *id, name: peer.name, address: peer.address }
    };
    let mut controllers: Vec<file::Controller> = voters.map(controller).collect();
    controllers.dedup();
    let node = contents.nodes.get(&contents.node_id).map(|p| p.name.clone());
    Saved {
        control_plane: contents.control_plane.clone(),
        generation: contents.generation,
        node: node.unwrap_or_else(|| contents.node_id.to_string()),
        from_leader: false,
        at,
        term: contents.last.0,
        index: contents.last.1,
        controllers,
        state: contents.state.clone(),
    }
}

/// What a plan does, for a person.
fn describe(plan: &Plan) -> String {
    let Plan { recovery, beginning } = plan;
    let names = |names: &[String]| match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let mut out = format!(
        "control plane {} begins generation {} at {}\n  the only controller: {}\n  retired, by \
         receipt: {}\n  stated to be off for ever: {}\n",
        beginning.control_plane,
        recovery.generation,
        time(recovery.at.0),
        recovery.node,
        names(&recovery.retired),
        names(&recovery.lost),
    );
    if recovery.proven {
        out.push_str(
            "  the state is proven to be the newest: receipts and this node are a majority, so \
             nobody can decide anything in the old group again\n",
        );
    } else {
        out.push_str(
            "  the state may not be the newest. If a machine above is NOT off for ever, two control \
             planes may go on side by side, and acknowledged commits can be lost\n",
        );
    }
    for (name, cluster) in &beginning.state.clusters {
        let lost = cluster.verify.iter().flat_map(|v| &v.lost);
        let lost: Vec<String> = lost.map(ToString::to_string).collect();
        let members: Vec<String> = cluster.members.keys().map(ToString::to_string).collect();
        out.push_str(&format!(
            "  cluster {name}: epoch {}, members {}\n",
            cluster.epoch,
            members.join(", ")
        ));
        if cluster.verify.is_none() {
            continue;
        }
        if !recovery.members_complete {
            out.push_str(
                "    a member that joined after this state was made is not in this list. Where there \
                 is none say so with --members-complete; else nobody is promoted until you accept \
                 what may be missing: `hactl failover --accept-data-loss`\n",
            );
        }
        out.push_str(match lost.is_empty() {
            true if !recovery.members_complete => "",
            true => {
                "    every member is asked what it knows; a primary follows where all of them \
                 answer\n"
            }
            false => {
                "    nobody is promoted without the lost members until you accept what may be \
                 missing: `hactl failover --accept-data-loss`\n"
            }
        });
        if !lost.is_empty() {
            out.push_str(&format!("    members on lost nodes: {}\n", lost.join(", ")));
        }
    }
    out
}

/// Asks for a word that nobody types by mistake.
fn typed(what: &str, word: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        let message = "standard input is not a terminal, so nobody can be asked: give --yes";
        return Err(Failure::Usage(message.to_owned()));
    }
    write!(io::stderr(), "type {what} to go on: ")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() == word {
        true => Ok(()),
        false => Err(Failure::refused("not done: that is something else", "")),
    }
}

/// A refusal with its rule.
pub(super) fn refused(refusal: &Refusal) -> Failure {
    let rule = refusal.rule();
    Failure::refused(format!("{refusal} (rule {rule})"), refusal.hint())
}

/// A failure that says it all.
pub(super) fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::refused(error.to_string(), "")
}

/// What stands against a data directory.
pub(super) fn place_failed(error: &PlaceError) -> Failure {
    if let PlaceError::User { owner, .. } = error {
        let arguments: Vec<String> = std::env::args().collect();
        let hint = format!("run it as that user: sudo -u '{owner}' {}", arguments.join(" "));
        return Failure::refused(error.to_string(), hint);
    }
    let hint = match error {
        PlaceError::Lock(_) => "stop hanode on this node first, and keep it stopped meanwhile",
        PlaceError::Store(_) | PlaceError::Path { .. } => "run this as the user of hanode",
        PlaceError::NoStore(_) | PlaceError::Used(_) | PlaceError::User { .. } => "",
    };
    Failure::refused(error.to_string(), hint)
}
