//! Redis Cluster: a router over connections to each node.
//!
//! A key has a slot, and a slot has a node. `router.rs` finds the node and follows redirects. `node.rs` holds the
//! connections, the circuit and the queues of one node. `topology.rs` keeps the map from slots to nodes, `refresh.rs`
//! replaces it, and `view.rs` reads it from the replies of a node.

mod node;
mod parts;
mod probe;
mod redirect;
mod refresh;
mod router;
mod slot;
mod topology;
mod view;

pub(super) use self::node::NodeSettings;
pub(super) use self::probe::probe;
pub(super) use self::router::Router;
