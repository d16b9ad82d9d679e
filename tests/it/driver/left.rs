//! Work that is left midway, as by an agent that has something else to do first.

use std::future::{Future, poll_fn};
use std::task::Poll;

use quorate::agent::driver::{Care, Database, Error};
use quorate::domain::types::Epoch;

use super::harness::*;

/// Has `work` go on until `there` is true, and drops it there.
async fn leave_once<T>(work: impl Future<Output = T>, mut there: impl FnMut() -> bool) {
    let mut work = Box::pin(work);
    let left = poll_fn(|context| match there() {
        true => Poll::Ready(true),
        false => work.as_mut().poll(context).map(|_| false),
    });
    assert!(left.await, "it ended before it could be left");
}

/// A barrier that is left between the reload and the end of the walsenders of before does not count
/// as one; and writes are not opened past it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_that_was_left_begins_walsenders_anew() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    let asked = care(&["b"]);
    settled("upkeep", || a.db.maintain(&asked)).await;
    let b = site.member("b").await;
    b.copy(&a.duty(2, &lineage)).await;
    b.streams(2).await;
    let (config, spec) = (sync(2, &["b"]), spec());
    settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
    let walsender = || async {
        let status = a.session().primary_status().await.unwrap();
        status.walsenders.iter().find(|w| w.application_name == "b").map(|w| w.pid)
    };
    let names = "synchronous_standby_names";
    let in_force = async |wanted: &str| {
        eventually("the names are in force", || async {
            let found = a.session().setting(names).await.unwrap();
            (found.as_deref() == Some(wanted)).then_some(())
        })
        .await;
    };
    let before = eventually("b streams again", walsender).await;
    let mut session = a.session();
    session.query(&format!("ALTER SYSTEM SET {names} = ''")).await.unwrap();
    session.reload().await.unwrap();
    in_force("").await;

    // No new session can be had until this one lets go.
    session.query("BEGIN").await.unwrap();
    session.query("LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE").await.unwrap();
    {
        let work = a.db.confirm_sync(Epoch(2), &config, true, &spec);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                found = session.setting(names) => {
                    if found.unwrap() == Some(config.setting()) {
                        break;
                    }
                }
                done = &mut work => panic!("it was not held up: {done:?}"),
            }
        }
    }
    session.query("ROLLBACK").await.unwrap();
    in_force(&config.setting()).await;
    assert_eq!(walsender().await, Some(before), "it was left before that");
    let opened = a.db.open_writes(Epoch(2), &config, &spec).await;
    assert!(matches!(opened, Err(Error::NotReady(_))), "{opened:?}");
    settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
    assert_ne!(eventually("b streams again", walsender).await, before);
    settled("open", || a.db.open_writes(Epoch(2), &config, &spec)).await;

    // Writes are not opened past a change either.
    session.query(&format!("ALTER SYSTEM SET {names} = ''")).await.unwrap();
    session.reload().await.unwrap();
    in_force("").await;
    let opened = a.db.open_writes(Epoch(2), &config, &spec).await;
    assert!(matches!(opened, Err(Error::NotReady(_))), "{opened:?}");
    let before = walsender().await;
    settled("sync", || a.db.confirm_sync(Epoch(2), &config, true, &spec)).await;
    assert_ne!(walsender().await, before);
}

/// Settings that were written, and not reloaded since the upkeep was left, are reloaded by the next
/// one; and none says before that it runs with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_were_written_are_reloaded() {
    let site = Site::new();
    let (a, _, _) = first_primary(&site).await;
    let asked = care(&[]);
    let first = settled("upkeep", || a.db.maintain(&asked)).await;
    assert_eq!(first.settings.revision, 1);
    let mut wanted = Care { revision: 2, ..care(&[]) };
    wanted.spec.parameters.insert("work_mem".into(), "5MB".into());
    let file = a.settings.layout.pgdata.join("quorate.spec.conf");
    let written = || std::fs::read_to_string(&file).unwrap().contains("work_mem = '5MB'");
    leave_once(a.db.maintain(&wanted), written).await;
    assert_ne!(a.session().setting("work_mem").await.unwrap().as_deref(), Some("5MB"));
    let upkeep = settled("upkeep", || a.db.maintain(&wanted)).await;
    assert_eq!(upkeep.settings.revision, 2);
    assert_eq!(a.session().setting("work_mem").await.unwrap().as_deref(), Some("5MB"));
}
