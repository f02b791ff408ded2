//! The five algorithms as pure functions on integers: quota, state, time and cost in, answer and new state out.
//!
//! Nothing here reads a clock, takes a lock or knows what a key is. A backend keeps one [`State`] for each quota of a
//! key (`None` for one never seen) and passes them in, in the order of the policy; everything that decides is in this
//! module, and the project's test vectors bind it to every backend. Sources: the leaky bucket as a meter (ITU-T I.371;
//! Turner, 1986) for the buckets; the window algorithms are folklore, stated exactly in each file.
//!
//! ```
//! use tower_sluice::algorithm;
//! use tower_sluice::clock::Timestamp;
//! use tower_sluice::{Cost, Policy, Quota};
//!
//! let policy = Policy::new("reports", Quota::per_second(3));
//! let (mut states, now) = ([None], Timestamp::from_micros(1_800_000_000_000_000));
//! let reply = algorithm::check(&policy, &mut states[..], now, Cost::new(3));
//! assert_eq!(reply.decision.snapshot().remaining(), 0);
//! let refused = algorithm::check(&policy, &mut states[..], now, Cost::ONE);
//! assert_eq!(refused.decision.snapshot().quotas()[0].retry_after(), refused.decision.retry_after());
//! assert!(!refused.decision.is_allowed());
//! ```

mod fixed_window;
mod interval_bucket;
mod operation;
mod sliding_log;
mod sliding_window;
#[cfg(feature = "redis")]
pub(crate) mod stored;
mod time;
mod token_bucket;

use std::time::Duration;

use smallvec::SmallVec;

pub(crate) use self::operation::decide;
use self::operation::{
    Compare, Penalize, Refund, ReserveWait, Since, Take, TakeBack, fits, with_algorithm,
};

use crate::clock::{Timestamp, micros_up};
use crate::decision::{
    ChargePart, ChargePosition, Decision, NEVER, QuotaSnapshot, Receipt, Reply, Reservation,
    Snapshot,
};
use crate::policy::{NamedQuota, Policy};
use crate::quota::{Cost, Quota, Rule};

pub use crate::decision::State;

/// Decides one request: every quota of the policy allows its cost and all are charged, or none is.
///
/// A denial writes nothing, with two exceptions that later answers show: the first check of a bucket with other initial
/// tokens starts its refill, and a step back of the clock beyond the quota's own horizon is written down.
///
/// # Panics
///
/// If there is not one state for each quota.
#[inline]
pub fn check(policy: &Policy, states: &mut [Option<State>], now: Timestamp, cost: Cost) -> Reply {
    // The common case by itself: what is below costs as much again.
    if let ([named], [state]) = (policy.quotas(), &mut *states) {
        let tokens = cost.get(0);
        let (snapshot, position) = decide(&named.quota, state, now, tokens, true);
        let charge = ChargePart::new(named.mark(), tokens, position);
        return Reply::to_check_of_one(snapshot, charge);
    }
    assert_one_each(policy, states);
    let all_fit = members(policy, states)
        .all(|(index, named, state)| fits(&named.quota, state, now, cost.get(index)));
    let mut snapshots = SmallVec::new();
    let mut charges = SmallVec::new();
    for (index, named, state) in members(policy, states) {
        let tokens = cost.get(index);
        let (snapshot, position) = decide(&named.quota, state, now, tokens, all_fit);
        snapshots.push(snapshot);
        charges.push(ChargePart::new(named.mark(), tokens, position));
    }
    Reply::to_check(Snapshot::new(snapshots), || charges)
}

/// Decides one request that may wait: if it is allowed at once it is charged, and else, if every quota is a bucket and
/// its reservation comes due within `max_wait`, charged beyond the capacity, to go on after the wait. Reservations are
/// first come, first served.
///
/// A debt stays below 2^53 grains (interval refill: tokens); a reservation that would pass that is denied, as is one
/// under a policy with a window, whose future is not one number.
///
/// # Panics
///
/// If there is not one state for each quota.
pub fn reserve(
    policy: &Policy,
    states: &mut [Option<State>],
    now: Timestamp,
    cost: Cost,
    max_wait: Duration,
) -> Reply {
    assert_one_each(policy, states);
    let max_wait = micros_up(max_wait);
    let of_buckets = policy.is_of_buckets();
    let wait = members(policy, states)
        .map(|(index, named, state)| {
            with_algorithm(
                &named.quota,
                state,
                ReserveWait(now.into(), cost.get(index)),
            )
        })
        .max();
    let mut reply = match wait {
        Some(wait) if of_buckets && wait > 0 && wait < NEVER && wait <= max_wait => {
            let mut snapshots = SmallVec::new();
            let mut charges = SmallVec::new();
            for (index, named, state) in members(policy, states) {
                let tokens = cost.get(index);
                let (snapshot, position) =
                    with_algorithm(&named.quota, state, Take(now.into(), tokens));
                snapshots.push(snapshot);
                charges.push(ChargePart::new(named.mark(), tokens, position));
            }
            let mut reply = Reply::to_check(Snapshot::new(snapshots), || charges);
            reply.wait = Duration::from_micros(wait);
            reply
        }
        _ => check(policy, states, now, cost.clone()),
    };
    if of_buckets && reply.decision.is_allowed() {
        // The reservation has the receipt: a charge is cancelled or refunded, not both.
        reply.reservation = Some(Reservation::new(cost, states, reply.receipt.take()));
    }
    reply
}

/// Cancels a reservation. Its charge goes back if nothing but time has changed the states since it was taken: those
/// that it left, brought forward to the time of the stored ones by the quotas as they are now, equal the stored ones to
/// the grain. Otherwise the charge stays: reservations behind it keep their times, and a token given back late would
/// let two through at once. `now` plays no part in that.
///
/// A cancel that did not return the charge may be tried again when the reservations behind it have gone back. One that
/// returned it must not be.
///
/// # Panics
///
/// If there is not one state for each quota.
pub fn cancel(
    policy: &Policy,
    states: &mut [Option<State>],
    now: Timestamp,
    reservation: &Reservation,
) -> Reply {
    assert_one_each(policy, states);
    let mut since = SmallVec::<[Since; 2]>::new();
    for (index, named, state) in members(policy, states) {
        let compare = Compare(reservation.left(index), reservation.cost().get(index));
        since.push(with_algorithm(&named.quota, state, compare));
    }
    let returned = since.contains(&Since::Unchanged) && !since.contains(&Since::Changed);
    let mut reply = answers(policy, states, |index, named, state| {
        if returned && since[index] == Since::Unchanged {
            with_algorithm(&named.quota, state, TakeBack(reservation.cost().get(index)));
        }
        decide(&named.quota, state, now, 0, true).0
    });
    reply.returned = returned;
    reply
}

/// Charges `cost` without asking. No debt is taken beyond twice the limit, so that nobody is shut out for longer than
/// two times the time to recover.
///
/// # Panics
///
/// If there is not one state for each quota.
pub fn penalize(
    policy: &Policy,
    states: &mut [Option<State>],
    now: Timestamp,
    cost: Cost,
) -> Reply {
    answers(policy, states, |index, named, state| {
        with_algorithm(&named.quota, state, Penalize(now.into(), cost.get(index)))
    })
}

/// Gives back what `receipt` says, as far as it is still there: a bucket's debt goes down, a window takes back what was
/// charged to it, what has passed stays passed. Nothing rises above fresh, and no state is created.
///
/// # Panics
///
/// If there is not one state for each quota.
pub fn refund(
    policy: &Policy,
    states: &mut [Option<State>],
    now: Timestamp,
    receipt: &Receipt,
) -> Reply {
    answers(policy, states, |_, named, state| {
        let charge = receipt
            .charges
            .iter()
            .find(|charge| charge.quota == named.mark());
        let (tokens, position) = charge.map_or((0, ChargePosition::default()), |charge| {
            (charge.tokens, charge.position())
        });
        with_algorithm(&named.quota, state, Refund(now.into(), tokens, position))
    })
}

/// Forgets the key.
///
/// # Panics
///
/// If there is not one state for each quota.
pub fn reset(policy: &Policy, states: &mut [Option<State>], now: Timestamp) -> Reply {
    answers(policy, states, |_, named, state| {
        *state = None;
        decide(&named.quota, state, now, 0, true).0
    })
}

/// Whether an unseen bucket differs from a full one.
#[inline]
pub(crate) fn starts_below_capacity(quota: &Quota) -> bool {
    match quota.rule {
        Rule::TokenBucket(bucket) => bucket.initial < bucket.capacity,
        Rule::IntervalBucket(bucket) => bucket.initial < bucket.capacity,
        _ => false,
    }
}

/// Too few states would leave quotas out of a decision without a word.
fn assert_one_each(policy: &Policy, states: &[Option<State>]) {
    let quotas = policy.quotas().len();
    assert_eq!(
        states.len(),
        quotas,
        "one state for each quota of the policy"
    );
}

/// Each quota with its place and its state.
fn members<'a>(
    policy: &'a Policy,
    states: &'a mut [Option<State>],
) -> impl Iterator<Item = (usize, &'a NamedQuota, &'a mut Option<State>)> {
    policy
        .quotas()
        .iter()
        .zip(states)
        .enumerate()
        .map(|(index, (named, state))| (index, named, state))
}

/// The answer of an operation that asks nothing: the snapshot after it.
fn answers(
    policy: &Policy,
    states: &mut [Option<State>],
    mut op: impl FnMut(usize, &NamedQuota, &mut Option<State>) -> QuotaSnapshot,
) -> Reply {
    assert_one_each(policy, states);
    let snapshots = members(policy, states)
        .map(|(index, named, state)| op(index, named, state))
        .collect();
    Reply {
        decision: Decision::Allow(Snapshot::new(snapshots)),
        receipt: None,
        wait: Duration::ZERO,
        reservation: None,
        returned: false,
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn operations_panic_without_one_state_for_each_quota() {
        let day = Duration::from_secs(86_400);
        let policy =
            Policy::new("two", Quota::per_second(9)).and("day", Quota::token_bucket(1, 1, day));
        let (now, wait) = (Timestamp::from_micros(1), 9 * day);
        let receipt = check(&policy, &mut [None, None], now, Cost::ONE)
            .receipt
            .expect("allowed");
        for count in [0, 1, 3] {
            let panics = |op: &dyn Fn(&mut [Option<State>]) -> Reply| {
                catch_unwind(AssertUnwindSafe(|| op(&mut vec![None; count]))).is_err()
            };
            assert!(panics(&|states| check(&policy, states, now, Cost::ONE)));
            assert!(panics(&|states| reserve(
                &policy,
                states,
                now,
                Cost::ONE,
                wait
            )));
            assert!(panics(&|states| penalize(&policy, states, now, Cost::ONE)));
            assert!(panics(&|states| refund(&policy, states, now, &receipt)));
            assert!(panics(&|states| reset(&policy, states, now)));
        }
    }
}
