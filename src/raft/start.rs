//! The start of a Raft node.
//!
//! Owns the order: store, identity, service (so that peers which also start can greet), place in
//! the group, core, tasks. Two steps, because the service has to be reachable before the second
//! can end.

use std::sync::Arc;

use openraft::errors::{InitializeError, RaftError};
use openraft::{AsyncRuntime, Config, Raft};

use super::barrier::Barriers;
use super::error::StartError;
use super::formation::{self, Verdict};
use super::generation::{self, Standing};
use super::handle::{Handle, Shared};
use super::identity::{self, PeerStores};
use super::kv::KvEngine;
use super::log_store::{LogStore, write_synced};
use super::network::{Caller, Identity, NetworkFactory};
use super::options::Options;
use super::quiet;
use super::removal;
use super::role::{self, fatal_reason};
use super::service::Service;
use super::state_machine::StateMachine;
use super::watchdog::{self, Times};
use super::wire::{StoreId, Transport};
use crate::clock::Clock;
use crate::watch;

/// A node whose store is open and whose service answers, but which takes no part yet.
pub struct Starting<RT: AsyncRuntime, T> {
    options: Options,
    config: Arc<Config>,
    engine: Arc<dyn KvEngine>,
    clock: Arc<dyn Clock>,
    caller: Arc<Caller<T>>,
    log: LogStore<RT>,
    store: StoreId,
    service: Service<RT>,
    standing: Standing,
}

/// Opens the store of a node and makes its service. Serve the service, then call
/// [`Starting::start`].
pub async fn open<RT: AsyncRuntime, T: Transport>(
    options: Options,
    engine: Arc<dyn KvEngine>,
    transport: T,
    clock: Arc<dyn Clock>,
) -> Result<Starting<RT, T>, StartError> {
    let config = options.config().map_err(|e| StartError::Options(e.to_string()))?;
    if !options.members.contains_key(&options.node_id) {
        return Err(StartError::NotAMember(options.node_id));
    }
    let Options { node_id, control_plane, members, .. } = options.clone();
    let store = identity::load_or_create::<RT>(&*engine, node_id, &control_plane).await?;
    if removal::is_marked(&*engine)? {
        return Err(StartError::Removed(node_id));
    }
    let log = LogStore::open(engine.clone())?;
    log.check_vote()?;
    // On disk before anything is answered. One that is empty joins a group in [`Starting::start`].
    if !log.is_empty()
        && let Some(batch) = identity::founded_before(&*engine)?
    {
        write_synced::<RT>(&*engine, batch).await?;
    }
    let peers = Arc::new(PeerStores::open(engine.clone())?);
    let standing = Standing::new(identity::generation(&*engine)?);
    let identity =
        Identity { control_plane, node_id, store: store.clone(), standing: standing.clone() };
    let digest = options.members_digest();
    let service = Service::new(identity.clone(), digest, peers.clone(), log.clone());
    let caller = Arc::new(Caller::new(transport, identity, peers, members));
    Ok(Starting { options, config, engine, clock, caller, log, store, service, standing })
}

impl<RT: AsyncRuntime, T: Transport> Starting<RT, T> {
    /// Answers the peers, now and after the start.
    pub fn service(&self) -> Service<RT> {
        self.service.clone()
    }

    /// Takes part. With an empty store it first waits for the other controllers, without a
    /// deadline: drop the future to give up. [`StartError::Formation`] where the group refuses
    /// this node.
    pub async fn start(self) -> Result<Handle<RT>, StartError> {
        let Self { options, config, engine, clock, caller, log, store, service, standing } = self;
        let Options { node_id, members, .. } = &options;
        let mut found = false;
        if log.is_empty() {
            let (verdict, generation) =
                formation::settle::<RT, T>(&caller, &store, &options).await?;
            found = verdict == Verdict::Found;
            // On disk before anything of it counts.
            identity::join::<RT>(&*engine, generation).await?;
            standing.settle(generation);
            tracing::info!(node_id, found, "this controller's store is empty, taking part now");
        }
        let (machine, applied) = StateMachine::open(engine.clone())?;
        machine.check_reaches(&log)?;
        let fitness = caller.fitness();
        let network = NetworkFactory(caller.clone());
        let core = Raft::new(*node_id, config, network, log.clone(), machine)
            .await
            .map_err(|e| StartError::Fatal(fatal_reason(&e)))?;
        service.serve_core(core.clone(), applied.clone());
        if found {
            match core.initialize(members.clone()).await {
                // Another founder was faster and already asked for a vote: the same first entry
                // comes from it.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(RaftError::APIError(e)) => return Err(StartError::Options(e.to_string())),
                Err(RaftError::Fatal(e)) => return Err(StartError::Fatal(fatal_reason(&e))),
            }
        }
        let (publish, role) = watch::channel(role::initial(clock.now()));
        // Dropping a handle detaches its task; both end with the core.
        let following =
            role::follow(core.clone(), members.clone(), clock, publish, standing.clone());
        drop(RT::spawn(following));
        let ending =
            generation::end_when_superseded::<RT>(standing.clone(), engine.clone(), core.clone());
        drop(RT::spawn(ending));
        let monitor = log.monitor();
        let (every, longest) = (options.heartbeat, options.election_max);
        // A follower waits for the end of the leader's lease and then for its own timeout.
        let times = quiet::Times { every, after: 2 * longest, silent: 3 * longest, loud: longest };
        drop(RT::spawn(quiet::watch(core.clone(), fitness.clone(), times)));
        let times = Times { every, append_max: longest };
        let dog = watchdog::watch(core.clone(), monitor.clone(), fitness.clone(), times);
        drop(RT::spawn(dog));
        let digest = options.members_digest();
        let greet = removal::greeter(&core, caller, members.clone(), *node_id, digest);
        let (told, removed) = watch::channel(false);
        let watching = (3 * longest, told);
        let watching =
            removal::watch(core.clone(), service, engine, greet.clone(), *node_id, watching);
        drop(RT::spawn(watching));
        Ok(Handle(Arc::new(Shared {
            greet,
            removed,
            contact_max: 2 * longest,
            node_id: *node_id,
            command_bytes_max: options.command_bytes_max,
            barriers: Barriers::new(core.clone(), applied.clone(), options.election_max),
            core,
            members: options.members,
            applied,
            role,
            monitor,
            fitness,
            standing,
        })))
    }
}
