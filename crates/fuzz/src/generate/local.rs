//! What a member is, as its agent knows it.

use super::{epoch, guard, lsn, sealed, system_id};
use crate::domain::ClusterState;
use crate::domain::lease::HolderLease;
use crate::domain::observation::{Confirmed, Data};
use crate::domain::reconcile::{Local, Process};
use crate::domain::record::{DataMark, MemberRecord};
use crate::domain::types::{BootTime, ClusterName, Epoch, MemberName};
use crate::input::Input;

/// What `member` may be while the cluster's state is `state`.
pub fn local(
    input: &mut Input<'_>,
    cluster: &ClusterName,
    state: &ClusterState,
    member: &MemberName,
    now: BootTime,
) -> Local {
    let guard = match &state.tenure {
        Some(t) if !input.stray() => t.guard.clone(),
        _ => guard(input),
    };
    let record = MemberRecord {
        cluster: cluster.clone(),
        member: member.clone(),
        system_id: input.option(system_id),
        promised: epoch(input, state.epoch),
        held: epoch(input, state.epoch),
        ended: if input.stray() { epoch(input, state.epoch) } else { Epoch(0) },
        data: match input.byte() {
            0..=159 => DataMark::Intact,
            160..=179 => DataMark::Initialising,
            180..=199 => DataMark::Replacing,
            200..=229 => {
                let until = input.option(lsn);
                DataMark::Copied { source: epoch(input, state.epoch), until }
            }
            _ => DataMark::Foreign,
        },
        running: input.option(|_| guard.clone()),
        emptied: Vec::new(),
        copied_for: if input.stray() { input.number(1) } else { 0 },
        bootstrap_hook: input.stray(),
        generation: Default::default(),
        life: if input.stray() { input.number(1) } else { 0 },
        users_from: if input.stray() { epoch(input, state.epoch) } else { Epoch(0) },
    };
    let of = epoch(input, state.epoch);
    let lease = input.option(|i| HolderLease {
        epoch: epoch(i, state.epoch),
        stop_at: BootTime::from_nanos(i.number(now.as_nanos())),
        kill_at: BootTime::from_nanos(i.number(now.as_nanos())),
    });
    let bits = input.byte();
    Local {
        record,
        data: match input.byte() {
            0..=199 => Data::Present { system_id: system_id(input) },
            200..=229 => Data::Empty,
            230..=239 => Data::Unknown,
            _ => Data::Incomplete,
        },
        guard: if input.stray() { None } else { Some(guard) },
        process: match input.below(8) {
            0 | 1 => Process::Down,
            2 => Process::Ending,
            3 | 4 => Process::Sealed {
                promise: of,
                position: input.option(|i| sealed(i, state, member.clone())),
            },
            5 => {
                let address = match &state.tenure {
                    Some(t) => format!("{}:5432", t.member),
                    None => String::new(),
                };
                Process::Following { epoch: of, address }
            }
            _ => Process::Primary {
                epoch: of,
                promoted: input.flag(),
                confirmed: input
                    .option(|_| Confirmed { syncs: state.syncs.clone(), postmaster_start_us: 1 }),
                writes_open: input.flag(),
            },
        },
        lease,
        hung: bits & 1 != 0,
        rewind_failed: bits & 2 != 0,
        source_lacks_wal: bits & 4 != 0,
        unstartable: bits & 8 != 0,
        consistent: bits & 16 == 0,
        upstream_lost: bits & 32 != 0,
        no_part_until: BootTime::from_nanos(if input.stray() { u64::MAX } else { 0 }),
    }
}
