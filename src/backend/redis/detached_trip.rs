//! A round trip that outlives its request.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use super::round_trip::RedisResult;

/// A round trip that runs in the future of its only request, which is the fastest way.
///
/// If that future is dropped, a background task completes the round trip. Otherwise requests that are dropped early
/// would hide a dead connection.
pub(super) struct DetachedTrip<T: 'static>(
    Option<Pin<Box<dyn Future<Output = RedisResult<T>> + Send>>>,
);

impl<T> DetachedTrip<T> {
    pub(super) fn new(trip: impl Future<Output = RedisResult<T>> + Send + 'static) -> Self {
        Self(Some(Box::pin(trip)))
    }
}

impl<T> Future for DetachedTrip<T> {
    type Output = RedisResult<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RedisResult<T>> {
        // The trip is taken out, because the drop must not poll it again if this poll panics.
        let mut trip = self.0.take().expect("polled after completion");
        let outcome = trip.as_mut().poll(cx);
        if outcome.is_pending() {
            self.0 = Some(trip);
        }
        outcome
    }
}

impl<T> Drop for DetachedTrip<T> {
    fn drop(&mut self) {
        if let (Some(trip), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move { drop(trip.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn trip_that_panicked_is_not_polled_again() {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let mut trip = DetachedTrip::<()>::new(std::future::poll_fn(move |_| {
            counted.fetch_add(1, Relaxed);
            panic!("on purpose")
        }));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let poll = || drop(Pin::new(&mut trip).poll(&mut cx));
        assert!(catch_unwind(AssertUnwindSafe(poll)).is_err());
        drop(trip);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(polls.load(Relaxed), 1);
    }
}
