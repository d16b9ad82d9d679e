//! `hactl` in a terminal: a pseudo-terminal of a given width, with what a person would see.

#![allow(clippy::disallowed_methods)] // tests run on tokio, over real sockets

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fake_node::{Fake, Served, member};
use crate::support::{SOON, until_seen};
use quorate::domain::state::{FinishedOperation, Outcome};
use quorate::domain::types::WallMillis;

fn hactl(endpoint: &str, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hactl"));
    command.args(args.split_ascii_whitespace()).env_clear();
    command.env("XDG_CONFIG_HOME", "/nonexistent").env("TERM", "xterm-256color");
    command.env("HACTL_ENDPOINTS", endpoint);
    command
}

/// A program whose input, output and errors are one terminal.
struct Terminal {
    child: Child,
    keyboard: File,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Terminal {
    fn run(mut command: Command, columns: u16) -> Terminal {
        let (mut ours, mut theirs) = (0, 0);
        let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: openpty writes two descriptors, which are owned from here on.
        let (ours, theirs) = unsafe {
            let done = libc::openpty(
                &mut ours,
                &mut theirs,
                std::ptr::null_mut(),
                std::ptr::null(),
                &size,
            );
            assert_eq!(done, 0, "openpty: {}", std::io::Error::last_os_error());
            libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
            (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
        };
        let copy = || Stdio::from(theirs.try_clone().expect("a descriptor"));
        command.stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: async-signal-safe calls. The terminal becomes that of a session of its own, so
        // that Ctrl-C is a signal.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().expect("hactl");
        drop((command, theirs));
        let keyboard = File::from(ours);
        let mut screen = keyboard.try_clone().expect("a descriptor");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = seen.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of the program is an error here.
            while let Ok(n @ 1..) = screen.read(&mut buffer) {
                all.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Terminal { child, keyboard, seen, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).replace("\r\n", "\n")
    }

    /// Waits until this is on the screen.
    async fn shows(&self, part: &str) {
        let mut last = String::new();
        let what = format!("{part:?} on the screen");
        let look = || {
            last = self.text();
            last.contains(part).then_some(())
        };
        until_seen(&what, SOON, look).await;
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("typed");
    }

    /// How it ended, and everything that was on the screen.
    async fn end(mut self) -> (ExitStatus, String) {
        let ended = || self.child.try_wait().expect("a child");
        let mut ended = ended;
        let status = until_seen("the end of hactl", SOON, &mut ended).await;
        self.reader.join().expect("no panic");
        let text = String::from_utf8_lossy(&self.seen.lock().unwrap()).replace("\r\n", "\n");
        (status, text)
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct KillOnDrop(Child);

/// Without the sequences that colour text.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            chars.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            out.push(c);
        }
    }
    out
}

async fn shown(endpoint: &str, args: &str, columns: u16, env: Option<(&str, &str)>) -> String {
    let mut command = hactl(endpoint, args);
    command.envs(env);
    let (status, text) = Terminal::run(command, columns).end().await;
    assert!(status.success(), "{text}");
    text
}

/// Output in a pipe, as bytes.
async fn piped(endpoint: &str, args: &str) -> (Option<i32>, String, String) {
    let mut command = hactl(endpoint, args);
    command.stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output().expect("hactl"));
    let out = run.await.expect("no panic");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[tokio::test]
async fn no_line_is_wider_than_the_terminal() {
    let leader = Served::new(Fake::leader()).await;
    let endpoint = leader.address.to_string();
    for columns in [40, 60, 80, 120] {
        for args in
            ["status", "history", "explain", "aside", "status --topology", "operation list --all"]
        {
            let text = plain(&shown(&endpoint, args, columns, None).await);
            let too_wide = text.lines().find(|l| l.chars().count() > usize::from(columns));
            assert_eq!(too_wide, None, "{args} at {columns}:\n{text}");
        }
        let text = plain(&shown(&endpoint, "status", columns, None).await);
        for part in ["MEMBER", "ROLE", "primary", "standby", "streaming"] {
            assert!(text.contains(part), "{part} at {columns}:\n{text}");
        }
    }
    let wide = plain(&shown(&endpoint, "status", 250, None).await);
    let (_, pipe, _) = piped(&endpoint, "status").await;
    let header = |text: &str| text.lines().find(|l| l.starts_with("MEMBER")).map(str::to_owned);
    assert_eq!(header(&wide), header(&pipe), "every column is there:\n{wide}\n{pipe}");
}

#[tokio::test]
async fn colours_only_where_they_are_wanted() {
    let leader = Served::new(Fake::leader()).await;
    let endpoint = leader.address.to_string();
    let coloured = |text: &str| text.contains("\x1b[");
    let on = async |args, env| coloured(&shown(&endpoint, args, 100, env).await);
    assert!(on("status", None).await);
    assert!(on("status", Some(("NO_COLOR", ""))).await, "an empty NO_COLOR says nothing");
    assert!(!on("status", Some(("NO_COLOR", "1"))).await);
    assert!(!on("status", Some(("TERM", "dumb"))).await);
    assert!(on("status --color always", Some(("NO_COLOR", "1"))).await);
    assert!(!on("status --color never", None).await);
    assert!(!on("status -o json", None).await);
    for args in ["status", "history", "explain", "--help", "status --color auto"] {
        let (code, out, err) = piped(&endpoint, args).await;
        assert_eq!(code, Some(0), "{err}");
        assert!(!coloured(&out) && !coloured(&err), "{args}: {out}{err}");
    }
    let (_, out, _) = piped(&endpoint, "status --color always").await;
    assert!(coloured(&out), "{out}");
    let (code, _, err) = piped(&endpoint, "status --color sometimes").await;
    assert!(code == Some(2) && err.contains("always"), "{err}");
}

#[tokio::test]
async fn a_reader_that_has_enough_ends_it_quietly() {
    let leader = Served::new(Fake::leader()).await;
    let endpoint = leader.address.to_string();
    for args in ["status", "status -o json", "history", "completion bash", "status --watch"] {
        let mut command = hactl(&endpoint, args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = KillOnDrop(command.spawn().expect("hactl"));
        // Nobody reads: the first line is one too many.
        drop(child.0.stdout.take());
        let fake = leader.fake.clone();
        let mut n = 0;
        let status = until_seen(&format!("the end of {args}"), SOON, || {
            // A watch writes only when something changes.
            n += 1;
            fake.change(|cluster| cluster.next_operation += u64::from(n % 20 == 0));
            child.0.try_wait().expect("a child")
        })
        .await;
        let mut err = String::new();
        child.0.stderr.take().expect("piped").read_to_string(&mut err).expect("read");
        assert_eq!((status.code(), err.as_str()), (Some(0), ""), "{args}");
    }
}

#[tokio::test]
async fn what_is_dangerous_is_asked() {
    let leader = Served::new(Fake::leader()).await;
    let endpoint = leader.address.to_string();
    for (typed, what) in [("n\n", "no"), ("\n", "nothing"), ("\x04", "the end of the input")] {
        let mut terminal = Terminal::run(hactl(&endpoint, "switchover --to b"), 100);
        terminal.shows("Make b the primary of cluster main?").await;
        terminal.types(typed);
        let (status, text) = terminal.end().await;
        assert_eq!(status.code(), Some(1), "{what}: {text}");
        assert!(text.contains("error: not done"), "{what}: {text}");
    }
    let mut terminal = Terminal::run(hactl(&endpoint, "switchover --to b"), 100);
    terminal.shows("[y/N]").await;
    terminal.types("\x03");
    let (status, _) = terminal.end().await;
    assert!(!status.success(), "Ctrl-C at a question is a no");
    assert!(leader.fake.cluster().operation.is_none(), "nothing was begun");

    // Nobody there to be asked: refused at once, with what to do.
    let (code, out, err) = piped(&endpoint, "switchover --to b").await;
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    assert!(err.contains("nobody can be asked") && err.contains("hint: give --yes"), "{err}");

    let mut terminal = Terminal::run(hactl(&endpoint, "switchover --to b --no-wait"), 100);
    terminal.shows("[y/N]").await;
    terminal.types("y\n");
    let (status, text) = terminal.end().await;
    assert!(status.success() && text.contains("operation 1: switchover"), "{text}");
    assert!(leader.fake.cluster().operation.is_some(), "it was begun");
}

#[tokio::test]
async fn ctrl_c_ends_the_wait_and_not_the_operation() {
    let leader = Served::new(Fake::leader()).await;
    let mut terminal = Terminal::run(hactl(&leader.address.to_string(), "switchover --yes"), 60);
    terminal.shows("operation 1: switchover to b of cluster main").await;
    // The line is rewritten, with a clock.
    terminal.shows("\r\x1b[K").await;
    terminal.shows("0.5 s").await;
    terminal.types("\x03");
    let (status, text) = terminal.end().await;
    assert_eq!(status.code(), Some(4), "{text}");
    assert!(text.contains("operation 1 goes on"), "{text}");
    assert!(text.contains("hint: see `hactl operation show 1`"), "{text}");
    assert!(leader.fake.cluster().operation.is_some(), "it goes on");
    let long = text.split(['\r', '\n']).map(plain).find(|l| l.chars().count() > 76);
    assert_eq!(long, None, "{text}");
}

#[tokio::test]
async fn progress_in_a_pipe_is_a_line_for_each_change() {
    let leader = Served::new(Fake::leader()).await;
    let fake = leader.fake.clone();
    let mut applied = quorate::api::Source::applied_watch(fake.as_ref());
    let ending = tokio::spawn(async move {
        let begun = applied.wait_for(|s| s.1.clusters.values().any(|c| c.operation.is_some()));
        drop(begun.await.unwrap());
        // Long enough for several looks, which all see the same.
        tokio::time::sleep(Duration::from_millis(700)).await;
        fake.change(|cluster| {
            let operation = cluster.operation.take().unwrap();
            let at = WallMillis(operation.at.0 + 700);
            let outcome = Outcome::Done { primary: member("b") };
            cluster.finished.push_back(FinishedOperation { operation, outcome, at });
        });
    });
    let (code, out, err) = piped(&leader.address.to_string(), "switchover --yes --to b").await;
    ending.await.unwrap();
    assert_eq!((code, out.as_str()), (Some(0), "done: b is primary, after 700 ms\n"), "{err}");
    let lines: Vec<&str> = err.lines().collect();
    assert!((1..5).contains(&lines.len()), "{err}");
    assert!(lines.windows(2).all(|w| w[0] != w[1]) && !err.contains('\x1b'), "{err}");
}
