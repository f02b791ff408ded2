//! Token bucket with interval refill: `refill` tokens at once at the end of each period.
//!
//! ```text
//! to now       k = floor((now - anchor) / period); debt = max(0, debt - k × refill); anchor += k × period
//! allowed      debt + cost <= capacity
//! retry_after  anchor + ceil((debt + cost - capacity) / refill) × period - now
//! ```
//! A full bucket has no period, so that it equals an unused one. The first charge of a full bucket starts a period.

use super::operation::{Algorithm, Since};
use super::time::{ClockStep, MOST_DEBT, clock_back, micros_between, signed, start_of};
use crate::decision::{ChargePosition, IntervalBucketState, StoredState};
use crate::quota::IntervalBucket;

pub(crate) struct IntervalBucketView {
    tokens: u64,
    anchor: i64,
    /// The time of the decision, and the µs by which it is ahead of the caller's clock.
    now: i64,
    ahead: u64,
    must_write: bool,
}

impl IntervalBucket {
    fn time_to_pay(&self, tokens: u64) -> u64 {
        tokens.div_ceil(self.refill).saturating_mul(self.period)
    }

    /// Returns the µs from the caller's time to the end of the period that refills the last of `tokens`.
    fn until_paid(&self, view: &IntervalBucketView, tokens: u64) -> u64 {
        micros_between(
            view.now,
            view.anchor.saturating_add(signed(self.time_to_pay(tokens))),
        ) + view.ahead
    }

    fn converted(&self, debt: &IntervalBucketState) -> u64 {
        if debt.capacity == self.capacity {
            debt.tokens
        } else {
            debt.tokens.min(2 * self.capacity)
        }
    }

    fn fresh(&self, tokens: u64, now: i64, must_write: bool) -> IntervalBucketView {
        IntervalBucketView {
            tokens,
            anchor: start_of(self.origin, self.period, now),
            now,
            ahead: 0,
            must_write,
        }
    }

    fn written(&self, view: &IntervalBucketView) -> IntervalBucketState {
        IntervalBucketState {
            tokens: view.tokens,
            anchor: view.anchor,
            capacity: self.capacity,
        }
    }
}

impl Algorithm for IntervalBucket {
    type State = IntervalBucketState;
    type View = IntervalBucketView;

    fn limit(&self) -> u64 {
        self.capacity
    }

    #[inline]
    fn state(stored: &StoredState) -> Option<&IntervalBucketState> {
        if let StoredState::IntervalBucket(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    #[inline]
    fn state_mut(stored: &mut StoredState) -> Option<&mut IntervalBucketState> {
        if let StoredState::IntervalBucket(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    fn placeholder() -> StoredState {
        StoredState::IntervalBucket(IntervalBucketState {
            tokens: 0,
            anchor: 0,
            capacity: 0,
        })
    }

    fn view(&self, state: Option<&IntervalBucketState>, now: i64) -> IntervalBucketView {
        let Some(debt) = state else {
            return self.fresh(
                self.capacity - self.initial,
                now,
                self.initial < self.capacity,
            );
        };
        let owed = self.converted(debt);
        let (now, ahead) = if now >= debt.anchor {
            (now, 0)
        } else {
            match clock_back(debt.anchor, now, self.time_to_pay(self.capacity)) {
                ClockStep::StandStill(ahead) => (debt.anchor, ahead),
                ClockStep::Rebase => return self.fresh(owed, now, true),
            }
        };
        let ended = micros_between(debt.anchor, now) / self.period;
        let owed = owed.saturating_sub(ended.saturating_mul(self.refill));
        let anchor = if owed == 0 {
            start_of(self.origin, self.period, now)
        } else {
            debt.anchor + signed(ended * self.period)
        };
        IntervalBucketView {
            tokens: owed,
            anchor,
            now,
            ahead,
            must_write: false,
        }
    }

    fn must_write(&self, view: &IntervalBucketView) -> bool {
        view.must_write
    }

    fn fits(&self, view: &IntervalBucketView, cost: u64) -> bool {
        view.tokens + cost <= self.capacity
    }

    fn retry_after(
        &self,
        view: &IntervalBucketView,
        _: Option<&IntervalBucketState>,
        cost: u64,
    ) -> u64 {
        self.until_paid(view, view.tokens + cost - self.capacity)
    }

    fn remaining(&self, view: &IntervalBucketView) -> u64 {
        self.capacity.saturating_sub(view.tokens)
    }

    fn reset_after(&self, view: &IntervalBucketView) -> u64 {
        if view.tokens == 0 {
            0
        } else {
            self.until_paid(view, view.tokens)
        }
    }

    fn write(&self, view: &IntervalBucketView, debt: &mut IntervalBucketState) {
        *debt = self.written(view);
    }

    fn can_wait(&self, view: &IntervalBucketView, cost: u64) -> bool {
        view.tokens + cost < MOST_DEBT
    }

    fn since(&self, left: &IntervalBucketState, stored: &IntervalBucketState) -> Since {
        let passed = micros_between(left.anchor, stored.anchor);
        let whole = stored.anchor >= left.anchor && passed.is_multiple_of(self.period);
        let paid = (passed / self.period).checked_mul(self.refill);
        let owed = paid.and_then(|paid| left.tokens.checked_sub(paid));
        if whole && left.capacity == stored.capacity && owed == Some(stored.tokens) {
            Since::Unchanged
        } else {
            Since::Changed
        }
    }

    fn take_back(&self, debt: &mut IntervalBucketState, tokens: u64) {
        debt.tokens = debt.tokens.saturating_sub(tokens);
    }

    fn charge(
        &self,
        view: &mut IntervalBucketView,
        debt: &mut IntervalBucketState,
        tokens: u64,
    ) -> ChargePosition {
        view.tokens += tokens;
        *debt = self.written(view);
        ChargePosition::default()
    }

    fn refund(
        &self,
        view: &mut IntervalBucketView,
        debt: &mut IntervalBucketState,
        tokens: u64,
        _: ChargePosition,
    ) {
        view.tokens = view.tokens.saturating_sub(tokens);
        *debt = self.written(view);
    }

    fn penalize(&self, view: &mut IntervalBucketView, debt: &mut IntervalBucketState, tokens: u64) {
        let most = view.tokens.max(2 * self.capacity);
        view.tokens = view.tokens.saturating_add(tokens).min(most);
        *debt = self.written(view);
    }
}
