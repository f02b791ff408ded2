//! Redis from plain threads: [`RedisBackend`], by redis-rs' synchronous connections.

mod connections;
mod manager;
mod trip;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bb8_redis::redis::Client;

use self::connections::Connections;
use self::trip::Line;
use super::super::{BackendError, BackendErrorKind, Lobby};
use super::breaker::Breaker;
use super::builder::RedisBuilder;
use super::front::Front;
use super::request::Expiry;
use super::semaphore::{Errand, next_look, refuses};
use crate::backend::{BlockingBackend, BlockingPermitBackend};
use crate::decision::{Op, PermitOp, PermitReply, Reply};
use crate::key::Key;
use crate::policy::Permits;
use crate::policy::Policy;

/// Keeps buckets in Redis, asked from plain threads. Clones share everything.
///
/// It uses the scripts, keys and settings of [`crate::RedisBackend`], so that both share their buckets, and fails by the same
/// errors: an operation has 250 ms ([`RedisBuilder::time_limit`]), is never sent again if it may have been done, and after 5
/// failures in a row Redis is left alone for a while. Refusals are remembered for up to 1 s ([`RedisBuilder::deny_cache`]).
///
/// Each operation has a connection to itself, one of up to 16 ([`RedisBuilder::connections`]), and makes a trip of its own: who
/// finds none free waits in line, within the time limit. Connections are made when they are needed and kept by `r2d2`, of whose
/// threads each backend has three. An answer that has begun in time may end later, if it comes in drops.
///
/// ```no_run
/// use tower_sluice::blocking::{Limiter, RedisBackend};
/// use tower_sluice::{Key, Policy, Quota};
///
/// let redis = RedisBackend::connect("redis://127.0.0.1/")?;
/// let limiter = Limiter::new(Policy::new("api", Quota::per_minute(600)), redis);
/// let allowed = limiter.check(&Key::from("ann"), 1)?.decision.is_allowed();
/// # Ok::<(), tower_sluice::backend::BackendError>(())
/// ```
#[derive(Clone)]
pub struct RedisBackend(Arc<Inner>);

struct Inner {
    front: Front,
    line: Line,
}

impl RedisBackend {
    /// What to change before connecting, by [`RedisBuilder::connect_blocking`]: prefix, time limit, deny cache and more.
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Connects to the server of `url`, such as `redis://user:password@host:6379/0`, and makes sure that it answers.
    ///
    /// The forms of [redis-rs](https://docs.rs/redis) are understood: `redis://`, `rediss://` (feature `tls`), `redis+unix://`.
    ///
    /// # Errors
    ///
    /// [`Config`](BackendErrorKind::Config) if the URL cannot be read; [`Unreachable`](BackendErrorKind::Unreachable) if nobody
    /// listens there, or user and password are wrong, which its source tells.
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    pub fn connect(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder().connect_blocking(url)
    }

    /// Will connect to the server of `url` when it is first needed, so that a program starts while Redis is down; until then
    /// every operation fails. Nothing is sent here.
    ///
    /// # Errors
    ///
    /// [`Config`](BackendErrorKind::Config) if the URL cannot be read.
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    pub fn connect_lazy(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder().connect_blocking_lazy(url)
    }

    /// Makes its connections by `client`, when they are needed: one with certificates of its own, say. Nothing is sent here.
    ///
    /// There is no such way for a pool: its test of a connection knows no time limit, and what is wrong with one it cannot be told.
    ///
    /// # Panics
    ///
    /// If the operating system has no thread for it.
    pub fn from_client(client: Client) -> Self {
        Self::builder().threads(client)
    }

    pub(super) fn over(
        client: Client,
        most: u32,
        time_limit: Duration,
        expiry: Expiry,
        front: Front,
    ) -> Self {
        // So that no sum of times is too large.
        let time_limit = time_limit.min(LONGEST_LIMIT);
        Self(Arc::new(Inner {
            front,
            line: Line {
                connections: Connections::new(client, most, time_limit),
                breaker: Breaker::new(),
                time_limit,
                expiry,
            },
        }))
    }

    /// Makes sure that there is a connection and that it answers.
    pub(super) fn first_connection(&self, patience: Duration) -> Result<(), BackendError> {
        let connections = &self.0.line.connections;
        connections.first(patience.min(LONGEST_LIMIT))
    }
}

/// A year.
const LONGEST_LIMIT: Duration = Duration::from_secs(365 * 86_400);

impl BlockingBackend for RedisBackend {
    type Error = BackendError;

    fn lobby(&self) -> &Lobby {
        &self.0.front.lobby
    }

    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Result<Reply, BackendError> {
        let Inner { front, line } = &*self.0;
        let question = match front.recall(&op, policy, key) {
            Ok(refusal) => return Ok(refusal),
            Err(question) => question,
        };
        if line.breaker.refuses() {
            return Err(BackendError::new(BackendErrorKind::CircuitOpen));
        }
        let (request, note) = front.request(op, policy, key, question);
        front.forget(&note);
        let outcome = line.deliver(&request);
        front.learn(&note, &outcome);
        outcome
    }
}

impl BlockingPermitBackend for RedisBackend {
    type Error = BackendError;

    fn ask(&self, op: PermitOp, permits: &Permits, key: &Key) -> Result<PermitReply, BackendError> {
        let Inner { front, line } = &*self.0;
        if refuses(&line.breaker, &op) {
            return Err(BackendError::new(BackendErrorKind::CircuitOpen));
        }
        line.deliver(&Errand::new(op, permits, &front.naming, key))
    }

    fn lobby(&self) -> &Lobby {
        &self.0.front.lobby
    }

    fn has_leases(&self) -> bool {
        true
    }

    fn next_look(
        &self,
        permits: &Permits,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        Some(next_look(permits, reply, waiters))
    }
}

/// Shows no key and no password.
impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("naming", &self.0.front.naming)
            .finish_non_exhaustive()
    }
}
