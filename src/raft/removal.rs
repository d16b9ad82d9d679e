//! A node that was removed, and has to find out.
//!
//! The leader sends nothing to a node that it has taken out, so the node itself may never hear that
//! it is out: it has the old membership, and waits. Where nobody leads it for long, it asks the
//! nodes that it knows. One that has agreed on the membership without it says so, which is kept in
//! the store: the node takes no part any more, now or after a restart. That it does not know yet
//! harms nothing, since nobody whose membership is the new one counts its vote.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use openraft::AsyncRuntime;
use openraft::async_runtime::WatchReceiver;

use super::kv::{Batch, Error, KvEngine, Space};
use super::log_store::write_synced;
use super::network::Caller;
use super::record;
use super::role::own_leadership;
use super::service::{Core, Service};
use super::types::Peer;
use super::wire::{Hello, HelloReply, Method, Transport};
use crate::watch;

const REMOVED: &[u8] = b"removed";
const ASK_DEADLINE: Duration = Duration::from_secs(1);

/// Asks all other members of the group who they are, and gives what they answered.
pub(super) type Greeter =
    Arc<dyn Fn() -> BoxFuture<'static, BTreeMap<u64, HelloReply>> + Send + Sync>;

/// Whether the store says that its node was removed.
pub(super) fn is_marked(engine: &dyn KvEngine) -> Result<bool, Error> {
    Ok(record::get::<bool>(engine, Space::Meta, REMOVED)?.unwrap_or(false))
}

/// Asks these nodes at once; who does not answer in time is left out.
pub(super) async fn ask_all<RT: AsyncRuntime, T: Transport>(
    caller: &Caller<T>,
    members: &BTreeMap<u64, Peer>,
    hello: &Hello,
) -> BTreeMap<u64, HelloReply> {
    let asked = members.iter().map(|(id, peer)| async move {
        let to = (*id, peer);
        let answer = caller.ask::<RT, _, _>(to, Method::Hello, (hello, &[]), ASK_DEADLINE).await;
        answer.ok().map(|(_, reply)| (*id, reply))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// A greeter of the members of `core`'s group and of `configured`.
pub(super) fn greeter<RT: AsyncRuntime, T: Transport>(
    core: &Core<RT>,
    caller: Arc<Caller<T>>,
    configured: BTreeMap<u64, Peer>,
    own: u64,
    digest: u32,
) -> Greeter {
    let metrics = core.metrics();
    Arc::new(move || {
        let mut members = {
            let m = metrics.borrow_watched();
            let nodes = m.membership_config.membership().nodes();
            let nodes: BTreeMap<u64, Peer> = nodes.map(|(id, p)| (*id, p.clone())).collect();
            nodes
        };
        members.extend(configured.clone());
        members.remove(&own);
        let caller = caller.clone();
        Box::pin(
            async move { ask_all::<RT, T>(&caller, &members, &Hello { members: digest }).await },
        )
    })
}

/// Watches until the node is told that it was removed, or the core ends.
pub(super) async fn watch<RT: AsyncRuntime>(
    core: Core<RT>,
    service: Service<RT>,
    engine: Arc<dyn KvEngine>,
    greet: Greeter,
    own: u64,
    (silence, publish): (Duration, watch::Sender<bool>),
) {
    let metrics = core.metrics();
    drop(core);
    loop {
        RT::sleep(silence).await;
        {
            let m = metrics.borrow_watched();
            if m.running_state.is_err() {
                return;
            }
            if own_leadership(&m).is_some() {
                continue;
            }
        }
        if service.heard_within(silence) {
            continue;
        }
        let answers = greet().await;
        if !answers.values().any(|a| a.established && a.gone.contains(&own)) {
            continue;
        }
        let mut batch = Batch::new();
        let written = match record::put(&mut batch, Space::Meta, REMOVED, &true) {
            Ok(()) => write_synced::<RT>(&*engine, batch).await,
            Err(e) => Err(e),
        };
        if let Err(error) = written {
            // It is asked again at the next start.
            tracing::warn!(%error, "that this node was removed is not kept in its store");
        }
        publish.send_replace(true);
        return;
    }
}
