//! A recovery of the control plane: its events, typed and as sentences.

use crate::domain::event::EventKind;
use crate::domain::rescue::Source;
use crate::domain::types::MemberName;
use crate::pb::v1;
use v1::event::Kind;

fn name(source: Source) -> &'static str {
    match source {
        Source::Survivor => "survivor",
        Source::Snapshot => "snapshot",
    }
}

/// The typed form; `None` where it is no event of a recovery.
pub(super) fn kind(kind: &EventKind) -> Option<Kind> {
    Some(match kind {
        EventKind::ControlPlaneRecovered {
            generation,
            source,
            node,
            by,
            lost,
            retired,
            proven,
            members_complete,
        } => Kind::ControlPlaneRecovered(v1::ControlPlaneRecovered {
            generation: generation.0,
            source: name(*source).to_owned(),
            node: node.clone(),
            by: by.clone(),
            lost: lost.clone(),
            retired: retired.clone(),
            proven: *proven,
            members_complete: *members_complete,
        }),
        EventKind::EpochRaised { from, known, unheard } => Kind::EpochRaised(v1::EpochRaised {
            from: from.0,
            known: known.0,
            unheard: unheard.iter().map(MemberName::to_string).collect(),
        }),
        _ => return None,
    })
}

/// One sentence.
pub(super) fn text(kind: &EventKind) -> String {
    match kind {
        EventKind::ControlPlaneRecovered {
            generation,
            source,
            node,
            by,
            lost,
            retired,
            proven,
            members_complete,
        } => {
            let from = match source {
                Source::Survivor => format!("from the store of {node}"),
                Source::Snapshot => format!("from a snapshot, on {node}"),
            };
            let each = |what: &str, names: &[String]| match names {
                [] => String::new(),
                names => format!("; {what}: {}", names.join(", ")),
            };
            let complete = match members_complete {
                true => "; stated: it names all members",
                false => "",
            };
            let proven = match proven {
                true => "its state is proven to be the newest",
                false => "its state may not be the newest",
            };
            format!(
                "control plane recovered by {by} as generation {generation} {from}; \
                 {proven}{complete}{}{}",
                each("retired", retired),
                each("stated to be lost for ever", lost)
            )
        }
        EventKind::EpochRaised { from, known, unheard } => {
            let names: Vec<&str> = unheard.iter().map(MemberName::as_str).collect();
            let unheard = match names.as_slice() {
                [] => String::new(),
                names => format!("; not heard of: {}", names.join(", ")),
            };
            format!("epoch raised from {from}, members know of epoch {known}{unheard}")
        }
        _ => String::new(),
    }
}
