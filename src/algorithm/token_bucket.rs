//! Token bucket with continuous refill. GCRA is the same limit: its theoretical arrival time is `now + debt / rate`.
//!
//! ```text
//! to now       debt = max(0, debt - A × elapsed)
//! allowed      debt + cost × P <= capacity × P
//! remaining    floor((capacity × P - debt) / P)        retry_after  ceil((debt + cost × P - capacity × P) / A)
//! ```
//! A token is P grains, and a microsecond refills A grains. Both are whole numbers, so the stored debt is never
//! rounded.

use super::operation::{Algorithm, Since};
use super::time::{ClockStep, MOST_DEBT, clock_back, micros_between};
use crate::decision::{Capacity, ChargePosition, StoredState, TokenBucketState};
#[cfg(feature = "redis")]
use crate::decision::{NEVER, QuotaSnapshot};
use crate::quota::TokenBucket;

pub(crate) struct TokenBucketView {
    grains: u64,
    at: i64,
    /// The µs by which the state is ahead of the caller's clock.
    ahead: u64,
    must_write: bool,
}

impl TokenBucket {
    #[inline]
    fn per_token(&self) -> u64 {
        self.units.per_token.get()
    }

    #[inline]
    fn full(&self) -> u64 {
        self.capacity * self.per_token()
    }

    #[inline]
    fn grains(&self, count: u64) -> u64 {
        count.saturating_mul(self.per_token())
    }

    #[inline]
    fn time_to_pay(&self, grains: u64) -> u64 {
        self.units.per_micro.ceil(grains)
    }

    #[inline]
    fn written(&self, view: &TokenBucketView) -> TokenBucketState {
        TokenBucketState {
            grains: view.grains,
            at: view.at,
            per_token: self.per_token(),
            capacity: Capacity::new(self.capacity),
        }
    }

    /// Returns the debt in the grains of this quota, which may have changed since the state was stored.
    ///
    /// If the size of a token has changed, the debt is converted in whole tokens. If the size or the capacity has
    /// changed, the debt is cut at twice the capacity.
    #[inline]
    fn converted(&self, debt: &TokenBucketState) -> u64 {
        if debt.per_token == self.per_token() && debt.capacity == Capacity::new(self.capacity) {
            return debt.grains;
        }
        let grains = if debt.per_token == self.per_token() {
            debt.grains
        } else {
            debt.grains
                .div_ceil(debt.per_token)
                .saturating_mul(self.per_token())
        };
        grains.min(2 * self.full())
    }
}

/// Returns the snapshot of a check of `cost` that has left a debt of `grains`, in a state that is ahead of the clock by
/// `ahead` µs. The debt is negative if the check was denied.
///
/// Returns `None` if the bucket cannot have this debt.
#[cfg(feature = "redis")]
pub(crate) fn snapshot_of_debt(
    bucket: &TokenBucket,
    grains: i64,
    ahead: u64,
    cost: u64,
) -> Option<QuotaSnapshot> {
    let view = TokenBucketView {
        grains: grains.unsigned_abs(),
        at: 0,
        ahead,
        must_write: false,
    };
    if view.grains > MOST_DEBT || ahead > MOST_DEBT {
        return None;
    }
    let retry_after = if cost > bucket.capacity {
        NEVER
    } else if grains < 0 {
        let is_denied = !bucket.fits(&view, cost);
        is_denied.then(|| bucket.retry_after(&view, None, cost))?
    } else {
        0
    };
    Some(QuotaSnapshot {
        limit: bucket.capacity,
        remaining: bucket.remaining(&view),
        retry_after,
        reset_after: bucket.reset_after(&view),
    })
}

impl Algorithm for TokenBucket {
    type State = TokenBucketState;
    type View = TokenBucketView;

    #[inline]
    fn limit(&self) -> u64 {
        self.capacity
    }

    #[inline]
    fn state(stored: &StoredState) -> Option<&TokenBucketState> {
        if let StoredState::TokenBucket(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    #[inline]
    fn state_mut(stored: &mut StoredState) -> Option<&mut TokenBucketState> {
        if let StoredState::TokenBucket(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    fn placeholder() -> StoredState {
        StoredState::TokenBucket(TokenBucketState {
            grains: 0,
            at: 0,
            per_token: 1,
            capacity: Capacity::new(0),
        })
    }

    #[inline]
    fn view(&self, state: Option<&TokenBucketState>, now: i64) -> TokenBucketView {
        let Some(debt) = state else {
            let must_write = self.initial < self.capacity;
            return TokenBucketView {
                grains: self.grains(self.capacity - self.initial),
                at: now,
                ahead: 0,
                must_write,
            };
        };
        let grains = self.converted(debt);
        if now >= debt.at {
            let paid = micros_between(debt.at, now).saturating_mul(self.units.per_micro.get());
            return TokenBucketView {
                grains: grains.saturating_sub(paid),
                at: now,
                ahead: 0,
                must_write: false,
            };
        }
        match clock_back(debt.at, now, self.time_to_pay(self.full())) {
            ClockStep::StandStill(ahead) => TokenBucketView {
                grains,
                at: debt.at,
                ahead,
                must_write: false,
            },
            ClockStep::Rebase => TokenBucketView {
                grains,
                at: now,
                ahead: 0,
                must_write: true,
            },
        }
    }

    #[inline]
    fn must_write(&self, view: &TokenBucketView) -> bool {
        view.must_write
    }

    #[inline]
    fn fits(&self, view: &TokenBucketView, cost: u64) -> bool {
        view.grains + self.grains(cost) <= self.full()
    }

    fn retry_after(&self, view: &TokenBucketView, _: Option<&TokenBucketState>, cost: u64) -> u64 {
        self.time_to_pay(view.grains + self.grains(cost) - self.full()) + view.ahead
    }

    #[inline]
    fn remaining(&self, view: &TokenBucketView) -> u64 {
        self.units
            .per_token
            .floor(self.full().saturating_sub(view.grains))
    }

    #[inline]
    fn reset_after(&self, view: &TokenBucketView) -> u64 {
        if view.grains == 0 {
            0
        } else {
            self.time_to_pay(view.grains) + view.ahead
        }
    }

    fn write(&self, view: &TokenBucketView, debt: &mut TokenBucketState) {
        *debt = self.written(view);
    }

    fn can_wait(&self, view: &TokenBucketView, cost: u64) -> bool {
        view.grains + self.grains(cost) < MOST_DEBT
    }

    fn since(&self, left: &TokenBucketState, stored: &TokenBucketState) -> Since {
        let same_quota = (left.per_token, left.capacity) == (stored.per_token, stored.capacity);
        let paid = if stored.at == left.at {
            Some(0)
        } else if stored.at > left.at && stored.per_token == self.per_token() {
            micros_between(left.at, stored.at).checked_mul(self.units.per_micro.get())
        } else {
            // The clock went back, or this quota has grains of another size than the debts.
            None
        };
        if same_quota && paid.and_then(|paid| left.grains.checked_sub(paid)) == Some(stored.grains)
        {
            Since::Unchanged
        } else {
            Since::Changed
        }
    }

    fn take_back(&self, debt: &mut TokenBucketState, tokens: u64) {
        debt.grains = debt
            .grains
            .saturating_sub(tokens.saturating_mul(debt.per_token));
    }

    #[inline]
    fn charge(
        &self,
        view: &mut TokenBucketView,
        debt: &mut TokenBucketState,
        tokens: u64,
    ) -> ChargePosition {
        view.grains += self.grains(tokens);
        *debt = self.written(view);
        ChargePosition::default()
    }

    fn refund(
        &self,
        view: &mut TokenBucketView,
        debt: &mut TokenBucketState,
        tokens: u64,
        _: ChargePosition,
    ) {
        view.grains = view.grains.saturating_sub(self.grains(tokens));
        *debt = self.written(view);
    }

    fn penalize(&self, view: &mut TokenBucketView, debt: &mut TokenBucketState, tokens: u64) {
        let most = view.grains.max(2 * self.full());
        view.grains = view.grains.saturating_add(self.grains(tokens)).min(most);
        *debt = self.written(view);
    }
}
