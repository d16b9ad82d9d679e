//! The key-value engine of production: RocksDB.
//!
//! Owns [`KvRocks`], its options and their reasons, and the thread that writes. Only this thread
//! ever waits for a disk: it takes all writes that wait, puts them into the write-ahead log with
//! one sync, and reports them.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, LogLevel};
use rocksdb::{DBRecoveryMode, ErrorKind, Options, ReadOptions, WriteBatch, WriteOptions};

use super::kv::{Batch, Done, Error, KvEngine, Pair, Space, Visit, Write};
use super::wal_check;

/// Size of a memtable. Two of them live at a time; the state of the Raft group is a few megabytes,
/// and the whole daemon is to stay below 40 MB of memory.
const WRITE_BUFFER_BYTES: usize = 1 << 20;
const BLOCK_CACHE_BYTES: usize = 512 << 10;
const OPEN_FILES_MAX: i32 = 64;
const INFO_LOG_BYTES_MAX: usize = 256 << 10;
const INFO_LOGS_MAX: usize = 2;
/// Bounds of one group commit.
const GROUP_JOBS_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 4 << 20;

struct Job {
    batch: Batch,
    sync: bool,
    done: Done,
}

/// RocksDB in one directory, one column family; a key begins with the tag of its space.
pub struct KvRocks {
    db: Arc<DB>,
    jobs: Mutex<Option<Sender<Job>>>,
    writer: Option<JoinHandle<()>>,
}

impl KvRocks {
    /// Opens or creates the database in `dir`. Blocks on the disk: call it before anything runs.
    ///
    /// A write-ahead log whose end was cut short by a crash is accepted: nothing of that end was
    /// ever reported as synced. Any other damage of it is [`Error::Corrupt`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.display().to_string();
        let error = |e: rocksdb::Error| match e.kind() {
            ErrorKind::Corruption => Error::Corrupt { what: path.clone(), reason: e.to_string() },
            _ => Error::Open { path: path.clone(), reason: e.to_string() },
        };
        wal_check::check_dir(dir)?;
        let db = Arc::new(DB::open(&options(), dir).map_err(error)?);
        let (jobs, queue) = channel();
        let writer = {
            let db = db.clone();
            std::thread::Builder::new()
                .name("raft-writer".to_owned())
                .spawn(move || write_loop(&db, &queue))
                .map_err(|e| Error::Open { path: path.clone(), reason: e.to_string() })?
        };
        Ok(Self { db, jobs: Mutex::new(Some(jobs)), writer: Some(writer) })
    }

    /// Writes the memtable out to a table file. For tests of damage to such files.
    pub fn flush(&self) -> Result<(), Error> {
        self.db.flush().map_err(|e| Error::Io(e.to_string()))
    }
}

impl Drop for KvRocks {
    /// Does what waits, then closes. Where a report of the writer itself held the last handle, the
    /// writer ends by itself.
    fn drop(&mut self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != std::thread::current().id()
        {
            // A panic of the writer was reported to every write that it left behind.
            let _ = writer.join();
        }
    }
}

fn options() -> Options {
    let mut o = Options::default();
    o.create_if_missing(true);
    // A torn record at the end of the log is what a power cut in the middle of a write leaves, and
    // a write that was not finished was not acknowledged. "Absolute consistency" would refuse to
    // start after every power cut; "point in time" (the default) would stop silently at a flipped
    // bit in the middle and drop acknowledged entries after it.
    o.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Recycled log files end in old records, which that mode cannot tell from damage.
    o.set_recycle_log_file_num(0);
    // The manifest then knows each closed log file and its size: a lost one stops the node.
    o.set_track_and_verify_wals_in_manifest(true);
    o.set_paranoid_checks(true);
    o.set_compression_type(DBCompressionType::None);
    o.set_write_buffer_size(WRITE_BUFFER_BYTES);
    o.set_max_write_buffer_number(2);
    o.set_target_file_size_base(4 << 20);
    o.set_max_open_files(OPEN_FILES_MAX);
    o.set_max_file_opening_threads(1);
    o.set_max_background_jobs(2);
    o.set_max_manifest_file_size(1 << 20);
    // One thread writes: nothing to share.
    o.set_allow_concurrent_memtable_write(false);
    // The info log is bounded, and says only what an operator may need.
    o.set_log_level(LogLevel::Warn);
    o.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    o.set_keep_log_file_num(INFO_LOGS_MAX);
    o.set_stats_dump_period_sec(0);
    o.set_stats_persist_period_sec(0);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    table.set_cache_index_and_filter_blocks(true);
    o.set_block_based_table_factory(&table);
    o
}

/// The writer. It ends when the last sender is gone and everything that waited is done.
fn write_loop(db: &DB, queue: &Receiver<Job>) {
    let mut failed: Option<Error> = None;
    while let Ok(first) = queue.recv() {
        let mut sync = first.sync;
        let mut group = WriteBatch::default();
        add(&mut group, &first.batch);
        let mut dones = vec![first.done];
        while dones.len() < GROUP_JOBS_MAX && group.size_in_bytes() < GROUP_BYTES_MAX {
            let Ok(job) = queue.try_recv() else { break };
            add(&mut group, &job.batch);
            sync |= job.sync;
            dones.push(job.done);
        }
        if failed.is_none() {
            let mut how = WriteOptions::default();
            how.set_sync(sync);
            failed = db.write_opt(group, &how).err().map(|e| read_error(&e));
        }
        // After a failure nobody knows what the disk holds: no later write may succeed.
        for done in dones {
            done(failed.clone().map_or(Ok(()), Err));
        }
    }
}

fn add(group: &mut WriteBatch, batch: &Batch) {
    for write in batch.writes() {
        match write {
            Write::Put(space, key, value) => group.put(full_key(*space, key), value),
            Write::Delete(space, key) => group.delete(full_key(*space, key)),
        }
    }
}

fn full_key(space: Space, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(space.tag());
    full.extend_from_slice(key);
    full
}

fn read_error(e: &rocksdb::Error) -> Error {
    match e.kind() {
        ErrorKind::Corruption => {
            Error::Corrupt { what: "database file".to_owned(), reason: e.to_string() }
        }
        _ => Error::Io(e.to_string()),
    }
}

fn read_options() -> ReadOptions {
    let mut how = ReadOptions::default();
    how.set_verify_checksums(true);
    how
}

/// The key under `cursor` without its tag, and the value. `None` where another space begins, or at
/// the end, or where the cursor hit damage: ask its status.
fn under<'a>(cursor: &'a DBRawIterator<'_>, space: Space) -> Option<(&'a [u8], &'a [u8])> {
    let (tag, key) = cursor.key()?.split_first()?;
    (*tag == space.tag()).then_some((key, cursor.value()?))
}

impl KvEngine for KvRocks {
    fn submit(&self, batch: Batch, sync: bool, done: Done) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let job = Job { batch, sync, done };
        let refused = match jobs.as_ref() {
            Some(jobs) => jobs.send(job).err().map(|e| e.0),
            None => Some(job),
        };
        drop(jobs);
        if let Some(job) = refused {
            (job.done)(Err(Error::Closed));
        }
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.db.get_opt(full_key(space, key), &read_options()).map_err(|e| read_error(&e))
    }

    fn range(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let mut cursor = self.db.raw_iterator_opt(read_options());
        cursor.seek(full_key(space, from));
        while let Some((key, value)) = under(&cursor, space) {
            if to.is_some_and(|to| key >= to) || visit(key, value).is_break() {
                return Ok(());
            }
            cursor.next();
        }
        cursor.status().map_err(|e| read_error(&e))
    }

    fn last(&self, space: Space) -> Result<Option<Pair>, Error> {
        let mut cursor = self.db.raw_iterator_opt(read_options());
        cursor.seek_for_prev([space.tag() + 1]);
        // The seek may have hit the first key of the next space itself.
        if cursor.key() == Some(&[space.tag() + 1]) {
            cursor.prev();
        }
        if let Some((key, value)) = under(&cursor, space) {
            return Ok(Some((key.to_vec(), value.to_vec())));
        }
        cursor.status().map_err(|e| read_error(&e))?;
        Ok(None)
    }
}
