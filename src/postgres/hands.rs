//! Settings that somebody changed by hand, past the control plane.
//!
//! Owns the comparison of the files in a data directory with what [`super::start::install`] would
//! write, and that what somebody wrote into them is not lost when they are written again.

use std::collections::BTreeSet;

use super::layout::Layout;
use super::os_user::OsUser;
use super::start::{self, Error};
use super::{conf, files, hba};

/// Ending of the name under which the last content of a file is kept that was changed by hand.
const EDITED: &str = ".edited";
/// The setting that is never put right in passing: see [`Changed::synchronous`].
const NAMES: &str = "synchronous_standby_names";

/// What is not as we left it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Files of ours with another content, or none.
    pub files: Vec<&'static str>,
    /// Settings of ours that were set with ALTER SYSTEM, or in its file.
    pub overridden: BTreeSet<String>,
    /// Whether who confirms commits is among it.
    pub synchronous: bool,
}

impl Changed {
    /// Whether all is as it was left.
    pub fn is_nothing(&self) -> bool {
        self.files.is_empty() && self.overridden.is_empty()
    }
}

/// Compares the files with those that [`start::install`] would make of the same settings.
///
/// # Errors
/// A file cannot be read, or the settings cannot be written at all.
pub fn changed(
    layout: &Layout,
    settings: &conf::Settings,
    rules: &hba::Rules,
) -> Result<Changed, Error> {
    let mut changed = Changed::default();
    for (name, wanted) in start::render(settings, rules)? {
        let found = files::read_if_exists(&layout.pgdata.join(name))?;
        if found.as_deref() == Some(wanted.as_bytes()) {
            continue;
        }
        let found = found.unwrap_or_default();
        // The main file decides which of the others are read at all.
        let about = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|l| l.to_ascii_lowercase().contains(NAMES));
            lines.map(str::to_owned).collect()
        };
        changed.synchronous |=
            name == "postgresql.conf" || about(&wanted) != about(&String::from_utf8_lossy(&found));
        changed.files.push(name);
    }
    let auto = files::read_if_exists(&layout.pgdata.join("postgresql.auto.conf"))?;
    let auto = auto.unwrap_or_default();
    changed.overridden = conf::strip_owned(&String::from_utf8_lossy(&auto)).1;
    changed.synchronous |= changed.overridden.contains(NAMES);
    Ok(changed)
}

/// Keeps the content of files that are about to be written again, beside them, the last one of
/// each. Readable for PostgreSQL's user only.
pub fn keep(layout: &Layout, user: &OsUser, names: &[&'static str]) -> Result<(), Error> {
    for name in names {
        if let Some(content) = files::read_if_exists(&layout.pgdata.join(name))? {
            let path = layout.pgdata.join(format!("{name}{EDITED}"));
            files::write_if_changed(&path, &content, 0o600, user)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::{ClusterName, Epoch, MemberName};
    use std::collections::BTreeMap;
    use std::fs;

    #[test]
    fn every_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let layout =
            Layout::new(path("data"), path("run"), path("run"), path("log")).expect("a layout");
        fs::create_dir(&layout.pgdata).unwrap();
        let user = OsUser::current().unwrap();
        let settings = conf::Settings {
            cluster: ClusterName::new("main").unwrap(),
            member: MemberName::new("a").unwrap(),
            listen_addresses: "*".into(),
            port: 5432,
            pgdata: layout.pgdata.clone(),
            socket_dir: path("run"),
            log_dir: path("log"),
            passfile: path("pass"),
            replication_user: "replicator".into(),
            connection: BTreeMap::new(),
            major: 15,
            max_wal_senders: 10,
            max_replication_slots: 10,
            operator: BTreeMap::from([("work_mem".into(), "8MB".into())]),
            synchronous: conf::Synchronous::Nobody,
            role: conf::Role::Primary { epoch: Epoch(2), read_only: false },
        };
        let rules = hba::Rules {
            superuser: "admin".into(),
            replication: "replicator".into(),
            rewind: "rewinder".into(),
            peers: vec![],
            peers_tls: false,
            slot_sync: false,
            operator: vec![],
            ident: vec![],
        };
        let look = || changed(&layout, &settings, &rules).unwrap();
        assert_eq!(look().files.len(), 5, "nothing is there yet");
        let install = || {
            let running = start::ServerIs::Running;
            start::install(&layout, &user, &settings, &rules, running).unwrap()
        };
        install();
        assert!(look().is_nothing());

        let file = |name: &str| layout.pgdata.join(name);
        let edit = |name: &str, more: &str| {
            let text = fs::read_to_string(file(name)).unwrap_or_default();
            fs::write(file(name), text + more).unwrap();
        };
        edit("pg_hba.conf", "host all all all trust\n");
        edit("quorate.conf", "port = 1\n");
        let found = look();
        assert_eq!(found.files, ["quorate.conf", "pg_hba.conf"]);
        assert!(!found.synchronous);
        keep(&layout, &user, &found.files).unwrap();
        install();
        assert!(look().is_nothing());
        let kept = fs::read_to_string(file("pg_hba.conf.edited")).unwrap();
        assert!(kept.ends_with("trust\n"), "{kept}");

        for name in ["quorate.conf", "quorate.spec.conf"] {
            edit(name, "Synchronous_Standby_Names = '*'\n");
            assert!(look().synchronous, "{name}");
            install();
        }
        fs::remove_file(file("quorate.conf")).unwrap();
        assert!(look().synchronous, "a file that is gone sets nothing");
        install();
        // What the operator replaces as a whole does not become what everything rests on.
        edit("postgresql.base.conf", "");
        fs::write(file("postgresql.conf"), "work_mem = '1MB'\n").unwrap();
        assert!(look().synchronous);
        install();
        assert_eq!(fs::read_to_string(file("postgresql.base.conf")).unwrap(), "");

        edit("postgresql.auto.conf", "work_mem = '4MB'\n");
        assert!(look().is_nothing(), "that one is the operator's");
        edit("postgresql.auto.conf", "port = '1'\n");
        assert_eq!(look().overridden.into_iter().collect::<Vec<_>>(), ["port"]);
        edit("postgresql.auto.conf", "synchronous_standby_names = ''\n");
        assert!(look().synchronous);
    }
}
