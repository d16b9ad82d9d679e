//! A few servers with a network that takes no time: for tests of single rules, one call after the
//! other.
//!
//! Every call returns once everything has happened that takes no time. What takes time happens with
//! [`Lab::advance`]. Servers are known by their names, which are their addresses as well.

mod calls;

pub use calls::Client;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::domain::types::{BootTime, SystemId};

use super::base::{Conn, Event, Outcome, Pace, Refused, Ticket};
use super::directory::DataDir;
use super::server::Server;
use super::stream::Wire;

/// What is on its way.
#[derive(Debug, Clone)]
enum Parcel {
    Wire(Wire),
    Close,
}

/// The two ends of a connection.
#[derive(Debug, Clone)]
struct Ends {
    dialler: String,
    other: String,
}

/// A few servers.
#[derive(Debug, Default)]
pub struct Lab {
    now: BootTime,
    servers: BTreeMap<String, Server>,
    ends: BTreeMap<Conn, Ends>,
    /// What is on its way, by connection and receiver.
    under_way: BTreeMap<(Conn, String), VecDeque<Parcel>>,
    cut: BTreeSet<(String, String)>,
    answers: BTreeMap<Ticket, Outcome>,
    tickets: Ticket,
    said: Vec<String>,
}

impl Lab {
    /// A lab without servers.
    pub fn new() -> Self {
        Self::default()
    }

    // ---- servers ----

    /// Adds a server without data.
    pub fn add(&mut self, name: &str) {
        let number = self.servers.len() as u32 + 1;
        self.servers.insert(name.to_owned(), Server::new(number, u64::from(number)));
    }

    /// Adds a server with a fresh data directory, and does not start it.
    pub fn initdb(&mut self, name: &str) {
        self.add(name);
        self.server_mut(name).set_dir(Some(DataDir::initdb(SystemId(7))));
    }

    /// A server, to look at.
    pub fn server(&self, name: &str) -> &Server {
        self.servers.get(name).unwrap_or_else(|| panic!("there is no server {name}"))
    }

    /// A server, to be changed past this lab. Call [`Lab::settle`] afterwards.
    pub fn server_mut(&mut self, name: &str) -> &mut Server {
        self.servers.get_mut(name).unwrap_or_else(|| panic!("there is no server {name}"))
    }

    fn dir_mut(&mut self, name: &str) -> &mut DataDir {
        self.server_mut(name).dir_mut().unwrap_or_else(|| panic!("{name} has no data directory"))
    }

    /// How long a server's work takes; nothing takes time where nothing is said.
    pub fn pace(&mut self, name: &str, pace: Pace) {
        self.server_mut(name).env_mut().pace = pace;
    }

    /// What servers have said that a log would hold.
    pub fn said(&self) -> &[String] {
        &self.said
    }

    /// The time.
    pub fn now(&self) -> BootTime {
        self.now
    }

    // ---- time and network ----

    /// Lets everything happen that takes no time.
    pub fn settle(&mut self) {
        loop {
            let names: Vec<String> = self.servers.keys().cloned().collect();
            let mut did = false;
            for name in &names {
                let now = self.now;
                self.server_mut(name).tick(now);
                for event in self.server_mut(name).take_events() {
                    did = true;
                    self.happened(name, event);
                }
            }
            did |= self.deliver();
            if !did {
                return;
            }
        }
    }

    /// Lets time pass, and everything happen that is due meanwhile.
    pub fn advance(&mut self, time: Duration) {
        let until = self.now.plus(time);
        loop {
            self.settle();
            let due = self.servers.values().filter_map(Server::due).min();
            match due {
                Some(at) if at <= until => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = until;
        self.settle();
    }

    /// Lets time pass until `wanted` holds, at most `limit`. Returns whether it does.
    pub fn until(&mut self, limit: Duration, mut wanted: impl FnMut(&Lab) -> bool) -> bool {
        let end = self.now.plus(limit);
        self.settle();
        while !wanted(self) {
            if self.now >= end {
                return false;
            }
            self.advance(Duration::from_millis(5));
        }
        true
    }

    fn happened(&mut self, name: &str, event: Event) {
        match event {
            Event::Dial { conn, address, hello } => {
                let ends = Ends { dialler: name.to_owned(), other: address.clone() };
                self.ends.insert(conn, ends);
                if self.is_cut(name, &address) {
                    return;
                }
                let now = self.now;
                let accepted = match self.servers.get_mut(&address) {
                    Some(server) => server.accept(now, conn, &hello),
                    None => Err(Refused::NotRunning),
                };
                if accepted == Err(Refused::NotRunning) {
                    self.server_mut(name).closed(now, conn);
                }
            }
            Event::Send { conn, wire } => self.post(name, conn, Parcel::Wire(wire)),
            Event::Close { conn } => self.post(name, conn, Parcel::Close),
            Event::Answered { ticket, outcome } => _ = self.answers.insert(ticket, outcome),
            Event::SessionEnded { .. }
            | Event::Empty
            | Event::GivenUp { .. }
            | Event::Streams { .. } => {}
            Event::Ended { how } => self.said.push(format!("{name}: {how}")),
            Event::Said { text } => self.said.push(format!("{name}: {text}")),
        }
    }

    fn post(&mut self, from: &str, conn: Conn, parcel: Parcel) {
        let Some(ends) = self.ends.get(&conn) else { return };
        let to = if ends.dialler == from { ends.other.clone() } else { ends.dialler.clone() };
        self.under_way.entry((conn, to)).or_default().push_back(parcel);
    }

    /// Delivers what was sent first of all that is not cut off. Returns whether there was anything.
    fn deliver(&mut self) -> bool {
        let now = self.now;
        let keys: Vec<(Conn, String)> = self.under_way.keys().cloned().collect();
        for (conn, to) in keys {
            let Some(ends) = self.ends.get(&conn) else { continue };
            let from = if ends.dialler == to { ends.other.clone() } else { ends.dialler.clone() };
            if self.is_cut(&from, &to) {
                continue;
            }
            let queue = self.under_way.get_mut(&(conn, to.clone()));
            let Some(parcel) = queue.and_then(VecDeque::pop_front) else { continue };
            let Some(server) = self.servers.get_mut(&to) else { continue };
            match parcel {
                Parcel::Wire(wire) if server.knows(conn) => server.receive(now, conn, wire),
                // The machine answers that it knows of no such connection.
                Parcel::Wire(_) => self.server_mut(&from).closed(now, conn),
                Parcel::Close => server.closed(now, conn),
            }
            return true;
        }
        self.under_way.retain(|_, queue| !queue.is_empty());
        false
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cut.contains(&(from.to_owned(), to.to_owned()))
    }

    /// Cuts the network between two servers, in both directions: nothing is lost, nothing comes.
    pub fn cut(&mut self, one: &str, two: &str) {
        self.cut.insert((one.to_owned(), two.to_owned()));
        self.cut.insert((two.to_owned(), one.to_owned()));
    }

    /// Cuts one direction.
    pub fn cut_one_way(&mut self, from: &str, to: &str) {
        self.cut.insert((from.to_owned(), to.to_owned()));
    }

    /// Joins it again.
    pub fn join(&mut self, one: &str, two: &str) {
        self.cut.remove(&(one.to_owned(), two.to_owned()));
        self.cut.remove(&(two.to_owned(), one.to_owned()));
        self.settle();
    }
}
