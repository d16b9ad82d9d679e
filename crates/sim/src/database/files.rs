//! The files beside a data directory: the member's record, what runs, and what is kept aside.
//!
//! Owns what of them survives. The record is replaced atomically and synced; one that was written
//! and not synced is there until the machine loses its power.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_world::exec;

use super::machine::Machine;
use crate::Rt;
use crate::agent::driver::{Error, RunState};
use crate::domain::mutant::{Mutant, without};
use crate::domain::record::MemberRecord;
use crate::domain::space::Aside;
use crate::domain::types::{Epoch, GuardId};
use crate::raft::AsyncRuntime as _;

/// When the kernel writes what nobody has synced: `dirty_expire_centisecs` at most.
const WRITE_BACK: Duration = Duration::from_secs(20);

/// The files of a member.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    record: Option<MemberRecord>,
    /// What a crash of the machine leaves of it.
    synced: Option<MemberRecord>,
    run: Option<RunState>,
    /// The newest epoch whose primary was followed with this data directory.
    pub followed: Epoch,
    /// What has begun to change the data directory, and did not finish.
    pub incomplete: Option<String>,
    /// Whether a process tree ever ran here: the guard has written so.
    pub ran: bool,
    /// Data directories kept aside, oldest first.
    pub aside: Vec<Aside>,
}

impl Files {
    /// The record, as a process finds it.
    pub fn record(&self) -> Option<&MemberRecord> {
        self.record.as_ref()
    }

    /// What runs under this guard, if that was remembered.
    pub fn run(&self, guard: &GuardId) -> Option<RunState> {
        self.run.clone().filter(|run| run.guard == *guard)
    }

    /// The machine has lost its power. Marks of unfinished changes are synced before those begin.
    pub fn crash(&mut self) {
        self.record.clone_from(&self.synced);
        self.run = None;
    }

    /// The disk is a new one.
    pub fn wipe(&mut self) {
        *self = Self::default();
    }
}

/// The order in which the record is written. A write that its caller has given up goes on: it must
/// not land after a later one.
#[derive(Debug, Default)]
pub(super) struct Turn {
    newest: AtomicU64,
}

impl Machine {
    /// Writes the record, and returns once it is on disk.
    pub(super) async fn write_record(
        &self,
        turn: &Arc<Turn>,
        record: &MemberRecord,
    ) -> Result<(), Error> {
        let number = turn.newest.fetch_add(1, Ordering::SeqCst) + 1;
        let (machine, turn, record) = (self.clone(), turn.clone(), record.clone());
        let write = Rt::spawn(async move {
            machine.write_disk(true).await?;
            if turn.newest.load(Ordering::SeqCst) != number {
                return Err(Error::NotReady("a later write has overtaken this".to_owned()));
            }
            // It has its name, and whoever reads it finds it; that the name is on disk takes the
            // directory's sync.
            machine.lock().files.record = Some(record.clone());
            if without(Mutant::RecordNotSynced) {
                machine.write_back(record);
                return Ok(());
            }
            machine.write_disk(true).await?;
            let mut inner = machine.lock();
            if !inner.host.server.env().disk.lies && inner.files.record.as_ref() == Some(&record) {
                inner.files.synced = Some(record);
            }
            Ok(())
        });
        write.await.map_err(|_| Error::Machine("a file operation was not finished".to_owned()))?
    }

    /// What was not synced comes to the disk by itself in the end.
    fn write_back(&self, record: MemberRecord) {
        let machine = self.clone();
        let scope = self.lock().scope;
        drop(exec::spawn_on(scope, async move {
            Rt::sleep(WRITE_BACK).await;
            let mut inner = machine.lock();
            if inner.files.record.as_ref() == Some(&record) {
                inner.files.synced = Some(record);
            }
        }));
    }

    /// Writes what runs. It is not synced.
    pub(super) async fn write_run(&self, run: &RunState) -> Result<(), Error> {
        self.write_disk(false).await?;
        self.lock().files.run = Some(run.clone());
        Ok(())
    }
}
