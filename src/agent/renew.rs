//! Renews the leases of all members of the node.
//!
//! The time is read before a renewal is sent, and the lease that its acknowledgement gives is
//! counted from there. A lease counts only once the guard has armed the kernel's timer with it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::driver::Database;
use super::poll::Known;
use super::shared::Shared;
use crate::clock::Clock;
use crate::domain::lease::{HolderLease, Timing};
use crate::domain::mutant::{Mutant, without};
use crate::domain::types::{BootTime, GuardId, NodeName};
use crate::runtime::{self, Boxed, Runtime};
use crate::session::wire::{Claim, RenewRequest, Renewal};
use crate::session::{Client, Transport};

/// How long one attempt may take before the next controller is asked.
const ATTEMPT: Duration = Duration::from_millis(400);
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the guard may take to move its timer.
const ARM: Duration = Duration::from_millis(200);

pub(super) async fn run<RT: Runtime, T: Transport, D: Database, C: Clock>(
    node: NodeName,
    members: Vec<Arc<Shared<D, C>>>,
    client: Client<T>,
    known: Known,
    clock: Arc<C>,
) {
    let mut due = clock.now();
    let mut held: Vec<Claim> = Vec::new();
    let mut news = known.watch();
    loop {
        let claims = claims(&members, &known);
        // A new claim does not wait for its turn: its holder cannot promote before it is renewed.
        let fresh = claims.iter().any(|c| !held.contains(c));
        held.clone_from(&claims);
        let now = clock.now();
        if without(Mutant::GrantIsLease) {
            for claim in &claims {
                if let Some((member, timing)) = claimant(&members, &known, claim)
                    && member.lock().lease.is_none_or(|l| l.epoch != claim.epoch)
                {
                    settle::<RT, D, C>(member, claim, Renewal::Acknowledged, now, &timing).await;
                }
            }
        }
        if claims.is_empty() || (now < due && !fresh) {
            let wait = if claims.is_empty() { Duration::from_secs(1) } else { due.since(now) };
            let mut waits: Vec<Boxed<'_, ()>> =
                vec![Box::pin(RT::sleep(wait)), Box::pin(news.another())];
            for member in &members {
                waits.push(Box::pin(member.claims.notified()));
            }
            runtime::first_of(waits).await;
            continue;
        }
        let sent = clock.now();
        let generation = known.get().generation;
        let request = RenewRequest { node: node.clone(), claims: claims.clone(), generation };
        match client.renew(&request, ATTEMPT).await {
            Ok(reply) if reply.generation.or_first() < known.get().generation => {
                // Its control plane was replaced, perhaps while the answer was on its way.
                warn!(
                    generation = %reply.generation,
                    "a lease of an older generation of the control plane is refused"
                );
                due = clock.now();
                RT::sleep(PAUSE).await;
            }
            Ok(reply) => {
                let counted_from =
                    if without(Mutant::LeaseFromAnswer) { clock.now() } else { sent };
                let mut every = Timing::default().renew();
                for (claim, renewal) in claims.iter().zip(reply.renewals) {
                    let Some((member, timing)) = claimant(&members, &known, claim) else {
                        continue;
                    };
                    every = every.min(timing.renew());
                    settle::<RT, D, C>(member, claim, renewal, counted_from, &timing).await;
                }
                due = sent.plus(every);
            }
            Err(failure) => {
                // At once, at the next controller: the lease has to outlive a Raft election.
                debug!(%failure, "a renewal failed");
                due = clock.now();
                RT::sleep(PAUSE).await;
            }
        }
    }
}

/// The agreed times, never those of this node's file: the leader counts by the agreed ones.
fn timing<D: Database, C: Clock>(known: &Known, member: &Shared<D, C>) -> Option<Timing> {
    known.get().clusters.get(&member.member.cluster).map(|c| c.spec.timing)
}

/// Whose claim it is, with the agreed times of its cluster.
fn claimant<'a, D: Database, C: Clock>(
    members: &'a [Arc<Shared<D, C>>],
    known: &Known,
    claim: &Claim,
) -> Option<(&'a Shared<D, C>, Timing)> {
    let is_its =
        |m: &&Arc<Shared<D, C>>| m.member.cluster == claim.cluster && m.member.name == claim.member;
    let member = members.iter().find(is_its)?.as_ref();
    Some((member, timing(known, member)?))
}

/// What is to be renewed. Nothing before the agreed times are known.
fn claims<D: Database, C: Clock>(members: &[Arc<Shared<D, C>>], known: &Known) -> Vec<Claim> {
    let claim = |member: &Arc<Shared<D, C>>| {
        timing(known, member)?;
        let (epoch, guard) = {
            let inner = member.lock();
            // A generation is obeyed once that is on disk.
            inner.claim.clone().filter(|_| inner.record.generation == known.get().generation)?
        };
        Some(Claim {
            cluster: member.member.cluster.clone(),
            member: member.member.name.clone(),
            guard,
            epoch,
        })
    };
    members.iter().filter_map(claim).collect()
}

/// Moves the kernel's timer: only then does a lease count.
pub(super) async fn arm<RT: Runtime, D: Database, C: Clock>(
    member: &Shared<D, C>,
    guard: &GuardId,
    kill_at: BootTime,
) -> Result<(), String> {
    if without(Mutant::GuardNotArmed) {
        return Ok(());
    }
    match RT::timeout(ARM, member.database.arm(guard, kill_at)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it did not answer in time".to_owned()),
    }
}

async fn settle<RT: Runtime, D: Database, C: Clock>(
    member: &Shared<D, C>,
    claim: &Claim,
    renewal: Renewal,
    counted_from: BootTime,
    timing: &Timing,
) {
    match renewal {
        Renewal::Acknowledged => {
            let lease = HolderLease::from_renewal(claim.epoch, counted_from, timing);
            match arm::<RT, D, C>(member, &claim.guard, lease.kill_at).await {
                Ok(()) => {
                    let first = {
                        let mut inner = member.lock();
                        // Peers keep it no longer.
                        inner.kept = false;
                        let first = inner.lease.is_none_or(|l| l.epoch != claim.epoch);
                        inner.lease = Some(match inner.lease {
                            Some(older) => older.extend(lease),
                            None => lease,
                        });
                        first
                    };
                    member.problem("lease", None);
                    if first {
                        member.wake.notify_one();
                    }
                }
                Err(error) => {
                    // Acknowledged all the same: peers need not keep it. The guard may have been
                    // given a later deadline by their promises.
                    member.lock().kept = false;
                    warn!(member = %claim.member, %error, "the guard did not take the lease");
                    member.wake.notify_one();
                }
            }
        }
        Renewal::Refused { why } => {
            warn!(member = %claim.member, epoch = %claim.epoch, %why, "the lease was refused");
            {
                // Not silence: from here on peers do not keep it either.
                let mut inner = member.lock();
                inner.refused = inner.refused.max(Some(claim.epoch));
                inner.kept = false;
            }
            member.problem("lease", Some(format!("the lease was refused: {why}")));
            member.wake.notify_one();
        }
    }
}
