//! The beginning: the record is read, and what runs is taken over.

use std::time::Duration;

use tracing::{error, info, warn};

use super::Worker;
use crate::agent::driver::{Database, Emptiness, Error, RunRole};
use crate::clock::Clock;
use crate::domain::lease::HolderLease;
use crate::domain::observation::Data;
use crate::domain::reconcile::Process;
use crate::domain::record::{DataMark, MemberRecord};
use crate::domain::types::Epoch;
use crate::runtime::Runtime;
use crate::session::Transport;

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    /// Reads the record, and takes over what runs.
    pub(super) async fn begin(&mut self) {
        while !*self.stop.borrow() {
            match self.take_over().await {
                Ok(()) => break,
                Err(error) => {
                    error!(member = %self.shared.member.name, %error, "the member cannot be taken on");
                    self.shared
                        .problem("start", Some(format!("the member cannot be taken on: {error}")));
                    RT::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        self.shared.problem("start", None);
        self.shared.claims.notify_one();
        self.shared.news.notify_one();
    }

    pub(super) async fn take_over(&mut self) -> Result<(), Error> {
        let database = self.shared.database.clone();
        let member = &self.shared.member;
        let fresh = || MemberRecord::new(member.cluster.clone(), member.name.clone());
        let mut record = match database.load_record().await? {
            Some(record) => record,
            None => {
                let mut record = fresh();
                if database.inspect().await? != Data::Empty {
                    // Data without a record: what was promised of it, or done to it, is not known,
                    // so it counts in no quorum until it has caught up with a primary.
                    record.data = DataMark::Copied { source: Epoch(0), until: None };
                }
                record
            }
        };
        if record.cluster != member.cluster || record.member != member.name {
            return Err(Error::Machine(format!(
                "the record in this member's directory belongs to member {} of cluster {}: this \
                 directory is another member's",
                record.member, record.cluster
            )));
        }
        let (mut attached, mut emptiness) = match database.attach().await? {
            Ok(attached) => (Some(attached), Emptiness::Assumed),
            Err(emptiness) => (None, emptiness),
        };
        let known_run = attached.as_ref().is_some_and(|a| {
            a.run.as_ref().is_some_and(|run| match run.role {
                RunRole::Primary { epoch, .. } => record.ended < epoch && record.held == epoch,
                // Whoever promoted it, nobody may go on with it.
                _ => record.data != DataMark::Foreign,
            })
        });
        if attached.is_some() && !known_run {
            // What it was is not remembered, or it must not run: it ends.
            warn!(member = %member.name, "a process tree that is not known is ended");
            database.kill().await?;
            emptiness = database.prove_empty().await?;
            attached = None;
        }
        if attached.is_none() && (record.held > record.ended || record.running.is_some()) {
            // The tree that ran last is gone, by proof: what it held is over.
            record.ended = record.ended.max(record.held);
            record.note_ended(emptiness == Emptiness::Proven);
            database.save_record(&record).await?;
        }
        // A running primary needs its renewals now: its directory is not looked at first.
        let data = match (&attached, record.system_id) {
            (Some(_), Some(system_id)) => Data::Present { system_id },
            _ => database.inspect().await?,
        };
        let copied = matches!(record.data, DataMark::Copied { .. });
        let consistent = match (&attached, &data) {
            (None, Data::Present { .. }) if copied => {
                database.examine().await.unwrap_or_default().self_contained
            }
            // Seen as soon as it answers.
            _ => false,
        };
        let mut inner = self.shared.lock();
        inner.record = record;
        inner.data = data;
        inner.consistent = consistent;
        inner.process = Process::Down;
        if let Some(attached) = attached
            && let Some(run) = attached.run
        {
            info!(member = %member.name, guard = ?attached.guard, "took over the running PostgreSQL");
            inner.was_ready =
                run.ready || matches!(run.role, RunRole::Primary { promoted: Some(_), .. });
            self.run = Some(run.clone());
            inner.guard = Some(attached.guard.clone());
            inner.fencing = attached.fencing;
            inner.process = match run.role {
                RunRole::Sealed { promise } => Process::Sealed { promise, position: None },
                RunRole::Following { epoch, address } => Process::Following { epoch, address },
                RunRole::Primary { epoch, promoted, writes_open } => {
                    let kill_at = attached.kill_at;
                    // The kernel's deadline bounds it from above; the next renewal says more.
                    inner.lease =
                        kill_at.map(|kill_at| HolderLease { epoch, stop_at: kill_at, kill_at });
                    inner.claim = Some((epoch, attached.guard));
                    let is_promoted = promoted.is_some();
                    inner.lineage = promoted;
                    Process::Primary { epoch, promoted: is_promoted, confirmed: None, writes_open }
                }
            };
        }
        inner.loaded = true;
        Ok(())
    }
}
