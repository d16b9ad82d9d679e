//! What a leader remembers, and what it shows of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::domain::catalogue::Catalogue;
use crate::domain::command::Rejection;
use crate::domain::lease::{LeaderLedger, Ticket};
use crate::domain::mutant::{Mutant, without};
use crate::domain::observation::{Condition, Observations, Report};
use crate::domain::plan::Finding;
use crate::domain::types::{BootTime, ClusterName, Epoch, MemberName};
use crate::raft::Role;
use crate::session::wire::Presence;

/// The memory of one controller. It is empty while the node does not lead.
#[derive(Default)]
pub struct Memory {
    inner: Mutex<Option<Leadership>>,
    /// Wakes the loop that plans.
    pub(super) wake: Notify,
}

/// Everything that one leadership of the Raft group knows. A later leadership of the same node
/// begins with nothing of it: its timers would be stale.
pub(super) struct Leadership {
    pub(super) ledger: LeaderLedger,
    pub(super) observations: BTreeMap<ClusterName, Observations>,
    pub(super) findings: BTreeMap<ClusterName, Vec<Finding>>,
    /// Registrations that were refused last, and when.
    pub(super) refused: BTreeMap<(ClusterName, MemberName), (BootTime, Rejection)>,
    /// What PostgreSQL of each cluster knows of its settings.
    pub(super) catalogues: BTreeMap<ClusterName, Arc<Catalogue>>,
}

/// How long a refused registration is shown: the member asks again much more often.
const REFUSED_FOR: Duration = Duration::from_secs(10);

impl Leadership {
    /// Refused registrations of a cluster, as findings.
    pub(super) fn refusals(&self, cluster: &ClusterName, now: BootTime) -> Vec<Finding> {
        let own = self.refused.iter().filter(|((c, _), _)| c == cluster);
        let recent = own.filter(|(_, (at, _))| now.since(*at) <= REFUSED_FOR);
        recent
            .map(|((_, member), (_, rejection))| Finding::RegistrationRefused {
                member: member.clone(),
                rule: rejection.rule(),
                why: rejection.to_string(),
            })
            .collect()
    }
}

/// What the leader sees of one cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// The newest reports.
    pub observations: Observations,
    /// What the last pass of the planner found.
    pub findings: Vec<Finding>,
    /// Time since the lease of the current epoch was last renewed.
    pub lease_age: Option<Duration>,
    /// What PostgreSQL of the cluster knows of its settings, once a member has told it.
    pub catalogue: Option<Arc<Catalogue>>,
}

/// What the leader sees.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// When it was taken, by the leader's CLOCK_BOOTTIME.
    pub now: BootTime,
    /// By cluster.
    pub clusters: BTreeMap<ClusterName, ClusterView>,
}

impl Memory {
    // Held for a few map operations only, never across an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Leadership>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the memory fit the role: a fresh one for a new term, none without leadership.
    ///
    /// The ledger begins now, not when the election was won: a renewal that arrived in between was
    /// noted in the memory that is replaced here, and it must not count less than the election.
    pub(super) fn follow_role(&self, role: &Role, clock: &impl Clock) {
        let mut inner = self.lock();
        match &*inner {
            Some(l) if role.established && l.ledger.term() == role.term => {}
            before if role.established => {
                let since = match before {
                    Some(l) if without(Mutant::LedgerKept) => l.ledger.elected(),
                    _ => clock.now().max(role.since),
                };
                *inner = Some(Leadership {
                    ledger: LeaderLedger::new(role.term, since),
                    observations: BTreeMap::new(),
                    findings: BTreeMap::new(),
                    refused: BTreeMap::new(),
                    catalogues: BTreeMap::new(),
                });
            }
            _ if without(Mutant::LedgerKept) => {}
            _ => *inner = None,
        }
    }

    /// Takes a report in; `false` where this node does not lead.
    pub(super) fn report(
        &self,
        cluster: ClusterName,
        member: MemberName,
        report: Report,
        now: BootTime,
    ) -> bool {
        let mut inner = self.lock();
        let Some(leadership) = &mut *inner else { return false };
        leadership.observations.entry(cluster).or_default().record(member, report, now);
        drop(inner);
        self.wake.notify_one();
        true
    }

    /// Whether a catalogue is wanted of a member whose PostgreSQL has this major version; 0 where it
    /// does not run. While members run different versions the older one counts, which knows less.
    pub(super) fn lacks_catalogue(&self, cluster: &ClusterName, major: u32) -> bool {
        let inner = self.lock();
        let Some(leadership) = &*inner else { return false };
        major > 0 && leadership.catalogues.get(cluster).is_none_or(|known| major < known.major)
    }

    /// Takes a catalogue in; `false` where this node does not lead.
    pub(super) fn learn_catalogue(&self, cluster: ClusterName, catalogue: Catalogue) -> bool {
        let mut inner = self.lock();
        let Some(leadership) = &mut *inner else { return false };
        leadership.catalogues.insert(cluster, Arc::new(catalogue));
        true
    }

    /// Notes how a registration ended.
    pub(super) fn registered(
        &self,
        cluster: &ClusterName,
        member: &MemberName,
        refusal: Option<Rejection>,
        now: BootTime,
    ) {
        let mut inner = self.lock();
        let Some(leadership) = &mut *inner else { return };
        let key = (cluster.clone(), member.clone());
        match refusal {
            Some(rejection) => _ = leadership.refused.insert(key, (now, rejection)),
            None => _ = leadership.refused.remove(&key),
        }
    }

    /// Notes that renewals have arrived. The term says to which leadership the tickets belong.
    pub(super) fn arrive(
        &self,
        claims: impl Iterator<Item = (ClusterName, Epoch)>,
        now: BootTime,
    ) -> Option<(u64, Vec<Ticket>)> {
        let mut inner = self.lock();
        let leadership = inner.as_mut()?;
        let tickets =
            claims.map(|(cluster, epoch)| leadership.ledger.arrive(cluster, epoch, now)).collect();
        Some((leadership.ledger.term(), tickets))
    }

    /// Settles renewals; `false` where the leadership that they arrived in is over, so that none
    /// may be acknowledged.
    pub(super) fn settle(&self, term: u64, verdicts: &[(Ticket, bool)]) -> bool {
        let mut inner = self.lock();
        let Some(leadership) = inner.as_mut().filter(|l| l.ledger.term() == term) else {
            return false;
        };
        let mut all_known = true;
        for (ticket, acknowledged) in verdicts {
            if *acknowledged {
                all_known &= leadership.ledger.acknowledge(*ticket);
            } else {
                leadership.ledger.refuse(*ticket);
            }
        }
        all_known
    }

    /// What is known of these members of a cluster; nothing where this node does not lead.
    pub(super) fn presence<'a>(
        &self,
        cluster: &ClusterName,
        members: impl Iterator<Item = &'a MemberName>,
        now: BootTime,
    ) -> BTreeMap<MemberName, Presence> {
        let inner = self.lock();
        let Some(leadership) = &*inner else { return BTreeMap::new() };
        let observations = leadership.observations.get(cluster);
        let position = |report: &Report| match &report.condition {
            // Of one that does not stream it is not known whether it is on the primary's log.
            Condition::Standby(view) => view.streaming.map(|_| view.replay),
            Condition::Primary(view) => Some(view.flushed),
            _ => None,
        };
        let of = |name: &MemberName| {
            let observed = observations.and_then(|o| o.members.get(name));
            let since = observed.map_or(leadership.ledger.elected(), |o| o.at);
            Presence {
                position: observed.and_then(|o| position(&o.report)),
                heard: observed.is_some(),
                preloaded: observed
                    .map(|o| o.report.settings.preloaded.clone())
                    .unwrap_or_default(),
                silent_ms: u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX),
            }
        };
        members.map(|name| (name.clone(), of(name))).collect()
    }

    /// What the leader sees, for the API; empty where this node does not lead.
    pub fn view(&self, now: BootTime) -> View {
        let inner = self.lock();
        let Some(leadership) = &*inner else { return View { now, clusters: BTreeMap::new() } };
        let mut clusters: BTreeMap<ClusterName, ClusterView> = BTreeMap::new();
        for (name, observations) in &leadership.observations {
            let epoch = observations.epoch_seen.map(|(epoch, _)| epoch);
            let renewed = epoch.and_then(|e| leadership.ledger.last_acknowledged(name, e));
            let view = clusters.entry(name.clone()).or_default();
            view.observations = observations.clone();
            view.lease_age = renewed.map(|at| now.since(at));
        }
        for (name, findings) in &leadership.findings {
            clusters.entry(name.clone()).or_default().findings.clone_from(findings);
        }
        for (name, catalogue) in &leadership.catalogues {
            clusters.entry(name.clone()).or_default().catalogue = Some(catalogue.clone());
        }
        View { now, clusters }
    }
}
