//! The directories beside the data directory.
//!
//! Owns that they are there, and that PostgreSQL's user gets to those that are for it.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::error::{self, Result};
use super::{PgDatabase, blocking};
use crate::agent::driver::Error;
use crate::postgres::files;
use crate::postgres::os_user::OsUser;

impl PgDatabase {
    /// Makes every directory but the data directory, and the password files.
    pub(super) async fn prepare(&self) -> Result<()> {
        let (settings, user, owner) =
            (self.settings.clone(), self.user.clone(), self.owner.clone());
        blocking(move || {
            let layout = &settings.layout;
            for dir in [
                &settings.state_dir,
                &settings.guard_dir,
                &layout.run_dir,
                &layout.log_dir,
                &layout.pgdata,
            ] {
                make_above(dir).map_err(error::file)?;
            }
            // PostgreSQL's user gets through it to the password file, and reads nothing else.
            files::ensure_dir(&settings.state_dir, 0o711, &owner).map_err(error::file)?;
            files::ensure_dir(&settings.guard_dir, 0o700, &owner).map_err(error::file)?;
            files::ensure_dir(&layout.run_dir, 0o700, &user).map_err(error::file)?;
            make_above(&layout.socket_dir).map_err(error::file)?;
            layout.prepare(&user).map_err(error::place)?;
            let passfile = settings.passfile();
            for path in [&passfile, &layout.pgdata, &layout.socket_dir, &layout.log_dir] {
                check_reachable(path, &user)?;
            }
            let credentials = &settings.credentials;
            credentials.write_passfile(&passfile, &user).map_err(error::credentials)?;
            let written =
                credentials.write_superuser_passfile(&settings.operator_passfile(), &owner);
            written.map(drop).map_err(error::credentials)
        })
        .await?
    }
}

/// Makes the directories above `path` that are missing, whatever the umask, so that everybody gets
/// through them.
fn make_above(path: &Path) -> std::result::Result<(), files::Error> {
    let missing: Vec<_> = path.ancestors().skip(1).take_while(|dir| !dir.exists()).collect();
    for dir in missing.into_iter().rev() {
        std::fs::create_dir(dir).map_err(|e| files::Error::new("create", dir, e))?;
        std::fs::set_permissions(dir, Permissions::from_mode(0o755))
            .map_err(|e| files::Error::new("change the mode of", dir, e))?;
    }
    Ok(())
}

/// PostgreSQL itself would only say that it may not open a file.
fn check_reachable(path: &Path, user: &OsUser) -> Result<()> {
    if !user.switches() {
        return Ok(());
    }
    for dir in path.ancestors().skip(1) {
        let meta = std::fs::metadata(dir)
            .map_err(|e| error::file(files::Error::new("look at", dir, e)))?;
        let bit = if meta.uid() == user.uid() {
            0o100
        } else if meta.gid() == user.gid() || user.groups().contains(&meta.gid()) {
            0o010
        } else {
            0o001
        };
        if meta.mode() & bit == 0 {
            return Err(Error::Machine(format!(
                "user {} does not get to {}: {} has mode {:04o}; run: chmod o+x {}",
                user.name(),
                path.display(),
                dir.display(),
                meta.mode() & 0o7777,
                dir.display()
            )));
        }
    }
    Ok(())
}
