//! `hanode`: the daemon, one a node.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use quorate::cli::manual::{self, ManualArgs};
use quorate::config::{Config, JoinPlaces, LogFormat};
use quorate::{guard, node, stop};
use tracing_subscriber::EnvFilter;

/// High availability for PostgreSQL: the daemon of one node.
#[derive(Debug, Parser)]
#[command(name = "hanode", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs the node in the foreground. SIGTERM ends the daemon and leaves PostgreSQL running for
    /// the next one to take over; SIGINT stops PostgreSQL too.
    Run {
        /// The configuration file.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Joins a control plane with a join file of `hactl node add`: writes configuration and secret,
    /// and runs.
    Join {
        /// The join file. It is a secret: remove it once the node runs.
        #[arg(long, short)]
        file: PathBuf,
        /// Where the configuration is written.
        #[arg(long, short, default_value = "/etc/quorate/hanode.toml")]
        config: PathBuf,
        /// Where the secret is written, mode 0600; by default `secret` beside the configuration.
        #[arg(long)]
        secret_file: Option<PathBuf>,
        /// The node's data directory.
        #[arg(long, default_value = "/var/lib/quorate")]
        data_dir: PathBuf,
        /// Where it listens, IP:PORT; by default the address that it was added with.
        #[arg(long)]
        listen: Option<std::net::SocketAddr>,
        /// A file with further sections, with the sections `cluster` and `member`, say.
        #[arg(long)]
        with: Option<PathBuf>,
        /// Only writes the files.
        #[arg(long)]
        no_start: bool,
    },
    /// Checks a configuration file, and whether this machine fits it.
    Check {
        /// The configuration file.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Stops this node's PostgreSQL members in order, and its daemon.
    Stop {
        /// The configuration file.
        #[arg(long, short)]
        config: PathBuf,
        /// Longest time to wait, in seconds.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Writes manual pages and completions of all shells into a directory.
    #[command(hide = true)]
    Manual(ManualArgs),
}

fn main() -> ExitCode {
    // The guard is this program under another name. It comes first: no thread, no open file.
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "guard") {
        std::process::exit(guard::main(arguments.get(1..).unwrap_or_default()));
    }
    match Arguments::parse().command {
        Task::Run { config } => run(config),
        Task::Join { file, config, secret_file, data_dir, listen, with, no_start } => {
            let places = (config, secret_file, data_dir);
            match join(&file, places, listen, with) {
                Ok(written) if no_start => {
                    println!("{}: written; `hanode run` starts the node", written.display());
                    ExitCode::SUCCESS
                }
                Ok(written) => run(written),
                Err(error) => report(Err(error)),
            }
        }
        Task::Check { config } => check(config),
        Task::Stop { config, timeout } => report(with_config(config, |config| {
            runtime()?.block_on(stop::stop(&config, std::time::Duration::from_secs(timeout)))?;
            Ok(())
        })),
        Task::Manual(args) => {
            report(manual::write(Arguments::command(), &args).map_err(anyhow::Error::from))
        }
    }
}

fn run(file: PathBuf) -> ExitCode {
    // A task that panics must not leave the others to go on as if it were there: the process ends,
    // PostgreSQL runs on under its guard, and the next daemon takes it over.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        hook(panic);
        std::process::abort();
    }));
    report(with_config(file, |config| {
        let filter = EnvFilter::try_from_env("HANODE_LOG")
            .unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match config.node.log_format {
            LogFormat::Text => log.with_ansi(false).with_target(false).init(),
            LogFormat::Json => log.json().init(),
        }
        let runtime = runtime()?;
        let outcome = runtime.block_on(node::run(config));
        // A thread that is stuck on a frozen disk must not keep the daemon from ending.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        outcome?;
        Ok(())
    }))
}

/// Writes what a join file says; the path of the configuration.
fn join(
    file: &std::path::Path,
    (config, secret, data_dir): (PathBuf, Option<PathBuf>, PathBuf),
    listen: Option<std::net::SocketAddr>,
    with: Option<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let config = std::path::absolute(config)?;
    let secret = match secret {
        Some(secret) => std::path::absolute(secret)?,
        None => config.with_file_name("secret"),
    };
    let sections = match with {
        Some(with) => std::fs::read_to_string(&with)
            .map_err(|e| anyhow::anyhow!("{}: {e}", with.display()))?,
        None => String::new(),
    };
    let data_dir = std::path::absolute(data_dir)?;
    let places = JoinPlaces { config: config.clone(), secret, data_dir, listen, sections };
    runtime()?.block_on(node::join::join(file, &places))?;
    Ok(config)
}

fn check(file: PathBuf) -> ExitCode {
    report(with_config(file, |config| {
        for warning in &config.warnings {
            println!("warning: {warning}");
        }
        let problems = quorate::config::check_machine(&config);
        if problems.is_empty() {
            println!("{}: the configuration is valid and fits this machine", config.file.display());
            return Ok(());
        }
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::bail!("{}: {}", config.file.display(), lines.join("\n  "))
    }))
}

fn with_config(
    file: PathBuf,
    act: impl FnOnce(Config) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    act(Config::load(&file)?)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?)
}

fn report(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hanode: {error}");
            ExitCode::FAILURE
        }
    }
}
