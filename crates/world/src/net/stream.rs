//! Connections: bytes in order, or an end.
//!
//! What is sent arrives in order and once. While the way is cut nothing moves; it is sent again
//! until the way is open, and given up after [`GIVE_UP`], as TCP does with a bound on its
//! retransmissions. An end whose process dies is told to the other side, unless its machine is
//! gone: then that learns it by its own timeouts alone.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Port, net};
use crate::exec::{self, MachineId, Nanos, ScopeId};

/// How long what is sent is tried.
pub const GIVE_UP: Duration = Duration::from_secs(30);
/// How often it is tried while the way is cut.
const RETRY: Duration = Duration::from_millis(200);

/// The connection is over: nothing more comes, and nothing more arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed")]
pub struct StreamEnd;

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

#[derive(Default)]
struct Pipe {
    /// Arrived, and not read yet.
    arrived: VecDeque<Vec<u8>>,
    /// Sent, and on its way: in order.
    sent: VecDeque<Vec<u8>>,
    /// When the last of them arrives at the earliest.
    last: Nanos,
    ended: bool,
    reader: Option<Waker>,
}

type Shared = Arc<Mutex<Pipe>>;

fn lock(pipe: &Shared) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(pipe: &Shared) {
    let reader = {
        let mut pipe = lock(pipe);
        pipe.ended = true;
        pipe.reader.take()
    };
    if let Some(reader) = reader {
        reader.wake();
    }
}

/// One side of a connection. Dropping it closes it, as the end of its process does.
pub struct Connection {
    from: MachineId,
    to: MachineId,
    id: u64,
    outgoing: Shared,
    incoming: Shared,
}

/// A connection that was taken.
pub struct Incoming {
    /// From where.
    pub from: MachineId,
    /// This side of it.
    pub connection: Connection,
}

#[derive(Clone)]
pub(super) struct Listener {
    scope: ScopeId,
    queue: mpsc::UnboundedSender<Incoming>,
}

/// Takes connections at a port of the scope's machine, as long as the scope lives and the receiver
/// is held.
pub fn listen(scope: ScopeId, port: Port) -> mpsc::UnboundedReceiver<Incoming> {
    let (queue, incoming) = mpsc::unbounded_channel();
    let machine = exec::machine_of(scope);
    net().borrow_mut().listeners.insert((machine, port), Listener { scope, queue });
    incoming
}

/// Connects from the machine of the running scope.
pub async fn connect(to: MachineId, port: Port, patience: Duration) -> Result<Connection, Refused> {
    let from = exec::machine_of(exec::current_scope());
    let until = exec::now() + u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
    loop {
        let way = {
            let net = net();
            let mut net = net.borrow_mut();
            let open = !net.is_cut(from, to) && !net.is_cut(to, from) && !net.is_off(to);
            let (there, back) = (net.quality(from, to), net.quality(to, from));
            let delay = there.delay(&mut net.rng) + back.delay(&mut net.rng);
            open.then_some(delay)
        };
        if let Some(delay) = way {
            exec::sleep(Duration::from_nanos(delay)).await;
            break;
        }
        if exec::now() + RETRY.as_nanos() as u64 >= until {
            exec::sleep(Duration::from_nanos(until.saturating_sub(exec::now()))).await;
            return Err(Refused::TimedOut);
        }
        exec::sleep(RETRY).await;
    }
    let (listener, id) = {
        let net = net();
        let mut net = net.borrow_mut();
        net.streams += 1;
        (net.listeners.get(&(to, port)).cloned(), net.streams)
    };
    let Some(listener) = listener.filter(|l| exec::is_alive(l.scope)) else {
        return Err(Refused::Nobody);
    };
    let (there, back) = (Shared::default(), Shared::default());
    let theirs =
        Connection { from: to, to: from, id, outgoing: back.clone(), incoming: there.clone() };
    let ours = Connection { from, to, id, outgoing: there, incoming: back };
    match listener.queue.send(Incoming { from, connection: theirs }) {
        Ok(()) => Ok(ours),
        Err(_) => Err(Refused::Nobody),
    }
}

impl Connection {
    /// The machine at the other end.
    pub fn peer(&self) -> MachineId {
        self.to
    }

    /// Its number: both sides have the same.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sends a message. That it is taken does not say that it arrives.
    pub fn send(&self, message: Vec<u8>) -> Result<(), StreamEnd> {
        {
            let mut pipe = lock(&self.outgoing);
            if pipe.ended || lock(&self.incoming).ended {
                return Err(StreamEnd);
            }
            pipe.sent.push_back(message);
        }
        carry(self.from, self.to, self.outgoing.clone(), exec::now());
        Ok(())
    }

    /// The next message. Safe to cancel. It has no deadline of its own.
    pub async fn receive(&self) -> Result<Vec<u8>, StreamEnd> {
        poll_fn(|cx| {
            let mut pipe = lock(&self.incoming);
            if let Some(message) = pipe.arrived.pop_front() {
                return Poll::Ready(Ok(message));
            }
            if pipe.ended {
                return Poll::Ready(Err(StreamEnd));
            }
            pipe.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Whether the other side has closed it, as far as is known here.
    pub fn is_closed(&self) -> bool {
        lock(&self.incoming).ended
    }
}

/// Brings the oldest message on its way over, once the way is open.
fn carry(from: MachineId, to: MachineId, pipe: Shared, since: Nanos) {
    let after = {
        let net = net();
        let mut net = net.borrow_mut();
        let quality = net.quality(from, to);
        // A lost packet is sent again: it only takes longer.
        let lost = net.rng.chance(quality.loss_ppm);
        quality.delay(&mut net.rng) + if lost { RETRY.as_nanos() as Nanos } else { 0 }
    };
    let when = {
        let mut pipe = lock(&pipe);
        pipe.last = pipe.last.max(exec::now() + after) + 1;
        pipe.last
    };
    exec::at(when, move || land(from, to, pipe, since));
}

fn land(from: MachineId, to: MachineId, pipe: Shared, since: Nanos) {
    let (cut, off) = {
        let net = net();
        let net = net.borrow();
        // Without acknowledgements nothing moves either.
        (net.is_cut(from, to) || net.is_cut(to, from), net.is_off(to))
    };
    if cut || off {
        if exec::now().saturating_sub(since) > GIVE_UP.as_nanos() as Nanos {
            return end(&pipe);
        }
        // Those behind it wait as well: each looks for itself, and takes the oldest.
        exec::at(exec::now() + RETRY.as_nanos() as Nanos, move || land(from, to, pipe, since));
        return;
    }
    let reader = {
        let mut pipe = lock(&pipe);
        if let Some(message) = pipe.sent.pop_front() {
            pipe.arrived.push_back(message);
        }
        pipe.reader.take()
    };
    if let Some(reader) = reader {
        reader.wake();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        end(&self.incoming);
        let (from, to, pipe) = (self.from, self.to, self.outgoing.clone());
        // A world that ends tells nobody.
        if super::is_there() {
            farewell(from, to, pipe, exec::now());
        }
    }
}

/// Tells the other side that this one is over, after everything that was sent.
fn farewell(from: MachineId, to: MachineId, pipe: Shared, since: Nanos) {
    let at = lock(&pipe).last.max(exec::now()) + 1;
    exec::at(at, move || {
        let (cut, gone) = {
            let net = net();
            let net = net.borrow();
            (net.is_cut(from, to), net.is_off(from) || net.is_off(to))
        };
        // A machine that is off says nothing: the other side has to find out.
        let late = exec::now().saturating_sub(since) > GIVE_UP.as_nanos() as Nanos;
        if (!cut && !gone) || late {
            end(&pipe);
        } else {
            let again = exec::now() + RETRY.as_nanos() as Nanos;
            exec::at(again, move || farewell(from, to, pipe, since));
        }
    });
}
