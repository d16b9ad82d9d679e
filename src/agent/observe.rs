//! Asks PostgreSQL what it is.

use std::sync::Arc;
use std::time::Duration;

use super::driver::{Database, Seen};
use super::shared::Shared;
use crate::clock::Clock;
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::domain::reconcile::Process;
use crate::runtime::Runtime;

/// How often a member that is on its way somewhere is asked.
const FAST: Duration = Duration::from_millis(100);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

pub(super) async fn run<RT: Runtime, D: Database, C: Clock>(shared: Arc<Shared<D, C>>) {
    loop {
        let before = {
            let inner = shared.lock();
            let running = !matches!(inner.process, Process::Down | Process::Ending);
            running.then(|| (inner.guard.clone(), is_standby(&inner.process)))
        };
        let Some((guard, was_standby)) = before else {
            RT::sleep(FAST).await;
            continue;
        };
        match RT::timeout(ANSWER, shared.database.observe()).await {
            Ok(Ok(seen)) => {
                let settled = settled(&shared, &seen);
                let now = shared.clock.now();
                let lacking = match &seen {
                    Seen::Standby { lacks_wal, .. } => lacks_wal.clone(),
                    _ => None,
                };
                let lacks = lacking.is_some();
                let changed = {
                    let mut inner = shared.lock();
                    let kind = |s: &Seen| match s {
                        Seen::Starting => (0, 0),
                        Seen::Standby { streaming, .. } => (1, usize::from(streaming.is_some())),
                        Seen::Primary { standbys, .. } => {
                            (2, standbys.values().filter(|s| s.streaming).count())
                        }
                    };
                    if inner.guard != guard {
                        // An answer of a life that is over.
                        continue;
                    }
                    inner.was_ready |= !matches!(seen, Seen::Starting);
                    // A standby answers once it is consistent.
                    inner.consistent |= inner.was_ready;
                    if let Seen::Standby { primary_end: Some(end), streaming: Some(t), .. } = &seen
                    {
                        // A timeline that nobody was granted says nothing of any primary.
                        let followed = matches!(
                            &inner.process,
                            Process::Following { epoch, .. } if *epoch == t.epoch()
                        );
                        if followed {
                            inner.primary_end = inner.primary_end.max(Some((t.epoch(), *end)));
                        }
                    }
                    if let Seen::Primary { drift, .. } = &seen {
                        inner.promoted_by_hand |= was_standby && is_standby(&inner.process);
                        inner.drifted |= drift.is_some();
                        match drift {
                            Some(drift) => _ = inner.problems.insert("settings", drift.clone()),
                            None => _ = inner.problems.remove("settings"),
                        }
                    }
                    let before = inner.seen.as_ref().map(|(s, _)| kind(s));
                    let changed = before != Some(kind(&seen));
                    inner.seen = Some((seen, now));
                    inner.source_lacks_wal |= lacks && !inner.is_cascaded();
                    changed
                };
                let (drifted, still) = {
                    let inner = shared.lock();
                    (inner.drifted, inner.source_lacks_wal)
                };
                match lacking {
                    Some(why) => {
                        let text = format!("{why}: the member has to be copied");
                        shared.raise(Alarm::new(AlarmCode::WalMissing, text));
                    }
                    None if !still => shared.set_alarms(&[AlarmCode::WalMissing], Vec::new()),
                    None => {}
                }
                if changed || lacks || drifted {
                    shared.news.notify_one();
                    shared.wake.notify_one();
                }
                RT::sleep(if settled { shared.options.report_every } else { FAST }).await;
            }
            Ok(Err(_)) | Err(_) => {
                // Unknown is not absent: what was seen last is kept out of the next report.
                shared.lock().seen = None;
                RT::sleep(FAST).await;
            }
        }
    }
}

fn is_standby(process: &Process) -> bool {
    matches!(process, Process::Sealed { .. } | Process::Following { .. })
}

/// Whether nothing is about to change.
fn settled<D: Database, C: Clock>(shared: &Shared<D, C>, seen: &Seen) -> bool {
    let inner = shared.lock();
    match (&inner.process, seen) {
        (Process::Sealed { position: Some(_), .. }, Seen::Standby { .. }) => true,
        (Process::Following { .. }, Seen::Standby { streaming, .. }) => {
            let unproven = inner.record.data != crate::domain::record::DataMark::Intact;
            streaming.is_some() && !unproven
        }
        (
            Process::Primary { promoted: true, writes_open: true, .. },
            Seen::Primary { standbys, .. },
        ) => standbys.values().all(|s| s.streaming),
        _ => false,
    }
}
