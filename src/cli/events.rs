//! `hactl events`: what happened to one cluster or to all, and what happens.

mod follow;
mod track;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::output::{self, Format, time};
use super::since::{When, when};
use super::table::{Column, Screen, Text, render};
use super::{Context, kinds};
use crate::client;
use crate::pb::v1;
use track::Track;

/// Most events of a cluster that are kept.
const KEPT_MAX: u32 = 400;

/// Arguments of `hactl events`.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// The cluster; all of them where none is named
    #[arg(value_name = "CLUSTER")]
    of: Option<String>,
    /// Go on, and show what happens, whichever node leads: nothing is shown twice or left out
    #[arg(short, long)]
    follow: bool,
    /// Only events with a greater number. Numbers are those of one cluster
    #[arg(long, value_name = "ID", conflicts_with = "after")]
    since: Option<u64>,
    /// Only events after this time: 15m, 2h, 1d (so long ago), or a date in UTC
    #[arg(long, value_name = "TIME", value_parser = when)]
    after: Option<When>,
    /// Only events of this kind, such as activated or alarm-raised. May be given more than once
    #[arg(long = "kind", value_name = "KIND", value_parser = kinds::known)]
    kinds: Vec<String>,
}

impl EventsArgs {
    /// Whether an event is to be shown.
    fn wants(&self, event: &v1::Event) -> bool {
        let kind = kinds::of(event);
        self.after.is_none_or(|after| event.at_unix_ms > after.0)
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
}

/// An event with the cluster that it is of.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Line {
    cluster: String,
    #[serde(flatten)]
    event: v1::Event,
}

/// What is printed without `--follow`.
#[derive(Debug, Serialize)]
struct Lines {
    events: Vec<Line>,
}

pub(super) async fn run(mut context: Context, args: &EventsArgs) -> Result<(), Failure> {
    let named = args.of.clone().or(context.cluster.clone());
    let clusters = match &named {
        Some(name) => vec![name.clone()],
        None => all(&mut context).await?,
    };
    if args.since.is_some() && clusters.len() > 1 {
        return Err(Failure::Usage(format!(
            "--since counts the events of one cluster: name one of {}",
            clusters.join(", ")
        )));
    }
    let mut lines = Vec::new();
    let mut tracks = Vec::new();
    for cluster in clusters {
        let mut track = Track::after(args.since.unwrap_or_default());
        let known = past(&mut context, &cluster, track.last()).await?;
        let mut missing = 0;
        for event in known.events {
            let Some(gap) = track.take(event.id) else { continue };
            missing += gap.map_or(0, |g| g.count());
            if args.wants(&event) {
                lines.push(Line { cluster: cluster.clone(), event });
            }
        }
        if missing > 0 && args.kinds.is_empty() && args.after.is_none() {
            output::note(&format!(
                "cluster {cluster}: {missing} older events are not kept any more"
            ))?;
        }
        tracks.push((cluster, track));
    }
    lines.sort_by(|a, b| {
        let key = |l: &Line| (l.event.at_unix_ms, l.cluster.clone(), l.event.id);
        key(a).cmp(&key(b))
    });
    if args.follow {
        for line in &lines {
            show(context.format, line)?;
        }
        return follow::run(context, args, named.is_some(), tracks).await;
    }
    let several = named.is_none() && tracks.len() > 1;
    output::value(context.format, &Lines { events: lines.clone() }, || {
        table(&lines, several, Screen::stdout())
    })
}

/// The names of all clusters.
async fn all(context: &mut Context) -> Result<Vec<String>, Failure> {
    let (status, _) = context.status("").await?;
    Ok(status.clusters.into_iter().map(|c| c.name).collect())
}

/// What is kept of a cluster's history after that event; of any node where there is no leader.
async fn past(
    context: &mut Context,
    cluster: &str,
    after: u64,
) -> Result<v1::HistoryResponse, Failure> {
    let request = |linearizable| v1::HistoryRequest {
        cluster: cluster.to_owned(),
        after_event: after,
        limit: KEPT_MAX,
        linearizable,
    };
    match ask(&mut context.client, request(true)).await {
        Err(client::Error::NoLeader(_)) => {
            output::note("no leader answers: this is what one node knows, and may be old")?;
            Ok(ask(&mut context.client, request(false)).await?)
        }
        answer => Ok(answer?),
    }
}

async fn ask(
    client: &mut client::Client,
    request: v1::HistoryRequest,
) -> Result<v1::HistoryResponse, client::Error> {
    client
        .read(|mut c| {
            let request = request.clone();
            async move { c.history(request).await }
        })
        .await
}

/// The operation that an event belongs to, and who asked for it.
fn asked(event: &v1::Event) -> String {
    match (event.operation, event.requested_by.as_str()) {
        (0, _) => String::new(),
        (id, "") => format!("#{id}"),
        (id, by) => format!("#{id} by {by}"),
    }
}

fn show(format: Format, line: &Line) -> Result<(), Failure> {
    output::item(format, line, || {
        let (event, cluster) = (&line.event, &line.cluster);
        let at = time(event.at_unix_ms);
        let asked = match asked(event) {
            none if none.is_empty() => none,
            asked => format!("  [{asked}]"),
        };
        format!("{cluster}  {:>6}  {at}  epoch {:>3}{asked}  {}", event.id, event.epoch, event.text)
    })
}

fn table(lines: &[Line], several: bool, screen: Screen) -> String {
    if lines.is_empty() {
        return "no such event".to_owned();
    }
    let mut columns = vec![
        Column::new("ID").right(),
        Column::new("TIME"),
        Column::new("EPOCH").right(),
        Column::new("OPERATION"),
        Column::new("EVENT").prose(),
    ];
    if several {
        columns.insert(0, Column::new("CLUSTER"));
    }
    let row = |line: &Line| -> Vec<Text> {
        let event = &line.event;
        let mut row: Vec<Text> = vec![
            event.id.to_string().into(),
            time(event.at_unix_ms).into(),
            event.epoch.to_string().into(),
            asked(event).into(),
            event.text.clone().into(),
        ];
        if several {
            row.insert(0, line.cluster.clone().into());
        }
        row
    };
    let rows: Vec<Vec<Text>> = lines.iter().map(row).collect();
    render(&columns, &rows, screen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u64, operation: u64) -> Line {
        let kind = v1::event::Kind::Activated(v1::Activated { member: "b".to_owned() });
        let by = if operation > 0 { "ada@ops" } else { "" };
        let event = v1::Event {
            id,
            epoch: 3,
            text: "b is open for writes".to_owned(),
            operation,
            requested_by: by.to_owned(),
            kind: Some(kind),
            ..Default::default()
        };
        Line { cluster: "main".to_owned(), event }
    }

    #[test]
    fn a_line_of_json_names_cluster_operation_and_who_asked() {
        let json = serde_json::to_value(line(4, 7)).unwrap();
        assert_eq!((&json["cluster"], &json["id"]), (&"main".into(), &4.into()));
        assert_eq!((&json["operation"], &json["requested_by"]), (&7.into(), &"ada@ops".into()));
        assert_eq!(json["kind"]["activated"]["member"], "b");
    }

    #[test]
    fn tables_show_the_cluster_where_there_are_several() {
        let screen = Screen { width: None, colours: false };
        let one = table(&[line(4, 7), line(5, 0)], false, screen);
        assert!(one.contains("#7 by ada@ops") && !one.contains("CLUSTER"), "{one}");
        assert!(table(&[line(4, 7)], true, screen).contains("CLUSTER"));
        assert_eq!(table(&[], true, screen), "no such event");
    }

    #[test]
    fn filters_are_by_kind_and_time() {
        let mut args = EventsArgs {
            of: None,
            follow: false,
            since: None,
            after: None,
            kinds: vec!["activated".to_owned()],
        };
        let mut event = line(1, 0).event;
        event.at_unix_ms = 100;
        assert!(args.wants(&event));
        args.after = Some(When(100));
        assert!(!args.wants(&event));
        args.after = Some(When(99));
        assert!(args.wants(&event));
        args.kinds = vec!["granted".to_owned()];
        assert!(!args.wants(&event));
    }
}
