//! Permits in Redis: [`RedisSemaphore`], and how what is asked of it is written into a command and its answer read.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bb8_redis::redis::{Cmd, Value};

use super::super::{Answer, BackendContext, BackendError, BackendErrorKind};
use super::breaker::Breaker;
use super::builder::Atomicity;
use super::key_name::{KeyName, Naming};
use super::request::{Expiry, ScriptRequest, script_error, signed, unsigned};
use super::script::Script;
use super::{RedisBackend, RedisInner};
use crate::backend::PermitBackend;
use crate::clock::micros_up;
use crate::decision::{NEVER, QuotaSnapshot};
use crate::decision::{PermitOp, PermitReply};
use crate::key::Key;
use crate::policy::SemaphorePolicy;

/// Keeps permits in Redis, for all processes that use the same prefix and names. Clones share everything.
///
/// It is made from a [`RedisBackend`], whose connections, names, time limit and circuit it shares, with the rate limits
/// and with all others that were made from it. See [`semaphore`](crate::semaphore).
#[derive(Clone)]
pub struct RedisSemaphore(Arc<RedisInner>);

impl RedisSemaphore {
    /// Permits beside the buckets of `backend`.
    #[must_use]
    pub fn new(backend: &RedisBackend) -> Self {
        Self(Arc::clone(&backend.0))
    }
}

impl From<RedisBackend> for RedisSemaphore {
    fn from(backend: RedisBackend) -> Self {
        Self(backend.0)
    }
}

/// Who waits looks again after so long, divided by how many wait here, for only the first one does.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(50);
/// The first one looks no more often, and no more seldom: who has not asked for a second has lost his place.
const MIN_ATTEMPT_INTERVAL: Duration = Duration::from_millis(5);
const MAX_ATTEMPT_INTERVAL: Duration = Duration::from_millis(250);

impl PermitBackend for RedisSemaphore {
    type Error = BackendError;
    type Future = Pin<Box<dyn Future<Output = Result<PermitReply, BackendError>> + Send>>;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, BackendError>, Self::Future> {
        let inner = &self.0;
        if inner.atomicity != Atomicity::Script {
            return Answer::Now(Err(BackendError::new(BackendErrorKind::Unsupported(
                "permits cannot be kept without scripts: use `Atomicity::Script`",
            ))));
        }
        if is_open_for(&inner.permit_queue.client().breaker, &op) {
            return Answer::Now(Err(BackendError::new(BackendErrorKind::CircuitOpen)));
        }
        let request = PermitRequest::new(op, policy, &inner.preparer.naming, key);
        Answer::Later(Box::pin(Arc::clone(&inner.permit_queue).send(request)))
    }

    fn context(&self) -> &BackendContext {
        &self.0.preparer.context
    }

    fn has_leases(&self) -> bool {
        true
    }

    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        Some(next_attempt(policy, reply, waiters))
    }
}

/// Whether it is of no use to ask now. A renewal may be, before a request is: its lease does not wait.
pub(super) fn is_open_for(breaker: &Breaker, op: &PermitOp) -> bool {
    match op {
        PermitOp::Renew(_) => breaker.rejects_renewal(),
        _ => breaker.rejects(),
    }
}

/// When to look again.
pub(super) fn next_attempt(
    policy: &SemaphorePolicy,
    reply: &PermitReply,
    waiters: usize,
) -> Duration {
    let waiters = u32::try_from(waiters).unwrap_or(u32::MAX).max(1);
    // Behind so many others that all permits would be theirs, so many times it takes.
    let rounds = 1 + reply.in_front / policy.capacity();
    let interval = (ATTEMPT_INTERVAL / waiters)
        .max(MIN_ATTEMPT_INTERVAL)
        .saturating_mul(rounds);
    interval.min(MAX_ATTEMPT_INTERVAL)
}

/// Its permits are those of a [`RedisSemaphore`] that is made from it.
impl PermitBackend for RedisBackend {
    type Error = BackendError;
    type Future = <RedisSemaphore as PermitBackend>::Future;

    fn ask(
        &self,
        op: PermitOp,
        policy: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, BackendError>, Self::Future> {
        RedisSemaphore::new(self).ask(op, policy, key)
    }

    fn context(&self) -> &BackendContext {
        &self.0.preparer.context
    }

    fn has_leases(&self) -> bool {
        true
    }

    fn next_attempt(
        &self,
        policy: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        Some(next_attempt(policy, reply, waiters))
    }
}

/// Shows no key and no password.
impl fmt::Debug for RedisSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSemaphore")
            .field("naming", &self.0.preparer.naming)
            .finish_non_exhaustive()
    }
}

/// What is asked of the permits of this name.
#[derive(Debug)]
pub(super) struct PermitRequest {
    op: PermitOp,
    policy: SemaphorePolicy,
    name: KeyName,
}

/// Holders, weights, and who waits.
const SUFFIXES: [&[u8]; 3] = [b"p", b"pw", b"pq"];

impl ScriptRequest for PermitRequest {
    type Reply = PermitReply;
    /// An id has one permit, however often it is asked for, renewed or released.
    const IS_REPEATABLE: bool = true;

    fn note_repeat(reply: &mut PermitReply) {
        reply.is_repeated = true;
    }

    fn wrote(&self, reply: &PermitReply) -> bool {
        let asks = matches!(self.op, PermitOp::Acquire { .. } | PermitOp::Wait { .. });
        asks && reply.decision.is_allowed()
    }

    fn is_renewal(&self) -> bool {
        matches!(self.op, PermitOp::Renew(_))
    }

    fn script(&self) -> &'static Script {
        Script::semaphore()
    }

    fn command(name: &str, script: &str, requests: &[&Self], expiry: Expiry) -> Cmd {
        let count = requests.len();
        let mut command = Cmd::with_capacity(6 + 10 * count, 64 + script.len() + 320 * count);
        let mut buffer = Vec::with_capacity(96);
        command
            .arg(name)
            .arg(script)
            .arg(SUFFIXES.len() * requests.len());
        for request in requests {
            for suffix in SUFFIXES {
                buffer.clear();
                buffer.extend_from_slice(&request.name);
                buffer.extend_from_slice(suffix);
                command.arg(&buffer[..]);
            }
        }
        // The first is the time, for tests: the server's own counts.
        command.arg("").arg(expiry.floor).arg(expiry.idle);
        for request in requests {
            request.write(&mut command);
        }
        command
    }

    fn read(
        &self,
        answers: &mut std::slice::Iter<'_, Value>,
    ) -> Option<Result<PermitReply, BackendError>> {
        let Value::Array(own) = answers.next()? else {
            return None;
        };
        if let Some(fault) = script_error(own) {
            return Some(Err(fault));
        }
        let ([retry, remaining, reset, front], lasting) = own.split_first_chunk()?;
        let lasting: Option<_> = lasting.iter().map(|own| Some(signed(own)? == 1)).collect();
        let numbers = QuotaSnapshot {
            limit: self.policy.capacity().into(),
            remaining: unsigned(remaining)?,
            retry_after: match signed(retry)? {
                -1 => NEVER,
                wait => u64::try_from(wait).ok()?,
            },
            reset_after: unsigned(reset)?,
        };
        Some(Ok(PermitReply {
            lasting: lasting?,
            in_front: u32::try_from(unsigned(front)?).unwrap_or(u32::MAX),
            ..PermitReply::from_snapshot(numbers)
        }))
    }
}

impl PermitRequest {
    pub(super) fn new(op: PermitOp, policy: &SemaphorePolicy, naming: &Naming, key: &Key) -> Self {
        Self {
            op,
            policy: policy.clone(),
            name: naming.name(policy.name(), key),
        }
    }

    fn write(&self, command: &mut Cmd) {
        let (name, weight, waited) = match &self.op {
            PermitOp::Acquire { weight, .. } => ("acquire", *weight, Duration::ZERO),
            PermitOp::Wait { weight, waited, .. } => ("wait", *weight, *waited),
            PermitOp::Renew(_) => ("renew", 0, Duration::ZERO),
            PermitOp::Release(_) => ("release", 0, Duration::ZERO),
            PermitOp::Revoke(_) => ("revoke", 0, Duration::ZERO),
            PermitOp::Peek => ("peek", 0, Duration::ZERO),
        };
        // Who says that he has waited for longer than a year would come from before the epoch.
        let waited = micros_up(waited).min(LONGEST_WAIT);
        command.arg(name).arg(self.policy.capacity());
        command.arg(self.policy.lease_micros());
        command.arg(weight).arg(waited);
        match &self.op {
            PermitOp::Acquire { id, .. }
            | PermitOp::Wait { id, .. }
            | PermitOp::Release(id)
            | PermitOp::Revoke(id) => {
                command.arg(1).arg(&id.as_bytes()[..]);
            }
            PermitOp::Renew(ids) => {
                command.arg(ids.len());
                for id in ids {
                    command.arg(&id.as_bytes()[..]);
                }
            }
            PermitOp::Peek => {
                command.arg(0);
            }
        }
    }
}

/// A year in µs.
const LONGEST_WAIT: u64 = 31_536_000_000_000;
