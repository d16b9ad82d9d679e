//! What a member remembers of itself across every restart: written and synced before it matters.

use serde::{Deserialize, Serialize};

use super::adoption::Adopted;
use super::generation::Generation;
use super::mutant::{self, Mutant};
use super::observation::Data;
use super::types::{ClusterName, Epoch, GuardId, Lsn, MemberName, SystemId};

/// The durable record of a member. It lies beside the data directory, never in it, so that a
/// rewind or a clone does not replace it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Which cluster it belongs to.
    pub cluster: ClusterName,
    /// Whose record this is.
    pub member: MemberName,
    /// The system identifier of its data, once it has any.
    pub system_id: Option<SystemId>,
    /// The highest epoch that it has promised: it never again takes WAL of an older one, and
    /// never holds an older one.
    pub promised: Epoch,
    /// The highest epoch that it accepted as primary, with the data directory untouched by a
    /// rewind or a clone since; 0 where there is none.
    pub held: Epoch,
    /// The highest epoch that it has ended: it never runs that or an older one again.
    pub ended: Epoch,
    /// What is known of the data directory.
    pub data: DataMark,
    /// The life of the guard that was started last, until its process tree was proven empty.
    pub running: Option<GuardId>,
    /// The latest lives of the guard whose process trees were proven empty, newest last. Only they
    /// prove a stop: another machine with the same configuration has none of them.
    pub emptied: Vec<GuardId>,
    /// The last operation by which its data was copied anew; 0 for none.
    #[serde(default)]
    pub copied_for: u64,
    /// The highest generation of the control plane that it has obeyed: nothing of a lower one is
    /// ever done again.
    #[serde(default)]
    pub generation: Generation,
    /// Whether it made the first data directory, and the operator's program that runs after that
    /// has not run yet.
    #[serde(default)]
    pub bootstrap_hook: bool,
    /// The epoch whose WAL brings our users into adopted data: a copy marked with it as its source
    /// cannot be asked anything before that. 0 where the data was not adopted as a standby.
    #[serde(default)]
    pub users_from: Epoch,
    /// The life of an adopted cluster that all of this is of; 0 where none was adopted.
    #[serde(default)]
    pub life: u64,
}

/// How many emptied guards are remembered.
pub const EMPTIED_MAX: usize = 8;

/// What is known of a data directory from what was done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataMark {
    /// Nothing unfinished.
    Intact,
    /// `initdb` was begun: what is there is worth nothing until it is finished.
    Initialising,
    /// A copy or a rewind was begun: what is there looks startable and is not.
    Replacing,
    /// A copy or a rewind is finished. It counts in no quorum until it has flushed past a position
    /// that the primary had after it ended.
    Copied {
        /// The epoch of the primary that it was copied from; 0 where that is not known.
        source: Epoch,
        /// That position, once known.
        until: Option<Lsn>,
    },
    /// It holds WAL of a timeline that nobody was granted: somebody promoted it past the control
    /// plane, or it streamed from one that was. It counts in no quorum, is never started, and is
    /// rewound, or copied where that is doubtful.
    Foreign,
}

impl MemberRecord {
    /// The record of a member that holds nothing.
    pub fn new(cluster: ClusterName, member: MemberName) -> Self {
        Self {
            cluster,
            member,
            system_id: None,
            promised: Epoch(0),
            held: Epoch(0),
            ended: Epoch(0),
            data: DataMark::Intact,
            running: None,
            emptied: Vec::new(),
            copied_for: 0,
            generation: Generation::FIRST,
            bootstrap_hook: false,
            users_from: Epoch(0),
            life: 0,
        }
    }

    /// Forgets what it promised and held in another life of the cluster: one that was removed, and
    /// whose data is not here any more, or is worth nothing by itself. Which of its guards have ended
    /// stays known, and which generation of the control plane is obeyed.
    pub fn begin_anew(&mut self, system_id: Option<SystemId>) {
        let (cluster, member) = (self.cluster.clone(), self.member.clone());
        let (running, emptied) = (self.running.take(), std::mem::take(&mut self.emptied));
        let generation = self.generation;
        *self = Self { system_id, running, emptied, generation, ..Self::new(cluster, member) };
    }

    /// Whether it has taken over the data that the cluster began with.
    pub fn has_taken(&self, adopted: &Adopted) -> bool {
        self.life == adopted.life
            && self.system_id == Some(adopted.system_id)
            && (self.held, self.ended) == (adopted.base, adopted.base)
            && self.data == DataMark::Intact
    }

    /// Whether it is about data that is gone, of another cluster than the one with this system
    /// identifier: its promises say nothing of that.
    pub fn is_of_another(&self, data: &Data, system_id: Option<SystemId>) -> bool {
        let other = self.system_id.is_some_and(|own| system_id.is_some_and(|id| id != own));
        *data == Data::Empty && other
    }

    /// Notes that nothing of the process tree that ran last is left. Only a proof is remembered as
    /// one.
    pub fn note_ended(&mut self, proven: bool) {
        if let Some(guard) = self.running.take().filter(|_| proven) {
            self.emptied.push(guard);
            let excess = self.emptied.len().saturating_sub(EMPTIED_MAX);
            self.emptied.drain(..excess);
        }
    }

    /// Whether it may run `epoch` as primary.
    pub fn may_hold(&self, epoch: Epoch) -> bool {
        let runs_again = mutant::without(Mutant::StopNotFinal);
        (epoch > self.ended || runs_again)
            && epoch >= self.promised
            && self.data == DataMark::Intact
    }
}
