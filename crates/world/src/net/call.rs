//! Requests and replies.
//!
//! A handler is a task of the scope that serves: it dies with that, and is dropped when it hears
//! that the caller has given up, as gRPC servers do with the handlers of calls that are cancelled.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft_rt::AsyncRuntime;

use super::{Port, RETRY, Way, net, with_each};
use crate::exec::{self, JoinHandle, MachineId, ScopeId, SimRuntime, nanos};

/// Answers one request, of a machine; `None` sends no reply.
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

type Outcome = Result<Vec<u8>, Failure>;

/// A call that somebody waits for.
#[derive(Default)]
struct Pending {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

/// Who answers at a port.
#[derive(Clone)]
struct Served {
    scope: ScopeId,
    handler: Handler,
}

/// All calls, and who serves.
pub(super) struct Calls {
    served: BTreeMap<(MachineId, Port), Served>,
    last: u64,
    pending: BTreeMap<u64, Pending>,
    /// The handlers that run, by call and a number of their own: a call may arrive twice.
    running: BTreeMap<(u64, u64), JoinHandle<()>>,
    cancelling: bool,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            served: BTreeMap::new(),
            last: 0,
            pending: BTreeMap::new(),
            running: BTreeMap::new(),
            cancelling: true,
        }
    }
}

/// Whether handlers hear that their caller has given up (they do unless this says otherwise).
pub fn set_cancelling(is: bool) {
    net().borrow_mut().calls.cancelling = is;
}

/// Answers requests at a port of its machine with tasks of this scope, until another serves there or
/// the scope ends.
pub fn serve(scope: ScopeId, port: Port, handler: Handler) {
    let machine = exec::machine_of(scope);
    let before = net().borrow_mut().calls.served.insert((machine, port), Served { scope, handler });
    drop(before);
    // What a handler holds is memory of the process, and goes with it.
    exec::on_exit(scope, move || {
        let ended = {
            let state = net();
            let served = &mut state.borrow_mut().calls.served;
            let ours = served.get(&(machine, port)).is_some_and(|s| s.scope == scope);
            if ours { served.remove(&(machine, port)) } else { None }
        };
        drop(ended);
    });
}

/// Nobody answers at a port any more.
pub fn close(machine: MachineId, port: Port) {
    let ended = net().borrow_mut().calls.served.remove(&(machine, port));
    drop(ended);
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
    let way = Way { from, to, port };
    let (id, copies) = {
        let state = net();
        let mut state = state.borrow_mut();
        state.calls.last += 1;
        let id = state.calls.last;
        state.calls.pending.insert(id, Pending::default());
        (id, state.copies(way))
    };
    let waiting = Waiting { way, id, done: false };
    for (delay, payload) in with_each(copies, payload) {
        exec::at(exec::now() + delay, move || arrive(way, id, payload));
    }
    SimRuntime::timeout(deadline, waiting).await.unwrap_or(Err(Failure::TimedOut))
}

/// Waits for the outcome of a call, and gives the call up when it is dropped before.
struct Waiting {
    way: Way,
    id: u64,
    done: bool,
}

impl Future for Waiting {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let state = net();
        let pending = &mut state.borrow_mut().calls.pending;
        let Some(call) = pending.get_mut(&self.id) else { return Poll::Pending };
        match call.outcome.take() {
            Some(outcome) => {
                pending.remove(&self.id);
                self.done = true;
                Poll::Ready(outcome)
            }
            None => {
                call.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.done || !exec::is_there() {
            return;
        }
        let (state, id, way) = (net(), self.id, self.way);
        let delay = {
            let mut state = state.borrow_mut();
            let answered = state.calls.pending.remove(&id).is_some_and(|c| c.outcome.is_some());
            let tell = !answered && state.calls.cancelling;
            if tell { state.packet(way) } else { None }
        };
        if let Some(delay) = delay {
            exec::at(exec::now() + delay, move || give_up(way, id));
        }
    }
}

/// The handlers of a call hear that nobody waits for them.
fn give_up(way: Way, id: u64) {
    let handlers: Vec<_> = {
        let state = net();
        let mut state = state.borrow_mut();
        if state.is_closed(way) {
            return;
        }
        let running = &mut state.calls.running;
        let keys: Vec<_> = running.range((id, 0)..=(id, u64::MAX)).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| running.remove(key)).collect()
    };
    handlers.iter().for_each(JoinHandle::abort);
}

/// A request arrives.
fn arrive(way: Way, id: u64, payload: Vec<u8>) {
    let served = {
        let state = net();
        let state = state.borrow();
        if state.is_closed(way) {
            return;
        }
        state.calls.served.get(&(way.to, way.port)).cloned()
    };
    if exec::is_suspended(way.to) {
        // Its kernel hears nothing. What carries requests sends them again.
        exec::at(exec::now() + nanos(RETRY), move || arrive(way, id, payload));
        return;
    }
    let Some(Served { scope, handler }) = served.filter(|s| exec::is_alive(s.scope)) else {
        return answer(way, id, Err(Failure::Refused));
    };
    let key = {
        let state = net();
        let mut state = state.borrow_mut();
        state.calls.last += 1;
        (id, state.calls.last)
    };
    let serving = Serving { way, key, answered: false };
    let task = exec::spawn_on(scope, async move {
        let mut serving = serving;
        let reply = handler(way.from, payload).await;
        serving.answered = true;
        if let Some(reply) = reply {
            answer(way, id, Ok(reply));
        }
    });
    net().borrow_mut().calls.running.insert(key, task);
}

/// A handler at work. If its process dies, the machine resets the connection.
struct Serving {
    way: Way,
    key: (u64, u64),
    answered: bool,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !exec::is_there() {
            return;
        }
        if !self.answered {
            answer(self.way, self.key.0, Err(Failure::Refused));
        }
        let over = net().borrow_mut().calls.running.remove(&self.key);
        drop(over);
    }
}

/// Sends an outcome back. The caller takes the first that arrives.
fn answer(way: Way, id: u64, outcome: Outcome) {
    let back = way.back();
    let copies = net().borrow_mut().copies(back);
    if let Some(delay) = copies.into_iter().flatten().min() {
        exec::at(exec::now() + delay, move || {
            let waker = {
                let state = net();
                let mut state = state.borrow_mut();
                if state.is_closed(back) {
                    return;
                }
                let Some(call) = state.calls.pending.get_mut(&id) else { return };
                call.outcome.get_or_insert(outcome);
                call.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        });
    }
}
