//! The algorithms as pure functions on integers. The input is quota, state, time and cost. The output is a reply
//! and the new state.
//!
//! Guide: [choose an algorithm](crate::_guide::algorithms).
//!
//! Nothing here reads a clock, takes a lock or knows keys. A backend keeps one [`State`] for each quota of a key,
//! `None` for a key without state. It passes the states in the order of the policy. No decision is made outside of this
//! module, and the same test vectors run on every backend.
//!
//! The buckets are the leaky bucket as a meter (ITU-T I.371; Turner, 1986). The window algorithms have no single
//! source; each file states its own exactly.
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
//! let denied = algorithm::check(&policy, &mut states[..], now, Cost::ONE);
//! assert_eq!(denied.decision.snapshot().quotas()[0].retry_after(), denied.decision.retry_after());
//! assert!(!denied.decision.is_allowed());
//! ```

mod calendar_window;
mod fixed_window;
mod interval_bucket;
mod operation;
mod sliding_log;
mod sliding_window;
#[cfg(feature = "redis")]
pub(crate) mod stored;
mod time;
mod token_bucket;
mod total;

use std::time::Duration;

use smallvec::SmallVec;

pub(crate) use self::operation::{
    Algorithm, ByAlgorithm, by_algorithm, decide, decide_by, deny_by,
};
use self::operation::{
    Compare, Penalize, Refund, ReserveWait, Since, Take, TakeBack, fits, with_algorithm,
};
#[cfg(feature = "redis")]
pub(crate) use self::token_bucket::snapshot_of_debt;
use crate::clock::{Timestamp, micros_up};
pub use crate::decision::State;
use crate::decision::{
    ChargePart, ChargePosition, Decision, NEVER, QuotaSnapshot, Receipt, Reply, Reservation,
    Snapshot,
};
use crate::policy::{NamedQuota, Policy};
use crate::quota::{Cost, Quota, Rule};

/// Decides one request. Either every quota of the policy allows the cost and is charged, or none is charged.
///
/// A denial changes no state, with two exceptions:
///
/// - The first check of a bucket that starts below its capacity starts the refill.
/// - A clock that went back by more than the quota's horizon moves the state to the new time.
///
/// # Panics
///
/// Panics unless there is one state for each quota.
#[inline]
pub fn check(policy: &Policy, states: &mut [Option<State>], now: Timestamp, cost: Cost) -> Reply {
    // One quota is the common case. The loops below would double its time.
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

/// Charges as many tokens to every quota as are there, from 1 to `most`. It denies a request if a quota has no token.
///
/// The tokens of the reply's receipt are the charge.
///
/// # Panics
///
/// Panics unless there is one state for each quota.
pub fn check_up_to(
    policy: &Policy,
    states: &mut [Option<State>],
    now: Timestamp,
    most: u64,
) -> Reply {
    assert_one_each(policy, states);
    let remaining = members(policy, states)
        .map(|(_, named, state)| decide(&named.quota, state, now, 0, true).0.remaining)
        .min();
    let tokens = remaining.map_or(most, |remaining| most.min(remaining.max(1)));
    check(policy, states, now, Cost::new(tokens))
}

/// Returns the answer of each quota to a request of `cost`, which is not charged.
pub(crate) fn answers_without_charge(
    policy: &Policy,
    states: &mut [Option<State>],
    now: Timestamp,
    cost: &Cost,
) -> SmallVec<[QuotaSnapshot; 2]> {
    assert_one_each(policy, states);
    members(policy, states)
        .map(|(index, named, state)| decide(&named.quota, state, now, cost.get(index), false).0)
        .collect()
}

/// Decides one request that may wait for up to `max_wait`.
///
/// A request that is allowed now is charged now. A request that can proceed within `max_wait` is charged beyond the
/// capacity, and the reply contains the wait. Reservations come due in the order in which they are made.
///
/// Only a policy of buckets can reserve. Under a window, later charges could change the wait. A reservation is denied
/// if a debt would reach 2^53 grains (with interval refill: tokens).
///
/// # Panics
///
/// Panics unless there is one state for each quota.
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
        // The reservation owns the receipt, so that a charge is either cancelled or refunded.
        reply.reservation = Some(Reservation::new(cost, states, reply.receipt.take()));
    }
    reply
}

/// Cancels a reservation. Its charge is returned if only time has changed the states since the reservation was made.
///
/// The test is exact: the states that the reservation left, advanced to the time of the stored states, equal the stored
/// states to the grain. If they differ, the charge stays. Later reservations keep their times then, and a returned
/// token would let one more request through at the same time. A quota that owes nothing at `now` has nothing to return.
///
/// A cancel that did not return the charge may be repeated after the later reservations were cancelled. A cancel that
/// returned the charge must not be repeated.
///
/// # Panics
///
/// Panics unless there is one state for each quota.
pub fn cancel(
    policy: &Policy,
    states: &mut [Option<State>],
    now: Timestamp,
    reservation: &Reservation,
) -> Reply {
    assert_one_each(policy, states);
    let mut since = SmallVec::<[Since; 2]>::new();
    for (index, named, state) in members(policy, states) {
        let compare = Compare(
            now.into(),
            reservation.left(index),
            reservation.cost().get(index),
        );
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

/// Charges `cost` unconditionally, up to a debt of twice the limit. A penalty therefore denies requests for at most
/// twice the time in which an empty bucket fills.
///
/// # Panics
///
/// Panics unless there is one state for each quota.
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

/// Refunds the tokens of `receipt`. A bucket's debt falls by them. A window's count falls if the window of the charge
/// still counts; tokens of an expired window are not returned.
///
/// No quota has more tokens afterwards than an unused one, and no state is created.
///
/// # Panics
///
/// Panics unless there is one state for each quota.
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

/// Removes all states, as if the key had never been used.
///
/// # Panics
///
/// Panics unless there is one state for each quota.
pub fn reset(policy: &Policy, states: &mut [Option<State>], now: Timestamp) -> Reply {
    answers(policy, states, |_, named, state| {
        *state = None;
        decide(&named.quota, state, now, 0, true).0
    })
}

/// Returns the µs for which the state of a quota is kept after a write with this answer.
pub(crate) fn kept_for(quota: &Quota, answer: &QuotaSnapshot) -> u64 {
    match &quota.rule {
        Rule::Total(total) => total.kept_for(answer),
        _ => answer.reset_after,
    }
}

/// A missing state would silently exclude its quota from the decision.
fn assert_one_each(policy: &Policy, states: &[Option<State>]) {
    let quotas = policy.quotas().len();
    assert_eq!(
        states.len(),
        quotas,
        "expected one state for each quota of the policy"
    );
}

/// Returns each quota with its index and its state.
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

/// Applies `op` to each quota. The reply allows, with the numbers after the operation.
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
            assert!(panics(&|states| check_up_to(&policy, states, now, 9)));
        }
    }
}
