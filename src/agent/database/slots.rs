//! Slots of the other members: each has one here, so that this member can serve it at once when it
//! is promoted.
//!
//! Owns which slots there are, and what they hold back. On a standby they are moved forward, since
//! nobody uses them there; on a primary an unused one keeps the WAL for a member that will come
//! back. Nothing is kept for one that is away for too long, and no unused slot keeps dead rows:
//! they would be kept on every member.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{PgDatabase, lock};
use crate::agent::driver::{Care, Other, Upkeep};
use crate::domain::alarm::NoticeCode;
use crate::domain::types::{Lsn, MemberName};
use crate::postgres::connect;
use crate::postgres::feedback;
use crate::postgres::sql::Session;
use crate::postgres::status::{PrimaryStatus, Slot};

/// Prefix of the names of all slots that are ours, see `MemberName::slot_name`.
const PREFIX: &str = "quorate_";
/// A slot that is less behind than this is left alone: WAL is removed in whole segments.
const ADVANCE_BYTES_MIN: u64 = 1 << 20;
/// A member that was heard of within this time is there: it gets a slot.
const PRESENT: Duration = Duration::from_secs(10);
/// Where there is no room left, nothing is kept for a member that is silent for so long.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// An unused slot holds dead rows back for so long. Its member can be on its way back until then:
/// queries that run on it are not cancelled for a restart.
const XMIN_KEPT: Duration = Duration::from_secs(30);
/// A slot that is not used for a moment is that of a walreceiver which connects anew: so long it
/// must be unused to be dropped. One that streams without being heard of would not get another.
const IDLE_MIN: Duration = Duration::from_secs(5);
/// How long clearing it may take.
const RELEASE: Duration = Duration::from_secs(1);

/// What is known of the slots from earlier looks at this run of PostgreSQL.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Since when a slot is not used, by our own clock.
    idle_since: BTreeMap<String, Instant>,
    /// Since when a slot is not used by a member of which it is not known that it streams from
    /// anybody: it may well be heard of all the while.
    useless_since: BTreeMap<String, Instant>,
    /// Slots that were there.
    seen: BTreeSet<String>,
    /// Slots that were dropped here, since their member was away.
    dropped: BTreeSet<String>,
}

impl Watch {
    fn look(&mut self, slots: &BTreeMap<String, Slot>, others: &[Other], now: Instant) {
        let streams = |name: &str| {
            others.iter().any(|o| o.position.is_some() && o.member.slot_name() == name)
        };
        let useless = |s: &&Slot| s.active_pid.is_none() && !streams(&s.name);
        self.useless_since.retain(|name, _| slots.get(name).is_some_and(|s| useless(&s)));
        for slot in slots.values().filter(useless) {
            self.useless_since.entry(slot.name.clone()).or_insert(now);
        }
        self.idle_since.retain(|name, _| slots.get(name).is_some_and(|s| s.active_pid.is_none()));
        for slot in slots.values().filter(|s| s.active_pid.is_none()) {
            self.idle_since.entry(slot.name.clone()).or_insert(now);
        }
    }

    fn useless(&self, name: &str, now: Instant) -> Duration {
        self.useless_since.get(name).map_or(Duration::ZERO, |since| now.duration_since(*since))
    }

    fn idle(&self, name: &str, now: Instant) -> Duration {
        self.idle_since.get(name).map_or(Duration::ZERO, |since| now.duration_since(*since))
    }
}

/// What is to be done with the slot of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Leave,
    Make,
    Remake,
    Drop,
    Release,
    Advance(Lsn),
}

/// What is to be done with the slot of `other`. `idle` is for how long it is not used, `useless` for
/// how long nobody is known to stream by it or to need less; `replay` is a standby's own position,
/// `None` on a primary. One that is made again keeps from then on: what it kept before is gone.
fn step(
    slot: Option<&Slot>,
    other: &Other,
    care: &Care,
    idle: Duration,
    useless: Duration,
    replay: Option<Lsn>,
) -> Step {
    let present = other.heard && other.silent < PRESENT;
    let Some(slot) = slot else {
        return if present { Step::Make } else { Step::Leave };
    };
    if slot.active_pid.is_some() || !slot.physical {
        return Step::Leave;
    }
    // A leader that was elected just now has heard of nobody, and of their silence for a moment
    // only: nothing is dropped for that.
    let away = other.silent.max(useless);
    let away = away >= Duration::from_millis(care.spec.slot_ttl_ms)
        || (care.out_of_room && away > SILENT_MAX);
    if away && idle >= IDLE_MIN {
        Step::Drop
    } else if slot.wal_status.as_deref() == Some("lost") {
        // It holds nothing back. Made anew for one that is away it would, and serve nobody.
        if present { Step::Remake } else { Step::Leave }
    } else if slot.holds_xmin && idle >= XMIN_KEPT {
        Step::Release
    } else {
        target(slot, replay, other.position.as_ref()).map_or(Step::Leave, Step::Advance)
    }
}

/// Where an unused slot of a standby is to be moved: `replay` is the standby's own, `None` on a
/// primary; `theirs` is the member's that it is for.
fn target(slot: &Slot, replay: Option<Lsn>, theirs: Option<&Lsn>) -> Option<Lsn> {
    let to = replay?.min(*theirs?);
    let restart = slot.restart?;
    let behind = to.0.checked_sub(restart.0)? >= ADVANCE_BYTES_MIN;
    (behind && slot.active_pid.is_none()).then_some(to)
}

impl PgDatabase {
    /// Makes, moves, releases and drops the slots of the other members. `replay` is a standby's own
    /// position, `None` on a primary.
    pub(super) async fn keep_slots(
        &self,
        session: &mut Session,
        status: &PrimaryStatus,
        replay: Option<Lsn>,
        care: &Care,
        upkeep: &mut Upkeep,
    ) {
        let now = Instant::now();
        lock(&self.memory).slots.look(&status.slots, &care.others, now);
        for other in &care.others {
            let name = other.member.slot_name();
            let (idle, useless) = {
                let watch = &lock(&self.memory).slots;
                (watch.idle(&name, now), watch.useless(&name, now))
            };
            let slot = status.slots.get(&name);
            let step = step(slot, other, care, idle, useless, replay);
            match self.take_step(session, &name, other, step).await {
                Ok(()) => {}
                // object_in_use: its member has just come back.
                Err(connect::Error::Server { code, .. }) if code == "55006" => {}
                Err(e) => upkeep.problems.push(format!("slot {name} is not kept: {e}")),
            }
        }
        let wanted: BTreeSet<_> = care.others.iter().map(|o| o.member.slot_name()).collect();
        let nobodys = status.slots.values().filter(|s| {
            s.name.starts_with(PREFIX)
                && !wanted.contains(&s.name)
                && s.physical
                && !s.temporary
                && s.active_pid.is_none()
        });
        for slot in nobodys {
            if let Err(e) = session.drop_slot(&slot.name).await {
                let problem = format!("slot {} is nobody's and was not dropped: {e}", slot.name);
                upkeep.problems.push(problem);
            }
            let watch = &mut lock(&self.memory).slots;
            watch.seen.remove(&slot.name);
            watch.dropped.remove(&slot.name);
        }
        let there = status.slots.keys().filter(|name| wanted.contains(*name)).cloned();
        lock(&self.memory).slots.seen.extend(there);
    }

    async fn take_step(
        &self,
        session: &mut Session,
        name: &str,
        other: &Other,
        step: Step,
    ) -> Result<(), connect::Error> {
        let member = &other.member;
        match step {
            Step::Leave => {}
            Step::Advance(to) => session.advance_slot(name, to).await?,
            Step::Make => {
                if !session.create_slot(name, true).await? {
                    return Ok(());
                }
                let (seen, dropped) = {
                    let watch = &mut lock(&self.memory).slots;
                    (watch.seen.contains(name), watch.dropped.remove(name))
                };
                // The first one of a member is nothing that happened to it.
                if dropped {
                    let text = format!("{member} is heard of again: its slot was made again");
                    self.note(NoticeCode::SlotMade, text);
                } else if seen {
                    let text = format!("the slot of {member} was gone, and was made again");
                    self.note(NoticeCode::SlotMade, text);
                }
            }
            Step::Remake => {
                session.drop_slot(name).await?;
                session.create_slot(name, true).await?;
                self.note(
                    NoticeCode::SlotMade,
                    format!("the slot of {member} had lost its WAL, and was made anew"),
                );
            }
            Step::Drop => {
                if !session.drop_slot(name).await? {
                    return Ok(());
                }
                lock(&self.memory).slots.dropped.insert(name.to_owned());
                let silent = other.silent.as_secs();
                self.note(
                    NoticeCode::SlotDropped,
                    format!(
                        "{member} is away for {silent} s: its slot was dropped, and no WAL is \
                         kept for it"
                    ),
                );
            }
            Step::Release => {
                let login = &self.settings.credentials.replication;
                let work = feedback::release_xmin(session, login, name, RELEASE);
                Box::pin(work).await?;
                self.note(
                    NoticeCode::SlotReleased,
                    format!(
                        "the slot of {member} is not used: it holds no dead rows back any more"
                    ),
                );
            }
        }
        Ok(())
    }
}

impl PgDatabase {
    /// On a primary an unused slot stays where it is, for a member that comes back. One that streams
    /// from another standby needs only what is behind where it is now.
    pub(super) async fn release_wal(
        &self,
        members: &[(MemberName, Lsn)],
    ) -> super::error::Result<()> {
        self.running()?;
        let mut session = self.take_worker();
        let slots = session.slots().await.map_err(super::error::sql)?;
        for (member, at) in members {
            let slot = slots.get(&member.slot_name());
            if let Some((slot, to)) = slot.and_then(|s| Some((s, target(s, Some(*at), Some(at))?)))
            {
                session.advance_slot(&slot.name, to).await.map_err(super::error::sql)?;
            }
        }
        self.worker.put(session);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::state::ClusterSpec;
    use crate::domain::types::MemberName;

    const MIB: u64 = 1 << 20;

    fn slot() -> Slot {
        Slot {
            name: "quorate_b".into(),
            physical: true,
            temporary: false,
            active_pid: None,
            restart: Some(Lsn(10 * MIB)),
            wal_status: Some("reserved".into()),
            holds_xmin: false,
        }
    }

    #[test]
    fn only_unused_slots_of_a_standby_move() {
        let mut slot = slot();
        let to = |slot: &Slot, replay: u64, theirs: u64| {
            target(slot, Some(Lsn(replay * MIB)), Some(&Lsn(theirs * MIB))).map(|l| l.0 / MIB)
        };
        assert_eq!(to(&slot, 20, 15), Some(15));
        assert_eq!(to(&slot, 12, 15), Some(12));
        assert_eq!(to(&slot, 10, 15), None);
        assert_eq!(to(&slot, 9, 15), None);
        assert_eq!(target(&slot, None, Some(&Lsn(20 * MIB))), None);
        assert_eq!(target(&slot, Some(Lsn(20 * MIB)), None), None);
        slot.active_pid = Some(1);
        assert_eq!(to(&slot, 20, 15), None);
    }

    #[test]
    fn slots_are_made_for_who_is_there_and_dropped_for_who_is_away() {
        let unused = slot();
        let used = Slot { active_pid: Some(1), ..slot() };
        let lost = Slot { wal_status: Some("lost".into()), ..slot() };
        let holds = Slot { holds_xmin: true, ..slot() };
        let foreign = Slot { physical: false, ..slot() };
        // slot, heard, silent, out of room, idle (all in seconds), what is done
        let table = [
            (None, true, 1, false, 0, Step::Make),
            (None, true, 11, false, 0, Step::Leave),
            (None, false, 1, false, 0, Step::Leave),
            (Some(&unused), true, 1, false, 0, Step::Leave),
            (Some(&unused), true, 59, false, 59, Step::Leave),
            (Some(&unused), true, 60, false, 60, Step::Drop),
            // One that streams all the while, and has just connected anew.
            (Some(&unused), true, 60, false, 1, Step::Leave),
            (Some(&unused), false, 59, false, 59, Step::Leave),
            // A leader that has not heard of it for so long knows enough.
            (Some(&unused), false, 60, false, 60, Step::Drop),
            (Some(&used), true, 60, true, 0, Step::Leave),
            (Some(&unused), true, 30, true, 30, Step::Leave),
            (Some(&unused), true, 31, true, 31, Step::Drop),
            (Some(&lost), true, 1, false, 0, Step::Remake),
            (Some(&lost), true, 20, false, 20, Step::Leave),
            (Some(&lost), true, 60, false, 60, Step::Drop),
            (Some(&holds), true, 29, false, 29, Step::Leave),
            (Some(&holds), true, 1, false, 30, Step::Release),
            (Some(&holds), false, 0, false, 30, Step::Release),
            (Some(&holds), true, 60, false, 60, Step::Drop),
            (Some(&foreign), true, 60, true, 60, Step::Leave),
        ];
        for (slot, heard, silent, out_of_room, idle, expected) in table {
            let other = Other {
                member: MemberName::new("b").unwrap(),
                position: None,
                heard,
                silent: Duration::from_secs(silent),
                preloaded: Vec::new(),
            };
            let spec = ClusterSpec { slot_ttl_ms: 60_000, ..ClusterSpec::of(vec![]) };
            let care =
                Care { others: vec![], sync: None, spec, revision: 1, active: false, out_of_room };
            let done = step(slot, &other, &care, Duration::from_secs(idle), Duration::ZERO, None);
            assert_eq!(done, expected, "{slot:?} {heard} {silent} {out_of_room} {idle}");
        }
    }

    #[test]
    fn a_member_that_is_heard_of_and_never_streams_is_away_as_well() {
        let spec = ClusterSpec { slot_ttl_ms: 60_000, ..ClusterSpec::of(vec![]) };
        let other = Other {
            member: MemberName::new("b").unwrap(),
            position: None,
            heard: true,
            silent: Duration::ZERO,
            preloaded: Vec::new(),
        };
        for (useless, out_of_room, expected) in [
            (59, false, Step::Leave),
            (60, false, Step::Drop),
            (30, true, Step::Leave),
            (31, true, Step::Drop),
        ] {
            let care = Care {
                others: vec![],
                sync: None,
                spec: spec.clone(),
                revision: 1,
                active: false,
                out_of_room,
            };
            let since = Duration::from_secs(useless);
            let done = step(Some(&slot()), &other, &care, since, since, None);
            assert_eq!(done, expected, "{useless} {out_of_room}");
        }
    }

    #[test]
    fn idleness_is_counted_from_the_first_look() {
        let now = Instant::now();
        let after = |s| now + Duration::from_secs(s);
        let mut watch = Watch::default();
        let slots = |active: Option<i32>| {
            let slot = Slot { active_pid: active, ..slot() };
            BTreeMap::from([(slot.name.clone(), slot)])
        };
        watch.look(&slots(None), &[], now);
        watch.look(&slots(None), &[], after(5));
        assert_eq!(watch.idle("quorate_b", after(5)), Duration::from_secs(5));
        watch.look(&slots(Some(1)), &[], after(6));
        watch.look(&slots(None), &[], after(9));
        assert_eq!(watch.idle("quorate_b", after(10)), Duration::from_secs(1));
        watch.look(&BTreeMap::new(), &[], after(11));
        assert_eq!(watch.idle("quorate_b", after(12)), Duration::ZERO);
    }
}
