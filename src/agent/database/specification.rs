//! The operator's part of PostgreSQL's files, and whether PostgreSQL takes it.
//!
//! Owns the last part that PostgreSQL ran with, which is remembered on disk; the verdict on a part
//! that it does not take; and what is reported of both. A part is refused by its form, by
//! `postgres -C`, by what PostgreSQL says of its files after a reload, or by experiment: the server
//! died twice before it answered, with a FATAL in its log, and the last good part made it answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::error::{self, Result};
use super::{PgDatabase, blocking, lock, survey};
use crate::agent::driver::{Care, Error};
use crate::domain::specification::{PENDING_MAX, PendingSetting, RefusedSpec, SettingsReport};
use crate::domain::state::ClusterSpec;
use crate::postgres::sql::Session;
use crate::postgres::{conf, files, hba, settings_view, start};

/// So often in a row a server has to die with new settings until the last good ones are tried.
const DEATHS_MAX: u32 = 2;
/// How long a reload may take to be seen by a session. Measured: 3 to 12 ms.
const RELOAD: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);

/// What PostgreSQL reads of a specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Operator {
    pub parameters: BTreeMap<String, String>,
    pub hba: Vec<String>,
    pub ident: Vec<String>,
}

impl Operator {
    pub(super) fn of(spec: &ClusterSpec) -> Self {
        let ClusterSpec { parameters, hba, ident, .. } = spec.clone();
        Self { parameters, hba, ident }
    }
}

/// A part that PostgreSQL ran with, with nothing waiting for a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Good {
    revision: u64,
    operator: Operator,
}

/// Why a part is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    setting: String,
    why: String,
}

/// What is known of the operator's parts.
#[derive(Default)]
pub(super) struct Trial {
    /// The last good part, once it was looked for on disk.
    good: Option<Option<Good>>,
    /// The part last judged before use, and the verdict.
    judged: Option<(Operator, Option<Verdict>)>,
    /// A part that PostgreSQL was seen to refuse.
    refused: Option<(Operator, Verdict)>,
    /// What the tree was started with.
    started_with: Option<Operator>,
    /// With what it died before it answered, how often in a row, and its last words.
    deaths: Option<(Operator, u32, String)>,
    /// The part whose files PostgreSQL was asked about after a reload.
    checked: Option<Operator>,
}

impl Trial {
    fn good(&self) -> Option<&Good> {
        self.good.as_ref().and_then(Option::as_ref)
    }

    /// Why this part is not to be used, as far as known without asking.
    fn verdict(&self, wanted: &Operator) -> Option<Verdict> {
        if let Some((refused, verdict)) = &self.refused
            && refused == wanted
        {
            return Some(verdict.clone());
        }
        if let Some((died, times, words)) = &self.deaths
            && died == wanted
            && *times >= DEATHS_MAX
            && self.good().is_some_and(|good| good.operator != *wanted)
        {
            let why = format!("PostgreSQL does not start with it: {words}");
            return Some(Verdict { setting: named(words, &wanted.parameters), why });
        }
        self.judged.as_ref().filter(|(judged, _)| judged == wanted).and_then(|(_, v)| v.clone())
    }
}

/// The parameter of the operator's that a message names; empty where it names none.
fn named(message: &str, parameters: &BTreeMap<String, String>) -> String {
    let words = |c: char| !(c.is_ascii_alphanumeric() || "_.$".contains(c));
    let message = message.to_ascii_lowercase();
    let mut named = message.split(words).map(|word| word.trim_end_matches('.'));
    let found = named.find(|word| parameters.keys().any(|k| k.eq_ignore_ascii_case(word)));
    found.unwrap_or_default().to_owned()
}

impl PgDatabase {
    fn good_file(&self) -> PathBuf {
        self.settings.state_dir.join("settings.json")
    }

    /// The operator's part for the files: what the specification says where PostgreSQL takes it, else
    /// the last good one.
    pub(super) async fn operator(&self, spec: &ClusterSpec) -> Result<Operator> {
        let wanted = Operator::of(spec);
        self.load_good().await?;
        if lock(&self.memory).trial.verdict(&wanted).is_none() {
            self.judge(&wanted).await?;
        }
        {
            let memory = lock(&self.memory);
            if memory.trial.verdict(&wanted).is_none() {
                return Ok(wanted);
            }
            if let Some(good) = memory.trial.good().filter(|good| good.operator != wanted) {
                return Ok(good.operator.clone());
            }
            if let Some(files) = &memory.installed {
                return Ok(files.operator());
            }
        }
        // Nothing of this agent has run yet: what lies in the file, and rules of a right form.
        let path = self.settings.layout.pgdata.join("quorate.spec.conf");
        let text = blocking(move || files::read_if_exists(&path)).await?.map_err(error::file)?;
        let text = text.unwrap_or_default();
        let parameters = super::conf::parse_operator(&String::from_utf8_lossy(&text));
        let rules = form_problem(&Operator { parameters: BTreeMap::new(), ..wanted.clone() });
        Ok(match rules {
            None => Operator { parameters, ..wanted },
            Some(_) => Operator { parameters, ..Operator::default() },
        })
    }

    /// Judges a part before it is used, once. PostgreSQL is asked only where its parameters differ
    /// from those in the files.
    async fn judge(&self, wanted: &Operator) -> Result<()> {
        let known = lock(&self.memory).trial.judged.as_ref().is_some_and(|(j, _)| j == wanted);
        if known {
            return Ok(());
        }
        let mut verdict = form_problem(wanted);
        if verdict.is_none() && self.settings.layout.pgdata.join("PG_VERSION").exists() {
            // Before there is a data directory there is nothing to ask with.
            let path = self.settings.layout.pgdata.join("quorate.spec.conf");
            let installed = blocking(move || files::read_if_exists(&path)).await?;
            let installed = installed.map_err(error::file)?;
            let text = conf::render_operator(&wanted.parameters).ok();
            if installed.as_deref() != text.as_deref().map(str::as_bytes) {
                verdict = self.ask_postgres(&wanted.parameters).await?;
            }
        }
        if let Some(Verdict { why, .. }) = &verdict {
            warn!(%why, "the cluster's settings are refused: the last good ones stay");
        }
        lock(&self.memory).trial.judged = Some((wanted.clone(), verdict));
        Ok(())
    }

    async fn ask_postgres(&self, wanted: &BTreeMap<String, String>) -> Result<Option<Verdict>> {
        let (layout, user) = (&self.settings.layout, &self.user);
        match start::check_settings(&self.binaries, user, layout, wanted).await {
            Ok(()) => Ok(None),
            Err(start::Error::Settings { message }) => {
                Ok(Some(Verdict { setting: named(&message, wanted), why: message }))
            }
            Err(e) => Err(error::start(e)),
        }
    }

    async fn load_good(&self) -> Result<()> {
        if lock(&self.memory).trial.good.is_some() {
            return Ok(());
        }
        let path = self.good_file();
        let bytes = blocking(move || files::read_if_exists(&path)).await?.map_err(error::file)?;
        // One that cannot be read is as good as none: it is made again.
        let good = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        lock(&self.memory).trial.good = Some(good);
        Ok(())
    }

    /// Notes what the tree is started with.
    pub(super) fn note_start(&self, operator: Operator) {
        let memory = &mut *lock(&self.memory);
        memory.trial.started_with = Some(operator);
        memory.trial.checked = None;
    }

    /// The tree before this start died before it answered: counts that against what it was started
    /// with, where PostgreSQL itself gave up.
    pub(super) async fn note_death(&self) -> Result<()> {
        let dir = self.settings.layout.log_dir.clone();
        let (marks, started_with) = {
            let memory = lock(&self.memory);
            (memory.log_marks.clone(), memory.trial.started_with.clone())
        };
        let Some(started_with) = started_with else { return Ok(()) };
        let Some(words) = blocking(move || survey::fatal_words(&dir, &marks)).await? else {
            return Ok(());
        };
        let trial = &mut lock(&self.memory).trial;
        let before = match &trial.deaths {
            Some((operator, times, _)) if *operator == started_with => *times,
            _ => 0,
        };
        trial.deaths = Some((started_with, before + 1, words));
        Ok(())
    }

    /// What the running server has of the specification, and what it says to it. Remembers what is
    /// good.
    pub(super) async fn settings_report(
        &self,
        session: &mut Session,
        care: &Care,
    ) -> Result<SettingsReport> {
        let wanted = Operator::of(&care.spec);
        let mut report = SettingsReport { major: self.binaries.major(), ..Default::default() };
        let running = lock(&self.memory).installed.as_ref().map(super::conf::Files::operator);
        let Some(running) = running else { return Ok(report) };
        self.load_good().await?;
        self.settle_trial(&running);
        self.await_loaded(session).await?;
        let view = settings_view::view(session).await.map_err(error::sql)?;
        report.preloaded = view.preloaded;
        report.pending = view
            .pending
            .into_iter()
            .map(|p| PendingSetting {
                name: p.name,
                running: p.running,
                wanted: p.wanted,
                first: String::new(),
            })
            .collect();
        report.pending.extend(self.raised(&running).await?);
        report.pending.truncate(PENDING_MAX);
        let checked = lock(&self.memory).trial.checked.as_ref() == Some(&running);
        if !checked {
            let found = self.file_problem(session).await?;
            let trial = &mut lock(&self.memory).trial;
            trial.checked = Some(running.clone());
            let worse = trial.good().is_some_and(|good| good.operator != running);
            if let Some(verdict) = found.filter(|_| worse) {
                warn!(why = %verdict.why, "PostgreSQL refuses settings: the last good ones stay");
                trial.refused = Some((running.clone(), verdict));
            }
        }
        let good = {
            let memory = lock(&self.memory);
            let trial = &memory.trial;
            let verdict = trial.verdict(&wanted);
            let good = trial.good();
            if running == wanted {
                report.revision = care.revision;
            } else if let Some(good) = good.filter(|good| good.operator == running) {
                report.revision = good.revision;
            }
            report.refused = verdict.map(|Verdict { setting, why }| RefusedSpec {
                revision: care.revision,
                last_good: good.map_or(0, |good| good.revision),
                setting,
                why,
            });
            let new = Good { revision: care.revision, operator: running.clone() };
            let settled =
                running == wanted && report.refused.is_none() && report.pending.is_empty();
            (settled && good != Some(&new)).then_some(new)
        };
        if let Some(good) = good {
            self.save_good(good).await?;
        }
        Ok(report.bounded())
    }

    /// Waits until this session has read the files that were written last: what waits for a restart
    /// is known by each session for itself.
    async fn await_loaded(&self, session: &mut Session) -> Result<()> {
        let asked_us = lock(&self.memory).reloaded_us;
        let begun = Instant::now();
        while settings_view::loaded_us(session).await.map_err(error::sql)? < asked_us {
            if begun.elapsed() >= RELOAD {
                return Err(Error::NotReady("the settings are not read again yet".to_owned()));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// A server that answers with the last good part, after it died with another, has shown which of
    /// them is wrong.
    fn settle_trial(&self, running: &Operator) {
        let memory = &mut *lock(&self.memory);
        let trial = &mut memory.trial;
        let started = trial.started_with.as_ref() == Some(running);
        let Some((died, times, _)) = trial.deaths.clone().filter(|_| started) else { return };
        if died == *running {
            // It did start in the end.
            trial.deaths = None;
        } else if times >= DEATHS_MAX
            && let Some(verdict) = trial.verdict(&died)
        {
            trial.refused = Some((died, verdict));
            trial.deaths = None;
        }
    }

    async fn save_good(&self, good: Good) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&good).map_err(|e| Error::Failed(e.to_string()))?;
        let (path, owner) = (self.good_file(), self.owner.clone());
        // Rules of access can hold a password.
        blocking(move || files::write_atomic(&path, &bytes, 0o600, &owner))
            .await?
            .map_err(error::file)?;
        info!(revision = good.revision, "PostgreSQL runs with this revision of the specification");
        lock(&self.memory).trial.good = Some(Some(good));
        Ok(())
    }

    /// Settings that a start had to raise above what the operator wants.
    async fn raised(&self, running: &Operator) -> Result<Vec<PendingSetting>> {
        let path = self.settings.layout.pgdata.join(conf::FLOOR_FILE);
        let text = blocking(move || files::read_if_exists(&path)).await?.map_err(error::file)?;
        let text = text.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let raised = text.lines().filter_map(|line| line.split_once(" = "));
        let pending = raised.filter_map(|(name, value)| {
            let wanted = running.parameters.get(name)?;
            (wanted != value).then(|| PendingSetting {
                name: name.to_owned(),
                running: value.to_owned(),
                wanted: wanted.clone(),
                first: "a standby must not have less than its primary had: restart the primary \
                        first"
                    .to_owned(),
            })
        });
        Ok(pending.collect())
    }

    /// What PostgreSQL says of the files that it read last.
    async fn file_problem(&self, session: &mut Session) -> Result<Option<Verdict>> {
        let found = settings_view::file_errors(session, self.binaries.major()).await;
        let mut found = found.map_err(error::sql)?.into_iter();
        let first = found.find(|f| !conf::is_owned(&f.setting));
        Ok(first
            .map(|f| Verdict { why: format!("{}: {}", f.setting, f.error), setting: f.setting }))
    }

    /// What PostgreSQL refused of the operator's part, for a person.
    pub(super) fn refused_settings(&self, care: &Care) -> Option<String> {
        lock(&self.memory).trial.verdict(&Operator::of(&care.spec)).map(|v| v.why)
    }

    /// Whether a standby's replay has stopped since the primary runs with more than this server: only
    /// a restart helps, which raises what is too low (PostgreSQL manual, section 27.4.3).
    pub(super) async fn starved_of_settings(
        &self,
        session: &mut Session,
    ) -> Result<Option<String>> {
        let pgdata = &self.settings.layout.pgdata;
        let control = crate::postgres::controldata::read(&self.binaries, &self.user, pgdata);
        let control = control.await.map_err(error::control)?;
        for (name, least) in &control.floor {
            let running = session.setting(name).await.map_err(error::sql)?;
            let running = running.and_then(|v| v.parse::<u64>().ok()).unwrap_or(u64::MAX);
            if running < *least {
                return Ok(Some(format!(
                    "{name} is {running}, and the primary runs with {least}: replay has stopped, \
                     and a restart raises it"
                )));
            }
        }
        Ok(None)
    }
}

/// What is wrong with the form of a part: what could not even be written.
fn form_problem(operator: &Operator) -> Option<Verdict> {
    if let Err(e) = conf::render_operator(&operator.parameters) {
        let why = e.to_string();
        return Some(Verdict { setting: named(&why, &operator.parameters), why });
    }
    let rules = hba::Rules {
        superuser: String::new(),
        replication: String::new(),
        rewind: String::new(),
        peers: Vec::new(),
        peers_tls: false,
        slot_sync: false,
        operator: operator.hba.clone(),
        ident: operator.ident.clone(),
    };
    if let Err(e) = hba::render(&rules) {
        return Some(Verdict { setting: "hba".to_owned(), why: e.to_string() });
    }
    let ident = hba::render_ident(&rules).err()?;
    Some(Verdict { setting: "ident".to_owned(), why: ident.to_string() })
}

/// Whether a start has to look for settings that are lower than the data allows: what is known
/// without asking PostgreSQL.
pub(super) fn may_be_too_low(floor: &BTreeMap<&'static str, u64>, operator: &Operator) -> bool {
    floor.iter().any(|(name, least)| {
        let given = operator.parameters.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
        let known = match given {
            Some((_, value)) => value.parse().unwrap_or(0),
            // PostgreSQL's defaults (manual, sections 20.3, 20.4, 20.6, 20.12).
            None => match *name {
                "max_connections" => 100,
                "max_worker_processes" => 8,
                "max_locks_per_transaction" => 64,
                _ => 0,
            },
        };
        let known = if *name == "max_wal_senders" {
            known.max(u64::from(super::conf::WAL_SENDERS_MAX))
        } else {
            known
        };
        *least > known
    })
}

/// For the agent's other parts.
impl super::conf::Files {
    /// The operator's part of these files.
    pub(super) fn operator(&self) -> Operator {
        Operator {
            parameters: self.settings.operator.clone(),
            hba: self.rules.operator.clone(),
            ident: self.rules.ident.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(value: &str) -> Operator {
        let parameters = BTreeMap::from([("shared_buffers".to_owned(), value.to_owned())]);
        Operator { parameters, ..Default::default() }
    }

    #[test]
    fn the_last_good_part_is_tried_after_two_deaths() {
        let (good, bad) = (part("1MB"), part("4TB"));
        let mut trial = Trial::default();
        let words = "FATAL:  could not map anonymous shared memory; HINT: reduce shared_buffers or";
        trial.deaths = Some((bad.clone(), 2, words.to_owned()));
        assert_eq!(trial.verdict(&bad), None, "there is nothing to go back to");
        trial.good = Some(Some(Good { revision: 3, operator: good.clone() }));
        assert_eq!(trial.verdict(&bad).unwrap().setting, "shared_buffers");
        assert_eq!(trial.verdict(&good), None);
        trial.deaths = Some((bad.clone(), 1, words.to_owned()));
        assert_eq!(trial.verdict(&bad), None, "one death can have another reason");
    }

    #[test]
    fn a_start_looks_only_where_it_may_have_to() {
        let floor = BTreeMap::from([("max_connections", 100), ("max_wal_senders", 32)]);
        assert!(!may_be_too_low(&floor, &Operator::default()));
        let set = |value: &str| Operator {
            parameters: BTreeMap::from([("max_connections".to_owned(), value.to_owned())]),
            ..Default::default()
        };
        assert!(may_be_too_low(&floor, &set("50")));
        assert!(!may_be_too_low(&floor, &set("200")));
        assert!(may_be_too_low(&floor, &set("0x64")), "what is not understood is looked at");
    }

    #[test]
    fn what_cannot_be_written_is_refused_by_its_form() {
        assert_eq!(form_problem(&part("1MB")), None);
        let hba = Operator { hba: vec!["hosts all".into()], ..Default::default() };
        assert_eq!(form_problem(&hba).unwrap().setting, "hba");
        let ident = Operator { ident: vec!["a b".into()], ..Default::default() };
        assert_eq!(form_problem(&ident).unwrap().setting, "ident");
        let owned = BTreeMap::from([("port".to_owned(), "1".to_owned())]);
        let owned = Operator { parameters: owned, ..Default::default() };
        assert_eq!(form_problem(&owned).unwrap().setting, "port");
    }

    #[test]
    fn any_directory_without_logs_says_nothing() {
        let none = survey::fatal_words(std::path::Path::new("/nonexistent"), &Default::default());
        assert_eq!(none, None);
    }
}
