//! Every error of the API, and the only place where one becomes a gRPC status.

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::LEADER_HEADER;
use super::nodes::NodeProblem;
use super::source::{Leader, ProposeError};
use super::spec::SpecProblem;
use crate::domain::Rejection;
use crate::domain::membership::MembershipRefusal;
use crate::domain::plan::OperationProblem;
use crate::domain::types::ClusterName;
use crate::pb::{details, v1};

/// Longest piece of a request that is repeated in an error, in characters.
const VALUE_CHARS_MAX: usize = 100;
/// So many problems of a specification are in the message of its refusal, and in the details.
const PROBLEMS_MAX: usize = 5;
const INFOS_MAX: usize = 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error("{field}: {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it held.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no such cluster.
    #[error("there is no cluster named {name}; clusters are {}", list(known))]
    NoCluster {
        /// The name.
        name: ClusterName,
        /// Those that there are.
        known: Vec<ClusterName>,
    },
    /// There is no such operation, or it is forgotten.
    #[error("cluster {cluster} has no operation {id}, or it is too long ago")]
    NoOperation {
        /// Which cluster.
        cluster: ClusterName,
        /// Its number; 0 for the latest.
        id: u64,
    },
    /// Only the leader can answer.
    #[error("this node is not the leader of the control plane; {}", leader_text(leader.as_ref()))]
    NotLeader {
        /// Who is, where known.
        leader: Option<Leader>,
    },
    /// The control plane cannot answer now. Nothing was changed.
    #[error("the control plane is not available: {why}")]
    Unavailable {
        /// Why.
        why: String,
    },
    /// A change was proposed, and it is not known whether it happens.
    #[error("the outcome is unknown: the change was proposed and not confirmed in time")]
    UnknownOutcome,
    /// The domain refused the command.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The checks before an operation found problems: at least one.
    #[error("{}", join(.0))]
    Checks(Vec<OperationProblem>),
    /// A node is not added or removed.
    #[error(transparent)]
    Node(#[from] NodeProblem),
    /// The specification is not valid: at least one key.
    #[error("{}", join_spec(.0))]
    Spec(Vec<SpecProblem>),
    /// Parameters cannot be checked yet.
    #[error(
        "no member of cluster {cluster} has told this leader yet which parameters its PostgreSQL \
         knows, so the change cannot be checked"
    )]
    NoCatalogue {
        /// Which cluster.
        cluster: ClusterName,
    },
    /// The command was applied and changed nothing.
    #[error("the control plane took the command, and it had no effect")]
    NoEffect,
    /// All watches are taken.
    #[error("there are {max} watches already")]
    TooManyWatches {
        /// How many there may be.
        max: usize,
    },
    /// The node shuts down.
    #[error("this node is shutting down")]
    ShuttingDown,
    /// The caller meant another control plane.
    #[error("this is control plane {this}, and the call is meant for {meant:?}")]
    OtherControlPlane {
        /// Whom the caller meant.
        meant: String,
        /// Who this is.
        this: String,
    },
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Error::NotLeader { leader },
            ProposeError::Unknown => Error::UnknownOutcome,
            ProposeError::Unavailable { why } => Error::Unavailable { why },
        }
    }
}

impl Error {
    /// The gRPC code.
    pub fn code(&self) -> Code {
        match self {
            Error::Field { .. } => Code::InvalidArgument,
            Error::NoCluster { .. } | Error::NoOperation { .. } => Code::NotFound,
            Error::NotLeader { .. } | Error::Unavailable { .. } | Error::ShuttingDown => {
                Code::Unavailable
            }
            Error::UnknownOutcome => Code::DeadlineExceeded,
            Error::Rejected(rejection) => rejection_code(rejection),
            Error::Checks(problems) => match problems.as_slice() {
                [OperationProblem::UnknownMember(_)] => Code::NotFound,
                _ => Code::FailedPrecondition,
            },
            Error::Node(NodeProblem::Unknown { .. }) => Code::NotFound,
            Error::Node(_) => Code::FailedPrecondition,
            Error::Spec(_) => Code::InvalidArgument,
            Error::NoCatalogue { .. } => Code::Unavailable,
            Error::NoEffect => Code::Aborted,
            Error::TooManyWatches { .. } => Code::ResourceExhausted,
            Error::OtherControlPlane { .. } => Code::PermissionDenied,
        }
    }

    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Error::Field { .. } => "request.valid",
            Error::NoCluster { .. } => "cluster.exists",
            Error::NoOperation { .. } => "operation.exists",
            Error::NotLeader { .. } => "leader.here",
            Error::Unavailable { .. } => "leader.available",
            Error::UnknownOutcome => "outcome.known",
            Error::Rejected(rejection) => rejection.rule(),
            Error::Checks(problems) => problems.first().map_or("operation.checks", |p| p.rule()),
            Error::Node(problem) => problem.rule(),
            Error::Spec(_) => "spec.valid",
            Error::NoCatalogue { .. } => "spec.catalogue",
            Error::NoEffect => "command.effect",
            Error::TooManyWatches { .. } => "watch.bound",
            Error::ShuttingDown => "node.serving",
            Error::OtherControlPlane { .. } => "control-plane.same",
        }
    }

    /// The details for programs: one for each thing that is wrong.
    pub fn infos(&self) -> Vec<v1::ErrorInfo> {
        let info = |rule: &'static str, message: String| v1::ErrorInfo {
            rule: rule.to_owned(),
            message,
            hint: hint(rule).to_owned(),
            ..Default::default()
        };
        if let Error::Checks(problems) = self {
            return problems.iter().map(|p| info(p.rule(), p.to_string())).collect();
        }
        if let Error::Spec(problems) = self {
            let one = |p: &SpecProblem| v1::ErrorInfo {
                field: p.key.clone(),
                value: cut(&p.value),
                hint: p.mend.clone(),
                ..info("spec.valid", p.to_string())
            };
            return problems.iter().take(INFOS_MAX).map(one).collect();
        }
        let mut only = info(self.rule(), self.to_string());
        match self {
            Error::Field { field, value, .. } => {
                only.field = (*field).to_owned();
                only.value = cut(value);
            }
            Error::NoCluster { name, .. } => {
                only.field = "cluster".to_owned();
                only.value = name.to_string();
            }
            Error::NoOperation { id, .. } => {
                only.field = "operation".to_owned();
                only.value = id.to_string();
            }
            Error::NotLeader { leader: Some(leader) } => {
                only.leader_address = leader.address.clone();
            }
            _ => {}
        }
        vec![only]
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let (code, message, infos) = (error.code(), error.to_string(), error.infos());
        let bytes = details::encode(code.into(), &message, &infos);
        let mut metadata = MetadataMap::new();
        let leader = infos.iter().map(|i| i.leader_address.as_str()).find(|a| !a.is_empty());
        if let Some(address) = leader
            && let Ok(value) = address.parse()
        {
            metadata.insert(LEADER_HEADER, value);
        }
        Status::with_details_and_metadata(code, message, bytes.into(), metadata)
    }
}

fn rejection_code(rejection: &Rejection) -> Code {
    match rejection {
        Rejection::UnknownCluster { .. }
        | Rejection::UnknownMember { .. }
        | Rejection::NoSuchOperation { .. } => Code::NotFound,
        Rejection::BadSchedule { .. } => Code::InvalidArgument,
        Rejection::StaleEpoch { .. }
        | Rejection::EpochClosed { .. }
        | Rejection::EpochOpen { .. }
        | Rejection::OtherGuard { .. }
        | Rejection::OtherLeadership { .. }
        | Rejection::WrongStage { .. }
        | Rejection::StaleSyncs => Code::Aborted,
        Rejection::StaleRevision { .. } => Code::Aborted,
        Rejection::NoSuchRevision { .. } => Code::NotFound,
        Rejection::BadSpec { .. } => Code::InvalidArgument,
        Rejection::Membership(MembershipRefusal::NotActive) => Code::Aborted,
        Rejection::Membership(MembershipRefusal::ClusterExists { .. }) => Code::AlreadyExists,
        _ => Code::FailedPrecondition,
    }
}

/// What to do about a rule that stands against something; empty where the message says it all.
pub(super) fn hint(rule: &str) -> &'static str {
    match rule {
        "request.valid" => "correct the request",
        "cluster.exists" | "member.exists" => "see `hactl status` for the names",
        "operation.exists" | "operation.failed" => "see `hactl history`",
        "operation.one-at-a-time" => "wait until it has ended: `hactl history --follow`",
        "leader.here" => "ask the leader; hactl finds it by itself",
        "leader.available" => "more than half of the controllers must run and reach each other",
        "outcome.known" => "see `hactl history` before trying again",
        "epoch.current"
        | "epoch.open"
        | "epoch.closed-before-grant"
        | "epoch.stage"
        | "sync.current"
        | "lease.guard"
        | "command.effect" => "the cluster has moved on: look at `hactl status` and try again",
        "switchover.primary" => {
            "see `hactl explain` for what it waits for, and `hactl failover` for a failover by hand"
        }
        "switchover.target-is-standby" => "name a standby, or none for the best one",
        "switchover.target-tag" | "member.nofailover" => {
            "name another standby, or remove its nofailover tag"
        }
        "switchover.target-reports" => "see that hanode runs on its node and reaches the leader",
        "switchover.target-streams" | "switchover.target-proven" | "switchover.target-lag" => {
            "wait until it has caught up, see `hactl status`, or name another standby"
        }
        "switchover.target" => "see `hactl status` for the state of each standby",
        "member.remove-standby" => "use `hactl switchover`, then remove it",
        "member.remove-while-active" => "wait until there is a primary: see `hactl explain`",
        "member.last" => "use `hactl cluster remove`",
        "member.leaving" => "see `hactl member list`",
        "failsafe.last-peer" => {
            "begin an epoch in which others are peers, or which has no failsafe: `hactl switchover` or \
             `hactl restart` of the primary, where no other member is to stay after \
             `hactl config set failsafe=false`; then remove it"
        }
        "member.counts" => "wait a moment, see `hactl explain`",
        "member.write-quorum" | "member.others-stream" => {
            "add a member or wait for one first, or lower write_quorum_min"
        }
        "adopt.all-members" | "adopt.data" => "see `hactl explain` for what each member holds",
        "adopt.ready" => "do what it says, then try again: `hactl cluster adopt --dry-run`",
        "adopt.one-cluster" | "adopt.valid" => "see `hactl explain`",
        "adopt.standby" => "name the primary, or promote it by hand first: `pg_ctl promote`",
        "adopt.one-primary" | "adopt.newest" | "adopt.primary" => {
            "see `hactl explain`, and name the primary: `hactl cluster adopt --primary NAME`"
        }
        "member.removed" => "permit it again: `hactl member add NAME`",
        "cluster.removed" => "create it again: `hactl cluster create NAME -f SPEC.toml`",
        "cluster.new" => "see `hactl cluster list`",
        "cluster.members-run" => "remove them first, or give --force: they are stopped then",
        "cluster.members-silent" => {
            "start hanode on their nodes, wait a moment for their reports, or give --force where they \
             are gone"
        }
        "cluster.not-stopped" => {
            "wait until `hactl status` shows that it has stopped, or give --force: it stops then, or \
             when its lease ends"
        }
        "failover.primary-gone" => "use `hactl switchover`",
        "cluster.paused" => "`hactl resume` first",
        "cluster.is-paused" => "see `hactl status`",
        "operation.one-a-member" => {
            "wait until it has ended, or call it off: `hactl operation cancel`"
        }
        "operation.standby-only" => {
            "switch over first, `hactl switchover`; a primary is restarted where it is by \
             `hactl restart MEMBER --in-place`"
        }
        "operation.revocable" => "it is bounded in time: `hactl operation show`",
        "schedule.valid" => "see `hactl operation list`",
        "restart.pending" => "`hactl restart --rolling` without --pending restarts all",
        "restart.running" => "it is started by itself where it can be: see `hactl explain`",
        "switchover.target-room" => "make room on its disks, or name another standby",
        "operation.under-way" | "operation.scheduled" => "see `hactl operation list`",
        "reinitialise.write-quorum" => "bring another standby back first, see `hactl status`",
        "takeover.read-quorum" => {
            "bring the missing members back, or accept that commits may be lost: \
             `hactl failover --accept-data-loss`"
        }
        "node.one-change" => {
            "wait until it has ended, see `hactl node list`; `hactl node remove` gives up a node \
             that does not come"
        }
        "node.exists" => "see `hactl node list` for the names",
        "node.no-members" => {
            "move the members away first; for a node that is dead for good: `--force`"
        }
        "node.force-dead-only" => "remove its members first, or stop it for good",
        "node.majority" => {
            "start the controllers that do not answer, or remove those that are dead"
        }
        "node.leaving" => "see `hactl node list`",
        "node.removal-not-begun" => {
            "wait until it is done, and add the host anew: `hactl node add`"
        }
        "node.all-answer" => "start them, or remove those that are dead: `hactl node remove`",
        "node.not-last" => "a control plane keeps at least one controller",
        "spec.current" => {
            "look at what changed with `hactl config history`, and make the change again"
        }
        "spec.fixed" => "leave it as it is",
        "spec.revision" => "see `hactl config history` for those that are kept",
        "spec.catalogue" => {
            "start a member, and try again in a moment; or take it unchecked with --no-validate"
        }
        "watch.bound" => "end some watches, or ask another node",
        "node.serving" => "ask another node",
        "control-plane.same" => "check the endpoints: they belong to another control plane",
        _ => "",
    }
}

fn cut(value: &str) -> String {
    value.chars().take(VALUE_CHARS_MAX).collect()
}

fn leader_text(leader: Option<&Leader>) -> String {
    match leader {
        Some(l) => format!("{} at {} is", l.name, l.address),
        None => "no leader is known".to_owned(),
    }
}

fn list(names: &[ClusterName]) -> String {
    match names {
        [] => "none yet".to_owned(),
        _ => names.iter().map(ClusterName::as_str).collect::<Vec<_>>().join(", "),
    }
}

fn join_spec(problems: &[SpecProblem]) -> String {
    let told: Vec<String> = problems.iter().take(PROBLEMS_MAX).map(|p| p.to_string()).collect();
    told.join("; ")
}

fn join(problems: &[OperationProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::{Epoch, MemberName};

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    fn stale() -> Error {
        Rejection::StaleEpoch { expected: Epoch(3), actual: Epoch(4) }.into()
    }

    #[test]
    fn codes_and_rules() {
        let field = Error::Field { field: "target", value: "X".into(), problem: "bad".into() };
        let missing = Error::NoCluster { name: cluster("a"), known: vec![] };
        let member = MemberName::new("b").unwrap();
        let cases = [
            (field, Code::InvalidArgument, "request.valid"),
            (missing, Code::NotFound, "cluster.exists"),
            (stale(), Code::Aborted, "epoch.current"),
            (Error::UnknownOutcome, Code::DeadlineExceeded, "outcome.known"),
            (Error::NotLeader { leader: None }, Code::Unavailable, "leader.here"),
            (Error::TooManyWatches { max: 1 }, Code::ResourceExhausted, "watch.bound"),
            (
                Rejection::OperationUnderWay { id: 1 }.into(),
                Code::FailedPrecondition,
                "operation.one-at-a-time",
            ),
            (
                Error::Checks(vec![OperationProblem::UnknownMember(member.clone())]),
                Code::NotFound,
                "member.exists",
            ),
            (
                Error::Checks(vec![OperationProblem::NotStreaming(member)]),
                Code::FailedPrecondition,
                "switchover.target-streams",
            ),
        ];
        for (error, code, rule) in cases {
            assert_eq!((error.code(), error.rule()), (code, rule), "{error}");
            let status = Status::from(error);
            let infos = details::decode(status.details());
            assert_eq!((status.code(), infos[0].rule.as_str()), (code, rule));
            assert!(!infos[0].hint.is_empty(), "{rule} has no hint");
        }
    }

    #[test]
    fn the_leader_is_in_metadata_and_details() {
        let leader = Leader { id: 2, name: "n2".into(), address: "10.0.0.2:7401".into() };
        let status = Status::from(Error::NotLeader { leader: Some(leader) });
        assert_eq!(status.metadata().get(LEADER_HEADER).unwrap(), "10.0.0.2:7401");
        assert_eq!(details::decode(status.details())[0].leader_address, "10.0.0.2:7401");
        assert!(status.message().contains("n2 at 10.0.0.2:7401"));
    }

    #[test]
    fn an_address_that_cannot_be_metadata_does_no_harm() {
        let leader = Leader { id: 2, name: "n2".into(), address: "bad\nvalue".into() };
        let status = Status::from(Error::NotLeader { leader: Some(leader) });
        assert!(status.metadata().get(LEADER_HEADER).is_none());
    }

    #[test]
    fn each_problem_is_a_detail_and_long_values_are_cut() {
        let (a, b) = (MemberName::new("a").unwrap(), MemberName::new("b").unwrap());
        let problems = vec![OperationProblem::Tagged(a), OperationProblem::Silent(b)];
        let status = Status::from(Error::Checks(problems));
        assert_eq!(details::decode(status.details()).len(), 2);
        let value = "ä".repeat(5000);
        let field = Error::Field { field: "cluster", value, problem: "bad".into() };
        assert_eq!(field.infos()[0].value.chars().count(), VALUE_CHARS_MAX);
    }
}
