//! Who streams from whom: the members of a cluster as a tree.

use std::collections::BTreeSet;

use crate::pb::v1;

/// The members, each after the one that it streams from, with its depth. Roots are the primary
/// first, then every member that streams from nobody, in their order; a circle, which cannot last,
/// is begun where it is met.
pub(super) fn tree(cluster: &v1::Cluster) -> Vec<(usize, &v1::Member)> {
    let members = &cluster.members;
    let primary = members.iter().filter(|m| m.name == cluster.primary);
    let others = members.iter().filter(|m| source(cluster, m).is_empty());
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    for root in primary.chain(others).chain(members) {
        add(root, 0, cluster, &mut seen, &mut out);
    }
    out
}

/// Whom a member streams from; empty where that is nobody of the cluster.
fn source<'a>(cluster: &'a v1::Cluster, member: &'a v1::Member) -> &'a str {
    let source = match member.upstream.as_str() {
        "" if member.streaming => &cluster.primary,
        upstream => upstream,
    };
    let known = source != member.name && cluster.members.iter().any(|m| m.name == source);
    if known { source } else { "" }
}

fn add<'a>(
    member: &'a v1::Member,
    depth: usize,
    cluster: &'a v1::Cluster,
    seen: &mut BTreeSet<&'a str>,
    out: &mut Vec<(usize, &'a v1::Member)>,
) {
    if !seen.insert(&member.name) {
        return;
    }
    out.push((depth, member));
    for below in cluster.members.iter().filter(|m| source(cluster, m) == member.name) {
        add(below, depth + 1, cluster, seen, out);
    }
}

/// The name of a member at a depth: `a`, `+ b`, `  + c`.
pub(super) fn label(depth: usize, name: &str) -> String {
    match depth {
        0 => name.to_owned(),
        _ => format!("{}+ {name}", "  ".repeat(depth - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members by name, whom they stream from where that is said, and whether they stream.
    fn shown(members: &[(&str, &str, bool)]) -> Vec<String> {
        let one = |(name, upstream, streaming): &(&str, &str, bool)| v1::Member {
            name: (*name).to_owned(),
            upstream: (*upstream).to_owned(),
            streaming: *streaming,
            ..Default::default()
        };
        let members = members.iter().map(one).collect();
        let cluster = v1::Cluster { primary: "p".to_owned(), members, ..Default::default() };
        tree(&cluster).into_iter().map(|(depth, m)| label(depth, &m.name)).collect()
    }

    #[test]
    fn everybody_is_listed_once_below_its_source() {
        let cascade = [
            ("a", "", true),
            ("b", "a", true),
            ("c", "b", false),
            ("d", "", false),
            ("p", "", false),
            ("z", "", true),
        ];
        assert_eq!(shown(&cascade), ["p", "+ a", "  + b", "    + c", "+ z", "d"]);
        let circle = [("a", "b", true), ("b", "a", true), ("c", "gone", true)];
        assert_eq!(shown(&circle), ["c", "a", "+ b"]);
        assert_eq!(shown(&[]), [""; 0]);
    }
}
