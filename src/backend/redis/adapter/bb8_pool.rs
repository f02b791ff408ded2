use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bb8::{ManageConnection, Pool};
use redis::RedisError;
use redis::aio::MultiplexedConnection;

use super::super::transport::{Connector, Transport, TransportFuture};
use super::connection::RedisConnection;
use super::convert;

/// Opens connections with the manager of a [`bb8::Pool`], such as a pool of bb8-redis.
///
/// The backend keeps the connections. The pool's own connections stay free for the rest of the program.
pub struct Bb8Pool<M: ManageConnection>(Pool<M>);

/// Longer than two time limits of the backend: a day each at most. The manager's own limit is half a second.
const NO_LIMIT: Duration = Duration::from_secs(4 * 86_400);

impl<M> Bb8Pool<M>
where
    M: ManageConnection<Connection = MultiplexedConnection, Error = RedisError>,
{
    /// Opens connections with the manager of `pool`.
    #[must_use]
    pub const fn new(pool: Pool<M>) -> Self {
        Self(pool)
    }
}

impl<M> Connector for Bb8Pool<M>
where
    M: ManageConnection<Connection = MultiplexedConnection, Error = RedisError>,
{
    fn connect(&self) -> TransportFuture<'_, Arc<dyn Transport>> {
        Box::pin(async move {
            let mut connection = self
                .0
                .dedicated_connection()
                .await
                .map_err(convert::error)?;
            connection.set_response_timeout(NO_LIMIT);
            let connection: Arc<dyn Transport> = Arc::new(RedisConnection::new(connection));
            Ok(connection)
        })
    }
}

impl<M: ManageConnection> fmt::Debug for Bb8Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bb8Pool").finish_non_exhaustive()
    }
}
