//! What the leader does next for a cluster, and why it does nothing where it does nothing.
//!
//! A pure function of agreed state, observations, ledger and time. It proposes at most one change;
//! the next pass sees its effect. Whatever it proposes, `apply` checks again.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::alarm::{Alarm, AlarmCode};
use super::candidate::{self, Proof, Refusal, wished};
use super::command::{Basis, Change, Grant};
use super::lease::LeaderLedger;
use super::observation::{
    Condition, Data, Observations, Observed, PrimaryView, Progress, Sealed, Sequence,
    StandbyProgress,
};
use super::space::Level;
use super::state::{
    CloseReason, ClusterState, Operation, OperationKind, Outcome, Phase, Stage, SynchronousMode,
    Tenure,
};
use super::sync::SyncConfig;
use super::types::{BootTime, ClusterName, Epoch, Lsn, MemberName, SystemId, WallMillis};

/// How old a report may be to say what a member is doing now.
pub const FRESH: Duration = Duration::from_secs(2);
/// How long the first standbys of an epoch are waited for before others are taken instead.
pub const FIRST_SYNC_WAIT: Duration = Duration::from_secs(2);
/// After how long a promoted member that is not confirmed waits for whoever else answers, also for
/// those that have to be rewound first.
pub const WIDEN_AFTER: Duration = Duration::from_secs(5);
/// How long a member that could not be promoted is passed over.
pub const GAVE_UP_FOR: Duration = Duration::from_secs(10);
/// How long a takeover waits for the target of a switchover to be sealed.
pub const TARGET_WAIT: Duration = Duration::from_secs(2);
/// How long a switchover may wait for the primary to stop.
pub const SWITCHOVER_DEADLINE: Duration = Duration::from_secs(15);
/// How long a granted member may take to be promoted, though it renews its lease.
pub const PROMOTION_DEADLINE: Duration = Duration::from_secs(60);
/// How long a takeover waits for the target of a failover by hand to be sealed.
pub const FAILOVER_TARGET_WAIT: Duration = Duration::from_secs(10);
/// How long a failover by hand waits for a candidate before it is given up as an operation.
pub const FAILOVER_DEADLINE: Duration = Duration::from_secs(60);
/// How long a takeover looks for a proof before the operator's acceptance of data loss is used.
pub const LOSS_SETTLE: Duration = Duration::from_secs(5);
/// Most bytes that the target of a switchover may be behind.
pub const SWITCHOVER_LAG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What one pass decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What to propose.
    pub proposal: Option<Change>,
    /// Why, or why not.
    pub findings: Vec<Finding>,
}

/// A reason for what the planner did or did not do.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// Nothing is to be done.
    Settled,
    /// A member of the bootstrap has not registered, or does not report.
    AwaitingMember { member: MemberName },
    /// A member holds data, and the control plane knows of none.
    UnknownData { member: MemberName, system_id: SystemId },
    /// `initdb` is under way, or failed.
    Bootstrapping { member: MemberName, problem: Option<String> },
    /// The holder proved that its epoch ended.
    HolderStopped { member: MemberName, epoch: Epoch },
    /// No renewal has come for the suspicion time.
    HolderSilent { member: MemberName, silence: Duration },
    /// The holder is silent, but a takeover could not succeed, so its epoch stays open.
    TakeoverWouldFail { refusal: Refusal },
    /// The granted member is on its way to be primary.
    Promoting { member: MemberName, epoch: Epoch, step: &'static str },
    /// The old lease may still run.
    AwaitingExpiry { member: MemberName, remaining: Duration },
    /// The read quorum or a candidate is missing.
    AwaitingCandidates { refusal: Refusal, sealed: Vec<MemberName> },
    /// The target of the switchover is about to be sealed.
    AwaitingTarget { member: MemberName },
    /// Too many failovers after crashes: the crashed member itself is waited for.
    CrashBound { member: MemberName, crashes: usize },
    /// A new epoch is granted.
    Granting { member: MemberName, epoch: Epoch },
    /// The synchronous configuration is being changed.
    ChangingSync { from: SyncConfig, to: SyncConfig },
    /// Too few synchronous standbys stream: commits wait.
    CommitsWait { config: SyncConfig, streaming: usize },
    /// Members that could take over have no room on their disks.
    AwaitingRoom { members: Vec<MemberName> },
    /// A switchover waits for the primary to stop.
    SwitchingOver { target: MemberName },
    /// An operation was given up.
    OperationFailed { why: String },
    /// A member does not report.
    MemberSilent { member: MemberName },
    /// A member asked to be registered, and was refused.
    RegistrationRefused { member: MemberName, rule: &'static str, why: String },
    /// A member says that something is wrong.
    MemberProblem { member: MemberName, problem: String },
}

impl Finding {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Finding::Settled => "settled",
            Finding::AwaitingMember { .. } => "bootstrap.all-members",
            Finding::UnknownData { .. } => "data.no-bootstrap-beside",
            Finding::Bootstrapping { .. } => "bootstrap",
            Finding::HolderStopped { .. } => "takeover.proven-stop",
            Finding::HolderSilent { .. } => "takeover.lease-lost",
            Finding::TakeoverWouldFail { .. } => "takeover.likely-quorum",
            Finding::Promoting { .. } => "promotion",
            Finding::AwaitingExpiry { .. } => "takeover.expiry",
            Finding::AwaitingCandidates { refusal, .. } => refusal.rule(),
            Finding::AwaitingTarget { .. } => "switchover.target-sealed",
            Finding::CrashBound { .. } => "takeover.crash-bound",
            Finding::Granting { .. } => "takeover.grant",
            Finding::ChangingSync { .. } => "sync.joint-change",
            Finding::CommitsWait { .. } => "sync.write-quorum",
            Finding::AwaitingRoom { .. } => "takeover.room",
            Finding::SwitchingOver { .. } => "switchover",
            Finding::OperationFailed { .. } => "operation.failed",
            Finding::MemberSilent { .. } => "member.reports",
            Finding::RegistrationRefused { rule, .. } => rule,
            Finding::MemberProblem { .. } => "member.problem",
        }
    }

    /// The member that it is about, where there is one.
    pub fn member(&self) -> Option<&MemberName> {
        match self {
            Finding::AwaitingMember { member }
            | Finding::UnknownData { member, .. }
            | Finding::Bootstrapping { member, .. }
            | Finding::HolderStopped { member, .. }
            | Finding::HolderSilent { member, .. }
            | Finding::Promoting { member, .. }
            | Finding::AwaitingExpiry { member, .. }
            | Finding::AwaitingTarget { member }
            | Finding::CrashBound { member, .. }
            | Finding::Granting { member, .. }
            | Finding::SwitchingOver { target: member }
            | Finding::MemberSilent { member }
            | Finding::RegistrationRefused { member, .. }
            | Finding::MemberProblem { member, .. } => Some(member),
            _ => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Settled => write!(f, "nothing is to be done"),
            Finding::AwaitingMember { member } => {
                write!(f, "waiting for {member} to report before any data is made")
            }
            Finding::UnknownData { member, system_id } => write!(
                f,
                "{member} holds data with system identifier {system_id} that this control plane \
                 has never seen; no cluster is created beside it"
            ),
            Finding::Bootstrapping { member, problem: None } => {
                write!(f, "{member} makes the data directory")
            }
            Finding::Bootstrapping { member, problem: Some(why) } => {
                write!(f, "{member} could not make the data directory and tries again: {why}")
            }
            Finding::HolderStopped { member, epoch } => {
                write!(f, "{member} proved that it stopped epoch {epoch}")
            }
            Finding::HolderSilent { member, silence } => {
                write!(f, "{member} has not renewed its lease for {} ms", silence.as_millis())
            }
            Finding::TakeoverWouldFail { refusal } => write!(
                f,
                "the primary is silent, but its epoch stays open since a takeover would not \
                 succeed: {refusal}"
            ),
            Finding::Promoting { member, epoch, step } => {
                write!(f, "{member} becomes primary of epoch {epoch}: {step}")
            }
            Finding::AwaitingExpiry { member, remaining } => write!(
                f,
                "the lease of {member} may still run: waiting {} ms more",
                remaining.as_millis()
            ),
            Finding::AwaitingCandidates { refusal, sealed } => {
                let names: Vec<&str> = sealed.iter().map(MemberName::as_str).collect();
                write!(f, "no promotion yet: {refusal} (sealed: {})", names.join(", "))
            }
            Finding::AwaitingTarget { member } => {
                write!(f, "waiting for {member}, which is to take over, to be sealed")
            }
            Finding::CrashBound { member, crashes } => write!(
                f,
                "PostgreSQL crashed {crashes} times of late: waiting for {member} itself to \
                 return instead of letting the crash walk through the cluster"
            ),
            Finding::Granting { member, epoch } => {
                write!(f, "{member} is granted epoch {epoch}")
            }
            Finding::ChangingSync { from, to } => write!(f, "changing {from} to {to}"),
            Finding::CommitsWait { config, streaming } => write!(
                f,
                "commits wait: {config} needs {} and {streaming} of its members stream",
                config.w
            ),
            Finding::AwaitingRoom { members } => {
                let names: Vec<&str> = members.iter().map(MemberName::as_str).collect();
                write!(
                    f,
                    "not promoted, since their disks are full and they would fail at once: {}; \
                     make room there",
                    names.join(", ")
                )
            }
            Finding::SwitchingOver { target } => {
                write!(f, "switching over to {target}: waiting for the primary to stop")
            }
            Finding::OperationFailed { why } => write!(f, "the operation was given up: {why}"),
            Finding::MemberSilent { member } => write!(f, "{member} does not report"),
            Finding::RegistrationRefused { member, why, .. } => {
                write!(f, "{member} is not taken in: {why}")
            }
            Finding::MemberProblem { member, problem } => write!(f, "{member}: {problem}"),
        }
    }
}

/// One pass over one cluster. `wall` is for the bound on crashes and for histories only.
pub fn plan(
    cluster: &ClusterName,
    state: &ClusterState,
    observed: &Observations,
    ledger: &LeaderLedger,
    now: BootTime,
    wall: WallMillis,
) -> Plan {
    let pass = Pass { cluster, state, observed, ledger, now, wall };
    let mut findings = pass.member_findings();
    let proposal = match &state.phase {
        Phase::AwaitingMembers => pass.begin_bootstrap(&mut findings),
        Phase::Bootstrapping { member } => pass.follow_bootstrap(member, &mut findings),
        Phase::Running => match &state.tenure {
            Some(t) if t.closed.is_none() => pass.watch_over(t, &mut findings),
            Some(t) => pass.take_over(t, &mut findings),
            None => None,
        },
    };
    let proposal = proposal.or_else(|| pass.note_health());
    if findings.is_empty() {
        findings.push(Finding::Settled);
    }
    Plan { proposal, findings }
}

/// Whom to grant the next epoch, and on what.
struct Choice {
    evidence: Vec<Sealed>,
    chosen: Sealed,
    /// The operation that overrides the read quorum.
    accepted: Option<u64>,
    /// The position that `max_lag_bytes` is measured from.
    within_lag_of: Option<Lsn>,
}

struct Pass<'a> {
    cluster: &'a ClusterName,
    state: &'a ClusterState,
    observed: &'a Observations,
    ledger: &'a LeaderLedger,
    now: BootTime,
    wall: WallMillis,
}

impl Pass<'_> {
    fn fresh(&self, member: &MemberName) -> Option<&Observed> {
        fresh(self.observed, member, self.now)
    }

    /// What members say that is wrong.
    fn member_findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for member in self.state.members.keys() {
            match self.fresh(member) {
                None => findings.push(Finding::MemberSilent { member: member.clone() }),
                Some(o) => {
                    let unknown = o.report.condition == Condition::Unknown;
                    let unknown = unknown.then(|| "what it is cannot be found out now".to_owned());
                    let alarms = o.report.alarms.iter().map(|a| a.text.clone());
                    let problems = o.report.problems.iter().cloned().chain(unknown).chain(alarms);
                    findings.extend(
                        problems.map(|problem| Finding::MemberProblem {
                            member: member.clone(),
                            problem,
                        }),
                    );
                }
            }
        }
        findings
    }

    /// Takes alarms and notices of one member into the history, where there are new ones.
    fn note_health(&self) -> Option<Change> {
        let held = |member: &MemberName| {
            self.state.alarms.get(member).map(Vec::as_slice).unwrap_or_default()
        };
        for member in self.state.members.keys() {
            let Some(observed) = self.fresh(member) else { continue };
            let report = &observed.report;
            let mut alarms = report.alarms.clone();
            alarms.extend(self.commits_wait(member));
            alarms.truncate(super::alarm::ALARMS_MAX);
            let keys = |list: &[Alarm]| -> BTreeSet<(AlarmCode, String)> {
                list.iter().map(|a| (a.code, a.subject.clone())).collect()
            };
            let run = report.sequence.run;
            let known = self.state.noticed.get(member).filter(|s| s.run == run);
            let known = known.map_or(0, |s| s.number);
            let new: Vec<_> = report.notices.iter().filter(|n| n.number > known).cloned().collect();
            if new.is_empty() && keys(&alarms) == keys(held(member)) {
                continue;
            }
            let number = new.iter().map(|n| n.number).max().unwrap_or(known);
            return Some(Change::NoteHealth {
                member: member.clone(),
                alarms,
                notices: new,
                upto: Sequence { run, number },
            });
        }
        None
    }

    /// The alarm of a primary that too few standbys confirm.
    fn commits_wait(&self, member: &MemberName) -> Option<Alarm> {
        let tenure = self.state.open_tenure().filter(|t| t.member == *member)?;
        if !matches!(tenure.stage, Stage::Active { .. }) {
            return None;
        }
        let (view, current) = (self.primary_view(tenure)?, self.state.current_sync()?);
        let grace = Duration::from_millis(self.state.spec.shrink_after_ms) / 2;
        let since = self.since(self.observed.epoch_seen.map(|(_, at)| at));
        let confirms = |name: &&MemberName| {
            let last = self.observed.last_streaming.get(*name).copied().unwrap_or(since);
            view.standbys.get(*name).is_some_and(|p| p.streaming)
                || self.now.since(last.max(since)) < grace
        };
        let able = current.members.iter().filter(confirms).count();
        (able < current.w as usize).then(|| {
            let text = format!("commits wait: {current} and only {able} of its members stream");
            Alarm::new(AlarmCode::CommitsWait, text)
        })
    }

    /// `at`, and not before this leadership began: it has not heard of anything before.
    fn since(&self, at: Option<BootTime>) -> BootTime {
        at.unwrap_or(self.now).max(self.ledger.elected())
    }

    // ---- bootstrap ----

    fn begin_bootstrap(&self, findings: &mut Vec<Finding>) -> Option<Change> {
        let mut ready = true;
        for member in &self.state.spec.bootstrap_members {
            let report = self.state.members.get(member).and_then(|_| self.fresh(member));
            match report.map(|o| &o.report.data) {
                Some(Data::Empty) => {}
                Some(Data::Present { system_id }) => {
                    let (member, system_id) = (member.clone(), *system_id);
                    findings.push(Finding::UnknownData { member, system_id });
                    ready = false;
                }
                _ => {
                    findings.push(Finding::AwaitingMember { member: member.clone() });
                    ready = false;
                }
            }
        }
        let priority = |m: &&MemberName| self.state.members.get(*m).map_or(0, |x| x.priority);
        let fit = |m: &&MemberName| self.state.members.get(*m).is_some_and(|x| x.may_lead());
        let candidates = self.state.spec.bootstrap_members.iter().filter(fit);
        // The first of those with the greatest priority.
        let Some(chosen) =
            candidates.reduce(|a, b| if priority(&b) > priority(&a) { b } else { a })
        else {
            let refusal = Refusal::NoCandidate { epoch: Epoch(1) };
            findings.push(Finding::AwaitingCandidates { refusal, sealed: Vec::new() });
            return None;
        };
        ready.then(|| Change::BeginBootstrap { member: chosen.clone() })
    }

    fn follow_bootstrap(&self, member: &MemberName, findings: &mut Vec<Finding>) -> Option<Change> {
        let mut problem = None;
        let latest = self.observed.members.get(member);
        if let Some(o) = latest {
            match (&o.report.data, &o.report.condition) {
                (Data::Present { system_id }, _) => {
                    return Some(Change::FinishBootstrap {
                        member: member.clone(),
                        system_id: *system_id,
                        epoch: Epoch(1),
                    });
                }
                (_, Condition::BootstrapFailed { why }) => problem = Some(why.clone()),
                _ => {}
            }
        }
        findings.push(Finding::Bootstrapping { member: member.clone(), problem });
        // However long it is silent: it may have made the data directory, and another one made
        // beside it could never be told from a foreign one.
        None
    }

    // ---- an open epoch ----

    fn watch_over(&self, tenure: &Tenure, findings: &mut Vec<Finding>) -> Option<Change> {
        if let Some(change) = self.holder_stopped(tenure, findings) {
            return Some(change);
        }
        if let Some(change) = self.holder_silent(tenure, findings) {
            return change;
        }
        if let Some(change) = self.promotion_overdue(tenure, findings) {
            return Some(change);
        }
        let view = self.primary_view(tenure);
        let sync_change = self.sync_change(tenure, view, findings);
        match tenure.stage {
            Stage::Granted => {
                let step = if view.is_some() { "promoting" } else { "accepting the grant" };
                findings.push(promoting(tenure, step));
                match view.map(|v| &v.progress) {
                    Some(Progress::Promoted { lineage }) => Some(Change::RecordPromotion {
                        expect_epoch: tenure.epoch,
                        guard: tenure.guard.clone(),
                        lineage: lineage.clone(),
                    }),
                    _ => None,
                }
            }
            Stage::Promoted => {
                findings.push(promoting(tenure, "waiting for the barrier"));
                match view.and_then(|v| v.confirmed.as_ref()) {
                    Some(c) if c.syncs == self.state.syncs => Some(Change::Activate {
                        expect_epoch: tenure.epoch,
                        guard: tenure.guard.clone(),
                        expect_syncs: c.syncs.clone(),
                        postmaster_start_us: c.postmaster_start_us,
                    }),
                    _ => sync_change,
                }
            }
            Stage::Active { .. } => self
                .finish_sync_change(tenure, view, findings)
                .or_else(|| self.attend_operation(tenure, findings))
                .or(sync_change),
        }
    }

    /// A member that renews its lease and is never promoted must not hold the cluster for ever.
    fn promotion_overdue(&self, tenure: &Tenure, findings: &mut Vec<Finding>) -> Option<Change> {
        let (_, seen) = self.observed.epoch_seen.filter(|(e, _)| *e == tenure.epoch)?;
        let late = self.now.since(seen) >= PROMOTION_DEADLINE;
        if tenure.stage != Stage::Granted || !late || self.likely_refusal().is_some() {
            return None;
        }
        findings.push(promoting(tenure, "it took too long, and the epoch is closed"));
        let reason = CloseReason::GivenUp;
        Some(Change::Close { expect_epoch: tenure.epoch, reason, stopped: false })
    }

    /// Whether the holder's process tree is proven empty: by the record of the very guard that was
    /// granted the epoch, and of nobody else.
    fn proven_stop(&self, tenure: &Tenure) -> bool {
        let report = self.observed.members.get(&tenure.member).map(|o| &o.report);
        report.is_some_and(|r| r.ended >= tenure.epoch && r.emptied.contains(&tenure.guard))
    }

    /// A proven stop ends the epoch at once.
    fn holder_stopped(&self, tenure: &Tenure, findings: &mut Vec<Finding>) -> Option<Change> {
        // A proof is durable on the member: it does not grow old.
        let report = &self.observed.members.get(&tenure.member)?.report;
        if !self.proven_stop(tenure) {
            return None;
        }
        let (member, epoch) = (tenure.member.clone(), tenure.epoch);
        findings.push(Finding::HolderStopped { member, epoch });
        let asked = self.state.operation.as_ref().is_some_and(|op| {
            op.epoch == tenure.epoch && matches!(op.kind, OperationKind::Switchover { .. })
        });
        let reason = match (report.crashed, asked) {
            (true, _) => CloseReason::Crashed,
            (false, true) => CloseReason::Switchover,
            (false, false) => CloseReason::GivenUp,
        };
        Some(Change::Close { expect_epoch: tenure.epoch, reason, stopped: true })
    }

    /// A silent holder is closed where a takeover is likely to succeed. `Some(None)`: it is silent,
    /// and nothing can be done.
    fn holder_silent(
        &self,
        tenure: &Tenure,
        findings: &mut Vec<Finding>,
    ) -> Option<Option<Change>> {
        let seen = self.observed.epoch_seen.filter(|(e, _)| *e == tenure.epoch).map(|(_, at)| at);
        let base = self.ledger.base(self.cluster, tenure.epoch).max(seen.unwrap_or(self.now));
        let silence = self.now.since(base);
        if silence < self.state.spec.timing.suspect() {
            return None;
        }
        findings.push(Finding::HolderSilent { member: tenure.member.clone(), silence });
        match self.likely_refusal() {
            Some(refusal) => {
                findings.push(Finding::TakeoverWouldFail { refusal });
                Some(None)
            }
            None => Some(Some(Change::Close {
                expect_epoch: tenure.epoch,
                reason: CloseReason::LeaseLost,
                stopped: false,
            })),
        }
    }

    /// Why a takeover would be refused if every standby that answers now were sealed now.
    fn likely_refusal(&self) -> Option<Refusal> {
        let likely: Vec<Sealed> = self
            .state
            .members
            .iter()
            .filter(|(_, m)| m.may_lead())
            .filter_map(|(name, _)| {
                let report = &self.fresh(name)?.report;
                let Condition::Standby(view) = &report.condition else { return None };
                let fit = view.counts && report.disks.level() > Level::Critical;
                fit.then(|| Sealed {
                    member: name.clone(),
                    guard: report.guard.clone().unwrap_or_else(|| tenure_guard(self.state)),
                    promised: self.state.epoch.next(),
                    wal_epoch: view.wal_epoch.min(self.state.epoch),
                    lsn: view.flushed,
                    // The member of the epoch counts as its holder once that is closed.
                    held: match &self.state.tenure {
                        Some(t) if t.member == *name => t.epoch,
                        _ => view.held.min(self.state.epoch),
                    },
                    lineage: self.state.lineage.clone(),
                })
            })
            .collect();
        let refusal = candidate::choose(self.state, &likely, None, Proof::Quorum).err()?;
        match self.primary_end() {
            Some(end) => {
                candidate::choose(self.state, &likely, None, Proof::WithinLagOf(end)).err()
            }
            None => Some(refusal),
        }
    }

    /// How far the last primary that wrote is known to have been, where the operator allows a
    /// member to be short of that.
    fn primary_end(&self) -> Option<Lsn> {
        self.state.spec.max_lag_bytes?;
        let wrote = self.state.lineage.last()?.epoch;
        self.observed.primary_end.filter(|(epoch, _)| *epoch == wrote).map(|(_, lsn)| lsn)
    }

    fn primary_view(&self, tenure: &Tenure) -> Option<&PrimaryView> {
        let report = &self.fresh(&tenure.member)?.report;
        match &report.condition {
            Condition::Primary(view)
                if view.epoch == tenure.epoch && report.guard.as_ref() == Some(&tenure.guard) =>
            {
                Some(view)
            }
            _ => None,
        }
    }

    // ---- the synchronous configuration ----

    fn finish_sync_change(
        &self,
        tenure: &Tenure,
        view: Option<&PrimaryView>,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        let [older @ .., newest] = self.state.syncs.as_slice() else { return None };
        let from = older.last()?;
        findings.push(Finding::ChangingSync { from: from.clone(), to: newest.clone() });
        let confirmed = view?.confirmed.as_ref()?;
        (confirmed.syncs == self.state.syncs).then(|| Change::FinishSyncChange {
            expect_epoch: tenure.epoch,
            expect_syncs: self.state.syncs.clone(),
        })
    }

    /// Who should count, and the change towards it.
    fn sync_change(
        &self,
        tenure: &Tenure,
        view: Option<&PrimaryView>,
        findings: &mut Vec<Finding>,
    ) -> Option<Change> {
        let current = self.state.current_sync()?;
        let view = view?;
        let lag_max = self.state.spec.sync_lag_bytes_max;
        let near = |name: &MemberName, p: &StandbyProgress| {
            // One that lagged comes back only once it has nearly caught up.
            let max = if current.members.contains(name) { lag_max } else { lag_max / 4 };
            p.streaming && view.lag_bytes(p) <= max
        };
        let streaming: BTreeSet<MemberName> = view
            .standbys
            .iter()
            .filter(|(name, p)| near(name, p) && self.may_count(name))
            .map(|(name, _)| name.clone())
            .collect();
        let able = current.members.intersection(&streaming).count();
        if able < current.w as usize {
            findings.push(Finding::CommitsWait { config: current.clone(), streaming: able });
        }
        let active = matches!(tenure.stage, Stage::Active { .. });
        // Before activation every change would only put it off, unless nothing else helps.
        let since = self.observed.epoch_seen.map_or(self.now, |(_, at)| at);
        let early = self.now.since(since) < FIRST_SYNC_WAIT;
        if !active && (tenure.stage == Stage::Granted || early || able >= current.w as usize) {
            return None;
        }
        let mut wanted = streaming;
        if !active && self.now.since(since) >= WIDEN_AFTER {
            let answers = |m: &&MemberName| {
                let may = self.state.members.get(*m).is_some_and(|x| x.may_confirm());
                may && self.fresh(m).is_some()
            };
            wanted.extend(self.state.members.keys().filter(answers).cloned());
        }
        let target = self.target_sync(tenure, current, &wanted)?;
        if target.same_as(current) {
            return None;
        }
        // A change cuts the standbys off for a moment: while enough of them confirm, newcomers wait
        // until the clients of a new primary are back.
        let only_adds = target.w == current.w && target.members.is_superset(&current.members);
        if active && only_adds && early && able >= current.w as usize {
            return None;
        }
        // One change after the other, except where the one under way cannot be confirmed.
        if self.state.syncs.len() > 1 && active && able >= current.w as usize {
            return None;
        }
        findings.push(Finding::ChangingSync { from: current.clone(), to: target.clone() });
        Some(Change::BeginSyncChange {
            expect_epoch: tenure.epoch,
            expect_syncs: self.state.syncs.clone(),
            to: target,
        })
    }

    fn may_count(&self, name: &MemberName) -> bool {
        let may = self.state.members.get(name).is_some_and(|m| m.may_confirm());
        let proven = self.fresh(name).is_some_and(
            |o| matches!(&o.report.condition, Condition::Standby(view) if view.counts),
        );
        may && proven
    }

    fn target_sync(
        &self,
        tenure: &Tenure,
        current: &SyncConfig,
        streaming: &BTreeSet<MemberName>,
    ) -> Option<SyncConfig> {
        let spec = &self.state.spec;
        if spec.synchronous == SynchronousMode::Async {
            return Some(SyncConfig::asynchronous(tenure.epoch, self.state.next_sync));
        }
        let since = self.since(self.observed.epoch_seen.map(|(_, at)| at));
        let patience = Duration::from_millis(spec.shrink_after_ms);
        let gone = |name: &MemberName| {
            let last = self.observed.last_streaming.get(name).copied().unwrap_or(since);
            self.now.since(last.max(since)) >= patience
        };
        let allowed =
            |name: &MemberName| self.state.members.get(name).is_some_and(|m| m.may_confirm());
        let kept = current.members.iter().filter(|m| allowed(m) && !gone(m));
        let mut members: BTreeSet<MemberName> = kept.chain(streaming).cloned().collect();
        members.remove(&tenure.member);
        let floor = spec.write_quorum_min as usize;
        if members.is_empty() && floor == 0 {
            // Nobody is there, and the operator has it that the primary goes on alone.
            return Some(SyncConfig::asynchronous(tenure.epoch, self.state.next_sync));
        }
        if members.len() < floor.max(1) {
            if current.w as usize >= floor {
                // Not below what the operator wants: commits wait.
                return None;
            }
            // The floor was raised: whoever may come back is waited for.
            members = self.state.members.keys().filter(|m| allowed(m)).cloned().collect();
            members.remove(&tenure.member);
            if members.len() < floor.max(1) {
                return None;
            }
        }
        Some(self.sync_of(tenure.epoch, members))
    }

    /// The configuration of these members, by the cluster's mode and order.
    fn sync_of(&self, epoch: Epoch, members: BTreeSet<MemberName>) -> SyncConfig {
        let spec = &self.state.spec;
        let w = spec.write_quorum.max(1).min(members.len() as u32);
        let mut order = Vec::new();
        if spec.synchronous == SynchronousMode::Priority {
            order = members.iter().cloned().collect();
            let priority = |m: &MemberName| self.state.members.get(m).map_or(0, |x| x.priority);
            // Stable: the names keep their order where priorities are equal.
            order.sort_by_key(|m| std::cmp::Reverse(priority(m)));
        }
        SyncConfig { epoch, seq: self.state.next_sync, w, members, order }
    }

    // ---- operations ----

    fn attend_operation(&self, tenure: &Tenure, findings: &mut Vec<Finding>) -> Option<Change> {
        let op = self.state.operation.as_ref()?;
        if op.epoch != tenure.epoch {
            // An epoch between was closed for another reason; this one is active.
            let outcome = match wished(op) {
                Some(target) if target != tenure.member => {
                    Outcome::Failed { why: format!("{} became primary instead", tenure.member) }
                }
                _ => Outcome::Done { primary: tenure.member.clone() },
            };
            return Some(Change::FinishOperation { operation: op.id, outcome });
        }
        let OperationKind::Switchover { target } = &op.kind else { return None };
        let since = self.observed.operation_seen.filter(|(id, _)| *id == op.id);
        let waited = since.map_or(Duration::ZERO, |(_, at)| self.now.since(at));
        let problem = match self.fresh(target) {
            _ if waited >= SWITCHOVER_DEADLINE => {
                Some(format!("the primary did not stop within {} s", waited.as_secs()))
            }
            // A leader that is new has not heard of anybody yet.
            None if self.now.since(self.ledger.elected()) <= FRESH => None,
            None => Some(format!("{target} does not report any more")),
            // Unknown is not absent: the deadline bounds it.
            Some(o) => match &o.report.condition {
                Condition::Standby(_) | Condition::Unknown | Condition::Starting => None,
                _ => Some(format!("{target} is not a running standby any more")),
            },
        };
        match problem {
            Some(why) => {
                findings.push(Finding::OperationFailed { why: why.clone() });
                let outcome = Outcome::Failed { why };
                Some(Change::FinishOperation { operation: op.id, outcome })
            }
            None => {
                findings.push(Finding::SwitchingOver { target: target.clone() });
                None
            }
        }
    }

    // ---- a closed epoch ----

    fn take_over(&self, tenure: &Tenure, findings: &mut Vec<Finding>) -> Option<Change> {
        if !tenure.stopped && self.proven_stop(tenure) {
            let (member, epoch) = (tenure.member.clone(), tenure.epoch);
            findings.push(Finding::HolderStopped { member, epoch });
            return Some(Change::RecordStop { expect_epoch: tenure.epoch });
        }
        let Choice { evidence, chosen, accepted, within_lag_of } = match self.choose(tenure) {
            Ok(choice) => choice,
            Err(finding) => {
                findings.push(finding);
                return self.failover_overdue(findings);
            }
        };
        let timing = &self.state.spec.timing;
        let expires = self.ledger.expires(self.cluster, tenure.epoch, timing);
        if !tenure.stopped && self.now < expires {
            let remaining = expires.since(self.now);
            findings.push(Finding::AwaitingExpiry { member: tenure.member.clone(), remaining });
            return None;
        }
        let epoch = self.state.epoch.next();
        findings.push(Finding::Granting { member: chosen.member.clone(), epoch });
        Some(Change::Grant(Grant {
            expect_epoch: self.state.epoch,
            expect_syncs: self.state.syncs.clone(),
            member: chosen.member.clone(),
            guard: chosen.guard.clone(),
            basis: match tenure.stopped {
                true => Basis::Stopped,
                false => Basis::Expired { term: self.ledger.term() },
            },
            sync: self.first_sync(&chosen.member, &evidence),
            evidence,
            accept_data_loss: accepted,
            within_lag_of,
        }))
    }

    /// A failover by hand that finds nobody is given up as an operation, so that another can be
    /// asked for. The takeover itself goes on.
    fn failover_overdue(&self, findings: &mut Vec<Finding>) -> Option<Change> {
        let op = self.state.operation.as_ref()?;
        let (_, seen) = self.observed.operation_seen.filter(|(id, _)| *id == op.id)?;
        if self.now.since(seen) < FAILOVER_DEADLINE {
            return None;
        }
        let why = findings.last().map_or_else(String::new, Finding::to_string);
        findings.push(Finding::OperationFailed { why: why.clone() });
        Some(Change::FinishOperation { operation: op.id, outcome: Outcome::Failed { why } })
    }

    /// Whom to grant the next epoch, and on what.
    fn choose(&self, tenure: &Tenure) -> Result<Choice, Finding> {
        let everybody = self.evidence();
        // Where the disk is full a promotion would fail at once, and then the next one.
        let has_room = |s: &&Sealed| {
            self.fresh(&s.member).is_none_or(|o| o.report.disks.level() > Level::Critical)
        };
        let all: Vec<Sealed> = everybody.iter().filter(has_room).cloned().collect();
        let op = self.state.operation.as_ref();
        let wish = candidate::wish(self.state, self.wall);
        if let Some(finding) = self.hold_back(tenure, op, op.and_then(wished).as_ref(), &all) {
            return Err(finding);
        }
        let recent = |s: &&Sealed| {
            let at = self.observed.gave_up.get(&s.member);
            at.is_none_or(|at| self.now.since(*at) >= GAVE_UP_FOR)
        };
        let untried: Vec<Sealed> = all.iter().filter(recent).cloned().collect();
        let pick = |evidence: &[Sealed], proof: Proof| {
            let chosen = candidate::choose(self.state, evidence, wish.as_ref(), proof)?.clone();
            let evidence = evidence.to_vec();
            Ok::<_, Refusal>(Choice { evidence, chosen, accepted: None, within_lag_of: None })
        };
        let mut refusal = match pick(&untried, Proof::Quorum) {
            Ok(choice) => return Ok(choice),
            Err(refusal) => refusal,
        };
        // Whoever could not be promoted a moment ago is asked again only where nobody else will do.
        if let Ok(choice) = pick(&all, Proof::Quorum) {
            return Ok(choice);
        }
        let closed = self.observed.closed_seen.map_or(self.now, |(_, at)| at);
        let waited = self.now.since(closed);
        if let Some(end) = self.primary_end()
            && (waited >= LOSS_SETTLE || self.all_sealed(&all))
        {
            match pick(&all, Proof::WithinLagOf(end)) {
                Ok(choice) => return Ok(Choice { within_lag_of: Some(end), ..choice }),
                Err(why) => refusal = why,
            }
        }
        if let Some(op) = op
            && matches!(op.kind, OperationKind::Failover { accept_data_loss: true, .. })
            && waited >= LOSS_SETTLE
            && let Ok(choice) = pick(&everybody, Proof::Waived)
        {
            return Ok(Choice { accepted: Some(op.id), ..choice });
        }
        if all.len() < everybody.len() && pick(&everybody, Proof::Quorum).is_ok() {
            let full = everybody.iter().filter(|s| !has_room(s));
            return Err(Finding::AwaitingRoom {
                members: full.map(|s| s.member.clone()).collect(),
            });
        }
        let sealed = all.iter().map(|s| s.member.clone()).collect();
        Err(Finding::AwaitingCandidates { refusal, sealed })
    }

    /// Whether every member that answers and may lead is sealed: no better one is to be expected.
    fn all_sealed(&self, evidence: &[Sealed]) -> bool {
        self.state.members.iter().filter(|(_, m)| m.may_lead()).all(|(name, _)| {
            self.fresh(name).is_none() || evidence.iter().any(|s| s.member == *name)
        })
    }

    /// Sealed members that count.
    fn evidence(&self) -> Vec<Sealed> {
        let next = self.state.epoch.next();
        self.state
            .members
            .iter()
            .filter(|(_, m)| m.may_lead())
            .filter_map(|(name, _)| {
                let report = &self.fresh(name)?.report;
                let Condition::Standby(view) = &report.condition else { return None };
                let sealed = view.sealed.as_ref()?;
                let same_life = report.guard.as_ref() == Some(&sealed.guard);
                // WAL of an epoch that was never granted is nobody's: it must not decide anything.
                let known = sealed.wal_epoch < next && sealed.held < next;
                let fit = view.counts && same_life && known && sealed.promised >= next;
                (fit && sealed.member == *name).then(|| sealed.clone())
            })
            .collect()
    }

    /// Reasons to wait although a candidate may be there.
    fn hold_back(
        &self,
        tenure: &Tenure,
        op: Option<&Operation>,
        wish: Option<&MemberName>,
        evidence: &[Sealed],
    ) -> Option<Finding> {
        let is_sealed = |m: &MemberName| evidence.iter().any(|s| s.member == *m);
        if let (Some(op), Some(target)) = (op, wish)
            && !is_sealed(target)
        {
            let closed = self.observed.closed_seen.map_or(self.now, |(_, at)| at);
            let patience = match op.kind {
                OperationKind::Switchover { .. } => TARGET_WAIT,
                OperationKind::Failover { .. } => FAILOVER_TARGET_WAIT,
            };
            if self.now.since(closed) < patience {
                return Some(Finding::AwaitingTarget { member: target.clone() });
            }
        }
        let reason = tenure.closed.as_ref().map(|c| c.reason);
        if reason == Some(CloseReason::Crashed)
            && op.is_none()
            && candidate::crash_bound_exceeded(self.state, self.wall)
            && !is_sealed(&tenure.member)
        {
            let crashes = self.state.crashes.len();
            return Some(Finding::CrashBound { member: tenure.member.clone(), crashes });
        }
        None
    }

    /// The configuration that a new epoch begins with: those who are there to confirm it; where
    /// they are too few, everybody who may come back to; where nobody is there and the operator
    /// has it so, nobody.
    fn first_sync(&self, primary: &MemberName, evidence: &[Sealed]) -> SyncConfig {
        let epoch = self.state.epoch.next();
        let others = |name: &&MemberName| {
            *name != primary && self.state.members.get(*name).is_some_and(|m| m.may_confirm())
        };
        let here: BTreeSet<MemberName> =
            evidence.iter().map(|s| &s.member).filter(others).cloned().collect();
        let all: BTreeSet<MemberName> = self.state.members.keys().filter(others).cloned().collect();
        let spec = &self.state.spec;
        let floor = spec.write_quorum_min as usize;
        let alone = here.is_empty() && floor == 0;
        let members = if here.len() >= floor.max(1) { here } else { all };
        if spec.synchronous == SynchronousMode::Async || members.is_empty() || alone {
            return SyncConfig::asynchronous(epoch, self.state.next_sync);
        }
        self.sync_of(epoch, members)
    }
}

fn tenure_guard(state: &ClusterState) -> super::types::GuardId {
    match &state.tenure {
        Some(t) => t.guard.clone(),
        None => super::types::GuardId::from_bytes([0; 16]),
    }
}

fn promoting(tenure: &Tenure, step: &'static str) -> Finding {
    Finding::Promoting { member: tenure.member.clone(), epoch: tenure.epoch, step }
}

fn fresh<'a>(
    observed: &'a Observations,
    member: &MemberName,
    now: BootTime,
) -> Option<&'a Observed> {
    observed.members.get(member).filter(|o| now.since(o.at) <= FRESH)
}

/// A reason why a switchover or a failover is not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationProblem {
    /// The cluster has no active primary.
    #[error("the cluster has no active primary to take over from in order")]
    NoPrimary,
    /// No such member.
    #[error("there is no member named {0}")]
    UnknownMember(MemberName),
    /// The target is the primary.
    #[error("{0} is the primary already")]
    AlreadyPrimary(MemberName),
    /// Another operation is under way.
    #[error("operation {0} is under way")]
    OperationUnderWay(u64),
    /// The target is tagged.
    #[error("{0} is tagged nofailover, or applies WAL late")]
    Tagged(MemberName),
    /// The target does not report.
    #[error("{0} does not report")]
    Silent(MemberName),
    /// The target does not stream.
    #[error("{0} does not stream from the primary")]
    NotStreaming(MemberName),
    /// The target's data is a copy that is not proven yet.
    #[error("{0} was copied and has not caught up since")]
    Unproven(MemberName),
    /// The target's disk is full.
    #[error("the disk of {0} is as good as full")]
    NoRoom(MemberName),
    /// The target is behind.
    #[error("{member} is {lag_bytes} bytes behind, and at most {max_bytes} are allowed")]
    Lagging {
        /// Who.
        member: MemberName,
        /// By how much.
        lag_bytes: u64,
        /// The bound.
        max_bytes: u64,
    },
    /// The read quorum would not hold after it.
    #[error("after the primary stopped no member could be promoted: {0}")]
    NoQuorum(Refusal),
    /// No member is fit.
    #[error("no standby is fit to become primary")]
    NoTarget,
    /// The primary is healthy.
    #[error("{0} is a healthy primary: use switchover, or accept data loss explicitly")]
    PrimaryHealthy(MemberName),
}

impl OperationProblem {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            OperationProblem::NoPrimary => "switchover.primary",
            OperationProblem::UnknownMember(_) => "member.exists",
            OperationProblem::AlreadyPrimary(_) => "switchover.target-is-standby",
            OperationProblem::OperationUnderWay(_) => "operation.one-at-a-time",
            OperationProblem::Tagged(_) => "switchover.target-tag",
            OperationProblem::Silent(_) => "switchover.target-reports",
            OperationProblem::NotStreaming(_) => "switchover.target-streams",
            OperationProblem::Unproven(_) => "switchover.target-proven",
            OperationProblem::NoRoom(_) => "switchover.target-room",
            OperationProblem::Lagging { .. } => "switchover.target-lag",
            OperationProblem::NoQuorum(_) => "switchover.read-quorum",
            OperationProblem::NoTarget => "switchover.target",
            OperationProblem::PrimaryHealthy(_) => "failover.primary-gone",
        }
    }
}

/// Whether a switchover can be started now, and to whom.
pub fn switchover_check(
    state: &ClusterState,
    observed: &Observations,
    target: Option<&MemberName>,
    now: BootTime,
) -> Result<MemberName, Vec<OperationProblem>> {
    if let Some(op) = &state.operation {
        return Err(vec![OperationProblem::OperationUnderWay(op.id)]);
    }
    let Some(primary) = state.active_primary() else {
        return Err(vec![OperationProblem::NoPrimary]);
    };
    if let Some(target) = target {
        let problems = target_problems(state, observed, primary, target, now);
        return if problems.is_empty() { Ok(target.clone()) } else { Err(problems) };
    }
    let mut fit: Vec<&MemberName> = state
        .members
        .keys()
        .filter(|m| target_problems(state, observed, primary, m, now).is_empty())
        .collect();
    let flushed = |m: &MemberName| match primary_of(state, observed, now) {
        Some(view) => view.standbys.get(m).map_or(super::types::Lsn(0), |s| s.flushed),
        None => super::types::Lsn(0),
    };
    let priority = |m: &MemberName| state.members.get(m).map_or(0, |x| x.priority);
    fit.sort_by(|a, b| {
        (priority(b), flushed(b)).cmp(&(priority(a), flushed(a))).then_with(|| a.cmp(b))
    });
    match fit.first() {
        Some(best) => Ok((*best).clone()),
        None => Err(vec![OperationProblem::NoTarget]),
    }
}

fn primary_of<'a>(
    state: &ClusterState,
    observed: &'a Observations,
    now: BootTime,
) -> Option<&'a PrimaryView> {
    let tenure = state.open_tenure()?;
    match &fresh(observed, &tenure.member, now)?.report.condition {
        Condition::Primary(view) if view.epoch == tenure.epoch => Some(view),
        _ => None,
    }
}

fn target_problems(
    state: &ClusterState,
    observed: &Observations,
    primary: &MemberName,
    target: &MemberName,
    now: BootTime,
) -> Vec<OperationProblem> {
    let Some(member) = state.members.get(target) else {
        return vec![OperationProblem::UnknownMember(target.clone())];
    };
    if target == primary {
        return vec![OperationProblem::AlreadyPrimary(target.clone())];
    }
    let mut problems = Vec::new();
    if !member.may_lead() {
        problems.push(OperationProblem::Tagged(target.clone()));
    }
    let Some(own) = fresh(observed, target, now) else {
        problems.push(OperationProblem::Silent(target.clone()));
        return problems;
    };
    match &own.report.condition {
        Condition::Standby(view) if !view.counts => {
            problems.push(OperationProblem::Unproven(target.clone()));
        }
        _ => {}
    }
    if own.report.disks.level() == Level::Critical {
        problems.push(OperationProblem::NoRoom(target.clone()));
    }
    let Some(view) = primary_of(state, observed, now) else {
        problems.push(OperationProblem::Silent(primary.clone()));
        return problems;
    };
    match view.standbys.get(target) {
        Some(seen) if seen.streaming => {
            let lag_bytes = view.flushed.0.saturating_sub(seen.flushed.0);
            if lag_bytes > SWITCHOVER_LAG_BYTES_MAX {
                problems.push(OperationProblem::Lagging {
                    member: target.clone(),
                    lag_bytes,
                    max_bytes: SWITCHOVER_LAG_BYTES_MAX,
                });
            }
        }
        _ => problems.push(OperationProblem::NotStreaming(target.clone())),
    }
    problems
}

/// Whether a failover by hand can be started now.
pub fn failover_check(
    state: &ClusterState,
    observed: &Observations,
    ledger_silence: Option<Duration>,
    target: Option<&MemberName>,
    accept_data_loss: bool,
    now: BootTime,
) -> Result<(), Vec<OperationProblem>> {
    let mut problems = Vec::new();
    if let Some(op) = &state.operation {
        problems.push(OperationProblem::OperationUnderWay(op.id));
    }
    if let Some(target) = target
        && !state.members.contains_key(target)
    {
        problems.push(OperationProblem::UnknownMember(target.clone()));
    }
    if let Some(target) = target
        && state.members.get(target).is_some_and(|m| !m.may_lead())
    {
        problems.push(OperationProblem::Tagged(target.clone()));
    }
    if state.tenure.is_none() {
        problems.push(OperationProblem::NoPrimary);
    }
    // Healthy: it renews, and it says so.
    let renews = ledger_silence.is_some_and(|s| s < state.spec.timing.suspect());
    if let Some(primary) = state.active_primary()
        && renews
        && primary_of(state, observed, now).is_some()
        && !accept_data_loss
    {
        problems.push(OperationProblem::PrimaryHealthy(primary.clone()));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
