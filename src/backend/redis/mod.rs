//! State in Redis, shared by a fleet: [`RedisBackend`].
//!
//! Guide: [share limits in a fleet](crate::_guide::fleet).
#![doc = include_str!("../../docs/redis.md")]
#![doc = include_str!("../../docs/production.md")]

pub mod adapter;
mod alerts;
mod answer;
mod atomicity;
mod backend;
mod batch_queue;
mod block;
#[cfg(feature = "blocking")]
pub(crate) mod blocking;
mod breaker;
mod builder;
mod calendar_edges;
#[cfg(feature = "cluster")]
mod cluster;
mod connect;
mod connections;
mod deny_cache;
mod detached_trip;
mod error;
mod generation;
mod keep_alive;
mod key_name;
mod known;
mod manager;
mod optimistic;
mod packed_quotas;
mod permit_request;
mod pipeline;
mod probe;
mod read;
mod request;
mod request_preparer;
mod round_trip;
mod script;
mod semaphore;
mod sent_numbers;
#[cfg(feature = "sentinel")]
mod sentinel;
#[cfg(any(feature = "cluster", feature = "sentinel"))]
mod single_task;
mod source;
mod stored_key;
#[cfg(feature = "tls")]
mod tls;
pub mod transport;
mod url;

pub use self::atomicity::Atomicity;
pub use self::backend::RedisBackend;
pub use self::builder::RedisBuilder;
pub use self::semaphore::RedisSemaphore;
