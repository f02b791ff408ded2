use std::fmt;
use std::sync::Arc;

use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, RedisError};

use super::super::super::BackendError;
use super::super::transport::{Connector, Transport, TransportFuture};
use super::connection::RedisConnection;
use super::convert;

/// Opens connections with a [`redis::Client`], such as a client with its own certificates.
pub struct RedisClient(Client);

impl RedisClient {
    /// Opens connections with `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        #[cfg(feature = "tls")]
        super::super::tls::prepare(client.get_connection_info());
        Self(client)
    }

    /// Opens connections to the server of `url`.
    pub(in crate::backend::redis) fn from_url(url: &str) -> Result<Self, BackendError> {
        let unreadable = |error: RedisError| {
            // The text of this error names parts of a URL, and never contains one.
            BackendError::config(format!(
                r#"invalid Redis URL: {error}; use for example "redis://127.0.0.1:6379/0""#
            ))
        };
        let info: ConnectionInfo = url.into_connection_info().map_err(unreadable)?;
        // Before the client is opened, which reads the certificates.
        #[cfg(feature = "tls")]
        super::super::tls::prepare(&info);
        Client::open(info).map(Self).map_err(unreadable)
    }
}

impl Connector for RedisClient {
    fn connect(&self) -> TransportFuture<'_, Arc<dyn Transport>> {
        // The backend limits both.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        Box::pin(async move {
            let connection = self.0.get_multiplexed_async_connection_with_config(&config);
            let connection = connection.await.map_err(convert::error)?;
            let connection: Arc<dyn Transport> = Arc::new(RedisConnection::new(connection));
            Ok(connection)
        })
    }
}

/// Shows no URL: it can hold a password.
impl fmt::Debug for RedisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisClient").finish_non_exhaustive()
    }
}
