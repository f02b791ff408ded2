//! Decisions without scripts, for servers that forbid them: `WATCH`, read, decide here, then `MULTI` and `EXEC`, which
//! writes only if no other client has written meanwhile.
//!
//! The same code decides as in memory. Each attempt takes a connection of its own and two round trips. On a key with
//! many concurrent operations most attempts fail, so scripts are the better choice.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bb8::PooledConnection;
use tokio::sync::SemaphorePermit;

use super::super::{BackendError, BackendErrorKind};
use super::connections::ConnectionPool;
use super::error::{ConnectTimeout, from_transport, is_broken, unexpected_reply};
use super::generation::ConnectionLife;
use super::key_name::KeyNames;
use super::manager::ConnectionManager;
use super::packed_quotas::PackedQuotas;
use super::request::OpRequest;
use super::round_trip::{RedisResult, ScriptClient};
use super::source::ConnectionSource;
use super::transport::{Command, ServerError, Value};
use crate::algorithm::{self, State, stored};
use crate::clock::Timestamp;
use crate::decision::{NEVER, Op, Reply};
use crate::telemetry;

/// The attempts to write without a change by another client in between.
const MOST_ATTEMPTS: u32 = 12;
/// The longest pause after the first attempt. It doubles with each attempt, up to 16 ms. All pauses together leave half
/// of the default time limit, so that a request fails as contended and not by a time-out.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// Sends one request, within the time limit.
pub(super) async fn deliver(client: &ScriptClient, request: &OpRequest) -> RedisResult {
    let began = Instant::now();
    let outcome = within_limit(client, request).await;
    match &outcome {
        Ok(reply) => {
            telemetry::round_trip(began.elapsed());
            if request.wrote(reply) {
                client.alerts.wrote();
            }
        }
        Err(error) => {
            telemetry::backend_failure(error.kind().label());
            client.alert(error);
        }
    }
    outcome
}

async fn within_limit(client: &ScriptClient, request: &OpRequest) -> RedisResult {
    let ConnectionSource::Pool(connections) = &client.source else {
        return Err(BackendError::new(BackendErrorKind::Unsupported(
            "a transaction needs a connection of its own; use a URL or `from_connector`, or `Atomicity::Script`",
        )));
    };
    let Some(permit) = client.breaker.try_acquire() else {
        return Err(BackendError::new(BackendErrorKind::CircuitOpen));
    };
    let mut at = AttemptProgress::default();
    let attempts = attempts(client, connections, request, &mut at);
    let outcome = match tokio::time::timeout(client.time_limit, attempts).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let error = match &at.asked {
                Some(life) => {
                    life.doubt_all();
                    BackendError::new(BackendErrorKind::Timeout(client.time_limit))
                }
                None => BackendError::because(
                    BackendErrorKind::Unreachable,
                    ConnectTimeout(client.time_limit),
                ),
            };
            // The request may have waited for a connection most of the time. Many concurrent requests must not open
            // the circuit.
            let own = at.since.map_or(Duration::ZERO, |since| since.elapsed());
            if own < client.time_limit / 2 {
                drop(permit);
                return Err(error);
            }
            Err(error)
        }
    };
    match &outcome {
        Err(error) if error.is_outage() => permit.failed(error),
        _ => permit.succeeded(),
    }
    outcome
}

/// The progress of a request, for the error when its time is up.
#[derive(Default)]
struct AttemptProgress {
    /// The time since which it has a slot; nothing while it waits for one.
    since: Option<Instant>,
    /// The life of the connection in use.
    asked: Option<Arc<ConnectionLife>>,
}

async fn attempts(
    client: &ScriptClient,
    connections: &ConnectionPool,
    request: &OpRequest,
    at: &mut AttemptProgress,
) -> RedisResult {
    if request.quotas().keeps_logs() {
        return Err(BackendError::new(BackendErrorKind::Unsupported(
            "a sliding log needs scripts; use `Atomicity::Script`, or a sliding window",
        )));
    }
    let mut pauses = pauses();
    loop {
        // The semaphore serves requests in order of arrival. The pool would let new requests overtake waiting ones.
        let slot = connections.slots.acquire().await;
        at.since = Some(Instant::now());
        let mut held = WatchedConnection {
            connection: connections.check_out().await?,
            is_clean: false,
            _slot: slot.ok(),
        };
        at.asked = Some(Arc::clone(&held.connection.life));
        if let Some(reply) = held.attempt(client, request).await? {
            return Ok(reply);
        }
        drop(held);
        *at = AttemptProgress::default();
        match pauses.next() {
            Some(pause) => tokio::time::sleep(part_of(pause)).await,
            None => {
                return Err(BackendError::new(BackendErrorKind::Contended(
                    MOST_ATTEMPTS,
                )));
            }
        }
    }
}

/// Returns the longest pauses between the attempts.
fn pauses() -> impl Iterator<Item = Duration> {
    let double = |pause: &Duration| Some((2 * *pause).min(LONGEST_PAUSE));
    let between = usize::try_from(MOST_ATTEMPTS - 1).unwrap_or(0);
    std::iter::successors(Some(FIRST_PAUSE), double).take(between)
}

/// Returns a random part of a pause, at least half of it, so that two requests do not collide again.
fn part_of(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 512;
    pause * (512 + u32::try_from(random).unwrap_or(0)) / 1024
}

/// A connection of one transaction. If the transaction is dropped, the connection is retired: it may still watch keys.
struct WatchedConnection<'a> {
    connection: PooledConnection<'static, ConnectionManager>,
    is_clean: bool,
    /// Released after the connection.
    _slot: Option<SemaphorePermit<'a>>,
}

impl Drop for WatchedConnection<'_> {
    fn drop(&mut self) {
        if !self.is_clean {
            self.connection.life.retire();
        }
    }
}

/// A key of the request, the state that was stored under it, and the time in µs until which it is kept.
struct StoredKey {
    key: Vec<u8>,
    state: Option<State>,
    keep_until: u64,
}

impl WatchedConnection<'_> {
    /// Sends all commands at once. The first error of one of them is an error.
    async fn query(&self, commands: &[Command]) -> Result<Vec<Value>, BackendError> {
        let replies = self.connection.transport.send_all(commands).await;
        let replies = replies.and_then(|replies| match replies.iter().find_map(first_error) {
            Some(error) => Err(error.clone().into()),
            None => Ok(replies),
        });
        if let Err(error) = &replies
            && is_broken(error)
        {
            self.connection.life.retire_generation();
        }
        replies.map_err(from_transport)
    }

    /// Decides and writes. Returns `None` if a key was changed in between.
    async fn attempt(
        &mut self,
        client: &ScriptClient,
        request: &OpRequest,
    ) -> Result<Option<Reply>, BackendError> {
        let quotas = request.quotas();
        let keys: Vec<Vec<u8>> = quotas.keys(&request.names).collect();
        let (now, stored) = self.watch(&keys).await?;
        let mut entries = Vec::with_capacity(keys.len());
        let mut states = Vec::with_capacity(keys.len());
        for ((key, value), quota) in keys.into_iter().zip(stored).zip(&quotas.each) {
            let (state, keep_until) = match value {
                Value::Nil => (None, 0),
                Value::Bytes(raw) => {
                    match stored::decode(&raw).filter(|_| raw.first() == quota.numbers.first()) {
                        Some((state, keep_until)) => (Some(state), keep_until),
                        None => {
                            self.unwatch().await?;
                            return Err(BackendError::new(BackendErrorKind::Corrupt));
                        }
                    }
                }
                _ => return Err(unexpected_reply()),
            };
            states.push(state.clone());
            entries.push(StoredKey {
                key,
                state,
                keep_until,
            });
        }
        let reply = decide(request, &mut states, now);
        let writes = writes(client, request, &entries, &states, &reply, now);
        if writes.is_empty() {
            self.unwatch().await?;
            return Ok(Some(reply));
        }
        let mut transaction = Vec::with_capacity(writes.len() + 2);
        transaction.push(Command::new("MULTI"));
        transaction.extend(writes);
        transaction.push(Command::new("EXEC"));
        let done = self.query(&transaction).await?.pop();
        self.is_clean = true;
        match done {
            Some(Value::Nil) => Ok(None),
            Some(Value::Array(_)) => Ok(Some(reply)),
            _ => Err(unexpected_reply()),
        }
    }

    /// Watches the keys, and returns the server's time and the values of the keys.
    async fn watch(
        &self,
        keys: &[Vec<u8>],
    ) -> Result<(Timestamp, std::vec::IntoIter<Value>), BackendError> {
        let mut commands = Vec::with_capacity(keys.len() + 2);
        let mut watch = Command::new("WATCH");
        for key in keys {
            watch.arg(key);
        }
        commands.push(watch);
        commands.push(Command::new("TIME"));
        for key in keys {
            let mut get = Command::new("GET");
            get.arg(key);
            commands.push(get);
        }
        let mut replies = self.query(&commands).await?.into_iter();
        let now = replies.nth(1).as_ref().and_then(time);
        Ok((now.ok_or_else(unexpected_reply)?, replies))
    }

    async fn unwatch(&mut self) -> Result<(), BackendError> {
        self.query(&[Command::new("UNWATCH")]).await?;
        self.is_clean = true;
        Ok(())
    }
}

/// The commands that store `states` in place of what the entries hold.
fn writes(
    client: &ScriptClient,
    request: &OpRequest,
    entries: &[StoredKey],
    states: &[Option<State>],
    reply: &Reply,
    now: Timestamp,
) -> Vec<Command> {
    let mut writes = Vec::new();
    let answers = reply.decision.snapshot().quotas();
    for (index, ((entry, state), (named, answer))) in entries
        .iter()
        .zip(states)
        .zip(request.policy.quotas().iter().zip(answers))
        .enumerate()
    {
        // A penalty that changes nothing keeps the key for as long as its own quota needs.
        if *state == entry.state && !request.is_penalty(index) {
            continue;
        }
        let Some(state) = state else {
            let mut delete = Command::new("DEL");
            delete.arg(&entry.key);
            writes.push(delete);
            continue;
        };
        let mut owed = answer.reset_after;
        if named.lingers() {
            owed = owed.saturating_add(client.expiry.idle.saturating_mul(1_000));
        }
        let (before, now) = (entry.state.as_ref(), now.as_micros());
        let keep = stored::keep_for(named.quota(), before, state, owed, entry.keep_until, now);
        let packed = stored::encode(state, now.saturating_add(keep)).unwrap_or_default();
        let mut set = Command::new("SET");
        set.arg(&entry.key).arg(packed);
        if keep != NEVER {
            let px = (keep.div_ceil(1_000).saturating_add(1_000)).max(client.expiry.floor);
            set.arg("PX").number(px);
        }
        writes.push(set);
    }
    writes
}

/// The first error of a reply, also of one inside an array.
fn first_error(value: &Value) -> Option<&ServerError> {
    match value {
        Value::Error(error) => Some(error),
        Value::Array(values) => values.iter().find_map(first_error),
        _ => None,
    }
}

/// The reply to `TIME`: seconds and microseconds.
fn time(reply: &Value) -> Option<Timestamp> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let number = |part: &Value| match part {
        Value::Bytes(digits) => std::str::from_utf8(digits).ok()?.parse::<u64>().ok(),
        Value::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    let [seconds, micros] = parts.as_slice() else {
        return None;
    };
    let seconds = number(seconds)?.saturating_mul(1_000_000);
    Some(Timestamp::from_micros(
        seconds.saturating_add(number(micros)?),
    ))
}

fn decide(request: &OpRequest, states: &mut [Option<State>], now: Timestamp) -> Reply {
    let policy = &request.policy;
    match &request.op {
        Op::Check(cost) => algorithm::check(policy, states, now, cost.clone()),
        Op::Reserve { cost, max_wait } => {
            algorithm::reserve(policy, states, now, cost.clone(), *max_wait)
        }
        Op::Cancel(slot) => {
            let mut reply = algorithm::cancel(policy, states, now, slot);
            reply.reservation = (!reply.returned).then(|| slot.again());
            reply
        }
        Op::Penalize(cost) => algorithm::penalize(policy, states, now, cost.clone()),
        Op::Refund(receipt) => algorithm::refund(policy, states, now, receipt),
        Op::Reset => algorithm::reset(policy, states, now),
    }
}

impl PackedQuotas {
    fn keys<'a>(&'a self, names: &'a KeyNames) -> impl Iterator<Item = Vec<u8>> + 'a {
        self.each
            .iter()
            .map(|quota| [names.get(quota.scope), quota.suffix.as_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_take_about_half_of_the_default_time_limit() {
        assert_eq!(pauses().count(), 11);
        assert_eq!(pauses().sum::<Duration>(), Duration::from_millis(127));
    }
}
