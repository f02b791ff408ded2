//! Transports for other crates: redis-rs ([`RedisConnection`], [`RedisClient`]) and bb8 ([`Bb8Pool`]).
//!
//! The types of these crates appear in this module only. A new major version of one of them changes nothing else. Your
//! program must depend on the same major version: `redis` 1, `bb8` 0.9.
//!
//! # Share a connection
//!
//! The backend sends everything over one connection that the program opens.
//!
//! ```no_run
//! use tower_sluice::RedisBackend;
//! use tower_sluice::backend::redis::adapter::RedisConnection;
//!
//! # async fn f() -> redis::RedisResult<()> {
//! let client = redis::Client::open("redis://127.0.0.1/")?;
//! let connection = client.get_multiplexed_async_connection().await?;
//! let redis = RedisBackend::builder().from_transport(RedisConnection::new(connection));
//! # Ok(()) }
//! ```
//!
//! # Open connections through a pool or a client
//!
//! The backend keeps connections of its own. It opens each of them as the pool or the client does.
//!
//! ```no_run
//! use bb8_redis::RedisConnectionManager;
//! use tower_sluice::RedisBackend;
//! use tower_sluice::backend::redis::adapter::{Bb8Pool, RedisClient};
//!
//! # async fn f() -> redis::RedisResult<()> {
//! let pool = bb8::Pool::builder().build(RedisConnectionManager::new("redis://127.0.0.1/")?).await?;
//! let redis = RedisBackend::builder().from_connector(Bb8Pool::new(pool));
//!
//! let client = redis::Client::open("redis://127.0.0.1/")?;
//! let redis = RedisBackend::builder().from_connector(RedisClient::new(client));
//! # Ok(()) }
//! ```

mod bb8_pool;
mod client;
mod connection;
mod convert;

pub use self::bb8_pool::Bb8Pool;
pub use self::client::RedisClient;
pub use self::connection::RedisConnection;
