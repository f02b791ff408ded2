use super::Timestamp;

/// The latest time at which the holder of a lock has decided.
///
/// A thread reads the clock before it takes the lock, because a reading costs a third of a decision. It may be descheduled
/// in between, and other threads may meanwhile change, sweep or evict what the lock protects. Its reading is then late: it
/// shows a time before the one at which the state was written. A late reading must not pass for a step back of the clock,
/// which moves a debt into the past, nor create a state in the past of one that was swept.
///
/// The time belongs to the lock and not to a key, so that it also covers keys that are absent.
#[derive(Debug, Default)]
pub(crate) struct Latest(Timestamp);

impl Latest {
    /// The time to decide at: the `reading` that was taken before the lock, or a new one if that is late.
    ///
    /// The result is earlier than the last one only if the clock itself went back.
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
}

#[cold]
#[inline(never)]
fn reread(late: Timestamp, again: impl FnOnce() -> Timestamp) -> Timestamp {
    // The model convicts the order without a second reading.
    #[cfg(sluice_model)]
    if crate::model::late_readings_are_believed() {
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
    fn a_late_reading_is_taken_again_and_others_are_not() {
        let mut latest = Latest::default();
        let never = || -> Timestamp { unreachable!("it is not late") };
        assert_eq!(latest.in_order(at(5), never), at(5));
        assert_eq!(latest.in_order(at(5), never), at(5));
        assert_eq!(latest.in_order(at(4), || at(9)), at(9));
        assert_eq!(latest.in_order(at(8), || at(10)), at(10));
    }

    #[test]
    fn a_clock_that_went_back_is_believed_and_is_read_twice_only_once() {
        let mut latest = Latest::default();
        let never = || -> Timestamp { unreachable!("it is not late") };
        let _ = latest.in_order(at(100), never);
        assert_eq!(latest.in_order(at(3), || at(3)), at(3));
        assert_eq!(latest.in_order(at(4), never), at(4));
    }
}
