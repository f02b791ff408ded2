//! The boundary between the backend and a client of Redis: [`Transport`] and [`Connector`].
//!
//! The backend builds each [`Command`] and reads each [`Value`] itself. A transport only carries them. [`adapter`] has
//! transports for redis-rs and bb8; any other client can implement the traits.
//!
//! [`adapter`]: super::adapter

mod command;
mod error;
mod value;

use std::pin::Pin;
use std::sync::Arc;

pub use self::command::Command;
pub use self::error::{ServerError, TransportError, TransportErrorKind};
pub use self::value::Value;

/// The future of a [`Transport`] or a [`Connector`].
pub type TransportFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, TransportError>> + Send + 'a>>;

/// Sends commands to Redis and returns the replies.
///
/// Many tasks use one transport at the same time. It should send the command of one task while others still wait for
/// their replies.
///
/// It must never send a command again whose reply is missing: the server may have run it, and would charge twice.
///
/// # Cancel safety
///
/// The backend drops a future when its time limit expires. The reply that arrives later must not become the reply to
/// another command.
///
/// # Examples
///
/// A transport that counts the commands of another one:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
///
/// use tower_sluice::backend::redis::transport::{Command, Transport, TransportFuture, Value};
///
/// struct Counted<T> {
///     inner: T,
///     commands: AtomicU64,
/// }
///
/// impl<T: Transport> Transport for Counted<T> {
///     fn send<'a>(&'a self, command: &'a Command) -> TransportFuture<'a, Value> {
///         self.commands.fetch_add(1, Relaxed);
///         self.inner.send(command)
///     }
/// }
/// ```
pub trait Transport: Send + Sync + 'static {
    /// Sends one command and returns its reply.
    ///
    /// The transport needs no time limit of its own. If it has one, it should be longer than
    /// [`RedisBuilder::time_limit`](super::RedisBuilder::time_limit), because the shorter one applies.
    ///
    /// # Errors
    ///
    /// An error that the server replies may be returned as [`Value::Error`] or as a [`TransportError`]. Both mean the
    /// same.
    fn send<'a>(&'a self, command: &'a Command) -> TransportFuture<'a, Value>;

    /// Sends `commands` in this order and returns one value for each. The default sends one after the other.
    ///
    /// The connections of a [`Connector`] should write all commands at once, to save round trips. Other transports are
    /// not asked for this.
    ///
    /// # Errors
    ///
    /// If the connection fails. An error of one command must be returned as its [`Value::Error`].
    fn send_all<'a>(&'a self, commands: &'a [Command]) -> TransportFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut values = Vec::with_capacity(commands.len());
            for command in commands {
                values.push(match self.send(command).await {
                    Ok(value) => value,
                    Err(error) => match error.server_error() {
                        Some(error) => Value::Error(error.clone()),
                        None => return Err(error),
                    },
                });
            }
            Ok(values)
        })
    }

    /// Returns whether the connection is known to be closed, without a round trip; `false` by default.
    ///
    /// The backend asks this before it uses a connection of a [`Connector`] that was silent for 20 ms. It then replaces
    /// a closed connection instead of losing an operation.
    fn is_closed(&self) -> bool {
        false
    }
}

/// Opens connections to Redis, which the backend keeps, checks and replaces.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use tower_sluice::RedisBackend;
/// use tower_sluice::backend::redis::transport::{
///     Connector, Transport, TransportError, TransportErrorKind, TransportFuture,
/// };
///
/// /// Knows no server.
/// struct Nowhere;
///
/// impl Connector for Nowhere {
///     fn connect(&self) -> TransportFuture<'_, Arc<dyn Transport>> {
///         Box::pin(async { Err(TransportError::new(TransportErrorKind::Refused, "no server")) })
///     }
/// }
///
/// let redis = RedisBackend::builder().from_connector(Nowhere);
/// ```
pub trait Connector: Send + Sync + 'static {
    /// Opens a connection and authenticates it. The backend limits the time: to
    /// [`RedisBuilder::time_limit`](super::RedisBuilder::time_limit), and at least 2 s.
    ///
    /// # Errors
    ///
    /// If there is no connection. The kind [`Refused`](TransportErrorKind::Refused) lets the backend try again within
    /// its time limit.
    fn connect(&self) -> TransportFuture<'_, Arc<dyn Transport>>;
}
