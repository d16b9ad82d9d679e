//! Addresses of tests that run at the same time never meet.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// Port of every node's API. It lies below the range that the kernel takes the ports of outgoing
/// connections from (ip_local_port_range), so that no client can take it while a node is down.
pub const API_PORT: u16 = 17_400;
/// Port of every member's PostgreSQL.
pub const SQL_PORT: u16 = 15_432;

/// The right to run a cluster. Many at once on few cores would make each other's leases run out, so
/// they take turns, one for each core and two at most, also where the test runner does not see to
/// that.
pub struct Turn(File);

impl Turn {
    /// Waits for it.
    pub fn take() -> Turn {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let turns: Vec<File> = (0..cores.min(2)).map(|n| lock_file(&format!("turn-{n}"))).collect();
        loop {
            let free = |file: &File| {
                // SAFETY: the descriptor is open.
                unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
            };
            if let Some(turn) = turns.iter().position(free) {
                return Turn(turns.into_iter().nth(turn).expect("one that is there"));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// A file that locks are put on. Whoever ends, however that is, gives its locks back.
fn lock_file(name: &str) -> File {
    let dir: PathBuf = std::env::temp_dir().join("quorate-test-locks");
    std::fs::create_dir_all(&dir).expect("a directory for locks");
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    options.open(dir.join(name)).expect("a lock file")
}

/// A network of loopback addresses, `127.x.y.0/24`, that belongs to this process while it holds it.
pub struct Loopback {
    prefix: String,
    _lock: File,
}

impl Loopback {
    /// Takes one that nobody else has.
    pub fn take() -> Loopback {
        let first = std::process::id();
        for i in 0..40_000u32 {
            let n = first.wrapping_add(i) % 40_000;
            let prefix = format!("127.{}.{}", 64 + n / 250, 1 + n % 250);
            let file = lock_file(&prefix);
            // SAFETY: the descriptor is open.
            let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
            // Whatever an earlier test left behind keeps its addresses.
            let free = (1..=9).all(|host| {
                [API_PORT, SQL_PORT]
                    .iter()
                    .all(|port| TcpListener::bind(format!("{prefix}.{host}:{port}")).is_ok())
            });
            if locked == 0 && free {
                return Loopback { prefix, _lock: file };
            }
        }
        panic!("no free network of loopback addresses");
    }

    /// The address of host `n`, from 1.
    pub fn host(&self, n: usize) -> String {
        format!("{}.{n}", self.prefix)
    }
}
