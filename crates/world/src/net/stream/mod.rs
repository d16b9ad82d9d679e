//! Connections: messages in order and once, or an end.
//!
//! As TCP's. What is sent is sent again until the other machine acknowledges it. While the way
//! there is cut nothing arrives; while only the way back is cut everything arrives, and the sender
//! does not know. A sender that hears nothing for [`GIVE_UP`] breaks off; a side that only waits
//! learns nothing of a cut, however long. The end of a process is told to the other side by its
//! kernel, behind everything that was sent; a machine that is off tells nothing, and one that has
//! booted since resets what it does not know.

mod connect;
mod pipe;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::{Port, State, Way, net};
use crate::exec::{self, MachineId, nanos};

pub(super) use connect::Listener;
pub use connect::{Incoming, Refused, connect, listen};
use pipe::{Item, Pipe};

/// How long what is sent is tried.
pub const GIVE_UP: Duration = Duration::from_secs(30);

/// How much may be under way and unread before [`Connection::room`] waits, in bytes.
const WINDOW: usize = 256 * 1024;

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// The other side closed it, or its process ended. Everything that it had sent has come.
    #[error("the connection is closed")]
    Closed,
    /// The other side does not know this connection any more.
    #[error("connection reset by peer")]
    Reset,
    /// What was sent was not acknowledged for [`GIVE_UP`].
    #[error("connection timed out")]
    TimedOut,
}

/// One of the two sides of a connection: 0 made it, 1 took it.
type Side = usize;

/// What a side's kernel knows.
struct End {
    machine: MachineId,
    /// The boot of the machine whose kernel it is.
    boots: u64,
    /// Somebody holds it.
    open: bool,
    /// What arrived and was not read yet, oldest first.
    unread: std::collections::VecDeque<Vec<u8>>,
    /// The other side says that nothing more comes.
    finished: bool,
    broken: Option<StreamEnd>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// What it sends.
    pipe: Pipe,
}

struct Stream {
    port: Port,
    ends: [End; 2],
}

/// All connections.
#[derive(Default)]
pub(super) struct Streams {
    last: u64,
    all: BTreeMap<u64, Stream>,
}

/// One side of a connection. Dropping it closes it, as the end of its process does.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    side: Side,
    from: MachineId,
    to: MachineId,
}

impl Stream {
    /// The way from a side to the other one.
    fn way(&self, from: Side) -> Way {
        let machine = |side: Side| self.ends[side].machine;
        Way { from: machine(from), to: machine(1 - from), port: self.port }
    }

    /// Whether the kernel of a side is still the one that knows this connection.
    fn is_known(&self, side: Side) -> bool {
        exec::boots(self.ends[side].machine) == self.ends[side].boots
    }

    /// Whether nobody will ever ask for this connection again.
    fn is_over(&self) -> bool {
        (0..2).all(|side| {
            let end = &self.ends[side];
            !self.is_known(side) || (!end.open && (end.pipe.is_idle() || end.broken.is_some()))
        })
    }
}

impl State {
    /// Makes a connection between two machines that both know of it.
    fn new_stream(&mut self, way: Way) -> (Connection, Connection) {
        let end = |machine: MachineId| End {
            machine,
            boots: exec::boots(machine),
            open: true,
            unread: std::collections::VecDeque::new(),
            finished: false,
            broken: None,
            reader: None,
            writer: None,
            pipe: Pipe::default(),
        };
        self.streams.last += 1;
        let id = self.streams.last;
        let ends = [end(way.from), end(way.to)];
        self.streams.all.insert(id, Stream { port: way.port, ends });
        let side = |side: Side, way: Way| Connection { id, side, from: way.from, to: way.to };
        (side(0, way), side(1, way.back()))
    }

    /// Breaks a side, and returns who is to be woken.
    fn break_off(&mut self, id: u64, side: Side, why: StreamEnd) -> Vec<Waker> {
        let Some(stream) = self.streams.all.get_mut(&id) else { return Vec::new() };
        let end = &mut stream.ends[side];
        end.broken.get_or_insert(why);
        end.pipe.clear();
        let wakers = [end.reader.take(), end.writer.take()];
        self.forget_if_over(id);
        wakers.into_iter().flatten().collect()
    }

    fn forget_if_over(&mut self, id: u64) {
        if self.streams.all.get(&id).is_some_and(Stream::is_over) {
            self.streams.all.remove(&id);
        }
    }
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// A reset arrives at a side.
fn reset(id: u64, side: Side) {
    let wakers = {
        let state = net();
        let mut state = state.borrow_mut();
        let Some(stream) = state.streams.all.get(&id) else { return };
        let arrives = !state.is_closed(stream.way(1 - side)) && stream.is_known(side);
        if !arrives {
            return;
        }
        state.break_off(id, side, StreamEnd::Reset)
    };
    wake(wakers);
}

/// Sends a reset to a side. It is not sent again: whoever misses it gets another one for the next
/// thing that he sends.
fn send_reset(id: u64, to: Side) {
    let delay = {
        let state = net();
        let mut state = state.borrow_mut();
        let way = state.streams.all.get(&id).map(|stream| stream.way(1 - to));
        way.and_then(|way| state.packet(way))
    };
    if let Some(delay) = delay {
        exec::at(exec::now() + delay, move || reset(id, to));
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

    /// What `f` finds, or a reset where the connection is not known any more.
    fn with<T>(&self, f: impl FnOnce(&mut End) -> Result<T, StreamEnd>) -> Result<T, StreamEnd> {
        let state = net();
        let mut state = state.borrow_mut();
        let stream = state.streams.all.get_mut(&self.id);
        stream.map_or(Err(StreamEnd::Reset), |stream| f(&mut stream.ends[self.side]))
    }

    /// Sends a message. That it is taken does not say that it arrives. It takes any number of them;
    /// who wants to be held up by a slow reader waits for [`Self::room`] before.
    pub fn send(&self, message: Vec<u8>) -> Result<(), StreamEnd> {
        self.with(|end| end.broken.map_or(Ok(()), Err))?;
        pipe::push(self.id, self.side, Item::Message(message));
        Ok(())
    }

    /// Waits until less than 256 kB are under way and unread. Safe to cancel. It has no deadline of
    /// its own.
    pub async fn room(&self) -> Result<(), StreamEnd> {
        poll_fn(|cx| {
            let poll = self.with(|end| match end.broken {
                Some(why) => Err(why),
                None if end.pipe.unread_bytes() < WINDOW => Ok(Poll::Ready(Ok(()))),
                None => {
                    end.writer = Some(cx.waker().clone());
                    Ok(Poll::Pending)
                }
            });
            poll.unwrap_or_else(|why| Poll::Ready(Err(why)))
        })
        .await
    }

    /// How many bytes that were sent the other side's process has not read yet.
    pub fn unread_bytes(&self) -> usize {
        self.with(|end| Ok(end.pipe.unread_bytes())).unwrap_or(0)
    }

    /// The next message. Safe to cancel. It has no deadline of its own.
    pub async fn receive(&self) -> Result<Vec<u8>, StreamEnd> {
        poll_fn(|cx| {
            let poll = self.with(|end| {
                if let Some(message) = end.unread.pop_front() {
                    return Ok(Poll::Ready(message));
                }
                if end.finished {
                    return Err(StreamEnd::Closed);
                }
                if let Some(why) = end.broken {
                    return Err(why);
                }
                end.reader = Some(cx.waker().clone());
                Ok(Poll::Pending)
            });
            match poll {
                Ok(Poll::Ready(message)) => {
                    pipe::was_read(self.id, 1 - self.side, message.len());
                    Poll::Ready(Ok(message))
                }
                Ok(Poll::Pending) => Poll::Pending,
                Err(why) => Poll::Ready(Err(why)),
            }
        })
        .await
    }

    /// Whether this side knows that the other one is gone. There may still be something to receive.
    pub fn is_closed(&self) -> bool {
        self.with(|end| Ok(end.finished || end.broken.is_some())).unwrap_or(true)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A world that ends tells nobody.
        if !exec::is_there() {
            return;
        }
        enum Farewell {
            None,
            Finish,
            Reset,
        }
        let farewell = {
            let state = net();
            let mut state = state.borrow_mut();
            let off = state.is_off(self.from);
            let Some(stream) = state.streams.all.get_mut(&self.id) else { return };
            let known = stream.is_known(self.side);
            let end = &mut stream.ends[self.side];
            end.open = false;
            let unread = !std::mem::take(&mut end.unread).is_empty();
            let farewell = match end.broken {
                Some(_) => Farewell::None,
                None if off || !known => Farewell::None,
                // What the process did not read is lost, and the other side is told so (RFC 2525,
                // section 2.17).
                None if unread => Farewell::Reset,
                None => Farewell::Finish,
            };
            if !matches!(farewell, Farewell::Finish) {
                end.pipe.stop();
            }
            state.forget_if_over(self.id);
            farewell
        };
        match farewell {
            Farewell::None => {}
            Farewell::Finish => pipe::push(self.id, self.side, Item::Finish),
            Farewell::Reset => send_reset(self.id, 1 - self.side),
        }
    }
}

/// The true time after which a sender that heard nothing since breaks off.
fn give_up_at(since: exec::Nanos) -> exec::Nanos {
    since.saturating_add(nanos(GIVE_UP))
}
