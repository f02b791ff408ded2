//! Where connections come from: a pool of `bb8` that makes and replaces them, or one that the user has made.
//!
//! Decisions share connections: one is taken out of the pool, cloned, and given back before the first byte is written, so that
//! none is held for the length of a decision. bb8-redis never calls a connection broken; the mark here retires those that are.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bb8::{ManageConnection, Pool, PooledConnection, RunError};
use bb8_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use bb8_redis::redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::{BackendError, BackendErrorKind};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Makes new connections.
pub(super) trait Connect: Send + Sync {
    fn connect(&self) -> BoxFuture<'_, Result<MultiplexedConnection, RedisError>>;
}

/// As another manager does.
pub(super) struct ByManager<M>(pub(super) M);

impl<M> Connect for ByManager<M>
where
    M: ManageConnection<Connection = MultiplexedConnection, Error = RedisError>,
{
    fn connect(&self) -> BoxFuture<'_, Result<MultiplexedConnection, RedisError>> {
        Box::pin(self.0.connect())
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
pub(super) struct Connection {
    io: MultiplexedConnection,
    life: Arc<Life>,
    used: Instant,
}

/// How long a connection is good for: until it is retired, or its generation.
pub(super) struct Life {
    generation: u64,
    /// Older ones are over.
    youngest: Arc<AtomicU64>,
    retired: AtomicBool,
}

// Relaxed: the marks carry no other memory, and one that is seen late costs an operation.
impl Life {
    fn is_over(&self) -> bool {
        self.retired.load(Relaxed) || self.generation < self.youngest.load(Relaxed)
    }

    /// This connection is not to be used again.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// It leads nowhere, or to a server of no use: so do all that were made before it failed. They are replaced before each of
    /// them has cost an operation.
    pub(super) fn retire_generation(&self) {
        self.youngest.fetch_max(self.generation + 1, Relaxed);
    }
}

/// Retires its generation unless it is told that all is well.
struct Doubt<'a>(Option<&'a Life>);

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(life) = self.0 {
            life.retire_generation();
        }
    }
}

/// Around whatever makes connections.
#[derive(Clone)]
pub(super) struct Manager {
    maker: Arc<dyn Connect>,
    /// The latest failure to connect: bb8 would tell those who wait only that time is up.
    failure: Arc<watch::Sender<Option<RedisError>>>,
    youngest: Arc<AtomicU64>,
    time_limit: Duration,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let generation = self.youngest.load(Relaxed);
        match self.maker.connect().await {
            Ok(mut io) => {
                // Ours decides, not the half second that redis-rs has by itself.
                io.set_response_timeout(self.time_limit.saturating_mul(2));
                Ok(Connection {
                    io,
                    life: Arc::new(Life {
                        generation,
                        youngest: Arc::clone(&self.youngest),
                        retired: AtomicBool::new(false),
                    }),
                    used: Instant::now(),
                })
            }
            Err(error) => {
                self.failure.send_replace(Some(error.clone()));
                Err(error)
            }
        }
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        bb8_redis::redis::cmd("PING")
            .exec_async(&mut connection.io)
            .await
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.life.is_over()
    }
}

/// Connections of ours, made when they are first needed.
pub(super) struct Connections {
    manager: Manager,
    most: u32,
    /// Made at the first use: then there is a runtime.
    pool: OnceLock<Pool<Manager>>,
}

/// A connection that nobody has used for so long is closed, before a firewall or the server does it unseen.
const IDLE: Duration = Duration::from_secs(60);

/// A connection that was not used for so long is asked whether it still leads anywhere: a restart meanwhile costs no decision.
const TRUSTED: Duration = Duration::from_secs(1);

/// Who waits for a connection asks the pool anew after so long: nobody is told that an attempt has failed which was made for
/// others, and counted on.
const REASK: Duration = Duration::from_millis(20);

impl Connections {
    pub(super) fn new(maker: Arc<dyn Connect>, most: u32, time_limit: Duration) -> Self {
        let failure = Arc::new(watch::Sender::new(None));
        Self {
            manager: Manager {
                maker,
                failure,
                youngest: Arc::default(),
                time_limit,
            },
            most,
            pool: OnceLock::new(),
        }
    }

    fn pool(&self) -> &Pool<Manager> {
        self.pool.get_or_init(|| {
            Pool::builder()
                .max_size(self.most)
                .test_on_check_out(false)
                .retry_connection(false)
                .connection_timeout(self.manager.time_limit)
                .idle_timeout(IDLE)
                .build_unchecked(self.manager.clone())
        })
    }

    /// Makes the first connection, however long it takes, and sees that it answers.
    pub(super) async fn first(&self) -> Result<(), BackendError> {
        let mut connection = self.manager.connect().await.map_err(unreachable)?;
        self.manager
            .is_valid(&mut connection)
            .await
            .map_err(unreachable)?;
        // If others have filled the pool meanwhile it is not needed.
        let _ = self.pool().add(connection);
        Ok(())
    }

    /// Whether there are connections, and others have them all.
    pub(super) fn are_in_use(&self) -> bool {
        let state = self.pool().state();
        state.connections > 0 && state.idle_connections == 0
    }

    /// A connection for this caller alone, as long as it is held.
    pub(super) async fn check_out(&self) -> Result<PooledConnection<'_, Manager>, BackendError> {
        // A failure is heard of at once, and not when time is up. From now on: an old one is no news.
        let mut failure = self.manager.failure.subscribe();
        loop {
            let sound = async {
                let Ok(got) = timeout(REASK, self.pool().get()).await else {
                    return Ok(None);
                };
                let mut connection = got?;
                // It may have been retired while it was in the pool: dropped, it is not put back.
                let is_sound = self.is_sound(&mut connection).await;
                Ok(is_sound.then_some(connection))
            };
            tokio::select! {
                biased;
                got = sound => match got {
                    Ok(Some(mut connection)) => {
                        connection.used = Instant::now();
                        return Ok(connection);
                    }
                    Ok(None) => {}
                    Err(RunError::User(error)) => return Err(unreachable(error)),
                    Err(RunError::TimedOut) => return Err(BackendError::new(BackendErrorKind::Unreachable)),
                },
                _ = failure.changed() => return Err(match failure.borrow_and_update().clone() {
                    Some(error) => unreachable(error),
                    None => BackendError::new(BackendErrorKind::Unreachable),
                }),
            }
        }
    }

    /// Whether a connection is not over, and leads somewhere if it was idle.
    async fn is_sound(&self, connection: &mut Connection) -> bool {
        if connection.life.is_over() {
            return false;
        }
        if connection.used.elapsed() < TRUSTED {
            return true;
        }
        // If it does not answer, this future is dropped when time is up.
        let life = Arc::clone(&connection.life);
        let mut doubt = Doubt(Some(&life));
        let answers = self.manager.is_valid(connection).await.is_ok();
        if answers {
            doubt.0 = None;
        }
        answers
    }
}

/// No connection, because of this.
fn unreachable(why: RedisError) -> BackendError {
    BackendError::because(BackendErrorKind::Unreachable, why)
}

/// A connection of the user's own, cloned for each use.
pub(super) trait Shared: Send + Sync {
    fn lend(&self) -> Box<dyn ConnectionLike + Send>;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Shared for C {
    fn lend(&self) -> Box<dyn ConnectionLike + Send> {
        Box::new(self.clone())
    }
}

/// Where commands go.
pub(super) enum Source {
    Pool(Connections),
    Shared(Box<dyn Shared>),
}

impl Source {
    pub(super) async fn lend(&self) -> Result<Lent, BackendError> {
        match self {
            Self::Pool(connections) => {
                let connection = connections.check_out().await?;
                Ok(Lent {
                    io: Box::new(connection.io.clone()),
                    life: Some(Arc::clone(&connection.life)),
                })
            }
            Self::Shared(shared) => Ok(Lent {
                io: shared.lend(),
                life: None,
            }),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pool(_) => "Pool",
            Self::Shared(_) => "Shared",
        })
    }
}

/// A clone of a connection.
pub(super) struct Lent {
    io: Box<dyn ConnectionLike + Send>,
    life: Option<Arc<Life>>,
}

impl Lent {
    /// Sends one command and waits for its answer.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = self.io.req_packed_command(command).await;
        let answer = answer.and_then(Value::extract_error);
        if let Err(error) = &answer
            && is_broken(error)
        {
            self.retire();
        }
        answer
    }

    /// Lets the pool replace it, and those of its generation.
    pub(super) fn retire(&self) {
        if let Some(life) = &self.life {
            life.retire_generation();
        }
    }
}

impl Connection {
    pub(super) fn io(&mut self) -> &mut MultiplexedConnection {
        &mut self.io
    }

    pub(super) const fn life(&self) -> &Arc<Life> {
        &self.life
    }
}

/// Whether a connection cannot be used after this error: it is gone, or leads to a server that takes no writes.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.kind() == ErrorKind::Parse
        || error.is_unrecoverable_error()
        || is_of_elsewhere(error)
}

/// A server that is being demoted, loads its data, or has lost its primary: others may be right by now.
fn is_of_elsewhere(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown
        )
    )
}
