//! The map from slots to nodes. A redirect corrects one slot. A refresh replaces the map.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::super::single_task::SingleTask;
use super::node::{Node, NodeSettings};
use super::slot::SLOTS;
use super::view::{ClusterView, NodeAddress};

/// The mark of a slot that no node serves.
const NOBODY: u16 = u16::MAX;

pub(super) struct Topology {
    pub(super) settings: NodeSettings,
    /// The nodes that the program has named. They are asked when no other node answers.
    pub(super) seeds: Vec<NodeAddress>,
    map: RwLock<SlotMap>,
    /// Whether there is a map. It wakes the requests that wait for the first one.
    known: watch::Sender<bool>,
    /// Wakes the background task to refresh the map.
    pub(super) wanted: Arc<Notify>,
    /// Whether the background task runs.
    pub(super) refreshing: SingleTask,
}

struct SlotMap {
    owners: Box<[u16]>,
    nodes: Vec<Arc<Node>>,
    replicas: Vec<NodeAddress>,
    epoch: u64,
    is_up: bool,
}

impl Topology {
    pub(super) fn new(settings: NodeSettings, seeds: Vec<NodeAddress>) -> Self {
        Self {
            settings,
            seeds,
            map: RwLock::new(SlotMap {
                owners: vec![NOBODY; SLOTS].into(),
                nodes: Vec::new(),
                replicas: Vec::new(),
                epoch: 0,
                is_up: false,
            }),
            known: watch::Sender::new(false),
            wanted: Arc::default(),
            refreshing: SingleTask::default(),
        }
    }

    /// Returns the node that serves `slot`.
    pub(super) fn owner(&self, slot: usize) -> Option<Arc<Node>> {
        let map = self.map.read();
        let index = usize::from(*map.owners.get(slot)?);
        map.nodes.get(index).cloned()
    }

    /// Returns whether there is a map.
    pub(super) fn is_known(&self) -> bool {
        *self.known.borrow()
    }

    /// Waits for the first map, for at most this time.
    pub(super) async fn until_known(&self, patience: Duration) -> bool {
        let mut known = self.known.subscribe();
        let first = known.wait_for(|known| *known);
        timeout(patience, first)
            .await
            .is_ok_and(|known| known.is_ok())
    }

    /// Returns the nodes that serve slots.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.map.read().nodes.clone()
    }

    /// Returns other nodes that may know the map.
    pub(super) fn others(&self) -> Vec<NodeAddress> {
        let mut others = self.map.read().replicas.clone();
        others.extend(self.seeds.iter().cloned());
        others
    }

    pub(super) fn epoch(&self) -> u64 {
        self.map.read().epoch
    }

    /// Returns whether some slots are not served.
    pub(super) fn is_in_trouble(&self) -> bool {
        let map = self.map.read();
        let is_open = |node: &Arc<Node>| node.client.breaker.is_tripped();
        !map.is_up || map.nodes.iter().any(is_open) || map.owners.contains(&NOBODY)
    }

    /// Returns the node at `announced`, which a redirect names.
    pub(super) fn node_at(&self, announced: NodeAddress) -> Option<Arc<Node>> {
        let address = self.settings.reachable(announced);
        let find = |map: &SlotMap| {
            let found = map.nodes.iter().find(|node| node.address == address);
            found.cloned()
        };
        if let Some(node) = find(&self.map.read()) {
            return Some(node);
        }
        let mut map = self.map.write();
        if let Some(node) = find(&map) {
            return Some(node);
        }
        let node = self.settings.node(address).ok()?;
        map.nodes.push(Arc::clone(&node));
        Some(node)
    }

    /// Notes that `node` serves `slot` now.
    pub(super) fn moved(&self, slot: usize, node: &Arc<Node>) {
        let mut map = self.map.write();
        let index = map.nodes.iter().position(|known| Arc::ptr_eq(known, node));
        let index = index.and_then(|index| u16::try_from(index).ok());
        if let (Some(index), Some(owner)) = (index, map.owners.get_mut(slot)) {
            *owner = index;
        }
    }

    /// Replaces the map by `view`. Nodes that stay keep their connections.
    pub(super) fn apply(&self, view: ClusterView) {
        let mut owners = vec![NOBODY; SLOTS];
        let mut nodes: Vec<Arc<Node>> = Vec::new();
        let mut map = self.map.write();
        let old: HashMap<&NodeAddress, &Arc<Node>> =
            map.nodes.iter().map(|node| (&node.address, node)).collect();
        let mut places: HashMap<NodeAddress, u16> = HashMap::new();
        for (range, announced) in view.ranges {
            let address = self.settings.reachable(announced);
            let place = match places.entry(address) {
                Entry::Occupied(place) => *place.get(),
                Entry::Vacant(place) => {
                    let known = old.get(place.key()).map(|node| Arc::clone(node));
                    let Some(node) = known.or_else(|| self.settings.node(place.key().clone()).ok())
                    else {
                        continue;
                    };
                    nodes.push(node);
                    *place.insert(u16::try_from(nodes.len() - 1).unwrap_or(NOBODY))
                }
            };
            owners[range].fill(place);
        }
        let changed = owners[..] != map.owners[..] || view.is_up != map.is_up || {
            let pairs = nodes.iter().zip(&map.nodes);
            nodes.len() != map.nodes.len() || !pairs.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
        };
        let replicas = view.replicas.into_iter();
        let gone = std::mem::replace(
            &mut *map,
            SlotMap {
                owners: owners.into(),
                nodes,
                replicas: replicas.map(|node| self.settings.reachable(node)).collect(),
                epoch: view.epoch,
                is_up: view.is_up,
            },
        );
        if changed {
            // A node may have become a primary, or may be reachable again.
            map.nodes
                .iter()
                .for_each(|node| node.client.breaker.probe_now());
        }
        drop(map);
        // The nodes that are gone close their connections.
        drop(gone);
        self.known.send_replace(true);
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        // Lets the background task end.
        self.wanted.notify_one();
    }
}
