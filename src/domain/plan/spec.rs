//! A specification that PostgreSQL refuses is taken back.

use super::super::command::Change;
use super::super::specification::RefusedSpec;
use super::super::types::MemberName;
use super::{Finding, Pass};

impl Pass<'_> {
    /// Goes back from a revision that the active primary refuses, or most of all members. One member
    /// that is late or sick keeps its own last good settings, and takes nobody along. What is said
    /// of an older revision is settled, and a roll-back is never rolled back itself: two members that
    /// want different ones would go on for ever.
    pub(super) fn roll_back_spec(&self, findings: &mut Vec<Finding>) -> Option<Change> {
        let revision = self.state.spec_revision;
        let refused = |member| {
            let refused = self.fresh(member)?.report.settings.refused.as_ref()?;
            (refused.revision == revision).then_some((member, refused))
        };
        let refusing: Vec<_> = self.state.members.keys().filter_map(refused).collect();
        let agreed = self.roll_back_to(&refusing);
        for (member, refused) in &refusing {
            let (member, why) = ((*member).clone(), refused.why.clone());
            let to = agreed.as_ref().map(|(_, _, to)| *to);
            findings.push(Finding::SpecRefused { member, revision, to, why });
        }
        let (member, refused, to) = agreed?;
        Some(Change::RollBackSpec {
            expect_revision: revision,
            to,
            member: member.clone(),
            setting: refused.setting.clone(),
            why: refused.why.clone(),
        })
    }

    /// For whom the specification goes back, and to which revision.
    fn roll_back_to<'r>(
        &self,
        refusing: &[(&'r MemberName, &'r RefusedSpec)],
    ) -> Option<(&'r MemberName, &'r RefusedSpec, u64)> {
        let state = self.state;
        if state.is_rolled_back() {
            return None;
        }
        let primary = state.active_primary();
        let (member, refused, to) = match refusing.iter().find(|(m, _)| Some(*m) == primary) {
            Some((member, refused)) => (*member, *refused, refused.last_good),
            None if refusing.len() * 2 > state.members.len() => {
                let (member, refused) = refusing.first()?;
                let newest = refusing.iter().map(|(_, r)| r.last_good).max()?;
                (*member, *refused, newest)
            }
            None => return None,
        };
        let kept = state.spec_history.iter();
        let older = kept.filter(|r| r.revision < state.spec_revision).find(|r| r.revision == to)?;
        let helps = state.spec.with_server_files_of(&older.spec) != state.spec;
        helps.then_some((member, refused, to))
    }
}
