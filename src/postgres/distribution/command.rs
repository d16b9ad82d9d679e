//! Whether a command of a unit starts a server, and on which data directory. What only mentions one,
//! such as a backup, does not.

use std::path::Path;

use super::{Debian, real};

/// The data directory that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its path without links.
    pub own: &'a Path,
    /// `PGDATA` of the command's environment.
    pub pgdata: Option<&'a str>,
    /// The clusters of Debian that have their data there.
    pub debian: &'a [Debian],
}

/// A program that runs another one, and which of its options have a value after them.
struct Wrapper {
    name: &'static str,
    valued: &'static [&'static str],
    /// How many words come before the other program's.
    before: usize,
}

const WRAPPERS: &[Wrapper] = &[
    Wrapper { name: "chroot", valued: &[], before: 1 },
    Wrapper { name: "env", valued: &["-u", "-C", "--unset", "--chdir"], before: 0 },
    Wrapper { name: "exec", valued: &["-a"], before: 0 },
    Wrapper { name: "ionice", valued: &["-c", "-n", "--class", "--classdata"], before: 0 },
    Wrapper { name: "nice", valued: &["-n", "--adjustment"], before: 0 },
    Wrapper { name: "nohup", valued: &[], before: 0 },
    Wrapper { name: "numactl", valued: &["-i", "-p", "-P", "-m", "-N", "-C", "-w"], before: 0 },
    Wrapper {
        name: "runuser",
        valued: &["-u", "-g", "-G", "-w", "--user", "--group", "--supp-group"],
        before: 0,
    },
    Wrapper {
        name: "setpriv",
        valued: &[
            "--reuid",
            "--ruid",
            "--euid",
            "--regid",
            "--rgid",
            "--egid",
            "--groups",
            "--securebits",
            "--pdeathsig",
            "--inh-caps",
            "--ambient-caps",
            "--bounding-set",
            "--selinux-label",
            "--apparmor-profile",
        ],
        before: 0,
    },
    Wrapper { name: "setsid", valued: &[], before: 0 },
    Wrapper {
        name: "sudo",
        valued: &[
            "-u", "-g", "-h", "-p", "-C", "-r", "-t", "-T", "-U", "-D", "-R", "--user", "--group",
        ],
        before: 0,
    },
    Wrapper { name: "taskset", valued: &[], before: 1 },
];

/// Those that give a line to a shell.
const SHELLS: &[&str] = &["sh", "bash", "dash", "su", "runuser"];

/// Whether a line of `ExecStart` starts a server on the directory.
pub(super) fn starts_server(line: &str, place: &Place<'_>) -> bool {
    // Special prefixes of systemd. With this one the second word is what the program is called.
    let bare = line.trim_start_matches(['-', '@', ':', '+', '!', '|']);
    let renamed = line.get(..line.len() - bare.len()).is_some_and(|prefix| prefix.contains('@'));
    let mut all = words(bare);
    if renamed && all.len() > 1 {
        all.remove(1);
    }
    runs(&all, place, 0)
}

/// Whether these words start a server there; `depth` is how many programs run them.
fn runs(words: &[String], place: &Place<'_>, depth: usize) -> bool {
    const DEPTH_MAX: usize = 8;
    let Some((program, arguments)) = words.split_first().filter(|_| depth < DEPTH_MAX) else {
        return false;
    };
    let name = program.rsplit('/').next().unwrap_or_default();
    let acts = || arguments.iter().any(|word| word == "start" || word == "restart");
    match name {
        "postgres" | "postmaster" => names(arguments, place),
        "pg_ctl" => acts() && names(arguments, place),
        "pg_ctlcluster" => {
            let has = |word: &str| arguments.iter().any(|argument| argument == word);
            let ours = |d: &Debian| has(&d.version) && has(&d.name);
            acts()
                && place.debian.iter().any(|d| ours(d) || has(&format!("{}-{}", d.version, d.name)))
        }
        _ => {
            if SHELLS.contains(&name)
                && let Some(line) = shell_line(name, arguments)
            {
                let parts = line.split(['\n', ';', '&', '|']);
                return parts.into_iter().any(|part| runs(&self::words(part), place, depth + 1));
            }
            let wrapper = WRAPPERS.iter().find(|w| w.name == name);
            wrapper.is_some_and(|w| runs(wrapped(arguments, w), place, depth + 1))
        }
    }
}

/// What `-c` says, where there is one of the shell's own.
fn shell_line<'a>(name: &str, arguments: &'a [String]) -> Option<&'a str> {
    let own = || arguments.iter().take_while(|word| *word != "--");
    // It runs a program then, and no shell.
    if name == "runuser" && own().any(|word| word == "-u" || word.starts_with("--user")) {
        return None;
    }
    // Also with others, such as `-lc`.
    let at = |word: &String| {
        let short = word.starts_with('-') && !word.starts_with("--") && word.ends_with('c');
        short || word == "--command"
    };
    let whole = own().find_map(|word| word.strip_prefix("--command="));
    whole.or_else(|| own().skip_while(|word| !at(word)).nth(1).map(String::as_str))
}

/// The words of the other program.
fn wrapped<'a>(arguments: &'a [String], wrapper: &Wrapper) -> &'a [String] {
    let mut before = wrapper.before;
    let mut rest = arguments;
    while let Some((word, after)) = rest.split_first() {
        rest = after;
        if word == "--" {
            return rest.get(before..).unwrap_or_default();
        } else if wrapper.valued.contains(&word.as_str()) {
            rest = rest.get(1..).unwrap_or_default();
        } else if word.starts_with('-') || (word.contains('=') && !word.starts_with('/')) {
            // An option, or a variable.
        } else if before > 0 {
            before -= 1;
        } else {
            let at = arguments.len() - rest.len() - 1;
            return arguments.get(at..).unwrap_or_default();
        }
    }
    rest
}

/// Whether the arguments of PostgreSQL's programs, or the environment where they say nothing, name
/// the directory.
fn names(arguments: &[String], place: &Place<'_>) -> bool {
    // The setting is above the directory of the configuration.
    let (mut dir, mut setting) = (None, None);
    let value = |word: &str| {
        let (name, value) = word.split_once('=')?;
        let name = name.trim_start_matches('-').replace('-', "_");
        (name == "data_directory").then(|| value.to_owned())
    };
    let mut words = arguments.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        if ["-D", "--pgdata"].contains(&word) {
            dir = words.next().or(dir);
        } else if let Some(path) = word.strip_prefix("--pgdata=").or(word.strip_prefix("-D")) {
            dir = Some(path);
        } else if word == "-c" {
            // To `pg_ctl` it means something else.
            setting = words.next_if(|w| w.contains('=')).and_then(value).or(setting);
        } else if word.starts_with("--") {
            setting = value(word).or(setting);
        }
    }
    let pgdata = place.pgdata.unwrap_or_default();
    let path = setting.unwrap_or_else(|| dir.unwrap_or(pgdata).to_owned());
    let path = path.replace("${PGDATA}", pgdata).replace("$PGDATA", pgdata);
    path.starts_with('/') && real(Path::new(&path)) == place.own
}

/// Words as systemd and shells split them; quotes hold them together.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', q) if q != Some('\'') => word.get_or_insert_default().extend(chars.next()),
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(line: &str, pgdata: Option<&str>) -> bool {
        let debian = [Debian { dir: "/c".into(), version: "15".into(), name: "main".into() }];
        let place = Place { own: Path::new("/srv/pg"), pgdata, debian: &debian };
        starts_server(line, &place)
    }

    #[test]
    fn what_starts_a_server_is_found() {
        for line in [
            "/usr/bin/postgres -D /srv/pg",
            "/usr/bin/postgres -D/srv/pg/ -c shared_buffers=1GB",
            "@/usr/bin/postmaster postmaster -D ${PGDATA}",
            "-!/usr/bin/postgres",
            "/usr/bin/pg_ctl --pgdata=/srv/pg -w start",
            "/usr/bin/pg_ctl restart -c -D \"/srv/pg\"",
            "/usr/bin/postgres -D /etc/pg -c data_directory=/srv/pg",
            "/usr/bin/postgres -D /etc/pg --data-directory=/srv/pg",
            "/sbin/runuser -u postgres -- /usr/bin/postgres -c port=1 -D /srv/pg",
            "/sbin/runuser postgres -c 'pg_ctl -D /srv/pg start'",
            "/bin/su - postgres -c '/usr/bin/pg_ctl start -D /srv/pg -l /tmp/log'",
            "/usr/bin/sudo -u postgres LANG=C pg_ctl start -D /srv/pg",
            "/usr/bin/setpriv --reuid postgres --init-groups postgres -D /srv/pg",
            "/usr/bin/env -u X A=b nice -n 5 ionice -c 2 -n 0 postgres -D /srv/pg",
            "/usr/sbin/chroot --userspec=postgres / postgres -D /srv/pg",
            "/usr/bin/numactl --interleave=all postgres -D /srv/pg",
            "/bin/sh -c 'cd / && exec /usr/bin/postgres -D /srv/pg'",
            "/usr/bin/pg_ctlcluster 15 main start",
            "/usr/bin/pg_ctlcluster --skip-systemctl-redirect 15-main start",
        ] {
            assert!(starts(line, Some("/srv/pg")), "{line}");
        }
        assert!(starts("/usr/bin/postgres -D /srv/pg", None));
    }

    #[test]
    fn what_only_mentions_it_is_not() {
        for line in [
            "runuser -u postgres -- wal-g backup-push /srv/pg",
            "/usr/bin/pgbackrest --pg1-path=/srv/pg --pg1-user=postgres backup",
            "chown -R postgres /srv/pg",
            "tar c /srv/pg /x/postgres",
            "/usr/bin/pg_ctl -D /srv/pg reload",
            "/usr/bin/pg_ctl -D /srv/pg stop",
            "/usr/bin/pg_ctlcluster 15 main stop",
            "/usr/bin/pg_ctlcluster 15 other start",
            "/usr/bin/postgres -D /srv/other",
            "/usr/bin/postgres -D /srv/pg -c data_directory=/srv/other",
            "/usr/bin/pg_basebackup -U postgres -D /srv/pg",
            "/bin/su postgres -c 'pg_dumpall; echo postgres -D /srv/pg'",
            "/usr/bin/postgres_exporter -D /srv/pg",
            "/usr/bin/env",
            "",
        ] {
            assert!(!starts(line, Some("/srv/pg")), "{line}");
        }
        assert!(!starts("/usr/bin/postgres", Some("/srv/other")));
        assert!(!starts("/usr/bin/postgres", None));
    }
}
