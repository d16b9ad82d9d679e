//! Looks at the file systems of a member: how much room there is, and what is kept aside.
//!
//! Seldom, more often where room is short. A file system that hangs holds up nothing but the next
//! look at it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::driver::{Database, Survey};
use super::shared::Shared;
use crate::clock::Clock;
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::domain::space::{Disks, Level, Space};
use crate::domain::state::Phase;
use crate::runtime::{self, Runtime};

/// How often is looked where there is room, and where there is little.
const EVERY: Duration = Duration::from_secs(5);
const EVERY_SHORT: Duration = Duration::from_secs(1);
/// How long a look may take.
const LOOK: Duration = Duration::from_secs(3);
/// After how many looks in vain what was seen before says nothing any more.
const IN_VAIN_MAX: u32 = 3;
/// The alarms that are raised here.
const ALARMS: &[AlarmCode] = &[
    AlarmCode::SpaceLow,
    AlarmCode::SpaceCritical,
    AlarmCode::ControllerDown,
    AlarmCode::PortTaken,
    AlarmCode::StartsByItself,
];

const MIB: u64 = 1 << 20;

pub(super) async fn run<RT: Runtime, D: Database, C: Clock>(shared: Arc<Shared<D, C>>) {
    let mut node = shared.options.node_alarms.clone();
    let mut own = Vec::new();
    let mut levels = BTreeMap::new();
    let mut in_vain = 0;
    loop {
        let looked = RT::timeout(LOOK, shared.database.survey()).await;
        match looked.map_err(|_| format!("no answer within {} s", LOOK.as_secs())) {
            Ok(Ok(survey)) => {
                in_vain = 0;
                shared.problem("disks", None);
                own = judge(&shared, survey, &mut levels);
            }
            Ok(Err(_)) | Err(_) if in_vain < IN_VAIN_MAX => in_vain += 1,
            Ok(Err(error)) => lost(&shared, &error.to_string()),
            Err(error) => lost(&shared, &error),
        }
        let mut wanted = own.clone();
        wanted.extend(node.borrow_and_update().iter().cloned());
        shared.set_alarms(ALARMS, wanted);
        let short = levels.values().any(|level| *level < Level::Enough);
        let every = if short { EVERY_SHORT } else { EVERY };
        runtime::first_of(vec![
            Box::pin(shared.survey.notified()),
            Box::pin(async {
                if node.changed().await.is_err() {
                    // Nobody will tell of the node any more.
                    std::future::pending().await
                }
            }),
            Box::pin(RT::sleep(every)),
        ])
        .await;
    }
}

/// Unknown is not full, and not empty.
fn lost<D: Database, C: Clock>(shared: &Shared<D, C>, why: &str) {
    shared.problem("disks", Some(format!("how much room there is cannot be found out: {why}")));
    shared.lock().disks = Disks::default();
}

/// Takes in what was found; returns the alarms that hold.
fn judge<D: Database, C: Clock>(
    shared: &Shared<D, C>,
    survey: Survey,
    levels: &mut BTreeMap<String, Level>,
) -> Vec<Alarm> {
    let Survey { disks, data_path, wal_path, aside, starters, starters_unclear } = survey;
    let kept: u64 = aside.iter().map(|a| a.bytes).sum();
    let hint = match aside.len() {
        0 => String::new(),
        count => format!("; {count} replaced data directories beside it hold {} MiB", kept / MIB),
    };
    let (said, changed) = {
        let mut inner = shared.lock();
        let changed = inner.disks.level() != disks.level() || inner.aside != aside;
        (inner.disks, inner.aside) = (disks, aside);
        // It runs, so there was room enough for a start.
        inner.no_room_said &= !inner.was_ready;
        (inner.no_room_said, changed)
    };
    let mut alarms = Vec::new();
    for (path, space, hint) in [(&data_path, disks.data, hint.as_str()), (&wal_path, disks.wal, "")]
    {
        let Some(space) = space else {
            levels.remove(path);
            continue;
        };
        let level = space.level_after(levels.get(path).copied().unwrap_or(Level::Enough));
        levels.insert(path.clone(), level);
        alarms.extend(alarm(path, &space, level, hint));
    }
    if said && !alarms.iter().any(|a| a.code == AlarmCode::SpaceCritical) {
        let text = format!(
            "PostgreSQL ended since there was no room, though {data_path} seems to have some: look \
             for a quota, and for files that are removed and still open"
        );
        alarms.push(Alarm::about(AlarmCode::SpaceCritical, data_path.clone(), text));
    }
    // Data that waits for its adoption is not ours yet.
    let ours = shared.state().is_some_and(|state| state.phase == Phase::Running);
    shared.problem("starters", starters_unclear.filter(|_| ours));
    if ours && !starters.is_empty() {
        let text = format!(
            "the machine would start a second PostgreSQL on {data_path}, at boot or by name: {}",
            starters.join(", ")
        );
        alarms.push(Alarm::about(AlarmCode::StartsByItself, String::new(), text));
    }
    if changed {
        shared.news.notify_one();
    }
    alarms
}

/// The alarm of a file system at this level.
fn alarm(path: &str, space: &Space, level: Level, hint: &str) -> Option<Alarm> {
    let (free, total) = (space.free_bytes / MIB, space.total_bytes / MIB);
    let (code, what) = match level {
        Level::Enough => return None,
        Level::Low => (AlarmCode::SpaceLow, "make room before PostgreSQL stops"),
        Level::Critical => (
            AlarmCode::SpaceCritical,
            "the member is not promoted, and PostgreSQL stops once it is full: make room",
        ),
    };
    let text =
        format!("the file system of {path} has {free} MiB left of {total} MiB: {what}{hint}");
    Some(Alarm::about(code, path, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_carry_numbers_and_the_path() {
        let space = Space { free_bytes: 900 * MIB, total_bytes: 100 * 1024 * MIB };
        assert_eq!(alarm("/d", &space, Level::Enough, ""), None);
        let low = alarm("/d", &space, Level::Low, "; hint").unwrap();
        assert_eq!((low.code, low.subject.as_str()), (AlarmCode::SpaceLow, "/d"));
        assert!(low.text.contains("900 MiB left of 102400 MiB") && low.text.ends_with("hint"));
        let critical = alarm("/d", &space, Level::Critical, "").unwrap();
        assert_eq!(critical.code, AlarmCode::SpaceCritical);
    }
}
