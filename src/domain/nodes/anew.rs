//! The nodes of a new generation of the control plane.

use std::collections::BTreeMap;

use super::super::types::{NodeId, WallMillis};
use super::{Node, Nodes};

/// How many ids a lost majority may have handed out at most after the state that is recovered.
const UNKNOWN_IDS: u64 = 1000;

impl Nodes {
    /// Who else has or had this id, where it cannot be that of the node `name`.
    pub fn id_taken(&self, id: NodeId, name: &str) -> Option<String> {
        if let Some(node) = self.members.get(&id).filter(|node| node.name != name) {
            return Some(format!("node {}", node.name));
        }
        if let Some(gone) = self.removed.get(&id) {
            return Some(format!("node {}, which was removed", gone.name));
        }
        match &self.change {
            Some(change) if change.id() == id && change.name() != name => {
                Some(format!("node {}, which was to come in", change.name()))
            }
            _ if self.members.contains_key(&id) || id >= self.next_id => None,
            Some(change) if change.id() == id => None,
            _ => Some("a node that was removed".to_owned()),
        }
    }

    /// Begins anew with this one voter. All others are gone, and their ids are never used again.
    /// Where this state is not `proven` to be the newest, ids may have been handed out that it does
    /// not know: so many are left out.
    pub fn begin_anew(
        &mut self,
        id: NodeId,
        name: &str,
        address: &str,
        at: WallMillis,
        proven: bool,
    ) {
        let unknown = if proven { 0 } else { UNKNOWN_IDS };
        self.next_id = self.free_id(std::iter::once(id)).saturating_add(unknown);
        self.change = None;
        self.joint = false;
        let (name, address) = (name.to_owned(), address.to_owned());
        let own = BTreeMap::from([(id, Node { name, address, voter: true })]);
        for (other, node) in std::mem::replace(&mut self.members, own) {
            if other != id {
                self.forget(other, node.name, at);
            }
        }
        self.removed.remove(&id);
    }
}
