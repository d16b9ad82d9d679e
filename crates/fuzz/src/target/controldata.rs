//! The output of `pg_controldata`: `postgres::controldata::parse`.

use std::fmt::Write;

use crate::alloc;
use crate::domain::types::Lsn;
use crate::postgres::controldata::{ClusterState, ControlData, Error, FLOOR, parse};
use crate::postgres::wal::is_segment_size;

/// The output, as text.
pub fn run(bytes: &[u8]) {
    // The product reads it as this, too.
    let text = String::from_utf8_lossy(bytes);
    let bytes_max = 64 * 1024 + 64 * text.len();
    let data = match alloc::within(bytes_max, "pg_controldata", || parse(&text)) {
        Ok(data) => data,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let warned = text.lines().any(|line| line.starts_with("WARNING:"));
    assert!(!warned, "a control file is believed that the program warns of");
    assert!(is_segment_size(data.segment_bytes));
    assert!(data.newest_timeline() >= data.timeline);
    match parse(&printed(&data)) {
        Ok(again) => assert_eq!(again, data),
        Err(error) => panic!("{error} in what says the same: {data:?}"),
    }
    let damaged = format!("WARNING: Calculated CRC checksum does not match\n{text}");
    assert!(matches!(parse(&damaged), Err(Error::Corrupt { .. })));
}

/// As the program would print it.
fn printed(data: &ControlData) -> String {
    let state = match data.state {
        ClusterState::StartingUp => "starting up",
        ClusterState::ShutDown => "shut down",
        ClusterState::ShutDownInRecovery => "shut down in recovery",
        ClusterState::ShuttingDown => "shutting down",
        ClusterState::InCrashRecovery => "in crash recovery",
        ClusterState::InArchiveRecovery => "in archive recovery",
        ClusterState::InProduction => "in production",
    };
    let on = |b: bool, yes: &str, no: &str| if b { yes.to_owned() } else { no.to_owned() };
    let mut lines = vec![
        ("Catalog version number", data.catalog_version.to_string()),
        ("Database system identifier", data.system_id.to_string()),
        ("Database cluster state", state.to_owned()),
        ("Latest checkpoint location", data.checkpoint.to_string()),
        ("Latest checkpoint's REDO location", data.redo.to_string()),
        ("Latest checkpoint's TimeLineID", data.timeline.to_string()),
        ("Latest checkpoint's PrevTimeLineID", data.previous_timeline.to_string()),
        ("Minimum recovery ending location", data.min_recovery.to_string()),
        ("Min recovery ending loc's timeline", data.min_recovery_timeline.to_string()),
        ("Backup start location", Lsn(0).to_string()),
        ("End-of-backup record required", on(data.backup_end_required, "yes", "no")),
        ("wal_log_hints setting", on(data.wal_log_hints, "on", "off")),
        ("Bytes per WAL segment", data.segment_bytes.to_string()),
        ("Data page checksum version", data.checksum_version.to_string()),
    ];
    for (setting, line) in FLOOR {
        lines.push((line, data.floor[setting].to_string()));
    }
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{:<38}{value}", format!("{name}:"));
        text
    })
}
