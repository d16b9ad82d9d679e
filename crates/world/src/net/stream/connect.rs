//! How connections come about.

use std::time::Duration;

use openraft_rt::AsyncRuntime;
use tokio::sync::mpsc;

use super::super::{Port, RETRY, Way, net};
use super::Connection;
use crate::exec::{self, MachineId, ScopeId, SimRuntime};

/// No connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody listens there.
    #[error("connection refused")]
    Nobody,
    /// No answer came in time.
    #[error("no answer in time")]
    TimedOut,
}

/// A connection that was taken.
#[derive(Debug)]
pub struct Incoming {
    /// From where.
    pub from: MachineId,
    /// This side of it.
    pub connection: Connection,
}

/// Who takes connections at a port.
#[derive(Clone)]
pub(in super::super) struct Listener {
    scope: ScopeId,
    queue: mpsc::UnboundedSender<Incoming>,
}

/// Takes connections at a port of the scope's machine, as long as the scope lives and the receiver
/// is held. A process that is stopped takes them too: its kernel does.
pub fn listen(scope: ScopeId, port: Port) -> mpsc::UnboundedReceiver<Incoming> {
    let (queue, incoming) = mpsc::unbounded_channel();
    let machine = exec::machine_of(scope);
    net().borrow_mut().listeners.insert((machine, port), Listener { scope, queue });
    exec::on_exit(scope, move || {
        let state = net();
        let listeners = &mut state.borrow_mut().listeners;
        if listeners.get(&(machine, port)).is_some_and(|l| l.scope == scope) {
            listeners.remove(&(machine, port));
        }
    });
    incoming
}

/// Connects from the machine of the running scope. `patience` is of the caller's clock.
pub async fn connect(to: MachineId, port: Port, patience: Duration) -> Result<Connection, Refused> {
    let from = exec::machine_of(exec::current_scope());
    let way = Way { from, to, port };
    let connected = SimRuntime::timeout(patience, shake_hands(way)).await;
    connected.unwrap_or(Err(Refused::TimedOut))
}

/// The first packet, and the answer to it.
enum Answer {
    Taken(Connection),
    Refused,
    Lost,
}

async fn shake_hands(way: Way) -> Result<Connection, Refused> {
    loop {
        let answer = match packet(way).await {
            true => taken(way),
            false => Answer::Lost,
        };
        match answer {
            // The answer is sent again until it arrives, or the other side gives up.
            Answer::Taken(connection) => {
                while !packet(way.back()).await {
                    exec::sleep(RETRY).await;
                }
                return Ok(connection);
            }
            Answer::Refused if packet(way.back()).await => return Err(Refused::Nobody),
            Answer::Refused | Answer::Lost => exec::sleep(RETRY).await,
        }
    }
}

/// Sends one packet, and waits as long as it takes. False where it was lost.
async fn packet(way: Way) -> bool {
    let delay = net().borrow_mut().packet(way);
    let Some(delay) = delay else { return false };
    exec::sleep(Duration::from_nanos(delay)).await;
    let closed = net().borrow().is_closed(way);
    !closed && !exec::is_suspended(way.to)
}

/// The first packet has arrived.
fn taken(way: Way) -> Answer {
    let listener = net().borrow().listeners.get(&(way.to, way.port)).cloned();
    let Some(listener) = listener.filter(|l| exec::is_alive(l.scope) && !l.queue.is_closed())
    else {
        return Answer::Refused;
    };
    let (ours, theirs) = net().borrow_mut().new_stream(way);
    // The receiver was there a moment ago, and nothing has run since.
    match listener.queue.send(Incoming { from: way.from, connection: theirs }) {
        Ok(()) => Answer::Taken(ours),
        Err(_) => Answer::Refused,
    }
}
