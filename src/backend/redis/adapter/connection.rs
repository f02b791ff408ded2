use std::fmt;
use std::task::{Context, Poll, Waker};

use redis::aio::ConnectionLike;
use redis::{Pipeline, cmd};

use super::super::transport::{Command, Transport, TransportFuture, Value};
use super::convert;

/// Sends commands over clones of a connection of redis-rs.
///
/// - A `ConnectionManager` connects again by itself after a lost connection. A
///   [`MultiplexedConnection`](redis::aio::MultiplexedConnection) does not.
/// - Neither leaves a server that was demoted: every charge then fails with `READONLY`. A `redis+sentinel://` URL
///   follows the primary.
/// - The connection has a time limit for a response, 500 ms by default. It should be longer than
///   [`RedisBuilder::time_limit`](super::super::RedisBuilder::time_limit), because the shorter one applies.
/// - Set the retries of a `ClusterConnection` to 0. By default it sends a command again when a reply is missing, and
///   can charge twice.
pub struct RedisConnection<C>(C);

impl<C> RedisConnection<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    /// Sends commands over clones of `connection`.
    #[must_use]
    pub const fn new(connection: C) -> Self {
        Self(connection)
    }
}

impl<C> Transport for RedisConnection<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    fn send<'a>(&'a self, command: &'a Command) -> TransportFuture<'a, Value> {
        let mut connection = self.0.clone();
        Box::pin(async move {
            let command = convert::command(command);
            let reply = connection.req_packed_command(&command).await;
            reply.map(convert::value).map_err(convert::error)
        })
    }

    fn send_all<'a>(&'a self, commands: &'a [Command]) -> TransportFuture<'a, Vec<Value>> {
        let mut connection = self.0.clone();
        Box::pin(async move {
            let mut pipeline = Pipeline::with_capacity(commands.len());
            for command in commands {
                pipeline.add_command(convert::command(command));
            }
            let replies = connection.req_packed_commands(&pipeline, 0, commands.len());
            let replies = replies.await.map_err(convert::error)?;
            Ok(replies.into_iter().map(convert::value).collect())
        })
    }

    fn is_closed(&self) -> bool {
        // A command over a closed connection fails at its first poll. Over an open one it is queued, and its driver
        // skips it, because the future that waits for the reply is dropped.
        let (mut connection, ping) = (self.0.clone(), cmd("PING"));
        let mut sent = connection.req_packed_command(&ping);
        let mut context = Context::from_waker(Waker::noop());
        matches!(sent.as_mut().poll(&mut context), Poll::Ready(Err(_)))
    }
}

impl<C> fmt::Debug for RedisConnection<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection").finish_non_exhaustive()
    }
}
