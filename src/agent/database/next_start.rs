//! Whether PostgreSQL would start again, looked at while it runs.
//!
//! Owns when that is looked at, and the alarm. A running server says nothing of a certificate that
//! was replaced by a bad one, or of a library whose package was removed: it goes on with what it has
//! loaded, and does not come back from its next stop. The look loads the libraries that a start
//! preloads, in a process of its own; it is not taken where a start would run
//! `ssl_passphrase_command`.

use std::time::{Duration, Instant};

use tracing::debug;

use super::conf::Files;
use super::error::{self, Result};
use super::specification::Operator;
use super::{PgDatabase, lock};
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::postgres::sql::Session;
use crate::postgres::{dry_start, start};

/// How often it is looked at where nothing was found.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// How often where something was: who mends it wants to see that.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// A server that has just been started has shown that it can.
const FIRST: Duration = Duration::from_secs(30);

/// How long a look may take: less than is left of an upkeep, in which settings were tried as well.
const LIMIT: Duration = Duration::from_secs(3);

/// What was found.
#[derive(Default)]
pub(super) struct Watch {
    /// With which part of the operator's, and when it was looked at, or that was first seen.
    looked: Option<(Operator, Instant)>,
    /// Whether it was looked at with that.
    known: bool,
    /// What PostgreSQL would say.
    said: Option<String>,
}

impl Watch {
    /// Whether it is to be looked at now. Another part is given a moment to be settled.
    fn is_due(&mut self, part: &Operator, now: Instant) -> bool {
        let every = match (self.known, &self.said) {
            (false, _) => FIRST,
            (true, Some(_)) => LOOK_AGAIN,
            (true, None) => LOOK_EVERY,
        };
        match &self.looked {
            Some((of, at)) if of == part => now.saturating_duration_since(*at) >= every,
            _ => {
                (self.looked, self.known) = (Some((part.clone(), now)), false);
                false
            }
        }
    }
}

impl PgDatabase {
    /// The alarm that PostgreSQL would not start again.
    pub(super) async fn next_start(&self, session: &mut Session) -> Result<Option<Alarm>> {
        let due = {
            let memory = &mut *lock(&self.memory);
            let Some(part) = memory.installed.as_ref().map(Files::operator) else {
                return Ok(None);
            };
            memory.next_start.is_due(&part, Instant::now())
        };
        if due {
            let layout = &self.settings.layout;
            // A start would run it, and it can have effects, or ask a person.
            let asks = session.setting("ssl_passphrase_command").await.map_err(error::sql)?;
            let work = dry_start::would_say(&self.binaries, &self.user, layout);
            let said = match asks.is_some_and(|command| !command.is_empty()) {
                true => Ok(None),
                false => tokio::time::timeout(LIMIT, work).await.unwrap_or(Err(unknown())),
            };
            let watch = &mut lock(&self.memory).next_start;
            match said {
                Ok(said) => (watch.known, watch.said) = (true, said),
                // What was found last holds, and it is tried again as seldom as ever.
                Err(error) => debug!(%error, "whether PostgreSQL would start again is not known"),
            }
            if let Some((_, at)) = &mut watch.looked {
                *at = Instant::now();
            }
        }
        Ok(lock(&self.memory).next_start.said.as_deref().map(alarm))
    }
}

fn unknown() -> start::Error {
    start::Error::Unknown { why: format!("it took longer than {LIMIT:?}") }
}

fn alarm(said: &str) -> Alarm {
    let text = format!(
        "PostgreSQL runs, and would not start again: {said}; put that right on this node before \
         PostgreSQL is stopped"
    );
    Alarm::new(AlarmCode::NextStart, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_at_once_files_are_settled_and_then_seldom() {
        let mut watch = Watch::default();
        let begun = Instant::now();
        let after = |seconds: u64| begun + Duration::from_secs(seconds);
        let one = Operator::default();
        let other = Operator { hba: vec!["local all all trust".into()], ..Default::default() };
        assert!(!watch.is_due(&one, begun));
        assert!(!watch.is_due(&one, after(29)));
        assert!(watch.is_due(&one, after(30)));
        (watch.known, watch.looked) = (true, Some((one.clone(), after(30))));
        assert!(!watch.is_due(&one, after(300)));
        assert!(watch.is_due(&one, after(330)));
        watch.said = Some("no certificate".to_owned());
        assert!(watch.is_due(&one, after(50)));
        assert!(!watch.is_due(&other, after(50)), "other files");
        assert!(watch.is_due(&other, after(80)));
        assert!(alarm("x").text.contains("would not start again: x"));
    }
}
