//! How to connect to a cluster.

use crate::domain::ClusterState;
use crate::pb::v1;

/// Every member's address: the primary's first, then by name. While there is no primary, the
/// member that holds or held the newest epoch comes first. A member whose address is not
/// `host:port` is left out.
pub fn hosts(state: &ClusterState) -> Vec<v1::Host> {
    let primary = state.active_primary();
    let first = primary.or(state.tenure.as_ref().map(|t| &t.member));
    let mut hosts: Vec<v1::Host> = state
        .members
        .iter()
        .filter_map(|(name, member)| {
            let (host, port) = split(&member.address)?;
            let primary = primary == Some(name);
            Some(v1::Host { member: name.to_string(), host, port: port.into(), primary })
        })
        .collect();
    hosts.sort_by_key(|h| first.is_none_or(|f| f.as_str() != h.member));
    hosts
}

fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|p| *p != 0)?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}
