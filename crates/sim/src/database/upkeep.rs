//! What changes slowly: slots of the other members, and room on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_world::pg::directory::Slot;
use quorate_world::pg::{Refused, Server};

use super::SimDatabase;
use crate::agent::driver::{Care, CopyRoom, Error, Other, Survey, Upkeep};
use crate::domain::alarm::NoticeCode;
use crate::domain::space::{Disks, Space};
use crate::domain::types::{BootTime, Lsn, MemberName};

/// Prefix of the names of all slots that are ours, see `MemberName::slot_name`.
const PREFIX: &str = "quorate_";
const ADVANCE_BYTES_MIN: u64 = 1 << 20;
const PRESENT: Duration = Duration::from_secs(10);
const SILENT_MAX: Duration = Duration::from_secs(30);
const XMIN_KEPT: Duration = Duration::from_secs(30);
const IDLE_MIN: Duration = Duration::from_secs(5);
/// How long a standby looks for its primary without a pause.
const EAGER_MAX: Duration = Duration::from_secs(10);
/// Room on a simulated disk.
const TOTAL_BYTES: u64 = 100 << 30;
const FREE_BYTES: u64 = 60 << 30;

/// What is known of the slots from earlier looks at this run of PostgreSQL.
#[derive(Debug, Default)]
pub(super) struct Watch {
    idle_since: BTreeMap<String, BootTime>,
    useless_since: BTreeMap<String, BootTime>,
    seen: BTreeSet<String>,
    dropped: BTreeSet<String>,
}

impl Watch {
    fn look(&mut self, slots: &BTreeMap<String, Slot>, others: &[Other], now: BootTime) {
        let streams = |name: &str| {
            others.iter().any(|o| o.position.is_some() && o.member.slot_name() == name)
        };
        let note = |since: &mut BTreeMap<String, BootTime>, holds: &dyn Fn(&str, &Slot) -> bool| {
            since.retain(|name, _| slots.get(name).is_some_and(|s| holds(name, s)));
            for (name, _) in slots.iter().filter(|(name, s)| holds(name, s)) {
                since.entry(name.clone()).or_insert(now);
            }
        };
        note(&mut self.idle_since, &|_, s| s.active.is_none());
        note(&mut self.useless_since, &|name, s| s.active.is_none() && !streams(name));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Leave,
    Make,
    Remake,
    Drop,
    Release,
    Advance(Lsn),
}

/// What is to be done with the slot of `other`: production's rules (`database/slots.rs`).
fn step(
    slot: Option<(&Slot, bool)>,
    other: &Other,
    care: &Care,
    (idle, useless): (Duration, Duration),
    replay: Option<Lsn>,
) -> Step {
    let present = other.heard && other.silent < PRESENT;
    let Some((slot, lost)) = slot else {
        return if present { Step::Make } else { Step::Leave };
    };
    if slot.active.is_some() {
        return Step::Leave;
    }
    let away = other.silent.max(useless);
    let away = away >= Duration::from_millis(care.spec.slot_ttl_ms)
        || (care.out_of_room && away > SILENT_MAX);
    if away && idle >= IDLE_MIN {
        Step::Drop
    } else if lost {
        if present { Step::Remake } else { Step::Leave }
    } else if slot.holds_xmin && idle >= XMIN_KEPT {
        Step::Release
    } else {
        target(slot, replay, other.position).map_or(Step::Leave, Step::Advance)
    }
}

/// Where an unused slot of a standby is to be moved.
fn target(slot: &Slot, replay: Option<Lsn>, theirs: Option<Lsn>) -> Option<Lsn> {
    let to = replay?.min(theirs?);
    let behind = to.0.checked_sub(slot.restart?.0)? >= ADVANCE_BYTES_MIN;
    (behind && slot.active.is_none()).then_some(to)
}

/// The slots of a server, and which of them have lost their WAL.
fn slots(server: &Server) -> Result<(BTreeMap<String, Slot>, Lsn), Refused> {
    server.status()?;
    let dir = server.dir().ok_or(Refused::NotRunning)?;
    Ok((dir.slots.clone(), dir.wal.oldest()))
}

impl SimDatabase {
    pub(super) async fn look_after(&self, care: &Care) -> Result<Upkeep, Error> {
        self.running()?;
        let status = self.machine.status().await?;
        let replay = status.in_recovery.then_some(status.replay);
        let mut upkeep = Upkeep::default();
        self.keep_slots(care, replay, &mut upkeep).await?;
        let settled = {
            let now = self.machine.now();
            let memory = self.memory();
            let long = memory.following.as_ref().is_none_or(|f| now.since(f.begun) >= EAGER_MAX);
            // One that looks for a primary that is gone would fill its log.
            if status.streaming.is_some() || long { memory.settled.clone() } else { None }
        };
        if let Some(settings) = settled {
            self.reconfigure(&settings).await?;
            self.memory().settled = None;
        }
        upkeep.notices = std::mem::take(&mut self.memory().notices);
        Ok(upkeep)
    }

    async fn keep_slots(
        &self,
        care: &Care,
        replay: Option<Lsn>,
        upkeep: &mut Upkeep,
    ) -> Result<(), Error> {
        let (slots, oldest) = self.machine.sql(|server, _| slots(server)).await?;
        let now = self.machine.now();
        self.memory().slots.look(&slots, &care.others, now);
        for other in &care.others {
            let name = other.member.slot_name();
            let times = {
                let watch = &self.memory().slots;
                let since = |map: &BTreeMap<String, BootTime>| {
                    map.get(&name).map_or(Duration::ZERO, |at| now.since(*at))
                };
                (since(&watch.idle_since), since(&watch.useless_since))
            };
            let lost = |s: &Slot| s.restart.is_some_and(|restart| restart < oldest);
            let slot = slots.get(&name).map(|s| (s, lost(s)));
            let step = step(slot, other, care, times, replay);
            match self.take_step(&name, other, step).await {
                // Its member has just come back.
                Ok(()) | Err(Error::Failed(_)) => {}
                Err(e) => upkeep.problems.push(format!("slot {name} is not kept: {e}")),
            }
        }
        let wanted: BTreeSet<String> = care.others.iter().map(|o| o.member.slot_name()).collect();
        for (name, slot) in &slots {
            let nobodys = name.starts_with(PREFIX) && !wanted.contains(name);
            if nobodys && !slot.temporary && slot.active.is_none() {
                self.drop_slot(name).await?;
            }
        }
        let there = slots.into_keys().filter(|name| wanted.contains(name));
        self.memory().slots.seen.extend(there);
        Ok(())
    }

    async fn drop_slot(&self, name: &str) -> Result<bool, Error> {
        let dropped = |server: &mut Server, _| match server.drop_slot(name) {
            Ok(()) => Ok(true),
            Err(Refused::Missing | Refused::InUse) => Ok(false),
            Err(why) => Err(why),
        };
        self.machine.sql(dropped).await
    }

    async fn take_step(&self, name: &str, other: &Other, step: Step) -> Result<(), Error> {
        let member = &other.member;
        match step {
            Step::Leave => {}
            Step::Advance(to) => {
                self.machine.sql(|server, _| server.advance_slot(name, to)).await?;
            }
            Step::Make => {
                if !self.make_slot(name).await? {
                    return Ok(());
                }
                let (seen, dropped) = {
                    let watch = &mut self.memory().slots;
                    (watch.seen.contains(name), watch.dropped.remove(name))
                };
                // The first one of a member is nothing that happened to it.
                if seen || dropped {
                    let text = format!("the slot of {member} was gone, and was made again");
                    self.note(NoticeCode::SlotMade, text);
                }
            }
            Step::Remake => {
                self.drop_slot(name).await?;
                self.make_slot(name).await?;
                let text = format!("the slot of {member} had lost its WAL, and was made anew");
                self.note(NoticeCode::SlotMade, text);
            }
            Step::Drop => {
                if self.drop_slot(name).await? {
                    self.memory().slots.dropped.insert(name.to_owned());
                    let text = format!("{member} is away: its slot was dropped");
                    self.note(NoticeCode::SlotDropped, text);
                }
            }
            Step::Release => {
                self.machine.sql(|server, _| server.release_slot(name)).await?;
                let text = format!("the slot of {member} holds no dead rows back any more");
                self.note(NoticeCode::SlotReleased, text);
            }
        }
        Ok(())
    }

    pub(super) async fn release_wal(&self, members: &[(MemberName, Lsn)]) -> Result<(), Error> {
        self.running()?;
        let (slots, _) = self.machine.sql(|server, _| slots(server)).await?;
        for (member, at) in members {
            let name = member.slot_name();
            let to = slots.get(&name).and_then(|slot| target(slot, Some(*at), Some(*at)));
            if let Some(to) = to {
                self.machine.sql(|server, _| server.advance_slot(&name, to)).await?;
            }
        }
        Ok(())
    }

    // ---- room ----

    fn free_bytes(&self) -> u64 {
        if self.machine.lock().host.server.env().disk.full { 0 } else { FREE_BYTES }
    }

    pub(super) async fn survey_disks(&self) -> Result<Survey, Error> {
        self.machine.lag((200, 3_000)).await;
        // A file system that hangs does not answer.
        let answers = |server: &Server, _| (!server.env().disk.hung).then_some(());
        self.machine.until(Duration::from_secs(60), answers).await;
        let data = Space { free_bytes: self.free_bytes(), total_bytes: TOTAL_BYTES };
        let aside = self.machine.lock().files.aside.clone();
        let (data_path, wal_path) = ("/data/pg".to_owned(), "/data/pg/pg_wal".to_owned());
        let disks = Disks { data: Some(data), wal: None };
        Ok(Survey { disks, data_path, wal_path, aside, ..Survey::default() })
    }

    pub(super) async fn look_for_room(&self) -> Result<CopyRoom, Error> {
        self.machine.lag((500, 5_000)).await;
        Ok(CopyRoom {
            needed_bytes: 1 << 30,
            free_bytes: self.free_bytes(),
            path: "/data".to_owned(),
            removed: Vec::new(),
        })
    }
}
