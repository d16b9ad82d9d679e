//! One node of a test cluster: its files, its daemon, its member's process tree.

use std::fs::File;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::address::{API_PORT, SQL_PORT};
use super::client::Endpoint;
use super::config::{self, CLUSTER};
use super::process::Proc;
use super::tree::Tree;
use super::{SOON, hanode_bin, until_seen};

/// One node.
pub struct Node {
    /// Its number, from 0.
    pub index: usize,
    /// Its name: `n1`, `n2`, ...
    pub name: String,
    /// The name of its member: `a`, `b`, ...
    pub member: String,
    /// Its address.
    pub host: String,
    root: PathBuf,
    data_dir: &'static str,
    namespace: Option<RawFd>,
    child: Mutex<Option<Child>>,
}

impl Node {
    /// Node `index` of the cluster in `root`; its daemon runs in the network namespace if one is
    /// given. Nothing is started.
    pub fn new(
        index: usize,
        root: &Path,
        host: String,
        namespace: Option<RawFd>,
        data_dir: &'static str,
    ) -> Node {
        Node {
            index,
            name: config::node_name(index),
            member: config::member_name(index),
            host,
            root: root.to_path_buf(),
            data_dir,
            namespace,
            child: Mutex::new(None),
        }
    }

    // ---- places ----

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.root.join(format!("{}.toml", self.name))
    }

    /// The daemon's log, of all its lives.
    pub fn log(&self) -> PathBuf {
        self.root.join(format!("{}.log", self.name))
    }

    /// Directory of everything that the node keeps.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// PGDATA.
    pub fn data_dir(&self) -> PathBuf {
        self.state_dir().join(self.data_dir)
    }

    /// Directory of PostgreSQL's Unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.run_dir().join("socket")
    }

    /// Directory of short-lived files of the member.
    pub fn run_dir(&self) -> PathBuf {
        self.state_dir().join("run").join(format!("{CLUSTER}.{}", self.member))
    }

    /// Directory of PostgreSQL's logs.
    pub fn log_dir(&self) -> PathBuf {
        self.state_dir().join("log").join(format!("{CLUSTER}.{}", self.member))
    }

    fn guard_dir(&self) -> PathBuf {
        self.state_dir().join("run").join(format!("{CLUSTER}.{}.guard", self.member))
    }

    /// `host:port` of its API.
    pub fn api(&self) -> String {
        format!("{}:{API_PORT}", self.host)
    }

    /// Where its PostgreSQL listens.
    pub fn sql(&self) -> Endpoint {
        Endpoint { host: self.host.clone(), port: SQL_PORT }
    }

    /// What PostgreSQL has logged, all files after each other.
    pub fn postgres_log(&self) -> String {
        let Ok(entries) = std::fs::read_dir(self.log_dir()) else { return String::new() };
        let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.sort();
        let text = |p: &PathBuf| {
            String::from_utf8_lossy(&std::fs::read(p).unwrap_or_default()).into_owned()
        };
        paths.iter().map(text).collect()
    }

    // ---- the daemon ----

    /// A run of `hanode` with these arguments, on this node's network.
    pub fn hanode(&self, arguments: &[&str]) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(hanode_bin());
        command.args(arguments).current_dir("/").stdin(Stdio::null());
        let namespace = self.namespace;
        // SAFETY: setsid and setns are async-signal-safe, and the descriptor is open in the child.
        unsafe {
            command.pre_exec(move || {
                libc::setsid();
                match namespace {
                    Some(fd) if libc::setns(fd, libc::CLONE_NEWNET) != 0 => {
                        Err(std::io::Error::last_os_error())
                    }
                    _ => Ok(()),
                }
            })
        };
        command
    }

    /// Starts the daemon. Its log is appended to.
    pub fn start(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = child.as_mut() {
            let ended = old.try_wait().expect("a child");
            assert!(ended.is_some(), "the daemon of {} runs already", self.name);
        }
        let log = File::options().create(true).append(true).open(self.log()).expect("a log file");
        let config = self.config();
        let mut command = self.hanode(&["run", "--config", config.to_str().expect("UTF-8")]);
        let err = log.try_clone().expect("a descriptor");
        command.stdout(log).stderr(err);
        *child = Some(command.spawn().unwrap_or_else(|e| panic!("{}: {e}", hanode_bin())));
    }

    /// The daemon; it has to run.
    pub fn daemon(&self) -> Proc {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = child.as_ref().map(|c| c.id() as i32).expect("the daemon was started");
        Proc::find(pid).unwrap_or_else(|| panic!("the daemon of {} has ended", self.name))
    }

    /// How the daemon ended; `None` while it runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().and_then(|c| c.try_wait().expect("a child"))
    }

    /// Waits until the daemon has ended.
    pub async fn wait_end(&self, limit: Duration) -> ExitStatus {
        let what = format!("the end of the daemon of {}", self.name);
        until_seen(&what, limit, || self.ended()).await
    }

    /// Kills the daemon alone.
    pub async fn kill_daemon(&self) {
        self.daemon().signal(libc::SIGKILL);
        self.wait_end(SOON).await;
    }

    /// Ends the daemon as for an upgrade: PostgreSQL goes on.
    pub async fn terminate_daemon(&self) {
        self.daemon().signal(libc::SIGTERM);
        self.wait_end(SOON).await;
    }

    /// `hanode stop`: PostgreSQL and the daemon end in order.
    pub async fn stop(&self) {
        let config = self.config();
        let mut command = self.hanode(&["stop", "--config", config.to_str().expect("UTF-8")]);
        let output = tokio::task::spawn_blocking(move || command.output().expect("hanode stop"));
        let output = output.await.expect("no panic");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "hanode stop of {}: {errors}", self.name);
        if self.child.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            self.wait_end(SOON).await;
        }
    }

    // ---- its processes ----

    /// The process tree of its member, if it runs.
    pub fn find_tree(&self) -> Option<Tree> {
        Tree::find(&self.guard_dir(), &self.data_dir())
    }

    /// The process tree of its member; it has to run.
    pub fn tree(&self) -> Tree {
        self.find_tree().unwrap_or_else(|| panic!("no process tree on {}", self.name))
    }

    /// Kills everything of the node at once, as the loss of its power would.
    pub async fn kill_everything(&self) {
        let tree = self.find_tree();
        if self.ended().is_none() {
            self.daemon().signal(libc::SIGKILL);
        }
        if let Some(tree) = &tree {
            tree.guard.signal(libc::SIGKILL);
            tree.init.signal(libc::SIGKILL);
        }
        self.wait_end(SOON).await;
        if let Some(tree) = &tree {
            tree.gone(SOON).await;
        }
    }

    /// Stops every process of the node, as the pause of a virtual machine would.
    pub async fn freeze_everything(&self) {
        let tree = self.find_tree();
        self.daemon().freeze().await;
        if let Some(tree) = &tree {
            tree.freeze().await;
        }
    }

    /// Lets every process of the node go on.
    pub fn thaw_everything(&self) {
        if let Some(tree) = self.find_tree() {
            tree.thaw();
        }
        self.daemon().thaw();
    }
}
