use std::error::Error;
use std::fmt;

use crate::backend::TaskError;

/// The error of a [`Settlement`](super::Settlement): it had no effect, or its effect is unknown.
#[derive(Clone, Debug)]
pub struct SettleError(pub(super) SettleErrorKind);

#[derive(Clone, Debug)]
pub(super) enum SettleErrorKind {
    /// The charge was settled before.
    Settled,
    /// The settlement takes longer than the budget of the request.
    OutOfTime,
    Task(TaskError),
}

impl From<TaskError> for SettleErrorKind {
    fn from(error: TaskError) -> Self {
        Self::Task(error)
    }
}

impl SettleError {
    /// Returns whether the charge was settled before. Otherwise the backend failed, the [`TimeBudget`] of the request is
    /// spent, too many settlements were running, or there was no runtime.
    ///
    /// [`TimeBudget`]: crate::TimeBudget
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(self.0, SettleErrorKind::Settled)
    }
}

impl fmt::Display for SettleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            SettleErrorKind::Settled => "the charge was already settled",
            SettleErrorKind::OutOfTime => {
                "the request has no time left for the backend; the settlement continues in the background"
            }
            SettleErrorKind::Task(TaskError::TooMany) => "too many settlements are running",
            SettleErrorKind::Task(TaskError::NoRuntime) => {
                "a remote backend needs a Tokio runtime to settle a charge; call it within one"
            }
            SettleErrorKind::Task(TaskError::RuntimeEnded) => {
                "the runtime ended before the settlement was complete"
            }
            SettleErrorKind::Task(TaskError::TimedOut) => "the settlement timed out",
            SettleErrorKind::Task(TaskError::Failed(_)) => {
                "the backend failed to settle the charge"
            }
        })
    }
}

impl Error for SettleError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            SettleErrorKind::Task(TaskError::Failed(error)) => Some(&**error),
            _ => None,
        }
    }
}
