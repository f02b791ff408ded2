//! The stored form of states: a mark of two bytes, then integers of 64 bits, as the legends in `lua/` define. A sliding
//! log is stored as a list by the scripts, and has no form here.

use super::time::{micros_between, signed};
use crate::decision::{
    Capacity, FixedWindowState, IntervalBucketState, NEVER, SlidingWindowState, State, StoredState,
    TokenBucketState, TotalState,
};
use crate::quota::{MOST_TOKENS, Quota, Rule};

/// The largest stored number.
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

/// Returns the stored form of a state; `None` for a log. The form of a bucket or a total contains `keep_until`, the time in µs at
/// which its key expires.
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
        StoredState::Total(total) => pack(b"t1", [signed(total.used), total.at, keep_until]),
        StoredState::CalendarWindow(count) => {
            pack(b"d1", [count.start, signed(count.used), keep_until])
        }
        StoredState::SlidingLog(_) => return None,
    })
}

/// Reads a stored form. Returns the state and the time at which its key expires. `None` if the format is unknown or a
/// number is out of range.
///
/// The time is 0 for windows, whose start implies it, and for buckets in the previous format, which lacks it.
pub(crate) fn decode(packed: &[u8]) -> Option<(State, u64)> {
    let unsigned = |number: i64| u64::try_from(number).ok();
    let capacity_of = |number: i64| unsigned(number).filter(|n| (1..=MOST_TOKENS).contains(n));
    let mut keep_until = 0;
    let state = match packed.first()? {
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
        b't' => {
            let [used, at, until] = unpack(b"t1", packed)?;
            keep_until = unsigned(until)?;
            StoredState::Total(TotalState {
                used: unsigned(used)?,
                at: Some(at).filter(|at| *at >= 0)?,
            })
        }
        b'd' => {
            let [start, used, until] = unpack(b"d1", packed)?;
            keep_until = unsigned(until)?;
            StoredState::CalendarWindow(FixedWindowState {
                start,
                used: unsigned(used)?,
            })
        }
        _ => return None,
    };
    Some((State(state), keep_until))
}

/// Returns the stored form of a block that ends at `until` after `span` µs.
pub(crate) fn encode_block(until: u64, span: u64) -> Vec<u8> {
    pack(b"x1", [signed(until.min(LARGEST)), signed(span)])
}

/// Returns the rest of a stored block in µs; 0 if it is over, `None` if the format is unknown. A block is never longer
/// than it was at its start, also if the clock has gone back.
pub(crate) fn block_rest(packed: &[u8], now: u64) -> Option<u64> {
    let [until, span] = unpack(b"x1", packed)?;
    let rest = micros_between(signed(now), until);
    Some(rest.min(u64::try_from(span).ok()?))
}

/// Returns the µs after `now`, or [`NEVER`], at which the key of the new state `after` expires. Nothing is owed after `owed` µs. The
/// key with the old state `before` expires at `keep_until`, and a write never shortens that.
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
        (Rule::Total(total), StoredState::Total(state)) => match total.forget_after {
            _ if state.used == 0 => 0,
            None => NEVER,
            Some(_) if keep_until >= LARGEST => NEVER,
            Some(span) => to_end(state.at, 1, span).max(keep_until.saturating_sub(now)),
        },
        (Rule::CalendarWindow(window), StoredState::CalendarWindow(count)) => {
            let before = match before.map(|state| &state.0) {
                Some(StoredState::CalendarWindow(before)) => before.start,
                _ => 0,
            };
            let to_end = micros_between(now_signed, window.end_of(count.start));
            to_end.max(kept((before, count.start), keep_until, now))
        }
        _ => {
            let before = before.map_or(0, |state| state.order().0);
            owed.max(kept((before, after.order().0), keep_until, now))
        }
    }
}

/// Returns the µs after `now` at which a key expires that is kept until `keep_until`, given the times of its old and its
/// new state.
fn kept((before, after): (i64, i64), keep_until: u64, now: u64) -> u64 {
    let now_signed = signed(now);
    // A state that has moved to the present keeps its debt, so the remaining time to live stays the same.
    let moved = if before > now_signed && after <= now_signed {
        micros_between(now_signed, before)
    } else {
        0
    };
    keep_until.saturating_sub(moved).saturating_sub(now)
}
