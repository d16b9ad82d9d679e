//! What is wrong with a node itself: its members report it.

use std::sync::Arc;

use crate::domain::alarm::{Alarm, AlarmCode};
use crate::watch;

/// Alarms of the node. Clones share them.
#[derive(Debug, Clone)]
pub struct NodeAlarms(Arc<watch::Sender<Vec<Alarm>>>);

impl NodeAlarms {
    /// None yet.
    pub fn new() -> (Self, watch::Receiver<Vec<Alarm>>) {
        let (sender, receiver) = watch::channel(Vec::new());
        (Self(Arc::new(sender)), receiver)
    }

    /// Makes the alarms of this kind be exactly `wanted`.
    pub fn set(&self, code: AlarmCode, wanted: Vec<Alarm>) {
        self.0.send_if_modified(|all| {
            let before = all.clone();
            all.retain(|alarm| alarm.code != code);
            all.extend(wanted);
            *all != before
        });
    }
}
