//! What is well for a moment, and wrong where it lasts; and a primary that does not say that it is.

use super::{Diagnosis, Patient};
use crate::domain::event::EventKind;
use crate::domain::observation::{Condition, Progress};
use crate::domain::types::WallMillis;

/// A change that is not through after so long, in milliseconds, waits for something.
const LONG_MS: u64 = 60_000;

/// For how many seconds something holds that began at `since`, where that is long.
fn long(p: &Patient<'_>, since: WallMillis) -> Option<u64> {
    let ms = p.wall.0.saturating_sub(since.0);
    (ms >= LONG_MS).then_some(ms / 1000)
}

/// While two configurations are in force a commit waits for both.
pub(super) fn syncs(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let [oldest, _, ..] = p.state.syncs.as_slice() else { return };
    let changing = |kind: &EventKind| matches!(kind, EventKind::SyncChanging { .. });
    let begun = p.state.history.iter().rev().find(|e| changing(&e.kind)).map(|e| e.at);
    let Some(seconds) = begun.and_then(|at| long(p, at)) else { return };
    found.push(Diagnosis::problem(
        "cluster.sync-change",
        format!(
            "{} synchronous configurations have been in force for {seconds} s, the oldest is {}: \
             commits wait for all of them",
            p.state.syncs.len(),
            oldest.setting()
        ),
        "the primary has to confirm the newest with enough standbys: see which of them stream",
    ));
}

/// What the control plane calls the primary has to say so itself, also under a pause.
pub(super) fn leads(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let Some(primary) = p.primary() else { return };
    let Some(observed) = p.report_of(primary) else { return };
    let epoch = p.state.epoch;
    let open = match &observed.report.condition {
        Condition::Primary(view) => {
            view.epoch == epoch && matches!(view.progress, Progress::Promoted { .. })
        }
        _ => false,
    };
    if !open {
        let what = format!("{primary} holds epoch {epoch}, and does not report an open primary");
        let todo = "PostgreSQL may have ended or be unable to start there: see its log; under a \
                    pause nobody takes over until `hactl resume`";
        found.push(Diagnosis::problem("member.leads", what, todo).of(primary, p.state));
    }
}

/// Members take a new revision within seconds.
pub(super) fn specification(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let newest = p.state.spec_revision;
    let since = p.state.spec_history.back().filter(|r| r.revision == newest).map(|r| r.at);
    let Some(seconds) = since.and_then(|at| long(p, at)) else { return };
    for name in p.state.members.keys() {
        let Some(observed) = p.report_of(name) else { continue };
        let theirs = observed.report.settings.revision;
        if theirs > 0 && theirs < newest {
            let what = format!(
                "{name} runs with revision {theirs} of the specification, and {newest} is in force \
                 since {seconds} s"
            );
            let todo = "`hactl config show` says what keeps it; see hanode's log on its node";
            found.push(Diagnosis::warning("member.specification", what, todo).of(name, p.state));
        }
    }
}
