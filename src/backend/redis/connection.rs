//! Where connections come from: a pool of `bb8` that makes and replaces them, or one that the user has made.
//!
//! Decisions share connections: one is taken out of the pool, cloned, and given back before the first byte is written, so that
//! none is held for the length of a decision. bb8-redis never calls a connection broken; the mark here retires those that are.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bb8::{ManageConnection, Pool, PooledConnection, RunError};
use bb8_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use bb8_redis::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, ServerErrorKind, Value,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::super::{BackendError, BackendErrorKind};

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
pub(super) struct Connection {
    io: MultiplexedConnection,
    life: Arc<Life>,
    used: Instant,
    /// The doubts that it has answered.
    answered: u64,
}

/// How long a connection is good for: until it is retired, or its generation.
pub(super) struct Life {
    generation: u64,
    /// Older ones are over.
    youngest: Arc<AtomicU64>,
    doubts: Arc<AtomicU64>,
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

    /// It did not answer in time. The others are asked whether they do before they are used again.
    pub(super) fn doubt_all(&self) {
        self.doubts.fetch_add(1, Relaxed);
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
    doubts: Arc<AtomicU64>,
    /// Since when somebody has waited without an attempt coming to its end.
    in_vain_since: Arc<Mutex<Option<Instant>>>,
    time_limit: Duration,
}

impl Manager {
    /// No attempt to connect takes longer, even if those for whom it was made wait no more: others will.
    fn patience(&self) -> Duration {
        self.time_limit.max(Duration::from_secs(1))
    }
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let generation = self.youngest.load(Relaxed);
        let made = match timeout(self.patience(), self.maker.connect()).await {
            Ok(made) => made,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        *self.in_vain_since.lock() = None;
        match made {
            Ok(mut io) => {
                // Ours decides, not the half second that redis-rs has by itself.
                io.set_response_timeout(self.time_limit.saturating_mul(2));
                Ok(Connection {
                    io,
                    life: Arc::new(Life {
                        generation,
                        youngest: Arc::clone(&self.youngest),
                        doubts: Arc::clone(&self.doubts),
                        retired: AtomicBool::new(false),
                    }),
                    used: Instant::now(),
                    answered: self.doubts.load(Relaxed),
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
    /// One for each connection, for those who need one to themselves.
    pub(super) turns: Semaphore,
    /// Made at the first use: then there is a runtime.
    pool: Mutex<Option<Pool<Manager>>>,
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
                doubts: Arc::default(),
                in_vain_since: Arc::default(),
                time_limit,
            },
            most,
            turns: Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS)),
            pool: Mutex::new(None),
        }
    }

    fn pool(&self) -> Pool<Manager> {
        let make = || {
            Pool::builder()
                .max_size(self.most)
                .test_on_check_out(false)
                .retry_connection(false)
                .connection_timeout(self.manager.time_limit)
                .idle_timeout(IDLE)
                .build_unchecked(self.manager.clone())
        };
        self.pool.lock().get_or_insert_with(make).clone()
    }

    /// Nobody got a connection for a while, and no attempt to make one has ended. If that lasts for longer than an attempt
    /// can take, those that the pool counts on are no more: they went down with their runtime. Another pool counts anew.
    fn waited_in_vain(&self) {
        let mut since = self.manager.in_vain_since.lock();
        match *since {
            None => *since = Some(Instant::now()),
            Some(start) if start.elapsed() > self.manager.patience() + REASK => {
                *since = None;
                *self.pool.lock() = None;
            }
            Some(_) => {}
        }
    }

    /// Makes the first connection and sees that it answers.
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

    /// A connection for this caller alone, as long as it is held.
    pub(super) async fn check_out(
        &self,
    ) -> Result<PooledConnection<'static, Manager>, BackendError> {
        // A failure is heard of at once, and not when time is up. From now on: an old one is no news.
        let mut failure = self.manager.failure.subscribe();
        loop {
            let sound = async {
                let Ok(got) = timeout(REASK, self.pool().get_owned()).await else {
                    self.waited_in_vain();
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
                        *self.manager.in_vain_since.lock() = None;
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
        let doubts = self.manager.doubts.load(Relaxed);
        if connection.used.elapsed() < TRUSTED && connection.answered == doubts {
            return true;
        }
        // If it does not answer, this future is dropped when time is up.
        let life = Arc::clone(&connection.life);
        let mut doubt = Doubt(Some(&life));
        let ping = self.manager.is_valid(connection);
        // What is left of the time limit is for a new one.
        let answers = timeout(self.manager.time_limit / 4, ping).await;
        let answers = matches!(answers, Ok(Ok(())));
        if answers {
            connection.answered = doubts;
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
