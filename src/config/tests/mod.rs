//! What is accepted, how problems are told, and (in `refusals`) every refusal.

mod refusals;

use std::path::Path;

use super::*;

const GOOD: &str = r#"
control_plane = "demo"
secret_file = "secret"
[node]
name = "n1"
roles = ["controller", "agent"]
listen = "10.0.0.1:7401"
data_dir = "n1"
[raft]
node_id = 1
[[controller]]
id = 1
name = "n1"
address = "10.0.0.1:7401"
[[controller]]
id = 2
name = "n2"
address = "10.0.0.2:7401"
[[controller]]
id = 3
name = "n3"
address = "10.0.0.3:7401"
[timing]
report_ms = 500
[[cluster]]
name = "main"
bootstrap_members = ["a", "b", "c"]
hba = ["host all all 10.0.0.0/8 scram-sha-256"]
[cluster.parameters]
shared_buffers = "128MB"
[[member]]
cluster = "main"
name = "a"
address = "10.0.0.1:5501"
data_dir = "/srv/a"
"#;

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("/etc/quorate/hanode.toml"))
}

/// The valid file with the first `from` replaced by `to`.
fn edited(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the test edits what is not there: {from}");
    GOOD.replacen(from, to, 1)
}

#[test]
fn a_valid_file_gets_the_documented_defaults() {
    let c = parse(GOOD).unwrap();
    assert_eq!(c.control_plane, "demo");
    assert_eq!(c.secret_file, Path::new("/etc/quorate/secret"));
    assert!(c.has_role(Role::Controller) && c.has_role(Role::Agent));
    assert_eq!(c.node.advertise.to_string(), "10.0.0.1:7401");
    assert_eq!(c.node.data_dir, Path::new("/etc/quorate/n1"));
    assert_eq!(c.node.run_dir, Path::new("/etc/quorate/n1/run"));
    assert_eq!(c.node.log_format, LogFormat::Text);
    assert_eq!(
        c.raft,
        Raft {
            node_id: Some(1),
            join: false,
            heartbeat_ms: 100,
            election_min_ms: 500,
            election_max_ms: 1000
        }
    );
    assert_eq!(
        c.timing,
        Timing {
            renew_ms: 500,
            ttl_ms: 3000,
            fence_margin_ms: 300,
            kill_margin_ms: 200,
            suspect_ms: 2200,
            clock_error_ppm: 10_000,
            report_ms: 500,
        }
    );
    let cluster = &c.clusters[0];
    assert_eq!((cluster.synchronous, cluster.write_quorum), (Synchronous::Quorum, 1));
    assert_eq!((cluster.crash_failovers_max, cluster.crash_window_ms), (3, 600_000));
    assert!(!cluster.failsafe, "off by default");
    assert_eq!(cluster.parameters["shared_buffers"], "128MB");
    let m = &c.members[0];
    assert_eq!(m.listen_addresses, "10.0.0.1");
    assert_eq!(m.log_dir, Path::new("/etc/quorate/n1/log/main.a"));
    assert_eq!(m.socket_dir, Path::new("/etc/quorate/n1/run/main.a/socket"));
    assert_eq!(m.postgres_socket(), Path::new("/etc/quorate/n1/run/main.a/socket/.s.PGSQL.5501"));
    assert_eq!(c.guard_dir(m), Path::new("/etc/quorate/n1/run/main.a.guard"));
    assert_eq!(c.member_run_dir(m), Path::new("/etc/quorate/n1/run/main.a"));
    assert_eq!((m.fencing, m.tags.nofailover, m.failover_priority), (Fencing::Required, false, 0));
    assert_eq!((m.aside_count_max, m.aside_bytes_max), (2, 0));
    assert_eq!(c.warnings, []);
}

#[test]
fn the_sums_of_the_default_times() {
    let t = parse(GOOD).unwrap().timing;
    assert_eq!((t.orderly_stop_ms(), t.kill_ms()), (2700, 2800));
    // 3000 * 1.01 / 0.99 = 3060.6...
    assert_eq!(t.takeover_ms(), 3061);
}

#[test]
fn forms_that_are_accepted() {
    // How commits are protected, where nothing is said of it: by the number of members.
    let protection = |text: &str| {
        let cluster = parse(text).unwrap().clusters.remove(0);
        (cluster.synchronous, cluster.write_quorum, cluster.write_quorum_min)
    };
    let members = |list: &str| edited("[\"a\", \"b\", \"c\"]", list);
    assert_eq!(protection(&members("[\"a\"]")), (Synchronous::Async, 0, 0));
    assert_eq!(protection(&members("[\"a\", \"b\"]")), (Synchronous::Quorum, 1, 0));
    assert_eq!(protection(&members("[\"a\", \"b\", \"c\"]")), (Synchronous::Quorum, 1, 1));
    let with = |lines: &str| edited("hba =", &format!("{lines}\nhba ="));
    let priority = "synchronous = \"priority\"\nwrite_quorum = 2";
    assert_eq!(protection(&with(priority)), (Synchronous::Priority, 2, 1));
    assert_eq!(protection(&with("write_quorum = 2\nstrict = true")), (Synchronous::Quorum, 2, 2));
    let lossy = with("synchronous = \"async\"\nmax_lag_bytes = 1048576");
    assert_eq!(parse(&lossy).unwrap().clusters[0].max_lag_bytes, Some(1 << 20));

    let named = edited("10.0.0.1:5501", "db1.example.org:5501");
    assert_eq!(parse(&named).unwrap().members[0].listen_addresses, "*");

    let any = edited(
        "listen = \"10.0.0.1:7401\"",
        "listen = \"0.0.0.0:7401\"\nadvertise = \"10.0.0.1:7401\"",
    );
    assert!(parse(&any).is_ok());

    let agent = edited("\"controller\", \"agent\"", "\"agent\"")
        .replace("node_id = 1", "")
        .replace("name = \"n1\"\nroles", "name = \"db9\"\nroles")
        .replace("listen = \"10.0.0.1", "listen = \"10.0.0.9");
    let agent = parse(&agent).unwrap();
    assert_eq!(agent.raft.node_id, None);
    assert!(!agent.has_role(Role::Controller));

    let values = edited(
        "shared_buffers = \"128MB\"",
        "max_connections = 300\nrandom_page_cost = 1.5\njit = false\n\"pg_stat_statements.max\" = 100",
    );
    let c = parse(&values).unwrap();
    let texts: Vec<_> = c.clusters[0].parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        texts,
        ["jit=off", "max_connections=300", "pg_stat_statements.max=100", "random_page_cost=1.5"]
    );
}

#[test]
fn owned_settings_are_refused_by_name_and_their_values_never_shown() {
    for owned in OWNED {
        let text = edited("shared_buffers = \"128MB\"", &format!("{} = \"hunter2\"", owned.name));
        let error = parse(&text).unwrap_err();
        assert!(error.to_string().contains(owned.reason), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn a_misplaced_password_is_never_shown() {
    for (from, to) in [
        ("\"/srv/a\"", "\"/srv/a\"\npassword = \"hunter2\""),
        ("\"/srv/a\"", "\"/srv/a\"\npriority = \"hunter2\""),
        ("\"/srv/a\"", "\"/srv/a\"\npassword = \"hunter2\" x"),
        ("\"host all", "\"hots hunter2"),
    ] {
        let error = parse(&edited(from, to)).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[test]
fn all_problems_come_at_once_with_a_hint_for_typing_errors() {
    let text = edited("report_ms = 500", "tll_ms = 1\nreport_ms = 0")
        .replace("\"demo\"", "\"\"")
        .replace("10.0.0.2:7401", "nowhere");
    let error = parse(&text).unwrap_err();
    let keys: Vec<_> = error.problems().iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        keys,
        ["control_plane", "timing.report_ms", "timing.tll_ms", "controller[n2].address"]
    );
    assert!(error.problems()[2].mend.contains("write ttl_ms"), "{error}");
}

#[test]
fn warnings_do_not_refuse() {
    let third = GOOD.find("[[controller]]\nid = 3").unwrap();
    let end = GOOD.find("[timing]").unwrap();
    let two = format!("{}{}", &GOOD[..third], &GOOD[end..]);
    let c = parse(&two).unwrap();
    assert!(c.warnings[0].problem.contains("2 controllers survive the loss of 0"));

    let later = parse(&edited("name = \"a\"", "name = \"d\"")).unwrap();
    assert!(later.warnings[0].problem.contains("joins once the cluster has data"));

    let failsafe = edited("hba =", "failsafe = true\nhba =");
    assert!(parse(&failsafe).unwrap().clusters[0].failsafe);
    let alone = failsafe.replace("[\"a\", \"b\", \"c\"]", "[\"a\"]");
    assert!(parse(&alone).unwrap().warnings[0].problem.contains("no other member to ask"));

    let soft = parse(&edited("\"/srv/a\"", "\"/srv/a\"\nfencing = \"best-effort\"")).unwrap();
    assert!(soft.warnings[0].problem.contains("two primaries"));
}

#[test]
fn syntax_errors_name_line_and_column() {
    match parse("control_plane = \"demo\"\n\n  x = \n") {
        Err(Error::Syntax { line: 3, column, .. }) => assert!((6..=8).contains(&column)),
        other => panic!("{other:?}"),
    }
    let missing = Config::load(Path::new("/nonexistent/hanode.toml")).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/hanode.toml: cannot be read"));
}
