//! Connections of ours: a pool of `bb8` makes and replaces them.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bb8::{ManageConnection, Pool, PooledConnection, RunError};
use bb8_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use bb8_redis::redis::cmd;
use bb8_redis::redis::{ErrorKind, RedisError};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::super::{BackendError, BackendErrorKind};
use super::error::from_redis;
use super::generation::{KEEP_ALIVE, RetireOnDrop};
use super::keep_alive::Refill;
use super::manager::{Connect, ConnectionManager, ManagedConnection};

/// Connections of ours, made when they are first needed. Its drop ends their background tasks.
pub(super) struct ConnectionPool {
    pooled: Arc<Pooled>,
    /// One for each connection, for those who need one to themselves.
    pub(super) slots: Semaphore,
    _open: watch::Sender<()>,
}

/// The part that background tasks use.
struct Pooled {
    manager: ConnectionManager,
    most: u32,
    /// Made at the first use: then there is a runtime.
    pool: Mutex<Option<Pool<ConnectionManager>>>,
    /// Whether a background task makes a connection.
    is_refilling: Arc<AtomicBool>,
    /// Ends when the backend is dropped.
    closed: watch::Receiver<()>,
}

/// Who waits for a connection asks the pool anew after so long: nobody is told that an attempt has failed which was
/// made for others, and counted on.
const REASK: Duration = Duration::from_millis(20);

/// A connection that was silent for less is used without a look whether it is still open.
const FRESH: Duration = Duration::from_millis(20);

/// The pauses between attempts to connect in the background.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl ConnectionPool {
    pub(super) fn new(maker: Arc<dyn Connect>, most: u32, time_limit: Duration) -> Self {
        let (open, closed) = watch::channel(());
        let pooled = Arc::new_cyclic(|home: &Weak<Pooled>| Pooled {
            manager: ConnectionManager::new(maker, time_limit, home.clone()),
            most,
            pool: Mutex::new(None),
            is_refilling: Arc::default(),
            closed,
        });
        Self {
            pooled,
            slots: Semaphore::new(
                usize::try_from(most).map_or(Semaphore::MAX_PERMITS, |most| {
                    most.min(Semaphore::MAX_PERMITS)
                }),
            ),
            _open: open,
        }
    }

    /// Makes the first connection and sees that it answers.
    pub(super) async fn first(&self) -> Result<(), BackendError> {
        self.pooled.first().await
    }

    /// A connection for this caller alone, as long as it is held.
    pub(super) async fn check_out(
        &self,
    ) -> Result<PooledConnection<'static, ConnectionManager>, BackendError> {
        self.pooled.check_out().await
    }
}

impl Pooled {
    fn pool(&self) -> Pool<ConnectionManager> {
        let make = || {
            Pool::builder()
                .max_size(self.most)
                .test_on_check_out(false)
                .retry_connection(false)
                .connection_timeout(self.manager.time_limit)
                // Connections are kept open by their keep-alive tasks: a request must not wait for a new one.
                .idle_timeout(None)
                .max_lifetime(None)
                .build_unchecked(self.manager.clone())
        };
        self.pool.lock().get_or_insert_with(make).clone()
    }

    /// Nobody got a connection for a while, and no attempt to make one has ended. If that lasts for longer than an
    /// attempt can take, those that the pool counts on are no more: they went down with their runtime. Another pool
    /// counts anew.
    fn waited_in_vain(&self) {
        let mut since = self.manager.in_vain_since.lock();
        match *since {
            None => *since = Some(Instant::now()),
            Some(start) if start.elapsed() > self.manager.patience().saturating_add(REASK) => {
                *since = None;
                *self.pool.lock() = None;
            }
            Some(_) => {}
        }
    }

    async fn first(&self) -> Result<(), BackendError> {
        let mut connection = self.manager.connect().await.map_err(unreachable)?;
        let answer = self.manager.is_valid(&mut connection).await;
        answer.map_err(|why| match why.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => from_redis(why),
            _ => unreachable(why),
        })?;
        // If others have filled the pool meanwhile it is not needed.
        let _ = self.pool().add(connection);
        Ok(())
    }

    async fn until_connected(&self) {
        let mut pause = FIRST_PAUSE;
        while self.check_out().await.is_err() {
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    async fn check_out(
        &self,
    ) -> Result<PooledConnection<'static, ConnectionManager>, BackendError> {
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
                    Ok(Some(connection)) => {
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

    /// Whether a connection is not over, and leads somewhere as far as is known. A connection whose keep-alive task has
    /// not run, as the runtime or the process stood still, is asked here.
    async fn is_sound(&self, connection: &mut ManagedConnection) -> bool {
        if connection.life.is_over() {
            return false;
        }
        let silence = connection.life.silence();
        if silence > FRESH && is_closed(&mut connection.io) {
            connection.life.retire();
            return false;
        }
        let doubts = self.manager.marks.doubts();
        let trusted = self.manager.patience().saturating_add(2 * KEEP_ALIVE);
        if silence < trusted && connection.answered == doubts {
            return true;
        }
        // Dropped before the answer, this future knows no better than if none came.
        let life = Arc::clone(&connection.life);
        let mut doubt = RetireOnDrop(Some(&life));
        let ping = self.manager.is_valid(connection);
        // What is left of the time limit is for a new one.
        let answers = timeout(self.manager.time_limit / 4, ping).await;
        let answers = matches!(answers, Ok(Ok(())));
        if answers {
            life.hear();
            connection.answered = doubts;
            doubt.0 = None;
        }
        answers
    }
}

impl Refill for Pooled {
    fn refill(self: Arc<Self>) {
        if self.is_refilling.swap(true, SeqCst) {
            return;
        }
        let refilling = Refilling(Arc::clone(&self.is_refilling));
        let (pooled, mut closed) = (Arc::clone(&self), self.closed.clone());
        tokio::spawn(async move {
            let _refilling = refilling;
            tokio::select! {
                _ = closed.changed() => {}
                () = pooled.until_connected() => {}
            }
        });
    }
}

/// Whether the server has closed this connection, told without a round trip: only then a command fails at once. One
/// that would be sent is dropped before it is.
fn is_closed(io: &mut MultiplexedConnection) -> bool {
    let ping = cmd("PING");
    let mut sent = io.req_packed_command(&ping);
    let mut context = Context::from_waker(Waker::noop());
    matches!(sent.as_mut().poll(&mut context), Poll::Ready(Err(_)))
}

/// A background task makes a connection as long as this is there.
struct Refilling(Arc<AtomicBool>);

impl Drop for Refilling {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// No connection, because of this.
fn unreachable(why: RedisError) -> BackendError {
    BackendError::because(BackendErrorKind::Unreachable, why)
}
