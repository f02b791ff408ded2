use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::cancel;
use crate::backend::{Answer, Backend, TaskError};
use crate::decision::{Op, Reply, Reservation};
use crate::key::Key;
use crate::policy::Policy;

/// Cancels a reservation when it is dropped.
pub(super) struct CancelOnDrop<'a, B: Backend> {
    backend: &'a B,
    policy: &'a Policy,
    key: &'a Key,
    reservation: Option<Reservation>,
}

impl<'a, B: Backend> CancelOnDrop<'a, B> {
    pub(super) fn new(
        backend: &'a B,
        policy: &'a Policy,
        key: &'a Key,
        reservation: Option<Reservation>,
    ) -> Self {
        Self {
            backend,
            policy,
            key,
            reservation,
        }
    }

    pub(super) fn used(mut self) -> Option<Reservation> {
        self.reservation.take()
    }
}

impl<B: Backend> Drop for CancelOnDrop<'_, B> {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            cancel::in_background(self.backend, self.policy, self.key, reservation);
        }
    }
}

/// The answer to an operation. If this future is dropped, the charge of a late answer is refunded.
pub(super) struct RefundOnDrop<B: Backend> {
    reply: Option<Pin<Box<B::Future>>>,
    asker: Option<(B, Policy, Key)>,
    is_polled: bool,
}

impl<B: Backend> RefundOnDrop<B> {
    pub(super) fn new(reply: B::Future, backend: &B, policy: &Policy, key: &Key) -> Self {
        Self {
            reply: Some(Box::pin(reply)),
            asker: Some((backend.clone(), policy.clone(), key.clone())),
            is_polled: false,
        }
    }
}

/// No field is pinned in place.
impl<B: Backend> Unpin for RefundOnDrop<B> {}

impl<B: Backend> Future for RefundOnDrop<B> {
    type Output = Result<Reply, B::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.is_polled = true;
        // The reply is taken out: if this poll panics, the drop must not poll it again.
        let mut reply = self.reply.take().expect("polled after completion");
        let polled = reply.as_mut().poll(cx);
        if polled.is_pending() {
            self.reply = Some(reply);
        }
        polled
    }
}

impl<B: Backend> Drop for RefundOnDrop<B> {
    fn drop(&mut self) {
        // A reply that was never polled has not been sent.
        let (Some(reply), Some(asker), true) =
            (self.reply.take(), self.asker.take(), self.is_polled)
        else {
            return;
        };
        let (backend, policy, key) = asker;
        let background = Arc::clone(backend.context().background());
        Arc::clone(&background).spawn_unbounded(async move {
            // Without an answer no charge is known, and the task that asked reports the failure.
            let Ok(mut reply) = reply.await else {
                return Ok(());
            };
            cancel::set_due(&mut reply, backend.context());
            if let Some(reservation) = reply.reservation {
                // A reservation without a wait is cancelled, not refunded: a refunded token would allow two requests
                // together while others wait.
                let cancelled = cancel::cancel_alone(&backend, &policy, &key, reservation).await;
                return cancelled.map_err(TaskError::from_error).map(drop);
            }
            let Some(receipt) = reply.receipt else {
                return Ok(());
            };
            let op = Op::Refund(receipt);
            let _slot = background.acquire_slot().await;
            let done = match backend.ask(op, &policy, &key) {
                Answer::Now(done) => done,
                Answer::Later(done) => done.await,
            };
            done.map_err(TaskError::from_error).map(drop)
        });
    }
}
