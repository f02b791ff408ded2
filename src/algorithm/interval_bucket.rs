//! Token bucket, interval refill: `refill` tokens at once at the end of each period.
//!
//! ```text
//! to now       k = floor((now - anchor) / period); debt = max(0, debt - k × refill); anchor += k × period
//! allowed      debt + cost <= capacity
//! retry_after  anchor + ceil((debt + cost - capacity) / refill) × period - now
//! ```
//! A full bucket has no clock, so that it equals one never seen: the first charge that leaves full starts it.

use super::operation::{Algorithm, Since};
use super::time::{ClockStep, MOST_DEBT, clock_back, micros_between, signed, start_of};
use crate::decision::{ChargePosition, IntervalBucketState, StoredState};
use crate::quota::IntervalBucket;

pub(super) struct View {
    tokens: u64,
    anchor: i64,
    /// The time decided at, and how far it is ahead of the caller's clock.
    now: i64,
    ahead: u64,
    must_note: bool,
}

impl IntervalBucket {
    fn time_to_pay(&self, tokens: u64) -> u64 {
        tokens.div_ceil(self.refill).saturating_mul(self.period)
    }

    /// From the time decided at to the tick that pays `tokens`.
    fn until_paid(&self, view: &View, tokens: u64) -> u64 {
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

    fn fresh(&self, tokens: u64, now: i64, must_note: bool) -> View {
        View {
            tokens,
            anchor: start_of(self.origin, self.period, now),
            now,
            ahead: 0,
            must_note,
        }
    }

    fn written(&self, view: &View) -> IntervalBucketState {
        IntervalBucketState {
            tokens: view.tokens,
            anchor: view.anchor,
            capacity: self.capacity,
        }
    }
}

impl Algorithm for IntervalBucket {
    type State = IntervalBucketState;
    type View = View;

    fn limit(&self) -> u64 {
        self.capacity
    }

    #[inline]
    fn peel(kept: &StoredState) -> Option<&IntervalBucketState> {
        if let StoredState::IntervalBucket(state) = kept {
            Some(state)
        } else {
            None
        }
    }

    #[inline]
    fn peel_mut(kept: &mut StoredState) -> Option<&mut IntervalBucketState> {
        if let StoredState::IntervalBucket(state) = kept {
            Some(state)
        } else {
            None
        }
    }

    fn blank() -> StoredState {
        StoredState::IntervalBucket(IntervalBucketState {
            tokens: 0,
            anchor: 0,
            capacity: 0,
        })
    }

    fn view(&self, state: Option<&IntervalBucketState>, now: i64) -> View {
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
        View {
            tokens: owed,
            anchor,
            now,
            ahead,
            must_note: false,
        }
    }

    fn must_note(&self, view: &View) -> bool {
        view.must_note
    }

    fn fits(&self, view: &View, cost: u64) -> bool {
        view.tokens + cost <= self.capacity
    }

    fn retry_after(&self, view: &View, _: Option<&IntervalBucketState>, cost: u64) -> u64 {
        self.until_paid(view, view.tokens + cost - self.capacity)
    }

    fn remaining(&self, view: &View) -> u64 {
        self.capacity.saturating_sub(view.tokens)
    }

    fn reset_after(&self, view: &View) -> u64 {
        if view.tokens == 0 {
            0
        } else {
            self.until_paid(view, view.tokens)
        }
    }

    fn note(&self, view: &View, debt: &mut IntervalBucketState) {
        *debt = self.written(view);
    }

    fn can_wait(&self, view: &View, cost: u64) -> bool {
        view.tokens + cost < MOST_DEBT
    }

    fn since(&self, left: &IntervalBucketState, stored: &IntervalBucketState) -> Since {
        if stored.tokens == 0 {
            return Since::Paid;
        }
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
        view: &mut View,
        debt: &mut IntervalBucketState,
        tokens: u64,
    ) -> ChargePosition {
        view.tokens += tokens;
        *debt = self.written(view);
        ChargePosition::default()
    }

    fn refund(
        &self,
        view: &mut View,
        debt: &mut IntervalBucketState,
        tokens: u64,
        _: ChargePosition,
    ) {
        view.tokens = view.tokens.saturating_sub(tokens);
        *debt = self.written(view);
    }

    fn penalize(&self, view: &mut View, debt: &mut IntervalBucketState, tokens: u64) {
        let most = view.tokens.max(2 * self.capacity);
        view.tokens = view.tokens.saturating_add(tokens).min(most);
        *debt = self.written(view);
    }
}
