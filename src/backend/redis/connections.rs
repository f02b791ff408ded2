//! Connections of ours: a pool of `bb8` makes and replaces them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bb8::{ManageConnection, Pool, PooledConnection, RunError};
use bb8_redis::redis::RedisError;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::super::{BackendError, BackendErrorKind};
use super::life::{Doubt, IDLE, TRUSTED};
use super::manager::{Connect, Connection, Manager};

/// Connections of ours, made when they are first needed.
pub(super) struct Connections {
    manager: Manager,
    most: u32,
    /// One for each connection, for those who need one to themselves.
    pub(super) turns: Semaphore,
    /// Made at the first use: then there is a runtime.
    pool: Mutex<Option<Pool<Manager>>>,
}

/// Who waits for a connection asks the pool anew after so long: nobody is told that an attempt has failed which was made for
/// others, and counted on.
const REASK: Duration = Duration::from_millis(20);

impl Connections {
    pub(super) fn new(maker: Arc<dyn Connect>, most: u32, time_limit: Duration) -> Self {
        Self {
            manager: Manager::new(maker, time_limit),
            most,
            turns: Semaphore::new(
                usize::try_from(most).map_or(Semaphore::MAX_PERMITS, |most| {
                    most.min(Semaphore::MAX_PERMITS)
                }),
            ),
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
        let doubts = self.manager.marks.doubts();
        if connection.used.elapsed() < TRUSTED && connection.answered == doubts {
            return true;
        }
        // Dropped before the answer, this future knows no better than if none came.
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
