//! States as a store keeps them: a mark of two bytes, then whole numbers of 64 bits, as in the legends of `lua/`. Logs are lists
//! there and never come through here.

use super::token_bucket::Capacity;
use super::{Kept, State, fixed_window, interval_bucket, sliding_window, token_bucket};
use crate::quota::MOST_TOKENS;

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

/// Debts and counts are at most a few times 2^53.
fn signed(number: u64) -> i64 {
    super::signed(number)
}

/// The state as it is stored; nothing of a log.
pub(crate) fn encode(state: &State) -> Option<Vec<u8>> {
    Some(match &state.0 {
        Kept::TokenBucket(debt) => pack(
            b"b1",
            [
                signed(debt.grains),
                debt.at,
                signed(debt.per_token),
                signed(debt.capacity.tokens()),
            ],
        ),
        Kept::IntervalBucket(debt) => pack(
            b"i1",
            [signed(debt.tokens), debt.anchor, signed(debt.capacity)],
        ),
        Kept::FixedWindow(count) => pack(b"f1", [count.start, signed(count.used)]),
        Kept::SlidingWindow(counts) => pack(
            b"s1",
            [
                counts.start,
                signed(counts.current),
                signed(counts.previous),
            ],
        ),
        Kept::SlidingLog(_) => return None,
    })
}

/// What was stored; nothing if it is not of this format, or of a number that cannot be.
pub(crate) fn decode(packed: &[u8]) -> Option<State> {
    let unsigned = |number: i64| u64::try_from(number).ok();
    let capacity_of = |number: i64| unsigned(number).filter(|n| (1..=MOST_TOKENS).contains(n));
    let kept = match packed.first()? {
        b'b' => {
            let [grains, at, per_token, capacity] = unpack(b"b1", packed)?;
            Kept::TokenBucket(token_bucket::Debt {
                grains: unsigned(grains)?,
                at,
                per_token: unsigned(per_token).filter(|per_token| *per_token > 0)?,
                capacity: Capacity::new(capacity_of(capacity)?),
            })
        }
        b'i' => {
            let [tokens, anchor, capacity] = unpack(b"i1", packed)?;
            Kept::IntervalBucket(interval_bucket::Debt {
                tokens: unsigned(tokens)?,
                anchor,
                capacity: capacity_of(capacity)?,
            })
        }
        b'f' => {
            let [start, used] = unpack(b"f1", packed)?;
            Kept::FixedWindow(fixed_window::Count {
                start,
                used: unsigned(used)?,
            })
        }
        b's' => {
            let [start, current, previous] = unpack(b"s1", packed)?;
            Kept::SlidingWindow(sliding_window::Counts {
                start,
                current: unsigned(current)?,
                previous: unsigned(previous)?,
            })
        }
        _ => return None,
    };
    Some(State(kept))
}
