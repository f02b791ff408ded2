//! The connections that the backend opens. A pool of bb8 keeps and replaces them.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bb8::{ManageConnection, Pool, PooledConnection, RunError};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::super::{BackendError, BackendErrorKind};
use super::error::{from_transport, unreachable};
use super::generation::{KEEP_ALIVE, RetireOnDrop};
use super::keep_alive::Refill;
use super::manager::{ConnectionManager, ManagedConnection};
use super::transport::{Connector, TransportErrorKind};

/// The connections, opened at the first use. The drop of the pool ends their background tasks.
pub(super) struct ConnectionPool {
    pooled: Arc<Pooled>,
    /// One permit for each connection, for operations that need a connection to themselves.
    pub(super) slots: Semaphore,
    _open: watch::Sender<()>,
}

/// The part that background tasks use.
struct Pooled {
    manager: ConnectionManager,
    most: u32,
    /// Created at the first use, because it needs a runtime.
    pool: Mutex<Option<Pool<ConnectionManager>>>,
    /// Whether a background task opens a connection.
    is_refilling: Arc<AtomicBool>,
    /// Ends when the backend is dropped.
    closed: watch::Receiver<()>,
}

/// The time after which a request asks the pool again for a connection. The pool may rely on an attempt to connect that
/// was made for another request, and does not report its failure.
const REASK: Duration = Duration::from_millis(20);

/// A connection that was silent for at most this time is used without a check that it is open.
const FRESH: Duration = Duration::from_millis(20);

/// The pauses between attempts to connect in the background.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl ConnectionPool {
    pub(super) fn new(connector: Arc<dyn Connector>, most: u32, time_limit: Duration) -> Self {
        let (open, closed) = watch::channel(());
        let pooled = Arc::new_cyclic(|home: &Weak<Pooled>| Pooled {
            manager: ConnectionManager::new(connector, time_limit, home.clone()),
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

    /// Opens the first connection and checks that it answers.
    pub(super) async fn first(&self) -> Result<(), BackendError> {
        self.pooled.first().await
    }

    /// Retires all connections. New ones are opened at the next operation, and one at once if there were any.
    #[cfg(feature = "sentinel")]
    pub(super) fn retire_all(&self) {
        self.pooled.manager.marks.retire_all();
    }

    /// Returns a connection for this caller alone, as long as it is held.
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
                // The keep-alive tasks keep connections open. A request must not wait for a new one.
                .idle_timeout(None)
                .max_lifetime(None)
                .build_unchecked(self.manager.clone())
        };
        self.pool.lock().get_or_insert_with(make).clone()
    }

    /// Replaces the pool if no attempt to connect has ended for longer than an attempt can take.
    ///
    /// The runtime that ran the attempts has ended then, and the pool would wait for them for ever.
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
            TransportErrorKind::Server => from_transport(why),
            _ => unreachable(why),
        })?;
        // Fails if the pool was filled meanwhile.
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
        // Reports a failure to connect at once, not at the time limit. Only failures from now on count.
        let mut failure = self.manager.failure.subscribe();
        loop {
            let sound = async {
                let Ok(got) = timeout(REASK, self.pool().get_owned()).await else {
                    self.waited_in_vain();
                    return Ok(None);
                };
                let mut connection = got?;
                // A connection that was retired in the pool is dropped here, and the pool does not take it back.
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

    /// Returns whether a connection can be used. If its keep-alive task has not run, because the runtime or the process
    /// stood still, this sends a `PING`.
    async fn is_sound(&self, connection: &mut ManagedConnection) -> bool {
        if connection.life.is_over() {
            return false;
        }
        let silence = connection.life.silence();
        if silence > FRESH && connection.transport.is_closed() {
            connection.life.retire();
            return false;
        }
        let doubts = self.manager.marks.doubts();
        let trusted = self.manager.patience().saturating_add(2 * KEEP_ALIVE);
        if silence < trusted && connection.answered == doubts {
            return true;
        }
        // If this future is dropped, the reply is missing, as if the connection were dead.
        let life = Arc::clone(&connection.life);
        let mut doubt = RetireOnDrop(Some(&life));
        let ping = self.manager.is_valid(connection);
        // The rest of the time limit is for a new connection.
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

/// Marks that a background task opens a connection.
struct Refilling(Arc<AtomicBool>);

impl Drop for Refilling {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}
