//! Roles and databases that have to exist: `[[cluster.role]]` and `[[cluster.database]]`.
//!
//! Owns their form. Imports the siblings only.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::error::Problem;
use super::reader::Section;

/// Longest name of an object of PostgreSQL, in bytes (manual, section 4.1.1).
const NAME_BYTES_MAX: usize = 63;

/// A role that has to exist: made where it is missing, never dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseRole {
    /// Its name.
    pub name: String,
    /// Whether it may log in.
    pub login: bool,
    /// Roles that it is a member of.
    pub in_roles: Vec<String>,
    /// The file on the nodes with its password, an absolute path. The password itself is nowhere in
    /// the configuration.
    pub password_file: Option<PathBuf>,
}

/// A database that has to exist: made where it is missing, never dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Who owns it where it is made; `None` for the superuser.
    pub owner: Option<String>,
    /// Extensions that have to exist in it.
    pub extensions: Vec<String>,
}

fn check_name(s: &mut Section, key: &str, name: &str) {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > NAME_BYTES_MAX {
        "is longer than 63 bytes"
    } else if name.contains(char::is_control) {
        "has a control character in it"
    } else if key == "name" && name.starts_with("pg_") {
        "begins with pg_, which PostgreSQL keeps for itself"
    } else {
        return;
    };
    s.refuse(key, format!("{name:?}"), problem, "write another name");
}

pub(super) fn roles(sections: Vec<Section>, problems: &mut Vec<Problem>) -> Vec<DatabaseRole> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for mut s in sections {
        let name = s.required_text("name", "\"app\"").unwrap_or_default();
        let login = s.flag("login", true);
        let in_roles = s.texts("in_roles", "[\"readers\"]");
        let password_file = s.text("password_file", "\"/etc/quorate/app.password\"");
        if s.is_clean() {
            check_name(&mut s, "name", &name);
            if name.starts_with("quorate_") || name == "postgres" {
                let problem = "is a role of quorate itself";
                s.refuse("name", format!("{name:?}"), problem, "write another name");
            }
            if !seen.insert(name.clone()) {
                s.refuse("name", format!("{name:?}"), "is given twice", "keep it once");
            }
        }
        for role in &in_roles {
            check_name(&mut s, "in_roles", role);
        }
        if let Some(path) = password_file.as_ref().filter(|p| !p.starts_with('/')) {
            let problem = "is no absolute path, and every node has to find it";
            s.refuse("password_file", format!("{path:?}"), problem, "write the path from / on");
        }
        if password_file.is_some() && !login {
            let problem = "is given for a role that does not log in";
            s.refuse("password_file", "", problem, "remove it, or write login = true");
        }
        s.finish(problems);
        let password_file = password_file.map(PathBuf::from);
        out.push(DatabaseRole { name, login, in_roles, password_file });
    }
    out
}

pub(super) fn databases(sections: Vec<Section>, problems: &mut Vec<Problem>) -> Vec<Database> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for mut s in sections {
        let name = s.required_text("name", "\"app\"").unwrap_or_default();
        let owner = s.text("owner", "\"app\"");
        let extensions = s.texts("extensions", "[\"pg_stat_statements\"]");
        if s.is_clean() {
            check_name(&mut s, "name", &name);
            if matches!(name.as_str(), "template0" | "template1") {
                let problem = "is a template of PostgreSQL";
                s.refuse("name", format!("{name:?}"), problem, "write another name");
            }
            if !seen.insert(name.clone()) {
                s.refuse("name", format!("{name:?}"), "is given twice", "keep it once");
            }
        }
        for extension in &extensions {
            check_name(&mut s, "extensions", extension);
        }
        if let Some(owner) = owner.clone() {
            check_name(&mut s, "owner", &owner);
        }
        s.finish(problems);
        out.push(Database { name, owner, extensions });
    }
    out
}
