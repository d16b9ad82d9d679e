//! `hactl aside`: data directories that were replaced and kept.

use super::Context;
use super::failure::Failure;
use super::output::{self, bytes};
use super::table::{Column, Screen, Text, render};
use crate::pb::v1;

const COLUMNS: [Column; 6] = [
    Column::new("MEMBER"),
    Column::new("NODE").spare(2),
    Column::new("SINCE").spare(1),
    Column::new("SIZE").right(),
    Column::new("REASON").squeezed(),
    Column::new("PATH").squeezed(),
];

pub(super) async fn run(mut context: Context) -> Result<(), Failure> {
    let cluster = context.cluster().await?;
    let status = context.client.status(&cluster).await?;
    let members: Vec<v1::Member> = status.clusters.into_iter().flat_map(|c| c.members).collect();
    let rows = rows(&members);
    let kept: Vec<serde_json::Value> = members
        .iter()
        .flat_map(|m| m.aside.iter().map(move |a| (m, a)))
        .map(|(m, a)| serde_json::json!({ "member": m.name, "node": m.node, "aside": a }))
        .collect();
    output::value(context.format, &kept, || {
        if rows.is_empty() {
            return "no data directory is kept aside\n".to_owned();
        }
        render(&COLUMNS, &rows, Screen::stdout())
    })
}

fn rows(members: &[v1::Member]) -> Vec<Vec<Text>> {
    let row = |m: &v1::Member, a: &v1::Aside| -> Vec<Text> {
        let since = match a.at_unix_ms {
            0 => "-".to_owned(),
            ms => output::time(ms),
        };
        vec![
            m.name.clone().into(),
            m.node.clone().into(),
            since.into(),
            bytes(a.bytes).into(),
            a.reason.clone().into(),
            a.path.clone().into(),
        ]
    };
    members.iter().flat_map(|m| m.aside.iter().map(move |a| row(m, a))).collect()
}
