//! The operating system user that PostgreSQL's programs run as, and how they are run.
//!
//! Owns the change of user, the clean environment, deadlines, and that nothing that we start is
//! left behind: each command has its own process group, which is killed when its deadline passes
//! or its future is dropped. No password is ever an argument: arguments are public on a machine.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// How much of a command's output is kept: the last part, where the error is.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// How much of it is put into an error message.
const EXCERPT_BYTES_MAX: usize = 2000;

/// What can go wrong with the user or with a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such user on this machine.
    #[error("there is no operating system user {name:?}; create it or set another one")]
    NoSuchUser {
        /// Its name.
        name: String,
    },
    /// PostgreSQL refuses to run as root, and we may not choose a user silently.
    #[error("PostgreSQL does not run as root; configure another operating system user")]
    Root,
    /// Only root can run commands as another user.
    #[error("running as user {current:?}, PostgreSQL cannot be run as {wanted:?}")]
    NotRoot {
        /// Who we are.
        current: String,
        /// Who was configured.
        wanted: String,
    },
    /// A system call about users failed.
    #[error("cannot look up operating system users: {0}")]
    Lookup(#[from] nix::Error),
    /// The program could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The program ran longer than it may; it was killed.
    #[error("{program} did not finish within {deadline:?} and was killed{excerpt}")]
    Deadline {
        /// The program's name.
        program: String,
        /// The time it had.
        deadline: Duration,
        /// The end of what it printed.
        excerpt: String,
    },
    /// The program reported failure.
    #[error("{program} failed ({status}){excerpt}")]
    Failed {
        /// The program's name.
        program: String,
        /// Its exit status as text.
        status: String,
        /// The end of what it printed.
        excerpt: String,
    },
    /// Its output could not be read or its input not be written.
    #[error("lost contact with {program}: {source}")]
    Io {
        /// The program's name.
        program: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// A user of this machine, as the one PostgreSQL runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsUser {
    name: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: PathBuf,
    switches: bool,
}

impl OsUser {
    /// The user that PostgreSQL runs as: as root the configured one, or `postgres`; otherwise
    /// ourselves, and a configured name must then be ours.
    pub fn resolve(configured: Option<&str>) -> Result<Self, Error> {
        let current = Self::current()?;
        if current.uid != 0 {
            return match configured {
                Some(wanted) if wanted != current.name => {
                    Err(Error::NotRoot { current: current.name, wanted: wanted.to_owned() })
                }
                _ => Ok(current),
            };
        }
        let name = configured.unwrap_or("postgres");
        let user = nix::unistd::User::from_name(name)?
            .ok_or_else(|| Error::NoSuchUser { name: name.to_owned() })?;
        if user.uid.is_root() {
            return Err(Error::Root);
        }
        Self::from_entry(user, true)
    }

    /// Ourselves.
    pub fn current() -> Result<Self, Error> {
        let uid = nix::unistd::geteuid();
        match nix::unistd::User::from_uid(uid)? {
            Some(user) => Self::from_entry(user, false),
            // A container may run us under a number without a name.
            None => Ok(Self {
                name: uid.to_string(),
                uid: uid.as_raw(),
                gid: nix::unistd::getegid().as_raw(),
                groups: Vec::new(),
                home: PathBuf::from("/"),
                switches: false,
            }),
        }
    }

    fn from_entry(user: nix::unistd::User, switches: bool) -> Result<Self, Error> {
        let name = CString::new(user.name.as_str())
            .map_err(|_| Error::NoSuchUser { name: user.name.clone() })?;
        let groups = nix::unistd::getgrouplist(&name, user.gid)?;
        Ok(Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
            home: user.dir,
            switches,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its user id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its primary group id.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// All its group ids.
    pub fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// Whether commands change to this user, that is, whether we are root.
    pub fn switches(&self) -> bool {
        self.switches
    }

    /// Runs `work` with this user's rights to files, on a thread of its own that ends with it: where
    /// we are root, nothing that this user plants on the way, such as a link, leads to more than the
    /// user may reach itself. What is made belongs to the user. Signals and other rights of that
    /// thread stay ours (`setfsuid(2)`). Meanwhile the process leaves no core dump.
    ///
    /// # Errors
    /// The thread cannot be started, or the rights cannot be taken: nothing was done then.
    pub fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
        if !self.switches {
            return Ok(work());
        }
        // The change turns it off for the whole process, whose files in `/proc` change their owner.
        static DUMPABLE: OnceLock<libc::c_int> = OnceLock::new();
        // SAFETY: plain system call.
        let dumpable = *DUMPABLE.get_or_init(|| unsafe { libc::prctl(libc::PR_GET_DUMPABLE) });
        let done = std::thread::scope(|scope| {
            let acting = std::thread::Builder::new().name(format!("files as {}", self.name));
            let done = acting.spawn_scoped(scope, || {
                self.take_file_rights()?;
                Ok(work())
            })?;
            done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        if dumpable == 1 {
            // SAFETY: plain system call. Nobody else may trace us: our user is root throughout.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
        }
        done
    }

    /// For this thread alone: the wrappers of the C library may change all threads.
    fn take_file_rights(&self) -> std::io::Result<()> {
        use libc::{SYS_setfsgid, SYS_setfsuid, SYS_setgroups, syscall};
        // SAFETY: plain system calls; `groups` lives until they return.
        unsafe {
            if syscall(SYS_setgroups, self.groups.len(), self.groups.as_ptr()) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            syscall(SYS_setfsgid, self.gid);
            syscall(SYS_setfsuid, self.uid);
            // They do not fail. Asked for what nobody has, they say what holds.
            let holds = (syscall(SYS_setfsgid, u32::MAX), syscall(SYS_setfsuid, u32::MAX));
            if holds != (i64::from(self.gid), i64::from(self.uid)) {
                return Err(std::io::ErrorKind::PermissionDenied.into());
            }
        }
        Ok(())
    }

    /// The environment of every program that we start as this user: nothing is inherited but the
    /// time zone, messages are in English because we parse some, and `PG*` variables of whoever
    /// started us mean nothing.
    pub fn environment(&self) -> BTreeMap<OsString, OsString> {
        let mut env = BTreeMap::new();
        let mut set = |k: &str, v: &OsStr| env.insert(OsString::from(k), v.to_owned());
        set("PATH", OsStr::new("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
        set("LC_MESSAGES", OsStr::new("C"));
        set("HOME", self.home.as_os_str());
        set("USER", OsStr::new(&self.name));
        set("LOGNAME", OsStr::new(&self.name));
        if let Some(tz) = std::env::var_os("TZ") {
            set("TZ", &tz);
        }
        env
    }
}

/// What a program printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Whether it ended with status 0.
    pub success: bool,
    /// Its exit status as text.
    pub status: String,
    /// The last 256 KiB of its standard output.
    pub stdout: String,
    /// The last 256 KiB of its standard error.
    pub stderr: String,
}

/// A program about to run as a given user.
#[derive(Debug)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    user: OsUser,
    deadline: Duration,
    stdin: Vec<u8>,
}

/// Kills a process group when it is dropped before the program was seen to end.
struct KillGroup(Option<i32>);

impl Drop for KillGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // SAFETY: plain system call. The leader has not been reaped, so the number is ours.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }
}

impl Command {
    /// Runs `program` as `user`, for at most `deadline`.
    pub fn new(program: &Path, user: &OsUser, deadline: Duration) -> Self {
        Self {
            program: program.to_owned(),
            args: Vec::new(),
            env: user.environment(),
            user: user.clone(),
            deadline,
            stdin: Vec::new(),
        }
    }

    /// Adds an argument. Never a password.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(key.into(), value.as_ref().to_owned());
        self
    }

    /// What the program reads; nothing by default.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// Runs it and returns what it printed, whatever its exit status.
    pub async fn run(self) -> Result<Output, Error> {
        self.run_with(|_| {}).await
    }

    /// Runs it; an exit status other than 0 is an error that carries the end of its output.
    pub async fn run_ok(self) -> Result<Output, Error> {
        let program = self.name();
        check(&program, self.run().await?)
    }

    /// Like [`Command::run`], and gives every piece of its standard error to `on_stderr` as it
    /// comes.
    pub async fn run_with(self, on_stderr: impl FnMut(&[u8])) -> Result<Output, Error> {
        let program = self.name();
        let deadline = self.deadline;
        let mut out = Tail::default();
        let mut err = Tail::default();
        let run = self.drive(&mut out, &mut err, on_stderr);
        match tokio::time::timeout(deadline, run).await {
            Ok(Ok(status)) => Ok(Output {
                success: status.success(),
                status: status.to_string(),
                stdout: out.text(),
                stderr: err.text(),
            }),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::Deadline { program, deadline, excerpt: excerpt(&err.text()) }),
        }
    }

    fn name(&self) -> String {
        self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy().into_owned()
    }

    async fn drive(
        self,
        out: &mut Tail,
        err: &mut Tail,
        mut on_stderr: impl FnMut(&[u8]),
    ) -> Result<std::process::ExitStatus, Error> {
        let name = self.name();
        let io = |source| Error::Io { program: name.clone(), source };
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.env).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).process_group(0);
        become_user(&mut command, &self.user);
        let mut child = command
            .spawn()
            .map_err(|source| Error::Spawn { program: self.program.clone(), source })?;
        let mut group = KillGroup(child.id().and_then(|p| i32::try_from(p).ok()));
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let input = self.stdin;
        let feed = async {
            if let Some(mut pipe) = stdin {
                // A program that does not read its input says why on its standard error.
                let _ = pipe.write_all(&input).await;
            }
            Ok(())
        };
        let read_out = out.fill(stdout, |_| {});
        let read_err = err.fill(stderr, &mut on_stderr);
        tokio::try_join!(feed, read_out, read_err).map_err(io)?;
        let status = child.wait().await.map_err(io)?;
        group.0 = None;
        Ok(status)
    }
}

/// Makes a command drop its privileges for good, with umask 077 and no extra groups.
fn become_user(command: &mut tokio::process::Command, user: &OsUser) {
    let (switches, uid, gid, groups) = (user.switches, user.uid, user.gid, user.groups.clone());
    let parent = i32::try_from(std::process::id()).unwrap_or_default();
    let prepare = move || {
        // SAFETY: only async-signal-safe system calls between fork and exec; `groups` was
        // allocated before the fork.
        unsafe {
            libc::umask(0o077);
            if switches
                && (libc::setgroups(groups.len(), groups.as_ptr()) != 0
                    || libc::setgid(gid) != 0
                    || libc::setuid(uid) != 0)
            {
                return Err(std::io::Error::last_os_error());
            }
            // A tool that outlived the daemon would go on writing into a directory that the next
            // daemon takes for its own. After the change of user, which clears it. The thread that
            // starts it is one of the runtime's, which live as long as the process.
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            if libc::getppid() != parent {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: see above; the closure neither allocates nor takes locks.
    unsafe { command.pre_exec(prepare) };
}

/// Turns a failed run into an error.
pub fn check(program: &str, output: Output) -> Result<Output, Error> {
    if output.success {
        return Ok(output);
    }
    let text = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
    let excerpt = excerpt(text);
    Err(Error::Failed { program: program.to_owned(), status: output.status, excerpt })
}

/// The last lines of `text`, for an error message.
fn excerpt(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    let mut from = text.len().saturating_sub(EXCERPT_BYTES_MAX);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    format!(": {}", &text[from..])
}

/// The end of a stream, bounded.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    async fn fill(
        &mut self,
        pipe: Option<impl AsyncRead + Unpin>,
        mut each: impl FnMut(&[u8]),
    ) -> std::io::Result<()> {
        let Some(mut pipe) = pipe else { return Ok(()) };
        let mut buffer = [0; 8192];
        loop {
            let n = pipe.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            each(&buffer[..n]);
            self.0.extend_from_slice(&buffer[..n]);
            if self.0.len() > 2 * OUTPUT_BYTES_MAX {
                self.0.drain(..self.0.len() - OUTPUT_BYTES_MAX);
            }
        }
    }

    fn text(&self) -> String {
        let from = self.0.len().saturating_sub(OUTPUT_BYTES_MAX);
        String::from_utf8_lossy(&self.0[from..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Command {
        let user = OsUser::current().unwrap();
        Command::new(Path::new("/bin/sh"), &user, deadline).arg("-c").arg(script)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn output_and_status_are_reported() {
        let output = shell("cat; echo err >&2; umask", LONG).stdin("in\n").run().await.unwrap();
        assert_eq!(output.stdout, "in\n0077\n");
        assert_eq!(output.stderr, "err\n");
        let error = shell("echo why >&2; exit 3", LONG).run_ok().await.unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): why");
    }

    #[tokio::test]
    async fn nothing_is_inherited() {
        let output = shell("env", LONG).run_ok().await.unwrap();
        assert!(output.stdout.contains("LC_MESSAGES=C\n"), "{}", output.stdout);
        assert!(!output.stdout.contains("CARGO"), "{}", output.stdout);
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let output = shell("yes | head -c 3000000; echo end", LONG).run_ok().await.unwrap();
        assert_eq!(output.stdout.len(), OUTPUT_BYTES_MAX);
        assert!(output.stdout.ends_with("end\n"));
    }

    #[tokio::test]
    async fn the_whole_group_dies_at_the_deadline() {
        // The grandchild holds the pipe open: it must be gone for the file to stay as it is.
        let script = "sleep 1000 & echo $! >&2; wait";
        let error = shell(script, Duration::from_millis(300)).run().await.unwrap_err();
        let Error::Deadline { excerpt, .. } = error else { panic!("{error}") };
        let pid: i32 = excerpt.trim_start_matches(": ").parse().unwrap();
        for _ in 0..500 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("process {pid} is still there");
    }

    #[test]
    fn who_acts_as_a_user_reaches_what_that_user_reaches() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let user = OsUser::resolve(Some("nobody")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(dir.path(), mode(0o777)).unwrap();
        let (secret, made) = (dir.path().join("secret"), dir.path().join("made"));
        std::fs::write(&secret, "x").unwrap();
        // Not by root's group either.
        std::fs::set_permissions(&secret, mode(0o640)).unwrap();
        assert!(user.act(|| std::fs::read(&secret)).unwrap().is_err());
        user.act(|| std::fs::write(&made, "y")).unwrap().unwrap();
        assert_eq!(std::fs::metadata(&made).unwrap().uid(), user.uid());
        assert!(std::fs::read(&secret).is_ok(), "we have our rights");
        assert!(nix::sys::prctl::get_dumpable().unwrap());
    }

    #[test]
    fn unknown_users_are_refused() {
        assert!(OsUser::resolve(Some("no-such-user-here")).is_err());
        if nix::unistd::geteuid().is_root() {
            assert!(matches!(OsUser::resolve(Some("root")), Err(Error::Root)));
        }
    }
}
