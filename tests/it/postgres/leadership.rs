//! Changes of leadership: a new cluster, a failover with a gap in the epochs, the old primary's
//! return.

use std::time::{Duration, Instant};

use quorate::domain::types::{Epoch, Lsn, Timeline, WallMillis};
use quorate::postgres::basebackup;
use quorate::postgres::conf::Role;
use quorate::postgres::controldata::{self, ClusterState};
use quorate::postgres::layout::Layout;
use quorate::postgres::rewind::{self, Outcome};
use quorate::postgres::start::{self, Signal};
use quorate::postgres::{history, initdb, promote, wal};

use super::server::{LONG, Member, SEGMENT, Site, free_port};

async fn current_lsn(member: &mut Member) -> Lsn {
    member.session.emit_local().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_begins_as_a_sealed_standby() {
    let site = Site::new().await;
    let (mut a, _) = Member::first(&site, "a").await;
    // Nothing is made over data.
    let options = initdb::Options::default();
    let (binaries, user, credentials) = (&site.binaries, &site.user, &site.credentials);
    let again = initdb::create(binaries, user, &a.layout, credentials, &options, &a.settings);
    assert!(matches!(again.await, Err(initdb::Error::Occupied { .. })));
    let sealed = a.seal(2).await;
    assert_eq!(sealed.timeline, Timeline(1));
    assert_eq!(a.seal(2).await, sealed, "a seal can be confirmed");
    let promoted = a.promote(2).await;
    assert_eq!((promoted.timeline, promoted.start), (Timeline(2), sealed.replay));
    assert!(promoted.placeholders.is_empty());
    let again = a.try_promote(2).await.unwrap();
    assert_eq!((again.timeline, again.start), (promoted.timeline, promoted.start));
    let other = a.try_promote(3).await;
    assert!(matches!(other, Err(promote::Error::AlreadyPrimary { found: Timeline(2) })));
    let status = a.session.primary_status().await.unwrap();
    assert_eq!((status.timeline, status.epoch), (Some(Timeline(2)), Some(2)));
    assert!(!status.in_recovery && status.pending_restart.is_empty(), "{status:?}");
    let passwords = ["admin's pass", "pl\\ica", "re wind"];
    let logs = a.logs();
    assert!(passwords.iter().all(|p| !logs.contains(p)));
    // After a crash it is a standby again, of the same timeline.
    a.session.checkpoint(LONG).await.unwrap();
    a.stop(libc::SIGQUIT).await;
    a.start(Role::Sealed { promised: Epoch(3) }).await;
    assert_eq!(a.seal(3).await.timeline, Timeline(2));
    assert_eq!(a.promote(3).await.timeline, Timeline(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_skips_epochs_and_the_old_primary_returns() {
    let site = Site::new().await;
    let (mut a, id) = Member::first(&site, "a").await;
    a.seal(2).await;
    a.promote(2).await;
    let mut b = Member::copy_of(&site, "b", &mut a, id, 2).await;
    let mut c = Member::copy_of(&site, "c", &mut a, id, 2).await;
    a.session.query("CREATE TABLE public.t (n int)").await.unwrap();
    let shared = current_lsn(&mut a).await;
    b.await_replay(shared).await;
    c.await_replay(shared).await;
    let sealed_b = b.seal(5).await;
    let sealed_c = c.seal(5).await;
    assert_eq!((sealed_b.timeline, sealed_c.timeline), (Timeline(2), Timeline(2)));

    // What the old primary writes now reaches nobody.
    a.session.query("INSERT INTO public.t SELECT generate_series(1, 1000)").await.unwrap();
    let lost = current_lsn(&mut a).await;
    assert!(b.seal(5).await == sealed_b && sealed_b.replay < lost);
    a.stop(libc::SIGQUIT).await;

    let promoted = b.promote(5).await;
    assert_eq!((promoted.timeline, promoted.start), (Timeline(5), sealed_b.replay));
    assert_eq!(promoted.placeholders, [Timeline(3), Timeline(4)]);
    assert_eq!(promoted.history.parent(), Some(Timeline(2)));
    b.session.create_slot("quorate_c", true).await.unwrap();
    b.session.create_slot("quorate_a", true).await.unwrap();

    // The other standby follows through all numbers, also when it starts anew in between.
    let role = c.role_following(&b, 5);
    c.become_role(role.clone()).await;
    let position = current_lsn(&mut b).await;
    c.await_replay(position).await;
    assert_eq!(
        wal::newest_timeline_at(&c.layout.wal_dir(), position, SEGMENT).unwrap(),
        Timeline(5)
    );
    let before = sealed_b.replay;
    assert_eq!(wal::newest_timeline_at(&c.layout.wal_dir(), before, SEGMENT).unwrap(), Timeline(2));
    let fetched = history::list(&c.layout.wal_dir()).unwrap();
    assert!([3, 4, 5].iter().all(|t| fetched.contains(&Timeline(*t))), "{fetched:?}");
    c.stop(libc::SIGINT).await;
    c.start(role).await;

    // The old primary diverged: its WAL of timeline 2 goes beyond the switch.
    let wal_dir = a.layout.wal_dir();
    assert_eq!(wal::newest_timeline_at(&wal_dir, lost, SEGMENT).unwrap(), Timeline(2));
    let control = controldata::read(&site.binaries, &site.user, &a.layout.pgdata).await.unwrap();
    assert_eq!(control.state, ClusterState::InProduction);
    let mut job = rewind::Job {
        source: b.source("rewinder"),
        expected: id,
        diverged_at: Some(promoted.start),
        lineage: Default::default(),
        deadline: LONG,
        at: WallMillis(0),
    };
    job.source.port = free_port();
    let run = |job: rewind::Job, layout: Layout| {
        let (binaries, user) = (site.binaries.clone(), site.user.clone());
        async move { rewind::rewind(&binaries, &user, &layout, &job).await.unwrap() }
    };
    // Nobody at the source. It crashed, so its own recovery wrote a checkpoint that no other member
    // has: it is not what it was, though it can still be rewound.
    let outcome = run(job.clone(), a.layout.clone()).await;
    assert!(matches!(outcome, Outcome::Failed { touched: true, .. }), "{outcome:?}");
    assert_eq!(a.layout.incomplete().unwrap(), None);
    job.source.port = b.settings.port;
    b.session.checkpoint(LONG).await.unwrap();
    let outcome = run(job.clone(), a.layout.clone()).await;
    let Outcome::Rewound { diverged_at, timeline, saved } = outcome else { panic!("{outcome:?}") };
    assert_eq!((diverged_at, timeline), (promoted.start, Timeline(2)));
    let saved: Vec<_> = std::fs::read_dir(saved.unwrap()).unwrap().collect();
    assert!(!saved.is_empty());
    a.start(a.role_following(&b, 5)).await;
    let position = current_lsn(&mut b).await;
    a.await_replay(position).await;
    c.await_replay(position).await;
    let rows = a.session.row("SELECT count(*) AS n FROM public.t").await.unwrap();
    assert_eq!(rows.parse::<u64>("n").unwrap(), 0);

    // An earlier rewind that did not finish leaves nothing to work on.
    a.layout.mark_incomplete("x", &site.user).unwrap();
    let outcome = run(job.clone(), a.layout.clone()).await;
    assert!(matches!(outcome, Outcome::Failed { touched: false, .. }), "{outcome:?}");
    a.layout.clear_incomplete().unwrap();

    // It follows now, so there is nothing to rewind, and nobody may rewind a stranger.
    a.stop(libc::SIGINT).await;
    assert_eq!(run(job.clone(), a.layout.clone()).await, Outcome::NotRequired);
    job.expected.0 += 1;
    let outcome = run(job, a.layout.clone()).await;
    assert!(matches!(outcome, Outcome::Failed { touched: false, .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn placeholders_do_not_stop_a_start() {
    let site = Site::new().await;
    let (mut a, _) = Member::first(&site, "a").await;
    a.seal(2).await;
    a.promote(2).await;
    a.session.checkpoint(LONG).await.unwrap();
    a.stop(libc::SIGINT).await;
    a.start(Role::Sealed { promised: Epoch(9) }).await;
    let sealed = a.seal(9).await;
    // It dies after it wrote the placeholders and before it was promoted.
    let wal_dir = a.layout.wal_dir();
    let written = history::fill_below(&wal_dir, Timeline(2), Timeline(9), &site.user).unwrap();
    assert_eq!(written.len(), 6);
    // The running standby sees them and does not follow them.
    assert_eq!(a.seal(9).await, sealed);
    a.stop(libc::SIGQUIT).await;
    a.start(Role::Sealed { promised: Epoch(7) }).await;
    assert_eq!(a.seal(7).await, sealed);
    let promoted = a.promote(7).await;
    assert_eq!((promoted.timeline, promoted.history.parent()), (Timeline(7), Some(Timeline(2))));
    // A number that is taken is never written twice.
    a.session.checkpoint(LONG).await.unwrap();
    a.stop(libc::SIGINT).await;
    a.start(Role::Sealed { promised: Epoch(8) }).await;
    a.seal(8).await;
    std::fs::write(wal_dir.join("00000008.history"), "7\t0/1\tforeign\n").unwrap();
    let refused = a.try_promote(8).await;
    assert!(
        matches!(refused, Err(promote::Error::History(history::Error::Taken { .. }))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_switch_is_not_a_record() {
    let site = Site::new().await;
    let (mut a, id) = Member::first(&site, "a").await;
    a.seal(2).await;
    a.promote(2).await;
    let mut b = Member::copy_of(&site, "b", &mut a, id, 2).await;
    let position = current_lsn(&mut a).await;
    b.await_replay(position).await;
    let sealed = b.seal(3).await;
    assert!(sealed.replay >= position && sealed.timeline == Timeline(2));
    // The history of a timeline that begins where it stands, but nothing of it.
    let text = format!("1\t0/1000000\tx\n2\t{}\tx\n", sealed.replay);
    let history = b.layout.wal_dir().join("00000003.history");
    std::fs::write(&history, text).unwrap();
    assert_eq!(b.seal(3).await, sealed);
    // After a start it is not taken for the parent of what comes next.
    b.stop(libc::SIGQUIT).await;
    b.start(Role::Sealed { promised: Epoch(4) }).await;
    assert!(!history.exists());
    let again = b.seal(4).await;
    assert_eq!(again.timeline, Timeline(2));
    let promoted = b.promote(4).await;
    assert_eq!(promoted.history.parent(), Some(Timeline(2)));
    assert_eq!(promoted.start, again.replay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_without_sql_takes_the_number_too() {
    let site = Site::new().await;
    let (mut a, _) = Member::first(&site, "a").await;
    a.seal(4).await;
    history::fill_below(&a.layout.wal_dir(), Timeline(1), Timeline(4), &site.user).unwrap();
    promote::promote_by_signal(&a.layout, &site.user, a.pid()).unwrap();
    super::server::eventually("the end of recovery", || {
        let target = a.session.target().clone();
        async move {
            let mut session = quorate::postgres::sql::Session::new(target, LONG);
            (!session.is_in_recovery().await.unwrap()).then_some(())
        }
    })
    .await;
    assert_eq!(a.session.current_timeline().await.unwrap(), Timeline(4));
    // A request that was never read does not survive into the next start.
    a.stop(libc::SIGINT).await;
    std::fs::write(a.layout.pgdata.join("promote"), "").unwrap();
    assert!(start::set_signal(&a.layout, &site.user, Signal::Standby).unwrap());
    assert!(!a.layout.pgdata.join("promote").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_replaces_only_when_it_is_whole() {
    let site = Site::new().await;
    let (mut a, id) = Member::first(&site, "a").await;
    a.seal(2).await;
    a.promote(2).await;
    let mut b = Member::copy_of(&site, "b", &mut a, id, 2).await;
    b.stop(libc::SIGINT).await;
    let copy = |job: basebackup::Job, layout: Layout| {
        let (binaries, user) = (site.binaries.clone(), site.user.clone());
        async move { basebackup::copy(&binaries, &user, &layout, &job, |_| {}).await }
    };
    let job = b.copy_job(&a, id);
    // Of another cluster, from nowhere, or too slow: what is there stays.
    let mut foreign = job.clone();
    foreign.expected.0 += 1;
    let refused = copy(foreign, b.layout.clone()).await;
    assert!(matches!(refused, Err(basebackup::Error::Foreign { .. })), "{refused:?}");
    let mut nowhere = job.clone();
    nowhere.source.port = free_port();
    assert!(copy(nowhere, b.layout.clone()).await.is_err());
    let mut slow = job.clone();
    slow.deadline = Duration::from_millis(1);
    let refused = copy(slow, b.layout.clone()).await;
    assert!(matches!(refused, Err(basebackup::Error::Run(_))), "{refused:?}");
    assert!(b.layout.list_aside().unwrap().is_empty());
    assert!(b.layout.pgdata.join("PG_VERSION").exists());

    b.layout.mark_incomplete("a rewind", &site.user).unwrap();
    let copied = copy(job, b.layout.clone()).await.unwrap();
    assert_eq!(copied.timeline, Timeline(2));
    assert_eq!(b.layout.list_aside().unwrap().len(), 1);
    assert!(copied.kept_aside.unwrap().join("PG_VERSION").exists());
    assert_eq!(b.layout.incomplete().unwrap(), None);
    b.start(b.role_following(&a, 2)).await;
    let position = current_lsn(&mut a).await;
    b.await_replay(position).await;
}

/// Prints how long seals and promotions take. It judges nothing: machines differ.
#[tokio::test(flavor = "multi_thread")]
async fn times_of_seal_and_promotion() {
    let site = Site::new().await;
    let (mut a, id) = Member::first(&site, "a").await;
    a.seal(2).await;
    a.promote(2).await;
    let mut b = Member::copy_of(&site, "b", &mut a, id, 2).await;
    let mut epoch = 2;
    let (mut seals, mut promotions) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let position = current_lsn(&mut a).await;
        b.await_replay(position).await;
        epoch += 1;
        let begin = Instant::now();
        let sealed = b.seal(epoch).await;
        seals.push(begin.elapsed());
        assert!(sealed.replay >= position);
        a.stop(libc::SIGINT).await;
        b.become_role(Role::Primary { epoch: Epoch(epoch), read_only: true }).await;
        let begin = Instant::now();
        b.try_promote(epoch).await.unwrap();
        promotions.push(begin.elapsed());
        b.become_role(Role::Primary { epoch: Epoch(epoch), read_only: false }).await;
        b.session.create_slot(&a.name.slot_name(), true).await.unwrap();
        b.session.checkpoint(LONG).await.unwrap();
        // The old one was ahead by its shutdown checkpoint: it has to be rewound.
        let job = rewind::Job {
            source: b.source("rewinder"),
            expected: id,
            diverged_at: None,
            lineage: Default::default(),
            deadline: LONG,
            at: WallMillis(0),
        };
        let outcome = rewind::rewind(&site.binaries, &site.user, &a.layout, &job).await.unwrap();
        assert!(matches!(outcome, Outcome::Rewound { .. }), "{outcome:?}");
        a.start(a.role_following(&b, epoch)).await;
        std::mem::swap(&mut a, &mut b);
    }
    let millis = |all: Vec<Duration>| all.iter().map(|d| d.as_millis()).collect::<Vec<_>>();
    println!("seal {:?} ms, promote {:?} ms", millis(seals), millis(promotions));
}
