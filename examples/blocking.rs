//! Limits in plain threads: the same buckets without a runtime.
//!
//! Run: `cargo run --features blocking --example blocking`

use std::thread;
use std::time::{Duration, Instant};

use tower_sluice::blocking::Limiter;
use tower_sluice::limiter::Rejected;
use tower_sluice::{Key, MaxWait, MemoryBackend, Policy, Quota};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // With the feature `redis`: `tower_sluice::blocking::RedisBackend::connect("redis://127.0.0.1/")?`.
    let backend = MemoryBackend::new();

    // One job is rejected, and one is settled at its actual cost.
    let exports = Limiter::new(Policy::new("exports", Quota::per_hour(10)), backend.clone());
    let ann = Key::from("ann");
    let charge = exports.try_acquire(&ann, 8)?;
    let rejected = exports.limit(&ann, 3, || "not called");
    assert!(matches!(rejected, Err(Rejected::Denied(_))));
    charge.settle(2).join()?;
    assert_eq!(exports.limit(&ann, 3, || "called"), Ok("called"));

    // The charge of a check can be refunded, or reset.
    let mut reply = exports.check(&ann, 5)?;
    if let Some(receipt) = &mut reply.receipt {
        exports.refund(&ann, receipt, 5)?;
    }
    exports.reset(&ann)?;
    assert_eq!(exports.peek(&ann)?.remaining(), 10);

    // Four threads call a service that allows 50 calls a second. Each waits, and none is rejected.
    let calls = Limiter::new(
        Policy::new("upstream", Quota::per_second(50).burst(1)),
        backend,
    );
    let (host, max_wait) = (
        Key::from("api.example.org"),
        MaxWait::within(Duration::from_secs(5)),
    );
    let start = Instant::now();
    thread::scope(|scope| {
        for number in 0..4 {
            let (calls, host) = (&calls, &host);
            scope.spawn(move || {
                for _ in 0..3 {
                    let charge = calls.acquire(host, 1, max_wait).expect("allowed in time");
                    println!("thread {number} has waited {:?}", charge.waited());
                }
            });
        }
    });
    // Of twelve calls, the first is allowed at once.
    assert!(start.elapsed() >= Duration::from_millis(11 * 20));
    Ok(())
}
