//! Every rule of `health`, on a server that is played: each of its parts works, is slow, stands
//! still, or cannot be seen, and the agent asks and looks as in production.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::alarm::AlarmCode;
use super::health::{Activity, Answer, Health, Limits, Question, Verdict, Vitals};
use super::types::{BootTime, Lsn};

const STEP_MS: u64 = 250;
const ASK_EVERY_MS: u64 = 2_000;
const LOOK_EVERY_MS: u64 = 1_000;
const STILL_MS: u64 = 10_000;
/// From what happens to when it is first asked for, and seen; twice, since what is seen first is
/// what the next is compared with.
const SLACK_MS: u64 = ASK_EVERY_MS + 3 * LOOK_EVERY_MS + STEP_MS;

/// What a part of the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It answers at once.
    Works,
    /// It does something, and never gets as far as an answer.
    Slow,
    /// It is ready to run, and gets no processor.
    Starved,
    /// It was stopped.
    Stopped,
    /// It sleeps, and nothing wakes it up.
    Asleep,
    /// It waits for the disk, and wakes up from time to time for nothing.
    Throttled,
    /// It waits for the disk.
    Disk,
    /// It does not answer, and cannot be looked at.
    Hidden,
}

use Part::*;

#[derive(Debug, Clone)]
struct Server {
    postmaster: Part,
    newborns: Vec<Part>,
    held: Part,
    writer: Part,
    /// Whether the log on disk grows by what others write.
    log_grows: bool,
    /// Whether the disk finishes anything.
    disk_lives: bool,
    exhausted: bool,
    refuses: Option<Question>,
}

const HEALTHY: Server = Server {
    postmaster: Works,
    newborns: Vec::new(),
    held: Works,
    writer: Works,
    log_grows: false,
    disk_lives: false,
    exhausted: false,
    refuses: None,
};

/// The agent and its health check, on a clock of its own.
struct Bench {
    health: Health,
    now_ms: u64,
    ticks: u64,
    outstanding: BTreeMap<Question, u64>,
    due: BTreeMap<Question, u64>,
    looked_ms: u64,
    log: u64,
    raised: Vec<AlarmCode>,
    ever: Vec<AlarmCode>,
    ended: Option<(u64, Question)>,
}

impl Bench {
    fn new() -> Self {
        Self {
            health: Health::new(Limits::with(Duration::from_millis(STILL_MS))),
            now_ms: 1_000,
            ticks: 0,
            outstanding: BTreeMap::new(),
            due: BTreeMap::new(),
            looked_ms: 0,
            log: 0,
            raised: Vec::new(),
            ever: Vec::new(),
            ended: None,
        }
    }

    fn now(&self) -> BootTime {
        BootTime::from_nanos(self.now_ms * 1_000_000)
    }

    fn activity(&self, part: Part) -> Activity {
        let waits = |work, for_disk| Activity::Waits { work, for_disk };
        match part {
            Works | Slow => waits(self.ticks, false),
            Starved => Activity::Runnable,
            Stopped => Activity::Stopped,
            Asleep => waits(7, false),
            Throttled => waits(self.ticks, true),
            Disk => waits(7, true),
            Hidden => Activity::Unknown,
        }
    }

    /// Lets the server be like this for so long, or until it is given up.
    fn run(&mut self, server: &Server, ms: u64) -> &mut Self {
        let end = self.now_ms + ms;
        while self.now_ms < end && self.ended.is_none() {
            self.step(server);
        }
        self
    }

    fn step(&mut self, server: &Server) {
        self.now_ms += STEP_MS;
        self.ticks += 1;
        self.log += u64::from(server.log_grows);
        let now = self.now();
        for question in Question::ALL {
            let due = self.due.get(&question).is_none_or(|due| self.now_ms >= *due);
            if due && !self.outstanding.contains_key(&question) {
                self.health.asked(question, now);
                self.outstanding.insert(question, self.now_ms);
            }
            let Some(asked_ms) = self.outstanding.get(&question).copied() else { continue };
            let answer = self.answer(server, question);
            let answer = match answer {
                None if self.now_ms - asked_ms >= 15_000 => Some(Answer::TimedOut),
                other => other,
            };
            if let Some(answer) = answer {
                self.health.answered(question, &answer, now);
                self.outstanding.remove(&question);
                self.due.insert(question, self.now_ms + ASK_EVERY_MS);
            }
        }
        if self.health.is_waiting(Duration::from_secs(1), now)
            && self.now_ms >= self.looked_ms + LOOK_EVERY_MS
        {
            self.looked_ms = self.now_ms;
            let vitals = self.vitals(server);
            self.health.see(&vitals, now);
        }
        let (verdict, alarms) = self.health.judge(now);
        self.raised = alarms.iter().map(|a| a.code).collect();
        self.ever.extend(&self.raised);
        if let Verdict::GiveUp { rule, why } = verdict {
            assert!(why.len() > 20, "{why}");
            self.ended = Some((self.now_ms, rule));
        }
    }

    fn answer(&mut self, server: &Server, question: Question) -> Option<Answer> {
        if server.refuses == Some(question) {
            return Some(Answer::Refused("no".to_owned()));
        }
        let part = match question {
            Question::Held => server.held,
            Question::New if server.newborns.iter().any(|n| *n != Works) => return None,
            Question::New => server.postmaster,
            Question::Write => server.writer,
        };
        if part != Works {
            return None;
        }
        Some(match question {
            Question::New if server.exhausted => Answer::Exhausted,
            Question::Held => Answer::Ok { flushed: Some(Lsn(self.log)) },
            _ => Answer::Ok { flushed: None },
        })
    }

    fn vitals(&self, server: &Server) -> Vitals {
        Vitals {
            postmaster: self.activity(server.postmaster),
            newborns: server.newborns.iter().map(|n| self.activity(*n)).collect(),
            held: self.activity(server.held),
            writer: self.activity(server.writer),
            disk_writes: server.disk_lives.then_some(self.ticks),
        }
    }
}

const NEW: Question = Question::New;
const HELD: Question = Question::Held;
const WRITE: Question = Question::Write;

#[test]
fn every_rule() {
    let h = || HEALTHY.clone();
    let asleep_all =
        || Server { postmaster: Slow, newborns: vec![Asleep], held: Asleep, writer: Asleep, ..h() };
    // What the server does, by which rule it is given up and after how long at the earliest, and
    // the alarm that has to be there.
    type Case = (&'static str, Server, Option<(Question, u64)>, Option<AlarmCode>);
    let cases: Vec<Case> = vec![
        ("healthy", h(), None, None),
        (
            "the postmaster is stopped",
            Server { postmaster: Stopped, ..h() },
            Some((NEW, 10_000)),
            Some(AlarmCode::NewConnection),
        ),
        (
            "the postmaster sleeps for ever",
            Server { postmaster: Asleep, ..h() },
            Some((NEW, 10_000)),
            Some(AlarmCode::NewConnection),
        ),
        (
            "the postmaster waits for the disk",
            Server { postmaster: Disk, ..h() },
            Some((NEW, 10_000)),
            Some(AlarmCode::NewConnection),
        ),
        (
            "a stopped postmaster had started something before",
            Server { postmaster: Stopped, newborns: vec![Asleep], ..h() },
            Some((NEW, 10_000)),
            Some(AlarmCode::NewConnection),
        ),
        (
            "the postmaster cannot be seen",
            Server { postmaster: Hidden, ..h() },
            Some((NEW, 30_000)),
            Some(AlarmCode::NewConnection),
        ),
        (
            "the postmaster is slow",
            Server { postmaster: Slow, ..h() },
            None,
            Some(AlarmCode::NewConnection),
        ),
        (
            "the postmaster gets no processor",
            Server { postmaster: Starved, ..h() },
            None,
            Some(AlarmCode::NewConnection),
        ),
        (
            "a catalog is locked: backends start and wait",
            Server { postmaster: Asleep, newborns: vec![Asleep, Asleep], ..h() },
            None,
            Some(AlarmCode::NewConnection),
        ),
        (
            "backends start and wait for the disk",
            Server { postmaster: Asleep, newborns: vec![Disk, Disk], ..h() },
            Some((NEW, 10_000)),
            Some(AlarmCode::NewConnection),
        ),
        (
            "one backend is stopped: others answer",
            Server { held: Stopped, ..h() },
            None,
            Some(AlarmCode::HeldConnection),
        ),
        (
            "no backend goes on: a lock inside is lost",
            asleep_all(),
            Some((HELD, 10_000)),
            Some(AlarmCode::HeldConnection),
        ),
        (
            "every backend is slow",
            Server { postmaster: Slow, newborns: vec![Slow], held: Slow, writer: Slow, ..h() },
            None,
            Some(AlarmCode::HeldConnection),
        ),
        (
            "no processor for anybody",
            Server { postmaster: Starved, held: Starved, writer: Starved, ..h() },
            None,
            Some(AlarmCode::LocalWrite),
        ),
        (
            "the disk stands still",
            Server { writer: Disk, ..h() },
            Some((WRITE, 10_000)),
            Some(AlarmCode::LocalWrite),
        ),
        (
            "whoever flushes stands still, and who waits for it wakes up for nothing",
            Server { writer: Slow, ..h() },
            Some((WRITE, 10_000)),
            Some(AlarmCode::LocalWrite),
        ),
        (
            "the disk stands still, and its queue is full",
            Server { writer: Throttled, ..h() },
            Some((WRITE, 10_000)),
            Some(AlarmCode::LocalWrite),
        ),
        (
            "whoever flushes stands still",
            Server { writer: Asleep, ..h() },
            Some((WRITE, 10_000)),
            Some(AlarmCode::LocalWrite),
        ),
        (
            "the log grows, and our own write waits",
            Server { writer: Disk, log_grows: true, ..h() },
            None,
            Some(AlarmCode::LocalWrite),
        ),
        (
            "the log grows, and who writes for us is stopped",
            Server { writer: Stopped, log_grows: true, ..h() },
            None,
            Some(AlarmCode::LocalWrite),
        ),
        (
            "the log grows, and who writes for us cannot be seen",
            Server { writer: Hidden, log_grows: true, ..h() },
            None,
            Some(AlarmCode::LocalWrite),
        ),
        (
            "nothing is written, and who writes for us cannot be seen",
            Server { writer: Hidden, ..h() },
            Some((WRITE, 30_000)),
            Some(AlarmCode::LocalWrite),
        ),
        (
            "the disk writes something else all the time",
            Server { writer: Disk, disk_lives: true, ..h() },
            Some((WRITE, 30_000)),
            Some(AlarmCode::LocalWrite),
        ),
        (
            "connections are exhausted",
            Server { exhausted: true, ..h() },
            None,
            Some(AlarmCode::ConnectionsExhausted),
        ),
        (
            "new connections are refused",
            Server { refuses: Some(NEW), ..h() },
            None,
            Some(AlarmCode::NewConnection),
        ),
        (
            "writes are refused",
            Server { refuses: Some(WRITE), ..h() },
            None,
            Some(AlarmCode::LocalWrite),
        ),
    ];
    for (what, server, expected, alarm) in cases {
        let mut bench = Bench::new();
        bench.run(&HEALTHY, 7_000);
        assert_eq!((bench.ended, &bench.ever), (None, &Vec::new()), "{what}");
        let begun = bench.now_ms;
        bench.run(&server, 90_000);
        let (rule, after) = match bench.ended {
            Some((at, rule)) => (Some(rule), at - begun),
            None => (None, 0),
        };
        assert_eq!(rule, expected.map(|e| e.0), "{what}, after {after} ms");
        if let Some((_, earliest)) = expected {
            assert!((earliest..=earliest + SLACK_MS).contains(&after), "{what}: {after} ms");
        }
        if let Some(alarm) = alarm {
            assert!(bench.raised.contains(&alarm), "{what}: {:?}", bench.raised);
        } else {
            assert_eq!(bench.ever, [], "{what}");
        }
        if bench.ended.is_none() {
            bench.run(&HEALTHY, 10_000);
            assert_eq!((bench.ended, &bench.raised), (None, &Vec::new()), "{what}: it is over");
        }
    }
}

#[test]
fn an_agent_that_stood_still_blames_nobody() {
    let mut bench = Bench::new();
    bench.run(&HEALTHY, 5_000);
    let stopped = Server { postmaster: Stopped, ..HEALTHY };
    bench.run(&stopped, 8_000);
    // It was suspended with everything else.
    bench.now_ms += 600_000;
    bench.run(&stopped, STEP_MS);
    assert_eq!(bench.ended, None);
    bench.run(&HEALTHY, 10_000);
    assert_eq!((bench.ended, &bench.raised), (None, &Vec::new()));
}

#[test]
fn the_checkpointer_raises_an_alarm_and_no_more() {
    let waits = |work, for_disk| Activity::Waits { work, for_disk };
    type Case = (&'static str, fn(u64) -> Activity, bool, bool);
    let moving = |t| Activity::Waits { work: t, for_disk: true };
    let cases: Vec<Case> = vec![
        ("stopped", |_| Activity::Stopped, false, true),
        (
            "on the disk, without progress",
            |_| Activity::Waits { work: 1, for_disk: true },
            false,
            true,
        ),
        ("on the disk, with progress", moving, true, false),
        ("idle", |_| Activity::Waits { work: 1, for_disk: false }, false, false),
        ("idle and overdue", |_| Activity::Waits { work: 1, for_disk: false }, true, true),
        ("busy and overdue", |t| Activity::Waits { work: t, for_disk: false }, true, false),
        ("without a processor", |_| Activity::Runnable, true, false),
        ("not to be seen", |_| Activity::Unknown, true, false),
    ];
    for (what, activity, overdue, alarm) in cases {
        let mut health = Health::new(Limits::with(Duration::from_secs(10)));
        let at = |s: u64| BootTime::from_nanos(s * 1_000_000_000);
        for s in (0..60).step_by(2) {
            health.see_checkpointer(activity(s), overdue, at(s));
            let (verdict, alarms) = health.judge(at(s));
            assert!(!matches!(verdict, Verdict::GiveUp { .. }), "{what}");
            let raised = alarms.iter().any(|a| a.code == AlarmCode::Checkpointer);
            assert_eq!(raised, alarm && s >= 30, "{what} after {s} s");
        }
        health.see_checkpointer(waits(99, false), false, at(61));
        assert_eq!(health.judge(at(70)), (Verdict::Healthy, vec![]), "{what}: it is over");
    }
}

fn any_part() -> impl Strategy<Value = Part> {
    prop_oneof![
        Just(Works),
        Just(Slow),
        Just(Starved),
        Just(Stopped),
        Just(Asleep),
        Just(Throttled),
        Just(Disk),
        Just(Hidden)
    ]
}

fn any_server() -> impl Strategy<Value = Server> {
    let newborns = proptest::collection::vec(any_part(), 0..3);
    (any_part(), newborns, any_part(), any_part(), any::<(bool, bool, bool)>()).prop_map(
        |(postmaster, newborns, held, writer, (log_grows, disk_lives, exhausted))| Server {
            postmaster,
            newborns,
            held,
            writer,
            log_grows,
            disk_lives,
            exhausted,
            refuses: None,
        },
    )
}

proptest! {
    /// Whatever happens in between: a server that does something in every interval is kept.
    #[test]
    fn progress_in_every_interval_is_enough(
        phases in proptest::collection::vec((any_server(), 250u64..7_000, any::<bool>()), 1..20)
    ) {
        let mut bench = Bench::new();
        for (server, ms, starved) in phases {
            bench.run(&server, ms);
            // Every part moves for long enough to be looked at twice. A write moves where the log
            // does, and that is heard on the held connection.
            let (part, held) = if starved { (Starved, Starved) } else { (Slow, Works) };
            let moving = Server {
                postmaster: part, newborns: vec![], held, writer: part, log_grows: true, ..server
            };
            bench.run(&moving, 2 * LOOK_EVERY_MS + STEP_MS);
            prop_assert_eq!(bench.ended, None);
        }
    }

    /// Whatever came before: what stands still for good is given up in time.
    #[test]
    fn what_stands_still_is_given_up(
        before in any_server(), ms in 0u64..9_000, part in 0usize..3, how in 0usize..2
    ) {
        let mut bench = Bench::new();
        bench.run(&before, ms);
        prop_assume!(bench.ended.is_none());
        let begun = bench.now_ms;
        let server = match (part, how) {
            (0, 0) => Server { postmaster: Stopped, ..HEALTHY },
            (0, _) => Server { postmaster: Disk, ..HEALTHY },
            (1, 0) => Server { writer: Disk, ..HEALTHY },
            (1, _) => Server { writer: Throttled, ..HEALTHY },
            // Everything at once.
            (_, 0) => Server { postmaster: Stopped, held: Stopped, writer: Stopped, ..HEALTHY },
            (_, _) => Server { postmaster: Asleep, held: Asleep, writer: Asleep, ..HEALTHY },
        };
        bench.run(&server, 60_000);
        let after = bench.ended.map(|(at, _)| at - begun);
        prop_assert!(after.is_some_and(|ms| ms <= STILL_MS + SLACK_MS), "{:?} {:?}", after, server);
    }
}
