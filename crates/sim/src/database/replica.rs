//! Data directories, and following a primary: initdb, follow, rewind, copy.
//!
//! Owns what is asked of the primary before and after, as production does.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_world::exec;
use quorate_world::pg::tools::{self, Rewound as Outcome};
use quorate_world::pg::{DataDir, State};

use super::SimDatabase;
use super::machine::Machine;
use super::observe::Following;
use super::remote::{Place, Remote};
use super::seal::lineage_of;
use super::settings::Role;
use crate::Rt;
use crate::agent::driver::{Error, Examined, Progress, Rewound};
use crate::domain::desired::{FollowDuty, Upstream};
use crate::domain::observation::Data;
use crate::domain::record::DataMark;
use crate::domain::space::Aside;
use crate::domain::state::ClusterSpec;
use crate::domain::types::{Epoch, Lsn, SystemId, Timeline};
use crate::raft::AsyncRuntime as _;

/// How long a question to the primary may take.
const QUESTION: Duration = Duration::from_secs(3);
/// How long a primary is waited for before a rewind or a copy.
const SOURCE: Duration = Duration::from_secs(10);
const SOURCE_POLL: Duration = Duration::from_millis(100);
/// How long a part of a copy may be lost on the way: `tcp_user_timeout`.
const PART: Duration = Duration::from_secs(20);
/// In how many parts a directory is fetched, at least and at most.
const PARTS: (u64, u64) = (3, 20);
/// How long each takes, in microseconds.
const PART_US: (u64, u64) = (20_000, 400_000);
/// What a data directory is said to weigh.
const BYTES: u64 = 64 << 20;
/// How many replaced directories are kept.
const ASIDE_MAX: usize = 2;

/// Marks the data directory as unfinished until it is told that all went well.
struct Unfinished<'a>(&'a Machine);

impl<'a> Unfinished<'a> {
    fn begin(machine: &'a Machine, what: &str) -> Self {
        machine.lock().files.incomplete = Some(what.to_owned());
        Self(machine)
    }

    fn done(self) {
        self.0.lock().files.incomplete = None;
    }
}

impl SimDatabase {
    pub(super) async fn look(&self) -> Result<Data, Error> {
        self.machine.lag((1_000, 8_000)).await;
        let inner = self.machine.lock();
        let incomplete = inner.files.incomplete.is_some();
        Ok(match inner.host.server.dir() {
            Some(_) if incomplete => Data::Incomplete,
            Some(dir) => Data::Present { system_id: dir.control.system_id },
            None if incomplete || !inner.files.aside.is_empty() => Data::Incomplete,
            None => Data::Empty,
        })
    }

    pub(super) async fn make_data(&self) -> Result<SystemId, Error> {
        self.refuse_running()?;
        let begun = {
            let inner = self.machine.lock();
            inner.files.record().is_some_and(|r| r.data == DataMark::Initialising)
        };
        if let (true, Data::Present { system_id }) = (begun, self.look().await?) {
            // It gets its name as the last step of all: this is our own, finished, and only its
            // record was not written.
            return Ok(system_id);
        }
        self.machine.lag((600_000, 2_500_000)).await;
        self.machine.write_disk(true).await?;
        let system_id = SystemId(exec::with_rng(self.machine.id(), |rng| rng.draw()));
        let settings = self.settings(&Role::Sealed(Epoch(0)));
        self.machine.with(|inner, _| {
            let mut dir = DataDir::initdb(system_id);
            dir.conf = settings;
            inner.host.server.set_dir(Some(dir));
        });
        self.machine.trace(|| format!("a data directory {system_id} is made"));
        Ok(system_id)
    }

    pub(super) async fn follow_primary(&self, duty: &FollowDuty) -> Result<(), Error> {
        self.running()?;
        self.refuse_astray(duty)?;
        let settings = self.settings(&Role::Standby(duty, true));
        self.reconfigure(&settings).await?;
        self.await_role(&settings).await?;
        self.note_followed(duty);
        let settled = self.settings(&Role::Standby(duty, false));
        let mut memory = self.memory();
        memory.following = Some(Following::new(duty.streams_from().1, self.machine.now()));
        memory.settled = Some(settled);
        Ok(())
    }

    /// As `postgres::history::astray` of production.
    fn refuse_astray(&self, duty: &FollowDuty) -> Result<(), Error> {
        let inner = self.machine.lock();
        let Some(dir) = inner.host.server.dir() else { return Ok(()) };
        let lineage: BTreeSet<Timeline> =
            duty.lineage.0.iter().map(|e| e.epoch.timeline()).collect();
        let written = |t: &Timeline| dir.wal.log(*t).is_some();
        let Some(own) = lineage.iter().copied().rfind(written) else { return Ok(()) };
        let newest = dir.histories.newest(own);
        let unknown = |t: &Timeline| !lineage.contains(t) && !written(t);
        let mut found = (own.0 + 1..=newest.0).map(Timeline).filter(unknown);
        match found.rfind(|t| !dir.histories.of(*t).is_placeholder()) {
            Some(found) => Err(Error::Astray(format!("timeline {found}"))),
            None => Ok(()),
        }
    }

    /// Notes that the primary of this epoch is followed, with record of it or without.
    pub(super) fn note_followed(&self, duty: &FollowDuty) {
        let mut inner = self.machine.lock();
        inner.files.followed = inner.files.followed.max(duty.epoch);
    }

    pub(super) async fn look_into(&self) -> Result<Examined, Error> {
        self.machine.lag((1_000, 8_000)).await;
        let inner = self.machine.lock();
        let Some(dir) = inner.host.server.dir() else {
            return Err(Error::Failed("there is no data directory".to_owned()));
        };
        let control = &dir.control;
        let led =
            matches!(control.state, State::ShutDown | State::ShuttingDown | State::InProduction);
        Ok(Examined {
            self_contained: dir.label.is_none() && control.backup_start == Lsn(0),
            led: led.then(|| control.newest_timeline().epoch()),
        })
    }

    // ---- questions ----

    fn remote(&self, address: &str) -> Remote<'_> {
        Remote::new(&self.machine, address)
    }

    pub(super) async fn ask_standby(
        &self,
        duty: &FollowDuty,
        standby: &Upstream,
        spec: &ClusterSpec,
    ) -> Result<(), Error> {
        let end = self.check_promise(duty, standby).await?;
        // That the primary does not answer says nothing of the standby.
        let primary = self.ask_primary(duty).await.map(|(_, lsn)| lsn).unwrap_or_default();
        let behind = primary.0.saturating_sub(end.0);
        if behind > spec.sync_lag_bytes_max {
            let member = &standby.member;
            return Err(Error::NotReady(format!("{member} itself is {behind} bytes behind")));
        }
        Ok(())
    }

    /// Whether a standby has promised the duty's epoch and follows it. Returns where its WAL ends.
    async fn check_promise(&self, duty: &FollowDuty, standby: &Upstream) -> Result<Lsn, Error> {
        let standing = self.remote(&standby.address).standing(QUESTION).await?;
        self.check_foreign(standing.system_id)?;
        let why = if !standing.in_recovery {
            "it is no standby".to_owned()
        } else if standing.role != "standby" || standing.epoch != duty.epoch.0 {
            format!("it is {} of epoch {}", standing.role, standing.epoch)
        } else if !standing.receives {
            "it does not stream itself".to_owned()
        } else {
            return Ok(standing.end);
        };
        Err(Error::NotReady(format!("{} cannot serve: {why}", standby.member)))
    }

    pub(super) async fn ask_primary(&self, duty: &FollowDuty) -> Result<(Epoch, Lsn), Error> {
        let place = self.remote(&duty.address).place(QUESTION).await?;
        match place.writes {
            Some((timeline, flush)) if timeline == duty.epoch.timeline() => Ok((duty.epoch, flush)),
            Some((timeline, _)) => {
                Err(Error::NotReady(format!("it writes timeline {timeline}, not {}", duty.epoch)))
            }
            None => Err(Error::NotReady(format!("{} is a standby", duty.primary))),
        }
    }

    /// Waits until the primary leads its epoch, and with `checkpoint` until it has done a
    /// checkpoint in it.
    pub(super) async fn await_primary(
        &self,
        duty: &FollowDuty,
        checkpoint: bool,
    ) -> Result<Place, Error> {
        let remote = self.remote(&duty.address);
        let wanted = duty.epoch.timeline();
        let begun = self.machine.now();
        loop {
            let why = match remote.place(QUESTION).await {
                Ok(place) => match place.writes {
                    Some((timeline, _)) if timeline == wanted => {
                        if !checkpoint || place.checkpoint_timeline == wanted {
                            return Ok(place);
                        }
                        "it has not done a checkpoint in its epoch".to_owned()
                    }
                    Some((timeline, _)) => format!("it writes timeline {timeline}, not {wanted}"),
                    None => "it is a standby".to_owned(),
                },
                Err(e) => e.to_string(),
            };
            if self.machine.now().since(begun) >= SOURCE {
                let primary = &duty.primary;
                return Err(Error::NotReady(format!("{primary} cannot be copied from yet: {why}")));
            }
            Rt::sleep(SOURCE_POLL).await;
        }
    }

    /// Data of another cluster is never taken, and never replaced.
    fn check_foreign(&self, found: SystemId) -> Result<(), Error> {
        let inner = self.machine.lock();
        match inner.files.record().and_then(|r| r.system_id) {
            Some(expected) if expected != found => Err(Error::Failed(format!(
                "the primary has system identifier {found}, but this member belongs to {expected}"
            ))),
            _ => Ok(()),
        }
    }

    // ---- rewind ----

    pub(super) async fn turn_back(&self, duty: &FollowDuty) -> Result<Rewound, Error> {
        self.refuse_running()?;
        let place = match self.await_primary(duty, true).await {
            Ok(place) => place,
            Err(Error::NotReady(why)) => return Ok(Rewound::Untouched { why }),
            Err(e) => return Err(e),
        };
        self.check_foreign(place.system_id)?;
        if let Some(why) = self.unfit(duty, place.system_id) {
            return Ok(Rewound::Impossible { why });
        }
        let (dir, clean) = {
            let inner = self.machine.lock();
            let Some(dir) = inner.host.server.dir() else {
                return Err(Error::Failed("there is no data directory".to_owned()));
            };
            (dir.clone(), dir.control.is_clean())
        };
        let mut dir = dir;
        if !clean {
            // From here on it is not what it was, also where the rewind is not begun.
            let mark = Unfinished::begin(&self.machine, "crash recovery before pg_rewind");
            self.machine.lag((200_000, 2_000_000)).await;
            self.machine.write_disk(true).await?;
            match tools::recover_alone(dir, self.machine.now()) {
                Ok(recovered) => dir = recovered,
                Err(why) => {
                    mark.done();
                    return Ok(Rewound::Impossible {
                        why: format!("crash recovery failed: {why}"),
                    });
                }
            }
            self.machine.with(|inner, _| inner.host.server.set_dir(Some(dir.clone())));
        }
        let mark = Unfinished::begin(&self.machine, "pg_rewind was running");
        let outcome = self.fetch_rewind(duty, dir).await;
        match outcome {
            Fetched::Done => {
                mark.done();
                self.machine.trace(|| format!("it is rewound to epoch {}", duty.epoch));
                Ok(Rewound::Done)
            }
            Fetched::NotRequired => {
                mark.done();
                Ok(Rewound::Impossible { why: "pg_rewind sees no divergence".to_owned() })
            }
            Fetched::Failed { why, touched: false } => {
                mark.done();
                let lost = why.contains("connection") || why.contains("within");
                // Its own recovery wrote a checkpoint of its own: it is not what it was before.
                Ok(match lost && clean {
                    true => Rewound::Untouched { why },
                    false => Rewound::Impossible { why },
                })
            }
            Fetched::Failed { why, touched: true } => Ok(Rewound::Impossible { why }),
        }
    }

    async fn fetch_rewind(&self, duty: &FollowDuty, mut dir: DataDir) -> Fetched {
        let remote = self.remote(&duty.address);
        let failed = |e: Error, touched| Fetched::Failed { why: e.to_string(), touched };
        let source = match remote.rewind_source(QUESTION).await {
            Ok(source) => source,
            Err(e) => return failed(e, false),
        };
        match tools::rewind(&mut dir.clone(), &source) {
            Outcome::Done { .. } => {}
            Outcome::NotRequired => return Fetched::NotRequired,
            Outcome::Refused(why) => return Fetched::Failed { why, touched: false },
        }
        // From here on files are removed and overwritten.
        self.machine.with(|inner, _| {
            if let Some(dir) = inner.host.server.dir_mut() {
                dir.garbage = Some("pg_rewind was interrupted".to_owned());
            }
        });
        if let Err(e) = self.fetch_parts(&remote, &|_, _| {}).await {
            return failed(e, true);
        }
        // What the source has at the end is what its control file and its WAL say.
        let source = match remote.rewind_source(QUESTION).await {
            Ok(source) => source,
            Err(e) => return failed(e, true),
        };
        let Outcome::Done { .. } = tools::rewind(&mut dir, &source) else {
            return Fetched::Failed { why: "the source has changed".to_owned(), touched: true };
        };
        if let Err(e) = self.machine.write_disk(true).await {
            return failed(e, true);
        }
        // Nothing of foreign timelines is left: their numbers can be those of epochs to come.
        let lineage: Vec<_> = duty.lineage.0.iter().map(|e| e.epoch.timeline()).collect();
        let newest = lineage.last().copied().unwrap_or_default();
        dir.wal.retain(|t| lineage.contains(&t));
        dir.histories.retain(|t| t <= newest);
        self.machine.with(|inner, _| {
            inner.files.followed = Epoch(0);
            inner.host.server.set_dir(Some(dir));
        });
        Fetched::Done
    }

    /// Fetches all parts of a directory, telling how far it is.
    async fn fetch_parts(&self, remote: &Remote<'_>, tell: &Tell<'_>) -> Result<(), Error> {
        let parts = exec::with_rng(self.machine.id(), |rng| rng.between(PARTS.0, PARTS.1));
        for part in 1..=parts {
            self.machine.lag(PART_US).await;
            remote.fetch_part(PART).await?;
            self.machine.write_disk(false).await?;
            if self.machine.lock().host.server.env().disk.full {
                return Err(Error::Failed("No space left on device".to_owned()));
            }
            tell(part * (BYTES / parts), BYTES);
        }
        Ok(())
    }

    /// What rules a rewind out before anything is touched.
    fn unfit(&self, duty: &FollowDuty, source: SystemId) -> Option<String> {
        let inner = self.machine.lock();
        let dir = inner.host.server.dir()?;
        let control = &dir.control;
        if let Some(why) = &inner.files.incomplete {
            return Some(format!("an earlier change did not finish: {why}"));
        }
        if control.system_id != source {
            return Some("the system identifier is another".to_owned());
        }
        if dir.label.is_some() || control.backup_start > Lsn(0) {
            let why = "the directory is a copy that has not replayed to the end of its backup";
            return Some(why.to_owned());
        }
        if inner.files.record().is_none_or(|r| r.data != DataMark::Foreign) {
            return None;
        }
        // `pg_rewind` finds where two logs part by the numbers of their timelines: where a number
        // of the foreign ones was granted since, it would find the wrong place.
        let own = control.newest_timeline();
        let lineage = lineage_of(dir, own);
        if duty.lineage.0.iter().any(|e| e.epoch == own.epoch()) {
            Some(format!("its timeline {own} has the number of an epoch of the lineage"))
        } else if !dir.histories.has(own) || lineage.contradicts(&duty.lineage) {
            Some(format!("how its timeline {own} came about is not known"))
        } else {
            None
        }
    }

    // ---- copy ----

    pub(super) async fn copy_member(
        &self,
        duty: &FollowDuty,
        progress: Progress,
    ) -> Result<SystemId, Error> {
        self.refuse_running()?;
        let place = self.await_primary(duty, false).await?;
        self.check_foreign(place.system_id)?;
        let standby = duty.sources.first();
        let address = standby.map_or(&duty.address, |s| &s.address);
        let remote = self.remote(address);
        let name = self.member.slot_name();
        match remote.slot(&name, QUESTION).await? {
            None => remote.make_slot(&name, QUESTION).await?,
            Some(slot) if slot.lost && standby.is_none() => {
                self.machine.trace(|| format!("the slot at {address} has lost its WAL"));
            }
            Some(_) => {}
        }
        let backup = remote.begin_backup(PART).await?;
        let tell = |done, total| progress(done, total);
        self.fetch_parts(&remote, &tell).await?;
        let copy = remote.end_backup(backup, PART).await?;
        let system_id = copy.control.system_id;
        if system_id != place.system_id {
            return Err(Error::Failed(format!("the copy is of another cluster: {system_id}")));
        }
        self.machine.write_disk(true).await?;
        let timeline = copy.wal.logs().map(|(timeline, _)| timeline).max().unwrap_or_default();
        self.install(copy);
        self.machine.trace(|| format!("it is copied from {address}"));
        if let Some(standby) = standby {
            // One that follows another primary by now may have given WAL of that.
            self.check_promise(duty, standby).await?;
        }
        if timeline > duty.epoch.timeline() {
            return Err(Error::Failed(format!("the copy is of timeline {timeline}")));
        }
        Ok(system_id)
    }

    /// Puts a copy in its place, and keeps what was there aside.
    fn install(&self, copy: DataDir) {
        let at_unix_ms = exec::now() / 1_000_000;
        self.machine.with(|inner, _| {
            let old = inner.host.server.set_dir(Some(copy));
            (inner.files.incomplete, inner.files.followed) = (None, Epoch(0));
            if old.is_some() {
                let path = format!("/data/aside-{at_unix_ms}");
                let reason = "replaced".to_owned();
                inner.files.aside.push(Aside { path, bytes: BYTES, reason, at_unix_ms });
            }
            let excess = inner.files.aside.len().saturating_sub(ASIDE_MAX);
            inner.files.aside.drain(..excess);
        });
    }
}

type Tell<'a> = dyn Fn(u64, u64) + Send + Sync + 'a;

enum Fetched {
    Done,
    NotRequired,
    Failed { why: String, touched: bool },
}
