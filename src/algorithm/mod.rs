//! The five algorithms as pure functions on integers: quota, state, time and cost in, answer and new state out.
//!
//! Nothing here reads a clock, takes a lock or knows what a key is. A backend keeps one [`State`] for each quota of a key
//! (`None` for one never seen) and passes them in, in the order of the policy; everything that decides is in this module, and the project's test vectors
//! bind it to every backend. Sources: the leaky bucket as a meter (ITU-T I.371; Turner, 1986) for the buckets; the window
//! algorithms are folklore, stated exactly in each file.
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
mod sliding_log;
mod sliding_window;
mod token_bucket;

use std::time::Duration;

use smallvec::SmallVec;

use crate::backend::Reply;
use crate::clock::{Timestamp, micros_up};
use crate::decision::{Charge, Decision, NEVER, Place, QuotaSnapshot, Receipt, Snapshot, Turn};
use crate::policy::{NamedQuota, Policy};
use crate::quota::{Cost, Origin, Quota, Rule};

/// What has been spent under one quota and has not come back, and since when: all that a backend keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State(Kept);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kept {
    TokenBucket(token_bucket::Debt),
    IntervalBucket(interval_bucket::Debt),
    FixedWindow(fixed_window::Count),
    SlidingWindow(sliding_window::Counts),
    SlidingLog(Box<sliding_log::Log>),
}

const _: () = assert!(size_of::<Option<State>>() == 32);

/// Decides one request: every quota of the policy allows its cost and all are charged, or none is.
///
/// A refusal writes nothing, with two exceptions that later answers show: the first check of a bucket with other initial
/// tokens starts its refill, and a step back of the clock beyond the quota's own horizon is written down.
///
/// # Panics
///
/// If there is not one state for each quota.
#[inline]
pub fn check(policy: &Policy, states: &mut [Option<State>], now: Timestamp, cost: Cost) -> Reply {
    // The common case by itself: what is below costs as much again.
    if let ([named], [state]) = (policy.quotas(), &mut *states) {
        let tokens = cost.of(0);
        let (snapshot, place) = decide(&named.quota, state, now, tokens, true);
        let charge = Charge {
            quota: named.mark(),
            tokens,
            place,
        };
        return Reply::to_check_of_one(snapshot, charge);
    }
    assert_eq!(
        states.len(),
        policy.quotas().len(),
        "one state for each quota of the policy"
    );
    let all_fit = members(policy, states)
        .all(|(index, named, state)| fits(&named.quota, state, now, cost.of(index)));
    let mut snapshots = SmallVec::new();
    let mut charges = SmallVec::new();
    for (index, named, state) in members(policy, states) {
        let tokens = cost.of(index);
        let (snapshot, place) = decide(&named.quota, state, now, tokens, all_fit);
        snapshots.push(snapshot);
        charges.push(Charge {
            quota: named.mark(),
            tokens,
            place,
        });
    }
    Reply::to_check(Snapshot::new(snapshots), || charges)
}

/// Decides one request that may wait: if it is allowed at once it is charged, and else, if every quota is a bucket and its
/// turn comes within `max_wait`, charged beyond the capacity, to go on after the wait. Turns are first come, first served.
///
/// A debt stays below 2^53 grains (interval refill: tokens); a turn that would pass that is refused, as is one under a policy
/// with a window, whose future is not one number.
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
    let max_wait = micros_up(max_wait);
    let of_buckets = policy.quotas().iter().all(|named| is_bucket(&named.quota));
    let wait = members(policy, states)
        .map(|(index, named, state)| {
            with_algorithm(&named.quota, state, Wait(now.into(), cost.of(index)))
        })
        .max();
    let mut reply = match wait {
        Some(wait) if of_buckets && wait > 0 && wait < NEVER && wait <= max_wait => {
            let mut snapshots = SmallVec::new();
            let mut charges = SmallVec::new();
            for (index, named, state) in members(policy, states) {
                let tokens = cost.of(index);
                let (snapshot, place) =
                    with_algorithm(&named.quota, state, Take(now.into(), tokens));
                snapshots.push(snapshot);
                charges.push(Charge {
                    quota: named.mark(),
                    tokens,
                    place,
                });
            }
            let mut reply = Reply::to_check(Snapshot::new(snapshots), || charges);
            reply.go_after = Duration::from_micros(wait);
            reply
        }
        _ => check(policy, states, now, cost),
    };
    if of_buckets && reply.decision.is_allowed() {
        reply.turn = Some(Turn::new(cost, states));
    }
    reply
}

/// Gives a turn up. Its charge goes back if the states are still those that it left: to others behind it their times were
/// told, and a token given back to them would let two through at once. Time plays no part.
///
/// # Panics
///
/// If there is not one state for each quota.
pub fn cancel(policy: &Policy, states: &mut [Option<State>], now: Timestamp, turn: &Turn) -> Reply {
    let returned = turn.is_last(states);
    let mut reply = answers(policy, states, |index, named, state| {
        if returned {
            with_algorithm(&named.quota, state, TakeBack(turn.cost().of(index)));
        }
        decide(&named.quota, state, now, 0, true).0
    });
    reply.returned = returned;
    reply
}

/// Charges `cost` without asking. No debt is taken beyond twice the limit, so that nobody is shut out for longer than two
/// times the time to recover.
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
        with_algorithm(&named.quota, state, Penalize(now.into(), cost.of(index)))
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
        let (tokens, place) = charge.map_or((0, Place::default()), |charge| {
            (charge.tokens, charge.place)
        });
        with_algorithm(&named.quota, state, Refund(now.into(), tokens, place))
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

fn is_bucket(quota: &Quota) -> bool {
    matches!(quota.rule, Rule::TokenBucket(_) | Rule::IntervalBucket(_))
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
    assert_eq!(
        states.len(),
        policy.quotas().len(),
        "one state for each quota of the policy"
    );
    let snapshots = members(policy, states)
        .map(|(index, named, state)| op(index, named, state))
        .collect();
    Reply {
        decision: Decision::Allow(Snapshot::new(snapshots)),
        receipt: None,
        go_after: Duration::ZERO,
        turn: None,
        returned: false,
    }
}

impl From<Timestamp> for Micros {
    #[inline]
    fn from(now: Timestamp) -> Self {
        // Below 2^54.
        Self(now.as_micros() as i64)
    }
}

/// A time in µs that arithmetic may take below zero: the start of a window can lie before the epoch.
#[derive(Clone, Copy)]
struct Micros(i64);

/// One algorithm: how a quota's numbers read and change its state. `View` is the state brought to now, unwritten.
trait Algorithm {
    type State;
    type View;

    fn limit(&self) -> u32;
    fn peel(kept: &Kept) -> Option<&Self::State>;
    fn peel_mut(kept: &mut Kept) -> Option<&mut Self::State>;
    /// A state to be written into.
    fn blank() -> Kept;

    /// Brings a state to `now`, that of an unseen key if there is none.
    fn view(&self, state: Option<&Self::State>, now: i64) -> Self::View;
    /// Whether a check that is refused has to write the view down.
    fn must_note(&self, view: &Self::View) -> bool;
    /// Whether `0 < cost <= limit` is allowed.
    fn fits(&self, view: &Self::View, cost: u32) -> bool;
    /// The smallest wait after which a refused `cost` fits, from the caller's now.
    fn retry_after(&self, view: &Self::View, state: Option<&Self::State>, cost: u32) -> u64;
    fn remaining(&self, view: &Self::View) -> u32;
    fn reset_after(&self, view: &Self::View) -> u64;

    /// Writes the view.
    fn note(&self, view: &Self::View, state: &mut Self::State);
    /// Whether a turn of `cost` keeps the debt below 2^53. Windows have no turns.
    fn can_wait(&self, _: &Self::View, _: u32) -> bool {
        false
    }
    /// Takes a turn's charge off the state that it left, without bringing it to any time.
    fn take_back(&self, _: &mut Self::State, _: u32) {}
    /// Adds `tokens` to the view and writes it: they fit, or are a turn's.
    fn charge(&self, view: &mut Self::View, state: &mut Self::State, tokens: u32) -> Place;
    /// Takes up to `tokens` of a charge back and writes it.
    fn refund(&self, view: &mut Self::View, state: &mut Self::State, tokens: u32, place: Place);
    /// Adds `tokens`, but takes no debt beyond twice the limit, and writes it.
    fn penalize(&self, view: &mut Self::View, state: &mut Self::State, tokens: u32);
}

/// Something to do with whichever algorithm a quota has.
trait Operation {
    type Output;
    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> Self::Output;
}

#[inline]
fn with_algorithm<O: Operation>(
    quota: &Quota,
    slot: &mut Option<State>,
    operation: O,
) -> O::Output {
    match &quota.rule {
        Rule::TokenBucket(algorithm) => operation.run(algorithm, slot),
        Rule::IntervalBucket(algorithm) => operation.run(algorithm, slot),
        Rule::FixedWindow(algorithm) => operation.run(algorithm, slot),
        Rule::SlidingWindow(algorithm) => operation.run(algorithm, slot),
        Rule::SlidingLog(algorithm) => operation.run(algorithm, slot),
    }
}

fn fits(quota: &Quota, slot: &mut Option<State>, now: Timestamp, cost: u32) -> bool {
    with_algorithm(quota, slot, Fits(now.into(), cost))
}

#[inline]
pub(crate) fn decide(
    quota: &Quota,
    slot: &mut Option<State>,
    now: Timestamp,
    cost: u32,
    go: bool,
) -> (QuotaSnapshot, Place) {
    with_algorithm(quota, slot, Decide(now.into(), cost, go))
}

#[inline]
fn stored<A: Algorithm>(slot: &Option<State>) -> Option<&A::State> {
    slot.as_ref().and_then(|state| A::peel(&state.0))
}

/// The state to write into, made if there is none.
#[inline]
fn written<A: Algorithm>(slot: &mut Option<State>, write: impl FnOnce(&mut A::State)) {
    if stored::<A>(slot).is_none() {
        *slot = Some(State(A::blank()));
    }
    if let Some(state) = slot.as_mut().and_then(|state| A::peel_mut(&mut state.0)) {
        write(state);
    }
}

struct Fits(Micros, u32);

impl Operation for Fits {
    type Output = bool;

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> bool {
        let Self(now, cost) = self;
        cost == 0
            || cost <= algorithm.limit()
                && algorithm.fits(&algorithm.view(stored::<A>(slot), now.0), cost)
    }
}

/// How long a cost has to wait: 0 if it fits, [`NEVER`] if it never can, or not as a turn.
struct Wait(Micros, u32);

impl Operation for Wait {
    type Output = u64;

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> u64 {
        let Self(now, cost) = self;
        let view = algorithm.view(stored::<A>(slot), now.0);
        if cost == 0 {
            0
        } else if cost > algorithm.limit() {
            NEVER
        } else if algorithm.fits(&view, cost) {
            0
        } else if algorithm.can_wait(&view, cost) {
            algorithm.retry_after(&view, stored::<A>(slot), cost)
        } else {
            NEVER
        }
    }
}

/// Charges beyond the limit.
struct Take(Micros, u32);

impl Operation for Take {
    type Output = (QuotaSnapshot, Place);

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> Self::Output {
        let Self(now, cost) = self;
        let mut view = algorithm.view(stored::<A>(slot), now.0);
        let mut place = Place::default();
        if cost > 0 {
            written::<A>(slot, |state| {
                place = algorithm.charge(&mut view, state, cost)
            });
        }
        (snapshot(algorithm, &view, 0), place)
    }
}

/// Undoes a charge that nothing came after.
struct TakeBack(u32);

impl Operation for TakeBack {
    type Output = ();

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) {
        if self.0 > 0 && stored::<A>(slot).is_some() {
            written::<A>(slot, |state| algorithm.take_back(state, self.0));
        }
    }
}

struct Decide(Micros, u32, bool);

impl Operation for Decide {
    type Output = (QuotaSnapshot, Place);

    #[inline]
    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> Self::Output {
        let Self(now, cost, go) = self;
        let mut view = algorithm.view(stored::<A>(slot), now.0);
        let mut place = Place::default();
        let mut retry_after = 0;
        if cost > algorithm.limit() {
            retry_after = NEVER;
        } else if cost > 0 {
            let fits = algorithm.fits(&view, cost);
            if fits && go {
                written::<A>(slot, |state| {
                    place = algorithm.charge(&mut view, state, cost)
                });
            } else {
                if !fits {
                    retry_after = algorithm.retry_after(&view, stored::<A>(slot), cost);
                }
                if algorithm.must_note(&view) {
                    written::<A>(slot, |state| algorithm.note(&view, state));
                }
            }
        }
        (snapshot(algorithm, &view, retry_after), place)
    }
}

#[inline]
fn snapshot<A: Algorithm>(algorithm: &A, view: &A::View, retry_after: u64) -> QuotaSnapshot {
    QuotaSnapshot {
        limit: algorithm.limit(),
        remaining: algorithm.remaining(view),
        retry_after,
        reset_after: algorithm.reset_after(view),
    }
}

struct Penalize(Micros, u32);

impl Operation for Penalize {
    type Output = QuotaSnapshot;

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> QuotaSnapshot {
        let Self(now, tokens) = self;
        let mut view = algorithm.view(stored::<A>(slot), now.0);
        if tokens > 0 {
            written::<A>(slot, |state| algorithm.penalize(&mut view, state, tokens));
        }
        snapshot(algorithm, &view, 0)
    }
}

struct Refund(Micros, u32, Place);

impl Operation for Refund {
    type Output = QuotaSnapshot;

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> QuotaSnapshot {
        let Self(now, tokens, place) = self;
        let mut view = algorithm.view(stored::<A>(slot), now.0);
        if tokens > 0 && stored::<A>(slot).is_some() {
            written::<A>(slot, |state| {
                algorithm.refund(&mut view, state, tokens, place)
            });
        }
        snapshot(algorithm, &view, 0)
    }
}

/// Which of two readings of a clock that went back holds: the state's time (time stands still) or the new one.
enum Back {
    /// The caller's clock lags behind the state by no more than the horizon: decide at the state's time, which is so many
    /// µs ahead.
    StandStill(u64),
    /// It lags further: the state moves to the caller's now with all its debt.
    Rebase,
}

#[inline]
fn clock_back(state_time: i64, now: i64, horizon: u64) -> Back {
    let gap = micros_between(now, state_time);
    if gap <= horizon {
        Back::StandStill(gap)
    } else {
        Back::Rebase
    }
}

/// `to - from` in µs, 0 if that is negative.
#[inline]
fn micros_between(from: i64, to: i64) -> u64 {
    u64::try_from(to - from).unwrap_or(0)
}

/// A span as a signed number; spans are at most a few times 2^53.
#[inline]
fn signed(span: u64) -> i64 {
    i64::try_from(span).unwrap_or(i64::MAX)
}

/// The latest start of an interval of `period` at or before `now`.
#[inline]
fn start_of(origin: Origin, period: u64, now: i64) -> i64 {
    match origin {
        None => now,
        Some(offset) => now - (now - signed(offset)).rem_euclid(signed(period)),
    }
}

/// Debts stay below it, so that a double holds them too.
const MOST_DEBT: u64 = 1 << 53;

/// A number of tokens that fits: a debt is compared before it is narrowed.
#[inline]
fn tokens(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
