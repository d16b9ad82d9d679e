//! The comments in `proto/` are the reference of the API: whatever can be named has one.

use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::source_code_info::Location;

/// Numbers of fields in descriptor.proto: paths of locations are made of them.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;

/// Whether the path names a message, a field, an enum, one of its values, a service or a call.
fn is_item(path: &[i32]) -> bool {
    matches!(path, [MESSAGES | ENUMS | SERVICES, _] | [MESSAGES | ENUMS | SERVICES, _, 2, _])
}

#[test]
fn everything_is_documented() {
    let set = FileDescriptorSet::decode(quorate::pb::DESCRIPTORS).expect("descriptors");
    let mut undocumented = Vec::new();
    let mut items = 0;
    for file in set.file.iter().filter(|f| f.package().starts_with("quorate.")) {
        let info = file.source_code_info.as_ref().expect("comments are compiled in");
        for location in info.location.iter().filter(|l| is_item(&l.path)) {
            items += 1;
            if !reads_as_a_sentence(location) {
                undocumented.push(format!("proto/{}:{}", file.name(), location.span[0] + 1));
            }
        }
    }
    assert!(items > 100, "{items}");
    assert_eq!(undocumented, [""; 0], "without a comment that is a sentence");
}

fn reads_as_a_sentence(location: &Location) -> bool {
    let text = location.leading_comments().trim();
    text.ends_with(['.', '?', ')']) && text.chars().next().is_some_and(|c| !c.is_lowercase())
}
