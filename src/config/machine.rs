//! What only the machine shows: rights, users, programs, lengths of socket paths.
//!
//! Owns [`check_machine`]. Reads the file system and the user database, changes nothing, and
//! waits for nothing.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{AccessFlags, User, access, geteuid};

use super::error::Problem;
use super::{Config, Member, PasswordRole, RUN_AS_DEFAULT, SOCKET_PATH_BYTES_MAX, Secret};

/// Longest name of a socket that a guard makes in its directory.
const GUARD_SOCKET_FILE: &str = "guard.sock";

/// Checks `config` against this machine and the user that runs the program. Returns every problem;
/// `hanode` does not start with any.
pub fn check_machine(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let secret = Secret::load(&config.secret_file);
    problems.extend(secret.as_ref().err().cloned());
    for (key, dir) in
        [("node.data_dir", &config.node.data_dir), ("node.run_dir", &config.node.run_dir)]
    {
        problems.extend(writable(key, dir));
    }
    for member in &config.members {
        let key = member.key();
        let guard = config.guard_dir(member).join(GUARD_SOCKET_FILE);
        problems.extend(short_enough("node.run_dir", &config.node.run_dir, &guard));
        let socket = member.postgres_socket();
        let socket_key = format!("{key}.socket_dir");
        problems.extend(short_enough(&socket_key, &member.socket_dir, &socket));
        problems.extend(user(member, geteuid().is_root()));
        for (name, dir) in [
            ("data_dir", &member.data_dir),
            ("log_dir", &member.log_dir),
            ("socket_dir", &member.socket_dir),
        ] {
            problems.extend(writable(&format!("{key}.{name}"), dir));
        }
        problems.extend(bin_dir(member));
        let Ok(secret) = &secret else { continue };
        for role in [PasswordRole::Superuser, PasswordRole::Replication, PasswordRole::Rewind] {
            problems.extend(config.password(member, role, secret).err());
        }
    }
    problems.extend(super::hooks::check_machine(config));
    problems
}

/// The nearest directory upwards that exists must be one in which this user may create entries.
fn writable(key: &str, dir: &Path) -> Option<Problem> {
    let refuse =
        |problem: String, mend: String| Some(Problem::new(key, dir.display(), problem, mend));
    for at in dir.ancestors() {
        match std::fs::metadata(at) {
            Ok(meta) if !meta.is_dir() => {
                let mend = "remove the file, or choose another directory".to_owned();
                return refuse(format!("{} is not a directory", at.display()), mend);
            }
            Ok(_) => {
                let flags = AccessFlags::W_OK | AccessFlags::X_OK;
                let e = access(at, flags).err()?;
                let mend = format!(
                    "create {} and give it to the user that runs hanode, or choose another directory",
                    dir.display()
                );
                return refuse(format!("{} is not writable: {e}", at.display()), mend);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                let mend = "let the user that runs hanode into the directories above".to_owned();
                return refuse(format!("{} cannot be examined: {e}", at.display()), mend);
            }
        }
    }
    None
}

/// A Unix socket has a short path or none.
fn short_enough(key: &str, dir: &Path, socket: &Path) -> Option<Problem> {
    let bytes = socket.as_os_str().as_bytes().len();
    (bytes > SOCKET_PATH_BYTES_MAX).then(|| {
        let problem = format!(
            "is too long: the socket {} has {bytes} bytes, and the kernel takes {SOCKET_PATH_BYTES_MAX}",
            socket.display()
        );
        Problem::new(key, dir.display(), problem, "choose a shorter one, such as /run/quorate")
    })
}

/// As root, the user must exist and be able to reach PGDATA; else `run_as` must be this user.
fn user(member: &Member, root: bool) -> Option<Problem> {
    let key = format!("{}.run_as", member.key());
    let name = match (&member.run_as, root) {
        (Some(name), _) => name.as_str(),
        (None, true) => RUN_AS_DEFAULT,
        (None, false) => return None,
    };
    let found = match User::from_name(name) {
        Ok(Some(found)) => found,
        Ok(None) => {
            let mend = "create the user, install PostgreSQL, or name another user";
            return Some(Problem::new(key, name, "is not a user of this machine", mend));
        }
        Err(e) => {
            let mend = "check the user database (getent passwd)";
            return Some(Problem::new(key, name, format!("cannot be looked up: {e}"), mend));
        }
    };
    if root {
        if found.uid.is_root() {
            let mend = "name another user: PostgreSQL refuses to run as root";
            return Some(Problem::new(key, name, "is the superuser of the machine", mend));
        }
        return reachable(member, &found);
    }
    (found.uid != geteuid()).then(|| {
        let mend = "remove it, or start hanode as root";
        Problem::new(key, name, "is another user, and only root can change to another", mend)
    })
}

/// Directories above PGDATA that exist must let the user of PostgreSQL through. By the mode bits
/// of owner, first group and others; further groups and access lists are not looked at.
fn reachable(member: &Member, user: &User) -> Option<Problem> {
    let closed = member.data_dir.ancestors().skip(1).find(|dir| {
        std::fs::metadata(dir).is_ok_and(|meta| {
            let bit = if meta.uid() == user.uid.as_raw() {
                0o100
            } else if meta.gid() == user.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            meta.mode() & bit == 0
        })
    })?;
    let problem = format!("is below {}, which user {} cannot enter", closed.display(), user.name);
    let mend = format!("run: chmod o+x {}, or choose another directory", closed.display());
    Some(Problem::new(
        format!("{}.data_dir", member.key()),
        member.data_dir.display(),
        problem,
        mend,
    ))
}

/// A directory that is given must hold the server. Where none is given, it is looked for when the
/// member starts, by the version of its data.
fn bin_dir(member: &Member) -> Option<Problem> {
    let dir = member.bin_dir.as_ref()?;
    if access(&dir.join("postgres"), AccessFlags::X_OK).is_ok() {
        return None;
    }
    let mend = "give the directory of the server's programs, such as /usr/lib/postgresql/15/bin";
    let key = format!("{}.bin_dir", member.key());
    Some(Problem::new(key, dir.display(), "has no program postgres", mend))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A configuration in `dir` with a secret that is right, as this user can run it.
    fn config(dir: &Path) -> Config {
        let text = r#"
            control_plane = "demo"
            secret_file = "secret"
            [node]
            name = "n1"
            roles = ["controller", "agent"]
            listen = "127.0.0.1:7401"
            data_dir = "n1"
            [raft]
            node_id = 1
            [[controller]]
            id = 1
            name = "n1"
            address = "127.0.0.1:7401"
            [[cluster]]
            name = "main"
            bootstrap_members = ["a"]
            [[member]]
            cluster = "main"
            name = "a"
            address = "127.0.0.1:5501"
            data_dir = "n1/main"
            bin_dir = "bin"
        "#;
        let put = |name: &str, mode: u32| {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        put("secret", 0o600);
        put("bin/postgres", 0o700);
        // Temporary directories are private; the user of PostgreSQL must get through.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        Config::parse(text, &dir.join("n1.toml")).unwrap()
    }

    fn has(problems: &[Problem], key: &str, part: &str) -> bool {
        problems.iter().any(|p| p.key == key && p.problem.contains(part))
    }

    #[test]
    fn a_right_machine_has_no_problem() {
        let dir = tempfile::tempdir().unwrap();
        let mut c = config(dir.path());
        // Also where no user postgres exists: any ordinary user serves the check.
        if geteuid().is_root() {
            c.members[0].run_as = Some("nobody".into());
        }
        assert_eq!(check_machine(&c), []);
        // Nothing was created by looking.
        assert!(!c.node.data_dir.exists());
    }

    #[test]
    fn every_problem_of_a_machine() {
        let dir = tempfile::tempdir().unwrap();
        let good = config(dir.path());

        let mut c = good.clone();
        c.secret_file = dir.path().join("none");
        c.node.data_dir = dir.path().join("secret/x");
        c.node.run_dir = dir.path().join("r".repeat(100));
        c.members[0].socket_dir = dir.path().join("s".repeat(100));
        c.members[0].bin_dir = Some(dir.path().to_path_buf());
        c.members[0].run_as = Some("no-such-user".into());
        let problems = check_machine(&c);
        assert!(has(&problems, "secret_file", "cannot be opened"), "{problems:?}");
        assert!(has(&problems, "node.data_dir", "cannot be examined"), "{problems:?}");
        assert!(has(&problems, "node.run_dir", "and the kernel takes 107"), "{problems:?}");
        assert!(has(&problems, "member[main/a].socket_dir", "too long"), "{problems:?}");
        assert!(has(&problems, "member[main/a].bin_dir", "no program postgres"), "{problems:?}");
        assert!(has(&problems, "member[main/a].run_as", "is not a user"), "{problems:?}");

        let mut c = good.clone();
        c.node.data_dir = dir.path().join("secret");
        c.members[0].superuser_password_file = Some(dir.path().join("none"));
        let problems = check_machine(&c);
        assert!(has(&problems, "node.data_dir", "is not a directory"), "{problems:?}");
        assert!(
            has(&problems, "member[main/a].superuser_password_file", "cannot be opened"),
            "{problems:?}"
        );
    }

    #[test]
    fn the_user_of_postgresql_must_reach_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let mut c = config(dir.path());
        let closed = dir.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        c.members[0].data_dir = closed.join("main");
        c.members[0].run_as = Some("daemon".into());
        // A user that the tests do not run as: the directory above belongs to this one.
        let problem = user(&c.members[0], true).unwrap();
        assert!(problem.problem.contains("cannot enter"), "{problem}");
        assert!(problem.mend.contains("chmod o+x"), "{problem}");
        c.members[0].run_as = Some("root".into());
        assert!(user(&c.members[0], true).unwrap().problem.contains("superuser"));
        c.members[0].run_as = Some("daemon".into());
        assert!(user(&c.members[0], false).unwrap().problem.contains("another user"));
        c.members[0].run_as = None;
        assert_eq!(user(&c.members[0], false), None);
    }

    #[test]
    fn given_passwords_come_before_derived_ones() {
        let dir = tempfile::tempdir().unwrap();
        let mut c = config(dir.path());
        let secret = Secret::load(&c.secret_file).unwrap();
        let derived = c.password(&c.members[0], PasswordRole::Superuser, &secret).unwrap();
        c.members[0].superuser_password_file = Some(dir.path().join("secret"));
        let given = c.password(&c.members[0], PasswordRole::Superuser, &secret).unwrap();
        assert_ne!(derived, given);
        assert_eq!(given.expose(), "0123456789abcdef0123456789abcdef");
    }
}
