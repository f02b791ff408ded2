//! Sliding window by counters: two counts. The older count is weighted by the part of its window that a window ending
//! now covers.
//!
//! ```text
//! to now       a window later: previous = current, current = 0; two windows later: both 0
//! allowed      previous × (W - e) <= (limit - current - cost) × W      for e of W ticks of the window passed
//! ```
//! The weighted count is a fraction. It is compared exactly and never rounded down: 2.9 + 1 > 3. A tick is 1 µs unless
//! limit × window exceeds 2^51. Coarser ticks round the weighted count up, so that they admit less and never more.

use super::operation::Algorithm;
use super::time::{self, ClockStep, clock_back, micros_between, signed};
use crate::decision::{ChargePosition, SlidingWindowState, StoredState};
use crate::quota::SlidingWindow;

pub(crate) struct SlidingWindowView {
    counts: SlidingWindowState,
    /// The time of the decision, and the caller's time.
    at: i64,
    now: i64,
    must_write: bool,
}

impl SlidingWindow {
    fn start_of(&self, now: i64) -> i64 {
        time::start_of(Some(0), self.window, now)
    }

    /// Cuts counts at twice the limit. They can be larger only if the limit was lowered since.
    fn cut(&self, counts: &SlidingWindowState) -> SlidingWindowState {
        let most = 2 * self.limit;
        SlidingWindowState {
            start: counts.start,
            current: counts.current.min(most),
            previous: counts.previous.min(most),
        }
    }

    /// Returns the ticks that remain in the current window. The weight of the previous count is this number / `ticks`.
    fn ticks_left(&self, view: &SlidingWindowView) -> u64 {
        self.ticks - micros_between(view.counts.start, view.at) / self.tick
    }
}

impl Algorithm for SlidingWindow {
    type State = SlidingWindowState;
    type View = SlidingWindowView;

    fn limit(&self) -> u64 {
        self.limit
    }

    #[inline]
    fn state(stored: &StoredState) -> Option<&SlidingWindowState> {
        if let StoredState::SlidingWindow(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    #[inline]
    fn state_mut(stored: &mut StoredState) -> Option<&mut SlidingWindowState> {
        if let StoredState::SlidingWindow(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    fn placeholder() -> StoredState {
        StoredState::SlidingWindow(SlidingWindowState {
            start: 0,
            current: 0,
            previous: 0,
        })
    }

    fn view(&self, state: Option<&SlidingWindowState>, now: i64) -> SlidingWindowView {
        let fresh = SlidingWindowState {
            start: self.start_of(now),
            current: 0,
            previous: 0,
        };
        let Some(counts) = state else {
            return SlidingWindowView {
                counts: fresh,
                at: now,
                now,
                must_write: false,
            };
        };
        let counts = self.cut(counts);
        let window = signed(self.window);
        if now >= counts.start {
            let counts = if now < counts.start + window {
                counts
            } else if now < counts.start + 2 * window {
                SlidingWindowState {
                    start: counts.start + window,
                    current: 0,
                    previous: counts.current,
                }
            } else {
                fresh
            };
            return SlidingWindowView {
                counts,
                at: now,
                now,
                must_write: false,
            };
        }
        match clock_back(counts.start, now, self.window) {
            ClockStep::StandStill(_) => SlidingWindowView {
                counts,
                at: counts.start,
                now,
                must_write: false,
            },
            ClockStep::Rebase => SlidingWindowView {
                counts: SlidingWindowState {
                    start: fresh.start,
                    ..counts
                },
                at: now,
                now,
                must_write: true,
            },
        }
    }

    fn must_write(&self, view: &SlidingWindowView) -> bool {
        view.must_write
    }

    fn fits(&self, view: &SlidingWindowView, cost: u64) -> bool {
        // previous × ticks <= 2 × limit × 2^51 / limit, and room × ticks is smaller. Neither overflows.
        match self.limit().checked_sub(view.counts.current + cost) {
            Some(room) => view.counts.previous * self.ticks_left(view) <= room * self.ticks,
            None => false,
        }
    }

    /// Returns the first time at which the cost fits: in this window or in one of the next two, where both counts are
    /// 0.
    fn retry_after(
        &self,
        view: &SlidingWindowView,
        _: Option<&SlidingWindowState>,
        cost: u64,
    ) -> u64 {
        let SlidingWindowState {
            mut start,
            mut current,
            mut previous,
        } = view.counts;
        loop {
            if let Some(room) = self.limit.checked_sub(current + cost) {
                let passed = if previous <= room {
                    0
                } else {
                    self.ticks - room * self.ticks / previous
                };
                if passed < self.ticks {
                    return micros_between(view.now, start + signed(passed * self.tick));
                }
            }
            (start, current, previous) = (start + signed(self.window), 0, current);
        }
    }

    fn remaining(&self, view: &SlidingWindowView) -> u64 {
        let carried = (view.counts.previous * self.ticks_left(view)).div_ceil(self.ticks);
        self.limit.saturating_sub(view.counts.current + carried)
    }

    fn reset_after(&self, view: &SlidingWindowView) -> u64 {
        let SlidingWindowState {
            start,
            current,
            previous,
        } = view.counts;
        match (current, previous) {
            (0, 0) => 0,
            (0, _) => micros_between(view.now, start + signed(self.window)),
            _ => micros_between(view.now, start + 2 * signed(self.window)),
        }
    }

    fn write(&self, view: &SlidingWindowView, counts: &mut SlidingWindowState) {
        *counts = view.counts;
    }

    fn charge(
        &self,
        view: &mut SlidingWindowView,
        counts: &mut SlidingWindowState,
        tokens: u64,
    ) -> ChargePosition {
        view.counts.current += tokens;
        *counts = view.counts;
        ChargePosition {
            at: counts.start,
            number: 0,
        }
    }

    fn refund(
        &self,
        view: &mut SlidingWindowView,
        counts: &mut SlidingWindowState,
        tokens: u64,
        position: ChargePosition,
    ) {
        let SlidingWindowState {
            start,
            current,
            previous,
        } = &mut view.counts;
        if position.at == *start {
            *current = current.saturating_sub(tokens);
        } else if position.at == *start - signed(self.window) {
            *previous = previous.saturating_sub(tokens);
        }
        *counts = view.counts;
    }

    fn penalize(&self, view: &mut SlidingWindowView, counts: &mut SlidingWindowState, tokens: u64) {
        let most = view.counts.current.max(2 * self.limit);
        view.counts.current = view.counts.current.saturating_add(tokens).min(most);
        *counts = view.counts;
    }
}
