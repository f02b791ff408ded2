//! A circuit breaker (Nygard, Release It!, 2007). After repeated failures no operation is sent to Redis for a while, so
//! that an outage costs a request nothing. A single operation then probes whether Redis is back.

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backend::{BackendError, BackendErrorKind};
use crate::telemetry;

/// Failures in a row that open the circuit.
const MOST_FAILURES: u32 = 5;
/// The time between two probes of an open circuit.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Breaker {
    /// Failures in a row. It is read without the lock: the circuit may open a little earlier or later.
    failures: AtomicU32,
    open: Mutex<OpenCircuit>,
}

#[derive(Debug)]
struct OpenCircuit {
    /// The time of the next probe.
    until: Instant,
    /// The time of the next renewal beside the probes.
    next_renewal: Instant,
    /// The error that opened the circuit.
    error: Option<BackendError>,
}

/// The right to send one operation to Redis.
#[must_use]
pub(super) struct CircuitPermit<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    reported: bool,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            failures: AtomicU32::new(0),
            open: Mutex::new(OpenCircuit {
                until: Instant::now(),
                next_renewal: Instant::now(),
                error: None,
            }),
        }
    }

    fn is_open(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= MOST_FAILURES
    }

    /// Returns whether the circuit is open, whenever its next probe is due.
    #[cfg(feature = "cluster")]
    pub(super) fn is_tripped(&self) -> bool {
        self.is_open()
    }

    /// Makes the next probe due at once, because the server may be back or is another one.
    #[cfg(any(feature = "cluster", feature = "sentinel"))]
    pub(super) fn probe_now(&self) {
        if self.is_open() {
            self.open.lock().until = Instant::now();
        }
    }

    /// Returns whether no operation may be sent now.
    #[inline]
    pub(super) fn rejects(&self) -> bool {
        let rejects = self.is_open() && {
            // The clock is read under the lock: a late reading would reject a request after the pause.
            let open = self.open.lock();
            Instant::now() < open.until
        };
        if rejects {
            telemetry::backend_failure(BackendErrorKind::CircuitOpen.label());
        }
        rejects
    }

    /// Returns whether no renewal may be sent now.
    pub(super) fn rejects_renewal(&self) -> bool {
        self.is_open() && {
            let open = self.open.lock();
            Instant::now() < open.until.min(open.next_renewal)
        }
    }

    /// As [`try_acquire`](Self::try_acquire), for the renewal of a lease, which would end while the circuit is open.
    ///
    /// An open circuit permits one renewal a second beside the probes. It delays no request, and its reply closes the
    /// circuit for all operations.
    pub(super) fn try_acquire_renewal(&self) -> Option<CircuitPermit<'_>> {
        if let Some(permit) = self.try_acquire() {
            return Some(permit);
        }
        let (mut open, now) = (self.open.lock(), Instant::now());
        if now < open.next_renewal {
            return None;
        }
        open.next_renewal = now + PAUSE;
        Some(CircuitPermit {
            breaker: self,
            is_probe: false,
            reported: false,
        })
    }

    /// Returns `None` if the circuit is open and no probe is due.
    pub(super) fn try_acquire(&self) -> Option<CircuitPermit<'_>> {
        let is_probe = self.is_open();
        if is_probe {
            let mut open = self.open.lock();
            let now = Instant::now();
            if now < open.until {
                return None;
            }
            // The probe may be dropped without a report, or its thread may end.
            open.until = now + PAUSE;
        }
        Some(CircuitPermit {
            breaker: self,
            is_probe,
            reported: false,
        })
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        if self.is_open() {
            telemetry::circuit_dropped();
        }
    }
}

impl CircuitPermit<'_> {
    /// Reports that Redis has answered.
    pub(super) fn succeeded(mut self) {
        self.reported = true;
        let breaker = self.breaker;
        if breaker.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        if breaker.failures.swap(0, Ordering::Relaxed) >= MOST_FAILURES {
            let error = breaker.open.lock().error.take();
            telemetry::circuit_closed(error.as_ref().map(|error| error as &dyn Error));
        }
    }

    /// Reports that Redis has not answered, because of `error`.
    pub(super) fn failed(mut self, error: &BackendError) {
        self.reported = true;
        let breaker = self.breaker;
        let mut open = breaker.open.lock();
        if self.is_probe {
            open.until = Instant::now() + PAUSE;
        } else if breaker.failures.fetch_add(1, Ordering::Relaxed) + 1 == MOST_FAILURES {
            open.until = Instant::now() + PAUSE;
            open.error = Some(error.clone());
            telemetry::circuit_opened(MOST_FAILURES, PAUSE, error);
        }
    }
}

impl Drop for CircuitPermit<'_> {
    fn drop(&mut self) {
        // A dropped probe has no result, so the next probe is due at once.
        if self.is_probe && !self.reported {
            self.breaker.open.lock().until = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> BackendError {
        BackendError::new(BackendErrorKind::Lost)
    }

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker
                .try_acquire()
                .expect("closed, or a probe")
                .failed(&lost());
        }
    }

    /// Moves the times back, as if `span` had passed.
    fn pass(breaker: &Breaker, span: Duration) {
        let mut open = breaker.open.lock();
        let before = |time: Instant| time.checked_sub(span);
        open.until = before(open.until).expect("the machine runs for longer");
        open.next_renewal = before(open.next_renewal).expect("the machine runs for longer");
    }

    #[test]
    fn five_failures_in_a_row_open_the_circuit_and_four_do_not() {
        let breaker = Breaker::new();
        fail(&breaker, 4);
        breaker.try_acquire().expect("closed").succeeded();
        fail(&breaker, 4);
        assert!(!breaker.rejects());
        fail(&breaker, 1);
        assert!(breaker.rejects());
        assert!(breaker.try_acquire().is_none());
    }

    #[test]
    fn open_circuit_sends_one_probe_a_second_however_long_it_is_open() {
        let breaker = Breaker::new();
        fail(&breaker, 5);
        for seconds in 1..=60 {
            pass(&breaker, Duration::from_millis(500));
            assert!(breaker.rejects(), "{seconds}");
            pass(&breaker, Duration::from_millis(500));
            assert!(!breaker.rejects(), "{seconds}");
            let probe = breaker.try_acquire().expect("a probe");
            assert!(breaker.try_acquire().is_none(), "only one at a time");
            probe.failed(&lost());
        }
        pass(&breaker, Duration::from_secs(1));
        breaker.try_acquire().expect("a probe").succeeded();
        assert!(!breaker.rejects());
    }

    /// Returns the result of `asks`, which starts while another thread holds the lock.
    ///
    /// That thread ends both pauses now and then releases the lock. If the thread of `asks` is slow and finds the lock
    /// free, the result is the same.
    fn behind_a_lock<T: Send>(breaker: &Breaker, asks: impl FnOnce(&Breaker) -> T + Send) -> T {
        let mut open = breaker.open.lock();
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| asks(breaker));
            std::thread::sleep(Duration::from_millis(50));
            open.until = Instant::now();
            open.next_renewal = open.until;
            drop(open);
            answer.join().expect("it does not panic")
        })
    }

    #[test]
    fn waiting_for_the_lock_makes_no_reading_of_the_clock_late() {
        let breaker = Breaker::new();
        fail(&breaker, 5);
        assert!(!behind_a_lock(&breaker, Breaker::rejects));
        fail(&breaker, 1);
        assert!(!behind_a_lock(&breaker, Breaker::rejects_renewal));
        fail(&breaker, 1);
        assert!(behind_a_lock(&breaker, |breaker| breaker
            .try_acquire()
            .is_some()));
        fail(&breaker, 1);
        let renewal = |breaker: &Breaker| breaker.try_acquire_renewal().map(drop).is_some();
        assert!(behind_a_lock(&breaker, renewal));
    }

    #[test]
    fn renewals_are_sent_once_a_second_beside_the_probes() {
        let breaker = Breaker::new();
        fail(&breaker, 5);
        for _ in 0..7 {
            pass(&breaker, Duration::from_secs(1));
            let probe = breaker.try_acquire().expect("a probe");
            assert!(breaker.rejects() && !breaker.rejects_renewal());
            breaker.try_acquire_renewal().expect("once").failed(&lost());
            assert!(breaker.rejects_renewal() && breaker.try_acquire_renewal().is_none());
            probe.failed(&lost());
        }
        pass(&breaker, Duration::from_secs(1));
        drop(breaker.try_acquire().expect("a probe"));
        breaker.try_acquire_renewal().expect("once").succeeded();
        assert!(!breaker.rejects() && !breaker.rejects_renewal());
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn open_circuits_gauge_falls_on_close_and_drop() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let open = || {
            let shown = handle.render();
            let value = shown
                .lines()
                .find_map(|line| line.strip_prefix("sluice_open_circuits "));
            value.unwrap_or("none").to_owned()
        };
        metrics::with_local_recorder(&recorder, || {
            let (closes, stays) = (Breaker::new(), Breaker::new());
            let late = closes.try_acquire().expect("closed");
            fail(&closes, 5);
            late.failed(&lost()); // It began before the circuit opened.
            fail(&stays, 5);
            assert_eq!(open(), "2");
            pass(&closes, Duration::from_secs(1));
            closes.try_acquire().expect("a probe").failed(&lost());
            assert_eq!(open(), "2", "already open");
            pass(&closes, Duration::from_secs(1));
            closes.try_acquire().expect("a probe").succeeded();
            closes.try_acquire().expect("closed").succeeded();
            drop(closes);
            assert_eq!(open(), "1");
            drop(stays);
            assert_eq!(open(), "0");
        });
    }

    #[test]
    fn dropped_probe_permits_the_next_probe() {
        let breaker = Breaker::new();
        fail(&breaker, 5);
        pass(&breaker, Duration::from_secs(1));
        drop(breaker.try_acquire().expect("a probe"));
        assert!(breaker.try_acquire().is_some());
    }
}
