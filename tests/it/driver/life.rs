//! The life of two members: birth, copy, switchover, crash, rewind.

use quorate::agent::driver::{Database, Emptiness, Rewound, RunRole, RunState, Seen};
use quorate::domain::health::{Activity, Answer, Question};
use quorate::domain::observation::{Data, Fencing};
use quorate::domain::types::Epoch;

use super::harness::*;

/// Every question has its answer, and whoever gave it can be seen.
async fn works(member: &Member) {
    for question in Question::ALL {
        let answer = member.db.ask(question, LONG).await;
        assert!(matches!(answer, Answer::Ok { .. }), "{question:?}: {answer:?}");
    }
    let vitals = member.db.vitals(None).await;
    let is_seen = |a| matches!(a, Activity::Runnable | Activity::Waits { .. });
    assert!(is_seen(vitals.postmaster) && is_seen(vitals.held) && is_seen(vitals.writer));
    let (checkpointer, overdue) = member.db.checkpointer().await;
    assert!(is_seen(checkpointer) && !overdue, "{checkpointer:?} {overdue}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_live_through_everything() {
    let site = Site::new();
    let (a, guard, lineage) = first_primary(&site).await;
    let b = site.member("b").await;
    let spec = spec();
    assert_eq!(b.db.inspect().await.unwrap(), Data::Empty);

    // A copy follows.
    let duty = a.duty(2, &lineage);
    b.copy(&duty).await;
    b.streams(2).await;
    let (epoch, end) = b.db.primary_position(&duty).await.unwrap();
    assert_eq!(epoch, Epoch(2));
    eventually("the copy passes the position", || async {
        match b.db.observe().await {
            Ok(Seen::Standby { flushed, .. }) => (flushed >= end).then_some(()),
            _ => None,
        }
    })
    .await;

    // It counts.
    let config = sync(2, &["b"]);
    let started = settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
    let again = settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
    assert_eq!(started, again);
    let status = a.session().primary_status().await.unwrap();
    assert_eq!(status.synchronous_standby_names, r#"ANY 1 ("b")"#);
    assert_eq!(started, status.postmaster_start_us);
    a.session()
        .query("SET synchronous_commit = on; INSERT INTO public.t VALUES (2)")
        .await
        .unwrap();
    eventually("the standby is seen by its slot", || async {
        match a.db.observe().await {
            Ok(Seen::Primary { standbys, .. }) => {
                standbys.get(&b.name).is_some_and(|s| s.streaming && s.flushed >= end).then_some(())
            }
            _ => None,
        }
    })
    .await;
    works(&a).await;
    assert_eq!(a.db.maintain(&care(&["b"])).await.unwrap().problems, Vec::<String>::new());
    assert_eq!(b.db.maintain(&care(&["a"])).await.unwrap().problems, Vec::<String>::new());
    let slots = b.session().slots().await.unwrap();
    assert_eq!(slots.keys().collect::<Vec<_>>(), ["quorate_a"]);

    // Switchover: both end at the same position, so neither needs a rewind.
    a.db.hand_over(&b.name, &still_asked()).await.unwrap();
    a.prove().await;
    assert!(a.db.arm(&guard, quorate::clock::boot_now()).await.is_err());
    let guard_a = a.start_sealed(3).await;
    assert_ne!(guard, guard_a);
    let (at_a, at_b) = tokio::join!(a.seal(3), b.seal(3));
    assert_eq!(at_a, at_b);
    let guard_b = b.db.attach().await.unwrap().expect("it runs").guard;
    b.arm(&guard_b).await;
    let config = sync(3, &["a"]);
    let lineage = settled("promote", || b.db.promote(Epoch(3), &config, &spec)).await;
    // Its barrier needs the other one.
    a.follow(&b.duty(3, &lineage)).await;
    settled("confirm", || b.db.confirm_sync(Epoch(3), &config, false, &spec)).await;
    settled("open", || b.db.open_writes(Epoch(3), &config, &spec)).await;
    assert_eq!(lineage, at_b.lineage.with(Epoch(3), at_b.lsn));
    assert_eq!(a.rows("t").await, Some(2));
    b.session()
        .query("SET synchronous_commit = on; INSERT INTO public.t VALUES (3)")
        .await
        .unwrap();

    // A write that only the primary has, and its death.
    let sealed = a.seal(4).await;
    assert_eq!(sealed.wal_epoch, Epoch(3));
    b.session().query("INSERT INTO public.t VALUES (99)").await.unwrap();
    b.kill_and_prove().await;
    let lineage = a.lead(&guard_a, 4, &sync(4, &[])).await;
    assert_eq!(lineage, sealed.lineage.with(Epoch(4), sealed.lsn));
    assert_eq!(a.rows("t").await, Some(3));
    let duty = a.duty(4, &lineage);
    b.start_sealed(4).await;
    let diverged = b.seal(4).await;
    assert!(diverged.lsn > sealed.lsn, "{diverged:?}");
    b.db.stop().await.unwrap();
    b.prove().await;
    assert_eq!(b.db.rewind(&duty, &spec).await.unwrap(), Rewound::Done);
    b.start(quorate::agent::driver::StartMode::Following(duty)).await;
    b.streams(4).await;
    a.session().query("INSERT INTO public.t VALUES (4)").await.unwrap();
    eventually("the row of the new primary", || async {
        (b.rows("t").await == Some(4)).then_some(())
    })
    .await;
    let wrong = b.session().query("SELECT FROM public.t WHERE n = 99").await.unwrap();
    assert!(wrong.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_server_is_taken_over() {
    let site = Site::new();
    let (a, guard, _) = first_primary(&site).await;
    let role = RunRole::Primary { epoch: Epoch(2), promoted: None, writes_open: true };
    let run = RunState { guard: guard.clone(), role, ready: true };
    a.db.save_run(&run).await.unwrap();
    let at = quorate::clock::boot_now().plus(std::time::Duration::from_secs(900));
    a.db.arm(&guard, at).await.unwrap();
    let started = a.session().primary_status().await.unwrap().postmaster_start_us;
    let settings = a.settings.clone();
    drop(a);

    let a = Member::new(settings.clone()).await;
    let attached = a.db.attach().await.unwrap().expect("it runs");
    assert_eq!(attached.guard, guard);
    assert_eq!(attached.fencing, Fencing::PidNamespace);
    assert_eq!(attached.kill_at, Some(at));
    assert_eq!(attached.run, Some(run));
    assert!(matches!(a.db.observe().await.unwrap(), Seen::Primary { .. }));
    let (config, spec) = (sync(2, &[]), spec());
    let again = settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
    assert_eq!(again, started);

    // What has ended is not taken over, and nothing is left of it.
    let mut tree = a.db.tree();
    a.db.kill().await.unwrap();
    tree.wait_for(|t| matches!(t, quorate::agent::driver::Tree::Ending { .. })).await.unwrap();
    drop(a);
    let a = Member::new(settings).await;
    assert_eq!(a.db.attach().await.unwrap(), Err(Emptiness::Proven));
    assert!(!a.settings.layout.pgdata.join("postmaster.pid").exists());
    a.start_sealed(3).await;
    assert_eq!(a.seal(3).await.wal_epoch, Epoch(2));
}
