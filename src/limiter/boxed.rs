use std::pin::Pin;
use std::time::Duration;

use super::acquire::acquire;
use super::acquired::Acquired;
use super::on_drop::RefundOnDrop;
use super::rejected::Rejected;
use crate::backend::{Backend, LocalBackend};
use crate::budget::TimeBudget;
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::wait::{Bound, MaxWait};

/// A wait as an owned future.
pub(crate) type WaitFuture<E> = Pin<Box<dyn Future<Output = Result<Acquired, Rejected<E>>> + Send>>;

/// Waits as [`acquire`] does, from the first poll on.
pub(crate) fn acquire_boxed<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    cost: &Cost,
    bound: Bound,
    budget: Option<TimeBudget>,
) -> WaitFuture<B::Error> {
    let (backend, policy) = (backend.clone(), policy.clone());
    let (key, cost) = (key.clone(), cost.clone());
    Box::pin(async move {
        let max_wait = bound.left(backend.context().now());
        acquire(&backend, &policy, &key, &cost, max_wait, budget.as_ref()).await
    })
}

/// Waits as [`acquire`] does, in the fallback of a backend that can fail.
pub(crate) fn acquire_local<E: Send + 'static>(
    local: &LocalBackend,
    policy: &Policy,
    key: &Key,
    cost: &Cost,
    max_wait: MaxWait,
) -> WaitFuture<E> {
    let (local, policy) = (local.clone(), policy.clone());
    let (key, cost) = (key.clone(), cost.clone());
    Box::pin(async move {
        let wait = acquire(&local, &policy, &key, &cost, max_wait, None);
        wait.await.map_err(Rejected::widen_error)
    })
}

/// The outcome of a check. If it is dropped before the answer, the charge is refunded.
pub(crate) fn refund_on_drop<B: Backend>(
    reply: B::Future,
    backend: &B,
    policy: &Policy,
    key: &Key,
) -> WaitFuture<B::Error> {
    let kept = RefundOnDrop::new(reply, backend, policy, key);
    Box::pin(
        async move { Acquired::from_reply(kept.await.map_err(Rejected::Backend)?, Duration::ZERO) },
    )
}
