//! Waiters in virtual time: a clock that knows the next wake-up, and an executor that polls tasks in a chosen order.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tower_sluice::clock::{Clock, ManualClock, Timestamp};
use tower_sluice::limiter::Rejected;
use tower_sluice::{Charge, Decision, MemoryBackend, RetryAfter};

/// A time in the year 2027, µs, that is on no edge of a window of whole seconds.
pub(crate) const START: u64 = 1_800_000_000_000_000;

/// A manual clock that knows the wake-up times of all sleeping tasks.
#[derive(Clone, Debug)]
pub(crate) struct AlarmClock {
    clock: ManualClock,
    set: Arc<Mutex<BTreeSet<Timestamp>>>,
}

impl AlarmClock {
    pub(crate) fn new() -> Self {
        Self {
            clock: ManualClock::at(Timestamp::from_micros(START)),
            set: Arc::default(),
        }
    }

    /// The time since the start.
    pub(crate) fn passed(&self) -> Duration {
        Duration::from_micros(self.clock.now().as_micros() - START)
    }

    /// Advances the clock without polling any task.
    pub(crate) fn jump(&self, passed: Duration) {
        let then = Timestamp::from_micros(START).after(passed);
        assert!(then >= self.clock.now(), "this clock must not move back");
        self.clock.set(then);
    }

    /// The next wake-up time. Its task may have been dropped.
    fn next(&self, by: Timestamp) -> Option<Timestamp> {
        let mut set = self.set.lock();
        while let Some(first) = set.first().copied() {
            if first > by {
                return None;
            }
            set.pop_first();
            if first > self.clock.now() {
                return Some(first);
            }
        }
        None
    }
}

impl Clock for AlarmClock {
    type Sleep = <ManualClock as Clock>::Sleep;

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep {
        self.set.lock().insert(deadline);
        self.clock.sleep_until(deadline)
    }
}

pub(crate) type Memory = MemoryBackend<AlarmClock>;

pub(crate) fn memory(clock: &AlarmClock) -> Memory {
    MemoryBackend::builder().clock(clock.clone()).build()
}

/// A task that has completed.
#[derive(Debug)]
pub(crate) struct Ended<T> {
    /// The number of tasks that were added before it.
    pub(crate) waiter: usize,
    /// The time since the start.
    pub(crate) at: Duration,
    pub(crate) outcome: T,
}

/// Tasks that are polled after they were woken. Tasks woken at one time run in order of arrival, or in random order.
pub(crate) struct Executor<T> {
    clock: AlarmClock,
    members: Vec<Option<Member<T>>>,
    woken: Arc<Mutex<Vec<usize>>>,
    random: Option<StdRng>,
    pub(crate) ended: Vec<Ended<T>>,
}

struct Member<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    waker: Waker,
    flag: Arc<Flag>,
}

struct Flag {
    waiter: usize,
    is_up: AtomicBool,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        if !self.is_up.swap(true, SeqCst) {
            self.woken.lock().push(self.waiter);
        }
    }
}

impl<T> Executor<T> {
    pub(crate) fn new(clock: &AlarmClock) -> Self {
        Self {
            clock: clock.clone(),
            members: Vec::new(),
            woken: Arc::default(),
            random: None,
            ended: Vec::new(),
        }
    }

    pub(crate) fn in_disorder(mut self, seed: u64) -> Self {
        self.random = Some(StdRng::seed_from_u64(seed));
        self
    }

    /// Adds a task without polling it.
    pub(crate) fn add(&mut self, future: impl Future<Output = T> + 'static) -> usize {
        let waiter = self.members.len();
        let flag = Arc::new(Flag {
            waiter,
            is_up: AtomicBool::new(false),
            woken: Arc::clone(&self.woken),
        });
        self.members.push(Some(Member {
            future: Box::pin(future),
            waker: Arc::clone(&flag).into(),
            flag,
        }));
        waiter
    }

    /// Adds a task and polls it at once.
    pub(crate) fn join(&mut self, future: impl Future<Output = T> + 'static) -> usize {
        let waiter = self.add(future);
        self.poll(waiter);
        waiter
    }

    /// Drops a task. Returns whether it was still pending.
    pub(crate) fn leave(&mut self, waiter: usize) -> bool {
        self.members[waiter].take().is_some()
    }

    pub(crate) fn waits(&self, waiter: usize) -> bool {
        self.members[waiter].is_some()
    }

    pub(crate) fn waiting(&self) -> Vec<usize> {
        let waits = |waiter: &usize| self.waits(*waiter);
        (0..self.members.len()).filter(waits).collect()
    }

    fn poll(&mut self, waiter: usize) {
        let Some(member) = &mut self.members[waiter] else {
            return;
        };
        member.flag.is_up.store(false, SeqCst);
        let mut cx = Context::from_waker(&member.waker);
        if let Poll::Ready(outcome) = member.future.as_mut().poll(&mut cx) {
            self.members[waiter] = None;
            let at = self.clock.passed();
            self.ended.push(Ended {
                waiter,
                at,
                outcome,
            });
        }
    }

    /// Polls woken tasks until none is woken.
    pub(crate) fn run(&mut self) {
        loop {
            let mut woken = std::mem::take(&mut *self.woken.lock());
            if woken.is_empty() {
                return;
            }
            woken.sort_unstable();
            if let Some(random) = &mut self.random {
                woken.shuffle(random);
                // Only some of them: tasks that these tasks wake may run before the others.
                let some = random.random_range(1..=woken.len());
                let others = woken.split_off(some);
                self.woken.lock().extend(others);
            }
            for waiter in woken {
                self.poll(waiter);
            }
        }
    }

    /// Advances the clock from one wake-up to the next.
    pub(crate) fn until(&mut self, passed: Duration) {
        let by = Timestamp::from_micros(START).after(passed);
        self.run();
        while let Some(next) = self.clock.next(by) {
            self.clock
                .jump(Duration::from_micros(next.as_micros() - START));
            self.run();
        }
        self.clock.jump(passed);
        self.run();
    }

    /// The output of a task that must complete without waiting.
    pub(crate) fn at_once(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let waiter = self.join(future);
        assert!(!self.waits(waiter), "the request waits");
        self.ended.pop().expect("the task has ended").outcome
    }
}

/// The outcome of a waiter, in a form that tests compare.
pub(crate) type Waited<E> = Result<Charge, Rejected<E>>;

/// The decision of a denied waiter.
pub(crate) fn denied<E: std::fmt::Debug>(outcome: &Waited<E>) -> &Decision {
    match outcome {
        Err(Rejected::Denied(decision)) => {
            assert!(!decision.is_allowed(), "{decision:?}");
            decision
        }
        other => panic!("not denied: {other:?}"),
    }
}

/// The `retry_after` of a denied waiter.
pub(crate) fn retry_after<E: std::fmt::Debug>(outcome: &Waited<E>) -> Duration {
    match denied(outcome).retry_after() {
        Some(RetryAfter::In(wait)) => wait,
        other => panic!("{other:?}"),
    }
}

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
