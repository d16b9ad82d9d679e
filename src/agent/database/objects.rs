//! Roles, databases and extensions that have to exist: what is missing is made, nothing is dropped
//! or changed.
//!
//! Owns the order and the statements. It runs beside everything else, one run at a time, on sessions
//! of its own: making a database can take longer than the agent may wait. What could not be done is
//! told by an alarm, and tried again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::info;

use super::{PgDatabase, lock};
use crate::agent::driver::Care;
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::domain::libraries::names;
use crate::domain::specification::{DatabaseSpec, RoleSpec, SettingsReport};
use crate::postgres::connect::{Error, Target, literal};
use crate::postgres::credentials::Password;
use crate::postgres::sql::Session;

/// Longest run of one statement. A database is a copy of a small one.
const STATEMENT: Duration = Duration::from_secs(60);
/// How often it is looked whether all is still there, and how often what failed is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// So many things that could not be done are told.
const PROBLEMS_MAX: usize = 8;

/// What is known of the objects.
#[derive(Default)]
pub(super) struct Watch {
    /// What was last looked for, with the members that an extension waits for, and when.
    looked: Option<(Wanted, Instant)>,
    /// Whether a run is under way.
    running: bool,
    /// What could not be done.
    problems: Vec<String>,
}

/// What has to exist, and which extensions have to wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    roles: Vec<RoleSpec>,
    databases: Vec<DatabaseSpec>,
    /// Extensions whose library some members do not run with yet, with a sentence each.
    waiting: Vec<(String, String)>,
}

impl PgDatabase {
    /// Has what is missing made, where it is time to look. Returns the alarm of the last run.
    pub(super) fn keep_objects(&self, care: &Care, own: &SettingsReport) -> Option<Alarm> {
        let wanted = Wanted {
            roles: care.spec.roles.clone(),
            databases: care.spec.databases.clone(),
            waiting: waiting(care, own),
        };
        let memory = &mut *lock(&self.memory);
        let watch = &mut memory.objects;
        if wanted.roles.is_empty() && wanted.databases.is_empty() {
            watch.problems.clear();
            return None;
        }
        let every = if watch.problems.is_empty() { LOOK_EVERY } else { RETRY_EVERY };
        let due = match &watch.looked {
            Some((looked, at)) => *looked != wanted || at.elapsed() >= every,
            None => true,
        };
        if due && care.active && !watch.running {
            watch.running = true;
            watch.looked = Some((wanted.clone(), Instant::now()));
            self.spawn_run(wanted);
        }
        let problems = &memory.objects.problems;
        (!problems.is_empty()).then(|| {
            let text = problems.join("; ");
            Alarm::new(AlarmCode::ObjectsMissing, format!("what has to exist is not there: {text}"))
        })
    }

    fn spawn_run(&self, wanted: Wanted) {
        let (target, memory) = (self.target(), self.memory.clone());
        // Ends by its own bounds; a server that ends takes its connections with it.
        tokio::spawn(async move {
            let mut problems = make(&target, &wanted).await;
            problems.truncate(PROBLEMS_MAX);
            let watch = &mut lock(&memory).objects;
            watch.problems = problems;
            watch.running = false;
        });
    }
}

/// Extensions of the specification whose library is to be loaded by every server, and is not yet:
/// on a member without it, it would not work after a failover.
fn waiting(care: &Care, own: &SettingsReport) -> Vec<(String, String)> {
    let libraries = care.spec.parameters.get("shared_preload_libraries");
    let wanted: BTreeSet<String> = libraries.into_iter().flat_map(|l| names(l)).collect();
    let all: BTreeSet<&String> = care.spec.databases.iter().flat_map(|d| &d.extensions).collect();
    let mut waiting = Vec::new();
    for extension in all.into_iter().filter(|e| wanted.contains(*e)) {
        let lacks = |preloaded: &[String]| !preloaded.contains(extension);
        let mut members: Vec<String> = Vec::new();
        if lacks(&own.preloaded) {
            members.push("this member".to_owned());
        }
        let others = care.others.iter().filter(|o| lacks(&o.preloaded));
        members.extend(others.map(|o| o.member.to_string()));
        if !members.is_empty() {
            let why = format!(
                "extension {extension} waits until {} runs with its library: restart it",
                members.join(" and ")
            );
            waiting.push((extension.clone(), why));
        }
    }
    waiting
}

async fn make(target: &Target, wanted: &Wanted) -> Vec<String> {
    let mut problems = Vec::new();
    let mut session = Session::new(target.clone(), STATEMENT);
    if let Err(e) = begin(&mut session, "").await {
        return vec![e.to_string()];
    }
    for role in &wanted.roles {
        if let Err(why) = make_role(&mut session, role).await {
            problems.push(format!("role {}: {why}", role.name));
        }
    }
    // All are made before any becomes a member of another.
    for role in &wanted.roles {
        if let Err(why) = make_memberships(&mut session, role).await {
            problems.push(format!("role {}: {why}", role.name));
        }
    }
    for database in &wanted.databases {
        if let Err(e) = make_database(&mut session, database).await {
            problems.push(format!("database {}: {e}", database.name));
            continue;
        }
        if database.extensions.is_empty() {
            continue;
        }
        let within = Target { dbname: database.name.clone(), ..target.clone() };
        let mut session = Session::new(within, STATEMENT);
        if let Err(e) = begin(&mut session, "SET search_path = public").await {
            problems.push(format!("database {}: {e}", database.name));
            continue;
        }
        for extension in &database.extensions {
            if let Some((_, why)) = wanted.waiting.iter().find(|(name, _)| name == extension) {
                problems.push(why.clone());
            } else if let Err(e) = make_extension(&mut session, extension).await {
                problems.push(format!("extension {extension} in {}: {e}", database.name));
            }
        }
    }
    problems
}

/// Bounds the statements on the server as well.
async fn begin(session: &mut Session, also: &str) -> Result<(), Error> {
    let limit = STATEMENT.as_millis();
    session.query(&format!("SET statement_timeout = {limit}; {also}")).await.map(drop)
}

/// A name as SQL takes it, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\0', "").replace('"', "\"\""))
}

async fn exists(session: &mut Session, sql: &str, name: &str) -> Result<bool, Error> {
    let rows = session.query(&format!("{sql} = {}", literal(name))).await?;
    Ok(!rows.is_empty())
}

const ROLE: &str = "SELECT rolname FROM pg_roles WHERE rolname";
const DATABASE: &str = "SELECT datname FROM pg_database WHERE datname";
const EXTENSION: &str = "SELECT extname FROM pg_extension WHERE extname";

async fn make_role(session: &mut Session, role: &RoleSpec) -> Result<(), String> {
    let sql = |e: Error| e.to_string();
    if exists(session, ROLE, &role.name).await.map_err(sql)? {
        return Ok(());
    }
    let mut statement = format!("CREATE ROLE {}", quoted(&role.name));
    statement.push_str(if role.login { " LOGIN" } else { " NOLOGIN" });
    if let Some(path) = &role.password_file {
        let path = PathBuf::from(path);
        // Read where it may wait for a disk. Only the verifier goes to PostgreSQL, whose log can
        // hold the statement.
        let read = tokio::task::spawn_blocking(move || Password::load(&path)).await;
        let password = read.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        statement.push_str(&format!(" PASSWORD {}", literal(&password.verifier())));
    }
    match session.query(&statement).await {
        Ok(_) => info!(role = %role.name, "a role was made"),
        // duplicate_object: somebody else was faster.
        Err(Error::Server { code, .. }) if code == "42710" => {}
        Err(Error::Server { message, .. }) => return Err(message),
        Err(e) => return Err(e.to_string()),
    }
    Ok(())
}

async fn make_memberships(session: &mut Session, role: &RoleSpec) -> Result<(), Error> {
    for group in &role.in_roles {
        let sql = format!(
            "SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid \
             JOIN pg_roles r ON r.oid = m.member WHERE g.rolname = {} AND r.rolname = {}",
            literal(group),
            literal(&role.name)
        );
        if session.query(&sql).await?.is_empty() {
            let grant = format!("GRANT {} TO {}", quoted(group), quoted(&role.name));
            session.query(&grant).await?;
            info!(role = %role.name, %group, "a role became a member of another");
        }
    }
    Ok(())
}

async fn make_database(session: &mut Session, database: &DatabaseSpec) -> Result<(), Error> {
    if exists(session, DATABASE, &database.name).await? {
        return Ok(());
    }
    let mut statement = format!("CREATE DATABASE {}", quoted(&database.name));
    if let Some(owner) = &database.owner {
        statement.push_str(&format!(" OWNER {}", quoted(owner)));
    }
    match session.query(&statement).await {
        // duplicate_database: somebody else was faster.
        Err(Error::Server { code, .. }) if code == "42P04" => Ok(()),
        Err(e) => Err(e),
        Ok(_) => {
            info!(database = %database.name, "a database was made");
            Ok(())
        }
    }
}

async fn make_extension(session: &mut Session, extension: &str) -> Result<(), Error> {
    if exists(session, EXTENSION, extension).await? {
        return Ok(());
    }
    let statement = format!("CREATE EXTENSION IF NOT EXISTS {} CASCADE", quoted(extension));
    session.query(&statement).await?;
    info!(%extension, "an extension was made");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::driver::Other;
    use crate::domain::state::ClusterSpec;
    use crate::domain::types::MemberName;

    #[test]
    fn an_extension_waits_for_its_library_everywhere() {
        let member = |name: &str| MemberName::new(name).unwrap();
        let mut spec = ClusterSpec::of(vec![member("a"), member("b")]);
        let libraries = "pg_stat_statements, \"auto_explain\"".to_owned();
        spec.parameters.insert("shared_preload_libraries".into(), libraries);
        spec.databases.push(DatabaseSpec {
            name: "app".into(),
            owner: None,
            extensions: vec!["hstore".into(), "pg_stat_statements".into()],
        });
        let mut care = Care {
            others: vec![Other {
                member: member("b"),
                position: None,
                heard: true,
                silent: Duration::ZERO,
                preloaded: Vec::new(),
            }],
            sync: None,
            spec,
            revision: 1,
            active: true,
            out_of_room: false,
        };
        let loaded = vec!["pg_stat_statements".to_owned()];
        let own = SettingsReport { preloaded: loaded.clone(), ..Default::default() };
        let told = waiting(&care, &own);
        assert_eq!(told.len(), 1);
        assert!(told[0].1.contains("until b runs"), "{told:?}");
        care.others[0].preloaded = loaded;
        assert_eq!(waiting(&care, &own), vec![]);
        assert_eq!(waiting(&care, &SettingsReport::default()).len(), 1, "itself lacks it");
    }

    #[test]
    fn names_cannot_end_their_quotes() {
        assert_eq!(quoted("a\"; DROP"), "\"a\"\"; DROP\"");
    }
}
