//! Data that somebody else's server made: what it is, and how it becomes ours.

use tracing::info;

use super::error::{self, Result};
use super::survey::Mark;
use super::{PgDatabase, blocking};
use crate::agent::driver::Error;
use crate::domain::adoption::{Adoptable, IMPORTED_MAX, Was};
use crate::domain::types::{Epoch, Lsn, SystemId};
use crate::postgres::controldata::{self, ClusterState};
use crate::postgres::distribution::Machine;
use crate::postgres::layout::Layout;
use crate::postgres::os_user::OsUser;
use crate::postgres::{adopt, files, history, start};

/// Oldest version that can be managed.
const MAJOR_MIN: u32 = 13;

impl PgDatabase {
    /// See [`crate::agent::driver::Database::adoptable`].
    pub(super) async fn look_for_adoption(&self) -> Result<Adoptable> {
        let layout = &self.settings.layout;
        let control = controldata::read(&self.binaries, &self.user, &layout.pgdata)
            .await
            .map_err(error::control)?;
        let (places, user, us) = (layout.clone(), self.user.clone(), self.owner.clone());
        let timeline = control.newest_timeline();
        let Some(mark) = Mark::set(&self.surveyor, |s| &s.adopting) else {
            return Err(Error::NotReady("an earlier look at the data hangs".to_owned()));
        };
        let ((mut problems, steps), found, timelines, listed) = blocking(move || {
            let _mark = mark;
            let mut problems = problems(&places, &user);
            let steps = steps(&places, &us, &user, &mut problems);
            // What it includes, and where its rules are, is the word of who may write it.
            let found = files::as_user(&user, &places.pgdata, || {
                adopt::read(&places.pgdata, &adopt::places(&places.pgdata, &Machine::default()))
            });
            let history = history::read(&places.wal_dir(), timeline);
            ((problems, steps), found, history, history::list(&places.wal_dir()))
        })
        .await?;
        if self.binaries.major() < MAJOR_MIN {
            problems.push(format!(
                "it is PostgreSQL {}, and {MAJOR_MIN} is the oldest that can be managed",
                self.binaries.major()
            ));
        }
        let locked = files::exists(&layout.pgdata.join("postmaster.pid")).unwrap_or(true);
        if !control.state.is_clean() && locked {
            problems.push(
                "it was not stopped in order and its postmaster.pid is there, so it may run, in a \
                 container or on another machine as well: stop it; where it is certain that it \
                 crashed, remove postmaster.pid"
                    .to_owned(),
            );
        }
        if control.backup_end_required {
            problems.push("it is a base backup that was never finished: make it anew".to_owned());
        }
        let mut found = found.unwrap_or_else(|e| {
            problems.push(format!("its configuration cannot be read: {e}"));
            adopt::Found::default()
        });
        problems.append(&mut found.problems);
        let own = &self.settings.credentials;
        let users = [&own.superuser, &own.replication, &own.rewind].map(|login| login.user());
        let [superuser, replication, rewind] = users;
        found.leave_out_ours(superuser, replication, rewind);
        if found.parameters.len().max(found.hba.len()).max(found.ident.len()) > IMPORTED_MAX {
            problems.push(format!("it has more than {IMPORTED_MAX} settings or rules"));
        }
        let timelines = timelines.map_err(|e| Error::Failed(e.to_string()))?;
        if timelines.is_none() && timeline.0 > 1 {
            problems.push(format!(
                "its pg_wal lacks the history file of timeline {timeline}: restore it from the \
                 archive"
            ));
        }
        let listed = listed.map_err(|e| Error::Failed(e.to_string()))?;
        let seen = listed.last().copied().unwrap_or(timeline).max(timeline).epoch();
        let was = match control.state {
            ClusterState::ShutDown => Was::Primary,
            ClusterState::ShutDownInRecovery => Was::Standby,
            _ => Was::Unclear,
        };
        Ok(Adoptable {
            system_id: control.system_id,
            epoch: timeline.epoch(),
            end: match was {
                Was::Primary => adopt::end_of_checkpoint(control.checkpoint, control.segment_bytes),
                Was::Standby | Was::Unclear => control.checkpoint.max(control.min_recovery),
            },
            was,
            lineage: super::seal::lineage(timeline, timelines.as_ref()),
            problems,
            steps,
            parameters: found.parameters,
            left_out: found.left_out,
            hba: found.hba,
            ident: found.ident,
            standby: matches!(
                control.state,
                ClusterState::ShutDownInRecovery | ClusterState::InArchiveRecovery
            ),
            seen,
            // The member's record is not this module's.
            known: Epoch(0),
            life: 0,
        })
    }

    /// See [`crate::agent::driver::Database::adopt`].
    pub(super) async fn take_on(&self, system_id: SystemId, epoch: Epoch) -> Result<()> {
        self.refuse_running()?;
        let found = self.look_for_adoption().await?;
        if let Some(why) = found.refusal(system_id, epoch) {
            return Err(Error::Failed(why));
        }
        self.prepare().await?;
        let layout = &self.settings.layout;
        let control = controldata::read(&self.binaries, &self.user, &layout.pgdata)
            .await
            .map_err(error::control)?;
        self.put_aside().await?;
        let level = found.parameters.get("wal_level").map(String::as_str);
        adopt::make_users(
            &self.binaries,
            &self.user,
            layout,
            &self.settings.credentials,
            &control,
            level,
        )
        .await
        .map_err(failed)?;
        let (places, user) = (layout.clone(), self.user.clone());
        blocking(move || adopt::clear_files(&places, &user)).await?.map_err(failed)?;
        info!(%system_id, timeline = %epoch, "a data directory is taken over");
        Ok(())
    }

    /// See [`crate::agent::driver::Database::keep_configuration`].
    pub(super) async fn put_aside(&self) -> Result<()> {
        let aside = self.settings.state_dir.join("adopted");
        let pgdata = self.settings.layout.pgdata.clone();
        let (us, user) = (self.owner.clone(), self.user.clone());
        let work = move || adopt::keep_aside(&pgdata, &aside, &us, &user);
        blocking(work).await?.map_err(failed)
    }

    /// See [`crate::agent::driver::Database::turn_off_starters`].
    pub(super) async fn turn_off(&self) -> Result<Option<String>> {
        // Another server may have been started meanwhile, and is not to be taken by surprise.
        if let Some(pid) = self.look_for_stranger().await? {
            return Err(Error::Failed(format!("PostgreSQL runs (process {pid}): stop it")));
        }
        let aside = self.settings.state_dir.join("adopted");
        let pgdata = &self.settings.layout.pgdata;
        let work = Machine::default().turn_off(pgdata, &aside, &self.owner, &self.user).await;
        self.surveyor.forget_starters();
        work.map_err(|e| Error::Failed(e.to_string()))
    }

    /// See [`crate::agent::driver::Database::holds_wal_from`].
    pub(super) async fn look_for_wal(&self, timeline: Epoch, lsn: Lsn) -> Result<bool> {
        let wal = self.settings.layout.wal_dir();
        adopt::holds_wal_from(&self.binaries, &self.user, &wal, timeline, lsn).await.map_err(failed)
    }

    /// See [`crate::agent::driver::Database::stranger`].
    pub(super) async fn look_for_stranger(&self) -> Result<Option<i32>> {
        let layout = self.settings.layout.clone();
        blocking(move || start::stranger(&layout)).await?.map_err(error::file)
    }
}

#[allow(clippy::needless_pass_by_value)]
fn failed(error: adopt::Error) -> Error {
    Error::Failed(error.to_string())
}

/// What the adoption turns off of the distribution; what it cannot is a problem.
fn steps(layout: &Layout, us: &OsUser, user: &OsUser, problems: &mut Vec<String>) -> Vec<String> {
    let machine = Machine::default();
    let starters = match machine.starters(&layout.pgdata, user) {
        Ok(starters) => starters,
        Err(e) => {
            problems.push(e.to_string());
            return Vec::new();
        }
    };
    let mut steps = Vec::new();
    for starter in starters {
        match machine.hindrance(&starter, us, user) {
            Some(problem) => problems.push(problem),
            None => steps.push(starter.step()),
        }
    }
    steps
}

/// What stands in the way on this machine, and what to do.
fn problems(layout: &Layout, user: &OsUser) -> Vec<String> {
    let mut problems = Vec::new();
    let pgdata = &layout.pgdata;
    match start::stranger(layout) {
        Ok(None) => {}
        Ok(Some(pid)) => problems.push(format!(
            "PostgreSQL runs on {} (process {pid}): {}",
            pgdata.display(),
            Machine::default().stop_hint(pgdata, user)
        )),
        Err(e) => problems.push(e.to_string()),
    }
    let spaces = std::fs::read_dir(pgdata.join("pg_tblspc")).map(|mut e| e.next().is_some());
    if spaces.unwrap_or(false) {
        problems.push(
            "it has tablespaces outside of its data directory, which are neither copied nor \
             rewound here: move their tables to pg_default and drop them first"
                .to_owned(),
        );
    }
    for file in ["backup_label", "recovery.signal"] {
        if files::exists(&pgdata.join(file)).unwrap_or(true) {
            problems.push(format!("{file} is in it: let its recovery end first"));
        }
    }
    match std::fs::metadata(pgdata) {
        Ok(meta) => {
            use std::os::unix::fs::MetadataExt;
            if meta.uid() != user.uid() {
                problems.push(format!(
                    "{} belongs to user {}, and PostgreSQL runs as {}: set run_as, or change the \
                     owner",
                    pgdata.display(),
                    meta.uid(),
                    user.name()
                ));
            }
        }
        Err(e) => problems.push(format!("{}: {e}", pgdata.display())),
    }
    problems
}
