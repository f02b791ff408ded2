//! [`TimeBudget`]: the time that one request may lose to failing backends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep};

use crate::clock::micros_up;

/// The time that one request may still lose to remote backends that fail. Clones are one budget.
///
/// The first layer with a remote backend puts it into the extensions of the request, with the time limit of its backend
/// (250 ms for Redis by default). All layers of the request spend from it, and so do the settlements of its charges. A
/// request with several limits behind one stopped server so waits no longer than with one limit:
///
/// - The time until an operation fails is spent. The time until an operation succeeds is not, so a far server does no
///   harm.
/// - An operation waits for its answer no longer than the budget lasts.
/// - Without a budget left no operation is sent, and the [`FailurePolicy`](crate::FailurePolicy) decides at once. Denials
///   that are cached are still answered.
/// - A settlement that is awaited without a budget left returns an error. It continues in the background.
///
/// Middleware can insert another budget in front of the layers. It bounds nothing but backends: to bound a wait for
/// tokens, use a [`Deadline`](crate::Deadline).
///
/// Guide: [failures](crate::_guide::failures).
///
/// ```
/// use std::time::Duration;
/// use http::Request;
/// use tower_sluice::TimeBudget;
///
/// let request = Request::builder().extension(TimeBudget::new(Duration::from_millis(50))).body(())?;
/// let budget = request.extensions().get::<TimeBudget>().map(TimeBudget::remaining);
/// assert_eq!(budget, Some(Duration::from_millis(50)));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TimeBudget(Arc<AtomicU64>);

impl TimeBudget {
    /// Creates a budget of this time, rounded up to whole microseconds.
    ///
    /// See the example of [`TimeBudget`].
    #[must_use]
    pub fn new(time: Duration) -> Self {
        Self(Arc::new(AtomicU64::new(micros_up(time))))
    }

    /// Returns the time that is left.
    ///
    /// See the example of [`TimeBudget`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        Duration::from_micros(self.0.load(Relaxed))
    }

    fn spend(&self, time: Duration) {
        let spent = micros_up(time);
        // The closure always returns a value.
        let _ = self
            .0
            .fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(spent)));
    }
}

/// An operation for a request with a budget.
#[derive(Clone, Debug)]
pub(crate) struct BudgetedOp {
    budget: TimeBudget,
    began: Instant,
}

impl BudgetedOp {
    pub(crate) fn begin(budget: TimeBudget) -> Self {
        Self {
            budget,
            began: Instant::now(),
        }
    }

    /// Begins another operation of the same request.
    pub(crate) fn again(&self) -> Self {
        Self::begin(self.budget.clone())
    }

    pub(crate) fn into_budget(self) -> TimeBudget {
        self.budget
    }

    /// The longest time that this operation may take.
    pub(crate) fn limit(&self) -> Duration {
        self.budget.remaining()
    }

    /// The operation has failed, so its time is spent.
    pub(crate) fn failed(&self) {
        self.budget.spend(self.began.elapsed());
    }
}

/// The end of the budget, for a task that is awaited.
#[derive(Debug)]
pub(crate) struct BudgetEnd {
    op: BudgetedOp,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl BudgetEnd {
    pub(crate) fn new(budget: TimeBudget) -> Self {
        Self {
            op: BudgetedOp::begin(budget),
            sleep: None,
        }
    }

    /// The task has failed, so its time is spent.
    pub(crate) fn failed(&self) {
        self.op.failed();
    }

    /// Completes when the budget is spent. Outside of a runtime there is no timer, and it never completes.
    pub(crate) fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.sleep.is_none() {
            if self.op.limit().is_zero() {
                return Poll::Ready(());
            }
            if Handle::try_current().is_err() {
                return Poll::Pending;
            }
            // A task that is awaited later than it began has used no time of the request until now.
            self.op = self.op.again();
        }
        let limit = self.op.limit();
        let end = self.sleep.get_or_insert_with(|| Box::pin(sleep(limit)));
        end.as_mut().poll(cx).map(|()| self.op.failed())
    }
}
