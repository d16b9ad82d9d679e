//! Asks the standby that a cascaded member is to stream from whether it can serve it.
//!
//! A task of its own: a standby that does not answer holds up no seal. What follows from the answers
//! is `domain::cascade`'s to say.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::driver::{Database, Seen};
use super::poll::Known;
use super::shared::Shared;
use crate::clock::Clock;
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::domain::desired::{Desired, FollowDuty, Upstream, desired_on};
use crate::domain::reconcile::Process;
use crate::domain::state::ClusterSpec;
use crate::domain::types::{BootTime, Timeline};
use crate::runtime::Runtime;

/// How often it is looked whether the member streams.
const LOOK: Duration = Duration::from_millis(500);
/// How often an upstream is asked.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// How long its answer may take.
const ANSWER: Duration = Duration::from_secs(3);

pub(super) async fn run<RT: Runtime, D: Database, C: Clock>(
    shared: Arc<Shared<D, C>>,
    known: Known,
) {
    let mut asked: Option<BootTime> = None;
    let mut why = String::new();
    loop {
        RT::sleep(LOOK).await;
        let state = known.get().clusters.get(&shared.member.cluster).cloned();
        let (name, node) = (&shared.member.name, &shared.options.node);
        let wanted = state.as_ref().map(|state| (desired_on(state, name, node), &state.spec));
        let Some((Desired::Follow(duty @ FollowDuty { upstream: Some(upstream), .. }), spec)) =
            &wanted
        else {
            if matches!(&wanted, Some((Desired::Follow(_), _))) {
                shared.lock().upstream.forget();
            }
            shared.set_alarms(&[AlarmCode::UpstreamLost], Vec::new());
            continue;
        };
        let lost = shared.lock().upstream.is_lost();
        let now = shared.clock.now();
        let found = look(&shared, duty, upstream, now);
        if let Some(Found { foreign: Some(timeline), .. }) = found {
            check_foreign::<RT, D, C>(&shared, duty, upstream, timeline).await;
        }
        let due = asked.is_none_or(|at| now.since(at) >= ASK_EVERY);
        if found.is_some() && due {
            asked = Some(now);
            let fit = ask::<RT, D, C>(&shared, duty, upstream, spec).await;
            why = fit.as_ref().err().cloned().unwrap_or_default();
            let now = shared.clock.now();
            shared.lock().upstream.note_answer(duty.epoch, fit.is_ok(), now);
        }
        tell(&shared, upstream, lost, &why);
    }
}

/// What a member that follows was seen to do.
struct Found {
    /// A timeline that is newer than the epoch that it follows, taken from its upstream.
    foreign: Option<Timeline>,
}

/// `None` where it does not follow the duty's epoch now.
fn look<D: Database, C: Clock>(
    shared: &Shared<D, C>,
    duty: &FollowDuty,
    upstream: &Upstream,
    now: BootTime,
) -> Option<Found> {
    let mut inner = shared.lock();
    let address = match &inner.process {
        Process::Following { epoch, address } if *epoch == duty.epoch => address.clone(),
        _ => return None,
    };
    let there = address == upstream.address;
    inner.upstream.ask(duty.epoch, upstream, there, now);
    let streaming = match &inner.seen {
        Some((Seen::Standby { streaming, .. }, _)) => *streaming,
        Some((Seen::Starting, _)) => None,
        // It was not seen: nothing is known.
        _ => return Some(Found { foreign: None }),
    };
    if there {
        inner.upstream.note_streaming(streaming.is_some(), now);
    }
    let foreign = streaming.filter(|t| there && t.epoch() > duty.epoch);
    Some(Found { foreign })
}

/// The upstream sends a timeline that is newer than the epoch that it was followed for. Either that
/// epoch was granted, and this node has not heard of it; then its primary was ended before. Or
/// somebody promoted the upstream past the control plane; then the primary still leads.
async fn check_foreign<RT: Runtime, D: Database, C: Clock>(
    shared: &Shared<D, C>,
    duty: &FollowDuty,
    upstream: &Upstream,
    timeline: Timeline,
) {
    let asked = RT::timeout(ANSWER, shared.database.primary_position(duty)).await;
    if matches!(asked, Ok(Ok((epoch, _))) if epoch == duty.epoch) {
        let from = &upstream.member;
        let text = format!("it took timeline {timeline} from {from}, which nobody was granted");
        shared.lock().polluted = Some(text);
        shared.wake.notify_one();
    }
}

async fn ask<RT: Runtime, D: Database, C: Clock>(
    shared: &Shared<D, C>,
    duty: &FollowDuty,
    upstream: &Upstream,
    spec: &ClusterSpec,
) -> Result<(), String> {
    match RT::timeout(ANSWER, shared.database.check_standby(duty, upstream, spec)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

fn tell<D: Database, C: Clock>(
    shared: &Shared<D, C>,
    upstream: &Upstream,
    was_lost: bool,
    why: &str,
) {
    let (name, from) = (&shared.member.name, &upstream.member);
    let (lost, alarm) = {
        let inner = shared.lock();
        (inner.upstream.is_lost(), inner.upstream.is_alarm(shared.clock.now()))
    };
    match (was_lost, lost) {
        (true, false) => info!(member = %name, upstream = %from, "the upstream is well"),
        (false, true) => warn!(member = %name, upstream = %from, why, "the upstream is lost"),
        _ => debug!(member = %name, upstream = %from, lost, why, "the upstream"),
    }
    if was_lost != lost {
        shared.wake.notify_one();
    }
    let alarm = alarm.then(|| {
        let why = if why.is_empty() { "it did not stream from it" } else { why };
        let text = format!("it cannot stream from {from} and follows the primary: {why}");
        Alarm::about(AlarmCode::UpstreamLost, from.as_str(), text)
    });
    shared.set_alarms(&[AlarmCode::UpstreamLost], alarm.into_iter().collect());
}
