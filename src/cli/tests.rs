//! What an operator sees, on terminals of several widths.

use clap::CommandFactory;

use super::table::Screen;
use super::*;

const WIDE: Screen = Screen { width: None, colours: false };

fn member(name: &str, role: v1::MemberRole, lag: Option<u64>) -> v1::Member {
    v1::Member {
        name: name.to_owned(),
        node: format!("node-{name}"),
        address: format!("10.0.0.1{name}:5432"),
        role: role.into(),
        last_role: role.into(),
        reachability: v1::Reachability::Reporting.into(),
        report_age_ms: Some(120),
        epoch: 4,
        flush_lsn: "0/3000148".to_owned(),
        lag_bytes: lag,
        replay_lag_bytes: lag,
        streaming: lag.is_some(),
        synchronous: lag.is_some(),
        counts: true,
        fencing: v1::Fencing::PidNamespace.into(),
        ..Default::default()
    }
}

fn status() -> v1::Status {
    let mut gone = member("c", v1::MemberRole::Unknown, None);
    gone.reachability = v1::Reachability::Silent.into();
    gone.last_role = v1::MemberRole::Standby.into();
    gone.report_age_ms = Some(12_000);
    gone.synchronous = true;
    gone.problems = vec!["the disk is almost full".to_owned()];
    gone.alarms = vec![v1::Alarm {
        code: "space-low".to_owned(),
        subject: "/srv".to_owned(),
        text: "little room".to_owned(),
    }];
    let space = |free_bytes, level: v1::SpaceLevel| v1::Space {
        free_bytes,
        total_bytes: 1 << 40,
        level: level.into(),
    };
    gone.data_space = Some(space(30 << 20, v1::SpaceLevel::Critical));
    let mut primary = member("a", v1::MemberRole::Primary, None);
    primary.data_space = Some(space(300 << 30, v1::SpaceLevel::Enough));
    let mut tagged = member("b", v1::MemberRole::Standby, Some(1 << 20));
    tagged.tags = Some(v1::Tags { clonefrom: true, ..Default::default() });
    tagged.priority = 5;
    let mut copy = member("d", v1::MemberRole::Cloning, None);
    copy.clone = Some(v1::CloneProgress {
        source: "a".to_owned(),
        done_bytes: u64::MAX / 2,
        total_bytes: u64::MAX,
    });
    let sync = v1::SyncConfig {
        first: false,
        epoch: 4,
        w: 1,
        members: vec!["b".to_owned(), "c".to_owned()],
        streaming: Some(1),
        seq: 1,
    };
    let cluster = v1::Cluster {
        name: "main".to_owned(),
        phase: v1::ClusterPhase::Running.into(),
        epoch: 4,
        primary: "a".to_owned(),
        tenure: Some(v1::Tenure {
            epoch: 4,
            member: "a".to_owned(),
            stage: v1::TenureStage::Active.into(),
            ..Default::default()
        }),
        lease_age_ms: Some(230),
        syncs: vec![sync],
        sync_policy: Some(v1::SyncPolicy { write_quorum: 2, ..Default::default() }),
        members: vec![primary, tagged, gone, copy],
        ..Default::default()
    };
    let controller = |name: &str, last_contact_ms| v1::Controller {
        name: name.to_owned(),
        last_contact_ms,
        ..Default::default()
    };
    v1::Status {
        control_plane: "demo".to_owned(),
        from_leader: true,
        raft: Some(v1::Raft {
            generation: 1,
            term: 7,
            leader: "n1".to_owned(),
            controllers: vec![controller("n1", None), controller("n2", Some(65_000))],
            ..Default::default()
        }),
        clusters: vec![cluster],
        ..Default::default()
    }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn status_at_a_glance() {
    let text = status::screenful(&status(), false, WIDE);
    let want = "\
control plane demo: leader n1, term 7, controllers n1 n2 (silent 65 s)

cluster main: epoch 4, primary a, lease renewed 0.2 s ago, sync ANY 1 (b, c), 1 streaming, 2 wanted
MEMBER  ROLE     STATE                         LAG  REPLAY LAG  SYNC  EPOCH        LSN  NODE    ADDRESS         FENCING             FREE  TAGS
a       primary  open                            -           -  -         4  0/3000148  node-a  10.0.0.1a:5432  pid-namespace  300.0 GiB  -
b       standby  streaming                 1.0 MiB     1.0 MiB  yes       4  0/3000148  node-b  10.0.0.1b:5432  pid-namespace          -  clonefrom, priority 5
c       unknown  silent 12 s, was standby        -           -  yes       4  0/3000148  node-c  10.0.0.1c:5432  pid-namespace   30.0 MiB  -
d       cloning  49 % from a                     -           -  no        4  0/3000148  node-d  10.0.0.1d:5432  pid-namespace          -  -
! c: space-low: little room
! c: the disk is almost full
";
    assert_eq!(text, want, "\n{text}");
}

#[test]
fn failsafe_is_shown_where_it_is_not_off() {
    let line = |failsafe: v1::Failsafe| {
        let mut status = status();
        status.clusters[0].failsafe = failsafe.into();
        let text = status::screenful(&status, false, WIDE);
        text.lines().nth(2).unwrap_or_default().to_owned()
    };
    assert!(!line(v1::Failsafe::Off).contains("failsafe"));
    assert!(line(v1::Failsafe::Armed).ends_with(", failsafe armed"));
    assert!(line(v1::Failsafe::Active).contains("failsafe ACTIVE"));
    assert!(line(v1::Failsafe::Pending).contains("failsafe from the next epoch on"));
}

#[test]
fn a_narrow_terminal_keeps_what_matters() {
    for width in [60, 80, 100] {
        let screen = Screen { width: Some(width), colours: false };
        let text = status::screenful(&status(), false, screen);
        let table: Vec<&str> = text.lines().skip(3).take(5).collect();
        assert!(table.iter().all(|l| l.chars().count() <= width), "{width}:\n{text}");
        for word in ["MEMBER", "primary", "streaming", "1.0 MiB", "silent 12 s, was standby"] {
            assert!(table.iter().any(|l| l.contains(word)), "{word} at {width}:\n{text}");
        }
    }
}

#[test]
fn on_the_narrowest_terminal_words_go_below_each_other() {
    let screen = Screen { width: Some(40), colours: false };
    let text = status::screenful(&status(), false, screen);
    let table: Vec<&str> = text.lines().skip(3).take(6).collect();
    assert!(table.iter().all(|l| l.chars().count() <= 40), "{text}");
    for word in ["MEMBER", "STATE", "LAG", "streaming", "silent", "was standby"] {
        assert!(table.iter().any(|l| l.contains(word)), "{word}:\n{text}");
    }
}

#[test]
fn a_tree_shows_who_streams_from_whom() {
    let mut status = status();
    status.clusters[0].members[3].upstream = "b".to_owned();
    let text = status::screenful(&status, true, WIDE);
    let names: Vec<&str> = text.lines().skip(3).take(5).map(|l| l[..8].trim_end()).collect();
    assert_eq!(names, ["MEMBER", "a", "+ b", "  + d", "c"], "{text}");
}

#[test]
fn a_cluster_without_a_primary_says_why() {
    let mut status = status();
    let cluster = &mut status.clusters[0];
    cluster.primary.clear();
    cluster.syncs[0].streaming = Some(0);
    cluster.tenure.as_mut().unwrap().closed =
        Some(v1::Closed { reason: v1::CloseReason::LeaseLost.into(), at_unix_ms: 1 });
    cluster.operation = Some(v1::Operation {
        id: 9,
        kind: v1::OperationKind::Failover.into(),
        requested_by: "me@here".to_owned(),
        state: v1::OperationState::Running.into(),
        progress: "waiting for a member".to_owned(),
        ..Default::default()
    });
    let text = status::screenful(&status, false, WIDE);
    for part in [
        "NO PRIMARY",
        "COMMITS WAIT",
        "epoch 4 of a is closed: lease-lost, its stop is not proven; see `hactl explain`",
        "operation 9: failover, running: waiting for a member, asked for by me@here",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn nothing_there_yet_is_said() {
    let status = v1::Status { control_plane: "demo".to_owned(), ..Default::default() };
    let text = status::screenful(&status, false, WIDE);
    assert!(text.contains("no leader known") && text.contains("no cluster yet"), "{text}");
    assert_eq!(history::table(&[], WIDE), "nothing has happened yet");
}

#[test]
fn explanations_and_history_are_readable() {
    let finding = v1::Finding {
        rule: "takeover.expiry".to_owned(),
        text: "the lease of a may still run: waiting 800 ms more".to_owned(),
        ..Default::default()
    };
    let answer = v1::ExplainResponse {
        cluster: "main".to_owned(),
        summary: "no primary".to_owned(),
        findings: vec![finding],
        leader: "n1".to_owned(),
        ..Default::default()
    };
    let want = "cluster main: no primary (says n1, the leader)\n\
                - the lease of a may still run: waiting 800 ms more (rule takeover.expiry)\n";
    assert_eq!(explain::text(&answer), want);

    let event = v1::Event {
        id: 12,
        at_unix_ms: 0,
        epoch: 4,
        text: "b is open for writes".to_owned(),
        kind: None,
        ..Default::default()
    };
    let want = "ID  TIME                      EPOCH  EVENT\n\
                12  1970-01-01 00:00:00.000Z      4  b is open for writes\n";
    assert_eq!(history::table(&[event], WIDE), want);
}

#[test]
fn the_help_and_the_readme_list_every_exit_code() {
    let help = Cli::command().render_long_help().to_string();
    let readme = include_str!("../../README.md");
    for (code, meaning) in failure::EXIT_CODES {
        assert!(help.contains(&format!("  {code}  {meaning}")), "{help}");
        assert!(readme.contains(&format!("| {code} | {meaning} |")), "{code} in README.md");
    }
}
