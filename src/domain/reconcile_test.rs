//! Every combination of what is asked, what runs, what lies in the data directory and what is
//! known of it: nothing unsafe is done in any of them, and each that can end has a way out.

use super::desired::{Desired, FollowDuty, PrimaryDuty, Upstream};
use super::fixture_test::{SYSTEM, any, at_ms, cluster, follow_duty, guard, holder, m, sealed};
use super::lease::{HolderLease, Timing};
use super::lineage::Lineage;
use super::observation::{Confirmed, Data};
use super::reconcile::{Action, EndReason, Local, Process, reconcile};
use super::record::{DataMark, MemberRecord};
use super::state::Stage;
use super::sync::SyncConfig;
use super::types::{Epoch, Lsn};

const NOW_MS: u64 = 10_000;

/// The agreed lineage: epoch 1, then 4 from 100, then 5 from 200.
fn lineage() -> Lineage {
    Lineage::root(Epoch(1)).with(Epoch(4), Lsn(100)).with(Epoch(5), Lsn(200))
}

fn follow(epoch: u64, active: bool) -> Desired {
    Desired::Follow(duty(epoch, active))
}

fn duty(epoch: u64, active: bool) -> FollowDuty {
    let others = vec![m("b"), m("c")];
    FollowDuty { lineage: lineage(), active, others, ..follow_duty(epoch) }
}

/// The same behind a standby.
fn cascaded(epoch: u64) -> FollowDuty {
    let upstream = Upstream { member: m("c"), address: "c.example:5432".to_owned() };
    FollowDuty { upstream: Some(upstream), counted: false, ..duty(epoch, true) }
}

fn primary(epoch: u64, stage: Stage) -> PrimaryDuty {
    PrimaryDuty {
        epoch: Epoch(epoch),
        guard: guard(b'a'),
        stage,
        syncs: vec![config(1, "b c"), config(2, "b")],
        handover: None,
        others: vec![m("b"), m("c")],
    }
}

fn config(seq: u64, list: &str) -> SyncConfig {
    SyncConfig { seq, ..any(5, 1, list) }
}

const ACTIVE: Stage = Stage::Active { postmaster_start_us: 1 };

fn local(process: Process) -> Local {
    Local {
        record: MemberRecord {
            system_id: Some(SYSTEM),
            promised: Epoch(5),
            ..MemberRecord::new(cluster(), m("a"))
        },
        data: Data::Present { system_id: SYSTEM },
        guard: Some(guard(b'a')),
        process,
        lease: None,
        hung: false,
        rewind_failed: false,
        source_lacks_wal: false,
        unstartable: false,
        consistent: false,
        upstream_lost: false,
        no_part_until: at_ms(0),
    }
}

fn at(promise: u64, wal_epoch: u64, lsn: u64) -> Process {
    let position = Some(sealed("a", promise, wal_epoch, lsn));
    Process::Sealed { promise: Epoch(promise), position }
}

fn unconfirmed(promise: u64) -> Process {
    Process::Sealed { promise: Epoch(promise), position: None }
}

fn following(epoch: u64) -> Process {
    Process::Following { epoch: Epoch(epoch), address: "b.example:5432".to_owned() }
}

fn running(epoch: u64, promoted: bool, writes_open: bool) -> Process {
    Process::Primary { epoch: Epoch(epoch), promoted, confirmed: None, writes_open }
}

fn lease(epoch: u64, sent_ms: u64) -> Option<HolderLease> {
    Some(HolderLease::from_renewal(Epoch(epoch), at_ms(sent_ms), &Timing::default()))
}

fn act(desired: &Desired, local: &Local) -> Action {
    reconcile(&m("a"), desired, local, at_ms(NOW_MS))
}

/// A short name of an action, for tables.
fn short(action: &Action) -> String {
    let text = format!("{action:?}");
    let end = text.find(['(', ' ']).unwrap_or(text.len());
    text[..end].to_owned()
}

fn every_desired() -> Vec<Desired> {
    let mut all = vec![
        Desired::Adopt { system_id: SYSTEM, epoch: Epoch(3) },
        Desired::Removed,
        Desired::Register,
        Desired::Wait { why: "test" },
        Desired::Bootstrap,
    ];
    for epoch in [4, 5, 6] {
        all.push(Desired::Sealed { promise: Epoch(epoch) });
        all.push(follow(epoch, false));
        all.push(follow(epoch, true));
        all.push(Desired::Follow(cascaded(epoch)));
        let asked = |active| FollowDuty {
            restart: Some(guard(b'a')),
            copy_anew: Some(7),
            expendable: true,
            ..duty(epoch, active)
        };
        all.extend([asked(false), asked(true)].map(Desired::Follow));
        all.push(Desired::Follow(FollowDuty { restart: Some(guard(b'a')), ..duty(epoch, true) }));
        for stage in [Stage::Granted, Stage::Promoted, ACTIVE] {
            let mut handing = primary(epoch, stage);
            handing.handover = Some(m("b"));
            let mut other = primary(epoch, stage);
            other.guard = guard(9);
            all.extend([primary(epoch, stage), handing, other].map(Desired::Primary));
        }
    }
    all
}

fn every_local() -> Vec<Local> {
    let mut all = Vec::new();
    let confirmed =
        Some(Confirmed { syncs: vec![config(2, "b"), config(3, "c")], postmaster_start_us: 1 });
    let newer = Process::Primary { epoch: Epoch(5), promoted: true, confirmed, writes_open: true };
    let processes = [
        Process::Down,
        Process::Ending,
        unconfirmed(5),
        at(5, 4, 150),
        at(5, 4, 250),
        at(5, 5, 900),
        at(6, 6, 900),
        following(4),
        following(5),
        following(6),
        running(5, false, false),
        running(5, true, false),
        running(5, true, true),
        newer,
    ];
    let marks = [
        DataMark::Intact,
        DataMark::Initialising,
        DataMark::Replacing,
        DataMark::Copied { source: Epoch(0), until: None },
        DataMark::Copied { source: Epoch(4), until: None },
        DataMark::Copied { source: Epoch(5), until: Some(Lsn(300)) },
        DataMark::Foreign,
    ];
    let present = Data::Present { system_id: SYSTEM };
    let flags = [(false, false), (true, true)];
    let each = processes.iter().flat_map(|p| flags.map(|f| (p.clone(), f)));
    for (process, (consistent, lost)) in each {
        for mark in marks {
            for data in [Data::Unknown, Data::Empty, Data::Incomplete, present.clone()] {
                for (promised, ended) in [(0, 0), (4, 0), (5, 4), (5, 5), (6, 5)] {
                    for held_lease in [None, lease(5, NOW_MS - 100), lease(5, NOW_MS - 2_700)] {
                        let mut one = local(process.clone());
                        (one.consistent, one.upstream_lost) = (consistent, lost);
                        one.record.data = mark;
                        one.record.promised = Epoch(promised);
                        one.record.ended = Epoch(ended);
                        one.data = data.clone();
                        one.lease = held_lease;
                        all.push(one);
                    }
                }
            }
        }
    }
    all
}

#[test]
fn no_combination_does_anything_unsafe() {
    let mut seen = 0;
    for local in every_local() {
        for desired in every_desired() {
            let action = act(&desired, &local);
            let (record, why) = (&local.record, format!("{action:?}\n{desired:?}\n{local:?}"));
            let leased = local.lease.is_some_and(|l| l.may_write(Epoch(5), at_ms(NOW_MS)));
            match &action {
                Action::Accept { epoch } => {
                    let Desired::Primary(duty) = &desired else { panic!("{why}") };
                    assert!(duty.epoch == *epoch && record.may_hold(*epoch), "{why}");
                    assert!(duty.stage == Stage::Granted, "{why}");
                    assert!(local.guard.as_ref() == Some(&duty.guard), "{why}");
                    let confirmed =
                        matches!(local.process, Process::Sealed { position: Some(_), .. });
                    assert!(confirmed, "{why}");
                }
                Action::Promote { epoch, .. } => {
                    assert!(leased && epoch.0 == 5 && record.ended < *epoch, "{why}");
                    assert!(local.process == running(5, false, false), "{why}");
                }
                Action::OpenWrites { .. } | Action::ConfirmSync { .. } => {
                    assert!(leased && record.ended.0 < 5, "{why}");
                    if let (Action::ConfirmSync { syncs }, Process::Primary { confirmed, .. }) =
                        (&action, &local.process)
                    {
                        let runs = confirmed.as_ref().and_then(|c| c.syncs.last()).map(|c| c.seq);
                        assert!(syncs.last().map(|c| c.seq) >= runs, "never back: {why}");
                    }
                }
                Action::Adopt { system_id, .. } => {
                    assert!(matches!(desired, Desired::Adopt { .. }), "{why}");
                    let present = Data::Present { system_id: *system_id };
                    assert!(local.process == Process::Down && local.data == present, "{why}");
                }
                Action::Retire => {
                    assert!(desired == Desired::Removed && local.process != Process::Down, "{why}");
                }
                Action::Initialise => {
                    assert!(desired == Desired::Bootstrap, "{why}");
                    let own = record.data == DataMark::Initialising;
                    assert!(local.data == Data::Empty || own, "{why}");
                    assert!(local.process == Process::Down, "{why}");
                }
                Action::Follow(d) | Action::StartFollowing(d) => {
                    assert!(record.promised <= d.epoch, "an older primary: {why}");
                    assert!(!matches!(local.process, Process::Primary { .. }), "{why}");
                    assert!(record.data != DataMark::Foreign, "nobody's timeline: {why}");
                    assert!(!(local.upstream_lost && d.upstream.is_some()), "{why}");
                }
                Action::Restart => {
                    let Desired::Follow(d) = &desired else { panic!("{why}") };
                    assert!(matches!(local.process, Process::Following { .. }), "{why}");
                    assert!(d.restart == local.guard, "another life of the guard: {why}");
                }
                Action::Rewind(d) | Action::Clone(d) => {
                    assert!(record.promised <= d.epoch, "an older primary: {why}");
                    assert!(!matches!(local.process, Process::Primary { .. }), "{why}");
                    if let Process::Sealed { position: Some(p), .. } = &local.process
                        && record.data != DataMark::Foreign
                    {
                        assert!(p.wal_epoch <= d.epoch, "newer WAL is never replaced: {why}");
                    }
                    let down = local.process == Process::Down;
                    assert!(!(down && local.data == Data::Unknown), "unknown is not absent: {why}");
                }
                Action::EndEpoch { epoch, why: reason } => {
                    assert!(matches!(local.process, Process::Primary { .. }), "{why}");
                    let newer = match &desired {
                        Desired::Primary(d) => {
                            d.epoch > *epoch || (d.epoch == *epoch && d.guard != guard(b'a'))
                        }
                        Desired::Follow(d) => d.epoch >= *epoch,
                        Desired::Sealed { promise } => promise > epoch,
                        _ => false,
                    };
                    assert!(newer || *reason != EndReason::NotOurs, "an older view: {why}");
                }
                Action::Disown { epoch } => {
                    assert!(record.ended < *epoch, "{why}");
                    let mine = local.process == running(5, false, false)
                        || matches!(local.process, Process::Primary { .. });
                    assert!(!(mine && *epoch == Epoch(5)), "what runs is ended by a kill: {why}");
                }
                Action::StartSealed { .. } => {
                    assert!(local.process == Process::Down, "{why}");
                    let known = match record.data {
                        DataMark::Intact => true,
                        DataMark::Copied { source, .. } => source.0 > 0 && local.consistent,
                        _ => false,
                    };
                    assert!(known, "it could not be judged: {why}");
                }
                Action::Seal { .. } => {
                    assert!(
                        !matches!(local.process, Process::Primary { .. } | Process::Down),
                        "{why}"
                    );
                }
                Action::ProveEnd => assert!(local.process == Process::Ending, "{why}"),
                Action::HandOver { .. } => assert!(leased, "{why}"),
                Action::Nothing { .. } => {}
            }
            seen += 1;
        }
    }
    assert!(seen > 100_000);
}

#[test]
fn a_follower_of_an_up_to_date_view_always_has_a_way_on() {
    // (process, data, mark, action) under Follow of epoch 5.
    let present = Data::Present { system_id: SYSTEM };
    let table = [
        (Process::Ending, present.clone(), DataMark::Intact, "ProveEnd"),
        (Process::Down, present.clone(), DataMark::Intact, "StartSealed"),
        (Process::Down, present.clone(), DataMark::Replacing, "Clone"),
        (Process::Down, present.clone(), DataMark::Initialising, "Clone"),
        (Process::Down, present.clone(), copied(5), "StartFollowing"),
        (Process::Down, present.clone(), copied(4), "Clone"),
        (Process::Down, present.clone(), copied(0), "Clone"),
        (Process::Down, present.clone(), DataMark::Foreign, "Rewind"),
        (Process::Down, Data::Unknown, DataMark::Foreign, "Nothing"),
        (Process::Down, Data::Incomplete, DataMark::Foreign, "Clone"),
        (Process::Down, Data::Empty, DataMark::Intact, "Clone"),
        (Process::Down, Data::Incomplete, DataMark::Intact, "Clone"),
        (Process::Down, Data::Unknown, DataMark::Intact, "Nothing"),
        (Process::Down, Data::Unknown, DataMark::Replacing, "Nothing"),
        (unconfirmed(5), present.clone(), DataMark::Intact, "Seal"),
        (at(5, 1, 100), present.clone(), DataMark::Intact, "Follow"),
        (at(5, 1, 101), present.clone(), DataMark::Intact, "Rewind"),
        (at(5, 3, 50), present.clone(), DataMark::Intact, "Rewind"),
        (at(5, 4, 200), present.clone(), DataMark::Intact, "Follow"),
        (at(5, 4, 201), present.clone(), DataMark::Intact, "Rewind"),
        (at(5, 5, 900), present.clone(), DataMark::Intact, "Follow"),
        (following(4), present.clone(), DataMark::Intact, "Seal"),
        (following(4), present.clone(), copied(4), "Clone"),
        (following(5), present.clone(), DataMark::Intact, "Nothing"),
        (following(5), present.clone(), copied(5), "Nothing"),
    ];
    for (process, data, mark, want) in table {
        for active in [false, true] {
            let mut one = local(process.clone());
            (one.data, one.record.data) = (data.clone(), mark);
            let action = act(&follow(5, active), &one);
            assert_eq!(short(&action), want, "{process:?} {data:?} {mark:?}, active {active}");
        }
    }
}

fn copied(source: u64) -> DataMark {
    DataMark::Copied { source: Epoch(source), until: None }
}

/// A copy that is not proven, once its data needs nothing more of its source, is judged by lineage.
#[test]
fn a_consistent_copy_outlives_a_change_of_primary() {
    // (process, source of the copy, under Sealed for 6, under Follow of 5, the same not consistent)
    let table = [
        (Process::Down, 4, "StartSealed", "StartSealed", ["Nothing", "Clone"]),
        (Process::Down, 5, "StartSealed", "StartFollowing", ["Nothing", "StartFollowing"]),
        (Process::Down, 0, "Nothing", "Clone", ["Nothing", "Clone"]),
        (following(4), 4, "Seal", "Seal", ["Nothing", "Clone"]),
        (following(5), 5, "Seal", "Nothing", ["Nothing", "Nothing"]),
        (unconfirmed(5), 4, "Seal", "Seal", ["Seal", "Seal"]),
        (at(5, 4, 200), 4, "Seal", "Follow", ["Seal", "Follow"]),
        (at(5, 4, 201), 4, "Seal", "Rewind", ["Seal", "Rewind"]),
        (at(5, 3, 50), 4, "Seal", "Rewind", ["Seal", "Rewind"]),
    ];
    for (process, source, when_sealed, when_following, otherwise) in table {
        for until in [None, Some(Lsn(150))] {
            let mut one = local(process.clone());
            one.record.data = DataMark::Copied { source: Epoch(source), until };
            let both = |one: &Local| {
                let sealed = act(&Desired::Sealed { promise: Epoch(6) }, one);
                [short(&sealed), short(&act(&follow(5, true), one))]
            };
            assert_eq!(both(&one), otherwise, "{process:?} from {source}, not consistent");
            one.consistent = true;
            assert_eq!(both(&one), [when_sealed, when_following], "{process:?} from {source}");
            // Sealed or not, nobody may make it a primary.
            let granted = act(&Desired::Primary(primary(5, Stage::Granted)), &one);
            assert!(!matches!(granted, Action::Accept { .. }), "{granted:?}");
        }
    }
}

#[test]
fn what_was_promoted_by_hand_is_rewound_and_never_started() {
    let mut one = local(Process::Down);
    one.record.data = DataMark::Foreign;
    one.consistent = true;
    let early = |counted| Desired::Follow(FollowDuty { counted, ..duty(5, false) });
    assert_eq!(short(&act(&Desired::Sealed { promise: Epoch(6) }, &one)), "Nothing");
    assert_eq!(short(&act(&early(false), &one)), "Nothing", "its primary can wait");
    assert_eq!(short(&act(&early(true), &one)), "Rewind", "its primary waits for it");
    assert_eq!(short(&act(&follow(5, true), &one)), "Rewind");
    // Whatever it is seen to run as, and at whatever position.
    for process in [unconfirmed(5), at(5, 5, 100), at(5, 6, 900), following(4), following(5)] {
        one.process = process;
        assert_eq!(short(&act(&follow(5, true), &one)), "Rewind", "{:?}", one.process);
    }
    one.process = Process::Down;
    one.rewind_failed = true;
    assert_eq!(short(&act(&follow(5, true), &one)), "Clone");
    one.record.promised = Epoch(6);
    assert_eq!(short(&act(&follow(5, true), &one)), "Nothing", "an older view");
}

#[test]
fn whom_a_cascaded_standby_streams_from() {
    let streams = |action: Action| match action {
        Action::Follow(d) => format!("Follow {}", d.streams_from().0),
        Action::StartFollowing(d) => format!("StartFollowing {}", d.streams_from().0),
        other => short(&other),
    };
    let behind =
        |epoch| Process::Following { epoch: Epoch(epoch), address: "c.example:5432".to_owned() };
    // (process, mark, while the upstream serves it, while it cannot)
    let table = [
        (behind(5), DataMark::Intact, "Nothing", "Follow b"),
        (following(5), DataMark::Intact, "Follow c", "Nothing"),
        (at(5, 4, 200), DataMark::Intact, "Follow c", "Follow b"),
        (at(5, 5, 900), copied(4), "Follow c", "Follow b"),
        (Process::Down, copied(5), "StartFollowing c", "StartFollowing b"),
        // Whether it may follow at all is judged by the primary's lineage, and mended from it.
        (behind(4), DataMark::Intact, "Seal", "Seal"),
        (at(5, 4, 201), DataMark::Intact, "Rewind", "Rewind"),
        (behind(6), DataMark::Intact, "Nothing", "Nothing"),
        (Process::Down, DataMark::Replacing, "Clone", "Clone"),
    ];
    for (process, mark, serves, lost) in table {
        for (upstream_lost, want) in [(false, serves), (true, lost)] {
            let mut one = local(process.clone());
            (one.record.data, one.upstream_lost) = (mark, upstream_lost);
            let action = act(&Desired::Follow(cascaded(5)), &one);
            assert_eq!(streams(action), want, "{process:?} {mark:?}, lost: {upstream_lost}");
        }
    }
    // What the primary lacks, the upstream may have: it is copied only where it streams from the
    // server that lacks it.
    let mut one = local(following(5));
    one.source_lacks_wal = true;
    assert_eq!(streams(act(&Desired::Follow(cascaded(5)), &one)), "Follow c");
    one.upstream_lost = true;
    assert_eq!(streams(act(&Desired::Follow(cascaded(5)), &one)), "Clone");
}

#[test]
fn what_cannot_be_used_any_more_is_copied_anew() {
    type Flag = fn(&mut Local);
    let flags: [(Flag, Process, &str); 6] = [
        (|l| l.rewind_failed = true, at(5, 4, 201), "Clone"),
        (|l| l.rewind_failed = true, Process::Down, "Clone"),
        (|l| l.source_lacks_wal = true, following(5), "Clone"),
        (|l| l.source_lacks_wal = true, at(5, 5, 900), "Clone"),
        (|l| l.source_lacks_wal = true, Process::Down, "Clone"),
        (|l| l.unstartable = true, Process::Down, "Clone"),
    ];
    for (set, process, want) in flags {
        let mut one = local(process.clone());
        set(&mut one);
        assert_eq!(short(&act(&follow(5, true), &one)), want, "{process:?}");
    }
}

#[test]
fn the_way_to_be_primary() {
    let granted = Desired::Primary(primary(5, Stage::Granted));
    let mut one = local(at(5, 4, 150));
    one.record.ended = Epoch(4);
    assert_eq!(act(&granted, &one), Action::Accept { epoch: Epoch(5) });
    one.process = unconfirmed(5);
    assert_eq!(act(&granted, &one), Action::Seal { promise: Epoch(5) });
    one.process = running(5, false, false);
    assert_eq!(short(&act(&granted, &one)), "Nothing", "no lease yet");
    one.lease = lease(4, NOW_MS - 100);
    assert_eq!(short(&act(&granted, &one)), "Nothing", "a lease of another epoch");
    one.lease = lease(5, NOW_MS - 100);
    let sync = config(2, "b");
    assert_eq!(act(&granted, &one), Action::Promote { epoch: Epoch(5), sync });
    one.process = running(5, true, false);
    let promoted = Desired::Primary(primary(5, Stage::Promoted));
    assert_eq!(short(&act(&promoted, &one)), "ConfirmSync");
    let active = Desired::Primary(primary(5, ACTIVE));
    assert_eq!(act(&active, &one), Action::OpenWrites { epoch: Epoch(5) });
    one.process = running(5, true, true);
    let mut handing = primary(5, ACTIVE);
    handing.handover = Some(m("b"));
    let target = m("b");
    assert_eq!(act(&Desired::Primary(handing), &one), Action::HandOver { epoch: Epoch(5), target });
    one.hung = true;
    assert_eq!(act(&active, &one), Action::EndEpoch { epoch: Epoch(5), why: EndReason::Hung });
    one.lease = lease(5, NOW_MS - 2_700);
    let expired = Action::EndEpoch { epoch: Epoch(5), why: EndReason::LeaseExpired };
    assert_eq!(act(&active, &one), expired);
}

#[test]
fn a_guard_that_changed_after_the_seal_disowns_the_grant_once() {
    let granted = Desired::Primary(primary(5, Stage::Granted));
    for process in [Process::Down, at(5, 4, 150), unconfirmed(5)] {
        let mut one = local(process);
        one.guard = Some(guard(7));
        assert_eq!(act(&granted, &one), Action::Disown { epoch: Epoch(5) });
        one.record.ended = Epoch(5);
        assert_eq!(short(&act(&granted, &one)), "Nothing", "reported, not run");
        let next = Desired::Sealed { promise: Epoch(6) };
        assert_ne!(short(&act(&next, &one)), "Nothing", "the way on is the next seal");
    }
}

#[test]
fn an_older_view_of_the_state_does_no_harm() {
    let mut writer = local(running(5, true, true));
    writer.lease = lease(5, NOW_MS - 100);
    for stale in [
        Desired::Register,
        Desired::Wait { why: "test" },
        Desired::Bootstrap,
        Desired::Sealed { promise: Epoch(5) },
        follow(4, true),
        Desired::Primary(primary(4, ACTIVE)),
    ] {
        let action = short(&act(&stale, &writer));
        assert!(["Nothing", "Disown"].contains(&action.as_str()), "{stale:?}: {action}");
    }
    for process in [following(5), at(5, 5, 900)] {
        assert_eq!(short(&act(&follow(4, true), &local(process))), "Nothing");
    }
    let stale = Desired::Sealed { promise: Epoch(5) };
    assert_eq!(short(&act(&stale, &local(following(5)))), "Nothing");
}

#[test]
fn sealing_again_for_a_later_epoch() {
    let later = Desired::Sealed { promise: Epoch(6) };
    assert_eq!(act(&later, &local(at(5, 4, 150))), Action::Seal { promise: Epoch(6) });
    let mut done =
        local(Process::Sealed { promise: Epoch(6), position: Some(holder("a", 6, 4, 150, 4)) });
    done.record.promised = Epoch(6);
    assert_eq!(act(&later, &done), Action::Nothing { why: "sealed" });
}

#[test]
fn data_without_our_users_is_only_started_as_a_follower_of_the_epoch_that_brings_them() {
    let mut local = Local { consistent: true, ..local(Process::Down) };
    local.record.data = DataMark::Copied { source: Epoch(5), until: None };
    let sealed = Desired::Sealed { promise: Epoch(5) };
    assert_eq!(short(&act(&sealed, &local)), "StartSealed");
    local.record.users_from = Epoch(5);
    assert_eq!(short(&act(&sealed, &local)), "Nothing");
    assert_eq!(short(&act(&follow(5, false), &local)), "StartFollowing");
    assert_eq!(short(&act(&follow(6, false), &local)), "Clone");
}
