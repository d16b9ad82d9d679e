//! `hactl`: what an operator types.
//!
//! Owns the command line, its output and its exit codes. Imports `client` and `pb`. It runs on a
//! person's machine, over real sockets and terminals, so it uses tokio directly.

#![allow(clippy::disallowed_methods)]

mod aside;
mod clusters;
mod config;
mod config_document;
mod confirm;
mod connect;
mod doctor;
mod events;
mod explain;
mod failure;
mod follow;
mod history;
mod jobs;
mod kinds;
mod leaderless;
pub mod manual;
mod masked;
mod member;
mod node;
mod operate;
mod operation;
mod output;
mod progress;
mod ps;
mod rescue;
mod settings;
mod since;
mod snapshot;
mod status;
mod table;
mod topology;
mod when;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::client::{self, Client};
use crate::pb::v1;
use failure::Failure;
use output::{Colour, Format};

/// Longest wait for an answer where `--timeout` is not given.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the end of an operation where `--timeout` is not given.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(60);

/// The same for a restart of all members.
const RESTART_TIMEOUT: Duration = Duration::from_secs(3600);
/// And for a copy.
const COPY_TIMEOUT: Duration = Duration::from_secs(86_400);

/// Shows and changes PostgreSQL clusters that Quorate looks after.
#[derive(Debug, Parser)]
#[command(name = "hactl", version, after_help = failure::exit_codes(), max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// Nodes to ask, host:port, any of them: the leader is found by itself. Default: `endpoints`
    /// in ~/.config/quorate/hactl.toml or /etc/quorate/hactl.toml, else 127.0.0.1:7401
    #[arg(
        short,
        long = "endpoint",
        visible_alias = "endpoints",
        global = true,
        env = "HACTL_ENDPOINTS",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    endpoints: Vec<String>,
    /// The cluster. Default: `cluster` in the configuration file, else the only one there is
    #[arg(short, long, global = true, env = "HACTL_CLUSTER", value_name = "NAME")]
    cluster: Option<String>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Whether to use colours; the default heeds NO_COLOR
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    color: Colour,
    /// Longest wait, such as 500ms, 10s or 2m. Default: 10s for an answer, 60s for an operation
    #[arg(long, global = true, value_parser = settings::duration, value_name = "TIME")]
    timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show clusters and members
    Status(status::StatusArgs),
    /// Hand the primary's role over in order, without losing a commit
    Switchover(operate::SwitchoverArgs),
    /// Replace a primary that is gone, where that does not happen by itself
    Failover(operate::FailoverArgs),
    /// Restart a member, or all of them one after the other
    Restart(jobs::RestartArgs),
    /// Make PostgreSQL read its configuration again
    Reload(jobs::ReloadArgs),
    /// Keep a standby's data aside, and copy it anew
    #[command(alias = "reinitialise", alias = "reinitialize")]
    Reinit(jobs::ReinitArgs),
    /// Have nothing happen by itself: no failover, whatever ends
    Pause(jobs::PauseArgs),
    /// End a pause
    Resume,
    /// Show operations, wait for one, or call one off
    #[command(alias = "op")]
    Operation(operation::OperationArgs),
    /// Show what happened to a cluster
    History(history::HistoryArgs),
    /// Show what happened to one cluster or to all, and what happens
    Events(events::EventsArgs),
    /// Show, add and remove the nodes of the control plane
    Node(node::NodeArgs),
    /// Show and change the specification of a cluster: how commits wait, parameters, access rules
    Config(config::ConfigArgs),
    /// Show, add and remove members
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Show, create and remove clusters
    #[command(subcommand)]
    Cluster(clusters::ClusterCommand),
    /// Say what the leader waits for, and why
    Explain,
    /// Look for what is wrong, and say what to do about it: exits with 1 for warnings, 2 for problems
    Doctor(doctor::DoctorArgs),
    /// List data directories that were replaced and kept
    Aside,
    /// Print a connection string for libpq that finds the primary
    Dsn(connect::DsnArgs),
    /// Run psql against the primary
    Psql(connect::PsqlArgs),
    /// List the PostgreSQL processes of this host, with the numbers that they have inside
    Ps(ps::PsArgs),
    /// Save, show or restore the agreed state of the control plane
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Go on with one controller where the majority of them is lost, on its stopped node
    Recover(rescue::RecoverArgs),
    /// End a controller for good and print the receipt for a recovery elsewhere, on its stopped node
    Retire(rescue::RetireArgs),
    /// Print the completions of a shell, to be sourced by it
    Completion(manual::CompletionArgs),
    /// Write manual pages and completions of all shells into a directory
    #[command(hide = true)]
    Manual(manual::ManualArgs),
    /// Print the version
    Version,
}

/// Everything that a command works with.
struct Context {
    client: Client,
    cluster: Option<String>,
    format: Format,
    /// Longest wait for an answer, or for the end of what was asked for.
    limit: Duration,
}

impl Context {
    fn new(common: &Common, default_timeout: Duration) -> Result<Self, Failure> {
        let file = settings::File::find()?;
        let endpoints = settings::endpoints(&common.endpoints, &file);
        let limit = common.timeout.unwrap_or(default_timeout);
        // A change is never sent long after it was typed, however long its end is waited for.
        let answer = limit.min(READ_TIMEOUT);
        Ok(Self {
            client: Client::new(&endpoints, answer)?.patient(limit),
            cluster: common.cluster.clone().or(file.cluster),
            format: common.output,
            limit,
        })
    }

    /// The cluster that was named, or the only one.
    async fn cluster(&mut self) -> Result<String, Failure> {
        if let Some(name) = &self.cluster {
            return Ok(name.clone());
        }
        let (status, _) = self.status("").await?;
        let names: Vec<&str> = status.clusters.iter().map(|c| c.name.as_str()).collect();
        match names.as_slice() {
            [only] => Ok((*only).to_owned()),
            [] => Err(Failure::refused("this control plane has no cluster yet", "")),
            many => Err(Failure::Usage(format!(
                "there are {} clusters, name one with --cluster: {}",
                many.len(),
                many.join(", ")
            ))),
        }
    }

    /// The leader's status; without a leader what any node knows, and true.
    async fn status(&mut self, cluster: &str) -> Result<(v1::Status, bool), Failure> {
        match self.client.status(cluster).await {
            Ok(status) => Ok((status, false)),
            // Without a leader an answer of the leader may take longer than there is time.
            Err(client::Error::NoLeader(_) | client::Error::Unreachable(_)) => {
                Ok((self.client.status_of_any(cluster).await?, true))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs `hactl` with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    output::set_colours(cli.common.color);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { common, command } = cli;
    let reading = || Context::new(&common, READ_TIMEOUT);
    let operating = || Context::new(&common, OPERATION_TIMEOUT);
    let patient = |timeout| Context::new(&common, timeout);
    match command {
        Command::Status(args) => status::run(reading()?, &args).await,
        Command::Switchover(args) => operate::switchover(operating()?, &args).await,
        Command::Failover(args) => operate::failover(operating()?, &args).await,
        Command::Restart(args) => jobs::restart(patient(RESTART_TIMEOUT)?, &args).await,
        Command::Reload(args) => jobs::reload(operating()?, &args).await,
        Command::Reinit(args) => jobs::reinit(patient(COPY_TIMEOUT)?, &args).await,
        Command::Pause(args) => jobs::pause(operating()?, &args).await,
        Command::Resume => jobs::resume(operating()?).await,
        Command::Operation(args) => operation::run(patient(COPY_TIMEOUT)?, &args).await,
        Command::History(args) => history::run(reading()?, &args).await,
        Command::Events(args) => events::run(reading()?, &args).await,
        Command::Node(args) => node::run(operating()?, &args).await,
        Command::Config(args) => config::run(reading()?, &args).await,
        Command::Member(command) => member::run(operating()?, &command).await,
        Command::Cluster(command) => clusters::run(reading()?, &command).await,
        Command::Explain => explain::run(reading()?).await,
        Command::Doctor(args) => doctor::run(reading()?, &args).await,
        Command::Aside => aside::run(reading()?).await,
        Command::Dsn(args) => connect::dsn(reading()?, &args).await,
        Command::Psql(args) => connect::psql(reading()?, &args).await,
        Command::Ps(args) => ps::run(&args, common.output),
        Command::Snapshot(what) => match what {
            snapshot::SnapshotCommand::Save(args) => {
                snapshot::save(reading, &args, common.output).await
            }
            snapshot::SnapshotCommand::Show(args) => snapshot::show(&args, common.output),
            snapshot::SnapshotCommand::Restore(args) => snapshot::restore(&args, common.output),
        },
        Command::Recover(args) => rescue::recover(&args, common.output),
        Command::Retire(args) => rescue::retire(&args, common.output),
        Command::Completion(args) => manual::completion(Cli::command(), &args),
        Command::Manual(args) => Ok(manual::write(Cli::command(), &args)?),
        Command::Version => output::line(concat!("hactl ", env!("CARGO_PKG_VERSION"))),
    }
}

/// Where the settings are read from, in this order; the first file that exists counts alone.
fn settings_files() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").filter(|h| !h.is_empty());
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|c| !c.is_empty());
    let user = config.map(PathBuf::from).or(home.map(|h| PathBuf::from(h).join(".config")));
    let user = user.map(|u| u.join("quorate/hactl.toml"));
    user.into_iter().chain([PathBuf::from("/etc/quorate/hactl.toml")]).collect()
}
