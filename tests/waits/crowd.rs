//! Waiters in virtual time: a clock that knows when somebody will wake, and a crowd that is polled in the order a test
//! wants.

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

/// A time in the year 2027, µs: no edge of a window of whole seconds.
pub(crate) const START: u64 = 1_800_000_000_000_000;

/// A clock that a test moves, and that knows the times at which somebody wants to wake.
#[derive(Clone, Debug)]
pub(crate) struct Alarms {
    clock: ManualClock,
    set: Arc<Mutex<BTreeSet<Timestamp>>>,
}

impl Alarms {
    pub(crate) fn new() -> Self {
        Self {
            clock: ManualClock::at(Timestamp::from_micros(START)),
            set: Arc::default(),
        }
    }

    /// Since the start.
    pub(crate) fn passed(&self) -> Duration {
        Duration::from_micros(self.clock.now().as_micros() - START)
    }

    /// Moves on without letting anybody run.
    pub(crate) fn jump(&self, passed: Duration) {
        let then = Timestamp::from_micros(START).after(passed);
        assert!(then >= self.clock.now(), "this clock does not go back");
        self.clock.set(then);
    }

    /// The next time at which somebody wants to wake; he may have gone meanwhile.
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

impl Clock for Alarms {
    type Sleep = <ManualClock as Clock>::Sleep;

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn sleep_until(&self, deadline: Timestamp) -> Self::Sleep {
        self.set.lock().insert(deadline);
        self.clock.sleep_until(deadline)
    }
}

pub(crate) type Memory = MemoryBackend<Alarms>;

pub(crate) fn memory(clock: &Alarms) -> Memory {
    MemoryBackend::builder().clock(clock.clone()).build()
}

/// One who has ended.
#[derive(Debug)]
pub(crate) struct Ended<T> {
    /// The number of those who came before.
    pub(crate) who: usize,
    /// Since the start.
    pub(crate) at: Duration,
    pub(crate) outcome: T,
}

/// Those who wait, polled when they were woken. Who wakes at one time runs in the order of coming, or in a random one.
pub(crate) struct Crowd<T> {
    clock: Alarms,
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
    who: usize,
    is_up: AtomicBool,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        if !self.is_up.swap(true, SeqCst) {
            self.woken.lock().push(self.who);
        }
    }
}

impl<T> Crowd<T> {
    pub(crate) fn new(clock: &Alarms) -> Self {
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

    /// One who has not been polled yet.
    pub(crate) fn bring(&mut self, future: impl Future<Output = T> + 'static) -> usize {
        let who = self.members.len();
        let flag = Arc::new(Flag {
            who,
            is_up: AtomicBool::new(false),
            woken: Arc::clone(&self.woken),
        });
        self.members.push(Some(Member {
            future: Box::pin(future),
            waker: Arc::clone(&flag).into(),
            flag,
        }));
        who
    }

    /// One who asks at once.
    pub(crate) fn join(&mut self, future: impl Future<Output = T> + 'static) -> usize {
        let who = self.bring(future);
        self.poll(who);
        who
    }

    /// Goes away; whether he was still there.
    pub(crate) fn leave(&mut self, who: usize) -> bool {
        self.members[who].take().is_some()
    }

    pub(crate) fn waits(&self, who: usize) -> bool {
        self.members[who].is_some()
    }

    pub(crate) fn waiting(&self) -> Vec<usize> {
        let waits = |who: &usize| self.waits(*who);
        (0..self.members.len()).filter(waits).collect()
    }

    fn poll(&mut self, who: usize) {
        let Some(member) = &mut self.members[who] else {
            return;
        };
        member.flag.is_up.store(false, SeqCst);
        let mut cx = Context::from_waker(&member.waker);
        if let Poll::Ready(outcome) = member.future.as_mut().poll(&mut cx) {
            self.members[who] = None;
            let at = self.clock.passed();
            self.ended.push(Ended { who, at, outcome });
        }
    }

    /// Lets everybody run who was woken, until nobody is.
    pub(crate) fn run(&mut self) {
        loop {
            let mut woken = std::mem::take(&mut *self.woken.lock());
            if woken.is_empty() {
                return;
            }
            woken.sort_unstable();
            if let Some(random) = &mut self.random {
                woken.shuffle(random);
                // Not all at once: those who are woken by the first may come before the others.
                let some = random.random_range(1..=woken.len());
                let others = woken.split_off(some);
                self.woken.lock().extend(others);
            }
            for who in woken {
                self.poll(who);
            }
        }
    }

    /// Lets time pass, from one waking to the next.
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

    /// What came of the last who ended: of one who must not have to wait.
    pub(crate) fn at_once(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let who = self.join(future);
        assert!(!self.waits(who), "it waits");
        self.ended.pop().expect("it has ended").outcome
    }
}

/// What became of those who waited, for comparing.
pub(crate) type Waited<E> = Result<Charge, Rejected<E>>;

/// The denial of one who was denied.
pub(crate) fn denied<E: std::fmt::Debug>(outcome: &Waited<E>) -> &Decision {
    match outcome {
        Err(Rejected::Denied(decision)) => {
            assert!(!decision.is_allowed(), "{decision:?}");
            decision
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// What one who was denied is told to wait.
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
