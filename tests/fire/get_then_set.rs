//! A limiter that must fail the test.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, RedisError};
use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
use tower_sluice::decision::QuotaSnapshot;
use tower_sluice::{Key, Policy, RetryAfter};

use crate::load::now;

/// A token bucket in three separate steps, GET, decide, SET: concurrent readers spend the same tokens.
#[derive(Clone)]
pub struct GetThenSet(MultiplexedConnection, Arc<BackendContext>);

impl GetThenSet {
    pub async fn connect(url: &str) -> Result<Self, RedisError> {
        let client = redis::Client::open(url)?;
        let connection = client.get_multiplexed_async_connection().await?;
        Ok(Self(connection, Arc::default()))
    }
}

impl Backend for GetThenSet {
    type Error = RedisError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, RedisError>> + Send>>;

    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, RedisError>, Self::Future> {
        let Op::Check(cost) = op else {
            unreachable!("no other operation is sent")
        };
        let (mut redis, key) = (self.0.clone(), key.as_bytes().to_vec());
        let quota = *policy.quotas()[0].quota();
        let (per_micro, per_token) = quota.grains().expect("a token bucket");
        Answer::Later(Box::pin(async move {
            let full = quota.limit() * per_token;
            let state: Option<String> = redis.get(&key).await?;
            let now = now();
            let (debt, at): (u64, u64) = state
                .as_deref()
                .and_then(|state| state.split_once(' '))
                .map_or((0, now), |(debt, at)| {
                    (
                        debt.parse().expect("our own format"),
                        at.parse().expect("our own format"),
                    )
                });
            let debt = debt.saturating_sub(now.saturating_sub(at) * per_micro);
            let after = debt + cost.get(0) * per_token;
            let allowed = after <= full;
            let debt = if allowed { after } else { debt };
            if allowed {
                let _: () = redis.set(&key, format!("{debt} {now}")).await?;
            }
            let wait = Duration::from_micros((after.saturating_sub(full)).div_ceil(per_micro));
            Ok(Reply::from_quotas(&[QuotaSnapshot::new(
                quota.limit(),
                (full - debt) / per_token,
                (!allowed).then_some(RetryAfter::In(wait)),
                Duration::from_micros(debt.div_ceil(per_micro)),
            )]))
        }))
    }

    fn context(&self) -> &BackendContext {
        &self.1
    }
}
