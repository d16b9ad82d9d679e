//! The network: what production code and the modelled PostgreSQL may rely on, and what not.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use openraft_rt::AsyncRuntime;
use quorate_world::exec::{self, MachineId, ScopeId, SimRuntime, World};
use quorate_world::net::{self, Connection, Failure, Handler, Quality, Refused, StreamEnd};

const SECOND: u64 = 1_000_000_000;
const PORT: net::Port = 5;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Two machines with a process each.
struct Two {
    world: World,
    a: MachineId,
    b: MachineId,
    client: ScopeId,
    server: ScopeId,
}

fn two(seed: u64) -> Two {
    let world = World::new(seed);
    let (a, b) = (world.machine("a", 0), world.machine("b", 0));
    let (client, server) = (world.scope(a, "client"), world.scope(b, "server"));
    Two { world, a, b, client, server }
}

impl Two {
    /// A call from the client, with how long it took in microseconds.
    fn call(&self, deadline: Duration) -> (Result<Vec<u8>, Failure>, u64) {
        let b = self.b;
        let task = self.world.spawn(self.client, async move {
            let before = exec::now();
            let outcome = net::call(b, PORT, b"ping".to_vec(), deadline).await;
            (outcome, (exec::now() - before) / 1000)
        });
        self.world.block_on(task).unwrap()
    }

    /// A connection between the two, by the client.
    fn connected(&self) -> (Connection, Connection) {
        let mut incoming = net::listen(self.server, PORT);
        let b = self.b;
        let dial = async move { net::connect(b, PORT, ms(1000)).await };
        let ours = self.world.spawn(self.client, dial);
        let theirs = self.world.block_on(async { incoming.recv().await.unwrap().connection });
        (self.world.block_on(ours).unwrap().unwrap(), theirs)
    }

    fn run_for(&self, time: Duration) {
        let until = exec::now() + time.as_nanos() as u64;
        assert!(self.world.run_until(until, &mut || true));
    }
}

/// Answers with the request, after a while, and counts begun and finished requests.
fn echo(after: Duration, begun: &Arc<AtomicU32>, finished: &Arc<AtomicU32>) -> Handler {
    let (begun, finished) = (begun.clone(), finished.clone());
    Arc::new(move |_, request| {
        let (begun, finished) = (begun.clone(), finished.clone());
        Box::pin(async move {
            begun.fetch_add(1, Ordering::Relaxed);
            SimRuntime::sleep(after).await;
            finished.fetch_add(1, Ordering::Relaxed);
            Some(request)
        })
    })
}

fn count() -> Arc<AtomicU32> {
    Arc::default()
}

fn seen(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::Relaxed)
}

#[test]
fn a_call_is_answered_by_the_scope_that_serves() {
    let t = two(1);
    let scopes = Rc::new(RefCell::new(Vec::new()));
    let (sender, told) = std::sync::mpsc::channel();
    net::serve(
        t.server,
        PORT,
        Arc::new(move |from, request| {
            sender.send((from, exec::current_scope())).unwrap();
            Box::pin(async move { Some([request, b"!".to_vec()].concat()) })
        }),
    );
    let (outcome, micros) = t.call(ms(100));
    assert_eq!(outcome, Ok(b"ping!".to_vec()));
    assert!((200..20_000).contains(&micros), "{micros}");
    scopes.borrow_mut().extend(told.try_iter());
    assert_eq!(*scopes.borrow(), [(t.a, t.server)]);
}

#[test]
fn nobody_there_is_told_at_once_and_silence_takes_the_deadline() {
    let t = two(2);
    let (refused, micros) = t.call(ms(100));
    assert_eq!(refused, Err(Failure::Refused));
    assert!(micros < 20_000);

    let (begun, finished) = (count(), count());
    net::serve(t.server, PORT, echo(ms(0), &begun, &finished));
    net::cut(t.a, t.b, true);
    assert_eq!(t.call(ms(100)), (Err(Failure::TimedOut), 100_000));
    assert_eq!(seen(&begun), 0);
    net::cut(t.a, t.b, false);
    // One way only: carried out, and not answered.
    net::cut(t.b, t.a, true);
    assert_eq!(t.call(ms(100)), (Err(Failure::TimedOut), 100_000));
    assert_eq!(seen(&finished), 1);
    net::cut(t.b, t.a, false);
    net::set_off(t.b, true);
    assert_eq!(t.call(ms(100)), (Err(Failure::TimedOut), 100_000));
    net::set_off(t.b, false);
    // Stopped: the kernel takes it, nobody answers, and it is carried out in the end.
    exec::pause(t.server);
    net::set_cancelling(false);
    assert_eq!(t.call(ms(100)), (Err(Failure::TimedOut), 100_000));
    assert_eq!(seen(&finished), 1);
    exec::resume(t.server);
    t.run_for(ms(10));
    assert_eq!(seen(&finished), 2);
    exec::kill(t.server);
    assert_eq!(t.call(ms(100)).0, Err(Failure::Refused));
    assert_eq!(seen(&begun), 2);
}

#[test]
fn the_end_of_a_process_resets_its_calls_and_that_of_a_machine_does_not() {
    for crash in [false, true] {
        let t = two(3);
        let (begun, finished) = (count(), count());
        net::serve(t.server, PORT, echo(ms(1000), &begun, &finished));
        let (server, b) = (t.server, t.b);
        exec::at(SECOND / 10, move || if crash { exec::crash(b) } else { exec::kill(server) });
        let (outcome, micros) = t.call(ms(500));
        if crash {
            assert_eq!((outcome, micros), (Err(Failure::TimedOut), 500_000));
        } else {
            assert_eq!(outcome, Err(Failure::Refused));
            assert!((100_000..120_000).contains(&micros), "{micros}");
        }
        t.run_for(ms(2000));
        assert_eq!((seen(&begun), seen(&finished)), (1, 0));
    }
}

#[test]
fn what_a_handler_holds_goes_with_its_process() {
    let t = two(4);
    let held = count();
    net::serve(t.server, PORT, echo(ms(1), &held, &count()));
    assert_eq!(Arc::strong_count(&held), 2);
    exec::kill(t.server);
    assert_eq!(Arc::strong_count(&held), 1);
    // The next life serves at the same port; the end of the one before took nothing from it.
    let next = t.world.scope(t.b, "server");
    net::serve(next, PORT, echo(ms(1), &held, &count()));
    assert!(t.call(ms(100)).0.is_ok());
}

#[test]
fn a_caller_that_gives_up_takes_its_handlers_along_unless_told_otherwise() {
    for cancelling in [true, false] {
        let t = two(5);
        net::set_cancelling(cancelling);
        let (begun, finished) = (count(), count());
        net::serve(t.server, PORT, echo(ms(300), &begun, &finished));
        assert_eq!(t.call(ms(100)).0, Err(Failure::TimedOut));
        t.run_for(ms(1000));
        assert_eq!((seen(&begun), seen(&finished)), (1, u32::from(!cancelling)));
        // A cut hides it from them.
        let (a, b) = (t.a, t.b);
        exec::at(exec::now() + SECOND / 20, move || net::cut(a, b, true));
        assert_eq!(t.call(ms(100)).0, Err(Failure::TimedOut));
        t.run_for(ms(1000));
        assert_eq!((seen(&begun), seen(&finished)), (2, 1 + u32::from(!cancelling)));
    }
}

#[test]
fn loss_duplication_and_delay_happen_as_often_as_they_should() {
    let t = two(6);
    let quality = Quality {
        loss_ppm: 200_000,
        duplicate_ppm: 100_000,
        late_ppm: 100_000,
        late_us: 1_000_000,
        ..Quality::default()
    };
    net::set_quality(t.a, t.b, Some(quality));
    let (delays, order) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(Vec::new())));
    for n in 0..10_000_u32 {
        let (delays, order, sent) = (delays.clone(), order.clone(), exec::now());
        net::send(t.a, t.b, PORT, n.to_le_bytes().to_vec(), move |bytes| {
            delays.borrow_mut().push(exec::now() - sent);
            order.borrow_mut().push(u32::from_le_bytes(bytes.try_into().unwrap()));
        });
        t.run_for(Duration::from_micros(100));
    }
    t.run_for(ms(2000));
    let order = order.borrow();
    let mut distinct = order.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!((7_800..8_200).contains(&distinct.len()), "{} of 10000 arrived", distinct.len());
    // A copy may be lost as well.
    let twice = order.len() - distinct.len();
    assert!((520..760).contains(&twice), "{twice} arrived twice");
    assert!(order.windows(2).any(|pair| pair[0] > pair[1]), "none overtook another");
    let late = delays.borrow().iter().filter(|delay| **delay > 500_000).count();
    assert!((600..1_100).contains(&late), "{late} were late");
    assert!(delays.borrow().iter().all(|d| (100_000..=1_000_400_000).contains(d)));
    assert_eq!(net::counts().0, 10_000);
}

#[test]
fn a_request_that_arrives_twice_is_carried_out_twice_and_answered_once() {
    let t = two(7);
    net::set_usual(Quality { duplicate_ppm: 1_000_000, ..Quality::default() });
    let (begun, finished) = (count(), count());
    net::serve(t.server, PORT, echo(ms(1), &begun, &finished));
    assert!(t.call(ms(100)).0.is_ok());
    t.run_for(ms(100));
    assert_eq!((seen(&begun), seen(&finished)), (2, 2));
}

#[test]
fn lanes_are_cut_alone_and_cuts_are_counted() {
    let t = two(8);
    net::set_lane(PORT, 3);
    net::serve(t.server, PORT, echo(ms(0), &count(), &count()));
    net::serve(t.server, PORT + 1, echo(ms(0), &count(), &count()));
    net::cut_lane(t.a, t.b, 3, true);
    net::cut_lane(t.a, t.b, 3, true);
    net::cut_lane(t.a, t.b, 3, false);
    assert!(!net::is_cut(t.a, t.b));
    assert_eq!(t.call(ms(50)).0, Err(Failure::TimedOut));
    let b = t.b;
    let other =
        t.world.spawn(t.client, async move { net::call(b, PORT + 1, vec![], ms(50)).await });
    assert_eq!(t.world.block_on(other).unwrap(), Ok(vec![]));
    net::cut_lane(t.a, t.b, 3, false);
    assert!(t.call(ms(50)).0.is_ok());
    net::cut(t.a, t.b, true);
    net::mend_all();
    assert!(t.call(ms(50)).0.is_ok());
}

/// One link's draws do not shift another's.
#[test]
fn links_draw_for_themselves() {
    let arrivals = |other: bool| {
        let t = two(9);
        let c = t.world.machine("c", 0);
        let times = Rc::new(RefCell::new(Vec::new()));
        for _ in 0..50 {
            let times = times.clone();
            net::send(t.a, t.b, PORT, vec![], move |_| times.borrow_mut().push(exec::now()));
            if other {
                net::send(t.a, c, PORT, vec![], |_| {});
                net::send(t.b, t.a, PORT, vec![], |_| {});
            }
        }
        t.run_for(ms(100));
        times.take()
    };
    assert_eq!(arrivals(false), arrivals(true));
}

#[test]
fn a_stream_keeps_order_and_loses_nothing() {
    let t = two(10);
    net::set_usual(Quality { loss_ppm: 200_000, jitter_us: 5_000, ..Quality::default() });
    let mut incoming = net::listen(t.server, PORT);
    let reader = t.world.spawn(t.server, async move {
        let connection = incoming.recv().await.unwrap().connection;
        let mut read = Vec::new();
        loop {
            match connection.receive().await {
                Ok(message) => read.push(u32::from_le_bytes(message.try_into().unwrap())),
                Err(why) => return (read, why),
            }
        }
    });
    let b = t.b;
    let writer = t.world.spawn(t.client, async move {
        let connection = net::connect(b, PORT, ms(5000)).await.unwrap();
        for n in 0..1_000_u32 {
            connection.send(n.to_le_bytes().to_vec()).unwrap();
            SimRuntime::sleep(ms(1)).await;
        }
    });
    t.world.block_on(writer).unwrap();
    let (read, why) = t.world.block_on(reader).unwrap();
    assert_eq!(read, (0..1_000).collect::<Vec<_>>());
    assert_eq!(why, StreamEnd::Closed);
}

#[test]
fn a_stream_stalls_while_it_is_cut_and_breaks_after_long() {
    let t = two(11);
    let (ours, theirs) = t.connected();
    net::cut(t.a, t.b, true);
    ours.send(b"late".to_vec()).unwrap();
    t.run_for(ms(5_000));
    assert_eq!(theirs.unread_bytes() + ours.unread_bytes(), 4);
    net::cut(t.a, t.b, false);
    assert_eq!(t.world.block_on(theirs.receive()), Ok(b"late".to_vec()));

    // Only the way back: it arrives, and the sender does not know.
    net::cut(t.b, t.a, true);
    ours.send(b"heard".to_vec()).unwrap();
    assert_eq!(t.world.block_on(theirs.receive()), Ok(b"heard".to_vec()));
    let since = exec::now();
    assert_eq!(t.world.block_on(ours.receive()), Err(StreamEnd::TimedOut));
    let waited = Duration::from_nanos(exec::now() - since);
    assert!(waited >= net::GIVE_UP && waited < net::GIVE_UP + ms(10_000), "{waited:?}");
    assert_eq!(ours.send(vec![]), Err(StreamEnd::TimedOut));
    // Who only waits learns nothing, however long.
    t.run_for(ms(600_000));
    assert!(!theirs.is_closed());
    net::cut(t.b, t.a, false);
    theirs.send(b"anybody?".to_vec()).unwrap();
    assert_eq!(t.world.block_on(theirs.receive()), Err(StreamEnd::Reset));
}

#[test]
fn the_end_of_a_process_is_told_behind_what_it_sent() {
    let t = two(12);
    let (ours, theirs) = t.connected();
    let from = Rc::new(Cell::new(Some(ours)));
    let held = from.take().unwrap();
    let task = t.world.spawn(t.client, async move {
        held.send(b"last words".to_vec()).unwrap();
        exec::kill(exec::current_scope());
        std::future::pending::<()>().await;
    });
    assert!(t.world.block_on(task).is_err());
    assert_eq!(t.world.block_on(theirs.receive()), Ok(b"last words".to_vec()));
    assert_eq!(t.world.block_on(theirs.receive()), Err(StreamEnd::Closed));
    // What is sent to it is taken, and answered with a reset.
    theirs.send(b"hello?".to_vec()).unwrap();
    t.run_for(ms(100));
    assert_eq!(theirs.send(vec![]), Err(StreamEnd::Reset));
}

#[test]
fn a_process_that_dies_with_something_unread_resets() {
    let t = two(13);
    let (ours, theirs) = t.connected();
    theirs.send(b"unread".to_vec()).unwrap();
    t.run_for(ms(100));
    drop(ours);
    assert_eq!(t.world.block_on(theirs.receive()), Err(StreamEnd::Reset));
}

/// What a machine had not delivered when its power failed never arrives, whatever is mended later.
#[test]
fn a_machine_without_power_delivers_nothing_more() {
    let t = two(14);
    let (ours, theirs) = t.connected();
    let held = t.world.spawn(t.client, async move {
        ours.send(b"a write".to_vec()).unwrap();
        std::future::pending::<()>().await;
    });
    net::cut(t.a, t.b, true);
    t.run_for(ms(1_000));
    net::set_off(t.a, true);
    exec::crash(t.a);
    assert!(t.world.block_on(held).is_err());
    net::cut(t.a, t.b, false);
    t.run_for(ms(60_000));
    assert!(!theirs.is_closed(), "nobody told it");
    // It boots, and does not know the connection any more.
    net::set_off(t.a, false);
    t.run_for(ms(60_000));
    assert!(!theirs.is_closed(), "it has not asked");
    theirs.send(b"still there?".to_vec()).unwrap();
    assert_eq!(t.world.block_on(theirs.receive()), Err(StreamEnd::Reset));
}

/// What was on the wire when the power failed does.
#[test]
fn what_is_on_the_wire_arrives() {
    let t = two(15);
    let (ours, theirs) = t.connected();
    let _held = t.world.spawn(t.client, async move {
        ours.send(b"a write".to_vec()).unwrap();
        std::future::pending::<()>().await;
    });
    t.run_for(Duration::from_micros(50));
    exec::crash(t.a);
    assert_eq!(t.world.block_on(theirs.receive()), Ok(b"a write".to_vec()));
}

#[test]
fn a_slow_reader_holds_up_who_waits_for_room() {
    let t = two(16);
    let (ours, theirs) = t.connected();
    let sent = Rc::new(Cell::new(0));
    let counter = sent.clone();
    let _writer = t.world.spawn(t.client, async move {
        loop {
            ours.room().await.unwrap();
            ours.send(vec![0; 64 * 1024]).unwrap();
            counter.set(counter.get() + 1);
        }
    });
    t.run_for(ms(1_000));
    assert_eq!(sent.get(), 4);
    for _ in 0..3 {
        t.world.block_on(theirs.receive()).unwrap();
    }
    t.run_for(ms(1_000));
    assert_eq!(sent.get(), 7);
}

#[test]
fn connecting_is_refused_or_takes_its_patience() {
    let t = two(17);
    let b = t.b;
    let dial = |patience| {
        t.world.spawn(t.client, async move {
            let outcome = net::connect(b, PORT, patience).await;
            (outcome.map(|c| c.peer()), exec::now())
        })
    };
    let (outcome, at) = t.world.block_on(dial(ms(1_000))).unwrap();
    assert_eq!(outcome, Err(Refused::Nobody));
    assert!(at < SECOND / 10);
    net::cut(t.b, t.a, true);
    let (outcome, at) = t.world.block_on(dial(ms(1_000))).unwrap();
    assert_eq!(outcome, Err(Refused::TimedOut));
    assert!(at > SECOND);
    net::cut(t.b, t.a, false);
    // A kernel takes connections for a process that is stopped, and not for one that is gone.
    let _incoming = net::listen(t.server, PORT);
    exec::pause(t.server);
    assert_eq!(t.world.block_on(dial(ms(1_000))).unwrap().0, Ok(t.b));
    exec::kill(t.server);
    assert_eq!(t.world.block_on(dial(ms(1_000))).unwrap().0, Err(Refused::Nobody));
}

#[test]
fn a_suspended_machine_acknowledges_nothing() {
    let t = two(18);
    let (ours, theirs) = t.connected();
    exec::suspend(t.b, true);
    ours.send(b"wake up".to_vec()).unwrap();
    t.run_for(ms(10_000));
    exec::suspend(t.b, false);
    assert_eq!(t.world.block_on(theirs.receive()), Ok(b"wake up".to_vec()));
    exec::suspend(t.b, true);
    ours.send(b"wake up".to_vec()).unwrap();
    t.run_for(ms(60_000));
    assert_eq!(ours.send(vec![]), Err(StreamEnd::TimedOut));
    exec::suspend(t.b, false);
}
