//! An existing PostgreSQL that comes under management: what its agent says of the stopped data, and
//! which of several data directories is the primary's.
//!
//! That is proven and not guessed. Every member of the bootstrap has to report what it holds. The one
//! that was stopped in order as a primary, and of whose log every other one is a part as far as
//! timelines and positions tell, is taken. Anything else is for the operator to say, by name. The
//! cluster begins at the timeline of that data, which nobody leads: the first grant is of the next
//! one, to a member that has all of it, like any other grant.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lineage::Lineage;
use super::types::{Epoch, Lsn, MemberName, SystemId};

/// Most parameters, and most lines of `pg_hba.conf`, that are taken into a specification.
pub const IMPORTED_MAX: usize = 500;

/// As what a server ran last, by its control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Was {
    /// As a primary, stopped in order.
    Primary,
    /// As a standby, stopped in order.
    Standby,
    /// It was not stopped in order, or runs: where its log ends is not known.
    Unclear,
}

/// Data that an agent may take over, once the operator says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoptable {
    /// Its system identifier.
    pub system_id: SystemId,
    /// Its timeline.
    pub epoch: Epoch,
    /// Where its log ends, of a primary that was stopped in order; else how far it is at least.
    pub end: Lsn,
    /// As what it ran.
    pub was: Was,
    /// Where each of its timelines begins.
    pub lineage: Lineage,
    /// What stands against it, and what to do, for a person.
    pub problems: Vec<String>,
    /// What the adoption turns off on its machine, so that nothing else starts a server on this data.
    #[serde(default)]
    pub steps: Vec<String>,
    /// The settings of its configuration that are the operator's.
    pub parameters: BTreeMap<String, String>,
    /// Settings that are not taken over: they are managed, or unsafe here.
    pub left_out: Vec<String>,
    /// The lines of its `pg_hba.conf`.
    pub hba: Vec<String>,
    /// The lines of its `pg_ident.conf`.
    #[serde(default)]
    pub ident: Vec<String>,
    /// Whether it ran as a standby last, stopped in order or not.
    #[serde(default)]
    pub standby: bool,
    /// The highest timeline that its directory knows of.
    #[serde(default)]
    pub seen: Epoch,
    /// The highest epoch that the member has promised, held or ended in an earlier life of the
    /// cluster.
    #[serde(default)]
    pub known: Epoch,
    /// The life of a cluster that the member was of last; 0 for none that was adopted.
    #[serde(default)]
    pub life: u64,
}

impl Adoptable {
    /// Why it is not taken over as the data with this system identifier and timeline, if so.
    pub fn refusal(&self, system_id: SystemId, epoch: Epoch) -> Option<String> {
        if self.system_id != system_id || self.epoch != epoch {
            return Some(format!(
                "the data has system identifier {} and timeline {} now, and not {system_id} and \
                 {epoch}",
                self.system_id, self.epoch
            ));
        }
        self.problems.first().cloned()
    }
}

/// The command that begins an adoption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adoption {
    /// Who has the primary's data.
    pub member: MemberName,
    /// Its system identifier.
    pub system_id: SystemId,
    /// Its timeline.
    pub epoch: Epoch,
    /// Where each of its timelines begins.
    pub lineage: Lineage,
    /// Settings that go into the specification, where that has none of that name.
    pub parameters: BTreeMap<String, String>,
    /// Where its log ends, or how far it is at least.
    pub end: Lsn,
    /// The highest epoch or timeline that anybody knows of, and this data's at least: the first
    /// grant is above it.
    pub base: Epoch,
    /// The highest life of a cluster that a member was of: this one is above it.
    #[serde(default)]
    pub life: u64,
    /// Lines that go into the specification's `hba`, after its own.
    pub hba: Vec<String>,
    /// Lines that go into the specification's `ident`, after its own.
    #[serde(default)]
    pub ident: Vec<String>,
    /// Whether the operator named the member.
    pub named: bool,
    /// Who asks.
    pub by: String,
}

/// Data that was adopted, as the cluster remembers it: members that were not there begin anew by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The number of this life of the cluster: greater than that of any before.
    pub life: u64,
    /// Whose data it was.
    pub member: MemberName,
    /// Its system identifier.
    pub system_id: SystemId,
    /// Its timeline.
    pub epoch: Epoch,
    /// Where each of its timelines begins.
    pub lineage: Lineage,
    /// Where its log ended, or how far it was at least.
    pub end: Lsn,
    /// The epoch that nobody leads, before the first that is granted.
    pub base: Epoch,
}

impl Adopted {
    /// Up to where a standby of `epoch` may have this data's log; `None` where that is not one of
    /// its timelines.
    pub fn shared_until(&self, epoch: Epoch) -> Option<Lsn> {
        let at = self.lineage.0.iter().position(|e| e.epoch == epoch)?;
        let next = self.lineage.0.get(at + 1).map_or(self.end, |next| next.start);
        Some(next.min(self.end))
    }

    /// Whether a standby's data is a part of this one, as far as its control file and the names in
    /// its `pg_wal` tell. Only such data follows; any other is copied anew.
    pub fn contains(&self, own: &Adoptable) -> bool {
        own.was == Was::Standby
            && own.problems.is_empty()
            && own.system_id == self.system_id
            && own.seen <= self.epoch
            && !own.lineage.contradicts(&self.lineage)
            && self.shared_until(own.epoch).is_some_and(|until| own.end <= until)
    }
}

/// Why nothing is adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AdoptionRefusal {
    /// A member has not said what it holds.
    #[error(
        "{member} has not said what it holds: every member of bootstrap_members, and the one whose \
         data is taken, has to run, with adopt = true where it has data"
    )]
    Silent {
        /// Who.
        member: MemberName,
    },
    /// Something stands against a member's data.
    #[error("{member}: {problem}")]
    Problem {
        /// Whose.
        member: MemberName,
        /// What, and what to do.
        problem: String,
    },
    /// Nobody has data.
    #[error("no member holds data that can be adopted: set adopt = true in its [[member]]")]
    NoData,
    /// The data is of several clusters.
    #[error("{one} and {other} hold data of different clusters: move one of them away")]
    SystemIds {
        /// One of them.
        one: MemberName,
        /// Another.
        other: MemberName,
    },
    /// Not exactly one was a primary.
    #[error(
        "{}: name the one whose data is the newest with --primary NAME; the others are rewound or \
         copied from it",
        primaries_text(primaries)
    )]
    Primaries {
        /// Those that were.
        primaries: Vec<MemberName>,
    },
    /// It may not have everything.
    #[error(
        "{other} holds more than {member}, or something else: {why}. Look at both, and name the one \
         to keep with --primary NAME"
    )]
    NotTheNewest {
        /// Who was the primary.
        member: MemberName,
        /// Who has more.
        other: MemberName,
        /// In what.
        why: String,
    },
    /// The named one is a standby.
    #[error(
        "{member} was a standby: its timeline is its primary's, and two servers that write one \
         timeline cannot be told apart. Name the primary; or where that is lost, start this server \
         by hand, promote it with `pg_ctl promote`, stop it, and try again"
    )]
    Standby {
        /// Who.
        member: MemberName,
    },
    /// The named one cannot lead.
    #[error("{member} holds no data that can be adopted, or may not lead")]
    Unfit {
        /// Who.
        member: MemberName,
    },
    /// What is reported makes no sense.
    #[error("what {member} holds cannot be adopted: {why}")]
    Bad {
        /// Who.
        member: MemberName,
        /// Why.
        why: String,
    },
}

fn primaries_text(primaries: &[MemberName]) -> String {
    let names: Vec<&str> = primaries.iter().map(MemberName::as_str).collect();
    match names.as_slice() {
        [] => "no member was stopped in order as a primary".to_owned(),
        _ => format!("more than one member was a primary, {}", names.join(" and ")),
    }
}

impl AdoptionRefusal {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Silent { .. } => "adopt.all-members",
            Self::Problem { .. } => "adopt.ready",
            Self::NoData => "adopt.data",
            Self::SystemIds { .. } => "adopt.one-cluster",
            Self::Primaries { .. } => "adopt.one-primary",
            Self::NotTheNewest { .. } => "adopt.newest",
            Self::Standby { .. } => "adopt.standby",
            Self::Unfit { .. } => "adopt.primary",
            Self::Bad { .. } => "adopt.valid",
        }
    }
}

/// Which of these data directories is the primary's. `named` is the operator's word, which overrides
/// what is doubtful and nothing else.
pub fn choose<'a>(
    found: &'a BTreeMap<MemberName, Adoptable>,
    named: Option<&MemberName>,
) -> Result<(&'a MemberName, &'a Adoptable), AdoptionRefusal> {
    let Some((first, one)) = found.iter().next() else { return Err(AdoptionRefusal::NoData) };
    if let Some((other, _)) = found.iter().find(|(_, a)| a.system_id != one.system_id) {
        let (one, other) = (first.clone(), other.clone());
        return Err(AdoptionRefusal::SystemIds { one, other });
    }
    if let Some(named) = named {
        let unfit = || AdoptionRefusal::Unfit { member: named.clone() };
        let (member, data) = found.get_key_value(named).ok_or_else(unfit)?;
        if data.was == Was::Standby || data.standby {
            return Err(AdoptionRefusal::Standby { member: member.clone() });
        }
        return Ok((member, data));
    }
    let primaries: Vec<_> = found.iter().filter(|(_, a)| a.was == Was::Primary).collect();
    let [(member, primary)] = primaries.as_slice() else {
        let primaries = primaries.into_iter().map(|(name, _)| name.clone()).collect();
        return Err(AdoptionRefusal::Primaries { primaries });
    };
    for (other, theirs) in found.iter().filter(|(name, _)| name != member) {
        let more = |why: String| {
            let (member, other) = ((*member).clone(), other.clone());
            Err(AdoptionRefusal::NotTheNewest { member, other, why })
        };
        if theirs.was == Was::Unclear {
            return more("it was not stopped in order, so where its log ends is not known".into());
        }
        if theirs.epoch > primary.epoch {
            return more(format!("its timeline is {}, and not {}", theirs.epoch, primary.epoch));
        }
        if theirs.end > primary.end {
            return more(format!("it ends at {} or later, and not at {}", theirs.end, primary.end));
        }
        if theirs.epoch == primary.epoch && theirs.lineage.contradicts(&primary.lineage) {
            return more("one timeline begins at two places".to_owned());
        }
    }
    Ok((member, primary))
}
