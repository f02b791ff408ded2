//! States as a store keeps them: a mark of two bytes, then whole numbers of 64 bits, as in the legends of `lua/`. Logs
//! are lists there and never come through here.

use super::time::{micros_between, signed};
use crate::decision::{
    Capacity, FixedWindowState, IntervalBucketState, SlidingWindowState, State, StoredState,
    TokenBucketState,
};
use crate::quota::{MOST_TOKENS, Quota, Rule};

/// No stored number is larger.
const LARGEST: u64 = 1 << 53;

/// Writes numbers below 2^63.
fn pack<const N: usize>(mark: &[u8; 2], numbers: [i64; N]) -> Vec<u8> {
    let mut packed = mark.to_vec();
    packed.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    packed
}

fn unpack<const N: usize>(mark: &[u8; 2], packed: &[u8]) -> Option<[i64; N]> {
    let numbers = packed.strip_prefix(mark)?;
    if numbers.len() != 8 * N {
        return None;
    }
    let mut read = [0; N];
    for (number, bytes) in read.iter_mut().zip(numbers.chunks_exact(8)) {
        *number = i64::from_le_bytes(bytes.try_into().ok()?);
        if number.unsigned_abs() > LARGEST {
            return None;
        }
    }
    Some(read)
}

/// The state as it is stored; nothing of a log. A bucket is written with `keep_until`, the time in µs until which its
/// key is kept.
pub(crate) fn encode(state: &State, keep_until: u64) -> Option<Vec<u8>> {
    let keep_until = signed(keep_until.min(LARGEST));
    Some(match &state.0 {
        StoredState::TokenBucket(debt) => pack(
            b"b2",
            [
                signed(debt.grains),
                debt.at,
                signed(debt.per_token),
                signed(debt.capacity.tokens()),
                keep_until,
            ],
        ),
        StoredState::IntervalBucket(debt) => pack(
            b"i2",
            [
                signed(debt.tokens),
                debt.anchor,
                signed(debt.capacity),
                keep_until,
            ],
        ),
        StoredState::FixedWindow(count) => pack(b"f1", [count.start, signed(count.used)]),
        StoredState::SlidingWindow(counts) => pack(
            b"s1",
            [
                counts.start,
                signed(counts.current),
                signed(counts.previous),
            ],
        ),
        StoredState::SlidingLog(_) => return None,
    })
}

/// What was stored, and the time until which its key is kept: 0 for windows, whose start tells it, and for buckets of
/// the format before, without that time. Nothing if it is of no known format, or of a number that cannot be.
pub(crate) fn decode(packed: &[u8]) -> Option<(State, u64)> {
    let unsigned = |number: i64| u64::try_from(number).ok();
    let capacity_of = |number: i64| unsigned(number).filter(|n| (1..=MOST_TOKENS).contains(n));
    let mut keep_until = 0;
    let kept = match packed.first()? {
        b'b' => {
            let [grains, at, per_token, capacity, until] = match unpack(b"b1", packed) {
                Some([grains, at, per_token, capacity]) => [grains, at, per_token, capacity, 0],
                None => unpack(b"b2", packed)?,
            };
            keep_until = unsigned(until)?;
            StoredState::TokenBucket(TokenBucketState {
                grains: unsigned(grains)?,
                at,
                per_token: unsigned(per_token).filter(|per_token| *per_token > 0)?,
                capacity: Capacity::new(capacity_of(capacity)?),
            })
        }
        b'i' => {
            let [tokens, anchor, capacity, until] = match unpack(b"i1", packed) {
                Some([tokens, anchor, capacity]) => [tokens, anchor, capacity, 0],
                None => unpack(b"i2", packed)?,
            };
            keep_until = unsigned(until)?;
            StoredState::IntervalBucket(IntervalBucketState {
                tokens: unsigned(tokens)?,
                anchor,
                capacity: capacity_of(capacity)?,
            })
        }
        b'f' => {
            let [start, used] = unpack(b"f1", packed)?;
            StoredState::FixedWindow(FixedWindowState {
                start,
                used: unsigned(used)?,
            })
        }
        b's' => {
            let [start, current, previous] = unpack(b"s1", packed)?;
            StoredState::SlidingWindow(SlidingWindowState {
                start,
                current: unsigned(current)?,
                previous: unsigned(previous)?,
            })
        }
        _ => return None,
    };
    Some((State(kept), keep_until))
}

/// For how many µs from `now` the key of a state that was written now is needed, if its answer says that nothing is
/// owed after `owed` µs, and the key was kept until `keep_until` when it held the state `before`. A write never
/// shortens it.
pub(crate) fn keep_for(
    quota: &Quota,
    before: Option<&State>,
    after: &State,
    owed: u64,
    keep_until: u64,
    now: u64,
) -> u64 {
    let now_signed = signed(now);
    let to_end = |start: i64, windows: u64, window: u64| {
        micros_between(now_signed, start)
            .saturating_add(windows.saturating_mul(window))
            .saturating_sub(micros_between(start, now_signed))
    };
    match (&quota.rule, &after.0) {
        (Rule::FixedWindow(fixed), StoredState::FixedWindow(count)) => {
            to_end(count.start, 1, fixed.window)
        }
        (Rule::SlidingWindow(sliding), StoredState::SlidingWindow(counts)) => {
            to_end(counts.start, 2, sliding.window)
        }
        _ => {
            let before = before.map_or(0, |state| state.order().0);
            let went_back = before > now_signed && after.order().0 <= now_signed;
            // The state has moved to now with all its debt, and what is left of its time as well.
            let moved = if went_back {
                micros_between(now_signed, before)
            } else {
                0
            };
            owed.max(keep_until.saturating_sub(moved).saturating_sub(now))
        }
    }
}
