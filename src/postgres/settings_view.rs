//! What a running server says of its settings: those that wait for a restart, what it did not take
//! of its files, and which there are at all.
//!
//! Owns the questions. Functions are asked and not the views over them: the views join catalogs
//! that a standby can have locked while it replays.

use super::connect::{Error, Row};
use super::sql::Session;
use crate::domain::libraries::names;

/// Most errors that are read.
const ERRORS_MAX: usize = 50;

/// A setting that waits for a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its name.
    pub name: String,
    /// The value that the server runs with.
    pub running: String,
    /// The value in the files.
    pub wanted: String,
}

/// What the server runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Settings that wait for a restart.
    pub pending: Vec<Pending>,
    /// Libraries of `shared_preload_libraries`.
    pub preloaded: Vec<String>,
    /// `dynamic_library_path`.
    pub library_path: String,
}

/// Something in the files that the server does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// The setting; `hba` or `ident` for the rules of access; empty for the file as a whole.
    pub setting: String,
    /// What it says.
    pub error: String,
}

impl FileError {
    /// Both in one line.
    pub fn text(&self) -> String {
        format!("{}: {}", self.setting, self.error)
    }

    /// Whether the server takes what it names all the same: a rule of access that can never match,
    /// since TLS or GSSAPI is off or not built in.
    pub fn is_warning(&self) -> bool {
        self.setting == "hba" && self.error.contains("record cannot match because")
    }
}

/// One setting of the catalogue, as PostgreSQL has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// `bool`, `integer`, `real`, `string` or `enum`.
    pub kind: String,
    /// When a change takes effect, such as `postmaster`.
    pub context: String,
    /// The unit; empty for none.
    pub unit: String,
    /// The least value; empty where there is none.
    pub min: String,
    /// The greatest value; empty where there is none.
    pub max: String,
    /// The words of an enumeration.
    pub words: Vec<String>,
}

const PRELOADED: &str = "\
SELECT current_setting('shared_preload_libraries') AS libraries,
 current_setting('dynamic_library_path') AS path";

// The value that is last in the files is the one that counts; one that is in none goes back to its
// default.
const PENDING: &str = "\
SELECT s.name, current_setting(s.name) AS running,
 coalesce((SELECT f.setting FROM pg_show_all_file_settings() f WHERE lower(f.name) = lower(s.name)
  ORDER BY f.seqno DESC LIMIT 1), s.boot_val) AS wanted
FROM pg_show_all_settings() s WHERE s.pending_restart ORDER BY s.name";

// Of a setting that waits for a restart it says that it could not be applied, and of one that was
// taken out of the files, without a file, that it cannot be changed: these are no refusals.
const FILES: &str = "\
SELECT coalesce(f.name, '') AS name, f.error FROM pg_show_all_file_settings() f
LEFT JOIN pg_show_all_settings() s ON lower(s.name) = lower(f.name)
WHERE f.error IS NOT NULL AND f.sourcefile IS NOT NULL
 AND s.context IS DISTINCT FROM 'postmaster' ORDER BY f.seqno";

const LOADED: &str = "\
SELECT (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint AS us";

const HBA: &str = "\
SELECT 'hba' AS name, error FROM pg_hba_file_rules() WHERE error IS NOT NULL ORDER BY line_number";

const IDENT: &str = "\
SELECT 'ident' AS name, error FROM pg_ident_file_mappings() WHERE error IS NOT NULL
ORDER BY line_number";

const CATALOGUE: &str = "\
SELECT name, vartype, context, coalesce(unit, '') AS unit, coalesce(min_val, '') AS min,
 coalesce(max_val, '') AS max, coalesce(array_to_string(enumvals, E'\\n'), '') AS words
FROM pg_show_all_settings()";

/// The first major version that shows its `pg_ident.conf`.
const IDENT_MAJOR: u32 = 15;

/// When this session has read the settings last, in microseconds since 1970 on the server's clock.
pub async fn loaded_us(session: &mut Session) -> Result<i64, Error> {
    session.row(LOADED).await?.parse("us")
}

/// What the server runs with, as this session has read it.
pub async fn view(session: &mut Session) -> Result<View, Error> {
    let row = session.row(PRELOADED).await?;
    let preloaded = names(row.optional("libraries")?.unwrap_or_default());
    let library_path = row.optional("path")?.unwrap_or_default().to_owned();
    let mut pending = Vec::new();
    for row in session.query(PENDING).await? {
        pending.push(Pending {
            name: row.text("name")?.to_owned(),
            running: row.optional("running")?.unwrap_or_default().to_owned(),
            wanted: row.optional("wanted")?.unwrap_or_default().to_owned(),
        });
    }
    Ok(View { pending, preloaded, library_path })
}

/// What is wrong with the files, the first few. Settings that wait for a restart are not.
pub async fn file_errors(session: &mut Session, major: u32) -> Result<Vec<FileError>, Error> {
    let mut errors = Vec::new();
    let ident = (major >= IDENT_MAJOR).then_some(IDENT);
    for sql in [Some(FILES), Some(HBA), ident].into_iter().flatten() {
        for row in session.query(sql).await?.iter().take(ERRORS_MAX) {
            errors.push(FileError {
                setting: row.text("name")?.to_owned(),
                error: row.text("error")?.to_owned(),
            });
        }
    }
    Ok(errors)
}

/// Every setting that the server knows.
pub async fn catalogue(session: &mut Session) -> Result<Vec<Setting>, Error> {
    let setting = |row: &Row| -> Result<Setting, Error> {
        let text = |column: &str| row.text(column).map(str::to_owned);
        Ok(Setting {
            name: text("name")?,
            kind: text("vartype")?,
            context: text("context")?,
            unit: text("unit")?,
            min: text("min")?,
            max: text("max")?,
            words: text("words")?.lines().map(str::to_owned).collect(),
        })
    };
    session.query(CATALOGUE).await?.iter().map(setting).collect()
}
