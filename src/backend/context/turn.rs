use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::futures::Notified;

use super::BackendContext;
use crate::clock::Timestamp;

/// The longest wait after a deadline for checks that are due in front: as long as Redis may take for an answer by
/// default. Without this bound, a head that is not polled would block the expired waiters behind it.
const GRACE: Duration = Duration::from_millis(250);

/// The waiters of one key. The first one, the head, asks the backend; the others wait for its place.
pub(crate) trait WaiterQueue {
    /// The place of the head. Dropping it leaves the queue.
    type Head<'q>
    where
        Self: 'q;

    /// Becomes the head if the queue is empty.
    fn try_head(&self) -> Option<Self::Head<'_>>;

    /// Becomes the head after all waiters in front have left.
    fn head(&self) -> impl Future<Output = Self::Head<'_>> + Send;

    /// Returns the time of the head's next check, if it is known.
    fn next_attempt(&self) -> Option<Timestamp>;

    /// Returns whether the head asks the backend again at `now`, or is about to. Before the first denial it returns
    /// `false`: the permits or tokens may suffice for all waiters.
    fn is_asking(&self, now: Timestamp) -> bool;

    /// Completes at the next denial of the head.
    fn denied(&self) -> Notified<'_>;

    /// Makes a head ask now that is about to.
    fn hurry(&self);
}

/// What a waiter in a queue may do.
pub(crate) enum Turn<H> {
    /// The waiter is the head.
    Head(H),
    /// The deadline comes first, and the head does not ask. One check takes nothing for which the head waits.
    Check,
    /// The deadline comes first, and the head has not been answered shortly after it.
    TooLate,
}

impl BackendContext {
    /// Waits for the head of the queue until `deadline`, and shortly after it for a head that is asking. Clears
    /// `at_once` if it waits.
    ///
    /// A check at the deadline would overtake a head that is about to ask: it would take tokens or permits for which
    /// the head waits.
    pub(crate) async fn wait_for_turn<'q, Q: WaiterQueue>(
        &self,
        queue: &'q Q,
        deadline: Timestamp,
        at_once: &mut bool,
    ) -> Turn<Q::Head<'q>> {
        if let Some(head) = queue.try_head() {
            return Turn::Head(head);
        }
        let mut head = pin!(queue.head());
        if queue.next_attempt().is_none_or(|next| next <= deadline) {
            *at_once = false;
            let mut end = self.sleep_until(deadline);
            let reached = poll_fn(|cx| match head.as_mut().poll(cx) {
                Poll::Ready(head) => Poll::Ready(Some(head)),
                Poll::Pending => end.as_mut().poll(cx).map(|()| None),
            });
            if let Some(head) = reached.await {
                return Turn::Head(head);
            }
        }
        let mut grace = self.sleep_until(deadline.after(GRACE));
        loop {
            // It is created before the check, because the head may be denied between the two.
            let mut denied = pin!(queue.denied());
            if !queue.is_asking(self.now()) {
                return Turn::Check;
            }
            *at_once = false;
            queue.hurry();
            let turn = poll_fn(|cx| {
                if let Poll::Ready(head) = head.as_mut().poll(cx) {
                    return Poll::Ready(Some(Turn::Head(head)));
                }
                if grace.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(Turn::TooLate));
                }
                denied.as_mut().poll(cx).map(|()| None)
            });
            if let Some(turn) = turn.await {
                return turn;
            }
        }
    }
}
