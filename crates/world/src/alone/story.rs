//! The timeline of a run, for a person.

use std::collections::BTreeMap;

use super::clock::Micros;
use crate::domain::command::{Basis, Change};
use crate::domain::reconcile::Action;

/// What is told, where somebody listens.
#[derive(Debug, Default)]
pub struct Story {
    on: bool,
    lines: Vec<String>,
    /// What each member was last told to do.
    last: BTreeMap<usize, String>,
}

impl Story {
    /// A story that is told.
    pub fn told() -> Self {
        Self { on: true, ..Self::default() }
    }

    /// Nobody listens: nothing is put into words.
    pub fn untold() -> Self {
        Self::default()
    }

    /// Whether somebody listens.
    pub fn on(&self) -> bool {
        self.on
    }

    /// Tells what happens now.
    pub fn tell(&mut self, now: Micros, what: impl FnOnce() -> String) {
        if self.on {
            self.lines.push(format!("{:>12.6}  {}", now as f64 / 1e6, what()));
        }
    }

    /// Tells what a member begins, once however often it is tried.
    pub fn begins(&mut self, now: Micros, member: usize, called: &str, what: String) {
        if self.on && self.last.get(&member) != Some(&what) {
            self.tell(now, || format!("{called}: {what}"));
            self.last.insert(member, what);
        }
    }

    /// Every line.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// A command in short.
pub fn change(change: &Change) -> String {
    match change {
        Change::Close { expect_epoch, reason, stopped } => {
            let how = if *stopped { "stopped" } else { "not stopped" };
            format!("close epoch {expect_epoch}: {reason:?}, {how}")
        }
        Change::RecordStop { expect_epoch } => format!("epoch {expect_epoch} has stopped"),
        Change::Grant(grant) => {
            let evidence: Vec<String> = grant
                .evidence
                .iter()
                .map(|s| format!("{} at {}:{}", s.member, s.wal_epoch, s.lsn.0))
                .collect();
            let basis = match grant.basis {
                Basis::Stopped => "stopped".to_owned(),
                Basis::Expired { term } => format!("expired by term {term}"),
            };
            let word = if grant.accept_data_loss.is_some() { ", a loss is accepted" } else { "" };
            format!(
                "grant epoch {} to {} ({basis}) on {}; {}{word}",
                grant.expect_epoch.next(),
                grant.member,
                evidence.join(", "),
                grant.sync
            )
        }
        Change::RecordPromotion { expect_epoch, lineage, .. } => {
            let start = lineage.last().map_or(0, |e| e.start.0);
            format!("epoch {expect_epoch} is promoted at {start}")
        }
        Change::Activate { expect_epoch, .. } => format!("epoch {expect_epoch} is active"),
        Change::BeginSyncChange { to, .. } => format!("begin to wait for {to}"),
        Change::FinishSyncChange { expect_syncs, .. } => match expect_syncs.last() {
            Some(newest) => format!("only {newest} is in force"),
            None => "only the newest is in force".to_owned(),
        },
        Change::StartSwitchover { target, .. } => format!("operator: switchover to {target}"),
        Change::StartFailover { target, accept_data_loss, .. } => {
            let whom = target.as_ref().map_or("the best".to_owned(), ToString::to_string);
            let word = if *accept_data_loss { ", a loss is accepted" } else { "" };
            format!("operator: failover to {whom}{word}")
        }
        Change::RegisterMember { member, tags, .. } => format!("register {member} {tags:?}"),
        Change::FinishOperation { operation, outcome } => {
            format!("operation {operation} ends: {outcome:?}")
        }
        other => format!("{other:?}"),
    }
}

/// An action in short.
pub fn action(action: &Action) -> String {
    match action {
        Action::Follow(d) => format!("follows {} in epoch {}", d.streams_from().0, d.epoch),
        Action::StartFollowing(d) => {
            format!("starts as a follower of {} in epoch {}", d.streams_from().0, d.epoch)
        }
        Action::Rewind(d) => format!("is rewound to {} in epoch {}", d.primary, d.epoch),
        Action::Clone(d) => format!("is copied from {} in epoch {}", d.primary, d.epoch),
        Action::ConfirmSync { syncs } => match syncs.last() {
            Some(newest) => format!("confirms {newest}"),
            None => "confirms nothing".to_owned(),
        },
        Action::Promote { epoch, sync } => format!("promotes to epoch {epoch} with {sync}"),
        other => format!("{other:?}"),
    }
}
