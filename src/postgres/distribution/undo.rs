//! The script that gives back to the distribution what was turned off. An operator runs it as root.

use std::path::Path;

use crate::postgres::files;
use crate::postgres::os_user::OsUser;

/// Nothing of it is read from what PostgreSQL's user may write, and what that user owns is changed
/// with that user's rights. It can be run again.
const HEAD: &str = r#"#!/bin/sh
# Gives back to the distribution what Quorate has turned off. Run as root,
# once Quorate does not manage this data directory any more.
set -eu
umask 022
# User and group that may change the file, the word that it said (- for no file), the file.
start_conf() {
  as=
  if [ "$(id -u)" = 0 ] && [ "$1" != 0 ]; then
    as="setpriv --reuid=$1 --regid=$2 --clear-groups"
  fi
  $as sh -c '
    [ -d "${2%/*}" ] || exit 0
    if [ "$1" = - ]; then rm -f -- "$2"; exit; fi
    rm -f -- "$2.undo"
    printf "%s\n" "$1" > "$2.undo"
    mv -fT -- "$2.undo" "$2"' sh "$3" "$4"
}
"#;

/// The way back of one thing.
pub(super) enum Step<'a> {
    /// `start.conf` says this again; `None` where there was no file.
    StartConf { path: &'a Path, mode: Option<&'static str>, by: &'a OsUser },
    /// The unit is not masked any more.
    Unmask(&'a str),
}

impl Step<'_> {
    /// The end of its line, by which it is known.
    fn what(&self) -> String {
        match self {
            Self::StartConf { path, .. } => format!(" {}", quoted(&path.to_string_lossy())),
            Self::Unmask(unit) => format!(" unmask {}", quoted(unit)),
        }
    }

    fn line(&self) -> String {
        match self {
            Self::StartConf { mode, by, .. } => {
                let word = mode.unwrap_or("-");
                format!("start_conf {} {} {word}{}", by.uid(), by.gid(), self.what())
            }
            Self::Unmask(_) => format!("systemctl{}", self.what()),
        }
    }
}

/// Has the script undo these, too. The newest of each is what counts.
pub(super) fn write(script: &Path, steps: &[Step<'_>], us: &OsUser) -> Result<(), files::Error> {
    let known = files::read_if_exists(script)?.unwrap_or_default();
    let known = String::from_utf8_lossy(&known);
    let whats: Vec<String> = steps.iter().map(Step::what).collect();
    let mut text = HEAD.to_owned();
    let ours = |l: &&str| l.starts_with("start_conf ") || l.starts_with("systemctl unmask ");
    let stays = |l: &&str| !whats.iter().any(|what| l.ends_with(what.as_str()));
    let others = known.lines().filter(|l| !l.ends_with('{')).filter(ours).filter(stays);
    let new = steps.iter().map(Step::line);
    for line in others.map(str::to_owned).chain(new) {
        text.push_str(&line);
        text.push('\n');
    }
    files::write_if_changed(script, text.as_bytes(), 0o600, us)?;
    Ok(())
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
