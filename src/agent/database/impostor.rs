//! Walsenders that call themselves a synchronous standby and are none.
//!
//! Owns the judgement. PostgreSQL counts a confirmation by `application_name` alone, which every
//! client chooses (PostgreSQL manual, section 27.2.8.3). A member holds its slot: it takes it
//! before it is sent the first byte. So who streams under a member's name without its slot is a
//! stranger, whose word would release commits that no member has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{PgDatabase, lock};
use crate::domain::alarm::{Alarm, AlarmCode, NoticeCode};
use crate::domain::types::MemberName;
use crate::postgres::sql::Session;
use crate::postgres::status::PrimaryStatus;

/// How long after its last connection was ended a stranger is spoken of.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What is known of strangers.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The walsenders that were seen in the last round.
    suspects: BTreeSet<i32>,
    /// By the name that they gave: when one was last ended, how many were, and from where it came.
    ended: BTreeMap<String, Ended>,
}

#[derive(Debug)]
struct Ended {
    last: Instant,
    count: u64,
    client: String,
}

/// The walsenders that stream under a name which the setting lists, and do not hold the slot of
/// the member of that name: process and name. The setting is ours, so its names are in quotes.
fn suspects(status: &PrimaryStatus) -> BTreeMap<i32, String> {
    // Every second part is within quotes.
    let listed = || status.synchronous_standby_names.split('"').skip(1).step_by(2);
    let mut found = BTreeMap::new();
    for walsender in &status.walsenders {
        let streams = matches!(walsender.state.as_str(), "streaming" | "catchup");
        // PostgreSQL compares without case.
        let name = listed().find(|n| n.eq_ignore_ascii_case(&walsender.application_name));
        let Some(name) = name.filter(|_| streams) else { continue };
        let own = MemberName::new(name).is_ok_and(|m| {
            walsender.slot.as_deref() == Some(m.slot_name().as_str())
                && !walsender.slot_is_temporary
        });
        if !own {
            found.insert(walsender.pid, name.to_owned());
        }
    }
    found
}

impl PgDatabase {
    /// Ends the walsenders that were found to be strangers twice in a row: slots and walsenders
    /// are not looked at in one moment. What fails is done in the next round.
    pub(super) async fn end_impostors(&self, session: &mut Session, status: &PrimaryStatus) {
        let found = suspects(status);
        let before = {
            let watch = &mut lock(&self.memory).impostors;
            std::mem::replace(&mut watch.suspects, found.keys().copied().collect())
        };
        for (pid, name) in found.into_iter().filter(|(pid, _)| before.contains(pid)) {
            let sql = format!(
                "SELECT coalesce(client_addr::text, 'this machine') AS client, \
                 pg_terminate_backend(pid) AS ended FROM pg_stat_get_activity({pid}) \
                 WHERE backend_type = 'walsender'"
            );
            let Ok(rows) = session.query(&sql).await else { return };
            let Some(client) = rows.first().and_then(|r| r.text("client").ok()) else { continue };
            self.note_ended(name, client.to_owned());
        }
    }

    fn note_ended(&self, name: String, client: String) {
        let text = format!(
            "a replication connection from {client} called itself {name} without holding its \
             slot, so that its word would have confirmed commits: it was ended"
        );
        let told = {
            let ended = &mut lock(&self.memory).impostors.ended;
            let new = Ended { last: Instant::now(), count: 0, client: String::new() };
            let entry = ended.entry(name).or_insert(new);
            entry.last = Instant::now();
            entry.count += 1;
            entry.client = client;
            entry.count > 1
        };
        // One that comes back all the time would fill the history.
        if !told {
            self.note(NoticeCode::ImpostorEnded, text);
        }
    }

    /// Alarms of the strangers that were there lately.
    pub(super) fn impostor_alarms(&self) -> Vec<Alarm> {
        let ended = &mut lock(&self.memory).impostors.ended;
        ended.retain(|_, e| e.last.elapsed() < REMEMBERED);
        let alarm = |(name, e): (&String, &Ended)| {
            let (count, client) = (e.count, &e.client);
            Alarm::about(
                AlarmCode::Impostor,
                name.clone(),
                format!(
                    "somebody at {client} connects for replication with application_name={name}, \
                     which is a member's, and was cut off {count} times: give it another name"
                ),
            )
        };
        ended.iter().map(alarm).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::status::Walsender;

    fn walsender(pid: i32, name: &str, slot: Option<&str>, state: &str) -> Walsender {
        Walsender {
            pid,
            application_name: name.into(),
            slot: slot.map(str::to_owned),
            slot_is_temporary: false,
            state: state.into(),
            backend_start_us: 0,
            sent: None,
            write: None,
            flush: None,
            replay: None,
            sync_state: "quorum".into(),
            sync_priority: 1,
            reply_time_us: None,
        }
    }

    #[test]
    fn only_strangers_are_suspected() {
        let temporary = Walsender {
            slot_is_temporary: true,
            ..walsender(8, "b", Some("quorate_b"), "streaming")
        };
        let status = PrimaryStatus {
            in_recovery: false,
            write: None,
            flush: None,
            timeline: None,
            postmaster_start_us: 0,
            synchronous_standby_names: "ANY 1 (\"b\", \"c-1\")".into(),
            read_only: false,
            role: None,
            epoch: None,
            pending_restart: vec![],
            walsenders: vec![
                walsender(1, "b", Some("quorate_b"), "streaming"),
                walsender(2, "c-1", Some("quorate_c_1"), "catchup"),
                walsender(3, "B", None, "streaming"),
                walsender(4, "c-1", Some("quorate_b"), "streaming"),
                // Not yet, or no longer, or nobody's name.
                walsender(5, "b", None, "startup"),
                walsender(6, "quorate copy", None, "streaming"),
                walsender(7, "d", None, "streaming"),
                temporary,
            ],
            slots: BTreeMap::new(),
        };
        let found = suspects(&status);
        let found: Vec<_> = found.iter().map(|(pid, name)| (*pid, name.as_str())).collect();
        assert_eq!(found, [(3, "b"), (4, "c-1"), (8, "b")]);
        let nobody = PrimaryStatus { synchronous_standby_names: String::new(), ..status };
        assert!(suspects(&nobody).is_empty());
    }
}
