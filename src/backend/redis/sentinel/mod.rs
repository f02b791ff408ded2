//! Redis behind Sentinel: connections lead to the primary, and follow it when it changes.
//!
//! `connector.rs` opens connections to the primary, which `state.rs` knows. `watch.rs` is the background task that
//! learns of changes, and `query.rs` has its questions to the sentinels.

mod connector;
mod query;
mod state;
mod watch;

pub(super) use self::connector::SentinelConnector;
pub(super) use self::state::{PrimaryState, SentinelSettings};
