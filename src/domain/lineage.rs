//! Lineage: which epoch begins where in a log, and whether one log is a prefix of another.
//!
//! Histories are compared by epoch, never by timeline number or position alone. Since the number
//! of a timeline is its epoch, and no two promotions share an epoch, a lineage of a member can be
//! read from its `.history` file.

use serde::{Deserialize, Serialize};

use super::mutant::{self, Mutant};
use super::types::{Epoch, Lsn};

/// Where an epoch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which.
    pub epoch: Epoch,
    /// The position of its first record: where it left its parent.
    pub start: Lsn,
}

/// The epochs of one log, oldest first; each is the parent of the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lineage(pub Vec<Entry>);

/// How a member's log stands to a lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Everything that it holds is part of the lineage: it can follow.
    Prefix,
    /// It holds records that are not: it must be rewound or cloned.
    Diverged {
        /// The last position that both share, as far as epochs tell.
        common: Lsn,
    },
}

impl Lineage {
    /// The lineage of a fresh data directory: one epoch from the beginning.
    pub fn root(epoch: Epoch) -> Self {
        Self(vec![Entry { epoch, start: Lsn(0) }])
    }

    /// The newest epoch.
    pub fn last(&self) -> Option<Entry> {
        self.0.last().copied()
    }

    /// This lineage with a further epoch.
    pub fn with(&self, epoch: Epoch, start: Lsn) -> Self {
        let mut entries = self.0.clone();
        entries.push(Entry { epoch, start });
        Self(entries)
    }

    /// Whether an epoch begins elsewhere in `other`. No two promotions share an epoch, so one of the
    /// two has a timeline that its writer had no right to.
    pub fn contradicts(&self, other: &Lineage) -> bool {
        let start = |epoch| other.0.iter().find(|e| e.epoch == epoch).map(|e| e.start);
        self.0.iter().any(|e| start(e.epoch).is_some_and(|start| start != e.start))
    }

    /// Why it makes no sense, if so: epochs must grow, and positions must not go back.
    pub fn problem(&self) -> Option<String> {
        if self.0.is_empty() {
            return Some("it is empty".to_owned());
        }
        self.0.windows(2).find_map(|pair| {
            let [a, b] = pair else { return None };
            if b.epoch <= a.epoch {
                return Some(format!("epoch {} follows epoch {}", b.epoch, a.epoch));
            }
            (b.start < a.start)
                .then(|| format!("epoch {} begins at {}, before its parent", b.epoch, b.start))
        })
    }

    /// How a log with the lineage `own` stands to this one, its last record of epoch `wal_epoch`
    /// and its end at `lsn`. The same epoch with another beginning is another log: somebody made
    /// that timeline who had no right to its number.
    pub fn relation_of(&self, own: &Lineage, wal_epoch: Epoch, lsn: Lsn) -> Relation {
        let start =
            |lineage: &Lineage| lineage.0.iter().find(|e| e.epoch == wal_epoch).map(|e| e.start);
        match (start(self), start(own)) {
            (Some(agreed), Some(found)) if agreed != found => {
                Relation::Diverged { common: agreed.min(found) }
            }
            _ => self.relation(wal_epoch, lsn),
        }
    }

    /// How a log that ends at `lsn`, its last record of epoch `wal_epoch`, stands to this lineage.
    pub fn relation(&self, wal_epoch: Epoch, lsn: Lsn) -> Relation {
        match self.0.iter().position(|e| e.epoch == wal_epoch) {
            Some(i) => match self.0.get(i + 1) {
                Some(next) if lsn > next.start => Relation::Diverged { common: next.start },
                _ => Relation::Prefix,
            },
            // Its last epoch was never part of the log: all that is surely shared is what lies
            // before the first epoch that came after it.
            None if mutant::without(Mutant::ForeignEpochIsPrefix) => Relation::Prefix,
            None => Relation::Diverged {
                common: self
                    .0
                    .iter()
                    .find(|e| e.epoch > wal_epoch)
                    .map_or_else(|| self.last().map_or(Lsn(0), |e| e.start), |e| e.start),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage() -> Lineage {
        Lineage::root(Epoch(1)).with(Epoch(2), Lsn(100)).with(Epoch(5), Lsn(200))
    }

    #[test]
    fn prefix_and_divergence() {
        let l = lineage();
        let d = |c| Relation::Diverged { common: Lsn(c) };
        let cases = [
            (1, 50, Relation::Prefix),
            (1, 100, Relation::Prefix),
            (1, 101, d(100)),
            (2, 100, Relation::Prefix),
            (2, 200, Relation::Prefix),
            (2, 201, d(200)),
            (5, 999, Relation::Prefix),
            (3, 150, d(200)),
            (4, 199, d(200)),
            (6, 999, d(200)),
        ];
        for (epoch, lsn, want) in cases {
            assert_eq!(l.relation(Epoch(epoch), Lsn(lsn)), want, "epoch {epoch} at {lsn}");
        }
    }

    #[test]
    fn one_epoch_has_one_beginning() {
        let l = lineage();
        let root = Lineage::root(Epoch(1));
        for same in [root.clone(), root.with(Epoch(2), Lsn(100)), root.with(Epoch(3), Lsn(50))] {
            assert!(!l.contradicts(&same) && !same.contradicts(&l), "{same:?}");
        }
        for other in [root.with(Epoch(2), Lsn(99)), root.with(Epoch(5), Lsn(100))] {
            assert!(l.contradicts(&other) && other.contradicts(&l), "{other:?}");
        }
    }

    #[test]
    fn disorder_is_a_problem() {
        assert_eq!(lineage().problem(), None);
        assert!(Lineage::default().problem().is_some());
        assert!(lineage().with(Epoch(5), Lsn(300)).problem().is_some());
        assert!(lineage().with(Epoch(6), Lsn(199)).problem().is_some());
    }
}
