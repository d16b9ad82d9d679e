//! Changes of a cluster's specification: compare-and-set on its revision.

use std::collections::BTreeSet;

use super::{APPLIED, bounded, record};
use crate::domain::command::{Rejection, Reply};
use crate::domain::event::EventKind;
use crate::domain::invariants::spec_problem;
use crate::domain::specification::{
    CHANGES_MAX, REVISIONS_MAX, SpecChange, SpecRevision, differences, update_problem,
};
use crate::domain::state::{ClusterSpec, ClusterState, Phase};
use crate::domain::types::{MemberName, WallMillis};

/// A refusal of PostgreSQL, as the leader proposes to act on it.
pub(super) struct Refused<'a> {
    pub(super) member: &'a MemberName,
    pub(super) setting: &'a str,
    pub(super) why: &'a str,
}

pub(super) fn update(
    state: &mut ClusterState,
    at: WallMillis,
    expect_revision: u64,
    spec: &ClusterSpec,
    by: &str,
) -> Result<Reply, Rejection> {
    check(state, expect_revision, spec)?;
    if *spec == state.spec {
        return Ok(Reply::Nothing);
    }
    import(state, at, spec.clone(), by);
    Ok(APPLIED)
}

/// Takes what an adopted server had into the specification: checked before, and a revision like any.
pub(super) fn import(state: &mut ClusterState, at: WallMillis, spec: ClusterSpec, by: &str) {
    if spec == state.spec {
        return;
    }
    let (changes, more) = told(&state.spec, &spec);
    let by = bounded(by);
    replace(state, at, spec, by.clone(), changes.clone(), None);
    let revision = state.spec_revision;
    record(state, at, EventKind::SpecChanged { revision, by, changes, more });
}

/// What stands against a new specification, whoever asks for it. The API asks the same for a dry
/// run.
pub fn check(
    state: &ClusterState,
    expect_revision: u64,
    spec: &ClusterSpec,
) -> Result<(), Rejection> {
    expect_current(state, expect_revision)?;
    // Holders and the leader reckon with the same times, which no command can change for all of
    // them at one instant: a shorter ttl on the leader than on the holder would be two primaries.
    if spec.timing != state.spec.timing {
        return Err(Rejection::SpecFixed {
            key: "timing".to_owned(),
            why: "the leases that are held were given with the times in force, and holder and \
                  leader have to reckon with the same ones"
                .to_owned(),
        });
    }
    if spec.bootstrap_members != state.spec.bootstrap_members {
        return Err(Rejection::SpecFixed {
            key: "bootstrap_members".to_owned(),
            why: "they are whose word was needed before initdb, once; members that register later \
                  join by themselves"
                .to_owned(),
        });
    }
    let members: BTreeSet<&MemberName> = match state.phase {
        Phase::Running => state.members.keys().collect(),
        _ => state.members.keys().chain(&state.spec.bootstrap_members).collect(),
    };
    match spec_problem(spec).or_else(|| update_problem(spec, &members)) {
        Some(why) => Err(Rejection::BadSpec { why }),
        None => Ok(()),
    }
}

/// PostgreSQL of a member does not take the specification, and has gone back to the last one that
/// worked: the cluster goes back to it as well, in what PostgreSQL reads. How commits wait, and
/// everything else that the control plane itself follows, stays.
pub(super) fn roll_back(
    state: &mut ClusterState,
    at: WallMillis,
    expect_revision: u64,
    to: u64,
    refused: &Refused<'_>,
) -> Result<Reply, Rejection> {
    expect_current(state, expect_revision)?;
    super::expect_member(state, refused.member)?;
    if state.is_rolled_back() {
        let why = "the revision in force is a roll-back itself: change the specification";
        return Err(Rejection::BadSpec { why: why.to_owned() });
    }
    let older = state.spec_history.iter().find(|r| r.revision == to && to < expect_revision);
    let Some(older) = older else {
        let kept = state.spec_history.iter().map(|r| r.revision).collect();
        return Err(Rejection::NoSuchRevision { revision: to, kept });
    };
    let spec = state.spec.with_server_files_of(&older.spec);
    if spec == state.spec {
        return Ok(Reply::Nothing);
    }
    let (changes, more) = told(&state.spec, &spec);
    let why = bounded(refused.why);
    let by = format!("the control plane, for {}", refused.member);
    replace(state, at, spec, by, changes.clone(), Some(why.clone()));
    let kind = EventKind::SpecRolledBack {
        revision: state.spec_revision,
        refused: expect_revision,
        to,
        member: refused.member.clone(),
        setting: bounded(refused.setting),
        why,
        changes,
        more,
    };
    record(state, at, kind);
    Ok(APPLIED)
}

fn expect_current(state: &ClusterState, expected: u64) -> Result<(), Rejection> {
    if state.spec_revision == expected {
        return Ok(());
    }
    Err(Rejection::StaleRevision { expected, actual: state.spec_revision })
}

/// The differences as histories tell them, and how many more there are.
fn told(old: &ClusterSpec, new: &ClusterSpec) -> (Vec<SpecChange>, u64) {
    let all = differences(old, new);
    let more = all.len().saturating_sub(CHANGES_MAX) as u64;
    (all.iter().take(CHANGES_MAX).map(SpecChange::for_history).collect(), more)
}

fn replace(
    state: &mut ClusterState,
    at: WallMillis,
    spec: ClusterSpec,
    by: String,
    changes: Vec<SpecChange>,
    why: Option<String>,
) {
    if state.spec_history.back().is_none_or(|r| r.revision != state.spec_revision) {
        // The one that the cluster was created with, and any of before revisions were kept.
        state.spec_history.push_back(SpecRevision {
            revision: state.spec_revision,
            at: state.history.front().map_or(at, |e| e.at),
            by: "the configuration of a node".to_owned(),
            changes: Vec::new(),
            why: None,
            spec: state.spec.clone(),
        });
    }
    state.spec_revision += 1;
    let revision = state.spec_revision;
    state.spec = spec.clone();
    state.spec_history.push_back(SpecRevision { revision, at, by, changes, why, spec });
    while state.spec_history.len() > REVISIONS_MAX {
        state.spec_history.pop_front();
    }
}
