//! The files that PostgreSQL is configured by: what the operator says must get through as it is,
//! and must never become another setting.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::domain::types::{ClusterName, Epoch, MemberName};
use crate::generate;
use crate::input::Input;
use crate::postgres::conf::{
    self, Role, Settings, Synchronous, check_operator, is_owned, render, render_operator,
    strip_owned,
};
use crate::postgres::hba::{self, Rules};
use crate::postgresql;

/// The first byte chooses what the rest is taken for.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 4 {
        0 => operator(&mut input),
        1 => ours(&mut input),
        2 => altered(&String::from_utf8_lossy(input.rest())),
        _ => access(&mut input),
    }
}

fn words(input: &mut Input<'_>) -> String {
    let n = input.below(48);
    String::from_utf8_lossy(input.bytes(n)).into_owned()
}

fn parameters(input: &mut Input<'_>) -> BTreeMap<String, String> {
    let names = ["work_mem", "wal_level", "fsync", "max_wal_senders", "port", "x.y", "Search_Path"];
    input
        .list(4, |i| {
            let name = if i.stray() { words(i) } else { i.pick(&names).to_owned() };
            let value =
                if i.flag() { words(i) } else { i.pick(&["4MB", "logical", "on"]).to_owned() };
            (name, value)
        })
        .into_iter()
        .collect()
}

/// What PostgreSQL reads of the operator's file is what the operator wrote, without what is ours.
fn operator(input: &mut Input<'_>) {
    let given = parameters(input);
    let Ok(text) = render_operator(&given) else {
        assert!(check_operator(&given).is_err());
        return;
    };
    let read = postgresql::settings(&text)
        .unwrap_or_else(|line| panic!("PostgreSQL refuses line {line} of {text:?}"));
    let read: BTreeMap<String, String> = read.into_iter().collect();
    for (name, value) in &given {
        if !is_owned(name) {
            // Two names that differ in case only are one to PostgreSQL: the last counts.
            let last = given.iter().rfind(|(n, _)| n.eq_ignore_ascii_case(name));
            let wanted = last.map_or(value, |(_, value)| value);
            assert_eq!(read.get(&name.to_ascii_lowercase()), Some(wanted), "{text:?}");
        }
    }
    for name in read.keys() {
        assert!(!is_owned(name), "{name} is ours: {text:?}");
    }
}

fn members(input: &mut Input<'_>) -> Vec<MemberName> {
    input.list(3, generate::member)
}

fn ours(input: &mut Input<'_>) {
    let count = input.below(4) as u32;
    let synchronous = match input.below(3) {
        0 => Synchronous::Nobody,
        1 => Synchronous::Any { count, members: members(input) },
        _ => Synchronous::First { count, members: members(input) },
    };
    let epoch = Epoch(input.number(3));
    let role = match input.below(3) {
        0 => Role::Sealed { promised: epoch },
        1 => Role::Standby {
            epoch,
            host: words(input),
            port: input.word() as u16,
            slot: "quorate_a".to_owned(),
            eager: input.flag(),
            delay_ms: input.number(0),
        },
        _ => Role::Primary { epoch, read_only: input.flag() },
    };
    let settings = Settings {
        cluster: ClusterName::new("main").expect("a valid name"),
        member: generate::member(input),
        listen_addresses: words(input),
        port: input.word() as u16,
        pgdata: PathBuf::from(words(input)),
        socket_dir: PathBuf::from(words(input)),
        log_dir: PathBuf::from(words(input)),
        passfile: PathBuf::from(words(input)),
        replication_user: words(input),
        connection: input
            .list(2, |i| (i.pick(&["sslmode", "sslrootcert"]).to_owned(), words(i)))
            .into_iter()
            .collect(),
        major: 14 + input.below(5) as u32,
        max_wal_senders: input.number(10) as u32,
        max_replication_slots: input.number(10) as u32,
        operator: parameters(input),
        synchronous,
        role,
    };
    let Ok(text) = render(&settings) else { return };
    let read = postgresql::settings(&text)
        .unwrap_or_else(|line| panic!("PostgreSQL refuses line {line} of {text:?}"));
    let get = |name: &str| {
        let found: Vec<&String> = read.iter().filter(|(n, _)| n == name).map(|(_, v)| v).collect();
        assert_eq!(found.len(), 1, "{name} in {text:?}");
        found[0].clone()
    };
    assert_eq!(get("restart_after_crash"), "off");
    assert_eq!(get("wal_log_hints"), "on");
    assert_eq!(get("fsync"), "on");
    assert_eq!(get("synchronous_standby_names"), settings.synchronous.render());
    assert_eq!(get("listen_addresses"), settings.listen_addresses);
    assert_eq!(get("restore_command"), "");
    let line = get("primary_conninfo");
    match &settings.role {
        Role::Standby { host, .. } => {
            let read = postgresql::conninfo(&line).unwrap_or_else(|| panic!("libpq: {line:?}"));
            let last = |name: &str| read.iter().rfind(|(n, _)| n == name).map(|(_, v)| v.as_str());
            assert_eq!(last("host"), Some(host.as_str()), "{line:?}");
            assert_eq!(last("user"), Some(settings.replication_user.as_str()), "{line:?}");
            assert_eq!(last("application_name"), Some(settings.member.as_str()), "{line:?}");
        }
        _ => assert_eq!(line, "", "only a standby that follows takes WAL from anybody"),
    }
}

/// Whatever ALTER SYSTEM has left there, nothing of ours is in it afterwards.
fn altered(text: &str) {
    let (kept, removed) = strip_owned(text);
    assert!(removed.iter().all(|name| conf::is_owned(name)));
    assert_eq!(strip_owned(&kept), (kept.clone(), Default::default()), "{text:?}");
    if let Ok(read) = postgresql::settings(&kept) {
        for (name, _) in read {
            assert!(!is_owned(&name), "{name} is ours, and is kept of {text:?}");
        }
    }
    if let Ok(read) = postgresql::settings(text) {
        let others = read.iter().filter(|(name, _)| !is_owned(name)).count();
        let left = postgresql::settings(&kept).map(|read| read.len());
        assert_eq!(left, Ok(others), "{text:?} becomes {kept:?}");
    }
}

/// Our rules come first and the operator's are as many as they were.
fn access(input: &mut Input<'_>) {
    let rules = Rules {
        superuser: "admin".to_owned(),
        replication: "replicator".to_owned(),
        rewind: "rewinder".to_owned(),
        peers: input.list(2, |i| {
            if i.flag() { words(i) } else { i.pick(&["10.0.0.1", "fd00::1", "db"]).to_owned() }
        }),
        peers_tls: input.flag(),
        slot_sync: input.flag(),
        operator: input.list(3, |i| {
            let line = i.pick(&["host all all 10.0.0.0/8 md5", "local all all peer", ""]);
            if i.flag() { words(i) } else { format!("{line}{}", words(i)) }
        }),
        ident: Vec::new(),
    };
    let Ok(text) = hba::render(&rules) else { return };
    let lines: Vec<_> =
        text.split('\n').map(postgresql::hba_fields).filter(|f| !f.is_empty()).collect();
    let peers = rules.peers.len().max(1) * if rules.slot_sync { 3 } else { 2 };
    let operator = if rules.operator.is_empty() { 2 } else { rules.operator.len() };
    assert_eq!(lines.len(), 2 + peers + operator, "{text:?}");
    for line in text.split('\n').filter(|line| !postgresql::hba_fields(line).is_empty()) {
        assert_eq!(postgresql::hba_problem(line), Ok(()), "{line:?}");
    }
    let first: Vec<&str> = lines[0].iter().filter_map(|f| f.first()).map(String::as_str).collect();
    assert_eq!(first, ["local", "all", "admin", "scram-sha-256"]);
    // A line that ends so would take the next one with it.
    assert!(!text.lines().any(|line| line.ends_with('\\')), "{text:?}");
}
