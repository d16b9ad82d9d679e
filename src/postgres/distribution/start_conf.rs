//! Debian's `start.conf` (`pg_createcluster(1)`), which lies below directories that PostgreSQL's user
//! may write.
//!
//! Nothing is done there with more rights than the one has who could do it anyway, and no more than
//! one known word of it is kept.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::postgres::files;
use crate::postgres::os_user::OsUser;

/// What it may say.
const MODES: [&str; 3] = ["auto", "manual", "disabled"];

/// What the file says; `None` where there is none, which means `auto`.
///
/// # Errors
/// It cannot be read, or says something else.
pub(super) fn mode(path: &Path) -> Result<Option<&'static str>, files::Error> {
    let Some(content) = files::read_if_exists(path)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&content);
    said(&text).map(Some).ok_or_else(|| {
        let why = "it says none of auto, manual and disabled: write one of them";
        files::Error::new("understand", path, std::io::Error::other(why))
    })
}

/// The first word that is no comment; `auto` where there is none.
pub(super) fn said(text: &str) -> Option<&'static str> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default());
    match lines.flat_map(str::split_whitespace).next() {
        Some(word) => MODES.into_iter().find(|mode| *mode == word),
        None => Some("auto"),
    }
}

/// With whose rights the file is changed; `None` where neither may.
///
/// Ours only where nobody else can put something else in the place of a directory on the way, from
/// `root` downward: each is root's, and no link.
pub(super) fn hands<'a>(
    root: &Path,
    dir: &Path,
    us: &'a OsUser,
    postgres: &'a OsUser,
) -> Option<&'a OsUser> {
    let way: Vec<&Path> = dir.ancestors().take_while(|d| d.starts_with(root)).collect();
    let roots_own =
        |dir: &&Path| std::fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir() && m.uid() == 0);
    // From above, so that what was looked at cannot be moved any more.
    if us.uid() == 0 && way.iter().rev().all(roots_own) {
        return Some(us);
    }
    std::fs::metadata(dir).is_ok_and(|m| m.uid() == postgres.uid()).then_some(postgres)
}

/// Has the file say `disabled`, and how that is undone by `undo`.
pub(super) fn disable(path: &Path, undo: &Path, by: &OsUser) -> Result<(), files::Error> {
    let text = disabled(undo);
    files::as_user(by, path, || files::write_atomic(path, text.as_bytes(), 0o644, by))
}

/// systemd's generator wants one line that is no comment.
pub(super) fn disabled(undo: &Path) -> String {
    // A line of a comment must not end before its end.
    let undo = undo.display().to_string().replace(char::is_control, "?");
    format!(
        "# Quorate runs a server on this data directory. To undo this:\n#   sh {undo}\ndisabled\n"
    )
}
