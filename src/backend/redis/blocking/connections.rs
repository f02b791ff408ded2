//! Connections of ours, each for one operation at a time: r2d2 keeps them, and its threads make them.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bb8_redis::redis::{Client, Cmd, ConnectionLike, RedisError, Value};
use r2d2::{NopErrorHandler, Pool, PooledConnection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::unconstrained;

use super::super::super::{BackendError, BackendErrorKind};
use super::super::fault::{Slow, is_broken};
use super::super::life::{Doubt, IDLE, TRUSTED};
use super::manager::{Connection, Manager};

pub(super) struct Connections {
    manager: Manager,
    pool: Pool<Manager>,
    /// One for each connection, first come, first served: the pool by itself lets whoever comes along overtake those that wait.
    turns: Semaphore,
}

/// More would be no use: so many clients a server takes.
const MOST: u32 = 10_000;

/// Who waits for a connection looks after so long, and after twice as long each time, whether an attempt has failed, or a broken
/// one has left its place to a new one: the pool tells nobody. Each time it may begin to make another one.
const LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(40);

/// The pool repeats an attempt that has failed after half of this, if anybody still waits.
const RETRY: Duration = Duration::from_millis(20);

/// No time is too short to hear an answer that is there.
const MOMENT: Duration = Duration::from_millis(1);

impl Connections {
    pub(super) fn new(client: Client, most: u32, time_limit: Duration) -> Self {
        let most = most.min(MOST);
        let manager = Manager::new(client, time_limit);
        let pool = Pool::builder()
            .max_size(most)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .max_lifetime(None)
            .idle_timeout(Some(IDLE))
            .connection_timeout(RETRY)
            .error_handler(Box::new(NopErrorHandler))
            .build_unchecked(manager.clone());
        Self {
            manager,
            pool,
            turns: Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS)),
        }
    }

    /// Makes the first connection and sees that it answers.
    pub(super) fn first(&self, patience: Duration) -> Result<(), BackendError> {
        let deadline = Instant::now() + patience;
        let mut lent = self.check_out(deadline, &mut None)?;
        let pong = lent.connection.ping(left(deadline).max(MOMENT));
        lent.is_clean = pong.is_ok();
        pong.map_err(unreachable)
    }

    /// A connection for this caller alone, as long as it is held. `since` is when it was this caller's turn.
    pub(super) fn check_out(
        &self,
        deadline: Instant,
        since: &mut Option<Instant>,
    ) -> Result<Lent<'_>, BackendError> {
        *since = None;
        let turn = self.turn(deadline)?;
        *since = Some(Instant::now());
        // From now on: an old failure is no news.
        let failures = self.manager.failures();
        let mut look = LOOK;
        loop {
            if let Some(mut connection) = self.take(left(deadline).min(look)) {
                // Dropped, one that is not sound is not put back.
                if self.is_sound(&mut connection, deadline) {
                    connection.used = Instant::now();
                    return Ok(Lent {
                        connection,
                        is_clean: true,
                        _turn: turn,
                    });
                }
            } else if let Some(error) = self.manager.failure_after(failures) {
                return Err(unreachable(error));
            }
            if left(deadline).is_zero() {
                return Err(slow(self.manager.time_limit()));
            }
            look = (2 * look).min(LONGEST_LOOK);
        }
    }

    fn turn(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, BackendError> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Ok(turn);
        }
        match wait_until(deadline, unconstrained(self.turns.acquire())) {
            Some(Ok(turn)) => Ok(turn),
            _ => Err(slow(self.manager.time_limit())),
        }
    }

    /// A connection that is there or is made soon.
    fn take(&self, within: Duration) -> Option<PooledConnection<Manager>> {
        self.pool.try_get().or_else(|| {
            let _waiting = self.manager.wait();
            self.pool.get_timeout(within).ok()
        })
    }

    /// Whether a connection is not over, and leads somewhere if it was idle.
    fn is_sound(&self, connection: &mut Connection, deadline: Instant) -> bool {
        if connection.life.is_over() {
            return false;
        }
        let doubts = self.manager.marks().doubts();
        if connection.used.elapsed() < TRUSTED && connection.answered == doubts {
            return true;
        }
        let life = Arc::clone(&connection.life);
        let mut doubt = Doubt(Some(&life));
        // What is left of the time limit is for a new one.
        let within = (self.manager.time_limit() / 4).min(left(deadline));
        let answers = connection.ping(within.max(MOMENT)).is_ok();
        if answers {
            connection.answered = doubts;
            doubt.0 = None;
        }
        answers
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.manager.close();
    }
}

/// A connection that nobody else has.
pub(super) struct Lent<'a> {
    connection: PooledConnection<Manager>,
    /// Whether every answer was read to its end.
    is_clean: bool,
    /// Given back after the connection.
    _turn: SemaphorePermit<'a>,
}

impl Lent<'_> {
    /// Sends one command and waits for its answer.
    pub(super) fn send(&mut self, command: &Cmd, deadline: Instant) -> Result<Value, RedisError> {
        self.is_clean = false;
        let io = &mut self.connection.io;
        let within = Some(left(deadline).max(MOMENT));
        let answer = io
            .set_read_timeout(within)
            .and_then(|()| io.req_command(command));
        self.is_clean = answer.is_ok();
        let answer = answer.and_then(Value::extract_error);
        match &answer {
            // The others are asked whether they answer.
            Err(error) if error.is_timeout() => self.connection.life.doubt_all(),
            Err(error) if is_broken(error) => self.retire(),
            _ => {}
        }
        answer
    }

    /// Lets the pool replace it, and those of its generation.
    pub(super) fn retire(&self) {
        self.connection.life.retire_generation();
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // The next one would read the answer to this one's question.
        if !self.is_clean {
            self.connection.life.retire();
        }
    }
}

/// How long it is until then.
pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// No connection, because of this.
fn unreachable(why: RedisError) -> BackendError {
    BackendError::because(BackendErrorKind::Unreachable, why)
}

/// No connection within the time limit.
fn slow(limit: Duration) -> BackendError {
    BackendError::because(BackendErrorKind::Unreachable, Slow(limit))
}

/// Parks this thread until the future is ready; not for longer than until the deadline.
fn wait_until<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = left(deadline);
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_wait_for_callers_end_with_the_backend() {
        // Nobody listens there.
        let client = Client::open("redis://127.0.0.1:1/").expect("a URL");
        let connections = Connections::new(client, 4, Duration::from_millis(50));
        let called = connections.check_out(Instant::now() + Duration::from_secs(20), &mut None);
        assert!(called.is_err());
        drop(called);
        // By now the pool has come back to it, and waits.
        thread::sleep(2 * RETRY);
        let marks = Arc::downgrade(connections.manager.marks());
        drop(connections);
        let start = Instant::now();
        while marks.strong_count() > 0 {
            assert!(start.elapsed() < Duration::from_secs(20), "one is left");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_thread_waits_until_its_deadline_or_until_it_is_woken() {
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(wait_until(deadline, std::future::pending::<()>()), None);
        assert!(Instant::now() >= deadline);
        let (tell, told) = tokio::sync::oneshot::channel();
        let teller = thread::spawn(move || tell.send(7));
        let patience = Instant::now() + Duration::from_secs(60);
        assert_eq!(wait_until(patience, told), Some(Ok(7)));
        assert!(Instant::now() < patience);
        teller.join().expect("no panic").expect("it was heard");
    }
}
