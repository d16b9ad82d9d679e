//! The nodes of a new generation of the control plane.

use std::collections::BTreeMap;

use super::super::types::{NodeId, WallMillis};
use super::{Node, Nodes};

impl Nodes {
    /// Begins anew with this one voter. All others are gone, and their ids are never used again.
    pub fn begin_anew(&mut self, id: NodeId, name: &str, address: &str, at: WallMillis) {
        self.next_id = self.free_id(std::iter::once(id));
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
