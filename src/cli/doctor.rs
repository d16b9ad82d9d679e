//! `hactl doctor`: what is wrong, and what to do about it.

use std::fmt::Write as _;

use clap::Args;

use super::Context;
use super::failure::{Failure, PROBLEMS, WARNINGS};
use super::output;
use crate::client;
use crate::pb::{text, v1};

/// Arguments of `hactl doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The cluster; all of them where none is named
    #[arg(value_name = "CLUSTER")]
    of: Option<String>,
}

pub(super) async fn run(mut context: Context, args: &DoctorArgs) -> Result<(), Failure> {
    let cluster = args.of.clone().or(context.cluster.clone()).unwrap_or_default();
    let request = v1::DiagnoseRequest { cluster };
    let answer = context
        .client
        .read(|mut c| {
            let request = request.clone();
            async move { c.diagnose(request).await }
        })
        .await;
    let answer = match answer {
        Err(client::Error::NoLeader(refusal)) => leaderless(&refusal),
        answer => answer?,
    };
    output::value(context.format, &answer, || report(&answer))?;
    match worst(&answer) {
        None => Ok(()),
        Some(v1::Severity::Problem) => Err(Failure::Said(PROBLEMS)),
        Some(_) => Err(Failure::Said(WARNINGS)),
    }
}

/// Only a leader knows how members are doing: that there is none is the finding.
fn leaderless(refusal: &client::Refusal) -> v1::DiagnoseResponse {
    let finding = v1::Diagnosis {
        check: "control-plane.leader".to_owned(),
        severity: v1::Severity::Problem.into(),
        what: format!(
            "the control plane has no leader, so nothing is failed over: {} said: {}",
            refusal.endpoint, refusal.message
        ),
        todo: "more than half of the controllers must run and reach each other; `hactl status` \
               shows what one of them knows"
            .to_owned(),
        ..Default::default()
    };
    v1::DiagnoseResponse {
        findings: vec![finding],
        checks: vec!["control-plane.leader".to_owned()],
        ..Default::default()
    }
}

fn worst(answer: &v1::DiagnoseResponse) -> Option<v1::Severity> {
    answer.findings.iter().map(v1::Diagnosis::severity).max_by_key(|s| *s as i32)
}

fn count(answer: &v1::DiagnoseResponse, severity: v1::Severity) -> usize {
    answer.findings.iter().filter(|d| d.severity() == severity).count()
}

/// For a person: each finding with what to do, then the sum.
fn report(answer: &v1::DiagnoseResponse) -> String {
    let mut out = String::new();
    for found in &answer.findings {
        let mut at = vec![found.check.as_str()];
        at.extend([found.cluster.as_str(), found.member.as_str()].iter().filter(|t| !t.is_empty()));
        let severity = text::of::<v1::Severity>(found.severity).to_ascii_uppercase();
        let place = if found.node.is_empty() || found.member == found.node {
            String::new()
        } else {
            format!(" (node {})", found.node)
        };
        // A String takes whatever is written to it.
        let _ = writeln!(out, "{severity:<8} {}{place}", at.join("  "));
        let _ = writeln!(out, "         {}", found.what);
        let _ = writeln!(out, "         to do: {}", found.todo);
    }
    let (problems, warnings) =
        (count(answer, v1::Severity::Problem), count(answer, v1::Severity::Warning));
    let of = match answer.clusters.as_slice() {
        [] => "the control plane".to_owned(),
        clusters => format!("the control plane and {}", clusters.join(", ")),
    };
    let _ = match (problems, warnings) {
        (0, 0) => writeln!(out, "all is well: {} checks of {of}", answer.checks.len()),
        _ => writeln!(out, "{problems} problems, {warnings} warnings; {of} were looked at"),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: v1::Severity) -> v1::Diagnosis {
        v1::Diagnosis {
            check: "member.clock".to_owned(),
            severity: severity.into(),
            cluster: "main".to_owned(),
            member: "b".to_owned(),
            node: "n2".to_owned(),
            what: "its clock is wrong".to_owned(),
            todo: "mend it".to_owned(),
        }
    }

    fn answer(findings: Vec<v1::Diagnosis>) -> v1::DiagnoseResponse {
        let clusters = vec!["main".to_owned()];
        let checks = vec!["a".to_owned(), "b".to_owned()];
        v1::DiagnoseResponse { findings, clusters, checks, ..Default::default() }
    }

    #[test]
    fn findings_say_where_what_and_what_to_do() {
        let text = report(&answer(vec![finding(v1::Severity::Warning)]));
        let want = "WARNING  member.clock  main  b (node n2)\n         its clock is wrong\n         \
                    to do: mend it\n0 problems, 1 warnings; the control plane and main were looked \
                    at\n";
        assert_eq!(text, want);
        let well = report(&answer(vec![]));
        assert_eq!(well, "all is well: 2 checks of the control plane and main\n");
    }

    #[test]
    fn the_worst_finding_decides_the_exit_code() {
        use v1::Severity::{Problem, Warning};
        assert_eq!(worst(&answer(vec![])), None);
        assert_eq!(worst(&answer(vec![finding(Warning)])), Some(Warning));
        let both = answer(vec![finding(Problem), finding(Warning)]);
        assert_eq!(worst(&both), Some(Problem));
    }
}
