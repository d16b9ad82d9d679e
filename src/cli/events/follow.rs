//! Events as they happen, over the loss of any node.
//!
//! A watch is served by whichever node answers, from what that node knows. One that lost its
//! peers, and not us, would be silent for ever: so from time to time the leader is asked whether
//! there is more.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::Streaming;

use super::track::Track;
use super::{EventsArgs, Line, all, ask, show};
use crate::cli::Context;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::client::{Client, Error};
use crate::pb::v1;

/// How long a watch may be silent until the leader is asked.
const ASK_AFTER: Duration = Duration::from_secs(3);
/// How often in a row the leader may know more than a watch until another node is watched.
const BEHIND_MAX: u32 = 2;
/// Pause before nodes are asked again.
const PAUSE: Duration = Duration::from_millis(300);
/// How often is looked for new clusters.
const LIST_EVERY: Duration = Duration::from_secs(5);
/// Longest call.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Events that wait to be printed.
const WAITING_MAX: usize = 100;

/// What a task of a cluster has to say.
enum Said {
    Event(Box<Line>),
    Note(String),
    Failed(Failure),
}

/// Prints what happens, until it is ended. Where no cluster was named, new ones are followed too.
pub(super) async fn run(
    mut context: Context,
    args: &EventsArgs,
    named: bool,
    tracks: Vec<(String, Track)>,
) -> Result<(), Failure> {
    let endpoints = context.client.endpoints().to_vec();
    let (tell, mut told) = mpsc::channel(WAITING_MAX);
    let mut followed: Vec<String> = Vec::new();
    let mut begin = |cluster: String, track: Track| -> Result<(), Failure> {
        let client = Client::new(&endpoints, CALL_MAX)?;
        followed.push(cluster.clone());
        let follower = Follower { cluster, track, client, tell: tell.clone() };
        tokio::spawn(follower.run());
        Ok(())
    };
    let mut known: Vec<String> = tracks.iter().map(|(name, _)| name.clone()).collect();
    for (cluster, track) in tracks {
        begin(cluster, track)?;
    }
    let mut list = tokio::time::interval(LIST_EVERY);
    loop {
        tokio::select! {
            said = told.recv() => match said {
                Some(Said::Event(line)) if args.wants(&line.event) => show(context.format, &line)?,
                Some(Said::Event(_)) => {}
                Some(Said::Note(text)) => output::note(&text)?,
                Some(Said::Failed(failure)) => return Err(failure),
                None => return Ok(()),
            },
            _ = list.tick(), if !named => {
                // Who cannot be asked now is asked the next time.
                let names = timeout(CALL_MAX, all(&mut context)).await;
                for name in names.ok().and_then(Result::ok).unwrap_or_default() {
                    if !known.contains(&name) {
                        known.push(name.clone());
                        begin(name, Track::after(0))?;
                    }
                }
            }
        }
    }
}

/// Follows one cluster.
struct Follower {
    cluster: String,
    track: Track,
    client: Client,
    tell: mpsc::Sender<Said>,
}

/// Why nothing more is to be done: whoever printed has gone.
struct Over;

impl Follower {
    async fn run(mut self) {
        // Whoever printed has gone, or was told the failure.
        let Err(Over) = self.follow().await;
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, Over> {
        let mut silent = false;
        loop {
            let stream = match self.open().await {
                Ok(stream) => stream,
                Err(error) if passes(&error) => {
                    if !silent {
                        self.note(format!("{error}; trying again")).await?;
                    }
                    silent = true;
                    sleep(PAUSE).await;
                    continue;
                }
                Err(error) => {
                    drop(self.tell.send(Said::Failed(error.into())).await);
                    return Err(Over);
                }
            };
            if silent {
                self.note(format!("connected again, after event {}", self.track.last())).await?;
            }
            let why = self.watch(stream).await?;
            silent = true;
            self.note(format!("{why}; going on after event {}", self.track.last())).await?;
            sleep(PAUSE).await;
        }
    }

    async fn open(&mut self) -> Result<Streaming<v1::WatchHistoryResponse>, Error> {
        let (cluster, after_event) = (self.cluster.clone(), self.track.last());
        let request = v1::WatchHistoryRequest { cluster, after_event };
        self.client
            .read(|mut c| {
                let request = request.clone();
                async move { c.watch_history(request).await }
            })
            .await
    }

    /// Passes on what comes, and returns why nothing more does.
    async fn watch(
        &mut self,
        mut stream: Streaming<v1::WatchHistoryResponse>,
    ) -> Result<String, Over> {
        let mut behind = 0;
        loop {
            match timeout(ASK_AFTER, stream.message()).await {
                Ok(Ok(Some(message))) => {
                    if let Some(event) = message.event {
                        self.pass_on(event).await?;
                    }
                    behind = 0;
                }
                Ok(Ok(None)) => return Ok("the node has ended the watch".to_owned()),
                Ok(Err(status)) => {
                    return Ok(format!("the watch was lost ({})", status.message()));
                }
                Err(_) if self.ask_leader().await? => {
                    behind += 1;
                    if behind >= BEHIND_MAX {
                        return Ok("the node that is watched knows less than the leader".to_owned());
                    }
                }
                Err(_) => behind = 0,
            }
        }
    }

    /// Asks the leader for what the watch did not bring. Returns whether there was anything.
    async fn ask_leader(&mut self) -> Result<bool, Over> {
        let request = |after_event, limit| v1::HistoryRequest {
            cluster: self.cluster.clone(),
            after_event,
            limit,
            linearizable: true,
        };
        let (newest, more) = (request(0, 1), request(self.track.last(), 0));
        // Without a leader nothing happens that could be missed.
        let Ok(newest) = ask(&mut self.client, newest).await else { return Ok(false) };
        let newest = newest.events.last().map_or(0, |e| e.id);
        if newest == self.track.last() {
            return Ok(false);
        }
        let seen = self.track.last();
        if self.track.set_back(newest) {
            self.note(format!(
                "event {seen} was seen, and the newest is {newest} now: the control plane was set \
                 back; what happens from now on is shown"
            ))
            .await?;
            return Ok(true);
        }
        let Ok(more) = ask(&mut self.client, more).await else { return Ok(false) };
        for event in more.events {
            self.pass_on(event).await?;
        }
        Ok(true)
    }

    async fn pass_on(&mut self, event: v1::Event) -> Result<(), Over> {
        let Some(gap) = self.track.take(event.id) else { return Ok(()) };
        if let Some(gap) = gap {
            self.note(gap.to_string()).await?;
        }
        let line = Box::new(Line { cluster: self.cluster.clone(), event });
        self.tell.send(Said::Event(line)).await.map_err(|_| Over)
    }

    async fn note(&self, text: String) -> Result<(), Over> {
        let text = format!("cluster {}: {text}", self.cluster);
        self.tell.send(Said::Note(text)).await.map_err(|_| Over)
    }
}

/// Whether it is worth asking again. A node that has started just now may not know the cluster
/// yet, which existed when this began.
fn passes(error: &Error) -> bool {
    match error {
        Error::Unreachable(_) | Error::NoLeader(_) => true,
        Error::Refused(refusal) => refusal
            .infos
            .iter()
            .any(|i| matches!(i.rule.as_str(), "cluster.exists" | "watch.bound")),
        _ => false,
    }
}
