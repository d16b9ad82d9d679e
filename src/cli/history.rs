//! `hactl history`: what happened to a cluster.

use clap::Args;

use super::Context;
use super::failure::Failure;
use super::output::{self, Format, time};
use super::table::{Column, Screen, Text, render};
use crate::client;
use crate::pb::v1;

/// Arguments of `hactl history`.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Go on, and show what happens
    #[arg(short, long)]
    follow: bool,
    /// How many events, the newest: 1 to 400
    #[arg(short = 'n', long, default_value_t = 30, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=400))]
    limit: u32,
}

const COLUMNS: [Column; 4] = [
    Column::new("ID").right(),
    Column::new("TIME").squeezed(),
    Column::new("EPOCH").right().spare(1),
    Column::new("EVENT").prose(),
];

pub(super) async fn run(mut context: Context, args: &HistoryArgs) -> Result<(), Failure> {
    let cluster = context.cluster().await?;
    let answer = match context.client.history(&cluster, args.limit).await {
        Err(client::Error::NoLeader(_)) => {
            output::note("no leader answers: this is what one node knows, and may be old")?;
            context.client.history_of_any(&cluster, args.limit).await?
        }
        answer => answer?,
    };
    if args.follow {
        for event in &answer.events {
            show(context.format, event)?;
        }
        let last = answer.events.last().map_or(0, |e| e.id);
        return follow(context, cluster, last).await;
    }
    output::value(context.format, &answer, || table(&answer.events, Screen::stdout()))
}

/// Events as a table.
pub(super) fn table(events: &[v1::Event], screen: Screen) -> String {
    if events.is_empty() {
        return "nothing has happened yet".to_owned();
    }
    let rows: Vec<Vec<Text>> = events
        .iter()
        .map(|e| {
            let (id, epoch) = (e.id.to_string(), e.epoch.to_string());
            vec![id.into(), time(e.at_unix_ms).into(), epoch.into(), e.text.clone().into()]
        })
        .collect();
    render(&COLUMNS, &rows, screen)
}

fn show(format: Format, event: &v1::Event) -> Result<(), Failure> {
    output::item(format, event, || {
        let (at, epoch) = (time(event.at_unix_ms), event.epoch);
        format!("{:>6}  {at}  epoch {epoch:>3}  {}", event.id, event.text)
    })
}

/// Shows what happens, from whichever node answers, without a gap and without repeating.
async fn follow(mut context: Context, cluster: String, mut last: u64) -> Result<(), Failure> {
    loop {
        let request = v1::WatchHistoryRequest { cluster: cluster.clone(), after_event: last };
        let opened = context
            .client
            .read(|mut c| {
                let request = request.clone();
                async move { c.watch_history(request).await }
            })
            .await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(client::Error::NoLeader(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        while let Ok(Some(message)) = stream.message().await {
            let Some(event) = message.event else { continue };
            last = event.id;
            show(context.format, &event)?;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}
