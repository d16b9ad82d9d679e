//! A member whose disk is full: what is written all the same, and copies that do not fit.

use std::sync::Arc;

use quorate::agent::driver::{Database, Error, Survey};
use quorate::domain::observation::Data;
use quorate::domain::space::Level;
use quorate::domain::types::Epoch;

use super::harness::*;
use crate::support::SmallDisk;

async fn level(member: &Member) -> Level {
    member.db.survey().await.unwrap().disks.level()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_survived() {
    let site = Site::new();
    let (a, _, lineage) = first_primary(&site).await;
    let duty = a.duty(2, &lineage);
    let mut settings = site.settings("b");
    settings.aside_count_max = 2;
    let layout = settings.layout.clone();
    // Everything of the member is on it.
    let place = layout.pgdata.parent().unwrap().parent().unwrap().to_owned();
    let Some(disk) = SmallDisk::mount(&place, 300) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let b = Member::new(settings).await;
    let Survey { disks, aside, .. } = b.db.survey().await.unwrap();
    assert_eq!(disks.data.unwrap().total_bytes, 300 << 20);
    assert_eq!((disks.wal, aside.len()), (None, 0));

    // Too little room is told before anything is touched, and a copy that is begun all the same
    // leaves nothing.
    disk.fill_to(20 << 20);
    assert_eq!(level(&b).await, Level::Critical);
    let room = b.db.room_for_copy(&duty).await.unwrap();
    assert!(room.needed_bytes > 80 << 20, "the data and what stays free: {room:?}");
    assert!(room.free_bytes < room.needed_bytes && room.removed.is_empty(), "{room:?}");
    let free = disk.free();
    let error = b.db.clone_from(&duty, &spec(), Arc::new(|_, _| {})).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(why) if why.contains("No space left")), "{error}");
    assert_eq!(b.db.inspect().await.unwrap(), Data::Empty);
    assert!(!layout.new_dir().exists(), "nothing of it is left");
    assert!(disk.free() + (1 << 20) > free, "its room is free again: {} of {free}", disk.free());

    // What is kept aside goes, the oldest first, as far as the bounds would have it anyway.
    disk.empty();
    for (stamp, mib) in [("20200101T000000Z", 50), ("20210101T000000Z", 100)] {
        let kept = format!("{}.aside-{stamp}-diverged", layout.pgdata.display());
        std::fs::create_dir_all(&kept).unwrap();
        std::fs::write(format!("{kept}/file"), vec![1; mib << 20]).unwrap();
    }
    disk.fill_to(60 << 20);
    let aside = eventually("what is kept aside is counted", || async {
        let aside = b.db.survey().await.unwrap().aside;
        aside.iter().all(|a| a.bytes > 0).then_some(aside)
    })
    .await;
    assert_eq!((aside[0].bytes >> 20, aside[1].bytes >> 20), (50, 100));
    assert_eq!((aside[0].reason.as_str(), aside[0].at_unix_ms), ("diverged", 1_577_836_800_000));
    let room = b.db.room_for_copy(&duty).await.unwrap();
    assert_eq!(room.removed, [aside[0].path.clone()], "{room:?}");
    assert_eq!(b.db.survey().await.unwrap().aside.len(), 1);
    disk.empty();
    let room = b.db.room_for_copy(&duty).await.unwrap();
    assert!(room.free_bytes >= room.needed_bytes && room.removed.is_empty(), "{room:?}");
    b.copy(&duty).await;
    b.streams(2).await;

    // Record and seal need no room once they were written with some.
    let mut record = b.db.load_record().await.unwrap().unwrap();
    b.db.save_record(&record).await.unwrap();
    assert!(level(&b).await > Level::Critical, "a reserve is kept where there is room for it");
    disk.fill_to(0);
    assert_eq!(disk.free(), 0);
    for promised in 3..9 {
        record.promised = Epoch(promised);
        b.db.save_record(&record).await.unwrap();
        assert_eq!(b.db.load_record().await.unwrap().unwrap(), record);
    }
    assert_eq!(disk.free(), 0);
    let position = b.seal(9).await;
    assert_eq!(position.wal_epoch, Epoch(2));
    assert_eq!(level(&b).await, Level::Critical);

    // PostgreSQL says it itself.
    assert!(!b.db.said_no_room().await.unwrap());
    let mut log = std::fs::read_dir(&layout.log_dir).unwrap().map(|e| e.unwrap().path());
    let log = log.find(|p| p.extension().is_some_and(|e| e == "log")).unwrap();
    disk.empty();
    let mut file = std::fs::File::options().append(true).open(log).unwrap();
    std::io::Write::write_all(&mut file, b"PANIC: No space left on device\n").unwrap();
    assert!(b.db.said_no_room().await.unwrap());
    b.db.stop().await.unwrap();
    b.prove().await;
}
