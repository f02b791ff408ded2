use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::cancel;
use crate::backend::{Answer, Backend, TaskError};
use crate::decision::{Op, Reply, Reservation};
use crate::key::Key;
use crate::policy::Policy;

/// A reservation that is given up when this is dropped.
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

/// An answer on its way. If nobody waits for it any more, what it has charged is given back when it comes.
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

/// Nothing in it is pinned in place.
impl<B: Backend> Unpin for RefundOnDrop<B> {}

impl<B: Backend> Future for RefundOnDrop<B> {
    type Output = Result<Reply, B::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.is_polled = true;
        // Taken out: if this poll panics, the drop must not poll it again.
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
        // What was never polled has not been sent.
        let (Some(reply), Some(asker), true) =
            (self.reply.take(), self.asker.take(), self.is_polled)
        else {
            return;
        };
        let (backend, policy, key) = asker;
        let background = Arc::clone(backend.context().background());
        Arc::clone(&background).spawn_unbounded(async move {
            // Nothing is known to be charged if that fails, and it is not this background task that does.
            let Ok(mut reply) = reply.await else {
                return Ok(());
            };
            cancel::set_due(&mut reply, backend.context());
            if let Some(reservation) = reply.reservation {
                // Also one that would have come at once: a token that came back with others in line would let two go
                // together.
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
