//! One node of a cluster: its connections, its circuit and its queues. A dead node costs its own slots only.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::super::super::BackendError;
use super::super::adapter::RedisClient;
use super::super::batch_queue::BatchQueue;
use super::super::builder::AddressMap;
use super::super::connections::ConnectionPool;
use super::super::permit_request::PermitRequest;
use super::super::request::{Expiry, OpRequest, ScriptRequest};
use super::super::round_trip::ScriptClient;
use super::super::source::ConnectionSource;
use super::view::NodeAddress;

pub(in super::super) struct Node {
    pub(super) address: NodeAddress,
    /// The client of both queues.
    pub(super) client: Arc<ScriptClient>,
    queue: Arc<BatchQueue<Arc<OpRequest>>>,
    permit_queue: Arc<BatchQueue<Arc<PermitRequest>>>,
}

/// A request that is routed by its key.
pub(in super::super) trait RoutedRequest: ScriptRequest + Sized {
    /// Returns a key of the request. All of its keys have one slot.
    fn key(&self) -> &[u8];
    /// Returns the queue of the node for such requests.
    fn queue(node: &Node) -> &Arc<BatchQueue<Arc<Self>>>;

    /// Returns whether it can be sent in parts with fewer keys, after a node has not found all of them.
    fn has_parts(&self) -> bool {
        false
    }
}

impl RoutedRequest for OpRequest {
    fn key(&self) -> &[u8] {
        self.names.get(0)
    }

    fn queue(node: &Node) -> &Arc<BatchQueue<Arc<Self>>> {
        &node.queue
    }

    fn has_parts(&self) -> bool {
        self.is_decision() && self.block_scopes().next().is_some()
    }
}

impl RoutedRequest for PermitRequest {
    fn key(&self) -> &[u8] {
        &self.name
    }

    fn queue(node: &Node) -> &Arc<BatchQueue<Arc<Self>>> {
        &node.permit_queue
    }
}

/// The settings of all nodes.
pub(in super::super) struct NodeSettings {
    /// A client of one node. Another node has its credentials and its TLS settings.
    pub(in super::super) template: RedisClient,
    pub(in super::super) addresses: Option<AddressMap>,
    pub(in super::super) connections: NonZeroU32,
    pub(in super::super) time_limit: Duration,
    pub(in super::super) batching: bool,
    pub(in super::super) expiry: Expiry,
}

impl NodeSettings {
    /// Returns the address to connect to, for an address in the map of the cluster.
    pub(super) fn reachable(&self, announced: NodeAddress) -> NodeAddress {
        match &self.addresses {
            Some(map) => {
                let (host, port) = map(&announced.host, announced.port);
                NodeAddress::new(&host, port)
            }
            None => announced,
        }
    }

    pub(super) fn connector(&self, address: &NodeAddress) -> Result<RedisClient, BackendError> {
        self.template.to_host(&address.host, address.port)
    }

    pub(super) fn node(&self, address: NodeAddress) -> Result<Arc<Node>, BackendError> {
        let connector = Arc::new(self.connector(&address)?);
        let pool = ConnectionPool::new(connector, self.connections.get(), self.time_limit);
        let source = ConnectionSource::Pool(pool);
        let client = ScriptClient::new(source, self.time_limit, self.expiry, true);
        let client = Arc::new(client);
        Ok(Arc::new(Node {
            address,
            queue: BatchQueue::new(Arc::clone(&client), self.batching),
            permit_queue: BatchQueue::new(Arc::clone(&client), self.batching),
            client,
        }))
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.address).finish()
    }
}
