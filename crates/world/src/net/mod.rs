//! The simulated network: what happens to bytes between two machines.
//!
//! Owns the state of every directed link (delay, loss, duplication, cuts), requests with replies
//! as production's RPCs are, and ordered streams as TCP's are. Bytes travel in true time. Faults are
//! set from outside; every link draws from a stream of its own, so that what one carries does not
//! shift the others. May import the executor.
//!
//! The state lives in the world of the thread, and ends with it.

mod call;
mod faults;
mod link;
mod partition;
mod stream;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::exec::{self, MachineId, Nanos};

pub use call::{Failure, Handler, call, close, serve, set_cancelling};
pub use faults::{
    counts, cut, cut_lane, is_cut, mend_all, set_lane, set_lane_quality, set_off, set_quality,
    set_usual,
};
pub use link::{Lane, Link, Quality};
pub use partition::{bridge, isolate, ring, split};
pub use stream::{Connection, GIVE_UP, Incoming, Refused, StreamEnd, connect, listen};

/// A port of a machine.
pub type Port = u16;

/// How soon what was not acknowledged is sent again, at first.
const RETRY: Duration = Duration::from_millis(200);

/// From where, to where, and at which port of either a service is that this is about.
#[derive(Debug, Clone, Copy)]
struct Way {
    from: MachineId,
    to: MachineId,
    port: Port,
}

impl Way {
    fn back(self) -> Self {
        Self { from: self.to, to: self.from, port: self.port }
    }
}

struct State {
    links: link::Links,
    calls: call::Calls,
    listeners: BTreeMap<(MachineId, Port), stream::Listener>,
    streams: stream::Streams,
    /// Machines that do not answer at all: they are off.
    off: BTreeMap<MachineId, bool>,
    sent: u64,
    lost: u64,
}

impl State {
    fn new() -> RefCell<Self> {
        RefCell::new(Self {
            links: link::Links::default(),
            calls: call::Calls::default(),
            listeners: BTreeMap::new(),
            streams: stream::Streams::default(),
            off: BTreeMap::new(),
            sent: 0,
            lost: 0,
        })
    }

    /// Whether a machine neither sends nor hears anything.
    fn is_off(&self, machine: MachineId) -> bool {
        self.off.get(&machine).copied().unwrap_or(false) || exec::is_crashing(machine)
    }

    /// Whether what is on its way now does not arrive.
    fn is_closed(&self, way: Way) -> bool {
        self.is_off(way.to) || self.links.is_cut(way)
    }

    /// After how long one packet arrives; `None` where it is lost.
    fn packet(&mut self, way: Way) -> Option<Nanos> {
        self.sent += 1;
        let closed = self.is_off(way.from) || self.is_closed(way);
        let delay = self.links.packet(way).filter(|_| !closed);
        self.lost += u64::from(delay.is_none());
        delay
    }

    /// After how long each copy of a message arrives; none where it is lost.
    fn copies(&mut self, way: Way) -> [Option<Nanos>; 2] {
        let first = self.packet(way);
        let twice = first.is_some() && self.links.is_doubled(way);
        let second = if twice { self.links.packet(way) } else { None };
        [first, second]
    }
}

fn net() -> Rc<RefCell<State>> {
    exec::local(State::new)
}

/// The network of a world. The world has it in any case, without faults; this stands for it where
/// somebody wants to hold it.
#[derive(Debug, Default)]
pub struct Network(());

impl Network {
    /// The network of this thread's world.
    pub fn new() -> Self {
        Self(())
    }
}

/// Sends bytes from one machine to another and calls `deliver`, as the world's code, with each copy
/// that arrives: none, one or two. Copies overtake each other as their delays say.
pub fn send(
    from: MachineId,
    to: MachineId,
    port: Port,
    payload: Vec<u8>,
    deliver: impl Fn(Vec<u8>) + 'static,
) {
    let way = Way { from, to, port };
    let copies = net().borrow_mut().copies(way);
    let deliver = Rc::new(deliver);
    for (delay, payload) in with_each(copies, payload) {
        let deliver = deliver.clone();
        exec::at(exec::now() + delay, move || {
            let closed = net().borrow().is_closed(way);
            if !closed {
                deliver(payload);
            }
        });
    }
}

/// A payload for each copy; only a second one is cloned.
fn with_each(
    [first, second]: [Option<Nanos>; 2],
    payload: Vec<u8>,
) -> impl Iterator<Item = (Nanos, Vec<u8>)> {
    let other = second.map(|delay| (delay, payload.clone()));
    first.map(|delay| (delay, payload)).into_iter().chain(other)
}
