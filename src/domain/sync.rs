//! Synchronous configurations, and what a takeover has to prove about them.
//!
//! A commit is acknowledged once W members of N have flushed it. Any |N| - W + 1 members of N
//! therefore hold among them every commit that was acknowledged: the read quorum.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::mutant::{self, Mutant};
use super::observation::Sealed;
use super::types::{Epoch, MemberName};

/// `synchronous_standby_names = 'ANY W (N)'` of one primary (PostgreSQL manual, section 20.6.2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SyncConfig {
    /// The epoch that made it.
    pub epoch: Epoch,
    /// Number within the cluster: no two configurations share one, so that a late report about one
    /// is never taken for one about another with the same members.
    pub seq: u64,
    /// W: how many standbys must have flushed a commit. 0: none, asynchronous.
    pub w: u32,
    /// N: the standbys that count, never the primary itself.
    pub members: BTreeSet<MemberName>,
    /// The members in the order in which they are preferred, for `FIRST W (N)`; empty for
    /// `ANY W (N)`. Which of them are there changes, so any W of N can have confirmed a commit, in
    /// either case.
    #[serde(default)]
    pub order: Vec<MemberName>,
}

impl SyncConfig {
    /// The asynchronous configuration of an epoch.
    pub fn asynchronous(epoch: Epoch, seq: u64) -> Self {
        Self { epoch, seq, w: 0, members: BTreeSet::new(), order: Vec::new() }
    }

    /// Whether whoever covers `newer`, a configuration of a later epoch, covers this one as well.
    /// A holder or a record of the later epoch always does; so does the read quorum of `newer`
    /// where enough of it must lie in this configuration's members.
    pub fn implied_by(&self, newer: &SyncConfig) -> bool {
        if newer.epoch <= self.epoch || mutant::without(Mutant::OlderIsImplied) {
            return newer.epoch > self.epoch;
        }
        match (self.read_quorum(), newer.read_quorum()) {
            // Only a holder or a record covers the newer one.
            (None, None) => true,
            // It does cover this one too, but where the newer one is waived, this one is not.
            (Some(_), None) => false,
            (None, Some(_)) => false,
            (Some(need), Some(have)) => {
                let outside = newer.members.difference(&self.members).count();
                have.saturating_sub(outside) >= need
            }
        }
    }

    /// Why it makes no sense, if so.
    pub fn problem(&self) -> Option<String> {
        let n = self.members.len();
        if self.w as usize > n {
            return Some(format!("W is {}, and N has only {n} members", self.w));
        }
        if self.w == 0 && n > 0 {
            return Some("W is 0, so N must be empty".to_owned());
        }
        let ordered: BTreeSet<&MemberName> = self.order.iter().collect();
        if !self.order.is_empty()
            && (ordered.len() != self.order.len() || !self.members.iter().eq(ordered))
        {
            return Some("the order must name each member once".to_owned());
        }
        None
    }

    /// The value for `synchronous_standby_names`. Empty means asynchronous.
    pub fn setting(&self) -> String {
        if self.w == 0 {
            return String::new();
        }
        let names: Vec<String> = self.in_order().map(|m| format!("\"{m}\"")).collect();
        format!("{} {} ({})", self.method(), self.w, names.join(", "))
    }

    /// The members as they are written down.
    pub fn in_order(&self) -> impl Iterator<Item = &MemberName> {
        let (order, members) = match self.order.is_empty() {
            false => (Some(self.order.iter()), None),
            true => (None, Some(self.members.iter())),
        };
        order.into_iter().flatten().chain(members.into_iter().flatten())
    }

    fn method(&self) -> &'static str {
        if self.order.is_empty() { "ANY" } else { "FIRST" }
    }

    /// Whether a primary waits for the same standbys by this one as by `other`.
    pub fn same_as(&self, other: &SyncConfig) -> bool {
        self.w == other.w && self.members == other.members && self.order == other.order
    }

    /// How many sealed members of N make the read quorum; `None` where no number of them does.
    fn read_quorum(&self) -> Option<usize> {
        let n = self.members.len();
        if self.w == 0 { None } else { Some(n - self.w as usize + 1) }
    }

    /// Whether the sealed members hold among them every commit that was acknowledged under this
    /// configuration.
    fn covered_by(&self, sealed: &[&Sealed]) -> bool {
        // The stopped, intact holder of this or a later granted epoch has all of it; and so has
        // whoever has a record of a later epoch, since that epoch's first record came after its
        // own read quorum.
        let any_epoch = mutant::without(Mutant::AnyHolderCovers);
        if sealed.iter().any(|s| (s.held >= self.epoch || any_epoch) && s.held.0 > 0) {
            return true;
        }
        let no_records = mutant::without(Mutant::NoCoverageByRecord);
        if sealed.iter().any(|s| s.wal_epoch > self.epoch && !no_records) {
            return true;
        }
        let have = sealed.iter().filter(|s| self.members.contains(&s.member)).count();
        self.read_quorum().is_some_and(|need| have >= need)
    }
}

impl fmt::Display for SyncConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.w == 0 {
            return write!(f, "asynchronous (epoch {})", self.epoch);
        }
        let names: Vec<&str> = self.in_order().map(|m| m.as_str()).collect();
        write!(f, "{} {} ({}) (epoch {})", self.method(), self.w, names.join(", "), self.epoch)
    }
}

/// A configuration that the sealed members do not cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uncovered {
    /// Which.
    pub config: SyncConfig,
    /// How many of its members are sealed.
    pub have: usize,
    /// How many are needed; `None` where only the holder of its epoch will do.
    pub need: Option<usize>,
    /// Its members that are not sealed.
    pub missing: Vec<MemberName>,
}

/// The configurations that a takeover must cover: those in force, and where one epoch has more
/// than one, the loosest mixture of them as well. A walsender takes W from its own configuration
/// and the others' priorities from shared memory, so PostgreSQL mixes old and new for a moment.
/// Configurations of different epochs are never mixed: a member is promoted only after its
/// postmaster runs with the new names and no walsender of before is left.
pub fn to_cover(in_force: &[SyncConfig]) -> Vec<SyncConfig> {
    let mut all: Vec<SyncConfig> = in_force.to_vec();
    let epochs: BTreeSet<Epoch> = in_force.iter().map(|c| c.epoch).collect();
    for epoch in epochs {
        let of_epoch: Vec<&SyncConfig> = in_force.iter().filter(|c| c.epoch == epoch).collect();
        if of_epoch.len() > 1 && !mutant::without(Mutant::NoMixture) {
            let w = of_epoch.iter().map(|c| c.w).min().unwrap_or_default();
            let members = of_epoch.iter().flat_map(|c| c.members.iter().cloned()).collect();
            let members = if w == 0 { BTreeSet::new() } else { members };
            let seq = of_epoch.iter().map(|c| c.seq).max().unwrap_or_default();
            all.push(SyncConfig { epoch, seq, w, members, order: Vec::new() });
        }
    }
    all
}

/// Which configurations the sealed members do not cover; empty where the read quorum stands.
pub fn uncovered(in_force: &[SyncConfig], sealed: &[&Sealed]) -> Vec<Uncovered> {
    to_cover(in_force)
        .into_iter()
        .filter(|c| !c.covered_by(sealed))
        .map(|config| {
            let is_sealed = |m: &MemberName| sealed.iter().any(|s| &s.member == m);
            let missing: Vec<MemberName> =
                config.members.iter().filter(|m| !is_sealed(m)).cloned().collect();
            let have = config.members.len() - missing.len();
            Uncovered { have, need: config.read_quorum(), missing, config }
        })
        .collect()
}
