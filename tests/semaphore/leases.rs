//! Permits with leases, in virtual time: renewal and loss.

use std::future::Ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tower_sluice::backend::{Answer, BackendContext};
use tower_sluice::clock::{Clock, ManualClock, Timestamp};
use tower_sluice::semaphore::{MemorySemaphore, PermitBackend, PermitId, PermitOp, PermitReply};
use tower_sluice::{Key, Semaphore, SemaphorePolicy};

use crate::settle;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Down;

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("down")
    }
}

impl std::error::Error for Down {}

/// Memory with leases that can be down, and that records each renewal: its time, and the number of permits.
#[derive(Clone)]
pub(crate) struct Leases {
    pub(crate) memory: MemorySemaphore<ManualClock>,
    pub(crate) clock: ManualClock,
    start: Timestamp,
    is_down: Arc<AtomicBool>,
    renewals: Arc<Mutex<Vec<(Duration, usize)>>>,
}

impl Leases {
    pub(crate) fn new() -> Self {
        let start = Timestamp::from_micros(1_800_000_000_000_000);
        let clock = ManualClock::at(start);
        let memory = MemorySemaphore::builder().clock(clock.clone()).leases_end();
        Self {
            memory: memory.build(),
            clock,
            start,
            is_down: Arc::default(),
            renewals: Arc::default(),
        }
    }

    pub(crate) fn semaphore(&self, capacity: u32) -> Semaphore<Self> {
        let permits = SemaphorePolicy::new("exports", capacity).with_lease(12 * SECOND);
        Semaphore::new(permits, self.clone())
    }

    /// In steps, so that each timer on the way fires at its own time.
    pub(crate) async fn pass(&self, span: Duration) {
        let step = Duration::from_millis(100);
        let mut passed = Duration::ZERO;
        while passed < span {
            settle().await;
            self.clock.advance(step);
            passed += step;
        }
        settle().await;
    }
}

impl PermitBackend for Leases {
    type Error = Down;
    type Future = Ready<Result<PermitReply, Down>>;

    fn ask(
        &self,
        op: PermitOp,
        permits: &SemaphorePolicy,
        key: &Key,
    ) -> Answer<Result<PermitReply, Down>, Self::Future> {
        if let PermitOp::Renew(ids) = &op {
            let passed = Duration::from_micros(self.clock.now().micros_since(self.start));
            self.renewals.lock().push((passed, ids.len()));
        }
        if self.is_down.load(SeqCst) {
            return Answer::Now(Err(Down));
        }
        let Answer::Now(Ok(reply)) = self.memory.ask(op, permits, key) else {
            unreachable!("memory answers at once");
        };
        // The reply comes later, like one from a remote backend.
        Answer::Later(std::future::ready(Ok(reply)))
    }

    fn context(&self) -> &BackendContext {
        self.memory.context()
    }

    fn has_leases(&self) -> bool {
        true
    }

    fn next_attempt(
        &self,
        permits: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        self.memory.next_attempt(permits, reply, waiters)
    }

    fn new_id(&self) -> PermitId {
        PermitId::random()
    }
}

#[tokio::test]
async fn all_permits_of_a_key_are_renewed_together_three_times_a_lease() {
    let leases = Leases::new();
    let semaphore = leases.semaphore(100);
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(
            semaphore
                .try_acquire(&Key::from("ann"), 2)
                .await
                .expect("free"),
        );
    }
    let bob = semaphore
        .try_acquire(&Key::from("bob"), 1)
        .await
        .expect("free");
    assert_eq!(leases.context().stats().held_permits, 51);
    leases.pass(60 * SECOND).await;
    assert!(held.iter().all(|permit| !permit.is_lost()) && !bob.is_lost());
    let ann: Vec<_> = leases
        .renewals
        .lock()
        .iter()
        .copied()
        .filter(|(_, ids)| *ids > 1)
        .collect();
    assert!(ann.iter().all(|(_, ids)| *ids == 50), "{ann:?}");
    assert!(
        (15..=18).contains(&ann.len()),
        "each 4 s, or a little sooner: {ann:?}"
    );
    let mut last = Duration::ZERO;
    for (at, _) in &ann {
        assert!(*at - last <= 4 * SECOND + SECOND / 10, "{ann:?}");
        last = *at;
    }
    held.clear();
    drop(bob);
    settle().await;
    assert_eq!(
        (leases.context().stats().held_permits, leases.memory.keys()),
        (0, 0)
    );
    let before = leases.renewals.lock().len();
    leases.pass(20 * SECOND).await;
    assert_eq!(
        leases.renewals.lock().len(),
        before,
        "nothing is left to renew"
    );
}

#[tokio::test]
async fn permit_missing_at_renewal_is_lost_and_releases_nothing() {
    let leases = Leases::new();
    let semaphore = leases.semaphore(1);
    let permit = semaphore
        .try_acquire(&Key::from("ann"), 1)
        .await
        .expect("free");
    let mut lost = permit.lost();
    leases.pass(3 * SECOND).await;
    assert!((&mut lost).now_or_never().is_none());
    // Like a restart that lost everything.
    let op = PermitOp::Release(permit.id());
    let _ = leases.memory.ask(op, semaphore.policy(), &Key::from("ann"));
    let other = semaphore
        .try_acquire(&Key::from("ann"), 1)
        .await
        .expect("free");
    leases.pass(2 * SECOND).await;
    assert!((&mut lost).now_or_never().is_some() && permit.is_lost());
    assert!(
        permit.lost().now_or_never().is_some(),
        "later calls report the loss too"
    );
    assert_eq!(leases.context().stats().lost_permits, 1);
    assert!(
        !permit.release().await.expect("the backend replies"),
        "nothing to release"
    );
    assert_eq!(leases.memory.held(), 1, "the permit of the other holder");
    assert!(!other.is_lost());
}

#[tokio::test]
async fn a_permit_lasts_through_an_outage_shorter_than_its_lease() {
    let leases = Leases::new();
    let semaphore = leases.semaphore(1);
    let permit = semaphore
        .try_acquire(&Key::from("ann"), 1)
        .await
        .expect("free");
    leases.is_down.store(true, SeqCst);
    leases.pass(11 * SECOND).await;
    assert!(!permit.is_lost());
    leases.is_down.store(false, SeqCst);
    leases.pass(30 * SECOND).await;
    assert!(
        !permit.is_lost(),
        "a renewal was sent before the lease ended"
    );
}

#[tokio::test]
async fn permit_not_renewed_for_a_lease_is_lost() {
    let leases = Leases::new();
    let semaphore = leases.semaphore(1);
    let permit = semaphore
        .try_acquire(&Key::from("ann"), 1)
        .await
        .expect("free");
    leases.is_down.store(true, SeqCst);
    leases.pass(12 * SECOND - SECOND / 5).await;
    assert!(!permit.is_lost());
    leases.pass(SECOND / 5).await;
    assert!(permit.is_lost());
    let asked = leases.renewals.lock().len();
    assert!((3..=20).contains(&asked), "{asked} times");
    assert!(
        permit.release().await.is_err(),
        "no holder can see the loss"
    );
}

#[tokio::test]
async fn permit_of_a_paused_holder_is_given_to_another() {
    let leases = Leases::new();
    let semaphore = leases.semaphore(1);
    let permit = semaphore
        .try_acquire(&Key::from("ann"), 1)
        .await
        .expect("free");
    settle().await;
    // No task runs meanwhile.
    leases.clock.advance(12 * SECOND);
    let other = semaphore
        .try_acquire(&Key::from("ann"), 1)
        .await
        .expect("the lease is over");
    settle().await;
    assert!(permit.is_lost() && !other.is_lost());
    assert!(!permit.release().await.expect("the backend replies"));
    assert!(semaphore.try_acquire(&Key::from("ann"), 1).await.is_err());
}

#[tokio::test]
async fn waiter_gets_the_permit_of_an_expired_lease() {
    let leases = Leases::new();
    let semaphore = leases.semaphore(1);
    // A permit without a holder that renews it.
    let (id, key) = (PermitId::random(), Key::from("ann"));
    let _ = leases.memory.ask(
        PermitOp::Acquire { id, weight: 1 },
        semaphore.policy(),
        &key,
    );
    let waiter = {
        let semaphore = semaphore.clone();
        tokio::spawn(async move { semaphore.acquire(&key, 1, 60 * SECOND).await })
    };
    leases.pass(11 * SECOND + SECOND / 2).await;
    assert!(!waiter.is_finished());
    leases.pass(SECOND).await;
    let permit = waiter
        .await
        .expect("no panic")
        .expect("the lease has ended");
    assert!(permit.waited() >= 12 * SECOND);
}

#[tokio::test]
async fn holder_that_blocked_its_runtime_for_a_lease_sees_its_permit_lost() {
    let leases = Leases::new();
    let semaphore = leases.semaphore(1);
    let permit = semaphore
        .try_acquire(&Key::from("ann"), 1)
        .await
        .expect("free");
    let mut lost = permit.lost();
    assert!((&mut lost).now_or_never().is_none());
    settle().await;
    leases.clock.advance(12 * SECOND - SECOND / 100);
    assert!(!permit.is_lost());
    leases.clock.advance(SECOND / 100);
    // The renewal task has not run yet.
    assert!(permit.is_lost());
    assert!(lost.now_or_never().is_some());
    settle().await;
    assert_eq!(leases.context().stats().lost_permits, 1);
    assert!(!permit.release().await.expect("the backend replies"));
}
