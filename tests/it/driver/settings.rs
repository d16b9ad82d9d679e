//! Settings that PostgreSQL takes while it runs, and does not start with.

use quorate::agent::driver::{Care, Database, StartMode, Upkeep};
use quorate::domain::alarm::AlarmCode;
use quorate::domain::types::Epoch;

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
