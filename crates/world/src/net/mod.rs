//! The simulated network: what happens to bytes between two machines.
//!
//! Owns the state of every directed link (delay, loss, duplication, cuts), requests with replies
//! as production's RPCs are, and ordered streams as TCP's are. Bytes travel in true time. Faults are
//! set from outside; every draw comes from the network's own stream. May import the executor.

mod call;
mod link;
mod stream;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::exec::{self, MachineId, Nanos, ScopeId, Stream};

pub use call::{Failure, Handler, call, close, serve};
pub use link::{Link, Quality};
pub use stream::{Connection, Incoming, Refused, StreamEnd, connect, listen};

/// A port of a machine.
pub type Port = u16;

/// Who answers at a port.
#[derive(Clone)]
struct Served {
    scope: ScopeId,
    handler: Handler,
}

struct State {
    rng: Stream,
    /// Links that differ from `usual`.
    links: BTreeMap<(MachineId, MachineId), Link>,
    usual: Quality,
    served: BTreeMap<(MachineId, Port), Served>,
    listeners: BTreeMap<(MachineId, Port), stream::Listener>,
    streams: u64,
    /// Machines that do not answer at all: they are off.
    off: BTreeMap<MachineId, bool>,
    sent: u64,
    lost: u64,
}

thread_local! {
    static NET: RefCell<Option<Rc<RefCell<State>>>> = const { RefCell::new(None) };
}

fn net() -> Rc<RefCell<State>> {
    NET.with_borrow(|net| net.clone())
        .unwrap_or_else(|| panic!("there is no simulated network on this thread"))
}

/// Whether there is a world with a network on this thread.
fn is_there() -> bool {
    NET.with_borrow(|net| net.is_some()) && exec::is_there()
}

/// The network of a world. It is there as long as this is held; it is to be dropped after the
/// world, whose tasks use it.
pub struct Network(());

impl Network {
    /// A network without faults, in the world of this thread.
    pub fn new() -> Self {
        let state = State {
            rng: exec::stream("network"),
            links: BTreeMap::new(),
            usual: Quality::default(),
            served: BTreeMap::new(),
            listeners: BTreeMap::new(),
            streams: 0,
            off: BTreeMap::new(),
            sent: 0,
            lost: 0,
        };
        NET.with_borrow_mut(|net| *net = Some(Rc::new(RefCell::new(state))));
        Self(())
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let state = NET.with_borrow_mut(Option::take);
        drop(state);
    }
}

// ---- faults ----

/// The quality of all links that have none of their own.
pub fn set_usual(quality: Quality) {
    net().borrow_mut().usual = quality;
}

/// The quality of one direction; `None` makes it the usual one.
pub fn set_quality(from: MachineId, to: MachineId, quality: Option<Quality>) {
    net().borrow_mut().links.entry((from, to)).or_default().quality = quality;
}

/// Cuts one direction, or mends one cut of it: cuts are counted, so that two faults that overlap
/// do not mend each other.
pub fn cut(from: MachineId, to: MachineId, is: bool) {
    let state = net();
    let mut state = state.borrow_mut();
    let link = state.links.entry((from, to)).or_default();
    link.cuts = if is { link.cuts + 1 } else { link.cuts.saturating_sub(1) };
}

/// Whether a direction is cut now.
pub fn is_cut(from: MachineId, to: MachineId) -> bool {
    net().borrow().is_cut(from, to)
}

/// Mends all links.
pub fn mend_all() {
    let state = net();
    let mut state = state.borrow_mut();
    state.links.clear();
    state.usual = Quality::default();
}

/// A machine that is off answers nothing, not even that nobody listens.
pub fn set_off(machine: MachineId, is: bool) {
    net().borrow_mut().off.insert(machine, is);
}

/// Messages that were sent so far, and those of them that were lost.
pub fn counts() -> (u64, u64) {
    let state = net();
    let state = state.borrow();
    (state.sent, state.lost)
}

impl State {
    fn is_cut(&self, from: MachineId, to: MachineId) -> bool {
        from != to && self.links.get(&(from, to)).is_some_and(|l| l.cuts > 0)
    }

    fn is_off(&self, machine: MachineId) -> bool {
        self.off.get(&machine).copied().unwrap_or(false)
    }

    fn quality(&self, from: MachineId, to: MachineId) -> Quality {
        if from == to {
            return Quality::LOCAL;
        }
        self.links.get(&(from, to)).and_then(|l| l.quality).unwrap_or(self.usual)
    }

    /// After how long each copy of a datagram arrives; none where it is lost.
    fn arrivals(&mut self, from: MachineId, to: MachineId) -> Vec<Nanos> {
        self.sent += 1;
        if self.is_cut(from, to) || self.is_off(to) {
            self.lost += 1;
            return Vec::new();
        }
        let quality = self.quality(from, to);
        if self.rng.chance(quality.loss_ppm) {
            self.lost += 1;
            return Vec::new();
        }
        let copies = if self.rng.chance(quality.duplicate_ppm) { 2 } else { 1 };
        (0..copies).map(|_| quality.delay(&mut self.rng)).collect()
    }
}
