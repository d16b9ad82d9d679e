//! Each check of the doctor: that it is silent where all is well, and says what is wrong.

use std::time::Duration;

use super::alarm::{Alarm, AlarmCode};
use super::command::Change;
use super::doctor::{
    CONFIGURATION_DIFFERS, Diagnosis, NAMES, Patient, Severity, Voter, cluster as examine, group,
};
use super::event::EventKind;
use super::fixture_test::{Bench, WALL, any, at_ms, cluster, m, primary, report, standby};
use super::observation::{About, Condition, Fencing, Observations, Report};
use super::space::{Disks, Space};
use super::state::{CloseReason, Closed, ClusterState, Paused, Phase, Stage, SynchronousMode};
use super::sync::SyncConfig;
use super::types::{BootTime, Epoch, Lsn, WallMillis};

const NOW_MS: u64 = 50_000;

/// A cluster of three in epoch 2, a its primary, and everybody reports.
struct Case {
    state: ClusterState,
    observations: Observations,
    voters: Vec<Voter>,
}

fn about(report: Report) -> Report {
    let about = About { hanode: "1.0.0".into(), postgresql: "15.6".into(), wall: WALL };
    Report { about, ..report }
}

impl Case {
    fn well() -> Self {
        let state = Bench::active("a b c", 1).state().clone();
        let observations = Observations::default();
        let mut case = Self { state, observations, voters: voters("x y z") };
        case.hears("a", primary("a", 2, "b c", None));
        case.hears("b", standby("b", 2, 500));
        case.hears("c", standby("c", 2, 500));
        case
    }

    fn hears(&mut self, name: &str, report: Report) {
        self.hears_at(name, about(report), at_ms(NOW_MS));
    }

    fn hears_at(&mut self, name: &str, report: Report, at: BootTime) {
        // The newest counts, whatever its number.
        self.observations.members.remove(&m(name));
        self.observations.record(m(name), report, at);
    }

    /// Changes what a member reports.
    fn report(&mut self, name: &str, change: impl FnOnce(&mut Report)) {
        change(&mut self.observations.members.get_mut(&m(name)).unwrap().report);
    }

    fn all(&self) -> Vec<Diagnosis> {
        let name = cluster();
        let (state, observations) = (&self.state, &self.observations);
        let now = at_ms(NOW_MS);
        let voters = &self.voters[..];
        examine(&Patient { name: &name, state, observations, voters, now, wall: WALL })
    }

    /// The only finding of that name.
    fn one(&self, check: &str) -> Diagnosis {
        let all = self.all();
        let mut found = all.iter().filter(|d| d.check == check).cloned();
        let one = found.next().unwrap_or_else(|| panic!("no {check} in {all:?}"));
        assert_eq!(found.next(), None);
        assert!(NAMES.contains(&check) && !one.todo.is_empty());
        one
    }

    fn silent(&self, check: &str) -> bool {
        self.all().iter().all(|d| d.check != check)
    }
}

#[test]
fn a_well_cluster_has_no_finding() {
    assert_eq!(Case::well().all(), []);
}

#[test]
fn the_worst_comes_first() {
    let mut case = Case::well();
    case.report("b", |r| r.fencing = Fencing::BestEffort);
    case.report("c", |r| r.problems.push("it is broken".into()));
    let severities: Vec<Severity> = case.all().iter().map(|d| d.severity).collect();
    assert_eq!(severities, [Severity::Problem, Severity::Warning]);
}

#[test]
fn broken_invariants() {
    let mut case = Case::well();
    case.state.syncs[0].members.insert(m("a"));
    let one = case.one("cluster.invariants");
    assert!(one.what.contains("no primary waits for itself"), "{one}");
    assert_eq!(one.severity, Severity::Problem);
}

#[test]
fn no_primary_is_open_for_writes() {
    let mut case = Case::well();
    case.state.tenure.as_mut().unwrap().stage = Stage::Promoted;
    assert!(case.one("cluster.primary").what.contains("on its way"));
    case.state.tenure.as_mut().unwrap().closed =
        Some(Closed { reason: CloseReason::LeaseLost, at: WALL });
    assert!(case.one("cluster.primary").what.contains("epoch 2 of a is closed"));
    // What rests on a primary is not said beside that.
    assert!(case.silent("member.follows") && case.silent("cluster.candidates"));
    let empty = Bench::registered("a b", SynchronousMode::Quorum, 1);
    case.state = empty.state().clone();
    assert_eq!(case.state.phase, Phase::AwaitingMembers);
    assert_eq!(case.one("cluster.primary").severity, Severity::Warning);
}

#[test]
fn what_must_not_last() {
    let mut case = Case::well();
    let newer = SyncConfig { seq: case.state.syncs[0].seq + 1, ..case.state.syncs[0].clone() };
    let to = newer.clone();
    case.state.syncs.push(newer);
    let mut event = case.state.history.back().unwrap().clone();
    (event.at, event.kind) = (WALL, EventKind::SyncChanging { to });
    case.state.history.push_back(event);
    assert!(case.silent("cluster.sync-change"));
    case.state.history.back_mut().unwrap().at = WallMillis(WALL.0 - 90_000);
    assert!(case.one("cluster.sync-change").what.contains("for 90 s, the oldest is ANY 1"));

    let mut bench = Bench::active("a b c", 1);
    let mut spec = bench.state().spec.clone();
    spec.parameters.insert("work_mem".into(), "8MB".into());
    bench.ok(Change::UpdateSpec { expect_revision: 1, spec, by: "test".into() });
    let mut case = Case::well();
    case.state = bench.state().clone();
    case.report("b", |r| r.settings.revision = 1);
    case.report("c", |r| r.settings.revision = 2);
    case.state.spec_history.back_mut().unwrap().at = WALL;
    assert!(case.silent("member.specification"));
    case.state.spec_history.back_mut().unwrap().at = WallMillis(WALL.0 - 90_000);
    assert_eq!(case.one("member.specification").member, Some(m("b")));
}

#[test]
fn a_primary_that_does_not_say_so() {
    let mut case = Case::well();
    case.report("a", |r| r.condition = Condition::Down);
    let one = case.one("member.leads");
    assert_eq!((one.severity, one.member), (Severity::Problem, Some(m("a"))));
}

#[test]
fn a_pause_that_was_forgotten() {
    let mut case = Case::well();
    let at = WallMillis(WALL.0 - 7_200_000);
    case.state.paused = Some(Paused { by: "ada@ops".into(), at, until: None });
    let one = case.one("cluster.paused");
    assert_eq!(one.what, "paused by ada@ops 120 min ago: nothing is failed over");
    let until = Some(WallMillis(WALL.0 + 90_000));
    case.state.paused = Some(Paused { by: "ada@ops".into(), at, until });
    assert!(case.one("cluster.paused").what.contains(", for 2 min more"));
}

#[test]
fn times_that_are_long_or_make_no_sense() {
    let mut case = Case::well();
    case.state.spec.timing.ttl_ms = 30_000;
    assert_eq!(case.one("cluster.timing").severity, Severity::Warning);
    case.state.spec.timing.ttl_ms = 3_000;
    case.state.spec.timing.kill_margin_ms = 4_000;
    assert_eq!(case.one("cluster.timing").severity, Severity::Problem);
}

#[test]
fn fewer_confirm_commits_than_asked_for() {
    let mut case = Case::well();
    case.state.spec.write_quorum = 2;
    assert_eq!(case.one("cluster.synchronous").severity, Severity::Warning);
    case.state.spec.write_quorum_min = 2;
    assert_eq!(case.one("cluster.synchronous").severity, Severity::Problem);
    case.state.spec.synchronous = SynchronousMode::Async;
    assert!(case.silent("cluster.synchronous"));
    case = Case::well();
    let both = SyncConfig { seq: case.state.syncs[0].seq, ..any(2, 2, "b c") };
    case.state.spec.write_quorum = 2;
    case.state.syncs = vec![both];
    assert!(case.silent("cluster.synchronous"));
}

#[test]
fn too_few_could_take_over() {
    let mut case = Case::well();
    case.report("b", |r| r.disks = disks(1));
    let one = case.one("cluster.candidates");
    assert!(one.severity == Severity::Warning && one.what.contains("only c"), "{one}");
    case.hears("c", report("c", Condition::Down));
    assert_eq!(case.one("cluster.candidates").severity, Severity::Problem);
    let mut alone = Case::well();
    alone.state.members.retain(|name, _| *name == m("a"));
    assert!(alone.one("cluster.candidates").what.contains("only member"));
    let mut two = Case::well();
    two.state.members.remove(&m("c"));
    assert!(two.silent("cluster.candidates"), "one of one is all that can be");
}

#[test]
fn tags_that_make_failover_impossible() {
    let mut case = Case::well();
    for name in ["b", "c"] {
        case.state.members.get_mut(&m(name)).unwrap().tags.nofailover = true;
    }
    assert!(case.one("cluster.tags").what.contains("no failover is possible"));
    case = Case::well();
    let b = case.state.members.get_mut(&m("b")).unwrap();
    (b.tags.nofailover, b.priority) = (true, 5);
    assert!(case.one("cluster.tags").what.contains("failover_priority 5"));
    case = Case::well();
    case.state.members.get_mut(&m("b")).unwrap().tags.replicatefrom = Some(m("z"));
    let one = case.one("cluster.tags");
    assert_eq!((one.member, one.node.as_deref()), (Some(m("b")), Some("node-b")));
}

#[test]
fn crashes_of_late() {
    let mut case = Case::well();
    case.state.crashes = vec![WallMillis(WALL.0 - 1000)];
    assert_eq!(case.one("cluster.crashes").severity, Severity::Warning);
    case.state.crashes = vec![WallMillis(WALL.0 - 1000); 5];
    assert_eq!(case.one("cluster.crashes").severity, Severity::Problem);
    case.state.crashes = vec![WallMillis(WALL.0 - case.state.spec.crash_window_ms - 1)];
    assert!(case.silent("cluster.crashes"));
}

#[test]
fn versions_that_differ() {
    let mut case = Case::well();
    case.report("b", |r| r.about.hanode = "1.1.0".into());
    assert!(case.one("cluster.versions").what.contains("1.0.0 (a, c), 1.1.0 (b)"));
    case = Case::well();
    case.report("b", |r| r.about.postgresql = "15.7".into());
    assert_eq!(case.one("cluster.versions").severity, Severity::Warning);
    case.report("b", |r| r.about.postgresql = "16.1".into());
    assert_eq!(case.one("cluster.versions").severity, Severity::Problem);
    // Not known is not different.
    case.report("b", |r| r.about = About::default());
    assert!(case.silent("cluster.versions"));
}

#[test]
fn silent_members() {
    let mut case = Case::well();
    case.hears_at("b", standby("b", 2, 500), at_ms(NOW_MS - 9_000));
    assert!(case.one("member.reports").what.contains("b has been silent for 9 s"));
    case.observations.members.remove(&m("b"));
    assert!(case.one("member.reports").what.contains("has not been heard of"));
    assert!(case.silent("member.follows"), "what it does is not known");
}

#[test]
fn members_that_do_not_follow() {
    let cases = [
        (Condition::Down, "does not run", Severity::Problem),
        (Condition::Starting, "starts or recovers", Severity::Problem),
        (Condition::Rewinding, "is rewound", Severity::Warning),
        (
            Condition::Cloning { source: m("a"), done_bytes: 1 << 20, total_bytes: 2 << 20 },
            "is copied from a: 1 of 2 MiB",
            Severity::Warning,
        ),
        (Condition::Unknown, "it is not known", Severity::Problem),
    ];
    for (condition, part, severity) in cases {
        let mut case = Case::well();
        case.hears("b", report("b", condition));
        let one = case.one("member.follows");
        assert!(one.what.contains(part) && one.severity == severity, "{one}");
    }
    let mut case = Case::well();
    case.hears("b", standby("b", 1, 500));
    assert!(case.one("member.follows").what.contains("does not stream"));
    case.hears("b", primary("b", 1, "", None));
    assert!(case.one("member.follows").what.contains("still runs as primary of epoch 1"));
}

#[test]
fn data_that_does_not_count() {
    let mut case = Case::well();
    case.report("b", |r| {
        let Condition::Standby(view) = &mut r.condition else { panic!() };
        (view.counts, view.flushed) = (false, Lsn(1));
    });
    assert_eq!(case.one("member.counts").member, Some(m("b")));
}

#[test]
fn fences_that_are_none() {
    let mut case = Case::well();
    case.report("a", |r| r.fencing = Fencing::BestEffort);
    assert!(case.one("member.fencing").what.contains("two primaries are possible"));
    case.report("a", |r| r.fencing = Fencing::Cgroup);
    assert!(case.silent("member.fencing"));
}

#[test]
fn clocks_that_are_far_apart() {
    let mut case = Case::well();
    case.report("b", |r| r.about.wall = WallMillis(WALL.0 + 2_500));
    assert!(case.one("member.clock").what.contains("2.5 s ahead of the leader's"));
    case.report("b", |r| r.about.wall = WallMillis(WALL.0 - 60_000));
    assert!(case.one("member.clock").what.contains("60.0 s behind"));
    case.report("b", |r| r.about.wall = WallMillis(WALL.0 + 1_500));
    assert!(case.silent("member.clock"));
    // A report is as old as it is.
    let mut older = about(standby("b", 2, 500));
    older.about.wall = WallMillis(WALL.0 - 1_900);
    case.hears_at("b", older, at_ms(NOW_MS - 1_900));
    assert!(case.silent("member.clock"));
}

fn disks(free_mib: u64) -> Disks {
    let space = Space { free_bytes: free_mib << 20, total_bytes: 100 << 30 };
    Disks { data: Some(space), wal: None }
}

#[test]
fn disks_that_fill_up() {
    let mut case = Case::well();
    case.report("a", |r| r.disks = disks(50_000));
    assert!(case.silent("member.space"));
    case.report("a", |r| r.disks = disks(1_000));
    assert_eq!(case.one("member.space").severity, Severity::Warning);
    case.report("a", |r| {
        r.disks = disks(1);
        r.alarms = vec![Alarm::new(AlarmCode::SpaceCritical, "full")];
    });
    assert_eq!(case.one("member.space").severity, Severity::Problem);
    assert!(case.silent("member.alarm"), "said once");
}

#[test]
fn configurations_that_differ_and_other_problems() {
    let mut case = Case::well();
    case.report("b", |r| r.problems = vec![format!("{CONFIGURATION_DIFFERS} from x: y")]);
    assert_eq!(case.one("member.configuration").severity, Severity::Warning);
    assert!(case.silent("member.problem"));
    case.report("b", |r| r.problems = vec!["it does not start".into()]);
    assert_eq!(case.one("member.problem").what, "it does not start");
    assert!(case.silent("member.configuration"));
}

#[test]
fn alarms_that_hold() {
    let mut case = Case::well();
    let alarm = Alarm::new(AlarmCode::PendingRestart, "settings wait");
    case.report("b", |r| r.alarms = vec![alarm.clone()]);
    assert_eq!(case.one("member.alarm").severity, Severity::Warning);
    case.report("b", |r| r.alarms = vec![Alarm::new(AlarmCode::ArchiveFailing, "no")]);
    assert_eq!(case.one("member.alarm").severity, Severity::Problem);
    // Of one that is silent what was agreed on last.
    case.observations.members.remove(&m("b"));
    assert!(case.silent("member.alarm"));
    case.state.alarms.insert(m("b"), vec![alarm]);
    assert!(case.one("member.alarm").what.contains("pending-restart"));
    // The leader's own.
    case = Case::well();
    case.state.alarms.insert(m("a"), vec![Alarm::new(AlarmCode::CommitsWait, "waiting")]);
    assert_eq!(case.one("member.alarm").severity, Severity::Problem);
}

#[test]
fn failsafe_that_cannot_help() {
    let check = "cluster.failsafe";
    let mut case = Case::well();
    for member in case.state.members.values_mut() {
        member.agent_address = Some(format!("{}:7400", member.node));
    }
    case.state.spec.failsafe = true;
    assert!(case.one(check).what.contains("granted without"), "{:?}", case.all());
    let tenure = case.state.tenure.as_mut().unwrap();
    tenure.failsafe = true;
    tenure.peers = [m("b"), m("c")].into();
    assert_eq!(case.all(), []);

    // A witness beside two nodes with everything: the loss of two is the loss of a member.
    case.voters = voters("node-a node-b z");
    assert!(case.one(check).what.contains("2 of 3 controllers"), "{:?}", case.one(check));
    case.voters = voters("node-a y z");
    assert!(case.silent(check));

    case.state.members.get_mut(&m("b")).unwrap().agent_address = None;
    let one = case.one(check);
    assert!(one.what.contains("where its agent listens"), "{one}");
    assert_eq!(one.member, Some(m("b")));
    case.state.members.get_mut(&m("b")).unwrap().agent_address = Some("b:7400".to_owned());
    case.report("b", |r| r.promised = Epoch(3));
    assert!(case.one(check).what.contains("has promised epoch 3"));
    case.observations.members.remove(&m("b"));
    assert!(case.one(check).what.contains("does not report"));

    let mut case = Case { observations: Case::well().observations, ..case };
    case.state.tenure.as_mut().unwrap().peers = [m("c")].into();
    assert!(case.one(check).what.contains("one peer"));
    case.state.tenure.as_mut().unwrap().peers.clear();
    assert_eq!(case.one(check).severity, Severity::Problem);

    case.state.tenure.as_mut().unwrap().peers = [m("b"), m("c")].into();
    case.state.spec.failsafe = false;
    assert!(case.one(check).what.contains("still holds"));
}

fn voters(hosts: &str) -> Vec<Voter> {
    let voter = |(i, host): (usize, &str)| Voter {
        name: format!("n{}", i + 1),
        host: host.to_owned(),
        is_leader: i == 0,
        silent: Some(Duration::from_millis(100)),
        lag_entries: Some(0),
    };
    hosts.split_whitespace().enumerate().map(voter).collect()
}

#[test]
fn controllers_are_odd_and_apart() {
    assert_eq!(group(&voters("x y z")), []);
    let checks = |voters: &[Voter]| group(voters).iter().map(|d| d.check).collect::<Vec<_>>();
    assert_eq!(checks(&voters("x y")), ["control-plane.voters"]);
    assert_eq!(checks(&voters("x")), ["control-plane.voters"]);
    assert_eq!(checks(&voters("x x x")), ["control-plane.hosts"]);
    assert!(group(&voters("w x y z"))[0].what.contains("the loss of 1 of them, as 3 would"));
    for check in ["control-plane.voters", "control-plane.hosts", "control-plane.follows"] {
        assert!(NAMES.contains(&check));
    }
}

#[test]
fn controllers_that_do_not_follow() {
    let with = |silent, lag_entries| {
        let mut voters = voters("x y z");
        (voters[2].silent, voters[2].lag_entries) = (silent, lag_entries);
        group(&voters)
    };
    let ms = |ms| Some(Duration::from_millis(ms));
    assert_eq!(with(ms(4_000), Some(900)), []);
    assert!(with(ms(7_000), Some(0))[0].what.contains("n3 has not answered for 7 s"));
    assert!(with(ms(0), Some(2_000))[0].what.contains("2000 entries"));
    let never = with(None, None);
    assert_eq!(never[0].node.as_deref(), Some("n3"));
    // How long ago is not known, and it has the log.
    assert_eq!(with(None, Some(0)), []);
}
