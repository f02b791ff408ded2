use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::error::{SettleError, SettleErrorKind};
use crate::backend::TaskError;
use crate::decision::Snapshot;

/// How a settlement goes on; it does so whether or not this is awaited. With a remote backend it needs the Tokio
/// runtime that it was begun in.
///
/// # Cancel safety
///
/// Dropping it changes nothing.
#[derive(Debug)]
pub struct Settlement(SettlementState);

#[derive(Debug)]
enum SettlementState {
    Done(Option<Result<Option<Snapshot>, SettleError>>),
    Running(oneshot::Receiver<Result<Snapshot, TaskError>>),
}

impl Settlement {
    pub(super) fn done(snapshot: Option<Snapshot>) -> Self {
        Self(SettlementState::Done(Some(Ok(snapshot))))
    }

    pub(super) fn running(outcome: oneshot::Receiver<Result<Snapshot, TaskError>>) -> Self {
        Self(SettlementState::Running(outcome))
    }

    pub(super) fn failed(kind: SettleErrorKind) -> Self {
        Self(SettlementState::Done(Some(Err(SettleError(kind)))))
    }

    /// Blocks this thread until it is done. A charge of a [`blocking::Limiter`](crate::blocking::Limiter) is settled by
    /// then; one of a task goes on in its runtime, which must not be driven by this thread.
    ///
    /// # Errors
    ///
    /// As awaiting it.
    #[cfg(feature = "blocking")]
    pub fn join(self) -> Result<Option<Snapshot>, SettleError> {
        crate::park::block_on(self)
    }
}

impl Future for Settlement {
    /// The numbers after it, if anything had to be changed.
    type Output = Result<Option<Snapshot>, SettleError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            SettlementState::Done(outcome) => Poll::Ready(
                outcome
                    .take()
                    .expect("`Settlement` polled after completion"),
            ),
            SettlementState::Running(outcome) => Pin::new(outcome).poll(cx).map(|outcome| {
                match outcome.unwrap_or(Err(TaskError::RuntimeEnded)) {
                    Ok(snapshot) => Ok(Some(snapshot)),
                    Err(error) => Err(SettleError(error.into())),
                }
            }),
        }
    }
}
