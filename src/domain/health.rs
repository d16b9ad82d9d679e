//! Whether a running PostgreSQL still does its work: hung is not healthy, and busy is not hung.
//!
//! Pure: the agent asks the questions, reads the clock and looks at the processes. Each question
//! needs something else to be answered: a held connection its backend, a new one the postmaster, a
//! write the disk. One that is late raises an alarm. It counts towards giving the server up only
//! while what it needs makes no progress at all: a server or a machine that is slow goes on, and a
//! process that is stopped, or waits for a disk that does not answer, does nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::alarm::{Alarm, AlarmCode};
use super::types::{BootTime, Lsn};

/// What is asked of the server, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// On a connection that is kept open.
    Held,
    /// On a new connection.
    New,
    /// A small record, flushed here. Of a primary only.
    Write,
}

impl Question {
    /// All of them.
    pub const ALL: [Question; 3] = [Question::Held, Question::New, Question::Write];

    /// The alarm that says that it is late.
    pub fn alarm(self) -> AlarmCode {
        match self {
            Question::Held => AlarmCode::HeldConnection,
            Question::New => AlarmCode::NewConnection,
            Question::Write => AlarmCode::LocalWrite,
        }
    }
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// As it should be. `flushed` is the end of the WAL on disk, where that was asked.
    Ok {
        /// The end of the WAL that is flushed.
        flushed: Option<Lsn>,
    },
    /// The server answers; ordinary clients get no connection.
    Exhausted,
    /// Nothing came, and nobody waits for it any more.
    TimedOut,
    /// Something said no: that is an answer, and no hang.
    Refused(String),
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It cannot be looked at.
    Unknown,
    /// It is not there any more.
    Gone,
    /// Somebody has stopped it: it does nothing until it is told to go on.
    Stopped,
    /// It runs, or would if it got a processor.
    Runnable,
    /// It waits. `work` grows whenever it has run in between.
    Waits {
        /// How much it has done.
        work: u64,
        /// Whether it waits for a disk, and cannot even be killed.
        for_disk: bool,
    },
}

/// What the questions need, at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vitals {
    /// The postmaster.
    pub postmaster: Activity,
    /// What it has started since the new connection was asked for, and is still there.
    pub newborns: Vec<Activity>,
    /// The backend of the held connection.
    pub held: Activity,
    /// The backend of the writing connection.
    pub writer: Activity,
    /// How many writes the disk of the WAL has finished since the machine booted.
    pub disk_writes: Option<u64>,
}

impl Vitals {
    /// Where nothing can be looked at.
    pub const UNKNOWN: Vitals = Vitals {
        postmaster: Activity::Unknown,
        newborns: Vec::new(),
        held: Activity::Unknown,
        writer: Activity::Unknown,
        disk_writes: None,
    };
}

/// The times that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// An answer that takes longer is late: an alarm.
    pub late: Duration,
    /// So long may what a late answer needs be seen to do nothing.
    pub still: Duration,
    /// So long may an answer be missing with no sign of progress, where that cannot be seen well.
    pub unseen: Duration,
    /// So long may the checkpointer be stuck without an alarm.
    pub checkpointer: Duration,
    /// An alarm goes out this long after its reason.
    pub calm: Duration,
    /// Who has looked away for longer than this has seen nobody do nothing in between.
    pub gap: Duration,
}

impl Limits {
    /// The usual ones, with the time after which what does nothing is given up.
    pub fn with(still: Duration) -> Self {
        Self {
            late: Duration::from_secs(3),
            still,
            unseen: still * 3,
            checkpointer: Duration::from_secs(30),
            calm: Duration::from_secs(5),
            gap: Duration::from_secs(4),
        }
    }
}

/// What follows from all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every answer comes.
    Healthy,
    /// Some do not, and it is not given up for that.
    Degraded,
    /// It hangs.
    GiveUp {
        /// By which rule.
        rule: Question,
        /// What was seen, for a person.
        why: String,
    },
}

/// Everything that [`Health`] may raise an alarm about.
pub const HEALTH_ALARMS: &[AlarmCode] = &[
    AlarmCode::HeldConnection,
    AlarmCode::NewConnection,
    AlarmCode::LocalWrite,
    AlarmCode::Checkpointer,
    AlarmCode::ConnectionsExhausted,
];

/// What was seen of what an answer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// It does something.
    Moves,
    /// Nothing is known of it.
    Unclear,
    /// It does nothing as long as this stays the same.
    At(Mark),
}

/// Two equal ones mean that nothing was done in between.
type Mark = (u64, u64, u64);

/// A question that has had no answer since `since`.
#[derive(Debug, Clone, Copy)]
struct Silence {
    since: BootTime,
    /// When what it needs was last seen to do something; before that, when it was asked.
    moved: BootTime,
    /// What was seen, and since when it is the same.
    still: Option<(BootTime, Mark)>,
}

/// The state of one life of PostgreSQL in one role.
#[derive(Debug)]
pub struct Health {
    limits: Limits,
    silences: BTreeMap<Question, Silence>,
    refusals: BTreeMap<Question, BootTime>,
    new_answered: Option<BootTime>,
    exhausted: Option<BootTime>,
    flushed: Option<Lsn>,
    checkpointer: Option<(BootTime, Activity)>,
    /// When the processes were last looked at.
    looked: Option<BootTime>,
    /// Alarms, and when their reason was last there.
    lit: BTreeMap<AlarmCode, (BootTime, Alarm)>,
}

impl Health {
    /// Nothing was asked yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            silences: BTreeMap::new(),
            refusals: BTreeMap::new(),
            new_answered: None,
            exhausted: None,
            flushed: None,
            checkpointer: None,
            looked: None,
            lit: BTreeMap::new(),
        }
    }

    /// A question leaves now.
    pub fn asked(&mut self, question: Question, now: BootTime) {
        let silence = Silence { since: now, moved: now, still: None };
        self.silences.entry(question).or_insert(silence);
    }

    /// What came of it.
    pub fn answered(&mut self, question: Question, answer: &Answer, now: BootTime) {
        if *answer != Answer::TimedOut {
            self.silences.remove(&question);
        }
        if !matches!(answer, Answer::Refused(_)) {
            self.refusals.remove(&question);
        }
        if question == Question::New {
            if *answer == Answer::Exhausted {
                self.exhausted.get_or_insert(now);
            } else if matches!(answer, Answer::Ok { .. }) {
                self.exhausted = None;
            }
        }
        match answer {
            Answer::Ok { flushed } => {
                // A log that has grown was written, whoever can or cannot be looked at.
                if let (Some(before), Some(flushed)) = (self.flushed, *flushed)
                    && flushed > before
                    && let Some(write) = self.silences.get_mut(&Question::Write)
                {
                    write.note(Sight::Moves, now);
                }
                self.flushed = flushed.or(self.flushed);
                if question == Question::New {
                    self.new_answered = Some(now);
                }
            }
            Answer::Exhausted => self.new_answered = Some(now),
            Answer::Refused(why) => {
                let since = *self.refusals.entry(question).or_insert(now);
                if now.since(since) >= self.limits.late {
                    let text = format!("{}: {why}", refused(question));
                    self.light(Alarm::new(question.alarm(), text), now);
                }
            }
            Answer::TimedOut => {}
        }
    }

    /// Whether an answer is missing for so long that [`Health::see`] has to be told what goes on.
    pub fn is_waiting(&self, patience: Duration, now: BootTime) -> bool {
        self.silences.values().any(|s| now.since(s.since) >= patience)
    }

    /// Since when a question has had no answer.
    pub fn silent_since(&self, question: Question) -> Option<BootTime> {
        self.silences.get(&question).map(|s| s.since)
    }

    /// What the processes do now.
    pub fn see(&mut self, vitals: &Vitals, now: BootTime) {
        let attentive = self.looked.is_some_and(|at| now.since(at) <= self.limits.gap);
        self.looked = Some(now);
        // How far the log is, is heard on the held connection.
        let unheard =
            self.silences.get(&Question::Held).map_or(Duration::ZERO, |s| now.since(s.since));
        let flushed = self.flushed.filter(|_| unheard < self.limits.late);
        let answers = unheard < self.limits.late / 3;
        for (question, silence) in &mut self.silences {
            if !attentive {
                // We ourselves may have stood still, with the answer unread.
                silence.moved = now;
                silence.still = None;
            }
            let sight = match question {
                Question::New => opening(vitals),
                // Where the backend is gone, another connection is being opened.
                Question::Held if vitals.held == Activity::Gone => process(vitals.postmaster),
                Question::Held => process(vitals.held),
                Question::Write => write(vitals, flushed, answers),
            };
            silence.note(sight, now);
        }
    }

    /// What the checkpointer does, and whether a checkpoint is overdue by far.
    pub fn see_checkpointer(&mut self, activity: Activity, overdue: bool, now: BootTime) {
        let before = self.checkpointer.take();
        let same = |stuck: bool| match before {
            _ if !stuck => None,
            Some((since, was)) if was == activity => Some((since, activity)),
            _ => Some((now, activity)),
        };
        self.checkpointer = match activity {
            Activity::Stopped => same(true),
            Activity::Waits { for_disk, .. } => same(for_disk || overdue),
            Activity::Unknown | Activity::Gone | Activity::Runnable => None,
        };
        if let Some((since, activity)) = self.checkpointer
            && now.since(since) >= self.limits.checkpointer
        {
            let how = match activity {
                Activity::Stopped => "is stopped",
                Activity::Waits { for_disk: true, .. } => "waits for the disk and does not go on",
                _ => "does not go on with a checkpoint that is overdue",
            };
            let text = format!(
                "the checkpointer {how}: commits work, but WAL is kept without bound, and neither \
                 CHECKPOINT nor an orderly stop ends"
            );
            self.light(Alarm::new(AlarmCode::Checkpointer, text), now);
        }
    }

    /// What follows. Alarms are those that hold now.
    pub fn judge(&mut self, now: BootTime) -> (Verdict, Vec<Alarm>) {
        let late: Vec<(Question, Silence)> = self
            .silences
            .iter()
            .filter(|(_, s)| now.since(s.since) >= self.limits.late)
            .map(|(q, s)| (*q, *s))
            .collect();
        for (question, _) in &late {
            self.light(Alarm::new(question.alarm(), late_text(*question)), now);
        }
        if self.exhausted.is_some_and(|since| now.since(since) >= self.limits.late) {
            let text = "ordinary clients get no connection: max_connections is reached, see \
                        pg_stat_activity for who holds them";
            self.light(Alarm::new(AlarmCode::ConnectionsExhausted, text), now);
        }
        let calm = self.limits.calm;
        self.lit.retain(|_, (at, _)| now.since(*at) < calm);
        let alarms: Vec<Alarm> = self.lit.values().map(|(_, alarm)| alarm.clone()).collect();
        // What a person is told: the plainest sign comes first.
        for question in [Question::New, Question::Held, Question::Write] {
            let silence = late.iter().find(|(q, _)| *q == question);
            if let Some((_, silence)) = silence
                && let Some(why) = self.hangs(question, silence, now)
            {
                return (Verdict::GiveUp { rule: question, why }, alarms);
            }
        }
        let verdict = if alarms.is_empty() { Verdict::Healthy } else { Verdict::Degraded };
        (verdict, alarms)
    }

    /// Why the server is given up for this silence, if it is.
    fn hangs(&self, question: Question, silence: &Silence, now: BootTime) -> Option<String> {
        if question == Question::Held && self.new_answered.is_some_and(|at| at > silence.since) {
            // One backend does not answer, others do.
            return None;
        }
        let seconds = now.since(silence.since).as_secs();
        let Limits { still, unseen, .. } = self.limits;
        if silence.still.is_some_and(|(since, _)| now.since(since) >= still) {
            return Some(format!(
                "{} for {seconds} s, and {} for {} s",
                late_text(question),
                still_text(question),
                still.as_secs()
            ));
        }
        (now.since(silence.moved) >= unseen)
            .then(|| format!("{} for {seconds} s, without a sign of progress", late_text(question)))
    }

    fn light(&mut self, alarm: Alarm, now: BootTime) {
        self.lit.insert(alarm.code, (now, alarm));
    }
}

impl Silence {
    fn note(&mut self, sight: Sight, now: BootTime) {
        match sight {
            Sight::Moves => {
                self.moved = now;
                self.still = None;
            }
            Sight::Unclear => self.still = None,
            Sight::At(mark) => match self.still {
                Some((_, before)) if before == mark => {}
                // Where only the disk went on, and not what was asked of it, nothing is clear.
                Some((_, (a, b, _))) if (a, b) == (mark.0, mark.1) => {
                    self.still = Some((now, mark));
                }
                Some(_) => {
                    self.moved = now;
                    self.still = Some((now, mark));
                }
                None => self.still = Some((now, mark)),
            },
        }
    }
}

/// What a process alone tells.
fn process(activity: Activity) -> Sight {
    match activity {
        Activity::Unknown => Sight::Unclear,
        // The end of a tree is told otherwise, and of a backend by its connection.
        Activity::Gone | Activity::Runnable => Sight::Moves,
        Activity::Stopped => Sight::At((u64::MAX, 0, 0)),
        Activity::Waits { work, .. } => Sight::At((work, 0, 0)),
    }
}

/// A new connection needs the postmaster, and then what that has started for it.
fn opening(vitals: &Vitals) -> Sight {
    let idle = matches!(vitals.postmaster, Activity::Waits { for_disk: false, .. });
    if !idle || vitals.newborns.is_empty() {
        return process(vitals.postmaster);
    }
    let mut done = 0_u64;
    for newborn in &vitals.newborns {
        match newborn {
            Activity::Waits { work, for_disk: true } => done = done.wrapping_add(*work),
            // It starts, or waits for something that another session holds, such as a catalog.
            _ => return Sight::Moves,
        }
    }
    Sight::At((done, vitals.newborns.len() as u64, 0))
}

/// A write waits for the WAL, whoever flushes it. `answers` is whether an open connection does at
/// once, so that `flushed` is what it is now.
fn write(vitals: &Vitals, flushed: Option<Lsn>, answers: bool) -> Sight {
    let disk = vitals.disk_writes.unwrap_or_default();
    match vitals.writer {
        // One backend that somebody stopped, or that is gone, says nothing of the disk.
        Activity::Unknown | Activity::Gone | Activity::Stopped => Sight::Unclear,
        Activity::Runnable => Sight::Moves,
        // Whoever waits wakes up in between, for nothing: for a queue of the disk, for a signal that
        // is meant for all. While an open connection answers, so that processes do get to run, only
        // the log tells whether anything is written.
        Activity::Waits { for_disk, work } => match flushed {
            Some(Lsn(flushed)) if for_disk || answers => Sight::At((flushed, 0, disk)),
            None if for_disk => Sight::Unclear,
            _ => Sight::At((flushed.map_or(u64::MAX, |lsn| lsn.0), work, disk)),
        },
    }
}

fn late_text(question: Question) -> &'static str {
    match question {
        Question::Held => "an open connection is not answered",
        Question::New => "no new connection is answered",
        Question::Write => "nothing is flushed to disk",
    }
}

fn still_text(question: Question) -> &'static str {
    match question {
        Question::Held => "its backend has done nothing",
        Question::New => "the postmaster has done nothing",
        Question::Write => "the WAL on disk has not grown",
    }
}

fn refused(question: Question) -> &'static str {
    match question {
        Question::Held => "an open connection is refused its answer",
        Question::New => "new connections are refused",
        Question::Write => "writes are refused",
    }
}
