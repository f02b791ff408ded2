use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::error::{SettleError, SettleErrorKind};
use crate::backend::TaskError;
use crate::budget::{BudgetEnd, TimeBudget};
use crate::decision::Snapshot;

/// A running settlement. It completes even if this future is not awaited.
///
/// With a remote backend it runs on the Tokio runtime that it was started on.
///
/// # Cancel safety
///
/// Dropping this future has no effect on the settlement.
#[derive(Debug)]
pub struct Settlement(SettlementState);

#[derive(Debug)]
enum SettlementState {
    Done(Option<Result<Option<Snapshot>, SettleError>>),
    Running(
        oneshot::Receiver<Result<Snapshot, TaskError>>,
        Option<BudgetEnd>,
    ),
}

impl Settlement {
    pub(super) fn done(snapshot: Option<Snapshot>) -> Self {
        Self(SettlementState::Done(Some(Ok(snapshot))))
    }

    pub(super) fn running(outcome: oneshot::Receiver<Result<Snapshot, TaskError>>) -> Self {
        Self(SettlementState::Running(outcome, None))
    }

    /// Is awaited for no longer than the budget of the request lasts.
    pub(super) fn within(mut self, budget: Option<TimeBudget>) -> Self {
        if let (SettlementState::Running(_, end), Some(budget)) = (&mut self.0, budget) {
            *end = Some(BudgetEnd::new(budget));
        }
        self
    }

    pub(super) fn failed(kind: SettleErrorKind) -> Self {
        Self(SettlementState::Done(Some(Err(SettleError(kind)))))
    }

    /// Blocks the thread until the settlement is complete.
    ///
    /// The settlement of a [`blocking::Limiter`](crate::blocking::Limiter) is already complete. The settlement of a
    /// task runs on its runtime, so this thread must not drive that runtime.
    ///
    /// # Errors
    ///
    /// Returns the error that awaiting the future would return.
    #[cfg(feature = "blocking")]
    pub fn join(self) -> Result<Option<Snapshot>, SettleError> {
        crate::park::block_on(self)
    }
}

impl Future for Settlement {
    /// The numbers after the settlement. `None` if nothing had to change.
    type Output = Result<Option<Snapshot>, SettleError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            SettlementState::Done(outcome) => Poll::Ready(
                outcome
                    .take()
                    .expect("`Settlement` polled after completion"),
            ),
            SettlementState::Running(outcome, end) => {
                if let Poll::Ready(outcome) = Pin::new(outcome).poll(cx) {
                    return Poll::Ready(match outcome.unwrap_or(Err(TaskError::RuntimeEnded)) {
                        Ok(snapshot) => Ok(Some(snapshot)),
                        Err(error) => {
                            if let Some(end) = end {
                                end.failed();
                            }
                            Err(SettleError(error.into()))
                        }
                    });
                }
                match end {
                    Some(end) => end
                        .poll_spent(cx)
                        .map(|()| Err(SettleError(SettleErrorKind::OutOfTime))),
                    None => Poll::Pending,
                }
            }
        }
    }
}
