//! One direction of a connection: what a kernel does so that everything arrives in order.

use std::collections::{BTreeMap, VecDeque};

use super::super::{RETRY, net};
use super::{Side, StreamEnd, give_up_at, send_reset, wake};
use crate::exec::{self, Nanos, nanos};

/// The longest time between two tries.
const RETRY_MAX: Nanos = 5_000_000_000;

/// What is sent.
pub(super) enum Item {
    Message(Vec<u8>),
    /// Nothing more comes.
    Finish,
}

struct Segment {
    number: u64,
    /// Gone once it has arrived.
    item: Option<Item>,
}

/// What one side sends, and what of it has arrived at the other.
#[derive(Default)]
pub(super) struct Pipe {
    last: u64,
    /// Not acknowledged yet, oldest first.
    under_way: VecDeque<Segment>,
    /// How many arrived in order.
    arrived: u64,
    /// Those that arrived before one that they follow.
    early: BTreeMap<u64, Item>,
    unread_bytes: usize,
    /// Since when nothing was acknowledged though something is under way.
    silent_since: Nanos,
    /// How long until it is sent again; 0 while no timer runs.
    retry: Nanos,
    /// Nobody sends anything again.
    stopped: bool,
}

impl Pipe {
    /// Whether nothing waits for an acknowledgement.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Bytes that were sent and not read.
    pub(super) fn unread_bytes(&self) -> usize {
        self.unread_bytes
    }

    /// Forgets what is under way: it does not arrive any more.
    pub(super) fn clear(&mut self) {
        self.under_way.clear();
    }

    /// Sends nothing again. What is on the wire arrives.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }
}

/// Takes an item to be sent by a side.
pub(super) fn push(id: u64, side: Side, item: Item) {
    let (number, start) = {
        let state = net();
        let mut state = state.borrow_mut();
        let Some(stream) = state.streams.all.get_mut(&id) else { return };
        let pipe = &mut stream.ends[side].pipe;
        if let Item::Message(message) = &item {
            pipe.unread_bytes += message.len();
        }
        if pipe.is_idle() {
            pipe.silent_since = exec::now();
        }
        pipe.last += 1;
        pipe.under_way.push_back(Segment { number: pipe.last, item: Some(item) });
        let start = pipe.retry == 0;
        if start {
            pipe.retry = nanos(RETRY);
        }
        (pipe.last, start)
    };
    transmit(id, side, number);
    if start {
        exec::at(exec::now() + nanos(RETRY), move || retry(id, side));
    }
}

/// Sends one segment, which may be lost.
fn transmit(id: u64, side: Side, number: u64) {
    let delay = {
        let state = net();
        let mut state = state.borrow_mut();
        let way = state.streams.all.get(&id).map(|stream| stream.way(side));
        way.and_then(|way| state.packet(way))
    };
    if let Some(delay) = delay {
        exec::at(exec::now() + delay, move || arrive(id, side, number));
    }
}

/// A segment of a side arrives at the other machine.
fn arrive(id: u64, side: Side, number: u64) {
    let (wakers, unknown) = {
        let state = net();
        let mut state = state.borrow_mut();
        let Some(way) = state.streams.all.get(&id).map(|stream| stream.way(side)) else { return };
        if state.is_closed(way) || exec::is_suspended(way.to) {
            return;
        }
        let heard_back = !state.is_off(way.from) && !state.links.is_cut(way.back());
        let Some(stream) = state.streams.all.get_mut(&id) else { return };
        let known = stream.is_known(1 - side);
        let [one, two] = &mut stream.ends;
        let (sender, receiver) = if side == 0 { (one, two) } else { (two, one) };
        let pipe = &mut sender.pipe;
        let at = pipe.under_way.iter().position(|segment| segment.number == number);
        let finish = at.is_some_and(|at| matches!(pipe.under_way[at].item, Some(Item::Finish)));
        // A kernel that forgot the connection resets it, and one whose process does not read any
        // more, unless this says only what it knows, or that nothing more comes.
        let unwanted = !receiver.open && !finish && number > pipe.arrived;
        if !known || unwanted || receiver.broken.is_some() {
            (Vec::new(), true)
        } else {
            if let Some(item) = at.and_then(|at| pipe.under_way[at].item.take()) {
                pipe.early.insert(number, item);
            }
            let before = pipe.arrived;
            while let Some(item) = pipe.early.remove(&(pipe.arrived + 1)) {
                pipe.arrived += 1;
                match item {
                    Item::Message(message) => receiver.unread.push_back(message),
                    Item::Finish => receiver.finished = true,
                }
            }
            let news = pipe.arrived > before;
            if heard_back {
                // The kernel acknowledges at once all that it has in order; an acknowledgement that
                // is lost is covered by the next.
                let arrived = pipe.arrived;
                let waited = pipe.under_way.len();
                pipe.under_way.retain(|segment| segment.number > arrived);
                if pipe.under_way.len() < waited {
                    pipe.silent_since = exec::now();
                }
            }
            let reader = if news { receiver.reader.take() } else { None };
            state.forget_if_over(id);
            (Vec::from_iter(reader), false)
        }
    };
    wake(wakers);
    if unknown {
        send_reset(id, side);
    }
}

/// Sends again what was not acknowledged, and breaks off after a long silence.
fn retry(id: u64, side: Side) {
    let now = exec::now();
    let (again, wait, wakers) = {
        let state = net();
        let mut state = state.borrow_mut();
        let Some(stream) = state.streams.all.get_mut(&id) else { return };
        let (known, machine) = (stream.is_known(side), stream.ends[side].machine);
        let pipe = &mut stream.ends[side].pipe;
        if !known || pipe.stopped {
            pipe.clear();
        }
        if pipe.is_idle() {
            pipe.retry = 0;
            state.forget_if_over(id);
            return;
        }
        if exec::is_suspended(machine) {
            (Vec::new(), pipe.retry, Vec::new())
        } else if now >= give_up_at(pipe.silent_since) {
            pipe.retry = 0;
            (Vec::new(), 0, state.break_off(id, side, StreamEnd::TimedOut))
        } else {
            // The timer runs all the time while something is under way; what was sent after it was
            // set is given as long again.
            let quiet = now.saturating_sub(pipe.silent_since);
            let due = quiet >= pipe.retry;
            pipe.retry = if due { (pipe.retry * 2).min(RETRY_MAX) } else { nanos(RETRY) };
            let numbers = pipe.under_way.iter().map(|segment| segment.number);
            (if due { numbers.collect() } else { Vec::new() }, pipe.retry, Vec::new())
        }
    };
    wake(wakers);
    for number in again {
        transmit(id, side, number);
    }
    if wait > 0 {
        exec::at(now + wait, move || retry(id, side));
    }
}

/// The process on the other side has read so many bytes of what a side had sent.
pub(super) fn was_read(id: u64, side: Side, bytes: usize) {
    let writer = {
        let state = net();
        let mut state = state.borrow_mut();
        let Some(stream) = state.streams.all.get_mut(&id) else { return };
        let sender = &mut stream.ends[side];
        sender.pipe.unread_bytes = sender.pipe.unread_bytes.saturating_sub(bytes);
        sender.writer.take()
    };
    wake(writer);
}
