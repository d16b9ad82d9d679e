//! A client as it sees an outage: a row on a fresh connection every 20 ms.
//!
//! Rows are begun on time, whether earlier ones are done or not: a connection that hangs for its
//! whole timeout must not decide how long the outage of the others seems.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, Config, NoTls};

use super::support::{Conn, Endpoint, SOON, until_seen};
use super::{PASSWORD, USER};

/// A row is begun so often.
pub const EVERY: Duration = Duration::from_millis(20);
/// A connection to one host may take so long, as `connect_timeout=1` of libpq.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// After this a client gives up; what became of the row is unknown.
const GIVE_UP: Duration = Duration::from_secs(2);
/// Most rows under way. More than are begun within [`GIVE_UP`], so that hung ones keep none back.
const UNDER_WAY_MAX: usize = 128;

/// An acknowledged row.
#[derive(Debug, Clone, Copy)]
struct Row {
    id: i64,
    begun: Instant,
    ended: Instant,
}

/// The longest time without an acknowledged row.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    /// The last acknowledgement before it.
    pub from: Instant,
    /// The first one after it.
    pub to: Instant,
    /// How many more times no row was acknowledged for 100 ms.
    pub others: usize,
}

impl Gap {
    /// How long it was.
    pub fn length(&self) -> Duration {
        self.to - self.from
    }
}

#[derive(Default)]
struct Shared {
    rows: Mutex<Vec<Row>>,
    failures: AtomicUsize,
    under_way: AtomicUsize,
    stop: AtomicBool,
}

/// A running probe. Dropping it ends it.
pub struct Probe {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Probe {
    /// Starts to write to whichever of `endpoints` takes writes. The order in which a client tries
    /// the hosts is drawn from `seed`, for every row anew.
    pub fn start(endpoints: Vec<Endpoint>, seed: u64) -> Probe {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(endpoints, Draw(seed), shared.clone()));
        Probe { shared, task }
    }

    fn rows(&self) -> Vec<Row> {
        self.shared.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many rows were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.rows().len()
    }

    /// How many rows were refused, or are unknown.
    pub fn failures(&self) -> usize {
        self.shared.failures.load(Ordering::SeqCst)
    }

    /// How long the acknowledged rows took, connection included, in milliseconds.
    pub fn latencies(&self) -> super::figures::Series {
        let took = |r: &Row| super::ms(r.ended - r.begun);
        super::figures::Series(self.rows().iter().map(took).collect())
    }

    /// Waits until rows that were begun after `since` are acknowledged at the usual pace.
    pub async fn flows(&self, since: Instant, limit: Duration) {
        until_seen("rows are acknowledged", limit, || {
            let now = Instant::now();
            let lately = |r: &&Row| r.begun >= since && now - r.ended < Duration::from_millis(300);
            (self.rows().iter().filter(lately).count() >= 8).then_some(())
        })
        .await;
    }

    /// The longest gap that ended in the time from `from` to now.
    pub fn gap(&self, from: Instant) -> Option<Gap> {
        let mut ends: Vec<Instant> = self.rows().iter().map(|r| r.ended).collect();
        ends.sort();
        let gaps = || ends.windows(2).filter(|w| w[1] >= from).map(|w| (w[1] - w[0], w[0], w[1]));
        let (_, from, to) = gaps().max()?;
        let long = gaps().filter(|g| g.0 >= Duration::from_millis(100)).count();
        Some(Gap { from, to, others: long.saturating_sub(1) })
    }

    /// Ends after the rows that are under way. Returns the acknowledged ones.
    pub async fn stop(self) -> BTreeSet<i64> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let ended = || (self.shared.under_way.load(Ordering::SeqCst) == 0).then_some(());
        until_seen("the rows under way", SOON, ended).await;
        self.rows().iter().map(|r| r.id).collect()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.task.abort();
    }
}

/// How many of these acknowledged rows are not there.
pub async fn lost(acknowledged: &BTreeSet<i64>, primary: &Conn) -> usize {
    let rows = primary.rows("SELECT id FROM probe").await.expect("the rows");
    let there: BTreeSet<i64> = rows.iter().flatten().filter_map(|id| id.parse().ok()).collect();
    acknowledged.difference(&there).count()
}

async fn run(endpoints: Vec<Endpoint>, mut draw: Draw, shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for id in 0.. {
        tick.tick().await;
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        if shared.under_way.load(Ordering::SeqCst) >= UNDER_WAY_MAX {
            continue;
        }
        let mut hosts = endpoints.clone();
        draw.shuffle(&mut hosts);
        shared.under_way.fetch_add(1, Ordering::SeqCst);
        let shared = shared.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            let done = tokio::time::timeout(GIVE_UP, row(id, &hosts)).await;
            if matches!(done, Ok(Ok(true))) {
                let row = Row { id, begun, ended: Instant::now() };
                shared.rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
            } else {
                shared.failures.fetch_add(1, Ordering::SeqCst);
            }
            shared.under_way.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Writes one row. False where it was acknowledged with a notice: a synchronous wait that was
/// cancelled is no promise.
async fn row(id: i64, hosts: &[Endpoint]) -> Result<bool, tokio_postgres::Error> {
    let mut config = Config::new();
    for host in hosts {
        config.host(&host.host).port(host.port);
    }
    config.user(USER).password(PASSWORD).dbname("postgres").application_name("probe");
    config.connect_timeout(CONNECT_TIMEOUT).target_session_attrs(TargetSessionAttrs::ReadWrite);
    let (client, mut connection) = config.connect(NoTls).await?;
    let noticed = Arc::new(AtomicBool::new(false));
    let heard = noticed.clone();
    // Ends with the client.
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if matches!(message, AsyncMessage::Notice(_)) {
                heard.store(true, Ordering::SeqCst);
            }
        }
    });
    client.batch_execute(&format!("INSERT INTO probe VALUES ({id})")).await?;
    Ok(!noticed.load(Ordering::SeqCst))
}

/// Random numbers from a seed (SplitMix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}
