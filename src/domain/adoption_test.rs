//! Which of several data directories is the primary's, and how an adopted cluster begins.

use std::collections::BTreeMap;

use super::adoption::{Adoptable, Adopted, Adoption, Was, choose};
use super::command::Change;
use super::desired::{Desired, desired};
use super::fixture_test::{
    Bench, Leader, SYSTEM, activation, any, grant, holder, m, promotion, register, report, rules,
    sealed,
};
use super::lineage::Lineage;
use super::observation::{Condition, Data};
use super::plan::adoption_check;
use super::plan_test::ended;
use super::record::{DataMark, MemberRecord};
use super::state::{CloseReason, Phase, SynchronousMode};
use super::types::{ClusterName, Epoch, Lsn, MemberName, SystemId};

/// A timeline 3 that began at 100 and 200.
fn lineage() -> Lineage {
    Lineage::root(Epoch(1)).with(Epoch(2), Lsn(100)).with(Epoch(3), Lsn(200))
}

fn data(was: Was, end: u64) -> Adoptable {
    Adoptable {
        system_id: SYSTEM,
        epoch: Epoch(3),
        end: Lsn(end),
        was,
        lineage: lineage(),
        problems: Vec::new(),
        steps: Vec::new(),
        parameters: BTreeMap::from([("work_mem".to_owned(), "8MB".to_owned())]),
        left_out: Vec::new(),
        hba: vec!["host all all 10.0.0.0/8 md5".to_owned()],
        ident: vec!["m root postgres".to_owned()],
        standby: was == Was::Standby,
        seen: Epoch(3),
        known: Epoch(0),
        life: 0,
    }
}

fn found(list: &[(&str, Adoptable)]) -> BTreeMap<MemberName, Adoptable> {
    list.iter().map(|(name, data)| (m(name), data.clone())).collect()
}

#[test]
fn other_data_than_what_was_asked_for_is_refused() {
    let own = data(Was::Primary, 500);
    assert_eq!(own.refusal(SYSTEM, Epoch(3)), None);
    assert!(own.refusal(SYSTEM, Epoch(2)).unwrap().contains("timeline 3 now"));
    assert!(own.refusal(SystemId(SYSTEM.0 + 1), Epoch(3)).is_some());
    let bad = Adoptable { problems: vec!["it runs".to_owned()], ..own };
    assert_eq!(bad.refusal(SYSTEM, Epoch(3)).as_deref(), Some("it runs"));
}

#[test]
fn what_was_taken_over_is_known_from_the_record() {
    let cluster = ClusterName::new("main").unwrap();
    let (base, life) = (Epoch(3), 1);
    let adopted = Adopted {
        life,
        member: m("a"),
        system_id: SYSTEM,
        epoch: base,
        lineage: lineage(),
        end: Lsn(500),
        base,
    };
    let mut record = MemberRecord::new(cluster, m("a"));
    record.begin_anew(Some(SYSTEM));
    assert!(!record.has_taken(&adopted));
    (record.held, record.ended, record.life) = (base, base, life);
    assert!(record.has_taken(&adopted));
    assert!(!record.has_taken(&Adopted { life: 2, ..adopted.clone() }));
    record.data = DataMark::Replacing;
    assert!(!record.has_taken(&adopted));
}

#[test]
fn the_primary_is_proven_or_named() {
    use Was::{Primary, Standby, Unclear};
    let rule = |list: &[(&str, Adoptable)], named: Option<&str>| {
        let named = named.map(m);
        let found = found(list);
        match choose(&found, named.as_ref()) {
            Ok((member, _)) => member.to_string(),
            Err(refusal) => refusal.rule().to_owned(),
        }
    };
    let (p, s) = (data(Primary, 500), data(Standby, 400));
    let older = Adoptable { epoch: Epoch(2), ..s.clone() };
    assert_eq!(rule(&[("a", p.clone())], None), "a");
    assert_eq!(rule(&[("a", s.clone()), ("b", p.clone()), ("c", older)], None), "b");
    assert_eq!(rule(&[("a", data(Standby, 500)), ("b", p.clone())], None), "b");
    assert_eq!(rule(&[], None), "adopt.data");
    // Not proven, and what each is refused for; the operator's word decides.
    let newer = Adoptable { epoch: Epoch(4), ..s.clone() };
    let elsewhere = Lineage::root(Epoch(1)).with(Epoch(3), Lsn(150));
    for (other, why) in [
        (data(Primary, 400), "adopt.one-primary"),
        (data(Standby, 501), "adopt.newest"),
        (data(Unclear, 400), "adopt.newest"),
        (newer, "adopt.newest"),
        (Adoptable { lineage: elsewhere, ..s.clone() }, "adopt.newest"),
    ] {
        let list = [("a", other), ("b", p.clone())];
        assert_eq!(rule(&list, None), why);
        assert_eq!(rule(&list, Some("b")), "b");
    }
    assert_eq!(rule(&[("a", data(Unclear, 500))], None), "adopt.one-primary");
    assert_eq!(rule(&[("a", data(Unclear, 500))], Some("a")), "a");
    assert_eq!(rule(&[("a", p.clone())], Some("b")), "adopt.primary");
    let foreign = Adoptable { system_id: SystemId(1), ..s };
    assert_eq!(rule(&[("a", foreign), ("b", p)], Some("b")), "adopt.one-cluster");
}

fn adoptable(leader: &mut Leader, name: &str, data: &Adoptable) {
    let mut report = report(name, Condition::Adoptable(data.clone()));
    report.data = Data::Present { system_id: data.system_id };
    report.guard = None;
    leader.hears(name, report);
}

#[test]
fn every_member_has_to_say_what_it_holds() {
    let bench = Bench::registered("a b c", SynchronousMode::Quorum, 1);
    let mut leader = Leader::new();
    let check = |leader: &Leader| {
        let answer =
            adoption_check(bench.state(), &leader.observed, None, "test".into(), leader.now);
        match answer {
            Ok(adoption) => vec![adoption.member.to_string()],
            Err(problems) => problems.iter().map(|p| p.rule().to_owned()).collect(),
        }
    };
    adoptable(&mut leader, "a", &data(Was::Primary, 500));
    adoptable(&mut leader, "b", &data(Was::Standby, 500));
    assert_eq!(check(&leader), ["adopt.all-members"]);
    let mut empty = report("c", Condition::Down);
    empty.data = Data::Empty;
    leader.hears("c", empty);
    assert_eq!(check(&leader), ["a"]);
    // Nothing is bootstrapped beside it, and it is said what is to be done.
    let plan = leader.plan(&bench);
    assert_eq!(plan.proposal, None);
    assert!(rules(&plan).contains(&"adopt.waits"), "{plan:?}");
    let blocked = Adoptable { problems: vec!["it runs".to_owned()], ..data(Was::Standby, 500) };
    adoptable(&mut leader, "b", &blocked);
    assert_eq!(check(&leader), ["adopt.ready"]);
    leader.pass_ms(2_001);
    assert_eq!(check(&leader).len(), 4, "old reports say nothing");
}

fn adoption(member: &str) -> Adoption {
    let data = data(Was::Primary, 500);
    Adoption {
        member: m(member),
        system_id: data.system_id,
        epoch: data.epoch,
        lineage: data.lineage,
        parameters: data.parameters,
        hba: data.hba,
        ident: data.ident,
        end: data.end,
        base: data.epoch,
        life: 0,
        named: false,
        by: "test".to_owned(),
    }
}

#[test]
fn an_adopted_cluster_begins_at_its_timeline_plus_one() {
    let mut bench = Bench::registered("a b", SynchronousMode::Quorum, 1);
    let mut leader = Leader::new();
    for (broken, rule) in [
        (Adoption { lineage: Lineage::root(Epoch(2)), ..adoption("a") }, "adopt.valid"),
        (Adoption { epoch: Epoch(0), ..adoption("a") }, "adopt.valid"),
        (adoption("x"), "member.exists"),
    ] {
        assert_eq!(bench.refused(Change::Adopt(broken)).rule(), rule);
    }
    bench.ok(Change::Adopt(adoption("a")));
    assert_eq!(bench.refused(Change::Adopt(adoption("b"))).rule(), "cluster.phase");
    assert_eq!(bench.state().spec.parameters["work_mem"], "8MB");
    assert_eq!(bench.state().spec.ident, ["m root postgres"]);
    let wanted = Desired::Adopt { system_id: SYSTEM, epoch: Epoch(3) };
    assert_eq!(desired(bench.state(), &m("a")), wanted);
    assert!(matches!(desired(bench.state(), &m("b")), Desired::Wait { .. }));

    // It is not the cluster's before its agent has recorded it.
    adoptable(&mut leader, "a", &data(Was::Primary, 500));
    assert_eq!(leader.plan(&bench).proposal, None);
    let mut down = ended("a", 2, false);
    leader.hears("a", down.clone());
    assert_eq!(leader.plan(&bench).proposal, None);
    down.ended = Epoch(3);
    // An earlier life may have left as much.
    leader.hears("a", down.clone());
    assert_eq!(leader.plan(&bench).proposal, None);
    down.life = bench.state().adopted.as_ref().unwrap().life;
    leader.hears("a", down);
    let change = leader.plan(&bench).proposal.unwrap();
    let foreign =
        Change::FinishBootstrap { member: m("a"), system_id: SystemId(1), epoch: Epoch(3) };
    assert_eq!(bench.refused(foreign).rule(), "cluster.phase");
    bench.ok(change);
    assert_eq!(bench.state().phase, Phase::Running);
    let tenure = bench.state().tenure.clone().unwrap();
    assert_eq!(tenure.closed.map(|c| c.reason), Some(CloseReason::Initial));

    // Only who has the primary's data is enough for the first grant, and its timeline is the next.
    let with =
        |s: super::observation::Sealed| super::observation::Sealed { lineage: lineage(), ..s };
    let standby = grant(&bench, "b", vec![with(sealed("b", 4, 3, 400))], any(4, 1, "a"));
    assert_eq!(bench.refused(standby).rule(), "takeover.read-quorum");
    let mut evidence = vec![with(holder("a", 4, 3, 500, 3)), with(sealed("b", 4, 3, 400))];
    evidence[1].member = m("b");
    bench.ok(grant(&bench, "a", evidence, any(4, 1, "b")));
    bench.ok(promotion(&bench, 600));
    bench.ok(activation(&bench));
    assert_eq!(bench.state().lineage, lineage().with(Epoch(4), Lsn(600)));
    bench.ok(register("c", "node-c", Some(SYSTEM)));
}

#[test]
fn a_standby_is_never_named() {
    use Was::{Primary, Standby, Unclear};
    let crashed = Adoptable { standby: true, ..data(Unclear, 500) };
    for standby in [data(Standby, 500), crashed] {
        let found = found(&[("a", standby), ("b", data(Primary, 400))]);
        assert_eq!(choose(&found, Some(&m("a"))).unwrap_err().rule(), "adopt.standby");
        assert_eq!(choose(&found, Some(&m("b"))).unwrap().0, &m("b"));
    }
}

#[test]
fn only_a_part_of_the_adopted_log_follows_it() {
    let mut bench = Bench::registered("a b", SynchronousMode::Quorum, 1);
    bench.ok(Change::Adopt(adoption("a")));
    let adopted = bench.state().adopted.clone().unwrap();
    let s = data(Was::Standby, 500);
    let older = |end| {
        let lineage = Lineage::root(Epoch(1)).with(Epoch(2), Lsn(100));
        Adoptable { epoch: Epoch(2), seen: Epoch(2), lineage, ..data(Was::Standby, end) }
    };
    let elsewhere = Lineage::root(Epoch(1)).with(Epoch(3), Lsn(150));
    for (own, follows) in [
        (s.clone(), true),
        (data(Was::Standby, 501), false),
        (data(Was::Primary, 400), false),
        (data(Was::Unclear, 400), false),
        (older(200), true),
        (older(201), false),
        (Adoptable { system_id: SystemId(1), ..s.clone() }, false),
        (Adoptable { seen: Epoch(4), ..s.clone() }, false),
        (Adoptable { epoch: Epoch(4), seen: Epoch(4), ..s.clone() }, false),
        (Adoptable { lineage: elsewhere, ..s }, false),
    ] {
        assert_eq!(adopted.contains(&own), follows, "{own:?}");
    }
}

#[test]
fn the_first_grant_is_above_what_an_earlier_life_knew() {
    let mut bench = Bench::registered("a b c", SynchronousMode::Quorum, 1);
    let mut leader = Leader::new();
    adoptable(&mut leader, "a", &data(Was::Primary, 500));
    let other = Adoptable { known: Epoch(8), life: 1 << 60, ..data(Was::Standby, 400) };
    adoptable(&mut leader, "b", &other);
    let mut empty = report("c", Condition::Down);
    (empty.data, empty.promised) = (Data::Empty, Epoch(9));
    leader.hears("c", empty);
    let now = leader.now;
    let adoption =
        adoption_check(bench.state(), &leader.observed, None, "test".into(), now).unwrap();
    assert_eq!((adoption.epoch, adoption.base), (Epoch(3), Epoch(9)));
    bench.ok(Change::Adopt(adoption));
    assert!(bench.state().adopted.as_ref().unwrap().life > 1 << 60);
    bench.ok(Change::FinishBootstrap { member: m("a"), system_id: SYSTEM, epoch: Epoch(3) });
    assert_eq!((bench.state().epoch, bench.state().lineage.clone()), (Epoch(9), lineage()));
    let of = |s| super::observation::Sealed { lineage: lineage(), ..s };
    // Who held 8 in another life is no holder of this one.
    let old = grant(&bench, "b", vec![of(holder("b", 10, 3, 400, 8))], any(10, 1, "a"));
    assert_eq!(bench.refused(old).rule(), "takeover.read-quorum");
    bench.ok(grant(&bench, "a", vec![of(holder("a", 10, 3, 500, 9))], any(10, 1, "b")));
    bench.ok(promotion(&bench, 600));
    bench.ok(activation(&bench));
    assert_eq!(bench.state().lineage, lineage().with(Epoch(10), Lsn(600)));
}

#[test]
fn nothing_is_made_beside_data_of_a_member_that_is_not_listed() {
    let mut bench = Bench::registered("a b", SynchronousMode::Quorum, 1);
    let mut leader = Leader::new();
    let empty = |name: &str| {
        let mut report = report(name, Condition::Down);
        report.data = Data::Empty;
        report
    };
    for name in ["a", "b"] {
        leader.hears(name, empty(name));
    }
    bench.ok(register("c", "node-c", None));
    assert!(matches!(leader.plan(&bench).proposal, Some(Change::BeginBootstrap { .. })));
    adoptable(&mut leader, "c", &data(Was::Primary, 500));
    let plan = leader.plan(&bench);
    assert_eq!(plan.proposal, None);
    assert!(rules(&plan).contains(&"adopt.waits"), "{plan:?}");
    leader.hears("c", report("c", Condition::Down));
    assert_eq!(leader.plan(&bench).proposal, None);
}

#[test]
fn newer_data_of_a_member_that_is_not_listed_is_not_passed_over() {
    let mut bench = Bench::registered("a b", SynchronousMode::Quorum, 1);
    bench.ok(register("c", "node-c", None));
    let mut leader = Leader::new();
    let check = |leader: &Leader, named: Option<&str>| {
        let (named, by) = (named.map(m), "test".to_owned());
        match adoption_check(bench.state(), &leader.observed, named.as_ref(), by, leader.now) {
            Ok(adoption) => vec![adoption.member.to_string()],
            Err(problems) => problems.iter().map(|p| p.rule().to_owned()).collect(),
        }
    };
    let listed = |leader: &mut Leader| {
        adoptable(leader, "a", &data(Was::Primary, 500));
        adoptable(leader, "b", &data(Was::Standby, 500));
    };
    listed(&mut leader);
    assert_eq!(check(&leader, None), ["a"]);
    for (other, rule) in [
        (data(Was::Standby, 501), "adopt.newest"),
        (data(Was::Primary, 501), "adopt.one-primary"),
        (Adoptable { system_id: SystemId(1), ..data(Was::Primary, 501) }, "adopt.one-cluster"),
    ] {
        adoptable(&mut leader, "c", &other);
        assert_eq!(check(&leader, None), [rule]);
    }
    let blocked = Adoptable { problems: vec!["it runs".to_owned()], ..data(Was::Standby, 400) };
    adoptable(&mut leader, "c", &blocked);
    assert_eq!(check(&leader, None), ["adopt.ready"]);

    // What it said last counts where it is silent; the operator's word decides, but not for it.
    adoptable(&mut leader, "c", &data(Was::Primary, 501));
    leader.pass_ms(2_001);
    listed(&mut leader);
    assert_eq!(check(&leader, None), ["adopt.one-primary"]);
    assert_eq!(check(&leader, Some("a")), ["a"]);
    assert_eq!(check(&leader, Some("c")), ["adopt.all-members"]);
    adoptable(&mut leader, "c", &data(Was::Primary, 501));
    assert_eq!(check(&leader, Some("c")), ["c"]);
}
