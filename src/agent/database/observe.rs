//! What PostgreSQL says of itself.
//!
//! Owns the questions that come again and again, so they are few and small: one statement on a
//! held connection where nothing is wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::error::{self, Result};
use super::{PgDatabase, blocking, lock};
use crate::agent::driver::{RunRole, Seen};
use crate::domain::observation::StandbyProgress;
use crate::domain::types::{Lsn, MemberName};
use crate::postgres::connect;
use crate::postgres::sql::Session;
use crate::postgres::status::{PrimaryStatus, StandbyStatus};
use crate::postgres::wal;

/// How long a standby may wait for WAL without getting any before its primary is asked why.
const SILENT: Duration = Duration::from_secs(1);
/// What the startup process waits for where it has replayed all WAL that there is here (PostgreSQL
/// manual, table 28.11).
const AWAITS_WAL: [&str; 2] = ["RecoveryRetrieveRetryInterval", "RecoveryWalStream"];
/// How often in a row a standby must be seen to stream until it is believed.
const STREAMING_SEEN_MIN: u32 = 3;
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long the primary may take to answer.
const ASK: Duration = Duration::from_millis(600);

/// What the running standby follows, and how that goes.
#[derive(Debug, Clone)]
pub(super) struct Following {
    /// The primary's `host:port`.
    address: String,
    /// Since when it is followed.
    pub(super) begun: Instant,
    /// Since when it neither streams nor gets on.
    silent_since: Instant,
    /// Where it was then.
    replay: Lsn,
    /// How often in a row it was seen to stream.
    seen_streaming: u32,
    /// When the primary was last asked why.
    asked: Option<Instant>,
    /// What it said.
    lacks: Option<String>,
}

impl Following {
    pub(super) fn new(address: &str) -> Self {
        let address = address.to_owned();
        Self {
            address,
            begun: Instant::now(),
            silent_since: Instant::now(),
            replay: Lsn(0),
            seen_streaming: 0,
            asked: None,
            lacks: None,
        }
    }

    /// One that still replays what it has lacks nothing, wherever its primary is.
    fn note_replay(&mut self, replay: Lsn) {
        if replay != self.replay {
            self.replay = replay;
            self.silent_since = Instant::now();
        }
    }

    /// A walreceiver that asks for WAL that is gone streams for a moment before it is told so.
    fn note_streaming(&mut self) {
        self.seen_streaming = self.seen_streaming.saturating_add(1);
        if self.seen_streaming >= STREAMING_SEEN_MIN {
            self.silent_since = Instant::now();
            self.lacks = None;
        }
    }

    pub(super) fn of_run(role: &RunRole) -> Option<Self> {
        match role {
            RunRole::Following { address, .. } => Some(Self::new(address)),
            _ => None,
        }
    }
}

/// What is known of the running server.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Whether it has ever answered.
    pub answered: bool,
    /// Whether it was a primary when it was last asked.
    pub primary: bool,
}

impl PgDatabase {
    pub(super) async fn see(&self) -> Result<Seen> {
        self.running()?;
        let known = lock(&self.memory).known;
        let mut session = self.observer.take(|| self.target());
        let mut asked = ask(&mut session, known.primary).await;
        if matches!(asked, Err(connect::Error::Lost(_))) && known.answered {
            // A connection that was ended, by whomever, says nothing of the server.
            asked = ask(&mut session, known.primary).await;
        }
        if let Ok(Answer::Primary(status)) = &asked {
            Box::pin(self.end_impostors(&mut session, status)).await;
        }
        let answer = match asked {
            Ok(answer) => answer,
            Err(connect::Error::CannotConnectNow(_)) => return Ok(Seen::Starting),
            Err(connect::Error::Lost(_)) if !known.answered => return Ok(Seen::Starting),
            Err(e) => return Err(error::sql(e)),
        };
        self.observer.put(session);
        let primary = matches!(answer, Answer::Primary(_));
        lock(&self.memory).known = Known { answered: true, primary };
        match answer {
            Answer::Primary(status) => {
                let (confirmed, doubted) = {
                    let memory = lock(&self.memory);
                    (memory.refreshed.as_ref().map(|r| r.names.clone()), memory.doubted.clone())
                };
                Ok(seen_primary(&status, confirmed.as_deref(), doubted))
            }
            Answer::Standby(status) => self.seen_standby(&status).await,
        }
    }

    async fn seen_standby(&self, status: &StandbyStatus) -> Result<Seen> {
        let Some(replay) = status.replay else { return Ok(Seen::Starting) };
        let flushed = status.receive.map_or(replay, |receive| receive.max(replay));
        let streams = status.receiver_status.as_deref() == Some("streaming");
        let streaming = status.received_timeline.filter(|_| streams);
        let lacks_wal = match streaming {
            Some(_) => {
                if let Some(following) = &mut lock(&self.memory).following {
                    following.note_streaming();
                }
                None
            }
            None => self.lacks_wal(status, replay, flushed).await,
        };
        let primary_end = status.primary_end;
        Ok(Seen::Standby { replay, flushed, streaming, lacks_wal, primary_end })
    }

    /// Asks the primary, from time to time, whether it can still serve a standby that has flushed
    /// to `flushed`. What is not certain is no reason to copy anything.
    async fn lacks_wal(&self, status: &StandbyStatus, replay: Lsn, flushed: Lsn) -> Option<String> {
        let awaits = status.startup_wait.as_deref().is_some_and(|w| AWAITS_WAL.contains(&w));
        let address = {
            let mut memory = lock(&self.memory);
            let following = memory.following.as_mut()?;
            following.seen_streaming = 0;
            following.note_replay(replay);
            let due = following.asked.is_none_or(|at| at.elapsed() >= ASK_EVERY);
            if following.silent_since.elapsed() < SILENT || !due || !awaits {
                return following.lacks.clone();
            }
            following.asked = Some(Instant::now());
            following.address.clone()
        };
        let lacks = self.ask_for_wal(&address, flushed).await.ok().flatten();
        if let Some(following) = &mut lock(&self.memory).following
            && following.address == address
        {
            following.lacks.clone_from(&lacks);
        }
        lacks
    }

    async fn ask_for_wal(&self, address: &str, flushed: Lsn) -> Result<Option<String>> {
        let remote = self.remote(address)?;
        let place = remote.place(ASK).await.map_err(error::sql)?;
        // A standby that serves others may lack what the primary has.
        let Some(writes) = place.writes else { return Ok(None) };
        let wal = self.settings.layout.wal_dir();
        let bytes = self.segment_bytes().await?;
        let own = blocking(move || wal::newest_timeline_at(&wal, flushed, bytes)).await?;
        if let Some(own) = own.ok().filter(|own| *own > writes.timeline) {
            // It was taken from a server that was promoted past the control plane: while a primary
            // writes, nobody was granted a later epoch.
            return Ok(Some(format!(
                "its log is of timeline {own}, and {address} writes {}",
                writes.timeline
            )));
        }
        let segment_bytes = self.segment_bytes().await?;
        // A walreceiver asks from the beginning of a segment on.
        let segment_end = flushed.0 - flushed.0 % segment_bytes.max(1) + segment_bytes;
        if writes.flush.0 >= segment_end
            && !remote.has_wal(flushed, segment_bytes, ASK).await.map_err(error::sql)?
        {
            return Ok(Some(format!("{address} does not have WAL of {flushed} any more")));
        }
        Ok(None)
    }
}

enum Answer {
    Primary(PrimaryStatus),
    Standby(StandbyStatus),
}

/// Asks first as what it was: mostly it still is.
async fn ask(session: &mut Session, primary: bool) -> std::result::Result<Answer, connect::Error> {
    if primary {
        let status = session.primary_status().await?;
        if !status.in_recovery {
            return Ok(Answer::Primary(status));
        }
    }
    let status = session.standby_status().await?;
    if status.in_recovery || primary {
        return Ok(Answer::Standby(status));
    }
    Ok(Answer::Primary(session.primary_status().await?))
}

/// Standbys are found by the slots that they hold: what they call themselves proves nothing.
fn seen_primary(status: &PrimaryStatus, confirmed: Option<&str>, doubted: Option<String>) -> Seen {
    let mut standbys = BTreeMap::new();
    for walsender in &status.walsenders {
        let member = walsender.slot.as_deref().and_then(|slot| {
            let name = MemberName::new(walsender.application_name.clone()).ok()?;
            // A slot's name is not enough to have the member's: two characters became one.
            (name.slot_name() == slot).then_some(name)
        });
        if let Some(member) = member {
            standbys.insert(
                member,
                StandbyProgress {
                    streaming: walsender.state == "streaming",
                    flushed: walsender.flush.unwrap_or_default(),
                    replayed: walsender.replay.unwrap_or_default(),
                },
            );
        }
    }
    let found = &status.synchronous_standby_names;
    let drift = confirmed.filter(|names| names != found).map(|names| {
        format!("synchronous_standby_names is {found:?} and has to be {names:?}: it is put right")
    });
    let drift = drift.or(doubted);
    Seen::Primary { flushed: status.flush.unwrap_or_default(), standbys, drift }
}
