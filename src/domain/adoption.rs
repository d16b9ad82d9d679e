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
    /// The settings of its configuration that are the operator's.
    pub parameters: BTreeMap<String, String>,
    /// Settings that are not taken over: they are managed, or unsafe here.
    pub left_out: Vec<String>,
    /// The lines of its `pg_hba.conf`.
    pub hba: Vec<String>,
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
    /// Lines that go into the specification's `hba`, after its own.
    pub hba: Vec<String>,
    /// Whether the operator named the member.
    pub named: bool,
    /// Who asks.
    pub by: String,
}

/// Why nothing is adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AdoptionRefusal {
    /// A member has not said what it holds.
    #[error(
        "{member} has not said what it holds: every member of bootstrap_members has to run, with \
         adopt = true where it has data"
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
        return found.get_key_value(named).ok_or_else(unfit);
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
