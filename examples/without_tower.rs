//! Limits without Tower: a rejected job, a settled job, and a function that waits.
//!
//! Run: `cargo run --example without_tower`

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tower_sluice::limiter::Rejected;
use tower_sluice::{Key, Limiter, MaxWait, MemoryBackend, Policy, Quota};

type Jobs = Limiter<MemoryBackend>;

/// A decorator: wraps an async function, so that each call waits until `key` may make it.
fn limited<A, T, F: Future<Output = T>>(
    limiter: Jobs,
    key: Key,
    work: impl Fn(A) -> F,
) -> impl AsyncFn(A) -> Result<T, Rejected<Infallible>> {
    async move |argument| {
        let max_wait = MaxWait::within(Duration::from_secs(2));
        limiter.acquire(&key, 1, max_wait).await?;
        Ok(work(argument).await)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let exports = Limiter::new(
        Policy::new("exports", Quota::per_hour(10)),
        MemoryBackend::new(),
    );
    let ann = Key::from("ann");

    // Does the work, or returns when it may be done.
    let rows = exports.limit(&ann, 4, async { 1_000 }).await?;
    assert_eq!(rows, 1_000);
    let rejected = exports.limit(&ann, 7, async {}).await.unwrap_err();
    println!("{rejected}"); // rate limit exceeded, allowed after 359.99..s

    // A guard charges an estimate first, and settles the actual cost. Dropping it keeps the estimate.
    let charge = exports.try_acquire(&ann, 5).await?;
    charge.settle(2).await?;
    assert_eq!(exports.peek(&ann).await?.remaining(), 4);
    exports.try_acquire(&ann, 1).await?.cancel().await?; // the job failed, and failures are free
    assert_eq!(exports.peek(&ann).await?.remaining(), 4);

    // Of five calls, the first is allowed at once, then one every 50 ms.
    let policy = Policy::new("mails", Quota::per_second(20).burst(1));
    let send = limited(
        Limiter::new(policy, MemoryBackend::new()),
        ann,
        |to: &'static str| async move { to.len() },
    );
    let start = Instant::now();
    for name in ["ann", "bob", "cid", "dan", "eve"] {
        assert_eq!(send(name).await?, 3);
    }
    assert!(start.elapsed() >= Duration::from_millis(200));
    Ok(())
}
