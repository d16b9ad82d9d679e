//! A network of its own for each node, to be cut at will.
//!
//! The test's thread moves into a new network namespace with a bridge; every node gets another,
//! tied to the bridge by a pair of virtual interfaces. All of them are anonymous: they end with
//! the processes in them, whatever happens to the test.

use std::fs::File;
use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The test's own address.
const SWITCH: &str = "10.99.0.254";

/// The networks of a test cluster.
pub struct PrivateNetwork {
    namespaces: Vec<File>,
}

impl PrivateNetwork {
    /// Runs `test` in a network of `count` nodes; where the machine does not permit that, says so
    /// and runs nothing.
    pub fn run<F>(count: usize, test: impl FnOnce(PrivateNetwork) -> F + Send + 'static)
    where
        F: Future<Output = ()>,
    {
        // A thread of its own: what it does to its namespace must not outlive the test. The
        // runtime's threads are its children and share what it has.
        let thread = std::thread::spawn(move || {
            let network = match PrivateNetwork::enter(count) {
                Ok(network) => network,
                Err(why) => {
                    eprintln!("skipped: no private network can be made here: {why}");
                    return;
                }
            };
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("a runtime").block_on(test(network));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn enter(count: usize) -> Result<PrivateNetwork, String> {
        unshare()?;
        ip("link set lo up")?;
        ip("link add br0 type bridge")?;
        ip(&format!("addr add {SWITCH}/24 dev br0"))?;
        ip("link set br0 up")?;
        let mut network = PrivateNetwork { namespaces: Vec::new() };
        for i in 0..count {
            network.add(i)?;
        }
        network.filter(0, "-A INPUT -s 192.0.2.1 -j DROP")?;
        network.filter(0, "-F")?;
        Ok(network)
    }

    fn add(&mut self, i: usize) -> Result<(), String> {
        // A namespace is made by a thread that moves into a new one and leaves the file behind.
        let made = std::thread::spawn(|| {
            unshare()?;
            ip("link set lo up")?;
            File::open("/proc/thread-self/ns/net").map_err(|e| e.to_string())
        });
        let namespace = made.join().map_err(|_| "a thread failed".to_owned())??;
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        ip(&format!("link add v{i} type veth peer name eth0 netns {path}"))?;
        ip(&format!("link set v{i} master br0"))?;
        ip(&format!("link set v{i} up"))?;
        self.namespaces.push(namespace);
        self.inside(i, "ip", &format!("addr add {}/24 dev eth0", Self::host(i)))?;
        self.inside(i, "ip", "link set eth0 up")
    }

    /// The address of node `i`, from 0.
    pub fn host(i: usize) -> String {
        format!("10.99.0.{}", i + 1)
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.namespaces.len()
    }

    /// The namespace of node `i`.
    pub fn namespace(&self, i: usize) -> RawFd {
        self.namespaces[i].as_raw_fd()
    }

    /// Drops everything between node `i` and the other nodes; clients still reach all of them.
    pub fn cut_from_peers(&self, i: usize) {
        for peer in (0..self.count()).filter(|p| *p != i) {
            self.cut(i, peer);
        }
    }

    /// Drops everything between two nodes, in both directions.
    pub fn cut(&self, i: usize, peer: usize) {
        let host = Self::host(peer);
        self.filter(i, &format!("-A INPUT -s {host} -j DROP")).expect("iptables");
        self.filter(i, &format!("-A OUTPUT -d {host} -j DROP")).expect("iptables");
    }

    /// Drops what node `i` sends to `peer`; the other direction goes on.
    pub fn cut_one_way(&self, i: usize, peer: usize) {
        let host = Self::host(peer);
        self.filter(i, &format!("-A OUTPUT -d {host} -j DROP")).expect("iptables");
    }

    /// Cuts node `i` off from everybody, silently.
    pub fn unplug(&self, i: usize) {
        ip(&format!("link set v{i} down")).expect("ip link");
    }

    /// Ends every cut of node `i`.
    pub fn heal(&self, i: usize) {
        self.filter(i, "-F").expect("iptables");
        ip(&format!("link set v{i} up")).expect("ip link");
    }

    fn filter(&self, i: usize, arguments: &str) -> Result<(), String> {
        self.inside(i, "iptables", &format!("-w {arguments}"))
    }

    fn inside(&self, i: usize, program: &str, arguments: &str) -> Result<(), String> {
        let fd = self.namespace(i);
        let mut command = Command::new(program);
        // SAFETY: setns is async-signal-safe, and the descriptor is open in the child.
        unsafe {
            command.pre_exec(move || match libc::setns(fd, libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        run(&mut command, arguments)
    }
}

/// Moves this thread into a new network namespace.
fn unshare() -> Result<(), String> {
    // SAFETY: it changes this thread alone.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().to_string()),
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    run(&mut Command::new("ip"), arguments)
}

fn run(command: &mut Command, arguments: &str) -> Result<(), String> {
    let output = command.args(arguments.split_ascii_whitespace()).output();
    let output = output.map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
