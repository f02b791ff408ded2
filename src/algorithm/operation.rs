//! What can be done to the state of one quota, written once for all algorithms.

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

/// A time in µs that arithmetic may take below zero: the start of a window can lie before the epoch.
#[derive(Clone, Copy)]
pub(super) struct Micros(pub(super) i64);

/// One algorithm: how a quota's numbers read and change its state. `View` is the state brought to now, unwritten.
pub(super) trait Algorithm {
    type State;
    type View;

    fn limit(&self) -> u64;
    fn peel(kept: &StoredState) -> Option<&Self::State>;
    fn peel_mut(kept: &mut StoredState) -> Option<&mut Self::State>;
    /// A state to be written into.
    fn blank() -> StoredState;

    /// Brings a state to `now`, that of an unseen key if there is none.
    fn view(&self, state: Option<&Self::State>, now: i64) -> Self::View;
    /// Whether a check that is denied has to write the view down.
    fn must_note(&self, view: &Self::View) -> bool;
    /// Whether `0 < cost <= limit` is allowed.
    fn fits(&self, view: &Self::View, cost: u64) -> bool;
    /// The smallest wait after which a denied `cost` fits, from the caller's now.
    fn retry_after(&self, view: &Self::View, state: Option<&Self::State>, cost: u64) -> u64;
    fn remaining(&self, view: &Self::View) -> u64;
    fn reset_after(&self, view: &Self::View) -> u64;

    /// Writes the view.
    fn note(&self, view: &Self::View, state: &mut Self::State);
    /// Whether a reservation of `cost` keeps the debt below 2^53. Windows have no reservations.
    fn can_wait(&self, _: &Self::View, _: u64) -> bool {
        false
    }
    /// Compares the stored state with what time alone has made of the state that a reservation left. Windows have no
    /// reservations.
    fn since(&self, _left: &Self::State, _stored: &Self::State) -> Since {
        Since::Changed
    }
    /// Takes a reservation's charge off a state that only time has changed, without bringing it to any time.
    fn take_back(&self, _: &mut Self::State, _: u64) {}
    /// Adds `tokens` to the view and writes it: they fit, or are a reservation's.
    fn charge(&self, view: &mut Self::View, state: &mut Self::State, tokens: u64)
    -> ChargePosition;
    /// Takes up to `tokens` of a charge back and writes it.
    fn refund(
        &self,
        view: &mut Self::View,
        state: &mut Self::State,
        tokens: u64,
        position: ChargePosition,
    );
    /// Adds `tokens`, but takes no debt beyond twice the limit, and writes it.
    fn penalize(&self, view: &mut Self::View, state: &mut Self::State, tokens: u64);
}

/// Something to do with whichever algorithm a quota has.
pub(super) trait Operation {
    type Output;
    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> Self::Output;
}

#[inline]
pub(super) fn with_algorithm<O: Operation>(
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

pub(super) fn fits(quota: &Quota, slot: &mut Option<State>, now: Timestamp, cost: u64) -> bool {
    with_algorithm(quota, slot, Fits(now.into(), cost))
}

#[inline]
pub(crate) fn decide(
    quota: &Quota,
    slot: &mut Option<State>,
    now: Timestamp,
    cost: u64,
    go: bool,
) -> (QuotaSnapshot, ChargePosition) {
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

/// How long a cost has to wait: 0 if it fits, [`NEVER`] if it never can, or not as a reservation.
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

/// Charges beyond the limit.
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

/// The fate of the charge of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// Nothing but time has changed the state: the charge can be taken back.
    Unchanged,
    /// Nothing is owed any more, as by a key never seen: there is nothing to take back.
    Paid,
    /// Something else has changed the state: the charge stays.
    Changed,
}

/// Finds out what has become of a reservation that left this state and charged so much.
pub(super) struct Compare<'a>(pub(super) Option<&'a State>, pub(super) u64);

impl Operation for Compare<'_> {
    type Output = Since;

    fn run<A: Algorithm>(self, algorithm: &A, slot: &mut Option<State>) -> Since {
        let Self(left, tokens) = self;
        let Some(stored) = stored::<A>(slot) else {
            return Since::Paid;
        };
        match left.and_then(|left| A::peel(&left.0)) {
            _ if tokens == 0 => Since::Paid,
            Some(left) => algorithm.since(left, stored),
            None => Since::Changed,
        }
    }
}

/// Undoes a charge that nothing came after.
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

    #[inline]
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
                if algorithm.must_note(&view) {
                    written::<A>(slot, |state| algorithm.note(&view, state));
                }
            }
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
