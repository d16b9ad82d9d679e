//! One suite for every key-value engine.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::kv::{Batch, Error, KvEngine, Space};
use super::kv_mem::KvMem;
use super::kv_rocks::KvRocks;

const WAIT_MAX: Duration = Duration::from_secs(30);

fn submit(engine: &dyn KvEngine, batch: Batch, sync: bool) -> Receiver<Result<(), Error>> {
    let (tx, rx) = channel();
    engine.submit(batch, sync, Box::new(move |result| tx.send(result).unwrap()));
    rx
}

fn write(engine: &dyn KvEngine, batch: Batch) {
    submit(engine, batch, true).recv_timeout(WAIT_MAX).unwrap().unwrap();
}

fn keys(engine: &dyn KvEngine, space: Space, from: &[u8], to: Option<&[u8]>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        found.push(key.to_vec());
        ControlFlow::Continue(())
    };
    engine.range(space, from, to, &mut visit).unwrap();
    found
}

fn suite(engine: &dyn KvEngine) {
    for space in [Space::Meta, Space::Log, Space::State] {
        assert_eq!(engine.get(space, b"a").unwrap(), None);
        assert_eq!(engine.last(space).unwrap(), None);
        assert!(keys(engine, space, &[], None).is_empty());
    }
    let mut batch = Batch::new();
    batch.put(Space::Log, *b"b", b"2".to_vec());
    batch.put(Space::Log, *b"a", b"1".to_vec());
    batch.put(Space::Meta, *b"a", b"meta".to_vec());
    batch.put(Space::State, Vec::new(), b"empty key".to_vec());
    batch.put(Space::Log, *b"c", b"3".to_vec());
    batch.delete(Space::Log, *b"c");
    batch.delete(Space::Log, *b"never");
    write(engine, batch);
    assert_eq!(engine.get(Space::Log, b"a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(engine.get(Space::Meta, b"a").unwrap(), Some(b"meta".to_vec()));
    assert_eq!(engine.get(Space::State, b"a").unwrap(), None);
    assert_eq!(engine.get(Space::Log, b"c").unwrap(), None);
    assert_eq!(keys(engine, Space::Log, &[], None), [b"a", b"b"]);
    assert_eq!(keys(engine, Space::Log, b"b", None), [b"b"]);
    assert_eq!(keys(engine, Space::Log, &[], Some(b"b")), [b"a"]);
    assert!(keys(engine, Space::Log, b"b", Some(b"a")).is_empty());
    assert_eq!(engine.last(Space::Log).unwrap(), Some((b"b".to_vec(), b"2".to_vec())));
    assert_eq!(engine.last(Space::Meta).unwrap(), Some((b"a".to_vec(), b"meta".to_vec())));
    assert_eq!(engine.last(Space::State).unwrap(), Some((vec![], b"empty key".to_vec())));
    let mut seen = 0;
    let mut stop = |_: &[u8], _: &[u8]| {
        seen += 1;
        ControlFlow::Break(())
    };
    engine.range(Space::Log, &[], None, &mut stop).unwrap();
    assert_eq!(seen, 1);

    // Later wins, and reports come in order.
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut last = None;
    for i in 0_u8..100 {
        let mut batch = Batch::new();
        batch.put(Space::Meta, *b"n", vec![i]);
        let (order, (tx, rx)) = (order.clone(), channel());
        let done = move |result: Result<(), Error>| {
            order.lock().unwrap().push(i);
            let _ = tx.send(result);
        };
        engine.submit(batch, i % 3 == 0, Box::new(done));
        last = Some(rx);
    }
    last.unwrap().recv_timeout(WAIT_MAX).unwrap().unwrap();
    assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    assert_eq!(engine.get(Space::Meta, b"n").unwrap(), Some(vec![99]));
    let big = vec![7; 3 << 20];
    let mut batch = Batch::new();
    batch.put(Space::State, *b"big", big.clone());
    write(engine, batch);
    assert_eq!(engine.get(Space::State, b"big").unwrap(), Some(big));
}

#[test]
fn memory() {
    suite(&KvMem::new());
}

#[test]
fn rocks_and_what_it_keeps() {
    let dir = tempfile::tempdir().unwrap();
    let engine = KvRocks::open(dir.path()).unwrap();
    suite(&engine);
    drop(engine);
    let engine = KvRocks::open(dir.path()).unwrap();
    assert_eq!(engine.get(Space::Log, b"a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(engine.get(Space::Meta, b"n").unwrap(), Some(vec![99]));
    assert_eq!(keys(&engine, Space::Log, &[], None), [b"a", b"b"]);
    let second = KvRocks::open(dir.path());
    assert!(matches!(second.err(), Some(Error::Open { .. })), "two processes on one store");
}

#[test]
fn a_crash_in_memory_keeps_a_prefix() {
    let put = |n: u8| {
        let mut batch = Batch::new();
        batch.put(Space::Meta, [n], vec![n]);
        batch
    };
    for keep in 0..=4 {
        let engine = KvMem::queued(|| {});
        let mut reports = Vec::new();
        for n in 0..6 {
            reports.push(submit(&engine, put(n), n == 1));
        }
        assert_eq!(engine.get(Space::Meta, &[0]).unwrap(), None, "nothing happens before a step");
        for _ in 0..3 {
            assert!(engine.step());
        }
        assert_eq!((engine.waiting(), engine.losable()), (3, 4));
        assert!(reports[2].try_recv().unwrap().is_ok());
        assert!(reports[3].try_recv().is_err());
        let after = engine.crash(keep);
        assert_eq!(keys(&after, Space::Meta, &[], None).len(), 2 + keep);
    }
}

#[test]
fn after_a_failure_nothing_succeeds() {
    let engine = KvMem::new();
    engine.fail(Error::Io("no space".to_owned()));
    let report = submit(&engine, Batch::new(), true).recv_timeout(WAIT_MAX).unwrap();
    assert_eq!(report, Err(Error::Io("no space".to_owned())));
}
