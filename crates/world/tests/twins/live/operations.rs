//! What scenarios do, done to real servers.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::process;
use super::session::Session;
use super::{Live, moment};
use crate::servers::{Commit, Control, Lsn, Name, Outcome, Play, Process, Rewound};
use crate::servers::{Sender, Servers, Slot, Write};

impl Servers for Live {
    fn primary(&mut self, name: Name) {
        self.place.copy_template(&self.place.data(name));
        self.add(name);
        self.start(name).unwrap();
    }

    fn standby(&mut self, name: Name, of: Name) {
        self.place.copy_template(&self.place.data(name));
        self.add(name);
        self.follow(name, Some(of));
        self.start(name).unwrap();
    }

    fn start(&mut self, name: Name) -> Result<(), String> {
        self.launch(name);
        self.until("the server starts or ends", |s| {
            if s.ended(name) {
                return Some(Err(s.log(name)));
            }
            s.accepts(name).then_some(Ok(()))
        })
    }

    fn launch(&mut self, name: Name) {
        assert!(self.ended(name), "{name} runs already");
        self.write_conf(name);
        let log = File::create(self.place.root().join(format!("{name}.log"))).unwrap();
        let mut command = self.place.program("postgres");
        command.arg("-D").arg(self.place.data(name));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        // SAFETY: prctl is async-signal-safe. It lets the server end with us, if we are killed.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGQUIT)?));
        }
        self.server(name).postmaster = Some(command.spawn().unwrap());
    }

    fn runs(&mut self, name: Name) -> bool {
        !self.ended(name)
    }

    fn connects(&mut self, name: Name) -> bool {
        let port = self.server(name).port;
        Session::open(&self.runtime, port).is_ok()
    }

    fn accepts(&mut self, name: Name) -> bool {
        self.query(name, "SELECT 1").is_ok()
    }

    fn has_processes(&mut self, name: Name) -> bool {
        !process::of_directory(&self.place.data(name)).is_empty()
    }

    fn stop(&mut self, name: Name) {
        self.signal_postmaster(name, Signal::SIGINT);
    }

    fn kill(&mut self, name: Name) {
        process::kill_directory(&self.place.data(name));
        if let Some(mut postmaster) = self.server(name).postmaster.take() {
            postmaster.wait().unwrap();
        }
        self.server(name).admin = None;
        self.frozen.retain(|f| f.0 != name);
    }

    fn behead(&mut self, name: Name) {
        let mut postmaster = self.server(name).postmaster.take().expect("a running server");
        postmaster.kill().unwrap();
        postmaster.wait().unwrap();
        self.server(name).admin = None;
    }

    fn murder(&mut self, name: Name, process: Process) {
        self.process(name, process).signal(Signal::SIGKILL);
    }

    fn set_restart_after_crash(&mut self, name: Name, on: bool) {
        let conf = &mut self.server(name).conf;
        conf.generation += 1;
        conf.restart_after_crash = on;
        self.reload(name);
    }

    fn keep_no_wal(&mut self, name: Name) {
        let conf = &mut self.server(name).conf;
        conf.generation += 1;
        conf.keeps_no_wal = true;
        self.reload(name);
    }

    fn freeze(&mut self, name: Name, process: Process) {
        let found = self.process(name, process);
        // One that sleeps in the kernel waits for something; asleep for a while, it holds no lock.
        self.await_that("the process sleeps", |_| found.state() == Some('S'));
        found.signal(Signal::SIGSTOP);
        self.await_that("the process is stopped", |_| found.state() == Some('T'));
        self.frozen.push((name, process, found));
    }

    fn thaw(&mut self, name: Name, process: Process) {
        self.process(name, process).signal(Signal::SIGCONT);
        self.frozen.retain(|f| (f.0, f.1) != (name, process));
    }

    fn end(&mut self, name: Name, process: Process) {
        self.process(name, process).signal(Signal::SIGTERM);
    }

    fn follow(&mut self, name: Name, of: Option<Name>) {
        let conf = &mut self.server(name).conf;
        conf.generation += 1;
        conf.follows = of;
        if self.ended(name) {
            self.place.write(&self.place.data(name).join("standby.signal"), "");
            self.write_conf(name);
        } else if self.accepts(name) {
            assert!(self.in_recovery(name), "{name} is a primary");
            self.reload(name);
        } else {
            self.write_conf(name);
            self.signal_postmaster(name, Signal::SIGHUP);
        }
    }

    fn backup(&mut self, name: Name, of: Name) -> Lsn {
        let end = self.base_backup(name, of);
        self.add(name);
        self.follow(name, None);
        end
    }

    fn ask_promotion(&mut self, name: Name) {
        self.place.write(&self.place.data(name).join("promote"), "");
        self.signal_postmaster(name, Signal::SIGUSR1);
    }

    fn promote(&mut self, name: Name) -> u32 {
        self.one(name, "SELECT pg_promote(false)");
        self.await_that("the standby is a primary", |s| !s.in_recovery(name));
        let file = self.one(name, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
        u32::from_str_radix(&file[..8], 16).unwrap()
    }

    fn set_names(&mut self, name: Name, names: &str) {
        let conf = &mut self.server(name).conf;
        conf.generation += 1;
        conf.names = names.to_owned();
        self.reload(name);
    }

    fn set_names_later(&mut self, name: Name, names: &str) {
        self.server(name).conf.names = names.to_owned();
        self.write_conf(name);
        self.signal_postmaster(name, Signal::SIGHUP);
    }

    fn pause_replay(&mut self, name: Name) {
        self.one(name, "SELECT pg_wal_replay_pause()");
        self.await_that("replay pauses", |s| {
            s.one(name, "SELECT pg_get_wal_replay_pause_state()") == "paused"
        });
    }

    fn resume_replay(&mut self, name: Name) {
        self.one(name, "SELECT pg_wal_replay_resume()");
    }

    fn use_slot(&mut self, standby: Name, of: Name) {
        let sql = format!("SELECT pg_create_physical_replication_slot('{standby}', true)");
        self.one(of, &sql);
        let conf = &mut self.server(standby).conf;
        conf.generation += 1;
        conf.slot = true;
        self.reload(standby);
    }

    fn slot(&mut self, name: Name, standby: Name) -> Slot {
        let sql = format!(
            "SELECT active_pid, restart_lsn - '0/0' FROM pg_replication_slots \
             WHERE slot_name = '{standby}'"
        );
        let rows = self.query(name, &sql).unwrap();
        Slot { user: rows[0][0].parse().ok(), restart: rows[0][1].parse().ok() }
    }

    fn senders(&mut self, name: Name) -> Vec<Sender> {
        let sql = "SELECT pid, application_name, flush_lsn - '0/0', replay_lsn - '0/0', \
                   sent_lsn - '0/0', sync_priority > 0, state = 'streaming' \
                   FROM pg_stat_replication WHERE application_name <> 'pg_basebackup' ORDER BY pid";
        let rows = self.query(name, sql).unwrap();
        rows.iter()
            .map(|row| Sender {
                id: row[0].parse().unwrap(),
                standby: row[1].clone(),
                flushed: row[2].parse().ok(),
                replayed: row[3].parse().ok(),
                sent: row[4].parse().ok(),
                listed: row[5] == "t",
                streaming: row[6] == "t",
            })
            .collect()
    }

    fn receives(&mut self, name: Name) -> bool {
        self.one(name, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'")
            != "0"
    }

    fn flushed(&mut self, name: Name) -> Option<Lsn> {
        let primary = "pg_current_wal_flush_lsn()";
        let standby = "pg_last_wal_receive_lsn()";
        if self.in_recovery(name) {
            self.position(name, standby)
        } else {
            self.position(name, primary)
        }
    }

    fn inserted(&mut self, name: Name) -> Lsn {
        self.position(name, "pg_current_wal_insert_lsn()").expect("a position")
    }

    fn replayed(&mut self, name: Name) -> Lsn {
        self.position(name, "pg_last_wal_replay_lsn()").unwrap_or(0)
    }

    fn in_recovery(&mut self, name: Name) -> bool {
        self.one(name, "SELECT pg_is_in_recovery()") == "t"
    }

    fn prepare(&mut self, name: Name, row: i64, commit: Commit) -> Write {
        let port = self.server(name).port;
        let session = Session::open(&self.runtime, port).unwrap();
        let level = match commit {
            Commit::On => "on",
            Commit::Local => "local",
            Commit::Off => "off",
        };
        session.query(&self.runtime, &format!("SET synchronous_commit = {level}")).unwrap();
        let insert = format!("INSERT INTO t VALUES ({row})");
        self.writes.push((name, session.keep_for(&self.runtime, insert)));
        Write(self.writes.len() - 1)
    }

    fn override_read_only(&mut self, write: Write) {
        let session = self.writes[write.0].1.session();
        session.query(&self.runtime, "SET default_transaction_read_only = off").unwrap();
    }

    fn send(&mut self, write: Write) {
        self.writes[write.0].1.send(&self.runtime);
    }

    fn fill(&mut self, name: Name, rows: Range<i64>) {
        let (from, to) = (rows.start, rows.end - 1);
        // Random text does not compress, so it stays in the table's own pages.
        let text = "(SELECT string_agg(md5(i::text || n::text), '') FROM generate_series(1, 32) n)";
        let series = format!("generate_series({from}, {to}) i");
        self.query(name, &format!("INSERT INTO t SELECT i, {text} FROM {series}")).unwrap();
    }

    fn set_read_only(&mut self, name: Name, on: bool) {
        let conf = &mut self.server(name).conf;
        conf.generation += 1;
        conf.read_only = on;
        self.reload(name);
    }

    fn checkpoint(&mut self, name: Name) {
        self.query(name, "CHECKPOINT").unwrap();
    }

    fn checkpoint_timeline(&mut self, name: Name) -> u32 {
        self.one(name, "SELECT timeline_id FROM pg_control_checkpoint()").parse().unwrap()
    }

    fn control(&mut self, name: Name) -> Control {
        self.control_file(name)
    }

    fn tear(&mut self, name: Name, from: Lsn, to: Option<Lsn>) {
        self.zero_wal(name, from, to.unwrap_or(Lsn::MAX));
    }

    fn histories(&mut self, name: Name) -> BTreeSet<u32> {
        self.history_files(name)
    }

    fn place_history(&mut self, name: Name, timeline: u32, fork: Lsn) {
        let line = format!("1\t{:X}/{:X}\tplaced\n", fork >> 32, fork & 0xFFFF_FFFF);
        let file = format!("pg_wal/{timeline:08X}.history");
        self.place.write(&self.place.data(name).join(file), &line);
    }

    fn rewind(&mut self, name: Name, source: Name) -> Rewound {
        self.run_rewind(name, source)
    }

    fn rewind_halfway(&mut self, name: Name, source: Name) {
        self.interrupt_rewind(name, source);
    }

    fn outcome(&mut self, write: Write) -> Option<Outcome> {
        self.writes[write.0].1.outcome()
    }

    fn waits(&mut self, write: Write) -> bool {
        let (name, pid) = (self.writes[write.0].0, self.writes[write.0].1.pid);
        self.outcome(write).is_none()
            && self.one(
                name,
                &format!(
                    "SELECT count(*) FROM pg_stat_activity \
                     WHERE pid = {pid} AND wait_event = 'SyncRep'"
                ),
            ) == "1"
    }

    fn cancel(&mut self, write: Write) {
        self.writes[write.0].1.cancel(&self.runtime);
    }

    fn rows(&mut self, name: Name) -> BTreeSet<i64> {
        let port = self.server(name).port;
        let session = Session::open(&self.runtime, port).unwrap();
        let rows = session.query(&self.runtime, "SELECT row FROM t").unwrap();
        rows.iter().map(|row| row[0].parse().unwrap()).collect()
    }

    fn nudge(&mut self, name: Name) {
        self.one(name, "SELECT pg_logical_emit_message(true, 'twins', '')");
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn pass(&mut self) {
        moment();
    }
}
