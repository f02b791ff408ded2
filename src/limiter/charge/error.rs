use std::error::Error;
use std::fmt;

use crate::backend::TaskError;

#[derive(Clone, Debug)]
pub struct SettleError(pub(super) SettleErrorKind);

#[derive(Clone, Debug)]
pub(super) enum SettleErrorKind {
    /// Another one came first.
    Settled,
    Task(TaskError),
}

impl From<TaskError> for SettleErrorKind {
    fn from(error: TaskError) -> Self {
        Self::Task(error)
    }
}

impl SettleError {
    /// Whether another settlement of the same charge came first; else the backend gave no answer, too many settlements
    /// were under way, or there is no runtime.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(self.0, SettleErrorKind::Settled)
    }
}

impl fmt::Display for SettleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            SettleErrorKind::Settled => "the charge has been settled already",
            SettleErrorKind::Task(TaskError::TooMany) => "too many settlements are under way",
            SettleErrorKind::Task(TaskError::NoRuntime) => {
                "settling with a remote backend needs a Tokio runtime, and there is none here"
            }
            SettleErrorKind::Task(TaskError::RuntimeEnded) => {
                "the runtime ended before the settlement was done"
            }
            SettleErrorKind::Task(TaskError::TimedOut) => "the settlement took too long",
            SettleErrorKind::Task(TaskError::Failed(_)) => {
                "the backend gave no answer to the settlement"
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
