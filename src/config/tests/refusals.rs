//! One table of refusals: what is changed in a valid file, and the problem that must come back.

use super::{GOOD, edited, parse};

#[test]
fn every_refusal() {
    // What is replaced, with what, the key of the problem, and a part of its text.
    let table: &[(&str, &str, &str, &str)] = &[
        // Root.
        ("control_plane = \"demo\"", "", "control_plane", "is missing"),
        ("\"demo\"", "\"De mo\"", "control_plane", "not a valid node name"),
        ("\"demo\"", "7", "control_plane", "is a whole number, and a text is needed"),
        ("\"demo\"", "\"\"", "control_plane", "is empty"),
        ("secret_file = \"secret\"", "", "secret_file", "is missing"),
        ("\"secret\"", "\"a\\nb\"", "secret_file", "control character"),
        ("[node]", "extra = 1\n[node]", "extra", "is not a known key"),
        ("[timing]", "[timings]", "timings", "is not a known key"),
        ("[raft]\nnode_id = 1", "raft = 1", "node.raft", "is not a known key"),
        ("[timing]", "[[timing]]", "timing", "a table is needed"),
        ("[[cluster]]", "[cluster]", "cluster", "a list of tables is needed"),
        // Node.
        ("name = \"n1\"\nroles", "roles", "node.name", "is missing"),
        ("roles = [\"controller\", \"agent\"]", "", "node.roles", "names no role"),
        (
            "\"controller\", \"agent\"",
            "\"controller\", \"proxy\"",
            "node.roles",
            "not yet supported",
        ),
        ("\"controller\", \"agent\"", "\"master\"", "node.roles", "is not a role"),
        ("\"controller\", \"agent\"", "\"agent\", \"agent\"", "node.roles", "is given twice"),
        ("[\"controller\", \"agent\"]", "\"agent\"", "node.roles", "a list of texts is needed"),
        (
            "[\"controller\", \"agent\"]",
            "[\"agent\", 1]",
            "node.roles",
            "a list of texts is needed",
        ),
        ("listen = \"10.0.0.1:7401\"", "", "node.listen", "is missing"),
        (
            "listen = \"10.0.0.1:7401\"",
            "listen = \"here\"",
            "node.listen",
            "invalid socket address",
        ),
        ("listen = \"10.0.0.1:7401\"", "listen = \"10.0.0.1:0\"", "node.listen", "port 0"),
        ("listen = \"10.0.0.1:7401\"", "listen = \"0.0.0.0:7401\"", "node.advertise", "is missing"),
        ("listen = \"10.0.0.1:7401\"", "listen = \"[::]:7401\"", "node.advertise", "is missing"),
        (
            "data_dir = \"n1\"",
            "data_dir = \"n1\"\nadvertise = \"0.0.0.0:1\"",
            "node.advertise",
            "others can reach",
        ),
        (
            "data_dir = \"n1\"",
            "data_dir = \"n1\"\nadvertise = \"x\"",
            "node.advertise",
            "not a valid address",
        ),
        ("data_dir = \"n1\"", "", "node.data_dir", "is missing"),
        (
            "data_dir = \"n1\"",
            "data_dir = \"n1\"\nlog_format = \"xml\"",
            "node.log_format",
            "not a word",
        ),
        (
            "data_dir = \"n1\"",
            "data_dir = \"n1\"\nrun_dirs = \"x\"",
            "node.run_dirs",
            "is not a known key",
        ),
        (
            "data_dir = \"n1\"",
            "data_dir = \"n1\"\n\"run\\u001bdir\" = \"x\"",
            "node.run\\u{1b}dir",
            "is not a known key",
        ),
        // Raft and controllers.
        ("node_id = 1", "", "raft.node_id", "is missing on a controller"),
        ("node_id = 1", "node_id = 0", "raft.node_id", "is not between 1"),
        ("node_id = 1", "node_id = -1", "raft.node_id", "is not between 1"),
        ("node_id = 1", "node_id = 1.5", "raft.node_id", "a whole number is needed"),
        ("node_id = 1", "node_id = 9", "raft.node_id", "is the id of no [[controller]]"),
        ("node_id = 1", "node_id = 2", "node.name", "is not the name of controller 2"),
        ("node_id = 1", "node_id = 2", "node.advertise", "is not the address of controller 2"),
        (
            "name = \"n1\"\nroles",
            "name = \"n9\"\nroles",
            "node.name",
            "is not the name of controller 1",
        ),
        (
            "listen = \"10.0.0.1:7401\"",
            "listen = \"10.0.0.1:7402\"",
            "node.advertise",
            "is not the address",
        ),
        ("\"controller\", \"agent\"", "\"agent\"", "raft.node_id", "no controller"),
        ("\"controller\", \"agent\"", "\"agent\"", "node.name", "roles does not say so"),
        (
            "\"controller\", \"agent\"",
            "\"agent\"",
            "node.advertise",
            "is the address of controller",
        ),
        ("id = 2", "id = 1", "controller[#2].id", "is the id of controller[#1].id too"),
        ("name = \"n2\"", "name = \"n1\"", "controller[#2].name", "is the name of"),
        ("10.0.0.2:7401", "10.0.0.1:7401", "controller[#2].address", "is the address of"),
        ("10.0.0.2:7401", "127.0.0.1:7401", "controller[n2].address", "on one machine only"),
        ("10.0.0.2:7401", "0.0.0.0:7401", "controller[n2].address", "others can reach"),
        ("10.0.0.2:7401", "10.0.0.2", "controller[n2].address", "not a valid address"),
        ("id = 2\n", "", "controller[n2].id", "is missing"),
        ("id = 2\n", "id = 2\nport = 1\n", "controller[n2].port", "is not a known key"),
        // Timing; the exact sums are in the text.
        ("node_id = 1", "node_id = 1\nheartbeat_ms = 1", "raft.heartbeat_ms", "not between 10"),
        (
            "node_id = 1",
            "node_id = 1\nheartbeat_ms = 200",
            "raft.election_min_ms",
            "3 * 200 = 600 ms",
        ),
        (
            "node_id = 1",
            "node_id = 1\nelection_max_ms = 500",
            "raft.election_max_ms",
            "election_min_ms = 500",
        ),
        ("report_ms = 500", "renew_ms = 1100", "timing.suspect_ms", "2 * 1100 = 2200 ms"),
        (
            "report_ms = 500",
            "suspect_ms = 2199",
            "timing.suspect_ms",
            "2 * 1000 + 2 * 100 = 2200 ms",
        ),
        ("report_ms = 500", "suspect_ms = 2700", "timing.suspect_ms", "3000 - 300 = 2700 ms"),
        (
            "report_ms = 500",
            "ttl_ms = 2999",
            "timing.ttl_ms",
            "2999 - 300 = 2699 ms comes before renew_ms + 2 * election_max_ms + 2 * heartbeat_ms = 500 + 2 * 1000 + 2 * 100 = 2700 ms",
        ),
        ("report_ms = 500", "ttl_ms = 300", "timing.ttl_ms", "is not between 500"),
        (
            "report_ms = 500",
            "fence_margin_ms = 3000",
            "timing.fence_margin_ms",
            "is not below ttl_ms = 3000",
        ),
        (
            "report_ms = 500",
            "kill_margin_ms = 300",
            "timing.kill_margin_ms",
            "is not below fence_margin_ms = 300",
        ),
        (
            "report_ms = 500",
            "kill_margin_ms = 99",
            "timing.kill_margin_ms",
            "the next grant comes at 3061 ms",
        ),
        (
            "report_ms = 500",
            "clock_error_ppm = 999",
            "timing.clock_error_ppm",
            "not between 1000 and 100000",
        ),
        ("report_ms = 500", "report_ms = 2200", "timing.report_ms", "suspect_ms = 2200"),
        ("report_ms = 500", "report_ms = \"1s\"", "timing.report_ms", "a whole number is needed"),
        ("report_ms = 500", "tll_ms = 3000", "timing.tll_ms", "is not a known key"),
        // Clusters.
        ("name = \"main\"\nboot", "boot", "cluster[#1].name", "is missing"),
        (
            "bootstrap_members = [\"a\", \"b\", \"c\"]",
            "",
            "cluster[main].bootstrap_members",
            "names no member",
        ),
        (
            "[\"a\", \"b\", \"c\"]",
            "[\"a\", \"b\", \"b\"]",
            "cluster[main].bootstrap_members",
            "is named twice",
        ),
        (
            "[\"a\", \"b\", \"c\"]",
            "[\"a\", \"B\"]",
            "cluster[main].bootstrap_members",
            "not a valid member name",
        ),
        (
            "[\"a\", \"b\", \"c\"]",
            "[\"a\", \"x-y\", \"x_y\"]",
            "cluster[main].bootstrap_members, x_y",
            "slot name",
        ),
        ("hba =", "synchronous = \"sync\"\nhba =", "cluster[main].synchronous", "not a word"),
        (
            "hba =",
            "write_quorum = 1\nwrite_quorum_min = 2\nhba =",
            "cluster[main].write_quorum_min",
            "above write_quorum",
        ),
        (
            "hba =",
            "strict = true\nwrite_quorum_min = 1\nhba =",
            "cluster[main].write_quorum_min",
            "beside strict",
        ),
        ("hba =", "max_lag_bytes = 1\nhba =", "cluster[main].max_lag_bytes", "none is lost"),
        ("hba =", "slot_ttl_ms = 5\nhba =", "cluster[main].slot_ttl_ms", "not between"),
        ("hba =", "write_quorum = 0\nhba =", "cluster[main].write_quorum", "without a standby"),
        (
            "hba =",
            "write_quorum = 3\nhba =",
            "cluster[main].write_quorum",
            "3 bootstrap members - 1 primary = 2",
        ),
        (
            "hba =",
            "write_quorum = 1\nsynchronous = \"async\"\nhba =",
            "cluster[main].write_quorum",
            "means nothing",
        ),
        (
            "hba =",
            "crash_failovers_max = 1001\nhba =",
            "cluster[main].crash_failovers_max",
            "not between",
        ),
        ("hba =", "crash_window_ms = 1\nhba =", "cluster[main].crash_window_ms", "not between"),
        (
            "[\"host all all 10.0.0.0/8 scram-sha-256\"]",
            "[\"hots all\"]",
            "cluster[main].hba",
            "line 1 of the list does not begin",
        ),
        (
            "[[member]]",
            "[[cluster]]\nname = \"main\"\nbootstrap_members = [\"a\"]\n[[member]]",
            "cluster[#2].name",
            "is the name of",
        ),
        (
            "shared_buffers",
            "Restart_After_Crash",
            "cluster[main].parameters.Restart_After_Crash",
            "rows that no standby has",
        ),
        (
            "shared_buffers",
            "\"no name\"",
            "cluster[main].parameters.no name",
            "not the name of a setting",
        ),
        (
            "shared_buffers",
            "include",
            "cluster[main].parameters.include",
            "not the name of a setting",
        ),
        ("\"128MB\"", "[1]", "cluster[main].parameters.shared_buffers", "is a list"),
        ("\"128MB\"", "\"a\\nfsync = off\"", "cluster[main].parameters.shared_buffers", "line end"),
        (
            "\"128MB\"",
            "\"1\"\nShared_Buffers = \"2\"",
            "cluster[main].parameters.shared_buffers",
            "given twice",
        ),
        (
            "shared_buffers = \"128MB\"",
            "fsync = false",
            "cluster[main].parameters.fsync",
            "acknowledged commits",
        ),
        (
            "shared_buffers = \"128MB\"",
            "full_page_writes = \"of\"",
            "cluster[main].parameters.full_page_writes",
            "breaks",
        ),
        (
            "shared_buffers = \"128MB\"",
            "wal_level = \"minimal\"",
            "cluster[main].parameters.wal_level",
            "replay",
        ),
        (
            "shared_buffers = \"128MB\"",
            "wal_level = \"REPLICA\"",
            "cluster[main].parameters.wal_level",
            "is neither replica nor logical",
        ),
        (
            "shared_buffers = \"128MB\"",
            "fsync = \"ON\"",
            "cluster[main].parameters.fsync",
            "is not a way",
        ),
        (
            "shared_buffers = \"128MB\"",
            "max_wal_senders = \"many\"",
            "cluster[main].parameters.max_wal_senders",
            "not a whole number",
        ),
        (
            "shared_buffers = \"128MB\"",
            "synchronous_commit = \"local\"",
            "cluster[main].parameters.synchronous_commit",
            "no standby has flushed",
        ),
        (
            "shared_buffers = \"128MB\"",
            "max_wal_senders = 4",
            "cluster[main].parameters.max_wal_senders",
            "below 5",
        ),
        (
            "shared_buffers = \"128MB\"",
            "max_replication_slots = 2",
            "cluster[main].parameters.max_replication_slots",
            "below 3",
        ),
        // Members.
        (
            "cluster = \"main\"",
            "cluster = \"other\"",
            "member[other/a].cluster",
            "is not a cluster of this file",
        ),
        (
            "name = \"a\"",
            "name = \"x-y\"\nfailover_priority = 1001",
            "member[main/x-y].failover_priority",
            "not between",
        ),
        ("address = \"10.0.0.1:5501\"", "", "member[main/a].address", "is missing"),
        (
            "address = \"10.0.0.1:5501\"",
            "address = \"0.0.0.0:5501\"",
            "member[main/a].address",
            "others can reach",
        ),
        (
            "address = \"10.0.0.1:5501\"",
            "address = \"10.0.0.1:7401\"",
            "member[#1].address",
            "is the port of node.listen",
        ),
        ("data_dir = \"/srv/a\"", "", "member[main/a].data_dir", "is missing"),
        ("\"/srv/a\"", "\"n1\"", "member[#1].data_dir", "is node.data_dir too"),
        ("\"/srv/a\"", "\"/etc\"", "member[#1].data_dir", "contains node.data_dir"),
        (
            "\"/srv/a\"",
            "\"/srv/a\"\nlog_dir = \"/srv/a/log\"",
            "member[#1].log_dir",
            "is inside data_dir",
        ),
        (
            "\"/srv/a\"",
            "\"/srv/a\"\nsocket_dir = \"/srv/a\"",
            "member[#1].socket_dir",
            "is inside data_dir",
        ),
        (
            "\"/srv/a\"",
            "\"/srv/a\"\nlisten_addresses = \"a'b\"",
            "member[main/a].listen_addresses",
            "list of addresses",
        ),
        (
            "\"/srv/a\"",
            "\"/srv/a\"\nrun_as = \"root\"",
            "member[main/a].run_as",
            "refused by PostgreSQL",
        ),
        (
            "\"/srv/a\"",
            "\"/srv/a\"\nreplicatefrom = \"a\"",
            "member[main/a].replicatefrom",
            "the member itself",
        ),
        ("\"/srv/a\"", "\"/srv/a\"\nfencing = \"none\"", "member[main/a].fencing", "not a word"),
        (
            "\"/srv/a\"",
            "\"/srv/a\"\nnofailover = 1",
            "member[main/a].nofailover",
            "true or false is needed",
        ),
        (
            "\"/srv/a\"",
            "\"/srv/a\"\naside_bytes_max = -1",
            "member[main/a].aside_bytes_max",
            "not between",
        ),
        (
            "\"/srv/a\"",
            "\"/srv/a\"\npassword = \"x\"",
            "member[main/a].password",
            "is not a known key",
        ),
        ("[\"controller\", \"agent\"]", "[\"controller\"]", "member", "without the role agent"),
    ];
    for (from, to, key, part) in table {
        let what = format!("{from:?} -> {to:?}");
        let error = parse(&edited(from, to)).expect_err(&what);
        let found = error.problems().iter().find(|p| p.key == *key && p.problem.contains(part));
        let found = found.unwrap_or_else(|| panic!("{what}: {key}: {part:?} not in:\n{error}"));
        assert!(!found.mend.is_empty(), "{what}: no mend");
        assert!(error.to_string().starts_with("/etc/quorate/hanode.toml: "), "{error}");
    }
}

#[test]
fn refusals_of_whole_sections() {
    let at = |mark: &str| GOOD.find(mark).unwrap();
    let no_member = &GOOD[..at("[[member]]")];
    let error = parse(no_member).unwrap_err();
    assert_eq!(error.problems()[0].key, "member");

    let no_controllers = format!("{}{}", &GOOD[..at("[[controller]]")], &GOOD[at("[timing]")..]);
    let error = parse(&no_controllers).unwrap_err();
    assert!(error.problems()[0].problem.contains("no voter"), "{error}");

    let member = |name: &str, port: u16, dir: &str| {
        format!(
            "{GOOD}\n[[member]]\ncluster = \"main\"\nname = \"{name}\"\naddress = \"10.0.0.1:{port}\"\ndata_dir = \"{dir}\"\n"
        )
    };
    for (name, port, dir, key, part) in [
        ("a", 5502, "/srv/b", "member[#2].name", "is the name of member[#1].name"),
        ("b", 5501, "/srv/b", "member[#2].address", "is the port of member[#1]"),
        ("b", 5502, "/srv/a", "member[#2].data_dir", "is member[#1].data_dir too"),
        ("b", 5502, "/srv/a/x/../y", "member[#2].data_dir", "is inside member[#1].data_dir"),
        ("b", 5502, "/srv", "member[#2].data_dir", "contains member[#1].data_dir"),
    ] {
        let error = parse(&member(name, port, dir)).unwrap_err();
        let hit = error.problems().iter().any(|p| p.key == key && p.problem.contains(part));
        assert!(hit, "{key}: {part}: {error}");
    }
    let two = parse(&member("b", 5502, "/srv/b")).unwrap();
    assert!(two.warnings.iter().all(|w| w.problem.contains("fail together")));
    assert_eq!(two.warnings.len(), 2);

    let twin = edited("[\"a\", \"b\", \"c\"]", "[\"x_y\", \"b\", \"c\"]")
        .replace("name = \"a\"", "name = \"x-y\"");
    let error = parse(&twin).unwrap_err();
    assert!(error.problems()[0].problem.contains("slot name quorate_x_y"), "{error}");
}
