//! Decisions without scripts, for servers that forbid them: `WATCH`, read, decide here, then `MULTI` and `EXEC`, which
//! writes only if no other client has written meanwhile.
//!
//! The same code decides as in memory. Each attempt takes a connection of its own and two round trips. On a key with
//! many concurrent operations most attempts fail, so scripts are the better choice.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bb8::PooledConnection;
use smallvec::SmallVec;
use tokio::sync::SemaphorePermit;

use super::super::{BackendError, BackendErrorKind};
use super::connections::ConnectionPool;
use super::error::{ConnectTimeout, from_transport, is_broken, unexpected_reply};
use super::generation::ConnectionLife;
use super::key_name::KeyNames;
use super::manager::ConnectionManager;
use super::packed_quotas::{BLOCK_SUFFIX, PackedQuotas};
use super::request::OpRequest;
use super::round_trip::{RedisResult, ScriptClient};
use super::source::ConnectionSource;
use super::stored_key::{StoredKey, first_error, time, writes};
use super::transport::{Command, Value};
use crate::algorithm::{self, State, stored};
use crate::clock::Timestamp;
use crate::decision::{Op, Reply};
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
        let block_key = |scope| [request.names.get(scope).as_slice(), BLOCK_SUFFIX].concat();
        let block_keys = request.block_scopes().map(block_key);
        if let Some(span) = request.block_span() {
            let span = u64::try_from(span).unwrap_or(0);
            return self.write_block(client, request, &block_key(0), span).await;
        }
        let mut keys: Vec<Vec<u8>> = quotas.keys(&request.names).collect();
        let own = keys.len();
        keys.extend(block_keys);
        let (now, stored) = self.watch(&keys).await?;
        let mut stored: Vec<Value> = stored.collect();
        let mut rests = SmallVec::<[u64; 1]>::new();
        for block in stored.split_off(own) {
            let rest = match block {
                Value::Nil => Some(0),
                Value::Bytes(raw) => stored::block_rest(&raw, now.as_micros()),
                _ => return Err(unexpected_reply()),
            };
            let Some(rest) = rest else {
                self.unwatch().await?;
                return Err(BackendError::new(BackendErrorKind::Corrupt));
            };
            rests.push(rest);
        }
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
        if rests.iter().any(|rest| *rest > 0) {
            self.unwatch().await?;
            let cost = request.denied_cost();
            let numbers =
                algorithm::answers_without_charge(&request.policy, &mut states, now, &cost);
            let rests = request.rests_of_scopes(rests);
            return Ok(Some(request.denied_by_blocks(&rests, &numbers)));
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

    /// Writes the block of a key for `span` µs, or ends it if that is 0.
    async fn write_block(
        &mut self,
        client: &ScriptClient,
        request: &OpRequest,
        key: &[u8],
        span: u64,
    ) -> Result<Option<Reply>, BackendError> {
        let mut get = Command::new("GET");
        get.arg(key); // fails if the key has another type
        let replies = self.query(&[Command::new("TIME"), get]).await?;
        let now = replies
            .first()
            .and_then(time)
            .ok_or_else(unexpected_reply)?;
        let mut write = Command::new(if span == 0 { "DEL" } else { "SET" });
        write.arg(key);
        if span > 0 {
            let until = now.as_micros().saturating_add(span);
            let px = (span.div_ceil(1_000) + 1_000).max(client.expiry.floor);
            let block = stored::encode_block(until, span);
            write.arg(block).arg("PX").number(px);
        }
        self.query(&[write]).await?;
        self.is_clean = true;
        Ok(Some(Reply::of_unused_key(&request.policy)))
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
        Op::CheckUpTo(most) => algorithm::check_up_to(policy, states, now, *most),
        // A block has no state here.
        Op::Reset | Op::Block(_) | Op::Unblock => algorithm::reset(policy, states, now),
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
