//! The process tree of a member: its guard, its init, and everything in the init's PID namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::process::{self, Proc};
use super::{SOON, until_seen};

/// One life of a guard with what runs under it.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The guard.
    pub guard: Proc,
    /// The first process of the namespace.
    pub init: Proc,
    /// The namespace.
    namespace: PathBuf,
    /// Whose data it is.
    data_dir: PathBuf,
}

impl Tree {
    /// The tree that the guard directory names, if it runs.
    pub fn find(guard_dir: &Path, data_dir: &Path) -> Option<Tree> {
        let record = fs::read(guard_dir.join("guard.json")).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
        let process = |who: &str| {
            let pid = i32::try_from(record[format!("{who}_pid")].as_i64()?).ok()?;
            let process = Proc::of_record(pid, record[format!("{who}_starttime")].as_u64()?);
            process.is_alive().then_some(process)
        };
        let (guard, init) = (process("guard")?, process("init")?);
        let namespace = init.pid_namespace()?;
        Some(Tree { guard, init, namespace, data_dir: data_dir.to_path_buf() })
    }

    /// Everything in the namespace that can still do something.
    pub fn processes(&self) -> Vec<Proc> {
        let ours = |p: &Proc| p.is_alive() && p.pid_namespace().as_ref() == Some(&self.namespace);
        let found: Vec<Proc> = process::all().into_iter().filter(ours).collect();
        // The kernel gives the number of a namespace that is gone to the next one: that has another
        // first process.
        let another = |p: &Proc| *p != self.init && p.inner_pid() == Some(1);
        if found.iter().any(another) { Vec::new() } else { found }
    }

    /// The process with this number inside the namespace, as `pg_backend_pid()` tells it.
    pub fn inner(&self, inner_pid: i32) -> Option<Proc> {
        self.processes().into_iter().find(|p| p.inner_pid() == Some(inner_pid))
    }

    /// The postmaster.
    pub fn postmaster(&self) -> Proc {
        let file = self.data_dir.join("postmaster.pid");
        let text = fs::read_to_string(&file).expect("postmaster.pid");
        let inner = text.lines().next().and_then(|l| l.parse().ok()).expect("a process number");
        self.inner(inner).unwrap_or_else(|| panic!("no postmaster in {:?}", self.processes()))
    }

    /// Stops every process: the guard, the namespace, the postmaster first of it so that it starts
    /// none anew.
    pub async fn freeze(&self) {
        self.guard.freeze().await;
        self.freeze_inside().await;
    }

    /// Stops every process of the namespace but its init, which ignores it.
    pub async fn freeze_inside(&self) {
        for _ in 0..2 {
            for process in self.processes() {
                if process != self.init {
                    process.freeze().await;
                }
            }
        }
    }

    /// Lets everything go on.
    pub fn thaw(&self) {
        for process in self.processes() {
            process.thaw();
        }
        self.guard.thaw();
    }

    /// Waits until nothing of the namespace is left.
    pub async fn gone(&self, limit: Duration) {
        until_seen("the end of the process tree", limit, || {
            self.processes().is_empty().then_some(())
        })
        .await;
    }

    /// Notes the moment when nothing of the namespace is left, beside everything else.
    pub fn watch_end(&self) -> TreeEnd {
        let (tree, stop) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        // A thread: looking at every process must not hold up the clients of a test.
        let thread = std::thread::spawn(move || {
            let init = tree.init;
            loop {
                // The init is the last to be gone: it is waited for cheaply, then all are counted.
                if !init.is_alive() && tree.processes().is_empty() {
                    return Some(Instant::now());
                }
                if stopped.load(Ordering::SeqCst) {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        TreeEnd { thread: Some(thread), stop }
    }
}

/// A watch over the end of a tree.
pub struct TreeEnd {
    thread: Option<std::thread::JoinHandle<Option<Instant>>>,
    stop: Arc<AtomicBool>,
}

impl TreeEnd {
    /// When the tree ended; it has to have ended by now.
    pub async fn at(mut self) -> Instant {
        let thread = self.thread.take().expect("asked once");
        until_seen("the end of the process tree", SOON, || thread.is_finished().then_some(()))
            .await;
        thread.join().expect("no panic").expect("it was not stopped")
    }
}

impl Drop for TreeEnd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
