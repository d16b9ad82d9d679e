//! `hanode`: the daemon, one a node.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use quorate::cli::manual::{self, ManualArgs};
use quorate::config::{Config, LogFormat};
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
