//! Settings that PostgreSQL takes while it runs, and does not start with.

use std::os::unix::fs::{PermissionsExt, symlink};

use quorate::agent::driver::{Care, Database, StartMode, Upkeep};
use quorate::domain::alarm::AlarmCode;
use quorate::domain::types::Epoch;
use quorate::postgres::binaries::Binaries;
use quorate::postgres::os_user::OsUser;

use super::harness::*;

fn asked(revision: u64, more: &[(&str, &str)]) -> Care {
    let mut care = Care { revision, ..care(&[]) };
    let pairs = more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    care.spec.parameters.extend(pairs);
    care
}

fn refused(upkeep: &Upkeep) -> bool {
    upkeep.alarms.iter().any(|a| a.code == AlarmCode::ParametersRefused)
}

/// What would stop the next start, or every new session, is found out before it is written; and by
/// a member to which it came while it was down, before its start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_start_survives_is_never_written() {
    let site = Site::new();
    let (a, _, _) = first_primary(&site).await;
    let file = a.settings.layout.pgdata.join("quorate.spec.conf");
    let before = std::fs::read_to_string(&file).unwrap();
    let first = asked(1, &[]);
    let upkeep = settled("upkeep", || a.db.maintain(&first)).await;
    assert!(!refused(&upkeep), "{upkeep:?}");
    let libraries = upkeep.settings.libraries.unwrap();
    assert!(libraries.contains("pg_stat_statements") && !libraries.contains("nope"));

    let bad: [(&str, &str, &str); 3] = [
        ("ssl", "on", "server.crt"),
        ("session_preload_libraries", "nope", "install the package"),
        ("shared_preload_libraries", "nope", "install the package"),
    ];
    for (revision, (name, value, said)) in (2..).zip(bad) {
        let care = asked(revision, &[(name, value)]);
        let upkeep = settled("upkeep", || a.db.maintain(&care)).await;
        let told = upkeep.settings.refused.clone().unwrap();
        assert!(told.why.contains(said), "{told:?}");
        assert_eq!((told.revision, told.last_good), (revision, 1));
        assert!(told.setting == name || name == "ssl", "{told:?}");
        assert!(refused(&upkeep), "{upkeep:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before, "{name}");
    }
    // It goes on, and takes what is fine.
    let fine = asked(9, &[("work_mem", "5MB"), ("session_preload_libraries", "auto_explain")]);
    settled("upkeep", || a.db.maintain(&fine)).await;
    eventually("it is in force", || async {
        let now = a.session().setting("work_mem").await.unwrap();
        (now.as_deref() == Some("5MB")).then_some(())
    })
    .await;

    a.kill_and_prove().await;
    let came = asked(10, &[("ssl", "on"), ("session_preload_libraries", "nope")]);
    a.db.start(&StartMode::Sealed { promise: Epoch(3) }, &came.spec).await.unwrap();
    settled("seal", || a.db.seal(Epoch(3), &came.spec)).await;
    let upkeep = settled("upkeep", || a.db.maintain(&came)).await;
    assert!(refused(&upkeep), "{upkeep:?}");
    assert_eq!(upkeep.settings.refused.unwrap().setting, "session_preload_libraries");
    a.kill_and_prove().await;
}

/// Where it cannot be found out whether PostgreSQL takes settings, that is no approval, and holds up
/// no start; once it can, they are used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_tried_is_not_used() {
    let site = Site::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let found = Binaries::find(None, None, &OsUser::resolve(None).unwrap()).await.unwrap();
    let (bin, mark) = (dir.path().join("bin"), dir.path().join("trouble"));
    std::fs::create_dir(&bin).unwrap();
    for entry in std::fs::read_dir(found.dir()).unwrap() {
        let program = entry.unwrap().path();
        symlink(&program, bin.join(program.file_name().unwrap())).unwrap();
    }
    // A dry start runs out of memory while the machine is in trouble.
    let (postgres, real) = (bin.join("postgres"), found.program("postgres"));
    std::fs::remove_file(&postgres).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *'-C shared_memory_size'*) if [ -e {} ]; then \
         echo 'FATAL:  out of memory' >&2; exit 1; fi;; esac\nexec {} \"$@\"\n",
        mark.display(),
        real.display()
    );
    std::fs::write(&postgres, script).unwrap();
    std::fs::set_permissions(&postgres, PermissionsExt::from_mode(0o755)).unwrap();
    let mut settings = site.settings("a");
    settings.bin_dir = Some(bin);
    let (a, _, _) = begin(Member::new(settings).await).await;
    let first = asked(1, &[]);
    assert!(!refused(&settled("upkeep", || a.db.maintain(&first)).await));

    let file = a.settings.layout.pgdata.join("quorate.spec.conf");
    let used = || std::fs::read_to_string(&file).unwrap().contains("work_mem = '5MB'");
    std::fs::write(&mark, "").unwrap();
    let wanted = asked(2, &[("work_mem", "5MB")]);
    for _ in 0..2 {
        let upkeep = settled("upkeep", || a.db.maintain(&wanted)).await;
        assert!(refused(&upkeep), "{upkeep:?}");
        assert_eq!(upkeep.settings.revision, 1);
        assert!(!used());
    }
    a.kill_and_prove().await;
    a.db.start(&StartMode::Sealed { promise: Epoch(3) }, &wanted.spec).await.unwrap();
    settled("seal", || a.db.seal(Epoch(3), &wanted.spec)).await;
    assert!(!used());
    std::fs::remove_file(&mark).unwrap();
    eventually("they are used", || async {
        settled("upkeep", || a.db.maintain(&wanted)).await;
        used().then_some(())
    })
    .await;
    a.kill_and_prove().await;
}
