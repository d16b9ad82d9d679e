//! What the tests of the guard share: a run directory, process facts, waiting, cleaning up.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate::guard::{Credentials, GuardClient, RECORD_FILE, StartSpec, TreeState};
use tempfile::TempDir;

/// Longest wait for anything that must happen.
pub const SOON: Duration = Duration::from_secs(20);

/// Calls `look` until it finds what it looks for; fails the test after [`SOON`].
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(SOON, search).await {
        Ok(found) => found,
        Err(_) => panic!("waited {SOON:?} in vain: {what}"),
    }
}

/// Waits until the client hears that the tree is in a state that `wanted` accepts.
pub async fn tree_is(client: &GuardClient, wanted: impl Fn(&TreeState) -> bool) -> TreeState {
    let mut tree = client.watch();
    let waited = tokio::time::timeout(SOON, tree.wait_for(wanted)).await;
    *waited.expect("the tree never got there").expect("the client lives")
}

/// State letter and start time of a process, `None` where there is none.
pub fn process(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Every process in the PID namespace of process `pid`, with its start time.
pub fn members(pid: i32) -> BTreeMap<i32, u64> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(wanted) = namespace(pid) else { return BTreeMap::new() };
    pids()
        .filter(|pid| namespace(*pid).as_ref() == Some(&wanted))
        .filter_map(|pid| Some((pid, process(pid)?.1)))
        .collect()
}

/// Every process of the machine.
pub fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Those of `members` that exist, dead but unreaped ones included.
pub fn left_of(members: &BTreeMap<i32, u64>) -> Vec<i32> {
    let same = |(pid, start): &(&i32, &u64)| process(**pid).is_some_and(|(_, s)| s == **start);
    members.iter().filter(same).map(|(pid, _)| *pid).collect()
}

/// True while this process, identified by its start time, can run: it is there and no zombie.
pub fn is_alive(pid: i32, start: u64) -> bool {
    process(pid).is_some_and(|(state, s)| s == start && state != 'Z' && state != 'X')
}

/// Sends a signal to one process.
pub fn send(pid: i32, signal: i32) {
    // SAFETY: integers only.
    let rc = unsafe { libc::kill(pid, signal) };
    assert_eq!(rc, 0, "signal {signal} to {pid}: {}", std::io::Error::last_os_error());
}

/// Stops a process and waits until it is stopped.
pub async fn stop(pid: i32) {
    send(pid, libc::SIGSTOP);
    until("the process stops", || (process(pid)?.0 == 'T').then_some(())).await;
}

/// A run directory. Its guard and tree are killed when it is dropped.
pub struct Scene {
    dir: TempDir,
}

impl Scene {
    pub fn new() -> Scene {
        let dir = TempDir::new().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::create_dir(dir.path().join("run")).expect("mkdir");
        Scene { dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir().join("run")
    }

    /// Gives the run directory and the directory above to `user`.
    pub fn give_to(&self, user: &str) -> Credentials {
        let owner = Credentials::of_user(user).expect("the user exists");
        for path in [self.dir().to_owned(), self.run_dir()] {
            std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid)).expect("chown");
        }
        owner
    }

    pub async fn spawn(&self) -> GuardClient {
        self.spawn_by(Path::new(crate::support::hanode_bin())).await
    }

    pub async fn spawn_by(&self, binary: &Path) -> GuardClient {
        match GuardClient::spawn(binary, &self.run_dir(), SOON).await {
            Ok(client) => client,
            Err(e) => panic!("{e}\n{}", self.guard_log()),
        }
    }

    pub fn guard_log(&self) -> String {
        fs::read_to_string(self.run_dir().join("guard.log")).unwrap_or_default()
    }

    /// A script that stands in for `hanode` and runs it with `prefix` before it.
    pub fn wrapper(&self, prefix: &str) -> PathBuf {
        let path = self.dir().join("wrapper");
        let hanode = crate::support::hanode_bin();
        fs::write(&path, format!("#!/bin/sh\n{} \"$@\"\n", prefix.replace("HANODE", hanode)))
            .expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        path
    }

    pub async fn attach(&self) -> Option<GuardClient> {
        GuardClient::attach(&self.run_dir(), SOON).await.expect("attach")
    }

    /// A specification that runs a shell script.
    pub fn sh(&self, script: &str) -> StartSpec {
        StartSpec {
            program: "/bin/sh".into(),
            argv: vec!["sh".into(), "-c".into(), script.into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            credentials: None,
            working_dir: "/".into(),
            log_file: self.dir().join("log"),
            umask: 0o077,
            cgroup: None,
            best_effort: false,
            only: None,
        }
    }

    /// A tree with ordinary children and an orphan that left its session and ignores signals.
    pub fn stubborn(&self) -> StartSpec {
        self.sh("sleep 1000 & sleep 1000 & \
             ( setsid sh -c 'trap \"\" HUP INT TERM USR1 USR2; while :; do sleep 1000; done' & ) \n\
             trap '' TERM; while :; do wait; sleep 1; done")
    }

    /// What the postmaster wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    pub fn record(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&fs::read(self.run_dir().join(RECORD_FILE)).ok()?).ok()
    }

    pub fn write_record(&self, record: &serde_json::Value) {
        fs::write(self.run_dir().join(RECORD_FILE), record.to_string()).expect("write");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let Some(record) = self.record() else { return };
        for who in ["guard", "init"] {
            let pid = record[format!("{who}_pid")].as_i64().and_then(|pid| i32::try_from(pid).ok());
            let start = record[format!("{who}_starttime")].as_u64();
            if let (Some(pid), Some(start)) = (pid, start)
                && is_alive(pid, start)
            {
                // SAFETY: integers only.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }
}

/// A started tree and its processes, the init among them.
pub struct Running {
    pub client: GuardClient,
    pub guard_pid: i32,
    pub guard_start: u64,
    pub init_pid: i32,
    pub members: BTreeMap<i32, u64>,
}

impl Running {
    /// Starts the stubborn tree under a new guard and waits until all of it is there.
    pub async fn new(scene: &Scene) -> Running {
        let client = scene.spawn().await;
        let spec = scene.stubborn();
        Self::with(client, &spec, 6).await
    }

    /// Starts `spec` and waits until its namespace has `count` processes.
    pub async fn with(client: GuardClient, spec: &StartSpec, count: usize) -> Running {
        let status = client.start(spec).await.expect("start");
        assert_eq!(status.tree, TreeState::Running);
        let init_pid = status.init_pid.expect("an init");
        let postmaster_pid = status.postmaster_pid.expect("a postmaster");
        let what =
            format!("{count} processes in the tree that logs to {}", spec.log_file.display());
        let members =
            until(&what, || Some(members(init_pid)).filter(|members| members.len() >= count)).await;
        assert!(members.contains_key(&postmaster_pid), "{postmaster_pid} in {members:?}");
        assert!(!members.contains_key(&status.guard_pid));
        let guard_start = process(status.guard_pid).expect("a guard").1;
        Running { client, guard_pid: status.guard_pid, guard_start, init_pid, members }
    }

    /// Waits for the proof of emptiness, and judges at once that it is true: nobody is left, but
    /// for the dead init that nobody may have reaped yet.
    pub async fn assert_empties(&self) {
        self.client.empty(SOON).await.expect("proof of emptiness");
        let mut left = left_of(&self.members);
        left.retain(|pid| *pid != self.init_pid || process(*pid).is_some_and(|(s, _)| s != 'Z'));
        assert_eq!(left, Vec::<i32>::new(), "alive after the proof");
    }
}
