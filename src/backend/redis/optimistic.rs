//! Decisions without scripts, for servers that forbid them: WATCH, read, decide here, then MULTI and EXEC, which writes
//! only if nobody else has meanwhile.
//!
//! What decides is the same code as in memory. It takes a connection for itself, two trips for each attempt, and on a
//! key that many ask for at once most attempts are in vain: use scripts if you can.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bb8::PooledConnection;
use bb8_redis::redis::{Pipeline, RedisError, Value, cmd, from_redis_value, pipe};
use tokio::sync::SemaphorePermit;

use super::super::{BackendError, BackendErrorKind};
use super::connections::ConnectionPool;
use super::error::{ConnectTimeout, from_redis, is_broken};
use super::generation::ConnectionLife;
use super::manager::ConnectionManager;
use super::packed_quotas::PackedQuotas;
use super::request::OpRequest;
use super::round_trip::{RedisResult, ScriptClient};
use super::source::ConnectionSource;
use crate::algorithm::{self, State, stored};
use crate::clock::Timestamp;
use crate::decision::{Op, Reply};
use crate::telemetry;

/// Attempts to write before others did.
const MOST_ATTEMPTS: u32 = 12;
/// The longest pause after the first attempt; it doubles with each up to 16 ms. All of them together leave half of the
/// usual time limit: who is out of luck is told so, and not that Redis is slow.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// Does one request, within the time limit.
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
            client.tell(error);
        }
    }
    outcome
}

async fn within_limit(client: &ScriptClient, request: &OpRequest) -> RedisResult {
    let ConnectionSource::Pool(connections) = &client.source else {
        return Err(BackendError::new(BackendErrorKind::Unsupported(
            "a transaction needs a connection of its own: use a URL or a pool, or `Atomicity::Script`",
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
            // Most of the time may have gone by while others had the connections, and not while Redis was asked: a
            // crowd must not open the circuit.
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

/// How far a request has come when its time is up.
#[derive(Default)]
struct AttemptProgress {
    /// Since when it has its turn; nothing while it waits for others.
    since: Option<Instant>,
    /// The life of the connection that is being asked.
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
            "without scripts Redis cannot keep a sliding log: use `Atomicity::Script`, or a sliding window",
        )));
    }
    let mut pauses = pauses();
    loop {
        // First come, first served: the pool by itself lets whoever comes along overtake those that wait.
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

/// The longest pauses between the attempts.
fn pauses() -> impl Iterator<Item = Duration> {
    let double = |pause: &Duration| Some((2 * *pause).min(LONGEST_PAUSE));
    let between = usize::try_from(MOST_ATTEMPTS - 1).unwrap_or(0);
    std::iter::successors(Some(FIRST_PAUSE), double).take(between)
}

/// A random part of a pause, at least half of it: those that met shall not meet again.
fn part_of(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 512;
    pause * (512 + u32::try_from(random).unwrap_or(0)) / 1024
}

/// A connection of one transaction. Given up in between it is not used again: it may still watch keys.
struct WatchedConnection<'a> {
    connection: PooledConnection<'static, ConnectionManager>,
    is_clean: bool,
    /// Given back after the connection.
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
    async fn query(&mut self, pipeline: &Pipeline) -> Result<Value, BackendError> {
        let answer: Result<Value, RedisError> = pipeline.query_async(&mut self.connection.io).await;
        if let Err(error) = &answer
            && is_broken(error)
        {
            self.connection.life.retire_generation();
        }
        answer.map_err(from_redis)
    }

    /// `None` if somebody else was faster.
    async fn attempt(
        &mut self,
        client: &ScriptClient,
        request: &OpRequest,
    ) -> Result<Option<Reply>, BackendError> {
        let quotas = request.quotas();
        let keys: Vec<Vec<u8>> = quotas.keys(&request.name).collect();
        let mut look = pipe();
        look.cmd("WATCH").arg(&keys).ignore().cmd("TIME");
        for key in &keys {
            look.cmd("GET").arg(key);
        }
        let garbled = |_| BackendError::new(BackendErrorKind::Server("ERR".to_owned()));
        let seen = self.query(&look).await?;
        let mut seen: Vec<Value> = from_redis_value(seen).map_err(garbled)?;
        if seen.is_empty() {
            return Err(BackendError::new(BackendErrorKind::Server(
                "ERR".to_owned(),
            )));
        }
        let stored: Vec<Value> = seen.split_off(1);
        let (seconds, micros): (u64, u64) = from_redis_value(Value::Array(seen))
            .and_then(|mut time: Vec<Value>| from_redis_value(time.swap_remove(0)))
            .map_err(garbled)?;
        let now = Timestamp::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros));

        let mut entries = Vec::with_capacity(keys.len());
        let mut states = Vec::with_capacity(keys.len());
        for ((key, value), quota) in keys.into_iter().zip(stored).zip(&quotas.each) {
            let raw: Option<Vec<u8>> = from_redis_value(value).map_err(garbled)?;
            let (state, keep_until) = match &raw {
                None => (None, 0),
                Some(raw) => {
                    match stored::decode(raw).filter(|_| raw.first() == quota.numbers.first()) {
                        Some((state, keep_until)) => (Some(state), keep_until),
                        None => {
                            self.unwatch().await?;
                            return Err(BackendError::new(BackendErrorKind::Corrupt));
                        }
                    }
                }
            };
            states.push(state.clone());
            entries.push(StoredKey {
                key,
                state,
                keep_until,
            });
        }
        let reply = decide(request, &mut states, now);
        let mut write = pipe();
        write.atomic();
        let answers = reply.decision.snapshot().quotas();
        for (index, ((entry, state), (named, answer))) in entries
            .iter()
            .zip(&states)
            .zip(request.policy.quotas().iter().zip(answers))
            .enumerate()
        {
            // A penalty that changes nothing keeps the key for as long as its own quota needs.
            if *state == entry.state && !request.is_penalty(index) {
                continue;
            }
            let Some(state) = state else {
                write.cmd("DEL").arg(&entry.key).ignore();
                continue;
            };
            let mut owed = answer.reset_after;
            if algorithm::starts_below_capacity(named.quota()) {
                owed = owed.saturating_add(client.expiry.idle.saturating_mul(1_000));
            }
            let (before, now) = (entry.state.as_ref(), now.as_micros());
            let keep = stored::keep_for(named.quota(), before, state, owed, entry.keep_until, now);
            let packed = stored::encode(state, now.saturating_add(keep)).unwrap_or_default();
            let px = (keep.div_ceil(1_000).saturating_add(1_000)).max(client.expiry.floor);
            write
                .cmd("SET")
                .arg(&entry.key)
                .arg(packed)
                .arg("PX")
                .arg(px)
                .ignore();
        }
        if write.is_empty() {
            self.unwatch().await?;
            return Ok(Some(reply));
        }
        let done = self.query(&write).await?;
        self.is_clean = true;
        Ok((done != Value::Nil).then_some(reply))
    }

    async fn unwatch(&mut self) -> Result<(), BackendError> {
        let done: Result<(), RedisError> =
            cmd("UNWATCH").query_async(&mut self.connection.io).await;
        done.map_err(from_redis)?;
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
        Op::Reset => algorithm::reset(policy, states, now),
    }
}

impl PackedQuotas {
    fn keys<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = Vec<u8>> + 'a {
        self.each
            .iter()
            .map(move |quota| [name, quota.suffix.as_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_take_about_half_of_the_usual_time_limit() {
        assert_eq!(pauses().count(), 11);
        assert_eq!(pauses().sum::<Duration>(), Duration::from_millis(127));
    }
}
