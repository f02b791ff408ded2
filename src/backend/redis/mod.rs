//! State in Redis, shared by a fleet: [`RedisBackend`].
#![doc = include_str!("../../docs/redis.md")]

mod alerts;
mod atomicity;
mod backend;
mod batch_queue;
#[cfg(feature = "blocking")]
pub(crate) mod blocking;
mod breaker;
mod builder;
mod connections;
mod deny_cache;
mod error;
mod generation;
mod keep_alive;
mod key_name;
mod known;
mod manager;
mod optimistic;
mod packed_quotas;
mod permit_request;
mod probe;
mod request;
mod request_preparer;
mod round_trip;
mod script;
mod semaphore;
mod source;
#[cfg(feature = "tls")]
mod tls;

pub use self::atomicity::Atomicity;
pub use self::backend::RedisBackend;
pub use self::builder::RedisBuilder;
pub use self::semaphore::RedisSemaphore;
/// The pool and the client that this API speaks of, in the versions that it does: `bb8_redis::{bb8, redis}`.
#[doc(no_inline)]
pub use bb8_redis;
