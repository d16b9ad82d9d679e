//! What an operator can do about what the planner waits for.

use super::super::candidate::Refusal;
use super::Finding;

impl Finding {
    /// What to do about it, for a person; empty where it passes by itself.
    pub fn todo(&self) -> &'static str {
        match self {
            Finding::AwaitingMember { .. } => {
                "start hanode on that member's node, and see that it reaches the controllers; a \
                 member that is not meant to be there is taken out of bootstrap_members"
            }
            Finding::UnknownData { .. } => {
                "if it is data that is needed, adopt it or start the control plane that knows it; \
                 if not, move the directory away"
            }
            Finding::Bootstrapping { problem: Some(_), .. } => {
                "mend the cause on that node; it is tried again by itself"
            }
            Finding::HolderSilent { .. } => {
                "see whether the node of that member, its hanode and its network are well"
            }
            Finding::TakeoverWouldFail { refusal }
            | Finding::AwaitingCandidates { refusal, .. } => candidates(refusal),
            Finding::AwaitingTarget { .. } => {
                "nothing: if it does not answer in time, the best of the others is taken"
            }
            Finding::CrashBound { .. } => {
                "find out from PostgreSQL's log what kills it; when that member cannot return, \
                 `hactl failover` promotes another"
            }
            Finding::CommitsWait { .. } => {
                "start the missing standbys; with a lower write_quorum_min commits go on without \
                 them"
            }
            Finding::SwitchingOver { .. } => {
                "nothing: if it does not stop in time, the operation fails and it stays primary"
            }
            Finding::OperationFailed { .. } => "mend what is named, and ask for it again",
            Finding::Verifying { missing, .. } if !missing.is_empty() => {
                "start the missing members; only if they are gone for good: `hactl failover \
                 --accept-data-loss`"
            }
            Finding::Verifying { complete: false, .. } => {
                "start every member that there is, and see that it is listed; where there is no other, \
                 or it is given up: `hactl failover --accept-data-loss`"
            }
            Finding::MemberSilent { .. } => {
                "see that hanode runs on that member's node and that it reaches the controllers"
            }
            Finding::RegistrationRefused { .. } => {
                "put right what is named in the configuration of that member's node, and restart \
                 hanode there"
            }
            Finding::MemberProblem { .. } => {
                "it is tried again by itself; see the log of hanode on that node if it stays"
            }
            // Room and the floor say it in their texts; what is left passes by itself.
            _ => "",
        }
    }
}

fn candidates(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotCovered { .. } => {
            "start the missing members: without them an acknowledged commit could be lost; only if \
             they are gone for good: `hactl failover --accept-data-loss`"
        }
        Refusal::Unverified { .. } => {
            "start the missing members: only where all of them answer it is known who has every \
             acknowledged commit; only if they are gone for good: `hactl failover \
             --accept-data-loss`"
        }
        Refusal::NoCandidate { .. } => {
            "start members that may be primary, or take their tags nofailover and delay_ms away"
        }
        Refusal::TooFarBehind { .. } => {
            "start the old primary or a member that has more; `hactl failover --accept-data-loss` \
             promotes without what is missing"
        }
        Refusal::NotTheBest { .. } | Refusal::BadEvidence { .. } => {
            "nothing at first; if it stays, keep the logs of hanode and report it"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::MemberName;

    #[test]
    fn what_does_not_pass_by_itself_says_what_to_do() {
        let member = MemberName::new("a").unwrap();
        let silent = Finding::MemberSilent { member: member.clone() };
        assert!(silent.todo().contains("see that hanode runs"));
        let failed = Finding::Bootstrapping { member: member.clone(), problem: Some("x".into()) };
        assert!(!failed.todo().is_empty());
        assert_eq!(Finding::Bootstrapping { member, problem: None }.todo(), "");
        assert_eq!(Finding::Settled.todo(), "");
        let refusal = Refusal::NotCovered { uncovered: Vec::new() };
        let waiting = Finding::AwaitingCandidates { refusal, sealed: Vec::new() };
        assert!(waiting.todo().contains("--accept-data-loss"));
    }
}
