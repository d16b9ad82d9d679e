//! Applications that write rows.
//!
//! Owns how they find a server, and what they make of an answer, or of none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft_rt::AsyncRuntime as _;

use super::link::{Link, NoAnswer};
use super::wire::{Answer, Request, Role};
use super::{Notes, Shared, now};
use crate::check::{Outcome, Session};
use crate::exec::{self, SimRuntime};
use crate::schedule::Node;

/// How a writer connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A new connection for every row, to the first of all hosts that takes writes.
    Fresh,
    /// One connection for as long as it lasts, to the first of all hosts that takes writes.
    Held,
    /// One connection to one host for as long as it lasts, and rows whenever that takes them: it
    /// shows who would acknowledge a write, whatever clients are steered to.
    Probe {
        /// Which of the servers.
        server: usize,
        /// Whether it sets its session to be writable.
        rude: bool,
    },
}

/// An open session to a server.
struct Open {
    link: Link,
    node: Node,
    session: Session,
    role: Role,
}

/// A host is given up after this long: then the next is tried.
const HOST: Duration = Duration::from_millis(600);

/// Writes until it is told to stop. `turn` tells writers of one kind apart.
pub(super) async fn run<N: Notes>(shared: Arc<Shared<N>>, kind: Kind, turn: u64) {
    let every = Duration::from_millis(shared.workload.write_every_ms.max(1));
    let mut rng = exec::stream(&format!("writer/{turn}"));
    let mut held: Option<Open> = None;
    while !shared.stopped() {
        let open = match held.take().filter(|open| !open.link.is_closed()) {
            Some(open) => Some(open),
            None => find(&shared, kind, turn).await,
        };
        if let Some(mut open) = open
            && write(&shared, kind, &mut open, rng.below(4) == 0).await
            && kind != Kind::Fresh
        {
            held = Some(open);
        }
        // Not in step with the others.
        let nanos = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        SimRuntime::sleep(Duration::from_nanos(nanos / 2 + rng.below(nanos))).await;
    }
    shared.writing.fetch_sub(1, Ordering::Relaxed);
}

/// Connects to the host, or to the first of all that takes writes.
async fn find<N: Notes>(shared: &Arc<Shared<N>>, kind: Kind, turn: u64) -> Option<Open> {
    let all = &shared.servers;
    let (begin, count, rude) = match kind {
        Kind::Probe { server, rude } => (server, 1, rude),
        Kind::Fresh | Kind::Held => (turn as usize, all.len(), false),
    };
    for i in 0..count {
        let (node, machine) = all[(begin + i) % all.len()];
        let Ok((link, role)) = Link::open(machine, rude, HOST).await else { continue };
        if role.open().is_none() && !matches!(kind, Kind::Probe { .. }) {
            continue;
        }
        let session = shared.notes.judge(|judge| judge.connect());
        return Some(Open { link, node, session, role });
    }
    None
}

/// Writes one row, if the server takes any. Returns whether the connection can be used again.
async fn write<N: Notes>(
    shared: &Arc<Shared<N>>,
    kind: Kind,
    open: &mut Open,
    cancels: bool,
) -> bool {
    if let Kind::Probe { .. } = kind {
        match open.link.ask(&Request::Role, shared.patience()).await {
            Ok(Answer::Role(role)) => open.role = role,
            _ => return false,
        }
        if open.role.open().is_none() {
            return true;
        }
    }
    let Open { link, node, session, .. } = open;
    let value = shared.notes.judge(|judge| judge.begin_write(now(), *session));
    let mut answer = link.ask(&Request::Insert(value), shared.patience()).await;
    // Some clients cancel what takes too long, and listen once more.
    if answer == Err(NoAnswer::InTime) && cancels {
        link.cancel();
        answer = link.answer(HOST).await;
    }
    let (outcome, again) = match answer {
        Ok(Answer::Acknowledged(epoch)) => {
            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            (Outcome::Acknowledged { node: *node, epoch }, true)
        }
        Ok(Answer::Unconfirmed) => (Outcome::Unconfirmed, true),
        Ok(Answer::Refused(_)) => (Outcome::Refused, true),
        Ok(_) | Err(_) => (Outcome::Unknown, false),
    };
    shared.notes.judge(|judge| judge.end_write(now(), value, outcome));
    shared.notes.tell(Some(*node), Some(value), || match (outcome, answer) {
        (Outcome::Acknowledged { epoch, .. }, _) => {
            format!("write {value} is acknowledged in epoch {epoch}")
        }
        (Outcome::Unconfirmed, _) => format!("write {value} is done, without confirmation"),
        (_, Ok(Answer::Refused(why))) => format!("write {value} is refused: {why}"),
        (_, Err(NoAnswer::InTime)) => format!("write {value} is not answered in time"),
        _ => format!("write {value} is not answered: the connection has ended"),
    });
    again
}
