//! The operator's part of PostgreSQL's files, and whether PostgreSQL takes it.
//!
//! Owns the last part that PostgreSQL ran with and the last that it started with, which are
//! remembered on disk; the verdict on a part that it does not take; and what is reported of them. A
//! part is refused by its form, by `postgres -C`, by what PostgreSQL says of its files after a reload
//! and had not said before, or by experiment: the server died twice before it answered, with a FATAL
//! in its log, and another part made it answer.
//!
//! A reload does not prove a part: with `ssl = on` and no certificate it only logs, and the next
//! start fails. So the part of the last start that was answered is kept beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::error::{self, Result};
use super::{PgDatabase, STATEMENT, blocking, lock, survey};
use crate::agent::driver::{Care, Error};
use crate::domain::specification::{PENDING_MAX, PendingSetting, RefusedSpec, SettingsReport};
use crate::domain::state::ClusterSpec;
use crate::postgres::connect::{self, Connection};
use crate::postgres::settings_view::FileError;
use crate::postgres::sql::Session;
use crate::postgres::{conf, dry_start, files, hba, libraries, settings_view, start};

/// So often in a row a server has to die with new settings until the last good ones are tried.
const DEATHS_MAX: u32 = 2;
/// So many parts with which it died are remembered.
const DEAD_MAX: usize = 4;
/// What a server gives up with that says nothing of its settings: the machine, or another server.
const NO_VERDICT: &[&str] = &[
    "No space left on device",
    "Disk quota exceeded",
    "lock file",
    "out of memory",
    "Too many open files",
    "Input/output error",
];
/// What it gives up with that is about its configuration, and never about its data.
const OF_SETTINGS: &[&str] = &[
    "configuration",
    "parameter",
    "certificate",
    "private key",
    "shared memory",
    "huge page",
    "semaphore",
    "could not access file \"",
    "pg_hba.conf",
    "pg_ident.conf",
    "could not create any",
    "lock file",
];
/// How long a reload may take to be seen by a session. Measured: 3 to 12 ms.
const RELOAD: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);
/// How often a part that was refused before its use is judged anew.
const JUDGE_AGAIN: Duration = Duration::from_secs(20);

/// How long a part may be judged: an upkeep has less than twice as long. A start has to wait no
/// longer than that it is a failover sooner.
const JUDGE: Duration = Duration::from_secs(5);
const JUDGE_AT_START: Duration = Duration::from_secs(2);

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
    /// What PostgreSQL said of its files all the same.
    #[serde(default)]
    remarks: BTreeSet<String>,
}

/// What is remembered on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The last part that a running server took.
    #[serde(default)]
    good: Option<Good>,
    /// The last part that a postmaster was started with, and answered. Its revision is 0 where that
    /// is not known.
    #[serde(default)]
    started: Option<Good>,
}

/// A part with which a server died before it answered.
#[derive(Debug, Clone)]
struct Death {
    operator: Operator,
    /// How often since a server answered.
    times: u32,
    /// Its last words.
    words: String,
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
    /// What is on disk, once it was looked for.
    kept: Option<Kept>,
    /// The part last judged before use, and the verdict.
    judged: Option<(Operator, Option<Verdict>)>,
    /// When that was.
    judged_at: Option<Instant>,
    /// The part of which it could not be found out, and why not.
    unknown: Option<(Operator, String)>,
    /// A part that PostgreSQL was seen to refuse.
    refused: Option<(Operator, Verdict)>,
    /// What the tree was started with.
    started_with: Option<Operator>,
    /// With what it died since it answered last.
    deaths: Vec<Death>,
    /// The part whose files PostgreSQL was asked about after a reload, and what it said.
    checked: Option<(Operator, BTreeSet<String>)>,
    /// What it said of the files right before another part was written.
    before: BTreeSet<String>,
}

impl Trial {
    fn good(&self) -> Option<&Good> {
        self.kept.as_ref()?.good.as_ref()
    }

    /// Parts that worked once, the best first.
    fn others<'a, 'w>(
        &'a self,
        wanted: &'w Operator,
    ) -> impl Iterator<Item = &'a Good> + use<'a, 'w> {
        let kept = self.kept.iter().flat_map(|k| k.good.iter().chain(&k.started));
        kept.filter(move |good| good.operator != *wanted)
    }

    fn death(&self, operator: &Operator) -> Option<&Death> {
        self.deaths.iter().find(|d| d.operator == *operator && d.times >= DEATHS_MAX)
    }

    fn is_refused(&self, operator: &Operator) -> bool {
        self.refused.as_ref().is_some_and(|(refused, _)| refused == operator)
    }

    /// The part to go back to from one that is refused.
    fn way_back(&self, wanted: &Operator) -> Option<&Good> {
        let usable = |g: &&Good| self.death(&g.operator).is_none() && !self.is_refused(&g.operator);
        self.others(wanted).find(usable)
    }

    /// Why this part is not to be used, as far as known without asking.
    fn verdict(&self, wanted: &Operator) -> Option<Verdict> {
        if let Some((refused, verdict)) = &self.refused
            && refused == wanted
        {
            return Some(verdict.clone());
        }
        if let Some(death) = self.death(wanted)
            && self.way_back(wanted).is_some()
        {
            return Some(death.verdict());
        }
        self.judged.as_ref().filter(|(judged, _)| judged == wanted).and_then(|(_, v)| v.clone())
    }

    /// Whether the verdict from before its use may have changed: what was missing on this node can
    /// have been installed since.
    fn is_stale(&self, wanted: &Operator) -> bool {
        let refused = self.judged.as_ref().is_some_and(|(j, v)| j == wanted && v.is_some());
        refused && self.judged_at.is_none_or(|at| at.elapsed() >= JUDGE_AGAIN)
    }

    fn count_death(&mut self, operator: Operator, words: String) {
        match self.deaths.iter_mut().find(|d| d.operator == operator) {
            Some(death) => (death.times, death.words) = (death.times.saturating_add(1), words),
            None => {
                if self.deaths.len() >= DEAD_MAX {
                    self.deaths.remove(0);
                }
                self.deaths.push(Death { operator, times: 1, words });
            }
        }
    }

    /// A server that answers with what it was started with, after others died with other parts, has
    /// shown which of them are wrong. Returns whether what is kept has changed.
    fn settle(&mut self, running: &Operator) -> bool {
        if self.started_with.as_ref() != Some(running) {
            return false;
        }
        let deaths = std::mem::take(&mut self.deaths);
        let wrong = deaths.into_iter().filter(|d| d.operator != *running && d.times >= DEATHS_MAX);
        let mut changed = false;
        for death in wrong {
            if let Some(kept) = &mut self.kept
                && kept.good.as_ref().is_some_and(|good| good.operator == death.operator)
            {
                // A reload took it, and no start does.
                kept.good = kept.started.clone().filter(|s| s.operator != death.operator);
                changed = true;
            }
            self.refused = Some((death.operator.clone(), death.verdict()));
        }
        changed
    }

    /// Notes that what the tree was started with has answered. Returns whether that is news.
    fn note_answer(&mut self, wanted: &Good) -> bool {
        let Some(operator) = self.started_with.clone() else { return false };
        let Some(kept) = &mut self.kept else { return false };
        let known = |g: &&Good| g.operator == operator;
        let known = kept.good.iter().chain(&kept.started).find(known);
        let revision = match operator == wanted.operator {
            true => wanted.revision,
            false => known.map_or(0, |g| g.revision),
        };
        let started = Some(Good { revision, operator, remarks: BTreeSet::new() });
        let news = kept.started != started;
        kept.started = started;
        news
    }

    /// Whether another part is left to try after a death with this one.
    fn may_be_to_blame(&self, died: &Operator) -> bool {
        let times =
            |o: &Operator| self.deaths.iter().find(|d| d.operator == *o).map_or(0, |d| d.times);
        // The last death is counted when the next start begins.
        times(died) + 1 < DEATHS_MAX && self.others(died).next().is_some()
            || self.others(died).any(|g| times(&g.operator) < DEATHS_MAX)
    }
}

impl Death {
    fn verdict(&self) -> Verdict {
        let why = format!("PostgreSQL does not start with it: {}", self.words);
        Verdict { setting: named(&self.words, &self.operator.parameters), why }
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
    /// the last good one. What is not found out is no approval: then the files stay as they are.
    pub(super) async fn operator(&self, spec: &ClusterSpec) -> Result<Operator> {
        let wanted = Operator::of(spec);
        self.load_kept().await?;
        let due = {
            let trial = &lock(&self.memory).trial;
            trial.verdict(&wanted).is_none() || trial.is_stale(&wanted)
        };
        self.judged(wanted, due, JUDGE).await
    }

    /// The same for a start, which neither fails nor waits for long to find something out. What was
    /// refused is not judged anew.
    pub(super) async fn operator_at_start(&self, spec: &ClusterSpec) -> Result<Operator> {
        let wanted = Operator::of(spec);
        self.load_kept().await?;
        let due = lock(&self.memory).trial.verdict(&wanted).is_none();
        self.judged(wanted, due, JUDGE_AT_START).await
    }

    async fn judged(&self, wanted: Operator, due: bool, limit: Duration) -> Result<Operator> {
        let judged = match due {
            true => match tokio::time::timeout(limit, self.judge(&wanted)).await {
                Ok(judged) => judged.map_err(|e| e.to_string()),
                Err(_) => Err(format!("it took longer than {limit:?}")),
            },
            false => Ok(()),
        };
        {
            let memory = &mut *lock(&self.memory);
            let trial = &mut memory.trial;
            let known = trial.judged.as_ref().is_some_and(|(judged, _)| *judged == wanted);
            match judged {
                Err(why) if !known => {
                    warn!(%why, "whether PostgreSQL takes the cluster's settings is not known");
                    trial.unknown = Some((wanted.clone(), why));
                }
                _ => trial.unknown = None,
            }
            let unknown = trial.unknown.is_some();
            if trial.verdict(&wanted).is_none() {
                let ran = trial.good().is_some_and(|good| good.operator == wanted);
                let first = memory.installed.is_none() && trial.way_back(&wanted).is_none();
                // Where no other part has ever worked there is nothing to stay with.
                if !unknown || ran || first {
                    trial.unknown = None;
                    return Ok(wanted);
                }
                if let Some(files) = &memory.installed {
                    return Ok(files.operator());
                }
            }
            if let Some(good) = memory.trial.way_back(&wanted) {
                return Ok(good.operator.clone());
            }
            if let Some(files) = &memory.installed {
                return Ok(files.operator());
            }
        }
        Ok(self.written(wanted).await?.0)
    }

    /// The operator's part that the running server has. No other part is judged or taken: that is
    /// never on the way of a seal or a promotion.
    pub(super) async fn operator_in_force(&self, spec: &ClusterSpec) -> Result<Operator> {
        if let Some(files) = &lock(&self.memory).installed {
            return Ok(files.operator());
        }
        // Taken over: it is told by what lies in the file.
        self.load_kept().await?;
        let wanted = Operator::of(spec);
        let (written, text) = self.written(wanted.clone()).await?;
        let is_written = |o: &Operator| {
            conf::render_operator(&o.parameters).is_ok_and(|rendered| rendered.as_bytes() == text)
        };
        let memory = lock(&self.memory);
        let known = memory.trial.others(&wanted).map(|g| &g.operator).find(|o| is_written(o));
        Ok(match known {
            Some(known) if !is_written(&wanted) => known.clone(),
            _ => written,
        })
    }

    /// What lies in the file, with rules where they have the right form; and the file.
    async fn written(&self, wanted: Operator) -> Result<(Operator, Vec<u8>)> {
        let path = self.settings.layout.pgdata.join("quorate.spec.conf");
        let text = blocking(move || files::read_if_exists(&path)).await?.map_err(error::file)?;
        let text = text.unwrap_or_default();
        let parameters = super::conf::parse_operator(&String::from_utf8_lossy(&text));
        let rules = form_problem(&Operator { parameters: BTreeMap::new(), ..wanted.clone() });
        let operator = match rules {
            None => Operator { parameters, ..wanted },
            Some(_) => Operator { parameters, ..Operator::default() },
        };
        Ok((operator, text))
    }

    /// Judges a part before it is used, once. PostgreSQL is asked only where its parameters differ
    /// from those in the files.
    async fn judge(&self, wanted: &Operator) -> Result<()> {
        let before = {
            let trial = &lock(&self.memory).trial;
            let before = trial.judged.clone().filter(|(judged, _)| judged == wanted);
            if before.is_some() && !trial.is_stale(wanted) {
                return Ok(());
            }
            before.and_then(|(_, verdict)| verdict)
        };
        let mut verdict = form_problem(wanted);
        if verdict.is_none() && self.settings.layout.pgdata.join("PG_VERSION").exists() {
            // Before there is a data directory there is nothing to ask with.
            let path = self.settings.layout.pgdata.join("quorate.spec.conf");
            let installed = blocking(move || files::read_if_exists(&path)).await?;
            let installed = installed.map_err(error::file)?;
            let text = conf::render_operator(&wanted.parameters).ok();
            if installed.as_deref() != text.as_deref().map(str::as_bytes) {
                let in_force = String::from_utf8_lossy(installed.as_deref().unwrap_or_default());
                let in_force = super::conf::parse_operator(&in_force);
                verdict = self.ask_postgres(&wanted.parameters, &in_force).await?;
            }
        }
        if let Some(Verdict { why, .. }) = &verdict
            && verdict != before
        {
            warn!(%why, "the cluster's settings are refused: the last good ones stay");
        }
        let trial = &mut lock(&self.memory).trial;
        trial.judged = Some((wanted.clone(), verdict));
        trial.judged_at = Some(Instant::now());
        Ok(())
    }

    async fn ask_postgres(
        &self,
        wanted: &BTreeMap<String, String>,
        in_force: &BTreeMap<String, String>,
    ) -> Result<Option<Verdict>> {
        let (layout, user) = (&self.settings.layout, &self.user);
        match dry_start::check_settings(&self.binaries, user, layout, wanted, in_force).await {
            Ok(()) => Ok(None),
            Err(start::Error::Settings { message }) => {
                Ok(Some(Verdict { setting: named(&message, wanted), why: message }))
            }
            Err(e) => Err(error::start(e)),
        }
    }

    async fn load_kept(&self) -> Result<()> {
        if lock(&self.memory).trial.kept.is_some() {
            return Ok(());
        }
        let path = self.good_file();
        let bytes = blocking(move || files::read_if_exists(&path)).await?.map_err(error::file)?;
        // What cannot be read is as good as nothing: it is made again.
        let kept = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        lock(&self.memory).trial.kept = Some(kept.unwrap_or_default());
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
        if NO_VERDICT.iter().any(|no| words.contains(no)) {
            return Ok(());
        }
        lock(&self.memory).trial.count_death(started_with, words);
        Ok(())
    }

    /// Whether the settings may be why the last server ended before it answered: then its data is
    /// not to blame.
    pub(super) async fn settings_to_blame(&self) -> Result<bool> {
        let dir = self.settings.layout.log_dir.clone();
        let (marks, started_with) = {
            let memory = lock(&self.memory);
            (memory.log_marks.clone(), memory.trial.started_with.clone())
        };
        let words = blocking(move || survey::fatal_words(&dir, &marks)).await?;
        let Some(words) = words else { return Ok(false) };
        if OF_SETTINGS.iter().any(|about| words.contains(about)) {
            return Ok(true);
        }
        self.load_kept().await?;
        let memory = lock(&self.memory);
        Ok(started_with.is_some_and(|died| memory.trial.may_be_to_blame(&died)))
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
        let running = {
            let memory = lock(&self.memory);
            // What is written and not read yet is not what it runs with.
            let read = memory.installed.as_ref().filter(|_| !memory.reload_due);
            read.map(super::conf::Files::operator)
        };
        let Some(running) = running else { return Ok(report) };
        self.load_kept().await?;
        self.settle_trial(&wanted, care.revision, &running).await?;
        self.await_loaded(session).await?;
        let view = settings_view::view(session).await.map_err(error::sql)?;
        report.preloaded = view.preloaded;
        if let Some(libdir) = libraries::directory(&self.binaries) {
            let search = view.library_path;
            report.libraries = blocking(move || libraries::listed(&search, &libdir)).await?;
        }
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
        self.check_running(session, &running).await?;
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
            let checked = trial.checked.as_ref().filter(|(of, _)| *of == running);
            let remarks = checked.map(|(_, said)| said.clone()).unwrap_or_default();
            let new = Good { revision: care.revision, operator: running.clone(), remarks };
            let settled =
                running == wanted && report.refused.is_none() && report.pending.is_empty();
            let settled = settled && !memory.reload_due;
            (settled && good != Some(&new)).then_some(new)
        };
        if let Some(good) = good {
            info!(
                revision = good.revision,
                "PostgreSQL runs with this revision of the specification"
            );
            self.save_kept(|kept| kept.good = Some(good)).await?;
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

    /// Takes what the answer of the running server says of the part that it was started with.
    async fn settle_trial(
        &self,
        wanted: &Operator,
        revision: u64,
        running: &Operator,
    ) -> Result<()> {
        let wanted = Good { revision, operator: wanted.clone(), remarks: BTreeSet::new() };
        let news = {
            let trial = &mut lock(&self.memory).trial;
            let settled = trial.settle(running);
            trial.note_answer(&wanted) || settled
        };
        if news { self.save_kept(|_| ()).await } else { Ok(()) }
    }

    /// Asks PostgreSQL what it says of a part that it has read for the first time, and whether it
    /// still takes connections with it. One that it does not take is taken back at once, by the
    /// session that is still held.
    async fn check_running(&self, session: &mut Session, running: &Operator) -> Result<()> {
        let known = |trial: &Trial| trial.checked.as_ref().is_some_and(|(of, _)| of == running);
        if known(&lock(&self.memory).trial) {
            return Ok(());
        }
        let found = self.remarks(session).await?;
        let locked_out = self.locked_out(running).await?;
        let verdict = {
            let trial = &mut lock(&self.memory).trial;
            trial.checked = Some((running.clone(), found.iter().map(FileError::text).collect()));
            let Some(back) = trial.way_back(running) else { return Ok(()) };
            let old = |text: &String| back.remarks.contains(text) || trial.before.contains(text);
            let new = found.into_iter().find(|f| !old(&f.text()));
            let new = new.map(|f| Verdict { why: f.text(), setting: f.setting });
            let Some(verdict) = locked_out.or(new) else { return Ok(()) };
            verdict
        };
        self.go_back(running, verdict).await?;
        // The same once more, by which it is known when: the next look waits for that.
        let asked_us = session.reload_at().await.map_err(error::sql)?;
        lock(&self.memory).reloaded_us = asked_us;
        Ok(())
    }

    /// Takes a part back that the running server does not take. That needs no session, and goes on
    /// where nobody waits for it any more: with a part that refuses every new session it could not
    /// be begun anew.
    async fn go_back(&self, running: &Operator, verdict: Verdict) -> Result<()> {
        let guard = self.running()?;
        warn!(why = %verdict.why, "PostgreSQL refuses settings: the last good ones stay");
        let files = {
            let memory = &mut *lock(&self.memory);
            memory.trial.refused = Some((running.clone(), verdict));
            let back = memory.trial.way_back(running).map(|good| good.operator.clone());
            match (memory.installed.clone(), back) {
                (Some(files), Some(back)) => files.with_operator(back, self.binaries.major()),
                _ => return Ok(()),
            }
        };
        let (write, memory) = (self.write_files(&files), self.memory.clone());
        let work = async move {
            write.await?;
            guard.signal(libc::SIGHUP).await.map_err(error::guard)?;
            let mut memory = lock(&memory);
            memory.reload_due &= memory.installed.as_ref() != Some(&files);
            Ok(())
        };
        let done = tokio::spawn(work).await;
        done.map_err(|e| Error::Machine(format!("settings were not taken back: {e}")))?
    }

    /// Takes a part back with which no session can be had at all, so that nothing else could be
    /// asked of the server: the session that looked at it first was lost before it was done.
    pub(super) async fn unlock(&self) -> Result<()> {
        let running = {
            let memory = lock(&self.memory);
            let Some(files) = &memory.installed else { return Ok(()) };
            let (running, trial) = (files.operator(), &memory.trial);
            let worked = trial.checked.as_ref().is_some_and(|(of, _)| *of == running);
            if trial.way_back(&running).is_none() || worked && !trial.is_refused(&running) {
                return Ok(());
            }
            running
        };
        match self.locked_out(&running).await? {
            Some(verdict) => self.go_back(&running, verdict).await,
            None => Ok(()),
        }
    }

    /// Why no new session can be had while an old one works: a library that every session loads
    /// first is not there, say.
    async fn locked_out(&self, running: &Operator) -> Result<Option<Verdict>> {
        match Connection::open(&self.target(), STATEMENT).await {
            Err(connect::Error::Server { message, .. }) => {
                let setting = match named(&message, &running.parameters) {
                    none if none.is_empty() => running
                        .parameters
                        .keys()
                        .find(|k| k.to_ascii_lowercase().ends_with("_preload_libraries"))
                        .cloned()
                        .unwrap_or_default(),
                    setting => setting,
                };
                let why = format!("with it PostgreSQL refuses every new session: {message}");
                Ok(Some(Verdict { setting, why }))
            }
            Ok(_) | Err(connect::Error::TooManyConnections(_)) => Ok(None),
            Err(e) => Err(error::sql(e)),
        }
    }

    /// Notes what PostgreSQL says of the files that are there, before others are written: that is
    /// no fault of theirs.
    pub(super) async fn note_remarks(&self, session: &mut Session) -> Result<()> {
        let found = self.remarks(session).await?;
        lock(&self.memory).trial.before = found.iter().map(FileError::text).collect();
        Ok(())
    }

    async fn save_kept(&self, change: impl FnOnce(&mut Kept)) -> Result<()> {
        let mut kept = lock(&self.memory).trial.kept.clone().unwrap_or_default();
        change(&mut kept);
        let bytes = serde_json::to_vec_pretty(&kept).map_err(|e| Error::Failed(e.to_string()))?;
        let (path, owner) = (self.good_file(), self.owner.clone());
        // Rules of access can hold a password.
        blocking(move || files::write_atomic(&path, &bytes, 0o600, &owner))
            .await?
            .map_err(error::file)?;
        lock(&self.memory).trial.kept = Some(kept);
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
                first: format!(
                    "a primary of this cluster has run with {value}, and no member starts with \
                     less: no restart lowers it; set it to {value}"
                ),
            })
        });
        Ok(pending.collect())
    }

    /// What PostgreSQL says of the files that are there, without what only warns: a rule that
    /// cannot match, such as one for TLS where that is off, is taken all the same.
    async fn remarks(&self, session: &mut Session) -> Result<Vec<FileError>> {
        let found = settings_view::file_errors(session, self.binaries.major()).await;
        let mut found = found.map_err(error::sql)?;
        found.retain(|f| !conf::is_owned(&f.setting) && !f.is_warning());
        Ok(found)
    }

    /// Why it is not known whether PostgreSQL takes the operator's part, for a person.
    pub(super) fn untried_settings(&self, care: &Care) -> Option<String> {
        let wanted = Operator::of(&care.spec);
        let memory = lock(&self.memory);
        memory.trial.unknown.as_ref().filter(|(of, _)| *of == wanted).map(|(_, why)| why.clone())
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

    /// The same with another part of the operator's.
    pub(super) fn with_operator(mut self, operator: Operator, major: u32) -> Self {
        self.rules.slot_sync = conf::syncs_slots(major, &operator.parameters);
        self.settings.operator = operator.parameters;
        (self.rules.operator, self.rules.ident) = (operator.hba, operator.ident);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(value: &str) -> Operator {
        let parameters = BTreeMap::from([("shared_buffers".to_owned(), value.to_owned())]);
        Operator { parameters, ..Default::default() }
    }

    fn good(revision: u64, operator: &Operator) -> Option<Good> {
        Some(Good { revision, operator: operator.clone(), remarks: BTreeSet::new() })
    }

    fn died(trial: &mut Trial, operator: &Operator) {
        let words = "could not map anonymous shared memory; HINT: reduce shared_buffers or";
        trial.started_with = Some(operator.clone());
        trial.count_death(operator.clone(), words.to_owned());
    }

    #[test]
    fn the_last_good_part_is_tried_after_two_deaths() {
        let (fine, bad) = (part("1MB"), part("4TB"));
        let mut trial = Trial::default();
        died(&mut trial, &bad);
        died(&mut trial, &bad);
        assert_eq!(trial.verdict(&bad), None, "there is nothing to go back to");
        trial.kept = Some(Kept { good: good(3, &fine), started: None });
        assert_eq!(trial.verdict(&bad).unwrap().setting, "shared_buffers");
        assert_eq!(trial.verdict(&fine), None);
        trial.deaths.clear();
        died(&mut trial, &bad);
        assert_eq!(trial.verdict(&bad), None, "one death can have another reason");
    }

    #[test]
    fn what_only_a_reload_took_gives_way_to_what_started() {
        let (first, second) = (part("1MB"), part("2MB"));
        let mut trial = Trial {
            kept: Some(Kept { good: good(4, &second), started: good(3, &first) }),
            ..Trial::default()
        };
        died(&mut trial, &second);
        assert!(trial.may_be_to_blame(&second));
        died(&mut trial, &second);
        assert!(trial.verdict(&second).is_some());
        assert_eq!(trial.way_back(&second).unwrap().revision, 3);
        // It answers with that: what died is refused, and is no good part any more.
        trial.started_with = Some(first.clone());
        assert!(trial.settle(&first));
        assert!(trial.is_refused(&second));
        assert_eq!(trial.good().unwrap().revision, 3);
        assert!(!trial.settle(&first));
    }

    #[test]
    fn data_is_to_blame_once_every_part_has_died() {
        let (first, second) = (part("1MB"), part("2MB"));
        let mut trial = Trial {
            kept: Some(Kept { good: good(4, &second), started: good(3, &first) }),
            ..Trial::default()
        };
        for operator in [&second, &second, &first] {
            died(&mut trial, operator);
        }
        assert!(trial.verdict(&second).is_some());
        assert!(!trial.may_be_to_blame(&first), "this is its second death");
        died(&mut trial, &first);
        assert_eq!(trial.verdict(&second), None, "there is nothing to go back to");
        assert!(!trial.may_be_to_blame(&second));
    }

    #[test]
    fn only_a_refusal_is_judged_anew() {
        let (fine, bad) = (part("1MB"), part("4TB"));
        let verdict = Verdict { setting: String::new(), why: "no library".to_owned() };
        let mut trial = Trial { judged: Some((bad.clone(), Some(verdict))), ..Trial::default() };
        assert!(trial.is_stale(&bad), "nobody knows since when");
        assert!(!trial.is_stale(&fine));
        trial.judged_at = Some(Instant::now());
        assert!(!trial.is_stale(&bad));
        trial.judged = Some((fine.clone(), None));
        trial.judged_at = None;
        assert!(!trial.is_stale(&fine));
    }

    #[test]
    fn what_answers_is_what_started() {
        let (first, second) = (part("1MB"), part("2MB"));
        let mut trial = Trial { kept: Some(Kept::default()), ..Trial::default() };
        let wanted = good(2, &second).unwrap();
        assert!(!trial.note_answer(&wanted), "it was started by somebody else");
        trial.started_with = Some(first.clone());
        assert!(trial.note_answer(&good(1, &first).unwrap()));
        assert!(!trial.note_answer(&wanted), "a reload starts nothing");
        assert_eq!(trial.kept.as_ref().unwrap().started, good(1, &first));
        trial.started_with = Some(second);
        assert!(trial.note_answer(&wanted));
        assert_eq!(trial.kept.unwrap().started, good(2, &wanted.operator));
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
