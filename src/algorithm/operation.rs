//! The operations on the state of one quota, written once for all algorithms.

use crate::clock::Timestamp;
use crate::decision::{ChargePosition, NEVER, QuotaSnapshot, State, StoredState};
use crate::quota::{Quota, Rule};

impl From<Timestamp> for Micros {
    #[inline]
    fn from(now: Timestamp) -> Self {
        // Below 2^54.
        Self(now.as_micros() as i64)
    }
}

/// A time in µs, signed because the start of a window can lie before the epoch.
#[derive(Clone, Copy)]
pub(super) struct Micros(pub(super) i64);

/// One algorithm: the functions that read and change the state of a quota.
///
/// `View` is the state advanced to the present. It is not stored until [`write`](Self::write) or a charge.
pub(crate) trait Algorithm {
    type State;
    type View;
    /// Whether the state never becomes obsolete by itself. A backend in memory keeps such states apart.
    const IS_TOTAL: bool = false;

    fn limit(&self) -> u64;
    fn state(stored: &StoredState) -> Option<&Self::State>;
    fn state_mut(stored: &mut StoredState) -> Option<&mut Self::State>;
    /// Returns a placeholder that is overwritten at once.
    fn placeholder() -> StoredState;

    /// Advances a state to `now`. No state stands for a key that was never used.
    fn view(&self, state: Option<&Self::State>, now: i64) -> Self::View;
    /// Returns whether a denied check must store the view.
    fn must_write(&self, view: &Self::View) -> bool;
    /// Returns whether every check must store the view, also one of a cost of 0 or above the limit.
    fn must_write_always(&self, _: &Self::View) -> bool {
        false
    }
    /// Returns whether `cost` is allowed, where `0 < cost <= limit`.
    fn fits(&self, view: &Self::View, cost: u64) -> bool;
    /// Returns the smallest wait after which a denied `cost` fits, from the caller's time.
    fn retry_after(&self, view: &Self::View, state: Option<&Self::State>, cost: u64) -> u64;
    fn remaining(&self, view: &Self::View) -> u64;
    fn reset_after(&self, view: &Self::View) -> u64;
    /// Returns the µs for which a state is kept after a write with this answer.
    #[inline]
    fn kept_for(&self, answer: &QuotaSnapshot) -> u64 {
        answer.reset_after
    }

    /// Stores the view.
    fn write(&self, view: &Self::View, state: &mut Self::State);
    /// Returns whether the debt stays below 2^53 after a reservation of `cost`. Windows cannot reserve.
    fn can_wait(&self, _: &Self::View, _: u64) -> bool {
        false
    }
    /// Compares the stored state with the state that a reservation left, advanced to the same time. Windows cannot
    /// reserve.
    fn since(&self, _left: &Self::State, _stored: &Self::State) -> Since {
        Since::Changed
    }
    /// Subtracts a reservation's charge from a state that only time has changed. The time of the state stays.
    fn take_back(&self, _: &mut Self::State, _: u64) {}
    /// Adds `tokens` to the view and stores it. They fit, or belong to a reservation.
    fn charge(&self, view: &mut Self::View, state: &mut Self::State, tokens: u64)
    -> ChargePosition;
    /// Subtracts up to `tokens` of a charge from the view and stores it.
    fn refund(
        &self,
        view: &mut Self::View,
        state: &mut Self::State,
        tokens: u64,
        position: ChargePosition,
    );
    /// Adds `tokens` to the view, up to a debt of twice the limit, and stores it.
    fn penalize(&self, view: &mut Self::View, state: &mut Self::State, tokens: u64);
}

/// A function that is generic over the algorithm of a quota.
pub(crate) trait ByAlgorithm {
    type Output;
    fn call<A: Algorithm>(self, algorithm: &A) -> Self::Output;
}

/// Calls `function` with the algorithm of `quota`.
#[inline(always)] // a call would pass the function's values through memory
pub(crate) fn by_algorithm<F: ByAlgorithm>(quota: &Quota, function: F) -> F::Output {
    match &quota.rule {
        Rule::TokenBucket(algorithm) => function.call(algorithm),
        Rule::IntervalBucket(algorithm) => function.call(algorithm),
        Rule::FixedWindow(algorithm) => function.call(algorithm),
        Rule::SlidingWindow(algorithm) => function.call(algorithm),
        Rule::SlidingLog(algorithm) => function.call(algorithm),
        Rule::Total(algorithm) => function.call(algorithm),
        Rule::CalendarWindow(algorithm) => function.call(algorithm),
    }
}

/// An operation on the state of a quota that is generic over the algorithm.
pub(super) trait Operation {
    type Output;
    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> Self::Output;
}

struct OnSlot<'a, O>(&'a mut Option<State>, O);

impl<O: Operation> ByAlgorithm for OnSlot<'_, O> {
    type Output = O::Output;

    #[inline]
    fn call<A: Algorithm>(self, algorithm: &A) -> O::Output {
        let Self(slot, operation) = self;
        operation.run(algorithm, slot)
    }
}

#[inline]
pub(super) fn with_algorithm<O: Operation>(
    quota: &Quota,
    slot: &mut Option<State>,
    operation: O,
) -> O::Output {
    by_algorithm(quota, OnSlot(slot, operation))
}

pub(super) fn fits(quota: &Quota, slot: &mut Option<State>, now: Timestamp, cost: u64) -> bool {
    with_algorithm(quota, slot, Fits(now.into(), cost))
}

/// Decides a request by one quota. If `go` is false, another quota of the policy denies, and nothing is charged.
pub(crate) fn decide(
    quota: &Quota,
    slot: &mut Option<State>,
    now: Timestamp,
    cost: u64,
    go: bool,
) -> (QuotaSnapshot, ChargePosition) {
    with_algorithm(quota, slot, Decide(now.into(), cost, go))
}

/// Decides a request by the only quota of a policy.
#[inline(always)] // a call would return the numbers through memory
pub(crate) fn decide_by<A: Algorithm>(
    algorithm: &A,
    slot: &mut Option<State>,
    now: Timestamp,
    cost: u64,
) -> (QuotaSnapshot, ChargePosition) {
    Decide(now.into(), cost, true).run(algorithm, slot)
}

/// Denies a request by the only quota of a policy. `None` if it is allowed, or if its decision must change the state.
#[inline(always)] // a call would return the numbers through memory
pub(crate) fn deny_by<A: Algorithm>(
    algorithm: &A,
    stored: &StoredState,
    now: Timestamp,
    cost: u64,
) -> Option<QuotaSnapshot> {
    if cost == 0 || cost > algorithm.limit() {
        return None;
    }
    let state = A::state(stored)?;
    let view = algorithm.view(Some(state), Micros::from(now).0);
    if algorithm.fits(&view, cost) || algorithm.must_write(&view) {
        return None;
    }
    let retry_after = algorithm.retry_after(&view, Some(state), cost);
    Some(snapshot(algorithm, &view, retry_after))
}

#[inline]
fn stored<A: Algorithm>(slot: &Option<State>) -> Option<&A::State> {
    slot.as_ref().and_then(|state| A::state(&state.0))
}

/// Passes the state to `write`, and creates it before if there is none.
#[inline(always)] // a call would pass the view through memory
fn written<A: Algorithm>(slot: &mut Option<State>, write: impl FnOnce(&mut A::State)) {
    if stored::<A>(slot).is_none() {
        *slot = Some(State(A::placeholder()));
    }
    if let Some(state) = slot.as_mut().and_then(|state| A::state_mut(&mut state.0)) {
        write(state);
    }
}

pub(super) struct Fits(pub(super) Micros, pub(super) u64);

impl Operation for Fits {
    type Output = bool;

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> bool {
        let Self(now, cost) = self;
        cost == 0
            || cost <= algorithm.limit()
                && algorithm.fits(&algorithm.view(stored::<A>(slot), now.0), cost)
    }
}

/// Returns the wait of a reservation: 0 if the cost fits now, [`NEVER`] if it can never fit or cannot be reserved.
pub(super) struct ReserveWait(pub(super) Micros, pub(super) u64);

impl Operation for ReserveWait {
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

/// Charges a reservation, also beyond the limit.
pub(super) struct Take(pub(super) Micros, pub(super) u64);

impl Operation for Take {
    type Output = (QuotaSnapshot, ChargePosition);

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> Self::Output {
        let Self(now, cost) = self;
        let mut view = algorithm.view(stored::<A>(slot), now.0);
        let mut position = ChargePosition::default();
        if cost > 0 {
            written::<A>(slot, |state| {
                position = algorithm.charge(&mut view, state, cost)
            });
        }
        (snapshot(algorithm, &view, 0), position)
    }
}

/// The changes of a state since a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// Only time has changed the state. The charge can be returned.
    Unchanged,
    /// Nothing is owed any more. There is nothing to return.
    Paid,
    /// A later operation has changed the state. The charge stays.
    Changed,
}

/// Compares the stored state with the state that a reservation left, given its charge in tokens.
///
/// A quota that owes nothing now has nothing to return, because a backend may have removed its state already.
pub(super) struct Compare<'a>(
    pub(super) Micros,
    pub(super) Option<&'a State>,
    pub(super) u64,
);

impl Operation for Compare<'_> {
    type Output = Since;

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> Since {
        let Self(now, left, tokens) = self;
        let Some(stored) = stored::<A>(slot).filter(|_| tokens > 0) else {
            return Since::Paid;
        };
        if algorithm.reset_after(&algorithm.view(Some(stored), now.0)) == 0 {
            return Since::Paid;
        }
        match left.and_then(|left| A::state(&left.0)) {
            Some(left) => algorithm.since(left, stored),
            None => Since::Changed,
        }
    }
}

/// Returns the charge of a reservation that no later operation followed.
pub(super) struct TakeBack(pub(super) u64);

impl Operation for TakeBack {
    type Output = ();

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) {
        if self.0 > 0 && stored::<A>(slot).is_some() {
            written::<A>(slot, |state| algorithm.take_back(state, self.0));
        }
    }
}

pub(super) struct Decide(pub(super) Micros, pub(super) u64, pub(super) bool);

impl Operation for Decide {
    type Output = (QuotaSnapshot, ChargePosition);

    #[inline(always)] // see `decide_by`
    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> Self::Output {
        let Self(now, cost, go) = self;
        let mut view = algorithm.view(stored::<A>(slot), now.0);
        let mut position = ChargePosition::default();
        let mut retry_after = 0;
        if cost > algorithm.limit() {
            retry_after = NEVER;
        } else if cost > 0 {
            let fits = algorithm.fits(&view, cost);
            if fits && go {
                written::<A>(slot, |state| {
                    position = algorithm.charge(&mut view, state, cost)
                });
            } else {
                if !fits {
                    retry_after = algorithm.retry_after(&view, stored::<A>(slot), cost);
                }
                if algorithm.must_write(&view) {
                    written::<A>(slot, |state| algorithm.write(&view, state));
                }
            }
        }
        if (cost == 0 || cost > algorithm.limit()) && algorithm.must_write_always(&view) {
            written::<A>(slot, |state| algorithm.write(&view, state));
        }
        (snapshot(algorithm, &view, retry_after), position)
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

pub(super) struct Penalize(pub(super) Micros, pub(super) u64);

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

pub(super) struct Refund(pub(super) Micros, pub(super) u64, pub(super) ChargePosition);

impl Operation for Refund {
    type Output = QuotaSnapshot;

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> QuotaSnapshot {
        let Self(now, tokens, position) = self;
        let mut view = algorithm.view(stored::<A>(slot), now.0);
        if tokens > 0 && stored::<A>(slot).is_some() {
            written::<A>(slot, |state| {
                algorithm.refund(&mut view, state, tokens, position)
            });
        }
        snapshot(algorithm, &view, 0)
    }
}
