//! The database of nodes that have none: for runs of the control plane alone.

use std::sync::Arc;
use std::time::Duration;

use super::{MakeDatabase, Place};
use crate::agent::Member;
use crate::agent::driver::{
    Asked, Attached, Care, CopyRoom, Database, Emptiness, Error, Position, Progress, Rewound,
    RunState, Seen, StartMode, Started, Survey, Tree, Upkeep,
};
use crate::domain::desired::FollowDuty;
use crate::domain::health::{Activity, Answer, Question, Vitals};
use crate::domain::lineage::Lineage;
use crate::domain::observation::Data;
use crate::domain::record::MemberRecord;
use crate::domain::state::ClusterSpec;
use crate::domain::sync::SyncConfig;
use crate::domain::types::{BootTime, Epoch, GuardId, Lsn, MemberName, SystemId};
use crate::watch;

type Result<T> = std::result::Result<T, Error>;

/// There is none.
#[derive(Debug, Clone, Copy)]
pub enum Nothing {}

/// Makes none: a member on a node without a database is an error.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDatabases;

impl MakeDatabase for NoDatabases {
    type Database = Nothing;

    async fn open(&self, _: &Place, member: &Member) -> Result<Arc<Nothing>> {
        Err(Error::Machine(format!("{} has no database in this run", member.name)))
    }
}

macro_rules! nothing {
    ($(fn $name:ident(&self $(, $_arg:ident: $type:ty)*) -> $result:ty;)*) => {
        impl Database for Nothing {
            fn tree(&self) -> watch::Receiver<Tree> {
                match *self {}
            }

            $(async fn $name(&self $(, _: $type)*) -> $result {
                match *self {}
            })*
        }
    };
}

nothing! {
    fn load_record(&self) -> Result<Option<MemberRecord>>;
    fn save_record(&self, record: &MemberRecord) -> Result<()>;
    fn save_run(&self, run: &RunState) -> Result<()>;
    fn inspect(&self) -> Result<Data>;
    fn attach(&self) -> Result<std::result::Result<Attached, Emptiness>>;
    fn initialise(&self, spec: &ClusterSpec) -> Result<SystemId>;
    fn start(&self, mode: &StartMode, spec: &ClusterSpec) -> Result<Started>;
    fn arm(&self, guard: &GuardId, kill_at: BootTime) -> Result<()>;
    fn kill(&self) -> Result<()>;
    fn stop(&self) -> Result<()>;
    fn prove_empty(&self) -> Result<Emptiness>;
    fn seal(&self, promise: Epoch, spec: &ClusterSpec) -> Result<Position>;
    fn follow(&self, duty: &FollowDuty, spec: &ClusterSpec) -> Result<()>;
    fn promote(&self, epoch: Epoch, sync: &SyncConfig, spec: &ClusterSpec) -> Result<Lineage>;
    fn confirm_sync(
        &self, epoch: Epoch, sync: &SyncConfig, writes_open: bool, spec: &ClusterSpec
    ) -> Result<i64>;
    fn open_writes(&self, epoch: Epoch, sync: &SyncConfig, spec: &ClusterSpec) -> Result<()>;
    fn hand_over(&self, target: &MemberName, asked: &Asked) -> Result<()>;
    fn may_rewind(&self, duty: &FollowDuty) -> Result<()>;
    fn rewind(&self, duty: &FollowDuty, spec: &ClusterSpec) -> Result<Rewound>;
    fn clone_from(
        &self, duty: &FollowDuty, spec: &ClusterSpec, progress: Progress
    ) -> Result<SystemId>;
    fn room_for_copy(&self, duty: &FollowDuty) -> Result<CopyRoom>;
    fn survey(&self) -> Result<Survey>;
    fn said_no_room(&self) -> Result<bool>;
    fn primary_position(&self, duty: &FollowDuty) -> Result<(Epoch, Lsn)>;
    fn observe(&self) -> Result<Seen>;
    fn ask(&self, question: Question, patience: Duration) -> Answer;
    fn vitals(&self, since: Option<BootTime>) -> Vitals;
    fn checkpointer(&self) -> (Activity, bool);
    fn maintain(&self, care: &Care) -> Result<Upkeep>;
}
