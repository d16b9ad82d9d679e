//! Where connections of clients end: on the server's machine.
//!
//! Owns the tasks that hand statements over to a server, in the order in which they arrive. They
//! stand for the machine's sockets: they outlive PostgreSQL, and wait with what nobody reads.

use std::sync::Arc;
use std::time::Duration;

use openraft_rt::AsyncRuntime as _;

use super::wire::{Answer, Request};
use super::{Backend, Commit, PORT, Refused, Servers};
use crate::exec::{self, MachineId, ScopeId, SimRuntime};
use crate::net::{self, Connection, Incoming};
use crate::schedule::Node;

/// How often a server is asked again that is stopped.
const AGAIN: Duration = Duration::from_millis(20);

/// Takes connections for the server of this node from now on, in a new scope of its machine. To be
/// called again after the machine was started again: its sockets are gone with it.
pub fn attend<S: Servers>(servers: &S, node: Node, machine: MachineId) -> ScopeId {
    let scope = exec::scope(machine, "sockets");
    let mut incoming = net::listen(scope, PORT);
    let servers = servers.clone();
    drop(exec::spawn_on(scope, async move {
        while let Some(Incoming { connection, .. }) = incoming.recv().await {
            drop(SimRuntime::spawn(converse(servers.clone(), node, connection)));
        }
    }));
    scope
}

async fn converse<S: Servers>(servers: S, node: Node, connection: Connection) {
    let Ok(first) = connection.receive().await else { return };
    let Some(Request::Hello { rude }) = Request::parse(&first) else { return };
    let session = match patiently(|| servers.open(node, rude)).await {
        Ok(session) => session,
        Err(Refused::Said(why)) => {
            let _ = connection.send(Answer::Refused(why).bytes());
            return;
        }
        Err(_) => return,
    };
    let connection = Arc::new(connection);
    let talk = std::pin::pin!(talk(&servers, node, session, &connection));
    let ended = std::pin::pin!(servers.ended(node, session));
    futures_util::future::select(talk, ended).await;
    // Without effect where the server has ended it.
    servers.close(node, session);
}

/// Asks until somebody answers.
async fn patiently<T>(mut ask: impl FnMut() -> Result<T, Refused>) -> Result<T, Refused> {
    loop {
        match ask() {
            Err(Refused::Silent) => SimRuntime::sleep(AGAIN).await,
            answer => return answer,
        }
    }
}

/// Serves one session until its client ends it.
async fn talk<S: Servers>(servers: &S, node: Node, session: Backend, connection: &Arc<Connection>) {
    let Ok(role) = patiently(|| servers.role(node, session)).await else { return };
    if connection.send(Answer::Role(role).bytes()).is_err() {
        return;
    }
    while let Ok(bytes) = connection.receive().await {
        let answer = match Request::parse(&bytes) {
            Some(Request::Role) => {
                patiently(|| servers.role(node, session)).await.map(Answer::Role)
            }
            Some(Request::Rows) => patiently(|| servers.rows(node, session))
                .await
                .map(|(role, ranges)| Answer::Rows(role, ranges)),
            Some(Request::Insert(value)) => insert(servers, node, session, value, connection).await,
            // There is nothing to cancel any more.
            Some(Request::Cancel) => continue,
            Some(Request::Hello { .. }) | None => return,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(Refused::Said(why)) => Answer::Refused(why),
            Err(Refused::Silent | Refused::Gone) => return,
        };
        if connection.send(answer.bytes()).is_err() {
            return;
        }
    }
}

/// Runs an insert. Meanwhile the client may cancel it, or go away: a backend that waits for standbys
/// sees neither but the first.
async fn insert<S: Servers>(
    servers: &S,
    node: Node,
    session: Backend,
    value: u64,
    connection: &Arc<Connection>,
) -> Result<Answer, Refused> {
    let watching = connection.clone();
    let canceller = servers.clone();
    let cancels = async move {
        while let Ok(bytes) = watching.receive().await {
            if Request::parse(&bytes) == Some(Request::Cancel) {
                canceller.cancel(node, session);
            }
        }
        std::future::pending::<()>().await
    };
    let insert = async {
        loop {
            match servers.insert(node, session, value).await {
                Err(Refused::Silent) => SimRuntime::sleep(AGAIN).await,
                done => return done,
            }
        }
    };
    let (insert, cancels) = (std::pin::pin!(insert), std::pin::pin!(cancels));
    let done = match futures_util::future::select(insert, cancels).await {
        futures_util::future::Either::Left((done, _)) => done?,
        futures_util::future::Either::Right(_) => return Err(Refused::Gone),
    };
    Ok(match done {
        Commit::Acknowledged(timeline) => Answer::Acknowledged(timeline),
        Commit::Unconfirmed => Answer::Unconfirmed,
        Commit::Refused(why) => Answer::Refused(why),
    })
}
