//! Raft logs and the agreed state that each gives, by the production `apply`.
//!
//! A log is named by a number, so that states of the model are small. All logs form a tree: a log
//! is its parent and one entry more.

use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::domain::apply::{Position, apply};
use crate::domain::command::{Basis, Change, Command, Grant};
use crate::domain::desired::{Desired, desired};
use crate::domain::invariants;
use crate::domain::lease::Timing;
use crate::domain::observation::Sealed;
use crate::domain::state::{
    CloseReason, ClusterSpec, ClusterState, ControlState, SynchronousMode, Tags,
};
use crate::domain::sync::SyncConfig;
use crate::domain::types::{
    ClusterName, Epoch, GuardId, Lsn, MemberName, NodeName, SystemId, WallMillis,
};

/// Number of a log.
pub type LogId = u16;

/// No log: what an agent knows that knows nothing.
pub const UNKNOWN: LogId = 0;
/// The log that everything begins with.
pub const ROOT: LogId = 1;
/// The epoch that is granted in it, to the first member, in its first guard.
pub const FIRST_EPOCH: u8 = 2;

/// One entry of a Raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The term of the leader that appended it.
    pub term: u8,
    /// What it does.
    pub cmd: Cmd,
}

/// A command. All name the epoch that they expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cmd {
    /// The first entry of a leader.
    Noop,
    /// Closes an epoch.
    Close { epoch: u8, stopped: bool },
    /// Records the stop of a closed epoch.
    RecordStop { epoch: u8 },
    /// Grants the epoch after `epoch`. `expired_in` is the term of the ledger that says that the
    /// lease has run out, 0 where the stop is proven.
    Grant { epoch: u8, member: u8, guard: u8, expired_in: u8 },
}

/// Who leads by some log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    /// The highest granted epoch.
    pub epoch: u8,
    /// Its holder.
    pub member: u8,
    /// The life of the holder's guard.
    pub guard: u8,
    /// Whether it is closed.
    pub closed: bool,
    /// Whether the holder's stop is recorded.
    pub stopped: bool,
}

/// A log, and what follows from it.
#[derive(Debug)]
pub struct Log {
    /// Its number.
    pub id: LogId,
    /// The log without its last entry.
    pub parent: LogId,
    /// How many entries it has beyond the root.
    pub depth: u16,
    /// Its last entry.
    pub entry: Entry,
    /// The agreed state.
    pub state: ControlState,
    /// The leadership in that state.
    pub tenure: Tenure,
    /// What the state asks of each member.
    pub desired: Vec<Desired>,
    /// For each member the shortest beginning of this log that asks the same of it.
    pub views: Vec<LogId>,
    /// What is wrong with the state, by the production invariants.
    pub broken: Option<String>,
    /// The logs with one entry more.
    children: RwLock<Vec<(Entry, LogId)>>,
}

/// All logs of one exploration.
#[derive(Debug)]
pub struct Logs {
    members: u8,
    // Read all the time, so without a lock.
    all: Vec<OnceLock<Log>>,
    next: Mutex<LogId>,
}

/// Most logs of one exploration.
const LOGS_MAX: LogId = 60_000;

/// A production value from the fields that matter here: the others have defaults.
pub fn from_json<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a value of the type")
}

/// The name of the one cluster.
pub fn cluster() -> ClusterName {
    ClusterName::new("main").expect("a valid name")
}

/// The name of a member.
pub fn member_name(member: u8) -> MemberName {
    let letter = char::from(b'a' + member);
    MemberName::new(letter.to_string()).expect("a valid name")
}

/// A life of a member's guard.
pub fn guard_id(member: u8, guard: u8) -> GuardId {
    GuardId::from_bytes([(member + 1) * 16 + guard; 16])
}

/// The evidence about a member that has everything: what may be lost is the other model's.
pub fn evidence(state: &ClusterState, member: u8, guard: u8, promised: u64) -> Sealed {
    Sealed {
        no_room: false,
        member: member_name(member),
        guard: guard_id(member, guard),
        promised: Epoch(promised),
        wal_epoch: state.epoch,
        lsn: Lsn(1000),
        held: state.epoch,
        lineage: state.lineage.clone(),
    }
}

impl Logs {
    /// The logs of a cluster with `members` members, the first of which is granted
    /// [`FIRST_EPOCH`].
    pub fn new(members: u8, timing: Timing) -> Self {
        let all = (0..LOGS_MAX).map(|_| OnceLock::new()).collect();
        let logs = Self { members, all, next: Mutex::new(ROOT + 1) };
        let mut state = ControlState::default();
        let names: Vec<MemberName> = (0..members).map(member_name).collect();
        // What is not said here makes no difference to leases.
        let spec: ClusterSpec = from_json(json!({
            "timing": timing,
            "bootstrap_members": names,
            "synchronous": SynchronousMode::Async,
            "write_quorum": 1,
            "crash_failovers_max": 100,
            "crash_window_ms": 1,
        }));
        let first = member_name(0);
        let system_id = SystemId(7);
        let mut changes = vec![Change::CreateCluster { spec }];
        changes.extend(names.iter().map(|name| Change::RegisterMember {
            member: name.clone(),
            node: NodeName::new(format!("node-{name}")).expect("a valid name"),
            address: format!("{name}.example:5432"),
            agent_address: None,
            priority: 0,
            tags: Tags::default(),
            system_id: None,
        }));
        changes.push(Change::BeginBootstrap { member: first.clone() });
        changes.push(Change::FinishBootstrap { member: first, system_id, epoch: Epoch(1) });
        for change in changes {
            run(&mut state, 1, change);
        }
        let grant = Cmd::Grant { epoch: FIRST_EPOCH - 1, member: 0, guard: 1, expired_in: 0 };
        let entry = Entry { term: 1, cmd: grant };
        logs.put(logs.derive(UNKNOWN, None, entry, state.clone()));
        let change = logs.change(&state, grant).expect("a command");
        run(&mut state, 1, change);
        logs.put(logs.derive(ROOT, None, entry, state));
        logs
    }

    fn put(&self, log: Log) {
        let slot = self.all.get(usize::from(log.id)).expect("fewer logs than there is room for");
        assert!(slot.set(log).is_ok(), "a number is given once");
    }

    /// A log by its number.
    pub fn get(&self, id: LogId) -> &Log {
        self.all.get(usize::from(id)).and_then(OnceLock::get).expect("a number that was given")
    }

    /// `id` with one entry more.
    pub fn append(&self, id: LogId, entry: Entry) -> LogId {
        let parent = self.get(id);
        let known = |children: &[(Entry, LogId)]| {
            children.iter().find(|(e, _)| *e == entry).map(|(_, id)| *id)
        };
        let children = parent.children.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = known(&children) {
            return child;
        }
        drop(children);
        let mut children = parent.children.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster.
        if let Some(child) = known(&children) {
            return child;
        }
        let mut state = parent.state.clone();
        if let Some(change) = self.change(&state, entry.cmd) {
            run(&mut state, entry.term, change);
        }
        let child = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next - 1
        };
        self.put(self.derive(child, Some(parent), entry, state));
        children.push((entry, child));
        child
    }

    /// The longest beginning that two logs share.
    pub fn common(&self, a: LogId, b: LogId) -> LogId {
        let (mut a, mut b) = (a, b);
        while a != b {
            let (la, lb) = (self.get(a), self.get(b));
            if la.depth >= lb.depth {
                a = la.parent;
            }
            if lb.depth >= la.depth {
                b = lb.parent;
            }
        }
        a
    }

    /// Whether one of two logs is a beginning of the other.
    pub fn agree(&self, a: LogId, b: LogId) -> bool {
        let common = self.common(a, b);
        common == a || common == b
    }

    fn change(&self, state: &ControlState, cmd: Cmd) -> Option<Change> {
        let now = state.cluster(&cluster())?;
        Some(match cmd {
            Cmd::Noop => return None,
            Cmd::Close { epoch, stopped } => Change::Close {
                expect_epoch: Epoch(u64::from(epoch)),
                reason: if stopped { CloseReason::GivenUp } else { CloseReason::LeaseLost },
                stopped,
            },
            Cmd::RecordStop { epoch } => {
                Change::RecordStop { expect_epoch: Epoch(u64::from(epoch)) }
            }
            Cmd::Grant { epoch, member, guard, expired_in } => {
                let expect_epoch = Epoch(u64::from(epoch));
                Change::Grant(Grant {
                    expect_epoch,
                    expect_syncs: now.syncs.clone(),
                    member: member_name(member),
                    guard: guard_id(member, guard),
                    basis: match expired_in {
                        0 => Basis::Stopped,
                        term => Basis::Expired { term: u64::from(term) },
                    },
                    evidence: vec![evidence(now, member, guard, u64::from(epoch) + 1)],
                    sync: SyncConfig::asynchronous(expect_epoch.next(), now.next_sync),
                    accept_data_loss: None,
                    witnesses: Default::default(),
                    within_lag_of: None,
                })
            }
        })
    }

    fn derive(&self, id: LogId, parent: Option<&Log>, entry: Entry, state: ControlState) -> Log {
        let mut broken: Vec<String> =
            invariants::check(&state).iter().map(|v| v.to_string()).collect();
        if let Some(parent) = parent {
            let step = invariants::check_step(&parent.state, &state);
            broken.extend(step.iter().map(|v| v.to_string()));
            broken.extend(parent.broken.clone());
        }
        let desired: Vec<Desired> = match state.cluster(&cluster()) {
            Some(now) => (0..self.members).map(|m| desired(now, &member_name(m))).collect(),
            None => Vec::new(),
        };
        let views = desired.iter().enumerate().map(|(member, wanted)| match parent {
            Some(parent) if parent.desired.get(member) == Some(wanted) => {
                parent.views.get(member).copied().unwrap_or(id)
            }
            _ => id,
        });
        Log {
            id,
            parent: parent.map_or(id, |p| p.id),
            depth: parent.map_or(0, |p| p.depth + 1),
            entry,
            tenure: self.tenure(&state),
            views: views.collect(),
            desired,
            broken: broken.into_iter().next(),
            children: RwLock::default(),
            state,
        }
    }

    fn tenure(&self, state: &ControlState) -> Tenure {
        let tenure = state.cluster(&cluster()).and_then(|c| c.tenure.as_ref());
        let tenure = tenure.expect("the cluster has data from the beginning");
        let small = |epoch: Epoch| u8::try_from(epoch.0).expect("few epochs");
        let members = 0..self.members;
        let guards = 0..16;
        Tenure {
            epoch: small(tenure.epoch),
            member: members.clone().find(|m| member_name(*m) == tenure.member).unwrap_or(0),
            guard: guards
                .into_iter()
                .find(|g| members.clone().any(|m| guard_id(m, *g) == tenure.guard))
                .unwrap_or(0),
            closed: tenure.closed.is_some(),
            stopped: tenure.stopped,
        }
    }
}

fn run(state: &mut ControlState, term: u8, change: Change) {
    let command = Command { cluster: cluster(), at: WallMillis(0), change };
    // A rejection is an answer like any other: the entry is in the log and changes nothing.
    let _ = apply(state, Position { term: u64::from(term), index: 0 }, &command);
}
