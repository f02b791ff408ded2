//! Fixed window: a count that starts at 0 in each window. The start of a window belongs to it, its end does not.
//!
//! ```text
//! to now       now >= start + window, or used = 0:  used = 0, start = start of the window of now
//! allowed      used + cost <= limit
//! retry_after  start + window - now
//! ```

use super::operation::Algorithm;
use super::time::{ClockStep, clock_back, micros_between, signed, start_of};
use crate::decision::{ChargePosition, FixedWindowState, StoredState};
use crate::quota::FixedWindow;

pub(crate) struct FixedWindowView {
    count: FixedWindowState,
    /// The caller's time. It may lie before the window, if the clock went back.
    now: i64,
    must_write: bool,
}

impl FixedWindow {
    fn until_end(&self, view: &FixedWindowView) -> u64 {
        micros_between(view.now, view.count.start + signed(self.window))
    }
}

impl Algorithm for FixedWindow {
    type State = FixedWindowState;
    type View = FixedWindowView;

    fn limit(&self) -> u64 {
        self.limit
    }

    #[inline]
    fn state(stored: &StoredState) -> Option<&FixedWindowState> {
        if let StoredState::FixedWindow(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    #[inline]
    fn state_mut(stored: &mut StoredState) -> Option<&mut FixedWindowState> {
        if let StoredState::FixedWindow(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    fn placeholder() -> StoredState {
        StoredState::FixedWindow(FixedWindowState { start: 0, used: 0 })
    }

    fn view(&self, state: Option<&FixedWindowState>, now: i64) -> FixedWindowView {
        let at = |now, used| FixedWindowState {
            start: start_of(self.origin, self.window, now),
            used,
        };
        let Some(&count) = state else {
            return FixedWindowView {
                count: at(now, 0),
                now,
                must_write: false,
            };
        };
        if now >= count.start {
            let over = now >= count.start + signed(self.window) || count.used == 0;
            return FixedWindowView {
                count: if over { at(now, 0) } else { count },
                now,
                must_write: false,
            };
        }
        match clock_back(count.start, now, self.window) {
            ClockStep::StandStill(_) => FixedWindowView {
                count,
                now,
                must_write: false,
            },
            ClockStep::Rebase => FixedWindowView {
                count: at(now, count.used),
                now,
                must_write: true,
            },
        }
    }

    fn must_write(&self, view: &FixedWindowView) -> bool {
        view.must_write
    }

    fn fits(&self, view: &FixedWindowView, cost: u64) -> bool {
        view.count.used + cost <= self.limit
    }

    fn retry_after(&self, view: &FixedWindowView, _: Option<&FixedWindowState>, _: u64) -> u64 {
        self.until_end(view)
    }

    fn remaining(&self, view: &FixedWindowView) -> u64 {
        self.limit.saturating_sub(view.count.used)
    }

    fn reset_after(&self, view: &FixedWindowView) -> u64 {
        if view.count.used == 0 {
            0
        } else {
            self.until_end(view)
        }
    }

    fn write(&self, view: &FixedWindowView, count: &mut FixedWindowState) {
        *count = view.count;
    }

    fn charge(
        &self,
        view: &mut FixedWindowView,
        count: &mut FixedWindowState,
        tokens: u64,
    ) -> ChargePosition {
        view.count.used += tokens;
        *count = view.count;
        ChargePosition {
            at: count.start,
            number: 0,
        }
    }

    fn refund(
        &self,
        view: &mut FixedWindowView,
        count: &mut FixedWindowState,
        tokens: u64,
        position: ChargePosition,
    ) {
        if position.at == view.count.start {
            view.count.used = view.count.used.saturating_sub(tokens);
        }
        *count = view.count;
    }

    fn penalize(&self, view: &mut FixedWindowView, count: &mut FixedWindowState, tokens: u64) {
        let most = view.count.used.max(2 * self.limit);
        view.count.used = view.count.used.saturating_add(tokens).min(most);
        *count = view.count;
    }
}
