//! The Raft store: openraft's own suite, crashes, and damage.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{AsyncRuntime, EntryPayload, RaftLogReader, StorageError};
use quorate::raft::kv::{Error, KvEngine, Space};
use quorate::raft::kv_mem::KvMem;
use quorate::raft::kv_rocks::KvRocks;
use quorate::raft::log_store::LogStore;
use quorate::raft::runtime::BootRuntime;
use quorate::raft::state_machine::StateMachine;
use quorate::raft::types::{Entry, TypeConfig, Vote, log_id};
use tempfile::TempDir;

type Config = TypeConfig<BootRuntime>;
type Log = LogStore<BootRuntime>;

fn run<T>(future: impl Future<Output = T>) -> T {
    BootRuntime::new(2).block_on(future)
}

#[test]
fn the_runtime_conforms() {
    openraft_rt::testing::Suite::<BootRuntime>::test_all();
}

struct Memory;
impl StoreBuilder<Config, Log, StateMachine> for Memory {
    async fn build(&self) -> Result<((), Log, StateMachine), StorageError<Config>> {
        let engine: Arc<dyn KvEngine> = Arc::new(KvMem::new());
        let log = Log::open_for_suite(engine.clone()).unwrap();
        Ok(((), log, StateMachine::open(engine).unwrap().0))
    }
}

struct Rocks;
impl StoreBuilder<Config, Log, StateMachine, TempDir> for Rocks {
    async fn build(&self) -> Result<(TempDir, Log, StateMachine), StorageError<Config>> {
        let dir = TempDir::new().unwrap();
        let engine: Arc<dyn KvEngine> = Arc::new(KvRocks::open(dir.path()).unwrap());
        let log = Log::open_for_suite(engine.clone()).unwrap();
        Ok((dir, log, StateMachine::open(engine).unwrap().0))
    }
}

#[test]
fn openraft_suite_in_memory() {
    run(Suite::test_all(Memory)).unwrap();
}

#[test]
fn openraft_suite_on_rocksdb() {
    run(Suite::test_all(Rocks)).unwrap();
}

fn entry(index: u64) -> Entry {
    Entry { log_id: log_id(1, index), payload: EntryPayload::Blank }
}

fn open(dir: &Path) -> Result<Log, Error> {
    Log::open(Arc::new(KvRocks::open(dir)?))
}

async fn entries(log: &mut Log) -> Vec<u64> {
    let entries = log.try_get_log_entries(0..u64::MAX).await.unwrap();
    entries.iter().map(|e| e.log_id.index).collect()
}

#[test]
fn a_hole_is_refused() {
    run(async {
        let mut log = Log::open(Arc::new(KvMem::new())).unwrap();
        log.blocking_append([entry(0), entry(1)]).await.unwrap();
        for index in [0, 1, 3] {
            let error = log.append([entry(index)], IOFlushed::noop()).await.unwrap_err();
            assert!(error.to_string().contains("continue"), "{error}");
        }
    });
}

#[test]
fn a_slow_disk_shows_and_nothing_is_reported_early() {
    run(async {
        let engine = KvMem::queued(|| {});
        let mut log = Log::open(Arc::new(engine.clone())).unwrap();
        let monitor = log.monitor();
        let (tx, rx) =
            <<BootRuntime as AsyncRuntime>::Oneshot as openraft::async_runtime::Oneshot>::channel();
        log.append([entry(0), entry(1)], IOFlushed::signal(tx)).await.unwrap();
        // Readable at once, not yet on disk.
        assert_eq!(entries(&mut log).await, [0, 1]);
        assert!(monitor.append_in_flight_since().is_some());
        let mut rx = std::pin::pin!(rx);
        let pending = futures_util::poll!(&mut rx).is_pending();
        assert!(pending);
        let mut saver = log.clone();
        let vote = Vote::new_committed(1, 1);
        let mut vote = std::pin::pin!(saver.save_vote(&vote));
        assert!(futures_util::poll!(&mut vote).is_pending(), "a vote waits for its sync");
        assert!(engine.step());
        rx.await.unwrap().unwrap();
        assert!(monitor.append_in_flight_since().is_none());
        assert!(futures_util::poll!(&mut vote).is_pending());
        assert!(engine.step());
        vote.await.unwrap();
    });
}

/// Every crash point of a run with truncation and purge leaves a log that opens without a hole and
/// has everything that was reported.
#[test]
fn any_crash_point_leaves_a_whole_log() {
    for steps in 0..12 {
        for keep in 0..8 {
            run(async {
                let engine = KvMem::queued(|| {});
                let mut log = Log::open(Arc::new(engine.clone())).unwrap();
                log.append((0..5).map(entry), IOFlushed::noop()).await.unwrap();
                log.truncate_after(Some(entry(2).log_id)).await.unwrap();
                let other = |index| {
                    let mut e = entry(index);
                    e.log_id = log_id(2, index);
                    e
                };
                log.append((3..7).map(other), IOFlushed::noop()).await.unwrap();
                log.save_committed(Some(other(4).log_id)).await.unwrap();
                log.purge(entry(1).log_id).await.unwrap();
                log.append((7..9).map(other), IOFlushed::noop()).await.unwrap();
                let done = (0..steps).take_while(|_| engine.step()).count();
                assert_eq!(entries(&mut log).await, (2..9).collect::<Vec<_>>());
                let mut log = Log::open(Arc::new(engine.crash(keep))).unwrap();
                let state = log.get_log_state().await.unwrap();
                let found = entries(&mut log).await;
                assert_eq!(found.last().copied(), state.last_log_id.map(|id| id.index));
                let synced_upto = match done {
                    0 => None,
                    1..=2 => Some(2), // the tail may have been truncated
                    3..=5 => Some(6),
                    _ => Some(8),
                };
                assert!(state.last_log_id.map(|id| id.index) >= synced_upto, "{steps} {keep}");
            });
        }
    }
}

// A process that is killed in the middle of writing.

const CHILD_DIR: &str = "QUORATE_TEST_APPEND_DIR";

/// Not a test of its own: what the killed child runs.
#[test]
fn child_that_appends() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else { return };
    run(async {
        let mut log = open(&dir).unwrap();
        let next = log.get_log_state().await.unwrap().last_log_id.map_or(0, |id| id.index + 1);
        let mut out = std::io::stdout();
        for index in next..next + 1_000_000 {
            log.blocking_append([entry(index)]).await.unwrap();
            writeln!(out, "acked {index}").unwrap();
            out.flush().unwrap();
        }
    });
}

struct Killed(Child);
impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends with the name of the test above, wherever this file is a module.
fn child_test_name() -> String {
    let module = module_path!().split_once("::").map_or("", |(_, rest)| rest);
    if module.is_empty() {
        "child_that_appends".to_owned()
    } else {
        format!("{module}::child_that_appends")
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_reported() {
    let dir = TempDir::new().unwrap();
    let mut acked = None;
    for round in 0..3_u64 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &child_test_name(), "--nocapture", "--test-threads=1"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let wanted = acked.map_or(0, |a: u64| a + 1) + 40 + 13 * round;
        while acked < Some(wanted) {
            let line = lines.next().expect("the child ended by itself").unwrap();
            if let Some(index) = line.rsplit_once("acked ").and_then(|(_, i)| i.parse().ok()) {
                acked = Some(index);
            }
        }
        drop(child);
        // What it still said before it died counts as well.
        for line in lines.map_while(Result::ok) {
            acked = line.rsplit_once("acked ").and_then(|(_, i)| i.parse().ok()).or(acked);
        }
        run(async {
            let mut log = open(dir.path()).unwrap();
            let found = entries(&mut log).await;
            assert!(found.last().copied() >= acked, "{:?} < {acked:?}", found.last());
            assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
        });
    }
}

// Damage.

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths
}

/// A store with twenty entries in its write-ahead log, as a killed process leaves it.
fn store_with_wal() -> TempDir {
    let live = TempDir::new().unwrap();
    let copy = TempDir::new().unwrap();
    run(async {
        let mut log = open(live.path()).unwrap();
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        for index in 0..20 {
            log.blocking_append([entry(index)]).await.unwrap();
        }
        copy_dir(live.path(), copy.path());
    });
    copy
}

fn copy_dir(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn a_torn_tail_opens() {
    let store = store_with_wal();
    let wal = files(store.path(), "log").pop().unwrap();
    let whole = std::fs::read(&wal).unwrap();
    for cut in [1, 5, 40, 150] {
        let copy = TempDir::new().unwrap();
        copy_dir(store.path(), copy.path());
        let wal = copy.path().join(wal.file_name().unwrap());
        std::fs::write(&wal, &whole[..whole.len() - cut]).unwrap();
        run(async {
            let found = entries(&mut open(copy.path()).unwrap()).await;
            assert!((15..20).contains(&found.len()), "{} entries after {cut}", found.len());
            assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_flipped_bit_in_the_log_stops_the_node() {
    let store = store_with_wal();
    let wal = files(store.path(), "log").pop().unwrap();
    let whole = std::fs::read(&wal).unwrap();
    // Every byte of the last records, and some of the rest.
    let places = (0..whole.len()).filter(|i| i % 97 == 0 || i + 200 > whole.len());
    for place in places {
        let copy = TempDir::new().unwrap();
        copy_dir(store.path(), copy.path());
        let mut bad = whole.clone();
        bad[place] ^= 1 << (place % 8);
        std::fs::write(copy.path().join(wal.file_name().unwrap()), &bad).unwrap();
        let error = open(copy.path()).err();
        assert!(matches!(error, Some(Error::Corrupt { .. })), "byte {place}: {error:?}");
    }
}

#[test]
fn a_flipped_bit_in_a_table_stops_the_node() {
    let dir = TempDir::new().unwrap();
    run(async {
        let engine = Arc::new(KvRocks::open(dir.path()).unwrap());
        let mut log = Log::open_for_suite(engine.clone()).unwrap();
        for index in 0..200 {
            log.append([entry(index)], IOFlushed::noop()).await.unwrap();
        }
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        engine.flush().unwrap();
    });
    let table = files(dir.path(), "sst").pop().unwrap();
    let whole = std::fs::read(&table).unwrap();
    for place in [10, whole.len() / 4, whole.len() / 2] {
        let mut bad = whole.clone();
        bad[place] ^= 4;
        std::fs::write(&table, &bad).unwrap();
        let error = open(dir.path()).err();
        assert!(matches!(error, Some(Error::Corrupt { .. })), "byte {place}: {error:?}");
    }
    std::fs::write(&table, &whole).unwrap();
    open(dir.path()).unwrap();
}

#[test]
fn damage_below_the_database_is_noticed_by_our_own_checksum() {
    run(async {
        let engine = KvMem::new();
        let mut log = Log::open(Arc::new(engine.clone())).unwrap();
        log.blocking_append((0..3).map(entry)).await.unwrap();
        assert!(engine.flip_bit(Space::Log, &1_u64.to_be_bytes(), 100));
        let error = Log::open(Arc::new(engine)).err();
        assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
    });
}

#[test]
fn a_store_that_lost_its_vote_or_its_snapshot_is_damaged() {
    run(async {
        let engine = KvMem::new();
        let mut log = Log::open(Arc::new(engine.clone())).unwrap();
        log.blocking_append((0..3).map(entry)).await.unwrap();
        let error = log.check_vote().err();
        assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        log.check_vote().unwrap();
        let (machine, _) = StateMachine::open(Arc::new(engine)).unwrap();
        machine.check_reaches(&log).unwrap();
        log.purge(entry(1).log_id).await.unwrap();
        let error = machine.check_reaches(&log).err();
        assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
    });
}
