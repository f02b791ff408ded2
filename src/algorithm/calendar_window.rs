//! Calendar window: a count that starts at 0 in each day, week, month, quarter or year of a time zone.
//!
//! ```text
//! to now       start is in an earlier window, or used = 0:  used = 0, start = start of the window of now
//! allowed      used + cost <= limit
//! retry_after  end of the window of start - now
//! ```

use super::operation::Algorithm;
use super::time::{ClockStep, clock_back, micros_between};
use crate::decision::{ChargePosition, FixedWindowState, StoredState};
use crate::quota::CalendarWindow;

pub(crate) struct CalendarWindowView {
    count: FixedWindowState,
    /// The end of the window that holds the start.
    end: i64,
    /// The caller's time. It may lie before the window, if the clock went back.
    now: i64,
    must_write: bool,
}

impl CalendarWindowView {
    fn until_end(&self) -> u64 {
        micros_between(self.now, self.end)
    }
}

impl CalendarWindow {
    /// Returns the end of the window that holds `start`.
    #[cfg(feature = "redis")]
    pub(super) fn end_of(&self, start: i64) -> i64 {
        self.calendar.other_window_of(start).end
    }
}

impl Algorithm for CalendarWindow {
    type State = FixedWindowState;
    type View = CalendarWindowView;

    fn limit(&self) -> u64 {
        self.limit
    }

    #[inline]
    fn state(stored: &StoredState) -> Option<&FixedWindowState> {
        if let StoredState::CalendarWindow(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    #[inline]
    fn state_mut(stored: &mut StoredState) -> Option<&mut FixedWindowState> {
        if let StoredState::CalendarWindow(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    fn placeholder() -> StoredState {
        StoredState::CalendarWindow(FixedWindowState { start: 0, used: 0 })
    }

    fn view(&self, state: Option<&FixedWindowState>, now: i64) -> CalendarWindowView {
        let current = self.calendar.window_of(now);
        let at_now = |used, must_write| CalendarWindowView {
            count: FixedWindowState {
                start: current.start,
                used,
            },
            end: current.end,
            now,
            must_write,
        };
        let Some(&count) = state.filter(|count| count.used > 0 && count.start >= current.start)
        else {
            return at_now(0, false);
        };
        let of_count = |end| CalendarWindowView {
            count,
            end,
            now,
            must_write: false,
        };
        if count.start < current.end {
            return of_count(current.end);
        }
        // The clock went back to an earlier window.
        let later = self.calendar.other_window_of(count.start);
        match clock_back(count.start, now, later.length()) {
            ClockStep::StandStill(_) => of_count(later.end),
            ClockStep::Rebase => at_now(count.used, true),
        }
    }

    fn must_write(&self, view: &CalendarWindowView) -> bool {
        view.must_write
    }

    fn fits(&self, view: &CalendarWindowView, cost: u64) -> bool {
        view.count.used + cost <= self.limit
    }

    fn retry_after(&self, view: &CalendarWindowView, _: Option<&FixedWindowState>, _: u64) -> u64 {
        view.until_end()
    }

    fn remaining(&self, view: &CalendarWindowView) -> u64 {
        self.limit.saturating_sub(view.count.used)
    }

    fn reset_after(&self, view: &CalendarWindowView) -> u64 {
        if view.count.used == 0 {
            0
        } else {
            view.until_end()
        }
    }

    fn write(&self, view: &CalendarWindowView, count: &mut FixedWindowState) {
        *count = view.count;
    }

    fn charge(
        &self,
        view: &mut CalendarWindowView,
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
        view: &mut CalendarWindowView,
        count: &mut FixedWindowState,
        tokens: u64,
        position: ChargePosition,
    ) {
        if position.at == view.count.start {
            view.count.used = view.count.used.saturating_sub(tokens);
        }
        *count = view.count;
    }

    fn penalize(&self, view: &mut CalendarWindowView, count: &mut FixedWindowState, tokens: u64) {
        let most = view.count.used.max(2 * self.limit);
        view.count.used = view.count.used.saturating_add(tokens).min(most);
        *count = view.count;
    }
}
