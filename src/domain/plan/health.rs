//! Alarms and notices of the members, on their way into the history.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::alarm::{ALARMS_MAX, Alarm, AlarmCode};
use super::super::command::Change;
use super::super::observation::Sequence;
use super::super::state::Stage;
use super::super::types::{Lsn, MemberName};
use super::Pass;

/// How often the primary's position is noted, where it is.
const NOTE_EVERY_MS: u64 = 2000;

impl Pass<'_> {
    /// Notes how far the primary is, where a takeover is measured by it: the next leader of the
    /// control plane may never hear of it.
    pub(super) fn note_position(&self) -> Option<Change> {
        self.state.spec.max_lag_bytes?;
        let tenure = self.state.open_tenure()?;
        let lsn = self.primary_view(tenure).map(|v| v.flushed).filter(|lsn| *lsn > Lsn(0))?;
        let noted = self.state.primary_end_at;
        let due = self.wall.0.checked_sub(noted.0).is_none_or(|age| age >= NOTE_EVERY_MS);
        let further = Some((tenure.epoch, lsn)) > self.state.primary_end;
        (matches!(tenure.stage, Stage::Active { .. }) && due && further)
            .then_some(Change::NotePosition { expect_epoch: tenure.epoch, lsn })
    }

    /// Takes alarms and notices of one member into the history, where there are new ones.
    pub(super) fn note_health(&self) -> Option<Change> {
        let held = |member: &MemberName| {
            self.state.alarms.get(member).map(Vec::as_slice).unwrap_or_default()
        };
        for member in self.state.members.keys() {
            let Some(observed) = self.fresh(member) else { continue };
            let report = &observed.report;
            let mut alarms: Vec<Alarm> = report.alarms.iter().map(Alarm::bounded).collect();
            alarms.extend(self.commits_wait(member));
            alarms.truncate(ALARMS_MAX);
            let keys = |list: &[Alarm]| -> BTreeSet<(AlarmCode, String)> {
                list.iter().map(|a| (a.code, a.subject.clone())).collect()
            };
            let run = report.sequence.run;
            let known = self.state.noticed.get(member).filter(|s| s.run == run);
            let known = known.map_or(0, |s| s.number);
            let new: Vec<_> = report.notices.iter().filter(|n| n.number > known).cloned().collect();
            if new.is_empty() && keys(&alarms) == keys(held(member)) {
                continue;
            }
            let number = new.iter().map(|n| n.number).max().unwrap_or(known);
            return Some(Change::NoteHealth {
                member: member.clone(),
                alarms,
                notices: new,
                upto: Sequence { run, number },
            });
        }
        None
    }

    /// The alarm of a primary that too few standbys confirm.
    fn commits_wait(&self, member: &MemberName) -> Option<Alarm> {
        let tenure = self.state.open_tenure().filter(|t| t.member == *member)?;
        if !matches!(tenure.stage, Stage::Active { .. }) {
            return None;
        }
        let (view, current) = (self.primary_view(tenure)?, self.state.current_sync()?);
        let grace = Duration::from_millis(self.state.spec.shrink_after_ms) / 2;
        let since = self.since(self.observed.epoch_seen.map(|(_, at)| at));
        let confirms = |name: &&MemberName| {
            let last = self.observed.last_streaming.get(*name).copied().unwrap_or(since);
            view.standbys.get(*name).is_some_and(|p| p.streaming)
                || self.now.since(last.max(since)) < grace
        };
        let able = current.members.iter().filter(confirms).count();
        (able < current.w as usize).then(|| {
            let text = format!("commits wait: {current} and only {able} of its members stream");
            Alarm::new(AlarmCode::CommitsWait, text)
        })
    }
}
