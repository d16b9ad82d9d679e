//! Applications that read all rows, again and again.
//!
//! Owns how long they keep a connection: some reads in a row, so that a session can be seen to go
//! back, and then a new one, so that it finds what new sessions find.

use std::sync::Arc;
use std::time::Duration;

use openraft_rt::AsyncRuntime as _;

use super::link::Link;
use super::wire::{Answer, Request, Role};
use super::{Notes, Shared, now};
use crate::check::{Read, Session, Value};
use crate::exec::{self, MachineId, SimRuntime};
use crate::schedule::Node;

/// Most reads on one connection.
const READS_MAX: u64 = 8;
/// A host that does not let one in is asked again after this long.
const HOST: Duration = Duration::from_millis(600);

/// Reads for ever.
pub(super) async fn run<N: Notes>(
    shared: Arc<Shared<N>>,
    node: Node,
    machine: MachineId,
    turn: u64,
) {
    let every = Duration::from_millis(shared.workload.read_every_ms.max(1));
    let mut rng = exec::stream(&format!("reader/{turn}"));
    loop {
        SimRuntime::sleep(every.mul_f64(0.5)).await;
        let Ok((link, _)) = Link::open(machine, false, HOST).await else { continue };
        let session = shared.notes.judge(|judge| judge.connect());
        for _ in 0..=rng.below(READS_MAX) {
            if !read(&shared, node, &link, session).await {
                break;
            }
            SimRuntime::sleep(every).await;
        }
        shared.notes.judge(|judge| judge.disconnect(session));
    }
}

async fn read<N: Notes>(shared: &Shared<N>, node: Node, link: &Link, session: Session) -> bool {
    let begun = now();
    let Ok(Answer::Rows(role, rows)) = link.ask(&Request::Rows, shared.patience()).await else {
        return false;
    };
    let read = Read { session, node, begun, ended: now(), open: role.open(), rows };
    shared.notes.judge(|judge| judge.read(&read));
    true
}

/// Reads once, on a new connection.
pub(super) async fn once(
    machine: MachineId,
    patience: Duration,
) -> Result<(Role, Vec<(Value, Value)>), String> {
    let (link, _) = Link::open(machine, false, patience).await?;
    match link.ask(&Request::Rows, patience).await {
        Ok(Answer::Rows(role, rows)) => Ok((role, rows)),
        Ok(Answer::Refused(why)) => Err(why),
        Ok(_) => Err("a strange answer".to_owned()),
        Err(_) => Err("no answer to a read".to_owned()),
    }
}
