//! What this node hears of the controllers is kept for its next start.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

use super::Raft;
use crate::config::{Config, Learned, read_learned, write_learned};
use crate::session;

/// The keeper of one node. Clones keep the same file.
#[derive(Clone)]
pub(super) struct Keeper {
    data_dir: PathBuf,
    // Agent and controller of the node tell the same; one writes at a time.
    kept: Arc<Mutex<Option<Vec<Learned>>>>,
}

/// What is kept from before; nothing where it cannot be read, which is said.
pub(super) fn known(config: &Config) -> Vec<Learned> {
    read_learned(&config.node.data_dir).unwrap_or_else(|error| {
        warn!(%error, file = crate::config::LEARNED_FILE, "what was heard of the controllers is lost");
        Vec::new()
    })
}

impl Keeper {
    pub(super) fn new(config: &Config) -> Self {
        Self { data_dir: config.node.data_dir.clone(), kept: Arc::default() }
    }

    async fn keep(&self, mut controllers: Vec<Learned>) {
        if controllers.is_empty() {
            return;
        }
        controllers.sort();
        let own = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut kept = own.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.as_ref() == Some(&controllers) {
                return Ok(());
            }
            let names: Vec<&str> = controllers.iter().map(|c| c.name.as_str()).collect();
            info!(controllers = ?names, "the controllers of the control plane");
            write_learned(&own.data_dir, &controllers)?;
            *kept = Some(controllers);
            Ok::<(), std::io::Error>(())
        });
        if let Ok(Err(error)) = written.await {
            warn!(%error, "what was heard of the controllers is not kept");
        }
    }

    /// Keeps what the leader tells the agent of this node.
    pub(super) async fn follow_agent(
        self,
        mut told: crate::watch::Receiver<Vec<session::wire::Controller>>,
    ) {
        loop {
            let controllers = told.get().into_iter();
            let learned =
                controllers.map(|c| Learned { id: c.id, name: c.name, address: c.address });
            self.keep(learned.collect()).await;
            if told.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps what the controller of this node has agreed on with the others.
    pub(super) async fn follow_group(self, raft: Raft) {
        let mut applied = raft.applied();
        drop(raft);
        let mut before = None;
        loop {
            let members = applied.get().state.nodes.members.clone();
            if before.as_ref() != Some(&members) {
                let voters = members.iter().filter(|(_, n)| n.voter).map(|(id, n)| Learned {
                    id: *id,
                    name: n.name.clone(),
                    address: n.address.clone(),
                });
                self.keep(voters.collect()).await;
                before = Some(members);
            }
            if applied.changed().await.is_err() {
                return;
            }
        }
    }
}
