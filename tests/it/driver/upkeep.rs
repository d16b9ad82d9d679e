//! What is looked after while nothing is asked for: slots, settings, commits, strangers.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quorate::agent::driver::{Care, Database, Seen, StartMode, Upkeep};
use quorate::domain::alarm::{AlarmCode, NoticeCode};
use quorate::domain::types::Epoch;
use quorate::postgres::feedback;
use quorate::postgres::status::Slot;

use super::harness::*;

/// Longer than the time after which a slot is dropped.
const AWAY: u64 = 5 * 3600;

fn codes(upkeep: &Upkeep) -> Vec<NoticeCode> {
    assert_eq!(upkeep.problems, Vec::<String>::new());
    upkeep.notices.iter().map(|n| n.0).collect()
}

async fn look(member: &Member, care: &Care) -> Upkeep {
    member.db.maintain(care).await.unwrap_or_else(|e| panic!("{e}"))
}

async fn slot(member: &Member, name: &str) -> Option<Slot> {
    member.session().slots().await.unwrap().remove(name)
}

async fn unused(member: &Member, name: &str) -> Slot {
    eventually("the slot is unused", || async {
        slot(member, name).await.filter(|s| s.active_pid.is_none())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_kept_for_members_that_come_back() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    // Of a fresh leader nothing is known: no slot is made, none dropped.
    assert!(codes(&look(&a, &care_for(&[("b", false, 0)])).await).is_empty());
    assert_eq!(slot(&a, "quorate_b").await, None);
    assert!(codes(&look(&a, &care(&["b"])).await).is_empty(), "the first one is no news");
    assert!(slot(&a, "quorate_b").await.is_some());
    let b = site.member("b").await;
    b.copy(&a.duty(2, &lineage)).await;
    b.streams(2).await;
    eventually("the slot is used", || async {
        slot(&a, "quorate_b").await.filter(|s| s.active_pid.is_some())
    })
    .await;
    // Whatever the leader thinks: one that is used is kept.
    assert!(codes(&look(&a, &care_for(&[("b", true, AWAY)])).await).is_empty());
    b.db.stop().await.unwrap();
    b.prove().await;
    unused(&a, "quorate_b").await;

    // Dropped by hand.
    assert!(a.session().drop_slot("quorate_b").await.unwrap());
    assert!(codes(&look(&a, &care_for(&[("b", false, 3)])).await).is_empty());
    assert_eq!(codes(&look(&a, &care(&["b"])).await), [NoticeCode::SlotMade]);
    assert!(slot(&a, "quorate_b").await.is_some());

    // Away for too long, or for a while without room.
    let no_room = Care { out_of_room: true, ..care_for(&[("b", true, 31)]) };
    for gone in [care_for(&[("b", true, AWAY)]), no_room] {
        assert!(codes(&look(&a, &gone).await).is_empty(), "it may only connect anew");
        let notices = eventually("it is dropped", || async {
            Some(codes(&look(&a, &gone).await)).filter(|n| !n.is_empty())
        })
        .await;
        assert_eq!(notices, [NoticeCode::SlotDropped]);
        assert_eq!(slot(&a, "quorate_b").await, None);
        assert!(codes(&look(&a, &gone).await).is_empty());
        assert!(codes(&look(&a, &care_for(&[("b", false, 0)])).await).is_empty());
        assert_eq!(slot(&a, "quorate_b").await, None);
        assert_eq!(codes(&look(&a, &care(&["b"])).await), [NoticeCode::SlotMade]);
    }

    // The operator bounds what is kept, and the slot is lost.
    let mut session = a.session();
    session.query("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await.unwrap();
    session.reload().await.unwrap();
    for n in 0..4 {
        let sql = format!("INSERT INTO public.t VALUES ({n}); SELECT pg_switch_wal()");
        session.query(&sql).await.unwrap();
        session.checkpoint(LONG).await.unwrap();
    }
    let lost = |s: &Slot| s.wal_status.as_deref() == Some("lost");
    assert!(slot(&a, "quorate_b").await.is_some_and(|s| lost(&s)));
    assert!(codes(&look(&a, &care_for(&[("b", true, 20)])).await).is_empty());
    assert_eq!(codes(&look(&a, &care(&["b"])).await), [NoticeCode::SlotMade]);
    assert!(slot(&a, "quorate_b").await.is_some_and(|s| !lost(&s)));
    let kept = session.setting("max_slot_wal_keep_size").await.unwrap();
    assert_eq!(kept.as_deref(), Some("1MB"), "the operator's word stands");

    // Its standby is told that it has to be copied.
    let begun = std::time::Instant::now();
    b.start(StartMode::Following(a.duty(2, &lineage))).await;
    let why = eventually("it is told that WAL is gone", || async {
        match b.db.observe().await {
            Ok(Seen::Standby { lacks_wal, .. }) => lacks_wal,
            _ => None,
        }
    })
    .await;
    assert!(why.contains("does not have WAL"), "{why}");
    eprintln!("told after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_slot_holds_no_dead_rows_back() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    look(&a, &care(&["b"])).await;
    let b = site.member("b").await;
    b.copy(&a.duty(2, &lineage)).await;
    b.streams(2).await;
    let holds = |wanted: bool| {
        let a = &a;
        eventually("the slot holds back what its standby needs", move || async move {
            slot(a, "quorate_b").await.filter(|s| s.holds_xmin == wanted)
        })
    };
    holds(true).await;
    b.db.stop().await.unwrap();
    b.prove().await;
    let before = unused(&a, "quorate_b").await;
    assert!(before.holds_xmin);
    // WAL that only the slot keeps.
    let mut session = a.session();
    for n in 0..2 {
        let sql = format!("INSERT INTO public.t VALUES ({n}); SELECT pg_switch_wal()");
        session.query(&sql).await.unwrap();
        session.checkpoint(LONG).await.unwrap();
    }
    // A copy of a slot has the same xmin: that is no way out.
    session.query("SELECT pg_copy_physical_replication_slot('quorate_b', 'copied')").await.unwrap();
    assert!(slot(&a, "copied").await.unwrap().holds_xmin);
    session.drop_slot("copied").await.unwrap();

    let silent = care_for(&[("b", true, 20)]);
    assert!(codes(&look(&a, &silent).await).is_empty(), "it may come back at once");
    let notices = eventually("it is released", || async {
        Some(codes(&look(&a, &silent).await)).filter(|n| !n.is_empty())
    })
    .await;
    assert_eq!(notices, [NoticeCode::SlotReleased]);
    let after = slot(&a, "quorate_b").await.unwrap();
    assert_eq!(after, Slot { holds_xmin: false, ..before });
    assert!(codes(&look(&a, &silent).await).is_empty());

    // Nothing that it needs is gone.
    b.start(StartMode::Following(a.duty(2, &lineage))).await;
    b.streams(2).await;
    let used = holds(true).await;
    // One that is used is never taken away.
    let login = &a.settings.credentials.replication;
    let taken = feedback::release_xmin(&mut session, login, "quorate_b", LONG).await;
    assert!(taken.unwrap_err().to_string().contains("55006"));
    assert_eq!(slot(&a, "quorate_b").await.map(|s| s.active_pid), Some(used.active_pid));

    // A primary that becomes a standby has the slots of before, and would tell its own primary.
    a.db.hand_over(&b.name, &still_asked()).await.unwrap();
    a.prove().await;
    b.kill_and_prove().await;
    a.start_sealed(3).await;
    a.seal(3).await;
    let before = slot(&a, "quorate_b").await.unwrap();
    assert!(before.holds_xmin);
    feedback::release_xmin(&mut a.session(), login, "quorate_b", LONG).await.unwrap();
    assert_eq!(slot(&a, "quorate_b").await.unwrap(), Slot { holds_xmin: false, ..before });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_by_hand_is_put_right() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    look(&a, &care(&["b"])).await;
    let b = site.member("b").await;
    b.copy(&a.duty(2, &lineage)).await;
    b.streams(2).await;
    let (config, spec) = (sync(2, &["b"]), spec());
    settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
    for (member, other) in [(&a, "b"), (&b, "a")] {
        assert!(codes(&look(member, &care(&[other])).await).is_empty());
        let pgdata = &member.settings.layout.pgdata;
        let read = |name: &str| fs::read_to_string(pgdata.join(name)).unwrap();
        let files = ["quorate.conf", "quorate.spec.conf", "pg_hba.conf", "postgresql.conf"];
        let before = files.map(read);
        for (name, more) in [
            ("quorate.conf", "wal_sender_timeout = '1h'\n"),
            ("quorate.spec.conf", "work_mem = '1GB'\n"),
            ("pg_hba.conf", "host all all all trust\n"),
        ] {
            fs::write(pgdata.join(name), read(name) + more).unwrap();
        }
        let mut session = member.session();
        for setting in ["restart_after_crash = on", "\"wal_receiver_timeout\" = '1h'"] {
            session.query(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
        }
        session.query("ALTER SYSTEM SET log_statement = 'ddl'").await.unwrap();
        session.reload().await.unwrap();
        let upkeep = look(member, &care(&[other])).await;
        assert_eq!(codes(&upkeep), [NoticeCode::SettingsRepaired; 5], "{upkeep:?}");
        let told: Vec<_> = upkeep.notices.iter().map(|n| n.1.as_str()).collect();
        for name in ["restart_after_crash", "wal_receiver_timeout"].iter().chain(&files[..3]) {
            assert_eq!(told.iter().filter(|t| t.starts_with(name)).count(), 1, "{name}: {told:?}");
        }
        assert_eq!(files.map(read), before);
        assert!(read("pg_hba.conf.edited").ends_with("trust\n"));
        let auto = read("postgresql.auto.conf");
        assert!(auto.contains("log_statement") && !auto.contains("restart_after"), "{auto}");
        for (name, value) in [
            ("wal_sender_timeout", "10s"),
            ("restart_after_crash", "off"),
            ("wal_receiver_timeout", "5s"),
        ] {
            eventually(name, || async {
                let found = member.session().setting(name).await.unwrap();
                (found.as_deref() == Some(value)).then_some(())
            })
            .await;
        }
        assert!(codes(&look(member, &care(&[other])).await).is_empty());
    }
    b.streams(2).await;

    // Who confirms commits is not put right in passing: all walsenders must see it once more.
    let drift = || async {
        match a.db.observe().await {
            Ok(Seen::Primary { drift, .. }) => drift,
            other => panic!("{other:?}"),
        }
    };
    let walsender = || async {
        let status = a.session().primary_status().await.unwrap();
        status.walsenders.iter().find(|w| w.application_name == "b").map(|w| w.pid)
    };
    let auto = a.settings.layout.pgdata.join("postgresql.auto.conf");
    for reloaded in [false, true] {
        assert_eq!(drift().await, None);
        let before = walsender().await;
        let mut session = a.session();
        session.query("ALTER SYSTEM SET synchronous_standby_names = ''").await.unwrap();
        if reloaded {
            session.reload().await.unwrap();
            eventually("it is in force", || async {
                let found = a.session().setting("synchronous_standby_names").await.unwrap();
                found.is_some_and(|f| f.is_empty()).then_some(())
            })
            .await;
        }
        let upkeep = look(&a, &care(&["b"])).await;
        assert!(codes(&upkeep).is_empty(), "{upkeep:?}");
        assert!(fs::read_to_string(&auto).unwrap().contains("synchronous_standby_names"));
        assert!(drift().await.is_some());
        settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
        assert_eq!(drift().await, None);
        assert!(!fs::read_to_string(&auto).unwrap().contains("synchronous_standby_names"));
        let status = a.session().primary_status().await.unwrap();
        assert_eq!(status.synchronous_standby_names, config.setting());
        assert_ne!(walsender().await, before, "every walsender was begun anew");
        assert_eq!(codes(&look(&a, &care(&["b"])).await), [NoticeCode::SettingsRepaired]);
    }
    // In our own file, as a whole file that is gone.
    fs::remove_file(a.settings.layout.pgdata.join("quorate.conf")).unwrap();
    assert!(codes(&look(&a, &care(&["b"])).await).is_empty());
    assert!(drift().await.is_some());
    settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
    assert_eq!(codes(&look(&a, &care(&["b"])).await), [NoticeCode::SettingsRepaired]);
    assert!(codes(&look(&a, &care(&["b"])).await).is_empty());

    // A standby that was taken over is looked after as well.
    let settings = b.settings.clone();
    let attached = b.db.attach().await.unwrap().expect("it runs");
    let address = a.address();
    let role = quorate::agent::driver::RunRole::Following { epoch: Epoch(2), address };
    let run = quorate::agent::driver::RunState { guard: attached.guard, role, ready: true };
    b.db.save_run(&run).await.unwrap();
    drop(b);
    let b = Member::new(settings).await;
    b.db.attach().await.unwrap().expect("it runs");
    b.session().query("ALTER SYSTEM SET primary_conninfo = 'host=nowhere'").await.unwrap();
    assert_eq!(codes(&look(&b, &care(&["a"])).await), [NoticeCode::SettingsRepaired]);
    assert!(codes(&look(&b, &care(&["a"])).await).is_empty());
    b.streams(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_that_do_not_hold_are_told() {
    let site = Site::new();
    let a = site.member("a").await;
    // With logical decoding when it starts; from then on without.
    let mut logical = spec();
    logical.parameters.insert("wal_level".into(), "logical".into());
    let id = a.db.initialise(&logical).await.unwrap();
    a.db.save_record(&a.record(id)).await.unwrap();
    let sealed = StartMode::Sealed { promise: Epoch(2) };
    let guard = a.db.start(&sealed, &logical).await.unwrap().guard;
    settled("seal", || a.db.seal(Epoch(2), &logical)).await;
    a.lead(&guard, 2, &sync(2, &[])).await;
    let mut session = a.session();
    let slot = "SELECT pg_create_logical_replication_slot('changes', 'test_decoding')";
    for sql in [
        slot,
        "CREATE ROLE lax; CREATE ROLE \"La\"\"x\"; CREATE ROLE strict",
        "CREATE DATABASE loose",
        "ALTER ROLE lax SET synchronous_commit = off",
        "ALTER ROLE \"La\"\"x\" IN DATABASE loose SET synchronous_commit = local",
        "ALTER DATABASE loose SET synchronous_commit = remote_write",
        "ALTER ROLE strict SET synchronous_commit = remote_apply",
        "ALTER ROLE strict IN DATABASE loose SET synchronous_commit = 'TRUE'",
        "ALTER SYSTEM SET synchronous_commit = off",
    ] {
        // Some of these are not allowed beside others in one transaction.
        for one in sql.split("; ") {
            session.query(one).await.unwrap_or_else(|e| panic!("{one}: {e}"));
        }
    }
    let upkeep = look(&a, &care(&["b"])).await;
    let of = |code| {
        let alarms = upkeep.alarms.iter().filter(move |a| a.code == code);
        alarms.map(|a| (a.subject.as_str(), a.text.as_str())).collect::<Vec<_>>()
    };
    let weakened = of(AlarmCode::WeakenedCommits);
    let subjects: Vec<_> = weakened.iter().map(|w| w.0).collect();
    let expected = ["the server", "database loose", "role La\"x in database loose", "role lax"];
    assert_eq!(subjects, expected, "{weakened:?}");
    let command = "ALTER ROLE \"La\"\"x\" IN DATABASE \"loose\" RESET synchronous_commit";
    assert!(weakened[2].1.contains(command), "{weakened:?}");
    let slots = of(AlarmCode::LogicalSlots);
    assert!(slots.len() == 1 && slots[0].1.contains("changes"), "{slots:?}");
    let pending = of(AlarmCode::PendingRestart);
    assert!(pending.len() == 1 && pending[0].1.contains("wal_level"), "{pending:?}");
    assert!(of(AlarmCode::Impostor).is_empty());

    // Where no commit waits for anybody, nobody weakens one; and one member alone loses nothing.
    let mut alone = care(&[]);
    alone.spec.synchronous = quorate::domain::state::SynchronousMode::Async;
    let upkeep = look(&a, &alone).await;
    let codes: Vec<_> = upkeep.alarms.iter().map(|a| a.code).collect();
    assert_eq!(codes, [AlarmCode::PendingRestart], "{upkeep:?}");
}

/// A program that is killed when it is dropped.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_confirms_nothing_for_long() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    look(&a, &care(&["b"])).await;
    let b = site.member("b").await;
    b.copy(&a.duty(2, &lineage)).await;
    b.streams(2).await;
    let (config, spec) = (sync(2, &["b"]), spec());
    settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
    let walsender = || async {
        let status = a.session().primary_status().await.unwrap();
        let held = status.walsenders.iter().find(|w| w.slot.as_deref() == Some("quorate_b"));
        held.map(|w| w.pid)
    };
    let genuine = walsender().await;
    assert!(genuine.is_some());

    let dir = tempfile::tempdir().unwrap();
    let login = &a.settings.credentials.replication;
    let receive = |name: &str| {
        let (port, user) = (a.settings.port, login.user());
        let conninfo = format!("host=127.0.0.1 port={port} user={user} application_name={name}");
        let child = Command::new("/usr/lib/postgresql/15/bin/pg_receivewal")
            .args(["--synchronous", "--no-loop", "-d", &conninfo, "-D"])
            .arg(dir.path())
            .env("PGPASSWORD", login.password().reveal())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Stranger(child)
    };
    for count in [1, 2] {
        let mut stranger = receive("B");
        eventually("it is cut off", || {
            let ended = stranger.0.try_wait().unwrap();
            let a = &a;
            async move {
                a.db.observe().await.unwrap();
                ended
            }
        })
        .await;
        let upkeep = look(&a, &care(&["b"])).await;
        // One that comes back is told of once.
        assert_eq!(codes(&upkeep).len(), usize::from(count == 1), "{upkeep:?}");
        let alarm = upkeep.alarms.iter().find(|a| a.code == AlarmCode::Impostor).unwrap();
        let times = format!("{count} times");
        assert!(alarm.subject == "b" && alarm.text.contains(&times), "{alarm:?}");
        assert!(alarm.text.contains("127.0.0.1"), "{alarm:?}");
    }
    // Under a name of its own it goes on, and so does the member.
    let mut stranger = receive("archive");
    eventually("it streams", || async {
        let status = a.session().primary_status().await.unwrap();
        let own = status.walsenders.iter().find(|w| w.application_name == "archive");
        own.filter(|w| w.state == "streaming").map(drop)
    })
    .await;
    for _ in 0..5 {
        a.db.observe().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(stranger.0.try_wait().unwrap().is_none());
    assert_eq!(walsender().await, genuine);
}
