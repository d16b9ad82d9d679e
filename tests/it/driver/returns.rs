//! Ways back: behind a standby, by a copy of one, and after a promotion by hand.

use std::sync::Arc;
use std::time::Duration;

use quorate::agent::driver::{Database, Error, Rewound, Seen, StartMode};
use quorate::domain::desired::{FollowDuty, Upstream};
use quorate::domain::record::DataMark;
use quorate::domain::types::{Epoch, Lsn};

use super::harness::*;

fn upstream(of: &Member) -> Upstream {
    Upstream { member: of.name.clone(), address: of.address() }
}

async fn refusal(of: &Member, duty: &FollowDuty, standby: &Upstream) -> String {
    match of.db.check_standby(duty, standby, &spec()).await {
        Err(Error::NotReady(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_behind_a_standby() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    let (b, c) = (site.member("b").await, site.member("c").await);
    let (spec, from_b) = (spec(), upstream(&b));
    let duty = a.duty(2, &lineage);
    b.copy(&duty).await;
    b.streams(2).await;
    assert!(b.db.maintain(&care(&["a", "c"])).await.unwrap().problems.is_empty());
    let behind = FollowDuty { upstream: Some(upstream(&b)), delay_ms: 0, ..duty.clone() };

    // It is copied from the standby, while its own slot there waits for it.
    let from = FollowDuty { sources: vec![upstream(&b)], ..duty.clone() };
    settled("the source", || c.db.check_standby(&duty, &from_b, &spec)).await;
    let id = c.db.clone_from(&from, &spec, Arc::new(|_, _| {})).await.unwrap();
    assert!(!c.db.examine().await.unwrap().self_contained, "it has not replayed its backup yet");
    c.db.save_record(&c.record(id)).await.unwrap();
    c.start(StartMode::Following(duty.clone())).await;
    c.streams(2).await;
    let count = |row| async move { (row == Some(1)).then_some(()) };
    eventually("the row is there", || async { count(c.rows("t").await).await }).await;

    // Behind the standby: WAL comes from it, and from it alone.
    assert!(a.db.maintain(&care(&["b", "c"])).await.unwrap().problems.is_empty());
    settled("behind", || c.db.follow(&behind, &spec)).await;
    eventually("it streams from the standby", || async {
        let slots = b.session().slots().await.ok()?;
        slots.get("quorate_c")?.active_pid.map(drop)
    })
    .await;
    c.streams(2).await;
    a.session().query("INSERT INTO public.t VALUES (2)").await.unwrap();
    eventually("the row comes through", || async { (c.rows("t").await == Some(2)).then_some(()) })
        .await;

    // The primary does not keep WAL for it for ever.
    let restart = || async { a.session().slots().await.unwrap()["quorate_c"].restart };
    let before = restart().await;
    let sql = "INSERT INTO public.t SELECT generate_series(10, 60000)";
    a.session().query(sql).await.unwrap();
    let end = a.session().primary_status().await.unwrap().flush.unwrap();
    eventually("its slot on the primary is unused", || async {
        let slots = a.session().slots().await.ok()?;
        slots.get("quorate_c")?.active_pid.is_none().then_some(())
    })
    .await;
    a.db.advance_slots(&[(c.name.clone(), Lsn(0)), (member("x"), end)]).await.unwrap();
    assert_eq!(restart().await, before, "nothing that it may still need is given up");
    a.db.advance_slots(&[(c.name.clone(), end)]).await.unwrap();
    assert_eq!(restart().await, Some(end));

    // Late, where it is told to be.
    let late = FollowDuty { delay_ms: 3_600_000, ..behind.clone() };
    settled("late", || c.db.follow(&late, &spec)).await;
    eventually("the delay is in force", || async {
        let delay = c.session().setting("recovery_min_apply_delay").await.ok()??;
        (delay == "1h").then_some(())
    })
    .await;
    settled("behind", || c.db.follow(&behind, &spec)).await;

    // Who is no standby, follows another epoch, or nothing, serves nobody.
    let why = refusal(&c, &duty, &upstream(&a)).await;
    assert!(why.contains("no standby"), "{why}");
    let why = refusal(&c, &FollowDuty { epoch: Epoch(3), ..duty.clone() }, &upstream(&b)).await;
    assert!(why.contains("standby of epoch 2, not standby of epoch 3"), "{why}");
    b.seal(3).await;
    let why = refusal(&c, &duty, &upstream(&b)).await;
    assert!(why.contains("sealed of epoch 3"), "{why}");
    b.kill_and_prove().await;
    refusal(&c, &duty, &upstream(&b)).await;

    // The primary has what it needs.
    c.follow(&duty).await;
    a.session().query("INSERT INTO public.t VALUES (3)").await.unwrap();
    eventually("the row of the primary", || async {
        let rows = c.session().query("SELECT FROM public.t WHERE n = 3").await.ok()?;
        (rows.len() == 1).then_some(())
    })
    .await;
}

/// What PostgreSQL's timeline of that number has left in `pg_wal`.
fn files_of(member: &Member, timeline: u32) -> Vec<String> {
    let entries = std::fs::read_dir(member.settings.layout.wal_dir()).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(&format!("{timeline:08X}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_was_promoted_by_hand_is_rewound() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    let b = site.member("b").await;
    let (spec, duty) = (spec(), a.duty(2, &lineage));
    b.copy(&duty).await;
    b.streams(2).await;
    let id = b.db.load_record().await.unwrap().unwrap().system_id.unwrap();
    for commit in ["local", "on"] {
        let stopped_by_hand = commit == "on";
        // A rewind needs WAL back to the last checkpoint that both have, and nothing is kept here.
        a.session().checkpoint(LONG).await.unwrap();
        a.session().query("INSERT INTO public.t VALUES (1)").await.unwrap();
        let end = a.session().primary_status().await.unwrap().flush.unwrap();
        eventually("it is replayed", || async {
            let replay = b.session().standby_status().await.ok()?.replay?;
            (replay >= end).then_some(())
        })
        .await;
        b.session().query("SELECT pg_promote(true)").await.unwrap();
        eventually("it is seen", || async {
            matches!(b.db.observe().await, Ok(Seen::Primary { .. })).then_some(())
        })
        .await;
        // Who waits for standbys waits for itself: nothing is acknowledged. Our own sessions do not.
        let mut own = b.session();
        let sql = format!("SET synchronous_commit = {commit}; INSERT INTO public.t VALUES (66)");
        let inserted = tokio::time::timeout(Duration::from_secs(1), own.query(&sql)).await;
        assert_eq!(matches!(inserted, Ok(Ok(_))), !stopped_by_hand, "{inserted:?}");
        drop(own);
        a.session().query("INSERT INTO public.t VALUES (2)").await.unwrap();
        if stopped_by_hand {
            b.db.stop().await.unwrap();
            b.prove().await;
        } else {
            b.kill_and_prove().await;
        }
        assert!(!files_of(&b, 3).is_empty());
        let examined = b.db.examine().await.unwrap();
        assert_eq!(examined.led, Some(Epoch(3)), "it was nobody's to lead");

        // Where its number was granted since, nothing can be told by numbers.
        let mut record = b.record(id);
        record.data = DataMark::Foreign;
        b.db.save_record(&record).await.unwrap();
        let granted = a.duty(2, &lineage.with(Epoch(3), Lsn(u64::MAX)));
        let doubtful = b.db.rewind(&granted, &spec).await.unwrap();
        assert!(matches!(&doubtful, Rewound::Impossible { why } if why.contains("number")));

        a.session().checkpoint(LONG).await.unwrap();
        assert_eq!(b.db.rewind(&duty, &spec).await.unwrap(), Rewound::Done);
        assert_eq!(files_of(&b, 3), Vec::<String>::new());
        assert_eq!(b.db.examine().await.unwrap().led, None);
        b.db.save_record(&b.record(id)).await.unwrap();
        b.start(StartMode::Following(duty.clone())).await;
        b.streams(2).await;
        eventually("the rows of the primary", || async {
            let rows = b.session().query("SELECT FROM public.t WHERE n = 2").await.ok()?;
            (rows.len() == 1 + usize::from(stopped_by_hand)).then_some(())
        })
        .await;
        let wrong = b.session().query("SELECT FROM public.t WHERE n = 66").await.unwrap();
        assert!(wrong.is_empty());
    }

    // The number is free for the epoch that it belongs to.
    a.db.hand_over(&b.name, &still_asked()).await.unwrap();
    a.prove().await;
    let sealed = b.seal(3).await;
    assert_eq!((sealed.wal_epoch, sealed.lineage.clone()), (Epoch(2), lineage));
    let guard = b.db.attach().await.unwrap().expect("it runs").guard;
    let lineage = b.lead(&guard, 3, &sync(3, &[])).await;
    assert_eq!(lineage, sealed.lineage.with(Epoch(3), sealed.lsn));
    // And its old primary follows it.
    a.start_sealed(3).await;
    assert_eq!(a.seal(3).await.lsn, sealed.lsn);
    a.follow(&b.duty(3, &lineage)).await;
}
