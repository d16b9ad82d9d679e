//! Requests and replies.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Port, Served, net};
use crate::exec::{self, MachineId, ScopeId, SimRuntime};
use openraft_rt::AsyncRuntime;

/// Answers one request; `None` sends no reply.
pub type Handler = Arc<
    dyn Fn(MachineId, Vec<u8>) -> Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>
        + Send
        + Sync,
>;

/// Why no reply came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The deadline passed: the request may have been carried out.
    #[error("no reply within the deadline")]
    TimedOut,
    /// The machine is there, and nobody listens, or the one who did has ended: the request may have
    /// been carried out.
    #[error("connection refused or reset")]
    Refused,
}

/// Answers requests at a port of its machine with tasks of this scope, as long as that lives.
pub fn serve(scope: ScopeId, port: Port, handler: Handler) {
    let machine = exec::machine_of(scope);
    net().borrow_mut().served.insert((machine, port), Served { scope, handler });
}

/// Nobody answers at a port any more.
pub fn close(machine: MachineId, port: Port) {
    net().borrow_mut().served.remove(&(machine, port));
}

/// Sends a request from the machine of the running scope, and waits for the first reply. Every copy
/// that arrives is carried out. `deadline` is of the caller's clock.
pub async fn call(
    to: MachineId,
    port: Port,
    payload: Vec<u8>,
    deadline: Duration,
) -> Result<Vec<u8>, Failure> {
    let from = exec::machine_of(exec::current_scope());
    let (reply, waiting) = oneshot::channel();
    let reply = Arc::new(std::sync::Mutex::new(Some(reply)));
    let arrivals = net().borrow_mut().arrivals(from, to);
    let copies = arrivals.len();
    let mut payload = Some(payload);
    for (i, after) in arrivals.into_iter().enumerate() {
        let body = if i + 1 == copies { payload.take() } else { payload.clone() };
        let (Some(body), reply) = (body, Arc::clone(&reply)) else { continue };
        exec::at(exec::now() + after, move || arrive(from, to, port, body, reply));
    }
    let outcome = SimRuntime::timeout(deadline, async {
        match waiting.await {
            Ok(outcome) => outcome,
            // Every copy of the request, or of the reply, was lost.
            Err(_) => std::future::pending().await,
        }
    });
    outcome.await.unwrap_or(Err(Failure::TimedOut))
}

type Reply = Arc<std::sync::Mutex<Option<oneshot::Sender<Result<Vec<u8>, Failure>>>>>;

fn arrive(from: MachineId, to: MachineId, port: Port, payload: Vec<u8>, reply: Reply) {
    let served = {
        let net = net();
        let net = net.borrow();
        if net.is_off(to) || net.is_cut(from, to) {
            return;
        }
        net.served.get(&(to, port)).cloned()
    };
    let served = served.filter(|s| exec::is_alive(s.scope));
    let Some(Served { scope, handler }) = served else {
        return answer(to, from, Err(Failure::Refused), reply);
    };
    let task = exec::spawn_on(scope, handler(from, payload));
    // Outside of the scope: where that is killed, its machine resets the connection.
    drop(exec::spawn_on(ScopeId::WORLD, async move {
        match task.await {
            Ok(Some(bytes)) => answer(to, from, Ok(bytes), reply),
            Ok(None) => {}
            Err(_) => answer(to, from, Err(Failure::Refused), reply),
        }
    }));
}

fn answer(from: MachineId, to: MachineId, outcome: Result<Vec<u8>, Failure>, reply: Reply) {
    let arrivals = net().borrow_mut().arrivals(from, to);
    // Whoever waits takes the first alone.
    if let Some(after) = arrivals.into_iter().min() {
        exec::at(exec::now() + after, move || {
            let waiting = reply.lock().ok().and_then(|mut reply| reply.take());
            if let Some(waiting) = waiting {
                drop(waiting.send(outcome));
            }
        });
    }
}
