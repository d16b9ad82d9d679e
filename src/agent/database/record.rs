//! Files beside the data directory: the durable record of the member, and what runs.
//!
//! Owns their format. The record is replaced atomically and synced before a step goes on; one that
//! cannot be read is an error, never "none": the member would forget its promises.

use super::error::{self, Result};
use super::{PgDatabase, blocking};
use crate::agent::driver::{Error, RunState};
use crate::domain::record::MemberRecord;
use crate::domain::types::GuardId;
use crate::postgres::{files, reserve};

impl PgDatabase {
    pub(super) async fn read_record(&self) -> Result<Option<MemberRecord>> {
        let path = self.settings.record_file();
        let read = blocking(move || {
            let bytes = files::read_if_exists(&path)?;
            // A daemon that died before it had synced the exchange of names leaves a record that
            // is only seen: the next one acts on it, so it has to outlive the machine first.
            if bytes.is_some() {
                files::sync_file(&path)?;
                files::sync_parent(&path)?;
            }
            Ok(bytes)
        });
        let read = read.await?;
        let Some(bytes) = read.map_err(error::file)? else { return Ok(None) };
        let path = self.settings.record_file();
        let record: MemberRecord = serde_json::from_slice(&bytes).map_err(|e| {
            Error::Failed(format!(
                "the member's record {} cannot be read: {e}; it holds promises that must not be \
                 forgotten, so restore it, or have the member removed and its data copied anew",
                path.display()
            ))
        })?;
        if record.cluster != self.settings.cluster || record.member != self.settings.member {
            return Err(Error::Failed(format!(
                "{} is the record of member {} of cluster {}, not of {} of {}",
                path.display(),
                record.member,
                record.cluster,
                self.settings.member,
                self.settings.cluster
            )));
        }
        Ok(Some(record))
    }

    pub(super) async fn write_record(&self, record: &MemberRecord) -> Result<()> {
        let path = self.settings.record_file();
        let bytes = to_json(record)?;
        let owner = self.owner.clone();
        // Also where the disk is full: without it an end could not be proven.
        self.record_turn
            .write(move || reserve::write_twin(&path, &bytes, true, &owner))
            .await?
            .map_err(error::file)
    }

    pub(super) async fn write_run(&self, run: &RunState) -> Result<()> {
        let path = self.settings.run_file();
        let bytes = to_json(run)?;
        let owner = self.owner.clone();
        // In turn: one that was given up on a slow disk must not land on a later one.
        self.run_turn
            .write(move || reserve::write_twin(&path, &bytes, false, &owner))
            .await?
            .map_err(error::file)
    }

    /// What runs under the guard `guard`, if that was remembered.
    pub(super) async fn read_run(&self, guard: &GuardId) -> Option<RunState> {
        let path = self.settings.run_file();
        let bytes = blocking(move || files::read_if_exists(&path)).await.ok()?.ok()??;
        // Not synced, so it may be torn after a crash of the machine; then nothing runs either.
        serde_json::from_slice(&bytes).ok().filter(|run: &RunState| run.guard == *guard)
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::Failed(e.to_string()))
}
