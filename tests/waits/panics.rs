//! Backends that panic while they are polled: a future that panicked is not polled again.

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Waker};
use std::time::Duration;

use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
use tower_sluice::semaphore::{PermitBackend, PermitOp, PermitReply};
use tower_sluice::{Key, Limiter, Policy, Quota, Semaphore, SemaphorePolicy};

use crate::executor::secs;

/// Panics at every poll, and counts the polls. The release of a permit never completes.
#[derive(Clone, Default)]
struct Panics(Arc<(BackendContext, AtomicUsize)>);

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, Infallible>> + Send>>;

impl Panics {
    fn panicking<T>(&self) -> Boxed<T> {
        let shared = Arc::clone(&self.0);
        Box::pin(poll_fn(move |_| {
            shared.1.fetch_add(1, SeqCst);
            panic!("on purpose")
        }))
    }

    fn polls(&self) -> usize {
        self.0.1.load(SeqCst)
    }
}

impl Backend for Panics {
    type Error = Infallible;
    type Future = Boxed<Reply>;

    fn ask(&self, _: Op, _: &Policy, _: &Key) -> Answer<Result<Reply, Infallible>, Self::Future> {
        Answer::Later(self.panicking())
    }

    fn context(&self) -> &BackendContext {
        &self.0.0
    }
}

impl PermitBackend for Panics {
    type Error = Infallible;
    type Future = Boxed<PermitReply>;

    fn ask(
        &self,
        op: PermitOp,
        _: &SemaphorePolicy,
        _: &Key,
    ) -> Answer<Result<PermitReply, Infallible>, Self::Future> {
        Answer::Later(match op {
            PermitOp::Acquire { .. } | PermitOp::Wait { .. } => self.panicking(),
            _ => Box::pin(std::future::pending()),
        })
    }

    fn context(&self) -> &BackendContext {
        &self.0.0
    }

    fn has_leases(&self) -> bool {
        true
    }

    fn next_attempt(&self, _: &SemaphorePolicy, _: &PermitReply, _: usize) -> Option<Duration> {
        None
    }
}

/// Polls `future` once, which panics. Then drops it and runs all remaining tasks.
async fn panics(future: impl Future) {
    {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        let poll = || drop(future.as_mut().poll(&mut cx));
        assert!(catch_unwind(AssertUnwindSafe(poll)).is_err());
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn panicked_future_is_not_polled_again() {
    let window = Policy::new("window", Quota::fixed_window(1, secs(9)));
    for policy in [Policy::new("bucket", Quota::per_second(1)), window] {
        let backend = Panics::default();
        let limiter = Limiter::new(policy, backend.clone());
        panics(limiter.acquire(&Key::from("ann"), 1, secs(1))).await;
        assert_eq!(backend.polls(), 1);
    }
    let backend = Panics::default();
    let semaphore = Semaphore::new(SemaphorePolicy::new("permits", 1), backend.clone());
    panics(semaphore.acquire(&Key::from("ann"), 1, secs(1))).await;
    assert_eq!(backend.polls(), 1);
}
