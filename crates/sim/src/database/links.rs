//! Replication connections over the simulated network.
//!
//! Owns which connection belongs to which walsender or walreceiver. A connection ends with the
//! process that has it, and the other side is told by the kernel, unless the machine is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_world::exec::{self, ScopeId};
use quorate_world::net::{self, Connection, Incoming};
use quorate_world::pg::stream::{Hello, Wire};
use quorate_world::pg::{Conn, Refused};
use tokio::sync::Notify;

use super::machine::{Inner, Machine, REPLICATION};
use super::registry::{Registry, Way};
use crate::runtime;

/// How long a connection is tried: longer than who dials waits for it.
const CONNECT: Duration = Duration::from_secs(3);

struct Link {
    connection: Arc<Connection>,
    way: Way,
    closed: Arc<Notify>,
}

/// The connections of a machine.
#[derive(Default)]
pub(super) struct Links(BTreeMap<Conn, Link>);

impl Links {
    /// Sends a message on a connection, if it is there.
    pub fn send(&mut self, registry: &Registry, conn: Conn, wire: Wire) {
        let Some(link) = self.0.get(&conn) else { return };
        if link.connection.send(Vec::new()).is_ok() {
            registry.post(conn, link.way, wire);
        }
    }

    /// Closes it.
    pub fn close(&mut self, conn: Conn) {
        if let Some(link) = self.0.remove(&conn) {
            link.closed.notify_one();
        }
    }
}

/// The replication port of a machine.
pub(super) fn serve(machine: &Machine, scope: ScopeId) {
    let mut incoming = net::listen(scope, REPLICATION);
    let machine = machine.clone();
    drop(exec::spawn_on(scope, async move {
        while let Some(Incoming { connection, .. }) = incoming.recv().await {
            drop(exec::spawn_on(scope, answer(machine.clone(), connection)));
        }
    }));
}

/// Opens a connection for a walreceiver.
pub(super) fn dial(machine: &Machine, inner: &Inner, conn: Conn, address: String, hello: Hello) {
    let machine = machine.clone();
    drop(exec::spawn_on(inner.scope, async move {
        let to = machine.registry().find(&address);
        let connected = match to {
            Some(to) => net::connect(to, REPLICATION, CONNECT).await.ok(),
            None => None,
        };
        let Some(connection) = connected else {
            machine.with(|inner, now| inner.host.server.closed(now, conn));
            return;
        };
        if !machine.lock().host.server.knows(conn) {
            // It was given up meanwhile.
            return;
        }
        machine.registry().put_hello(conn, hello);
        let mut name = conn.dialler.to_le_bytes().to_vec();
        name.extend_from_slice(&conn.number.to_le_bytes());
        if connection.send(name).is_ok() {
            read(machine, connection, conn, Way::There).await;
        }
    }));
}

/// Takes a connection: who dialled says first who it is.
async fn answer(machine: Machine, connection: Connection) {
    let Ok(name) = connection.receive().await else { return };
    let Some((dialler, number)) = name.split_first_chunk::<4>() else { return };
    let Ok(number) = <[u8; 8]>::try_from(number) else { return };
    let conn = Conn { dialler: u32::from_le_bytes(*dialler), number: u64::from_le_bytes(number) };
    let Some(hello) = machine.registry().take_hello(conn) else { return };
    let connection = Arc::new(connection);
    let closed = Arc::new(Notify::new());
    // Before the server answers: its first words go out on it.
    let link = Link { connection: connection.clone(), way: Way::Back, closed: closed.clone() };
    machine.lock().links.0.insert(conn, link);
    let accepted = machine.with(|inner, now| inner.host.server.accept(now, conn, &hello));
    match accepted {
        Ok(()) => carry(machine, connection, closed, conn, Way::There).await,
        Err(Refused::Silent) => {
            // The kernel has taken the connection, and nobody reads it.
            closed.notified().await;
        }
        Err(_) => machine.lock().links.close(conn),
    }
}

/// Has the connection of a walreceiver, until it ends.
async fn read(machine: Machine, connection: Connection, conn: Conn, way: Way) {
    let connection = Arc::new(connection);
    let closed = Arc::new(Notify::new());
    let link = Link { connection: connection.clone(), way, closed: closed.clone() };
    machine.lock().links.0.insert(conn, link);
    carry(machine, connection, closed, conn, Way::Back).await;
}

/// Forgets what nobody will read any more, also where its task is dropped.
struct Reading<'a>(&'a Registry, Conn, Way);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.forget(self.1, self.2);
    }
}

/// Hands what arrives to the server, until the connection ends on one side.
async fn carry(
    machine: Machine,
    connection: Arc<Connection>,
    closed: Arc<Notify>,
    conn: Conn,
    way: Way,
) {
    let registry = machine.registry().clone();
    let _reading = Reading(&registry, conn, way);
    loop {
        let arrived = runtime::first_of(vec![
            Box::pin(async { connection.receive().await.ok() }) as runtime::Boxed<'_, _>,
            Box::pin(async {
                closed.notified().await;
                None
            }),
        ])
        .await;
        let wire = arrived.and_then(|_| registry.arrive(conn, way));
        let Some(wire) = wire else {
            machine.with(|inner, now| {
                inner.links.0.remove(&conn);
                inner.host.server.closed(now, conn);
            });
            return;
        };
        machine.with(|inner, now| {
            if inner.host.server.knows(conn) {
                inner.host.server.receive(now, conn, wire);
            }
        });
        if !machine.lock().links.0.contains_key(&conn) {
            return;
        }
    }
}
