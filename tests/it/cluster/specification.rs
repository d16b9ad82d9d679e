//! The specification of a running cluster: changed, applied by the members, refused, rolled back.

use std::time::Instant;

use serde_json::Value;

use crate::support::{Cluster, HEAL, Hactl, Mode, Options, until};

impl Cluster {
    /// Changes the specification, and expects it to be done.
    async fn config(&self, arguments: &[&str]) -> Hactl {
        let mut all = vec!["config"];
        all.extend(arguments);
        let done = self.hactl(&all).await;
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
        done
    }

    async fn spec(&self) -> Value {
        let answer = self.hactl(&["config", "show", "-o", "json"]).await;
        answer.json().unwrap_or_else(|| panic!("{answer:?}"))
    }

    /// A setting as every member runs with it.
    async fn running(&self, setting: &str) -> Vec<String> {
        let mut values = Vec::new();
        for node in self.member_nodes() {
            let conn = self.superuser(node.index).await;
            values.push(conn.must(&format!("SHOW {setting}")).await);
        }
        values
    }

    async fn until_running(&self, setting: &str, wanted: &str) {
        until(&format!("every member has {setting} = {wanted}"), HEAL, || async {
            self.running(setting).await.iter().all(|v| v == wanted).then_some(())
        })
        .await;
    }

    /// What keeps each member from the specification in force, once this holds of it.
    async fn until_members(&self, what: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        until(what, HEAL, || async {
            let spec = self.spec().await;
            let members = spec["members"].as_array()?.clone();
            holds(&members).then_some(members)
        })
        .await
    }

    async fn kinds(&self, kind: &str) -> Vec<Value> {
        let all = self.history().await;
        all.into_iter().filter_map(|e| e["kind"].get(kind).cloned()).collect()
    }
}

fn pending(member: &Value) -> Vec<&str> {
    let all = member["pending_restart"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|p| p["name"].as_str()).collect()
}

/// Settings, rules and the way commits wait are changed while clients write; what is wrong is
/// refused with the key, the value and what to do.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_changed_while_clients_write() {
    let cluster = Cluster::start("it_is_changed", &Options::default()).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;
    let first = cluster.spec().await["revision"].as_u64().expect("a revision");

    eprintln!("-- a parameter that takes a reload is on every member");
    let dry = cluster.config(&["set", "parameters.work_mem=64MB", "--dry-run"]).await;
    assert!(dry.stdout.contains("+ parameters.work_mem = 64MB"), "{dry:?}");
    assert_eq!(cluster.spec().await["revision"], first, "a dry run changes nothing");
    cluster.config(&["set", "parameters.work_mem=64MB", "--yes"]).await;
    cluster.until_running("work_mem", "64MB").await;
    cluster
        .until_members("every member says so", |all| all.iter().all(|m| m["revision"] == first + 1))
        .await;

    eprintln!("-- rules of access are on every member");
    let rules = "hba=[\"local all all scram-sha-256\", \"host all all all scram-sha-256\", \
                 \"host app all 10.99.0.0/16 reject\"]";
    let ident = "ident=[\"map /^(.*)@example$ postgres\"]";
    cluster.config(&["set", rules, ident, "--yes"]).await;
    for node in cluster.member_nodes() {
        let conn = cluster.superuser(node.index).await;
        let sql = "SELECT count(*) FROM pg_hba_file_rules WHERE address = '10.99.0.0'";
        until("the rule is read", HEAL, || async { (conn.must(sql).await == "1").then_some(()) })
            .await;
        let sql = "SELECT count(*) FROM pg_ident_file_mappings WHERE map_name = 'map'";
        until("the map is read", HEAL, || async { (conn.must(sql).await == "1").then_some(()) })
            .await;
    }

    eprintln!("-- what is wrong is refused, and nothing of it is done");
    let revision = cluster.spec().await["revision"].clone();
    for (assignment, told) in [
        ("parameters.work_men=1MB", "did you mean work_mem?"),
        ("parameters.work_mem=4 mb", "upper and lower case differ"),
        ("parameters.shared_buffers=100TB", "16 to 1073741823"),
        ("parameters.log_statement=some", "none, ddl, mod, all"),
        ("parameters.port=1", "member.address"),
        ("parameters.shared_preload_libraries=pg_stat_statements,nope", "\"nope\", which"),
        ("parameters.session_preload_libraries=nope", "install the package"),
        ("parameters.block_size=8192", "cannot be set"),
        ("write_quorum=3", "number of standbys"),
        ("hba=[\"hosts all\"]", "does not begin"),
        ("timing=1", "never changes"),
        ("writequorum=1", "not a known key"),
    ] {
        let refused = cluster.hactl(&["config", "set", assignment, "--yes"]).await;
        assert_eq!(refused.code, 2, "{assignment}: {refused:?}");
        assert!(refused.stderr.contains(told), "{assignment}: {refused:?}");
    }
    assert_eq!(cluster.spec().await["revision"], revision);

    eprintln!("-- how commits wait changes by a joint change");
    cluster.config(&["set", "write_quorum=2", "synchronous=priority", "--yes"]).await;
    until("two standbys confirm in order", HEAL, || async {
        let status = cluster.leaders_status().await;
        let syncs = status.cluster()["syncs"].as_array()?.clone();
        let [only] = syncs.as_slice() else { return None };
        (only["w"] == 2 && only["first"] == true).then_some(())
    })
    .await;
    cluster.rows_flow(30).await;

    eprintln!("-- an earlier revision comes back");
    let target = (first + 1).to_string();
    cluster.config(&["rollback", &target, "--yes"]).await;
    until("one standby confirms", HEAL, || async {
        let status = cluster.leaders_status().await;
        let syncs = status.cluster()["syncs"].as_array()?.clone();
        let [only] = syncs.as_slice() else { return None };
        (only["w"] == 1 && only["first"] == false).then_some(())
    })
    .await;
    let history = cluster.config(&["history"]).await;
    assert!(history.stdout.contains("write_quorum: 2 -> 1"), "{history:?}");
    assert_eq!(cluster.kinds("spec_changed").await.len(), 4, "one event each");

    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "no change cost an epoch");
    let verdict = cluster.judge(writers, since).await;
    assert_eq!((verdict.refused, verdict.unknown), (0, 0), "no client noticed");
}

/// A document is applied as a whole, edited, and refused where somebody else was faster.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_applied_for_the_revision_that_was_read() {
    let options = Options { prepared: false, ..Options::default() };
    let cluster = Cluster::start("a_document_is_applied", &options).await;
    let cluster = &cluster;
    let shown = cluster.config(&["show", "-o", "toml"]).await.stdout;
    // The parameters are its last section.
    let path = cluster.dir().join("spec.toml");
    let file = path.to_str().expect("a path");
    std::fs::write(&path, format!("{}\nwork_mem = \"5MB\"\n", shown.trim_end())).expect("written");
    let unknown = cluster.hactl(&["config", "apply", "-f", file]).await;
    assert_eq!(unknown.code, 2, "nobody can be asked: {unknown:?}");
    cluster.config(&["apply", "-f", file, "--yes"]).await;
    cluster.until_running("work_mem", "5MB").await;
    let same = cluster.config(&["apply", "-f", file, "--yes"]).await;
    assert!(same.stdout.contains("nothing differs"), "{same:?}");

    eprintln!("-- an editor makes a change, and somebody else is faster");
    let editor = cluster.dir().join("editor.sh");
    let hactl = crate::support::hactl_bin();
    let script = format!(
        "#!/bin/sh\n{hactl} -c main config set parameters.work_mem=6MB --yes || exit 1\n\
         sed -i 's/5MB/7MB/' \"$1\"\n"
    );
    std::fs::write(&editor, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&editor, mode).expect("chmod");
    let stale = cluster
        .hactl_with(&["config", "edit", "--yes"], &[("EDITOR", editor.to_str().expect("a path"))])
        .await;
    assert_eq!(stale.code, 1, "{stale:?}");
    assert!(stale.stderr.contains("rule: spec.current"), "{stale:?}");
    cluster.until_running("work_mem", "6MB").await;
}

/// A setting that waits for a restart is shown with both values. Whatever the order of restarts is,
/// no standby is left with less than its primary has.
#[tokio::test(flavor = "multi_thread")]
async fn more_connections_are_rolled_out_in_any_order() {
    let cluster = Cluster::start("more_connections", &Options::default()).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    let dry = cluster.config(&["set", "parameters.max_connections=150", "--dry-run"]).await;
    assert!(dry.stdout.contains("at a restart of PostgreSQL"), "{dry:?}");
    cluster.config(&["set", "parameters.max_connections=150", "--yes"]).await;
    let waits = |all: &[Value]| all.iter().all(|m| pending(m) == ["max_connections"]);
    let members = cluster.until_members("all wait for a restart", waits).await;
    let shown = &members[0]["pending_restart"][0];
    assert_eq!((&shown["running"], &shown["wanted"]), (&"60".into(), &"150".into()));
    let status = cluster.hactl(&["status"]).await;
    assert!(status.stdout.contains("max_connections from 60 to 150"), "{status:?}");
    let show = cluster.config(&["show"]).await;
    assert!(show.stdout.contains("max_connections runs with 60, wanted is 150"), "{show:?}");

    eprintln!("-- the primary is restarted first, and becomes primary again with more");
    let old = cluster.primary().await;
    old.stop().await;
    cluster.new_epoch(before.epoch()).await;
    old.start();
    cluster.healed().await;
    let done = cluster.switchover(&old.member).await;
    assert_eq!(done.code, 0, "{done:?}");
    // The others have less than their primary: they are restarted by themselves.
    cluster.until_running("max_connections", "150").await;
    cluster.healed().await;
    cluster.until_members("nothing waits", |all| all.iter().all(|m| pending(m).is_empty())).await;

    eprintln!("-- less: nobody starts with less than a primary has run with");
    cluster.config(&["set", "parameters.max_connections=120", "--yes"]).await;
    cluster.until_members("all wait for a restart", waits).await;
    let standby = cluster.standbys().await[0];
    standby.stop().await;
    standby.start();
    cluster.healed().await;
    let conn = cluster.superuser(standby.index).await;
    assert_eq!(conn.must("SHOW max_connections").await, "150", "its data needs as much");
    let told = cluster
        .until_members("it says why", |all| {
            let own = all.iter().find(|m| m["member"] == standby.member.as_str());
            own.is_some_and(|m| m["pending_restart"][0]["first"] != "")
        })
        .await;
    assert!(format!("{told:?}").contains("no restart lowers it; set it to 150"), "{told:?}");
    cluster.judge(writers, since).await;
}

/// What PostgreSQL does not start with is taken back, with the primary still running.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_postgresql_refuses_is_rolled_back() {
    let cluster = Cluster::start("a_value_is_refused", &Options::default()).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(20).await;
    cluster.config(&["set", "parameters.work_mem=9MB", "--yes"]).await;
    cluster.until_running("work_mem", "9MB").await;
    let before = cluster.healed().await;
    let good = cluster.spec().await["revision"].as_u64().expect("a revision");
    let kept = |all: &[Value]| all.iter().all(|m| m["revision"] == good);
    cluster.until_members("all run with it", kept).await;

    eprintln!("-- more memory than there is: a standby that restarts comes back with what it had");
    cluster.config(&["set", "parameters.shared_buffers=4TB", "--yes"]).await;
    let waits = |all: &[Value]| all.iter().all(|m| pending(m) == ["shared_buffers"]);
    cluster.until_members("all wait for a restart", waits).await;
    let standbys = cluster.standbys().await;
    standbys[0].stop().await;
    standbys[0].start();
    let refuses = |all: &[Value]| all.iter().any(|m| !m["refused"].is_null());
    cluster.until_members("it refuses", refuses).await;
    assert!(cluster.kinds("spec_rolled_back").await.is_empty(), "one standby takes nobody along");
    cluster.healed().await;
    standbys[1].stop().await;
    standbys[1].start();
    let event = until("it is rolled back", HEAL, || async {
        cluster.kinds("spec_rolled_back").await.pop()
    })
    .await;
    assert_eq!(event["to"], good);
    assert!(standbys.iter().any(|s| event["member"] == s.member.as_str()), "{event}");
    assert_eq!(event["setting"], "shared_buffers", "{event}");
    let why = event["why"].as_str().expect("a reason");
    assert!(why.contains("memory"), "{why}");
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the primary went on");
    cluster.until_running("shared_buffers", "16MB").await;
    cluster
        .until_members("nothing waits, and nothing is refused", |all| {
            all.iter().all(|m| {
                pending(m).is_empty() && m["refused"].is_null() && m["revision"] == good + 2
            })
        })
        .await;

    eprintln!("-- a value out of range, not checked: it never reaches the files");
    let unchecked = ["set", "parameters.shared_buffers=100TB", "--yes", "--no-validate"];
    cluster.config(&unchecked).await;
    until("it is rolled back", HEAL, || async {
        (cluster.kinds("spec_rolled_back").await.len() == 2).then_some(())
    })
    .await;
    eprintln!("-- what a reload would only log: no member writes it");
    cluster.config(&["set", "parameters.ssl=on", "--yes"]).await;
    let event = until("it is rolled back", HEAL, || async {
        let mut all = cluster.kinds("spec_rolled_back").await;
        if all.len() == 3 { all.pop() } else { None }
    })
    .await;
    assert!(event["why"].as_str().is_some_and(|why| why.contains("server.crt")), "{event}");
    cluster.until_running("work_mem", "9MB").await;
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the primary went on");
    let verdict = cluster.judge(writers, since).await;
    assert_eq!((verdict.refused, verdict.unknown), (0, 0), "no client noticed");
}

/// Roles, databases and extensions that have to exist are made, and nothing is dropped; what cannot
/// be made is told; an extension waits until every member runs with its library.
#[tokio::test(flavor = "multi_thread")]
async fn roles_databases_and_extensions_are_made() {
    let cluster = Cluster::start("roles_and_databases", &Options::default()).await;
    let cluster = &cluster;
    let before = cluster.healed().await;
    let password = cluster.dir().join("app.password");
    crate::support::put(&password, "a-password-of-a-test\n", 0o600);
    let shown = cluster.config(&["show"]).await.stdout;
    let objects = format!(
        r#"
[[role]]
name = "reader \"s"
login = false

[[role]]
name = "web"
in_roles = ["reader \"s"]
password_file = "{}"

[[role]]
name = "lost"
password_file = "/nonexistent/password"

[[database]]
name = "web"
owner = "web"
extensions = ["hstore", "pg_stat_statements"]
"#,
        password.display()
    );
    let path = cluster.dir().join("spec.toml");
    std::fs::write(&path, format!("{}\n{objects}", shown.trim_end())).expect("written");
    let file = path.to_str().expect("a path");
    cluster.config(&["apply", "-f", file, "--yes"]).await;
    let libraries = "parameters.shared_preload_libraries=pg_stat_statements";
    cluster.config(&["set", libraries, "--yes"]).await;

    let conn = cluster.superuser(cluster.primary().await.index).await;
    let sql = "SELECT string_agg(g.rolname || '>' || r.rolname || '>' || r.rolcanlogin, ',') \
               FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid \
               JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = 'web'";
    until("the role is a member", HEAL, || async {
        (conn.must(sql).await == "reader \"s>web>true").then_some(())
    })
    .await;
    let sql = "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'web'";
    assert_eq!(conn.must(sql).await, "t");
    let sql = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'web'";
    until("the database is there", HEAL, || async {
        (conn.must(sql).await == "web").then_some(())
    })
    .await;
    drop(conn);

    eprintln!("-- what cannot be made is told, and what an extension waits for");
    let told = until("the alarm says so", HEAL, || async {
        let status = cluster.leaders_status().await;
        let text = status.cluster().to_string();
        (text.contains("/nonexistent/password") && text.contains("waits until")).then_some(text)
    })
    .await;
    assert!(told.contains("objects-missing"), "{told}");
    assert!(!told.contains("a-password-of-a-test"), "no password is told");

    eprintln!("-- every member restarts with the library: the extension is made");
    let primary = cluster.primary().await;
    for standby in cluster.standbys().await {
        standby.stop().await;
        standby.start();
        cluster.healed().await;
    }
    primary.stop().await;
    cluster.new_epoch(before.epoch()).await;
    primary.start();
    cluster.healed().await;
    until("the extensions are there", HEAL, || async {
        let primary = cluster.primary().await;
        let mut config = crate::support::superuser(primary);
        config.dbname("web");
        let conn = crate::support::Conn::open(&config).await.ok()?;
        let sql = "SELECT count(*) FROM pg_extension WHERE extname IN \
                   ('hstore', 'pg_stat_statements')";
        (conn.must(sql).await == "2").then_some(())
    })
    .await;

    eprintln!("-- what is taken out of the specification stays");
    std::fs::write(&path, &shown).expect("written");
    cluster.config(&["apply", "-f", file, "--yes"]).await;
    cluster.until_members("it is applied", |all| all.iter().all(|m| m["revision"] == 4)).await;
    let conn = cluster.superuser(cluster.primary().await.index).await;
    assert_eq!(conn.must("SELECT count(*) FROM pg_roles WHERE rolname = 'web'").await, "1");
}
