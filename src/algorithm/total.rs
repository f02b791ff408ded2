//! Total: tokens that are spent once and never come back.
//!
//! ```text
//! allowed      used + cost <= limit
//! retry_after  never
//! ```

use super::operation::Algorithm;
use super::time::{ClockStep, clock_back, micros_between};
use crate::decision::{ChargePosition, NEVER, QuotaSnapshot, StoredState, TotalState};
use crate::quota::Total;

pub(crate) struct TotalView {
    total: TotalState,
    now: i64,
    /// The clock went back by more than the time after which the state is forgotten.
    is_moved: bool,
    /// The limit was lowered, so that the stored debt exceeds twice the limit.
    is_cut: bool,
}

impl Total {
    /// Returns the µs for which a state with this answer is kept after its last write.
    pub(crate) const fn kept_for(&self, answer: &QuotaSnapshot) -> u64 {
        match self.forget_after {
            _ if answer.reset_after == 0 => 0,
            Some(span) => span,
            None => NEVER,
        }
    }
}

impl Algorithm for Total {
    type State = TotalState;
    type View = TotalView;
    const IS_TOTAL: bool = true;

    fn limit(&self) -> u64 {
        self.limit
    }

    #[inline]
    fn state(stored: &StoredState) -> Option<&TotalState> {
        if let StoredState::Total(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    #[inline]
    fn state_mut(stored: &mut StoredState) -> Option<&mut TotalState> {
        if let StoredState::Total(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    fn placeholder() -> StoredState {
        StoredState::Total(TotalState { used: 0, at: 0 })
    }

    fn view(&self, state: Option<&TotalState>, now: i64) -> TotalView {
        let mut view = TotalView {
            total: TotalState { used: 0, at: now },
            now,
            is_moved: false,
            is_cut: false,
        };
        let Some(&TotalState { used, at }) = state.filter(|state| state.used > 0) else {
            return view;
        };
        if let Some(span) = self.forget_after {
            if micros_between(at, now) >= span {
                return view;
            }
            view.is_moved = at > now && matches!(clock_back(at, now, span), ClockStep::Rebase);
        }
        view.is_cut = used > 2 * self.limit;
        view.total = TotalState {
            used: used.min(2 * self.limit),
            at: if view.is_moved { now } else { at },
        };
        view
    }

    fn must_write(&self, view: &TotalView) -> bool {
        view.is_moved || view.is_cut
    }

    fn must_write_always(&self, view: &TotalView) -> bool {
        view.is_cut
    }

    fn fits(&self, view: &TotalView, cost: u64) -> bool {
        view.total.used + cost <= self.limit
    }

    fn retry_after(&self, _: &TotalView, _: Option<&TotalState>, _: u64) -> u64 {
        NEVER
    }

    fn remaining(&self, view: &TotalView) -> u64 {
        self.limit.saturating_sub(view.total.used)
    }

    fn reset_after(&self, view: &TotalView) -> u64 {
        if view.total.used == 0 { 0 } else { NEVER }
    }

    fn kept_for(&self, answer: &QuotaSnapshot) -> u64 {
        self.kept_for(answer)
    }

    fn write(&self, view: &TotalView, total: &mut TotalState) {
        *total = TotalState {
            used: view.total.used,
            at: view.total.at.max(view.now),
        };
    }

    fn charge(&self, view: &mut TotalView, total: &mut TotalState, tokens: u64) -> ChargePosition {
        view.total.used += tokens;
        self.write(view, total);
        ChargePosition::default()
    }

    fn refund(&self, view: &mut TotalView, total: &mut TotalState, tokens: u64, _: ChargePosition) {
        view.total.used = view.total.used.saturating_sub(tokens);
        self.write(view, total);
    }

    fn penalize(&self, view: &mut TotalView, total: &mut TotalState, tokens: u64) {
        let most = view.total.used.max(2 * self.limit);
        view.total.used = view.total.used.saturating_add(tokens).min(most);
        self.write(view, total);
    }
}
