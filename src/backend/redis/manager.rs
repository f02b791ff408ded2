//! Makes connections, whoever knows how to, and tells bb8 which are over.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bb8::{ManageConnection, Pool};
use bb8_redis::redis::aio::MultiplexedConnection;
use bb8_redis::redis::{AsyncConnectionConfig, Client, RedisError, cmd};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::generation::{ConnectionLife, Generations};
use super::keep_alive::{KeepAlive, Refill};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Makes new connections.
pub(super) trait Connect: Send + Sync {
    fn connect(&self) -> BoxFuture<'_, Result<MultiplexedConnection, RedisError>>;
}

/// By a URL.
pub(super) struct ByClient(pub(super) Client);

impl Connect for ByClient {
    fn connect(&self) -> BoxFuture<'_, Result<MultiplexedConnection, RedisError>> {
        // Both are bounded by those who wait.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        Box::pin(async move {
            self.0
                .get_multiplexed_async_connection_with_config(&config)
                .await
        })
    }
}

/// As the manager of a user's pool does; the pool's own connections stay its user's.
pub(super) struct ByPool<M: ManageConnection>(pub(super) Pool<M>);

impl<M> Connect for ByPool<M>
where
    M: ManageConnection<Connection = MultiplexedConnection, Error = RedisError>,
{
    fn connect(&self) -> BoxFuture<'_, Result<MultiplexedConnection, RedisError>> {
        Box::pin(self.0.dedicated_connection())
    }
}

/// A connection of ours, and whether it is to be replaced.
pub(super) struct ManagedConnection {
    pub(super) io: MultiplexedConnection,
    pub(super) life: Arc<ConnectionLife>,
    /// The doubts that it has answered.
    pub(super) answered: u64,
    /// Dropped with it: that ends its keep-alive task.
    _open: oneshot::Sender<Infallible>,
}

/// The longest time that the keep-alive task waits for an answer, and that an attempt to connect takes, at least. A
/// connection costs up to six round trips.
const PATIENCE: Duration = Duration::from_secs(2);

/// Around whatever makes connections.
#[derive(Clone)]
pub(super) struct ConnectionManager {
    maker: Arc<dyn Connect>,
    home: Weak<dyn Refill>,
    /// The latest failure to connect: bb8 would tell those who wait only that time is up.
    pub(super) failure: Arc<watch::Sender<Option<RedisError>>>,
    pub(super) marks: Arc<Generations>,
    /// Since when somebody has waited without an attempt coming to its end.
    pub(super) in_vain_since: Arc<Mutex<Option<Instant>>>,
    pub(super) time_limit: Duration,
}

impl ConnectionManager {
    pub(super) fn new(
        maker: Arc<dyn Connect>,
        time_limit: Duration,
        home: Weak<dyn Refill>,
    ) -> Self {
        Self {
            maker,
            home,
            failure: Arc::new(watch::Sender::new(None)),
            marks: Arc::default(),
            in_vain_since: Arc::default(),
            time_limit,
        }
    }

    /// No attempt to connect takes longer, even if those for whom it was made wait no more: others will.
    pub(super) fn patience(&self) -> Duration {
        self.time_limit.max(PATIENCE)
    }
}

impl ManageConnection for ConnectionManager {
    type Connection = ManagedConnection;
    type Error = RedisError;

    async fn connect(&self) -> Result<ManagedConnection, RedisError> {
        let generation = self.marks.generation();
        let made = match timeout(self.patience(), self.maker.connect()).await {
            Ok(made) => made,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        *self.in_vain_since.lock() = None;
        match made {
            Ok(mut io) => {
                // Ours decides, not the half second that redis-rs has by itself.
                io.set_response_timeout(self.patience().saturating_mul(2));
                let life = ConnectionLife::new(generation, &self.marks);
                let (open, closed) = oneshot::channel();
                let keep_alive = KeepAlive {
                    io: io.clone(),
                    life: Arc::clone(&life),
                    closed,
                    patience: self.patience(),
                    home: Weak::clone(&self.home),
                };
                tokio::spawn(keep_alive.run());
                Ok(ManagedConnection {
                    io,
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

    async fn is_valid(&self, connection: &mut ManagedConnection) -> Result<(), RedisError> {
        cmd("PING").exec_async(&mut connection.io).await
    }

    fn has_broken(&self, connection: &mut ManagedConnection) -> bool {
        connection.life.is_over()
    }
}
