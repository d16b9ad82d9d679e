//! The controllers: how many, where, and whether they follow.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Diagnosis;

/// A controller that has not answered the leader for so long is silent.
const SILENT: Duration = Duration::from_secs(5);
/// A controller that lacks so many entries of the log is behind.
const BEHIND_ENTRIES: u64 = 1000;

/// A voter of the control plane, as the leader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voter {
    /// Its node's name.
    pub name: String,
    /// The host of its address.
    pub host: String,
    /// Whether it is the leader.
    pub is_leader: bool,
    /// How long ago it answered the leader; `None` where that is not known.
    pub silent: Option<Duration>,
    /// How many entries of the log it lacks; `None` where it was never heard of.
    pub lag_entries: Option<u64>,
}

/// What is wrong with the controllers.
pub fn group(voters: &[Voter]) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    number(voters, &mut found);
    hosts(voters, &mut found);
    for voter in voters.iter().filter(|v| !v.is_leader) {
        follows(voter, &mut found);
    }
    found
}

fn number(voters: &[Voter], found: &mut Vec<Diagnosis>) {
    let check = "control-plane.voters";
    match voters.len() {
        0 => {}
        1 => found.push(Diagnosis::warning(
            check,
            "there is one controller: while it is away nothing can be failed over",
            "run three controllers on three hosts; a witness needs no PostgreSQL",
        )),
        n if n.is_multiple_of(2) => found.push(Diagnosis::warning(
            check,
            format!(
                "there are {n} controllers: an even number outlives the loss of {} of them, as \
                 {} would",
                (n - 1) / 2,
                n - 1
            ),
            "add a controller, such as a witness, or remove one",
        )),
        _ => {}
    }
}

fn hosts(voters: &[Voter], found: &mut Vec<Diagnosis>) {
    let hosts: BTreeSet<&str> = voters.iter().map(|v| v.host.as_str()).collect();
    if voters.len() > 1 && hosts.len() == 1 {
        let host = hosts.first().copied().unwrap_or_default();
        found.push(Diagnosis::warning(
            "control-plane.hosts",
            format!(
                "all {} controllers are on host {host}: its loss is the loss of all",
                voters.len()
            ),
            "move them to hosts that do not fail together",
        ));
    }
}

fn follows(voter: &Voter, found: &mut Vec<Diagnosis>) {
    let check = "control-plane.follows";
    let todo = format!(
        "see that hanode runs on {}, and that its address can be reached from the leader",
        voter.name
    );
    let what = match (voter.silent, voter.lag_entries) {
        (Some(silent), _) if silent > SILENT => {
            format!("controller {} has not answered for {} s", voter.name, silent.as_secs())
        }
        (None, None) => {
            format!("controller {} has not answered since the leader's election", voter.name)
        }
        (_, Some(lag)) if lag > BEHIND_ENTRIES => {
            format!("controller {} is {lag} entries of the log behind", voter.name)
        }
        _ => return,
    };
    let node = Some(voter.name.clone());
    found.push(Diagnosis { node, ..Diagnosis::warning(check, what, todo) });
}
