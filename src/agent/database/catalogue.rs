//! The catalogue of settings that the running PostgreSQL knows, for the leader's checks.

use super::error::{self, Result};
use super::{PgDatabase, STATEMENT};
use crate::config;
use crate::domain::catalogue::{Catalogue, Context, Entry, Kind};
use crate::postgres::conf;
use crate::postgres::settings_view::{self, Setting};
use crate::postgres::sql::Session;

impl PgDatabase {
    pub(super) async fn read_catalogue(&self) -> Result<Catalogue> {
        self.running()?;
        // Of its own: it is asked for beside what the worker does.
        let mut session = Session::new(self.target(), STATEMENT);
        let all = settings_view::catalogue(&mut session).await.map_err(error::sql)?;
        let entries = all.into_iter().map(|s| (s.name.to_ascii_lowercase(), entry(s))).collect();
        Ok(Catalogue { major: self.binaries.major(), entries })
    }
}

fn entry(setting: Setting) -> Entry {
    // In some of ours the operator has a say.
    let owned = conf::is_owned(&setting.name) && !conf::is_shared(&setting.name);
    let reason = |name: &str| config::owned_reason(name).map_or("", |o| o.reason).to_owned();
    let owned = owned.then(|| reason(&setting.name));
    let bound = |text: &str, none: f64| text.parse().unwrap_or(none);
    let (min, max) = (bound(&setting.min, f64::MIN), bound(&setting.max, f64::MAX));
    let kind = match setting.kind.as_str() {
        "bool" => Kind::Bool,
        "integer" => Kind::Integer { min, max, unit: setting.unit },
        "real" => Kind::Real { min, max, unit: setting.unit },
        "enum" => Kind::Enum { words: setting.words },
        _ => Kind::Text,
    };
    Entry { kind, context: Context::parse(&setting.context), owned }
}
