//! An abstract member for the random walk: its log is a list of records, its PostgreSQL does at
//! once what its agent says, and its guard kills on time whatever the agent does.

use std::time::Duration;

use super::desired::FollowDuty;
use super::fixture_test::{SYSTEM, cluster, m};
use super::lease::HolderLease;
use super::lineage::{Entry, Lineage};
use super::observation::{
    Condition, Confirmed, Data, Fencing, PrimaryView, Progress, Report, Sealed, Sequence,
    StandbyProgress, StandbyView,
};
use super::reconcile::{Action, Local, Process};
use super::record::{DataMark, MemberRecord};
use super::space::Disks;
use super::sync::SyncConfig;
use super::types::{BootTime, Epoch, GuardId, Lsn, MemberName};

/// One record: the epoch that wrote it, and a number that no other record has.
pub type Record = (u64, u64);

/// A member with its data directory, its agent and its guard.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: MemberName,
    pub local: Local,
    pub wal: Vec<Record>,
    /// What the running primary waits for.
    pub config: Option<SyncConfig>,
    /// A barrier under way: the list, and the length of the log that has to be confirmed.
    pub barrier: Option<(Vec<SyncConfig>, usize)>,
    pub up: bool,
    pub frozen_until: u64,
    pub busy_until: u64,
    pub crashed: bool,
    /// Its clock runs this many parts per million fast.
    pub ppm: i64,
    pub view: usize,
    pub run: u64,
    pub sent: u64,
    pub guards: u8,
    /// Length of the log whose writes were acknowledged by the primary that runs here.
    pub acknowledged_to: usize,
}

impl Member {
    pub fn new(name: &str, ppm: i64) -> Self {
        let local = Local {
            record: MemberRecord::new(cluster(), m(name)),
            data: Data::Empty,
            guard: None,
            process: Process::Down,
            lease: None,
            hung: false,
            rewind_failed: false,
            source_lacks_wal: false,
            unstartable: false,
            consistent: false,
            upstream_lost: false,
            no_part_until: BootTime::default(),
        };
        Self {
            name: m(name),
            local,
            wal: Vec::new(),
            config: None,
            barrier: None,
            up: true,
            frozen_until: 0,
            busy_until: 0,
            crashed: false,
            ppm,
            view: 0,
            run: 1,
            sent: 0,
            guards: 0,
            acknowledged_to: 0,
        }
    }

    /// Its clock at this moment of true time, in milliseconds.
    pub fn clock(&self, ms: u64) -> BootTime {
        let scaled = i128::from(ms) * 1_000_000 * i128::from(1_000_000 + self.ppm) / 1_000_000;
        BootTime::from_nanos(u64::try_from(scaled).unwrap())
    }

    pub fn lineage(&self) -> Lineage {
        let mut entries: Vec<Entry> = Vec::new();
        for (i, (epoch, _)) in self.wal.iter().enumerate() {
            if entries.last().is_none_or(|e| e.epoch.0 != *epoch) {
                entries.push(Entry { epoch: Epoch(*epoch), start: Lsn(i as u64) });
            }
        }
        Lineage(entries)
    }

    pub fn wal_epoch(&self) -> Epoch {
        Epoch(self.wal.last().map_or(0, |r| r.0))
    }

    /// The epoch that it runs as a promoted primary, and whether writes are open.
    pub fn primary(&self) -> Option<(Epoch, bool)> {
        match &self.local.process {
            Process::Primary { epoch, promoted: true, writes_open, .. } => {
                Some((*epoch, *writes_open))
            }
            _ => None,
        }
    }

    /// The epoch that it follows.
    pub fn following(&self) -> Option<Epoch> {
        match &self.local.process {
            Process::Following { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }

    fn start(&mut self, process: Process) {
        self.guards += 1;
        let mut bytes = [self.guards; 16];
        bytes[0] = self.name.as_str().as_bytes()[0];
        let guard = GuardId::from_bytes(bytes);
        self.local.record.running = Some(guard.clone());
        self.local.guard = Some(guard);
        self.local.lease = None;
        self.local.process = process;
    }

    /// The tree is gone, by proof.
    fn emptied(&mut self) {
        let record = &mut self.local.record;
        record.note_ended(true);
        // Whatever was held ended with the tree that ran it.
        record.ended = record.ended.max(record.held);
        self.local.guard = None;
        self.local.lease = None;
        self.local.process = Process::Down;
        self.config = None;
        self.barrier = None;
    }

    /// PostgreSQL dies, or its tree is killed by the kernel.
    pub fn dies(&mut self, crashed: bool) {
        if !matches!(self.local.process, Process::Down) {
            self.crashed |= crashed && matches!(self.local.process, Process::Primary { .. });
            self.local.process = Process::Ending;
            self.config = None;
            self.barrier = None;
        }
    }

    /// The whole node goes down.
    pub fn power_off(&mut self) {
        self.dies(false);
        self.up = false;
    }

    /// The node is up again: nothing of before runs.
    pub fn power_on(&mut self) {
        self.up = true;
        self.run += 1;
        self.sent = 0;
        self.emptied();
    }

    /// The agent alone restarts, and takes over what runs.
    pub fn agent_restarts(&mut self) {
        self.run += 1;
        self.sent = 0;
        if let Process::Primary { confirmed, .. } = &mut self.local.process {
            *confirmed = None;
        }
        if let Process::Sealed { position, .. } = &mut self.local.process {
            *position = None;
        }
        self.barrier = None;
    }

    /// The kernel's timer: the tree dies at the deadline, whoever is stopped.
    pub fn guard_timer(&mut self, ms: u64) {
        if let (Process::Primary { .. }, Some(HolderLease { kill_at, .. })) =
            (&self.local.process, self.local.lease)
            && self.clock(ms) >= kill_at
        {
            self.dies(false);
        }
    }

    /// Carries an action out. `source` is the primary of the duty, where it can be reached.
    pub fn act(&mut self, action: &Action, source: Option<&Member>, caught_up: bool, ms: u64) {
        let record = &mut self.local.record;
        match action {
            Action::Nothing { .. } | Action::Adopt { .. } => {}
            Action::Initialise => {
                self.wal = vec![(1, 0)];
                self.local.data = Data::Present { system_id: SYSTEM };
                record.held = Epoch(1);
                record.data = DataMark::Intact;
            }
            Action::ProveEnd | Action::EndEpoch { .. } | Action::Restart | Action::Retire => {
                self.emptied()
            }
            Action::Disown { epoch } => record.ended = record.ended.max(*epoch),
            Action::StartSealed { promise } => {
                record.promised = record.promised.max(*promise);
                let promise = *promise;
                self.start(Process::Sealed { promise, position: None });
            }
            Action::Seal { promise } => {
                record.promised = record.promised.max(*promise);
                let position = Some(self.position());
                self.local.process = Process::Sealed { promise: *promise, position };
            }
            Action::Accept { epoch } => {
                record.held = *epoch;
                self.crashed = false;
                self.local.process = Process::Primary {
                    epoch: *epoch,
                    promoted: false,
                    confirmed: None,
                    writes_open: false,
                };
            }
            Action::Promote { epoch, sync } => {
                self.wal.push((epoch.0, epoch.0 * 1_000_000_000));
                self.acknowledged_to = 0;
                self.config = Some(sync.clone());
                if let Process::Primary { promoted, .. } = &mut self.local.process {
                    *promoted = true;
                }
            }
            Action::ConfirmSync { syncs } => {
                if self.barrier.as_ref().is_none_or(|(under_way, _)| under_way != syncs) {
                    self.config = syncs.last().cloned();
                    self.barrier = Some((syncs.clone(), self.wal.len()));
                }
            }
            Action::OpenWrites { .. } => {
                if let Process::Primary { writes_open, .. } = &mut self.local.process {
                    *writes_open = true;
                }
            }
            Action::HandOver { .. } => {
                if self.busy_until == 0 {
                    self.busy_until = ms + 1_000;
                }
                if caught_up || ms >= self.busy_until {
                    self.busy_until = 0;
                    self.emptied();
                }
            }
            Action::Follow(duty) => {
                assert!(record.promised >= duty.epoch, "followed without a promise");
                if let DataMark::Copied { source, until } = &mut record.data
                    && *source != duty.epoch
                {
                    (*source, *until) = (duty.epoch, None);
                }
                self.local.process = follows(duty);
            }
            Action::StartFollowing(duty) => {
                record.promised = record.promised.max(duty.epoch);
                self.start(follows(duty));
            }
            Action::Rewind(duty) | Action::Clone(duty) => self.replace(action, duty, source),
        }
    }

    fn replace(&mut self, action: &Action, duty: &FollowDuty, source: Option<&Member>) {
        if self.local.process != Process::Down {
            self.emptied();
        }
        let record = &mut self.local.record;
        record.promised = record.promised.max(duty.epoch);
        record.held = Epoch(0);
        record.data = DataMark::Replacing;
        self.local.consistent = false;
        let Some(source) = source.filter(|s| s.primary().is_some_and(|p| p.0 == duty.epoch)) else {
            self.local.rewind_failed = matches!(action, Action::Rewind(_));
            return;
        };
        self.wal.clone_from(&source.wal);
        self.local.data = Data::Present { system_id: SYSTEM };
        self.local.rewind_failed = false;
        let until = Some(Lsn(source.wal.len() as u64 + 1));
        record.data = DataMark::Copied { source: duty.epoch, until };
    }

    fn position(&self) -> Sealed {
        Sealed {
            member: self.name.clone(),
            guard: self.local.guard.clone().unwrap(),
            promised: self.local.record.promised,
            wal_epoch: self.wal_epoch(),
            lsn: Lsn(self.wal.len() as u64),
            held: self.local.record.held,
            lineage: self.lineage(),
            no_room: false,
        }
    }

    /// Takes what the primary has, where the log allows it, as PostgreSQL does.
    pub fn stream(&mut self, from: &[Record]) {
        if from.starts_with(&self.wal) {
            self.wal = from.to_vec();
            self.local.consistent = true;
            if let DataMark::Copied { until: until @ None, .. } = &mut self.local.record.data {
                *until = Some(Lsn(from.len() as u64));
            }
        }
        if let DataMark::Copied { until: Some(until), .. } = self.local.record.data
            && self.wal.len() as u64 >= until.0
        {
            self.local.record.data = DataMark::Intact;
        }
    }

    /// What it tells the leader. `standbys` are those that stream from it.
    pub fn report(&mut self, standbys: &[&Member]) -> Report {
        self.sent += 1;
        let (lsn, wal_epoch) = (Lsn(self.wal.len() as u64), self.wal_epoch());
        let standby = |streaming, sealed| {
            Condition::Standby(StandbyView {
                streaming,
                replay: lsn,
                flushed: lsn,
                wal_epoch,
                held: self.local.record.held,
                sealed,
                counts: self.local.record.data == DataMark::Intact,
                primary_end: None,
                upstream: None,
            })
        };
        let condition = match &self.local.process {
            Process::Down | Process::Ending => Condition::Down,
            Process::Sealed { position, .. } => standby(None, position.clone()),
            Process::Following { epoch, .. } => standby(Some(*epoch), None),
            Process::Primary { epoch, promoted, confirmed, .. } => {
                let progress = match promoted {
                    true => Progress::Promoted { lineage: self.lineage() },
                    false => Progress::Accepted,
                };
                let seen = |s: &&Member| {
                    let flushed = Lsn(s.wal.len() as u64);
                    let seen = StandbyProgress { streaming: true, flushed, replayed: flushed };
                    (s.name.clone(), seen)
                };
                let standbys = standbys.iter().map(seen).collect();
                let confirmed = confirmed.clone();
                Condition::Primary(PrimaryView {
                    epoch: *epoch,
                    progress,
                    flushed: lsn,
                    standbys,
                    confirmed,
                    failsafe: false,
                })
            }
        };
        Report {
            guard: self.local.guard.clone(),
            sequence: Sequence { run: self.run, number: self.sent },
            ended: self.local.record.ended,
            promised: self.local.record.promised,
            emptied: self.local.record.emptied.clone(),
            crashed: self.crashed,
            data: self.local.data.clone(),
            condition,
            fencing: Fencing::PidNamespace,
            problems: Vec::new(),
            alarms: Vec::new(),
            notices: Vec::new(),
            disks: Disks::default(),
            aside: Vec::new(),
            life: self.local.record.life,
            copied_for: self.local.record.copied_for,
            reloaded: None,
            about: Default::default(),
            settings: Default::default(),
        }
    }

    /// A barrier that `standbys`, which have this much, confirm.
    pub fn confirm(&mut self, standbys: &[(MemberName, usize)]) {
        let Some((syncs, at)) = &self.barrier else { return };
        let Some(config) = syncs.last() else { return };
        let have = standbys.iter().filter(|(n, len)| config.members.contains(n) && len >= at);
        if have.count() >= config.w as usize {
            let done = Confirmed { syncs: syncs.clone(), postmaster_start_us: 1 };
            if let Process::Primary { confirmed, .. } = &mut self.local.process {
                *confirmed = Some(done);
            }
            self.barrier = None;
        }
    }

    /// Whether its agent runs now.
    pub fn awake(&self, ms: u64) -> bool {
        self.up && ms >= self.frozen_until
    }

    /// How long a lease that it has still runs by its own clock.
    pub fn lease_left(&self, ms: u64) -> Option<Duration> {
        self.local.lease.map(|l| l.kill_at.until_from(self.clock(ms)))
    }
}

fn follows(duty: &FollowDuty) -> Process {
    Process::Following { epoch: duty.epoch, address: duty.address.clone() }
}
