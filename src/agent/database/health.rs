//! Whether the server does its work: the questions, and what the processes do that have to answer.
//!
//! Owns the connections that are kept open for that, one for each question, so that none waits for
//! another's answer. What follows from answers is `domain::health`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Held, PgDatabase, lock};
use crate::domain::health::{Activity, Answer, Question, Vitals};
use crate::domain::types::BootTime;
use crate::postgres::activity::{self, Device, Process};
use crate::postgres::connect::Error;
use crate::postgres::probe::{self, Outcome};
use crate::postgres::sql::Session;

/// How often is asked when the last checkpoint was.
const CHECKPOINT_ASK_EVERY: Duration = Duration::from_secs(30);
/// How long one of the small questions may take that go with another.
const BESIDE: Duration = Duration::from_secs(2);

/// What is kept open and remembered of one life of the server.
#[derive(Default)]
pub(super) struct Probes {
    held: Held,
    writer: Held,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// The postmaster's number on this host.
    postmaster: Option<i32>,
    /// Numbers within the namespace.
    held: Option<i32>,
    writer: Option<i32>,
    checkpointer: Option<i32>,
    /// From numbers within the namespace to those on this host.
    host: BTreeMap<i32, i32>,
    /// Where the WAL is; `None` inside where that is no single device.
    device: Option<Option<Device>>,
    overdue: bool,
    overdue_asked: Option<Instant>,
}

impl Probes {
    /// Forgets a life that is over.
    pub(super) fn forget(&self) {
        self.held.close();
        self.writer.close();
        *lock(&self.memory) = Memory::default();
    }
}

impl PgDatabase {
    pub(super) async fn ask_question(&self, question: Question, patience: Duration) -> Answer {
        if let Err(e) = self.running() {
            return Answer::Refused(e.to_string());
        }
        match question {
            Question::Held => self.ask_held(patience).await,
            Question::New => match probe::fresh(&self.target(), patience).await {
                Outcome::Ok => Answer::Ok { flushed: None },
                Outcome::TooManyConnections => Answer::Exhausted,
                other => answer(other),
            },
            Question::Write => self.ask_write(patience).await,
        }
    }

    async fn ask_held(&self, patience: Duration) -> Answer {
        let probes = &self.probes;
        let mut session = probes.held.take(|| self.target());
        let mut asked = held(&mut session, probes, patience).await;
        if matches!(asked, Err(Error::Lost(_))) {
            // A connection that was ended, by whomever, says nothing of the server.
            asked = held(&mut session, probes, patience).await;
        }
        let answer = match asked {
            Ok(answer) => answer,
            Err(e) => return answer(e.into()),
        };
        if lock(&probes.memory).checkpointer.is_none() {
            // Where it is not known, nothing is said of it.
            if let Ok(pid) = probe::checkpointer(&mut session, BESIDE).await {
                lock(&probes.memory).checkpointer = Some(pid);
            }
        }
        probes.held.put(session);
        answer
    }

    async fn ask_write(&self, patience: Duration) -> Answer {
        let probes = &self.probes;
        self.find_device().await;
        let mut session = probes.writer.take(|| self.target());
        if !session.is_open() {
            // Who will have to write is to be known before it hangs.
            match probe::backend(&mut session, patience).await {
                Ok(pid) => lock(&probes.memory).writer = Some(pid),
                Err(e) => return answer(e.into()),
            }
        }
        let outcome = probe::write(&mut session, patience).await;
        if outcome != Outcome::Ok {
            if matches!(outcome, Outcome::Refused(_)) {
                probes.writer.put(session);
            }
            return answer(outcome);
        }
        let asked = lock(&probes.memory).overdue_asked;
        if asked.is_none_or(|at| at.elapsed() >= CHECKPOINT_ASK_EVERY) {
            let overdue = probe::checkpoint_overdue(&mut session, BESIDE).await.unwrap_or(false);
            let mut memory = lock(&probes.memory);
            memory.overdue = overdue;
            memory.overdue_asked = Some(Instant::now());
        }
        probes.writer.put(session);
        Answer::Ok { flushed: None }
    }

    /// Once, and while all is well: it can wait for the disk.
    async fn find_device(&self) {
        if lock(&self.probes.memory).device.is_none() {
            let wal = self.settings.layout.wal_dir();
            let device = super::blocking(move || Device::of(&wal)).await;
            let device = device.ok().and_then(std::result::Result::ok).flatten();
            lock(&self.probes.memory).device = Some(device);
        }
    }

    /// The postmaster's number on this host, from the guard, which holds it by its descriptor.
    async fn postmaster_pid(&self) -> Option<i32> {
        let known = lock(&self.probes.memory).postmaster;
        if known.is_some() {
            return known;
        }
        let client = self.running().ok()?;
        let pid = client.status().await.ok()?.postmaster_pid.filter(|pid| *pid > 0);
        lock(&self.probes.memory).postmaster = pid;
        pid
    }

    pub(super) async fn see_vitals(&self, since: Option<BootTime>) -> Vitals {
        let Some(postmaster) = self.postmaster_pid().await else { return Vitals::UNKNOWN };
        let (held, writer, device) = {
            let memory = lock(&self.probes.memory);
            (memory.held, memory.writer, memory.device.flatten())
        };
        Vitals {
            postmaster: see(activity::look(postmaster)),
            newborns: since.map(|at| newborns(postmaster, at)).unwrap_or_default(),
            held: self.see_inner(postmaster, held),
            writer: self.see_inner(postmaster, writer),
            disk_writes: device.and_then(Device::writes),
        }
    }

    pub(super) async fn see_checkpointer(&self) -> (Activity, bool) {
        let (pid, overdue) = {
            let memory = lock(&self.probes.memory);
            (memory.checkpointer, memory.overdue)
        };
        match (pid, self.postmaster_pid().await) {
            (Some(_), Some(postmaster)) => (self.see_inner(postmaster, pid), overdue),
            _ => (Activity::Unknown, overdue),
        }
    }

    /// What the child of the postmaster does that has this number in the namespace.
    fn see_inner(&self, postmaster: i32, inner: Option<i32>) -> Activity {
        let Some(inner) = inner else { return Activity::Unknown };
        let known = lock(&self.probes.memory).host.get(&inner).copied();
        if let Some(pid) = known {
            match activity::look(pid) {
                Ok(Some(p)) if p.inner_pid == inner => return see(Ok(Some(p))),
                Ok(_) => {}
                Err(e) => return see(Err(e)),
            }
        }
        let Ok(children) = activity::children(postmaster) else { return Activity::Unknown };
        for pid in children {
            if let Ok(Some(process)) = activity::look(pid)
                && process.inner_pid == inner
            {
                lock(&self.probes.memory).host.insert(inner, pid);
                return see(Ok(Some(process)));
            }
        }
        lock(&self.probes.memory).host.remove(&inner);
        Activity::Gone
    }
}

/// Asks on the held connection, and notes whose backend it has.
async fn held(
    session: &mut Session,
    probes: &Probes,
    patience: Duration,
) -> std::result::Result<Answer, Error> {
    if !session.is_open() {
        // Until it is open the postmaster is who has to do something.
        lock(&probes.memory).held = None;
        let pid = probe::backend(session, patience).await?;
        lock(&probes.memory).held = Some(pid);
    }
    let flushed = probe::held(session, patience).await?;
    Ok(Answer::Ok { flushed })
}

fn answer(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Ok => Answer::Ok { flushed: None },
        Outcome::TimedOut => Answer::TimedOut,
        // A server that is full is alive; that is for the new connection to tell.
        Outcome::TooManyConnections => Answer::Refused("there is no free connection".to_owned()),
        Outcome::Refused(why) => Answer::Refused(why),
    }
}

/// What the postmaster has started since `at`.
fn newborns(postmaster: i32, at: BootTime) -> Vec<Activity> {
    let at = activity::ticks(at);
    let children = activity::children(postmaster).unwrap_or_default();
    let seen = children.into_iter().map(activity::look);
    seen.filter(|p| matches!(p, Ok(Some(p)) if p.started >= at)).map(see).collect()
}

fn see(looked: std::io::Result<Option<Process>>) -> Activity {
    let Ok(looked) = looked else { return Activity::Unknown };
    let Some(Process { state, work, .. }) = looked else { return Activity::Gone };
    match state {
        'R' => Activity::Runnable,
        'T' | 't' => Activity::Stopped,
        'Z' | 'X' | 'x' => Activity::Gone,
        'D' => Activity::Waits { work, for_disk: true },
        _ => Activity::Waits { work, for_disk: false },
    }
}
