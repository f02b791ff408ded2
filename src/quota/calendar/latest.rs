use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Window;

/// The window that was computed last, in one word. Any window is right for the times that it holds, so threads need no
/// order among each other.
///
/// The word has the start in seconds, plus [`BIAS`], and in the low bits the length in seconds. A length of 0 means
/// that there is none.
#[derive(Default)]
pub(super) struct LatestWindow(AtomicU64);

const MICROS: i64 = 1_000_000;
/// A year has less than 2^25 s.
const LENGTH_BITS: u32 = 26;
/// Added to a start, which is above -2^35 s.
const BIAS: i64 = 1 << 35;

impl LatestWindow {
    /// Returns the window if it holds `at`.
    #[inline]
    pub(super) fn holding(&self, at: i64) -> Option<Window> {
        let word = self.0.load(Relaxed).cast_signed();
        let start = ((word >> LENGTH_BITS) - BIAS) * MICROS;
        let length = (word & ((1 << LENGTH_BITS) - 1)) * MICROS;
        let window = Window {
            start,
            end: start + length,
        };
        window.holds(at).then_some(window)
    }

    /// Keeps a window, unless it does not fit.
    pub(super) fn keep(&self, window: Window) {
        let (start, end) = (window.start / MICROS + BIAS, window.end / MICROS + BIAS);
        let length = end - start;
        if (0..1 << (63 - LENGTH_BITS)).contains(&start) && (1..1 << LENGTH_BITS).contains(&length)
        {
            let word = start << LENGTH_BITS | length;
            self.0.store(word.cast_unsigned(), Relaxed);
        }
    }
}
