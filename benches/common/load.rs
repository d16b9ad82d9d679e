//! A load of eight clients: `pgbench`, started again whenever an outage has ended it.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::support::{Conn, Endpoint};
use super::{PASSWORD, USER, machine};

/// Clients of the load.
pub const CLIENTS: u32 = 8;
/// Size of pgbench's tables: so many times 100,000 accounts.
pub const SCALE: u32 = 5;

/// A running load. Dropping it ends it.
pub struct Load {
    begun: Instant,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    /// Makes pgbench's tables and starts. `name` tells its processes from those of others.
    pub async fn start(endpoints: &[Endpoint]) -> Load {
        let mut init = pgbench(endpoints);
        init.args(["-i", "-q", "-s", &SCALE.to_string()]).stderr(Stdio::piped());
        let made = tokio::task::spawn_blocking(move || init.output()).await;
        let made = made.expect("no panic").expect("pgbench can be started");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, endpoints) = (stop.clone(), endpoints.to_vec());
        let thread = std::thread::spawn(move || run(&endpoints, &stopped));
        Load { begun: Instant::now(), stop, thread: Some(thread) }
    }

    /// Ends it. Returns how many transactions a second it made all the time, outages included.
    pub async fn stop(mut self, primary: &Conn) -> f64 {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.end();
        let count = primary.must("SELECT count(*) FROM pgbench_history").await;
        count.parse::<f64>().unwrap_or(f64::NAN) / seconds
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// `pgbench` against whichever of the endpoints takes writes. It ends with this process.
pub fn pgbench(endpoints: &[Endpoint]) -> Command {
    let list = |f: fn(&Endpoint) -> String| endpoints.iter().map(f).collect::<Vec<_>>().join(",");
    let mut command = Command::new(machine::postgres_bin().join("pgbench"));
    command.env("PGHOST", list(|e| e.host.clone())).env("PGPORT", list(|e| e.port.to_string()));
    command.env("PGUSER", USER).env("PGPASSWORD", PASSWORD).env("PGDATABASE", "postgres");
    command.env("PGTARGETSESSIONATTRS", "read-write").env("PGCONNECT_TIMEOUT", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // It ends with this process, however that ends.
    let parent = std::process::id();
    // SAFETY: both calls are async-signal-safe.
    unsafe {
        use std::os::unix::process::CommandExt;
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            match libc::getppid() as u32 == parent {
                true => Ok(()),
                false => Err(std::io::ErrorKind::BrokenPipe.into()),
            }
        })
    };
    command
}

fn run(endpoints: &[Endpoint], stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let mut command = pgbench(endpoints);
        command.args(["-n", "-c", &CLIENTS.to_string(), "-j", "2", "-T", "3600"]);
        let Ok(child) = command.spawn() else { return };
        let mut child = Ended(child);
        while !stop.load(Ordering::SeqCst) && matches!(child.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(child);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A child that does not outlive its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
