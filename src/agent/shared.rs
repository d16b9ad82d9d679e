//! What the tasks of one member share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::driver::{Database, Seen, Tree};
use super::hooks::Role;
use super::poll::Known;
use super::{Member, Options};
use crate::clock::Clock;
use crate::domain::alarm::{Alarm, AlarmCode, NOTICES_MAX, Notice, NoticeCode};
use crate::domain::cascade;
use crate::domain::failsafe::Abstention;
use crate::domain::generation::Generation;
use crate::domain::lease::HolderLease;
use crate::domain::lineage::Lineage;
use crate::domain::observation::{
    About, Condition, Data, Fencing, PrimaryView, Progress, Reloaded, Report, Sequence, StandbyView,
};
use crate::domain::reconcile::{Local, Process};
use crate::domain::record::{DataMark, MemberRecord};
use crate::domain::space::{Aside, Disks};
use crate::domain::specification::SettingsReport;
use crate::domain::state::ClusterState;
use crate::domain::types::{BootTime, Epoch, GuardId, Lsn, MemberName};
use crate::watch;

/// One member, as its tasks see it.
pub(super) struct Shared<D, C> {
    pub member: Member,
    pub options: Options,
    pub database: Arc<D>,
    pub tree: watch::Receiver<Tree>,
    /// The newest agreed state that the node has heard of.
    pub known: Known,
    pub clock: Arc<C>,
    inner: Mutex<Inner>,
    /// Wakes the worker.
    pub wake: Notify,
    /// Wakes who sends the catalogue of settings.
    pub catalogue_wanted: Notify,
    /// Wakes the reporter.
    pub news: Notify,
    /// Wakes the renewer of the node.
    pub claims: Notify,
    /// Wakes the survey.
    pub survey: Notify,
}

/// The state of one member. Only the worker changes the record and the process.
pub(super) struct Inner {
    pub record: MemberRecord,
    pub data: Data,
    pub guard: Option<GuardId>,
    pub fencing: Fencing,
    pub process: Process,
    pub lease: Option<HolderLease>,
    /// For how long it takes no part in a grant.
    pub abstention: Abstention,
    /// Whether its peers keep the lease.
    pub kept: bool,
    /// The last epoch whose lease a controller refused: peers do not keep that.
    pub refused: Option<Epoch>,
    /// The epoch that the renewer claims.
    pub claim: Option<(Epoch, GuardId)>,
    pub hung: bool,
    pub rewind_failed: bool,
    pub source_lacks_wal: bool,
    pub unstartable: bool,
    /// Whether its data needs nothing more of what it was copied from.
    pub consistent: bool,
    /// The member that it should stream from instead of the primary.
    pub upstream: cascade::Watch,
    /// Whether it was seen to be a primary without having been made one.
    pub promoted_by_hand: bool,
    /// Why its data is not to be trusted, where it took WAL that nobody was granted to write.
    pub polluted: Option<String>,
    /// Whether the primary was seen to run with other settings than were confirmed.
    pub drifted: bool,
    /// Whether this life of PostgreSQL was ever seen to answer.
    pub was_ready: bool,
    /// Whether the last epoch that ended here ended by itself.
    pub crashed: bool,
    /// How the last epoch that ended here ended, as hooks are told it.
    pub role_ended: Option<(Role, Epoch)>,
    /// Where each epoch begins, once promoted.
    pub lineage: Option<Lineage>,
    pub seen: Option<(Seen, BootTime)>,
    /// What a long action says of itself.
    pub busy: Option<Condition>,
    /// What is wrong, by what it concerns.
    pub problems: BTreeMap<&'static str, String>,
    /// Alarms that hold, by what tells them apart.
    pub alarms: BTreeMap<(AlarmCode, String), Alarm>,
    /// The newest things that happened.
    pub notices: VecDeque<Notice>,
    /// How many things have happened in this run of the agent.
    pub noticed: u64,
    /// How far a primary was when it last said so, and in which epoch.
    pub primary_end: Option<(Epoch, Lsn)>,
    /// Room on the file systems.
    pub disks: Disks,
    /// Data directories kept aside.
    pub aside: Vec<Aside>,
    /// What became of the last reload that the operator asked for.
    pub reloaded: Option<Reloaded>,
    /// What PostgreSQL runs with of the specification.
    pub settings: SettingsReport,
    /// Whether PostgreSQL ended with the words that there was no room.
    pub no_room_said: bool,
    /// Which run of the agent this is, and how many reports it has made.
    pub run: u64,
    pub reports: u64,
    /// Whether the hook after the bootstrap was begun in this run of the agent, and has succeeded.
    pub bootstrap_hook_ran: bool,
    pub bootstrap_hook_done: bool,
    /// Whether the record was read: nothing is reported before.
    pub loaded: bool,
}

impl<D: Database, C: Clock> Shared<D, C> {
    pub fn new(
        member: Member,
        options: Options,
        database: Arc<D>,
        known: Known,
        clock: Arc<C>,
    ) -> Self {
        let tree = database.tree();
        let record = MemberRecord::new(member.cluster.clone(), member.name.clone());
        let inner = Inner {
            record,
            data: Data::Unknown,
            guard: None,
            fencing: Fencing::Unknown,
            process: Process::Down,
            lease: None,
            abstention: Abstention::new(clock.now()),
            kept: false,
            refused: None,
            claim: None,
            hung: false,
            rewind_failed: false,
            source_lacks_wal: false,
            unstartable: false,
            consistent: false,
            upstream: cascade::Watch::default(),
            promoted_by_hand: false,
            polluted: None,
            drifted: false,
            was_ready: false,
            crashed: false,
            role_ended: None,
            lineage: None,
            seen: None,
            busy: None,
            problems: BTreeMap::new(),
            alarms: BTreeMap::new(),
            notices: VecDeque::new(),
            noticed: 0,
            primary_end: None,
            disks: Disks::default(),
            aside: Vec::new(),
            reloaded: None,
            settings: SettingsReport::default(),
            no_room_said: false,
            run: clock.wall().0,
            reports: 0,
            bootstrap_hook_ran: false,
            bootstrap_hook_done: false,
            loaded: false,
        };
        Self {
            member,
            options,
            database,
            tree,
            known,
            clock,
            inner: Mutex::new(inner),
            wake: Notify::new(),
            catalogue_wanted: Notify::new(),
            news: Notify::new(),
            claims: Notify::new(),
            survey: Notify::new(),
        }
    }

    /// Held for a few assignments only, never across an await.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and lets the leader know.
    pub fn update<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let result = change(&mut self.lock());
        self.news.notify_one();
        result
    }

    /// Changes the state, and lets the leader know where that changed something.
    pub fn update_if<R>(&self, change: impl FnOnce(&mut Inner) -> Option<R>) {
        let changed = change(&mut self.lock()).is_some();
        if changed {
            self.news.notify_one();
        }
    }

    /// Says that something is wrong, or is so no more.
    pub fn problem(&self, concern: &'static str, text: Option<String>) {
        let changed = {
            let mut inner = self.lock();
            match text {
                Some(text) => inner.problems.insert(concern, text.clone()) != Some(text),
                None => inner.problems.remove(concern).is_some(),
            }
        };
        if changed {
            self.news.notify_one();
        }
    }

    /// Raises an alarm, or changes its text.
    pub fn raise(&self, alarm: Alarm) {
        let changed = {
            let mut inner = self.lock();
            let key = (alarm.code, alarm.subject.clone());
            match inner.alarms.insert(key, alarm.clone()) {
                None => {
                    tracing::warn!(
                        member = %self.member.name, alarm = alarm.code.name(),
                        subject = %alarm.subject, text = %alarm.text, "alarm"
                    );
                    true
                }
                Some(_) => false,
            }
        };
        if changed {
            self.news.notify_one();
        }
    }

    /// Makes the alarms of these kinds be exactly `wanted`.
    pub fn set_alarms(&self, codes: &[AlarmCode], wanted: Vec<Alarm>) {
        let gone: Vec<(AlarmCode, String)> = {
            let inner = self.lock();
            let is_wanted = |key: &(AlarmCode, String)| {
                wanted.iter().any(|a| (a.code, a.subject.as_str()) == (key.0, key.1.as_str()))
            };
            let held = inner.alarms.keys().filter(|k| codes.contains(&k.0));
            held.filter(|k| !is_wanted(k)).cloned().collect()
        };
        for key in gone {
            self.lock().alarms.remove(&key);
            tracing::info!(
                member = %self.member.name, alarm = key.0.name(), subject = %key.1, "alarm cleared"
            );
            self.news.notify_one();
        }
        for alarm in wanted {
            self.raise(alarm);
        }
    }

    /// Tells of something that happened once.
    pub fn notice(&self, code: NoticeCode, text: impl Into<String>) {
        let text = text.into();
        tracing::info!(member = %self.member.name, notice = code.name(), %text, "notice");
        {
            let mut inner = self.lock();
            inner.noticed += 1;
            let number = inner.noticed;
            inner.notices.push_back(Notice { number, code, text });
            while inner.notices.len() > NOTICES_MAX {
                inner.notices.pop_front();
            }
        }
        self.news.notify_one();
    }

    /// The newest agreed state of its cluster that it knows.
    pub fn state(&self) -> Option<Arc<ClusterState>> {
        self.known.get().clusters.get(&self.member.cluster).cloned()
    }

    /// What the worker decides on.
    pub fn local(&self) -> Local {
        let state = self.state();
        let inner = self.lock();
        Local {
            record: inner.record.clone(),
            data: inner.data.clone(),
            guard: inner.guard.clone(),
            process: inner.process.clone(),
            lease: inner.lease,
            hung: inner.hung,
            rewind_failed: inner.rewind_failed,
            source_lacks_wal: inner.source_lacks_wal,
            unstartable: inner.unstartable,
            consistent: inner.consistent,
            upstream_lost: inner.upstream.is_lost(),
            no_part_until: inner.abstention.until(state.as_deref()),
        }
    }

    /// How long a promise still keeps it from saying where its log ends, where it has that to say.
    pub fn silent_for(&self) -> Option<Duration> {
        let (state, now) = (self.state()?, self.clock.now());
        let inner = self.lock();
        let sealed = matches!(inner.process, Process::Sealed { position: Some(_), .. });
        let left = inner.abstention.until(Some(&state)).since(now);
        (sealed && !left.is_zero()).then_some(left)
    }

    /// What the leader is told.
    pub fn report(&self) -> Option<(Report, Generation)> {
        let (state, now) = (self.state(), self.clock.now());
        let mut inner = self.lock();
        // A promise that was given since is seen here, since it ends after `now`.
        let takes_part = now >= inner.abstention.until(state.as_deref());
        inner.reports += 1;
        let sequence = Sequence { run: inner.run, number: inner.reports };
        // Under one lock: what was done before a generation was obeyed says nothing to it.
        let generation = inner.record.generation;
        let report = inner.loaded.then(|| Report {
            sequence,
            emptied: inner.record.emptied.clone(),
            guard: inner.guard.clone(),
            ended: inner.record.ended,
            promised: inner.record.promised,
            crashed: inner.crashed,
            data: inner.reported_data(),
            condition: inner.condition(takes_part),
            fencing: inner.fencing,
            problems: inner.problems.values().cloned().collect(),
            alarms: inner.alarms.values().cloned().collect(),
            notices: inner.notices.iter().cloned().collect(),
            disks: inner.disks,
            aside: inner.aside.clone(),
            life: inner.record.life,
            copied_for: inner.record.copied_for,
            reloaded: inner.reloaded.clone(),
            about: About {
                hanode: env!("CARGO_PKG_VERSION").to_owned(),
                postgresql: self.database.version(),
                wall: self.clock.wall(),
            },
            settings: inner.settings.clone(),
        });
        report.map(|report| (report, generation))
    }
}

impl Inner {
    /// A directory that is being made or replaced is not data yet.
    fn reported_data(&self) -> Data {
        match (self.record.data, &self.data) {
            (DataMark::Intact | DataMark::Copied { .. } | DataMark::Foreign, data) => data.clone(),
            (DataMark::Initialising, Data::Empty) => Data::Empty,
            (DataMark::Initialising | DataMark::Replacing, _) => Data::Incomplete,
        }
    }

    /// Without taking part, where its log ends is not said: that is the evidence of a grant.
    fn condition(&self, takes_part: bool) -> Condition {
        if let Some(busy) = &self.busy {
            return busy.clone();
        }
        let seen = self.seen.as_ref().map(|(seen, _)| seen);
        match &self.process {
            Process::Down => Condition::Down,
            Process::Ending => Condition::Unknown,
            Process::Sealed { position: Some(position), .. } => Condition::Standby(StandbyView {
                streaming: None,
                replay: position.lsn,
                flushed: position.lsn,
                wal_epoch: position.wal_epoch,
                held: self.record.held,
                sealed: takes_part.then(|| position.clone()),
                counts: self.record.data == DataMark::Intact,
                primary_end: self.primary_end,
                upstream: None,
            }),
            Process::Sealed { position: None, .. } => Condition::Starting,
            Process::Following { epoch, address } => match seen {
                Some(Seen::Standby { replay, flushed, streaming, .. }) => {
                    let streaming = streaming.filter(|t| t.epoch() == *epoch).map(|_| *epoch);
                    Condition::Standby(StandbyView {
                        streaming,
                        replay: *replay,
                        flushed: *flushed,
                        wal_epoch: streaming.unwrap_or_default(),
                        held: self.record.held,
                        sealed: None,
                        counts: self.record.data == DataMark::Intact,
                        primary_end: self.primary_end,
                        upstream: self.upstream_at(address).cloned(),
                    })
                }
                Some(Seen::Starting) => Condition::Starting,
                _ => Condition::Unknown,
            },
            Process::Primary { epoch, confirmed, .. } => {
                let (flushed, standbys) = match seen {
                    Some(Seen::Primary { flushed, standbys, .. }) => (*flushed, standbys.clone()),
                    _ => (Lsn(0), BTreeMap::new()),
                };
                let progress = match &self.lineage {
                    Some(lineage) => Progress::Promoted { lineage: lineage.clone() },
                    None => Progress::Accepted,
                };
                Condition::Primary(PrimaryView {
                    epoch: *epoch,
                    progress,
                    flushed,
                    standbys,
                    confirmed: confirmed.clone(),
                    failsafe: self.kept,
                })
            }
        }
    }

    /// The standby that it follows at this address, where that is not the primary.
    pub fn upstream_at(&self, address: &str) -> Option<&MemberName> {
        self.upstream.upstream().filter(|u| u.address == address).map(|u| &u.member)
    }

    /// Whether it streams from a standby: what that lacks, the primary may have.
    pub fn is_cascaded(&self) -> bool {
        match &self.process {
            Process::Following { address, .. } => self.upstream_at(address).is_some(),
            _ => false,
        }
    }

    /// The epoch that runs here as primary, promoted or not.
    pub fn primary_epoch(&self) -> Option<Epoch> {
        match &self.process {
            Process::Primary { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }
}
