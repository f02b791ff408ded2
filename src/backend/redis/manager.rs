//! Opens connections, and reports to bb8 which ones to replace.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bb8::ManageConnection;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::generation::{ConnectionLife, Generations};
use super::keep_alive::{KeepAlive, Refill, ping};
use super::transport::{Connector, Transport, TransportError, TransportErrorKind};

/// A connection that the backend has opened, and whether it is to be replaced.
pub(super) struct ManagedConnection {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) life: Arc<ConnectionLife>,
    /// The number of doubts after which the connection has answered.
    pub(super) answered: u64,
    /// The drop of this sender ends the keep-alive task.
    _open: oneshot::Sender<Infallible>,
}

/// The shortest limit for a reply to a keep-alive, and for an attempt to connect, which takes up to six round trips.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens connections through a [`Connector`] for the pool.
#[derive(Clone)]
pub(super) struct ConnectionManager {
    connector: Arc<dyn Connector>,
    home: Weak<dyn Refill>,
    /// The latest failure to connect. bb8 would only report that time is up.
    pub(super) failure: Arc<watch::Sender<Option<TransportError>>>,
    pub(super) marks: Arc<Generations>,
    /// The time since which a request waits while no attempt to connect has ended.
    pub(super) in_vain_since: Arc<Mutex<Option<Instant>>>,
    pub(super) time_limit: Duration,
}

impl ConnectionManager {
    pub(super) fn new(
        connector: Arc<dyn Connector>,
        time_limit: Duration,
        home: Weak<dyn Refill>,
    ) -> Self {
        Self {
            connector,
            home,
            failure: Arc::new(watch::Sender::new(None)),
            marks: Arc::default(),
            in_vain_since: Arc::default(),
            time_limit,
        }
    }

    /// Limits an attempt to connect. The attempt goes on when its request has ended, because later requests need the
    /// connection.
    pub(super) fn patience(&self) -> Duration {
        self.time_limit.max(PATIENCE)
    }
}

impl ManageConnection for ConnectionManager {
    type Connection = ManagedConnection;
    type Error = TransportError;

    async fn connect(&self) -> Result<ManagedConnection, TransportError> {
        let generation = self.marks.generation();
        let opened = match timeout(self.patience(), self.connector.connect()).await {
            Ok(opened) => opened,
            Err(_) => {
                let cause = io::Error::from(io::ErrorKind::TimedOut);
                Err(TransportError::new(TransportErrorKind::Timeout, cause))
            }
        };
        *self.in_vain_since.lock() = None;
        match opened {
            Ok(transport) => {
                let life = ConnectionLife::new(generation, &self.marks);
                let (open, closed) = oneshot::channel();
                let keep_alive = KeepAlive {
                    transport: Arc::clone(&transport),
                    life: Arc::clone(&life),
                    closed,
                    patience: self.patience(),
                    home: Weak::clone(&self.home),
                };
                tokio::spawn(keep_alive.run());
                Ok(ManagedConnection {
                    transport,
                    life,
                    answered: self.marks.doubts(),
                    _open: open,
                })
            }
            Err(error) => {
                self.failure.send_replace(Some(error.clone()));
                Err(error)
            }
        }
    }

    async fn is_valid(&self, connection: &mut ManagedConnection) -> Result<(), TransportError> {
        ping(&*connection.transport).await
    }

    fn has_broken(&self, connection: &mut ManagedConnection) -> bool {
        connection.life.is_over()
    }
}
