//! Fixed window: a count that starts again with each window. A window holds its start and not its end.
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

pub(super) struct View {
    count: FixedWindowState,
    /// The caller's now; the time decided at lies in the window.
    now: i64,
    must_note: bool,
}

impl FixedWindow {
    fn until_end(&self, view: &View) -> u64 {
        micros_between(view.now, view.count.start + signed(self.window))
    }
}

impl Algorithm for FixedWindow {
    type State = FixedWindowState;
    type View = View;

    fn limit(&self) -> u64 {
        self.limit
    }

    #[inline]
    fn peel(kept: &StoredState) -> Option<&FixedWindowState> {
        if let StoredState::FixedWindow(state) = kept {
            Some(state)
        } else {
            None
        }
    }

    #[inline]
    fn peel_mut(kept: &mut StoredState) -> Option<&mut FixedWindowState> {
        if let StoredState::FixedWindow(state) = kept {
            Some(state)
        } else {
            None
        }
    }

    fn blank() -> StoredState {
        StoredState::FixedWindow(FixedWindowState { start: 0, used: 0 })
    }

    fn view(&self, state: Option<&FixedWindowState>, now: i64) -> View {
        let at = |now, used| FixedWindowState {
            start: start_of(self.origin, self.window, now),
            used,
        };
        let Some(&count) = state else {
            return View {
                count: at(now, 0),
                now,
                must_note: false,
            };
        };
        if now >= count.start {
            let over = now >= count.start + signed(self.window) || count.used == 0;
            return View {
                count: if over { at(now, 0) } else { count },
                now,
                must_note: false,
            };
        }
        match clock_back(count.start, now, self.window) {
            ClockStep::StandStill(_) => View {
                count,
                now,
                must_note: false,
            },
            ClockStep::Rebase => View {
                count: at(now, count.used),
                now,
                must_note: true,
            },
        }
    }

    fn must_note(&self, view: &View) -> bool {
        view.must_note
    }

    fn fits(&self, view: &View, cost: u64) -> bool {
        view.count.used + cost <= self.limit
    }

    fn retry_after(&self, view: &View, _: Option<&FixedWindowState>, _: u64) -> u64 {
        self.until_end(view)
    }

    fn remaining(&self, view: &View) -> u64 {
        self.limit.saturating_sub(view.count.used)
    }

    fn reset_after(&self, view: &View) -> u64 {
        if view.count.used == 0 {
            0
        } else {
            self.until_end(view)
        }
    }

    fn note(&self, view: &View, count: &mut FixedWindowState) {
        *count = view.count;
    }

    fn charge(&self, view: &mut View, count: &mut FixedWindowState, tokens: u64) -> ChargePosition {
        view.count.used += tokens;
        *count = view.count;
        ChargePosition {
            at: count.start,
            number: 0,
        }
    }

    fn refund(
        &self,
        view: &mut View,
        count: &mut FixedWindowState,
        tokens: u64,
        position: ChargePosition,
    ) {
        if position.at == view.count.start {
            view.count.used = view.count.used.saturating_sub(tokens);
        }
        *count = view.count;
    }

    fn penalize(&self, view: &mut View, count: &mut FixedWindowState, tokens: u64) {
        let most = view.count.used.max(2 * self.limit);
        view.count.used = view.count.used.saturating_add(tokens).min(most);
        *count = view.count;
    }
}
