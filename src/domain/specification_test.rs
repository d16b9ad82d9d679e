//! Differences between specifications, and what histories tell of them.

use super::*;
use crate::domain::types::MemberName;

fn spec() -> ClusterSpec {
    ClusterSpec::of(["a", "b", "c"].iter().map(|m| MemberName::new(*m).unwrap()).collect())
}

fn shown(changes: &[SpecChange]) -> Vec<(&str, Option<&str>, Option<&str>)> {
    changes.iter().map(|c| (c.key.as_str(), c.old.as_deref(), c.new.as_deref())).collect()
}

#[test]
fn every_key_is_compared() {
    let old = spec();
    assert_eq!(differences(&old, &old), vec![]);
    let mut new = old.clone();
    new.synchronous = SynchronousMode::Priority;
    new.write_quorum = 2;
    new.failsafe = true;
    new.parameters.insert("work_mem".into(), "8MB".into());
    new.hba.push("host all all ::/0 md5".into());
    let changes = differences(&old, &new);
    let want = [
        ("failsafe", Some("false"), Some("true")),
        ("parameters.work_mem", None, Some("8MB")),
        ("synchronous", Some("quorum"), Some("priority")),
        ("write_quorum", Some("1"), Some("2")),
        ("hba", None, Some("host all all ::/0 md5")),
    ];
    assert_eq!(shown(&changes), want);
    // No field of the specification is forgotten by the comparison.
    let as_json = serde_json::to_value(&old).unwrap();
    let fields: Vec<&String> = as_json.as_object().unwrap().keys().collect();
    assert_eq!(fields.len(), 17, "compare the new field too: {fields:?}");
}

#[test]
fn an_order_is_a_difference() {
    let line = |n: u8| format!("host all all 10.0.0.{n}/32 md5");
    let old = ClusterSpec { hba: vec![line(1), line(2)], ..spec() };
    let new = ClusterSpec { hba: vec![line(2), line(1)], ..spec() };
    assert_eq!(shown(&differences(&old, &new)).len(), 1);
}

#[test]
fn histories_hold_no_passwords() {
    let mut new = spec();
    new.hba.push("host all all ::/0 ldap ldapserver=x ldapbindpasswd=hunter2".into());
    new.parameters.insert("ssl_passphrase_command".into(), "echo hunter2".into());
    new.parameters.insert("app.secret".into(), "hunter2".into());
    let changes = differences(&spec(), &new);
    assert!(format!("{changes:?}").contains("hunter2"));
    let told: Vec<_> = changes.iter().map(SpecChange::for_history).collect();
    assert!(!format!("{told:?}").contains("hunter2"), "{told:?}");
    assert!(format!("{told:?}").contains("host all all ::/0 ldap"));
}

#[test]
fn what_an_operator_must_not_ask_for() {
    let all: Vec<MemberName> = spec().bootstrap_members;
    let members: BTreeSet<&MemberName> = all.iter().collect();
    let problem = |change: &dyn Fn(&mut ClusterSpec)| {
        let mut new = spec();
        change(&mut new);
        update_problem(&new, &members)
    };
    assert_eq!(problem(&|_| {}), None);
    assert_eq!(problem(&|s| s.write_quorum = 2), None);
    type Change<'a> = &'a dyn Fn(&mut ClusterSpec);
    let refused: [(Change<'_>, &str); 5] = [
        (&|s| s.write_quorum = 0, "without a standby"),
        (&|s| s.write_quorum = 3, "2 other members"),
        (&|s| s.max_lag_bytes = Some(1), "max_lag_bytes"),
        (&|s| s.hba.push("a\nb".into()), "line break"),
        (&|s| _ = s.parameters.insert("a".into(), "x".repeat(70_000)), "bytes"),
    ];
    for (change, part) in refused {
        let found = problem(change).unwrap();
        assert!(found.contains(part), "{found}");
    }
}
