//! Of which generation of the control plane this controller is, and whether a higher one exists.
//!
//! Owns [`Standing`]: what a node compares with every message, and how its service ends for good
//! once it has heard of a higher generation. From that moment nothing is answered, proposed or
//! confirmed any more; that it ended is on disk before the node is told to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{Either, select};
use openraft::AsyncRuntime;
use openraft::async_runtime::WatchReceiver;

use super::identity::{self, Ended};
use super::kv::KvEngine;
use super::service::Core;
use super::wire::Refusal;
use crate::domain::generation::Generation;
use crate::watch;

#[derive(Debug)]
struct Inner {
    own: AtomicU64,
    heard: watch::Sender<Generation>,
}

/// The generation of one controller. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Standing(Arc<Inner>);

impl Standing {
    pub(super) fn new(own: Generation) -> Self {
        let heard = watch::Sender::new(Generation::NONE);
        Self(Arc::new(Inner { own: AtomicU64::new(own.0), heard }))
    }

    /// The own generation; [`Generation::NONE`] before the group is found.
    pub(super) fn own(&self) -> Generation {
        Generation(self.0.own.load(Ordering::Acquire))
    }

    /// The group is found. It is on disk already.
    pub(super) fn settle(&self, generation: Generation) {
        self.0.own.store(generation.0, Ordering::Release);
    }

    /// The higher generation that was heard of, if one was.
    pub(super) fn superseded(&self) -> Option<Generation> {
        let heard = self.0.heard.get();
        let own = self.own();
        (own != Generation::NONE && heard > own).then_some(heard)
    }

    /// Somebody is of this generation. A higher one than the own ends this controller.
    pub(super) fn hear(&self, generation: Generation) {
        if self.own() == Generation::NONE || generation <= self.own() {
            return;
        }
        let news = self.0.heard.send_if_modified(|heard| {
            let higher = generation > *heard;
            *heard = generation.max(*heard);
            higher
        });
        if news {
            tracing::error!(
                own = %self.own(), heard = %generation,
                "a higher generation of the control plane exists: this controller ends for good"
            );
        }
    }

    /// Whether a message of this generation is for this group.
    pub(super) fn check(&self, theirs: Generation) -> Result<(), Refusal> {
        let own = self.own();
        if own == Generation::NONE || (theirs == own && self.superseded().is_none()) {
            return Ok(());
        }
        self.hear(theirs);
        Err(Refusal::Generation { own: self.superseded().unwrap_or(own), got: theirs })
    }
}

/// Waits for a higher generation, and ends this controller durably. Ends with the core.
pub(super) async fn end_when_superseded<RT: AsyncRuntime>(
    standing: Standing,
    engine: Arc<dyn KvEngine>,
    core: Core<RT>,
) {
    let mut metrics = core.metrics();
    let mut heard = standing.0.heard.subscribe();
    // Only what ends this node is ever put there.
    let core_ends = Box::pin(async move { while metrics.changed().await.is_ok() {} });
    let superseded = Box::pin(async move {
        drop(heard.wait_for(|heard| *heard != Generation::NONE).await);
    });
    if let Either::Left(_) = select(core_ends, superseded).await {
        return;
    }
    let by = standing.superseded().unwrap_or_default();
    if let Err(error) = identity::end::<RT>(&*engine, Ended::Superseded { by }).await {
        // It takes no part all the same, and hears of it again after a restart.
        tracing::error!(%error, "that a higher generation exists could not be written down");
    }
    drop(engine);
    if let Err(error) = core.shutdown().await {
        tracing::warn!(%error, "the Raft core did not end in order");
    }
}
