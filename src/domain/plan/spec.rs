//! A specification that PostgreSQL refuses is taken back.

use super::super::command::Change;
use super::{Finding, Pass};

impl Pass<'_> {
    /// Goes back to the last revision that worked for the first member that says that the one in
    /// force does not. What it says of an older revision is settled.
    pub(super) fn roll_back_spec(&self, findings: &mut Vec<Finding>) -> Option<Change> {
        for member in self.state.members.keys() {
            let Some(observed) = self.fresh(member) else { continue };
            let Some(refused) = &observed.report.settings.refused else { continue };
            if refused.revision != self.state.spec_revision {
                continue;
            }
            let (member, revision) = (member.clone(), refused.revision);
            let kept = |r: &&super::super::specification::SpecRevision| {
                r.revision == refused.last_good && r.revision < revision
            };
            let older = self.state.spec_history.iter().find(kept);
            let helps = older
                .is_some_and(|r| self.state.spec.with_server_files_of(&r.spec) != self.state.spec);
            let to = helps.then_some(refused.last_good);
            let why = refused.why.clone();
            findings.push(Finding::SpecRefused { member: member.clone(), revision, to, why });
            if let Some(to) = to {
                return Some(Change::RollBackSpec {
                    expect_revision: revision,
                    to,
                    member,
                    setting: refused.setting.clone(),
                    why: refused.why.clone(),
                });
            }
        }
        None
    }
}
