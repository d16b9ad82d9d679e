//! What goes wrong: records that cannot be read, bad parameters, frozen standbys, lost guards,
//! strangers, hands of operators.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use quorate::agent::database::PgDatabase;
use quorate::agent::driver::{Care, Database, Emptiness, Error, Seen, StartMode, Tree};
use quorate::domain::alarm::AlarmCode;
use quorate::domain::observation::Data;
use quorate::domain::record::MemberRecord;
use quorate::domain::types::{Epoch, SystemId};

use super::harness::*;

#[tokio::test]
async fn a_record_that_cannot_be_read_is_an_error() {
    let site = Site::new();
    let a = site.member("a").await;
    assert_eq!(a.db.load_record().await.unwrap(), None);
    let mut record = a.record(SystemId(u64::MAX));
    record.promised = Epoch(7);
    a.db.save_record(&record).await.unwrap();
    assert_eq!(a.db.load_record().await.unwrap(), Some(record.clone()));
    let file = a.settings.state_dir.join("member.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    record.member = member("b");
    for bad in [serde_json::to_vec(&record).unwrap(), b"".to_vec(), b"{".to_vec()] {
        std::fs::write(&file, bad).unwrap();
        let error = a.db.load_record().await.unwrap_err();
        assert!(matches!(&error, Error::Failed(why) if why.contains("member.json")), "{error}");
    }
}

#[tokio::test]
async fn places_that_postgresql_does_not_get_to_are_named() {
    let site = Site::new();
    let settings = site.settings("a");
    let data_dir = settings.state_dir.ancestors().nth(2).unwrap().to_owned();
    std::fs::create_dir(&data_dir).unwrap();
    std::fs::set_permissions(&data_dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let made = PgDatabase::new(settings.clone()).await;
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } == 0 {
        let Err(Error::Machine(why)) = made else { panic!("it was accepted") };
        assert!(why.contains("chmod o+x"), "{why}");
    }
    std::fs::set_permissions(&data_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let a = Member::new(settings).await;
    // Where nothing runs, there is nothing to end.
    assert_eq!(a.db.attach().await.unwrap(), Err(Emptiness::Assumed));
    a.db.kill().await.unwrap();
    a.db.stop().await.unwrap();
    a.prove().await;
    let mode = StartMode::Sealed { promise: Epoch(2) };
    assert!(matches!(a.db.start(&mode, &spec()).await, Err(Error::Failed(_))));
    assert_eq!(*a.db.tree().borrow(), Tree::None);
}

/// Stops a process, and lets it go on when it is dropped.
struct Frozen(i32);

impl Frozen {
    fn new(pid: i32) -> Self {
        // SAFETY: integers only.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: integers only.
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}

/// The process of a member's PostgreSQL whose title has `part`. The title has the member's name,
/// but not the site's, so a process is told by its data directory.
fn process(member: &Member, part: &str) -> i32 {
    let pids = std::fs::read_dir("/proc").unwrap();
    let mut pids = pids.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_wanted = |pid: &i32| {
        let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let dir = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        title.contains(part) && dir == member.settings.layout.pgdata
    };
    pids.find(is_wanted).unwrap_or_else(|| panic!("no {part} of {}", member.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_standby_does_not_hold_a_switchover_up() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    let (b, c) = (site.member("b").await, site.member("c").await);
    let duty = a.duty(2, &lineage);
    for other in [&b, &c] {
        other.copy(&duty).await;
        other.streams(2).await;
    }

    // It was called off while it prepared: nothing is stopped.
    let off: quorate::agent::driver::Asked = std::sync::Arc::new(|| false);
    let error = a.db.hand_over(&b.name, &off).await.unwrap_err();
    assert!(matches!(&error, Error::NotReady(_)), "{error}");
    a.session().query("INSERT INTO public.t VALUES (1)").await.unwrap();

    // The target itself: nothing is stopped.
    let frozen = Frozen::new(process(&b, "walreceiver"));
    let error = a.db.hand_over(&b.name, &still_asked()).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(why) if why.contains("nothing was stopped")), "{error}");
    a.session().query("INSERT INTO public.t VALUES (2)").await.unwrap();
    drop(frozen);

    // Another one.
    let frozen = Frozen::new(process(&c, "walreceiver"));
    a.db.hand_over(&b.name, &still_asked()).await.unwrap();
    assert!(matches!(&*a.db.tree().borrow(), Tree::Ending { how } if how.contains("code 0")));
    a.prove().await;
    drop(frozen);
    a.start_sealed(3).await;
    assert_eq!(a.seal(3).await, b.seal(3).await);
    assert_eq!(b.rows("t").await, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_that_is_late_cuts_nobody_off_twice() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    let b = site.member("b").await;
    b.copy(&a.duty(2, &lineage)).await;
    b.streams(2).await;
    let walsender = || async {
        let status = a.session().primary_status().await.unwrap();
        status.walsenders.iter().find(|w| w.application_name == "b").map(|w| w.pid)
    };
    let (config, spec) = (sync(2, &["b"]), spec());
    let before = walsender().await;
    let frozen = Frozen::new(process(&b, "walreceiver"));
    // The frozen one's walsender was ended, and it did not come back.
    let late = a.db.confirm_sync(Epoch(2), &config, false, &spec).await.unwrap_err();
    assert!(matches!(late, Error::TimedOut { .. }), "{late}");
    drop(frozen);
    let back = eventually("the standby is back", || async {
        let pid = walsender().await;
        (pid.is_some() && pid != before).then_some(pid)
    })
    .await;
    settled("sync", || a.db.confirm_sync(Epoch(2), &config, false, &spec)).await;
    settled("sync", || a.db.confirm_sync(Epoch(2), &config, false, &spec)).await;
    assert_eq!(walsender().await, back);
    // Another setting: it is begun anew.
    let none = sync(2, &[]);
    settled("sync", || a.db.confirm_sync(Epoch(2), &none, false, &spec)).await;
    eventually("a new walsender", || async { walsender().await.filter(|pid| Some(*pid) != back) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hands_of_operators_are_no_way_to_a_primary() {
    let site = Site::new();
    let (a, _, _) = first_primary(&site).await;
    let alter = ["primary_conninfo = 'host=nowhere'", "synchronous_standby_names = '*'"];
    for setting in alter {
        a.session().query(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    // Taken back while it runs.
    let (config, mut spec) = (sync(2, &[]), spec());
    settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
    let status = a.session().primary_status().await.unwrap();
    assert_eq!(status.synchronous_standby_names, "");
    a.kill_and_prove().await;

    let pgdata = &a.settings.layout.pgdata;
    assert!(!pgdata.join("postmaster.pid").exists());
    let _ = std::fs::remove_file(pgdata.join("standby.signal"));
    std::fs::write(pgdata.join("recovery.signal"), "").unwrap();
    std::fs::write(pgdata.join("promote"), "").unwrap();
    // A parameter that PostgreSQL refuses must not keep it down.
    spec.parameters.insert("work_mem".into(), "much".into());
    let mode = StartMode::Sealed { promise: Epoch(3) };
    let started = a.db.start(&mode, &spec).await.unwrap();
    let position = settled("seal", || a.db.seal(Epoch(3), &spec)).await;
    assert_eq!(position.wal_epoch, Epoch(2));
    assert!(a.session().is_in_recovery().await.unwrap());
    let shared_buffers = a.session().setting("shared_buffers").await.unwrap();
    assert_eq!(shared_buffers.as_deref(), Some("16MB"));
    let asked = Care { spec: spec.clone(), ..care(&[]) };
    let alarms = a.db.maintain(&asked).await.unwrap().alarms;
    let refused = alarms.iter().find(|a| a.code == AlarmCode::ParametersRefused);
    assert!(refused.is_some_and(|a| a.text.contains("work_mem")), "{alarms:?}");

    // The guard is killed: nothing of the tree stays, and the driver tells.
    let mut tree = a.db.tree();
    let guard = std::fs::read(a.settings.guard_dir.join("guard.json")).unwrap();
    let guard: serde_json::Value = serde_json::from_slice(&guard).unwrap();
    assert_eq!(guard["guard_id"], started.guard.as_str());
    let pid = i32::try_from(guard["guard_pid"].as_i64().unwrap()).unwrap();
    // SAFETY: integers only.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    tree.wait_for(|t| matches!(t, Tree::Ending { .. })).await.unwrap();
    a.db.kill().await.unwrap();
    a.prove().await;
    // What was not started cannot be asked, and is not "absent".
    assert!(a.db.observe().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_not_copied_and_lost_wal_is_told() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    let b = site.member("b").await;
    let duty = a.duty(2, &lineage);
    let stranger = MemberRecord { system_id: Some(SystemId(1)), ..b.record(SystemId(1)) };
    b.db.save_record(&stranger).await.unwrap();
    let error = b.db.clone_from(&duty, &spec(), Arc::new(|_, _| {})).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(why) if why.contains("system identifier")), "{error}");
    assert_eq!(b.db.inspect().await.unwrap(), Data::Empty);
    std::fs::remove_file(b.settings.state_dir.join("member.json")).unwrap();
    b.copy(&duty).await;
    b.streams(2).await;
    b.db.stop().await.unwrap();
    b.prove().await;

    // Its slot goes, and with it the WAL that it needs.
    let mut session = a.session();
    eventually("the slot is unused", || async {
        let slots = a.session().slots().await.unwrap();
        slots.get("quorate_b").is_some_and(|s| s.active_pid.is_none()).then_some(())
    })
    .await;
    assert!(a.db.maintain(&care(&[])).await.unwrap().problems.is_empty());
    assert!(a.session().slots().await.unwrap().is_empty());
    for n in 0..4 {
        let sql = format!("INSERT INTO public.t VALUES ({n}); SELECT pg_switch_wal()");
        session.query(&sql).await.unwrap();
        session.checkpoint(LONG).await.unwrap();
    }
    a.db.maintain(&care(&["b"])).await.unwrap();
    b.start(StartMode::Following(duty.clone())).await;
    let why = eventually("it is told that WAL is gone", || async {
        match b.db.observe().await {
            Ok(Seen::Standby { lacks_wal, .. }) => lacks_wal,
            _ => None,
        }
    })
    .await;
    assert!(why.contains("does not have WAL"), "{why}");

    // A copy mends it, and the old directory is kept.
    b.db.stop().await.unwrap();
    b.prove().await;
    b.copy(&duty).await;
    b.streams(2).await;
    let kept = b.settings.layout.list_aside().unwrap();
    assert_eq!(kept.len(), 1, "{kept:?}");
}
