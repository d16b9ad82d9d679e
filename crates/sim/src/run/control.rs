//! What the agreed state tells of a run: its history, for a person, for counting, and for the judge.
//!
//! Owns the reading of the cluster's own history, in which every decision is an event. A state can
//! be passed over (several commands are applied at once), an event cannot.

use crate::domain::event::{AtStake, Event, EventKind};
use crate::domain::state::{ClusterState, OperationKind, Outcome, Stage};
use crate::domain::types::Epoch;
use quorate_world::check::Guard;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Primaries that were opened for writes, the first one not counted.
    pub takeovers: u64,
    /// Switchovers that were done as asked.
    pub switchovers: u64,
}

/// A piece of news.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// The event.
    pub event: Event,
    /// What the grant gave up, where it is one that gives up anything: its epoch, and the
    /// configurations that were in force.
    pub gave_up: Option<(u64, Vec<Guard>)>,
}

/// Follows the history of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// The number of the next event.
    next: u64,
    active: u64,
    counted: Counted,
    switchovers: Vec<u64>,
}

impl Control {
    /// What is new in this state, oldest first.
    pub fn news(&mut self, state: &ClusterState) -> Vec<News> {
        let mut news = Vec::new();
        if state.next_event <= self.next {
            return news;
        }
        let next = self.next;
        for event in state.history.iter().filter(|e| e.id >= next) {
            self.count(event);
            let gave_up = match &event.kind {
                EventKind::Granted { at_stake: Some(stake), .. } => {
                    Some((event.epoch.0, guards(state, event.epoch, stake)))
                }
                _ => None,
            };
            news.push(News { event: event.clone(), gave_up });
        }
        self.next = state.next_event;
        news
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        let takeovers = self.active.saturating_sub(1);
        Counted { takeovers, ..self.counted }
    }

    fn count(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Activated { .. } => self.active += 1,
            EventKind::OperationStarted {
                operation,
                kind: OperationKind::Switchover { .. },
                ..
            } => self.switchovers.push(*operation),
            EventKind::OperationFinished { operation, outcome: Outcome::Done { .. } } => {
                self.counted.switchovers += u64::from(self.switchovers.contains(operation));
            }
            _ => {}
        }
    }
}

/// The configurations that were in force when `epoch` was granted. What was covered stays in force
/// until the epoch is active; afterwards only what was not covered is known.
fn guards(state: &ClusterState, epoch: Epoch, stake: &AtStake) -> Vec<Guard> {
    let uncovered = stake.uncovered.iter().map(|u| u.config.epoch);
    let mut guards: Vec<Guard> =
        uncovered.map(|of| Guard { epoch: of.0, covered: false }).collect();
    let active = state
        .tenure
        .as_ref()
        .is_none_or(|t| t.epoch != epoch || matches!(t.stage, Stage::Active { .. }));
    if !active {
        let kept = state.syncs.iter().filter(|c| c.epoch < epoch);
        guards.extend(kept.map(|c| Guard { epoch: c.epoch.0, covered: true }));
    }
    guards
}

/// An event in English.
pub fn words(event: &Event) -> String {
    let epoch = event.epoch;
    match &event.kind {
        EventKind::ClusterCreated => "the cluster is created".to_owned(),
        EventKind::MemberRegistered { member, .. } => format!("{member} registers"),
        EventKind::MemberChanged { member } => format!("{member} has changed"),
        EventKind::AdoptionStarted { member, .. } => {
            format!("the data of {member} is to be adopted")
        }
        EventKind::Adopted { member, .. } => format!("the data of {member} is adopted"),
        EventKind::ClusterDefined { by } => format!("{by} creates the cluster"),
        EventKind::MemberRemovalStarted { member, .. } => format!("{member} is to be removed"),
        EventKind::MemberRemovalAbandoned { member, why } => format!("{member} stays: {why}"),
        EventKind::MemberRemoved { member, .. } => format!("{member} is removed"),
        EventKind::MemberPermitted { member, .. } => format!("{member} may come back"),
        EventKind::BootstrapStarted { member } => format!("{member} is to make the data"),
        EventKind::BootstrapFinished { member, .. } => format!("{member} has made the data"),
        EventKind::BootstrapAbandoned { member, why } => {
            format!("{member} is not to make the data any more: {why}")
        }
        EventKind::EpochClosed { closed, member, reason, stopped } => {
            let stopped = if *stopped { ", its stop is proven" } else { "" };
            format!("epoch {closed} of {member} is closed: {reason:?}{stopped}")
        }
        EventKind::StopProven { closed, member } => {
            format!("{member} has proved that it stopped in epoch {closed}")
        }
        EventKind::Granted { member, wal_epoch, lsn, data_loss_accepted, at_stake, sync } => {
            let loss = match (data_loss_accepted, at_stake) {
                (false, None) => String::new(),
                (_, stake) => {
                    let configs = stake.iter().flat_map(|s| &s.uncovered);
                    let names: Vec<String> = configs.map(|u| u.config.to_string()).collect();
                    format!(", giving up what {} stood for", names.join(" and "))
                }
            };
            format!(
                "epoch {epoch} is granted to {member} at ({wal_epoch}, {lsn}) with {sync}{loss}"
            )
        }
        EventKind::Promoted { member, start } => {
            format!("{member} is promoted to timeline {epoch}, which begins at {start}")
        }
        EventKind::Activated { member } => format!("{member} opens for writes in epoch {epoch}"),
        EventKind::SyncChanging { to } => format!("{to} is put in force beside what is"),
        EventKind::SyncChanged { to } => format!("{to} alone is in force"),
        EventKind::OperationStep { operation, member, target: None } => {
            format!("operation {operation}: it is the turn of {member}")
        }
        EventKind::OperationStep { operation, member, target: Some(target) } => {
            format!("operation {operation}: {member} is to leave its role to {target}")
        }
        EventKind::Paused { by, .. } => format!("{by} pauses the cluster"),
        EventKind::Resumed { by } => format!("{by} resumes the cluster"),
        EventKind::ControlPlaneRecovered { generation, node, .. } => {
            format!("generation {generation} of the control plane begins on {node}")
        }
        EventKind::EpochRaised { from, known, .. } => {
            format!("the epoch is raised from {from}, above {known}")
        }
        EventKind::AlarmRaised { member, alarm } => format!("{member} raises {:?}", alarm.code),
        EventKind::AlarmCleared { member, code, .. } => format!("{member} clears {code:?}"),
        EventKind::Noticed { member, code, text } => format!("{member} notices {code:?}: {text}"),
        EventKind::SpecChanged { revision, by, .. } => {
            format!("the specification has revision {revision} by {by}")
        }
        EventKind::SpecRolledBack { revision, refused, to, member, .. } => {
            format!("the specification goes back to {to} as {revision}: {member} refuses {refused}")
        }
        EventKind::OperationStarted { operation, kind, .. } => {
            format!("operation {operation} begins: {kind:?}")
        }
        EventKind::OperationFinished { operation, outcome } => {
            format!("operation {operation} ends: {outcome:?}")
        }
    }
}
