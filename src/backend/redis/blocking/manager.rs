//! Makes connections in the threads of r2d2, and after a failure only for somebody who waits.
//!
//! By itself r2d2 repeats an attempt that has failed until one succeeds, and tells those who wait only that time is up: a Redis
//! that is down would be called for ever, by a program that has nothing to ask. Here the next attempt begins when the next
//! caller comes, and a failure is heard of while it is news.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bb8_redis::redis::{Client, Connection as Io, RedisError, cmd};
use parking_lot::{Condvar, Mutex};
use r2d2::ManageConnection;

use super::super::life::{Life, Marks};

/// A connection, and whether it is to be replaced.
pub(super) struct Connection {
    pub(super) io: Io,
    pub(super) life: Arc<Life>,
    pub(super) used: Instant,
    /// The doubts that it has answered.
    pub(super) answered: u64,
}

impl Connection {
    /// Whether it leads somewhere, found out within so long.
    pub(super) fn ping(&mut self, within: Duration) -> Result<(), RedisError> {
        self.io.set_read_timeout(Some(within))?;
        cmd("PING").exec(&mut self.io)
    }
}

#[derive(Clone)]
pub(super) struct Manager(Arc<Shared>);

struct Shared {
    client: Client,
    time_limit: Duration,
    marks: Arc<Marks>,
    demand: Mutex<Demand>,
    changed: Condvar,
}

#[derive(Default)]
struct Demand {
    /// How many wait for a connection.
    waiting: usize,
    /// Attempts under way.
    connecting: usize,
    /// Whether the latest attempt has failed.
    is_down: bool,
    /// Nobody will wait any more.
    is_over: bool,
    failures: u64,
    /// The latest of them.
    failure: Option<RedisError>,
}

/// Somebody waits for a connection as long as this is there.
#[must_use]
pub(super) struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.demand.lock().waiting -= 1;
    }
}

impl Manager {
    pub(super) fn new(client: Client, time_limit: Duration) -> Self {
        Self(Arc::new(Shared {
            client,
            time_limit,
            marks: Arc::default(),
            demand: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    pub(super) fn time_limit(&self) -> Duration {
        self.0.time_limit
    }

    pub(super) fn marks(&self) -> &Arc<Marks> {
        &self.0.marks
    }

    pub(super) fn wait(&self) -> Waiting<'_> {
        self.0.demand.lock().waiting += 1;
        self.0.changed.notify_all();
        Waiting(&self.0)
    }

    /// How many attempts have failed.
    pub(super) fn failures(&self) -> u64 {
        self.0.demand.lock().failures
    }

    /// Why the latest attempt has failed, if there were more than so many.
    pub(super) fn failure_after(&self, failures: u64) -> Option<RedisError> {
        let demand = self.0.demand.lock();
        demand
            .failure
            .clone()
            .filter(|_| demand.failures > failures)
    }

    /// Lets the threads go that wait here for somebody who waits.
    pub(super) fn close(&self) {
        self.0.demand.lock().is_over = true;
        self.0.changed.notify_all();
    }

    /// No attempt to connect takes longer, even if those for whom it was made wait no more: others will.
    fn patience(&self) -> Duration {
        self.0.time_limit.max(Duration::from_secs(1))
    }

    /// Returns when an attempt may begin: after a failure there are no more than callers. Whether it is wanted at all.
    fn begin(&self) -> bool {
        let mut demand = self.0.demand.lock();
        while demand.is_down && demand.connecting >= demand.waiting && !demand.is_over {
            self.0.changed.wait(&mut demand);
        }
        demand.connecting += 1;
        !demand.is_over
    }

    fn end(&self, failure: Option<&RedisError>) {
        let mut demand = self.0.demand.lock();
        demand.connecting -= 1;
        demand.is_down = failure.is_some();
        match failure {
            Some(error) => {
                demand.failures += 1;
                demand.failure = Some(error.clone());
            }
            None => drop(self.0.changed.notify_all()),
        }
    }

    fn open(&self) -> Result<Io, RedisError> {
        let io = self.0.client.get_connection_with_timeout(self.patience())?;
        io.set_write_timeout(Some(self.0.time_limit))?;
        Ok(io)
    }
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    fn connect(&self) -> Result<Connection, RedisError> {
        let marks = &self.0.marks;
        let made = if self.begin() {
            let generation = marks.generation();
            self.open().map(|io| Connection {
                io,
                life: Life::new(generation, marks),
                used: Instant::now(),
                answered: marks.doubts(),
            })
        } else {
            Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into())
        };
        self.end(made.as_ref().err());
        made
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        connection.ping(self.0.time_limit)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.life.is_over()
    }
}
