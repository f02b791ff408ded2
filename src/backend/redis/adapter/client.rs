use std::fmt;
use std::sync::Arc;

#[cfg(any(feature = "cluster", feature = "sentinel"))]
use redis::ConnectionAddr;
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

    /// Opens connections to the server of `url`. The message of an error shows `example`.
    pub(in crate::backend::redis) fn from_url(
        url: &str,
        example: &str,
    ) -> Result<Self, BackendError> {
        let info: ConnectionInfo = url
            .into_connection_info()
            .map_err(|error| unreadable(&error, example))?;
        Self::from_info(info, example)
    }

    fn from_info(info: ConnectionInfo, example: &str) -> Result<Self, BackendError> {
        // Before the client is opened, which reads the certificates.
        #[cfg(feature = "tls")]
        super::super::tls::prepare(&info);
        let client = Client::open(info);
        client
            .map(Self)
            .map_err(|error| unreadable(&error, example))
    }

    /// Opens connections to another server, with the credentials and the TLS settings of this one.
    #[cfg(any(feature = "cluster", feature = "sentinel"))]
    pub(in crate::backend::redis) fn to_host(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Self, BackendError> {
        let info = self.0.get_connection_info().clone();
        let host = host.to_owned();
        let address = match info.addr().clone() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure,
                tls_params,
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        Self::from_info(info.set_addr(address), "redis://127.0.0.1:6379/0")
    }

    /// Returns the client, to subscribe to events.
    #[cfg(feature = "sentinel")]
    pub(in crate::backend::redis) fn client(&self) -> Client {
        self.0.clone()
    }

    /// Returns host and port. Returns `None` for a Unix socket.
    #[cfg(feature = "cluster")]
    pub(in crate::backend::redis) fn host(&self) -> Option<(String, u16)> {
        match self.0.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some((host.clone(), *port))
            }
            _ => None,
        }
    }

    /// Returns the number of the database.
    #[cfg(feature = "cluster")]
    pub(in crate::backend::redis) fn database(&self) -> i64 {
        self.0.get_connection_info().redis_settings().db()
    }
}

/// The text of this error names parts of a URL, and never contains one.
fn unreadable(error: &RedisError, example: &str) -> BackendError {
    BackendError::config(format!(
        "invalid Redis URL: {error}; use for example {example:?}"
    ))
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
