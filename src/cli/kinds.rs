//! The kinds of events, as they are named in JSON and on the command line.

use prost::Message as _;
use prost_types::FileDescriptorSet;

use crate::pb::{DESCRIPTORS, v1};

/// The kind of an event, such as "alarm-raised"; "unknown" for one that this version does not know.
pub(super) fn of(event: &v1::Event) -> String {
    let value = event.kind.as_ref().and_then(|k| serde_json::to_value(k).ok());
    let name = value.as_ref().and_then(|v| v.as_object()).and_then(|o| o.keys().next().cloned());
    name.map_or_else(|| "unknown".to_owned(), |n| n.replace('_', "-"))
}

/// Reads a kind as an argument.
pub(super) fn known(text: &str) -> Result<String, String> {
    let wanted = text.trim().to_ascii_lowercase().replace('_', "-");
    let all = all();
    match all.contains(&wanted) {
        true => Ok(wanted),
        false => Err(format!("there is no such kind; there are {}", all.join(", "))),
    }
}

/// All kinds, by the description of the API that is compiled in.
fn all() -> Vec<String> {
    let Ok(set) = FileDescriptorSet::decode(DESCRIPTORS) else { return Vec::new() };
    let ours = set.file.iter().filter(|f| f.package() == "quorate.v1");
    let event = ours.flat_map(|f| &f.message_type).find(|m| m.name() == "Event");
    let fields = event.map(|m| m.field.as_slice()).unwrap_or_default();
    let kinds = fields.iter().filter(|f| f.oneof_index.is_some());
    kinds.map(|f| f.name().replace('_', "-")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_of_the_api() {
        let kind = v1::event::Kind::AlarmRaised(v1::AlarmRaised::default());
        let event = v1::Event { kind: Some(kind), ..Default::default() };
        assert_eq!(of(&event), "alarm-raised");
        assert_eq!(of(&v1::Event::default()), "unknown");
        assert_eq!(known("Alarm_raised"), Ok("alarm-raised".to_owned()));
        let error = known("promotedd").unwrap_err();
        assert!(error.contains("promoted, ") && error.contains("noticed"), "{error}");
    }
}
