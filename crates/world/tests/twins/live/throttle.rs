//! A way to a server that lets a bounded amount of its data pass.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Accepts connections and passes them on to a server, until too much data came back from it.
pub struct Throttle {
    port: u16,
    state: Arc<State>,
}

struct State {
    limit: u64,
    passed: AtomicU64,
    holds: AtomicBool,
}

impl Throttle {
    /// Passes on to the server at `port`, and at most `limit` bytes back from it.
    pub fn new(port: u16, limit: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = Arc::new(State { limit, passed: 0.into(), holds: false.into() });
        let shared = Arc::clone(&state);
        // The threads end with the connections, or with the test.
        thread::spawn(move || {
            for client in listener.incoming() {
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let state = Arc::clone(&shared);
                let client = client.unwrap();
                thread::spawn(move || pass(client, server, &state));
            }
        });
        Self { port: own, state }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many bytes came back from the server.
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::SeqCst)
    }

    /// Whether it holds data back.
    pub fn holds(&self) -> bool {
        self.state.holds.load(Ordering::SeqCst)
    }
}

/// Serves one connection.
fn pass(mut client: TcpStream, mut server: TcpStream, state: &State) {
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let upwards = thread::spawn(move || {
        // It ends when either side closes; that is how connections end.
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut buffer = [0; 16384];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        if state.passed.fetch_add(count as u64, Ordering::SeqCst) + count as u64 > state.limit {
            state.holds.store(true, Ordering::SeqCst);
            // The client sees an open connection without data until it goes away.
            let _ = upwards.join();
            return;
        }
        if client.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}
