//! Standbys: the seal against sessions that hold replay up, and the barrier.

use std::time::Duration;

use quorate::domain::types::Epoch;
use quorate::postgres::barrier::{self, Confirmer};
use quorate::postgres::conf::Role;
use quorate::postgres::connect::{Connection, Error, Target};
use quorate::postgres::files;
use quorate::postgres::os_user::Command;
use quorate::postgres::sql::Session;

use super::server::{LONG, Member, Site, eventually};

/// A session that is not one of ours: it has another application name.
async fn stranger(target: &Target) -> Connection {
    let connection = Connection::open(target, LONG).await.unwrap();
    let name = "SET application_name = 'stranger'; SET synchronous_commit = on; \
                SET statement_timeout = 0; SET lock_timeout = 0";
    connection.query(name, LONG).await.unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seal_gets_past_sessions_and_pauses() {
    let site = Site::new().await;
    let (mut a, id) = Member::first(&site, "a").await;
    a.seal(2).await;
    a.promote(2).await;
    let mut b = Member::new(&site, "b");
    b.settings.operator.insert("max_standby_streaming_delay".into(), "-1".into());
    let operator = b.settings.operator.clone();
    drop(b);
    let mut b = Member::copy_of(&site, "b", &mut a, id, 2).await;
    b.settings.operator = operator;
    let role = b.role_following(&a, 2);
    b.become_role(role).await;
    a.session.query("CREATE TABLE public.t AS SELECT 1 AS n").await.unwrap();
    let created = a.session.emit_local().await.unwrap();
    b.await_replay(created).await;

    // A reader on the standby, and a lock on the primary that its replay needs.
    let reader = stranger(b.session.target()).await;
    reader.query("BEGIN; SELECT * FROM public.t", LONG).await.unwrap();
    a.session.query("BEGIN; LOCK TABLE public.t; COMMIT; DROP TABLE public.t").await.unwrap();
    let dropped = a.session.emit_local().await.unwrap();
    let target = b.session.target().clone();
    eventually("replay to be held up", || {
        let mut session = Session::new(target.clone(), LONG);
        async move {
            let status = session.standby_status().await.unwrap();
            let held = status.startup_wait_type.as_deref() == Some("Lock");
            (held && status.receive >= Some(dropped)).then_some(())
        }
    })
    .await;
    let sealed = b.seal(3).await;
    assert!(sealed.replay >= dropped, "{sealed:?}, {dropped}");

    // The same with a pause.
    let role = b.role_following(&a, 3);
    b.become_role(role).await;
    b.session.query("SELECT pg_wal_replay_pause()").await.unwrap();
    b.seal(4).await;
    assert!(!b.session.standby_status().await.unwrap().replay_paused);

    // A standby cannot write a barrier, and the session is of use after that.
    let refused = b.session.emit_confirmed(LONG).await;
    assert!(matches!(refused, Err(Error::Server { .. })), "{refused:?}");
    assert!(b.session.is_in_recovery().await.unwrap());

    // ALTER SYSTEM cannot undo a seal.
    let conninfo = format!("host=127.0.0.1 port={} user=replicator", a.settings.port);
    b.session.query(&format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await.unwrap();
    b.seal(5).await;
    let auto = std::fs::read_to_string(b.layout.pgdata.join("postgresql.auto.conf")).unwrap();
    assert!(!auto.contains("primary_conninfo"), "{auto}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_barrier_counts_slots_and_not_names() {
    let site = Site::new().await;
    let (mut a, id) = Member::first(&site, "a").await;
    a.seal(2).await;
    a.promote(2).await;
    let mut b = Member::copy_of(&site, "b", &mut a, id, 2).await;
    let c = Member::copy_of(&site, "c", &mut a, id, 2).await;
    let confirmers: Vec<_> = [&b, &c]
        .iter()
        .map(|m| Confirmer { member: m.name.clone(), slot: m.name.slot_name() })
        .collect();

    a.set_synchronous(2, &[&b, &c]);
    a.become_role(Role::Primary { epoch: Epoch(2), read_only: false }).await;
    let before = a.session.primary_status().await.unwrap();
    let names = a.settings.synchronous.render();
    let mut old = barrier::Old::default();
    let ended = barrier::refresh_walsenders(&mut a.session, &names, &mut old, LONG).await.unwrap();
    assert_eq!(ended.len(), 2);
    let after = a.session.primary_status().await.unwrap();
    assert!(after.walsenders.iter().all(|w| before.walsenders.iter().all(|o| o.pid != w.pid)));
    // Nobody is left that began before.
    let again = barrier::refresh_walsenders(&mut a.session, &names, &mut old, LONG).await.unwrap();
    assert!(again.is_empty(), "{again:?}");
    let limit = Duration::from_millis(200);
    let mut old = barrier::Old::default();
    let wrong = barrier::refresh_walsenders(&mut a.session, "x", &mut old, limit).await;
    assert!(matches!(wrong, Err(barrier::Error::NotInForce { .. })), "{wrong:?}");

    let lsn = a.session.emit_confirmed(LONG).await.unwrap();
    let confirmed =
        barrier::confirm_flush(&mut a.session, lsn, 2, &confirmers, LONG).await.unwrap();
    assert_eq!(confirmed.len(), 2);

    // One is stopped: two confirmations do not come, one does.
    b.stop(libc::SIGINT).await;
    let lsn = a.session.emit_local().await.unwrap();
    let short = Duration::from_millis(300);
    let two = barrier::confirm_flush(&mut a.session, lsn, 2, &confirmers, short).await;
    let Err(barrier::Error::Unconfirmed { confirmed, .. }) = two else { panic!("{two:?}") };
    assert_eq!(confirmed.iter().collect::<Vec<_>>(), [&c.name]);
    barrier::confirm_flush(&mut a.session, lsn, 1, &confirmers, LONG).await.unwrap();
    let three = barrier::confirm_flush(&mut a.session, lsn, 3, &confirmers, LONG).await;
    assert!(matches!(three, Err(barrier::Error::Impossible { .. })));

    // A wait that is given up by somebody is no confirmation.
    let target = a.session.target().clone();
    let cancel = tokio::spawn(async move {
        let mut session = Session::new(target, LONG);
        let sql = "SELECT count(pg_cancel_backend(pid)) AS n FROM pg_stat_get_activity(NULL) \
                   WHERE wait_event = 'SyncRep'";
        loop {
            if session.row(sql).await.unwrap().parse::<u64>("n").unwrap() > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let cancelled = a.session.emit_confirmed(LONG).await;
    assert!(
        matches!(&cancelled, Err(Error::Warning(w)) if w.contains("synchronous")),
        "{cancelled:?}"
    );
    tokio::time::timeout(LONG, cancel).await.unwrap().unwrap();
    let late = a.session.emit_confirmed(short).await;
    assert!(matches!(late, Err(Error::Deadline(_))), "{late:?}");

    // A stranger that calls itself like the one that is missing releases PostgreSQL's own wait,
    // but for the barrier it is nobody.
    let mut conninfo = a.source("replicator").conninfo(None, b.name.as_str());
    conninfo.push_str(" replication=true");
    let to = site.root.path().join("stranger");
    files::ensure_dir(&to, 0o700, &site.user).unwrap();
    let receiver = Command::new(&site.binaries.program("pg_receivewal"), &site.user, LONG)
        .args(["--synchronous", "--no-loop", "--dbname", &conninfo, "--directory"])
        .arg(&to);
    let receiver = tokio::spawn(receiver.run());
    let target = a.session.target().clone();
    eventually("the stranger's connection", || {
        let mut session = Session::new(target.clone(), LONG);
        async move {
            let status = session.primary_status().await.unwrap();
            status
                .walsenders
                .iter()
                .any(|w| w.application_name == "b" && w.slot.is_none())
                .then_some(())
        }
    })
    .await;
    let lsn = a.session.emit_confirmed(LONG).await.unwrap();
    let two = barrier::confirm_flush(&mut a.session, lsn, 2, &confirmers, short).await;
    assert!(matches!(two, Err(barrier::Error::Unconfirmed { .. })), "{two:?}");
    receiver.abort();

    // Slots.
    assert!(a.session.slots().await.unwrap().contains_key("quorate_b"));
    a.session.drop_slot("quorate_b").await.unwrap();
    assert!(!a.session.drop_slot("quorate_b").await.unwrap());
    assert!(a.session.create_slot("quorate_b", false).await.unwrap());
    assert!(!a.session.create_slot("quorate_b", false).await.unwrap());
    a.session.advance_slot("quorate_b", lsn).await.unwrap_err();
    a.session.drop_slot("quorate_b").await.unwrap();
    assert!(a.session.create_slot("quorate_b", true).await.unwrap());
    a.session.advance_slot("quorate_b", lsn).await.unwrap();
}
