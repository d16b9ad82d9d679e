//! What is done to the files of real servers: reading, tearing, copying, rewinding.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::place::SEGMENT;
use super::throttle::Throttle;
use super::{Live, conf};
use crate::servers::{Control, Lsn, Name, Play, Rewound};

/// How much of a rewind's data is held back when it is interrupted.
const HELD_BACK: u64 = 1 << 20;

impl Live {
    /// What `pg_controldata` says.
    pub(super) fn control_file(&self, name: Name) -> Control {
        let data = self.place.data(name);
        let text = self.place.run("pg_controldata", ["-D", data.to_str().unwrap()]);
        let value = |label: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(label)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("no {label} in {text}")).trim().to_owned()
        };
        Control {
            timeline: value("Latest checkpoint's TimeLineID").parse().unwrap(),
            checkpoint: parse_lsn(&value("Latest checkpoint location")),
            shut_down: value("Database cluster state").starts_with("shut down"),
        }
    }

    /// Zeroes WAL. Of several files of one segment it is that of the newest timeline.
    pub(super) fn zero_wal(&self, name: Name, from: Lsn, to: Lsn) {
        let wal = self.place.data(name).join("pg_wal");
        let files = names_of(&wal);
        for number in from / SEGMENT.. {
            // A segment's name: timeline, and its number in two parts of which the second counts
            // the segments of 4 GiB (manual, section 70.3.2).
            let part = (1 << 32) / SEGMENT;
            let suffix = format!("{:08X}{:08X}", number / part, number % part);
            let file = files.iter().filter(|f| f.len() == 24 && f.ends_with(&suffix)).max();
            let begin = number * SEGMENT;
            let Some(file) = file.filter(|_| begin < to) else { break };
            let (low, high) = (from.max(begin) - begin, to.min(begin + SEGMENT) - begin);
            let file = OpenOptions::new().write(true).open(wal.join(file)).unwrap();
            file.write_all_at(&vec![0; (high - low) as usize], low).unwrap();
        }
    }

    /// The timelines of the history files.
    pub(super) fn history_files(&self, name: Name) -> BTreeSet<u32> {
        names_of(&self.place.data(name).join("pg_wal"))
            .iter()
            .filter_map(|f| u32::from_str_radix(f.strip_suffix(".history")?, 16).ok())
            .collect()
    }

    /// Runs `pg_basebackup` and gives the position of the end.
    pub(super) fn base_backup(&mut self, name: Name, of: Name) -> Lsn {
        let port = self.server(of).port.to_string();
        let data = self.place.data(name);
        let mut command = self.place.program("pg_basebackup");
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port]).arg("-D").arg(data);
        command.args(["-X", "fetch", "-c", "fast", "--no-sync", "--no-manifest", "-v"]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let end = said.lines().find_map(|l| l.split_once("log end point: ")).expect("an end");
        parse_lsn(end.1)
    }

    /// `pg_rewind` with a source at this port.
    fn rewind_command(&self, data: &std::path::Path, port: u16) -> Command {
        let mut command = self.place.program("pg_rewind");
        let source = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
        command.arg("-D").arg(data).args(["--source-server", &source, "--no-sync"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `pg_rewind` to its end.
    pub(super) fn run_rewind(&mut self, name: Name, source: Name) -> Rewound {
        assert!(self.ended(name), "{name} runs");
        let port = self.server(source).port;
        let output = self.rewind_command(&self.place.data(name), port).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !output.status.success() {
            Rewound::Failed(said)
        } else if said.contains("no rewind required") {
            Rewound::NotRequired
        } else {
            assert!(said.contains("Done!"), "{said}");
            Rewound::Done
        }
    }

    /// Runs `pg_rewind` and kills it when almost all data has passed: a first run, on a copy,
    /// says how much there is.
    pub(super) fn interrupt_rewind(&mut self, name: Name, source: Name) {
        assert!(self.ended(name), "{name} runs");
        let port = self.server(source).port;
        let (data, copy) = (self.place.data(name), self.place.data("measured"));
        self.place.copy(&data, &copy);
        let whole = Throttle::new(port, u64::MAX);
        let output = self.rewind_command(&copy, whole.port()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::remove_dir_all(&copy).unwrap();

        let part = Throttle::new(port, whole.passed() - HELD_BACK);
        let mut rewind = self.rewind_command(&data, part.port()).spawn().unwrap();
        self.await_that("the rewind waits for data", |_| part.holds());
        // What has passed is written before the program asks for more: wait until it sleeps.
        let process = super::process::Proc::find(rewind.id() as i32).expect("the rewind");
        self.stays("the rewind waits for data", |_| process.is_alive());
        rewind.kill().unwrap();
        rewind.wait().unwrap();
    }

    /// Writes the settings of a server, and gives their size in bytes.
    pub(super) fn write_conf(&mut self, name: Name) -> u64 {
        let follows = self.server(name).conf.follows.map(|of| (of, self.server(of).port));
        let server = self.server(name);
        let text = conf::Conf::text(&server.conf, name, server.port, follows);
        self.place.write(&self.place.data(name).join("postgresql.conf"), &text);
        text.len() as u64
    }
}

/// The names of the files of a directory.
fn names_of(dir: &PathBuf) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// A position as PostgreSQL prints it.
fn parse_lsn(text: &str) -> Lsn {
    let (high, low) = text.trim().split_once('/').expect("a position");
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}
