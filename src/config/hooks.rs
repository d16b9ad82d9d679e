//! Programs that are run when a member's role changes: section `[hooks]`, or `[member.hooks]`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use super::error::Problem;
use super::reader::Section;
use super::{Config, Member, RUN_AS_DEFAULT};

/// How long a hook may run where nothing is said, in milliseconds.
const TIMEOUT_MS: u64 = 10_000;
/// The same for the one that a promotion waits for: each second of it is one without a primary.
const BEFORE_PROMOTION_TIMEOUT_MS: u64 = 2_000;
/// Longest time that a promotion waits for a hook, in milliseconds.
pub const BEFORE_PROMOTION_TIMEOUT_MS_MAX: u64 = 20_000;

/// The hooks of a member. Every path is absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Run after the role has changed: `<program> cluster member role epoch`, where the role is
    /// `primary`, `standby`, `fenced` or `stopped`.
    pub on_role_change: Option<PathBuf>,
    /// Run before a promotion, which waits for it: `<program> cluster member epoch`.
    pub before_promotion: Option<PathBuf>,
    /// Whether the member gives the epoch up where that fails; without, it is promoted all the same.
    pub before_promotion_required: bool,
    /// How long the promotion waits for it; milliseconds.
    pub before_promotion_timeout_ms: u64,
    /// Run once, on the member that made the first data directory, as soon as that takes writes:
    /// `<program> cluster member connection-string`.
    pub after_bootstrap: Option<PathBuf>,
    /// How long the others may run; milliseconds.
    pub timeout_ms: u64,
    /// The user that they run as; `None` for the one that PostgreSQL runs as.
    pub run_as: Option<String>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            on_role_change: None,
            before_promotion: None,
            before_promotion_required: false,
            before_promotion_timeout_ms: BEFORE_PROMOTION_TIMEOUT_MS,
            after_bootstrap: None,
            timeout_ms: TIMEOUT_MS,
            run_as: None,
        }
    }
}

impl Hooks {
    /// Key and path of each that is set.
    fn each(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        [
            ("on_role_change", &self.on_role_change),
            ("before_promotion", &self.before_promotion),
            ("after_bootstrap", &self.after_bootstrap),
        ]
        .into_iter()
        .filter_map(|(key, path)| Some((key, path.as_deref()?)))
    }
}

/// Reads a section.
pub(super) fn read(mut s: Section, problems: &mut Vec<Problem>) -> Hooks {
    let mut program = |key: &'static str| {
        let text = s.text(key, "\"/etc/quorate/hooks/program\"")?;
        if !text.starts_with('/') {
            let mend = "write the whole path, such as \"/etc/quorate/hooks/program\"";
            s.refuse(key, format!("{text:?}"), "is not an absolute path", mend);
            return None;
        }
        Some(PathBuf::from(text))
    };
    let on_role_change = program("on_role_change");
    let before_promotion = program("before_promotion");
    let after_bootstrap = program("after_bootstrap");
    let before_promotion_required = s.flag("before_promotion_required", false);
    if before_promotion_required && before_promotion.is_none() && s.is_clean() {
        let mend = "add before_promotion, or remove it";
        s.refuse("before_promotion_required", "true", "is set without before_promotion", mend);
    }
    let before_promotion_timeout_ms = s.number_or(
        "before_promotion_timeout_ms",
        100..=BEFORE_PROMOTION_TIMEOUT_MS_MAX,
        BEFORE_PROMOTION_TIMEOUT_MS,
    );
    let timeout_ms = s.number_or("timeout_ms", 100..=600_000, TIMEOUT_MS);
    let run_as = s.text("run_as", "\"postgres\"");
    s.finish(problems);
    Hooks {
        on_role_change,
        before_promotion,
        before_promotion_required,
        before_promotion_timeout_ms,
        after_bootstrap,
        timeout_ms,
        run_as,
    }
}

/// What the machine says of the hooks of all members: each is a program that its user can run and
/// that nobody else can change.
pub(super) fn check_machine(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for member in &config.members {
        let key = |name: &str| format!("{}.hooks.{name}", member.key());
        let user = match user(member) {
            Ok(user) => user,
            Err((problem, mend)) => {
                let name = member.hooks.run_as.as_deref().unwrap_or_default();
                problems.push(Problem::new(key("run_as"), name, problem, mend));
                continue;
            }
        };
        for (name, path) in member.hooks.each() {
            if let Some((problem, mend)) = unfit(path, user.as_ref()) {
                problems.push(Problem::new(key(name), path.display(), problem, mend));
            }
        }
    }
    problems
}

type Refusal = (String, String);

/// The user that the hooks run as; `None` for ourselves under a number without a name, and where
/// the member's own user is unknown, which is another problem.
fn user(member: &Member) -> Result<Option<User>, Refusal> {
    let root = geteuid().is_root();
    let name = match (&member.hooks.run_as, &member.run_as, root) {
        (Some(name), _, _) => name.as_str(),
        (None, Some(name), true) => name.as_str(),
        (None, None, true) => RUN_AS_DEFAULT,
        (None, _, false) => return Ok(User::from_uid(geteuid()).ok().flatten()),
    };
    let found = User::from_name(name).ok().flatten();
    if member.hooks.run_as.is_none() {
        return Ok(found);
    }
    match found {
        None => Err((
            "is not a user of this machine".to_owned(),
            "create the user, or name another one".to_owned(),
        )),
        Some(user) if !root && user.uid != geteuid() => Err((
            "is another user, and only root can change to another".to_owned(),
            "remove it, or start hanode as root".to_owned(),
        )),
        found => Ok(found),
    }
}

/// Why a program is not run. By the mode bits; access lists are not looked at.
fn unfit(path: &Path, user: Option<&User>) -> Option<Refusal> {
    let refuse = |problem: String, mend: String| Some((problem, mend));
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) => {
            let mend = "install the program there, or remove the hook".to_owned();
            return refuse(format!("cannot be examined: {e}"), mend);
        }
    };
    if !meta.is_file() {
        return refuse("is not a file".to_owned(), "give the path of a program".to_owned());
    }
    if meta.mode() & 0o022 != 0 {
        let mend = format!("run: chmod go-w {}", path.display());
        return refuse("can be changed by others than its owner".to_owned(), mend);
    }
    let user = user?;
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    let trusted = [0, geteuid().as_raw(), uid];
    if !trusted.contains(&meta.uid()) || (uid == 0 && meta.uid() != 0) {
        let mend = format!("run: chown root {}", path.display());
        return refuse(format!("belongs to user {}, who could change it", meta.uid()), mend);
    }
    let bit = match (meta.uid() == uid, meta.gid() == gid) {
        _ if uid == 0 => 0o111,
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    if meta.mode() & bit == 0 {
        let mend = format!("run: chmod +x {}", path.display());
        return refuse(format!("cannot be run by user {}", user.name), mend);
    }
    let open = path.ancestors().skip(1).find(|dir| {
        std::fs::metadata(dir).is_ok_and(|m| m.mode() & 0o002 != 0 && m.mode() & 0o1000 == 0)
    })?;
    let mend = format!("run: chmod o-w {}", open.display());
    refuse(format!("is below {}, which everybody can change", open.display()), mend)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn programs_are_absolute_and_times_are_bounded() {
        let read = |text: &str| {
            let mut problems = Vec::new();
            let hooks = read(Section::new("hooks", text.parse().unwrap()), &mut problems);
            (hooks, problems.into_iter().map(|p| p.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(read(""), (Hooks::default(), vec![]));
        let (hooks, problems) = read("on_role_change = '/x'\ntimeout_ms = 500");
        assert_eq!((hooks.on_role_change, hooks.timeout_ms), (Some("/x".into()), 500));
        assert!(problems.is_empty(), "{problems:?}");
        for (text, part) in [
            ("on_role_change = 'x'", "is not an absolute path"),
            ("before_promotion_timeout_ms = 60000", "is not between 100 and 20000"),
            ("before_promotion_required = true", "without before_promotion"),
            ("on_rolechange = '/x'", "write on_role_change"),
        ] {
            let (_, problems) = read(text);
            assert!(problems.len() == 1 && problems[0].contains(part), "{text}: {problems:?}");
        }
    }

    #[test]
    fn programs_that_others_could_change_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook");
        let user = User::from_uid(geteuid()).ok().flatten();
        let with = |mode: u32| {
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            unfit(&path, user.as_ref()).map(|(problem, _)| problem)
        };
        assert_eq!(with(0o755), None);
        assert!(with(0o775).unwrap().contains("changed by others"));
        assert!(with(0o757).unwrap().contains("changed by others"));
        if user.is_some() {
            assert!(with(0o644).unwrap().contains("cannot be run"));
        }
        assert!(unfit(dir.path(), None).unwrap().0.contains("not a file"));
        assert!(unfit(&dir.path().join("none"), None).unwrap().0.contains("cannot be examined"));
        with(0o755);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(user.is_none() || unfit(&path, user.as_ref()).unwrap().0.contains("everybody"));
    }
}
