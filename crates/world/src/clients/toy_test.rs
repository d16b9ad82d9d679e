//! Clients against servers that are lists of rows: honest ones satisfy the judge, and each lie is
//! found.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex};

use super::*;
use crate::check::{Health, Rule};
use crate::exec::World;
use crate::net::Network;
use crate::schedule::{Guarantees, Workload};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    /// Every tenth write is acknowledged and not kept.
    Forgets,
    /// What is refused is done.
    DoesRefused,
    /// The standby takes writes, too.
    TwoWriters,
    /// The standby applies rows in the wrong order.
    OutOfOrder,
}

#[derive(Debug, Default)]
struct State {
    rows: Vec<u64>,
    sessions: BTreeSet<u64>,
    next: u64,
    down: bool,
}

/// Two servers; the first takes writes, and the second has its rows at once.
#[derive(Clone)]
struct Toy(Arc<Mutex<State>>, Lie);

impl Toy {
    fn alive(&self, session: u64) -> Result<(), Refused> {
        let state = self.0.lock().unwrap();
        if state.sessions.contains(&session) { Ok(()) } else { Err(Refused::Gone) }
    }
}

impl Servers for Toy {
    fn open(&self, _: Node, _: bool) -> Result<Backend, Refused> {
        let mut state = self.0.lock().unwrap();
        if state.down {
            return Err(Refused::Said("the database system is starting up".to_owned()));
        }
        state.next += 1;
        let session = state.next;
        state.sessions.insert(session);
        Ok(session)
    }

    fn role(&self, node: Node, session: Backend) -> Result<Role, Refused> {
        self.alive(session)?;
        let standby = node != 0 && self.1 != Lie::TwoWriters;
        Ok(Role { standby, read_only: standby, timeline: 2 })
    }

    fn rows(&self, node: Node, session: Backend) -> Result<(Role, Vec<(u64, u64)>), Refused> {
        let role = self.role(node, session)?;
        let mut rows = self.0.lock().unwrap().rows.clone();
        if node == 1 && self.1 == Lie::OutOfOrder && rows.len() > 5 {
            let earlier = rows.len() - 3;
            rows.remove(earlier);
        }
        Ok((role, rows.into_iter().map(|v| (v, v)).collect()))
    }

    async fn insert(&self, _: Node, session: Backend, value: u64) -> Result<Commit, Refused> {
        self.alive(session)?;
        exec::sleep(Duration::from_millis(1)).await;
        let mut state = self.0.lock().unwrap();
        if self.1 == Lie::Forgets && value % 10 == 9 {
            return Ok(Commit::Acknowledged(2));
        }
        state.rows.push(value);
        if self.1 == Lie::DoesRefused && value == 30 {
            return Ok(Commit::Refused("a read-only transaction".to_owned()));
        }
        Ok(Commit::Acknowledged(2))
    }

    fn cancel(&self, _: Node, _: Backend) {}

    fn close(&self, _: Node, session: Backend) {
        self.0.lock().unwrap().sessions.remove(&session);
    }

    fn ended(&self, node: Node, session: Backend) -> impl Future<Output = ()> + Send {
        let toy = self.clone();
        async move {
            while toy.role(node, session).is_ok() {
                exec::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

#[derive(Clone)]
struct Book(Arc<Mutex<Judge>>);

impl Notes for Book {
    fn judge<R>(&self, tell: impl FnOnce(&mut Judge) -> R) -> R {
        tell(&mut self.0.lock().unwrap())
    }

    fn tell(&self, _: Option<Node>, _: Option<Value>, text: impl FnOnce() -> String) {
        assert!(!text().is_empty());
    }
}

fn play(lie: Lie, trouble: bool) -> (Judge, Vec<Final>) {
    let world = World::new(1);
    let network = Network::new();
    let toy = Toy(Arc::default(), lie);
    let servers: Vec<(Node, MachineId)> =
        (0..2).map(|n| (n, world.machine(&format!("n{n}"), 0))).collect();
    for (node, machine) in &servers {
        attend(&toy, *node, *machine);
    }
    let all = Guarantees { one_writer: true, durable: true, heals: true, agreed: true, calm: None };
    let book = Book(Arc::new(Mutex::new(Judge::new(all))));
    let home = world.machine("clients", 0);
    let scope = world.scope(home, "clients");
    let workload = Workload { write_every_ms: 20, read_every_ms: 50, ..Workload::default() };
    let clients = Clients::start(scope, &workload, &servers, book.clone());
    if trouble {
        let state = toy.0.clone();
        // All sessions end, and for a while nobody is let in.
        exec::at(2_000_000_000, move || {
            let mut state = state.lock().unwrap();
            state.sessions.clear();
            state.down = true;
        });
        let state = toy.0.clone();
        exec::at(3_000_000_000, move || state.lock().unwrap().down = false);
        crate::net::cut(home, servers[1].1, true);
        exec::at(4_000_000_000, move || crate::net::cut(home, servers[1].1, false));
    }
    world.run_until(6_000_000_000, &mut || true);
    clients.stop_writers();
    world.run_until(9_000_000_000, &mut || true);
    assert_eq!(clients.writing(), 0);
    let finals = world.block_on(clients.ask_all()).unwrap();
    book.judge(|judge| judge.end(now(), &finals));
    drop(world);
    let _: Network = network;
    let judge = book.0.lock().unwrap().clone();
    assert_eq!(clients.acknowledged(), judge.counts().acknowledged);
    (judge, finals)
}

#[test]
fn honest_servers_satisfy_the_judge() {
    for trouble in [false, true] {
        let (judge, finals) = play(Lie::None, trouble);
        assert_eq!(judge.violation(), None);
        assert_eq!(Health::of(&finals), Health::Healed);
        let counts = judge.counts();
        assert!(counts.acknowledged > 400, "{counts:?}");
        assert_eq!(counts.refused, 0);
    }
}

#[test]
fn every_lie_is_found() {
    for (lie, rule) in [
        (Lie::Forgets, Rule::AcknowledgedKept),
        (Lie::DoesRefused, Rule::RefusedAbsent),
        (Lie::TwoWriters, Rule::EpochsInOrder),
        (Lie::OutOfOrder, Rule::InOrder),
    ] {
        let (judge, _) = play(lie, false);
        assert_eq!(judge.violation().map(|v| v.rule), Some(rule), "{lie:?}");
    }
}
