//! What faults do to the network, from outside.

use super::link::{Lane, Quality};
use super::{Port, net};
use crate::exec::MachineId;

/// The quality of all links that have none of their own.
pub fn set_usual(quality: Quality) {
    net().borrow_mut().links.usual = quality;
}

/// The quality of one direction; `None` makes it the usual one.
pub fn set_quality(from: MachineId, to: MachineId, quality: Option<Quality>) {
    net().borrow_mut().links.whole.entry((from, to)).or_default().quality = quality;
}

/// Cuts one direction, or mends one cut of it: cuts are counted, so that two faults that overlap
/// do not mend each other. What is on its way is lost, too.
pub fn cut(from: MachineId, to: MachineId, is: bool) {
    net().borrow_mut().links.whole.entry((from, to)).or_default().cut(is);
}

/// Whether a direction is cut now, for all traffic.
pub fn is_cut(from: MachineId, to: MachineId) -> bool {
    net().borrow().links.is_cut_whole(from, to)
}

/// Which kind of traffic a port is for. Replies and both directions of a stream are of the kind of
/// the port that was called.
pub fn set_lane(port: Port, lane: Lane) {
    net().borrow_mut().links.lanes.insert(port, lane);
}

/// The quality of one direction for one kind of traffic; `None` makes it that of the link.
pub fn set_lane_quality(from: MachineId, to: MachineId, lane: Lane, quality: Option<Quality>) {
    net().borrow_mut().links.part.entry((from, to, lane)).or_default().quality = quality;
}

/// Cuts one direction for one kind of traffic, or mends one cut of it. Cuts are counted.
pub fn cut_lane(from: MachineId, to: MachineId, lane: Lane, is: bool) {
    net().borrow_mut().links.part.entry((from, to, lane)).or_default().cut(is);
}

/// Mends all links.
pub fn mend_all() {
    let state = net();
    let mut state = state.borrow_mut();
    state.links.whole.clear();
    state.links.part.clear();
    state.links.usual = Quality::default();
}

/// A machine that is off answers nothing, not even that nobody listens, and sends nothing any more:
/// not what it had promised to deliver, and not that its processes have ended. To be said before
/// its scopes are killed.
pub fn set_off(machine: MachineId, is: bool) {
    net().borrow_mut().off.insert(machine, is);
}

/// Messages that were sent so far, and those of them that were lost.
pub fn counts() -> (u64, u64) {
    let state = net();
    let state = state.borrow();
    (state.sent, state.lost)
}
