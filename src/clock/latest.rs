use smallvec::SmallVec;

use super::Timestamp;

/// The time of the last decision under a lock.
///
/// A thread reads the clock before it takes the lock, because a reading takes a third of the time of a decision.
/// Between the two, other threads may change or remove the state under the lock. The reading is then late: it is
/// earlier than the time of the state.
///
/// A late reading must not be treated as a step back of the clock, which would move a debt into the past. It must not
/// create a state that is older than a removed one either. The time belongs to the lock and not to a key, so that it
/// also covers keys without state.
#[derive(Debug, Default)]
pub(crate) struct Latest(Timestamp);

impl Latest {
    /// Returns the time of the decision: the `reading` from before the lock, or a second one if the first is late.
    ///
    /// The result is earlier than the last one only if the clock was set back.
    #[inline]
    pub(crate) fn in_order(
        &mut self,
        reading: Timestamp,
        again: impl FnOnce() -> Timestamp,
    ) -> Timestamp {
        let now = if reading < self.0 {
            reread(reading, again)
        } else {
            reading
        };
        self.0 = now;
        now
    }

    /// Returns the time of a decision under several locks, as [`in_order`](Self::in_order) does under one.
    pub(crate) fn in_order_of_all<'a>(
        all: impl Iterator<Item = &'a mut Self>,
        reading: Timestamp,
        again: impl FnOnce() -> Timestamp,
    ) -> Timestamp {
        let mut all: SmallVec<[&mut Self; 8]> = all.collect();
        let now = if all.iter().any(|latest| reading < latest.0) {
            reread(reading, again)
        } else {
            reading
        };
        for latest in &mut all {
            latest.0 = now;
        }
        now
    }
}

#[cold]
#[inline(never)]
fn reread(late: Timestamp, again: impl FnOnce() -> Timestamp) -> Timestamp {
    // The model finds a violation if the second reading is switched off.
    #[cfg(sluice_model)]
    if crate::model::late_readings_are_kept() {
        return late;
    }
    let _ = late;
    again()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn late_reading_is_repeated_and_others_are_not() {
        let mut latest = Latest::default();
        let never = || -> Timestamp { unreachable!("the reading is not late") };
        assert_eq!(latest.in_order(at(5), never), at(5));
        assert_eq!(latest.in_order(at(5), never), at(5));
        assert_eq!(latest.in_order(at(4), || at(9)), at(9));
        assert_eq!(latest.in_order(at(8), || at(10)), at(10));
    }

    #[test]
    fn decision_under_several_locks_is_later_than_the_last_one_under_each() {
        let [mut one, mut two] = [Latest::default(), Latest::default()];
        let never = || -> Timestamp { unreachable!("the reading is not late") };
        assert_eq!(two.in_order(at(7), never), at(7));
        let all = [&mut one, &mut two].into_iter();
        assert_eq!(Latest::in_order_of_all(all, at(5), || at(9)), at(9));
        let all = [&mut one, &mut two].into_iter();
        assert_eq!(Latest::in_order_of_all(all, at(9), never), at(9));
        assert_eq!(one.in_order(at(8), || at(10)), at(10));
    }

    #[test]
    fn clock_that_was_set_back_is_read_twice_once_only() {
        let mut latest = Latest::default();
        let never = || -> Timestamp { unreachable!("the reading is not late") };
        let _ = latest.in_order(at(100), never);
        assert_eq!(latest.in_order(at(3), || at(3)), at(3));
        assert_eq!(latest.in_order(at(4), never), at(4));
    }
}
