//! Every interleaving of two waiters, one `try_acquire`, and releases, and every point at which they are dropped.
//!
//! Code between two await points is one step here, except at the one point where another thread can intervene.
//! Everything else in memory happens under a lock. A task that is not woken is not polled, as in a runtime, so a lost
//! wakeup shows.

use std::convert::Infallible;
use std::future::Ready;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tower_sluice::backend::{Answer, BackendContext};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::semaphore::{
    AcquireError, MemorySemaphore, Permit, PermitBackend, PermitOp, PermitReply,
};
use tower_sluice::{Key, MaxWait, Semaphore, SemaphorePolicy};

/// Each further step takes five times as long. 8 steps were tested once.
const LONGEST: usize = 7;

type Waits<'a> = Pin<Box<dyn Future<Output = Result<Permit, AcquireError<Infallible>>> + 'a>>;

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// A task that acquires with a wait.
struct Waiter<'a> {
    weight: u32,
    /// `Some` until it has a permit.
    waits: Option<Waits<'a>>,
    woken: Arc<Woken>,
    held: Option<Permit>,
    has_left: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Starts the waiter, or polls it after a wakeup.
    Poll(usize),
    /// Drops the waiter, or its permit.
    Drop(usize),
    /// A `try_acquire`, whose permit is dropped at once.
    Try,
    /// The holder of the initial permits releases one.
    Release,
}

struct Fixture<'a> {
    semaphore: &'a Semaphore<MemorySemaphore<ManualClock>>,
    key: &'a Key,
    first: Vec<Permit>,
    waiters: Vec<Waiter<'a>>,
    /// The number of started waiters, in the order of their numbers. Other orders are covered by other weights.
    arrived: usize,
    /// The waiters, in order of arrival.
    queue: Vec<usize>,
}

impl Fixture<'_> {
    fn is_possible(&self, step: Step) -> bool {
        match step {
            Step::Poll(number) => {
                let waiter = &self.waiters[number];
                number == self.arrived || (waiter.waits.is_some() && waiter.woken.0.load(SeqCst))
            }
            // A waiter that has not started has nothing to drop.
            Step::Drop(number) => {
                let waiter = &self.waiters[number];
                !waiter.has_left && (waiter.held.is_some() || self.queue.contains(&number))
            }
            // Without a free permit it changes nothing.
            Step::Try => self.semaphore.backend().held() < 2,
            Step::Release => !self.first.is_empty(),
        }
    }

    fn does(&mut self, step: Step) {
        match step {
            Step::Poll(number) => {
                if number == self.arrived {
                    self.arrived += 1;
                    self.queue.push(number);
                }
                let waiter = &mut self.waiters[number];
                waiter.woken.0.store(false, SeqCst);
                let waker = Waker::from(Arc::clone(&waiter.woken));
                let Some(waits) = &mut waiter.waits else {
                    return;
                };
                if let Poll::Ready(got) = waits.as_mut().poll(&mut Context::from_waker(&waker)) {
                    waiter.held = Some(got.expect("the wait is unbounded"));
                    waiter.waits = None;
                    assert_eq!(self.queue[0], number, "the waiter overtook others");
                    self.queue.remove(0);
                }
            }
            Step::Drop(number) => {
                let waiter = &mut self.waiters[number];
                (waiter.waits, waiter.held, waiter.has_left) = (None, None, true);
                self.queue.retain(|other| *other != number);
            }
            Step::Try => {
                let mut tries = Box::pin(self.semaphore.try_acquire(self.key, 1));
                let polled = tries.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(
                    polled.is_ready(),
                    "the waiter waits although permits are free"
                );
            }
            Step::Release => drop(self.first.pop()),
        }
    }

    /// No permit is held twice, and no waiter misses a wakeup for a free permit.
    fn is_sound(&self) {
        let held = self
            .waiters
            .iter()
            .filter_map(|waiter| waiter.held.as_ref());
        let held = held.chain(&self.first).map(Permit::weight).sum::<u32>();
        assert_eq!(u64::from(held), self.semaphore.backend().held());
        assert!(held <= 2, "{held} of two");
        if let Some(head) = self.queue.first() {
            let head = &self.waiters[*head];
            let fits = held + head.weight <= 2;
            assert!(
                !fits || head.woken.0.load(SeqCst),
                "a permit is free, and no waiter was woken"
            );
        }
    }
}

/// Runs these steps from the start. Returns whether this order is possible.
fn try_steps(steps: &[Step], weights: [u32; 3]) -> bool {
    let clock = ManualClock::at(Timestamp::from_micros(0));
    let memory = MemorySemaphore::builder().clock(clock).build();
    let (semaphore, key) = (
        Semaphore::new(SemaphorePolicy::new("exports", 2), memory),
        Key::from("ann"),
    );
    let hold = || semaphore.try_acquire(&key, 1).now_or_never();
    let first = [hold(), hold()]
        .map(|got| got.expect("at once").expect("free"))
        .into();
    let wait = |weight| Waiter {
        weight,
        waits: Some(Box::pin(semaphore.acquire(&key, weight, MaxWait::Unbounded)) as Waits<'_>),
        woken: Arc::default(),
        held: None,
        has_left: false,
    };
    let waiters = weights.into_iter().map(wait).collect();
    let mut fixture = Fixture {
        semaphore: &semaphore,
        key: &key,
        first,
        waiters,
        arrived: 0,
        queue: Vec::new(),
    };
    for step in steps {
        if !fixture.is_possible(*step) {
            return false;
        }
        fixture.does(*step);
        fixture.is_sound();
    }
    // The waiters that are dropped now leave nothing.
    drop(fixture);
    assert_eq!(
        (
            semaphore.backend().keys(),
            semaphore.backend().context().stats().waiting
        ),
        (0, 0)
    );
    true
}

#[test]
fn no_interleaving_loses_a_permit_or_a_wakeup() {
    let all: Vec<Step> = (0..3)
        .flat_map(|number| [Step::Poll(number), Step::Drop(number)])
        .chain([Step::Try, Step::Release])
        .collect();
    let mut tried = 0;
    for weights in [[1, 1, 1], [2, 1, 1], [1, 2, 1], [1, 1, 2]] {
        let mut open = vec![Vec::new()];
        while let Some(steps) = open.pop() {
            tried += 1;
            if steps.len() == LONGEST {
                continue;
            }
            for step in &all {
                let more: Vec<Step> = steps.iter().chain([step]).copied().collect();
                if try_steps(&more, weights) {
                    open.push(more);
                }
            }
        }
    }
    println!("{tried} orders");
    assert!(tried > 5_000);
}

/// Releases a permit after the denial of a waiter, before the waiter sees the denial.
#[derive(Clone)]
struct ReleaseAfterDenial {
    memory: MemorySemaphore,
    permit: Arc<Mutex<Option<Permit>>>,
}

impl PermitBackend for ReleaseAfterDenial {
    type Error = Infallible;
    type Future = Ready<Result<PermitReply, Infallible>>;

    fn ask(
        &self,
        op: PermitOp,
        permits: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, Infallible>, Self::Future> {
        let answer = self.memory.ask(op, permits, key);
        let permit = self.permit.lock().take();
        drop(permit);
        answer
    }

    fn context(&self) -> &BackendContext {
        self.memory.context()
    }

    fn has_leases(&self) -> bool {
        false
    }

    fn next_attempt(&self, _: &SemaphorePolicy, _: &PermitReply, _: usize) -> Option<Duration> {
        None
    }
}

/// The one point at which another thread can intervene.
#[test]
fn release_between_denial_and_sleep_wakes_the_waiter() {
    let (memory, key) = (MemorySemaphore::new(), Key::from("ann"));
    let holder = Semaphore::new(SemaphorePolicy::new("exports", 1), memory.clone());
    let held = holder.try_acquire(&key, 1).now_or_never();
    let permit = Arc::new(Mutex::new(held.and_then(Result::ok)));
    assert!(permit.lock().is_some());
    let waiter = Semaphore::new(
        holder.policy().clone(),
        ReleaseAfterDenial { memory, permit },
    );
    let got = waiter.acquire(&key, 1, MaxWait::Unbounded).now_or_never();
    assert!(got.is_some_and(|got| got.is_ok()));
}
