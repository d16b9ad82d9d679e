//! What is wrong with the node itself. Its members report it, since operators look at them.

use std::sync::Arc;

use crate::domain::alarm::{Alarm, AlarmCode};
use crate::watch;

/// Alarms of the node, from several places. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct NodeAlarms(Arc<watch::Sender<Vec<Alarm>>>);

impl NodeAlarms {
    /// None yet.
    pub(super) fn new() -> (Self, watch::Receiver<Vec<Alarm>>) {
        let (sender, receiver) = watch::channel(Vec::new());
        (Self(Arc::new(sender)), receiver)
    }

    /// Makes the alarms of these kinds be exactly `wanted`.
    pub(super) fn set(&self, codes: &[AlarmCode], wanted: Vec<Alarm>) {
        self.0.send_if_modified(|all| {
            let before = all.clone();
            all.retain(|alarm| !codes.contains(&alarm.code));
            all.extend(wanted);
            *all != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_take_each_others_alarms_away() {
        let (alarms, mut seen) = NodeAlarms::new();
        let low = Alarm::about(AlarmCode::SpaceLow, "/raft", "low");
        let down = Alarm::new(AlarmCode::ControllerDown, "down");
        let space = [AlarmCode::SpaceLow, AlarmCode::SpaceCritical];
        alarms.set(&space, vec![low.clone()]);
        alarms.set(&[AlarmCode::ControllerDown], vec![down.clone()]);
        assert_eq!(*seen.borrow_and_update(), [low, down.clone()]);
        alarms.set(&[AlarmCode::ControllerDown], vec![down.clone()]);
        assert!(!seen.has_changed());
        alarms.set(&space, Vec::new());
        assert_eq!(*seen.borrow_and_update(), [down]);
    }
}
