//! An existing PostgreSQL: what its members hold, and the way under management.

use std::collections::BTreeMap;

use super::super::adoption::{self, Adoptable, Adoption, AdoptionRefusal};
use super::super::command::Change;
use super::super::observation::{Condition, Data, Observations};
use super::super::state::ClusterState;
use super::super::types::{BootTime, Epoch, MemberName, SystemId};
use super::{Finding, Pass, fresh};

impl Pass<'_> {
    /// What a member says that could be adopted.
    pub(super) fn adoptable_findings(&self, member: &MemberName, findings: &mut Vec<Finding>) {
        let Some(observed) = self.fresh(member) else { return };
        if let Condition::Adoptable(found) = &observed.report.condition {
            let (member, found) = (member.clone(), found.clone());
            findings.push(Finding::Adoptable { member, found: Box::new(found) });
        }
    }

    /// Waits until the chosen member has made its data ready.
    pub(super) fn follow_adoption(
        &self,
        member: &MemberName,
        system_id: SystemId,
        epoch: Epoch,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        let report = self.fresh(member).map(|o| &o.report);
        let problem = report.and_then(|r| match &r.condition {
            Condition::BootstrapFailed { why } => Some(why.clone()),
            _ => None,
        });
        findings.push(Finding::Adopting { member: member.clone(), problem });
        let report = report?;
        let ready = report.condition == Condition::Down
            && report.data == Data::Present { system_id }
            // Not what an earlier life has left.
            && self.state.adopted.as_ref().is_none_or(|a| report.life == a.life)
            && report.ended >= epoch;
        let member = member.clone();
        ready.then_some(Change::FinishBootstrap { member, system_id, epoch })
    }
}

/// Which data is to be adopted, by what every member of the bootstrap reports now; or everything
/// that stands against it.
pub fn adoption_check(
    state: &ClusterState,
    observed: &Observations,
    named: Option<&MemberName>,
    by: String,
    now: BootTime,
) -> Result<Adoption, Vec<AdoptionRefusal>> {
    let mut problems = Vec::new();
    let mut found: BTreeMap<MemberName, Adoptable> = BTreeMap::new();
    let holds = |found: &mut BTreeMap<_, _>, member: &MemberName, data: &Adoptable| {
        found.insert(member.clone(), data.clone());
        let refusal = |problem: &String| {
            let (member, problem) = (member.clone(), problem.clone());
            AdoptionRefusal::Problem { member, problem }
        };
        data.problems.iter().map(refusal).collect::<Vec<_>>()
    };
    let listed = &state.spec.bootstrap_members;
    for member in listed {
        let report = state.members.get(member).and_then(|_| fresh(observed, member, now));
        match report.map(|o| (&o.report.condition, &o.report.data)) {
            Some((Condition::Adoptable(data), _)) => {
                problems.extend(holds(&mut found, member, data));
            }
            Some((Condition::Down, Data::Empty)) => {}
            _ => problems.push(AdoptionRefusal::Silent { member: member.clone() }),
        }
    }
    // Nobody waits for the word of other members, but data that one of them has is not passed over:
    // it may be the newest. Not even where that member is silent by now.
    for member in state.members.keys().filter(|m| !listed.contains(m)) {
        let latest = observed.members.get(member).map(|o| &o.report.condition);
        if let Some(Condition::Adoptable(data)) = latest {
            let against = holds(&mut found, member, data);
            if fresh(observed, member, now).is_some() {
                problems.extend(against);
            }
        }
    }
    let chosen = adoption::choose(&found, named);
    if let Err(refusal) = &chosen {
        problems.push(refusal.clone());
    }
    let Ok((member, data)) = chosen else { return Err(problems) };
    if state.members.get(member).is_none_or(|m| !m.may_lead()) {
        problems.push(AdoptionRefusal::Unfit { member: member.clone() });
    }
    if fresh(observed, member, now).is_none() && !listed.contains(member) {
        problems.push(AdoptionRefusal::Silent { member: member.clone() });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    // Of everybody that is heard, listed or not: what it promised or held in an earlier life must
    // not be taken for a promise of this one.
    let (mut base, mut life) = (data.epoch, 0);
    for name in state.members.keys() {
        let Some(report) = fresh(observed, name, now).map(|o| &o.report) else { continue };
        (base, life) = (base.max(report.promised).max(report.ended), life.max(report.life));
        if let Condition::Adoptable(own) = &report.condition {
            base = base.max(own.epoch).max(own.seen).max(own.known);
            life = life.max(own.life);
        }
    }
    Ok(Adoption {
        end: data.end,
        base,
        life,
        member: member.clone(),
        system_id: data.system_id,
        epoch: data.epoch,
        lineage: data.lineage.clone(),
        parameters: data.parameters.clone(),
        hba: data.hba.clone(),
        ident: data.ident.clone(),
        named: named.is_some(),
        by,
    })
}
