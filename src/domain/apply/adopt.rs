//! An existing PostgreSQL comes under management.

use super::super::adoption::{Adopted, Adoption, AdoptionRefusal, IMPORTED_MAX};
use super::super::command::{Rejection, Reply};
use super::super::event::EventKind;
use super::super::invariants;
use super::super::state::{ClusterState, Phase};
use super::super::types::WallMillis;
use super::{APPLIED, bounded, expect_member, expect_promotable, phase_name, record};

pub(super) fn begin(
    state: &mut ClusterState,
    at: WallMillis,
    adoption: &Adoption,
) -> Result<Reply, Rejection> {
    if state.phase != Phase::AwaitingMembers || state.system_id.is_some() {
        return Err(Rejection::WrongPhase { phase: phase_name(&state.phase) });
    }
    let member = &adoption.member;
    expect_promotable(state, member)?;
    for expected in &state.spec.bootstrap_members {
        expect_member(state, expected)?;
    }
    let bad = |why: String| Err(AdoptionRefusal::Bad { member: member.clone(), why }.into());
    let epoch = adoption.epoch;
    if epoch.0 == 0 || epoch.0 >= u64::from(u32::MAX) {
        return bad(format!("no data has timeline {epoch}"));
    }
    let base = adoption.base.max(epoch);
    if base.0 >= u64::from(u32::MAX) {
        return bad(format!("a member knows of epoch {base}, after which there is none"));
    }
    if let Some(why) = adoption.lineage.problem() {
        return bad(why);
    }
    if adoption.lineage.last().is_none_or(|last| last.epoch != epoch) {
        return bad(format!("its history does not end at timeline {epoch}"));
    }
    if adoption.parameters.len().max(adoption.hba.len()).max(adoption.ident.len()) > IMPORTED_MAX {
        return bad(format!("more than {IMPORTED_MAX} settings or rules are too many"));
    }
    let mut spec = state.spec.clone();
    for (name, value) in &adoption.parameters {
        spec.parameters.entry(name.clone()).or_insert_with(|| value.clone());
    }
    for line in &adoption.hba {
        if !spec.hba.contains(line) {
            spec.hba.push(line.clone());
        }
    }
    for line in &adoption.ident {
        if !spec.ident.contains(line) {
            spec.ident.push(line.clone());
        }
    }
    if let Some(why) = invariants::spec_problem(&spec) {
        return Err(Rejection::BadSpec { why });
    }
    super::spec::import(state, at, spec, &adoption.by);
    state.adopted = Some(Adopted {
        // Clocks go back: it is above any that a member reports all the same.
        life: at.0.max(adoption.life.saturating_add(1)),
        member: member.clone(),
        system_id: adoption.system_id,
        epoch,
        lineage: adoption.lineage.clone(),
        end: adoption.end,
        base,
    });
    state.phase = Phase::Adopting {
        member: member.clone(),
        system_id: adoption.system_id,
        epoch,
        lineage: adoption.lineage.clone(),
    };
    let kind = EventKind::AdoptionStarted {
        member: member.clone(),
        system_id: adoption.system_id,
        epoch,
        named: adoption.named,
        by: bounded(&adoption.by),
    };
    record(state, at, kind);
    Ok(APPLIED)
}
