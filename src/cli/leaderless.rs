//! What can be said without a leader: which controllers answer, and what follows from it.

use std::time::Duration;

use super::Context;
use super::failure::{Failure, UNREACHABLE};
use super::output;
use crate::client::{self, Client};
use crate::pb::v1;

/// How long one controller is asked.
const ASK: Duration = Duration::from_millis(1500);

/// Beside a status that no leader has given.
pub(super) const STATUS: &str = "there is no leader: this is what was agreed on, as far as this node \
                                 knows. How the members are doing is not known. `hactl explain` says \
                                 which controllers answer.";

/// A controller, and what it answers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
struct Asked {
    controller: String,
    address: String,
    /// Why it does not answer; absent where it does.
    silent: Option<String>,
    /// Whom it takes for the leader; empty where it knows none.
    leader: String,
}

/// Explains why there is no leader, as far as it can be seen from here.
pub(super) async fn explain(mut context: Context) -> Result<(), Failure> {
    let status = context.client.status_of_any("").await?;
    let mut asked = Vec::new();
    for controller in status.raft.iter().flat_map(|r| &r.controllers) {
        asked.push(ask(controller).await?);
    }
    output::value(context.format, &asked, || text(&status.control_plane, &asked))?;
    Err(Failure::Said(UNREACHABLE))
}

async fn ask(controller: &v1::Controller) -> Result<Asked, Failure> {
    let mut client = Client::new(std::slice::from_ref(&controller.address), ASK)?;
    let (silent, leader) = match client.status_of_any("").await {
        Ok(status) => (None, status.raft.map(|r| r.leader).unwrap_or_default()),
        Err(client::Error::Unreachable(silences)) => {
            let why = silences.into_iter().next().map_or_else(String::new, |s| s.why);
            (Some(why), String::new())
        }
        Err(error) => (Some(error.to_string()), String::new()),
    };
    let (name, address) = (controller.name.clone(), controller.address.clone());
    Ok(Asked { controller: name, address, silent, leader })
}

fn text(control_plane: &str, asked: &[Asked]) -> String {
    let answering = asked.iter().filter(|a| a.silent.is_none()).count();
    let majority = asked.len() / 2 + 1;
    let mut out = format!("control plane {control_plane}: no leader (rule leader.available)\n");
    for one in asked {
        let said = match &one.silent {
            Some(why) => format!("does not answer: {why}"),
            None if one.leader.is_empty() => "answers, and knows no leader".to_owned(),
            None => format!("answers, and takes {} for the leader", one.leader),
        };
        out.push_str(&format!("- controller {} ({}) {said}\n", one.controller, one.address));
    }
    if answering >= majority {
        out.push_str(
            "- enough of them answer here: an election may be going on, or they do not reach each \
             other; try again, and look at their logs\n",
        );
        return out;
    }
    out.push_str(&format!(
        "- {answering} of {} answer here, and {majority} are needed: nothing is decided\n- a primary \
         is stopped when its lease runs out; standbys go on serving reads of what they have\n- start \
         the controllers that are missing: then all goes on by itself. Only where a majority of them \
         is lost for good: `hactl recover --help` and docs/operations.md\n",
        asked.len()
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_majority_is_told_from_an_election() {
        let one = |name: &str, silent: Option<&str>| Asked {
            controller: name.to_owned(),
            address: format!("{name}:1"),
            silent: silent.map(str::to_owned),
            leader: String::new(),
        };
        let lost = [one("n1", None), one("n2", Some("refused")), one("n3", Some("refused"))];
        let lost = text("cp", &lost);
        assert!(lost.contains("1 of 3 answer here, and 2 are needed"), "{lost}");
        assert!(lost.contains("controller n2 (n2:1) does not answer: refused"), "{lost}");
        let electing = text("cp", &[one("n1", None), one("n2", None), one("n3", Some("refused"))]);
        assert!(electing.contains("an election may be going on"), "{electing}");
    }
}
