use super::{Calendar, Window};

/// The number of edges that [`Calendar::edges_around`] returns.
pub(crate) const EDGES: usize = 6;

impl Calendar {
    /// Returns the edges of five windows that follow each other. The second one holds `at`.
    ///
    /// A state can be ahead of a clock that went back. No window is longer than the two before it together, so a state
    /// beyond the second next window is further ahead than its horizon.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) fn edges_around(self, at: i64) -> [i64; EDGES] {
        let mut next = self.window_of(at);
        let mut edges = [self.other_window_of(next.start - 1).start; EDGES];
        for edge in &mut edges[1..] {
            *edge = next.start;
            next = self.other_window_of(next.end);
        }
        edges
    }

    /// Returns the window of an answer that was given at about `at`, and whose window ends `reset_after` µs later; 0 if
    /// nothing is counted.
    ///
    /// The clock that has decided may differ from the clock of `at` by up to half a window.
    pub(crate) fn window_of_answer(self, at: i64, reset_after: u64) -> Window {
        let current = self.window_of(at);
        let end = at.saturating_add(i64::try_from(reset_after).unwrap_or(i64::MAX));
        if reset_after == 0 || end.abs_diff(current.end) < current.length() / 4 {
            return current;
        }
        // The end of the window is the edge that is nearest to `end`.
        let window = self.other_window_of(end);
        if end.abs_diff(window.start) < end.abs_diff(window.end) {
            self.other_window_of(window.start - 1)
        } else {
            window
        }
    }
}
