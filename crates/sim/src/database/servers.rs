//! Sessions of applications, and what checkers may know.
//!
//! Owns how a server looks to who is connected to it.

use std::sync::Arc;

use quorate_world::check::Value;
use quorate_world::clients::{Backend, Commit, Refused, Role, Servers};
use quorate_world::pg::{self, Outcome};
use quorate_world::schedule::Node;
use tokio::sync::Notify;

use super::Databases;
use super::machine::Machine;
use crate::run::play;

fn refused(why: pg::Refused) -> Refused {
    match why {
        pg::Refused::Silent => Refused::Silent,
        pg::Refused::NoSession => Refused::Gone,
        other => Refused::Said(other.to_string()),
    }
}

/// The role that a session shows.
fn role(server: &pg::Server, session: Backend) -> Result<Role, Refused> {
    if server.stopped().all {
        return Err(Refused::Silent);
    }
    let run = server.run().ok_or(Refused::Gone)?;
    let found = run.sessions.get(&session).ok_or(Refused::Gone)?;
    let standby = run.startup.is_some();
    let timeline = run.startup.as_ref().map_or(run.log.timeline, |s| s.replay_timeline);
    Ok(Role {
        standby,
        read_only: standby || found.read_only.unwrap_or(found.conf.read_only),
        timeline: u64::from(timeline.0),
    })
}

impl Databases {
    fn of(&self, node: Node) -> Result<Machine, Refused> {
        self.machine(node).ok_or_else(|| Refused::Said("connection refused".to_owned()))
    }
}

impl Servers for Databases {
    fn open(&self, node: Node, rude: bool) -> Result<Backend, Refused> {
        self.of(node)?.with(|inner, now| {
            let session = inner.host.server.connect(now, "client").map_err(refused)?;
            if rude {
                inner.host.server.set_read_only(session, false).map_err(refused)?;
            }
            inner.sessions.insert(session, Arc::new(Notify::new()));
            Ok(session)
        })
    }

    fn role(&self, node: Node, session: Backend) -> Result<Role, Refused> {
        role(&self.of(node)?.lock().host.server, session)
    }

    fn rows(&self, node: Node, session: Backend) -> Result<(Role, Vec<(Value, Value)>), Refused> {
        let machine = self.of(node)?;
        let inner = machine.lock();
        let role = role(&inner.host.server, session)?;
        let rows = inner.host.server.rows().map_err(refused)?;
        Ok((role, rows.ranges().to_vec()))
    }

    async fn insert(&self, node: Node, session: Backend, value: Value) -> Result<Commit, Refused> {
        let machine = self.of(node)?;
        // What processes do that are stopped, they do when they go on.
        machine.awake().await;
        let (done, timeline) = machine.with(|inner, now| {
            let (ticket, done) = Machine::ticket(inner);
            let timeline = inner.host.server.run().map_or(0, |run| run.log.timeline.0);
            inner.host.server.write(now, session, value, ticket);
            (done, u64::from(timeline))
        });
        match done.await {
            Ok(Outcome::Acknowledged) => Ok(Commit::Acknowledged(timeline)),
            Ok(Outcome::AckedWithWarning) => Ok(Commit::Unconfirmed),
            Ok(Outcome::Refused(pg::Refused::NoSession)) => Err(Refused::Gone),
            Ok(Outcome::Refused(why)) => Ok(Commit::Refused(why.to_string())),
            // Nobody is told any more.
            Ok(Outcome::Lost) | Err(_) => Err(Refused::Gone),
        }
    }

    fn cancel(&self, node: Node, session: Backend) {
        if let Ok(machine) = self.of(node) {
            machine.with(|inner, now| inner.host.server.cancel(now, session));
        }
    }

    fn close(&self, node: Node, session: Backend) {
        if let Ok(machine) = self.of(node) {
            machine.with(|inner, now| {
                inner.sessions.remove(&session);
                inner.host.server.disconnect(now, session);
            });
        }
    }

    async fn ended(&self, node: Node, session: Backend) {
        let Ok(machine) = self.of(node) else { return };
        let ended = machine.lock().sessions.get(&session).cloned();
        if let Some(ended) = ended {
            ended.notified().await;
        }
    }
}

impl play::Databases for Databases {
    fn writers(&self) -> Vec<(Node, u64)> {
        let machines = super::lock(&self.machines);
        machines.iter().filter_map(|(node, m)| Some((*node, m.writes()?))).collect()
    }

    fn take_cancelled(&self) -> Vec<Value> {
        self.registry.take_cancelled()
    }
}
