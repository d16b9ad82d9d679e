//! Domain to protobuf: the only place that knows both.
//!
//! Owns the meaning of every field of `quorate.v1` that comes from the replicated state or from
//! observations. Pure: time comes in as a parameter. Imports `pb` and `domain`.

mod connection;
mod history;
mod membership;
mod operation;
mod rescue;
mod spec;
mod status;

use std::time::Duration;

use crate::domain::alarm::Alarm;
use crate::domain::sync::SyncConfig;
use crate::domain::types::Lsn;
use crate::pb::v1;

pub use connection::hosts;
pub use history::event;
pub use membership::{cluster_summary, removed_cluster};
pub use operation::{find_operation, latest_operation, operations};
pub use spec::{member_settings, spec, spec_change, spec_from, spec_revision};
pub use status::{Seen, cluster, summary};

/// Milliseconds of `d`, as far as they fit.
pub fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// A position as text; empty for the beginning of all, which stands for "not known".
fn lsn(position: Lsn) -> String {
    if position == Lsn(0) { String::new() } else { position.to_string() }
}

fn sync_config(config: &SyncConfig, streaming: Option<u32>) -> v1::SyncConfig {
    v1::SyncConfig {
        epoch: config.epoch.0,
        seq: config.seq,
        w: config.w,
        members: config.in_order().map(ToString::to_string).collect(),
        streaming,
        first: !config.order.is_empty(),
    }
}

fn alarm(alarm: &Alarm) -> v1::Alarm {
    v1::Alarm {
        code: alarm.code.name().to_owned(),
        subject: alarm.subject.clone(),
        text: alarm.text.clone(),
    }
}
