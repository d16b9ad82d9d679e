//! Watches whether PostgreSQL does its work, and gives a primary up that does not.
//!
//! Each question is asked by itself, so that one without an answer holds up neither the others nor
//! anybody else. What follows is `domain::health`; here is when to ask, and what to do about it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{error, info};

use super::driver::Database;
use super::shared::Shared;
use crate::clock::Clock;
use crate::domain::alarm::NoticeCode;
use crate::domain::health::{HEALTH_ALARMS, Health, Limits, Question, Verdict};
use crate::domain::mutant::{Mutant, without};
use crate::domain::reconcile::Process;
use crate::domain::types::GuardId;
use crate::runtime::{self, Boxed, Runtime};

/// How often each question is asked.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often is looked at what the answers say; one that is missing for as long is looked into.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often is looked whether there is anything to watch.
const IDLE: Duration = Duration::from_secs(1);
/// How long an answer on an open connection is waited for, before another is opened.
const PATIENCE: Duration = Duration::from_secs(15);
/// And how long a new connection: whoever waits for a locked catalog is not to be joined by many.
const PATIENCE_NEW: Duration = Duration::from_secs(60);
/// How long the processes may take to be looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What is watched: one life of PostgreSQL in one role.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Life {
    guard: Option<GuardId>,
    primary: bool,
}

pub(super) async fn run<RT: Runtime, D: Database, C: Clock>(shared: Arc<Shared<D, C>>) {
    loop {
        match life(&shared) {
            Some(life) => watch::<RT, D, C>(&shared, &life).await,
            None => RT::sleep(IDLE).await,
        }
        if life(&shared).is_none() {
            shared.set_alarms(HEALTH_ALARMS, Vec::new());
        }
    }
}

/// What there is to watch. What starts, stops or is on its way to another role is not asked: that
/// it does not answer would say nothing.
fn life<D: Database, C: Clock>(shared: &Shared<D, C>) -> Option<Life> {
    let inner = shared.lock();
    if !inner.was_ready || inner.busy.is_some() || inner.hung {
        return None;
    }
    let primary = match &inner.process {
        Process::Primary { promoted: true, .. } => true,
        Process::Following { .. } | Process::Sealed { position: Some(_), .. } => false,
        _ => return None,
    };
    Some(Life { guard: inner.guard.clone(), primary })
}

/// Watches one life until it is over or given up. Questions that are under way then are dropped.
async fn watch<RT: Runtime, D: Database, C: Clock>(shared: &Shared<D, C>, watched: &Life) {
    let limits = Limits::with(shared.options.hung_after);
    let health = Mutex::new(Health::new(limits));
    let mut tasks: Vec<Boxed<'_, ()>> = Vec::new();
    for question in Question::ALL {
        if watched.primary || question != Question::Write {
            tasks.push(Box::pin(ask::<RT, D, C>(shared, &health, question)));
        }
    }
    tasks.push(Box::pin(judge::<RT, D, C>(shared, &health, watched)));
    runtime::first_of(tasks).await;
}

fn lock(health: &Mutex<Health>) -> MutexGuard<'_, Health> {
    health.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks one question again and again.
async fn ask<RT: Runtime, D: Database, C: Clock>(
    shared: &Shared<D, C>,
    health: &Mutex<Health>,
    question: Question,
) {
    let patience = if question == Question::New { PATIENCE_NEW } else { PATIENCE };
    loop {
        lock(health).asked(question, shared.clock.now());
        let answer = shared.database.ask(question, patience).await;
        lock(health).answered(question, &answer, shared.clock.now());
        RT::sleep(ASK_EVERY).await;
    }
}

/// Looks at what the answers say, and at the processes where some are missing. Returns when the
/// life is over.
async fn judge<RT: Runtime, D: Database, C: Clock>(
    shared: &Shared<D, C>,
    health: &Mutex<Health>,
    watched: &Life,
) {
    let mut known = Verdict::Healthy;
    loop {
        RT::sleep(LOOK_EVERY).await;
        if life(shared).as_ref() != Some(watched) {
            return;
        }
        let checkpointer = RT::timeout(LOOK, shared.database.checkpointer()).await;
        if let Ok((activity, overdue)) = checkpointer {
            lock(health).see_checkpointer(activity, overdue, shared.clock.now());
        }
        let since = {
            let health = lock(health);
            let waiting = health.is_waiting(LOOK_EVERY, shared.clock.now());
            waiting.then(|| health.silent_since(Question::New))
        };
        if let Some(since) = since
            && let Ok(vitals) = RT::timeout(LOOK, shared.database.vitals(since)).await
        {
            tracing::debug!(member = %shared.member.name, ?vitals, "an answer is missing");
            lock(health).see(&vitals, shared.clock.now());
        }
        let (verdict, alarms) = lock(health).judge(shared.clock.now());
        shared.set_alarms(HEALTH_ALARMS, alarms);
        if let Verdict::GiveUp { rule, why } = &verdict
            && give_up(shared, watched, *rule, why)
        {
            return;
        }
        if verdict != known {
            info!(member = %shared.member.name, ?verdict, "health");
            known = verdict;
        }
    }
}

/// Gives the primary up: from here on no renewal of its lease leaves, so that it ends with its
/// lease even where nothing else can be done. Returns whether it did.
fn give_up<D: Database, C: Clock>(
    shared: &Shared<D, C>,
    watched: &Life,
    rule: Question,
    why: &str,
) -> bool {
    // A standby that does not answer is sealed, or killed where that does not work, once it
    // matters; until then it holds nobody up.
    let given_up = watched.primary
        && !without(Mutant::FrozenKeepsLease)
        && shared.update(|inner| {
            let primary = matches!(inner.process, Process::Primary { promoted: true, .. });
            if !primary || inner.guard != watched.guard {
                return false;
            }
            inner.hung = true;
            inner.claim = None;
            true
        });
    if given_up {
        let rule = rule.alarm().name();
        error!(member = %shared.member.name, rule, %why, "PostgreSQL hangs: it is given up");
        shared.notice(NoticeCode::GivenUp, format!("PostgreSQL hangs ({rule}): {why}"));
        shared.wake.notify_one();
    }
    given_up
}
