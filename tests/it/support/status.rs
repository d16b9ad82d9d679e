//! `hactl status -o json`, as far as tests ask for it.

use serde_json::Value;

/// One answer.
#[derive(Debug, Clone)]
pub struct Status(pub Value);

/// One member of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// `primary`, `standby`, `sealed`, `down`, ...
    pub role: String,
    /// Whether it streams from the current primary.
    pub streaming: bool,
    /// Whether its data counts for a takeover.
    pub counts: bool,
    /// Whether commits may wait for it, by its tags, while it streams from the primary.
    pub confirms: bool,
    /// Whom it is to stream from instead of the primary.
    pub replicatefrom: Option<String>,
    /// `reporting`, `silent`, ...
    pub reachability: String,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

impl MemberStatus {
    /// Whether commits of this primary may wait for it, by its tags.
    fn confirms_to(&self, primary: &str) -> bool {
        self.confirms && self.replicatefrom.as_deref().is_none_or(|from| from == primary)
    }
}

impl Status {
    /// The cluster.
    pub fn cluster(&self) -> &Value {
        &self.0["clusters"][0]
    }

    /// Whether the leader answered.
    pub fn is_leaders(&self) -> bool {
        self.0["from_leader"] == true
    }

    /// Name of the node that leads the control plane.
    pub fn raft_leader(&self) -> Option<String> {
        text(&self.0["raft"]["leader"])
    }

    /// The highest granted epoch.
    pub fn epoch(&self) -> u64 {
        self.cluster()["epoch"].as_u64().unwrap_or(0)
    }

    /// The member that is open for writes.
    pub fn primary(&self) -> Option<String> {
        text(&self.cluster()["primary"])
    }

    /// Who holds the highest epoch, and how far it has come.
    pub fn tenure(&self) -> (String, String) {
        let tenure = &self.cluster()["tenure"];
        let or_empty = |v| text(v).unwrap_or_default();
        (or_empty(&tenure["member"]), or_empty(&tenure["stage"]))
    }

    /// Whether the highest epoch is over.
    pub fn is_closed(&self) -> bool {
        !self.cluster()["tenure"]["closed"].is_null()
    }

    /// The system identifier.
    pub fn system_id(&self) -> Option<String> {
        text(&self.cluster()["system_id"])
    }

    /// The members by name.
    pub fn members(&self) -> Vec<MemberStatus> {
        let list = self.cluster()["members"].as_array().cloned().unwrap_or_default();
        list.iter().map(member).collect()
    }

    /// One member.
    pub fn member(&self, name: &str) -> Option<MemberStatus> {
        self.members().into_iter().find(|m| m.name == name)
    }

    /// The standbys that count for commits, of the newest configuration.
    pub fn synchronous(&self) -> Vec<String> {
        let syncs = self.cluster()["syncs"].as_array().cloned().unwrap_or_default();
        let members = syncs.last().and_then(|s| s["members"].as_array().cloned());
        members.unwrap_or_default().iter().filter_map(text).collect()
    }

    /// What stands against calling a cluster of `count` members healthy: one open primary, all
    /// others streaming, proven and counted, and nothing under way.
    pub fn unhealthy(&self, count: usize) -> Option<String> {
        let refuse = |why: &str| Some(why.to_owned());
        if !self.is_leaders() {
            return refuse("no leader answers");
        }
        let Some(primary) = self.primary() else { return refuse("there is no primary") };
        if self.is_closed() || self.tenure() != (primary.clone(), "active".to_owned()) {
            return refuse("the epoch is not active");
        }
        if !self.cluster()["operation"].is_null() {
            return refuse("an operation is under way");
        }
        let members = self.members();
        if members.len() != count {
            return Some(format!("{} members are listed", members.len()));
        }
        for m in &members {
            let fit = match m.name == primary {
                true => m.role == "primary",
                false => m.role == "standby" && m.streaming,
            };
            if !fit || !m.counts || m.reachability != "reporting" {
                return Some(format!("{m:?}"));
            }
        }
        let syncs = self.cluster()["syncs"].as_array().map_or(0, Vec::len);
        let asynchronous = self.cluster()["sync_policy"]["mode"] == "async";
        let others =
            members.iter().filter(|m| m.name != primary && m.confirms_to(&primary)).count();
        let counted = if asynchronous { 0 } else { others };
        if syncs != 1 || self.synchronous().len() != counted {
            return Some(format!("the synchronous standbys are {}", self.cluster()["syncs"]));
        }
        None
    }
}

fn member(value: &Value) -> MemberStatus {
    let or_empty = |v| text(v).unwrap_or_default();
    let problems = value["problems"].as_array().cloned().unwrap_or_default();
    MemberStatus {
        name: or_empty(&value["name"]),
        role: or_empty(&value["role"]),
        streaming: value["streaming"] == true,
        counts: value["counts"] == true,
        confirms: {
            let tags = &value["tags"];
            let set = |tag: &str| tags[tag] == true;
            let delayed = tags["delay_ms"].as_u64().unwrap_or(0) > 0;
            !(set("nofailover") || set("nosync") || delayed)
        },
        replicatefrom: text(&value["tags"]["replicatefrom"]),
        reachability: or_empty(&value["reachability"]),
        problems: problems.iter().filter_map(text).collect(),
    }
}

/// A text that is not empty.
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|t| !t.is_empty()).map(str::to_owned)
}
