//! The operator's choice of how commits wait for standbys, as the planner follows it.

use super::candidate::Refusal;
use super::command::{Change, Grant};
use super::event::EventKind;
use super::fixture_test::{
    Bench, Leader, activation, any, grant, holder, m, plain, primary, promotion, register, rules,
    sealed, sealed_report, standby, tagged,
};
use super::observation::{Condition, Report};
use super::state::{CloseReason, ClusterSpec, SynchronousMode, Tags};
use super::sync::SyncConfig;
use super::types::{Epoch, Lsn};

/// A cluster with `list` whose first member is active in epoch 2, made by the planner from the
/// grant on.
pub(super) struct Play {
    pub(super) bench: Bench,
    pub(super) leader: Leader,
    primary: String,
    /// Position of the primary.
    at: u64,
}

impl Play {
    pub(super) fn new(list: &str, change: impl FnOnce(&mut ClusterSpec)) -> Self {
        let mut bench = Bench::empty();
        let members: Vec<_> = list.split_whitespace().map(m).collect();
        let first = members[0].clone();
        let mut spec = ClusterSpec::of(members.clone());
        change(&mut spec);
        bench.ok(Change::CreateCluster { spec });
        for name in &members {
            bench.ok(register(name.as_str(), &format!("node-{name}"), None));
        }
        bench.ok(Change::BeginBootstrap { member: first.clone() });
        let system_id = super::fixture_test::SYSTEM;
        bench.ok(Change::FinishBootstrap { member: first.clone(), system_id, epoch: Epoch(1) });
        let leader = Leader::new();
        let mut play = Self { bench, leader, primary: first.to_string(), at: 500 };
        let first = holder(first.as_str(), 2, 1, 100, 1);
        play.leader.hears(&first.member.to_string(), sealed_report(&first));
        play.take_over();
        let syncs = play.syncs();
        assert!(syncs.ends_with(&[plain(&play.bench.state().syncs).pop().unwrap()]));
        play
    }

    /// Grants what the planner proposes, and lets the member promote and be confirmed.
    fn take_over(&mut self) -> Grant {
        let plan = self.leader.plan(&self.bench);
        let Some(Change::Grant(grant)) = plan.proposal else { panic!("{:?}", plan.findings) };
        self.bench.ok(Change::Grant(grant.clone()));
        self.primary = grant.member.to_string();
        let start = promotion(&self.bench, self.bench.state().epoch.0 * 100);
        self.bench.ok(start);
        let active = activation(&self.bench);
        self.bench.ok(active);
        grant
    }

    pub(super) fn syncs(&self) -> Vec<SyncConfig> {
        plain(&self.bench.state().syncs)
    }

    /// What the primary runs with, as PostgreSQL is told.
    pub(super) fn setting(&self) -> String {
        self.bench.state().current_sync().unwrap().setting()
    }

    /// Half a second in which these stream, so many bytes behind.
    pub(super) fn step(&mut self, streaming: &[(&str, u64)]) -> Vec<&'static str> {
        self.leader.pass_ms(500);
        let epoch = self.bench.state().epoch.0;
        self.leader.renewed(epoch);
        let names: Vec<&str> = streaming.iter().map(|s| s.0).collect();
        let syncs = self.bench.state().syncs.clone();
        let mut report = primary(&self.primary, epoch, &names.join(" "), Some(&syncs));
        if let Condition::Primary(view) = &mut report.condition {
            view.flushed = Lsn(self.at);
            for (name, behind) in streaming {
                view.standbys.get_mut(&m(name)).unwrap().flushed = Lsn(self.at - behind);
            }
        }
        let primary = self.primary.clone();
        self.leader.hears(&primary, report);
        for (name, behind) in streaming {
            self.leader.hears(name, standby(name, epoch, self.at - behind));
        }
        let plan = self.leader.plan(&self.bench);
        if let Some(change) = plan.proposal.clone() {
            self.bench.ok(change);
        }
        rules(&plan)
    }

    pub(super) fn steps(&mut self, seconds: u64, streaming: &[(&str, u64)]) {
        for _ in 0..seconds * 2 {
            self.step(streaming);
        }
    }

    /// The primary is gone; these answer, sealed at the primary's position less so many bytes.
    pub(super) fn lose_primary(&mut self, sealed_at: &[(&str, u64)]) {
        self.bench.close(CloseReason::LeaseLost, false);
        self.hear_sealed(sealed_at);
        self.leader.pass_ms(3_100);
        self.hear_sealed(sealed_at);
    }

    fn hear_sealed(&mut self, sealed_at: &[(&str, u64)]) {
        let epoch = self.bench.state().epoch.0;
        self.leader.observed.note_state(self.bench.state(), self.leader.now);
        for (name, behind) in sealed_at {
            let report = sealed_report(&sealed(name, epoch + 1, epoch, self.at - behind));
            self.leader.hears(name, report);
        }
    }
}

#[test]
fn strict_never_lowers_the_quorum() {
    let mut play = Play::new("a b c", |s| (s.write_quorum, s.write_quorum_min) = (2, 2));
    assert_eq!(play.setting(), "ANY 2 (\"b\", \"c\")");
    play.steps(60, &[("b", 0)]);
    assert_eq!(play.setting(), "ANY 2 (\"b\", \"c\")");
    assert!(play.step(&[("b", 0)]).contains(&"sync.write-quorum"));
    assert_eq!(play.bench.state().alarms[&m("a")].len(), 1);
    // A third one takes the place of the one that is gone.
    play.bench.ok(register("d", "node-d", None));
    play.steps(3, &[("b", 0), ("d", 0)]);
    assert_eq!(play.setting(), "ANY 2 (\"b\", \"d\")");
    assert!(play.bench.state().alarms.is_empty());
}

#[test]
fn the_quorum_shrinks_to_the_floor_and_grows_again() {
    let mut play = Play::new("a b c", |s| s.write_quorum = 2);
    assert_eq!(play.setting(), "ANY 2 (\"b\", \"c\")");
    play.steps(12, &[("b", 0)]);
    assert_eq!(play.setting(), "ANY 1 (\"b\")");
    play.steps(60, &[]);
    assert_eq!(play.setting(), "ANY 1 (\"b\")", "commits wait rather than going below the floor");
    play.steps(2, &[("b", 0), ("c", 0)]);
    assert_eq!(play.setting(), "ANY 2 (\"b\", \"c\")");
}

#[test]
fn of_two_members_one_goes_on_alone_and_only_it_leads_then() {
    let mut play = Play::new("a b", |_| {});
    assert_eq!(play.setting(), "", "nobody else was there at the beginning");
    play.steps(3, &[("b", 0)]);
    assert_eq!(play.setting(), "ANY 1 (\"b\")");
    play.steps(8, &[]);
    assert_eq!(play.setting(), "ANY 1 (\"b\")", "a moment is no reason");
    play.steps(4, &[]);
    assert_eq!(play.setting(), "");
    // What a acknowledged alone, only a has.
    play.lose_primary(&[("b", 0)]);
    let plan = play.leader.plan(&play.bench);
    assert!(rules(&plan).contains(&"takeover.read-quorum"), "{:?}", plan.findings);
    assert_eq!(plan.proposal, None);
    let a = sealed_report(&holder("a", 3, 2, 900, 2));
    play.leader.hears("a", a);
    assert_eq!(play.take_over().member, m("a"));
}

#[test]
fn of_two_members_the_standby_takes_over_alone() {
    let mut play = Play::new("a b", |_| {});
    play.steps(3, &[("b", 0)]);
    play.lose_primary(&[("b", 0)]);
    let grant = play.take_over();
    assert_eq!(grant.member, m("b"));
    assert_eq!((grant.sync.w, grant.accept_data_loss), (0, None));
    play.primary = "b".to_owned();
    play.at = 900;
    play.steps(3, &[("a", 0)]);
    assert_eq!(play.setting(), "ANY 1 (\"a\")");
}

#[test]
fn a_takeover_asks_for_no_more_than_are_there_down_to_the_floor() {
    let mut play = Play::new("a b c", |s| s.write_quorum = 2);
    play.steps(3, &[("b", 0), ("c", 0)]);
    play.lose_primary(&[("b", 0), ("c", 0)]);
    let grant = play.take_over();
    assert_eq!((grant.member, grant.sync.setting()), (m("b"), "ANY 1 (\"c\")".to_owned()));
    // With a floor of two whoever is gone has to come back.
    let mut play = Play::new("a b c", |s| (s.write_quorum, s.write_quorum_min) = (2, 2));
    play.steps(3, &[("b", 0), ("c", 0)]);
    play.lose_primary(&[("b", 0), ("c", 0)]);
    let plan = play.leader.plan(&play.bench);
    let Some(Change::Grant(grant)) = plan.proposal else { panic!("{:?}", plan.findings) };
    assert_eq!(grant.sync.setting(), "ANY 2 (\"a\", \"c\")");
}

#[test]
fn priority_mode_asks_in_the_order_of_priorities() {
    let mut play = Play::new("a b c d", |s| s.synchronous = SynchronousMode::Priority);
    let prefer = |name: &str, value: i32| {
        let mut change = register(name, &format!("node-{name}"), None);
        if let Change::RegisterMember { priority, .. } = &mut change {
            *priority = value;
        }
        change
    };
    play.bench.ok(prefer("d", 9));
    play.bench.ok(prefer("c", 5));
    let all = [("b", 0), ("c", 0), ("d", 0)];
    play.steps(3, &all);
    assert_eq!(play.setting(), "FIRST 1 (\"d\", \"c\", \"b\")");
    // Another order is another configuration, changed to as every other.
    play.bench.ok(prefer("b", 7));
    play.steps(2, &all);
    assert_eq!(play.setting(), "FIRST 1 (\"d\", \"b\", \"c\")");
    assert_eq!(play.bench.state().syncs.len(), 1);
    // Any one of them may have confirmed, not only the first: all are the read quorum.
    play.lose_primary(&[("d", 0), ("c", 0)]);
    assert!(rules(&play.leader.plan(&play.bench)).contains(&"takeover.read-quorum"));
    play.hear_sealed(&[("b", 0), ("c", 100), ("d", 100)]);
    assert_eq!(play.take_over().member, m("b"));
}

#[test]
fn one_that_lags_for_long_stops_counting_until_it_has_caught_up() {
    let mut play = Play::new("a b c", |s| s.sync_lag_bytes_max = 1 << 20);
    play.at = 1 << 30;
    play.steps(3, &[("b", 0), ("c", 0)]);
    assert_eq!(play.setting(), "ANY 1 (\"b\", \"c\")");
    play.steps(8, &[("b", 0), ("c", 2 << 20)]);
    assert_eq!(play.setting(), "ANY 1 (\"b\", \"c\")");
    play.steps(4, &[("b", 0), ("c", 2 << 20)]);
    assert_eq!(play.setting(), "ANY 1 (\"b\")");
    play.steps(4, &[("b", 0), ("c", 1 << 19)]);
    assert_eq!(play.setting(), "ANY 1 (\"b\")", "near is not near enough");
    play.steps(2, &[("b", 0), ("c", 1 << 17)]);
    assert_eq!(play.setting(), "ANY 1 (\"b\", \"c\")");
    // Nobody is left out where all lag, or are gone.
    play.steps(30, &[("b", 5 << 20)]);
    assert_eq!(play.setting(), "ANY 1 (\"b\", \"c\")");
    // Where the floor is zero, one that lags is still better than none.
    let mut play = Play::new("a b", |s| s.sync_lag_bytes_max = 1 << 20);
    play.at = 1 << 30;
    play.steps(3, &[("b", 0)]);
    play.steps(30, &[("b", 5 << 20)]);
    assert_eq!(play.setting(), "ANY 1 (\"b\")");
    play.steps(12, &[]);
    assert_eq!(play.setting(), "");
}

#[test]
fn the_last_that_may_lead_keeps_its_tags() {
    let mut play = Play::new("a b c", |_| {});
    play.steps(3, &[("b", 0), ("c", 0)]);
    for name in ["b", "c"] {
        play.bench.ok(tagged(name));
    }
    play.lose_primary(&[("b", 100), ("c", 0)]);
    assert_eq!(play.bench.refused(tagged("a")).rule(), "member.last-may-lead");
}

#[test]
fn who_may_have_to_lead_keeps_its_tags() {
    let mut play = Play::new("a b c", |_| {});
    play.steps(3, &[("b", 0), ("c", 0)]);
    play.lose_primary(&[("b", 100), ("c", 0)]);
    for name in ["a", "b", "c"] {
        assert_eq!(play.bench.refused(tagged(name)).rule(), "member.settled-before-tags");
    }
    let primary = play.take_over().member;
    let other = if primary == m("c") { "a" } else { "c" };
    play.bench.ok(tagged(other));
}

#[test]
fn tags_take_members_out_of_the_configuration() {
    type Set = fn(&mut Tags);
    let tags: [(&str, Set); 4] = [
        ("nosync", |t| t.nosync = true),
        ("nofailover", |t| t.nofailover = true),
        ("replicatefrom", |t| t.replicatefrom = Some(m("b"))),
        ("delay", |t| t.delay_ms = 60_000),
    ];
    for (what, set) in tags {
        let mut play = Play::new("a b c", |_| {});
        let both = [("b", 0), ("c", 0)];
        play.steps(3, &both);
        assert_eq!(play.setting(), "ANY 1 (\"b\", \"c\")");
        let mut change = register("c", "node-c", None);
        if let Change::RegisterMember { tags, .. } = &mut change {
            set(tags);
        }
        play.bench.ok(change);
        play.steps(2, &both);
        assert_eq!(play.setting(), "ANY 1 (\"b\")", "{what}");
        // Who may not count is refused by apply as well.
        let to = SyncConfig {
            seq: play.bench.state().next_sync,
            ..any(play.bench.state().epoch.0, 1, "c")
        };
        let refused = play.bench.refused(Change::BeginSyncChange {
            expect_epoch: play.bench.state().epoch,
            expect_syncs: play.bench.state().syncs.clone(),
            to,
        });
        assert_eq!(refused.rule(), "sync.valid", "{what}");
        // It may lead where it may.
        play.lose_primary(&[("b", 100), ("c", 0)]);
        let leads = matches!(what, "nosync" | "replicatefrom");
        assert_eq!(play.take_over().member, m(if leads { "c" } else { "b" }), "{what}");
    }
}

fn lossy(max: u64) -> impl FnOnce(&mut ClusterSpec) {
    move |s| {
        s.synchronous = SynchronousMode::Async;
        (s.write_quorum, s.write_quorum_min, s.max_lag_bytes) = (0, 0, Some(max));
    }
}

#[test]
fn asynchronous_takeovers_lose_at_most_what_the_operator_allows() {
    let mut play = Play::new("a b c", lossy(1000));
    play.at = 50_000;
    play.steps(3, &[("b", 200), ("c", 400)]);
    assert_eq!(play.setting(), "");
    // Silent: a takeover would succeed, so the epoch is closed.
    play.leader.pass_ms(2_300);
    for (name, behind) in [("b", 200), ("c", 400)] {
        let mut report: Report = standby(name, 2, play.at - behind);
        if let Condition::Standby(view) = &mut report.condition {
            // It streams no more, so the epoch of its last record is not known.
            (view.streaming, view.wal_epoch) = (None, Epoch(0));
        }
        play.leader.hears(name, report);
    }
    let plan = play.leader.plan(&play.bench);
    assert!(matches!(plan.proposal, Some(Change::Close { .. })), "{:?}", plan.findings);
    play.lose_primary(&[("b", 200), ("c", 400)]);
    let grant = play.take_over();
    assert_eq!((grant.member, grant.within_lag_of), (m("b"), Some(Lsn(50_000))));
    let granted = play.bench.state().history.iter().rev().find_map(|e| match &e.kind {
        EventKind::Granted { data_loss_accepted, at_stake, .. } => {
            Some((*data_loss_accepted, at_stake.clone().unwrap()))
        }
        _ => None,
    });
    let (accepted, stake) = granted.unwrap();
    assert!(accepted);
    assert_eq!((stake.by.as_str(), stake.primary_end), ("max_lag_bytes", Some(Lsn(50_000))));
    assert_eq!(stake.uncovered.len(), 1);
}

#[test]
fn asynchronous_takeovers_are_refused_beyond_that_and_where_nothing_is_known() {
    let mut play = Play::new("a b c", lossy(1000));
    play.at = 50_000;
    play.steps(3, &[("b", 2000), ("c", 4000)]);
    play.lose_primary(&[("b", 2000), ("c", 4000)]);
    let plan = play.leader.plan(&play.bench);
    assert_eq!(plan.proposal, None);
    assert_eq!(rules(&plan).last(), Some(&"takeover.max-lag"));
    // A leader that has never heard of the primary knows what was agreed on.
    let new_leader = |play: &mut Play| {
        play.leader = Leader::new();
        play.leader.plan(&play.bench);
        play.leader.pass_ms(10_000);
        play.hear_sealed(&[("b", 2000), ("c", 4000)]);
    };
    let (epoch, noted) = play.bench.state().primary_end.unwrap();
    assert_eq!((epoch, noted), (Epoch(2), Lsn(50_000)));
    new_leader(&mut play);
    assert_eq!(rules(&play.leader.plan(&play.bench)).last(), Some(&"takeover.max-lag"));
    // Where nothing was, nothing is: what a standby has heard may be long ago.
    play.bench.control.clusters.values_mut().next().unwrap().primary_end = None;
    new_leader(&mut play);
    let mut b = sealed_report(&sealed("b", 3, 2, 48_000));
    if let Condition::Standby(view) = &mut b.condition {
        view.primary_end = Some((Epoch(2), Lsn(48_000)));
    }
    play.leader.hears("b", b);
    let plan = play.leader.plan(&play.bench);
    assert_eq!(plan.proposal, None);
    assert_eq!(rules(&plan).last(), Some(&"takeover.read-quorum"));
    // `apply` asks again, whatever the proposer believed.
    play.bench.control.clusters.values_mut().next().unwrap().primary_end =
        Some((Epoch(2), Lsn(50_000)));
    let evidence = vec![sealed("b", 3, 2, 48_000), sealed("c", 3, 2, 46_000)];
    let mut change = grant(&play.bench, "b", evidence, any(3, 0, ""));
    if let Change::Grant(grant) = &mut change {
        grant.within_lag_of = Some(Lsn(48_000));
    }
    assert_eq!(play.bench.refused(change).rule(), "takeover.max-lag");
}

#[test]
fn a_synchronous_configuration_is_never_given_up_for_the_lag_that_is_allowed() {
    let mut play = Play::new("a b c", |_| {});
    play.at = 50_000;
    play.steps(3, &[("b", 0), ("c", 0)]);
    play.lose_primary(&[("b", 0)]);
    for (mode, max) in [
        (SynchronousMode::Quorum, Some(u64::MAX)),
        (SynchronousMode::Async, Some(u64::MAX)),
        (SynchronousMode::Async, None),
    ] {
        // The operator has changed the policy; the configuration in force is still synchronous.
        let mut bench = play.bench.clone();
        let spec = &mut bench.control.clusters.values_mut().next().unwrap().spec;
        (spec.synchronous, spec.max_lag_bytes) = (mode, max);
        let evidence = vec![sealed("b", 3, 2, 50_000)];
        let mut change = grant(&bench, "b", evidence, any(3, 1, "c"));
        if let Change::Grant(grant) = &mut change {
            grant.within_lag_of = Some(Lsn(50_000));
        }
        let refused = bench.refused(change);
        assert_eq!(refused.rule(), "takeover.read-quorum");
        assert!(matches!(
            refused,
            super::command::Rejection::Candidate(Refusal::NotCovered { .. })
        ));
    }
}
