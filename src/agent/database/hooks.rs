//! Hooks as programs of this machine.
//!
//! Owns their arguments, their environment, and their password file. They are started on a thread
//! of their own: not even a file system that hangs holds up a thread that leases need.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::settings::{SUPERUSER, Settings};
use crate::agent::hooks::{Call, Hook, Hooks};
use crate::config;
use crate::postgres::os_user::{Command, Error, OsUser, Output};
use crate::runtime::Boxed;

/// So many bytes at the end of what a hook prints are logged.
const LOGGED_BYTES_MAX: usize = 2000;
/// How much longer than its own time a run may take until it is left alone.
const GRACE: Duration = Duration::from_secs(2);

/// The hooks of a member.
#[derive(Debug)]
pub(super) struct Programs {
    hooks: config::Hooks,
    settings: Settings,
    user: OsUser,
}

impl Programs {
    /// The hooks that `settings` name, run as `postgres` where they name no other user.
    pub(super) fn new(settings: &Settings, postgres: &OsUser) -> Result<Arc<Self>, Error> {
        let hooks = settings.hooks.clone();
        let user = match hooks.run_as.as_deref() {
            None => postgres.clone(),
            Some(name) => {
                let current = OsUser::current()?;
                // Also root, where it is asked for: to move an address takes it.
                if current.name() == name { current } else { OsUser::resolve(Some(name))? }
            }
        };
        Ok(Arc::new(Self { hooks, settings: settings.clone(), user }))
    }

    fn path(&self, hook: Hook) -> Option<&Path> {
        match hook {
            Hook::RoleChange => self.hooks.on_role_change.as_deref(),
            Hook::BeforePromotion => self.hooks.before_promotion.as_deref(),
            Hook::AfterBootstrap => self.hooks.after_bootstrap.as_deref(),
        }
    }

    fn limit(&self, hook: Hook) -> Duration {
        Duration::from_millis(match hook {
            Hook::BeforePromotion => self.hooks.before_promotion_timeout_ms,
            Hook::RoleChange | Hook::AfterBootstrap => self.hooks.timeout_ms,
        })
    }

    /// The command of a call, and the password file that it needs.
    fn command(&self, path: &Path, call: Call) -> (Command, Option<PathBuf>) {
        let (cluster, member) = (self.settings.cluster.as_str(), self.settings.member.as_str());
        let mut command = Command::new(path, &self.user, self.limit(call.hook()))
            .args([cluster, member])
            .env("QUORATE_HOOK", call.hook().name())
            .env("QUORATE_CLUSTER", cluster)
            .env("QUORATE_MEMBER", member);
        let mut passfile = None;
        match call {
            Call::RoleChange(role, epoch) => {
                let (role, epoch) = (role.to_string(), epoch.to_string());
                command = command
                    .args([&role, &epoch])
                    .env("QUORATE_ROLE", &role)
                    .env("QUORATE_EPOCH", &epoch);
            }
            Call::BeforePromotion(epoch) => {
                let epoch = epoch.to_string();
                command = command.arg(&epoch).env("QUORATE_EPOCH", &epoch);
            }
            Call::AfterBootstrap => {
                let path = self.settings.hook_passfile();
                let conninfo = format!(
                    "host={} port={} user={SUPERUSER} dbname=postgres passfile={}",
                    quoted(&self.settings.layout.socket_dir),
                    self.settings.port,
                    quoted(&path)
                );
                command = command.arg(&conninfo).env("QUORATE_CONNINFO", &conninfo);
                passfile = Some(path);
            }
        }
        (command, passfile)
    }
}

/// A value of a connection string (PostgreSQL manual, section 34.1.1).
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\\', "\\\\").replace('\'', "\\'");
    format!("'{text}'")
}

impl Hooks for Programs {
    fn has(&self, hook: Hook) -> bool {
        self.path(hook).is_some()
    }

    fn is_required(&self) -> bool {
        self.hooks.before_promotion_required
    }

    fn run(&self, call: Call) -> Boxed<'static, Result<(), String>> {
        let Some(path) = self.path(call.hook()).map(Path::to_owned) else {
            return Box::pin(async { Ok(()) });
        };
        let limit = self.limit(call.hook());
        let (command, passfile) = self.command(&path, call);
        let (credentials, user) = (self.settings.credentials.clone(), self.user.clone());
        Box::pin(async move {
            info!(hook = call.hook().name(), path = %path.display(), "{call} begins");
            // Dropped with this future: then the program is killed, whoever waits for it.
            let (_wanted, unwanted) = oneshot::channel::<()>();
            let runtime = tokio::runtime::Handle::current();
            let run = tokio::task::spawn_blocking(move || {
                if let Some(passfile) = &passfile {
                    let written = credentials.write_superuser_passfile(passfile, &user);
                    written.map_err(|e| format!("its password file: {e}"))?;
                }
                let outcome = runtime.block_on(async {
                    tokio::select! {
                        // Asked first: when the daemon ends, its timers end before this thread.
                        biased;
                        _ = unwanted => Err("it was left".to_owned()),
                        outcome = command.run() => judge(call, outcome),
                    }
                });
                if let Some(passfile) = &passfile {
                    // It may be gone already.
                    let _ = std::fs::remove_file(passfile);
                }
                outcome
            });
            match tokio::time::timeout(limit + GRACE, run).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err("it could not be run".to_owned()),
                Err(_) => Err("it could not be started: does its file system hang?".to_owned()),
            }
        })
    }
}

/// What everybody may know of how it ended. What it printed goes to the log of this node alone.
fn judge(call: Call, outcome: Result<Output, Error>) -> Result<(), String> {
    match outcome {
        Ok(output) => {
            let printed = tail(&format!("{}{}", output.stdout, output.stderr));
            if output.success {
                info!(%printed, "{call} has ended");
                return Ok(());
            }
            warn!(status = %output.status, %printed, "{call} failed");
            Err(output.status)
        }
        Err(error) => {
            warn!(%error, "{call} failed");
            Err(match error {
                Error::Deadline { deadline, .. } => {
                    format!("it did not end within {} ms, and was killed", deadline.as_millis())
                }
                Error::Spawn { program, source } => {
                    format!("{} cannot be started: {source}", program.display())
                }
                _ => "it was lost sight of; see hanode's log".to_owned(),
            })
        }
    }
}

fn tail(text: &str) -> String {
    let text = text.trim();
    let mut from = text.len().saturating_sub(LOGGED_BYTES_MAX);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.get(from..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_connection_strings_are_quoted() {
        assert_eq!(quoted(Path::new("/run/it's a\\b")), "'/run/it\\'s a\\\\b'");
    }

    #[test]
    fn little_of_much_output_is_logged() {
        let text = "ä".repeat(5_000);
        assert!(tail(&text).len() <= LOGGED_BYTES_MAX);
        assert_eq!(tail(" x \n"), "x");
    }
}
