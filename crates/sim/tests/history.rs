//! What a run reads in the agreed history.

use quorate_sim::domain::event::{AtStake, Event, EventKind};
use quorate_sim::domain::state::{
    ClusterSpec, ClusterState, OperationKind, Outcome, Stage, Tenure,
};
use quorate_sim::domain::sync::{SyncConfig, Uncovered};
use quorate_sim::domain::types::{Epoch, GuardId, Lsn, MemberName, WallMillis};
use quorate_sim::run::control::{Control, words};
use quorate_world::check::Guard;

fn m(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

fn state() -> ClusterState {
    ClusterState::new(ClusterSpec::of(vec![m("m0"), m("m1"), m("m2")]))
}

fn happens(state: &mut ClusterState, epoch: u64, kind: EventKind) {
    let (id, at) = (state.next_event, WallMillis(0));
    state.history.push_back(Event::new(id, at, Epoch(epoch), kind));
    state.next_event += 1;
}

fn config(epoch: u64, seq: u64) -> SyncConfig {
    let members = [m("m1"), m("m2")].into();
    SyncConfig { epoch: Epoch(epoch), seq, w: 1, members, order: Vec::new() }
}

#[test]
fn news_come_once_and_are_counted() {
    let (mut state, mut control) = (state(), Control::default());
    assert_eq!(control.news(&state), vec![]);
    happens(&mut state, 2, EventKind::Activated { member: m("m0") });
    assert_eq!(control.news(&state).len(), 1);
    assert_eq!(control.news(&state), vec![]);
    // The first primary is no takeover.
    assert_eq!(control.counted().takeovers, 0);
    let kind = OperationKind::Switchover { target: m("m1") };
    let by = "operator".to_owned();
    happens(&mut state, 2, EventKind::OperationStarted { operation: 7, kind, by });
    happens(&mut state, 3, EventKind::Activated { member: m("m1") });
    let outcome = Outcome::Done { primary: m("m1") };
    happens(&mut state, 3, EventKind::OperationFinished { operation: 7, outcome });
    happens(&mut state, 4, EventKind::Activated { member: m("m2") });
    let news = control.news(&state);
    assert_eq!(news.len(), 4);
    assert!(news.iter().all(|n| n.gave_up.is_none() && !words(&n.event).is_empty()));
    let counted = control.counted();
    assert_eq!((counted.takeovers, counted.switchovers), (2, 1));
}

#[test]
fn a_grant_without_proof_tells_what_it_gives_up() {
    let uncovered =
        vec![Uncovered { config: config(4, 9), have: 0, need: Some(2), missing: vec![m("m2")] }];
    let stake = AtStake { by: "operator".to_owned(), uncovered, primary_end: None };
    let granted = |sync| EventKind::Granted {
        member: m("m1"),
        wal_epoch: Epoch(3),
        lsn: Lsn(0x100),
        data_loss_accepted: true,
        at_stake: Some(stake.clone()),
        sync,
    };
    let lost = Guard { epoch: 4, covered: false };
    let kept = Guard { epoch: 3, covered: true };
    for (stage, guards) in [
        (Stage::Granted, vec![lost, kept]),
        // What was covered is not known any more.
        (Stage::Active { postmaster_start_us: 1 }, vec![lost]),
    ] {
        let (mut state, mut control) = (state(), Control::default());
        state.epoch = Epoch(5);
        state.tenure = Some(Tenure {
            epoch: Epoch(5),
            member: m("m1"),
            guard: GuardId::from_bytes([1; 16]),
            stage,
            closed: None,
            stopped: false,
            failsafe: false,
            peers: Default::default(),
        });
        state.syncs = vec![config(3, 5), config(5, 10)];
        happens(&mut state, 5, granted(config(5, 10)));
        let news = control.news(&state);
        assert_eq!(news[0].gave_up, Some((5, guards)));
        assert!(words(&news[0].event).contains("giving up"));
    }
}
