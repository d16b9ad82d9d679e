//! Questions to the server of another member, over the network.
//!
//! Owns what can be asked (`src/postgres/remote.rs` in production, and what `pg_basebackup` and
//! `pg_rewind` fetch). A server that is stopped does not answer; one that does not run refuses.

use std::sync::Arc;
use std::time::Duration;

use quorate_world::exec::{MachineId, ScopeId};
use quorate_world::net::{self, Failure};
use quorate_world::pg::tools::{Backup, Source};
use quorate_world::pg::{DataDir, Refused};
use serde::{Deserialize, Serialize};

use super::machine::{Inner, Machine, QUESTIONS, refused, timed_out};
use crate::agent::driver::Error;
use crate::domain::types::{BootTime, Lsn, SystemId, Timeline};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Question {
    /// Where the server is.
    Place,
    /// What it follows.
    Standing,
    /// A slot.
    Slot { name: String },
    /// Whether it has the WAL at a position.
    HasWal { lsn: Lsn },
    /// To make a slot, where there is none.
    MakeSlot { name: String },
    /// To begin a base backup: on a primary with a checkpoint.
    BeginBackup,
    /// To send a part of it.
    Send,
    /// To end it, and send the rest.
    EndBackup { backup: u64 },
    /// All that a rewind reads.
    RewindSource,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    Place(Place),
    Standing(Standing),
    Slot(Option<Slot>),
    HasWal(bool),
    Done,
    /// A value that the registry has.
    Value(u64),
    /// The server does not take connections.
    NotNow(String),
    /// It refuses.
    Refused(String),
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub system_id: SystemId,
    /// The timeline that it writes, and how far it is flushed; `None` for a standby.
    pub writes: Option<(Timeline, Lsn)>,
    /// Timeline of its last checkpoint.
    pub checkpoint_timeline: Timeline,
}

/// What a server follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    pub system_id: SystemId,
    pub in_recovery: bool,
    pub role: String,
    pub epoch: u64,
    pub receives: bool,
    pub end: Lsn,
}

/// A member's slot on another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub active: bool,
    pub lost: bool,
}

/// Serves questions on a machine.
pub(super) fn serve(machine: &Machine, scope: ScopeId) {
    let machine = machine.clone();
    net::serve(
        scope,
        QUESTIONS,
        Arc::new(move |_, bytes| {
            let machine = machine.clone();
            Box::pin(async move {
                let question: Question = serde_json::from_slice(&bytes).ok()?;
                machine.lag((100, 1_500)).await;
                let reply = answer(&machine, question).await?;
                serde_json::to_vec(&reply).ok()
            })
        }),
    );
}

async fn answer(machine: &Machine, question: Question) -> Option<Reply> {
    if question == Question::BeginBackup {
        return begin_backup(machine).await;
    }
    let answered = machine.with(|inner, now| reply(machine, inner, now, question));
    match answered {
        Ok(reply) => Some(reply),
        Err(Refused::Silent) => None,
        Err(why @ (Refused::NotRunning | Refused::Starting | Refused::ShuttingDown)) => {
            Some(Reply::NotNow(why.to_string()))
        }
        Err(why) => Some(Reply::Refused(why.to_string())),
    }
}

fn reply(
    machine: &Machine,
    inner: &mut Inner,
    now: BootTime,
    question: Question,
) -> Result<Reply, Refused> {
    let server = &mut inner.host.server;
    let stopped = server.stopped();
    if stopped.all || stopped.postmaster {
        // Each question opens a connection of its own.
        return Err(Refused::Silent);
    }
    let status = server.status()?;
    let dir = server.dir().ok_or(Refused::NotRunning)?;
    let system_id = dir.control.system_id;
    Ok(match question {
        Question::Place => Reply::Place(Place {
            system_id,
            writes: (!status.in_recovery).then_some((status.timeline, status.flushed)),
            checkpoint_timeline: dir.control.timeline,
        }),
        Question::Standing => Reply::Standing(Standing {
            system_id,
            in_recovery: status.in_recovery,
            role: status.role,
            epoch: status.epoch,
            receives: status.has_receiver,
            end: status.flushed,
        }),
        Question::Slot { name } => Reply::Slot(dir.slots.get(&name).map(|slot| Slot {
            active: slot.active.is_some(),
            lost: slot.restart.is_some_and(|restart| restart < dir.wal.oldest()),
        })),
        Question::HasWal { lsn } => Reply::HasWal(dir.wal.has_segment(lsn)),
        Question::MakeSlot { name } => match server.create_slot(&name, true) {
            Ok(()) | Err(Refused::Exists) => Reply::Done,
            Err(why) => return Err(why),
        },
        Question::Send | Question::BeginBackup => Reply::Done,
        Question::EndBackup { backup } => {
            let Some(backup) = machine.registry().take::<Backup>(backup) else {
                return Ok(Reply::Refused("there is no such backup".to_owned()));
            };
            match server.end_backup(now, &backup) {
                Ok(dir) => Reply::Value(machine.registry().put(dir)),
                Err(why) => Reply::Refused(why),
            }
        }
        Question::RewindSource => {
            let source = server.rewind_source()?;
            Reply::Value(machine.registry().put(source))
        }
    })
}

async fn begin_backup(machine: &Machine) -> Option<Reply> {
    let checkpoint = machine.with(|inner, now| {
        let primary = inner.host.server.status().is_ok_and(|s| !s.in_recovery);
        primary.then(|| {
            let (ticket, done) = Machine::ticket(inner);
            inner.host.server.checkpoint(now, ticket).map(|()| done)
        })
    });
    if let Some(asked) = checkpoint {
        match asked {
            Ok(done) => drop(done.await),
            Err(why) => return Some(Reply::NotNow(why.to_string())),
        }
    }
    Some(match machine.lock().host.server.begin_backup() {
        Ok(backup) => Reply::Value(machine.registry().put(backup)),
        Err(Refused::Silent) => return None,
        Err(why) => Reply::NotNow(why.to_string()),
    })
}

/// Another member's server.
pub(super) struct Remote<'a> {
    machine: &'a Machine,
    to: Option<MachineId>,
    pub address: String,
}

impl<'a> Remote<'a> {
    pub fn new(machine: &'a Machine, address: &str) -> Self {
        let to = machine.registry().find(address);
        Self { machine, to, address: address.to_owned() }
    }

    async fn ask(&self, question: Question, deadline: Duration) -> Result<Reply, Error> {
        let Some(to) = self.to else {
            return Err(Error::NotReady(format!("{} is not known", self.address)));
        };
        let bytes = serde_json::to_vec(&question).map_err(|e| Error::Failed(e.to_string()))?;
        let reply = match net::call(to, QUESTIONS, bytes, deadline).await {
            Ok(reply) => reply,
            Err(Failure::TimedOut) => return Err(timed_out("a statement", deadline)),
            Err(Failure::Refused) => return Err(refused(Refused::NotRunning)),
        };
        match serde_json::from_slice(&reply) {
            Ok(Reply::NotNow(why)) => Err(Error::NotReady(why)),
            Ok(Reply::Refused(why)) => Err(Error::Failed(why)),
            Ok(reply) => Ok(reply),
            Err(e) => Err(Error::Failed(e.to_string())),
        }
    }

    fn wrong<T>() -> Result<T, Error> {
        Err(Error::Failed("another question was answered".to_owned()))
    }

    pub async fn place(&self, deadline: Duration) -> Result<Place, Error> {
        match self.ask(Question::Place, deadline).await? {
            Reply::Place(place) => Ok(place),
            _ => Self::wrong(),
        }
    }

    pub async fn standing(&self, deadline: Duration) -> Result<Standing, Error> {
        match self.ask(Question::Standing, deadline).await? {
            Reply::Standing(standing) => Ok(standing),
            _ => Self::wrong(),
        }
    }

    pub async fn slot(&self, name: &str, deadline: Duration) -> Result<Option<Slot>, Error> {
        match self.ask(Question::Slot { name: name.to_owned() }, deadline).await? {
            Reply::Slot(slot) => Ok(slot),
            _ => Self::wrong(),
        }
    }

    pub async fn has_wal(&self, lsn: Lsn, deadline: Duration) -> Result<bool, Error> {
        match self.ask(Question::HasWal { lsn }, deadline).await? {
            Reply::HasWal(has) => Ok(has),
            _ => Self::wrong(),
        }
    }

    pub async fn make_slot(&self, name: &str, deadline: Duration) -> Result<(), Error> {
        self.ask(Question::MakeSlot { name: name.to_owned() }, deadline).await.map(drop)
    }

    /// Begins a base backup; returns its number.
    pub async fn begin_backup(&self, deadline: Duration) -> Result<u64, Error> {
        match self.ask(Question::BeginBackup, deadline).await? {
            Reply::Value(backup) => Ok(backup),
            _ => Self::wrong(),
        }
    }

    /// Fetches a part of a copy. What was lost on the way is sent again until `deadline`.
    pub async fn fetch_part(&self, deadline: Duration) -> Result<(), Error> {
        let end = self.machine.now().plus(deadline);
        loop {
            match self.ask(Question::Send, Duration::from_secs(1)).await {
                Err(Error::TimedOut { .. }) if self.machine.now() < end => {}
                done => return done.map(drop),
            }
        }
    }

    /// Ends a base backup, and fetches the copy.
    pub async fn end_backup(&self, backup: u64, deadline: Duration) -> Result<DataDir, Error> {
        match self.ask(Question::EndBackup { backup }, deadline).await? {
            Reply::Value(number) => self.value(number),
            _ => Self::wrong(),
        }
    }

    /// Fetches what a rewind reads.
    pub async fn rewind_source(&self, deadline: Duration) -> Result<Source, Error> {
        match self.ask(Question::RewindSource, deadline).await? {
            Reply::Value(number) => self.value(number),
            _ => Self::wrong(),
        }
    }

    fn value<T: std::any::Any + Send>(&self, number: u64) -> Result<T, Error> {
        let value = self.machine.registry().take(number);
        // A reply that came twice: the first had it.
        value.ok_or_else(|| Error::Failed("the connection is lost".to_owned()))
    }
}
