//! Tests of the rendering of settings.

use super::*;
use proptest::prelude::*;

fn member(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

fn settings(role: Role) -> Settings {
    Settings {
        cluster: ClusterName::new("main").unwrap(),
        member: member("pg-1"),
        listen_addresses: "*".into(),
        port: 5432,
        pgdata: "/data".into(),
        socket_dir: "/run/x".into(),
        log_dir: "/var/log/x".into(),
        passfile: "/run/x/pass file".into(),
        replication_user: "replicator".into(),
        connection: BTreeMap::from([("sslmode".into(), "prefer".into())]),
        major: 15,
        max_wal_senders: 12,
        max_replication_slots: 12,
        operator: BTreeMap::from([("work_mem".into(), "8MB".into())]),
        synchronous: Synchronous::Any { count: 1, members: vec![member("pg-2"), member("pg-3")] },
        role,
    }
}

/// What PostgreSQL's scanner makes of a quoted value (`DeescapeQuotedString`).
fn unquote(quoted: &str) -> String {
    let inner = quoted.strip_prefix('\'').unwrap().strip_suffix('\'').unwrap();
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(match chars.next().unwrap() {
                '\\' => '\\',
                other => panic!("escape of {other:?}"),
            }),
            '\'' => {
                assert_eq!(chars.next(), Some('\''), "the value ends early");
                out.push('\'');
            }
            c => out.push(c),
        }
    }
    out
}

proptest! {
    #[test]
    fn quoting_loses_nothing(value: String) {
        match quote(&value) {
            Some(quoted) => prop_assert_eq!(unquote(&quoted), value),
            None => prop_assert!(value.contains(['\n', '\r', '\0'])),
        }
    }

    #[test]
    fn nothing_gets_out_of_a_value(name in "\\PC{0,20}", value in "(?s).{0,20}") {
        let operator = BTreeMap::from([(name, value)]);
        if let Ok(text) = render_operator(&operator) {
            // The header, two defaults and one setting.
            prop_assert!(text.lines().count() <= 4, "{}", text);
        }
    }

    #[test]
    fn stripping_is_total(text in "(?s).*") {
        let (kept, _) = strip_owned(&text);
        prop_assert_eq!(strip_owned(&kept).1, BTreeSet::new());
    }
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let prefix = format!("{name} = ");
    text.lines().find_map(|l| l.strip_prefix(prefix.as_str()))
}

#[test]
fn a_sealed_server_takes_wal_from_nobody() {
    let text = render(&settings(Role::Sealed { promised: Epoch(7) })).unwrap();
    for (name, expected) in [
        ("primary_conninfo", "''"),
        ("primary_slot_name", "''"),
        ("restore_command", "''"),
        ("quorate.epoch", "'7'"),
        ("wal_retrieve_retry_interval", "'20ms'"),
        ("recovery_min_apply_delay", "'0'"),
        ("recovery_target_xid", "''"),
        ("synchronous_standby_names", "'ANY 1 (\"pg-2\", \"pg-3\")'"),
        ("default_transaction_read_only", "'on'"),
        ("restart_after_crash", "'off'"),
    ] {
        assert_eq!(value(&text, name), Some(expected), "{name}");
    }
}

#[test]
fn a_standby_follows_under_its_own_name() {
    let role = Role::Standby {
        epoch: Epoch(7),
        host: "db'2".into(),
        port: 5433,
        slot: member("pg-1").slot_name(),
        eager: false,
        delay_ms: 0,
    };
    let mut late = role.clone();
    if let Role::Standby { delay_ms, .. } = &mut late {
        *delay_ms = 3_600_000;
    }
    let delayed = render(&settings(late)).unwrap();
    assert_eq!(value(&delayed, "recovery_min_apply_delay"), Some("'3600000ms'"));
    let text = render(&settings(role)).unwrap();
    let conninfo = unquote(value(&text, "primary_conninfo").unwrap());
    for part in [
        "host='db\\'2'",
        "port='5433'",
        "application_name='pg-1'",
        "passfile='/run/x/pass file'",
        "sslmode='prefer'",
    ] {
        assert!(conninfo.contains(part), "{part} in {conninfo}");
    }
    assert_eq!(value(&text, "primary_slot_name"), Some("'quorate_pg_1'"));
    assert_eq!(value(&text, "recovery_min_apply_delay"), None);
}

#[test]
fn the_primary_is_read_only_until_it_is_active() {
    for (read_only, expected) in [(true, "'on'"), (false, "'off'")] {
        let text = render(&settings(Role::Primary { epoch: Epoch(7), read_only })).unwrap();
        assert_eq!(value(&text, "default_transaction_read_only"), Some(expected));
    }
}

#[test]
fn every_setting_that_is_rendered_is_owned() {
    let operators =
        ["recovery_min_apply_delay", "max_standby_streaming_delay", "max_standby_archive_delay"];
    let text = render(&settings(Role::Sealed { promised: Epoch(7) })).unwrap();
    for line in text.lines().skip(1) {
        let name = line.split_once(" = ").unwrap().0;
        assert!(is_owned(name) || operators.contains(&name), "{name}");
    }
}

#[test]
fn owned_settings_are_refused_and_stripped() {
    let one = |name: &str, value: &str| {
        check_operator(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    };
    assert_eq!(one("work_mem", "4MB"), Ok(()));
    assert_eq!(one("pg_stat_statements.max", "1"), Ok(()));
    assert_eq!(one("wal_level", "logical"), Ok(()));
    assert_eq!(one("fsync", "on"), Ok(()));
    assert!(matches!(one("fsync", "off"), Err(Error::Owned { .. })));
    assert_eq!(one("max_wal_senders", "40"), Ok(()));
    assert!(matches!(one("max_wal_senders", "much"), Err(Error::Owned { .. })));
    assert!(matches!(one("wal_level", "minimal"), Err(Error::Owned { .. })));
    assert!(matches!(one("Synchronous_Standby_Names", "*"), Err(Error::Owned { .. })));
    assert!(matches!(one("work_mem = 1\nport", "1"), Err(Error::Name { .. })));
    assert!(matches!(one("include", "x\ny"), Err(Error::Value { .. })));
    let auto = "# comment\nwork_mem = '4MB'\n  Synchronous_Standby_Names='*'\nport = 1\n";
    let (kept, removed) = strip_owned(auto);
    assert_eq!(kept, "# comment\nwork_mem = '4MB'\n");
    let removed: Vec<_> = removed.into_iter().collect();
    assert_eq!(removed, ["port", "synchronous_standby_names"]);
    // A letter to PostgreSQL is also what is not ASCII: this is another name.
    assert!(strip_owned("restart_after_crash\u{e9} = 'on'\n").1.is_empty());
}

#[test]
fn a_quorum_must_be_possible() {
    let members = vec![member("a"), member("b")];
    let any = |count, members: &[MemberName]| {
        Synchronous::Any { count, members: members.to_vec() }.check()
    };
    assert_eq!(any(2, &members), Ok(()));
    assert!(any(3, &members).is_err());
    assert!(any(0, &members).is_err());
    assert!(any(1, &[]).is_err());
    assert!(any(2, &[member("a"), member("a")]).is_err());
    assert_eq!(Synchronous::Nobody.check(), Ok(()));
    assert_eq!(Synchronous::First { count: 1, members }.render(), "FIRST 1 (\"a\", \"b\")");
}

/// The configuration refuses what we write ourselves, and what it takes is not refused later.
#[test]
fn both_lists_of_owned_settings_agree() {
    for name in OWNED {
        let refused = crate::config::owned_reason(name).is_some();
        assert_eq!(refused, !SHARED.contains(&name), "{name}");
    }
    for owned in crate::config::OWNED {
        assert!(is_owned(owned.name), "{}", owned.name);
    }
    assert!(SHARED.iter().all(|name| is_owned(name)));
}

#[test]
fn the_operator_can_raise_what_members_need() {
    let mut given = settings(Role::Sealed { promised: Epoch(7) });
    let of = |s: &Settings, name: &str| value(&render(s).unwrap(), name).map(str::to_owned);
    for (wanted, expected) in [("4", "'12'"), ("40", "'40'")] {
        for name in ["max_wal_senders", "max_replication_slots"] {
            given.operator.insert(name.into(), wanted.into());
            assert_eq!(of(&given, name).as_deref(), Some(expected), "{name}");
        }
        assert!(!render_operator(&given.operator).unwrap().contains("max_"));
    }
}

#[test]
fn logical_slots_are_kept_where_postgresql_can() {
    let standby = Role::Standby {
        epoch: Epoch(7),
        host: "db2".into(),
        port: 5433,
        slot: member("pg-1").slot_name(),
        eager: false,
        delay_ms: 0,
    };
    let sealed = Role::Sealed { promised: Epoch(7) };
    let primary = Role::Primary { epoch: Epoch(7), read_only: false };
    let rendered = |role: &Role, major, level: &str| {
        let mut settings = Settings { major, ..settings(role.clone()) };
        settings.operator.insert("wal_level".into(), level.into());
        render(&settings).unwrap()
    };
    // Neither an older version nor one without logical decoding may get to see such settings.
    for (major, level) in [(15, "logical"), (16, "logical"), (17, "replica")] {
        for role in [&standby, &sealed, &primary] {
            let text = rendered(role, major, level);
            assert_eq!(value(&text, "sync_replication_slots"), None, "{major}");
            assert_eq!(value(&text, "synchronized_standby_slots"), None, "{major}");
            assert!(!text.contains("dbname"), "{major}");
        }
    }
    for (role, copies, ahead) in [
        (&standby, "'on'", "''"),
        (&sealed, "'off'", "''"),
        (&primary, "'off'", "'quorate_pg_2, quorate_pg_3'"),
    ] {
        let text = rendered(role, 17, "logical");
        assert_eq!(value(&text, "sync_replication_slots"), Some(copies), "{role:?}");
        assert_eq!(value(&text, "synchronized_standby_slots"), Some(ahead), "{role:?}");
        assert_eq!(value(&text, "hot_standby_feedback"), Some("'on'"));
    }
    let text = rendered(&standby, 18, "logical");
    let conninfo = unquote(value(&text, "primary_conninfo").unwrap());
    assert!(conninfo.contains("dbname='postgres'"), "{conninfo}");
    // Nobody confirms, so nobody has to be waited for.
    let alone = Settings {
        major: 17,
        synchronous: Synchronous::Nobody,
        operator: BTreeMap::from([("wal_level".into(), "logical".into())]),
        ..settings(primary)
    };
    assert_eq!(value(&render(&alone).unwrap(), "synchronized_standby_slots"), Some("''"));
}
