//! Permits in memory: a waiter dropped at any point loses no permit and no wakeup.

use shuttle::future::{block_on, spawn};
use tower_sluice::semaphore::MemorySemaphore;
use tower_sluice::{Key, MaxWait, Semaphore, SemaphorePolicy};

use crate::check;
use crate::clock::ModelClock;

#[test]
fn released_permits_reach_waiters_after_a_drop() {
    check(|| {
        let memory = MemorySemaphore::builder().clock(ModelClock::new()).build();
        let semaphore = Semaphore::new(SemaphorePolicy::new("exports", 1), memory.clone());
        block_on(async move {
            let acquires = || {
                let semaphore = semaphore.clone();
                spawn(async move {
                    let permit = semaphore
                        .acquire(&Key::from("ann"), 1, MaxWait::Unbounded)
                        .await;
                    let held = semaphore.backend().held();
                    assert_eq!(held, 1);
                    drop(permit);
                })
            };
            let (one, leaves, two) = (acquires(), acquires(), acquires());
            leaves.abort();
            one.await.expect("no panic");
            two.await.expect("no panic");
            let _ = leaves.await;
            assert_eq!((memory.held(), memory.keys()), (0, 0));
        });
    });
}
