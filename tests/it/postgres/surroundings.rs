//! Settings, probes and the checks before a start.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use quorate::domain::types::{Epoch, SystemId};
use quorate::postgres::conf::Role;
use quorate::postgres::connect::{Connection, Error};
use quorate::postgres::controldata::{self, DataDirectory};
use quorate::postgres::probe::{self, Outcome};
use quorate::postgres::{dry_start, start};

use super::server::{LONG, Member, Site};

#[tokio::test(flavor = "multi_thread")]
async fn settings_arrive_as_they_were_meant() {
    let site = Site::new().await;
    let (mut a, _) = Member::first(&site, "a").await;
    for value in
        ["", "'", "\\", "\\'", "''", "a\\nb", "# no comment", "tab\tß", "%1$s \"x\"", "\\\\'\\"]
    {
        a.settings.operator.insert("quorate_test.value".into(), value.into());
        a.become_role(Role::Sealed { promised: Epoch(2) }).await;
        super::server::eventually(&format!("the value {value:?}"), || {
            let target = a.session.target().clone();
            async move {
                let mut session = quorate::postgres::sql::Session::new(target, LONG);
                let found = session.setting("quorate_test.value").await.unwrap();
                (found.as_deref() == Some(value)).then_some(())
            }
        })
        .await;
    }
    let check = |name: &str, value: &str| {
        let operator = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let (binaries, user, layout) = (site.binaries.clone(), site.user.clone(), a.layout.clone());
        async move {
            let none = BTreeMap::new();
            dry_start::check_settings(&binaries, &user, &layout, &operator, &none).await
        }
    };
    check("work_mem", "8MB").await.unwrap();
    for (name, value) in [("work_mem", "many"), ("work_memm", "8MB"), ("max_connections", "-1")] {
        let error = check(name, value).await.unwrap_err();
        assert!(
            matches!(&error, start::Error::Settings { message } if message.contains(name)),
            "{error}"
        );
    }
    // What only a start would find out, with the server running.
    for (name, value, said) in [
        ("ssl", "on", "server.crt"),
        ("shared_preload_libraries", "pg_stat_statements, nope", "names library \"nope\""),
        ("session_preload_libraries", "nope", "is not on this node"),
        ("local_preload_libraries", "auto_explain", "plugins"),
    ] {
        let error = check(name, value).await.unwrap_err();
        assert!(
            matches!(&error, start::Error::Settings { message } if message.contains(said)),
            "{error}"
        );
    }
    check("shared_preload_libraries", "pg_stat_statements").await.unwrap();
    check("session_preload_libraries", "auto_explain").await.unwrap();
    assert!(!a.layout.pgdata.join("quorate.check.conf").exists());
    assert!(!a.layout.run_dir.join("dry-start").exists());
    assert_eq!(dry_start::would_say(&site.binaries, &site.user, &a.layout).await.unwrap(), None);
    // A fault that is there already is told as one, and is no fault of another change.
    let base = a.layout.pgdata.join("postgresql.base.conf");
    let text = std::fs::read_to_string(&base).unwrap();
    std::fs::write(&base, format!("{text}ssl = on\n")).unwrap();
    let said = dry_start::would_say(&site.binaries, &site.user, &a.layout).await.unwrap();
    assert!(said.is_some_and(|said| said.contains("server.crt")));
    check("work_mem", "8MB").await.unwrap();
    std::fs::write(&base, text).unwrap();

    // A setting that WAL has been written with cannot be lowered: it is raised and reported.
    a.stop(libc::SIGINT).await;
    a.settings.operator.insert("max_connections".into(), "15".into());
    a.start(Role::Sealed { promised: Epoch(2) }).await;
    assert_eq!(a.session.setting("max_connections").await.unwrap().unwrap(), "20");

    // What ALTER SYSTEM set of ours is gone after the next start.
    a.session.query("ALTER SYSTEM SET restart_after_crash = on").await.unwrap();
    a.session.query("ALTER SYSTEM SET work_mem = '7MB'").await.unwrap();
    a.stop(libc::SIGINT).await;
    a.start(Role::Sealed { promised: Epoch(2) }).await;
    assert_eq!(a.session.setting("restart_after_crash").await.unwrap().unwrap(), "off");
    assert_eq!(a.session.setting("work_mem").await.unwrap().unwrap(), "7MB");
    assert_eq!(a.session.setting("search_path").await.unwrap().unwrap(), "pg_catalog");
    assert_eq!(a.session.setting("synchronous_commit").await.unwrap().unwrap(), "local");
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_tell_what_is_wrong() {
    let site = Site::new().await;
    let (mut a, _) = Member::first(&site, "a").await;
    a.seal(2).await;
    assert_eq!(probe::write(&mut a.session, LONG).await, Outcome::Ok);
    a.promote(2).await;
    let target = a.session.target().clone();
    assert!(probe::held(&mut a.session, LONG).await.is_ok());
    assert_eq!(probe::fresh(&target, LONG).await, Outcome::Ok);
    assert_eq!(probe::write(&mut a.session, LONG).await, Outcome::Ok);

    // A stopped postmaster answers on old connections only.
    let short = Duration::from_millis(300);
    a.signal(libc::SIGSTOP);
    assert!(probe::held(&mut a.session, LONG).await.is_ok());
    assert_eq!(probe::fresh(&target, short).await, Outcome::TimedOut);
    assert_eq!(probe::write(&mut a.session, LONG).await, Outcome::Ok);
    a.signal(libc::SIGCONT);
    assert_eq!(probe::fresh(&target, LONG).await, Outcome::Ok);

    // All connections taken, those for superusers as well.
    let mut held = Vec::new();
    let refused = loop {
        match Connection::open(&target, LONG).await {
            Ok(connection) => held.push(connection),
            Err(e) => break Outcome::from(e),
        }
    };
    assert_eq!(refused, Outcome::TooManyConnections);
    assert_eq!(probe::fresh(&target, LONG).await, Outcome::TooManyConnections);
    assert!(probe::held(&mut a.session, LONG).await.is_ok());
    drop(held);

    a.stop(libc::SIGINT).await;
    assert!(matches!(probe::fresh(&target, LONG).await, Outcome::Refused(_)));
    assert!(matches!(probe::held(&mut a.session, LONG).await, Err(Error::Lost(_))));
    // The session comes back with the server.
    a.start(Role::Sealed { promised: Epoch(3) }).await;
    assert!(probe::held(&mut a.session, LONG).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_refused_with_its_reason() {
    let site = Site::new().await;
    let (mut a, id) = Member::first(&site, "a").await;
    let port = a.settings.port;
    let (binaries, user, layout) = (&site.binaries, &site.user, a.layout.clone());
    let check = |expected| start::preflight(binaries, user, &layout, expected, "127.0.0.1", port);
    assert!(matches!(check(Some(id)).await, Err(start::Error::Port { .. })));
    a.stop(libc::SIGINT).await;
    check(Some(id)).await.unwrap();
    let other = check(Some(SystemId(id.0 + 1))).await;
    assert!(matches!(other, Err(start::Error::Foreign { .. })), "{other:?}");
    layout.mark_incomplete("a rewind", user).unwrap();
    assert!(matches!(check(None).await, Err(start::Error::Incomplete { .. })));
    layout.clear_incomplete().unwrap();
    let mode =
        |m| std::fs::set_permissions(&layout.pgdata, std::fs::Permissions::from_mode(m)).unwrap();
    mode(0o755);
    assert!(matches!(check(None).await, Err(start::Error::Mode { .. })));
    mode(0o700);
    std::fs::write(layout.pgdata.join("postmaster.pid"), "1\n").unwrap();
    assert!(start::remove_stale_locks(&layout, port).unwrap());
    assert!(!start::remove_stale_locks(&layout, port).unwrap());

    let inspect = || controldata::inspect(binaries, user, &layout.pgdata);
    std::fs::write(layout.pgdata.join("PG_VERSION"), "9.6\n").unwrap();
    assert_eq!(inspect().await.unwrap(), DataDirectory::OtherVersion { found: "9.6".into() });
    std::fs::remove_file(layout.pgdata.join("PG_VERSION")).unwrap();
    assert!(matches!(inspect().await.unwrap(), DataDirectory::Foreign { .. }));
    std::fs::remove_dir_all(&layout.pgdata).unwrap();
    assert_eq!(inspect().await.unwrap(), DataDirectory::Absent);
    std::fs::create_dir(&layout.pgdata).unwrap();
    assert_eq!(inspect().await.unwrap(), DataDirectory::Empty);
    assert!(matches!(check(None).await, Err(start::Error::NoData { .. })));
}
