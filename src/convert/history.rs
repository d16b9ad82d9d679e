//! Events: the typed form for programs, and one sentence for people.

use super::spec::{changes_text, spec_change};
use super::{lsn, operation, rescue, sync_config};
use crate::domain::event::{AtStake, Event, EventKind};
use crate::domain::state::{CloseReason, Outcome};
use crate::pb::v1;
use v1::event::Kind;

/// An event of a cluster's history.
pub fn event(event: &Event) -> v1::Event {
    v1::Event {
        id: event.id,
        at_unix_ms: event.at.0,
        epoch: event.epoch.0,
        text: text(&event.kind),
        operation: event.operation.unwrap_or_default(),
        requested_by: event.by.clone(),
        kind: kind(&event.kind),
    }
}

pub(super) fn close_reason(reason: CloseReason) -> v1::CloseReason {
    match reason {
        CloseReason::Initial => v1::CloseReason::Initial,
        CloseReason::Crashed => v1::CloseReason::Crashed,
        CloseReason::GivenUp => v1::CloseReason::GivenUp,
        CloseReason::LeaseLost => v1::CloseReason::LeaseLost,
        CloseReason::Switchover => v1::CloseReason::Switchover,
        CloseReason::Failover => v1::CloseReason::Failover,
        CloseReason::Recovered => v1::CloseReason::Recovered,
    }
}

/// Why an epoch was closed, as a clause.
pub(super) fn close_text(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Initial => "the first epoch is never led",
        CloseReason::Crashed => "PostgreSQL ended",
        CloseReason::GivenUp => "the holder gave it up",
        CloseReason::LeaseLost => "the lease was not renewed",
        CloseReason::Switchover => "switchover",
        CloseReason::Failover => "failover by the operator",
        CloseReason::Recovered => "the control plane was recovered",
    }
}

fn stake(stake: &AtStake) -> v1::AtStake {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let uncovered = stake.uncovered.iter().map(|u| v1::Uncovered {
        config: Some(sync_config(&u.config, None)),
        have: count(u.have),
        need: u.need.map_or(0, count),
        missing: u.missing.iter().map(ToString::to_string).collect(),
    });
    v1::AtStake {
        by: stake.by.clone(),
        uncovered: uncovered.collect(),
        primary_end_lsn: stake.primary_end.map(lsn).unwrap_or_default(),
    }
}

fn stake_text(stake: &AtStake) -> String {
    let mut configs: Vec<String> = stake.uncovered.iter().map(|u| u.config.to_string()).collect();
    if configs.is_empty() {
        configs.push("what members that are missing may hold".to_owned());
    }
    let end = stake.primary_end.map(|end| format!(", the primary was last at {end}"));
    format!(
        "accepted by {}: not proven for {}{}",
        stake.by,
        configs.join(", "),
        end.unwrap_or_default()
    )
}

fn kind(kind: &EventKind) -> Option<Kind> {
    Some(match kind {
        EventKind::ClusterCreated => Kind::ClusterCreated(v1::ClusterCreated {}),
        EventKind::MemberRegistered { member, node, address } => {
            Kind::MemberRegistered(v1::MemberRegistered {
                member: member.to_string(),
                node: node.to_string(),
                address: address.clone(),
            })
        }
        EventKind::AdoptionStarted { member, system_id, epoch, named, by } => {
            Kind::AdoptionStarted(v1::AdoptionStarted {
                member: member.to_string(),
                system_id: system_id.to_string(),
                timeline: epoch.0,
                named: *named,
                by: by.clone(),
            })
        }
        EventKind::Adopted { member, system_id, epoch } => Kind::Adopted(v1::Adopted {
            member: member.to_string(),
            system_id: system_id.to_string(),
            timeline: epoch.0,
        }),
        EventKind::ClusterDefined { by } => {
            Kind::ClusterDefined(v1::ClusterDefined { by: by.clone() })
        }
        EventKind::MemberRemovalStarted { member, by } => {
            let (member, by) = (member.to_string(), by.clone());
            Kind::MemberRemovalStarted(v1::MemberRemovalStarted { member, by })
        }
        EventKind::MemberRemovalAbandoned { member, why } => {
            let (member, why) = (member.to_string(), why.clone());
            Kind::MemberRemovalAbandoned(v1::MemberRemovalAbandoned { member, why })
        }
        EventKind::MemberRemoved { member, by } => {
            let (member, by) = (member.to_string(), by.clone());
            Kind::MemberRemoved(v1::MemberRemoved { member, by })
        }
        EventKind::MemberPermitted { member, by } => {
            let (member, by) = (member.to_string(), by.clone());
            Kind::MemberPermitted(v1::MemberPermitted { member, by })
        }
        EventKind::MemberChanged { member } => {
            Kind::MemberChanged(v1::MemberChanged { member: member.to_string() })
        }
        EventKind::BootstrapStarted { member } => {
            Kind::BootstrapStarted(v1::BootstrapStarted { member: member.to_string() })
        }
        EventKind::BootstrapFinished { member, system_id } => {
            Kind::BootstrapFinished(v1::BootstrapFinished {
                member: member.to_string(),
                system_id: system_id.to_string(),
            })
        }
        EventKind::BootstrapAbandoned { member, why } => {
            Kind::BootstrapAbandoned(v1::BootstrapAbandoned {
                member: member.to_string(),
                why: why.clone(),
            })
        }
        EventKind::EpochClosed { closed, member, reason, stopped } => {
            Kind::EpochClosed(v1::EpochClosed {
                closed: closed.0,
                member: member.to_string(),
                reason: close_reason(*reason).into(),
                stopped: *stopped,
            })
        }
        EventKind::StopProven { closed, member } => {
            Kind::StopProven(v1::StopProven { closed: closed.0, member: member.to_string() })
        }
        EventKind::Granted { member, wal_epoch, lsn: end, data_loss_accepted, at_stake, sync } => {
            Kind::Granted(v1::Granted {
                member: member.to_string(),
                wal_epoch: wal_epoch.0,
                lsn: lsn(*end),
                data_loss_accepted: *data_loss_accepted,
                sync: Some(sync_config(sync, None)),
                at_stake: at_stake.as_ref().map(stake),
            })
        }
        EventKind::Promoted { member, start } => {
            Kind::Promoted(v1::Promoted { member: member.to_string(), start_lsn: lsn(*start) })
        }
        EventKind::Activated { member } => {
            Kind::Activated(v1::Activated { member: member.to_string() })
        }
        EventKind::SyncChanging { to } => {
            Kind::SyncChanging(v1::SyncChanging { to: Some(sync_config(to, None)) })
        }
        EventKind::SyncChanged { to } => {
            Kind::SyncChanged(v1::SyncChanged { to: Some(sync_config(to, None)) })
        }
        EventKind::AlarmRaised { member, alarm } => Kind::AlarmRaised(v1::AlarmRaised {
            member: member.to_string(),
            alarm: Some(super::alarm(alarm)),
        }),
        EventKind::AlarmCleared { member, code, subject } => Kind::AlarmCleared(v1::AlarmCleared {
            member: member.to_string(),
            code: code.name().to_owned(),
            subject: subject.clone(),
        }),
        EventKind::Noticed { member, code, text } => Kind::Noticed(v1::Noticed {
            member: member.to_string(),
            code: code.name().to_owned(),
            text: text.clone(),
        }),
        EventKind::SpecChanged { revision, by, changes, more } => {
            Kind::SpecChanged(v1::SpecChanged {
                revision: *revision,
                requested_by: by.clone(),
                changes: changes.iter().map(|c| spec_change(c, None)).collect(),
                more: *more,
            })
        }
        EventKind::SpecRolledBack {
            revision,
            refused,
            to,
            member,
            setting,
            why,
            changes,
            more,
        } => Kind::SpecRolledBack(v1::SpecRolledBack {
            revision: *revision,
            refused: *refused,
            to: *to,
            member: member.to_string(),
            setting: setting.clone(),
            why: why.clone(),
            changes: changes.iter().map(|c| spec_change(c, None)).collect(),
            more: *more,
        }),
        EventKind::OperationStarted { operation: id, kind, by } => {
            let told = operation::kind(kind);
            Kind::OperationStarted(v1::OperationStarted {
                operation: *id,
                kind: told.kind.into(),
                target: told.target,
                member: told.member,
                accept_data_loss: told.accept_data_loss,
                scheduled_unix_ms: told.scheduled_unix_ms,
                requested_by: by.clone(),
            })
        }
        EventKind::OperationStep { operation: id, member, target } => {
            Kind::OperationStep(v1::OperationStep {
                operation: *id,
                member: member.to_string(),
                target: target.as_ref().map(ToString::to_string).unwrap_or_default(),
            })
        }
        EventKind::Paused { by, until } => Kind::ClusterPaused(v1::ClusterPaused {
            by: by.clone(),
            until_unix_ms: until.map_or(0, |until| until.0),
        }),
        EventKind::Resumed { by } => Kind::ClusterResumed(v1::ClusterResumed { by: by.clone() }),
        EventKind::OperationFinished { operation: id, outcome } => {
            let (state, primary, failure) = operation::outcome(outcome);
            Kind::OperationFinished(v1::OperationFinished {
                operation: *id,
                state: state.into(),
                primary,
                failure,
            })
        }
        EventKind::ControlPlaneRecovered { .. } | EventKind::EpochRaised { .. } => {
            return rescue::kind(kind);
        }
    })
}

fn text(kind: &EventKind) -> String {
    match kind {
        EventKind::ClusterCreated => "cluster created".to_owned(),
        EventKind::MemberRegistered { member, node, address } => {
            format!("member {member} registered: node {node}, PostgreSQL at {address}")
        }
        EventKind::AdoptionStarted { member, system_id, epoch, named, by } => {
            let named = if *named { " by name" } else { "" };
            format!(
                "the data of {member} is to be adopted, system identifier {system_id}, timeline \
                 {epoch}, asked for{named} by {by}"
            )
        }
        EventKind::Adopted { member, system_id, epoch } => {
            format!("adopted the data of {member}, system identifier {system_id}, timeline {epoch}")
        }
        EventKind::ClusterDefined { by } => format!("cluster created, asked for by {by}"),
        EventKind::MemberRemovalStarted { member, by } => {
            format!("{member} is to be removed, asked for by {by}")
        }
        EventKind::MemberRemovalAbandoned { member, why } => {
            format!("{member} stays a member: {why}")
        }
        EventKind::MemberRemoved { member, by } => {
            format!("{member} was removed, asked for by {by}: its data is kept")
        }
        EventKind::MemberPermitted { member, by } => {
            format!("{member} may register again, asked for by {by}")
        }
        EventKind::MemberChanged { member } => format!("member {member} registered anew"),
        EventKind::BootstrapStarted { member } => {
            format!("{member} is to make the first data directory")
        }
        EventKind::BootstrapFinished { member, system_id } => {
            format!("{member} made the data directory, system identifier {system_id}")
        }
        EventKind::BootstrapAbandoned { member, why } => {
            format!("{member} could not make the data directory: {why}")
        }
        EventKind::EpochClosed { closed, member, reason, stopped } => {
            let proof = if *stopped { "stop proven" } else { "stop not proven yet" };
            format!("epoch {closed} of {member} closed: {}; {proof}", close_text(*reason))
        }
        EventKind::StopProven { closed, member } => {
            format!("{member} proved that it stopped, epoch {closed}")
        }
        EventKind::Granted { member, wal_epoch, lsn, data_loss_accepted, at_stake, sync } => {
            let loss = match (data_loss_accepted, at_stake) {
                (false, _) => String::new(),
                (true, None) => "; POSSIBLE DATA LOSS, accepted by the operator".to_owned(),
                (true, Some(stake)) => format!("; POSSIBLE DATA LOSS, {}", stake_text(stake)),
            };
            format!("granted to {member}, which ends at {lsn} of epoch {wal_epoch}; {sync}{loss}")
        }
        EventKind::Promoted { member, start } => format!("{member} promoted at {start}"),
        EventKind::Activated { member } => format!("{member} is open for writes"),
        EventKind::SyncChanging { to } => format!("synchronous standbys change to {to}"),
        EventKind::SyncChanged { to } => format!("synchronous standbys are {to}"),
        EventKind::AlarmRaised { member, alarm } => {
            format!("{member}: alarm {}: {}", alarm.code.name(), alarm.text)
        }
        EventKind::AlarmCleared { member, code, subject } if subject.is_empty() => {
            format!("{member}: alarm {} is over", code.name())
        }
        EventKind::AlarmCleared { member, code, subject } => {
            format!("{member}: alarm {} is over: {subject}", code.name())
        }
        EventKind::Noticed { member, text, .. } => format!("{member}: {text}"),
        EventKind::SpecChanged { revision, by, changes, more } => {
            let what = changes_text(changes, *more);
            format!("specification changed to revision {revision} by {by}: {what}")
        }
        EventKind::SpecRolledBack { revision, refused, to, member, why, changes, more, .. } => {
            let what = changes_text(changes, *more);
            format!(
                "specification rolled back to revision {to}, as revision {revision}: PostgreSQL of \
                 {member} refuses revision {refused}: {why}; {what}"
            )
        }
        EventKind::OperationStarted { operation: id, kind, by } => {
            let told = operation::kind(kind);
            let name = crate::pb::text::of::<v1::OperationKind>(told.kind.into());
            let later = match told.later {
                v1::OperationKind::Unspecified => String::new(),
                later => format!(" {}", crate::pb::text::of::<v1::OperationKind>(later.into())),
            };
            let given = |word: &str, name: &str| match name {
                "" => String::new(),
                name => format!(" {word} {name}"),
            };
            let (of, to) = (given("of", &told.member), given("to", &told.target));
            let loss = if told.accept_data_loss { ", data loss accepted" } else { "" };
            format!("operation {id}: {name}{later}{of}{to}{loss}, asked for by {by}")
        }
        EventKind::OperationStep { operation: id, member, target: None } => {
            format!("operation {id}: {member} is restarted")
        }
        EventKind::OperationStep { operation: id, member, target: Some(target) } => {
            format!("operation {id}: {member} is restarted, and {target} is primary after it")
        }
        EventKind::Paused { by, until: None } => format!("paused by {by}"),
        EventKind::Paused { by, until: Some(_) } => format!("paused by {by} for a time"),
        EventKind::Resumed { by } => format!("resumed by {by}"),
        EventKind::OperationFinished { operation: id, outcome } => match outcome {
            Outcome::Done { primary } => format!("operation {id} done: {primary} is primary"),
            Outcome::Completed => format!("operation {id} done"),
            Outcome::Cancelled { by } => format!("operation {id} called off by {by}"),
            Outcome::Failed { why } => format!("operation {id} failed: {why}"),
        },
        EventKind::ControlPlaneRecovered { .. } | EventKind::EpochRaised { .. } => {
            rescue::text(kind)
        }
    }
}
