//! The least that agents take for databases: no WAL, no clients, no crash of its own. For tests of
//! the composition of nodes, and to see what agents cost without a model of PostgreSQL.
//!
//! It keeps leases, as the guard does: the kernel's timer ends the process tree.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_sim::Rt;
use quorate_sim::agent::Member;
use quorate_sim::agent::driver::{
    Asked, Attached, Care, CopyRoom, Database, Emptiness, Error, Position, Progress, Rewound,
    RunState, Seen, StartMode, Started, Survey, Tree, Upkeep,
};
use quorate_sim::domain::desired::FollowDuty;
use quorate_sim::domain::health::{Activity, Answer, Question, Vitals};
use quorate_sim::domain::lineage::Lineage;
use quorate_sim::domain::observation::{Data, Fencing, StandbyProgress};
use quorate_sim::domain::record::MemberRecord;
use quorate_sim::domain::state::ClusterSpec;
use quorate_sim::domain::sync::SyncConfig;
use quorate_sim::domain::types::{BootTime, Epoch, GuardId, Lsn, MemberName, SystemId};
use quorate_sim::node::{MakeDatabase, Place};
use quorate_sim::raft::AsyncRuntime as _;
use quorate_sim::watch;
use quorate_world::exec;

type Result<T> = std::result::Result<T, Error>;

#[derive(Clone)]
struct Running {
    guard: GuardId,
    /// What it follows.
    following: Option<String>,
    primary: Option<Epoch>,
    kill_at: Option<BootTime>,
}

struct Server {
    member: MemberName,
    place: Place,
    record: Option<MemberRecord>,
    run: Option<RunState>,
    data: Option<(SystemId, Lineage)>,
    running: Option<Running>,
    tree: watch::Sender<Tree>,
}

/// All servers, by the address of each.
#[derive(Clone, Default)]
pub struct Toys(Arc<Mutex<BTreeMap<String, Server>>>);

/// One of them.
pub struct Toy {
    all: Toys,
    address: String,
}

impl Toys {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Server>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is primary, and in which epoch.
    pub fn primaries(&self) -> Vec<(MemberName, Epoch)> {
        let all = self.lock();
        let of = |s: &Server| Some((s.member.clone(), s.running.as_ref()?.primary?));
        all.values().filter_map(of).collect()
    }

    /// How many stream from a primary.
    pub fn streaming(&self) -> usize {
        let all = self.lock();
        let streams = |s: &&Server| s.running.as_ref().is_some_and(|r| upstream(&all, r).is_some());
        all.values().filter(streams).count()
    }

    /// PostgreSQL crashes.
    pub fn crash(&self, member: &str) {
        for server in self.lock().values_mut().filter(|s| s.member.as_str() == member) {
            end(server, "it crashed");
        }
    }
}

/// The lineage of the running primary that one follows.
fn upstream(all: &BTreeMap<String, Server>, running: &Running) -> Option<Lineage> {
    let server = all.get(running.following.as_ref()?)?;
    server.running.as_ref()?.primary?;
    server.data.as_ref().map(|(_, lineage)| lineage.clone())
}

fn end(server: &mut Server, how: &str) {
    if server.running.take().is_some() {
        server.tree.send_replace(Tree::Ending { how: how.to_owned() });
    }
}

impl MakeDatabase for Toys {
    type Database = Toy;

    async fn open(&self, place: &Place, member: &Member) -> Result<Arc<Toy>> {
        let (tree, _) = watch::channel(Tree::None);
        self.lock().entry(member.address.clone()).or_insert_with(|| Server {
            member: member.name.clone(),
            place: place.clone(),
            record: None,
            run: None,
            data: None,
            running: None,
            tree,
        });
        Ok(Arc::new(Toy { all: self.clone(), address: member.address.clone() }))
    }

    fn machine_died(&self, place: &Place, _: bool) {
        for server in self.lock().values_mut().filter(|s| s.place == *place) {
            (server.running, server.run) = (None, None);
            server.tree.send_replace(Tree::None);
        }
    }
}

impl Toy {
    fn with<R>(&self, change: impl FnOnce(&mut Server) -> R) -> R {
        change(self.all.lock().get_mut(&self.address).unwrap())
    }

    async fn work(&self, most_ms: u64) {
        let machine = self.with(|s| s.place.machine);
        let micros = exec::with_rng(machine, |rng| rng.between(200, most_ms * 1000));
        Rt::sleep(Duration::from_micros(micros)).await;
    }
}

fn down() -> Error {
    Error::NotReady("it does not run".to_owned())
}

impl Database for Toy {
    async fn load_record(&self) -> Result<Option<MemberRecord>> {
        self.work(3).await;
        Ok(self.with(|s| s.record.clone()))
    }

    async fn save_record(&self, record: &MemberRecord) -> Result<()> {
        self.work(6).await;
        self.with(|s| s.record = Some(record.clone()));
        Ok(())
    }

    async fn save_run(&self, run: &RunState) -> Result<()> {
        self.with(|s| s.run = Some(run.clone()));
        Ok(())
    }

    async fn inspect(&self) -> Result<Data> {
        Ok(self.with(|s| match &s.data {
            Some((system_id, _)) => Data::Present { system_id: *system_id },
            None => Data::Empty,
        }))
    }

    async fn attach(&self) -> Result<std::result::Result<Attached, Emptiness>> {
        Ok(self.with(|s| match &s.running {
            Some(running) => Ok(Attached {
                guard: running.guard.clone(),
                fencing: Fencing::PidNamespace,
                kill_at: running.kill_at,
                run: s.run.clone(),
            }),
            None => Err(Emptiness::Proven),
        }))
    }

    async fn initialise(&self, _: &ClusterSpec) -> Result<SystemId> {
        self.work(800).await;
        self.with(|s| s.data = Some((SystemId(77), Lineage::root(Epoch(1)))));
        Ok(SystemId(77))
    }

    async fn start(&self, mode: &StartMode, _: &ClusterSpec) -> Result<Started> {
        self.work(200).await;
        self.with(|s| {
            let random = exec::with_rng(s.place.machine, |rng| [rng.draw(), rng.draw()]);
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&random[0].to_le_bytes());
            bytes[8..].copy_from_slice(&random[1].to_le_bytes());
            let guard = GuardId::from_bytes(bytes);
            let following = match mode {
                StartMode::Sealed { .. } => None,
                StartMode::Following(duty) => Some(duty.address.clone()),
            };
            let (primary, kill_at) = (None, None);
            s.running = Some(Running { guard: guard.clone(), following, primary, kill_at });
            s.tree.send_replace(Tree::Running);
            Ok(Started { guard, fencing: Fencing::PidNamespace })
        })
    }

    fn tree(&self) -> watch::Receiver<Tree> {
        self.with(|s| s.tree.subscribe())
    }

    async fn arm(&self, guard: &GuardId, kill_at: BootTime) -> Result<()> {
        let machine = self.with(|s| {
            let running = s.running.as_mut().filter(|r| r.guard == *guard).ok_or_else(down)?;
            running.kill_at = Some(kill_at);
            Ok(s.place.machine)
        })?;
        let (all, address, guard) = (self.all.clone(), self.address.clone(), guard.clone());
        exec::at(exec::truth_of_boot(machine, kill_at.as_nanos()), move || {
            let mut all = all.lock();
            let Some(server) = all.get_mut(&address) else { return };
            let due = |r: &Running| r.guard == guard && r.kill_at == Some(kill_at);
            if server.running.as_ref().is_some_and(due) {
                end(server, "its lease ran out");
            }
        });
        Ok(())
    }

    async fn kill(&self) -> Result<()> {
        self.with(|s| end(s, "it was killed"));
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        self.work(100).await;
        self.with(|s| end(s, "it was stopped"));
        Ok(())
    }

    async fn prove_empty(&self) -> Result<Emptiness> {
        self.work(20).await;
        self.with(|s| {
            s.tree.send_replace(Tree::None);
            s.run = None;
        });
        Ok(Emptiness::Proven)
    }

    async fn seal(&self, _: Epoch, _: &ClusterSpec) -> Result<Position> {
        self.work(60).await;
        self.with(|s| {
            s.running.as_mut().ok_or_else(down)?.following = None;
            let (_, lineage) = s.data.clone().ok_or_else(down)?;
            let last = lineage.last().ok_or_else(down)?;
            Ok(Position { wal_epoch: last.epoch, lsn: Lsn(last.start.0 + 100), lineage })
        })
    }

    async fn follow(&self, duty: &FollowDuty, _: &ClusterSpec) -> Result<()> {
        self.work(20).await;
        self.with(|s| {
            s.running.as_mut().ok_or_else(down)?.following = Some(duty.address.clone());
            Ok(())
        })
    }

    async fn promote(&self, epoch: Epoch, _: &SyncConfig, _: &ClusterSpec) -> Result<Lineage> {
        self.work(150).await;
        self.with(|s| {
            let running = s.running.as_mut().ok_or_else(down)?;
            running.primary = Some(epoch);
            let (_, lineage) = s.data.as_mut().ok_or_else(down)?;
            let start = lineage.last().map_or(0, |e| e.start.0 + 100);
            *lineage = lineage.with(epoch, Lsn(start));
            Ok(lineage.clone())
        })
    }

    async fn confirm_sync(
        &self,
        _: Epoch,
        sync: &SyncConfig,
        _: bool,
        _: &ClusterSpec,
    ) -> Result<i64> {
        self.work(20).await;
        let mut all = self.all.lock();
        let streams = |s: &&mut Server| {
            let here = |r: &Running| r.following.as_ref() == Some(&self.address);
            sync.members.contains(&s.member) && s.running.as_ref().is_some_and(here)
        };
        let confirming = all.values_mut().filter(streams).count();
        if confirming < sync.w as usize {
            return Err(Error::NotReady("too few standbys".to_owned()));
        }
        Ok(1)
    }

    async fn open_writes(&self, _: Epoch, _: &SyncConfig, _: &ClusterSpec) -> Result<()> {
        Ok(())
    }

    async fn hand_over(&self, _: &MemberName, _: &Asked) -> Result<()> {
        self.stop().await
    }

    async fn may_rewind(&self, _: &FollowDuty) -> Result<()> {
        Ok(())
    }

    async fn rewind(&self, duty: &FollowDuty, _: &ClusterSpec) -> Result<Rewound> {
        self.work(500).await;
        self.with(|s| s.data = Some((SystemId(77), duty.lineage.clone())));
        Ok(Rewound::Done)
    }

    async fn clone_from(
        &self,
        duty: &FollowDuty,
        _: &ClusterSpec,
        progress: Progress,
    ) -> Result<SystemId> {
        progress(1, 2);
        self.work(900).await;
        self.with(|s| s.data = Some((SystemId(77), duty.lineage.clone())));
        Ok(SystemId(77))
    }

    async fn room_for_copy(&self, _: &FollowDuty) -> Result<CopyRoom> {
        Ok(CopyRoom { needed_bytes: 1, free_bytes: 1 << 40, ..CopyRoom::default() })
    }

    async fn survey(&self) -> Result<Survey> {
        Ok(Survey::default())
    }

    async fn said_no_room(&self) -> Result<bool> {
        Ok(false)
    }

    async fn primary_position(&self, duty: &FollowDuty) -> Result<(Epoch, Lsn)> {
        let start = duty.lineage.last().map_or(0, |e| e.start.0);
        Ok((duty.epoch, Lsn(start + 100)))
    }

    async fn observe(&self) -> Result<Seen> {
        self.work(2).await;
        let mut all = self.all.lock();
        let server = all.get(&self.address).ok_or_else(down)?;
        let running = server.running.clone().ok_or_else(down)?;
        let end = |lineage: &Lineage| Lsn(lineage.last().map_or(0, |e| e.start.0 + 100));
        if let Some(epoch) = running.primary {
            let standbys = all.values().filter(|s| {
                s.running.as_ref().is_some_and(|r| r.following.as_ref() == Some(&self.address))
            });
            let lineage = server.data.as_ref().map(|(_, l)| l.clone()).unwrap_or_default();
            let flushed = end(&lineage);
            let progress = StandbyProgress { streaming: true, flushed, replayed: flushed };
            let standbys = standbys.map(|s| (s.member.clone(), progress.clone())).collect();
            let _ = epoch;
            return Ok(Seen::Primary { flushed, standbys, drift: None });
        }
        let from = upstream(&all, &running);
        let server = all.get_mut(&self.address).ok_or_else(down)?;
        if let (Some(lineage), Some((_, own))) = (&from, &mut server.data) {
            *own = lineage.clone();
        }
        let lineage = server.data.as_ref().map(|(_, l)| l.clone()).unwrap_or_default();
        Ok(Seen::Standby {
            replay: end(&lineage),
            flushed: end(&lineage),
            streaming: from.and_then(|l| l.last()).map(|e| e.epoch.timeline()),
            lacks_wal: None,
            primary_end: None,
        })
    }

    async fn ask(&self, _: Question, _: Duration) -> Answer {
        self.work(2).await;
        match self.with(|s| s.running.is_some()) {
            true => Answer::Ok { flushed: None },
            false => Answer::Refused("it does not run".to_owned()),
        }
    }

    async fn vitals(&self, _: Option<BootTime>) -> Vitals {
        Vitals::UNKNOWN
    }

    async fn checkpointer(&self) -> (Activity, bool) {
        (Activity::Runnable, false)
    }

    async fn maintain(&self, _: &Care) -> Result<Upkeep> {
        Ok(Upkeep::default())
    }
}
