use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The error returned when a [`Transport`](super::Transport) has no reply. Its texts must hold no password.
///
/// Clones share the cause.
#[derive(Clone)]
pub struct TransportError {
    kind: TransportErrorKind,
    cause: Arc<dyn Error + Send + Sync>,
}

/// The kind of a [`TransportError`]. It decides whether the backend sends a command again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// The connection failed or was lost. The server may have run the command.
    Io,
    /// The server does not accept connections. Nothing was sent, so the backend tries again within its time limit.
    Refused,
    /// The transport's own time limit expired. The server may have run the command.
    Timeout,
    /// The reply cannot be read. The connection is of no more use.
    Protocol,
    /// The server rejects the user or the password.
    Authentication,
    /// The server replied with an error; see [`TransportError::server_error`].
    Server,
    /// The client library rejects the command or the reply.
    Client,
}

impl TransportError {
    /// Creates an error of `kind` because of `cause`. Use [`from_server`](Self::from_server) for an error of the
    /// server.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    ///
    /// use tower_sluice::backend::redis::transport::{TransportError, TransportErrorKind};
    ///
    /// let lost = io::Error::from(io::ErrorKind::ConnectionReset);
    /// let error = TransportError::new(TransportErrorKind::Io, lost);
    /// assert_eq!(error.kind(), TransportErrorKind::Io);
    /// assert_eq!(error.to_string(), "connection reset");
    /// ```
    pub fn new(kind: TransportErrorKind, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind,
            cause: Arc::from(cause.into()),
        }
    }

    /// Creates the error for an error that the server replied.
    #[must_use]
    pub fn from_server(error: ServerError) -> Self {
        Self::new(TransportErrorKind::Server, error)
    }

    /// Returns the kind.
    #[must_use]
    pub const fn kind(&self) -> TransportErrorKind {
        self.kind
    }

    /// Returns the error of the server, if it replied with one.
    #[must_use]
    pub fn server_error(&self) -> Option<&ServerError> {
        self.cause.downcast_ref()
    }

    /// Returns the cause, to downcast it to the error of the client library.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.cause
    }

    /// Returns the code of the server's error.
    pub(in crate::backend::redis) fn code(&self) -> Option<&str> {
        self.server_error().map(ServerError::code)
    }
}

impl From<ServerError> for TransportError {
    fn from(error: ServerError) -> Self {
        Self::from_server(error)
    }
}

/// Shows the cause alone: it is the error, and the kind is derived from it.
impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl fmt::Debug for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TransportError")
            .field(&self.kind)
            .field(&self.cause)
            .finish()
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

/// An error that the server replied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError(Box<ErrorParts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct ErrorParts {
    code: Box<str>,
    text: Box<str>,
}

impl ServerError {
    /// Creates an error from its code, such as `OOM`, and its text.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::backend::redis::transport::ServerError;
    ///
    /// let error = ServerError::new("OOM", "OOM command not allowed when used memory > 'maxmemory'");
    /// assert_eq!(error.code(), "OOM");
    /// ```
    #[must_use]
    pub fn new(code: impl Into<Box<str>>, text: impl Into<Box<str>>) -> Self {
        Self(Box::new(ErrorParts {
            code: code.into(),
            text: text.into(),
        }))
    }

    /// Creates an error from the line that the server sent, without the `-` in front. The code is its first word.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_sluice::backend::redis::transport::ServerError;
    ///
    /// let error = ServerError::from_line("NOSCRIPT No matching script. Please use EVAL.");
    /// assert_eq!(error.code(), "NOSCRIPT");
    /// ```
    #[must_use]
    pub fn from_line(line: &str) -> Self {
        Self::new(line.split(' ').next().unwrap_or_default(), line)
    }

    /// Returns the code, such as `NOSCRIPT`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// Returns the whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ServerError {}
