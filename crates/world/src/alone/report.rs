//! What an agent tells the leader of its member, as production's `agent::shared` puts it together.

use super::server::{Phase, Role};
use super::work::Task;
use super::world::World;
use crate::domain::mutant::{Mutant, without};
use crate::domain::observation::{
    Condition, Data, Fencing, PrimaryView, Progress, Report, Sequence, StandbyProgress, StandbyView,
};
use crate::domain::reconcile::{Action, Process};
use crate::domain::record::DataMark;
use crate::domain::space::Disks;
use crate::domain::types::{Epoch, Lsn};

impl World {
    /// The report of now; `None` before the agent knows what there is.
    pub(super) fn report_of(&mut self, m: usize) -> Option<Report> {
        let agent = self.agent(m)?;
        agent.reports += 1;
        if !agent.loaded {
            return None;
        }
        let sequence = Sequence { run: agent.run, number: agent.reports };
        let condition = self.condition(m);
        let agent = self.members[m].agent.as_deref()?;
        let local = &agent.local;
        let data = match (local.record.data, &local.data) {
            (DataMark::Intact | DataMark::Copied { .. } | DataMark::Foreign, data) => data.clone(),
            (DataMark::Initialising, Data::Empty) => Data::Empty,
            (DataMark::Initialising | DataMark::Replacing, _) => Data::Incomplete,
        };
        let fencing = match local.guard {
            Some(_) => Fencing::PidNamespace,
            None => Fencing::Unknown,
        };
        Some(Report {
            guard: local.guard.clone(),
            sequence,
            ended: local.record.ended,
            promised: local.record.promised,
            emptied: local.record.emptied.clone(),
            crashed: agent.crashed,
            data,
            condition,
            fencing,
            problems: Vec::new(),
            alarms: Vec::new(),
            notices: Vec::new(),
            disks: Disks::default(),
            aside: Vec::new(),
            life: local.record.life,
            copied_for: local.record.copied_for,
            reloaded: None,
            about: Default::default(),
            settings: Default::default(),
        })
    }

    fn condition(&self, m: usize) -> Condition {
        let member = &self.members[m];
        let Some(agent) = member.agent.as_deref() else { return Condition::Unknown };
        if let Some(work) = &agent.work
            && let Task::Action(action) = &work.task
        {
            match action {
                Action::Initialise if work.stage >= 1 => return Condition::Initialising,
                Action::Rewind(_) if work.stage >= 1 => return Condition::Rewinding,
                Action::Clone(duty) if work.stage >= 1 => {
                    let source = duty.primary.clone();
                    return Condition::Cloning { source, done_bytes: 0, total_bytes: 0 };
                }
                _ => {}
            }
        }
        let tree = &member.tree;
        let answers = tree.phase == Phase::Running && tree.hung == 0;
        let local = &agent.local;
        let counts = local.record.data == DataMark::Intact || without(Mutant::ReplacedCounts);
        match &local.process {
            Process::Down => Condition::Down,
            Process::Ending => Condition::Unknown,
            Process::Sealed { position: Some(position), .. } => Condition::Standby(StandbyView {
                streaming: None,
                replay: position.lsn,
                flushed: position.lsn,
                wal_epoch: position.wal_epoch,
                held: local.record.held,
                sealed: Some(position.clone()),
                counts,
                primary_end: None,
                upstream: None,
            }),
            Process::Sealed { position: None, .. } => Condition::Starting,
            Process::Following { .. } if !answers => Condition::Unknown,
            Process::Following { .. } if tree.role == Role::Starting => Condition::Starting,
            Process::Following { epoch, .. } => {
                let follows = tree.follows.is_some_and(|(e, _)| e == *epoch);
                let receiver = tree.receiver.as_ref().filter(|_| follows);
                let streaming = receiver.map(|_| *epoch);
                let flushed = Lsn(member.dir.flushed);
                let upstream = receiver
                    .filter(|r| self.members[r.source].tree.primary().is_none())
                    .map(|r| self.members[r.source].name.clone());
                Condition::Standby(StandbyView {
                    streaming,
                    replay: flushed,
                    flushed,
                    wal_epoch: streaming.unwrap_or(Epoch(0)),
                    held: local.record.held,
                    sealed: None,
                    counts,
                    primary_end: receiver.map(|r| (*epoch, Lsn(r.told))),
                    upstream,
                })
            }
            Process::Primary { epoch, confirmed, .. } => {
                let progress = match &agent.lineage {
                    Some(lineage) => Progress::Promoted { lineage: lineage.clone() },
                    None => Progress::Accepted,
                };
                let seen = tree.senders.iter().enumerate().filter(|_| answers);
                let standbys = seen
                    .filter_map(|(j, sender)| {
                        let flushed = Lsn(sender.as_ref()?.flushed?);
                        let streaming = true;
                        let seen = StandbyProgress { streaming, flushed, replayed: flushed };
                        Some((self.members[j].name.clone(), seen))
                    })
                    .collect();
                Condition::Primary(PrimaryView {
                    epoch: *epoch,
                    progress,
                    flushed: if answers { Lsn(member.dir.flushed) } else { Lsn(0) },
                    standbys,
                    confirmed: confirmed.clone(),
                    failsafe: false,
                })
            }
        }
    }
}
