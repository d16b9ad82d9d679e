//! Rules between the sections of a configuration.
//!
//! Owns uniqueness, relations and warnings. Imports domain types and the siblings only.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use super::error::Problem;
use super::{Config, Role, Synchronous};

/// Refuses the second of every pair that must differ.
struct Unique<K> {
    what: &'static str,
    mend: &'static str,
    first: BTreeMap<K, String>,
}

impl<K: Ord + Display> Unique<K> {
    fn new(what: &'static str, mend: &'static str) -> Self {
        Self { what, mend, first: BTreeMap::new() }
    }

    fn add(&mut self, item: K, key: String, problems: &mut Vec<Problem>) {
        if let Some(first) = self.first.get(&item) {
            let problem = format!("is the {} of {first} too", self.what);
            problems.push(Problem::new(key, &item, problem, self.mend));
        } else {
            self.first.insert(item, key);
        }
    }
}

/// Names, numbers, addresses, ports and directories that must not occur twice.
pub(super) fn uniqueness(config: &Config, problems: &mut Vec<Problem>) {
    let mut ids = Unique::new("id", "give every controller its own id");
    let mut names = Unique::new("name", "give every controller its own name");
    let mut addresses = Unique::new("address", "give every controller its own address");
    for (i, c) in config.controllers.iter().enumerate() {
        // By number: names may be what is doubled.
        let key = |k: &str| format!("controller[#{}].{k}", i + 1);
        ids.add(c.id, key("id"), problems);
        names.add(&c.name, key("name"), problems);
        addresses.add(&c.address, key("address"), problems);
    }

    let mut names = Unique::new("name", "give every cluster its own name");
    for (i, c) in config.clusters.iter().enumerate() {
        names.add(&c.name, format!("cluster[#{}].name", i + 1), problems);
        let mut slots = Unique::new("slot name", "'-' and '_' are one in slot names: rename one");
        for member in &c.bootstrap_members {
            let key = format!("cluster[{}].bootstrap_members, {member}", c.name);
            slots.add(member.slot_name(), key, problems);
        }
    }

    let mut names = Unique::new("name", "give every member of a cluster its own name");
    let mut ports = Unique::new("port", "give every server on this node its own port");
    ports.add(config.node.listen.port(), "node.listen".to_owned(), problems);
    let mut dirs: Vec<(String, &Path)> = vec![
        ("node.data_dir".to_owned(), &config.node.data_dir),
        ("node.run_dir".to_owned(), &config.node.run_dir),
    ];
    for (i, m) in config.members.iter().enumerate() {
        let key = |k: &str| format!("member[#{}].{k}", i + 1);
        names.add(format!("{}/{}", m.cluster, m.name), key("name"), problems);
        ports.add(m.address.port(), key("address"), problems);
        data_dir(&m.data_dir, key("data_dir"), &dirs, problems);
        dirs.push((key("data_dir"), &m.data_dir));
        for (name, dir) in [("log_dir", &m.log_dir), ("socket_dir", &m.socket_dir)] {
            if dir.starts_with(&m.data_dir) {
                let problem = "is inside data_dir: a rewind or a new copy would remove it";
                let mend = "choose a directory outside";
                problems.push(Problem::new(key(name), dir.display(), problem, mend));
            }
        }
    }
}

/// A PGDATA is replaced as a whole, so nothing else may be in it, and it in no other PGDATA. It may
/// lie below the node's own directories.
fn data_dir(dir: &Path, key: String, others: &[(String, &Path)], problems: &mut Vec<Problem>) {
    for (other_key, other) in others {
        let of_node = other_key.starts_with("node.");
        let problem = if dir == *other {
            format!("is {other_key} too")
        } else if other.starts_with(dir) {
            format!("contains {other_key} = {}", other.display())
        } else if !of_node && dir.starts_with(other) {
            format!("is inside {other_key} = {}", other.display())
        } else {
            continue;
        };
        let mend = "give every member a directory of its own, and nothing else in it";
        problems.push(Problem::new(key, dir.display(), problem, mend));
        return;
    }
}

/// What one section says of another.
pub(super) fn relations(config: &Config, problems: &mut Vec<Problem>) {
    controllers(config, problems);
    clusters(config, problems);
    members(config, problems);
}

fn controllers(config: &Config, problems: &mut Vec<Problem>) {
    let node = &config.node;
    let mut refuse = |key: &str, value: &dyn Display, problem: String, mend: &str| {
        problems.push(Problem::new(key, value, problem, mend));
    };
    if config.controllers.is_empty() {
        let mend = "add a section [[controller]] with id, name and address for each";
        refuse("controller", &"", "is missing: the control plane has no voter".into(), mend);
        return;
    }
    let same = |c: &&super::Controller| Some(c.id) == config.raft.node_id;
    let named = config.controllers.iter().find(|c| c.name == node.name);
    if config.has_role(Role::Controller) {
        match (config.raft.node_id, config.controllers.iter().find(same)) {
            (None, _) => {
                let mend = "add node_id under [raft], the id of this node's [[controller]]";
                refuse("raft.node_id", &"", "is missing on a controller".into(), mend);
            }
            (Some(id), None) => {
                let mend =
                    "add this node to the [[controller]] list on every node, or correct node_id";
                refuse("raft.node_id", &id, "is the id of no [[controller]]".into(), mend);
            }
            (Some(id), Some(c)) => {
                if c.name != node.name {
                    let problem =
                        format!("is not the name of controller {id}, which is {}", c.name);
                    let mend = "correct raft.node_id or node.name";
                    refuse("node.name", &node.name, problem, mend);
                }
                if c.address != node.advertise {
                    let problem =
                        format!("is not the address of controller {id}, which is {}", c.address);
                    let mend = "make both equal, on every node";
                    refuse("node.advertise", &node.advertise, problem, mend);
                }
            }
        }
    } else {
        if let Some(id) = config.raft.node_id {
            let mend = "remove it, or add \"controller\" to node.roles";
            refuse("raft.node_id", &id, "is given on a node that is no controller".into(), mend);
        }
        if let Some(c) = named {
            let problem = format!("is controller {}, but roles does not say so", c.id);
            let mend = "add \"controller\" to node.roles, or rename the node";
            refuse("node.name", &node.name, problem, mend);
        }
        for c in config.controllers.iter().filter(|c| c.address == node.advertise) {
            let problem = format!("is the address of controller {} too", c.name);
            refuse("node.advertise", &node.advertise, problem, "correct one of them");
        }
    }
    // Other machines cannot reach a loopback address, so a mixture can never work.
    let loopback = config.controllers.iter().find(|c| c.address.is_loopback());
    let outside = config.controllers.iter().find(|c| !c.address.is_loopback());
    if let (Some(l), Some(o)) = (loopback, outside) {
        let problem =
            format!("is reachable on one machine only, but {} is at {}", o.name, o.address);
        let key = format!("controller[{}].address", l.name);
        refuse(&key, &l.address, problem, "write an address that all nodes reach");
    }
}

fn clusters(config: &Config, problems: &mut Vec<Problem>) {
    for c in &config.clusters {
        cluster(c, problems);
    }
}

/// How the values of one cluster go together.
pub(super) fn cluster(c: &super::Cluster, problems: &mut Vec<Problem>) {
    if c.write_quorum_min > c.write_quorum {
        let key = format!("cluster[{}].write_quorum_min", c.name);
        let problem = format!("is above write_quorum, which is {}", c.write_quorum);
        let mend = format!("write {} or less", c.write_quorum);
        problems.push(Problem::new(key, c.write_quorum_min, problem, mend));
    }
    if c.synchronous != Synchronous::Async && c.max_lag_bytes.is_some() {
        let key = format!("cluster[{}].max_lag_bytes", c.name);
        let problem = "means nothing where commits wait for standbys: none is lost";
        let mend = "remove it, or write synchronous = \"async\"";
        problems.push(Problem::new(key, "", problem, mend));
    }
    let key = format!("cluster[{}].write_quorum", c.name);
    let standbys = c.bootstrap_members.len().saturating_sub(1);
    let (problem, mend) = match c.synchronous {
        Synchronous::Quorum | Synchronous::Priority if c.write_quorum == 0 => (
            "is 0, which acknowledges without a standby".to_owned(),
            "write 1 or more, or synchronous = \"async\"".to_owned(),
        ),
        Synchronous::Quorum | Synchronous::Priority if c.write_quorum as usize > standbys => (
            format!(
                "is above the number of standbys, {} bootstrap members - 1 primary = {standbys}: no commit would be acknowledged",
                c.bootstrap_members.len()
            ),
            match standbys {
                0 => "add members, or write synchronous = \"async\"".to_owned(),
                n => format!("write {n} or less, or add members"),
            },
        ),
        Synchronous::Async if c.write_quorum > 0 => (
            "means nothing with synchronous = \"async\"".to_owned(),
            "remove it, or write synchronous = \"quorum\"".to_owned(),
        ),
        _ => return,
    };
    problems.push(Problem::new(key, c.write_quorum, problem, mend));
}

fn members(config: &Config, problems: &mut Vec<Problem>) {
    let agent = config.has_role(Role::Agent);
    if agent && config.members.is_empty() {
        let mend = "add a section [[member]], or remove \"agent\" from node.roles";
        problems.push(Problem::new("member", "", "is missing on a node with the role agent", mend));
    }
    if !agent && !config.members.is_empty() {
        let mend = "add \"agent\" to node.roles, or remove the sections [[member]]";
        let problem = "is given on a node without the role agent, which would not run it";
        problems.push(Problem::new("member", "", problem, mend));
    }
    for m in &config.members {
        let key = m.key();
        let Some(cluster) = config.cluster(&m.cluster) else {
            let known: Vec<_> = config.clusters.iter().map(|c| c.name.as_str()).collect();
            let mend = format!(
                "add a section [[cluster]] with this name, the same on every node; known here: {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            );
            let key = format!("{key}.cluster");
            problems.push(Problem::new(key, &m.cluster, "is not a cluster of this file", mend));
            continue;
        };
        // A member that joins later must not take the slot of one that is there.
        let slot = m.name.slot_name();
        let twin =
            cluster.bootstrap_members.iter().find(|b| **b != m.name && b.slot_name() == slot);
        if let Some(twin) = twin {
            let problem = format!("has the slot name {slot}, as member {twin} has");
            let key = format!("{key}.name");
            problems.push(Problem::new(key, &m.name, problem, "rename one of them"));
        }
    }
}

/// What is allowed and may still be a mistake.
pub(super) fn warnings(config: &Config) -> Vec<Problem> {
    let mut out = Vec::new();
    let mut warn = |key: String, value: &dyn Display, problem: String, mend: &str| {
        out.push(Problem::new(key, value, problem, mend));
    };
    let n = config.controllers.len();
    if n.is_multiple_of(2) {
        let problem = format!(
            "{n} controllers survive the loss of {}, no more than {} would",
            (n - 1) / 2,
            n - 1
        );
        warn("controller".into(), &n, problem, "use an odd number; a witness is enough");
    }
    for c in config.clusters.iter().filter(|c| c.failsafe && c.bootstrap_members.len() < 2) {
        let problem = "has no other member to ask, so it holds from the next epoch after one joins";
        let key = format!("cluster[{}].failsafe", c.name);
        warn(key, &true, problem.into(), "nothing, if members are to join");
    }
    for m in &config.members {
        let Some(cluster) = config.cluster(&m.cluster) else { continue };
        if !cluster.bootstrap_members.contains(&m.name) {
            let problem = "is not among the bootstrap members: it joins once the cluster has data";
            warn(format!("{}.name", m.key()), &m.name, problem.into(), "nothing, if that is meant");
        }
        let twins = config.members.iter().filter(|o| o.cluster == m.cluster).count();
        if twins > 1 {
            let problem = format!("has {twins} members on this node, which fail together");
            warn(format!("{}.cluster", m.key()), &m.cluster, problem, "spread them over nodes");
        }
        if m.fencing == super::Fencing::BestEffort {
            let problem = "allows two primaries for a time where the node is stuck".to_owned();
            let key = format!("{}.fencing", m.key());
            warn(key, &"\"best-effort\"", problem, "write \"required\" where the kernel allows it");
        }
    }
    out
}
