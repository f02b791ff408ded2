//! Sliding window by a log: every charge with its time. A charge at t counts while `now - t < window`.
//!
//! ```text
//! allowed      sum of counting charges + cost <= limit
//! retry_after  t + window - now  for the first charge t whose expiry makes enough room
//! ```
//! Each entry contains the running sum up to itself. A binary search finds both results, and nothing is added up.

use super::operation::Algorithm;
use super::time::{ClockStep, clock_back, micros_between, signed};
use crate::decision::{ChargePosition, LogEntry, SlidingLogState, StoredState};
use crate::quota::SlidingLog;

impl SlidingLogState {
    fn newest(&self) -> Option<i64> {
        self.entries.back().map(|entry| entry.at)
    }

    fn sum_before(&self, index: usize) -> u32 {
        index
            .checked_sub(1)
            .and_then(|before| self.entries.get(before))
            .map_or(self.base, |entry| entry.sum)
    }

    fn total(&self) -> u32 {
        self.sum_before(self.entries.len())
    }

    #[allow(clippy::cast_possible_truncation)] // the low bits are enough to distinguish logs
    fn append(&mut self, at: i64, tokens: u32) -> ChargePosition {
        if *self == Self::default() {
            self.next = at as u32;
        }
        let entry = LogEntry {
            at,
            sum: self.total().wrapping_add(tokens),
            number: self.next,
        };
        self.next = self.next.wrapping_add(1);
        self.entries.push_back(entry);
        ChargePosition {
            at,
            number: entry.number,
        }
    }

    /// Removes the first `passed` entries, which have expired.
    fn forget(&mut self, passed: usize) {
        self.base = self.sum_before(passed);
        self.entries.drain(..passed);
        // Frees the memory of a past burst, half of it at a time.
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.capacity() / 2);
        }
    }

    /// Moves entries in the future to `now`, after the clock went back by more than the window.
    fn rebase(&mut self, now: i64) {
        for entry in self
            .entries
            .iter_mut()
            .rev()
            .take_while(|entry| entry.at > now)
        {
            entry.at = now;
        }
    }
}

pub(crate) struct SlidingLogView {
    /// The time of the decision, and the caller's time.
    at: i64,
    now: i64,
    /// The number of expired entries.
    passed: usize,
    /// The sum of the other entries.
    sum: u32,
    /// The time of the last entry.
    newest: i64,
    rebase: bool,
}

impl SlidingLog {
    fn append(
        &self,
        view: &mut SlidingLogView,
        log: &mut SlidingLogState,
        tokens: u32,
    ) -> ChargePosition {
        self.write(view, log);
        log.forget(view.passed);
        view.passed = 0;
        view.sum += tokens;
        view.newest = view.at;
        log.append(view.at, tokens)
    }

    fn write(&self, view: &SlidingLogView, log: &mut SlidingLogState) {
        if view.rebase {
            log.rebase(view.at);
        }
    }
}

impl Algorithm for SlidingLog {
    type State = Box<SlidingLogState>;
    type View = SlidingLogView;

    fn limit(&self) -> u64 {
        self.limit.into()
    }

    #[inline]
    fn state(stored: &StoredState) -> Option<&Box<SlidingLogState>> {
        if let StoredState::SlidingLog(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    #[inline]
    fn state_mut(stored: &mut StoredState) -> Option<&mut Box<SlidingLogState>> {
        if let StoredState::SlidingLog(state) = stored {
            Some(state)
        } else {
            None
        }
    }

    fn placeholder() -> StoredState {
        StoredState::SlidingLog(Box::default())
    }

    fn view(&self, state: Option<&Box<SlidingLogState>>, now: i64) -> SlidingLogView {
        let empty = SlidingLogView {
            at: now,
            now,
            passed: 0,
            sum: 0,
            newest: now,
            rebase: false,
        };
        let Some((log, newest)) = state.and_then(|log| log.newest().map(|newest| (log, newest)))
        else {
            return empty;
        };
        let (at, rebase) = if now >= newest {
            (now, false)
        } else {
            match clock_back(newest, now, self.window) {
                ClockStep::StandStill(_) => (newest, false),
                ClockStep::Rebase => (now, true),
            }
        };
        // Entries after `at` count: a rebase moves them to `at`.
        let passed = log
            .entries
            .partition_point(|entry| at - entry.at >= signed(self.window));
        let sum = log.total().wrapping_sub(log.sum_before(passed));
        SlidingLogView {
            at,
            now,
            passed,
            sum,
            newest: newest.min(at),
            rebase,
        }
    }

    fn must_write(&self, view: &SlidingLogView) -> bool {
        view.rebase
    }

    fn fits(&self, view: &SlidingLogView, cost: u64) -> bool {
        u64::from(view.sum).saturating_add(cost) <= self.limit.into()
    }

    fn retry_after(
        &self,
        view: &SlidingLogView,
        state: Option<&Box<SlidingLogState>>,
        cost: u64,
    ) -> u64 {
        let Some(log) = state else { return 0 };
        let before = log.sum_before(view.passed);
        let room = self.limit.saturating_sub(small(cost));
        // Finds the first entry after whose expiry the cost fits. Nothing counts after the last one, so there is one.
        let leaves = log.entries.partition_point(|entry| {
            let gone = entry.sum.wrapping_sub(before);
            // The sums of expired entries are below `before`, so that the difference wraps to a large number.
            gone > view.sum || view.sum - gone > room
        });
        let at = log
            .entries
            .get(leaves)
            .map_or(view.newest, |entry| entry.at.min(view.at));
        micros_between(view.now, at + signed(self.window))
    }

    fn remaining(&self, view: &SlidingLogView) -> u64 {
        self.limit.saturating_sub(view.sum).into()
    }

    fn reset_after(&self, view: &SlidingLogView) -> u64 {
        if view.sum == 0 {
            0
        } else {
            micros_between(view.now, view.newest + signed(self.window))
        }
    }

    fn write(&self, view: &SlidingLogView, log: &mut Box<SlidingLogState>) {
        Self::write(self, view, log);
    }

    fn charge(
        &self,
        view: &mut SlidingLogView,
        log: &mut Box<SlidingLogState>,
        tokens: u64,
    ) -> ChargePosition {
        self.append(view, log, small(tokens))
    }

    fn refund(
        &self,
        view: &mut SlidingLogView,
        log: &mut Box<SlidingLogState>,
        tokens: u64,
        position: ChargePosition,
    ) {
        Self::write(self, view, log);
        // A rebase can move the entry to an earlier time, never to a later one. After a reset the numbers start
        // elsewhere, so an older receipt matches no newer entry.
        let is = |entry: &LogEntry| entry.number == position.number && entry.at <= position.at;
        let Some(found) = log.entries.iter().skip(view.passed).position(is) else {
            return;
        };
        let index = found + view.passed;
        let own = log.entries[index].sum.wrapping_sub(log.sum_before(index));
        let back = own.min(small(tokens));
        for entry in log.entries.range_mut(index..) {
            entry.sum = entry.sum.wrapping_sub(back);
        }
        if back == own {
            log.entries.remove(index);
        }
        view.sum -= back;
        view.newest = log
            .newest()
            .map_or(view.newest, |newest| newest.min(view.at));
    }

    fn penalize(&self, view: &mut SlidingLogView, log: &mut Box<SlidingLogState>, tokens: u64) {
        let room = (2 * self.limit).saturating_sub(view.sum);
        match small(tokens).min(room) {
            0 => Self::write(self, view, log),
            tokens => drop(self.append(view, log, tokens)),
        }
    }
}

/// Converts a cost to 32 bits. A charged cost is at most the limit and fits. A larger cost is only compared.
fn small(tokens: u64) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_entry_takes_sixteen_bytes() {
        assert_eq!(size_of::<LogEntry>(), 16);
    }

    #[test]
    fn receipt_from_before_a_reset_refunds_nothing() {
        let quota = SlidingLog {
            limit: 10,
            window: 1_000,
        };
        for after in [5_100, 5_000 - 100] {
            let (mut before, mut log) = (Box::default(), Box::default());
            let old = quota.charge(&mut quota.view(None, 5_000), &mut before, 3);
            let _ = quota.charge(&mut quota.view(None, after), &mut log, 3);
            let mut view = quota.view(Some(&log), after);
            quota.refund(&mut view, &mut log, 3, old);
            assert_eq!(quota.remaining(&view), 7, "reset at 5000, then {after}");
        }
    }

    #[test]
    fn running_sum_may_wrap() {
        let quota = SlidingLog {
            limit: 10,
            window: 100,
        };
        let mut log = Box::new(SlidingLogState {
            base: u32::MAX - 2,
            ..SlidingLogState::default()
        });
        for now in 0..1_000 {
            let mut view = quota.view(Some(&log), now * 30);
            assert!(
                view.sum <= 9,
                "a window holds at most three charges of 3: {}",
                view.sum
            );
            if quota.fits(&view, 3) {
                let _ = quota.charge(&mut view, &mut log, 3);
            } else {
                assert!(quota.retry_after(&view, Some(&log), 3) <= 100);
            }
        }
    }
}
