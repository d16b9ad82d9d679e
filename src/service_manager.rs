//! What a service manager is told: that the daemon is ready, lives, and ends.
//!
//! Owns the protocol of `sd_notify(3)`: datagrams to the socket that `NOTIFY_SOCKET` names. Without
//! that variable nothing is sent. Imports nothing of this crate.

// It waits on the real machine.
#![allow(clippy::disallowed_methods)]

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tracing::{debug, warn};

/// The service manager that has started this process, if one has.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

/// The socket's address: a path, or a name in the abstract namespace after `@`.
fn address(name: &OsString) -> std::io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    }
}

/// How often the manager expects a sign of life: `WATCHDOG_USEC`, where `WATCHDOG_PID` is this
/// process or is not set (`sd_watchdog_enabled(3)`).
fn watchdog(var: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let ours = var("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let micros: u64 = var("WATCHDOG_USEC")?.parse().ok()?;
    (ours && micros > 0).then(|| Duration::from_micros(micros))
}

impl ServiceManager {
    /// The one that the environment names.
    pub fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).ok();
        Self::new(std::env::var_os("NOTIFY_SOCKET"), watchdog(var))
    }

    fn new(name: Option<OsString>, watchdog: Option<Duration>) -> Self {
        let socket = name.filter(|name| !name.is_empty()).and_then(|name| {
            let open = || -> std::io::Result<_> {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Ok((socket, address(&name)?))
            };
            open().inspect_err(|error| warn!(?name, %error, "NOTIFY_SOCKET cannot be used")).ok()
        });
        Self { socket, watchdog }
    }

    /// Sends assignments, one a line. It never blocks: what a busy manager does not take is lost.
    fn send(&self, text: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            debug!(%error, "the service manager was not told");
        }
    }

    /// The daemon serves. `status` is a line for people.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The daemon begins to end.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// Gives signs of life, twice in each interval that the manager allows; never ends. It runs as
    /// a task of the runtime that everything else runs on, so that none is given once that stands
    /// still. Waits for ever where no watchdog is asked for.
    pub async fn live(&self) {
        let Some(interval) = self.watchdog.filter(|_| self.socket.is_some()) else {
            return std::future::pending().await;
        };
        loop {
            self.send("WATCHDOG=1");
            tokio::time::sleep(interval / 2).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen() -> (tempfile::TempDir, UnixDatagram, OsString) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (dir, socket, path.into_os_string())
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_manager_hears_of_the_daemon() {
        let (_dir, socket, name) = listen();
        let manager = ServiceManager::new(Some(name), Some(Duration::from_millis(20)));
        manager.ready("node n1");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=node n1");
        let alive = tokio::time::timeout(Duration::from_millis(200), manager.live());
        assert!(alive.await.is_err(), "it never ends");
        assert_eq!((heard(&socket), heard(&socket)), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));
    }

    #[test]
    fn an_abstract_name_is_reached() {
        let name = format!("quorate-test-{}", std::process::id());
        let at = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&at).unwrap();
        ServiceManager::new(Some(format!("@{name}").into()), None).stopping("ends");
        assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=ends");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        for name in [None, Some(OsString::new()), Some("/nonexistent/notify".into())] {
            ServiceManager::new(name, None).ready("nobody listens");
        }
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let vars = |pid: Option<&str>, usec: &str| {
            let (pid, usec) = (pid.map(str::to_owned), usec.to_owned());
            watchdog(move |name| match name {
                "WATCHDOG_PID" => pid.clone(),
                _ => Some(usec.clone()),
            })
        };
        let own = std::process::id().to_string();
        assert_eq!(vars(None, "3000000"), Some(Duration::from_secs(3)));
        assert_eq!(vars(Some(&own), "3000000"), Some(Duration::from_secs(3)));
        assert_eq!(vars(Some("1"), "3000000"), None);
        assert_eq!(vars(None, "0"), None);
        assert_eq!(vars(None, "soon"), None);
    }
}
