//! Agreed states to begin with, each reached by commands.

use std::sync::LazyLock;

use crate::domain::alarm::{Alarm, AlarmCode};
use crate::domain::apply::Position;
use crate::domain::command::{Basis, Change, Command, Grant};
use crate::domain::lineage::Lineage;
use crate::domain::observation::{Sealed, Sequence};
use crate::domain::state::{CloseReason, ClusterSpec, SynchronousMode, Tags};
use crate::domain::sync::SyncConfig;
use crate::domain::types::{
    ClusterName, Epoch, GuardId, Lsn, MemberName, NodeName, SystemId, WallMillis,
};
use crate::domain::{ControlState, Reply, apply};
use crate::generate::MEMBERS;

/// The wall-clock time at which they were reached.
pub const REACHED: WallMillis = WallMillis(1_000_000);

static STATES: LazyLock<Vec<ControlState>> = LazyLock::new(|| {
    vec![
        ControlState::default(),
        running(3, SynchronousMode::Quorum, true),
        running(3, SynchronousMode::Quorum, false),
        running(2, SynchronousMode::Quorum, true),
        running(1, SynchronousMode::Async, true),
        running(5, SynchronousMode::Priority, true),
        running(3, SynchronousMode::Async, false),
        full(running(3, SynchronousMode::Quorum, true)),
        unfounded(),
    ]
});

/// How many there are.
pub fn count() -> usize {
    STATES.len()
}

/// One of them: the number wraps around.
pub fn state(number: u8) -> ControlState {
    STATES[usize::from(number) % STATES.len()].clone()
}

/// The only cluster that they have.
pub fn main() -> ClusterName {
    ClusterName::new("main").expect("a valid name")
}

fn member(number: usize) -> MemberName {
    MemberName::new(MEMBERS[number]).expect("a valid name")
}

/// The life of the guard that most reports of a member name.
fn guard(member: &MemberName) -> GuardId {
    GuardId::from_bytes([member.as_str().bytes().fold(7, u8::wrapping_add); 16])
}

fn run(state: &mut ControlState, change: Change) {
    let command = Command { cluster: main(), at: REACHED, change };
    let reply = apply(state, Position { term: 1, index: 1 }, &command);
    assert!(!matches!(reply, Reply::Rejected(_)), "{command:?}: {reply:?}");
}

fn created(members: usize, mode: SynchronousMode) -> ControlState {
    let mut state = ControlState::default();
    let names: Vec<MemberName> = (0..members).map(member).collect();
    let mut spec = ClusterSpec { synchronous: mode, ..ClusterSpec::of(names.clone()) };
    if mode == SynchronousMode::Async {
        spec.max_lag_bytes = Some(64);
    }
    run(&mut state, Change::CreateCluster { spec });
    for name in names {
        let change = Change::RegisterMember {
            node: NodeName::new(format!("n-{name}")).expect("a valid name"),
            address: format!("{name}:5432"),
            agent_address: None,
            priority: 0,
            tags: Tags::default(),
            system_id: None,
            member: name,
        };
        run(&mut state, change);
    }
    state
}

fn unfounded() -> ControlState {
    let mut state = created(3, SynchronousMode::Quorum);
    run(&mut state, Change::BeginBootstrap { member: member(0) });
    state
}

/// A cluster whose first member is active in epoch 2, or whose epoch 2 was closed after that.
fn running(members: usize, mode: SynchronousMode, open: bool) -> ControlState {
    let mut state = created(members, mode);
    let first = member(0);
    run(&mut state, Change::BeginBootstrap { member: first.clone() });
    let system_id = SystemId(7_000);
    let epoch = Epoch(1);
    run(&mut state, Change::FinishBootstrap { member: first.clone(), system_id, epoch });
    let syncs = state.clusters[&main()].syncs.clone();
    let others: std::collections::BTreeSet<MemberName> = (1..members).map(member).collect();
    let sync = match mode {
        SynchronousMode::Async => SyncConfig::asynchronous(Epoch(2), 2),
        _ if others.is_empty() => SyncConfig::asynchronous(Epoch(2), 2),
        SynchronousMode::Quorum => {
            SyncConfig { epoch: Epoch(2), seq: 2, w: 1, members: others, order: Vec::new() }
        }
        SynchronousMode::Priority => SyncConfig {
            epoch: Epoch(2),
            seq: 2,
            w: 1,
            order: others.iter().rev().cloned().collect(),
            members: others,
        },
    };
    let evidence = Sealed {
        member: first.clone(),
        guard: guard(&first),
        promised: Epoch(2),
        wal_epoch: Epoch(1),
        lsn: Lsn(16),
        held: Epoch(0),
        lineage: Lineage::root(Epoch(1)),
        no_room: false,
    };
    let grant = Grant {
        expect_epoch: Epoch(1),
        expect_syncs: syncs,
        member: first.clone(),
        guard: guard(&first),
        basis: Basis::Stopped,
        evidence: vec![evidence],
        sync,
        accept_data_loss: None,
        witnesses: Default::default(),
        within_lag_of: None,
    };
    run(&mut state, Change::Grant(grant));
    let lineage = Lineage::root(Epoch(1)).with(Epoch(2), Lsn(16));
    let expect_epoch = Epoch(2);
    run(&mut state, Change::RecordPromotion { expect_epoch, guard: guard(&first), lineage });
    let expect_syncs = state.clusters[&main()].syncs.clone();
    let change = Change::Activate {
        expect_epoch,
        guard: guard(&first),
        expect_syncs,
        postmaster_start_us: 1,
    };
    run(&mut state, change);
    if !open {
        let change = Change::Close { expect_epoch, reason: CloseReason::Crashed, stopped: true };
        run(&mut state, change);
    }
    state
}

/// The same with a history that is as long as it may be.
fn full(mut state: ControlState) -> ControlState {
    for number in 0..crate::domain::state::HISTORY_MAX as u64 {
        let alarms = vec![Alarm::about(AlarmCode::SpaceLow, number.to_string(), "full")];
        let upto = Sequence { run: 1, number: 0 };
        let change = Change::NoteHealth { member: member(1), alarms, notices: Vec::new(), upto };
        run(&mut state, change);
    }
    state
}
