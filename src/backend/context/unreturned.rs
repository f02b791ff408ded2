use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::decision::Reservation;
use crate::policy::Policy;

/// The number of counters, which the keys share.
const COUNTERS: usize = 16;

/// Cancelled reservations whose charges were not returned, because later reservations of the key existed.
///
/// They are kept until they are due, and are cancelled again after a later reservation has returned its charge. Waiters
/// that leave in any order thus leave no debt behind. The bounds on waiters also bound the kept reservations. Above the
/// bound of a key its oldest reservation is dropped. Above the bound of all keys the one that is due first is dropped.
/// The charge of a dropped reservation is not returned.
pub(crate) struct Unreturned {
    each_key: usize,
    in_all: usize,
    /// The number of cancels that have returned a charge, by key. If it changed during a cancel without return, that
    /// cancel is repeated.
    returned: [AtomicU64; COUNTERS],
    kept: Mutex<KeptReservations>,
}

#[derive(Default)]
struct KeptReservations {
    keys: HashMap<u64, KeyReservations, RandomState>,
    /// All reservations, by the time at which they are due.
    due: BTreeSet<(Timestamp, u64, u64)>,
    /// The number of the last reservation.
    numbered: u64,
}

#[derive(Default)]
struct KeyReservations {
    /// In the order in which they were made.
    reservations: Vec<CancelledReservation>,
    /// Whether a task is cancelling them, and whether it must repeat that.
    has_task: bool,
    must_repeat: bool,
}

/// A cancelled reservation and its policy.
pub(crate) struct CancelledReservation {
    pub(crate) policy: Policy,
    pub(crate) reservation: Reservation,
    number: u64,
}

impl KeptReservations {
    fn insert(&mut self, fingerprint: u64, policy: Policy, reservation: Reservation) {
        self.numbered += 1;
        let number = self.numbered;
        self.due.insert((reservation.due(), number, fingerprint));
        let reservations = &mut self.keys.entry(fingerprint).or_default().reservations;
        let order = reservation.order();
        let place = reservations.partition_point(|other| other.reservation.order() <= order);
        let cancelled = CancelledReservation {
            policy,
            reservation,
            number,
        };
        reservations.insert(place, cancelled);
    }

    fn remove(&mut self, fingerprint: u64, number: u64) {
        let Some(of_key) = self.keys.get_mut(&fingerprint) else {
            return;
        };
        let place = |other: &CancelledReservation| other.number == number;
        if let Some(place) = of_key.reservations.iter().position(place) {
            let cancelled = of_key.reservations.remove(place);
            self.due
                .remove(&(cancelled.reservation.due(), number, fingerprint));
        }
        self.tidy(fingerprint);
    }

    fn remove_due(&mut self, now: Timestamp) {
        while let Some((due, number, fingerprint)) = self.due.first().copied() {
            if due > now {
                return;
            }
            self.remove(fingerprint, number);
            self.due.remove(&(due, number, fingerprint));
        }
    }

    /// Removes a key without reservations.
    fn tidy(&mut self, fingerprint: u64) {
        let is_idle = |of_key: &KeyReservations| of_key.reservations.is_empty() && !of_key.has_task;
        if self.keys.get(&fingerprint).is_some_and(is_idle) {
            self.keys.remove(&fingerprint);
        }
    }
}

impl Unreturned {
    pub(super) fn new(each_key: usize, in_all: usize) -> Self {
        Self {
            each_key,
            in_all,
            returned: std::array::from_fn(|_| AtomicU64::new(0)),
            kept: Mutex::default(),
        }
    }

    /// Returns the number of cancels that have returned a charge, to this key or to one that shares its counter.
    pub(crate) fn returned(&self, fingerprint: u64) -> u64 {
        self.counter(fingerprint).load(SeqCst)
    }

    /// Counts a cancel that has returned a charge to this key.
    pub(crate) fn note_returned(&self, fingerprint: u64) {
        self.counter(fingerprint).fetch_add(1, SeqCst);
    }

    #[allow(clippy::cast_possible_truncation)] // the low bits are enough
    fn counter(&self, fingerprint: u64) -> &AtomicU64 {
        &self.returned[fingerprint as usize % COUNTERS]
    }

    /// Keeps a reservation whose cancel did not return its charge, unless it is due.
    pub(crate) fn keep(
        &self,
        fingerprint: u64,
        policy: &Policy,
        reservation: Reservation,
        now: Timestamp,
    ) {
        let mut kept = self.kept.lock();
        kept.remove_due(now);
        if reservation.due() <= now || self.each_key == 0 || self.in_all == 0 {
            return;
        }
        let of_key = kept
            .keys
            .get(&fingerprint)
            .map(|of_key| &of_key.reservations);
        let oldest = of_key.filter(|of_key| of_key.len() >= self.each_key);
        if let Some(number) = oldest.map(|of_key| of_key[0].number) {
            kept.remove(fingerprint, number);
        }
        if kept.due.len() >= self.in_all
            && let Some((_, number, other)) = kept.due.first().copied()
        {
            kept.remove(other, number);
        }
        kept.insert(fingerprint, policy.clone(), reservation);
    }

    /// Returns the right to cancel the reservations of a key again. `None` if there are none, or while another task has
    /// the right; that task then repeats its cancels.
    pub(crate) fn retry(&self, fingerprint: u64) -> Option<Retry<'_>> {
        let mut kept = self.kept.lock();
        let of_key = kept.keys.get_mut(&fingerprint)?;
        of_key.must_repeat = of_key.has_task;
        if of_key.has_task {
            return None;
        }
        of_key.has_task = true;
        Some(Retry {
            unreturned: self,
            fingerprint,
            has_ended: false,
        })
    }

    #[cfg(test)]
    fn len(&self) -> (usize, usize) {
        let kept = self.kept.lock();
        let reservations = |of_key: &KeyReservations| of_key.reservations.len();
        assert_eq!(
            kept.keys.values().map(reservations).sum::<usize>(),
            kept.due.len()
        );
        (kept.keys.len(), kept.due.len())
    }
}

/// The right to cancel the reservations of a key again. One task has it at a time.
pub(crate) struct Retry<'a> {
    unreturned: &'a Unreturned,
    fingerprint: u64,
    has_ended: bool,
}

impl Retry<'_> {
    /// Removes and returns up to `most` reservations that are not due, the newest first.
    pub(crate) fn newest(&self, most: usize, now: Timestamp) -> Vec<CancelledReservation> {
        let mut kept = self.unreturned.kept.lock();
        kept.remove_due(now);
        let mut newest = Vec::new();
        while newest.len() < most
            && let Some(of_key) = kept.keys.get_mut(&self.fingerprint)
            && let Some(cancelled) = of_key.reservations.pop()
        {
            kept.due.remove(&(
                cancelled.reservation.due(),
                cancelled.number,
                self.fingerprint,
            ));
            newest.push(cancelled);
        }
        newest
    }

    /// Ends the right and returns `true`, unless the next attempt can succeed. It can if a cancel has returned a charge
    /// since `returned` was read, or if another task has asked for the right.
    pub(crate) fn end(&mut self, returned: u64) -> bool {
        let mut kept = self.unreturned.kept.lock();
        let of_key = kept.keys.get_mut(&self.fingerprint);
        let again = of_key.is_some_and(|of_key| std::mem::take(&mut of_key.must_repeat));
        if again || self.unreturned.returned(self.fingerprint) != returned {
            return false;
        }
        self.leave(&mut kept);
        true
    }

    fn leave(&mut self, kept: &mut KeptReservations) {
        self.has_ended = true;
        if let Some(of_key) = kept.keys.get_mut(&self.fingerprint) {
            of_key.has_task = false;
        }
        kept.tidy(self.fingerprint);
    }
}

impl Drop for Retry<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            let unreturned = self.unreturned;
            self.leave(&mut unreturned.kept.lock());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::algorithm;
    use crate::quota::{Cost, Quota};

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn policy() -> Policy {
        Policy::new("p", Quota::per_second(10).burst(1))
    }

    /// Reservations that are due 100 ms after each other.
    fn reservations(count: usize) -> Vec<Reservation> {
        let mut states = [None];
        let wait = Duration::from_secs(3_600);
        let mut next = || {
            let reply = algorithm::reserve(&policy(), &mut states, NOW, Cost::ONE, wait);
            let mut reservation = reply.reservation.expect("within the hour");
            reservation.set_due(NOW.after(reply.wait));
            reservation
        };
        let _at_once = next();
        (0..count).map(|_| next()).collect()
    }

    fn dues(retry: &Retry<'_>, most: usize) -> Vec<u64> {
        let newest = retry.newest(most, NOW).into_iter();
        newest
            .map(|cancelled| cancelled.reservation.due().micros_since(NOW) / 100_000)
            .collect()
    }

    #[test]
    fn newest_reservations_come_first_whatever_order_they_were_kept_in() {
        let unreturned = Unreturned::new(9, 99);
        let mut made: Vec<_> = reservations(4).into_iter().map(Some).collect();
        for index in [2, 0, 3, 1] {
            let reservation = made[index].take().expect("taken once");
            unreturned.keep(7, &policy(), reservation, NOW);
        }
        assert!(unreturned.retry(8).is_none(), "another key has none");
        let mut retry = unreturned.retry(7).expect("there are some");
        assert_eq!(dues(&retry, 3), [4, 3, 2]);
        assert_eq!(dues(&retry, 3), [1]);
        assert!(retry.end(0));
        assert_eq!(unreturned.len(), (0, 0));
    }

    #[test]
    fn second_task_makes_the_first_task_repeat_its_cancels() {
        let unreturned = Unreturned::new(9, 99);
        unreturned.keep(7, &policy(), reservations(1).remove(0), NOW);
        let mut first = unreturned.retry(7).expect("there is one");
        assert!(unreturned.retry(7).is_none());
        assert!(!first.end(0), "another task asked for the right");
        unreturned.note_returned(7);
        assert!(!first.end(0), "a charge was returned");
        assert!(first.end(1));
        let second = unreturned.retry(7);
        drop(first);
        assert!(
            unreturned.retry(7).is_none(),
            "the second task has the right"
        );
        drop(second);
        assert!(unreturned.retry(7).is_some());
    }

    #[test]
    fn kept_reservations_are_bounded_by_key_and_in_total_and_dropped_when_due() {
        let unreturned = Unreturned::new(3, 5);
        for reservation in reservations(4) {
            unreturned.keep(1, &policy(), reservation, NOW);
        }
        assert_eq!(unreturned.len(), (1, 3));
        assert_eq!(dues(&unreturned.retry(1).expect("some"), 9), [4, 3, 2]);
        for reservation in reservations(3) {
            unreturned.keep(2, &policy(), reservation, NOW);
        }
        for reservation in reservations(4).drain(1..) {
            unreturned.keep(3, &policy(), reservation, NOW);
        }
        // The reservation that was due first was dropped.
        assert_eq!(unreturned.len(), (2, 5));
        assert_eq!(dues(&unreturned.retry(2).expect("some"), 9), [3, 2]);
        let later = NOW.after(Duration::from_millis(300));
        unreturned.keep(4, &policy(), reservations(3).remove(2), later);
        assert_eq!(unreturned.len(), (1, 1), "due reservations are dropped");
        let none = Unreturned::new(0, 5);
        none.keep(1, &policy(), reservations(1).remove(0), NOW);
        assert_eq!(none.len(), (0, 0));
    }
}
