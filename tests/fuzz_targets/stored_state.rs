use std::cell::LazyCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::redis::transport::{
    Command, Connector, Transport, TransportError, TransportErrorKind, TransportFuture, Value,
};
use tower_sluice::backend::{BackendError, BackendErrorKind, RedisBackend};
#[cfg(feature = "calendar")]
use tower_sluice::quota::Every;
use tower_sluice::{Key, Limiter, Policy, Quota};

/// A server with one value.
#[derive(Clone, Default)]
struct OneValue(Arc<Mutex<Option<Vec<u8>>>>);

impl OneValue {
    fn set(&self, value: Option<Vec<u8>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn get(&self) -> Option<Vec<u8>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn reply(&self, command: &Command) -> Result<Value, TransportError> {
        let args: Vec<&[u8]> = command.args().collect();
        Ok(match args[..] {
            [b"GET", key] if key.ends_with(b":x") => Value::Nil, // no block
            [b"GET", _] => self.get().map_or(Value::Nil, Value::Bytes),
            [b"TIME"] => Value::Array(vec![
                Value::Bytes(b"1800000000".to_vec()),
                Value::Bytes(b"0".to_vec()),
            ]),
            [b"SET", _, value, b"PX", _] => {
                self.set(Some(value.to_vec()));
                Value::Bytes(b"QUEUED".to_vec())
            }
            [b"DEL", _] => {
                self.set(None);
                Value::Bytes(b"QUEUED".to_vec())
            }
            [b"EXEC"] => Value::Array(Vec::new()),
            [b"WATCH", ..] | [b"UNWATCH" | b"MULTI" | b"PING"] => Value::Bytes(b"OK".to_vec()),
            _ => {
                let why = format!("no command of this server: {command:?}");
                return Err(TransportError::new(TransportErrorKind::Refused, why));
            }
        })
    }
}

impl Transport for OneValue {
    fn send<'a>(&'a self, command: &'a Command) -> TransportFuture<'a, Value> {
        Box::pin(async move { self.reply(command) })
    }
}

impl Connector for OneValue {
    fn connect(&self) -> TransportFuture<'_, Arc<dyn Transport>> {
        let transport: Arc<dyn Transport> = Arc::new(self.clone());
        Box::pin(async move { Ok(transport) })
    }
}

struct Subject {
    runtime: Runtime,
    server: OneValue,
    limiters: Vec<Limiter<RedisBackend>>,
}

impl Subject {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let server = OneValue::default();
        let redis = RedisBackend::builder()
            .atomicity(Atomicity::Optimistic)
            .deny_cache(Duration::ZERO)
            .time_limit(Duration::from_secs(60));
        let redis = runtime.block_on(async { redis.from_connector(server.clone()) });
        let minute = Duration::from_secs(60);
        let quotas = [
            Quota::per_second(10).burst(30),
            Quota::token_bucket(1, 7, Duration::from_micros(3)),
            Quota::token_bucket(1 << 40, 1 << 30, minute),
            Quota::interval_bucket(50, 10, minute),
            Quota::fixed_window(100, minute),
            Quota::sliding_window(1 << 40, minute),
            #[cfg(feature = "calendar")]
            Quota::calendar_window(100, Every::Day, "America/Havana"),
        ];
        let limiter = |quota| Limiter::new(Policy::new("fuzz", quota), redis.clone());
        let limiters = quotas.into_iter().map(limiter).collect();
        Self {
            runtime,
            server,
            limiters,
        }
    }

    fn run(&self, quota: u8, operation: u8, cost: u64, stored: &[u8]) {
        let limiter = &self.limiters[usize::from(quota) % self.limiters.len()];
        self.server.set(Some(stored.to_vec()));
        let is_read = is_read_or_corrupt(self.runtime.block_on(operate(limiter, operation, cost)));
        if !is_read {
            assert_eq!(
                self.server.get().as_deref(),
                Some(stored),
                "an unknown value was changed"
            );
            return;
        }
        for operation in 0..5 {
            let outcome = self.runtime.block_on(operate(limiter, operation, 1));
            assert!(
                is_read_or_corrupt(outcome),
                "the backend cannot read what it wrote"
            );
        }
    }
}

/// Returns whether the value was read.
fn is_read_or_corrupt(outcome: Result<(), BackendError>) -> bool {
    match outcome {
        Ok(()) => true,
        Err(error) if *error.kind() == BackendErrorKind::Corrupt => false,
        Err(error) => panic!("failed for another reason: {error}"),
    }
}

async fn operate(
    limiter: &Limiter<RedisBackend>,
    operation: u8,
    cost: u64,
) -> Result<(), BackendError> {
    let key = Key::from("ann");
    match operation % 5 {
        0 => {
            let reply = limiter.check(&key, cost).await?;
            if let Some(mut receipt) = reply.receipt {
                limiter.refund(&key, &mut receipt, cost).await?;
            }
        }
        1 => {
            let reply = limiter.reserve(&key, cost, Duration::MAX).await?;
            if let Some(reservation) = reply.reservation {
                limiter.cancel(&key, reservation).await?;
            }
        }
        2 => drop(limiter.penalize(&key, cost).await?),
        3 => drop(limiter.peek(&key).await?),
        _ => drop(limiter.check(&key, cost).await?),
    }
    Ok(())
}

/// Any stored bytes are a state, or an error that leaves them as they are. What is written can be read again.
///
/// The first three bytes choose the quota, the operation and the cost.
pub(crate) fn stored_state(data: &[u8]) {
    thread_local! {
        static SUBJECT: LazyCell<Subject> = LazyCell::new(Subject::new);
    }
    let [quota, operation, cost, stored @ ..] = data else {
        return;
    };
    let cost = 1_u64
        .checked_shl(u32::from(cost % 64))
        .unwrap_or(0)
        .saturating_sub(1);
    SUBJECT.with(|subject| subject.run(*quota, *operation, cost, stored));
}
