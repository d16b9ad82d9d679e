//! The specification of a cluster as it changes: its revisions, what differs between two of them,
//! and what members say of the one that they run with.
//!
//! Pure. What a specification is stands in [`super::state`]; `apply::spec` changes it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::alarm::bounded;
use super::state::{ClusterSpec, SynchronousMode};
use super::types::{MemberName, WallMillis};

/// Most revisions of a specification that are kept, the newest included.
pub const REVISIONS_MAX: usize = 10;
/// Most changes that an event lists.
pub const CHANGES_MAX: usize = 20;
/// Most settings that a member reports as waiting for a restart.
pub const PENDING_MAX: usize = 16;
/// Most bytes of all names, values and lines of one specification: ten of them are kept, and each
/// is an entry of the Raft log.
pub const SPEC_BYTES_MAX: usize = 64 * 1024;
/// Most roles, and most databases, that a specification names.
pub const OBJECTS_MAX: usize = 100;

/// A database that has to exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseSpec {
    /// Its name.
    pub name: String,
    /// The role that owns it where it is made; `None` for the superuser.
    #[serde(default)]
    pub owner: Option<String>,
    /// Extensions that have to exist in it.
    #[serde(default)]
    pub extensions: Vec<String>,
}

/// A role that has to exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSpec {
    /// Its name.
    pub name: String,
    /// Whether it may log in.
    #[serde(default)]
    pub login: bool,
    /// Roles that it is a member of.
    #[serde(default)]
    pub in_roles: Vec<String>,
    /// The file with its password on the nodes, read where the role is made. Never the password.
    #[serde(default)]
    pub password_file: Option<String>,
}

/// One revision of a specification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpecRevision {
    /// Its number, growing by one from 1.
    pub revision: u64,
    /// When it came to be, by the proposer's wall clock.
    pub at: WallMillis,
    /// Who asked for it.
    pub by: String,
    /// What it changed, as the history tells it.
    pub changes: Vec<SpecChange>,
    /// Why it came to be, where nobody asked.
    #[serde(default)]
    pub why: Option<String>,
    /// All of it.
    pub spec: ClusterSpec,
}

/// One difference between two specifications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecChange {
    /// Which key, such as `parameters.work_mem` or `hba`.
    pub key: String,
    /// What it was; `None` where it was not there.
    #[serde(default)]
    pub old: Option<String>,
    /// What it is; `None` where it is not there any more.
    #[serde(default)]
    pub new: Option<String>,
}

impl SpecChange {
    fn new(key: impl Into<String>, old: Option<&str>, new: Option<&str>) -> Self {
        let text = |t: Option<&str>| t.map(str::to_owned);
        Self { key: key.into(), old: text(old), new: text(new) }
    }

    /// The same as it is kept in histories: bounded, and without what can hold a password.
    pub fn for_history(&self) -> Self {
        let shown = |text: &Option<String>| text.as_ref().map(|t| bounded(&self.harmless(t)));
        Self { key: bounded(&self.key), old: shown(&self.old), new: shown(&self.new) }
    }

    fn harmless(&self, text: &str) -> String {
        if self.key == "hba" {
            // Options of a method, such as ldapbindpasswd, come last and have the form name=value.
            let kept: Vec<&str> =
                text.split_whitespace().take_while(|f| !f.contains('=')).collect();
            return kept.join(" ");
        }
        let key = self.key.to_ascii_lowercase();
        let secret = ["password", "passphrase", "secret", "token", "conninfo", "_command"];
        match secret.iter().any(|word| key.contains(word)) {
            true => "(not shown)".to_owned(),
            false => text.to_owned(),
        }
    }
}

/// A setting that waits for a restart of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSetting {
    /// Its name.
    pub name: String,
    /// The value that PostgreSQL runs with.
    pub running: String,
    /// The value that it will have.
    pub wanted: String,
    /// What has to be done first; empty where a restart is all.
    #[serde(default)]
    pub first: String,
}

/// A revision that PostgreSQL does not run with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSpec {
    /// Which revision.
    pub revision: u64,
    /// The last one that PostgreSQL ran with here; 0 where none is known.
    pub last_good: u64,
    /// The setting that PostgreSQL named; empty where it named none.
    #[serde(default)]
    pub setting: String,
    /// What it said.
    pub why: String,
}

/// What a member says of the specification that its PostgreSQL runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsReport {
    /// The revision whose settings are in its files; 0 where that is not known.
    #[serde(default)]
    pub revision: u64,
    /// The major version of PostgreSQL; 0 where that is not known.
    #[serde(default)]
    pub major: u32,
    /// Settings that wait for a restart, at most [`PENDING_MAX`].
    #[serde(default)]
    pub pending: Vec<PendingSetting>,
    /// Set where PostgreSQL does not take what the specification says: the last good settings stay.
    #[serde(default)]
    pub refused: Option<RefusedSpec>,
    /// Libraries of `shared_preload_libraries` that it runs with.
    #[serde(default)]
    pub preloaded: Vec<String>,
    /// Libraries on its node that can be loaded by their plain names; `None` where that is not known.
    #[serde(default)]
    pub libraries: Option<BTreeSet<String>>,
}

impl SettingsReport {
    /// The same with texts as they are kept and sent.
    pub fn bounded(mut self) -> Self {
        self.pending.truncate(PENDING_MAX);
        for p in &mut self.pending {
            p.running = bounded(&p.running);
            p.wanted = bounded(&p.wanted);
        }
        if let Some(refused) = &mut self.refused {
            refused.why = bounded(&refused.why);
        }
        self
    }
}

impl super::state::ClusterState {
    /// Whether the revision in force is one that nobody asked for: a refused one was taken back.
    pub fn is_rolled_back(&self) -> bool {
        let last = self.spec_history.back();
        last.is_some_and(|r| r.revision == self.spec_revision && r.why.is_some())
    }
}

impl ClusterSpec {
    /// This specification with what PostgreSQL reads of `other`: parameters, and rules of access.
    /// The rest, which is the control plane's, stays.
    pub fn with_server_files_of(&self, other: &ClusterSpec) -> ClusterSpec {
        ClusterSpec {
            parameters: other.parameters.clone(),
            hba: other.hba.clone(),
            ident: other.ident.clone(),
            ..self.clone()
        }
    }

    /// Bytes of everything in it that an operator writes.
    pub fn bytes(&self) -> usize {
        let parameters = self.parameters.iter().map(|(k, v)| k.len() + v.len());
        let lines = self.hba.iter().chain(&self.ident).map(String::len);
        let roles = self.roles.iter().map(|r| {
            let names = r.in_roles.iter().map(String::len).sum::<usize>();
            r.name.len() + names + r.password_file.as_ref().map_or(0, String::len)
        });
        let databases = self.databases.iter().map(|d| {
            let names = d.extensions.iter().map(String::len).sum::<usize>();
            d.name.len() + names + d.owner.as_ref().map_or(0, String::len)
        });
        parameters.chain(lines).chain(roles).chain(databases).sum()
    }
}

/// What differs between two specifications, key by key, in the order of the keys.
pub fn differences(old: &ClusterSpec, new: &ClusterSpec) -> Vec<SpecChange> {
    let (a, b) = (keys(old), keys(new));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let (before, after) = (a.get(name), b.get(name));
        if before != after {
            let text = |t: Option<&String>| t.cloned();
            changes.push(SpecChange { key: name.clone(), old: text(before), new: text(after) });
        }
    }
    lines("hba", &old.hba, &new.hba, &mut changes);
    lines("ident", &old.ident, &new.ident, &mut changes);
    changes
}

/// Every key but the lists of lines, with its value as text.
fn keys(spec: &ClusterSpec) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut put = |key: &str, value: String| _ = all.insert(key.to_owned(), value);
    put("synchronous", mode_name(spec.synchronous).to_owned());
    put("write_quorum", spec.write_quorum.to_string());
    put("write_quorum_min", spec.write_quorum_min.to_string());
    put("shrink_after_ms", spec.shrink_after_ms.to_string());
    put("sync_lag_bytes_max", spec.sync_lag_bytes_max.to_string());
    if let Some(bytes) = spec.max_lag_bytes {
        put("max_lag_bytes", bytes.to_string());
    }
    put("slot_ttl_ms", spec.slot_ttl_ms.to_string());
    put("crash_failovers_max", spec.crash_failovers_max.to_string());
    put("crash_window_ms", spec.crash_window_ms.to_string());
    put("failsafe", spec.failsafe.to_string());
    for (name, value) in &spec.parameters {
        put(&format!("parameters.{name}"), value.clone());
    }
    for role in &spec.roles {
        let mut text = if role.login { "login" } else { "no login" }.to_owned();
        if !role.in_roles.is_empty() {
            text.push_str(&format!(", in {}", role.in_roles.join(", ")));
        }
        if let Some(file) = &role.password_file {
            text.push_str(&format!(", password in {file}"));
        }
        put(&format!("role.{}", role.name), text);
    }
    for database in &spec.databases {
        let owner = database.owner.as_deref().unwrap_or("the superuser");
        let mut text = format!("of {owner}");
        if !database.extensions.is_empty() {
            text.push_str(&format!(", with {}", database.extensions.join(", ")));
        }
        put(&format!("database.{}", database.name), text);
    }
    all
}

fn lines(key: &str, old: &[String], new: &[String], changes: &mut Vec<SpecChange>) {
    if old == new {
        return;
    }
    let before = changes.len();
    let gone = old.iter().filter(|line| !new.contains(line));
    changes.extend(gone.map(|line| SpecChange::new(key, Some(line), None)));
    let come = new.iter().filter(|line| !old.contains(line));
    changes.extend(come.map(|line| SpecChange::new(key, None, Some(line))));
    if changes.len() == before {
        let text = |n: usize| format!("{n} lines");
        let (a, b) = (text(old.len()), format!("{}, in another order", text(new.len())));
        changes.push(SpecChange::new(key, Some(&a), Some(&b)));
    }
}

/// The word for a mode, as in a configuration file.
pub fn mode_name(mode: SynchronousMode) -> &'static str {
    match mode {
        SynchronousMode::Quorum => "quorum",
        SynchronousMode::Priority => "priority",
        SynchronousMode::Async => "async",
    }
}

/// Why a change to `new` is not valid in a cluster of `members`, if so: what only matters where an
/// operator changes it. What holds for every specification is in `invariants::spec_problem`.
pub fn update_problem(new: &ClusterSpec, members: &BTreeSet<&MemberName>) -> Option<String> {
    let others = members.len().saturating_sub(1);
    let waits = new.synchronous != SynchronousMode::Async;
    if waits && new.write_quorum == 0 {
        return Some(
            "write_quorum is 0, which acknowledges without a standby: write 1 or more, or \
             synchronous = \"async\""
                .to_owned(),
        );
    }
    if waits && members.len() > 1 && new.write_quorum as usize > others {
        return Some(format!(
            "write_quorum is {}, and there are {others} other members: write {others} or less, or \
             add members",
            new.write_quorum
        ));
    }
    if !waits && new.write_quorum_min > 0 && new.write_quorum == 0 {
        return Some("write_quorum_min means nothing with synchronous = \"async\"".to_owned());
    }
    if waits && new.max_lag_bytes.is_some() {
        return Some(
            "max_lag_bytes means nothing where commits wait for standbys: remove it, or write \
             synchronous = \"async\""
                .to_owned(),
        );
    }
    let bytes = new.bytes();
    if bytes > SPEC_BYTES_MAX {
        return Some(format!("it has {bytes} bytes, and {SPEC_BYTES_MAX} are allowed"));
    }
    if new.roles.len() > OBJECTS_MAX || new.databases.len() > OBJECTS_MAX {
        return Some(format!(
            "at most {OBJECTS_MAX} roles and {OBJECTS_MAX} databases are allowed"
        ));
    }
    let has_break = |text: &&String| text.contains(['\n', '\r', '\0']);
    let texts = new.hba.iter().chain(&new.ident).chain(new.parameters.values());
    if let Some(text) = texts.chain(new.parameters.keys()).find(has_break) {
        let shown: String = text.chars().take_while(|c| !c.is_control()).take(40).collect();
        return Some(format!("{shown:?} has a line break in it: write one entry a line"));
    }
    None
}

#[cfg(test)]
#[path = "specification_test.rs"]
mod tests;
