//! Times of Raft and of leases, and the rules that their order must keep.
//!
//! Owns [`Raft`]'s times, [`Timing`] and every sum between them. Imports the sibling modules only.
//!
//! One line of time, from a renewal that was sent at `s` and is the last one acknowledged:
//!
//! ```text
//! s     s+renew          s+suspect   s+ttl-fence_margin  s+ttl-kill_margin   s+ttl*(1+rho)/(1-rho)
//! |-------|-----------------|----------------|-------------------|---------------------|
//! sent    next one sent     leader closes    orderly stop        kernel kills all      next grant
//! ```

use super::error::Problem;
use super::reader::Section;
use crate::domain::types::NodeId;

/// Smallest `kill_margin_ms`. From the timer's signal until the last of 201 processes was gone,
/// 14 to 22 ms were measured; this leaves a factor of four for a slow machine.
pub const KILL_MARGIN_MS_MIN: u64 = 100;

/// Section `[raft]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raft {
    /// Identity of this node's controller; `None` on a node that is none.
    pub node_id: Option<NodeId>,
    /// This node was added to a group that exists: with an empty store it joins, and never founds.
    pub join: bool,
    /// Time between two heartbeats of the Raft leader, in milliseconds.
    pub heartbeat_ms: u64,
    /// Shortest election timeout, in milliseconds.
    pub election_min_ms: u64,
    /// Longest election timeout, in milliseconds.
    pub election_max_ms: u64,
}

/// Section `[timing]`. Must be equal on all nodes: holder and leader measure one lease by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Time between two renewals of a lease, in milliseconds.
    pub renew_ms: u64,
    /// Length of a lease from the moment before its renewal was sent, in milliseconds.
    pub ttl_ms: u64,
    /// The orderly stop of PostgreSQL begins this long before the lease ends, in milliseconds.
    pub fence_margin_ms: u64,
    /// The kernel kills PostgreSQL this long before the lease ends, in milliseconds.
    pub kill_margin_ms: u64,
    /// The leader closes the epoch of a member that had no renewal acknowledged for this long, in
    /// milliseconds.
    pub suspect_ms: u64,
    /// Largest error of the *rate* of any node's clock, in parts per million (`rho`).
    pub clock_error_ppm: u64,
    /// Time between two reports of a member to the leader, in milliseconds.
    pub report_ms: u64,
}

impl Timing {
    /// When the orderly stop begins, in milliseconds after the renewal was sent.
    pub fn orderly_stop_ms(&self) -> u64 {
        self.ttl_ms.saturating_sub(self.fence_margin_ms)
    }

    /// When the kernel kills, in milliseconds after the renewal was sent.
    pub fn kill_ms(&self) -> u64 {
        self.ttl_ms.saturating_sub(self.kill_margin_ms)
    }

    /// How long a leader waits before it may grant the next epoch without a proven stop, in
    /// milliseconds of its own clock: `ttl * (1 + rho) / (1 - rho)`, rounded up.
    ///
    /// The holder's clock may run slow: its ttl lasts up to `ttl / (1 - rho)`. The leader's may run
    /// fast: it counts up to `1 + rho` for one second. The product covers both.
    pub fn takeover_ms(&self) -> u64 {
        let million = 1_000_000_u128;
        let ppm = u128::from(self.clock_error_ppm).min(million - 1);
        let wait = (u128::from(self.ttl_ms) * (million + ppm)).div_ceil(million - ppm);
        u64::try_from(wait).unwrap_or(u64::MAX)
    }
}

/// Time in which a lost leader is replaced, in the bad case that is planned for: one election that
/// is split, one that is not, and two heartbeats in which the members find the new leader.
fn reelection_ms(raft: &Raft) -> u64 {
    raft.election_max_ms.saturating_mul(2).saturating_add(raft.heartbeat_ms.saturating_mul(2))
}

/// Reads `[raft]`.
pub(super) fn read_raft(mut s: Section, problems: &mut Vec<Problem>) -> Option<Raft> {
    let raft = Raft {
        join: s.flag("join", false),
        node_id: s.number("node_id", 1..=i64::MAX as u64),
        heartbeat_ms: s.number_or("heartbeat_ms", 10..=10_000, 100),
        election_min_ms: s.number_or("election_min_ms", 50..=60_000, 500),
        election_max_ms: s.number_or("election_max_ms", 50..=60_000, 1000),
    };
    let clean = s.is_clean();
    s.finish(problems);
    clean.then_some(raft)
}

/// Reads `[timing]`.
pub(super) fn read_timing(mut s: Section, problems: &mut Vec<Problem>) -> Option<Timing> {
    let timing = Timing {
        renew_ms: s.number_or("renew_ms", 20..=60_000, 500),
        ttl_ms: s.number_or("ttl_ms", 500..=600_000, 3000),
        fence_margin_ms: s.number_or("fence_margin_ms", 1..=600_000, 300),
        kill_margin_ms: s.number_or("kill_margin_ms", 1..=600_000, 200),
        suspect_ms: s.number_or("suspect_ms", 50..=600_000, 2200),
        // Below 1000: time daemons slew CLOCK_BOOTTIME by up to 500 ppm on either side.
        clock_error_ppm: s.number_or("clock_error_ppm", 1000..=100_000, 10_000),
        report_ms: s.number_or("report_ms", 50..=60_000, 500),
    };
    let clean = s.is_clean();
    s.finish(problems);
    clean.then_some(timing)
}

/// Holds the order between the times. Every rule says its sum in numbers.
pub(super) fn check(raft: &Raft, timing: &Timing, problems: &mut Vec<Problem>) {
    let Raft { heartbeat_ms, election_min_ms, election_max_ms, .. } = raft;
    let Timing { renew_ms, ttl_ms, fence_margin_ms, kill_margin_ms, suspect_ms, report_ms, .. } =
        timing;
    let stop_ms = timing.orderly_stop_ms();
    let reelection_ms = reelection_ms(raft);
    let mut rule = |holds: bool, key: &str, value: &u64, problem: String, mend: String| {
        if !holds {
            problems.push(Problem::new(key, value, problem, mend));
        }
    };

    // Two lost heartbeats are noise; they must not depose a leader.
    let least = heartbeat_ms.saturating_mul(3);
    rule(
        *election_min_ms >= least,
        "raft.election_min_ms",
        election_min_ms,
        format!(
            "is below 3 * heartbeat_ms = 3 * {heartbeat_ms} = {least} ms: two lost heartbeats would start an election"
        ),
        format!("raise it to {least} or more, or lower raft.heartbeat_ms"),
    );
    // Timeouts are drawn between the two. Without a spread, candidates split the vote again and
    // again.
    rule(
        election_max_ms > election_min_ms,
        "raft.election_max_ms",
        election_max_ms,
        format!(
            "is not above election_min_ms = {election_min_ms}: candidates would split the vote again and again"
        ),
        format!("raise it to about {}", election_min_ms.saturating_mul(2)),
    );
    // One lost renewal is noise.
    let twice = renew_ms.saturating_mul(2);
    rule(
        *suspect_ms > twice,
        "timing.suspect_ms",
        suspect_ms,
        format!(
            "is not above 2 * renew_ms = 2 * {renew_ms} = {twice} ms: one lost renewal would close the epoch"
        ),
        format!("raise it above {twice}, or lower timing.renew_ms"),
    );
    // While Raft elects, no renewal is acknowledged; that is no sign of a dead primary.
    rule(
        *suspect_ms >= reelection_ms,
        "timing.suspect_ms",
        suspect_ms,
        format!(
            "is below 2 * election_max_ms + 2 * heartbeat_ms = 2 * {election_max_ms} + 2 * {heartbeat_ms} = {reelection_ms} ms: a Raft election with a split vote would close the epoch of a healthy primary"
        ),
        format!("raise it to {reelection_ms} or more, or lower raft.election_max_ms"),
    );
    rule(
        fence_margin_ms < ttl_ms,
        "timing.fence_margin_ms",
        fence_margin_ms,
        format!("is not below ttl_ms = {ttl_ms}: a lease would end before it begins"),
        format!("lower it below {ttl_ms}"),
    );
    // The holder's side of the rule above: up to one renew_ms has passed since the last renewal
    // when the leader is lost.
    let need = reelection_ms.saturating_add(*renew_ms);
    rule(
        stop_ms >= need,
        "timing.ttl_ms",
        ttl_ms,
        format!(
            "the orderly stop at ttl_ms - fence_margin_ms = {ttl_ms} - {fence_margin_ms} = {stop_ms} ms comes before renew_ms + 2 * election_max_ms + 2 * heartbeat_ms = {renew_ms} + 2 * {election_max_ms} + 2 * {heartbeat_ms} = {need} ms: a Raft election with a split vote would stop a healthy primary"
        ),
        format!(
            "raise it to {} or more, or lower raft.election_max_ms",
            need.saturating_add(*fence_margin_ms)
        ),
    );
    // Closing and sealing run while the lease runs out. Closing later gains nothing and delays
    // every takeover.
    rule(
        *suspect_ms < stop_ms,
        "timing.suspect_ms",
        suspect_ms,
        format!(
            "is not below ttl_ms - fence_margin_ms = {ttl_ms} - {fence_margin_ms} = {stop_ms} ms: the epoch would be closed only after the primary has stopped by itself"
        ),
        format!("lower it below {stop_ms}, or raise timing.ttl_ms"),
    );
    rule(
        kill_margin_ms < fence_margin_ms,
        "timing.kill_margin_ms",
        kill_margin_ms,
        format!(
            "is not below fence_margin_ms = {fence_margin_ms}: the kernel would kill before the orderly stop begins"
        ),
        format!("lower it below {fence_margin_ms}, or raise timing.fence_margin_ms"),
    );
    // The rate of the clocks is accounted for by takeover_ms; this margin is for the kill itself.
    let takeover_ms = timing.takeover_ms();
    let kill_ms = timing.kill_ms();
    rule(
        *kill_margin_ms >= KILL_MARGIN_MS_MIN,
        "timing.kill_margin_ms",
        kill_margin_ms,
        format!(
            "is below {KILL_MARGIN_MS_MIN} ms: the kill at ttl_ms - kill_margin_ms = {kill_ms} ms must have ended before the lease does at {ttl_ms} ms (the next grant comes at {takeover_ms} ms)"
        ),
        format!("raise it to {KILL_MARGIN_MS_MIN} or more, and timing.fence_margin_ms above it"),
    );
    // The leader chooses by what members reported; it must have heard each in the time in which it
    // judges.
    rule(
        report_ms < suspect_ms,
        "timing.report_ms",
        report_ms,
        format!("is not below suspect_ms = {suspect_ms}: the leader would judge by stale reports"),
        format!("lower it to about {renew_ms}"),
    );
}
