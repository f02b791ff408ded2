//! The state of a quota, as a backend keeps it for each key. The algorithms read and write it.

use std::collections::VecDeque;

/// The state of one quota of one key: what was spent and has not come back, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State(pub(crate) StoredState);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoredState {
    TokenBucket(TokenBucketState),
    IntervalBucket(IntervalBucketState),
    FixedWindow(FixedWindowState),
    SlidingWindow(SlidingWindowState),
    SlidingLog(Box<SlidingLogState>),
    Total(TotalState),
    /// The start is a time in the window; after a change of the calendar not always its first.
    CalendarWindow(FixedWindowState),
}

const _: () = assert!(size_of::<Option<State>>() == 32);

impl State {
    /// Returns the time of a bucket's state and its debt. A state that was written later compares as greater, unless
    /// tokens were returned in between.
    pub(crate) fn order(&self) -> (i64, u64) {
        match &self.0 {
            StoredState::TokenBucket(debt) => (debt.at, debt.grains),
            StoredState::IntervalBucket(debt) => (debt.anchor, debt.tokens),
            _ => (0, 0),
        }
    }

    /// Returns whether it is a total of which nothing is used. It equals an unused key, and has no other end.
    pub(crate) const fn is_unused_total(&self) -> bool {
        matches!(self.0, StoredState::Total(TotalState { used: 0, .. }))
    }
}

/// The kind of a state, in the 16 bits that the last of its [words](StoredState::to_words) has to spare.
const KIND: u32 = 48;

impl StoredState {
    /// Returns a state of fixed size as four numbers.
    #[inline]
    #[allow(clippy::cast_sign_loss)]
    pub(crate) fn to_words(&self) -> Option<[u64; 4]> {
        Some(match self {
            Self::TokenBucket(state) => [
                state.grains,
                state.at as u64,
                state.per_token,
                state.capacity.tokens() | 1 << KIND,
            ],
            Self::IntervalBucket(state) => {
                [state.tokens, state.anchor as u64, state.capacity, 2 << KIND]
            }
            Self::FixedWindow(state) => [state.start as u64, state.used, 0, 3 << KIND],
            Self::SlidingWindow(state) => {
                [state.start as u64, state.current, state.previous, 4 << KIND]
            }
            Self::CalendarWindow(state) => [state.start as u64, state.used, 0, 5 << KIND],
            Self::SlidingLog(_) | Self::Total(_) => return None,
        })
    }

    /// Returns the state with these [words](Self::to_words).
    #[inline(always)] // the state then stays in registers
    #[allow(clippy::cast_possible_wrap)]
    pub(crate) fn from_words([first, second, third, last]: [u64; 4]) -> Option<Self> {
        Some(match last >> KIND {
            1 => Self::TokenBucket(TokenBucketState {
                grains: first,
                at: second as i64,
                per_token: third,
                capacity: Capacity::new(last & ((1 << KIND) - 1)),
            }),
            2 => Self::IntervalBucket(IntervalBucketState {
                tokens: first,
                anchor: second as i64,
                capacity: third,
            }),
            3 => Self::FixedWindow(FixedWindowState {
                start: first as i64,
                used: second,
            }),
            4 => Self::SlidingWindow(SlidingWindowState {
                start: first as i64,
                current: second,
                previous: third,
            }),
            5 => Self::CalendarWindow(FixedWindowState {
                start: first as i64,
                used: second,
            }),
            _ => return None,
        })
    }
}

/// The debt in grains, and its time. `per_token` and `capacity` show whether the quota has changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenBucketState {
    pub(crate) grains: u64,
    pub(crate) at: i64,
    pub(crate) per_token: u64,
    pub(crate) capacity: Capacity,
}

/// A number of at most 48 bits, split so that a [`Niche`] fits beside it into 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    low: u32,
    high: u16,
    niche: Niche,
}

impl Capacity {
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) const fn new(tokens: u64) -> Self {
        Self {
            low: tokens as u32,
            high: (tokens >> 32) as u16,
            niche: Niche::TokenBucket,
        }
    }

    pub(crate) fn tokens(self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}

/// A byte with 255 spare values, in which the compiler keeps the discriminant of [`StoredState`]. Without it, every
/// state would take 8 bytes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Niche {
    TokenBucket,
}

/// The debt in whole tokens, and the start of the current period. `capacity` shows whether the quota has changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IntervalBucketState {
    pub(crate) tokens: u64,
    pub(crate) anchor: i64,
    pub(crate) capacity: u64,
}

/// The tokens charged in the window that begins at `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FixedWindowState {
    pub(crate) start: i64,
    pub(crate) used: u64,
}

/// The tokens charged in the window that begins at `start`, and in the window before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlidingWindowState {
    pub(crate) start: i64,
    pub(crate) current: u64,
    pub(crate) previous: u64,
}

/// The tokens used so far, and the time of the last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TotalState {
    pub(crate) used: u64,
    pub(crate) at: i64,
}

/// The charges of about one window, oldest first.
///
/// Expired entries are removed when the next one is added, and not before: a denied check changes nothing, even if the
/// clock goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlidingLogState {
    pub(crate) entries: VecDeque<LogEntry>,
    /// The running sum before the oldest entry.
    pub(crate) base: u32,
    /// The number of the next entry.
    pub(crate) next: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEntry {
    pub(crate) at: i64,
    /// The running sum of all charges up to this one. It wraps. Differences within a window are at most 2 × 65,535, so
    /// they stay correct.
    pub(crate) sum: u32,
    /// Identifies the entry in a receipt, also among charges of the same µs.
    pub(crate) number: u32,
}
