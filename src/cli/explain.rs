//! `hactl explain`: what the leader waits for, and why.

use super::Context;
use super::failure::Failure;
use super::{leaderless, output};
use crate::client;
use crate::pb::v1;

pub(super) async fn run(mut context: Context) -> Result<(), Failure> {
    let request = v1::ExplainRequest { cluster: context.cluster().await? };
    let answered = context
        .client
        .read(|mut c| {
            let request = request.clone();
            async move { c.explain(request).await }
        })
        .await;
    let answer = match answered {
        Err(client::Error::NoLeader(_) | client::Error::Unreachable(_)) => {
            return leaderless::explain(context).await;
        }
        answered => answered?,
    };
    output::value(context.format, &answer, || text(&answer))
}

/// An explanation as text.
pub(super) fn text(answer: &v1::ExplainResponse) -> String {
    let mut out = format!(
        "cluster {}: {} (says {}, the leader)\n",
        answer.cluster, answer.summary, answer.leader
    );
    if answer.findings.is_empty() {
        out.push_str("the leader has not looked at it yet\n");
    }
    for finding in &answer.findings {
        out.push_str(&format!("- {} (rule {})\n", finding.text, finding.rule));
        if !finding.todo.is_empty() {
            out.push_str(&format!("  to do: {}\n", finding.todo));
        }
    }
    out
}
