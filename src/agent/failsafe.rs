//! Keeps the lease of a primary that no controller answers, by the promises of all of its peers;
//! and gives such promises to others.
//!
//! Who may do so, and when, is decided in `domain::failsafe`. Here the peers are asked, all at the
//! same time, while the renewer goes on asking the controllers: the first acknowledgement of theirs
//! ends it, and so does the first refusal.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tracing::{debug, warn};

use super::driver::{Database, Seen};
use super::renew::arm;
use super::shared::{Inner, Shared};
use crate::clock::Clock;
use crate::domain::alarm::{Alarm, AlarmCode, NoticeCode};
use crate::domain::failsafe::{Denial, Question, RETRY, due, judge, keepable};
use crate::domain::lease::{HolderLease, Timing};
use crate::domain::mutant::{Mutant, without};
use crate::domain::reconcile::Process;
use crate::domain::state::ClusterState;
use crate::domain::types::{BootTime, Epoch, GuardId, Lsn, MemberName};
use crate::runtime::{Boxed, Runtime};
use crate::session::wire::PromiseReply;
use crate::session::{Client, Transport};

/// How often is looked whether there is a lease to keep.
const IDLE: Duration = Duration::from_millis(500);
/// How long is waited at least between two looks.
const LOOK_MIN: Duration = Duration::from_millis(1);

// ---- for others ----

/// The answer to another agent. It waits for nothing, and is kept in memory only: who starts anew
/// stands back as if it had just promised.
pub(super) fn answer<D: Database, C: Clock>(
    members: &[Arc<Shared<D, C>>],
    question: &Question,
) -> PromiseReply {
    let asked = members
        .iter()
        .find(|s| s.member.cluster == question.cluster && s.member.name == question.peer);
    let not_here = PromiseReply::Denied(Denial::NotHere { peer: question.peer.clone() });
    let Some(shared) = asked else { return not_here };
    let state = shared.state();
    let mut inner = shared.lock();
    if !inner.loaded {
        return not_here;
    }
    // Under one lock with the promise: what it has promised the control plane is not behind it.
    let leads = inner.primary_epoch().is_some() || inner.claim.is_some();
    match judge(question, inner.record.promised, leads, state.as_deref()) {
        Err(denial) => PromiseReply::Denied(denial),
        Ok(()) => {
            inner.abstention.promise(question, shared.clock.now());
            let end = question.end.map(|end| (question.epoch, end));
            inner.primary_end = inner.primary_end.max(end);
            PromiseReply::Promised
        }
    }
}

// ---- for its own lease ----

/// A lease that the peers may keep.
struct Keep {
    epoch: Epoch,
    guard: GuardId,
    timing: Timing,
    /// When they are asked.
    due: BootTime,
    /// How far it has come, as last seen.
    end: Option<Lsn>,
    /// Who is asked, and where; `None` where it is not known where.
    peers: Vec<(MemberName, Option<String>)>,
}

pub(super) async fn run<RT: Runtime, T: Transport, D: Database, C: Clock>(
    shared: Arc<Shared<D, C>>,
    client: Client<T>,
) {
    loop {
        let state = shared.state();
        let now = shared.clock.now();
        let keep = state.as_deref().and_then(|state| keep(&shared, state, now));
        let Some(keep) = keep else {
            settle(&shared, now);
            RT::sleep(IDLE).await;
            continue;
        };
        if now < keep.due {
            settle(&shared, now);
            RT::sleep(keep.due.since(now).clamp(LOOK_MIN, IDLE)).await;
            continue;
        }
        let sent = shared.clock.now();
        let promised = ask_all::<RT, T, D, C>(&shared, &client, &keep).await;
        match promised {
            Ok(()) => {
                if !extend::<RT, D, C>(&shared, &keep, sent).await {
                    RT::sleep(RETRY).await;
                }
            }
            Err(why) => {
                debug!(member = %shared.member.name, epoch = %keep.epoch, %why, "not all peers promise");
                shared.problem("failsafe", Some(format!("failsafe does not hold: {why}")));
                let pause = RETRY.saturating_sub(shared.clock.now().since(sent));
                RT::sleep(pause.max(LOOK_MIN)).await;
            }
        }
    }
}

/// What there is to keep now, if anything.
fn keep<D: Database, C: Clock>(
    shared: &Shared<D, C>,
    state: &ClusterState,
    now: BootTime,
) -> Option<Keep> {
    let inner = shared.lock();
    let lease = held(&inner, now)?;
    let (_, guard) = inner.claim.clone()?;
    let tenure = keepable(state, &shared.member.name, lease.epoch, &guard)?;
    let timing = state.spec.timing;
    let address = |m: &MemberName| state.members.get(m).and_then(|m| m.agent_address.clone());
    let is_asked = |m: &&MemberName| {
        !without(Mutant::OldPeersAsked) || state.spec.bootstrap_members.contains(*m)
    };
    Some(Keep {
        epoch: lease.epoch,
        guard,
        timing,
        due: due(&lease, inner.kept, &timing),
        end: match &inner.seen {
            Some((Seen::Primary { flushed, .. }, _)) => Some(*flushed),
            _ => None,
        },
        peers: tenure.peers.iter().filter(is_asked).map(|m| (m.clone(), address(m))).collect(),
    })
}

/// The lease of a primary that runs, is claimed, and was refused by nobody. One that has run out is
/// over for good.
fn held(inner: &Inner, now: BootTime) -> Option<HolderLease> {
    let lease = inner.lease?;
    let runs = matches!(
        &inner.process,
        Process::Primary { epoch, promoted: true, .. } if *epoch == lease.epoch
    );
    let claimed = inner.claim.as_ref().is_some_and(|(epoch, _)| *epoch == lease.epoch);
    let refused = inner.refused.is_some_and(|epoch| epoch >= lease.epoch);
    let fit = runs && claimed && !refused && !inner.hung && lease.may_write(lease.epoch, now);
    fit.then_some(lease)
}

/// Asks every peer at once. The first that does not promise ends the round.
async fn ask_all<RT: Runtime, T: Transport, D: Database, C: Clock>(
    shared: &Shared<D, C>,
    client: &Client<T>,
    keep: &Keep,
) -> Result<(), String> {
    // A round never takes longer than it is to the next one.
    let deadline = keep.timing.renew();
    let mut asked: Vec<Boxed<'_, Result<(), String>>> = Vec::new();
    for (peer, address) in &keep.peers {
        let Some(address) = address else {
            return Err(format!("it is not known where the agent of {peer} listens"));
        };
        let question = Question {
            cluster: shared.member.cluster.clone(),
            peer: peer.clone(),
            holder: shared.member.name.clone(),
            epoch: keep.epoch,
            guard: keep.guard.clone(),
            ttl_ms: keep.timing.ttl_ms,
            clock_error_ppm: keep.timing.clock_error_ppm,
            end: keep.end,
        };
        asked.push(Box::pin(async move {
            match RT::timeout(deadline, client.ask(address, &question, deadline)).await {
                Ok(Ok(PromiseReply::Promised)) => Ok(()),
                Ok(Ok(PromiseReply::Denied(why))) => Err(format!("{peer} does not promise: {why}")),
                Ok(Err(error)) => Err(format!("{peer} at {address}: {error}")),
                Err(_) => Err(format!("{peer} at {address}: no answer in time")),
            }
        }));
    }
    all(asked).await
}

/// Waits until all are there, or the first has failed.
async fn all(mut futures: Vec<Boxed<'_, Result<(), String>>>) -> Result<(), String> {
    let mut spare = without(Mutant::PeerMissing);
    poll_fn(move |cx| {
        let mut failed = None;
        futures.retain_mut(|future| match future.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(_)) if std::mem::take(&mut spare) => false,
            Poll::Ready(Err(why)) => {
                failed.get_or_insert(why);
                false
            }
        });
        match failed {
            Some(why) => Poll::Ready(Err(why)),
            None if futures.is_empty() => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    })
    .await
}

/// All have promised: the lease runs on from before they were asked. Whether it does.
async fn extend<RT: Runtime, D: Database, C: Clock>(
    shared: &Shared<D, C>,
    keep: &Keep,
    sent: BootTime,
) -> bool {
    let lease = HolderLease::from_renewal(keep.epoch, sent, &keep.timing);
    let wanted = |inner: &Inner, now: BootTime| {
        held(inner, now).is_some_and(|held| {
            held.epoch == keep.epoch
                && held.kill_at < lease.kill_at
                && inner.claim.as_ref().is_some_and(|(_, guard)| *guard == keep.guard)
        })
    };
    let now = shared.clock.now();
    if !wanted(&shared.lock(), now) {
        return false;
    }
    if let Err(error) = arm::<RT, D, C>(shared, &keep.guard, lease.kill_at).await {
        warn!(member = %shared.member.name, %error, "the guard did not take the lease");
        let text = format!("failsafe does not hold: the guard did not take the lease: {error}");
        shared.problem("failsafe", Some(text));
        return false;
    }
    let now = shared.clock.now();
    let began = {
        let mut inner = shared.lock();
        if !wanted(&inner, now) {
            return false;
        }
        inner.lease = Some(inner.lease.map_or(lease, |older| older.extend(lease)));
        !std::mem::replace(&mut inner.kept, true)
    };
    shared.problem("failsafe", None);
    if began {
        let peers: BTreeSet<&str> = keep.peers.iter().map(|(m, _)| m.as_str()).collect();
        let peers: Vec<&str> = peers.into_iter().collect();
        let text = format!(
            "no controller acknowledges the lease of epoch {}: {} goes on while {} all promise to \
             take no part in a failover; bring a majority of the controllers back",
            keep.epoch,
            shared.member.name,
            peers.join(", ")
        );
        shared.raise(Alarm::new(AlarmCode::Failsafe, text.clone()));
        shared.notice(NoticeCode::FailsafeBegan, text);
    }
    true
}

/// Tells the end of it: a controller has acknowledged, or there is nothing to keep any more.
fn settle<D: Database, C: Clock>(shared: &Shared<D, C>, now: BootTime) {
    let (over, alarmed) = {
        let mut inner = shared.lock();
        let over = held(&inner, now).is_none();
        if over {
            inner.kept = false;
        }
        let alarmed = inner.alarms.keys().any(|(code, _)| *code == AlarmCode::Failsafe);
        (over, alarmed && !inner.kept)
    };
    shared.problem("failsafe", None);
    if alarmed {
        shared.set_alarms(&[AlarmCode::Failsafe], Vec::new());
        let text = match over {
            true => "the primary that went on by failsafe has ended, or its lease was refused",
            false => "a controller acknowledges the lease again",
        };
        shared.notice(NoticeCode::FailsafeEnded, text);
    }
}
