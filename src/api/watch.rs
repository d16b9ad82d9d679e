//! Streams: status and history as they change. Each holds one of a bounded number of permits.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::error::Error;
use super::source::Source;
use super::status::{find, status, timeless};
use super::timer::sleep;
use crate::convert;
use crate::domain::ControlState;
use crate::domain::types::ClusterName;
use crate::pb::v1;

/// A stream of messages of the API.
pub(super) type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How often the leader's memory, which tells of no changes, is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Least time between two messages of a status watch, so that a burst of changes becomes one.
const PAUSE: Duration = Duration::from_millis(50);

/// What every stream holds.
pub(super) struct Base {
    pub(super) source: Arc<dyn Source>,
    pub(super) shutdown: watch::Receiver<bool>,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Base {
    fn stopping(&self) -> bool {
        *self.shutdown.borrow()
    }
}

/// Ends when the node shuts down. A node that forgot its side of the channel is gone, too.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

struct StatusWatch {
    base: Base,
    applied: watch::Receiver<(u64, Arc<ControlState>)>,
    cluster: Option<ClusterName>,
    from_leader: bool,
    heartbeat: Duration,
    due: Pin<Box<dyn Future<Output = ()> + Send>>,
    last: Option<v1::Status>,
    over: bool,
}

/// Status at once, whenever it changes, and after each heartbeat.
pub(super) fn statuses(
    base: Base,
    cluster: Option<ClusterName>,
    from_leader: bool,
    heartbeat: Duration,
) -> Boxed<v1::WatchStatusResponse> {
    let applied = base.source.applied_watch();
    let due = Box::pin(sleep(heartbeat));
    let watch = StatusWatch {
        base,
        applied,
        cluster,
        from_leader,
        heartbeat,
        due,
        last: None,
        over: false,
    };
    Box::pin(stream::unfold(watch, |mut w| async move {
        if w.over {
            return None;
        }
        let item = w.next().await;
        w.over = item.is_err();
        Some((item.map_err(Status::from), w))
    }))
}

impl StatusWatch {
    async fn next(&mut self) -> Result<v1::WatchStatusResponse, Error> {
        let mut heartbeat = false;
        loop {
            if self.base.stopping() {
                return Err(Error::ShuttingDown);
            }
            self.applied.mark_unchanged();
            let status = look(self.base.source.as_ref(), self.cluster.as_ref(), self.from_leader)?;
            let timeless = timeless(&status);
            let changed = self.last.as_ref() != Some(&timeless);
            if changed || heartbeat {
                self.last = Some(timeless);
                self.due = Box::pin(sleep(self.heartbeat));
                return Ok(v1::WatchStatusResponse { status: Some(status), heartbeat: !changed });
            }
            tokio::select! {
                () = stopped(&mut self.base.shutdown) => return Err(Error::ShuttingDown),
                changed = self.applied.changed() => {
                    changed.map_err(|_| Error::ShuttingDown)?;
                    sleep(PAUSE).await;
                }
                () = sleep(LOOK_EVERY) => {}
                () = &mut self.due => heartbeat = true,
            }
        }
    }
}

/// The status, where this node may answer.
pub(super) fn look(
    source: &dyn Source,
    cluster: Option<&ClusterName>,
    from_leader: bool,
) -> Result<v1::Status, Error> {
    if from_leader {
        let leadership = source.leadership();
        if !leadership.is_leader {
            return Err(Error::NotLeader { leader: leadership.leader });
        }
    }
    status(source, cluster)
}

struct HistoryWatch {
    base: Base,
    applied: watch::Receiver<(u64, Arc<ControlState>)>,
    cluster: ClusterName,
    after: u64,
    ready: VecDeque<v1::Event>,
    over: bool,
}

/// Events after that number, and all that follow.
pub(super) fn events(
    base: Base,
    cluster: ClusterName,
    after: u64,
) -> Boxed<v1::WatchHistoryResponse> {
    let applied = base.source.applied_watch();
    let ready = VecDeque::new();
    let watch = HistoryWatch { base, applied, cluster, after, ready, over: false };
    Box::pin(stream::unfold(watch, |mut w| async move {
        if w.over {
            return None;
        }
        let item = w.next().await;
        w.over = item.is_err();
        let item = item.map(|event| v1::WatchHistoryResponse { event: Some(event) });
        Some((item.map_err(Status::from), w))
    }))
}

impl HistoryWatch {
    async fn next(&mut self) -> Result<v1::Event, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if self.base.stopping() {
                return Err(Error::ShuttingDown);
            }
            self.fill()?;
            if !self.ready.is_empty() {
                continue;
            }
            tokio::select! {
                () = stopped(&mut self.base.shutdown) => return Err(Error::ShuttingDown),
                changed = self.applied.changed() => changed.map_err(|_| Error::ShuttingDown)?,
            }
        }
    }

    fn fill(&mut self) -> Result<(), Error> {
        let state = self.applied.borrow_and_update().1.clone();
        let history = &find(&state, &self.cluster)?.history;
        let new = history.iter().filter(|e| e.id > self.after);
        self.ready = new.map(convert::event).collect();
        if let Some(last) = self.ready.back() {
            self.after = last.id;
        }
        Ok(())
    }
}
