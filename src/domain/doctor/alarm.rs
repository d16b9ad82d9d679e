//! Alarms that hold, and what to do about each.

use super::{Diagnosis, Patient, Severity};
use crate::domain::alarm::{Alarm, AlarmCode, bounded};

/// Alarms of members that report are theirs; of others those that were agreed on last.
pub(super) fn alarms(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    for name in p.state.members.keys() {
        let held: Vec<&Alarm> = match p.report_of(name) {
            Some(observed) => {
                let agreed = p.state.alarms.get(name).into_iter().flatten();
                let by_leader = agreed.filter(|a| a.code == AlarmCode::CommitsWait);
                observed.report.alarms.iter().chain(by_leader).collect()
            }
            None => p.state.alarms.get(name).into_iter().flatten().collect(),
        };
        for alarm in held {
            // Room has a check of its own, with numbers.
            if matches!(alarm.code, AlarmCode::SpaceLow | AlarmCode::SpaceCritical)
                && p.report_of(name).is_some_and(|o| o.report.disks.data.is_some())
            {
                continue;
            }
            let what = format!("{name}: {}: {}", alarm.code.name(), bounded(&alarm.text));
            let one = Diagnosis::warning("member.alarm", what, todo(alarm.code));
            let one = Diagnosis { severity: severity(alarm.code), ..one };
            found.push(one.of(name, p.state));
        }
    }
}

fn severity(code: AlarmCode) -> Severity {
    match code {
        AlarmCode::SpaceCritical
        | AlarmCode::HeldConnection
        | AlarmCode::NewConnection
        | AlarmCode::LocalWrite
        | AlarmCode::WalMissing
        | AlarmCode::NoRoomForCopy
        | AlarmCode::CommitsWait
        | AlarmCode::ControllerDown
        | AlarmCode::PortTaken
        | AlarmCode::ArchiveFailing => Severity::Problem,
        _ => Severity::Warning,
    }
}

fn todo(code: AlarmCode) -> &'static str {
    match code {
        AlarmCode::SpaceLow | AlarmCode::SpaceCritical => "make room on that file system",
        AlarmCode::HeldConnection | AlarmCode::NewConnection | AlarmCode::Checkpointer => {
            "see whether the machine is overloaded or a disk hangs; where nothing moves any more \
             the member is given up by itself"
        }
        AlarmCode::LocalWrite => "see whether the disk of that node hangs (kernel's log, iostat)",
        AlarmCode::ConnectionsExhausted => {
            "let clients use a pool, end idle sessions, or raise max_connections"
        }
        AlarmCode::Impostor => "find out who connects under the name of a member, and stop it",
        AlarmCode::SettingsChanged => {
            "undo the change by hand; settings of the cluster belong into its specification"
        }
        AlarmCode::PendingRestart => "restart PostgreSQL: standbys first, then a switchover",
        AlarmCode::ParametersRefused => "put the parameters of the cluster's specification right",
        AlarmCode::NextStart => {
            "put it right on that node before its PostgreSQL is stopped: a certificate, a library, \
             a setting that waits for a restart"
        }
        AlarmCode::WalMissing => {
            "nothing, it is copied by itself; larger wal_keep_size or \
                                  max_slot_wal_keep_size prevent it"
        }
        AlarmCode::NoRoomForCopy => {
            "make room on that node, or remove data directories that were \
                                     kept aside"
        }
        AlarmCode::CommitsWait => "bring standbys back, or lower write_quorum_min",
        AlarmCode::UpstreamLost => "mend the member that it streams from, or change replicatefrom",
        AlarmCode::PortTaken => "free the port of `node.listen`, or name another address there",
        AlarmCode::ControllerDown => "mend the disk of the controller, then restart hanode there",
        AlarmCode::SlotHoldsWal => {
            "have its consumer read on, or drop it: SELECT pg_drop_replication_slot('name')"
        }
        AlarmCode::ArchiveFailing => {
            "mend archive_command or its target: WAL is kept until it is archived, and fills the \
             disk"
        }
        // Weakened commits, logical slots: the alarm names the command.
        _ => "do what the alarm says",
    }
}
