//! Runtimes that end, or that are no longer driven, while permits of these and other runtimes are held.

use std::time::Duration;

use tokio::runtime::Runtime;
use tower_sluice::Key;
use tower_sluice::backend::BackendContext;
use tower_sluice::semaphore::{Permit, PermitBackend};

use crate::leases::Leases;
use crate::settle;

const SECOND: Duration = Duration::from_secs(1);

fn make() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
}

fn acquire(leases: &Leases, runtime: &Runtime) -> Permit {
    let semaphore = leases.semaphore(20);
    let permit = runtime.block_on(semaphore.try_acquire(&Key::from("ann"), 1));
    permit.expect("free")
}

/// No permit was lost. Releases them in `runtime`, and checks that nothing is left.
fn release_all(leases: &Leases, runtime: &Runtime, held: Vec<Permit>) {
    let semaphore = leases.semaphore(20);
    let look = runtime.block_on(semaphore.peek(&Key::from("ann")));
    let remaining = look.expect("the backend replies").remaining();
    assert_eq!(remaining as usize, 20 - held.len(), "not all were renewed");
    assert!(held.iter().all(|permit| !permit.is_lost()));
    runtime.block_on(async {
        drop(held);
        settle().await;
    });
    let context: &BackendContext = leases.context();
    assert_eq!(
        (context.stats().held_permits, context.stats().lost_permits),
        (0, 0)
    );
    assert_eq!(leases.memory.keys(), 0);
}

#[test]
fn the_permits_of_one_runtime_outlive_the_renewals_of_another() {
    let leases = Leases::new();
    let (first, second) = (make(), make());
    let (one, two) = (acquire(&leases, &first), acquire(&leases, &second));
    first.block_on(leases.pass(5 * SECOND));
    drop(first);
    second.block_on(leases.pass(30 * SECOND));
    release_all(&leases, &second, vec![one, two]);
}

#[test]
fn renewals_continue_in_the_last_living_runtime() {
    let leases = Leases::new();
    let (first, last) = (make(), make());
    let mut held = vec![acquire(&leases, &first)];
    // Each runtime ends at once.
    held.extend((0..10).map(|_| acquire(&leases, &make())));
    held.push(acquire(&leases, &last));
    first.block_on(leases.pass(5 * SECOND));
    drop(first);
    last.block_on(leases.pass(30 * SECOND));
    release_all(&leases, &last, held);
}

#[test]
fn next_acquire_takes_over_renewals_of_an_idle_runtime() {
    let leases = Leases::new();
    let (still, driven) = (make(), make());
    let mut held = vec![acquire(&leases, &still), acquire(&leases, &driven)];
    // The renewals were due after 4 s.
    driven.block_on(leases.pass(8 * SECOND));
    held.push(acquire(&leases, &driven));
    driven.block_on(leases.pass(30 * SECOND));
    // Not sent to the previous renewal task: a lease whose renewal is due first.
    let brief = leases.semaphore(20).policy().clone().with_lease(3 * SECOND);
    let brief = leases.semaphore(20).with_policy(&brief);
    let brief = driven.block_on(brief.try_acquire(&Key::from("bob"), 1));
    driven.block_on(leases.pass(3 * SECOND / 2));
    let look = driven.block_on(leases.semaphore(20).peek(&Key::from("bob")));
    let reported = look.expect("the backend replies").reset_after();
    assert!(
        reported > 3 * SECOND / 2,
        "the permit was renewed: {reported:?}"
    );
    drop(brief);
    // The previous renewal task sees that it was replaced.
    still.block_on(settle());
    driven.block_on(leases.pass(30 * SECOND));
    release_all(&leases, &driven, held);
    drop(still);
}

/// Documented: a drop releases in the background, and the background ends with its runtime.
#[cfg(feature = "redis")]
#[test]
fn release_completes_before_its_runtime_ends_and_a_drop_may_not() {
    use tower_sluice::{RedisBackend, RedisSemaphore, Semaphore, SemaphorePolicy};

    let server = crate::support::redis::RedisServer::start();
    let hold = async |is_released: bool| {
        let builder = RedisBackend::builder().time_limit(20 * SECOND);
        let redis = builder
            .connect(server.url())
            .await
            .expect("the server runs");
        let permits = SemaphorePolicy::new("exports", 1).with_lease(SECOND);
        let semaphore = Semaphore::new(permits, RedisSemaphore::new(&redis));
        let permit = semaphore.acquire(&Key::from("ann"), 1, 5 * SECOND).await;
        let permit = permit.expect("a permit, possibly after a lease");
        if is_released {
            assert!(permit.release().await.expect("the backend replies"));
        } else {
            drop(permit);
        }
        semaphore
    };
    for is_released in [true, false, true] {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        let semaphore = runtime.block_on(hold(is_released));
        drop(runtime);
        let context = semaphore.backend().context();
        assert_eq!(
            context.stats().failed_background_tasks,
            usize::from(!is_released)
        );
        assert_eq!(server.keys().is_empty(), is_released);
    }
}
