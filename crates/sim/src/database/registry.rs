//! What all machines share: who is where, and what travels as a value.
//!
//! The simulated network carries bytes, and decides what is late or lost. Values that are large or
//! have no encoding stay here meanwhile, and the bytes name them.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_world::exec::MachineId;
use quorate_world::pg::Conn;
use quorate_world::pg::stream::{Hello, Wire};

type Value = Box<dyn Any + Send>;

/// Which way a message goes on a replication connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// From who dialled.
    There,
    /// To who dialled.
    Back,
}

#[derive(Default)]
struct Inner {
    hosts: BTreeMap<String, MachineId>,
    hellos: BTreeMap<Conn, Hello>,
    wires: BTreeMap<(Conn, Way), VecDeque<Wire>>,
    values: BTreeMap<u64, Value>,
    next: u64,
    cancelled: Vec<u64>,
}

/// What all machines share. Clones are handles of one registry.
#[derive(Clone, Default)]
pub(super) struct Registry(Arc<Mutex<Inner>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this host is on this machine.
    pub fn host(&self, host: &str, machine: MachineId) {
        self.lock().hosts.insert(host.to_owned(), machine);
    }

    /// The machine of a `host:port`.
    pub fn find(&self, address: &str) -> Option<MachineId> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        self.lock().hosts.get(host).copied()
    }

    /// Keeps a value until it is taken; returns its number.
    pub fn put<T: Any + Send>(&self, value: T) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        inner.values.insert(number, Box::new(value));
        number
    }

    /// Takes a value out.
    pub fn take<T: Any + Send>(&self, number: u64) -> Option<T> {
        let value = self.lock().values.remove(&number)?;
        value.downcast().ok().map(|value| *value)
    }

    /// The waits of these rows' commits were given up.
    pub fn cancelled(&self, rows: Vec<u64>) {
        self.lock().cancelled.extend(rows);
    }

    /// Those rows since this was asked last.
    pub fn take_cancelled(&self) -> Vec<u64> {
        std::mem::take(&mut self.lock().cancelled)
    }

    pub fn put_hello(&self, conn: Conn, hello: Hello) {
        self.lock().hellos.insert(conn, hello);
    }

    pub fn take_hello(&self, conn: Conn) -> Option<Hello> {
        self.lock().hellos.remove(&conn)
    }

    /// Puts a message behind those that are on their way.
    pub fn post(&self, conn: Conn, way: Way, wire: Wire) {
        self.lock().wires.entry((conn, way)).or_default().push_back(wire);
    }

    /// Takes the one that arrives.
    pub fn arrive(&self, conn: Conn, way: Way) -> Option<Wire> {
        self.lock().wires.get_mut(&(conn, way))?.pop_front()
    }

    /// Nobody reads these any more.
    pub fn forget(&self, conn: Conn, way: Way) {
        self.lock().wires.remove(&(conn, way));
    }
}
