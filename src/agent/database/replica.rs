//! Data directories, and following a primary: initdb, follow, rewind, copy.
//!
//! Owns what is asked of the primary before and after. The primary is asked itself, never a list:
//! what answers as a standby, or on another timeline, is no source.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::conf::{Role, host_and_port};
use super::error::{self, Result, timed_out};
use super::observe::Following;
use super::{PgDatabase, blocking, lock};
use crate::agent::driver::{Error, Examined, Progress, Rewound};
use crate::clock::{BootClock, Clock};
use crate::domain::alarm::NoticeCode;
use crate::domain::desired::{FollowDuty, Upstream};
use crate::domain::lineage::Relation;
use crate::domain::observation::Data;
use crate::domain::record::DataMark;
use crate::domain::state::ClusterSpec;
use crate::domain::types::{Epoch, Lsn, SystemId};
use crate::postgres::basebackup::{self, Source};
use crate::postgres::controldata::{self, ClusterState, DataDirectory};
use crate::postgres::files;
use crate::postgres::history;
use crate::postgres::initdb;
use crate::postgres::remote::{Place, Remote, RemoteSlot};
use crate::postgres::rewind::{self, Outcome};
use crate::postgres::sql::Session;

/// How long a reload may take to reach our session.
const RELOAD: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);
/// How long a question to the primary may take.
const QUESTION: Duration = Duration::from_secs(3);
/// How long a primary is waited for before a rewind or a copy.
const SOURCE: Duration = Duration::from_secs(10);
const SOURCE_POLL: Duration = Duration::from_millis(100);
/// How long crash recovery and a rewind may take, each.
const REWIND: Duration = Duration::from_secs(3600);
/// How often a source is asked for a sign of life while nothing of its copy comes, and how often in
/// a row it may not answer.
const STALL: Duration = Duration::from_secs(15);
const STALLS_MAX: u32 = 3;
/// How long a copy may take. A source that is gone ends it within seconds.
const COPY: Duration = Duration::from_secs(24 * 3600);

impl PgDatabase {
    pub(super) async fn look(&self) -> Result<Data> {
        let layout = &self.settings.layout;
        let found = controldata::inspect(&self.binaries, &self.user, &layout.pgdata)
            .await
            .map_err(error::control)?;
        let places = layout.clone();
        let (incomplete, aside) =
            blocking(move || Ok::<_, Error>((places.incomplete(), places.list_aside_names())))
                .await??;
        let incomplete = incomplete.map_err(error::place)?.is_some();
        let aside = !aside.map_err(error::place)?.is_empty();
        Ok(match found {
            DataDirectory::Present(_) if incomplete => Data::Incomplete,
            DataDirectory::Present(control) => Data::Present { system_id: control.system_id },
            // The end of the process between the two renames of a replacement leaves the only data
            // aside: that is no member without data.
            DataDirectory::Absent | DataDirectory::Empty if incomplete || aside => Data::Incomplete,
            DataDirectory::Absent | DataDirectory::Empty => Data::Empty,
            DataDirectory::Foreign { why } => {
                let place = layout.pgdata.display();
                return Err(Error::Machine(format!("{place} is not a data directory: {why}")));
            }
            DataDirectory::OtherVersion { found } => {
                return Err(Error::Machine(format!(
                    "{} was made by PostgreSQL {found}, but the programs are of version {}",
                    layout.pgdata.display(),
                    self.binaries.major()
                )));
            }
        })
    }

    pub(super) async fn make_data(&self, spec: &ClusterSpec) -> Result<SystemId> {
        self.refuse_running()?;
        self.prepare().await?;
        let begun = self.read_record().await?.is_some_and(|r| r.data == DataMark::Initialising);
        if let (true, Data::Present { system_id }) = (begun, self.look().await?) {
            // It gets its name as the last step of all: this is our own, finished, and only its
            // record was not written.
            return Ok(system_id);
        }
        let settings = &self.settings;
        // What it runs with at first: the least that a standby of it must have is set by this.
        let role = Role::Sealed { promised: Epoch(0) };
        let files = self.files(role, self.standby_sync(), spec).await?;
        let control = initdb::create(
            &self.binaries,
            &self.user,
            &settings.layout,
            &settings.credentials,
            &initdb::Options::default(),
            &files.settings,
        )
        .await
        .map_err(error::initdb)?;
        info!(system_id = %control.system_id, "a data directory is made");
        Ok(control.system_id)
    }

    pub(super) fn refuse_running(&self) -> Result<()> {
        match self.client() {
            Some(_) => Err(Error::Failed("a process tree is there".to_owned())),
            None => Ok(()),
        }
    }

    pub(super) async fn follow_primary(&self, duty: &FollowDuty, spec: &ClusterSpec) -> Result<()> {
        self.running()?;
        self.refuse_astray(duty).await?;
        let (eager, calm) = (self.standby_role(duty, true)?, self.standby_role(duty, false)?);
        let files = self.files_in_force(eager, self.standby_sync(), spec).await?;
        let settled = self.files_in_force(calm, self.standby_sync(), spec).await?;
        let mut session = self.take_worker();
        self.reconfigure(&mut session, &files).await?;
        await_follow(&mut session, duty.epoch).await?;
        self.worker.put(session);
        let mut memory = lock(&self.memory);
        memory.following = Some(Following::new(duty.streams_from().1));
        memory.settled = Some(settled);
        Ok(())
    }

    /// Refuses where what runs may have turned to a timeline that the duty's lineage lacks.
    async fn refuse_astray(&self, duty: &FollowDuty) -> Result<()> {
        let wal = self.settings.layout.wal_dir();
        let bytes = self.segment_bytes().await?;
        let lineage = duty.lineage.0.iter().map(|e| e.epoch.timeline()).collect();
        let found = blocking(move || history::astray(&wal, &lineage, bytes)).await?;
        let found = found.map_err(|e| Error::Failed(e.to_string()))?;
        if found.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = found.iter().map(ToString::to_string).collect();
        Err(Error::Astray(format!("timeline {}", named.join(", "))))
    }

    pub(super) fn remote(&self, address: &str) -> Result<Remote> {
        let (host, port) = host_and_port(address)?;
        Ok(Remote { host, port, login: self.settings.credentials.rewind.clone() })
    }

    /// See [`crate::agent::driver::Database::examine`].
    pub(super) async fn look_into(&self) -> Result<Examined> {
        let pgdata = &self.settings.layout.pgdata;
        let control =
            controldata::read(&self.binaries, &self.user, pgdata).await.map_err(error::control)?;
        let label = pgdata.join("backup_label");
        let label = blocking(move || files::exists(&label)).await?.map_err(error::file)?;
        let led = matches!(
            control.state,
            ClusterState::ShutDown | ClusterState::ShuttingDown | ClusterState::InProduction
        );
        Ok(Examined {
            self_contained: !label && !control.backup_end_required,
            led: led.then(|| control.newest_timeline().epoch()),
        })
    }

    /// See [`crate::agent::driver::Database::check_standby`].
    pub(super) async fn ask_standby(
        &self,
        duty: &FollowDuty,
        standby: &Upstream,
        spec: &ClusterSpec,
    ) -> Result<()> {
        // How far the primary is, is good to know; that it does not answer here says nothing of
        // the standby.
        let (end, primary) =
            tokio::join!(self.check_promise(duty, standby), self.ask_primary(duty));
        let (end, primary) = (end?, primary.map(|(_, lsn)| lsn).unwrap_or_default());
        let behind = primary.0.saturating_sub(end.0);
        if behind > spec.sync_lag_bytes_max {
            let member = &standby.member;
            return Err(Error::NotReady(format!("{member} itself is {behind} bytes behind")));
        }
        Ok(())
    }

    /// Whether a standby has promised the duty's epoch and follows it: then it takes no WAL of an
    /// older one for ever, and what it has is of the duty's lineage. Returns where its WAL ends.
    async fn check_promise(&self, duty: &FollowDuty, standby: &Upstream) -> Result<Lsn> {
        let standing =
            self.remote(&standby.address)?.standing(QUESTION).await.map_err(error::sql)?;
        self.check_foreign(standing.system_id).await?;
        let role = standing.role.as_deref().unwrap_or("nothing");
        let epoch = standing.epoch.unwrap_or(0);
        let why = if !standing.in_recovery {
            "it is no standby".to_owned()
        } else if role != "standby" || epoch != duty.epoch.0 {
            format!("it is {role} of epoch {epoch}, not standby of epoch {}", duty.epoch)
        } else if !standing.receives {
            "it does not stream itself".to_owned()
        } else {
            return Ok(standing.end.unwrap_or_default());
        };
        Err(Error::NotReady(format!("{} cannot serve: {why}", standby.member)))
    }

    fn source(&self, address: &str, user: &str) -> Result<Source> {
        let (host, port) = host_and_port(address)?;
        let connection = std::collections::BTreeMap::new();
        let passfile = self.settings.passfile();
        Ok(Source { host, port, user: user.to_owned(), passfile, connection })
    }

    pub(super) async fn ask_primary(&self, duty: &FollowDuty) -> Result<(Epoch, Lsn)> {
        let place = self.remote(&duty.address)?.place(QUESTION).await.map_err(error::sql)?;
        match place.writes {
            Some(writes) if writes.timeline == duty.epoch.timeline() => {
                Ok((duty.epoch, writes.flush))
            }
            Some(writes) => {
                let (primary, found) = (&duty.primary, writes.timeline);
                Err(Error::NotReady(format!(
                    "{primary} writes timeline {found}, not {}",
                    duty.epoch
                )))
            }
            None => Err(Error::NotReady(format!("{} is a standby", duty.primary))),
        }
    }

    /// Waits until the primary leads its epoch, and with `checkpoint` until it has done a
    /// checkpoint in it: before that nothing can be judged by its control file.
    pub(super) async fn await_primary(&self, duty: &FollowDuty, checkpoint: bool) -> Result<Place> {
        let remote = self.remote(&duty.address)?;
        let wanted = duty.epoch.timeline();
        let begun = Instant::now();
        loop {
            let why = match remote.place(QUESTION).await {
                Ok(place) => match place.writes {
                    Some(w)
                        if w.timeline == wanted
                            && (!checkpoint || place.checkpoint_timeline == wanted) =>
                    {
                        return Ok(place);
                    }
                    Some(w) if w.timeline == wanted => {
                        "it has not done a checkpoint in its epoch".to_owned()
                    }
                    Some(w) => format!("it writes timeline {}, not {wanted}", w.timeline),
                    None => "it is a standby".to_owned(),
                },
                Err(e) => e.to_string(),
            };
            if begun.elapsed() >= SOURCE {
                let primary = &duty.primary;
                return Err(Error::NotReady(format!("{primary} cannot be copied from yet: {why}")));
            }
            tokio::time::sleep(SOURCE_POLL).await;
        }
    }

    pub(super) async fn turn_back(&self, duty: &FollowDuty) -> Result<Rewound> {
        self.refuse_running()?;
        self.prepare().await?;
        let settings = &self.settings;
        let place = match self.await_primary(duty, true).await {
            Ok(place) => place,
            Err(Error::NotReady(why)) => return Ok(Rewound::Untouched { why }),
            Err(e) => return Err(e),
        };
        self.check_foreign(place.system_id).await?;
        let control = controldata::read(&self.binaries, &self.user, &settings.layout.pgdata)
            .await
            .map_err(error::control)?;
        let own = control.newest_timeline().epoch();
        if let Some(why) = self.doubtful(duty, own).await? {
            return Ok(Rewound::Impossible { why });
        }
        let diverged_at = match duty.lineage.relation(own, Lsn(u64::MAX)) {
            Relation::Diverged { common } => Some(common),
            Relation::Prefix => None,
        };
        let job = rewind::Job {
            source: self.source(&duty.address, settings.credentials.rewind.user())?,
            expected: place.system_id,
            diverged_at,
            lineage: duty.lineage.0.iter().map(|e| e.epoch.timeline()).collect(),
            deadline: REWIND,
            at: BootClock.wall(),
        };
        let outcome = rewind::rewind(&self.binaries, &self.user, &settings.layout, &job)
            .await
            .map_err(error::rewind)?;
        Ok(match outcome {
            Outcome::Rewound { diverged_at, timeline, saved } => {
                info!(%diverged_at, %timeline, ?saved, "the data directory is rewound");
                self.prune();
                Rewound::Done
            }
            // It was asked for because the lineages differ. That they do not, by its own judgement,
            // means that the directory is not what it seems.
            Outcome::NotRequired => {
                Rewound::Impossible { why: "pg_rewind sees no divergence".to_owned() }
            }
            // Nothing was changed, and the primary can be back in a moment.
            Outcome::Failed { reason, touched: false } if reason.contains("could not connect") => {
                Rewound::Untouched { why: reason }
            }
            Outcome::Failed { reason, .. } => Rewound::Impossible { why: reason },
        })
    }

    /// Why a directory with a timeline that nobody was granted is not rewound. `pg_rewind` finds
    /// where two logs part by the numbers of their timelines: where a number of the foreign ones
    /// was granted since, it would find the wrong place.
    async fn doubtful(&self, duty: &FollowDuty, own: Epoch) -> Result<Option<String>> {
        if self.read_record().await?.is_none_or(|r| r.data != DataMark::Foreign) {
            return Ok(None);
        }
        let wal = self.settings.layout.wal_dir();
        let read = blocking(move || history::read(&wal, own.timeline())).await?;
        let history = read.map_err(|e| Error::Failed(e.to_string()))?;
        let lineage = super::seal::lineage(own.timeline(), history.as_ref());
        let granted = duty.lineage.0.iter().any(|e| e.epoch == own);
        Ok(if granted {
            Some(format!("its timeline {own} has the number of an epoch of the lineage"))
        } else if history.is_none() || lineage.contradicts(&duty.lineage) {
            Some(format!("how its timeline {own} came about is not known"))
        } else {
            None
        })
    }

    /// Data of another cluster is never taken, and never replaced.
    async fn check_foreign(&self, found: SystemId) -> Result<()> {
        match self.read_record().await?.and_then(|r| r.system_id) {
            Some(expected) if expected != found => Err(Error::Failed(format!(
                "the primary has system identifier {found}, but this member belongs to {expected}"
            ))),
            _ => Ok(()),
        }
    }

    /// See [`crate::agent::driver::Database::clone_from`].
    pub(super) async fn copy_member(
        &self,
        duty: &FollowDuty,
        progress: Progress,
    ) -> Result<SystemId> {
        self.refuse_running()?;
        self.prepare().await?;
        let settings = &self.settings;
        let place = self.await_primary(duty, false).await?;
        self.check_foreign(place.system_id).await?;
        let standby = duty.sources.first();
        let address = standby.map_or(&duty.address, |s| &s.address);
        let remote = self.remote(address)?;
        let name = settings.member.slot_name();
        // A slot that has lost its WAL serves nobody; its server makes it anew. On a standby one
        // that is held does not either: a temporary one will do, since what comes after the copy is
        // taken from the primary.
        let found = remote.slot(&name, QUESTION).await.map_err(error::sql)?;
        let create_slot = found.is_none();
        let serves = |slot: &RemoteSlot| !(slot.lost || standby.is_some() && slot.active);
        let slot = found.is_none_or(|slot| serves(&slot)).then_some(name);
        let job = basebackup::Job {
            source: self.source(address, settings.credentials.replication.user())?,
            expected: place.system_id,
            slot,
            create_slot,
            tablespaces: Vec::new(),
            deadline: COPY,
            at: BootClock.wall(),
            reason: "replaced".to_owned(),
        };
        let moved = Arc::new(AtomicU64::new(0));
        let count = moved.clone();
        let tell = move |p: basebackup::Progress| {
            count.fetch_add(1, Ordering::Relaxed);
            progress(p.bytes_done, p.bytes_total);
        };
        let copy = basebackup::copy(&self.binaries, &self.user, &settings.layout, &job, tell);
        let copied = tokio::select! {
            biased;
            copied = copy => copied.map_err(error::copy)?,
            why = stalled(&remote, &moved) => return Err(Error::Failed(why)),
        };
        if let Some(standby) = standby {
            // One that follows another primary by now may have given WAL of that.
            self.check_promise(duty, standby).await?;
        }
        if copied.timeline > duty.epoch.timeline() {
            let found = copied.timeline;
            return Err(Error::Failed(format!("the copy is of timeline {found}: it is not used")));
        }
        let (start, end, aside) = (copied.start, copied.end, copied.kept_aside);
        info!(%start, %end, ?aside, from = address, "copied");
        lock(&self.memory).segment_bytes = 0;
        self.prune();
        Ok(copied.control.system_id)
    }

    /// Removes the oldest of what is kept aside, by the bounds. Nobody waits for it, and not having
    /// done it is no reason to fail what was done.
    fn prune(&self) {
        let layout = self.settings.layout.clone();
        let (count, bytes) = (self.settings.aside_count_max, self.settings.aside_bytes_max);
        let memory = self.memory.clone();
        tokio::task::spawn_blocking(move || match layout.prune_aside(count, bytes) {
            Ok(removed) => {
                for aside in removed {
                    let path = aside.path.display();
                    let text =
                        format!("{path}, of {} bytes, was kept aside, and is gone", aside.bytes);
                    info!("{text}");
                    lock(&memory).notices.push_back((NoticeCode::AsideRemoved, text));
                }
            }
            Err(e) => warn!(error = %e, "what is kept aside was not pruned"),
        });
    }
}

/// Ends when nothing of a copy comes any more and its source does not answer either. A server that
/// is stopped keeps its connections.
async fn stalled(remote: &Remote, moved: &AtomicU64) -> String {
    let (mut before, mut unanswered) = (moved.load(Ordering::Relaxed), 0);
    loop {
        tokio::time::sleep(STALL).await;
        let now = moved.load(Ordering::Relaxed);
        if now != before {
            (before, unanswered) = (now, 0);
        } else if remote.place(QUESTION).await.is_ok() {
            unanswered = 0;
        } else {
            unanswered += 1;
            if unanswered >= STALLS_MAX {
                return format!("the copy does not move, and {} does not answer", remote.host);
            }
        }
    }
}

/// Waits until the session shows the settings of a standby of `epoch`. The startup process is told
/// by the same signal of the postmaster.
async fn await_follow(session: &mut Session, epoch: Epoch) -> Result<()> {
    let sql = "SELECT current_setting('quorate.role', true) AS role, \
               current_setting('quorate.epoch', true) AS epoch";
    let begun = Instant::now();
    loop {
        let row = session.row(sql).await.map_err(error::sql)?;
        let text = |column| row.optional(column).map_err(error::sql);
        if text("role")? == Some("standby") && text("epoch")? == Some(&epoch.to_string()) {
            return Ok(());
        }
        if begun.elapsed() >= RELOAD {
            return Err(timed_out("the reload of the settings", RELOAD));
        }
        tokio::time::sleep(POLL).await;
    }
}
